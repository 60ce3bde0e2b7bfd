//! The reconciler over a fake engine: it dies at every call, meets refusals and lost answers, and must always end with
//! exactly one planned stack, with its own keys.

use std::time::Duration;

use isyone_agent::{
    host::{Pace, board::TenantStatus},
    testing::{
        fake_docker::{FakeDocker, Faults},
        tenant_plan,
    },
};
use isyone_proto::{plan::*, report::TenantProgress};
use uuid::Uuid;

use super::life::{Life, assert_one_running_stack};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dying_at_every_call_of_a_cold_create_ends_in_one_running_stack() {
    let plan = tenant_plan("alfa");
    for call in 1.. {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeDocker::new(dir.path(), call);
        fake.die_at(Some(call));
        let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
        let died = tokio::select! {
            () = fake.died() => true,
            () = life.converged(&plan) => false,
        };
        life.end().await;
        if !died {
            assert!(call > 10, "a create has many calls");
            return;
        }
        fake.die_at(None);
        let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
        life.converged(&plan).await;
        assert_one_running_stack(&fake, "alfa");
        life.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dying_at_every_call_of_a_golden_create_ends_in_one_running_stack() {
    let (alfa, beta) = (tenant_plan("alfa"), tenant_plan("beta"));
    let both = [alfa.clone(), beta.clone()];
    for call in 1.. {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeDocker::new(dir.path(), call);
        let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&alfa));
        life.converged(&alfa).await;
        life.end().await;
        let source = fake.database_keys("alfa");
        fake.die_at(Some(call));
        let life = Life::begin(&fake, dir.path(), &both);
        let died = tokio::select! {
            () = fake.died() => true,
            () = life.converged(&beta) => false,
        };
        life.end().await;
        fake.die_at(None);
        let life = Life::begin(&fake, dir.path(), &both);
        life.converged(&beta).await;
        assert_one_running_stack(&fake, "beta");
        assert!(
            !fake.log().iter().any(|l| l.contains("odoo_beta_init")),
            "it came from the snapshot"
        );
        assert_eq!(fake.database_keys("alfa"), source, "alfa was left alone");
        assert_ne!(fake.database_keys("beta"), source, "beta has its own keys");
        life.end().await;
        if !died {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_and_lost_answers_only_cost_time() {
    for seed in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeDocker::new(dir.path(), seed * 7919 + 1);
        fake.set_faults(Faults {
            refused: 120,
            answer_lost: 80,
            init_fails: 300,
            ..Faults::default()
        });
        let plans = ["alfa", "beta", "gama"].map(tenant_plan);
        let life = Life::begin(&fake, dir.path(), &plans);
        for plan in &plans {
            life.converged(plan).await;
            assert_one_running_stack(&fake, plan.name.as_str());
        }
        life.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_agent_touches_nothing_that_is_well() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let plan = tenant_plan("alfa");
    let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    life.end().await;
    let before = fake.log().len();
    let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(fake.log().len(), before, "{:?}", &fake.log()[before..]);
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_from_suspension_to_purge() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let mut plan = tenant_plan("alfa");
    let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    let keys = fake.database_keys("alfa");
    for (desired, running) in [
        (DesiredState::Suspended, 0),
        (DesiredState::Running, 2),
        (DesiredState::Quarantined, 0),
        (DesiredState::Running, 2),
    ] {
        plan.desired = desired;
        plan.generation += 1;
        life.plan(std::slice::from_ref(&plan));
        life.converged(&plan).await;
        assert_eq!(fake.running().len(), running, "{desired:?}");
    }
    assert_eq!(
        fake.database_keys("alfa"),
        keys,
        "a restored tenant has its data"
    );
    plan.desired = DesiredState::Purged;
    plan.quarantine_until = Some(i64::MAX);
    plan.generation += 1;
    life.plan(std::slice::from_ref(&plan));
    life.wait("taking down", |_| fake.things().0.is_empty())
        .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(fake.things().2.len(), 2, "the quarantine is not over");
    assert!(!life.status("alfa").unwrap().absent);
    plan.purge_now = true;
    plan.generation += 1;
    life.plan(std::slice::from_ref(&plan));
    life.wait("absence", |l| l.status("alfa").is_some_and(|s| s.absent))
        .await;
    assert_eq!(fake.things(), (vec![], vec![], vec![]));
    assert_eq!(fake.violations(), Vec::<String>::new());
    life.end().await;
}

/// An attacker who has taken Odoo over leaves a trigger that sleeps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sql_that_hangs_in_a_tenants_database_is_told_and_does_not_hold_up_its_suspension() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let mut plan = tenant_plan("alfa");
    let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    fake.set_faults(Faults {
        sql_hangs: true,
        ..Faults::default()
    });
    plan.base_url = "https://erp.example.com".to_owned();
    plan.generation += 1;
    life.plan(std::slice::from_ref(&plan));
    let told = |s: TenantStatus| {
        s.progress == TenantProgress::Failing && s.message.contains("psql has not ended")
    };
    life.wait("the error", |l| l.status("alfa").is_some_and(told))
        .await;
    plan.desired = DesiredState::Suspended;
    plan.generation += 1;
    life.plan(std::slice::from_ref(&plan));
    life.converged(&plan).await;
    assert_eq!(fake.running(), Vec::<String>::new());
    fake.set_faults(Faults::default());
    plan.desired = DesiredState::Running;
    plan.generation += 1;
    life.plan(std::slice::from_ref(&plan));
    life.converged(&plan).await;
    assert_one_running_stack(&fake, "alfa");
    life.end().await;
}

/// A host does not see every plan: after a short absence, or when busy, it gets only the newest. So it may learn all at
/// once that a purged name was taken by another tenant, which was deleted before it ran.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_tenant_purged_under_one_name_is_reported_gone_too() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let mut plan = tenant_plan("alfa");
    plan.desired = DesiredState::Purged;
    plan.purge_now = true;
    plan.generation = 2;
    let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    let gone = |plan: &TenantPlan| {
        let (uid, operation) = (plan.uid, plan.operation);
        move |l: &Life| {
            let status = l
                .status("alfa")
                .filter(|s| s.absent && s.uid == uid && s.operation == operation);
            status.is_some_and(|s| s.progress == TenantProgress::Converged)
        }
    };
    life.wait("the first one's absence", gone(&plan)).await;
    // Same name, same generation, same epoch.
    plan.uid = Uuid::from_u128(2);
    plan.operation = Some(Uuid::from_u128(3));
    life.plan(std::slice::from_ref(&plan));
    life.wait("the second one's absence", gone(&plan)).await;
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_no_plan_names_is_stopped_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let plan = tenant_plan("alfa");
    let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    life.plan(&[]);
    life.wait("the stop", |_| fake.running().is_empty()).await;
    assert_eq!(fake.things().0.len(), 2);
    assert_eq!(fake.things().2.len(), 2);
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_are_waited_for_but_not_for_ever_and_only_with_workers() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let (alfa, beta, mut threads) = (
        tenant_plan("alfa"),
        tenant_plan("beta"),
        tenant_plan("gama"),
    );
    threads.size.workers = 0;
    fake.set_unhealthy("odoo_alfa:8072", true);
    fake.set_unhealthy("odoo_gama:8072", true);
    let life = Life::begin(
        &fake,
        dir.path(),
        &[alfa.clone(), beta.clone(), threads.clone()],
    );
    let mut details = Vec::new();
    for plan in [alfa, beta, threads] {
        life.converged(&plan).await;
        let steps = life.status(plan.name.as_str()).unwrap().steps;
        details.push(
            steps
                .into_iter()
                .find(|s| s.name == "healthy")
                .unwrap()
                .detail,
        );
    }
    assert!(
        details[0].contains("websockets does not: connection refused"),
        "{details:?}"
    );
    assert!(details[1].contains(", websockets after"), "{details:?}");
    assert!(!details[2].contains("websockets"), "{details:?}");
    life.end().await;
}

/// Found by the health checks alone: the next full comparison is far off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_that_falls_silent_is_found_and_so_is_its_recovery() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let plan = tenant_plan("alfa");
    let pace = Pace {
        resync: Duration::from_secs(3_600),
        ..Pace::hasty()
    };
    let life = Life::begin_at(pace, &fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    fake.set_unhealthy("postgres_alfa", true);
    let silent = |s: TenantStatus| s.message.contains("PostgreSQL does not");
    life.wait("the finding", |l| l.status("alfa").is_some_and(silent))
        .await;
    fake.set_unhealthy("postgres_alfa", false);
    life.converged(&plan).await;
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_sickness_and_a_lost_daemon_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let plan = tenant_plan("alfa");
    let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    fake.kill("odoo_alfa", 137);
    life.wait("the restart", |_| fake.running().len() == 2)
        .await;
    fake.set_unhealthy("odoo_alfa", true);
    life.wait("the finding", |l| {
        l.status("alfa")
            .is_some_and(|s| s.progress == TenantProgress::Unhealthy)
    })
    .await;
    assert!(
        life.status("alfa")
            .unwrap()
            .message
            .contains("told to be unhealthy")
    );
    fake.set_unhealthy("odoo_alfa", false);
    life.converged(&plan).await;
    fake.set_down(true);
    life.wait("the alarm", |l| !l.host.board.docker_error().is_empty())
        .await;
    fake.set_down(false);
    life.wait("the all-clear", |l| l.host.board.docker_error().is_empty())
        .await;
    life.converged(&plan).await;
    life.end().await;
}

/// What a dockerd killed in mid-start leaves. Fails where the agent repeats the same start for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_never_starts_again_is_made_anew_over_the_same_data_and_that_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let plan = tenant_plan("alfa");
    let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    let keys = fake.database_keys("alfa");
    for name in ["odoo_alfa", "postgres_alfa"] {
        let before = fake.log().len();
        fake.leave_half(name);
        fake.kill(name, 137);
        life.wait("it runs", |_| fake.running().len() == 2).await;
        life.converged(&plan).await;
        let log = &fake.log()[before..];
        let count = |call: &str| {
            log.iter()
                .filter(|l| **l == format!("{call} {name}"))
                .count()
        };
        assert_eq!((count("start"), count("remove")), (4, 1), "{log:?}");
        let mended = life.host.board.condition().mended;
        let told = mended.iter().find(|m| &*m.subject == "container").unwrap();
        assert!(
            told.message.starts_with(name) && told.message.contains("file exists"),
            "{told:?}"
        );
    }
    assert_eq!(fake.database_keys("alfa"), keys);
    assert_one_running_stack(&fake, "alfa");
    life.end().await;
}

