//! `bench fleet`: one coordinator (the real program, SQLite on disk) with N agents that speak the real protocol from a process of their
//! own: what it costs at rest, how soon a change reaches its host, how operators' calls fare meanwhile, and how the fleet comes back
//! after `kill -9`.
//!
//! Not here: the agents (agents), the data directory and the program (site), operators' calls (load).

mod agents;
mod load;
mod site;
mod swarm;
mod wire;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::runtime::Runtime;
use tonic::transport::Channel;

pub(crate) use agents::run as run_agents;
use site::{REPORT_SECONDS, Site};
use swarm::Swarm;

use crate::{
    Run,
    figures::{Report, Target, Unit},
    process::Watched,
    samples::Samples,
};

/// Fleets that are measured; the targets are the largest one's.
const SIZES: [usize; 3] = [100, 1_000, 10_000];
const SMALL_SIZE: usize = 200;
/// Tenants on each host.
const TENANTS: usize = 10;
/// Files that a process has open beside its connections.
const SPARE_FILES: u64 = 300;
/// All agents must be there after so long, or the bench fails: far above any target.
const CONNECT_LIMIT: Duration = Duration::from_secs(300);
/// A report that is owed for so long while the fleet is at rest was lost.
const LOST_AFTER: Duration = Duration::from_secs(5);

/// What the largest fleet must reach.
struct Targets {
    rest: Option<Target>,
    memory: Option<Target>,
    delivery: Option<Target>,
    storm: Option<Target>,
}

impl Targets {
    fn of(agents: usize) -> Self {
        let target = |value| (agents == SIZES[2]).then_some(Target::AtMost(value));
        Self { rest: target(0.5), memory: target(65_536.0), delivery: target(0.25), storm: target(60.0) }
    }
}

/// See the module.
pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    let sizes: Vec<usize> = match std::env::var("ISYONE_BENCH_AGENTS") {
        Ok(text) => {
            text.split(',').map(str::parse).collect::<Result<_, _>>().context("ISYONE_BENCH_AGENTS")?
        }
        Err(_) => run.pick(SIZES.to_vec(), vec![SMALL_SIZE]),
    };
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
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
    report.note(format!(
        "Each agent has {TENANTS} running tenants and reports every {REPORT_SECONDS} s, evenly spread, every sixth report complete, as the \
         real agent does. Coordinator and agents share this machine's cores, so in the storm both sides' handshakes do."
    ));
    report.note(
        "Memory per agent is the coordinator's resident memory with all agents connected, less that of the same coordinator on the same \
         database without agents, divided by their number: connection, TLS, session, and what is remembered of the reports.",
    );
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
    swarm.wait_for_all(CONNECT_LIMIT).with_context(|| site.log())?;
    // One round of regular reports, so that the first ones' work is over.
    std::thread::sleep(Duration::from_secs(run.pick(REPORT_SECONDS, 1)));
    let figures = Figures { report, agents, targets: Targets::of(agents) };
    figures_of(run, figures, &runtime, &mut site, &coordinator, &swarm, empty)
}

struct Figures<'a> {
    report: &'a mut Report,
    agents: usize,
    targets: Targets,
}

impl Figures<'_> {
    fn one(&mut self, name: &str, unit: Unit, value: f64, target: Option<Target>) {
        eprintln!("  {} agents: {name}: {}", self.agents, unit.show(value));
        self.report.add_one(&format!("{} agents: {name}", self.agents), unit, value, target);
    }

    fn quantiles(&mut self, name: &str, samples: &Samples, target: Option<Target>) {
        for (word, share, target) in [("p50", 0.5, None), ("p99", 0.99, target)] {
            let name = format!("{} agents: {name}, {word}", self.agents);
            eprintln!("  {name}: {}", Unit::Seconds.show(samples.quantile(share)));
            self.report.add_quantile(&name, Unit::Seconds, samples, share, target);
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
    std::thread::sleep(Duration::from_secs(run.pick(60, 3)));
    let load = coordinator.load_since(mark)?;
    let after = swarm.status();
    let memory = per_agent(coordinator.resident()?);
    ensure!(after.made > before.made, "no reports are made");
    ensure!(after.sessions == before.sessions, "sessions end at rest: {:?}", after.endings);
    let (rest, bytes) = (figures.targets.rest, figures.targets.memory);
    figures.one("coordinator's CPU at rest", Unit::Core, load, rest);
    figures.one("memory per agent", Unit::Bytes, memory, bytes);
    operators(run, &mut figures, runtime, site, swarm)?;
    let peak = storm(run, &mut figures, site, swarm)?;
    figures.one(
        "memory per agent after the storm",
        Unit::Bytes,
        peak.saturating_sub(empty) as f64 / figures.agents as f64,
        None,
    );
    let last = swarm.status();
    let lost = if last.oldest_owed_ms > LOST_AFTER.as_millis() as u64 { last.owed } else { 0 };
    eprintln!("  {} sessions, endings {:?}", last.sessions, last.endings);
    ensure!(!run.small || (lost, last.refused) == (0, 0), "reports were lost or refused: {last:?}");
    let none = Some(Target::AtMost(0.0));
    figures.one("reports lost", Unit::Count, lost as f64, none);
    figures.one("sessions refused for load", Unit::Count, last.refused as f64, none);
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
    let time = Duration::from_secs(run.pick(30, 3));
    let timed = load::run(runtime, &admin, swarm, &site.tenants, time).with_context(|| site.log())?;
    let target = figures.targets.delivery;
    figures.quantiles("a change reaches its host after the API's answer", &timed.delivery, target);
    figures.quantiles("a change reaches its host after the request", &timed.delivery_asked, target);
    figures.quantiles("RestartTenant", &timed.restart, None);
    figures.quantiles("GetTenant", &timed.get, None);
    figures.quantiles("ListTenants, 100 of them", &timed.list, None);
    figures.one("calls refused for load", Unit::Count, timed.refused as f64, Some(Target::AtMost(0.0)));
    Ok(())
}

/// Kills the coordinator and starts it again; answers the new one's resident memory when the fleet is at rest.
fn storm(run: &Run, figures: &mut Figures<'_>, site: &mut Site, swarm: &Swarm) -> Result<u64> {
    site.kill();
    let begin = Instant::now();
    swarm.wait_for_none(CONNECT_LIMIT)?;
    let coordinator = Watched::new(site.launch())?;
    swarm.wait_for_all(CONNECT_LIMIT).with_context(|| site.log())?;
    let took = begin.elapsed().as_secs_f64();
    let cpu = coordinator.cpu()?.as_secs_f64();
    let target = figures.targets.storm;
    figures.one("all are back after kill -9 and a start", Unit::Seconds, took, target);
    figures.one("coordinator's CPU time for its start and all coming back", Unit::Seconds, cpu, None);
    std::thread::sleep(Duration::from_secs(run.pick(REPORT_SECONDS + 5, 3)));
    coordinator.resident()
}
