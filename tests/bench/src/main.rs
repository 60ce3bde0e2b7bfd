//! `isyone-bench`: compares isyone with what its users would choose instead. `cargo xtask bench` builds and runs it.
//!
//! Each bench is a module with `run(&Run) -> Result<Report>`; comparisons alternate both sides in one run
//! ([`samples`]), results are machine-readable ([`figures`]) and become docs/benchmarks.md ([`page`]). No test depends
//! on times: a figure that misses its target is reported as missed, and the exit code stays 0.

mod agent;
mod apply;
mod backup;
mod compare;
mod create;
mod disk;
mod edge;
mod figures;
mod fleet;
mod metrics;
mod moves;
mod page;
mod probes;
mod process;
mod publish;
mod samples;
mod visitors;
mod writes;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use isyone_coordinator::base::memory;

use crate::{
    disk::Disk,
    figures::{Machine, Report},
};

/// Measure isyone beside its peers.
#[derive(Debug, Parser)]
#[command(name = "isyone-bench", max_term_width = 110)]
struct Cli {
    /// Which ones; all when none is named
    #[arg(value_enum)]
    benches: Vec<Bench>,
    /// Few rounds and small numbers: shows that the harness works, its figures mean nothing
    #[arg(long)]
    small: bool,
    /// Where results go, a JSON file for each bench; those of small runs into its folder `small`. Data that is measured lies below, too
    #[arg(long, value_name = "DIR", default_value = "target/isyone/bench")]
    out: PathBuf,
    /// Also write the page that shows the results of DIR
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// Measure nothing: compare the results in these folders …
    #[arg(long, value_name = "DIR", value_delimiter = ',', requires = "after")]
    before: Vec<PathBuf>,
    /// … with those in these
    #[arg(long, value_name = "DIR", value_delimiter = ',', requires = "before")]
    after: Vec<PathBuf>,
    /// Not for people: be the agents of `bench fleet`
    #[arg(long, value_name = "FILE", hide = true)]
    agents: Option<PathBuf>,
    /// Not for people: be the coordinator of `bench edge`
    #[arg(long, value_name = "TENANTS,SHARDS", hide = true)]
    coordinator: Option<String>,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// A stack from plan to healthy, beside docker compose and Swarm; and a pass that changes nothing
    Apply,
    /// A real Odoo tenant: cold, from the golden snapshot, and the floor that plain containers set
    Create,
    /// A coordinator with 100, 1,000 and 10,000 agents
    Fleet,
    /// Durable creates per second, and the time of a placement
    Writes,
    /// From a tenant's change to what Traefik and Prometheus get
    Publish,
    /// A Traefik with 10,000 tenants: when a change is effective, what it costs and sends; the coordinator is killed
    Edge,
    /// What an agent costs with 0, 50 and 200 stacks at rest
    Agent,
    /// What being watched costs: a real Odoo with and without the module, an agent that is scraped beside docker stats
    Metrics,
    /// What looking at 100,000 tenants through their edges costs
    Probes,
    /// An honest visitor's waits alone and beside attacks, beside a plain docker compose Odoo
    Visitors,
    /// Backups beside restic and pg_dump, Odoo's answers meanwhile, a restore, and a host of 200 tenants at rest
    Backup,
    /// A real tenant goes to another host while it runs, beside stopping it and beside doing that by hand; a standby at rest
    Move,
}

impl Bench {
    fn name(self) -> String {
        self.to_possible_value()
            .map(|v| v.get_name().to_owned())
            .unwrap_or_default()
    }

    fn run(self, run: &Run) -> Result<Report> {
        match self {
            Self::Apply => apply::run(run),
            Self::Create => create::run(run),
            Self::Fleet => fleet::run(run),
            Self::Writes => writes::run(run),
            Self::Publish => publish::run(run),
            Self::Edge => edge::run(run),
            Self::Agent => agent::run(run),
            Self::Metrics => metrics::run(run),
            Self::Probes => probes::run(run),
            Self::Visitors => visitors::run(run),
            Self::Backup => backup::run(run),
            Self::Move => moves::run(run),
        }
    }
}

/// Parameters of a bench.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// A small run: few rounds, small numbers.
    pub(crate) small: bool,
    /// The disk that holds the data.
    pub(crate) disk: Disk,
}

impl Run {
    /// `full` in a full run, `small` in a small one.
    pub(crate) fn pick<T>(&self, full: T, small: T) -> T {
        if self.small { small } else { full }
    }
}

/// The coordinator's allocator, because parts of the coordinator are measured in this process.
#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::ALLOCATOR;

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("isyone-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    if let Some(papers) = &cli.agents {
        return fleet::run_agents(papers);
    }
    if let Some(of) = &cli.coordinator {
        return edge::coordinator::serve(of);
    }
    if !cli.before.is_empty() {
        return compare::print(&cli.before, &cli.after);
    }
    // Figures of a small run never replace real ones.
    let out = if cli.small {
        cli.out.join("small")
    } else {
        cli.out.clone()
    };
    let disk = Disk::put_temporary_files_on(&out.join("data"), cli.small)?;
    let all = Bench::value_variants();
    let benches = if cli.benches.is_empty() {
        all
    } else {
        &cli.benches
    };
    let machine = Machine::this(disk.clone())?;
    let run = Run {
        small: cli.small,
        disk,
    };
    for bench in benches {
        let name = bench.name();
        eprintln!("--- {name} ---");
        let begin = Instant::now();
        let mut report = bench.run(&run).with_context(|| name.clone())?;
        report.describe(&name, cli.small, &machine, begin.elapsed());
        report.print();
        let path = out.join(format!("{name}.json"));
        std::fs::write(&path, serde_json::to_string_pretty(&report)?)
            .with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &cli.page {
        let names: Vec<String> = all.iter().map(|b| b.name()).collect();
        let before = std::fs::read_to_string(path).unwrap_or_default();
        let text = page::render(&names, &figures::load(&out, &names)?, &before);
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}
