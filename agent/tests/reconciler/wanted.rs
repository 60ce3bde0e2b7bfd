//! What was asked for at a create, over a fake engine: modules come after the company, and what the image does not have fails the
//! create for good, keeps no snapshot, and leaves the name to another try.
//!
//! Not here: which modules were meant (plan::fresh), real modules (the workspace's tests).

use std::sync::Arc;

use isyone_agent::testing::{fake_docker::FakeDocker, tenant_plan};
use isyone_proto::plan::{DesiredState, TenantPlan};
use uuid::Uuid;

use super::life::{Life, assert_one_running_stack};

fn asking_for(name: &str, modules: &[&str]) -> TenantPlan {
    let mut plan = tenant_plan(name);
    plan.modules = modules
        .iter()
        .map(|module| module.parse().unwrap())
        .collect();
    plan
}

fn times_created(fake: &FakeDocker, container: &str) -> usize {
    let line = format!("create {container}");
    fake.log().iter().filter(|said| **said == line).count()
}

fn snapshots(dir: &std::path::Path) -> usize {
    std::fs::read_dir(dir.join("agent/golden")).map_or(0, |entries| entries.count())
}

/// Waits until the tenant is given up, and returns what is said of it.
async fn refused(life: &Life, fake: &Arc<FakeDocker>, name: &str) -> String {
    let given_up = |l: &Life| l.status(name).is_some_and(|s| s.unfit && s.blocked);
    life.wait("a refusal", given_up).await;
    let tries = times_created(fake, &format!("odoo_{name}_init"));
    tokio::time::sleep(life.host.pace.retry_cap * 3).await;
    assert_eq!(
        times_created(fake, &format!("odoo_{name}_init")),
        tries,
        "it is not tried again"
    );
    let status = life.status(name).unwrap();
    let step = status
        .steps
        .iter()
        .find(|step| step.name == "database")
        .unwrap();
    let said = status
        .message
        .split(". Create the tenant again")
        .next()
        .unwrap();
    assert!(step.detail.starts_with(said), "{} | {said}", step.detail);
    status.message
}

#[tokio::test]
async fn what_the_image_does_not_have_fails_the_create_and_leaves_the_name_free() {
    for (modules, said) in [
        (
            &["crm", "nonsuch", "sales"][..],
            "there is no module `nonsuch`; there is no module `sales` (did you mean `sale_management`",
        ),
        (&["old"], "module `old` cannot be installed"),
        (&["needy"], "External dependency 'zeep' not installed"),
        (
            &["lazy"],
            "module `lazy` was not installed, it is `to install`",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeDocker::new(dir.path(), 3);
        let mut plan = asking_for("alfa", modules);
        let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
        let message = refused(&life, &fake, "alfa").await;
        assert!(message.contains(said), "{message}");
        assert_eq!(snapshots(dir.path()), 0, "nobody gets a copy of it");
        // What a coordinator does then.
        (plan.desired, plan.purge_now, plan.generation) = (DesiredState::Purged, true, 2);
        life.plan(std::slice::from_ref(&plan));
        life.wait("its end", |l| l.status("alfa").is_some_and(|s| s.absent))
            .await;
        let mut again = asking_for("alfa", &["crm", "sale_management"]);
        again.uid = Uuid::from_u128(77);
        again.operation = Some(Uuid::from_u128(78));
        life.plan(std::slice::from_ref(&again));
        life.converged(&again).await;
        assert_one_running_stack(&fake, "alfa");
        assert_eq!(snapshots(dir.path()), 1);
        life.end().await;
    }
}

/// An agent that is started again knows it still.
#[tokio::test]
async fn a_refusal_outlives_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 3);
    let plan = asking_for("alfa", &["nonsuch"]);
    let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    refused(&life, &fake, "alfa").await;
    life.end().await;
    let before = times_created(&fake, "odoo_alfa_init");
    let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    refused(&life, &fake, "alfa").await;
    assert_eq!(times_created(&fake, "odoo_alfa_init"), before);
    life.end().await;
}

#[tokio::test]
async fn modules_come_after_the_company_and_a_snapshot_is_of_one_country() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 3);
    let [alfa, beta] = ["alfa", "beta"].map(|name| asking_for(name, &["account"]));
    let mut gama = asking_for("gama", &["account"]);
    gama.country = "PT".parse().unwrap();
    let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&alfa));
    life.converged(&alfa).await;
    assert_eq!(
        times_created(&fake, "odoo_alfa_init"),
        2,
        "base, then account"
    );
    let all = [alfa, beta, gama];
    life.plan(&all);
    for plan in &all {
        life.converged(plan).await;
        assert_one_running_stack(&fake, plan.name.as_str());
    }
    assert_eq!(
        times_created(&fake, "odoo_beta_init"),
        0,
        "it came from the snapshot"
    );
    assert_eq!(times_created(&fake, "odoo_gama_init"), 2, "another country");
    assert_eq!(fake.violations(), [""; 0]);
    life.end().await;
}
