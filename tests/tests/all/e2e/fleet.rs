//! Three hosts: spreading, placement explanations, cordon, one edge for all; and what survives restarts of each part.

use std::time::Duration;

use isyone_tests::e2e::{
    beside,
    cell::{Cell, STANDIN, Shape},
    enabled,
    http::get,
    wait_for,
};

const MINUTE: Duration = Duration::from_secs(60);
const THREE: Shape = Shape {
    hosts: 3,
    edition: STANDIN,
    // Small plans, so that nine tenants fit anywhere; the reserved share must outweigh the noise of one shared machine.
    config: "---[plans.small]\nmemory=\"128MiB\"\ncpu=1.0\ndisk=\"64MiB\"\nworkers=2\n",
    ..Shape::DEFAULT
};

const TENANTS: [&str; 6] = ["alfa", "beta", "gama", "delta", "echo", "fox"];

fn answers(cell: &Cell, tenant: &str) {
    let host = format!("{tenant}.isy.one");
    wait_for(&format!("{tenant} to answer"), MINUTE, || {
        (get(cell.edge(), &host, "/web/health").status == 200).then_some(())
    });
}

#[test]
fn three_hosts_share_the_tenants_and_outlive_restarts() {
    if !enabled("three_hosts_share_the_tenants_and_outlive_restarts") {
        return;
    }
    let _beside = beside();
    let mut cell = Cell::start(&THREE);
    for tenant in TENANTS {
        cell.isyctl(&["tenant", "create", tenant]).ok();
    }
    let mut per_host = std::collections::BTreeMap::new();
    for tenant in cell.json(&["tenant", "list"]).as_array().expect("a list") {
        *per_host
            .entry(tenant["host"].as_str().expect("a host").to_owned())
            .or_insert(0) += 1;
    }
    assert_eq!(
        per_host.values().copied().collect::<Vec<_>>(),
        [2, 2, 2],
        "{per_host:?}"
    );
    TENANTS.iter().for_each(|t| answers(&cell, t));
    explained_and_cordoned(&cell);
    compose_sees_the_stacks(&cell);
    restarts_one_by_one(&mut cell);
    restarts_all_at_once(&mut cell);
}

fn explained_and_cordoned(cell: &Cell) {
    let why = cell.isyctl(&["tenant", "explain", "alfa"]).ok();
    assert!(["h1", "h2", "h3"].iter().all(|h| why.contains(h)), "{why}");
    cell.isyctl(&["host", "cordon", "h2"]).ok();
    for tenant in ["golf", "hotel", "india"] {
        cell.isyctl(&["tenant", "create", tenant]).ok();
        assert_ne!(cell.json(&["tenant", "show", tenant])["host"], "h2");
    }
    let dry = cell.isyctl(&["tenant", "create", "juliet", "--host", "h2", "--dry-run"]);
    assert!(
        format!("{}{}", dry.stdout, dry.stderr).contains("cordoned"),
        "{}{}",
        dry.stdout,
        dry.stderr
    );
    assert_eq!(
        cell.isyctl(&["tenant", "show", "juliet"]).code,
        3,
        "a dry run stores nothing"
    );
    cell.isyctl(&["host", "uncordon", "h2"]).ok();
}

fn compose_sees_the_stacks(cell: &Cell) {
    let tenant = cell.json(&["tenant", "show", "alfa"]);
    let host = cell
        .hosts
        .iter()
        .find(|h| tenant["host"] == h.name.as_str())
        .expect("its host");
    let stacks = host.docker.run(&["compose", "ls"]).ok();
    assert!(stacks.contains("isyone_alfa"), "{stacks}");
    let containers = host
        .docker
        .run(&["compose", "-p", "isyone_alfa", "ps", "--format", "json"])
        .ok();
    assert!(
        containers.contains("odoo_alfa") && containers.contains("postgres_alfa"),
        "{containers}"
    );
}

