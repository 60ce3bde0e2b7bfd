//! Golden snapshots: clean databases, initialised once per (images, modules, language), from which later tenants start.
//!
//! A snapshot is a cleanly stopped cluster's data directory and the filestore, taken before any tenant's keys were put
//! in, complete or absent (made beside, then renamed). Not here: when to take one and the re-keying (tenant::database).

mod spare;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use isyone_proto::plan::UnixMs;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedMutexGuard, RwLock};
use tokio_util::sync::CancellationToken;

use self::spare::Spares;
use crate::base::{
    fsutil::{self, Owner, blocking},
    tree::{self, CopyStats},
};

/// Newest snapshots kept: a few editions times a few module sets; each costs 100 to 300 MB.
pub const KEPT: usize = 10;
const META: &str = "meta.json";

/// What a snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Name of the database in it.
    pub database: String,
    /// When it was taken.
    pub created_ms: UnixMs,
    pub bytes: u64,
}

impl Meta {
    /// Of the snapshot in this directory.
    fn read(snapshot: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(snapshot.join(META)).ok()?).ok()
    }
}

/// What was put into a tenant's volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The snapshot it comes from.
    pub meta: Meta,
    /// What was copied just now; nothing of a copy that was there already.
    pub stats: CopyStats,
    /// It is a copy that was made beforehand.
    pub beforehand: bool,
}

/// The directory of snapshots.
pub struct GoldenStore {
    dir: PathBuf,
    /// Readers copy out; a writer renames in and prunes.
    access: Arc<RwLock<()>>,
    spares: Arc<Spares>,
    makers: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl GoldenStore {
    /// Over `dir`. Halves of an earlier life are removed; a file that somebody has put there is left alone.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            let path = entry.path();
            if !entry.file_type()?.is_dir() {
                tracing::warn!("{} is no snapshot and is left alone", path.display());
            } else if !path.join(META).exists() || path.extension().is_some_and(|e| e == "tmp") {
                std::fs::remove_dir_all(&path)?;
            }
        }
        Ok(Self {
            dir,
            access: Arc::default(),
            spares: Arc::default(),
            makers: Mutex::default(),
        })
    }

    /// The snapshot of this key, if there is one.
    pub fn find(&self, key: &str) -> Option<Meta> {
        Meta::read(&self.dir.join(key))
    }

    /// Copies that are made beforehand lie in `root`, a directory of ours on the mount that volumes are on. Without it there are none.
    pub async fn spares_in(&self, root: &Path) {
        let (spares, dir, root) = (self.spares.clone(), self.dir.clone(), root.to_owned());
        let settled = blocking(move || {
            let names =
                std::fs::read_dir(dir)?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned()));
            spares.settle(&root, &names.collect::<io::Result<Vec<_>>>()?)
        });
        if let Err(e) = settled.await {
            tracing::warn!(
                "no golden snapshots can be copied beforehand: {e}; each new tenant waits for its copy"
            );
        }
    }

    /// There may soon be another tenant of this kind.
    pub fn want_spare(&self, key: &str) {
        self.spares.want(key);
    }

    /// Completes when [`GoldenStore::replenish`] may have something to do.
    pub async fn spare_wanted(&self) {
        self.spares.wanted().await;
    }

    /// Makes one copy of a snapshot beforehand, for the kinds of tenants made last; `true`: another may be missing. Nothing comes
    /// of it once `stop` is cancelled.
    pub async fn replenish(&self, stop: CancellationToken) -> io::Result<bool> {
        let reader = self.access.clone().read_owned().await;
        let (spares, dir) = (self.spares.clone(), self.dir.clone());
        blocking(move || {
            let _reader = reader; // for as long as files are read, whoever still waits for this
            spares.replenish(&dir, &stop)
        })
        .await
    }

    /// Only one maker per key at a time: a second tenant of a new kind waits for the first one's snapshot instead of
    /// initialising the same once more.
    pub async fn maker(&self, key: &str) -> OwnedMutexGuard<()> {
        let lock = self
            .makers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(key.to_owned())
            .or_default()
            .clone();
        lock.lock_owned().await
    }

    /// Takes a snapshot of a stopped cluster and its filestore.
    pub async fn take_snapshot(
        &self,
        key: &str,
        volumes: &Volumes,
        database: &str,
        now: UnixMs,
    ) -> io::Result<CopyStats> {
        let (tmp, place) = (self.dir.join(format!("{key}.tmp")), self.dir.join(key));
        let (volumes, database) = (volumes.clone(), database.to_owned());
        let staged = tmp.clone();
        let stats = blocking(move || stage(&staged, &volumes, &database, now)).await?;
        let _writer = self.access.write().await;
        let dir = self.dir.clone();
        blocking(move || {
            if place.exists() {
                std::fs::remove_dir_all(&place)?;
            }
            std::fs::rename(&tmp, &place)?;
            std::fs::File::open(&dir)?.sync_all()?;
            prune(&dir)
        })
        .await?;
        self.want_spare(key);
        Ok(stats)
    }

    /// Fills two volumes with a snapshot: with a spare, or by copying. They are wiped first. The filestore takes `database` as
    /// its name.
    pub async fn restore(
        &self,
        key: &str,
        volumes: &Volumes,
        database: &str,
    ) -> io::Result<Restored> {
        let reader = self.access.clone().read_owned().await;
        let meta = self
            .find(key)
            .ok_or_else(|| io::Error::other("the golden snapshot has gone"))?;
        let (source, volumes, database) =
            (self.dir.join(key), volumes.clone(), database.to_owned());
        let (spares, kind) = (self.spares.clone(), key.to_owned());
        let restored = blocking(move || {
            let _reader = reader; // a dropped caller does not end this
            volumes.wipe()?;
            if spares.take_spare(&kind, &meta, &volumes, &database)? {
                return Ok(Restored {
                    meta,
                    stats: CopyStats::default(),
                    beforehand: true,
                });
            }
            let mut stats = tree::copy(&source.join("pgdata"), &volumes.postgres)?;
            let files = source.join("filestore").join(&meta.database);
            copy_into(&files, &volumes, &database, |from, to| {
                stats += tree::copy(from, to)?;
                Ok(())
            })?;
            Ok(Restored {
                meta,
                stats,
                beforehand: false,
            })
        });
        let restored = restored.await?;
        self.want_spare(key);
        Ok(restored)
    }
}

