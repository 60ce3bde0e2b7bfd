//! The installation of an app that was cut off, over a fake engine: it is finished beside the running Odoo, and where that does not
//! help it is tried a stated number of times.
//!
//! Not here: recognising one (plan::installs' own tests).

use isyone_agent::{
    plan::installs::Pending,
    testing::{fake_docker::FakeDocker, tenant_plan},
};
use isyone_proto::{
    disk::{Disk, DiskMeans, DiskUse},
    report::TenantProgress,
};

use super::life::{Life, assert_one_running_stack};

const OLD: Pending = Pending {
    modules: 3,
    seconds: 5_000,
    address: None,
    address_before: None,
};

#[tokio::test]
async fn an_installation_that_was_cut_off_is_finished_while_odoo_runs() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 7);
    let plan = tenant_plan("alfa");
    let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    let before = fake.log().len();
    fake.leave_modules("alfa", 3, 0);
    let fresh = Pending { seconds: 60, ..OLD };
    life.host.board.set_pending(&plan.name, Some(fresh));
    tokio::time::sleep(life.host.pace.probe * 4).await;
    assert_eq!(life.status("alfa").unwrap().modules_cut_off, 0);
    life.host.board.set_pending(&plan.name, Some(OLD));
    life.wait("the end of the installation", |l| {
        let status = l.status("alfa").unwrap();
        status.installs_finished == 1 && status.modules_cut_off == 0
    })
    .await;
    life.converged(&plan).await;
    assert_one_running_stack(&fake, "alfa");
    assert_eq!(life.status("alfa").unwrap().message, "");
    let log = fake.log();
    let stopped =
        |line: &String| line.starts_with("stop odoo") || line.starts_with("remove odoo_alfa_x");
    assert!(!log[before..].iter().any(stopped), "{log:?}");
    life.end().await;
}

#[tokio::test]
async fn one_that_cannot_be_finished_is_said_and_odoo_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 7);
    let plan = tenant_plan("alfa");
    let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    fake.leave_modules("alfa", 3, u32::MAX);
    life.host.board.set_pending(&plan.name, Some(OLD));
    life.wait("a message", |l| {
        let status = l.status("alfa").unwrap();
        status.message.contains("try 1 of 3") && status.progress == TenantProgress::Converged
    })
    .await;
    assert_one_running_stack(&fake, "alfa");
    let status = life.status("alfa").unwrap();
    assert_eq!((status.modules_cut_off, status.installs_finished), (3, 0));
    // The next try follows minutes later.
    tokio::time::sleep(life.host.pace.probe * 4).await;
    let tries = fake
        .log()
        .iter()
        .filter(|l| l.starts_with("create odoo_alfa_init"))
        .count();
    assert!(tries <= 2, "the first made its database: {tries}");
    life.end().await;
}

/// It may take an hour. Fails if a restart that somebody asks for, or a full disk, waits for it.
#[tokio::test]
async fn what_is_urgent_does_not_wait_for_an_installation() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 7);
    let mut plan = tenant_plan("alfa");
    let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    fake.leave_modules("alfa", 3, 0);
    fake.load_slowly("alfa", true);
    let is_tried = || fake.running().iter().any(|name| name == "odoo_alfa_init");
    life.host.board.set_pending(&plan.name, Some(OLD));
    life.wait("a try", |_| is_tried()).await;
    (plan.odoo_restarts, plan.generation) = (1, 2);
    life.plan(std::slice::from_ref(&plan));
    let restarts = || fake.log().iter().any(|line| line == "stop odoo_alfa");
    life.wait("the restart", |_| restarts()).await;
    life.wait("another try", |_| is_tried()).await;
    let limit = plan.size.disk_bytes;
    let full = Disk::after(
        None,
        DiskUse::of_bytes(limit + 1),
        limit,
        DiskMeans::Counted,
    );
    life.host.board.set_disk(&plan.name, plan.uid, full, None);
    life.wait("the stop of Odoo", |_| fake.running() == ["postgres_alfa"])
        .await;
    fake.load_slowly("alfa", false);
    let room = Disk::after(
        Some(&full),
        DiskUse::of_bytes(limit / 4),
        limit,
        DiskMeans::Counted,
    );
    life.host.board.set_disk(&plan.name, plan.uid, room, None);
    life.converged(&plan).await;
    assert_one_running_stack(&fake, "alfa");
    life.end().await;
}
