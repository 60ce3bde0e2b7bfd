//! `bench agent`: what one agent costs with 0, 50 and 200 stacks at rest, with the product's own report interval.
//!
//! A real agent with a real coordinator; the stacks are stand-ins, so this measures the agent and not Odoo. Not here:
//! the cost of carrying out changes (apply, create).

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use isyone_tests::e2e::cell::{Cell, STANDIN, Shape};

use crate::{
    Run,
    figures::{Report, Target, Unit},
    process::Watched,
    samples::Samples,
};

/// Time for all tenants to start: a stack takes about a second on two cores.
const PATIENCE: Duration = Duration::from_secs(900);

/// Length and number of measurements: with most stacks, and with fewer. Each length is a multiple of 30 s, in which all
/// of the agent's periodic work occurs: probes, reports, complete reports, reading control groups, Odoo's page.
const WINDOWS: [(Duration, usize); 2] =
    [(Duration::from_secs(60), 5), (Duration::from_secs(30), 1)];
const SMALL_WINDOWS: [(Duration, usize); 2] = [(Duration::from_secs(2), 1); 2];

pub(crate) fn run(run: &Run) -> Result<Report> {
    let (sizes, settle, windows) = run.pick(
        (vec![0, 50, 200], Duration::from_secs(10), WINDOWS),
        (vec![2], Duration::from_millis(500), SMALL_WINDOWS),
    );
    let cell = Cell::start(&Shape {
        edition: STANDIN,
        config: "---[plans.small]\nmemory=\"64MiB\"\ncpu=0.02\ndisk=\"16MiB\"\nworkers=0\n",
        liveness: "report_interval = \"5s\"",
        ..Shape::default()
    });
    let pid = cell.hosts[0]
        .agent
        .as_ref()
        .context("the cell has an agent")?
        .pid();
    let agent = Watched::new(pid)?;
    let most = sizes.last().copied();
    let mut report = Report::default();
    let mut there = 0;
    for size in sizes {
        fill(&cell, there, size)?;
        there = size;
        sleep(settle);
        // Only the largest size has targets.
        let last = Some(size) == most;
        let (load, memory) = watch(&agent, windows[usize::from(!last)])?;
        ensure!(running(&cell)? == size, "a tenant does not run any more");
        let target = |limit: f64| last.then_some(Target::AtMost(limit));
        report.add(
            &format!("CPU with {size} stacks at rest"),
            Unit::Core,
            &load,
            target(0.01),
        );
        report.add(
            &format!("memory with {size} stacks at rest"),
            Unit::Bytes,
            &memory,
            target(40e6),
        );
    }
    let [most, fewer] = windows.map(|(window, _)| window.as_secs());
    report.note(format!(
        "CPU: user and system time of the agent's process, each sample over {most} s (with fewer stacks {fewer} s), begun {} s after the last \
         tenant ran; memory: resident at the end of each, program text included. Reports every 5 s, one host, stand-in images, without workers; \
         each stack is two containers. A stand-in's metrics page is as long as a real Odoo's; nobody scrapes, so the agent asks for it itself.",
        settle.as_secs()
    ));
    Ok(report)
}

/// The agent's load and memory, one sample per window.
fn watch(agent: &Watched, (window, times): (Duration, usize)) -> Result<(Samples, Samples)> {
    let (mut load, mut memory) = (Samples::default(), Samples::default());
    for _ in 0..times {
        let mark = agent.mark()?;
        sleep(window);
        load.push(agent.load_since(mark)?);
        memory.push(agent.resident()? as f64);
    }
    Ok((load, memory))
}

/// Creates tenants until there are `to`, and waits until all of them run.
pub(crate) fn fill(cell: &Cell, from: usize, to: usize) -> Result<()> {
    for n in from..to {
        let created = cell.isyctl(&["tenant", "create", &format!("t{n}"), "--no-wait"]);
        ensure!(created.code == 0, "t{n}: {}", created.stderr);
    }
    let begin = Instant::now();
    loop {
        let count = running(cell)?;
        if count == to {
            eprintln!(
                "  {to} stacks run after {:.0} s",
                begin.elapsed().as_secs_f64()
            );
            return Ok(());
        }
        ensure!(
            begin.elapsed() < PATIENCE,
            "only {count} of {to} stacks run"
        );
        sleep(Duration::from_millis(500));
    }
}

fn running(cell: &Cell) -> Result<usize> {
    let list = cell.json(&["tenant", "list"]);
    let tenants = list.as_array().context("a list of tenants")?;
    Ok(tenants.iter().filter(|t| t["phase"] == "running").count())
}
