//! What people, other programs and half a crash do to a host with real daemons: how soon it is noticed, said and mended. One cell of
//! stand-ins, one fault after the other; each line prints its times.
//!
//! `set_up` has hosts that are configured otherwise, full, late or installed anew, and clocks that are off; `odoo` what matters most with
//! real Odoo. Not here: prunes of deleted tenants (e2e::data), kills of our own programs (crashes).

mod clocks;
mod odoo;
mod set_up;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use isyone_tests::e2e::{
    beside,
    cell::{Cell, STANDIN, Shape},
    doctors, enabled, faults,
    process::run,
    wait_for,
};

const MINUTE: Duration = Duration::from_secs(60);
/// A bridge as Docker names its own.
const LEFT: &str = "br-0123456789ab";
/// What `isyctl doctor` may say of the machine that runs the test: possibly true, but not about the fleet.
const OF_THIS_MACHINE: [&str; 9] = [
    "dns",
    "host h1: clock",
    "host h1: disk",
    "host h1: memory",
    "host h1: neighbour table",
    "host h1: processes",
    "host h1: inotify",
    "host h1: connections",
    "host h1: control groups",
];

/// Where a tenant's data was, where it is now, and since when.
struct Missing {
    home: PathBuf,
    away: PathBuf,
    since: Instant,
}

/// Events of a kind, newest first, as their messages.
fn told(cell: &Cell, kind: &str) -> Vec<String> {
    let events = cell.json(&["events"]);
    let events = events.as_array().cloned().unwrap_or_default();
    let of_kind = events.iter().filter(|e| e["kind"] == kind);
    of_kind
        .map(|e| e["message"].as_str().unwrap_or_default().to_owned())
        .collect()
}

fn wait_told(cell: &Cell, kind: &str, text: &str) -> Duration {
    let since = Instant::now();
    wait_for(&format!("{kind}: {text}"), MINUTE, || {
        told(cell, kind)
            .iter()
            .any(|m| m.contains(text))
            .then_some(())
    });
    since.elapsed()
}

fn shown(cell: &Cell, noun: &str, name: &str, field: &str) -> String {
    let value = &cell.json(&[noun, "show", name])[field];
    value.as_str().unwrap_or_default().to_owned()
}

fn starts(cell: &Cell) -> Vec<String> {
    let containers = ["odoo_alfa", "postgres_alfa", "odoo_beta", "postgres_beta"];
    let docker = &cell.hosts[0].docker;
    containers.iter().map(|c| docker.started_at(c)).collect()
}

#[test]
fn what_is_done_to_a_host_is_noticed_said_and_mended() {
    if !enabled("what_is_done_to_a_host_is_noticed_said_and_mended") {
        return;
    }
    let _beside = beside();
    let mut cell = Cell::start(&Shape {
        edition: STANDIN,
        ..Shape::default()
    });
    for tenant in ["alfa", "beta"] {
        cell.isyctl(&["tenant", "create", tenant]).ok();
        cell.wait_phase(tenant, "running", 2 * MINUTE);
    }
    for kind in ["host.mended", "host.degraded", "tenant.failing"] {
        assert_eq!(told(&cell, kind), [""; 0], "nothing was done yet");
    }
    all_is_well(&cell);
    flushed(&cell);
    // Looked for every half minute, which passes while Docker hangs.
    let missing = data_gone(&cell);
    hangs(&cell);
    data_back(&cell, missing);
    half_started(&mut cell);
    in_the_way(&cell);
    docker_is_stopped(&cell);
}

/// Nothing was done yet: no finding is bad, and none a warning, once the edge has asked for its routes.
fn all_is_well(cell: &Cell) {
    let (found, took) = wait_for("nothing bad to be found", MINUTE, || {
        let since = Instant::now();
        let found = doctors::of_fleet(cell);
        let is_well = doctors::bad(&found).is_empty();
        is_well.then_some((found, since.elapsed()))
    });
    println!("doctor: {} checks in {took:?}", found.len());
    let is_warning = |f: &&doctors::Finding| {
        f.level == "warning" && !OF_THIS_MACHINE.contains(&f.check.as_str())
    };
    let warnings: Vec<_> = found.iter().filter(is_warning).collect();
    assert!(warnings.is_empty(), "{warnings:#?}");
    let found = doctors::of_host(&cell.hosts[0]);
    assert!(doctors::bad(&found).is_empty(), "{found:#?}");
}

