//! Spares: copies of a snapshot made in advance. Later tenants of its kind take one each by a rename, which costs
//! nothing; copying thousands of files would be most of what they wait for.
//!
//! Spares are kept in Docker's own data directory: Docker may bind-mount it onto itself, and a rename cannot cross
//! mounts, not even within one file system. A spare's name contains its snapshot's key and creation time; spares that
//! match no snapshot of this agent are removed. A spare is complete or absent: it is made under another name, flushed
//! and renamed. Another rename takes it; after that only the taker uses it. [`SPARES`] bounds how many a host has. Not
//! here: when to make one (host::chores), which tenant gets it (tenant::database).

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

use super::{Meta, Volumes, filestore};
use crate::base::{
    beneath::{self, Root},
    fsutil, tree,
};

/// Number of spares for the kind of tenant (images, modules, language) created last, for the one before, and so on;
/// older kinds have none. Creates often come in a row, and spares are only made between them. Each takes as much disk
/// space as its snapshot.
const SPARES: [usize; 2] = [3, 1];
/// No spare is made on a disk with less free space than this many snapshots.
const FREE_FOR: u64 = 20;
/// Prefix of what is not yet, or no longer, a spare.
const HALF: &str = "half-";

/// Which kinds were created last, newest first.
#[derive(Debug, Default)]
pub(super) struct Spares {
    /// Where spares are kept, once Docker has told its data directory.
    root: OnceLock<PathBuf>,
    recent: Mutex<Vec<String>>,
    wanted: Notify,
    /// Volumes are on another mount after all, which a rename cannot reach.
    useless: AtomicBool,
}

/// A kind that should have spares.
struct SpareKind {
    snapshot: PathBuf,
    meta: Meta,
    key: String,
    most: usize,
}

fn half(root: &Path) -> PathBuf {
    root.join(format!("{HALF}{}", Uuid::new_v4().simple()))
}

/// Contains the creation time, so that a retaken snapshot, or another agent's, has different spares.
fn name(key: &str, meta: &Meta, number: usize) -> String {
    format!("{key}-{}-{number}", meta.created_ms)
}

impl Spares {
    /// A tenant of this kind was created, so another may follow.
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

    /// Keeps spares in `root` from now on. Removes what a previous run left incomplete; `keys` are the existing
    /// snapshots. Blocking.
    pub(super) fn settle(&self, root: &Path, keys: &[String]) -> io::Result<()> {
        if self.root.get().is_some() {
            return Ok(());
        }
        fsutil::private_dir(root)?;
        for entry in fsutil::list(root)? {
            let found = entry.name.to_string_lossy().into_owned();
            if found.starts_with(HALF) {
                fsutil::remove_tree(&entry.path)?;
            } else if let Some(key) = keys.iter().find(|key| found.starts_with(key.as_str())) {
                self.want(key);
            }
        }
        // Another task may just have set it to the same value.
        let _ = self.root.set(root.to_owned());
        Ok(())
    }

    /// Removes spares that should not be there, and makes a missing one for the kinds created last; `true`: another may
    /// be missing. Blocking.
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
        // Kinds take turns: the second one's only spare is made before the first one's last.
        for number in 0..SPARES[0] {
            for kind in kinds.iter().filter(|kind| number < kind.most) {
                if make(root, kind, number, stop)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Removes all spares; none is made before another tenant is created. Blocking.
    pub(super) fn give_way(&self) -> io::Result<()> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.clear();
        drop(recent);
        self.root.get().map_or(Ok(()), |root| sweep(root, &[]))
    }

    /// Moves one of the snapshot's spares into two empty volumes; `false` when there is none, or it is on another file
    /// system than the volumes. After an error the volumes hold scrap, as after a failed copy. Blocking.
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
            fsutil::remove_tree(&mine)?;
            return Ok(false);
        }
        moved?;
        let files = mine.join("filestore");
        if fsutil::exists(&files.join(&meta.database)) {
            let (from, to) = (meta.database.as_bytes(), database.as_bytes());
            filestore(volumes)?.take(&Root::open(&files)?, from, to)?;
        }
        let _ = fsutil::remove_tree(&mine); // else removed at the next start
        Ok(true)
    }
}

/// Renames one of the spares to a unique name: a concurrent caller gets another one, or none.
fn seize(root: &Path, key: &str, meta: &Meta) -> io::Result<Option<PathBuf>> {
    let mine = half(root);
    // From the last one down: low numbers are made first.
    for number in (0..SPARES[0]).rev() {
        match fsutil::rename(&root.join(name(key, meta, number)), &mine) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            done => return done.map(|()| Some(mine)),
        }
    }
    Ok(None)
}

/// Removes spares that none of these kinds should have. Leaves halves alone: they are in use.
fn sweep(root: &Path, kinds: &[SpareKind]) -> io::Result<()> {
    for entry in fsutil::list(root)? {
        let found = entry.name.to_string_lossy().into_owned();
        let wanted = |kind: &SpareKind| {
            (0..kind.most).any(|number| name(&kind.key, &kind.meta, number) == found)
        };
        if found.starts_with(HALF) || kinds.iter().any(wanted) {
            continue;
        }
        let gone = half(root);
        match fsutil::rename(&entry.path, &gone) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {} // it was taken just now
            Err(e) => return Err(e),
            Ok(()) => fsutil::remove_tree(&gone)?,
        }
    }
    Ok(())
}

/// `true`: it was missing and has been made.
fn make(
    root: &Path,
    kind: &SpareKind,
    number: usize,
    stop: &CancellationToken,
) -> io::Result<bool> {
    let place = root.join(name(&kind.key, &kind.meta, number));
    let disk = rustix::fs::statvfs(root)?;
    if fsutil::exists(&place)
        || disk.f_bavail * disk.f_frsize < kind.meta.bytes.saturating_mul(FREE_FOR)
    {
        return Ok(false);
    }
    let tmp = half(root);
    let copy = |part: &str| {
        fsutil::make_directory(&tmp.join(part))?;
        let from = Root::open(&kind.snapshot.join(part))?;
        tree::copy_aside(&from, &Root::open(&tmp.join(part))?)
    };
    let held = fsutil::open_directory(root)?;
    let made = fsutil::make_directory(&tmp)
        .and_then(|()| copy("pgdata"))
        .and_then(|_| copy("filestore"))
        .and_then(|_| tree::sync_all(&held));
    if made.is_err() || stop.is_cancelled() {
        let _ = fsutil::remove_tree(&tmp); // else removed at the next start
        return made.map(|()| false);
    }
    fsutil::rename(&tmp, &place)?;
    held.sync_all()?;
    Ok(true)
}

/// Renames each entry of `from` into `to`, which takes its mode and owner.
fn move_content(from: &Path, to: &Path) -> io::Result<()> {
    let (source, target) = (Root::open(from)?, Root::open(to)?);
    target.take_all(&source)?;
    beneath::set_meta(&target, &beneath::meta(&source)?)
}

#[cfg(test)]
mod tests {
    use super::super::{GoldenStore, tests::volumes};
    use super::*;

    /// A store with snapshots of these kinds, made in this order.
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

    /// How many spares of a kind, or halves, there are.
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
