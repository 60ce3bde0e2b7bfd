//! `cargo xtask test`: every check of the project, in order but for what is fetched (beside lints and the build), on a machine that
//! may be bare.
//!
//! A failed step does not keep later ones from running; the exit code is 1 if any failed. The tests get, in their
//! environment: `ISYONE_E2E` (1, or 0 with `--fast`: no Docker, no images), `ISYONE_BIN` (the folder of the built
//! binaries, `xtask` among them), `ISYONE_CACHE` (its `bin` holds Traefik and Prometheus) and, if it could be made,
//! `ISYONE_PYTHON` (an interpreter with what tests need) and `ISYONE_BROWSER` (1: there is a Chromium with its driver).

use crate::cmd::{cargo, kept, output, run, run_within, say, took};
use crate::totals::{Totals, count};
use crate::{bench, images, paths, python, seal, setup, times};
use anyhow::{Result, bail};
use std::panic::resume_unwind;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// Options of `test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out what needs Docker and images (sets ISYONE_E2E=0)
    #[arg(long)]
    fast: bool,
    /// Also run the long forms: a million steps of the simulated fleet, every death of the walk, the whole
    /// bombardment of a tenant, the books of five countries; shows where planted bugs are found. With `chaos` only
    /// that: orders and faults on three hosts for ISYONE_CHAOS_MINUTES (30), repeatable by ISYONE_CHAOS_SEED
    #[arg(long, value_enum, value_name = "FORM", num_args = 0..=1, default_missing_value = "all")]
    long: Option<Form>,
    /// Run only this step (may be given several times)
    #[arg(long, value_enum, value_name = "STEP")]
    only: Vec<Step>,
}

