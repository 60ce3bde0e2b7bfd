//! Copies of a snapshot, made beforehand: the next tenants of its kind take one each by renaming, which costs nothing, where
//! copying thousands of files would be most of what they wait for.
//!
//! Spares lie in their snapshot's directory, so they go with it. One is complete and on disk, or absent: made under another name,
//! flushed, renamed; taken by another rename, after which it is nobody's but the taker's. How many a host has is bounded by
//! [`SPARES`]. Not here: when one is made (reconcile), which tenant gets it (database).

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

/// Spares of the kind of tenant (images, modules, language) that was made last, of the one before, and so on; older kinds have none.
/// Creates often come in a row, and a copy is made only between them. Each costs the disk as much as its snapshot.
const SPARES: [usize; 2] = [3, 1];
/// A disk with less free space than this many snapshots gets no spare.
const FREE_FOR: u64 = 20;
const SPARE: &str = "spare-";
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

fn place(snapshot: &Path, number: usize) -> PathBuf {
    snapshot.join(format!("{SPARE}{number}"))
}

/// Where a kind's spares may be.
fn places(snapshot: &Path) -> impl Iterator<Item = PathBuf> {
    let most = SPARES.into_iter().max().unwrap_or(0);
    (0..most).map(move |number| place(snapshot, number))
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
            } else if name.starts_with(SPARE)
                && let Some(key) = snapshot.file_name()
            {
                self.want(&key.to_string_lossy());
            }
        }
        Ok(())
    }

    /// Removes what older kinds still have, and makes one spare that is missing for the kinds made last; `true`: there may be another to
    /// make. Blocking.
    pub(super) fn replenish(&self, store: &Path, stop: &CancellationToken) -> io::Result<bool> {
        let kinds = {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = recent.len().min(SPARES.len());
            let surplus = recent.split_off(kept);
            surplus.iter().try_for_each(|key| discard(&store.join(key), 0))?;
            if self.useless.load(Ordering::Relaxed) { Vec::new() } else { recent.clone() }
        };
        // Kinds in turn: the second one's only spare comes before the first one's last.
        for (key, number) in kinds.iter().zip(SPARES) {
            discard(&store.join(key), number)?;
        }
        for number in 0..SPARES[0] {
            for (key, _) in kinds.iter().zip(SPARES).filter(|(_, most)| number < *most) {
                if make(&store.join(key), number, stop)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Moves one of the snapshot's spares into two empty volumes; `false` when there is none, or it lies on another file system than
    /// the volumes. After an error the volumes hold scrap, as after a copy that failed. Blocking.
    pub(super) fn take(
        &self,
        snapshot: &Path,
        meta: &Meta,
        volumes: &Volumes,
        database: &str,
    ) -> io::Result<bool> {
        let Some(mine) = seize(snapshot)? else { return Ok(false) };
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

/// Gives one of the spares a name that nobody else knows: whoever takes one at the same time gets another, or nothing.
fn seize(snapshot: &Path) -> io::Result<Option<PathBuf>> {
    let mine = half(snapshot);
    // The last one first: those with low numbers are made first.
    for spare in places(snapshot).collect::<Vec<_>>().into_iter().rev() {
        match std::fs::rename(spare, &mine) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            done => return done.map(|()| Some(mine)),
        }
    }
    Ok(None)
}

/// Removes spares from this number on.
fn discard(snapshot: &Path, from: usize) -> io::Result<()> {
    for spare in places(snapshot).skip(from) {
        let gone = half(snapshot);
        match std::fs::rename(spare, &gone) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
            Ok(()) => std::fs::remove_dir_all(&gone)?,
        }
    }
    Ok(())
}

/// `true`: it was missing, and is there now.
fn make(snapshot: &Path, number: usize, stop: &CancellationToken) -> io::Result<bool> {
    let place = place(snapshot, number);
    let Some(meta) = Meta::read(snapshot).filter(|_| !place.exists()) else { return Ok(false) };
    let disk = rustix::fs::statvfs(snapshot)?;
    if disk.f_bavail * disk.f_frsize < meta.bytes.saturating_mul(FREE_FOR) {
        return Ok(false);
    }
    let tmp = half(snapshot);
    let made = std::fs::create_dir(&tmp)
        .and_then(|()| tree::copy_aside(&snapshot.join("pgdata"), &tmp.join("pgdata")))
        .and_then(|_| tree::copy_aside(&snapshot.join("filestore"), &tmp.join("filestore")))
        .and_then(|_| tree::sync_all(&tmp));
    if made.is_err() || stop.is_cancelled() {
        let _ = std::fs::remove_dir_all(&tmp); // or at the next start
        return made.map(|()| false);
    }
    std::fs::rename(&tmp, &place)?;
    std::fs::File::open(snapshot)?.sync_all()?;
    Ok(true)
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

    /// A store with snapshots of these kinds, the last one made last.
    async fn store(dir: &Path, kinds: &[&str]) -> GoldenStore {
        let golden = dir.join("golden");
        std::fs::create_dir_all(&golden).unwrap();
        let store = GoldenStore::open(golden).unwrap();
        let from = volumes(dir, "a");
        std::fs::create_dir_all(from.postgres.join("base/1")).unwrap();
        std::fs::write(from.postgres.join("base/1/f"), "15").unwrap();
        std::fs::create_dir_all(from.odoo.join("filestore/odoo_a/ab")).unwrap();
        std::fs::write(from.odoo.join("filestore/odoo_a/ab/f"), "x").unwrap();
        for key in kinds {
            store.take(key, &from, "odoo_a", 1).await.unwrap();
        }
        store
    }

    async fn replenish(store: &GoldenStore) {
        while store.replenish(CancellationToken::new()).await.unwrap() {}
    }

    /// What is in a snapshot's directory beside the snapshot.
    fn extra(dir: &Path, key: &str) -> usize {
        let entries = std::fs::read_dir(dir.join("golden").join(key)).unwrap();
        let own = ["pgdata", "filestore", super::super::META];
        entries.filter(|e| !own.iter().any(|o| e.as_ref().unwrap().file_name() == *o)).count()
    }

    #[tokio::test]
    async fn spares_are_taken_once_each_and_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), &["k"]).await;
        replenish(&store).await;
        assert_eq!(extra(dir.path(), "k"), SPARES[0]);
        for n in 0..=SPARES[0] {
            let to = volumes(dir.path(), &format!("t{n}"));
            std::fs::write(to.postgres.join("scrap"), "x").unwrap();
            let restored = store.restore("k", &to, "odoo_b").await.unwrap();
            assert_eq!((restored.beforehand, restored.meta.database.as_str()), (n < SPARES[0], "odoo_a"));
            assert!(to.postgres.join("base/1/f").exists() && !to.postgres.join("scrap").exists());
            assert_eq!(std::fs::read(to.odoo.join("filestore/odoo_b/ab/f")).unwrap(), b"x");
        }
        assert_eq!(extra(dir.path(), "k"), 0, "nothing half is left");
        std::fs::create_dir(half(&dir.path().join("golden/k"))).unwrap();
        let store = GoldenStore::open(dir.path().join("golden")).unwrap();
        assert_eq!(extra(dir.path(), "k"), 0, "halves go at the start");
        store.want_spare("k");
        replenish(&store).await;
        assert_eq!(extra(dir.path(), "k"), SPARES[0]);
    }

    #[tokio::test]
    async fn the_kind_made_last_has_most_spares_and_the_oldest_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), &["k1", "k2", "k3"]).await;
        replenish(&store).await;
        let extras = || ["k1", "k2", "k3"].map(|key| extra(dir.path(), key));
        assert_eq!(extras(), [0, SPARES[1], SPARES[0]]);
        store.want_spare("k1");
        replenish(&store).await;
        assert_eq!(extras(), [SPARES[0], 0, SPARES[1]]);
    }

    #[tokio::test]
    async fn a_spare_that_is_not_whole_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), &["k"]).await;
        let stop = CancellationToken::new();
        stop.cancel();
        assert!(!store.replenish(stop).await.unwrap(), "the agent ends: nothing comes of it");
        assert_eq!(extra(dir.path(), "k"), 0);
    }
}
