//! Where tenants' data lies, over a fake engine: a prune takes records and no data, data of volumes made by earlier
//! versions moves into the tenant's home, and the agent may die at every call of either.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use isyone_agent::{
    host::Pace,
    plan::container::{LABEL_TENANT, LABEL_UID},
    testing::{
        fake_docker::{FakeDocker, Faults},
        tenant_plan,
    },
};
use isyone_proto::{
    plan::{DesiredState, TenantPlan, WalSpool},
    report::TenantProgress,
};

use super::life::{Life, assert_one_running_stack};

const STOPPED: [DesiredState; 2] = [DesiredState::Suspended, DesiredState::Quarantined];

fn home(dir: &Path, tenant: &str) -> PathBuf {
    dir.join("isyone/tenants").join(tenant)
}

fn next(plan: &mut TenantPlan, desired: DesiredState) {
    plan.desired = desired;
    plan.generation += 1;
}

/// A tenant that has run and is now `desired`.
async fn lived(fake: &Arc<FakeDocker>, dir: &Path, desired: DesiredState) -> (TenantPlan, String) {
    let mut plan = tenant_plan("alfa");
    let mut life = Life::begin(fake, dir, std::slice::from_ref(&plan));
    life.converged(&plan).await;
    next(&mut plan, desired);
    life.plan(std::slice::from_ref(&plan));
    life.converged(&plan).await;
    life.end().await;
    (plan, fake.database_keys("alfa").expect("a database"))
}

/// Makes its volumes what earlier versions made: Docker's own directories.
fn as_before(fake: &FakeDocker, dir: &Path, plan: &TenantPlan) {
    for (volume, name) in [("pgdata_alfa", "pgdata"), ("odoo_data_alfa", "odoo")] {
        let labels = [
            (LABEL_TENANT, plan.name.to_string()),
            (LABEL_UID, plan.uid.to_string()),
        ];
        let labels = labels.map(|(key, value)| (key.to_owned(), value));
        fake.find_volume(volume, HashMap::from(labels));
        let own = dir.join("volumes").join(volume).join("_data");
        let _ = std::fs::remove_dir_all(&own);
        std::fs::create_dir_all(own.parent().unwrap()).unwrap();
        std::fs::rename(home(dir, "alfa").join(name), own).unwrap();
    }
    std::fs::remove_dir_all(home(dir, "alfa")).unwrap();
}

fn has_moved(fake: &FakeDocker, dir: &Path) -> bool {
    let own = dir.join("volumes/pgdata_alfa/_data/PG_VERSION");
    let home = home(dir, "alfa");
    let (_, _, volumes) = fake.things();
    home.join("pgdata/PG_VERSION").exists()
        && home.join("odoo/filestore").exists()
        && !own.exists()
        && volumes.len() == 2
}

