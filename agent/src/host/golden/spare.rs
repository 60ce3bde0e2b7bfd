//! Copies of a snapshot, made beforehand: the next tenants of its kind take one each by renaming, which costs nothing, where
//! copying thousands of files would be most of what they wait for.
//!
//! Spares lie in Docker's own data directory: Docker may mount that onto itself, and nothing can be renamed from one mount to
//! another, be it the same file system. Each bears the name of its snapshot and when that was taken; what belongs to no snapshot of
//! this agent goes. One is complete, or absent: made under another name, flushed, renamed; taken by another rename, after which
//! it is nobody's but the taker's. How many a host has is bounded by [`SPARES`]. Not here: when one is made (host::chores),
//! which tenant gets it (tenant::database).

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Meta, Volumes, copy_into};
use crate::base::{fsutil, tree};

/// Spares of the kind of tenant (images, modules, language) that was made last, of the one before, and so on; older kinds have none.
/// Creates often come in a row, and a copy is made only between them. Each costs the disk as much as its snapshot.
const SPARES: [usize; 2] = [3, 1];
/// A disk with less free space than this many snapshots gets no spare.
const FREE_FOR: u64 = 20;
/// Prefix of what is not yet, or no longer, a spare.
const HALF: &str = "half-";

/// Which kinds were made last, newest first.
#[derive(Debug, Default)]
pub(super) struct Spares {
    /// Where they lie, once Docker has told.
    root: OnceLock<PathBuf>,
    recent: Mutex<Vec<String>>,
    wanted: Notify,
    /// Volumes are on another mount all the same, where nothing can be renamed to.
    useless: AtomicBool,
}

/// A kind that shall have spares.
struct SpareKind {
    snapshot: PathBuf,
    meta: Meta,
    key: String,
    most: usize,
}

fn half(root: &Path) -> PathBuf {
    root.join(format!("{HALF}{}", Uuid::new_v4().simple()))
}

/// A snapshot that was taken anew, or another agent's, has other spares.
fn name(key: &str, meta: &Meta, number: usize) -> String {
    format!("{key}-{}-{number}", meta.created_ms)
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

    /// They lie in `root` from now on. Halves of an earlier life go; `keys` are the snapshots that are there. Blocking.
    pub(super) fn settle(&self, root: &Path, keys: &[String]) -> io::Result<()> {
        if self.root.get().is_some() {
            return Ok(());
        }
        fsutil::private_dir(root)?;
        for entry in std::fs::read_dir(root)? {
            let entry = entry?;
            let found = entry.file_name().to_string_lossy().into_owned();
            if found.starts_with(HALF) {
                std::fs::remove_dir_all(entry.path())?;
            } else if let Some(key) = keys.iter().find(|key| found.starts_with(key.as_str())) {
                self.want(key);
            }
        }
        // Somebody else may just have said the same.
        let _ = self.root.set(root.to_owned());
        Ok(())
    }

    /// Removes spares that nobody is to have, and makes one that is missing for the kinds made last; `true`: there may be another to
    /// make. Blocking.
    pub(super) fn replenish(&self, store: &Path, stop: &CancellationToken) -> io::Result<bool> {
        let Some(root) = self.root.get() else {
            return Ok(false);
        };
        let kinds: Vec<SpareKind> = {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            recent.truncate(SPARES.len());
            let kind = |(key, most): (&String, usize)| {
                let snapshot = store.join(key);
                Some(SpareKind {
                    meta: Meta::read(&snapshot)?,
                    snapshot,
                    key: key.clone(),
                    most,
                })
            };
            recent.iter().zip(SPARES).filter_map(kind).collect()
        };
        sweep(root, &kinds)?;
        if self.useless.load(Ordering::Relaxed) {
            return Ok(false);
        }
        // Kinds in turn: the second one's only spare comes before the first one's last.
        for number in 0..SPARES[0] {
            for kind in kinds.iter().filter(|kind| number < kind.most) {
                if make(root, kind, number, stop)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Moves one of the snapshot's spares into two empty volumes; `false` when there is none, or it lies on another file system than
    /// the volumes. After an error the volumes hold scrap, as after a copy that failed. Blocking.
    pub(super) fn take_spare(
        &self,
        key: &str,
        meta: &Meta,
        volumes: &Volumes,
        database: &str,
    ) -> io::Result<bool> {
        let Some(root) = self.root.get() else {
            return Ok(false);
        };
        let Some(mine) = seize(root, key, meta)? else {
            return Ok(false);
        };
        let moved = move_content(&mine.join("pgdata"), &volumes.postgres);
        if moved
            .as_ref()
            .is_err_and(|e| e.kind() == io::ErrorKind::CrossesDevices)
        {
            tracing::warn!(
                "{} is on another mount than Docker's volumes: new tenants wait for their copies",
                root.display()
            );
            self.useless.store(true, Ordering::Relaxed);
            std::fs::remove_dir_all(&mine)?;
            return Ok(false);
        }
        moved?;
        let files = mine.join("filestore").join(&meta.database);
        copy_into(&files, volumes, database, |from, to| {
            std::fs::rename(from, to)
        })?;
        let _ = std::fs::remove_dir_all(&mine); // or at the next start
        Ok(true)
    }
}

/// Gives one of the spares a name that nobody else knows: whoever takes one at the same time gets another, or nothing.
fn seize(root: &Path, key: &str, meta: &Meta) -> io::Result<Option<PathBuf>> {
    let mine = half(root);
    // The last one first: those with low numbers are made first.
    for number in (0..SPARES[0]).rev() {
        match std::fs::rename(root.join(name(key, meta, number)), &mine) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            done => return done.map(|()| Some(mine)),
        }
    }
    Ok(None)
}

/// Removes what none of these kinds is to have. Halves are somebody's.
fn sweep(root: &Path, kinds: &[SpareKind]) -> io::Result<()> {
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        let found = entry.file_name().to_string_lossy().into_owned();
        let wanted = |kind: &SpareKind| {
            (0..kind.most).any(|number| name(&kind.key, &kind.meta, number) == found)
        };
        if found.starts_with(HALF) || kinds.iter().any(wanted) {
            continue;
        }
        let gone = half(root);
        match std::fs::rename(entry.path(), &gone) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {} // it was taken just now
            Err(e) => return Err(e),
            Ok(()) => std::fs::remove_dir_all(&gone)?,
        }
    }
    Ok(())
}

