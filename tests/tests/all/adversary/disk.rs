//! A tenant that fills its disk, with files on a real disk: its uploads are refused, then its Odoo is stopped and whoever is
//! connected to its PostgreSQL cut off, then that is stopped as well, and nothing of its neighbour changes. And the ways past a
//! limit on bytes in two volumes: nesting, files without bytes, other volumes.
//!
//! Not here: real programs, and room that is made (`e2e::adversary::disk`).

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use isyone_proto::pb::v1;
use isyone_tests::fleet::{
    Fleet,
    operator::{Order, Request},
    wait_for,
};

/// Measured 15 s after it was written, as a rule; a minute after where something else has made room on the disk meanwhile. This
/// machine may be busy.
const SOON: Duration = Duration::from_secs(100);
/// Of the plan `small`, MiB.
const LIMIT: usize = 16;

/// Memory, where there is any: the agent looks when its disk has lost room, and whatever else this machine writes or removes on the
/// disk of temporary files would make it look sooner or later than it does.
const QUIET: &str = "/dev/shm";

/// One at a time, because what another of these tests removes gives room back.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write(home: &Path, name: &str, mib: usize) {
    let mut file = File::create(home.join(name)).expect("a volume");
    for _ in 0..mib {
        file.write_all(&[7; 1 << 20]).expect("room on this machine");
    }
    file.sync_all().expect("it is written");
}

fn shown(fleet: &Fleet, tenant: &str) -> v1::Tenant {
    let all = fleet.client.block_on(fleet.admin.list()).expect("a list");
    let mut all = all.into_iter();
    all.find(|t| t.name == tenant).expect("the tenant")
}

fn becomes(fleet: &Fleet, tenant: &str, state: v1::DiskState) {
    wait_for(&format!("{tenant}'s disk to be {state:?}"), SOON, || {
        shown(fleet, tenant)
            .disk
            .is_some_and(|d| d.state() == state)
    });
}

fn runs(fleet: &Fleet, container: &str) -> bool {
    let running = fleet.agents[0].docker.running();
    running.iter().any(|name| name == container)
}

/// Whoever is connected to its PostgreSQL, and whoever comes later; a neighbour's are left.
fn others_are_cut_off(fleet: &Fleet) {
    assert!(runs(fleet, "postgres_alfa"));
    let connected = |fleet: &Fleet, tenant| fleet.agents[0].docker.connected(tenant);
    for _ in 0..2 {
        wait_for("its connections to be ended", SOON, || {
            connected(fleet, "alfa") == 0
        });
        fleet.agents[0].docker.connect("alfa", 1); // somebody comes again
    }
    assert_eq!(connected(fleet, "beta"), 2);
}

fn postgres_is_stopped(fleet: &Fleet) {
    wait_for("PostgreSQL to be stopped", SOON, || {
        !runs(fleet, "postgres_alfa")
    });
    wait_for("operators to be told of that", SOON, || {
        let tenant = shown(fleet, "alfa");
        let disk = tenant.disk.unwrap_or_default();
        disk.state() == v1::DiskState::Stopped
            && disk.postgres_stopped
            && tenant.message.contains("Odoo and PostgreSQL are stopped")
    });
    let state = fleet.coordinator.snapshot();
    let events = state.fleet.events.iter();
    let kinds: Vec<&str> = events.map(|e| e.kind.as_str()).collect();
    assert!(kinds.contains(&"tenant.database_stopped"), "{kinds:?}");
}

#[test]
fn who_fills_his_disk_has_no_uploads_and_then_no_odoo_and_a_larger_plan_brings_both_back() {
    let _alone = alone();
    let mut fleet = Fleet::start_below(Path::new(QUIET), "");
    fleet.add_agent(1);
    fleet.all_report();
    for tenant in ["alfa", "beta"] {
        fleet.create(tenant);
        becomes(&fleet, tenant, v1::DiskState::Free);
    }
    let home = fleet.agents[0].docker.homes().join("alfa/odoo");
    let refuses = |fleet: &Fleet, tenant: &str| {
        let document = fleet.http("/traefik/config");
        document.contains(&format!("\"odoo-{tenant}_full\""))
    };
    assert!(!refuses(&fleet, "alfa"));
    write(&home, "first", LIMIT - 1); // 94 %, and what was there before
    write(&home, "second", 0);
    File::options()
        .append(true)
        .open(home.join("second"))
        .and_then(|mut file| file.write_all(&[7; 400 << 10]))
        .expect("room on this machine");
    becomes(&fleet, "alfa", v1::DiskState::UploadsRefused);
    wait_for("the edge to be told", SOON, || refuses(&fleet, "alfa"));
    assert!(runs(&fleet, "odoo_alfa"));
    for tenant in ["alfa", "beta"] {
        // What was begun there goes on, whatever becomes of Odoo.
        fleet.agents[0].docker.connect(tenant, 2);
    }
    write(&home, "third", 1);
    becomes(&fleet, "alfa", v1::DiskState::Stopped);
    wait_for("Odoo to be stopped", SOON, || !runs(&fleet, "odoo_alfa"));
    wait_for("operators to be told why", SOON, || {
        let tenant = shown(&fleet, "alfa");
        tenant.phase() == v1::TenantPhase::Failing && tenant.message.contains("disk is full")
    });
    others_are_cut_off(&fleet);
    write(&home, "fourth", 2); // it fills on all the same
    postgres_is_stopped(&fleet);
    assert!(runs(&fleet, "odoo_beta") && !refuses(&fleet, "beta"));
    assert_eq!(shown(&fleet, "beta").phase(), v1::TenantPhase::Running);
    let larger = Request {
        tenant: "alfa",
        order: Order::Resize("large"),
        id: String::new(),
    };
    fleet
        .client
        .block_on(fleet.admin.send(&larger))
        .expect("a larger plan");
    wait_for("both to be back", SOON, || {
        runs(&fleet, "odoo_alfa") && runs(&fleet, "postgres_alfa")
    });
    wait_for("uploads to be taken", SOON, || !refuses(&fleet, "alfa"));
    fleet.runs("alfa");
}