/// Line 5: `nft flush ruleset`, as a restart of Debian's nftables service does.
fn flushed(cell: &Cell) {
    let host = &cell.hosts[0];
    let nft = |args: &[&str]| run(host.command("nft").args(args));
    let before = starts(cell);
    let saved = run(&mut host.command("iptables-save")).ok();
    let dockers = nft(&["list", "table", "ip", "nat"]).code;
    assert_eq!(dockers, 0, "Docker's rules are not nft's here: not shown");
    nft(&["flush", "ruleset"]).ok();
    let since = Instant::now();
    let ours = ["list", "chain", "inet", "isyone", "prerouting"];
    while nft(&ours).code != 0 {
        assert!(
            since.elapsed() < Duration::from_secs(1),
            "our table is not back"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("5: our table is back after {:?}", since.elapsed());
    let after = wait_told(
        cell,
        "host.mended",
        "packet filter: removed or changed by nft",
    );
    println!("5: told after {after:?}");
    cell.wait_host(&host.name, "degraded");
    println!("5: Docker's rules missed after {:?}", since.elapsed());
    let message = shown(cell, "host", &host.name, "message");
    assert!(message.contains("systemctl restart docker"), "{message}");
    let dry = cell.isyctl(&["tenant", "create", "gama", "--dry-run"]);
    assert!(dry.stdout.contains("trouble on the host") || dry.code != 0);
    doctors::assert_first(&doctors::of_fleet(cell), "host h1", "degraded");
    let found = doctors::of_host(host);
    doctors::assert_first(&found, "docker's rules", "gone");
    let file = cell.dir.path().join("iptables");
    std::fs::write(&file, saved).expect("rules");
    run(host.command("iptables-restore").arg(&file)).ok();
    cell.wait_host(&host.name, "ready");
    assert_eq!(starts(cell), before, "no tenant was touched");
}

/// Line 9: a Docker that takes calls and says nothing, then answers again.
fn hangs(cell: &Cell) {
    let host = &cell.hosts[0];
    let before = starts(cell);
    let pid = faults::docker_pid(host).expect("the daemon's pid");
    faults::signal("-STOP", &pid);
    let since = Instant::now();
    cell.wait_phase("alfa", "unknown", MINUTE);
    println!("9: unknown after {:?}", since.elapsed());
    let said = format!("Docker on {} does not answer", host.name);
    assert_eq!(shown(cell, "tenant", "alfa", "message"), said);
    doctors::assert_first(&doctors::of_fleet(cell), "host h1", "degraded");
    let restart = cell.json(&["tenant", "restart", "alfa", "--no-wait"]);
    let id = restart["id"].as_str().expect("an operation").to_owned();
    wait_for("what it waits for", MINUTE, || {
        let error = cell.json(&["op", "show", &id])["error"].to_string();
        error.contains(&said).then_some(())
    });
    faults::signal("-CONT", &pid);
    let since = Instant::now();
    cell.wait_phase("alfa", "running", 2 * MINUTE);
    println!("9: running again after {:?}", since.elapsed());
    cell.isyctl(&["op", "watch", &id]).ok();
    assert_eq!(starts(cell)[2..], before[2..], "beta was not touched");
}

/// Line 3: what a dockerd killed in mid-start leaves of a container.
fn half_started(cell: &mut Cell) {
    let docker = cell.hosts[0].docker.clone();
    let id = docker.inspect("odoo_alfa", "{{.Id}}");
    let folder = faults::half_start(cell, 0, "odoo_alfa").expect("what is left of it");
    let since = Instant::now();
    wait_for("another container", 3 * MINUTE, || {
        let now = docker.inspect("odoo_alfa", "{{.Id}} {{.State.Running}}");
        (!now.starts_with(&id) && now.ends_with("true")).then_some(())
    });
    cell.wait_phase("alfa", "running", MINUTE);
    println!("3: made anew after {:?}", since.elapsed());
    wait_told(
        cell,
        "host.mended",
        "odoo_alfa: its container was made anew",
    );
    let _ = std::fs::remove_dir(&folder);
}

/// Line 4: a bridge without a network holds the next tenant's addresses.
fn in_the_way(cell: &Cell) {
    let host = &cell.hosts[0];
    let subnet = |tenant: &str| shown(cell, "tenant", tenant, "subnet");
    let last: std::net::Ipv4Addr = subnet("beta")
        .split('/')
        .next()
        .and_then(|address| address.parse().ok())
        .expect("a network");
    let gateway = |n: u32| std::net::Ipv4Addr::from(u32::from(last) + 16 * n + 1);
    // Somebody's own: the next tenant gets other addresses. And one that Docker has left.
    assert!(faults::add_bridge(host, "bridge7", gateway(1)));
    std::thread::sleep(Duration::from_secs(3)); // a report
    cell.isyctl(&["tenant", "create", "gama"]).ok();
    cell.wait_phase("gama", "running", 2 * MINUTE);
    let taken = std::net::Ipv4Addr::from(u32::from(last) + 16);
    assert_ne!(subnet("gama"), format!("{taken}/28"));
    faults::ip(host, "link delete bridge7").ok();
    // A tenant that is brought back finds what a killed Docker has left in its place.
    cell.isyctl(&["tenant", "delete", "gama", "--yes"]).ok();
    cell.wait_phase("gama", "quarantined", MINUTE);
    let own = subnet("gama");
    let own: std::net::Ipv4Addr = own
        .split('/')
        .next()
        .and_then(|a| a.parse().ok())
        .expect("one");
    let address = std::net::Ipv4Addr::from(u32::from(own) + 1);
    assert!(faults::add_bridge(host, LEFT, address));
    let since = Instant::now();
    cell.isyctl(&["tenant", "undelete", "gama"]).ok();
    cell.wait_phase("gama", "running", 2 * MINUTE);
    println!("4: running after {:?}", since.elapsed());
    wait_told(cell, "host.mended", &format!("{LEFT} held"));
    assert_ne!(faults::ip(host, &format!("link show {LEFT}")).code, 0);
}

/// Line 1: what a suspended tenant has is taken away.
fn data_gone(cell: &Cell) -> Missing {
    let home = cell.hosts[0].docker.homes().join("beta");
    cell.isyctl(&["tenant", "suspend", "beta"]).ok();
    cell.wait_phase("beta", "suspended", MINUTE);
    let away = home.with_file_name("beta-away");
    std::fs::rename(&home, &away).expect("its home");
    let since = Instant::now();
    Missing { home, away, since }
}

/// That is told, a resume ends, and it comes back by itself.
fn data_back(cell: &Cell, missing: Missing) {
    let left = MINUTE.saturating_sub(missing.since.elapsed());
    cell.wait_phase("beta", "failing", left);
    println!("1: missed within {:?}", missing.since.elapsed());
    wait_told(cell, "tenant.failing", "is not there");
    let found = doctors::of_fleet(cell);
    doctors::assert_first(&found, "tenant beta", "is not there");
    let resumed = cell.isyctl(&["tenant", "resume", "beta"]);
    assert_ne!(resumed.code, 0, "it ends");
    let why = &resumed.stderr;
    assert!(why.contains("is not there"), "{why}");
    std::fs::rename(&missing.away, &missing.home).expect("its home");
    cell.wait_phase("beta", "suspended", 2 * MINUTE);
    cell.isyctl(&["tenant", "resume", "beta"]).ok();
    cell.wait_phase("beta", "running", 2 * MINUTE);
}

/// A stopped Docker is found first.
fn docker_is_stopped(cell: &Cell) {
    let host = &cell.hosts[0];
    cell.on_hosts(&["stop", &host.name]).ok();
    cell.wait_host(&host.name, "degraded");
    let found = doctors::of_fleet(cell);
    doctors::assert_first(&found, "host h1", "Docker does not answer");
    let found = doctors::of_host(host);
    assert_eq!(
        (found[0].check.as_str(), found[0].level.as_str()),
        ("docker", "bad")
    );
    cell.on_hosts(&["start", &host.name]).ok();
    cell.wait_host(&host.name, "ready");
    cell.wait_phase("alfa", "running", 2 * MINUTE);
}
