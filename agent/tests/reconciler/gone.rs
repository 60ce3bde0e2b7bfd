//! Data that is taken from a tenant that does not run: missed soon, told, and never replaced; its return is seen.
//!
//! Not here: records of volumes, and tenants that run (data).

use isyone_agent::testing::{fake_docker::FakeDocker, tenant_plan};
use isyone_proto::{
    plan::{DesiredState, Seed},
    report::TenantProgress,
};

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

/// What a new installation of the agent finds, with a token for the host's name. Fails where stacks are made anew, or of whatever
/// their images' names mean by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_has_lost_its_directory_takes_its_stacks_back_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let mut plan = tenant_plan("alfa");
    let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    life.end().await;
    let (keys, image) = (fake.database_keys("alfa"), fake.image_of("odoo_alfa"));
    std::fs::remove_dir_all(dir.path().join("agent")).unwrap();
    fake.move_tag("odoo:19.0", "sha256:another", None);
    let before = fake.log().len();
    plan.seed = Seed::Existing; // it has run, as the coordinator knows
    let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    let log = &fake.log()[before..];
    let touched = ["create", "start", "stop", "remove"];
    assert!(
        !log.iter()
            .any(|call| touched.iter().any(|t| call.starts_with(t))),
        "{log:?}"
    );
    // Made anew for another reason, it is of the image that it had.
    plan.admin_login = "chief".parse().unwrap();
    plan.secrets.master_password = isyone_proto::plan::Secret::new("another-master".to_owned());
    plan.generation += 1;
    life.plan(std::slice::from_ref(&plan));
    life.converged(&plan).await;
    assert_eq!(fake.image_of("odoo_alfa"), image);
    assert_one_running_stack(&fake, "alfa");
    assert_eq!(fake.database_keys("alfa"), keys);
    life.end().await;
}
