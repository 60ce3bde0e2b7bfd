//! A host's turns, over a fake engine: tenants whose programs make the agent wait keep nobody else from what is to be done, least of all
//! from the border of its disk.
//!
//! Not here: how a turn is given back (tenant::turn's own tests), what a full disk stops (disk).

use std::{path::Path, sync::Arc, time::Duration};

use isyone_agent::{
    host::Pace,
    testing::{
        fake_docker::{FakeDocker, Faults},
        tenant_plan,
    },
};
use isyone_proto::plan::{DesiredState, TenantPlan};

use super::{disk::measured, life::Life};

/// As many as have a turn at once.
const HOSTILE: usize = 8;
/// Longer than any of these tests waits.
const LONG: Duration = Duration::from_secs(90);

/// Programs may make the agent wait for ever, and a turn has no end of its own.
fn patient() -> Pace {
    Pace {
        start_timeout: LONG,
        sql_timeout: LONG,
        turn: LONG,
        ..Pace::hasty()
    }
}

/// A host with its hostile tenants and `alfa`, all at rest.
async fn crowd(pace: Pace, dir: &Path) -> (Life, Arc<FakeDocker>, Vec<TenantPlan>) {
    let fake = FakeDocker::new(dir, 1);
    let names = (0..HOSTILE).map(|i| format!("hostile{i}"));
    let names = names.chain(["alfa".to_owned()]);
    let plans: Vec<TenantPlan> = names.map(|name| tenant_plan(&name)).collect();
    let life = Life::begin_at(pace, &fake, dir, &plans);
    for plan in &plans {
        life.converged(plan).await;
    }
    (life, fake, plans)
}

fn count(fake: &FakeDocker, begins: &str) -> usize {
    let log = fake.log();
    log.iter().filter(|line| line.starts_with(begins)).count()
}

fn odoo(plan: &TenantPlan) -> String {
    plan.name.odoo_container()
}

/// The last one is suspended, whatever the others do.
async fn alfa_is_suspended(life: &mut Life, fake: &FakeDocker, plans: &mut [TenantPlan]) {
    let alfa = plans.last_mut().unwrap();
    alfa.desired = DesiredState::Suspended;
    alfa.generation += 1;
    let alfa = alfa.clone();
    life.plan(plans);
    life.converged(&alfa).await;
    assert!(!fake.running().contains(&odoo(&alfa)));
}

/// Fails where a turn is kept while Odoo is waited for that Docker has restarted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odoos_that_crash_in_step_hold_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let (mut life, fake, mut plans) = crowd(patient(), dir.path()).await;
    for plan in &plans[..HOSTILE] {
        fake.set_unhealthy(&odoo(plan), true);
        fake.crash(&odoo(plan));
    }
    let waits = |l: &Life, plan: &TenantPlan| {
        let steps = l.status(plan.name.as_str()).unwrap().steps;
        let healthy = steps.iter().find(|s| s.name == "healthy");
        healthy.is_some_and(|s| s.end_ms.is_none())
    };
    life.wait("eight that are waited for", |l| {
        plans[..HOSTILE].iter().all(|plan| waits(l, plan))
    })
    .await;
    alfa_is_suspended(&mut life, &fake, &mut plans).await;
    life.end().await;
}

/// Fails where a turn has no end: whoever is started is waited for within it, for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odoos_that_do_not_come_up_hold_others_up_for_a_moment_only() {
    let dir = tempfile::tempdir().unwrap();
    let pace = Pace {
        turn: Duration::from_millis(20),
        ..patient()
    };
    let (mut life, fake, mut plans) = crowd(pace, dir.path()).await;
    let before = count(&fake, "start odoo_hostile");
    for plan in &plans[..HOSTILE] {
        fake.set_unhealthy(&odoo(plan), true);
        fake.kill(&odoo(plan), 1);
    }
    life.wait("their starts", |_| {
        count(&fake, "start odoo_hostile") == before + HOSTILE
    })
    .await;
    alfa_is_suspended(&mut life, &fake, &mut plans).await;
    life.end().await;
}

/// Fails where a turn is kept until a program has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odoos_that_do_not_stop_hold_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let (mut life, fake, mut plans) = crowd(patient(), dir.path()).await;
    for plan in &mut plans[..HOSTILE] {
        fake.set_stubborn(&odoo(plan), true);
        plan.desired = DesiredState::Suspended;
        plan.generation += 1;
    }
    life.plan(&plans);
    life.wait("their stops", |_| {
        count(&fake, "stop odoo_hostile") >= HOSTILE
    })
    .await;
    alfa_is_suspended(&mut life, &fake, &mut plans).await;
    life.end().await;
}

/// Fails where a turn is kept while SQL runs in a tenant's database, which may hold it up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_that_do_not_answer_hold_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let (mut life, fake, mut plans) = crowd(patient(), dir.path()).await;
    let before = count(&fake, "exec postgres_hostile");
    fake.set_faults(Faults {
        sql_hangs: true,
        ..Faults::default()
    });
    for plan in &mut plans[..HOSTILE] {
        plan.base_url = "https://erp.example.com".to_owned();
        plan.generation += 1;
    }
    life.plan(&plans);
    life.wait("their scripts", |_| {
        count(&fake, "exec postgres_hostile") == before + HOSTILE
    })
    .await;
    alfa_is_suspended(&mut life, &fake, &mut plans).await;
    life.end().await;
}

/// Fails where all of a host's Odoos stop at once for an upgrade, and then wait for each other's starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_of_all_stops_a_few_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (mut life, fake, mut plans) = crowd(patient(), dir.path()).await;
    assert!(plans.len() > HOSTILE);
    for plan in &mut plans {
        fake.set_stubborn(&odoo(plan), true);
        plan.upload_limit_bytes *= 2;
        plan.generation += 1;
    }
    life.plan(&plans);
    let stops = || count(&fake, "stop odoo_");
    life.wait("as many stops as turns", |_| stops() == HOSTILE)
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(stops(), HOSTILE);
    for plan in &plans {
        fake.set_stubborn(&odoo(plan), false);
    }
    for plan in &plans {
        life.converged(plan).await;
    }
    life.end().await;
}

async fn is_stopped(life: &Life, fake: &FakeDocker, plan: &TenantPlan) {
    life.wait("the stop of Odoo", |_| {
        !fake.running().contains(&odoo(plan))
    })
    .await;
}

/// Fails where a full disk waits for a turn among all, or for other full ones whose databases do not answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_waits_for_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (life, fake, plans) = crowd(patient(), dir.path()).await;
    let turns = life.host.light.clone();
    let _all = turns.acquire_many_owned(HOSTILE as u32).await.unwrap();
    fake.set_faults(Faults {
        sql_hangs: true,
        ..Faults::default()
    });
    for plan in &plans {
        measured(&life, plan, 5); // of 5 GiB
        is_stopped(&life, &fake, plan).await;
    }
    life.end().await;
}

/// Fails where a tenant's own Odoo, by not answering, keeps the agent from looking at its disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_does_not_wait_for_its_own_odoo() {
    let dir = tempfile::tempdir().unwrap();
    let (life, fake, plans) = crowd(patient(), dir.path()).await;
    let alfa = plans.last().unwrap();
    let before = count(&fake, "start odoo_alfa");
    fake.set_unhealthy(&odoo(alfa), true);
    fake.kill(&odoo(alfa), 1);
    life.wait("its start", |_| count(&fake, "start odoo_alfa") > before)
        .await;
    measured(&life, alfa, 5);
    is_stopped(&life, &fake, alfa).await;
    life.end().await;
}
