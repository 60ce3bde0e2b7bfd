//! A tenant that moves back to where a copy of it is kept. Not here: the first way (copies).

use std::fs;

use isyone_proto::{
    plan::{DesiredState, Seed},
    report::JobState,
};

use crate::{
    copies::{Pair, noise},
    node::{FAR_FUTURE, grant, order, plan_with, standby},
    proxy::Proxy,
};

/// The host that a tenant has left still has most of its files: what has changed since is all that comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_moves_back_brings_what_has_changed_since() {
    let pair = Pair::new().await;
    pair.put("odoo_data_alfa", "filestore/kept", &noise(1, 2 << 20));
    pair.put("odoo_data_alfa", "filestore/changed", &noise(2, 300_000));
    pair.put("odoo_data_alfa", "filestore/removed", b"then");
    let there = order(&pair.alfa, "h1", pair.source.address);
    let target = pair.target(&there).await;
    target.job_is(JobState::Done).await;
    let mut lives = standby(&pair.alfa, "h1");
    (lives.desired, lives.generation) = (DesiredState::Running, lives.generation + 1);
    target.plan(plan_with(&[lives.clone()], &[], &[]));
    target.converged(&lives).await;
    let mut fenced = pair.alfa.clone();
    (fenced.desired, fenced.seed) = (DesiredState::Fenced, Seed::Existing);
    (fenced.epoch, fenced.generation) = (lives.epoch, lives.generation);
    pair.source
        .plan(plan_with(std::slice::from_ref(&fenced), &[], &[]));
    pair.source.converged(&fenced).await;

    // It goes on there, and then comes back.
    let there = pair.sites[1].volume("odoo_data_alfa");
    fs::write(there.join("filestore/changed"), noise(3, 300_000)).unwrap();
    fs::remove_file(there.join("filestore/removed")).unwrap();
    fs::write(there.join("filestore/new"), "new").unwrap();
    (lives.desired, lives.generation) = (DesiredState::Suspended, lives.generation + 1);
    let grants = [grant(&lives, "h1", FAR_FUTURE)];
    target.plan(plan_with(&[lives.clone()], &[], &grants));
    target.converged(&lives).await;
    let line = Proxy::start(target.address, vec![]).await;
    let mut back = order(&lives, "h2", line.address);
    back.id = uuid::Uuid::from_u128(0xbac);
    // Under the fence's own epoch nothing is opened, whatever the plan says.
    let mut early = standby(&lives, "h2");
    early.epoch = fenced.epoch;
    pair.source
        .plan(plan_with(&[early], std::slice::from_ref(&back), &[]));
    let refused = pair.source.job_is(JobState::Failed).await;
    assert!(
        refused.message.contains("never written again"),
        "{refused:?}"
    );
    let comes = standby(&lives, "h2");
    pair.source
        .plan(plan_with(std::slice::from_ref(&comes), &[], &[]));
    pair.source.converged(&comes).await;
    pair.source
        .wait("forgetting", |node| node.job().is_none())
        .await;
    pair.source
        .plan(plan_with(std::slice::from_ref(&comes), &[back], &[]));
    pair.source.job_is(JobState::Done).await;
    pair.assert_equal();
    assert!(line.passed() < 1 << 20, "{} bytes", line.passed());
    let mut again = comes.clone();
    (again.desired, again.seed) = (DesiredState::Running, Seed::Existing);
    again.generation += 1;
    pair.source.plan(plan_with(&[again.clone()], &[], &[]));
    pair.source.converged(&again).await;
    assert_eq!(pair.sites[0].fake.violations(), Vec::<String>::new());
    target.end().await;
    pair.source.end().await;
}