/// A fleet whose tenant `alfa` runs and has room; and its filestore. Its Odoo's image asks for one volume more.
fn one_tenant() -> (Fleet, PathBuf) {
    let mut fleet = Fleet::start_below(Path::new(QUIET), "");
    fleet.add_agent(1);
    fleet.all_report();
    let unnamed = fleet.dir.path().join("unnamed");
    std::fs::create_dir(&unnamed).expect("a directory");
    fleet.agents[0].docker.set_unnamed("odoo_alfa", &unnamed);
    fleet.create("alfa");
    becomes(&fleet, "alfa", v1::DiskState::Free);
    let home = fleet.agents[0].docker.homes().join("alfa/odoo");
    (fleet, home)
}

/// Something else is written so that the agent looks soon: beyond 80 % of the plan, and short of 95 %.
fn stirs(home: &Path, file: &str) {
    write(home, file, LIMIT * 7 / 8);
}

fn says(fleet: &Fleet, words: &str) {
    wait_for(&format!("operators to be told: {words}"), SOON, || {
        let tenant = shown(fleet, "alfa");
        tenant.phase() == v1::TenantPhase::Failing && tenant.message.contains(words)
    });
}

fn resize(fleet: &Fleet, plan: &'static str) {
    let order = Request {
        tenant: "alfa",
        order: Order::Resize(plan),
        id: String::new(),
    };
    let sent = fleet.client.block_on(fleet.admin.send(&order));
    sent.expect("another plan");
}

/// Fails when what a walk leaves out is taken for nothing: whatever lies below 512 directories would be free.
#[test]
fn nesting_is_no_way_past_the_limit_and_a_larger_plan_is_none_past_nesting() {
    let _alone = alone();
    let (fleet, home) = one_tenant();
    std::fs::create_dir_all(home.join(vec!["secret"; 512].join("/"))).expect("a short path");
    stirs(&home, "stir");
    becomes(&fleet, "alfa", v1::DiskState::Stopped);
    says(
        &fleet,
        "nested 512 deep and more in its volume odoo_data_alfa",
    );
    let tenant = shown(&fleet, "alfa");
    assert!(!tenant.message.contains("secret"), "{}", tenant.message);
    let disk = tenant.disk.expect("a disk");
    assert_eq!(disk.too_deep(), v1::DiskPlace::Odoo);
    assert!(disk.used_bytes < disk.limit_bytes, "{disk:?}");
    resize(&fleet, "large");
    wait_for("the larger plan", SOON, || {
        let disk = shown(&fleet, "alfa").disk;
        disk.is_some_and(|d| d.limit_bytes == 64 << 20)
    });
    becomes(&fleet, "alfa", v1::DiskState::Stopped);
    std::fs::remove_dir_all(home.join("secret")).expect("it was there");
    wait_for("Odoo to be back", SOON * 3, || {
        let disk = shown(&fleet, "alfa").disk;
        disk.is_some_and(|d| d.state() == v1::DiskState::Free)
    });
    fleet.runs("alfa");
}

/// Fails when bytes alone are counted: empty files take the inodes of everybody on the disk.
#[test]
fn files_without_bytes_are_limited_too() {
    let _alone = alone();
    let (fleet, home) = one_tenant();
    for number in 0..10_000 {
        File::create(home.join(number.to_string())).expect("an inode");
    }
    stirs(&home, "stir");
    becomes(&fleet, "alfa", v1::DiskState::Stopped);
    says(&fleet, "files and directories of 10000");
    let disk = shown(&fleet, "alfa").disk.expect("a disk");
    assert_eq!(disk.limit_inodes, 10_000);
    assert!(disk.used_inodes >= 10_000 && disk.used_bytes < disk.limit_bytes);
}

/// Fails when only the two volumes count: an image may ask for more of them.
#[test]
fn a_volume_that_an_image_asks_for_counts_too() {
    let _alone = alone();
    let (fleet, _) = one_tenant();
    write(&fleet.dir.path().join("unnamed"), "hidden", LIMIT);
    becomes(&fleet, "alfa", v1::DiskState::Stopped);
}
