//! What a standby costs while nothing happens: the CPU time and the memory of its PostgreSQL, beside that of the tenant it follows.
//!
//! Not here: what the agents cost (`bench agent`).

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use isyone_tests::e2e::{cell::Cell, docker::Docker, wait_for};
use procfs::process::Process;

use crate::figures::{Report, Target, Unit};

const CONTAINER: &str = "postgres_alfa";
/// How long a standby may take to be filled.
const PATIENCE: Duration = Duration::from_secs(180);
/// What filling it has left to be done ends meanwhile.
const SETTLE: Duration = Duration::from_secs(30);
/// Passes over the files come once a minute: two of them.
const WINDOW: Duration = Duration::from_secs(120);

/// CPU time so far, nanoseconds, of those that run now; and the memory that is theirs alone or shared fairly, bytes.
fn used(docker: &Docker) -> Result<(u64, u64)> {
    let listed = docker.run(&["top", CONTAINER, "-eo", "pid"]).ok();
    let (mut cpu, mut memory) = (0, 0);
    for pid in listed.lines().filter_map(|line| line.trim().parse().ok()) {
        let Ok(process) = Process::new(pid) else {
            continue;
        };
        let Ok(stat) = process.schedstat() else {
            continue;
        };
        cpu += stat.sum_exec_runtime;
        let rolled = process.smaps_rollup().context("its memory")?;
        let maps = rolled.memory_map_rollup.into_iter();
        memory += maps
            .filter_map(|map| map.extension.map.get("Pss").copied())
            .sum::<u64>();
    }
    Ok((cpu, memory))
}

pub(super) fn measure(cell: &Cell, report: &mut Report) -> Result<()> {
    wait_for("room for a standby", PATIENCE, || {
        let added = cell.isyctl(&["tenant", "standby", "add", "alfa"]);
        (added.code == 0).then_some(())
    });
    wait_for("the standby", PATIENCE, || {
        let tenant = cell.json(&["tenant", "show", "alfa"]);
        let copies = tenant["copies"].as_array()?.clone();
        let standby = copies.into_iter().find(|copy| copy["role"] == "standby")?;
        standby["lag"].is_object().then_some(())
    });
    sleep(SETTLE);
    let engines = [&cell.hosts[1].docker, &cell.hosts[0].docker];
    let begin = Instant::now();
    let before = engines.map(used);
    sleep(WINDOW);
    let seconds = begin.elapsed().as_secs_f64();
    for ((name, before), engine) in ["its standby", "the tenant it follows"]
        .into_iter()
        .zip(before)
        .zip(engines)
    {
        let (then, now) = (before?, used(engine)?);
        let share = now.0.saturating_sub(then.0) as f64 / 1e9 / seconds;
        let target = (name == "its standby").then_some(Target::AtMost(0.01));
        let figure = format!("at rest: PostgreSQL of {name}, CPU");
        report.add_one(&figure, Unit::Core, share, target);
        let figure = format!("at rest: PostgreSQL of {name}, memory");
        report.add_one(&figure, Unit::Bytes, now.1 as f64, None);
    }
    Ok(())
}
