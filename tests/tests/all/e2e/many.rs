//! One host with 120 tenants of a stand-in image: networks do not run out, every tenant answers, lists page.

use std::time::{Duration, Instant};

use isyone_tests::e2e::{
    alone,
    cell::{Cell, Shape},
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
    let _alone = alone();
    let cell = Cell::start(&Shape {
        edition: ("isyone/standin:2", "isyone/standin-postgres:2"),
        config: "---[plans.small]\nmemory=\"64MiB\"\ncpu=0.05\ndisk=\"1MiB\"\nworkers=0\n",
        ..Shape::default()
    });
    let begin = Instant::now();
    for i in 0..TENANTS {
        cell.isyctl(&["tenant", "create", &format!("t{i}"), "--no-wait"]).ok();
    }
    wait_for("120 running tenants", Duration::from_secs(900), || {
        let running =
            cell.json(&["tenant", "list"]).as_array()?.iter().filter(|t| t["phase"] == "running").count();
        (running == TENANTS).then_some(())
    });
    println!("{TENANTS} tenants run after {:.0} s", begin.elapsed().as_secs_f64());
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