/// Which long forms.
#[derive(Clone, Copy, PartialEq, Debug, clap::ValueEnum)]
enum Form {
    /// every one but chaos, after everything else
    All,
    /// half an hour of orders and faults, and what that needs
    Chaos,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
enum Step {
    /// cargo fmt --check
    Fmt,
    /// cargo clippy, warnings are errors
    Clippy,
    /// cargo deny: licences, sources, banned crates, advisories
    Deny,
    /// what `cargo xtask setup` does
    Setup,
    /// what `cargo xtask images` does
    Images,
    /// a Python with gRPC, for the client in docs/python-client, and with an S3 server that locks
    Python,
    /// Chromium and its driver, for what people see
    Browser,
    /// the binaries that the end-to-end tests start
    Build,
    /// cargo test --workspace
    Test,
    /// the long forms of tests; only with --long
    Long,
    /// the bench harness in its small form: shows that it works, judges no time
    Bench,
}

impl Step {
    /// Whether it provides what tests need, by whatever network there is.
    fn fetches(self) -> bool {
        matches!(
            self,
            Self::Setup | Self::Images | Self::Python | Self::Browser
        )
    }
}

const STEPS: [Step; 11] = [
    Step::Fmt,
    Step::Clippy,
    Step::Deny,
    Step::Setup,
    Step::Images,
    Step::Python,
    Step::Browser,
    Step::Build,
    Step::Test,
    Step::Long,
    Step::Bench,
];

/// The tests that start hosts, two at a time, and the few of what helps them.
const REAL: &str = "e2e::";
/// The tests that only reckon, for minutes.
const SIMULATED: &str = "simulation::";

/// For how long chaos lasts.
const CHAOS_MINUTES: &str = "ISYONE_CHAOS_MINUTES";

/// Cloning the advisory database takes seconds if it is reachable.
const ADVISORY_LIMIT: Duration = Duration::from_secs(120);

/// How a step ended, for the summary: a remark, or what went wrong.
type Outcome = Result<String>;
/// With how long it took.
type Done = (Step, Outcome, String);

/// Runs the steps and prints the summary.
pub(crate) fn run_tests(args: &Args) -> Result<ExitCode> {
    let start = Instant::now();
    let done = run_steps(args)?;
    eprintln!("\n--- cargo xtask test: {} ---", took(start));
    for (step, outcome, time) in &done {
        let name = format!("{step:?}").to_lowercase();
        match outcome {
            Ok(note) => eprintln!("ok      {name:<7} {time:>8}  {note}"),
            Err(err) => eprintln!("FAILED  {name:<7} {time:>8}  {err:#}"),
        }
    }
    let failed = done
        .iter()
        .filter(|(_, outcome, _)| outcome.is_err())
        .count();
    if failed > 0 {
        eprintln!("{failed} of {} steps failed", done.len());
        return Ok(ExitCode::FAILURE);
    }
    eprintln!("all {} steps passed", done.len());
    Ok(ExitCode::SUCCESS)
}

/// Fetching waits for networks and disks, and goes on beside what comes before [`Step::Test`] and has the processors.
fn run_steps(args: &Args) -> Result<Vec<Done>> {
    let steps = STEPS.into_iter().filter(|step| wanted(*step, args));
    let (first, last): (Vec<Step>, Vec<Step>) = steps.partition(|step| *step < Step::Test);
    let (fetching, building): (Vec<Step>, Vec<Step>) =
        first.into_iter().partition(|step| step.fetches());
    let shown = |steps: Vec<Step>| -> Vec<Done> {
        let one = |step| {
            eprintln!("\n--- {step:?} ---");
            timed(step, args)
        };
        steps.into_iter().map(one).collect()
    };
    let mut done = if building.is_empty() {
        shown(fetching)
    } else {
        std::thread::scope(|scope| {
            let fetched = scope.spawn(|| fetch(&fetching, args));
            let built = shown(building);
            let fetched = fetched.join().unwrap_or_else(|why| resume_unwind(why))?;
            anyhow::Ok(built.into_iter().chain(fetched).collect::<Vec<Done>>())
        })?
    };
    done.sort_by_key(|(step, ..)| *step);
    done.extend(shown(last));
    Ok(done)
}

/// What each step says is shown when it has ended.
fn fetch(steps: &[Step], args: &Args) -> Result<Vec<Done>> {
    std::fs::create_dir_all(paths::cache())?;
    let file = paths::cache().join("said");
    let one = |step: &Step| {
        let (done, said) = kept(&file, || timed(*step, args))?;
        eprint!("\n--- {step:?}, meanwhile ---\n{said}");
        Ok(done)
    };
    steps.iter().map(one).collect()
}

fn wanted(step: Step, args: &Args) -> bool {
    let needs_docker = matches!(step, Step::Setup | Step::Images | Step::Browser);
    let of_chaos = matches!(step, Step::Setup | Step::Images | Step::Build | Step::Long);
    let chosen = match (step, args.long) {
        _ if !args.only.is_empty() => false,
        (_, Some(Form::Chaos)) => of_chaos,
        (Step::Long, None) => false,
        _ => true,
    };
    (chosen || args.only.contains(&step)) && !(args.fast && needs_docker)
}

fn timed(step: Step, args: &Args) -> Done {
    let start = Instant::now();
    let outcome = match step {
        Step::Fmt => quiet(&["fmt", "--all", "--check"]),
        Step::Clippy => clippy(),
        Step::Deny => deny(),
        Step::Setup => setup::ensure().map(|()| String::new()),
        Step::Images => images::provide(&[], false).and_then(|()| images::odoo_18()),
        Step::Python => python::provide(),
        Step::Browser => browser(),
        Step::Build => quiet(&["build", "--workspace", "--bins"]),
        Step::Test => tests(args.fast),
        Step::Long if args.long == Some(Form::Chaos) => chaos(),
        Step::Long => long(),
        Step::Bench => bench::small(!args.fast),
    };
    if let Err(err) = &outcome {
        say!("{step:?}: {err:#}");
    }
    (step, outcome, took(start))
}

fn quiet(args: &[&str]) -> Outcome {
    run(&mut cargo(args))?;
    Ok(String::new())
}

/// Lints everything, and then what is shipped by itself: the workspace's tests switch on the libraries' test helpers, and code
/// that compiles only with them must not pass.
fn clippy() -> Outcome {
    let deny = ["--", "-D", "warnings"];
    let everything = ["clippy", "--workspace", "--all-targets"];
    quiet(&[&everything[..], &deny].concat())?;
    quiet(&[&["clippy"][..], &deny].concat())
}

/// Licences, sources and bans are checked offline; advisories (what `cargo audit` looks for) need RustSec's database, which is
/// fetched by git: where it cannot be had, the step says so and does not fail.
fn deny() -> Outcome {
    if paths::which("cargo-deny").is_none() && output(&mut cargo(&["deny", "--version"])).is_err() {
        say!(
            "cargo-deny is missing: `cargo install --locked --debug cargo-deny` (some minutes, once)"
        );
        // Optimised it is no quicker here, and takes several times as long to build.
        run(&mut cargo(&[
            "install",
            "--locked",
            "--quiet",
            "--debug",
            "cargo-deny",
        ]))?;
    }
    // cargo-deny looks at the crates of every platform, but builds have fetched only this one's.
    run(&mut cargo(&["fetch", "--locked", "--quiet"]))?;
    run(&mut cargo(&[
        "deny",
        "--offline",
        "check",
        "bans",
        "licenses",
        "sources",
    ]))?;
    if let Err(err) = run_within(&mut cargo(&["deny", "fetch", "db"]), ADVISORY_LIMIT) {
        let note = "advisories SKIPPED: their database (RustSec) cannot be fetched from here";
        say!("{note} ({err:#})");
        return Ok(note.to_owned());
    }
    run(&mut cargo(&[
        "deny",
        "check",
        "--disable-fetch",
        "advisories",
    ]))?;
    Ok("bans, licences, sources, advisories".to_owned())
}

/// Installs the browser once. If it cannot be had, its tests are skipped with a notice.
fn browser() -> Outcome {
    match setup::ensure_browser() {
        Ok(()) => Ok(String::new()),
        Err(err) => {
            say!("the tests with a browser are SKIPPED: {err:#}");
            Ok(format!("SKIPPED: {err}"))
        }
    }
}

/// Runs the long forms, which say what they did. Those with real parts have the machine to themselves: what an honest client waits
/// for is looked at.
fn long() -> Outcome {
    seal::on(seal::Holder::Test)?;
    let real = long_forms(&[
        "e2e::walk",
        "e2e::bombard",
        "e2e::wanted",
        "e2e::backups",
        "e2e::live_moves",
        "e2e::reboot",
        "e2e::hosts::odoo",
        "--test-threads=1",
    ]);
    seal::off(seal::Holder::Test);
    let (real, real_passed) = real?;
    let (simulated, passed) = long_forms(&["simulation::", "bodies::a_large_upload"])?;
    if !(passed && real_passed) {
        bail!("{real}; {simulated}");
    }
    Ok(format!("{real}; {simulated}"))
}

/// The run says what it does, and its seed.
fn chaos() -> Outcome {
    seal::on(seal::Holder::Test)?;
    let minutes = std::env::var(CHAOS_MINUTES).unwrap_or_else(|_| "30".to_owned());
    let mut command = long_command(&["e2e::chaos"]);
    let counted = count(command.env(CHAOS_MINUTES, &minutes));
    seal::off(seal::Holder::Test);
    match counted? {
        (totals, true) => Ok(format!("{minutes} minutes, {totals}")),
        (totals, false) => bail!("{totals}"),
    }
}

fn long_forms(which: &[&str]) -> Result<(Totals, bool)> {
    count(long_command(which).env("ISYONE_LONG", "1"))
}

fn long_command(which: &[&str]) -> Command {
    let mut command = cargo(&["test", "--workspace", "--test", "all", "--"]);
    command.arg("--nocapture").args(which);
    real_parts(&mut command);
    command
}

/// Tells tests where the real components are.
fn real_parts(command: &mut Command) {
    command
        .env("ISYONE_E2E", "1")
        .env("ISYONE_BIN", paths::target().join("debug"))
        .env("ISYONE_CACHE", paths::cache());
}

/// Runs the tests, showing their output, and adds up cargo's `test result:` lines. Those with real parts come last,
/// beside simulations alone, and say how long each took.
fn tests(fast: bool) -> Outcome {
    if fast {
        let mut command = test_command(&["--no-fail-fast"]);
        let (totals, success) = count(command.env("ISYONE_E2E", "0"))?;
        let note = format!("{totals}, without the real components (--fast)");
        return if success { Ok(note) } else { bail!("{note}") };
    }
    seal::on(seal::Holder::Test)?;
    let counted = all_tests();
    seal::off(seal::Holder::Test);
    let (note, success) = counted?;
    if !success {
        bail!("{note}");
    }
    Ok(note)
}

fn all_tests() -> Result<(String, bool)> {
    let mut others = test_command(&["--no-fail-fast", "--", "--skip", REAL, "--skip", SIMULATED]);
    let (mut totals, others_passed) = count(&mut others)?;
    let times = times::new_file();
    // All of them at once: each waits until it may run.
    let real = [
        "--no-fail-fast",
        "--lib",
        "--test",
        "all",
        "--",
        REAL,
        "--test-threads=100",
    ];
    let simulated = ["--no-fail-fast", "--lib", "--test", "all", "--", SIMULATED];
    let (real, simulated) = std::thread::scope(|scope| {
        // They only reckon, on what the others leave of the processors; these mostly wait.
        let simulated = scope.spawn(|| count(&mut giving_way(&test_command(&simulated))));
        let real = count(test_command(&real).env(times::VARIABLE, &times));
        (
            real,
            simulated
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic)),
        )
    });
    let (real, real_passed) = real?;
    let (simulated, simulated_passed) = simulated?;
    totals.add_up(real);
    totals.add_up(simulated);
    let noted = std::fs::read_to_string(&times).unwrap_or_default();
    let note = totals.to_string() + &times::longest(&noted);
    Ok((note, others_passed && real_passed && simulated_passed))
}