/// Fails where only tenants find out: a host without any stays in trouble, or is never found to be in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_away_or_mute_is_noticed_without_tenants_and_so_is_its_return() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let life = Life::begin(&fake, dir.path(), &[]);
    for _ in 0..2 {
        fake.set_down(true);
        life.wait("the alarm", |l| l.host.board.condition().docker_away)
            .await;
        fake.set_down(false);
        life.wait("the all-clear", |l| !l.host.board.condition().docker_away)
            .await;
        fake.set_mute(true);
        life.wait("the alarm of a mute one", |l| {
            l.host.board.docker_error().contains("no answer within")
        })
        .await;
        fake.set_mute(false);
        life.wait("its all-clear", |l| l.host.board.docker_error().is_empty())
            .await;
    }
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_image_fails_with_the_registrys_words_and_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let mut plan = tenant_plan("alfa");
    plan.odoo_image = "odoo:99.9".parse().unwrap();
    let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.wait("the failure", |l| {
        l.status("alfa")
            .is_some_and(|s| s.progress == TenantProgress::Failing)
    })
    .await;
    let status = life.status("alfa").unwrap();
    assert!(
        status.message.contains("manifest unknown")
            && status.message.contains("check the image's name")
            && status.message.contains("`isyctl op cancel`"),
        "{}",
        status.message
    );
    assert_eq!(
        fake.things(),
        (vec![], vec![], vec![]),
        "nothing half-made is left"
    );
    plan.odoo_image = "odoo:18.0".parse().unwrap();
    plan.generation += 1;
    life.plan(std::slice::from_ref(&plan));
    life.converged(&plan).await;
    assert!(
        life.status("alfa").unwrap().containers[0]
            .image_digest
            .contains("pulled")
    );
    life.end().await;
}

/// An update waits for its image, while the customer's Odoo of the old one fails and recovers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_looked_after_while_the_registry_does_not_answer() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let mut plan = tenant_plan("alfa");
    let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    fake.set_faults(Faults {
        pull_hangs: true,
        ..Faults::default()
    });
    plan.odoo_image = "odoo:18.0".parse().unwrap();
    plan.generation += 1;
    life.plan(std::slice::from_ref(&plan));
    for healthy in [true, false, true] {
        fake.set_unhealthy("odoo_alfa", !healthy);
        let shown = move |l: &Life| {
            let s = l.status("alfa").unwrap();
            s.progress == TenantProgress::Working && s.containers[0].healthy == healthy
        };
        life.wait("its health", shown).await;
    }
    fake.set_faults(Faults::default());
    life.converged(&plan).await;
    assert_one_running_stack(&fake, "alfa");
    life.end().await;
}
