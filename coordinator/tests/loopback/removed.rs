//! What is left of a deleted tenant once its key is: nothing in a bucket, also when something is being copied there at that moment, when
//! the bucket is away, and when it lets nobody remove anything; and no key, in whatever file.
//!
//! Not here: when a key is deleted (isyone-fleet), what SQLite keeps of it (unit tests of the store).

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use isyone_bucket::testing::Trouble;
use isyone_coordinator::base::config::{Config, Span};
use isyone_proto::{
    pb::{agent::v1::TenantStatus, v1},
    plan::{DesiredState, TenantPlan},
};

use crate::{
    buckets::{World, bucket, copies_to, files, within},
    support::{converged, start_in_with},
};

/// Nothing is kept of a deleted tenant, and no clock is waited for.
fn at_once(config: &mut Config) {
    config.lifecycle.clock_hold = Span::seconds(1);
    config.backup.on_purpose = Span::seconds(1);
    // What nobody has ordered is not forgotten meanwhile.
    config.backup.keep_last = 100;
}

/// As an agent says that nothing runs, or that nothing is left.
fn status(tenant: &TenantPlan, absent: bool) -> TenantStatus {
    TenantStatus {
        containers: Vec::new(),
        absent,
        ..converged(tenant)
    }
}

/// Deletes `alfa`, and then for good; its host does what it is told.
async fn purge(world: &mut World) {
    for (purge, desired) in [
        (false, DesiredState::Quarantined),
        (true, DesiredState::Purged),
    ] {
        let request = v1::DeleteTenantRequest {
            name: "alfa".into(),
            purge,
            cancel_running: true,
            ..v1::DeleteTenantRequest::default()
        };
        world
            .fixture
            .tenants()
            .delete_tenant(request)
            .await
            .unwrap();
        let is_so = |tenant: &TenantPlan| tenant.desired == desired;
        let plan = world.agent.plan_that(|plan| plan.tenants.iter().any(is_so));
        let plan = plan.await;
        let told = plan.tenants.iter().find(|tenant| is_so(tenant)).unwrap();
        world.agent.report(vec![status(told, purge)]).await;
    }
    within("its key is not deleted", async || {
        let state = world.fixture.running.handle.snapshot();
        state.fleet.backup_keys.is_empty().then_some(())
    })
    .await;
}

/// Until the coordinator has nothing more to remove.
async fn removed(world: &World) {
    within("its backups are not removed", async || {
        let state = world.fixture.running.handle.snapshot();
        state.fleet.backups.is_empty().then_some(())
    })
    .await;
    assert!(!world.folder().exists());
}

/// The files that have one of these in them.
fn with_any(directory: &Path, needles: &[Vec<u8>]) -> Vec<PathBuf> {
    let has = |path: &PathBuf| {
        let content = fs::read(path).unwrap_or_default();
        let is_there = |needle: &Vec<u8>| content.windows(needle.len()).any(|part| part == needle);
        needles.iter().any(is_there)
    };
    files(directory).into_iter().filter(has).collect()
}

/// Fails if a copy that is under way when a deleted tenant's repository is removed leaves files in the bucket.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_under_way_leaves_nothing_of_a_tenant_whose_key_is_deleted() {
    let mut world = World::with(at_once).await;
    // So much that it is still being copied when it is removed, some 10 s after its key: some 60 files.
    world.server.has(Trouble::Slow(Duration::from_millis(700)));
    (1..=20).for_each(|number| world.write(number));
    // Nobody looks at it before.
    world.made().await;
    within("nothing is copied", async || {
        (!files(&world.there()).is_empty()).then_some(())
    })
    .await;
    purge(&mut world).await;
    removed(&world).await;
    // What was on its way would have come by now.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!(files(&world.there()).is_empty());
    let shown = bucket(&world.fixture).await;
    assert_eq!((&*shown.failure, shown.waiting), ("", 0));
    assert!(!shown.keeps_all);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_lets_nobody_remove_is_said_and_asked_once() {
    let mut world = World::with(at_once).await;
    world.write(1);
    world.made().await;
    world.copied(1).await;
    world.server.has(Trouble::Locked);
    purge(&mut world).await;
    removed(&world).await;
    let asked = world.server.removes();
    assert!(asked > 0 && !files(&world.there()).is_empty());
    // Longer than one turn of each loop.
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(world.server.removes(), asked);
    let shown = bucket(&world.fixture).await;
    assert!(shown.keeps_all && shown.failure.is_empty(), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_was_away_loses_the_repository_when_it_is_back() {
    let mut world = World::with(at_once).await;
    world.write(1);
    world.made().await;
    world.copied(1).await;
    world.server.has(Trouble::Away);
    purge(&mut world).await;
    within("it is not removed here", async || {
        (!world.folder().exists()).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let state = world.fixture.running.handle.snapshot();
    assert_eq!(state.fleet.backups.len(), 1, "it is to be removed still");
    assert!(!files(&world.there()).is_empty());
    let dir = world.fixture.dir.clone();
    world.fixture.running.stop().await;
    world.server.has(Trouble::None);
    // A restart tries again at once.
    world.fixture = start_in_with(dir, |config| {
        copies_to(config, &world.server);
        at_once(config);
    })
    .await;
    removed(&world).await;
    assert!(files(&world.there()).is_empty());
}

/// While the coordinator runs, as somebody would find its disk, the destination and the bucket.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_key_is_in_no_file_of_the_coordinator_of_a_destination_or_of_a_bucket() {
    let mut world = World::with(at_once).await;
    world.write(1);
    world.made().await;
    world.copied(1).await;
    let running = &world.fixture.running;
    let state = running.handle.snapshot();
    let record = state.fleet.backup_keys.values().next().unwrap().clone();
    let key = running.sealer.open_backup_key(&record).unwrap();
    let (data, bucket) = (world.fixture.dir.path().join("data"), world.server.files());
    let shipped = [
        data.join("backups/coordinator/keys"),
        bucket.join("coordinator/keys"),
    ];
    within("its key is not shipped", async || {
        shipped.iter().all(|file| file.exists()).then_some(())
    })
    .await;
    // What is sealed differs with each writing, so the files themselves are looked for.
    let mut needles = vec![
        record.key.0.as_bytes().to_vec(),
        key.expose().as_bytes().to_vec(),
        key.bytes().to_vec(),
    ];
    for file in &shipped {
        let content = fs::read(file).unwrap();
        // After the first line, and what says how long the frame is.
        let head = content.iter().position(|byte| *byte == b'\n').unwrap();
        needles.push(content[head + 6..head + 70].to_vec());
    }
    let found = |world: &World| {
        let mut found = with_any(world.fixture.dir.path(), &needles);
        found.extend(with_any(&world.server.files(), &needles));
        found
    };
    let before = found(&world);
    assert!(
        before.len() >= 3,
        "database, destination, bucket: {before:?}"
    );
    purge(&mut world).await;
    removed(&world).await;
    // The log of the database has it no more at once; what was shipped follows within 10 s.
    within("its key is somewhere", async || {
        let found = found(&world);
        if !found.is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        found.is_empty().then_some(())
    })
    .await;
}