/// When each tenant's Odoo was last started.
fn starts(cell: &Cell) -> Vec<String> {
    let of = |host: &isyone_tests::e2e::cell::Host| {
        let names = host.docker.tenants_containers();
        names
            .into_iter()
            .map(|n| format!("{n} {}", host.docker.started_at(&n)))
            .collect::<Vec<_>>()
    };
    cell.hosts.iter().flat_map(of).collect()
}

fn all_answer(cell: &Cell) {
    TENANTS.iter().for_each(|t| answers(cell, t));
}

fn restarts_one_by_one(cell: &mut Cell) {
    let before = starts(cell);
    cell.coordinator.as_mut().expect("running").kill();
    assert_eq!(
        get(cell.edge(), "alfa.isy.one", "/web/health").status,
        200,
        "the edge goes on without the coordinator"
    );
    cell.start_coordinator();
    all_answer(cell);
    for index in 0..cell.hosts.len() {
        cell.hosts[index].agent.as_mut().expect("running").kill();
        all_answer(cell);
        cell.start_agent(index, &[]);
    }
    cell.traefik.as_mut().expect("running").kill();
    cell.start_traefik();
    all_answer(cell);
    for name in ["h1", "h2", "h3"] {
        cell.wait_host(name, "ready");
    }
    assert_eq!(starts(cell), before, "no healthy container was restarted");
    restart_engine(cell, "h1");
    all_answer(cell);
}

fn restart_engine(cell: &Cell, host: &str) {
    cell.on_hosts(&["stop", host]).ok();
    wait_for("the host to be seen without Docker", MINUTE, || {
        (cell.json(&["host", "show", host])["state"] == "degraded").then_some(())
    });
    cell.on_hosts(&["start", host]).ok();
    cell.wait_host(host, "ready");
}

fn restarts_all_at_once(cell: &mut Cell) {
    cell.coordinator.as_mut().expect("running").kill();
    cell.traefik.as_mut().expect("running").kill();
    for host in &mut cell.hosts {
        host.agent.as_mut().expect("running").kill();
    }
    for host in &cell.hosts {
        cell.on_hosts(&["stop", &host.name]).ok();
    }
    for host in &cell.hosts {
        cell.on_hosts(&["start", &host.name]).ok();
    }
    cell.start_traefik();
    cell.start_coordinator();
    for index in 0..cell.hosts.len() {
        cell.start_agent(index, &[]);
    }
    all_answer(cell);
    let count = cell
        .json(&["tenant", "list"])
        .as_array()
        .expect("a list")
        .len();
    assert_eq!(count, 9, "no tenant was lost");
}

#[test]
fn a_partition_takes_no_route_and_ends_in_agreement() {
    if !enabled("a_partition_takes_no_route_and_ends_in_agreement") {
        return;
    }
    let _beside = beside();
    let cell = Cell::start(&THREE);
    cell.isyctl(&["tenant", "create", "alfa", "--host", "h1"])
        .ok();
    answers(&cell, "alfa");
    let before = starts(&cell);
    cell.on_hosts(&["cut", "h1"]).ok();
    cell.wait_host("h1", "lost");
    let shown = cell.json(&["tenant", "show", "alfa"]);
    assert_eq!(shown["phase"], "unknown", "{shown}");
    let routes = get(cell.http(), "localhost", "/traefik/config").body;
    assert!(
        routes.contains("alfa.isy.one"),
        "silence takes no route away"
    );
    // A change made in the meantime is carried out once the host is back.
    cell.isyctl(&["tenant", "suspend", "alfa", "--no-wait"])
        .ok();
    cell.on_hosts(&["heal", "h1"]).ok();
    cell.wait_host("h1", "ready");
    cell.wait_phase("alfa", "suspended", MINUTE);
    cell.isyctl(&["tenant", "resume", "alfa"]).ok();
    answers(&cell, "alfa");
    assert_ne!(starts(&cell), before);
}
