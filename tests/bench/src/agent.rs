//! `bench agent`: what one agent costs with 0, 50 and 200 stacks at rest, with the product's own report interval.
//!
//! A real agent with a real coordinator; the stacks are stand-ins, so what is measured is the agent and not Odoo. Not here: its work
//! when something is to be done (apply, create).

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use isyone_tests::e2e::cell::{Cell, Shape};

use crate::{
    Run,
    figures::{Report, Target, Unit},
    process::Watched,
};

/// For all tenants to run: a stack takes about a second on two cores.
const PATIENCE: Duration = Duration::from_secs(900);

/// How long the agent is watched with most stacks, and with fewer: multiples of its report interval.
const WINDOWS: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(30));
const SMALL_WINDOWS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(2));

/// See the module.
pub(crate) fn run(run: &Run) -> Result<Report> {
    let (sizes, settle, windows) = run.pick(
        (vec![0, 50, 200], Duration::from_secs(10), WINDOWS),
        (vec![2], Duration::from_millis(500), SMALL_WINDOWS),
    );
    let cell = Cell::start(&Shape {
        edition: ("isyone/standin:2", "isyone/standin-postgres:2"),
        config: "---[plans.small]\nmemory=\"64MiB\"\ncpu=0.02\ndisk=\"1MiB\"\nworkers=0\n",
        liveness: "report_interval = \"5s\"",
        ..Shape::default()
    });
    let pid = cell.hosts[0].agent.as_ref().context("the cell has an agent")?.pid();
    let agent = Watched::new(pid)?;
    let most = sizes.last().copied();
    let mut report = Report::default();
    let mut there = 0;
    for size in sizes {
        fill(&cell, there, size)?;
        there = size;
        sleep(settle);
        // What it must reach is said of the most.
        let last = Some(size) == most;
        let mark = agent.mark()?;
        sleep(if last { windows.0 } else { windows.1 });
        let load = agent.load_since(mark)?;
        let memory = agent.resident()? as f64;
        ensure!(running(&cell)? == size, "a tenant does not run any more");
        let target = |limit: f64| last.then_some(Target::AtMost(limit));
        report.add_one(&format!("CPU with {size} stacks at rest"), Unit::Core, load, target(0.01));
        report.add_one(&format!("memory with {size} stacks at rest"), Unit::Bytes, memory, target(40e6));
    }
    report.note(format!(
        "CPU: user and system time of the agent's process over {} s (with fewer stacks {} s), begun {} s after the last tenant ran; memory: \
         resident, program text included. Reports every 5 s, one host, stand-in images; each stack is two containers.",
        windows.0.as_secs(),
        windows.1.as_secs(),
        settle.as_secs()
    ));
    Ok(report)
}

/// Creates tenants until there are `to`, and waits until all run.
pub(crate) fn fill(cell: &Cell, from: usize, to: usize) -> Result<()> {
    for n in from..to {
        let created = cell.isyctl(&["tenant", "create", &format!("t{n}"), "--no-wait"]);
        ensure!(created.code == 0, "t{n}: {}", created.stderr);
    }
    let begin = Instant::now();
    loop {
        let count = running(cell)?;
        if count == to {
            eprintln!("  {to} stacks run after {:.0} s", begin.elapsed().as_secs_f64());
            return Ok(());
        }
        ensure!(begin.elapsed() < PATIENCE, "only {count} of {to} stacks run");
        sleep(Duration::from_millis(500));
    }
}

fn running(cell: &Cell) -> Result<usize> {
    let list = cell.json(&["tenant", "list"]);
    let tenants = list.as_array().context("a list of tenants")?;
    Ok(tenants.iter().filter(|t| t["phase"] == "running").count())
}
