//! One host with many tenants of a stand-in image: networks do not run out, every tenant answers.
//!
//! Not here: what they cost at rest (`cargo xtask bench agent`), Docker's start with more of them (reboot).

use std::time::{Duration, Instant};

use isyone_tests::e2e::{
    beside,
    cell::{Cell, STANDIN, Shape},
    enabled,
    http::get,
    wait_for,
};

/// More than the 31 networks that Docker has addresses for by itself. (150: in the long form, reboot.)
const TENANTS: usize = 40;

#[test]
fn one_host_carries_more_tenants_than_docker_has_networks_for() {
    if !enabled("one_host_carries_more_tenants_than_docker_has_networks_for") {
        return;
    }
    let _beside = beside();
    let cell = Cell::start(&Shape {
        edition: STANDIN,
        config: "---[plans.small]\nmemory=\"64MiB\"\ncpu=0.05\ndisk=\"16MiB\"\nworkers=0\n",
        ..Shape::default()
    });
    let begin = Instant::now();
    for i in 0..TENANTS {
        cell.isyctl(&["tenant", "create", &format!("t{i}"), "--no-wait"])
            .ok();
    }
    wait_for("all to run", Duration::from_secs(900), || {
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
}
