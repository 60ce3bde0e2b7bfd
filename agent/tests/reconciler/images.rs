//! Which image a tenant runs when its tag means another by now: the one it began with, as long as that can be had, until it is asked for
//! anew. Then it runs on until the other one is here and fits.
//!
//! Not here: images that a new tenant cannot have (faults).

use std::{path::Path, sync::Arc, time::Duration};

use isyone_agent::{
    host::Pace,
    plan::state::{StepRecord, StepState},
    testing::{
        fake_docker::{FakeDocker, Faults},
        tenant_plan,
    },
};
use isyone_proto::{
    plan::{DesiredState, ImagesAsked, TenantPlan},
    report::TenantProgress,
};
use uuid::Uuid;

use super::life::{Life, assert_one_running_stack};

const OLD: &str = "sha256:odoo:18.0";
const NEW: &str = "sha256:new";

/// Of a registry's image.
fn pulled() -> TenantPlan {
    let mut plan = tenant_plan("alfa");
    plan.odoo_image = "odoo:18.0".parse().unwrap();
    plan
}

/// Alfa of the registry's image, as it is to be.
async fn alfa(fake: &Arc<FakeDocker>, dir: &Path) -> (Life, TenantPlan) {
    let plan = pulled();
    let life = Life::begin(fake, dir, std::slice::from_ref(&plan));
    life.converged(&plan).await;
    (life, plan)
}

/// Its tag has moved, and somebody has pruned the image that it has; a registry has that one under this reference.
fn lose_image(fake: &FakeDocker, by: &str) {
    fake.move_tag("odoo:18.0", NEW, Some("sha256:new-digest"));
    fake.remove_image(OLD, by);
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
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let (mut life, mut plan) = alfa(&fake, dir.path()).await;
    lose_image(&fake, "odoo@sha256:odoo:18.0-pulled");
    resized(&mut life, &mut plan).await;
    assert_eq!(fake.image_of("odoo_alfa").as_deref(), Some(OLD));
    assert_one_running_stack(&fake, "alfa");
    life.end().await;
}

/// Fails where whatever the tag means takes the place of an image that can be had nowhere: another Odoo on this database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_is_gone_for_good_is_put_back_or_another_is_accepted() {
    for accepts in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeDocker::new(dir.path(), 1);
        let (mut life, mut plan) = alfa(&fake, dir.path()).await;
        plan.desired = DesiredState::Suspended;
        order(&mut life, &mut plan);
        life.converged(&plan).await;
        lose_image(&fake, "nowhere@any.more");
        plan.desired = DesiredState::Running;
        order(&mut life, &mut plan);
        let message = refusal(&life, &plan).await;
        for part in [
            OLD,
            NEW,
            "isyctl tenant upgrade alfa --odoo-image odoo:18.0",
        ] {
            assert!(message.contains(part), "{part}: {message}");
        }
        let runs = match accepts {
            // It heals by itself.
            false => {
                fake.put_back_image("nowhere@any.more");
                OLD
            }
            true => {
                plan.images_asked.odoo = 5;
                order(&mut life, &mut plan);
                NEW
            }
        };
        life.converged(&plan).await;
        assert_eq!(fake.image_of("odoo_alfa").as_deref(), Some(runs));
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
    let (mut life, mut plan) = alfa(&fake, dir.path()).await;
    lose_image(&fake, "nowhere@any.more");
    fake.publish("odoo@sha256:odoo:18.0-pulled", "sha256:forged");
    plan.size.workers += 1;
    order(&mut life, &mut plan);
    let message = refusal(&life, &plan).await;
    assert!(message.contains(OLD), "{message}");
    assert_eq!(fake.image_of("odoo_alfa"), None, "of no other image");
    life.end().await;
}

/// A running tenant of the registry's `odoo:18.0`, whose registry has another image under that tag by now.
async fn published(fake: &Arc<FakeDocker>, dir: &Path) -> (Life, TenantPlan) {
    let begun = alfa(fake, dir).await;
    fake.publish("odoo:18.0", NEW);
    begun
}

/// Gives the agent another plan, under an operation of its own.
fn order(life: &mut Life, plan: &mut TenantPlan) {
    plan.generation += 1;
    plan.operation = Some(Uuid::from_u128(plan.generation.into()));
    life.plan(std::slice::from_ref(plan));
}

