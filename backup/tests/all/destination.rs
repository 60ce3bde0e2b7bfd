//! Destinations that are full, gone, or let nobody delete.

use std::{
    io,
    process::Command,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use isyone_backup::{
    Error, Purpose, Repository, Store,
    store::{AddOnly, File, Kind, Local, Name, StoreError},
};

use crate::support::{World, key, label, noise, stream};

/// Takes so many more bytes.
#[derive(Debug)]
struct Small {
    inner: Local,
    left: Mutex<u64>,
}

impl Store for Small {
    fn place(&self) -> String {
        self.inner.place()
    }
    fn create(&self) -> Result<(), StoreError> {
        self.inner.create()
    }
    fn list(&self, kind: Kind) -> Result<Vec<(Name, u64)>, StoreError> {
        self.inner.list(kind)
    }
    fn read(&self, file: File, most: u64) -> Result<Bytes, StoreError> {
        self.inner.read(file, most)
    }
    fn read_part(&self, file: File, offset: u64, length: u32) -> Result<Bytes, StoreError> {
        self.inner.read_part(file, offset, length)
    }
    fn write(&self, file: File, content: &[Bytes]) -> Result<(), StoreError> {
        let bytes: u64 = content.iter().map(|part| part.len() as u64).sum();
        let mut left = self.left.lock().unwrap();
        match left.checked_sub(bytes) {
            None => Err(StoreError::Full(io::ErrorKind::StorageFull.into())),
            Some(rest) => {
                *left = rest;
                self.inner.write(file, content)
            }
        }
    }
    fn remove(&self, file: File) -> Result<(), StoreError> {
        self.inner.remove(file)
    }
}

/// Wherever it becomes full: an error that says so, no snapshot, and the one before is whole.
#[test]
fn a_full_destination_is_said_and_leaves_no_snapshot() {
    let world = World::new();
    let content = noise(5, 20_000_000);
    let before = world.write(&label(Purpose::Base, 0), vec![stream("a", b"one".to_vec())]);
    let mut left = 100;
    loop {
        let inner = Local::new(world.path("repository"));
        let store = Arc::new(Small {
            inner,
            left: Mutex::new(left),
        });
        let repository = Repository::open(store, &key(1)).unwrap();
        let parts = vec![stream("database.tar", content.clone())];
        let written = repository.write(&label(Purpose::Base, 60), parts, None, &world.job);
        let Err(error) = written else {
            break;
        };
        let is_full = matches!(error.store(), Some(StoreError::Full(_)));
        assert!(is_full, "with {left}: {error:?}");
        assert_eq!(world.names(), [before.name]);
        left = left * 4 + 1000;
    }
    assert!(left > 1_000_000, "it has to become full in the middle too");
    assert_eq!(world.names().len(), 2);
    assert_eq!(world.read(&before, "a"), b"one");
}

/// The same with a real file system.
#[test]
fn a_full_disk_is_said_and_leaves_no_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "isyone-test"])
        .arg(folder.path())
        .output();
    if !mount.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: a small file system cannot be mounted here");
        return;
    }
    let job = isyone_backup::Job::default();
    let tried = (|| {
        let store = Arc::new(Local::new(folder.path().join("alfa")));
        let repository = Repository::create(store, &key(1), &job)?;
        let parts = vec![stream("database.tar", noise(5, 40_000_000))];
        let written = repository.write(&label(Purpose::Base, 0), parts, None, &job);
        let listing = repository.snapshots()?;
        Ok::<_, Error>((written, listing))
    })();
    // Lazily: between fork and exec, a process that another test starts holds what we have open.
    let unmount = Command::new("umount").arg("-l").arg(folder.path()).status();
    assert!(unmount.unwrap().success());
    let (written, listing) = tried.unwrap();
    let error = written.unwrap_err();
    assert!(
        matches!(error.store(), Some(StoreError::Full(_))),
        "{error:?}"
    );
    assert_eq!((listing.snapshots, listing.damaged), (vec![], vec![]));
}

#[test]
fn a_destination_that_is_gone_is_unreachable_and_not_empty() {
    let world = World::new();
    world.write(&label(Purpose::Base, 0), vec![stream("a", b"one".to_vec())]);
    std::fs::rename(world.path("repository"), world.path("elsewhere")).unwrap();
    let parts = || vec![stream("a", noise(1, 100_000))];
    let repository = &world.repository;
    let write = repository.write(&label(Purpose::Base, 60), parts(), None, &world.job);
    for result in [
        write.map(drop),
        repository.snapshots().map(drop),
        repository.reader(&world.job).map(drop),
        repository
            .verify(isyone_backup::Share::All, &world.job)
            .map(drop),
        repository.prune(0, &world.job),
        Repository::open(world.store(), &key(1)).map(drop),
    ] {
        let error = result.unwrap_err();
        assert!(
            matches!(error.store(), Some(StoreError::Unreachable(_))),
            "{error:?}"
        );
    }
    let nowhere = Arc::new(Local::new(world.path("not/mounted")));
    let made = Repository::create(nowhere, &key(1), &world.job).unwrap_err();
    assert!(
        matches!(made.store(), Some(StoreError::Unreachable(_))),
        "{made:?}"
    );
}

#[test]
fn a_host_that_may_only_add_makes_backups_and_cannot_remove_any() {
    let world = World::new();
    let store = Arc::new(AddOnly(Local::new(world.path("repository"))));
    let repository = Repository::open(store, &key(1)).unwrap();
    let parts = vec![stream("a", noise(1, 3_000_000))];
    let written = repository
        .write(&label(Purpose::Base, 0), parts, None, &world.job)
        .unwrap();
    let forgotten = repository.forget(&[written.snapshot]).unwrap_err();
    assert!(matches!(forgotten.store(), Some(StoreError::Denied(_))));
    assert_eq!(world.names(), [written.snapshot]);
}

#[test]
fn a_folder_without_a_repository_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Local::new(folder.path()));
    let opened = Repository::open(store, &key(1)).map(drop);
    assert!(matches!(opened, Err(Error::NoRepository { .. })));
}