/// `true`: it was missing, and is there now.
fn make(
    root: &Path,
    kind: &SpareKind,
    number: usize,
    stop: &CancellationToken,
) -> io::Result<bool> {
    let place = root.join(name(&kind.key, &kind.meta, number));
    let disk = rustix::fs::statvfs(root)?;
    if place.exists() || disk.f_bavail * disk.f_frsize < kind.meta.bytes.saturating_mul(FREE_FOR) {
        return Ok(false);
    }
    let tmp = half(root);
    let made = std::fs::create_dir(&tmp)
        .and_then(|()| tree::copy_aside(&kind.snapshot.join("pgdata"), &tmp.join("pgdata")))
        .and_then(|_| tree::copy_aside(&kind.snapshot.join("filestore"), &tmp.join("filestore")))
        .and_then(|_| tree::sync_all(&tmp));
    if made.is_err() || stop.is_cancelled() {
        let _ = std::fs::remove_dir_all(&tmp); // or at the next start
        return made.map(|()| false);
    }
    std::fs::rename(&tmp, &place)?;
    std::fs::File::open(root)?.sync_all()?;
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
        store.spares_in(&dir.join("spares")).await;
        let from = volumes(dir, "a");
        std::fs::create_dir_all(from.postgres.join("base/1")).unwrap();
        std::fs::write(from.postgres.join("base/1/f"), "15").unwrap();
        std::fs::create_dir_all(from.odoo.join("filestore/odoo_a/ab")).unwrap();
        std::fs::write(from.odoo.join("filestore/odoo_a/ab/f"), "x").unwrap();
        for key in kinds {
            store.take_snapshot(key, &from, "odoo_a", 1).await.unwrap();
        }
        store
    }

    async fn replenish(store: &GoldenStore) {
        while store.replenish(CancellationToken::new()).await.unwrap() {}
    }

    /// How many spares of a kind, or halves, are there.
    fn extra(dir: &Path, prefix: &str) -> usize {
        let entries = std::fs::read_dir(dir.join("spares")).unwrap();
        entries
            .filter(|e| {
                e.as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .starts_with(prefix)
            })
            .count()
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
            assert_eq!(
                (restored.beforehand, restored.meta.database.as_str()),
                (n < SPARES[0], "odoo_a")
            );
            assert!(to.postgres.join("base/1/f").exists() && !to.postgres.join("scrap").exists());
            assert_eq!(
                std::fs::read(to.odoo.join("filestore/odoo_b/ab/f")).unwrap(),
                b"x"
            );
        }
        assert_eq!(extra(dir.path(), ""), 0, "nothing half is left");
        std::fs::create_dir(half(&dir.path().join("spares"))).unwrap();
        std::fs::create_dir(dir.path().join("spares/k-17-0")).unwrap();
        let store = GoldenStore::open(dir.path().join("golden")).unwrap();
        store.spares_in(&dir.path().join("spares")).await;
        assert_eq!(extra(dir.path(), HALF), 0, "halves go at the start");
        replenish(&store).await;
        assert_eq!(extra(dir.path(), "k"), SPARES[0]);
        assert_eq!(
            extra(dir.path(), "k-17-"),
            0,
            "what belongs to another snapshot goes"
        );
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
        assert!(
            !store.replenish(stop).await.unwrap(),
            "the agent ends: nothing comes of it"
        );
        assert_eq!(extra(dir.path(), "k"), 0);
    }
}
