//! A tenant whose disk is full, over a fake engine: its Odoo is stopped, whoever is connected to its PostgreSQL is cut off, and
//! when it goes on filling that is stopped as well; all comes back with room or with a larger plan. And the limits beside it.
//!
//! Not here: measuring (host::disk's own tests).

use std::time::Duration;

use isyone_agent::{
    docker::Docker as _,
    host::disk::device::device_of,
    testing::{fake_docker::FakeDocker, tenant_plan},
};
use isyone_proto::{
    disk::{Disk, DiskMeans, DiskUse},
    plan::TenantPlan,
    report::TenantProgress,
};

use super::life::{Life, assert_one_running_stack};

const GIB: u64 = 1 << 30;

/// As the measuring loop does it.
pub(super) fn measured(life: &Life, plan: &TenantPlan, used_gib: u64) {
    measured_mib(life, plan, used_gib << 10);
}

fn measured_mib(life: &Life, plan: &TenantPlan, used_mib: u64) {
    let board = &life.host.board;
    let before = board.disk(&plan.name, plan.uid);
    let (used, limit) = (used_mib << 20, plan.size.disk_bytes);
    let disk = Disk::after(
        before.as_ref(),
        DiskUse::of_bytes(used),
        limit,
        DiskMeans::Counted,
    );
    board.set_disk(&plan.name, plan.uid, disk, None);
}

/// Odoo is stopped, PostgreSQL runs (again), and the neighbour's two do.
async fn is_stopped(life: &Life, fake: &FakeDocker) {
    let up = |name: &str| fake.running().iter().any(|n| n == name);
    life.wait("the stop of Odoo", |l| {
        let status = l.status("alfa").unwrap();
        let tells = status.message.contains("disk is full")
            && status.message.contains("and PostgreSQL runs");
        let unhealthy = status.progress == TenantProgress::Unhealthy;
        unhealthy && tells && !up("odoo_alfa") && up("postgres_alfa")
    })
    .await;
    assert!(up("odoo_beta") && up("postgres_beta"));
}

#[tokio::test]
async fn a_full_disk_stops_its_tenants_odoo_and_nothing_else_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 7);
    let (mut plan, beta) = (tenant_plan("alfa"), tenant_plan("beta"));
    let mut life = Life::begin(&fake, dir.path(), &[plan.clone(), beta.clone()]);
    for plan in [&plan, &beta] {
        life.converged(plan).await;
    }
    measured(&life, &plan, 4);
    assert_one_running_stack(&fake, "alfa");
    measured(&life, &plan, 5); // of 5 GiB
    is_stopped(&life, &fake).await;
    // Nobody starts it meanwhile, neither the timer nor a restart that an operator asks for.
    (plan.odoo_restarts, plan.generation) = (1, 2);
    life.plan(&[plan.clone(), beta.clone()]);
    life.wait("a look under the new plan", |l| {
        l.status("alfa").is_some_and(|s| s.generation == 2)
    })
    .await;
    is_stopped(&life, &fake).await;
    measured(&life, &plan, 1);
    life.converged(&plan).await;
    assert_one_running_stack(&fake, "alfa");
    // A larger plan frees it at once, before it is measured again.
    measured(&life, &plan, 5);
    is_stopped(&life, &fake).await;
    (plan.size.disk_bytes, plan.generation) = (20 * GIB, 3);
    life.plan(&[plan.clone(), beta.clone()]);
    life.converged(&plan).await;
    assert_one_running_stack(&fake, "alfa");
    life.end().await;
}

/// Fails where only Odoo is stopped: what it has begun goes on, and whoever comes later is not looked for.
#[tokio::test]
async fn who_is_connected_to_a_full_tenants_postgres_is_cut_off_for_as_long_as_it_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 8);
    let (plan, beta) = (tenant_plan("alfa"), tenant_plan("beta"));
    let life = Life::begin(&fake, dir.path(), &[plan.clone(), beta.clone()]);
    for plan in [&plan, &beta] {
        life.converged(plan).await;
        fake.connect(plan.name.as_str(), 3);
    }
    measured(&life, &plan, 4);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(fake.connected("alfa"), 3, "there is room");
    measured(&life, &plan, 5); // of 5 GiB
    is_stopped(&life, &fake).await;
    for again in 0..3 {
        life.wait("the end of its connections", |_| {
            fake.connected("alfa") == 0
        })
        .await;
        is_stopped(&life, &fake).await;
        fake.connect("alfa", again);
    }
    assert_eq!(fake.connected("beta"), 3, "a neighbour's are not touched");
    life.end().await;
}

