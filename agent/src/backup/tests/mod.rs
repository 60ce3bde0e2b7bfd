//! Backups as a whole, over a tenant and destinations that do as they are told: what lies in the repositories in the end.
//!
//! Not here: those (world), the service (remote), PostgreSQL (the end-to-end tests).

mod local;
mod proven;
mod real;
mod restored;
mod world;

use std::{fs, sync::atomic::Ordering};

use isyone_backup::Purpose;
use isyone_proto::backup::{BackupWork, Fault};

use self::world::{MIB, PLENTY, World, size, why};
use super::record::Records;
use crate::base::clock::now_ms;

#[tokio::test(flavor = "multi_thread")]
async fn a_base_and_what_follows_are_all_that_a_restore_takes() {
    let world = World::new();
    world.tenant.attach("abc");
    world.tenant.write();
    assert!(
        world.ship().await.is_ok(),
        "without a base nothing is shipped"
    );
    assert_eq!(
        world.tenant.waiting(),
        Vec::<String>::new(),
        "and nothing is kept"
    );
    let first = size().of(1, world.tenant.segment.load(Ordering::SeqCst) * MIB);
    let made = world.job(BackupWork::Base, "own").await.unwrap();
    let needs = made.segments.unwrap();
    assert_eq!(
        (needs.first, made.work, made.counts.attachments),
        (first, BackupWork::Base, 3)
    );
    let snapshots = world.snapshots("own");
    assert_eq!(snapshots.len(), 1);
    assert_eq!(snapshots[0].purpose, Some(Purpose::Base));
    assert_eq!(
        snapshots[0].parts,
        ["database.tar", "filestore", "manifest.json", "wal"]
    );
    assert!(
        snapshots[0].tags.contains(&"label:nightly".to_owned()),
        "{:?}",
        snapshots[0].tags
    );
    world.tenant.attach("def");
    let last = world.tenant.write();
    world.ship().await.unwrap();
    assert_eq!(world.names("own", "filestore/ab"), ["abc", "def"]);
    let all: Vec<String> = [first, needs.last, last]
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut all = all;
    all.dedup();
    assert_eq!(world.names("own", "wal"), all);
    let report = world.at("own");
    assert_eq!(
        (report.base_at, report.shipped),
        (Some(made.at), Some(last))
    );
    assert!(report.shipped_to.is_some() && report.trouble.is_none() && report.gap_since.is_none());
    // A shipment is a handful of small files: a segment that is nearly empty, its folders, the index, the snapshot.
    let before = world.stored("own");
    world.tenant.write();
    world.ship().await.unwrap();
    let (files, bytes) = world.stored("own");
    assert!(
        files - before.0 <= 5 && bytes - before.1 < 20_000,
        "{before:?} {files} {bytes}"
    );
    // An idle tenant costs nothing.
    tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    world.ship().await.unwrap();
    let count = world.snapshots("own").len();
    world.ship().await.unwrap();
    assert_eq!(world.snapshots("own").len(), count);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_dies_leaves_no_snapshot_and_the_next_attempt_goes_on() {
    let world = World::new();
    world.tenant.dies.store(true, Ordering::SeqCst);
    let said = why(world.job(BackupWork::Base, "own").await);
    assert!(
        said.contains("database.tar could not be read") && said.contains("code 1"),
        "{said}"
    );
    assert_eq!(world.snapshots("own"), []);
    let (chain, _) = world
        .backups
        .site(world.plan.uid, &"own".parse().unwrap())
        .chain()
        .await
        .unwrap();
    assert_eq!((chain.begun, chain.base), (None, None));
    world.tenant.dies.store(false, Ordering::SeqCst);
    world.job(BackupWork::Base, "own").await.unwrap();
    assert_eq!(world.snapshots("own").len(), 1);
}

/// Fails if the tenants of a version before are copied for nothing, again and again, or if nobody is told what ends that.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_archives_nothing_yet_has_bases_that_stand_alone() {
    let world = World::new();
    world.tenant.is_old.store(true, Ordering::SeqCst);
    std::fs::remove_dir(world.tenant.spool()).unwrap();
    let made = world.job(BackupWork::Base, "own").await.unwrap();
    assert_eq!(made.segments, None);
    let said = world.ship().await.unwrap_err().message;
    assert!(said.contains("restart alfa --with-database`"), "{said}");
    std::fs::create_dir(world.tenant.spool()).unwrap();
    world.tenant.is_old.store(false, Ordering::SeqCst);
    world.ship().await.unwrap();
    let alone = world.at("own").shipped_to;
    assert!(alone <= Some(made.at), "nothing follows it: {alone:?}");
    world.tenant.write();
    let made = world.job(BackupWork::Base, "own").await.unwrap();
    assert!(made.segments.is_some());
    world.job(BackupWork::Ship, "own").await.unwrap();
    assert!(world.at("own").shipped_to > alone);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_without_its_log_is_none() {
    let world = World::new();
    world.tenant.lets_go.store(true, Ordering::SeqCst);
    let said = why(world.job(BackupWork::Base, "own").await);
    assert!(said.contains("which it needs, is missing"), "{said}");
    assert_eq!(world.snapshots("own"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_is_said_and_the_next_base_makes_it_good() {
    let world = World::new();
    world.job(BackupWork::Base, "own").await.unwrap();
    world.tenant.lets_go.store(true, Ordering::SeqCst);
    world.tenant.write();
    world.tenant.lets_go.store(false, Ordering::SeqCst);
    world.tenant.write();
    world.ship().await.unwrap();
    let report = world.at("own");
    assert!(
        report.gap_since.is_some() && report.base_at.is_some(),
        "{report:?}"
    );
    let refused = why(world.job(BackupWork::Ship, "own").await);
    assert!(refused.contains("no base backup"), "{refused}");
    world.job(BackupWork::Base, "own").await.unwrap();
    world.ship().await.unwrap();
    assert_eq!(world.at("own").gap_since, None);
}

/// A move of a tenant that runs ends with a promotion. Where nothing is known of it, nothing is shipped before its next base anyway; here it
/// comes back to where it has lived before.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_comes_with_another_timeline_is_shipped_from_its_next_base_on() {
    let world = World::new();
    world.job(BackupWork::Base, "own").await.unwrap();
    let old = world.tenant.write();
    world.ship().await.unwrap();
    assert_eq!(world.at("own").shipped, Some(old));
    world.tenant.write();
    world.tenant.promote();
    let promised = world.at("own").shipped_to;
    world.ship().await.unwrap();
    assert_eq!(
        world.at("own").shipped_to,
        promised,
        "what is there does not lead to where it is now"
    );
    world.tenant.write();
    world.ship().await.unwrap();
    let report = world.at("own");
    assert!(report.gap_since.is_some(), "{report:?}");
    let refused = why(world.job(BackupWork::Ship, "own").await);
    assert!(refused.contains("no base backup"), "{refused}");
    let made = world.job(BackupWork::Base, "own").await.unwrap();
    assert_eq!(made.segments.unwrap().first.timeline, 2);
    let last = world.tenant.write();
    world.ship().await.unwrap();
    let report = world.at("own");
    assert_eq!((report.gap_since, report.shipped), (None, Some(last)));
    assert!(report.shipped_to > promised, "{report:?}");
    let names = world.names("own", "wal");
    assert!(names.contains(&"00000002.history".to_owned()), "{names:?}");
    let waiting = world.tenant.waiting();
    let is_new = |name: &String| name.starts_with("00000002");
    assert!(waiting.iter().all(is_new), "{waiting:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archiver_that_stands_still_is_said_and_an_idle_one_is_not() {
    let world = World::new();
    world.job(BackupWork::Base, "own").await.unwrap();
    world.ship().await.unwrap();
    assert_eq!(world.report().archiver, "");
    // As a script that fails would have it: segments are finished and do not come.
    world.tenant.lets_go.store(true, Ordering::SeqCst);
    for _ in 0..20 {
        world.tenant.write();
    }
    world.ship().await.unwrap();
    assert!(world.report().archiver.contains("not put into the spool"));
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_wait_for_what_is_required_and_for_nothing_else() {
    let world = World::new();
    for name in ["far", "own"] {
        world.job(BackupWork::Base, name).await.unwrap();
    }
    world.ship().await.unwrap();
    world.room("own", 0);
    let segment = world.tenant.write().to_string();
    let failed = world.ship().await.unwrap_err();
    assert_eq!(failed.fault, Fault::Full);
    let kept = std::slice::from_ref(&segment);
    assert_eq!(world.tenant.waiting(), kept, "kept for `own`");
    assert!(
        world.names("far", "wal").contains(&segment),
        "and there at `far`"
    );
    let trouble = world.at("own").trouble.unwrap();
    assert_eq!((trouble.fault, trouble.failures), (Fault::Full, 1));
    world.room("own", PLENTY);
    world.room("far", 0);
    let next = world.tenant.write().to_string();
    assert!(world.ship().await.is_err());
    assert_eq!(
        world.tenant.waiting(),
        Vec::<String>::new(),
        "`far` is not waited for"
    );
    assert!(world.names("own", "wal").contains(&next));
    assert_eq!(world.at("own").trouble, None);
    // What `far` has missed is a hole there.
    world.room("far", PLENTY);
    world.tenant.write();
    world.ship().await.unwrap();
    assert!(world.at("far").gap_since.is_some() && world.at("own").gap_since.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_forgets_what_it_shipped_ships_it_again() {
    let mut world = World::new();
    world.job(BackupWork::Base, "own").await.unwrap();
    let records = Records::of(&world.host.data, world.plan.uid);
    let own = "own".parse().unwrap();
    let (before, size) = records.load(&own).unwrap();
    let segment = world.tenant.write();
    fs::copy(
        world.tenant.spool().join(segment.to_string()),
        world.dir.path().join("kept"),
    )
    .unwrap();
    world.ship().await.unwrap();
    // As if it had died between the snapshot and its record: then nothing has left the spool.
    records.save(&own, &before, size).unwrap();
    fs::rename(
        world.dir.path().join("kept"),
        world.tenant.spool().join(segment.to_string()),
    )
    .unwrap();
    world.restart();
    world.ship().await.unwrap();
    assert_eq!(world.at("own").shipped, Some(segment));
    assert!(world.at("own").gap_since.is_none());
    assert_eq!(world.tenant.waiting(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_until_now_is_shipped_on_order() {
    let world = World::new();
    assert!(why(world.job(BackupWork::Ship, "own").await).contains("no base backup"));
    world.job(BackupWork::Base, "own").await.unwrap();
    let asked = now_ms();
    let made = world.job(BackupWork::Ship, "own").await.unwrap();
    assert_eq!(made.work, BackupWork::Ship);
    assert!(world.at("own").shipped_to.unwrap() >= asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_copied_as_it_stands_only_while_it_stands() {
    let world = World::new();
    world.tenant.attach("abc");
    let said = why(world.job(BackupWork::Stopped, "own").await);
    assert!(said.contains("the tenant runs"), "{said}");
    world.tenant.runs.store(false, Ordering::SeqCst);
    let made = world.job(BackupWork::Stopped, "own").await.unwrap();
    assert_eq!(made.segments, None);
    assert_eq!(world.names("own", "database"), ["global"]);
    assert_eq!(world.names("own", "filestore/ab"), ["abc"]);
}

/// Its log ends there: what was written since the last shipment is reached from the base before, and from nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_just_before_a_tenant_stopped_is_shipped_before_it_is_copied() {
    let world = World::new();
    world.job(BackupWork::Base, "own").await.unwrap();
    world.ship().await.unwrap();
    let last = world.tenant.write();
    world.tenant.attach("abc");
    world.tenant.runs.store(false, Ordering::SeqCst);
    world.job(BackupWork::Stopped, "own").await.unwrap();
    let names = world.names("own", "wal");
    assert!(names.contains(&last.to_string()), "{names:?}");
    let increments = world.snapshots("own");
    let increments = increments
        .iter()
        .filter(|s| s.purpose == Some(Purpose::Increment));
    assert!(
        increments
            .clone()
            .any(|s| s.parts.contains(&"filestore".to_owned()))
    );
}

/// What goes with a base, and what lies before it, is shipped as well: the moments until then are reached from the base before.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_when_a_base_is_made_is_shipped_too() {
    let world = World::new();
    world.job(BackupWork::Base, "own").await.unwrap();
    world.ship().await.unwrap();
    let waiting = [world.tenant.write(), world.tenant.write()];
    let needs = world
        .job(BackupWork::Base, "own")
        .await
        .unwrap()
        .segments
        .unwrap();
    let mut shipped = Vec::new();
    let repository = world.repository("own");
    let reader = repository.reader(&isyone_backup::Job::default()).unwrap();
    let brings = |s: &&isyone_backup::Snapshot| {
        s.purpose == Some(Purpose::Increment) && s.parts.contains(&"wal".to_owned())
    };
    for snapshot in world.snapshots("own").iter().filter(brings) {
        shipped.extend(
            reader
                .list(snapshot, "wal")
                .unwrap()
                .into_iter()
                .map(|e| e.name),
        );
    }
    for segment in waiting.into_iter().chain([needs.first, needs.last]) {
        assert!(
            shipped.contains(&segment.to_string()),
            "{segment} of {shipped:?}"
        );
    }
    assert_eq!(world.at("own").shipped, Some(needs.last));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_nobody_waits_for_leaves_no_snapshot() {
    let world = World::new();
    world.backups.pace.set(100_000); // three megabytes take half a minute
    let uid = world.plan.uid.to_string();
    let made = world.dir.path().join("stores/own").join(uid);
    // Given up when the repository is there: before that there is nothing to look at.
    let begun = async {
        while !made.join("config").exists() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    };
    tokio::select! {
        ended = world.job(BackupWork::Base, "own") => panic!("{ended:?}"),
        () = begun => {}
    }
    world.backups.pace.set(0);
    tokio::time::sleep(std::time::Duration::from_millis(1_000)).await;
    assert_eq!(world.snapshots("own"), []);
    world.job(BackupWork::Base, "own").await.unwrap();
    assert_eq!(world.snapshots("own").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_happens_for_a_tenant_without_backups() {
    let mut world = World::new();
    world.plan.backup = None;
    world.ship().await.unwrap();
    assert_eq!(
        fs::read_dir(world.dir.path().join("stores/own"))
            .unwrap()
            .count(),
        0
    );
    assert!(!world.host.data.backups().exists());
}

/// Dies at each write of a base backup and of a shipment in turn, as by `kill -9`: then another agent begins with what is on disk.
#[tokio::test(flavor = "multi_thread")]
async fn wherever_it_is_cut_off_nothing_looks_good_that_is_not_and_it_goes_on() {
    for files in 0..8 {
        let mut world = World::new();
        world.tenant.attach("abc");
        world.room("own", files);
        let cut = world.job(BackupWork::Base, "own").await;
        world.restart();
        if let Err(cut) = cut {
            let made = world
                .dir
                .path()
                .join("stores/own")
                .join(world.plan.uid.to_string());
            if made.join("config").exists() {
                assert_eq!(world.snapshots("own"), [], "{files}: {cut:?}");
            }
        }
        world.room("own", PLENTY);
        let base = world.job(BackupWork::Base, "own").await.unwrap();
        world.tenant.attach("def");
        let last = world.tenant.write();
        world.room("own", files);
        let cut = world.ship().await.is_err();
        if cut {
            assert!(
                world.tenant.waiting().contains(&last.to_string()),
                "{files}: kept"
            );
        }
        world.restart();
        world.room("own", PLENTY);
        world.ship().await.unwrap();
        let names = world.names("own", "wal");
        let mut next = base.segments.unwrap().first;
        while next <= last {
            assert!(
                names.contains(&next.to_string()),
                "{files}: {next} of {names:?}"
            );
            next = size().after(next);
        }
        assert_eq!(
            world.names("own", "filestore/ab"),
            ["abc", "def"],
            "{files}"
        );
        assert_eq!(world.at("own").shipped, Some(last), "{files}");
    }
}
