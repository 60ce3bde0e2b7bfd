//! `bench fleet`: one coordinator (the real program, SQLite on disk) with N agents that speak the real protocol from
//! another process: its cost at rest, how soon a change reaches its host, how operators' calls fare meanwhile, and how
//! the fleet comes back after `kill -9`.
//!
//! Not here: the agents (agents), the data directory and the program (site), operators' calls (load), what a reader
//! must know (notes).

mod agents;
mod load;
mod measured;
mod notes;
mod site;
mod swarm;
mod wire;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::runtime::Runtime;
use tonic::transport::Channel;

pub(crate) use agents::run as run_agents;
use site::{REPORT_SECONDS, Site};
use swarm::Swarm;
use wire::Status;

use crate::{
    Run,
    figures::{Report, Target, Unit},
    process::Watched,
    samples::Samples,
};

/// Sizes of the fleets; only the largest has targets.
const SIZES: [usize; 3] = [100, 1_000, 10_000];
const SMALL_SIZE: usize = 200;
/// Tenants per host.
const TENANTS: usize = 10;
/// Open files of a process besides its connections.
const SPARE_FILES: u64 = 300;
/// The bench fails if not all agents are connected after this time: far above any target.
const CONNECT_LIMIT: Duration = Duration::from_secs(300);
/// A report that is owed for this long while the fleet is at rest counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(5);
/// How long to measure a fleet at rest: six report intervals, so that each agent makes one complete report.
const REST_SECONDS: u64 = 6 * REPORT_SECONDS;
/// How long operators work: in the fleet with targets, and in the others.
const OPERATORS_SECONDS: [u64; 2] = [30, 10];

/// Targets for the largest fleet.
struct Targets {
    rest: Option<Target>,
    memory: Option<Target>,
    delivery: Option<Target>,
    storm: Option<Target>,
}

impl Targets {
    fn of(agents: usize) -> Self {
        let target = |value| (agents == SIZES[2]).then_some(Target::AtMost(value));
        Self {
            rest: target(0.5),
            memory: target(65_536.0),
            delivery: target(0.25),
            storm: target(60.0),
        }
    }
}

/// Target for what must not happen at all.
const NONE: Option<Target> = Some(Target::AtMost(0.0));

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    let sizes: Vec<usize> = match std::env::var("ISYONE_BENCH_AGENTS") {
        Ok(text) => text
            .split(',')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .context("ISYONE_BENCH_AGENTS")?,
        Err(_) => run.pick(SIZES.to_vec(), vec![SMALL_SIZE]),
    };
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .maximum
        .unwrap_or(u64::MAX);
    for agents in sizes {
        if agents as u64 + SPARE_FILES > files {
            report.note(format!(
                "{agents} agents were not measured: a process may open {files} files here, and each agent is one in the coordinator"
            ));
            continue;
        }
        eprintln!("  {agents} agents with {TENANTS} tenants each");
        measure(run, &mut report, agents)?;
    }
    notes::add(&mut report, run);
    Ok(report)
}

fn measure(run: &Run, report: &mut Report, agents: usize) -> Result<()> {
    let runtime = Runtime::new()?;
    let mut site = Site::make(&runtime, agents, TENANTS)?;
    let coordinator = Watched::new(site.start()?)?;
    let settle = Duration::from_secs(run.pick(5, 1));
    std::thread::sleep(settle);
    let empty = coordinator.resident()?;
    let swarm = Swarm::start(&site.papers, agents)?;
    swarm
        .wait_for_all(CONNECT_LIMIT)
        .with_context(|| site.log())?;
    // One interval of regular reports, so that the work for the first ones is over.
    std::thread::sleep(Duration::from_secs(run.pick(REPORT_SECONDS, 1)));
    let figures = Figures {
        report,
        agents,
        targets: Targets::of(agents),
    };
    figures_of(
        run,
        figures,
        &runtime,
        &mut site,
        &coordinator,
        &swarm,
        empty,
    )
}

