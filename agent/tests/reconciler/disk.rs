//! A tenant whose disk is full, over a fake engine: its Odoo is stopped, and comes back with room or with a larger plan.
//!
//! Not here: measuring (host::disk's own tests).

use isyone_agent::testing::{fake_docker::FakeDocker, tenant_plan};
use isyone_proto::{
    disk::{Disk, DiskMeans, DiskUse},
    plan::TenantPlan,
    report::TenantProgress,
};

use super::life::{Life, assert_one_running_stack};

const GIB: u64 = 1 << 30;

/// As the measuring loop does it.
fn measured(life: &Life, plan: &TenantPlan, used_gib: u64) {
    let board = &life.host.board;
    let before = board.disk(&plan.name, plan.uid);
    let (used, limit) = (used_gib * GIB, plan.size.disk_bytes);
    let disk = Disk::after(
        before.as_ref(),
        DiskUse::of_bytes(used),
        limit,
        DiskMeans::Counted,
    );
    board.set_disk(&plan.name, plan.uid, disk, None);
}

async fn is_stopped(life: &Life, fake: &FakeDocker) {
    life.wait("the stop of Odoo", |l| {
        let status = l.status("alfa").unwrap();
        status.progress == TenantProgress::Unhealthy && status.message.contains("disk is full")
    })
    .await;
    let running = fake.running();
    let up = |name: &str| running.iter().any(|n| n == name);
    assert!(!up("odoo_alfa") && up("postgres_alfa"), "{running:?}");
    assert!(up("odoo_beta") && up("postgres_beta"), "{running:?}");
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