fn repairs(life: &Life) -> u64 {
    life.status("alfa").map_or(0, |s| s.volume_repairs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_takes_records_and_no_data_and_is_told_once() {
    for desired in STOPPED {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeDocker::new(dir.path(), 1);
        let (mut plan, keys) = lived(&fake, dir.path(), desired).await;
        let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
        life.converged(&plan).await;
        assert_eq!(repairs(&life), 0);
        for prunes in 1..=2 {
            fake.prune();
            life.wait("the records", |l| {
                fake.things().2.len() == 2 && repairs(l) == prunes
            })
            .await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(repairs(&life), 2, "one for each prune");
        assert_eq!(fake.database_keys("alfa"), Some(keys.clone()));
        next(&mut plan, DesiredState::Running);
        life.plan(std::slice::from_ref(&plan));
        life.converged(&plan).await;
        assert_one_running_stack(&fake, "alfa");
        assert_eq!(fake.database_keys("alfa"), Some(keys));
        life.end().await;
    }
}

/// While the agent is away, and then at every call: what is gone is put back, counted once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dying_while_records_are_put_back_tells_it_once() {
    for call in 1.. {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeDocker::new(dir.path(), 1);
        let (mut plan, keys) = lived(&fake, dir.path(), DesiredState::Suspended).await;
        fake.prune();
        next(&mut plan, DesiredState::Running);
        fake.die_at(Some(call));
        let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
        tokio::select! {
            () = fake.died() => {}
            () = life.converged(&plan) => {}
        }
        let done = fake.things().2.len() == 2;
        life.end().await;
        fake.die_at(None);
        let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
        life.converged(&plan).await;
        assert_one_running_stack(&fake, "alfa");
        assert_eq!(fake.database_keys("alfa"), Some(keys));
        assert_eq!(repairs(&life), 1, "call {call}");
        life.end().await;
        if done {
            assert!(call > 4, "{call}");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dying_at_every_call_of_a_move_costs_no_data_and_tells_nothing() {
    for desired in [STOPPED[0], STOPPED[1], DesiredState::Running] {
        for call in 1.. {
            let dir = tempfile::tempdir().unwrap();
            let fake = FakeDocker::new(dir.path(), call);
            let (mut plan, keys) = lived(&fake, dir.path(), DesiredState::Suspended).await;
            as_before(&fake, dir.path(), &plan);
            next(&mut plan, desired);
            fake.die_at(Some(call));
            let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
            tokio::select! {
                () = fake.died() => {}
                () = life.converged(&plan) => {}
            }
            let done = has_moved(&fake, dir.path());
            life.end().await;
            fake.die_at(None);
            let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
            life.converged(&plan).await;
            assert!(has_moved(&fake, dir.path()), "{desired:?} {call}");
            next(&mut plan, DesiredState::Running);
            life.plan(std::slice::from_ref(&plan));
            life.converged(&plan).await;
            assert_one_running_stack(&fake, "alfa");
            assert_eq!(fake.database_keys("alfa"), Some(keys));
            assert_eq!(repairs(&life), 0);
            life.end().await;
            if done {
                assert!(call > 4, "{call}");
                break;
            }
        }
    }
}

/// It died after it had noted the move and before it had moved anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_was_only_noted_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let (plan, keys) = lived(&fake, dir.path(), DesiredState::Suspended).await;
    as_before(&fake, dir.path(), &plan);
    let file = dir.path().join("agent/tenants/alfa/state.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let noted = text.replace("\"recording\": false", "\"recording\": true");
    assert_ne!(noted, text);
    std::fs::write(&file, noted).unwrap();
    let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.wait("the move", |_| has_moved(&fake, dir.path()))
        .await;
    life.converged(&plan).await;
    fake.prune();
    life.wait("the records", |l| {
        repairs(l) == 1 && fake.things().2.len() == 2
    })
    .await;
    assert_eq!(fake.database_keys("alfa"), Some(keys));
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_and_lost_answers_cost_a_move_only_time() {
    for seed in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeDocker::new(dir.path(), seed * 7919 + 1);
        let (plan, keys) = lived(&fake, dir.path(), STOPPED[seed as usize % 2]).await;
        as_before(&fake, dir.path(), &plan);
        fake.set_faults(Faults {
            refused: 250,
            answer_lost: 150,
            ..Faults::default()
        });
        let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
        life.wait("the move", |_| has_moved(&fake, dir.path()))
            .await;
        life.converged(&plan).await;
        assert_eq!(fake.database_keys("alfa"), Some(keys));
        assert_eq!(repairs(&life), 0);
        life.end().await;
    }
}

/// It runs on while it runs, and moves when its database is restarted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_tenant_moves_when_an_operator_restarts_its_database() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let (mut plan, keys) = lived(&fake, dir.path(), DesiredState::Suspended).await;
    as_before(&fake, dir.path(), &plan);
    fake.set_local(false); // so that it is not moved before it runs
    next(&mut plan, DesiredState::Running);
    let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    life.end().await;
    fake.set_local(true);
    let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    assert!(!has_moved(&fake, dir.path()));
    for (odoo, moved) in [(1, false), (2, true)] {
        plan.odoo_restarts = odoo;
        plan.postgres_restarts += u64::from(moved);
        plan.generation += 1;
        life.plan(std::slice::from_ref(&plan));
        life.converged(&plan).await;
        assert_eq!(has_moved(&fake, dir.path()), moved);
        assert_one_running_stack(&fake, "alfa");
    }
    assert_eq!(fake.database_keys("alfa"), Some(keys));
    life.end().await;
}

/// Somebody's own container holds the volume: the data goes back, and the tenant runs as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_in_use_stays_where_it_is_and_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let (mut plan, keys) = lived(&fake, dir.path(), DesiredState::Suspended).await;
    as_before(&fake, dir.path(), &plan);
    fake.hold_volume("pgdata_alfa");
    let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    let own = dir.path().join("volumes/pgdata_alfa/_data/PG_VERSION");
    assert!(own.exists() && !home(dir.path(), "alfa").join("pgdata").exists());
    next(&mut plan, DesiredState::Running);
    life.plan(std::slice::from_ref(&plan));
    life.converged(&plan).await;
    assert_eq!(fake.running().len(), 2);
    assert_eq!(fake.database_keys("alfa"), Some(keys));
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_tenants_home_is_never_used_nor_removed() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let (former, keys) = lived(&fake, dir.path(), DesiredState::Quarantined).await;
    fake.prune();
    let mut plan = TenantPlan {
        uid: uuid::Uuid::from_u128(9),
        ..tenant_plan("alfa")
    };
    let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.wait("the refusal", |l| {
        let status = l.status("alfa");
        status.is_some_and(|s| {
            s.progress == TenantProgress::Failing && s.message.contains("belongs to another tenant")
        })
    })
    .await;
    assert_eq!(fake.things().2, Vec::<String>::new());
    next(&mut plan, DesiredState::Purged);
    plan.purge_now = true;
    life.plan(std::slice::from_ref(&plan));
    life.wait("absence", |l| l.status("alfa").is_some_and(|s| s.absent))
        .await;
    life.end().await;
    let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&former));
    life.converged(&former).await;
    assert_eq!(fake.database_keys("alfa"), Some(keys));
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_that_is_gone_is_never_filled_again() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let (mut plan, keys) = lived(&fake, dir.path(), DesiredState::Suspended).await;
    let away = dir.path().join("away");
    std::fs::rename(home(dir.path(), "alfa"), &away).unwrap();
    next(&mut plan, DesiredState::Running);
    let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    let says = |l: &Life, text: &str| l.status("alfa").is_some_and(|s| s.message.contains(text));
    life.wait("the refusal", |l| says(l, "is not there, and it holds"))
        .await;
    fake.prune();
    life.wait("the refusal", |l| says(l, "and with it this tenant's data"))
        .await;
    std::fs::rename(&away, home(dir.path(), "alfa")).unwrap();
    life.converged(&plan).await;
    assert_one_running_stack(&fake, "alfa");
    assert_eq!(fake.database_keys("alfa"), Some(keys));
    life.end().await;
}

