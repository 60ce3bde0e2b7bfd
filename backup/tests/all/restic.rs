//! What we write is what restic understands, and what we read is what we wrote.

use std::{fs, os::unix::fs::PermissionsExt as _};

use isyone_backup::{EntryKind, Error, Existing, Part, Purpose, Repository, Restored};

use crate::support::{World, contents, key, label, noise, open, stream, target};

/// A base as it is made each night.
fn base(world: &World) -> Vec<Part> {
    vec![
        stream("database.tar", noise(7, 5_000_000)),
        Part::folder("filestore", open(&world.filestore(60))),
        Part::bytes("manifest.json", "{\"rows\":3}"),
    ]
}

#[test]
fn what_was_written_is_listed_read_and_restored() {
    let world = World::new();
    let snapshot = world.write(&label(Purpose::Base, 0), base(&world));
    assert_eq!(
        (snapshot.purpose, &snapshot.host[..], &snapshot.tags[..]),
        (
            Some(Purpose::Base),
            "h1",
            &["base".to_owned(), "tenant:alfa".to_owned()][..]
        )
    );
    assert_eq!(
        snapshot.parts,
        ["database.tar", "filestore", "manifest.json"]
    );
    assert_eq!(world.read(&snapshot, "database.tar"), noise(7, 5_000_000));
    assert_eq!(world.read(&snapshot, "manifest.json"), b"{\"rows\":3}");
    let reader = world.repository.reader(&world.job).unwrap();
    let parts = reader.list(&snapshot, "").unwrap();
    let parts: Vec<_> = parts
        .iter()
        .map(|e| (&e.name[..], e.kind, e.bytes))
        .collect();
    assert_eq!(
        parts,
        [
            ("database.tar", EntryKind::File, 5_000_000),
            ("filestore", EntryKind::Folder, 0),
            ("manifest.json", EntryKind::File, 10)
        ]
    );
    let measured = reader.measure(&snapshot, "filestore").unwrap();
    let restored = reader.restore(&snapshot, "filestore", &target(&world.path("new")));
    assert_eq!(restored.unwrap(), measured);
    let files = contents(&world.path("filestore"));
    assert_eq!(contents(&world.path("new")), files);
    let bytes = files.iter().map(|(_, content)| content.len() as u64).sum();
    assert_eq!(
        measured,
        Restored {
            files: 60,
            folders: 7,
            bytes,
            kept: 0
        }
    );
    let one = &files[3].0.display().to_string();
    assert_eq!(
        world.read(&snapshot, &format!("filestore/{one}")),
        files[3].1
    );
    assert!(matches!(
        reader.copy(&snapshot, "filestore/none", &mut Vec::new()),
        Err(Error::NoEntry { path, .. }) if path == "filestore/none"
    ));
    assert!(matches!(
        reader.copy(&snapshot, "filestore", &mut Vec::new()),
        Err(Error::Refused { .. })
    ));
}

#[test]
fn stock_restic_lists_checks_and_restores_with_the_exported_key() {
    let world = World::new();
    let snapshot = world.write(&label(Purpose::Base, 0), base(&world));
    let wal = vec![
        Part::bytes("database.wal", noise(9, 1 << 20)),
        Part::folder("filestore", open(&world.filestore(70))),
    ];
    let next = world
        .repository
        .write(&label(Purpose::Increment, 300), wal, None, &world.job);
    assert!(next.is_ok(), "{next:?}");
    let Some(listed) = world.restic(&["snapshots"]) else {
        return;
    };
    assert!(listed.contains(&snapshot.name.short()), "{listed}");
    assert!(listed.contains("2 snapshots"), "{listed}");
    let checked = world.restic(&["check", "--read-data"]).unwrap();
    assert!(checked.contains("no errors were found"), "{checked}");
    let to = world.path("by-restic");
    let name = snapshot.name.to_string();
    world.restic(&["restore", &name, "--target", to.to_str().unwrap()]);
    assert_eq!(
        fs::read(to.join("database.tar")).unwrap(),
        noise(7, 5_000_000)
    );
    assert_eq!(fs::read(to.join("manifest.json")).unwrap(), b"{\"rows\":3}");
    let files = contents(&to.join("filestore"));
    assert_eq!(files.len(), 60);
    let ours = contents(&world.path("filestore"));
    assert!(files.iter().all(|file| ours.contains(file)));
}

