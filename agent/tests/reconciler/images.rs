//! Which image a tenant runs when its tag means another by now: the one it began with, as long as that can be had.
//!
//! Not here: images that cannot be had at all (faults).

use std::{path::Path, sync::Arc};

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

/// A tag means another image from now on, for an agent that began after that: one that saw the image just before does not look again
/// for seconds, and would be right without any memory of its own.
async fn moved_meanwhile(
    life: Life,
    (fake, dir): (&Arc<FakeDocker>, &Path),
    (tag, id): (&str, &str),
    plan: &TenantPlan,
) -> Life {
    life.end().await;
    fake.move_tag(tag, id, None);
    let life = Life::begin(fake, dir, std::slice::from_ref(plan));
    life.converged(plan).await;
    life
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_moves_changes_no_tenant_and_an_update_does() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let mut plan = tenant_plan("alfa");
    let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    let image = || fake.image_of("odoo_alfa").unwrap();
    let (before, of) = (image(), plan.odoo_image.as_str());
    assert_eq!(
        fake.spec_of("odoo_alfa").unwrap().image,
        before,
        "by its id"
    );
    let mut life = moved_meanwhile(life, (&fake, dir.path()), (of, NEW), &plan).await;
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

/// Fails where Odoo's image alone is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresqls_tag_moves_no_tenant_either() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let mut plan = tenant_plan("alfa");
    let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    let before = fake.image_of("postgres_alfa").unwrap();
    let containers = || {
        fake.log()
            .iter()
            .filter(|l| *l == "create postgres_alfa")
            .count()
    };
    assert_eq!(containers(), 1);
    let moved = (plan.postgres_image.as_str(), "sha256:other");
    let mut life = moved_meanwhile(life, (&fake, dir.path()), moved, &plan).await;
    plan.size.bounds.nofile = 4_096; // takes new containers, of both
    resized(&mut life, &mut plan).await;
    assert_eq!(containers(), 2);
    assert_eq!(fake.image_of("postgres_alfa"), Some(before));
    assert_one_running_stack(&fake, "alfa");
    life.end().await;
}

/// Fails where what a registry gives is believed: it is asked by the digest, and what comes is another image.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_image_under_the_same_digest_is_not_taken_for_the_one_that_ran() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let mut plan = pulled();
    let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    fake.move_tag("odoo:18.0", NEW, Some("sha256:new-digest"));
    fake.remove_image(OLD, "nowhere@any.more");
    fake.publish("odoo@sha256:odoo:18.0-pulled");
    resized(&mut life, &mut plan).await;
    assert_eq!(fake.image_of("odoo_alfa").as_deref(), Some(NEW));
    assert_one_running_stack(&fake, "alfa");
    life.end().await;
}