struct Figures<'a> {
    report: &'a mut Report,
    agents: usize,
    targets: Targets,
}

impl Figures<'_> {
    fn one(&mut self, name: &str, unit: Unit, value: f64, target: Option<Target>) {
        eprintln!("  {} agents: {name}: {}", self.agents, unit.show(value));
        self.report.add_one(
            &format!("{} agents: {name}", self.agents),
            unit,
            value,
            target,
        );
    }

    /// Seconds: the first value in the fleet with targets, the second in others; short in a small run.
    fn span(&self, run: &Run, [judged, other]: [u64; 2]) -> Duration {
        let full = if self.agents == SIZES[2] {
            judged
        } else {
            other
        };
        Duration::from_secs(run.pick(full, 3))
    }

    fn quantiles(&mut self, name: &str, samples: &Samples, target: Option<Target>) {
        for (word, share, target) in [("p50", 0.5, None), ("p99", 0.99, target)] {
            let name = format!("{} agents: {name}, {word}", self.agents);
            eprintln!("  {name}: {}", Unit::Seconds.show(samples.quantile(share)));
            self.report
                .add_quantile(&name, Unit::Seconds, samples, share, target);
        }
    }
}

fn figures_of(
    run: &Run,
    mut figures: Figures<'_>,
    runtime: &Runtime,
    site: &mut Site,
    coordinator: &Watched,
    swarm: &Swarm,
    empty: u64,
) -> Result<()> {
    let per_agent = |now: u64| now.saturating_sub(empty) as f64 / figures.agents as f64;
    let (mark, before) = (coordinator.mark()?, swarm.status());
    std::thread::sleep(Duration::from_secs(run.pick(REST_SECONDS, 3)));
    let load = coordinator.load_since(mark)?;
    let after = swarm.status();
    let resident = coordinator.resident()?;
    let memory = per_agent(resident);
    ensure!(after.made > before.made, "no reports are made");
    ensure!(
        after.sessions == before.sessions,
        "sessions end at rest: {:?}",
        after.endings
    );
    let (rest, bytes) = (figures.targets.rest, figures.targets.memory);
    figures.one("coordinator's CPU at rest", Unit::Core, load, rest);
    figures.one("memory per agent", Unit::Bytes, memory, bytes);
    figures.one(
        "coordinator's resident memory without agents",
        Unit::Bytes,
        empty as f64,
        None,
    );
    figures.one(
        "coordinator's resident memory with all agents",
        Unit::Bytes,
        resident as f64,
        None,
    );
    operators(run, &mut figures, runtime, site, swarm)?;
    let peak = storm(run, &mut figures, site, swarm)?;
    figures.one(
        "memory per agent after the storm",
        Unit::Bytes,
        peak.saturating_sub(empty) as f64 / figures.agents as f64,
        None,
    );
    let last = swarm.status();
    let lost = if last.oldest_owed_ms > LOST_AFTER.as_millis() as u64 {
        last.owed
    } else {
        0
    };
    eprintln!("  {} sessions, endings {:?}", last.sessions, last.endings);
    ensure!(!run.small || lost == 0, "reports were lost: {last:?}");
    figures.one("reports lost", Unit::Count, lost as f64, NONE);
    let longest = last.longest_owed_ms as f64 / 1e3;
    figures.one(
        "longest time until a report was covered, storm included",
        Unit::Seconds,
        longest,
        None,
    );
    Ok(())
}