#[test]
fn what_restic_adds_we_read() {
    let world = World::new();
    let files = world.filestore(20);
    if world
        .restic(&["backup", "--host", "h9", files.to_str().unwrap()])
        .is_none()
    {
        return;
    }
    let listing = world.repository.snapshots().unwrap();
    let snapshot = &listing.snapshots[0];
    assert_eq!((snapshot.purpose, &snapshot.host[..]), (None, "h9"));
    let reader = world.repository.reader(&world.job).unwrap();
    let path = files.to_str().unwrap();
    let restored = reader.restore(snapshot, path, &target(&world.path("new")));
    assert_eq!(restored.unwrap().files, 20);
    assert_eq!(contents(&world.path("new")), contents(&files));
}

#[test]
fn what_did_not_change_is_not_read_again() {
    let world = World::new();
    let filestore = world.filestore(60);
    let part = || vec![Part::folder("filestore", open(&filestore))];
    let first = world.write(&label(Purpose::Increment, 0), part());
    let bytes = contents(&filestore)
        .into_iter()
        .map(|(_, c)| c.len() as u64);
    let bytes: u64 = bytes.sum();
    let new = filestore.join("06/new");
    crate::support::write(&new, &noise(99, 3000));
    let parent = Some(&first);
    let written = world
        .repository
        .write(&label(Purpose::Increment, 300), part(), parent, &world.job)
        .unwrap();
    assert_eq!(written.files, 61);
    assert_eq!(written.bytes, 3000, "only the new file");
    assert!(written.stored < bytes / 10, "{written:?}");
    let second = world.repository.snapshot(written.snapshot).unwrap();
    let reader = world.repository.reader(&world.job).unwrap();
    reader
        .restore(&second, "filestore", &target(&world.path("new")))
        .unwrap();
    assert_eq!(contents(&world.path("new")), contents(&filestore));
}

/// rustic takes a stream for unchanged that has the size (0: unknown) and the date of the one before.
#[test]
fn a_stream_is_read_although_the_one_before_looks_the_same() {
    let world = World::new();
    let write = |content: &[u8], parent: Option<&_>| {
        let parts = vec![stream("database.tar", content.to_vec())];
        let written = world
            .repository
            .write(&label(Purpose::Base, 0), parts, parent, &world.job);
        written.and_then(|w| world.repository.snapshot(w.snapshot))
    };
    let first = write(b"one", None).unwrap();
    match write(b"two", Some(&first)) {
        Ok(second) => assert_eq!(world.read(&second, "database.tar"), b"two"),
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn a_union_of_two_snapshots_keeps_what_is_there() {
    let world = World::new();
    let part = |path: &_| vec![Part::folder("filestore", open(path))];
    let first = world.write(&label(Purpose::Increment, 0), part(&world.filestore(10)));
    fs::remove_dir_all(world.path("filestore/00")).unwrap();
    let filestore = world.filestore(12);
    fs::remove_dir_all(filestore.join("01")).unwrap();
    let second = world.write(&label(Purpose::Increment, 300), part(&filestore));
    let reader = world.repository.reader(&world.job).unwrap();
    let mut to = target(&world.path("new"));
    reader.restore(&first, "filestore", &to).unwrap();
    let again = reader.restore(&second, "filestore", &to);
    assert!(matches!(again, Err(Error::Refused { .. })), "{again:?}");
    to.existing = Existing::Keep;
    let union = reader.restore(&second, "filestore", &to).unwrap();
    assert_eq!((union.files, union.kept), (2, 8), "{union:?}");
    world.filestore(12);
    assert_eq!(contents(&world.path("new")), contents(&filestore));
}

#[test]
fn modes_are_kept_but_for_the_dangerous_bits() {
    let world = World::new();
    let file = world.path("filestore/tool");
    crate::support::write(&file, b"#!");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o6751)).unwrap();
    let part = vec![Part::folder("filestore", open(&world.path("filestore")))];
    let snapshot = world.write(&label(Purpose::Increment, 0), part);
    let reader = world.repository.reader(&world.job).unwrap();
    reader
        .restore(&snapshot, "filestore", &target(&world.path("new")))
        .unwrap();
    let meta = |path: &str| fs::metadata(world.path(path)).unwrap();
    let restored = meta("new/tool");
    assert_eq!(restored.permissions().mode() & 0o7777, 0o751);
    assert_eq!(
        restored.modified().unwrap(),
        meta("filestore/tool").modified().unwrap()
    );
}

#[test]
fn another_key_opens_nothing_and_is_called_that() {
    let world = World::new();
    let open = |byte| Repository::open(world.store(), &key(byte));
    assert!(open(1).is_ok());
    assert!(matches!(open(2), Err(Error::WrongKey { .. })));
    world.write(&label(Purpose::Base, 0), base(&world));
    assert!(matches!(open(2), Err(Error::WrongKey { .. })));
    let again = Repository::create(world.store(), &key(1), &world.job);
    assert!(matches!(again, Err(Error::RepositoryExists { .. })));
}
