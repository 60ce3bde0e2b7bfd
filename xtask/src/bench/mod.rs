//! `cargo xtask bench`: builds the programs under test, prepares what they need, and runs `isyone-bench`.
//!
//! Release builds for figures; debug builds for `--small`, which shows that the harness works. All benches together
//! take one to two hours on two quiet cores; each result says how long it took. Not here: what is measured
//! (tests/bench).

mod against;

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::cmd::{cargo, cmd, run, say};
use crate::{images, paths, seal, setup};

/// Options of `bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// apply, create, fleet, writes, publish, edge, agent, metrics, probes, visitors, backup, move; all (one to two hours) when none is named
    benches: Vec<String>,
    /// Few rounds, small numbers, debug builds: shows that the harness works, its figures mean nothing and go to a folder of their own
    #[arg(long, conflicts_with = "write")]
    small: bool,
    /// Compare with another commit: both are built and run in turn on this machine, and each figure is shown beside the other's. Name
    /// the benches: all of them, three times each, take hours
    #[arg(long, value_name = "REV", conflicts_with_all = ["write", "small"])]
    against: Option<String>,
    /// How often each version runs, with --against
    #[arg(long, value_name = "N", default_value_t = 3, requires = "against", value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Write docs/benchmarks.md from the results (of this run and of earlier ones here; a bench without a result keeps its section)
    #[arg(long)]
    write: bool,
}

/// The programs under test, and the one that measures them.
const BUILT: [&str; 10] = [
    "-p",
    "isyone-coordinator",
    "-p",
    "isyone-agent",
    "-p",
    "isyone-ctl",
    "-p",
    "isyone-bench",
    "-p",
    "xtask",
];
/// Benches that run on this machine without Docker.
const WITHOUT_DOCKER: [&str; 5] = ["fleet", "writes", "publish", "edge", "probes"];

pub(crate) fn run_benches(args: &Args) -> Result<ExitCode> {
    let profile = if args.small { "debug" } else { "release" };
    say!("building ({profile}; a release build takes some minutes the first time)");
    let mut build = cargo(&["build", "--bins"]);
    build.args(BUILT);
    if !args.small {
        build.arg("--release");
    }
    run(&mut build)?;
    let docker = args.benches.is_empty()
        || args
            .benches
            .iter()
            .any(|b| !WITHOUT_DOCKER.contains(&b.as_str()));
    if docker {
        setup::ensure()?;
        images::provide(&[], false)?;
        seal::on(seal::Holder::Test)?;
    }
    let binaries = paths::target().join(profile);
    let ran = match &args.against {
        Some(revision) => against::run_both(args, revision, &binaries),
        None => benches(args, &binaries),
    };
    if docker {
        seal::off(seal::Holder::Test);
    }
    ran.map(|()| ExitCode::SUCCESS)
}

/// Runs the whole harness in its small form with the existing debug binaries; without Docker, only the benches that do
/// not need it.
pub(crate) fn small(docker: bool) -> Result<String> {
    let names = if docker {
        Vec::new()
    } else {
        WITHOUT_DOCKER.map(str::to_owned).to_vec()
    };
    let args = Args {
        benches: names,
        small: true,
        write: false,
        against: None,
        rounds: 1,
    };
    if docker {
        seal::on(seal::Holder::Test)?;
    }
    let ran = benches(&args, &paths::target().join("debug"));
    if docker {
        seal::off(seal::Holder::Test);
    }
    ran.map(|()| {
        if docker {
            String::new()
        } else {
            format!("{}, without Docker (--fast)", args.benches.join(", "))
        }
    })
}

/// Runs the built harness.
pub(crate) fn benches(args: &Args, binaries: &Path) -> Result<()> {
    let mut bench = cmd(
        &binaries.join("isyone-bench").to_string_lossy(),
        &args.benches,
    );
    bench
        .current_dir(paths::root())
        .arg("--out")
        .arg(paths::cache().join("bench"));
    environment(&mut bench, binaries);
    if args.small {
        bench.arg("--small");
    }
    if args.write {
        bench.args(["--page", "docs/benchmarks.md"]);
    }
    run(&mut bench)
}

/// The environment of the end-to-end tests: both start the same real components.
fn environment(bench: &mut Command, binaries: &Path) {
    bench
        .env("ISYONE_E2E", "1")
        .env("ISYONE_BIN", binaries)
        .env(
            "ISYONE_CACHE",
            std::path::absolute(paths::cache()).unwrap_or_else(|_| paths::cache()),
        );
}