#[tokio::test]
async fn a_full_disk_that_goes_on_filling_stops_postgres_too_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 9);
    let (mut plan, beta) = (tenant_plan("alfa"), tenant_plan("beta"));
    let mut life = Life::begin(&fake, dir.path(), &[plan.clone(), beta.clone()]);
    for plan in [&plan, &beta] {
        life.converged(plan).await;
    }
    let up = |name: &str| fake.running().iter().any(|n| n == name);
    let stopped = async |life: &Life| {
        life.wait("the stop of PostgreSQL", |l| {
            let said = l.status("alfa").unwrap().message;
            let tells = said.contains("PostgreSQL are stopped") && said.contains("resize alfa");
            tells && !up("postgres_alfa") && !up("odoo_alfa")
        })
        .await;
        assert!(up("odoo_beta") && up("postgres_beta"));
    };
    measured_mib(&life, &plan, 5 * 1024 * 109 / 100);
    is_stopped(&life, &fake).await;
    measured_mib(&life, &plan, 5 * 1024 * 111 / 100);
    stopped(&life).await;
    // Nobody starts it meanwhile.
    (plan.postgres_restarts, plan.generation) = (1, 2);
    life.plan(&[plan.clone(), beta.clone()]);
    life.wait("a look under the new plan", |l| {
        l.status("alfa").is_some_and(|s| s.generation == 2)
    })
    .await;
    stopped(&life).await;
    // With some room PostgreSQL is back, with more of it Odoo too.
    measured_mib(&life, &plan, 5 * 1024 * 104 / 100);
    is_stopped(&life, &fake).await;
    measured_mib(&life, &plan, 5 * 1024 * 120 / 100);
    stopped(&life).await;
    (plan.size.disk_bytes, plan.generation) = (20 * GIB, 3);
    life.plan(&[plan.clone(), beta.clone()]);
    life.converged(&plan).await;
    assert_one_running_stack(&fake, "alfa");
    life.end().await;
}

/// Fails where a limit that changes alone stays as it was, or takes a new container.
#[tokio::test]
async fn processes_and_cpu_change_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 7);
    let mut plan = tenant_plan("alfa");
    let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    let created = || {
        fake.log()
            .iter()
            .filter(|l| l.starts_with("create "))
            .count()
    };
    let before = created();
    let limits = async || fake.container("odoo_alfa").await.unwrap().unwrap().limits;
    for (pids, cpu_millis) in [(411, plan.size.cpu_millis), (411, 700)] {
        plan.size.bounds.pids = pids;
        plan.size.cpu_millis = cpu_millis;
        plan.generation += 1;
        life.plan(std::slice::from_ref(&plan));
        life.converged(&plan).await;
        let now = limits().await;
        let expected = (pids, u64::from(cpu_millis) * 1_000_000);
        assert_eq!((now.pids, now.nano_cpus), expected);
    }
    assert_eq!(created(), before);
    life.end().await;
}

/// Fails where a plan's limits on the device are neither on its containers nor missed aloud.
#[tokio::test]
async fn the_device_is_limited_or_operators_are_told_that_it_is_not() {
    // What is in memory is on no device; elsewhere one is found, or not.
    let places = [tempfile::tempdir_in("/dev/shm"), tempfile::tempdir()];
    for dir in places.into_iter().flatten() {
        let fake = FakeDocker::new(dir.path(), 7);
        let mut plan = tenant_plan("alfa");
        plan.size.bounds.device_write_bps = 5 << 20;
        let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
        life.converged(&plan).await;
        let device = device_of(dir.path());
        for container in ["odoo_alfa", "postgres_alfa"] {
            let limits = fake.spec_of(container).unwrap().device;
            let limits = limits.map(|limits| (limits.device, limits.write_bps));
            assert_eq!(limits, device.clone().map(|device| (device, 5 << 20)));
        }
        let troubles = life.host.board.troubles();
        assert_eq!(
            troubles.contains("device_*"),
            device.is_none(),
            "{troubles}"
        );
        life.end().await;
    }
}
