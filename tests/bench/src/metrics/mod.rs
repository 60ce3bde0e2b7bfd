//! `bench metrics`: the cost of monitoring: a real Odoo with and without the product's module (overhead), and an agent
//! that is scraped with the containers of 50 tenants, compared with `docker stats` of the same containers.
//!
//! cAdvisor itself is not among the peers, because its image is not available where the benches run. Not here: what the
//! metrics contain.

mod overhead;

use std::{path::Path, process::Command, thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use isyone_tests::e2e::{
    cell::{Cell, STANDIN, Shape},
    process::run as command,
    wait_for,
    watch::Prometheus,
};
use procfs::process::all_processes;

use crate::{
    Run,
    figures::{Report, Target, Unit},
    process::Watched,
    samples::alternate,
};

/// The agent serves a cached page within this time; a scrape that does real work must come later.
const NOT_SHARED: Duration = Duration::from_millis(4_200);
/// The scrape interval in monitoring/deploy.
const INTERVAL: &str = "15s";

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    overhead::run(run, &mut report)?;
    scraped(run, &mut report)?;
    Ok(report)
}

/// Measures the agent's side and Docker's.
fn scraped(run: &Run, report: &mut Report) -> Result<()> {
    let (tenants, settle, window, rounds) = run.pick(
        (50, Duration::from_secs(10), Duration::from_secs(30), 6),
        (2, Duration::from_secs(1), Duration::from_secs(2), 1),
    );
    let cell = Cell::start(&Shape {
        edition: STANDIN,
        config: "---[plans.small]\nmemory=\"64MiB\"\ncpu=0.02\ndisk=\"16MiB\"\nworkers=0\n\
                 [monitoring]\ncertificate_dir=\"prometheus\"\n",
        liveness: "report_interval = \"5s\"",
        ..Shape::default()
    });
    crate::agent::fill(&cell, 0, tenants)?;
    let agent = Watched::new(
        cell.hosts[0]
            .agent
            .as_ref()
            .context("the cell has an agent")?
            .pid(),
    )?;
    let load = |what: &str, report: &mut Report| -> Result<f64> {
        sleep(settle);
        let mark = agent.mark()?;
        sleep(window);
        let (load, memory) = (agent.load_since(mark)?, agent.resident()? as f64);
        report.add_one(
            &format!("agent, {tenants} tenants, {what}: CPU"),
            Unit::Core,
            load,
            None,
        );
        report.add_one(
            &format!("agent, {tenants} tenants, {what}: memory"),
            Unit::Bytes,
            memory,
            None,
        );
        Ok(load)
    };
    load("not scraped", report)?;
    let prometheus = Prometheus::start(&cell, INTERVAL);
    load(&format!("scraped every {INTERVAL}, all pages"), report)?;
    drop(prometheus);
    let streaming = streaming(&cell, window)?;
    let name = format!(
        "docker stats, the same {} containers, once a second as it does",
        2 * tenants
    );
    report.add_one(
        &format!("{name}: CPU of it and the engine"),
        Unit::Core,
        streaming.0,
        None,
    );
    report.add_one(
        &format!("{name}: its own memory"),
        Unit::Bytes,
        streaming.1,
        None,
    );
    looks(&cell, &agent, rounds, report)?;
    explain(tenants, report);
    Ok(())
}

/// Notes on what the figures cover, and what is not compared.
fn explain(tenants: usize, report: &mut Report) {
    report.note(format!(
        "One host with {} stand-in containers at rest. Prometheus asks for the host, all containers, and each tenant's Odoo and PostgreSQL; \
         a stand-in's Odoo page is as long as a real one's and never changes, its PostgreSQL answers no query. The engine: dockerd, containerd and its shims.",
        2 * tenants
    ));
    report.note(
        "One look: `GET /containers` with a TLS handshake of its own, and `docker stats --no-stream`, which waits a second between two \
         samples of its own; CPU time of the agent, and of the command and the engine.",
    );
    report.note(format!(
        "The shares of a core are at different intervals: Prometheus asks the agent every {INTERVAL}, `docker stats` shows new figures every \
         second and cannot be told otherwise. So the two are compared by one look each, in turns. cAdvisor is not compared: it comes as an \
         image from a registry, which is not to be had where these benches run."
    ));
}

