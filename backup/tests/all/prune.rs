//! Forgetting and pruning: what is kept can be restored after each phase, and room comes back.

use std::fs;

use isyone_backup::{Part, Purpose, Share, store::Kind};

use crate::support::{World, contents, label, noise, open, stream, target};

fn stored(world: &World) -> u64 {
    let files = world.store().list(Kind::Pack).unwrap();
    files.iter().map(|(_, bytes)| bytes).sum()
}

#[test]
fn contents_go_in_two_phases_and_what_is_kept_stays_whole() {
    let world = World::new();
    let filestore = world.filestore(30);
    let parts = |seed| {
        vec![
            stream("database.tar", noise(seed, 6_000_000)),
            Part::folder("filestore", open(&filestore)),
        ]
    };
    let snapshots: Vec<_> = (1..=4)
        .map(|n| world.write(&label(Purpose::Base, 86_400 * n), parts(n.unsigned_abs())))
        .collect();
    let before = stored(&world);
    let gone: Vec<_> = snapshots[..3].iter().map(|s| s.name).collect();
    world.repository.forget(&gone).unwrap();
    assert_eq!(world.names(), [snapshots[3].name]);
    assert_eq!(stored(&world), before, "contents stay");
    let is_whole = || {
        let report = world.repository.verify(Share::All, &world.job).unwrap();
        assert!(report.is_good(), "{report:?}");
        let to = tempfile::tempdir().unwrap();
        let reader = world.repository.reader(&world.job).unwrap();
        reader
            .restore(&snapshots[3], "", &target(to.path()))
            .unwrap();
        assert_eq!(contents(&to.path().join("filestore")), contents(&filestore));
        world.restic(&["check", "--read-data"]);
    };
    world.repository.prune(23, &world.job).unwrap();
    is_whole();
    assert!(stored(&world) >= before, "marked, and not yet removed");
    world.repository.prune(23, &world.job).unwrap();
    is_whole();
    assert!(stored(&world) >= before, "23 hours are not over");
    world.repository.prune(0, &world.job).unwrap();
    is_whole();
    let after = stored(&world);
    assert!(after < before / 2, "{before} became {after}");
}

/// A host begins a snapshot, and meanwhile the contents that it counts on are marked: they come back.
#[test]
fn what_a_running_backup_counts_on_is_not_removed() {
    let world = World::new();
    let content = noise(1, 3_000_000);
    let old = world.write(
        &label(Purpose::Base, 0),
        vec![stream("database.tar", content.clone())],
    );
    world.write(&label(Purpose::Base, 60), vec![stream("x", noise(9, 100))]);
    let repository = world.repository.clone();
    let job = world.job.clone();
    let late = content.clone();
    let during = Part::stream("database.tar", move || {
        // rustic has read the index by now.
        repository.forget(&[old.name]).unwrap();
        repository.prune(23, &job).unwrap();
        Ok(isyone_backup::source::Plain(std::io::Cursor::new(late)))
    });
    let next = world.write(&label(Purpose::Base, 120), vec![during]);
    assert_eq!(world.read(&next, "database.tar"), content);
    world.repository.prune(0, &world.job).unwrap();
    world.repository.prune(0, &world.job).unwrap();
    assert_eq!(world.read(&next, "database.tar"), content);
    let report = world.repository.verify(Share::All, &world.job).unwrap();
    assert!(report.is_good(), "{report:?}");
    world.restic(&["check", "--read-data"]);
}

#[test]
fn a_prune_without_a_snapshot_empties_the_repository() {
    let world = World::new();
    let one = world.write(
        &label(Purpose::Base, 0),
        vec![stream("a", noise(1, 1_000_000))],
    );
    world.repository.forget(&[one.name]).unwrap();
    world.repository.prune(0, &world.job).unwrap();
    world.repository.prune(0, &world.job).unwrap();
    assert_eq!(stored(&world), 0);
    assert!(fs::metadata(world.path("repository/config")).is_ok());
    world.write(&label(Purpose::Base, 60), vec![stream("a", noise(1, 1000))]);
    world.restic(&["check", "--read-data"]);
}