/// Puts a filestore in its place in Odoo's volume with `put`.
fn copy_into(
    files: &Path,
    volumes: &Volumes,
    database: &str,
    put: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    let (user, group) = volumes.odoo_owner;
    std::os::unix::fs::chown(&volumes.odoo, Some(user), Some(group))?;
    if files.exists() {
        let parent = volumes.odoo.join("filestore");
        std::fs::create_dir_all(&parent)?;
        std::os::unix::fs::chown(&parent, Some(user), Some(group))?;
        put(files, &parent.join(database))?;
    }
    Ok(())
}

/// Both volumes of a tenant, as directories of this machine.
#[derive(Debug, Clone)]
pub struct Volumes {
    pub postgres: PathBuf,
    pub odoo: PathBuf,
    /// Who owns Odoo's.
    pub odoo_owner: Owner,
}

impl Volumes {
    /// Removes all content.
    pub fn wipe(&self) -> io::Result<()> {
        tree::wipe(&self.postgres)?;
        tree::wipe(&self.odoo)
    }
}

fn stage(tmp: &Path, volumes: &Volumes, database: &str, now: UnixMs) -> io::Result<CopyStats> {
    if tmp.exists() {
        std::fs::remove_dir_all(tmp)?;
    }
    fsutil::private_dir(tmp)?;
    let mut stats = tree::copy(&volumes.postgres, &tmp.join("pgdata"))?;
    let files = volumes.odoo.join("filestore").join(database);
    let kept = tmp.join("filestore").join(database);
    std::fs::create_dir_all(&kept)?;
    if files.exists() {
        stats += tree::copy(&files, &kept)?;
    }
    let meta = Meta {
        database: database.to_owned(),
        created_ms: now,
        bytes: stats.bytes,
    };
    std::fs::write(
        tmp.join(META),
        serde_json::to_vec(&meta).unwrap_or_default(),
    )?; // plain struct: cannot fail
    tree::sync(tmp)?;
    Ok(stats)
}

fn prune(dir: &Path) -> io::Result<()> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if let Some(meta) = Meta::read(&path) {
            found.push((meta.created_ms, path));
        }
    }
    found.sort();
    let surplus = found.len().saturating_sub(KEPT);
    found
        .into_iter()
        .take(surplus)
        .try_for_each(|(_, path)| std::fs::remove_dir_all(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn volumes(dir: &Path, name: &str) -> Volumes {
        let (postgres, odoo) = (dir.join(name).join("pg"), dir.join(name).join("odoo"));
        std::fs::create_dir_all(&postgres).unwrap();
        std::fs::create_dir_all(&odoo).unwrap();
        let owner = (
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw(),
        );
        Volumes {
            postgres,
            odoo,
            odoo_owner: owner,
        }
    }

    #[tokio::test]
    async fn a_snapshot_restores_under_another_name_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let golden = dir.path().join("golden");
        std::fs::create_dir_all(golden.join("half.tmp")).unwrap();
        std::fs::write(golden.join("a file"), "of somebody's").unwrap();
        let store = GoldenStore::open(golden.clone()).unwrap();
        assert!(!golden.join("half.tmp").exists() && golden.join("a file").exists());
        let from = volumes(dir.path(), "a");
        std::fs::write(from.postgres.join("PG_VERSION"), "15").unwrap();
        std::fs::create_dir_all(from.odoo.join("filestore/odoo_a/ab")).unwrap();
        std::fs::write(from.odoo.join("filestore/odoo_a/ab/f"), "x").unwrap();
        for n in 0..KEPT + 2 {
            store
                .take_snapshot(&format!("k{n}"), &from, "odoo_a", n as i64)
                .await
                .unwrap();
        }
        assert!(store.find("k1").is_none() && store.find("k2").is_some());
        let to = volumes(dir.path(), "b");
        std::fs::write(to.postgres.join("scrap"), "x").unwrap();
        let restored = store.restore("k5", &to, "odoo_b").await.unwrap();
        assert_eq!(
            (restored.meta.database.as_str(), restored.stats.files),
            ("odoo_a", 2)
        );
        assert!(
            !to.postgres.join("scrap").exists() && to.odoo.join("filestore/odoo_b/ab/f").exists()
        );
    }
}