/// Without its own memory the agent knows the tenant's data by the mark in its home.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_memory_and_lost_records_together_cost_no_data() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let (mut plan, keys) = lived(&fake, dir.path(), DesiredState::Suspended).await;
    fake.prune();
    std::fs::remove_dir_all(dir.path().join("agent/tenants/alfa")).unwrap();
    next(&mut plan, DesiredState::Running);
    let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    assert_one_running_stack(&fake, "alfa");
    assert_eq!(fake.database_keys("alfa"), Some(keys));
    life.end().await;
}

/// Told another directory, the agent keeps new tenants there, and the others where they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_stays_where_its_data_was_put_first() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let (alfa, keys) = lived(&fake, dir.path(), DesiredState::Suspended).await;
    fake.prune();
    let disk = dir.path().join("disk");
    let on_disk = || Life::host(Pace::hasty(), &fake, dir.path()).keep_data_in(&disk);
    assert!(on_disk().is_err(), "it is not mounted");
    std::fs::create_dir(&disk).unwrap();
    let beta = tenant_plan("beta");
    let both = [alfa.clone(), beta.clone()];
    let life = Life::begin_on(on_disk().unwrap(), &both);
    life.converged(&beta).await;
    life.converged(&alfa).await;
    assert_eq!(fake.database_keys("alfa"), Some(keys));
    assert!(home(dir.path(), "alfa").exists() && !home(dir.path(), "beta").exists());
    assert!(disk.join("tenants/beta/pgdata/PG_VERSION").exists());
    assert!(disk.join("spares").exists() && !disk.join("tenants/alfa").exists());
    life.end().await;
    let life = Life::begin(&fake, dir.path(), &both);
    life.converged(&beta).await;
    assert_one_running_stack(&fake, "beta");
    life.end().await;
}

