//! Copies that cannot come: the job says why, in words of the host that refuses, and ends where no further attempt can
//! help. Not here: what strangers hear (calls).

use std::fs;

use isyone_agent::testing::tenant_plan;
use isyone_proto::{
    plan::{DesiredState, TenantPlan},
    report::{JobState, TenantProgress},
};

use crate::{
    copies::Pair,
    node::{Ca, FAR_FUTURE, Node, Site, grant, order, plan_with, standby},
};

fn state_of(site: &Site) -> std::path::PathBuf {
    site.path().join("agent/tenants/alfa/state.json")
}

/// Its volumes are there, and nobody knows what is in them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_without_its_record_is_never_filled_and_says_so_at_once() {
    let pair = Pair::new().await;
    let copy = standby(&pair.alfa, "h1");
    let target = pair.sites[1]
        .start(plan_with(std::slice::from_ref(&copy), &[], &[]))
        .await;
    target.converged(&copy).await;
    target.end().await;
    let later = fs::read_to_string(state_of(&pair.sites[1])).unwrap();
    let later = later.replace("\"version\": 1", "\"version\": 99");
    for lost in [Some(later), None] {
        match &lost {
            Some(text) => fs::write(state_of(&pair.sites[1]), text).unwrap(),
            None => fs::remove_file(state_of(&pair.sites[1])).unwrap(),
        }
        let order = order(&pair.alfa, "h1", pair.source.address);
        let target = pair.target(&order).await;
        let failed = target.job_is(JobState::Failed).await;
        assert!(failed.message.contains("is not known"), "{failed:?}");
        target
            .wait("being blocked", |node| {
                let status = node.status("alfa");
                status.is_some_and(|s| s.progress == TenantProgress::Failing && s.blocked)
            })
            .await;
        target.plan(plan_with(std::slice::from_ref(&copy), &[], &[]));
        target.wait("forgetting", |node| node.job().is_none()).await;
        target.end().await;
        if let Some(text) = lost {
            let kept = fs::read_to_string(state_of(&pair.sites[1])).unwrap();
            assert_eq!(kept, text, "a later agent will read it");
        }
    }
    pair.source.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_source_s_reason_reaches_whoever_reads_of_the_job() {
    let pair = Pair::new().await;
    let running = TenantPlan {
        desired: DesiredState::Running,
        generation: pair.alfa.generation + 1,
        ..pair.alfa.clone()
    };
    let grants = [grant(&running, "h2", FAR_FUTURE)];
    pair.source
        .plan(plan_with(std::slice::from_ref(&running), &[], &grants));
    pair.source.converged(&running).await;
    let order = order(&pair.alfa, "h1", pair.source.address);
    let target = pair.target(&order).await;
    // Its first attempts may come before its own volumes are made.
    let reason = "host h1: refused: the tenant is to run here, so its files change";
    let waits = |node: &Node| node.job().is_some_and(|job| job.message == reason);
    target.wait("the source's reason", waits).await;
    // It may be stopped yet.
    let stopped = TenantPlan {
        desired: DesiredState::Suspended,
        generation: running.generation + 1,
        ..running
    };
    pair.source
        .plan(plan_with(std::slice::from_ref(&stopped), &[], &grants));
    target.job_is(JobState::Done).await;
    target.end().await;
    pair.source.end().await;
}

async fn suspended_from_the_first(site: &Site) -> (Node, TenantPlan) {
    let mut alfa = tenant_plan("alfa");
    alfa.desired = DesiredState::Suspended;
    let grants = [grant(&alfa, "h2", FAR_FUTURE)];
    let plan = plan_with(std::slice::from_ref(&alfa), &[], &grants);
    let source = site.start(plan).await;
    source.converged(&alfa).await;
    (source, alfa)
}

/// Nothing fills it while it is stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_was_never_filled_ends_the_job() {
    let ca = Ca::new();
    let sites = [Site::new("h1", &ca), Site::new("h2", &ca)];
    let (source, alfa) = suspended_from_the_first(&sites[0]).await;
    let order = order(&alfa, "h1", source.address);
    let copy = standby(&alfa, "h1");
    let target = sites[1].start(plan_with(&[copy], &[order], &[])).await;
    let failed = target.job_is(JobState::Failed).await;
    assert!(
        failed
            .message
            .starts_with("host h1: refused: its state.json does not say"),
        "{failed:?}"
    );
    target.end().await;
    source.end().await;
}

/// A volume of the tenant's name that has another owner is not given away, and stays another's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_whose_volume_is_another_s_ends_the_job() {
    let pair = Pair::new().await;
    let labels = [("one.isy.uid".to_owned(), uuid::Uuid::nil().to_string())];
    pair.sites[0]
        .fake
        .find_volume("odoo_data_alfa", labels.into());
    let order = order(&pair.alfa, "h1", pair.source.address);
    let target = pair.target(&order).await;
    let failed = target.job_is(JobState::Failed).await;
    assert!(failed.message.contains("odoo_data_alfa"), "{failed:?}");
    target.end().await;
    pair.source.end().await;
}
