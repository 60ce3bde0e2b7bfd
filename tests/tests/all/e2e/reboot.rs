//! A host with 150 tenants starts its Docker, as after a reboot, once without its agent and once with it: nothing is made anew, no
//! tenant is called failing, and it takes no longer than Docker alone. In the long form.
//!
//! Not here: what an agent at rest costs (many, `cargo xtask bench agent`).

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use isyone_tests::e2e::{
    alone,
    cell::{Cell, STANDIN, Shape, hosts},
    enabled, wait_for,
};

const TENANTS: usize = 150;
/// For all to run at first, and again: a stack takes about a second on two cores.
const PATIENCE: Duration = Duration::from_secs(900);
/// With the agent, all run after at most so many times as long as with Docker alone, and a little: what a busy machine adds.
const TIMES: u32 = 2;
const SLACK: Duration = Duration::from_secs(30);

#[test]
fn a_docker_with_150_tenants_starts_as_by_itself() {
    const NAME: &str = "a_docker_with_150_tenants_starts_as_by_itself";
    if !enabled(NAME) {
        return;
    }
    if std::env::var_os("ISYONE_LONG").is_none() {
        return println!("{NAME}: only in the long form");
    }
    let _alone = alone();
    let mut cell = Cell::start(&Shape {
        edition: STANDIN,
        config: "---[plans.small]\nmemory=\"64MiB\"\ncpu=0.05\ndisk=\"16MiB\"\nworkers=0\n",
        ..Shape::default()
    });
    for i in 0..TENANTS {
        cell.isyctl(&["tenant", "create", &format!("t{i}"), "--no-wait"])
            .ok();
    }
    all_run(&cell, &mut BTreeSet::new());
    let before = containers(&cell);
    assert_eq!(before.len(), 2 * TENANTS);
    cell.hosts[0].agent = None;
    stop(&cell);
    let plain = start(&cell);
    println!("Docker alone: {TENANTS} tenants' containers run after {plain:?}");
    cell.start_agent(0, &[]);
    cell.wait_host("h1", "ready");
    let mut failing = BTreeSet::new();
    all_run(&cell, &mut failing);
    stop(&cell);
    cell.wait_host("h1", "degraded");
    let begin = Instant::now();
    let with = start(&cell);
    println!("with the agent: they run after {with:?}");
    all_run(&cell, &mut failing);
    println!(
        "with the agent: all are known to run after {:?}",
        begin.elapsed()
    );
    assert_eq!(failing, BTreeSet::new(), "nobody is failing");
    assert_eq!(containers(&cell), before, "nothing was made anew");
    assert!(with < plain * TIMES + SLACK, "{with:?}, alone {plain:?}");
}

/// Waits until all tenants run; keeps the names of those that are called failing meanwhile.
fn all_run(cell: &Cell, failing: &mut BTreeSet<String>) {
    wait_for("all tenants to run", PATIENCE, || {
        let list = cell.json(&["tenant", "list"]);
        let tenants = list.as_array()?;
        let in_phase = |phase: &'static str| tenants.iter().filter(move |t| t["phase"] == phase);
        failing.extend(in_phase("failing").map(|t| t["name"].to_string()));
        std::thread::sleep(Duration::from_millis(500));
        (in_phase("running").count() == TENANTS).then_some(())
    });
}

/// Names and ids of tenants' containers.
fn containers(cell: &Cell) -> BTreeSet<String> {
    let filter = ["--filter", "label=one.isy.tenant"];
    let words = ["ps", "-a", "--no-trunc", "--format", "{{.Names}} {{.ID}}"];
    let listed = cell.hosts[0].docker.run(&[&words[..], &filter].concat());
    listed.ok().lines().map(str::to_owned).collect()
}

fn stop(cell: &Cell) {
    hosts(&["stop", &cell.hosts[0].name]).ok();
}

/// Starts Docker; returns when all containers run, with the time that took.
fn start(cell: &Cell) -> Duration {
    let begin = Instant::now();
    hosts(&["start", &cell.hosts[0].name]).ok();
    wait_for("all containers to run", PATIENCE, || {
        let words = ["ps", "-q", "--filter", "label=one.isy.tenant"];
        let running = cell.hosts[0].docker.run(&words).stdout.lines().count();
        std::thread::sleep(Duration::from_millis(500));
        (running == 2 * TENANTS).then_some(())
    });
    begin.elapsed()
}
