//! Standbys on real PostgreSQL: what is known of one while its source is away, what its tables lack, and what it leaves at its source.
//!
//! Where this machine has no PostgreSQL there is nothing to try. Not here: moves of what runs (following).

use std::time::Duration;

use isyone_proto::{
    plan::{DesiredState, JobOrder},
    report::JobState,
};
use uuid::Uuid;

use crate::{
    following::{Pair, live},
    node::{Node, SocketDatabase, plan_with},
};

fn is_filled(node: &Node) -> bool {
    node.job().is_some_and(|job| job.filled)
}

fn behind_ms(node: &Node) -> u64 {
    let behind = node.job().and_then(|job| job.behind);
    behind.expect("it was seen").ms
}

impl Pair {
    fn stands(&self) -> isyone_proto::plan::HostPlan {
        plan_with(&[self.copy()], &[self.order_as(false, true)], &[])
    }

    async fn restart(&mut self, at: usize, plan: isyone_proto::plan::HostPlan) {
        let socket = self.engines[at].socket("postgres_alfa");
        let databases = std::sync::Arc::new(SocketDatabase(socket));
        let engine = self.engines[at].clone();
        let node = self.sites[at].start_on(plan, databases, engine).await;
        let before = match at {
            0 => std::mem::replace(&mut self.source, node),
            _ => std::mem::replace(&mut self.target, node),
        };
        before.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_whole_copy_is_known_as_one_while_its_source_is_away() {
    let Some(mut pair) = Pair::new().await else {
        return;
    };
    pair.target.plan(pair.stands());
    pair.target.wait("a whole copy", is_filled).await;
    assert!(behind_ms(&pair.target) < 5_000);
    // Its source lets it no more.
    let alone = plan_with(std::slice::from_ref(&pair.alfa), &[], &[]);
    pair.source.plan(alone);
    pair.target.job_is(JobState::Retrying).await;
    assert!(is_filled(&pair.target));
    let before = behind_ms(&pair.target);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(behind_ms(&pair.target) >= before + 2_500, "frozen");
    // Its agent begins anew, and never reaches the source.
    let plan = pair.stands();
    pair.restart(1, plan).await;
    pair.target.wait("what it has", is_filled).await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tables_that_would_arrive_empty_keep_a_tenant_where_it_is_whenever_they_are_made() {
    let Some(mut pair) = Pair::new().await else {
        return;
    };
    pair.followed().await;
    pair.sql(0, "CREATE UNLOGGED TABLE unkept (n int)");
    pair.halt().await;
    pair.target.plan(pair.target_plan(true));
    let failed = pair.target.job_is(JobState::Failed).await;
    assert!(
        failed.message.contains("1 of its tables are UNLOGGED"),
        "{}",
        failed.message
    );
    pair.end().await;

    let Some(pair) = Pair::new().await else {
        return;
    };
    pair.followed().await;
    pair.sql(0, "CREATE UNLOGGED TABLE unkept (n int)");
    // Before it is stopped, too.
    let failed = pair.target.job_is(JobState::Failed).await;
    assert!(
        failed.message.contains("1 of its tables are UNLOGGED"),
        "{}",
        failed.message
    );
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_standby_says_what_of_its_tables_would_be_empty_and_stands_on() {
    let Some(pair) = Pair::new().await else {
        return;
    };
    pair.target.plan(pair.stands());
    pair.target.wait("a whole copy", is_filled).await;
    pair.sql(0, "CREATE UNLOGGED TABLE unkept (n int)");
    // Looked at anew, as with the next pass.
    pair.target.plan(plan_with(&[pair.copy()], &[], &[]));
    pair.target
        .wait("its end", |node| node.job().is_none())
        .await;
    pair.target.plan(pair.stands());
    let told = |node: &Node| {
        let behind = node.job().and_then(|job| job.behind);
        behind.is_some_and(|behind| behind.unlogged == 1)
    };
    pair.target.wait("the table", told).await;
    assert_eq!(pair.target.job().unwrap().state, JobState::Running);
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_complete_follows_again_when_its_tenant_went_on() {
    let Some(mut pair) = Pair::new().await else {
        return;
    };
    pair.followed().await;
    pair.halt().await;
    pair.target.plan(pair.target_plan(true));
    pair.target.job_is(JobState::Done).await;

    // It was to take over, and that was taken back: the tenant gives numbers that were kept for then.
    pair.alfa.desired = DesiredState::Running;
    pair.alfa.generation += 1;
    let grants = live(&pair.alfa);
    let alone = plan_with(std::slice::from_ref(&pair.alfa), &[], &grants);
    pair.source.plan(alone);
    pair.source.converged(&pair.alfa).await;
    pair.until_answered(0, "SELECT 1").await;
    let again = |last, standing| JobOrder {
        id: Uuid::from_u128(77),
        ..pair.order_as(last, standing)
    };
    let stands = plan_with(&[pair.copy()], &[again(false, true)], &[]);
    let last = plan_with(&[pair.copy()], &[again(true, true)], &[]);
    pair.target.plan(stands);
    pair.target.wait("a whole copy", is_filled).await;
    pair.sql(0, "INSERT INTO kept SELECT generate_series(20001, 30000)");
    assert_eq!(pair.sql(0, "SELECT nextval('mark')"), "6");
    let count = "SELECT count(*) FROM kept";
    pair.target
        .wait("its rows", |_| pair.sql(1, count) == "30000")
        .await;

    pair.halt().await;
    pair.target.plan(last);
    pair.target.job_is(JobState::Done).await;
    let mut copy = pair.copy();
    (copy.desired, copy.generation) = (DesiredState::Running, copy.generation + 1);
    pair.target.plan(plan_with(&[copy.clone()], &[], &[]));
    pair.target.converged(&copy).await;
    assert_eq!(pair.sql(1, "SELECT pg_is_in_recovery()"), "f");
    assert_eq!(pair.sql(1, "SELECT nextval('mark')"), "7");
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_followed_before_an_agent_began_anew_holds_no_log_for_ever() {
    let Some(mut pair) = Pair::new().await else {
        return;
    };
    pair.target.plan(pair.stands());
    pair.target.wait("a whole copy", is_filled).await;
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(pair.sql(0, slots), "1");
    // The standby is removed while the agent of its source is away.
    let kept = plan_with(std::slice::from_ref(&pair.alfa), &[], &live(&pair.alfa));
    pair.target.plan(plan_with(&[], &[], &[]));
    pair.target
        .wait("its end", |node| node.job().is_none())
        .await;
    pair.restart(0, kept).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(pair.sql(0, slots), "1", "it may be followed");
    let alone = plan_with(std::slice::from_ref(&pair.alfa), &[], &[]);
    pair.restart(0, alone).await;
    pair.source
        .wait("the slot to go", |_| pair.sql(0, slots) == "0")
        .await;
    pair.end().await;
}
