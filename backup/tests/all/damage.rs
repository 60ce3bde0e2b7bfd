//! A flipped bit, a file that is gone or cut off: found, named, and all else can be restored.

use std::{collections::BTreeSet, fs, path::PathBuf};

use isyone_backup::Damage;
use isyone_backup::{
    Error, Fault, Part, Purpose, Report, Repository, Share, Snapshot,
    store::{File, Kind},
};

use crate::support::{World, key, label, noise, open, stream, target};

/// A base, an increment and a dump, which share little.
fn three(world: &World) -> [Snapshot; 3] {
    let base = vec![
        stream("database.tar", noise(1, 3_000_000)),
        Part::folder("filestore", open(&world.filestore(40))),
    ];
    let increment = vec![
        Part::bytes("database.wal", noise(2, 1 << 20)),
        Part::folder("filestore", open(&world.filestore(45))),
    ];
    let dump = vec![stream("database.dump", noise(3, 2_000_000))];
    [
        world.write(&label(Purpose::Base, 0), base),
        world.write(&label(Purpose::Increment, 300), increment),
        world.write(&label(Purpose::Dump, 600), dump),
    ]
}

fn files(world: &World, kind: Kind) -> Vec<File> {
    let mut files: Vec<_> = world.store().list(kind).unwrap();
    files.sort();
    files
        .into_iter()
        .map(|(name, _)| File::new(kind, name))
        .collect()
}

fn path(world: &World, file: File) -> PathBuf {
    world.path("repository").join(file.path())
}

/// Changes one bit, and gives what was there.
fn flip(world: &World, file: File, at: usize) -> Vec<u8> {
    let path = path(world, file);
    let before = fs::read(&path).unwrap();
    let mut altered = before.clone();
    let at = at % altered.len();
    altered[at] ^= 0x10;
    fs::write(&path, altered).unwrap();
    before
}

fn verify(world: &World) -> Report {
    world.repository.verify(Share::All, &world.job).unwrap()
}

/// The snapshots of which everything can be restored.
fn restorable(world: &World, snapshots: &[Snapshot]) -> BTreeSet<isyone_backup::store::Name> {
    let reader = world.repository.reader(&world.job).unwrap();
    let restore = |s: &&Snapshot| {
        let to = tempfile::tempdir().unwrap();
        reader.restore(s, "", &target(to.path())).is_ok()
    };
    snapshots.iter().filter(restore).map(|s| s.name).collect()
}

#[test]
fn a_repository_without_damage_is_good() {
    let world = World::new();
    three(&world);
    let report = verify(&world);
    assert!(report.is_good(), "{report:?}");
    assert_eq!(report.snapshots, 3);
    let (mut packs, of) = (0, 3);
    for number in 0..of {
        let share = Share::Part { number, of };
        let part = world.repository.verify(share, &world.job).unwrap();
        assert!(part.is_good());
        packs += part.packs;
    }
    assert_eq!(packs, report.packs, "all parts are all packs");
}

/// Every pack, at several places: the pack is named, and exactly those snapshots that can no longer be restored.
#[test]
fn a_flipped_bit_in_any_pack_is_named_with_what_it_costs() {
    let world = World::new();
    let snapshots = three(&world);
    for pack in files(&world, Kind::Pack) {
        for at in [0, 40, 1_000_003, usize::MAX] {
            let before = flip(&world, pack, at);
            let report = verify(&world);
            let named = Damage::File {
                file: pack,
                fault: Fault::Altered,
            };
            assert!(
                report.damages.contains(&named),
                "{pack} at {at}: {report:?}"
            );
            let whole = restorable(&world, &snapshots);
            let affected = snapshots.iter().map(|s| s.name);
            let affected: BTreeSet<_> = affected.filter(|n| !whole.contains(n)).collect();
            // A pack's header and other blobs may be hit: all that cannot be restored is among those named.
            assert!(affected.is_subset(&report.affected), "{pack} at {at}");
            for damage in &report.damages {
                if let Damage::Content { file, .. } = damage {
                    assert!(file.is_none_or(|file| file == pack), "{damage:?}");
                }
            }
            fs::write(path(&world, pack), before).unwrap();
        }
    }
    assert!(verify(&world).is_good());
}

