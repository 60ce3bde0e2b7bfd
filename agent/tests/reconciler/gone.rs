//! Data that is taken from a tenant that does not run: missed soon, told, and never replaced; its return is seen.
//!
//! Not here: records of volumes, and tenants that run (data).

use isyone_agent::testing::{fake_docker::FakeDocker, tenant_plan};
use isyone_proto::{plan::DesiredState, report::TenantProgress};

use super::life::{Life, assert_one_running_stack};

/// Fails where a suspended or deleted tenant's data is missed only when the tenant is to run again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_taken_from_a_tenant_at_rest_is_missed_and_its_return_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let mut plan = tenant_plan("alfa");
    let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    let keys = fake.database_keys("alfa");
    let (home, away) = (fake.homes().join("alfa/pgdata"), dir.path().join("away"));
    for desired in [DesiredState::Suspended, DesiredState::Quarantined] {
        plan.desired = desired;
        plan.generation += 1;
        life.plan(std::slice::from_ref(&plan));
        life.converged(&plan).await;
        std::fs::rename(&home, &away).unwrap();
        life.wait("the finding", |l| {
            l.status("alfa").is_some_and(|s| {
                s.progress == TenantProgress::Failing
                    && s.blocked
                    && s.message.contains("alfa/pgdata is not there")
            })
        })
        .await;
        std::fs::rename(&away, &home).unwrap();
        life.converged(&plan).await;
    }
    plan.desired = DesiredState::Running;
    plan.generation += 1;
    life.plan(std::slice::from_ref(&plan));
    life.converged(&plan).await;
    assert_one_running_stack(&fake, "alfa");
    assert_eq!(fake.database_keys("alfa"), keys);
    life.end().await;
}
