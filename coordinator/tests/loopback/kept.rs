//! What leaves a bucket and what does not, whatever is lost on this machine; and what comes from where it is still.
//!
//! Not here: what goes there (buckets), what is removed with a deleted tenant's key (removed).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use isyone_bucket::testing::{Server, Trouble};
use isyone_coordinator::base::config::{Bytes, Config, Span};
use isyone_proto::pb::v1::{self, backup_service_client::BackupServiceClient};

use crate::{
    buckets::{World, bucket, copies_to, files, is_good, within},
    support::{soon, start_in_with},
};

/// The names of the snapshots in a repository's folder.
fn snapshots(folder: &Path) -> BTreeSet<String> {
    let all = files(&folder.join("snapshots")).into_iter();
    let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    all.map(name).collect()
}

/// Only the newest stays, and what was ordered; at once.
fn keeps_one(config: &mut Config) {
    let backup = &mut config.backup;
    (backup.keep_last, backup.keep_daily) = (1, 0);
    (backup.keep_weekly, backup.keep_monthly) = (0, 0);
    (backup.every_second, backup.on_purpose) = (Span::seconds(0), Span::seconds(0));
}

/// Fails if what is lost here is taken from the bucket, or if what is pruned here stays there.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_pruned_here_leaves_the_bucket_and_what_is_lost_here_does_not() {
    let mut world = World::with(keeps_one).await;
    let mut made: Vec<String> = Vec::new();
    for number in 1..=4 {
        world.write(number);
        let all = snapshots(&world.folder()).into_iter();
        let new: Vec<String> = all.filter(|name| !made.contains(name)).collect();
        made.extend(new);
        if number == 1 {
            world.made().await;
        }
    }
    world.copied(4).await;
    // The first was ordered, and the last would be kept, were it here.
    fs::remove_file(world.folder().join("snapshots").join(&made[3])).unwrap();
    // Nothing goes while the bucket lets nobody remove, which is no error.
    world.server.has(Trouble::Locked);
    assert_eq!(pruned(&world).await[0], made[1]);
    let shown = within("it is not said to keep all", async || {
        Some(bucket(&world.fixture).await).filter(|shown| shown.keeps_all)
    });
    assert_eq!(shown.await.failure, "");
    assert_eq!(snapshots(&world.there()).len(), 4);
    world.server.has(Trouble::None);
    assert!(pruned(&world).await.is_empty());
    let expected = BTreeSet::from([&made[0], &made[2], &made[3]].map(String::clone));
    within("it is not pruned there", async || {
        (snapshots(&world.there()) == expected).then_some(())
    })
    .await;
    let shown = within("it is not said", async || {
        Some(bucket(&world.fixture).await).filter(|shown| shown.only_there == 1)
    });
    assert!(!shown.await.keeps_all);
    assert!(is_good(&world.there(), &world.key));
    a_disk_that_is_not_mounted_has_lost_nothing(&world, &expected).await;
    what_the_bucket_has_lost_is_brought_there_again(world).await;
}

/// Prunes on order; the snapshots that are forgotten.
async fn pruned(world: &World) -> Vec<String> {
    let mut client = BackupServiceClient::new(world.fixture.admin.clone());
    let request = v1::PruneBackupsRequest {
        tenant: "alfa".to_owned(),
        ..v1::PruneBackupsRequest::default()
    };
    let pruned = soon(client.prune_backups(request)).await.unwrap();
    let forgotten = pruned.into_inner().destinations.remove(0).forgotten;
    forgotten.into_iter().map(|snapshot| snapshot.id).collect()
}

/// Nothing is made in its place, and nothing leaves the bucket.
async fn a_disk_that_is_not_mounted_has_lost_nothing(world: &World, there: &BTreeSet<String>) {
    let disk = world.folder().parent().unwrap().to_owned();
    let away = disk.with_file_name("away");
    fs::rename(&disk, &away).unwrap();
    // Longer than two turns.
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(!disk.exists());
    assert_eq!(bucket(&world.fixture).await.failure, "");
    assert_eq!(snapshots(&world.there()), *there);
    fs::rename(&away, &disk).unwrap();
}

/// At the next start, which compares everything.
async fn what_the_bucket_has_lost_is_brought_there_again(world: World) {
    let data = world.there().join("data");
    let before = files(&data);
    // One that is here, too.
    let here = |path: &&PathBuf| {
        let below = path.strip_prefix(&data).unwrap();
        world.folder().join("data").join(below).exists()
    };
    fs::remove_file(before.iter().find(here).unwrap()).unwrap();
    let dir = world.fixture.dir.clone();
    world.fixture.running.stop().await;
    let again = start_in_with(dir, |config| {
        copies_to(config, &world.server);
        keeps_one(config);
    })
    .await;
    within("it is not brought there again", async || {
        (files(&data) == before).then_some(())
    })
    .await;
    let dir = again.dir.clone();
    again.running.stop().await;
    what_does_not_fit_is_not_brought_back(&world.server, dir, &world.uid).await;
}

/// Besides what is to stay free on the disk.
async fn what_does_not_fit_is_not_brought_back(
    server: &Server,
    dir: Arc<tempfile::TempDir>,
    uid: &str,
) {
    let backups = dir.path().join("data/backups");
    fs::remove_dir_all(backups.join(uid)).unwrap();
    let again = start_in_with(dir, |config| {
        copies_to(config, server);
        for destination in config.backup.destinations.values_mut() {
            destination.reserve = Bytes::gib(1 << 20);
        }
    })
    .await;
    let shown = within("it is not said", async || {
        let shown = bucket(&again).await;
        Some(shown).filter(|shown| shown.failure.contains("so much is not free"))
    });
    assert_eq!(shown.await.waiting, 1);
    assert!(!backups.join(uid).exists());
    again.running.stop().await;
}