#[test]
fn reading_what_is_damaged_names_file_pack_and_snapshot() {
    let world = World::new();
    let [base, increment, _] = three(&world);
    let largest = |file: &File| fs::metadata(path(&world, *file)).unwrap().len();
    let pack = files(&world, Kind::Pack).into_iter().max_by_key(largest);
    let pack = pack.unwrap();
    flip(&world, pack, 100_000);
    let reader = world.repository.reader(&world.job).unwrap();
    let mut out = Vec::new();
    match reader.copy(&base, "database.tar", &mut out) {
        Err(Error::Content {
            snapshot,
            path,
            file,
            fault,
        }) => assert_eq!(
            (snapshot, &path[..], file, fault),
            (base.name, "database.tar", Some(pack), Fault::Sealed)
        ),
        other => panic!("{other:?}"),
    }
    let report = verify(&world);
    assert!(report.affected.contains(&base.name), "{report:?}");
    assert_eq!(
        world.read(&increment, "database.wal"),
        noise(2, 1 << 20),
        "other backups are usable"
    );
}

#[test]
fn a_pack_that_is_gone_or_cut_off_is_named() {
    let world = World::new();
    let snapshots = three(&world);
    for pack in files(&world, Kind::Pack) {
        let before = fs::read(path(&world, pack)).unwrap();
        fs::write(path(&world, pack), &before[..before.len() / 2]).unwrap();
        let report = verify(&world);
        let named = |report: &Report| {
            report.damages.iter().any(|damage| match damage {
                Damage::File { file, .. } => *file == pack,
                Damage::Content { file, .. } => *file == Some(pack),
            })
        };
        assert!(named(&report), "{report:?}");
        fs::remove_file(path(&world, pack)).unwrap();
        let report = verify(&world);
        let whole = restorable(&world, &snapshots);
        let rest: BTreeSet<_> = snapshots.iter().map(|s| s.name).collect();
        let rest: BTreeSet<_> = rest.difference(&whole).copied().collect();
        assert_eq!(rest, report.affected, "{report:?}");
        // One is needed by nothing: the folder of parts before the lengths were known.
        assert!(rest.is_empty() || named(&report), "{report:?}");
        fs::write(path(&world, pack), before).unwrap();
    }
}

#[test]
fn a_damaged_snapshot_or_index_is_named_and_the_others_are_usable() {
    let world = World::new();
    let [base, increment, dump] = three(&world);
    let file = File::new(Kind::Snapshot, dump.name);
    let before = flip(&world, file, 50);
    let listing = world.repository.snapshots().unwrap();
    assert_eq!(listing.damaged, [(file, Fault::Altered)]);
    assert_eq!(
        listing.snapshots,
        [base.clone(), increment.clone()],
        "the others"
    );
    let pruned = world.repository.prune(0, &world.job);
    assert!(
        matches!(pruned, Err(Error::Damaged { file: f, .. }) if f == file),
        "nobody knows what it needs: {pruned:?}"
    );
    fs::write(path(&world, file), before).unwrap();
    let all = [base, increment, dump];
    for index in files(&world, Kind::Index) {
        let before = flip(&world, index, 20);
        let reader = world.repository.reader(&world.job).unwrap();
        assert_eq!(reader.damaged(), [(index, Fault::Altered)]);
        let report = verify(&world);
        assert!(report.damages.contains(&Damage::File {
            file: index,
            fault: Fault::Altered
        }));
        let whole = restorable(&world, &all);
        assert!(!whole.is_empty(), "the others are usable");
        let rest = all.iter().filter(|s| !whole.contains(&s.name));
        assert_eq!(
            rest.map(|s| s.name).collect::<BTreeSet<_>>(),
            report.affected
        );
        fs::write(path(&world, index), before).unwrap();
    }
}

#[test]
fn damaged_index_files_are_made_anew_from_the_packs() {
    let world = World::new();
    let all = three(&world);
    for index in files(&world, Kind::Index) {
        flip(&world, index, 20);
    }
    assert!(restorable(&world, &all).is_empty());
    world.repository.mend_index(&world.job).unwrap();
    let report = verify(&world);
    assert!(report.is_good(), "{report:?}");
    assert_eq!(restorable(&world, &all).len(), 3);
    world.restic(&["check", "--read-data"]);
}

#[test]
fn a_damaged_config_is_told_from_a_wrong_key() {
    let world = World::new();
    three(&world);
    flip(&world, File::config(), 30);
    let opened = |byte| Repository::open(world.store(), &key(byte)).map(drop);
    assert!(matches!(
        opened(1),
        Err(Error::Damaged { file, .. }) if file == File::config()
    ));
    assert!(matches!(opened(2), Err(Error::WrongKey { .. })));
}
