//! Which image a tenant runs when its tag means another by now: the one it began with, as long as that can be had.
//!
//! Not here: images that cannot be had at all (faults).

use isyone_agent::testing::{fake_docker::FakeDocker, tenant_plan};
use isyone_proto::plan::TenantPlan;

use super::life::{Life, assert_one_running_stack};

const OLD: &str = "sha256:odoo:18.0";
const NEW: &str = "sha256:new";

/// Of a registry's image.
fn pulled() -> TenantPlan {
    let mut plan = tenant_plan("alfa");
    plan.odoo_image = "odoo:18.0".parse().unwrap();
    plan
}

/// Another number of workers, which takes a new container.
async fn resized(life: &mut Life, plan: &mut TenantPlan) {
    plan.size.workers += 1;
    plan.generation += 1;
    life.plan(std::slice::from_ref(plan));
    life.converged(plan).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_moves_changes_no_tenant_and_an_update_does() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let mut plan = tenant_plan("alfa");
    let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    let image = || fake.image_of("odoo_alfa").unwrap();
    let (before, of) = (image(), plan.odoo_image.as_str());
    assert_eq!(
        fake.spec_of("odoo_alfa").unwrap().image,
        before,
        "by its id"
    );
    fake.move_tag(of, NEW, None);
    resized(&mut life, &mut plan).await;
    assert_eq!(image(), before);
    let shown = life.status("alfa").unwrap();
    assert_eq!(shown.containers[0].image_digest, before);
    plan.odoo_image = "odoo:18.0".parse().unwrap();
    resized(&mut life, &mut plan).await;
    assert_eq!(image(), OLD);
    assert_one_running_stack(&fake, "alfa");
    life.end().await;
}

/// Fails where the tag alone decides what is pulled in the place of an image that somebody has removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_was_removed_is_fetched_by_its_digest() {
    for (by, expected) in [
        ("odoo@sha256:odoo:18.0-pulled", OLD),
        ("nowhere@any.more", NEW), // what the tag means is better than nothing
    ] {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeDocker::new(dir.path(), 1);
        let mut plan = pulled();
        let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
        life.converged(&plan).await;
        fake.move_tag("odoo:18.0", NEW, Some("sha256:new-digest"));
        fake.remove_image(OLD, by);
        resized(&mut life, &mut plan).await;
        assert_eq!(fake.image_of("odoo_alfa").as_deref(), Some(expected));
        assert_one_running_stack(&fake, "alfa");
        life.end().await;
    }
}