/// What was done since the log was so long, as far as it stops or removes anything.
fn stops(fake: &FakeDocker, since: usize) -> Vec<String> {
    let log = fake.log()[since..].to_vec();
    let is_stop = |l: &String| l.starts_with("stop ") || l.starts_with("remove ");
    let of_tenant = |l: &String| l.ends_with("odoo_alfa") || l.ends_with("postgres_alfa");
    log.into_iter()
        .filter(|l| is_stop(l) && of_tenant(l))
        .collect()
}

fn step(life: &Life, name: &str) -> Option<StepRecord> {
    let steps = life.status("alfa")?.steps;
    steps.into_iter().find(|step| step.name == name)
}

/// Waits until a person must act on this plan; returns what it says. An image that was seen just before it went fails another way first.
async fn refusal(life: &Life, plan: &TenantPlan) -> String {
    life.wait("a refusal", |l| {
        l.status("alfa")
            .is_some_and(|s| s.blocked && s.generation == plan.generation)
    })
    .await;
    life.status("alfa").unwrap().message
}

/// Waits for the failure of this plan; returns what it says, and whether a person must act.
async fn failure(life: &Life, plan: &TenantPlan) -> (String, bool) {
    life.wait("a failure", |l| {
        l.status("alfa").is_some_and(|s| {
            s.progress == TenantProgress::Failing && s.generation == plan.generation
        })
    })
    .await;
    let status = life.status("alfa").unwrap();
    (status.message, status.blocked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_anew_is_fetched_first_and_a_second_time_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let (mut life, mut plan) = published(&fake, dir.path()).await;
    let begin = fake.log().len();
    plan.images_asked.odoo = 2;
    order(&mut life, &mut plan);
    life.converged(&plan).await;
    assert_eq!(fake.image_of("odoo_alfa").as_deref(), Some(NEW));
    let log = fake.log()[begin..].to_vec();
    let at = |what: &str| log.iter().position(|l| l == what);
    assert!(at("pull odoo:18.0") < at("stop odoo_alfa"), "{log:?}");
    assert_eq!(at("stop postgres_alfa"), None, "nobody asked for that");
    let done = step(&life, "image-odoo").unwrap();
    assert_eq!(done.state, StepState::Succeeded);
    assert!(
        done.detail.contains("sha256:new in the place of"),
        "{done:?}"
    );
    // Both, as without naming any; PostgreSQL's is one that no registry has.
    let begin = fake.log().len();
    plan.images_asked = ImagesAsked {
        odoo: 3,
        postgres: 3,
    };
    order(&mut life, &mut plan);
    life.converged(&plan).await;
    assert_eq!(stops(&fake, begin), [""; 0]);
    for name in ["image-odoo", "image-postgres"] {
        let done = step(&life, name).unwrap();
        assert_eq!(done.state, StepState::Skipped, "{done:?}");
    }
    assert_one_running_stack(&fake, "alfa");
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_that_is_taken_back_leads_to_the_image_of_before_whatever_its_tag_means() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let (mut life, mut plan) = published(&fake, dir.path()).await;
    for again in 0..2 {
        plan.images_asked.odoo = 2 + again;
        order(&mut life, &mut plan);
        life.converged(&plan).await;
        assert_eq!(fake.image_of("odoo_alfa").as_deref(), Some(NEW));
        plan.images_asked.odoo = 0;
        order(&mut life, &mut plan);
        life.converged(&plan).await;
        assert_eq!(fake.image_of("odoo_alfa").as_deref(), Some(OLD));
    }
    assert_one_running_stack(&fake, "alfa");
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_cannot_be_had_or_does_not_fit_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    fake.set_odoo_major(OLD, 18);
    let (mut life, mut plan) = published(&fake, dir.path()).await;
    fake.publish("odoo:next", "sha256:next");
    fake.set_odoo_major("sha256:next", 19);
    fake.publish_postgres("postgres:16", 16);
    let begin = fake.log().len();
    let was = plan.clone();
    for (at, odoo, postgres, says, must_act) in [
        (1, "nowhere/odoo:18.0", "", "manifest unknown", false),
        (
            2,
            "odoo:next",
            "",
            "database is Odoo 18's, and the image is Odoo 19",
            true,
        ),
        (3, "", "postgres:16", "the image is PostgreSQL 16", true),
    ] {
        if !odoo.is_empty() {
            plan.odoo_image = odoo.parse().unwrap();
            plan.images_asked.odoo = at;
        }
        if !postgres.is_empty() {
            plan.postgres_image = postgres.parse().unwrap();
            plan.images_asked.postgres = at;
        }
        order(&mut life, &mut plan);
        let (message, blocked) = failure(&life, &plan).await;
        assert!(message.contains(says), "{message}");
        assert_eq!(blocked, must_act, "{message}");
        // As the coordinator takes it back.
        plan = TenantPlan {
            generation: plan.generation,
            ..was.clone()
        };
        order(&mut life, &mut plan);
        life.converged(&plan).await;
        assert_eq!(stops(&fake, begin), [""; 0]);
    }
    assert_eq!(fake.image_of("odoo_alfa").as_deref(), Some(OLD));
    assert_one_running_stack(&fake, "alfa");
    life.end().await;
}

/// A registry that says nothing holds nobody up who has thought better of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_ends_when_the_upgrade_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let (mut life, mut plan) = published(&fake, dir.path()).await;
    let begin = fake.log().len();
    fake.set_faults(Faults {
        pull_hangs: true,
        ..Faults::default()
    });
    plan.images_asked.odoo = 2;
    order(&mut life, &mut plan);
    life.wait("the download", |l| {
        step(l, "image-odoo").is_some_and(|s| s.state == StepState::Running && s.percent == 50)
    })
    .await;
    plan.images_asked.odoo = 0;
    order(&mut life, &mut plan);
    life.converged(&plan).await;
    assert_eq!(stops(&fake, begin), [""; 0]);
    assert_eq!(fake.image_of("odoo_alfa").as_deref(), Some(OLD));
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_tenant_gets_its_image_at_once_and_begins_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let (mut life, mut plan) = published(&fake, dir.path()).await;
    plan.desired = DesiredState::Suspended;
    order(&mut life, &mut plan);
    life.converged(&plan).await;
    plan.images_asked.odoo = 3;
    order(&mut life, &mut plan);
    life.converged(&plan).await;
    assert!(fake.log().iter().any(|l| l == "pull odoo:18.0"));
    let done = step(&life, "image-odoo").unwrap();
    assert_eq!(done.state, StepState::Succeeded);
    plan.desired = DesiredState::Running;
    order(&mut life, &mut plan);
    life.converged(&plan).await;
    assert_eq!(fake.image_of("odoo_alfa").as_deref(), Some(NEW));
    assert_one_running_stack(&fake, "alfa");
    life.end().await;
}

