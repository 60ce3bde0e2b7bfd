//! A tenant that fills its disk, with files on a real disk: its uploads are refused, then its Odoo is stopped and whoever is
//! connected to its PostgreSQL cut off, then that is stopped as well, and nothing of its neighbour changes.
//!
//! Not here: real programs, and room that is made (`e2e::adversary::disk`).

use std::{fs::File, io::Write as _, path::Path, time::Duration};

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
    let mut fleet = Fleet::start("");
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
