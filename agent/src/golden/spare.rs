//! One copy of a snapshot, made beforehand: the next tenant of its kind takes it by renaming, which costs nothing, where copying
//! thousands of files would be most of what it waits for.
//!
//! A spare lies in its snapshot's directory, so it goes with it. It is complete and on disk, or absent: made under another name,
//! flushed, renamed; taken by another rename, after which it is nobody's but the taker's. There are at most [`SPARES`] on a
//! host, one for each kind of tenant made last. Not here: when one is made (reconcile), which tenant gets it (database).

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Meta, Volumes, copy_into};
use crate::tree;

/// Kinds of tenants (images, modules, language) that have a spare: each costs the disk as much as its snapshot.
const SPARES: usize = 2;
/// A disk with less free space than this many snapshots gets no spare.
const FREE_FOR: u64 = 20;
const SPARE: &str = "spare";
/// Prefix of what is not yet, or no longer, a spare.
const HALF: &str = "half-";

/// Which kinds were made last, newest first.
#[derive(Debug, Default)]
pub(super) struct Spares {
    recent: Mutex<Vec<String>>,
    wanted: Notify,
    /// Volumes lie on another file system, where nothing can be renamed to.
    useless: AtomicBool,
}

fn half(snapshot: &Path) -> PathBuf {
    snapshot.join(format!("{HALF}{}", Uuid::new_v4().simple()))
}

impl Spares {
    /// A tenant of this kind was made, so there may be another.
    pub(super) fn want(&self, key: &str) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|k| k != key);
        recent.insert(0, key.to_owned());
        drop(recent);
        self.wanted.notify_one();
    }

    /// Completes when a spare may be missing.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// At the start: halves go, spares are remembered.
    pub(super) fn find(&self, snapshot: &Path) -> io::Result<()> {
        for entry in std::fs::read_dir(snapshot)? {
            let path = entry?.path();
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with(HALF) {
                let _ = std::fs::remove_dir_all(&path); // costs only room until the next start
            } else if name == SPARE
                && let Some(key) = snapshot.file_name()
            {
                self.want(&key.to_string_lossy());
            }
        }
        Ok(())
    }

    /// Makes what is missing for the kinds made last, and removes what others still have. Blocking.
    pub(super) fn replenish(&self, store: &Path, stop: &CancellationToken) -> io::Result<()> {
        let kinds = {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = recent.len().min(SPARES);
            let surplus = recent.split_off(kept);
            surplus.iter().try_for_each(|key| discard(&store.join(key)))?;
            if self.useless.load(Ordering::Relaxed) { Vec::new() } else { recent.clone() }
        };
        kinds.iter().try_for_each(|key| make(&store.join(key), stop))
    }

    /// Moves the snapshot's spare into two empty volumes; `false` when there is none, or it lies on another file system than the
    /// volumes. After an error the volumes hold scrap, as after a copy that failed. Blocking.
    pub(super) fn take(
        &self,
        snapshot: &Path,
        meta: &Meta,
        volumes: &Volumes,
        database: &str,
    ) -> io::Result<bool> {
        let mine = half(snapshot);
        match std::fs::rename(snapshot.join(SPARE), &mine) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            done => done?,
        }
        let moved = move_content(&mine.join("pgdata"), &volumes.postgres);
        if moved.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::CrossesDevices) {
            self.useless.store(true, Ordering::Relaxed);
            std::fs::remove_dir_all(&mine)?;
            return Ok(false);
        }
        moved?;
        let files = mine.join("filestore").join(&meta.database);
        copy_into(&files, volumes, database, |from, to| std::fs::rename(from, to))?;
        let _ = std::fs::remove_dir_all(&mine); // or at the next start
        Ok(true)
    }
}

/// Under another name first: whoever takes one at the same time gets all of it or nothing.
fn discard(snapshot: &Path) -> io::Result<()> {
    let gone = half(snapshot);
    match std::fs::rename(snapshot.join(SPARE), &gone) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(()) => std::fs::remove_dir_all(&gone),
    }
}

fn make(snapshot: &Path, stop: &CancellationToken) -> io::Result<()> {
    let place = snapshot.join(SPARE);
    let Some(meta) = Meta::read(snapshot).filter(|_| !place.exists()) else { return Ok(()) };
    let disk = rustix::fs::statvfs(snapshot)?;
    if disk.f_bavail * disk.f_frsize < meta.bytes.saturating_mul(FREE_FOR) {
        return Ok(());
    }
    let tmp = half(snapshot);
    let made = std::fs::create_dir(&tmp)
        .and_then(|()| tree::copy(&snapshot.join("pgdata"), &tmp.join("pgdata")))
        .and_then(|_| tree::copy(&snapshot.join("filestore"), &tmp.join("filestore")))
        .and_then(|_| tree::sync(&tmp));
    if made.is_err() || stop.is_cancelled() {
        let _ = std::fs::remove_dir_all(&tmp); // or at the next start
        return made;
    }
    std::fs::rename(&tmp, &place)?;
    std::fs::File::open(snapshot)?.sync_all()
}

/// Renames each entry of `from` into `to`, which takes its mode and owner.
fn move_content(from: &Path, to: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::rename(entry.path(), to.join(entry.file_name()))?;
    }
    tree::take_owner(&std::fs::symlink_metadata(from)?, to, true)
}

#[cfg(test)]
mod tests {
    use super::super::{GoldenStore, tests::volumes};
    use super::*;

    #[tokio::test]
    async fn a_spare_is_taken_once_and_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let golden = dir.path().join("golden");
        std::fs::create_dir_all(&golden).unwrap();
        let store = GoldenStore::open(golden.clone()).unwrap();
        let from = volumes(dir.path(), "a");
        std::fs::create_dir_all(from.postgres.join("base/1")).unwrap();
        std::fs::write(from.postgres.join("base/1/f"), "15").unwrap();
        std::fs::create_dir_all(from.odoo.join("filestore/odoo_a/ab")).unwrap();
        std::fs::write(from.odoo.join("filestore/odoo_a/ab/f"), "x").unwrap();
        let stop = CancellationToken::new();
        for key in ["k1", "k2", "k3"] {
            store.take(key, &from, "odoo_a", 1).await.unwrap();
            store.replenish(stop.clone()).await.unwrap();
        }
        let has = |key: &str| golden.join(key).join(SPARE).exists();
        assert_eq!([has("k1"), has("k2"), has("k3")], [false, true, true], "the oldest kind's has gone");
        for (name, beforehand) in [("b", true), ("c", false)] {
            let to = volumes(dir.path(), name);
            std::fs::write(to.postgres.join("scrap"), "x").unwrap();
            let restored = store.restore("k3", &to, "odoo_b").await.unwrap();
            assert_eq!((restored.beforehand, restored.meta.database.as_str()), (beforehand, "odoo_a"));
            assert!(to.postgres.join("base/1/f").exists() && !to.postgres.join("scrap").exists());
            assert_eq!(std::fs::read(to.odoo.join("filestore/odoo_b/ab/f")).unwrap(), b"x");
            assert_eq!(std::fs::read_dir(golden.join("k3")).unwrap().count(), 3, "nothing half is left");
        }
        std::fs::create_dir(half(&golden.join("k3"))).unwrap();
        let store = GoldenStore::open(golden.clone()).unwrap();
        assert_eq!(std::fs::read_dir(golden.join("k3")).unwrap().count(), 3);
        store.want_spare("k3");
        store.replenish(stop).await.unwrap();
        assert!(has("k3") && has("k2"));
    }
}
