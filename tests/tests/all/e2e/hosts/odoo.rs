//! What is done to a host with real Odoo and PostgreSQL on it: a flush of the packet filter, a prune, an image that is gone while its
//! name means another, a full disk. Lines 1, 2, 5 and 10 of issue 16's table; each prints its times. In the long form: with stand-ins
//! they are in every run.
//!
//! All of Docker's data is on a disk of its own. Not here: the same with stand-ins, and all other lines (the parent, set_up), what a prune
//! does to a deleted tenant (e2e::data).

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use isyone_tests::e2e::{
    beside,
    cell::{Cell, Shape},
    disks,
    docker::Docker,
    doctors, enabled,
    http::get,
    process::run,
    wait_for,
};

use super::{MINUTE, shown, told, wait_told};

const SHAPE: Shape = Shape {
    config: "---[plans.small]\nmemory=\"1GiB\"\ncpu=1.0\ndisk=\"1GiB\"\nworkers=0\n",
    ..Shape::DEFAULT
};
const ODOO: &str = SHAPE.edition.0;
const POSTGRES: &str = SHAPE.edition.1;
/// Two tenants, what hosts keep free, and a clean database.
const DISK: &str = "8GiB";
/// As a tenant's database has it.
const WORD: &str = "kept";

#[test]
fn with_real_odoo_a_flush_a_prune_a_lost_image_and_a_full_disk_are_told_and_mended() {
    const NAME: &str =
        "with_real_odoo_a_flush_a_prune_a_lost_image_and_a_full_disk_are_told_and_mended";
    if !enabled(NAME) {
        return;
    }
    if std::env::var_os("ISYONE_LONG").is_none() {
        return println!("{NAME}: only in the long form");
    }
    let _beside = beside();
    let mut cell = Cell::start(&SHAPE);
    let disk = on_a_disk(&mut cell);
    cell.isyctl(&["tenant", "create", "beta", "--no-wait"]).ok();
    for tenant in ["alfa", "beta"] {
        cell.isyctl(&["tenant", "create", tenant]).ok();
        answers(&cell, tenant, 3 * MINUTE);
    }
    psql(&cell, "create table mark as select 'kept' as word");
    flushed(&cell);
    pruned(&cell);
    image_is_lost(&mut cell);
    filled(&cell, &disk);
    assert_eq!(psql(&cell, "select word from mark"), WORD);
    wait_for("nothing bad to be found", MINUTE, || {
        doctors::bad(&doctors::of_fleet(&cell))
            .is_empty()
            .then_some(())
    });
}

/// A disk that can be filled; where tenants' data is.
fn on_a_disk(cell: &mut Cell) -> PathBuf {
    disks::below_docker(cell, 0, DISK, SHAPE.edition);
    cell.hosts[0].docker_data()
}

fn status(cell: &Cell, tenant: &str) -> u16 {
    get(cell.edge(), &format!("{tenant}.isy.one"), "/web/login").status
}

fn answers(cell: &Cell, tenant: &str, limit: Duration) {
    wait_for(&format!("{tenant} to answer"), limit, || {
        (status(cell, tenant) == 200).then_some(())
    });
}

/// What alfa's database says.
fn psql(cell: &Cell, sql: &str) -> String {
    let psql = cell.isyctl(&["tenant", "psql", "alfa", "--", "-Atc", sql]);
    psql.ok().trim().to_owned()
}

fn image_of(cell: &Cell, name: &str) -> String {
    cell.hosts[0].docker.inspect(name, "{{.Id}}")
}

/// Whether somebody in beta's Odoo reaches alfa's PostgreSQL.
fn reaches_the_neighbour(cell: &Cell, address: &str) -> bool {
    let mut knock = cell.hosts[0].command_inside("odoo_beta", "timeout");
    let script = format!("exec 3<>/dev/tcp/{address}/5432");
    run(knock.args(["0.3", "bash", "-c", &script])).code == 0
}

/// Line 5: `nft flush ruleset`, and then Docker restarted, as the host asks for it.
fn flushed(cell: &Cell) {
    let host = &cell.hosts[0];
    let of_network = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let address = host.docker.inspect("postgres_alfa", of_network);
    assert!(!reaches_the_neighbour(cell, &address));
    let nft = |args: &[&str]| run(host.command("nft").args(args));
    let dockers = nft(&["list", "table", "ip", "nat"]).code;
    assert_eq!(dockers, 0, "Docker's rules are not nft's here: not shown");
    nft(&["flush", "ruleset"]).ok();
    let since = Instant::now();
    while nft(&["list", "chain", "inet", "isyone", "prerouting"]).code != 0 {
        assert!(since.elapsed() < Duration::from_secs(1), "not back yet");
    }
    println!("5: our table is back after {:?}", since.elapsed());
    assert!(!reaches_the_neighbour(cell, &address));
    assert_eq!((status(cell, "alfa"), status(cell, "beta")), (200, 200));
    wait_told(cell, "host.mended", "packet filter: removed or changed");
    cell.wait_host(&host.name, "degraded");
    println!("5: Docker's rules missed after {:?}", since.elapsed());
    let found = doctors::of_fleet(cell);
    doctors::assert_first(&found, "host h1", "degraded");
    cell.on_hosts(&["stop", &host.name]).ok();
    cell.on_hosts(&["start", &host.name]).ok();
    let since = Instant::now();
    cell.wait_host(&host.name, "ready");
    for tenant in ["alfa", "beta"] {
        cell.wait_phase(tenant, "running", 2 * MINUTE);
        answers(cell, tenant, MINUTE);
    }
    println!("5: all answer {:?} after Docker's restart", since.elapsed());
}

