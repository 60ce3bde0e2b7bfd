//! One host with 120 tenants of a stand-in image: networks do not run out, every tenant answers, lists are paged.

use std::time::{Duration, Instant};

use isyone_tests::e2e::{
    beside,
    cell::{Cell, STANDIN, Shape},
    enabled,
    http::get,
    wait_for,
};

const TENANTS: usize = 120;

#[test]
fn one_host_carries_120_tenants() {
    if !enabled("one_host_carries_120_tenants") {
        return;
    }
    let _beside = beside();
    let mut cell = Cell::start(&Shape {
        edition: STANDIN,
        config: "---[plans.small]\nmemory=\"64MiB\"\ncpu=0.05\ndisk=\"16MiB\"\nworkers=0\n",
        ..Shape::default()
    });
    let begin = Instant::now();
    for i in 0..TENANTS {
        cell.isyctl(&["tenant", "create", &format!("t{i}"), "--no-wait"])
            .ok();
    }
    wait_for("120 running tenants", Duration::from_secs(900), || {
        let running = cell
            .json(&["tenant", "list"])
            .as_array()?
            .iter()
            .filter(|t| t["phase"] == "running")
            .count();
        (running == TENANTS).then_some(())
    });
    println!(
        "{TENANTS} tenants run after {:.0} s",
        begin.elapsed().as_secs_f64()
    );
    for i in 0..TENANTS {
        let host = format!("t{i}.isy.one");
        wait_for(&host, Duration::from_secs(30), || {
            (get(cell.edge(), &host, "/web/health").status == 200).then_some(())
        });
    }
    let subnets: std::collections::BTreeSet<String> = cell
        .json(&["tenant", "list"])
        .as_array()
        .expect("a list")
        .iter()
        .map(|t| t["subnet"].to_string())
        .collect();
    assert_eq!(subnets.len(), TENANTS);
    cost_at_rest(&mut cell);
}

/// Resident memory in MiB, and CPU time so far in clock ticks of 10 ms (proc(5)).
fn cost(pid: u32) -> (f64, f64) {
    let read =
        |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("it runs");
    let rss = read("status")
        .lines()
        .find(|l| l.starts_with("VmRSS"))
        .and_then(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok());
    let stat = read("stat");
    let fields: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .expect("fields")
        .split(' ')
        .collect();
    let ticks = |i: usize| fields[i].parse::<f64>().expect("a number");
    (rss.expect("VmRSS") / 1024.0, ticks(11) + ticks(12))
}

/// Prints figures for people; asserts nothing about time, because machines differ. The cell reports every second, five
/// times as often as usual.
fn cost_at_rest(cell: &mut Cell) {
    const SECONDS: u64 = 20;
    std::thread::sleep(Duration::from_secs(15));
    let parts = [
        (
            "coordinator",
            cell.coordinator.as_ref().expect("running").pid(),
        ),
        (
            "agent",
            cell.hosts[0].agent.as_ref().expect("running").pid(),
        ),
    ];
    let before = parts.map(|(_, pid)| cost(pid).1);
    std::thread::sleep(Duration::from_secs(SECONDS));
    for ((name, pid), before) in parts.into_iter().zip(before) {
        let (megabytes, ticks) = cost(pid);
        println!(
            "at rest with {TENANTS} tenants: {name} {megabytes:.0} MB, {:.1} % of a core",
            (ticks - before) / SECONDS as f64
        );
    }
    let begin = Instant::now();
    cell.isyctl(&["tenant", "list"]).ok();
    println!("isyctl tenant list: {} ms", begin.elapsed().as_millis());
    cell.coordinator.as_mut().expect("running").kill();
    let begin = Instant::now();
    cell.start_coordinator();
    println!(
        "coordinator ready {} ms after its start",
        begin.elapsed().as_millis()
    );
}