/// Fails where what the host has under a tag takes the place of what its registry would give: an upgrade that says it succeeded, with
/// the old image.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_fails_is_no_upgrade() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let (mut life, mut plan) = published(&fake, dir.path()).await;
    plan.images_asked.odoo = 2;
    order(&mut life, &mut plan);
    life.converged(&plan).await;
    fake.unpublish("odoo:18.0");
    plan.images_asked.odoo = 4;
    order(&mut life, &mut plan);
    let (message, blocked) = failure(&life, &plan).await;
    assert!(!blocked && message.contains("odoo:18.0"), "{message}");
    assert_eq!(fake.image_of("odoo_alfa").as_deref(), Some(NEW));
    life.end().await;
}

/// Fails where that is said once: the coordinator hears the newest word only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_that_failed_is_said_to_fail_until_it_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let (mut life, mut plan) = published(&fake, dir.path()).await;
    fake.set_sick(NEW);
    plan.images_asked.odoo = 2;
    order(&mut life, &mut plan);
    failure(&life, &plan).await;
    for _ in 0..40 {
        let status = life.status("alfa").unwrap();
        let unwell = [TenantProgress::Failing, TenantProgress::Working];
        assert!(unwell.contains(&status.progress), "{status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    failure(&life, &plan).await;
    plan.images_asked.odoo = 0;
    order(&mut life, &mut plan);
    life.converged(&plan).await;
    assert_eq!(fake.image_of("odoo_alfa").as_deref(), Some(OLD));
    life.end().await;
}

/// Fails where the new Odoo is awaited to the end after somebody has thought better of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_odoo_that_never_answers_is_not_awaited_when_the_upgrade_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let patient = Pace {
        start_timeout: Duration::from_secs(60),
        ..Pace::hasty()
    };
    let mut plan = pulled();
    let mut life = Life::begin_at(patient, &fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    fake.publish("odoo:18.0", NEW);
    fake.set_sick(NEW);
    plan.images_asked.odoo = 2;
    order(&mut life, &mut plan);
    life.wait("the new Odoo", |_| {
        fake.image_of("odoo_alfa").as_deref() == Some(NEW)
    })
    .await;
    plan.images_asked.odoo = 0;
    order(&mut life, &mut plan);
    // Gives up long before that Odoo would be given up.
    life.converged(&plan).await;
    assert_eq!(fake.image_of("odoo_alfa").as_deref(), Some(OLD));
    life.end().await;
}
