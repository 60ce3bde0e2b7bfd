//! Hosts whose Docker is configured otherwise, whose disk is full, whose address comes late, whose agent is installed anew, and clocks
//! that are off. One fleet of four hosts, on each a fault of its own, so that what only waits is waited for once; each line of issue
//! 16's table prints its times.
//!
//! Not here: the disks and clocks themselves (disks, clocks), the same with real Odoo (odoo).

use std::{
    net::SocketAddr,
    panic::AssertUnwindSafe,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use isyone_tests::e2e::{
    beside,
    cell::{Cell, STANDIN, Shape},
    disks, doctors, enabled, faults,
    http::get,
    process::run,
    wait_for,
    watch::Watch,
};

use super::{MINUTE, clocks, shown};

/// Small tenants; one who is not visited for two weeks sleeps.
const SHAPE: Shape = Shape {
    hosts: 4,
    edition: STANDIN,
    config: "---[plans.small]\nmemory=\"64MiB\"\ncpu=0.1\ndisk=\"64MiB\"\nworkers=0\nsleep_after=\"14d\"\n\
             [monitoring]\ncertificate_dir=\"prometheus\"\nedges=[\"{edge_metrics}\"]\n",
    ..Shape::DEFAULT
};

/// Each host, by its index, has a tenant of its own and a fault: another packet size, users that are mapped, a full disk, an address
/// that comes late.
pub(super) const OTHERWISE: usize = 0;
pub(super) const MAPPED: usize = 1;
const FILLED: usize = 2;
const LATE: usize = 3;
pub(super) const TENANTS: [&str; 4] = ["alfa", "beta", "gama", "dora"];
/// Deleted a moment ago: its quarantine must not end by a clock.
pub(super) const DELETED: &str = "hugo";
/// From the address to an answer, and until the fleet knows.
const LATE_LIMIT: Duration = Duration::from_secs(10);
/// Between two pages of a visitor's, and so long a new agent hears nothing of a coordinator. It is not the page of the login, which nobody gets
/// that often.
const EACH: Duration = Duration::from_millis(100);
const PLANLESS: Duration = Duration::from_secs(5);
/// What a new uplink takes.
const UPLINK: &str = "1380";

#[test]
fn hosts_that_are_set_up_otherwise_full_or_late_are_told_and_come_back() {
    if !enabled("hosts_that_are_set_up_otherwise_full_or_late_are_told_and_come_back") {
        return;
    }
    let _beside = beside();
    let mut cell = Cell::start(&SHAPE);
    let watch = Watch::start(&cell);
    disks::below_docker(&cell, FILLED, "4GiB", STANDIN);
    begin(&cell);
    let before = without_address(&mut cell);
    thread::scope(|threads| {
        threads.spawn(|| packets_are_smaller(&cell));
        threads.spawn(|| mapped_is_told(&cell, maps_users(&cell)));
        threads.spawn(|| full_is_told(&cell, &watch, fills(&cell)));
    });
    all_are_found_first(&cell);
    thread::scope(|threads| {
        threads.spawn(|| address_is_there(&cell, &before));
        threads.spawn(|| users_are_as_before(&cell));
        threads.spawn(|| room_is_made(&cell));
    });
    installed_anew(&mut cell);
    clocks::are_off(&mut cell);
    all_is_well(&cell);
}

pub(super) fn page(cell: &Cell, tenant: &str) -> u16 {
    get(cell.edge(), &format!("{tenant}.isy.one"), "/web/login").status
}

fn answers(cell: &Cell, tenant: &str, limit: Duration) {
    wait_for(&format!("{tenant} to answer"), limit, || {
        (page(cell, tenant) == 200).then_some(())
    });
}

/// Ids of a tenant's containers, and when they were started.
pub(super) fn containers(cell: &Cell, index: usize) -> Vec<String> {
    let docker = &cell.hosts[index].docker;
    let of = |role: &str| {
        let container = format!("{role}_{}", TENANTS[index]);
        docker.inspect(&container, "{{.Id}} {{.State.StartedAt}}")
    };
    vec![of("odoo"), of("postgres")]
}

/// Their ids alone.
fn ids(cell: &Cell, index: usize) -> Vec<String> {
    let all = containers(cell, index);
    let id = |text: &String| text.split(' ').next().unwrap_or_default().to_owned();
    all.iter().map(id).collect()
}

/// In the tenant's data.
fn mark(cell: &Cell, index: usize) -> PathBuf {
    let homes = cell.hosts[index].docker_data().join("isyone/tenants");
    homes.join(TENANTS[index]).join("odoo/mark-of-the-test")
}

/// A tenant on each host, and one that is deleted.
fn begin(cell: &Cell) {
    for (index, tenant) in TENANTS.iter().enumerate() {
        let host = &cell.hosts[index].name;
        cell.isyctl(&["tenant", "create", tenant, "--host", host, "--no-wait"])
            .ok();
    }
    cell.isyctl(&["tenant", "create", DELETED, "--host", "h1"])
        .ok();
    cell.isyctl(&["tenant", "delete", DELETED, "--yes", "--no-wait"])
        .ok();
    for (index, tenant) in TENANTS.iter().enumerate() {
        cell.wait_phase(tenant, "running", 2 * MINUTE);
        std::fs::write(mark(cell, index), tenant).expect("a mark");
    }
}

/// Line 7: `userns-remap`.
fn maps_users(cell: &Cell) -> Instant {
    faults::map_users(cell, MAPPED);
    Instant::now()
}

fn mapped_is_told(cell: &Cell, since: Instant) {
    let host = &cell.hosts[MAPPED];
    let why = "maps users (`userns-remap`)";
    let told = |noun: &str, name: &str, field: &str, word: &str| {
        wait_for(&format!("{noun} {name} to say why"), MINUTE, || {
            let is_said = shown(cell, noun, name, "message").contains(why);
            (is_said && shown(cell, noun, name, field) == word).then_some(())
        });
        println!("7: {noun} {word} within {:?}", since.elapsed());
    };
    told("host", &host.name, "state", "degraded");
    told("tenant", TENANTS[MAPPED], "phase", "failing");
    let dry = [
        "tenant",
        "create",
        "otto",
        "--host",
        &host.name,
        "--dry-run",
    ];
    let dry = cell.isyctl(&dry);
    let said = dry.stdout + &dry.stderr;
    assert!(said.contains("maps users"), "{said}");
    doctors::assert_first(&doctors::of_host(host), "docker's set-up", "maps users");
}

/// As the remedy says.
fn users_are_as_before(cell: &Cell) {
    faults::map_users_no_more(cell, MAPPED);
    let since = Instant::now();
    cell.wait_host(&cell.hosts[MAPPED].name, "ready");
    cell.wait_phase(TENANTS[MAPPED], "running", 2 * MINUTE);
    println!("7: running within {:?} of Docker's start", since.elapsed());
    assert_marked(cell, MAPPED);
}

fn assert_marked(cell: &Cell, index: usize) {
    let found = std::fs::read_to_string(mark(cell, index)).expect("its mark");
    assert_eq!(found, TENANTS[index]);
}

/// Line 10: nothing can be written any more where tenants' data and Docker's own is.
fn fills(cell: &Cell) -> Instant {
    let reserve = cell.hosts[FILLED].docker_data().join("isyone/reserve");
    wait_for("a reserve to be set aside", MINUTE, || {
        std::fs::metadata(&reserve)
            .is_ok_and(|found| found.len() > 0)
            .then_some(())
    });
    disks::fill(&cell.hosts[FILLED].docker_data());
    Instant::now()
}

fn full_is_told(cell: &Cell, watch: &Watch, since: Instant) {
    let (host, tenant) = (&cell.hosts[FILLED], TENANTS[FILLED]);
    cell.wait_host(&host.name, "degraded");
    println!("10: degraded within {:?}", since.elapsed());
    let why = shown(cell, "host", &host.name, "message");
    assert!(why.contains("the disk of tenants' data is full"), "{why}");
    assert!(!host.docker_data().join("isyone/reserve").exists());
    wait_for("its tenant to say so", MINUTE, || {
        let why = shown(cell, "tenant", tenant, "message");
        why.contains("disk of tenants' data is full").then_some(())
    });
    let before = containers(cell, FILLED);
    let begin = Instant::now();
    let refused = cell.isyctl(&["tenant", "restart", tenant]);
    println!("10: a restart is refused after {:?}", begin.elapsed());
    assert!(
        refused.code != 0 && refused.stderr.contains("is full"),
        "{}",
        refused.stderr
    );
    assert_eq!(containers(cell, FILLED), before, "who serves goes on");
    assert_eq!(page(cell, tenant), 200);
    let alert = ("HostDiskFull".to_owned(), host.name.clone());
    wait_for("the alert", MINUTE, || {
        watch.told().contains(&alert).then_some(())
    });
    println!("10: alert within {:?} (hurried)", since.elapsed());
    doctors::assert_first(&doctors::of_host(host), "disk", "MiB free");
}

fn room_is_made(cell: &Cell) {
    let host = &cell.hosts[FILLED];
    disks::make_room(&host.docker_data());
    let since = Instant::now();
    cell.wait_host(&host.name, "ready");
    println!("10: ready within {:?}", since.elapsed());
    cell.isyctl(&["tenant", "restart", TENANTS[FILLED]]).ok();
    answers(cell, TENANTS[FILLED], MINUTE);
    println!("10: restarted within {:?}", since.elapsed());
    let reserve = host.docker_data().join("isyone/reserve");
    wait_for("the reserve to be set aside anew", MINUTE, || {
        reserve.exists().then_some(())
    });
    assert_marked(cell, FILLED);
}

/// Line 6: the daemon's `mtu`. A tenant that is there gets it when it is stopped and started anyway.
fn packets_are_smaller(cell: &Cell) {
    assert_eq!(packet(cell, OTHERWISE, TENANTS[OTHERWISE]), "1500");
    faults::limit_packets(cell, OTHERWISE, 1400);
    let host = &cell.hosts[OTHERWISE].name;
    cell.wait_host(host, "ready");
    cell.isyctl(&["tenant", "create", "ana", "--host", host])
        .ok();
    assert_eq!(packet(cell, OTHERWISE, "ana"), "1400");
    cell.wait_phase(TENANTS[OTHERWISE], "running", MINUTE);
    let since = Instant::now();
    for verb in ["suspend", "resume"] {
        cell.isyctl(&["tenant", verb, TENANTS[OTHERWISE]]).ok();
    }
    assert_eq!(packet(cell, OTHERWISE, TENANTS[OTHERWISE]), "1400");
    answers(cell, TENANTS[OTHERWISE], MINUTE);
    println!("6: anew with 1400 after {:?}", since.elapsed());
    assert_marked(cell, OTHERWISE);
}

/// The largest packet of a tenant's Odoo, as its own kernel has it.
fn packet(cell: &Cell, index: usize, tenant: &str) -> String {
    let mut ip = cell.hosts[index].command_inside(&format!("odoo_{tenant}"), "ip");
    let text = run(ip.args(["-o", "link", "show", "eth0"])).ok();
    let mut words = text.split(' ').skip_while(|word| *word != "mtu");
    words.nth(1).expect("a number").to_owned()
}

/// Line 11: after a boot Docker and the agent start before the address is there (VPN, DHCP). Ids of what is there.
fn without_address(cell: &mut Cell) -> Vec<String> {
    let before = ids(cell, LATE);
    faults::start_without_address(cell, LATE);
    before
}

fn address_is_there(cell: &Cell, before: &[String]) {
    assert_ne!(page(cell, TENANTS[LATE]), 200);
    faults::give_address(cell, LATE);
    let since = Instant::now();
    answers(cell, TENANTS[LATE], LATE_LIMIT);
    println!("11: answers within {:?} of the address", since.elapsed());
    cell.wait_host(&cell.hosts[LATE].name, "ready");
    cell.wait_phase(TENANTS[LATE], "running", MINUTE);
    let took = since.elapsed();
    println!("11: running within {took:?} of the address");
    assert!(took < LATE_LIMIT, "{took:?}");
    assert_eq!(ids(cell, LATE), before, "nothing was made anew");
}

/// While three hosts are broken: what is bad is theirs, and comes first; on each host its own.
fn all_are_found_first(cell: &Cell) {
    let (host, why) = (&cell.hosts[LATE], "is not there");
    let found = doctors::of_host(host);
    doctors::assert_first(&found, "address", &format!("{} {why}", host.address));
    cell.wait_host(&host.name, "lost");
    let found = doctors::of_fleet(cell);
    for (index, said) in [
        (MAPPED, "maps users"),
        (FILLED, "is full"),
        (LATE, "silent"),
    ] {
        let name = format!("host {}", cell.hosts[index].name);
        let bad = doctors::bad(&found);
        let own = bad.iter().find(|finding| finding.check == name);
        let own = own.unwrap_or_else(|| panic!("{name} in {found:#?}"));
        assert!(
            own.found.contains(said) && !own.remedy.is_empty(),
            "{own:?}"
        );
    }
    let healthy = format!("host {}", cell.hosts[OTHERWISE].name);
    let is_blamed = |f: &doctors::Finding| f.level == "bad" && f.check.starts_with(&healthy);
    assert!(!found.iter().any(is_blamed), "{found:#?}");
}

/// Line 14: the agent's data directory is lost, while its relay runs on; and the new uplink takes smaller packets.
fn installed_anew(cell: &mut Cell) {
    let before = containers(cell, LATE);
    faults::lose_agent(cell, LATE);
    faults::ip(&cell.hosts[LATE], &format!("link set eth0 mtu {UPLINK}")).ok();
    assert_eq!(page(cell, TENANTS[LATE]), 200, "tenants are served on");
    let host = cell.hosts[LATE].name.clone();
    let (edge, is_over) = (cell.edge(), AtomicBool::new(false));
    thread::scope(|threads| {
        let visits = threads.spawn(|| visited(edge, TENANTS[LATE], &is_over));
        // Ends the visits also when this fails.
        let taken_back = std::panic::catch_unwind(AssertUnwindSafe(|| is_taken_back(cell, &host)));
        is_over.store(true, Ordering::Relaxed);
        let (served, others) = visits.join().expect("visits");
        println!("14: {served} pages meanwhile, and others: {others:?}");
        taken_back.unwrap_or_else(|why| std::panic::resume_unwind(why));
        assert!(served > 20 && others.is_empty(), "visitors were cut off");
    });
    assert_eq!(containers(cell, LATE), before, "as they were");
    assert_marked(cell, LATE);
    cell.isyctl(&["tenant", "restart", TENANTS[LATE]]).ok();
    answers(cell, TENANTS[LATE], MINUTE);
    assert_eq!(ids(cell, LATE).len(), 2);
    cell.isyctl(&["tenant", "create", "duda", "--host", &host])
        .ok();
    assert_eq!(packet(cell, LATE, "duda"), UPLINK, "6: the uplink's");
    answers(cell, "duda", MINUTE);
}

/// A new agent has no plan at first; then it gets one.
fn is_taken_back(cell: &mut Cell, host: &str) {
    cell.join(LATE, &["--rejoin"]);
    cell.coordinator = None;
    cell.start_agent(LATE, &[]);
    thread::sleep(PLANLESS);
    let routes = cell.hosts[LATE].data.join("relay/routes.json");
    assert!(!routes.exists(), "written without a plan");
    cell.start_coordinator();
    let since = Instant::now();
    wait_for("the new agent to take its tenant back", MINUTE, || {
        let asked = cell.isyctl(&["host", "list"]).code == 0;
        let all = asked && {
            let ready = shown(cell, "host", host, "state") == "ready";
            let running = shown(cell, "tenant", TENANTS[LATE], "phase") == "running";
            let quiet = shown(cell, "host", host, "message").is_empty();
            ready && running && quiet
        };
        (all && follows(cell, LATE)).then_some(())
    });
    println!("14: taken back within {:?}", since.elapsed());
    // And a moment more: whoever lets go does so then.
    thread::sleep(Duration::from_secs(3));
}

/// A page each tenth of a second: how many were answered, and what became of the others, and when.
fn visited(edge: SocketAddr, tenant: &str, is_over: &AtomicBool) -> (usize, Vec<(Duration, u16)>) {
    let begin = Instant::now();
    let (mut served, mut others) = (0, Vec::new());
    while !is_over.load(Ordering::Relaxed) {
        let at = begin.elapsed();
        match get(edge, &format!("{tenant}.isy.one"), "/web/health").status {
            200 => served += 1,
            status => others.push((at, status)),
        }
        thread::sleep(EACH);
    }
    (served, others)
}

/// Whether the agent's relay serves the tenant, and has nothing to complain of: the relay of before has let go of its addresses.
fn follows(cell: &Cell, index: usize) -> bool {
    let socket = cell.hosts[index].data.join("relay/admin.sock");
    let ask = |path: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--max-time", "2", "--unix-socket"])
            .arg(&socket)
            .arg(format!("http://localhost{path}"));
        run(&mut curl).stdout
    };
    let health: serde_json::Value = serde_json::from_str(&ask("/health")).unwrap_or_default();
    let is_well = health["faults"].as_array().is_some_and(Vec::is_empty);
    is_well && ask("/tenants").contains(TENANTS[index])
}

/// Everything was mended: no finding is bad, once hosts have looked at themselves again.
fn all_is_well(cell: &Cell) {
    wait_for("nothing bad to be found", MINUTE, || {
        doctors::bad(&doctors::of_fleet(cell))
            .is_empty()
            .then_some(())
    });
    for host in &cell.hosts {
        let found = doctors::of_host(host);
        assert!(doctors::bad(&found).is_empty(), "{found:#?}");
    }
}
