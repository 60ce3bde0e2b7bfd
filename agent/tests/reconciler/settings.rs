//! A database that was brought from elsewhere, over a fake engine: it is said, and where somebody asks for that, it gets the tenant's
//! own settings once.
//!
//! Not here: what is written (plan::anew's own tests).

use isyone_agent::{
    plan::installs::{Pending, address_digest},
    testing::{fake_docker::FakeDocker, tenant_plan},
};
use isyone_proto::report::TenantProgress;
use uuid::Uuid;

use super::life::{Life, assert_one_running_stack};

#[tokio::test]
async fn another_address_is_said_and_settings_are_written_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 7);
    let mut plan = tenant_plan("alfa");
    let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    let keys = fake.database_keys("alfa").unwrap();
    let told = |address: &str| Pending {
        address: Some(address_digest(address)),
        ..Pending::default()
    };
    for _ in 0..2 {
        let other = told("https://old.example.com");
        life.host.board.set_pending(&plan.name, Some(other));
    }
    life.wait("a message", |l| {
        let status = l.status("alfa").unwrap();
        status.message.contains("tenant settings apply alfa")
            && status.progress == TenantProgress::Converged
    })
    .await;
    assert_eq!(
        fake.database_keys("alfa").unwrap(),
        keys,
        "nobody has asked"
    );

    plan.generation += 1;
    plan.settings_asked += 1;
    plan.odoo_restarts += 1;
    plan.operation = Some(Uuid::from_u128(9));
    life.plan(std::slice::from_ref(&plan));
    life.converged(&plan).await;
    let anew = fake.database_keys("alfa").unwrap();
    assert_ne!(anew, keys);
    life.wait("no message", |l| {
        l.status("alfa").unwrap().message.is_empty()
    })
    .await;
    assert_one_running_stack(&fake, "alfa");
    // An address that changes later is no request.
    plan.generation += 1;
    plan.base_url = "http://other.isy.one".to_owned();
    life.plan(std::slice::from_ref(&plan));
    life.converged(&plan).await;
    assert_eq!(fake.database_keys("alfa").unwrap(), anew);
    life.end().await;
}