/// What is at the place of a disk that is not mounted is not the disk: nothing starts there and nothing is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_not_mounted_is_not_taken_for_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let (disk, unmounted) = (dir.path().join("disk"), dir.path().join("unmounted"));
    let on_disk = || Life::host(Pace::hasty(), &fake, dir.path()).keep_data_in(&disk);
    std::fs::create_dir(&disk).unwrap();
    let (alfa, beta) = (tenant_plan("alfa"), tenant_plan("beta"));
    let life = Life::begin_on(on_disk().unwrap(), std::slice::from_ref(&alfa));
    life.converged(&alfa).await;
    life.end().await;
    let keys = fake.database_keys("alfa");
    for container in ["odoo_alfa", "postgres_alfa"] {
        fake.kill(container, 137);
    }
    std::fs::rename(&disk, &unmounted).unwrap();
    std::fs::create_dir(&disk).unwrap();
    let life = Life::begin_on(on_disk().unwrap(), &[alfa.clone(), beta.clone()]);
    for tenant in ["alfa", "beta"] {
        life.wait("the reason", |l| {
            l.status(tenant).is_some_and(|s| {
                s.progress == TenantProgress::Failing && s.message.contains("Mount its disk")
            })
        })
        .await;
    }
    assert_eq!(std::fs::read_dir(&disk).unwrap().count(), 0);
    std::fs::remove_dir(&disk).unwrap();
    std::fs::rename(&unmounted, &disk).unwrap();
    life.converged(&alfa).await;
    life.converged(&beta).await;
    assert_eq!(fake.database_keys("alfa"), keys);
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_leaves_no_directory() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    for before in [false, true] {
        let (mut plan, _) = lived(&fake, dir.path(), DesiredState::Quarantined).await;
        if before {
            as_before(&fake, dir.path(), &plan);
        }
        next(&mut plan, DesiredState::Purged);
        plan.purge_now = true;
        let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
        life.wait("absence", |l| l.status("alfa").is_some_and(|s| s.absent))
            .await;
        assert!(!home(dir.path(), "alfa").exists());
        assert!(!dir.path().join("volumes/pgdata_alfa/_data").exists());
        assert_eq!(fake.things(), (vec![], vec![], vec![]));
        life.end().await;
    }
}

/// PostgreSQL's image would begin a new cluster there: the tenant waits for a person, and runs once its data is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_starts_on_an_empty_directory_that_held_a_database() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let (mut plan, keys) = lived(&fake, dir.path(), DesiredState::Suspended).await;
    let (place, aside) = (
        home(dir.path(), "alfa").join("pgdata"),
        dir.path().join("x"),
    );
    std::fs::rename(&place, &aside).unwrap();
    std::fs::create_dir_all(place.join("lost+found")).unwrap();
    next(&mut plan, DesiredState::Running);
    let life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.wait("the reason", |l| {
        let status = l.status("alfa");
        status.is_some_and(|s| s.message.contains("pgdata is empty"))
    })
    .await;
    assert!(!place.join("PG_VERSION").exists());
    std::fs::remove_dir_all(&place).unwrap();
    std::fs::rename(&aside, &place).unwrap();
    life.converged(&plan).await;
    assert_eq!(fake.database_keys("alfa"), Some(keys));
    life.end().await;
}

/// Fails if PostgreSQL is not told that its log is shipped from now on, or if it is stopped for that.
#[tokio::test]
async fn shipping_begins_and_ends_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 1);
    let mut plan = tenant_plan("alfa");
    let mut life = Life::begin(&fake, dir.path(), std::slice::from_ref(&plan));
    life.converged(&plan).await;
    assert!(home(dir.path(), "alfa").join("wal").is_dir());
    let file = dir.path().join("agent/tenants/alfa/postgres/isyone.conf");
    let ships = || {
        std::fs::read_to_string(&file)
            .unwrap()
            .contains("archive \"%p\"")
    };
    let count = |what: &str| fake.log().iter().filter(|l| l.starts_with(what)).count();
    assert!(!ships());
    for (spool, restarts) in [
        (Some(WalSpool::default()), 0),
        (None, 0),
        (Some(WalSpool::default()), 1),
    ] {
        let (told, made) = (count("exec postgres_alfa"), count("start postgres_alfa"));
        plan.wal_spool = spool;
        plan.postgres_restarts = restarts;
        plan.generation += 1;
        life.plan(std::slice::from_ref(&plan));
        life.converged(&plan).await;
        assert_eq!(ships(), spool.is_some());
        assert_eq!(count("start postgres_alfa") - made, restarts as usize);
        // A checkpoint follows a start: until the first one has ended no segment is finished for its time.
        assert_eq!(count("exec postgres_alfa") - told, 1 + restarts as usize);
    }
    life.end().await;
    assert_one_running_stack(&fake, "alfa");
}