/// One look at all containers, both sides in turn: CPU seconds.
fn looks(cell: &Cell, agent: &Watched, rounds: usize, report: &mut Report) -> Result<()> {
    let certificates = cell.dir.path().join("coordinator/prometheus");
    let url = format!("https://{}:7482/containers", cell.hosts[0].address);
    let engine = Engine::of(cell);
    let taken = alternate(
        rounds,
        &mut [
            (
                "the agent's page",
                Box::new(|| {
                    sleep(NOT_SHARED);
                    let before = agent.cpu()?;
                    page(&certificates, &url)?;
                    Ok(agent.cpu()?.saturating_sub(before))
                }),
            ),
            (
                "docker stats",
                Box::new(|| {
                    let before = engine.cpu()? + children()?;
                    let seen = cell.hosts[0].docker.run(&["stats", "--no-stream"]);
                    ensure!(seen.code == 0, "docker stats: {}", seen.stderr);
                    Ok((engine.cpu()? + children()?).saturating_sub(before))
                }),
            ),
        ],
    )?;
    let [ours, theirs] = &taken[..] else {
        anyhow::bail!("a side is missing")
    };
    // CPU time counts in whole kernel ticks and may be 0: use at least one tick.
    let ours = ours.each(|cpu| cpu.max(1.0 / procfs::ticks_per_second() as f64));
    report.add(
        "one look at all containers, agent: CPU",
        Unit::Seconds,
        &ours,
        None,
    );
    report.add(
        "one look at all containers, docker stats: CPU",
        Unit::Seconds,
        theirs,
        None,
    );
    report.add(
        "one look: agent / docker stats",
        Unit::Ratio,
        &ours.ratios(theirs),
        Some(Target::AtMost(0.5)),
    );
    Ok(())
}

/// Fetches the page of all containers and checks it.
fn page(certificates: &Path, url: &str) -> Result<()> {
    let mut curl = Command::new("curl");
    curl.args(["-sSf", "--max-time", "15"]);
    for (option, file) in [
        ("--cacert", "ca.pem"),
        ("--cert", "prometheus.pem"),
        ("--key", "prometheus.key"),
    ] {
        curl.arg(option).arg(certificates.join(file));
    }
    let page = command(curl.arg(url));
    ensure!(
        page.code == 0 && page.stdout.contains("container_cpu_usage"),
        "{url}: {}",
        page.stderr
    );
    Ok(())
}

/// `docker stats` streaming for a while: CPU of it and the engine as a share of a core, and its memory.
fn streaming(cell: &Cell, window: Duration) -> Result<(f64, f64)> {
    let engine = Engine::of(cell);
    let mut stats = Command::new("docker");
    stats
        .env("DOCKER_HOST", cell.hosts[0].docker.host())
        .args(["stats", "--format", "{{.Name}}"]);
    let stats = isyone_tests::e2e::process::Daemon::start(
        "docker stats",
        &mut stats,
        &cell.dir.path().join("stats.log"),
    );
    wait_for("docker stats to begin", Duration::from_secs(30), || {
        (!stats.log().is_empty()).then_some(())
    });
    let command = Watched::new(stats.pid())?;
    let (mark, before) = (command.mark()?, engine.cpu()?);
    sleep(window);
    let load = command.load_since(mark)?;
    let engine = engine.cpu()?.saturating_sub(before).as_secs_f64() / window.as_secs_f64();
    Ok((load + engine, command.resident()? as f64))
}

/// The processes of a host's Docker Engine.
pub(crate) struct Engine(Vec<Watched>);

impl Engine {
    /// dockerd, containerd and the shims: the arguments of all of them contain the folder of the host's engine.
    pub(crate) fn of(cell: &Cell) -> Self {
        let folder = cell.hosts[0]
            .docker
            .socket
            .parent()
            .and_then(Path::parent)
            .map(Path::to_owned);
        let folder = folder.unwrap_or_default().to_string_lossy().into_owned();
        let ours = |process: &procfs::process::Process| {
            let arguments = process.cmdline().unwrap_or_default();
            let program = arguments
                .first()
                .map(|path| path.rsplit('/').next().unwrap_or_default().to_owned());
            program
                .is_some_and(|name| name.starts_with("dockerd") || name.starts_with("containerd"))
                && arguments.iter().any(|argument| argument.contains(&folder))
        };
        let all = all_processes().into_iter().flatten().flatten();
        let numbers = all
            .filter(ours)
            .filter_map(|process| u32::try_from(process.pid()).ok());
        Self(numbers.filter_map(|pid| Watched::new(pid).ok()).collect())
    }

    pub(crate) fn cpu(&self) -> Result<Duration> {
        ensure!(
            !self.0.is_empty(),
            "the host's engine is not to be found among the processes"
        );
        self.0.iter().map(Watched::cpu).sum()
    }
}

/// CPU time of child processes that have ended.
pub(crate) fn children() -> Result<Duration> {
    let stat = procfs::process::Process::myself()?.stat()?;
    let ticks = u64::try_from(stat.cutime + stat.cstime).unwrap_or(0) as f64;
    Ok(Duration::from_secs_f64(
        ticks / procfs::ticks_per_second() as f64,
    ))
}
