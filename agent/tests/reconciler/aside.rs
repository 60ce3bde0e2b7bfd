//! A restore in a tenant's place, over a fake engine: what the tenant had is set aside whole, comes back whole, and goes on order only;
//! the agent may die at every call.
//!
//! Not here: restoring (the agent's own tests of backups), the decisions (plan::diff's own tests).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use isyone_agent::{
    tenant::copies,
    testing::{fake_docker::FakeDocker, tenant_plan},
};
use isyone_proto::plan::{Before, DesiredState, Seed, TenantPlan};
use uuid::Uuid;

use super::life::{Life, assert_one_running_stack};

const RESTORE: Uuid = Uuid::from_u128(9);

fn home(dir: &Path) -> PathBuf {
    dir.join("isyone/tenants/alfa")
}

fn aside(dir: &Path) -> PathBuf {
    home(dir).join(format!("before-{RESTORE}"))
}

/// The plan while it is restored.
fn restoring(plan: &TenantPlan) -> TenantPlan {
    TenantPlan {
        desired: DesiredState::Standby,
        seed: Seed::Backup(RESTORE),
        before: Some(Before::Keep(RESTORE)),
        generation: plan.generation + 1,
        ..plan.clone()
    }
}

/// The plan after that.
fn running(plan: &TenantPlan, before: Before) -> TenantPlan {
    TenantPlan {
        desired: DesiredState::Running,
        seed: Seed::Existing,
        before: Some(before),
        generation: plan.generation + 1,
        ..plan.clone()
    }
}

/// A tenant that has run, and its database's keys.
async fn lived(fake: &Arc<FakeDocker>, dir: &Path) -> (TenantPlan, String) {
    let plan = tenant_plan("alfa");
    let life = Life::begin(fake, dir, std::slice::from_ref(&plan));
    life.converged(&plan).await;
    life.end().await;
    (plan, fake.database_keys("alfa").expect("a database"))
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

fn is_set_aside(dir: &Path) -> bool {
    aside(dir).join("pgdata/PG_VERSION").exists()
        && aside(dir).join("odoo").exists()
        && is_empty(&home(dir).join("pgdata"))
        && is_empty(&home(dir).join("odoo"))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let place = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &place),
            false => drop(std::fs::copy(entry.path(), place).unwrap()),
        }
    }
}

/// What a job does: a database that is not quite the one of before.
fn restore(life: &Life, plan: &TenantPlan, dir: &Path) {
    for role in ["pgdata", "odoo"] {
        copy(&aside(dir).join(role), &home(dir).join(role));
    }
    let keys = home(dir).join("pgdata/databases/odoo_alfa");
    let text = std::fs::read_to_string(&keys).unwrap();
    std::fs::write(keys, format!("{text}restored\n")).unwrap();
    assert!(copies::complete(&life.host, plan, RESTORE).unwrap());
}

/// Carries a plan out, dying at this call; whether it was carried out before that.
async fn dies(fake: &Arc<FakeDocker>, dir: &Path, plan: &TenantPlan, call: u64) -> bool {
    fake.die_at(Some(call));
    let life = Life::begin(fake, dir, std::slice::from_ref(plan));
    let done = tokio::select! {
        () = fake.died() => false,
        () = life.converged(plan) => true,
    };
    life.end().await;
    fake.die_at(None);
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dying_at_every_call_while_it_is_set_aside_and_comes_back_costs_no_data() {
    for call in 1.. {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let fake = FakeDocker::new(dir, 1);
        let (plan, keys) = lived(&fake, dir).await;
        let aside_first = restoring(&plan);
        let mut done = dies(&fake, dir, &aside_first, call).await;
        let life = Life::begin(&fake, dir, std::slice::from_ref(&aside_first));
        life.converged(&aside_first).await;
        assert!(is_set_aside(dir), "{call}");
        assert_eq!(fake.running(), Vec::<String>::new());
        life.end().await;
        let back = running(&aside_first, Before::Return(RESTORE));
        done &= dies(&fake, dir, &back, call).await;
        let life = Life::begin(&fake, dir, std::slice::from_ref(&back));
        life.converged(&back).await;
        assert_one_running_stack(&fake, "alfa");
        assert_eq!(fake.database_keys("alfa"), Some(keys), "{call}");
        assert!(!aside(dir).exists());
        life.end().await;
        if done {
            assert!(call > 4, "{call}");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_restored_runs_and_what_was_before_comes_back_or_goes_on_order() {
    for returns in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let fake = FakeDocker::new(dir, 1);
        let (plan, keys) = lived(&fake, dir).await;
        let restores = restoring(&plan);
        let mut life = Life::begin(&fake, dir, std::slice::from_ref(&restores));
        life.converged(&restores).await;
        restore(&life, &restores, dir);
        let kept = running(&restores, Before::Keep(RESTORE));
        life.plan(std::slice::from_ref(&kept));
        life.converged(&kept).await;
        assert_one_running_stack(&fake, "alfa");
        let restored = fake.database_keys("alfa").unwrap();
        assert!(restored.starts_with(&keys) && restored != keys);
        assert!(aside(dir).join("pgdata/PG_VERSION").exists());
        let (order, expected) = match returns {
            true => (Before::Return(RESTORE), keys),
            false => (Before::Remove(RESTORE), restored),
        };
        let last = running(&kept, order);
        life.plan(std::slice::from_ref(&last));
        life.converged(&last).await;
        assert_one_running_stack(&fake, "alfa");
        assert_eq!(fake.database_keys("alfa"), Some(expected));
        assert!(!aside(dir).exists());
        life.end().await;
    }
}

/// The order to return comes when somebody has taken away by hand what was set aside: then what is here is all that there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_removed_for_what_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let fake = FakeDocker::new(dir, 1);
    let (plan, _) = lived(&fake, dir).await;
    let restores = restoring(&plan);
    let mut life = Life::begin(&fake, dir, std::slice::from_ref(&restores));
    life.converged(&restores).await;
    restore(&life, &restores, dir);
    let kept = running(&restores, Before::Keep(RESTORE));
    life.plan(std::slice::from_ref(&kept));
    life.converged(&kept).await;
    let restored = fake.database_keys("alfa").unwrap();
    std::fs::remove_dir_all(aside(dir).join("odoo")).unwrap();
    let back = running(&kept, Before::Return(RESTORE));
    life.plan(std::slice::from_ref(&back));
    life.wait("the refusal", |life| {
        let status = life.status("alfa");
        status.is_some_and(|status| status.message.contains("nothing is changed"))
    })
    .await;
    assert_eq!(fake.database_keys("alfa"), Some(restored));
    assert!(aside(dir).join("pgdata/PG_VERSION").exists());
    life.end().await;
}