/// The same command at a lower priority.
fn giving_way(command: &Command) -> Command {
    let mut nice = Command::new("nice");
    nice.args(["-n", "10"])
        .arg(command.get_program())
        .args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        nice.current_dir(folder);
    }
    let set = command.get_envs();
    nice.envs(set.filter_map(|(name, value)| Some((name, value?))));
    nice
}

/// `cargo test --workspace …`, with the real parts and whatever could be had.
fn test_command(more: &[&str]) -> Command {
    let mut command = cargo(&[&["test", "--workspace"], more].concat());
    real_parts(&mut command);
    if let Some(python) = python::interpreter() {
        command.env("ISYONE_PYTHON", python);
    }
    if setup::has_browser() {
        command.env("ISYONE_BROWSER", "1");
    }
    command
}

#[cfg(test)]
mod tests {
    use super::{Args, STEPS, Step, wanted};

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn chaos_is_run_alone_and_the_other_long_forms_after_everything() {
        let steps = |words: &str| -> Vec<Step> {
            let words = ["test"].into_iter().chain(words.split_whitespace());
            let line = <Line as clap::Parser>::try_parse_from(words).unwrap();
            let all = STEPS.into_iter();
            all.filter(|step| wanted(*step, &line.args)).collect()
        };
        assert_eq!(steps("--long").len(), STEPS.len());
        assert_eq!(steps("").len(), STEPS.len() - 1);
        let chaos = [Step::Setup, Step::Images, Step::Build, Step::Long];
        assert_eq!(steps("--long chaos"), chaos);
        assert_eq!(steps("--long --only long"), [Step::Long]);
        assert_eq!(steps("--long --fast").len(), STEPS.len() - 3);
    }
}