fn operators(
    run: &Run,
    figures: &mut Figures<'_>,
    runtime: &Runtime,
    site: &Site,
    swarm: &Swarm,
) -> Result<()> {
    let admin: Channel = runtime.block_on(async { site.admin() })?;
    let time = figures.span(run, OPERATORS_SECONDS);
    let timed =
        load::run(runtime, &admin, swarm, &site.tenants, time).with_context(|| site.log())?;
    let target = figures.targets.delivery;
    figures.quantiles(
        "a change reaches its host after the API's answer",
        &timed.delivery,
        target,
    );
    figures.quantiles(
        "a change reaches its host after the request",
        &timed.delivery_asked,
        target,
    );
    figures.quantiles("RestartTenant", &timed.restart, None);
    figures.quantiles("GetTenant", &timed.get, None);
    figures.quantiles("ListTenants, 100 of them", &timed.list, None);
    figures.one(
        "calls refused for load",
        Unit::Count,
        timed.refused as f64,
        NONE,
    );
    Ok(())
}

/// Kills the coordinator and starts it again; returns its resident memory once the fleet is at rest.
fn storm(run: &Run, figures: &mut Figures<'_>, site: &mut Site, swarm: &Swarm) -> Result<u64> {
    let rest = swarm.status();
    let longest = rest.longest_owed_ms as f64 / 1e3;
    figures.one(
        "longest time until a report was covered, before the storm",
        Unit::Seconds,
        longest,
        None,
    );
    site.kill();
    let begin = Instant::now();
    swarm.wait_for_none(CONNECT_LIMIT)?;
    let killed = swarm.status();
    let coordinator = Watched::new(site.launch())?;
    swarm
        .wait_for_all(CONNECT_LIMIT)
        .with_context(|| site.log())?;
    let took = begin.elapsed().as_secs_f64();
    let cpu = coordinator.cpu()?.as_secs_f64();
    let target = figures.targets.storm;
    figures.one(
        "all are back after kill -9 and a start",
        Unit::Seconds,
        took,
        target,
    );
    figures.one(
        "coordinator's CPU time for its start and all coming back",
        Unit::Seconds,
        cpu,
        None,
    );
    std::thread::sleep(Duration::from_secs(
        run.pick(REPORT_SECONDS + LOST_AFTER.as_secs(), 3),
    ));
    figures.one(
        "reports unacknowledged at the kill",
        Unit::Count,
        killed.owed as f64,
        None,
    );
    turned_away(
        figures,
        [&rest, &killed],
        &swarm.status(),
        site.connections_refused()?,
    );
    coordinator.resident()
}

/// Counts the attempts of the storm, as the agents saw them and as the coordinator counted them. A killed process loses
/// its connections one by one and its port last: agents that reconnect at once meet an open port that nobody serves any
/// more.
fn turned_away(
    figures: &mut Figures<'_>,
    [rest, killed]: [&Status; 2],
    now: &Status,
    counted: BTreeMap<String, u64>,
) {
    let dying = killed.failed.saturating_sub(rest.failed);
    figures.one(
        "session attempts that met the port of the killed coordinator",
        Unit::Count,
        dying as f64,
        None,
    );
    let failed = now.failed.saturating_sub(killed.failed);
    figures.one(
        "session attempts that failed at the open port in the storm",
        Unit::Count,
        failed as f64,
        NONE,
    );
    // Subtract one end per agent: that of its session with the killed coordinator.
    let again = now.cut.saturating_sub(rest.cut + figures.agents as u64);
    figures.one(
        "sessions that ended again after they had come back",
        Unit::Count,
        again as f64,
        NONE,
    );
    let closed = now.unreachable.saturating_sub(rest.unreachable);
    figures.one(
        "session attempts that met the closed port",
        Unit::Count,
        closed as f64,
        None,
    );
    let refused = "connections that the coordinator refused in the storm";
    figures.one(
        refused,
        Unit::Count,
        counted.values().sum::<u64>() as f64,
        None,
    );
    // Leave out reasons that never occurred: they would add a row each per fleet, and the sum says it already.
    for (reason, count) in counted.into_iter().filter(|(_, count)| *count > 0) {
        figures.one(
            &format!("{refused}, {reason}"),
            Unit::Count,
            count as f64,
            None,
        );
    }
}