/// Line 1: `docker system prune --volumes`, while beta is suspended: its containers, network and records of volumes are gone.
fn pruned(cell: &Cell) {
    let docker = &cell.hosts[0].docker;
    cell.isyctl(&["tenant", "suspend", "beta"]).ok();
    let before = docker.started_at("odoo_alfa");
    let volumes = ["pgdata_beta", "odoo_data_beta"];
    docker
        .run(&["system", "prune", "--force", "--volumes"])
        .ok();
    // Newer engines spare named ones.
    docker.run(&[&["volume", "rm", "--force"][..], &volumes].concat());
    let since = Instant::now();
    wait_for("the records to be put back", MINUTE, || {
        let back = |name: &&str| !docker.inspect(name, "{{.Name}}").is_empty();
        let told = !told(cell, "tenant.volumes_put_back").is_empty();
        (told && volumes.iter().all(back)).then_some(())
    });
    println!("1: put back and told after {:?}", since.elapsed());
    assert_eq!(docker.started_at("odoo_alfa"), before);
}

/// A name that means another image, which the next test here would take for Odoo: it is loaded again when it is not there.
struct Misnamed(Docker);

impl Drop for Misnamed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.run(&["rmi", ODOO]);
        }
    }
}

/// Line 2: the name of Odoo's image means another, and the one that tenants have is gone.
fn image_is_lost(cell: &mut Cell) {
    let (own, other) = (image_of(cell, ODOO), image_of(cell, POSTGRES));
    cell.hosts[0].agent = None;
    let docker = cell.hosts[0].docker.clone();
    docker.run(&["rm", "--force", "odoo_alfa", "odoo_beta"]);
    let _misnamed = Misnamed(docker.clone());
    docker.run(&["tag", POSTGRES, ODOO]).ok();
    docker.run(&["rmi", &own]).ok();
    let since = Instant::now();
    cell.start_agent(0, &[]);
    cell.wait_host("h1", "ready");
    // Docker gives up on a registry that it does not even find after 20 seconds, twice.
    cell.wait_phase("alfa", "failing", 2 * MINUTE);
    println!("2: failing after {:?}", since.elapsed());
    let why = shown(cell, "tenant", "alfa", "message");
    let short = |id: &str| id.trim_start_matches("sha256:")[..12].to_owned();
    let names_both = why.contains(&short(&own)) && why.contains(&short(&other));
    assert!(names_both && why.contains("isyctl tenant upgrade"), "{why}");
    doctors::assert_first(&doctors::of_fleet(cell), "tenant alfa", &short(&own));
    let resumed = cell.isyctl(&["tenant", "resume", "beta"]);
    let said = &resumed.stderr;
    assert!(resumed.code != 0 && said.contains(&short(&own)), "{said}");
    for container in ["odoo_alfa", "odoo_beta"] {
        assert_eq!(image_of(cell, container), "", "nothing else was started");
    }
    cell.on_hosts(&["load", "h1", ODOO]).ok();
    let since = Instant::now();
    cell.wait_phase("alfa", "running", 2 * MINUTE);
    answers(cell, "alfa", MINUTE);
    println!("2: healed {:?} after the image was back", since.elapsed());
    cell.isyctl(&["tenant", "resume", "beta"]).ok();
    answers(cell, "beta", 2 * MINUTE);
    assert_eq!(docker.inspect("odoo_beta", "{{.Image}}"), own);
}

/// Line 10: nothing can be written any more.
fn filled(cell: &Cell, disk: &Path) {
    let host = &cell.hosts[0];
    disks::fill(disk);
    let since = Instant::now();
    cell.wait_host(&host.name, "degraded");
    println!("10: degraded within {:?}", since.elapsed());
    for tenant in ["alfa", "beta"] {
        wait_for("its message to say so", MINUTE, || {
            let why = shown(cell, "tenant", tenant, "message");
            why.contains("disk of tenants' data is full").then_some(())
        });
    }
    println!("10: its tenants say so within {:?}", since.elapsed());
    doctors::assert_first(&doctors::of_fleet(cell), "host h1", "is full");
    // What the reserve has left is gone soon, too.
    disks::fill_again(disk);
    let sql = "create table filler as select repeat('x', 500) from generate_series(1, 200000)";
    let refused = cell.isyctl(&["tenant", "psql", "alfa", "--", "-Atc", sql]);
    assert_ne!(refused.code, 0, "there was room: {}", refused.stdout);
    let before = host.docker.started_at("odoo_beta");
    let refused = cell.isyctl(&["tenant", "restart", "beta"]);
    let said = &refused.stderr;
    assert!(refused.code != 0 && said.contains("is full"), "{said}");
    assert_eq!(host.docker.started_at("odoo_beta"), before, "it goes on");
    disks::make_room(disk);
    let since = Instant::now();
    cell.wait_host(&host.name, "ready");
    for tenant in ["alfa", "beta"] {
        cell.wait_phase(tenant, "running", 2 * MINUTE);
        answers(cell, tenant, MINUTE);
    }
    println!("10: all answer {:?} after there is room", since.elapsed());
    let count = psql(cell, &format!("{sql}; select count(*) from filler"));
    assert!(count.ends_with("200000"), "{count}");
    cell.isyctl(&["tenant", "restart", "beta"]).ok();
}
