//! Golden snapshots: clean databases, initialised once per (images, modules, language, and with modules country and zone), from which later tenants are
//! created.
//!
//! A snapshot is a cleanly stopped cluster's data directory and the filestore, taken before any tenant's keys are put
//! in. It is complete or absent (made under another name, then renamed). Not here: when to take one and the re-keying
//! (tenant::database).

mod spare;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use isyone_proto::plan::UnixMs;
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedMutexGuard, RwLock};
use tokio_util::sync::CancellationToken;

use self::spare::Spares;
use crate::base::{
    beneath::{RelPath, Root},
    fsutil::{self, Owner, blocking},
    tree::{self, CopyStats},
};

/// How many of the newest snapshots are kept: a few editions times a few module sets; each costs 100 to 300 MB.
pub const KEPT: usize = 10;
const META: &str = "meta.json";
/// Odoo's directory of files, one below it for each database.
const FILESTORE: &[u8] = b"filestore";

/// A snapshot's metadata, stored in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Name of the database in it.
    pub database: String,
    /// When it was taken.
    pub created_ms: UnixMs,
    pub bytes: u64,
}

impl Meta {
    /// Reads the metadata of the snapshot in this directory.
    fn read(snapshot: &Path) -> Option<Self> {
        serde_json::from_slice(&fsutil::read(&snapshot.join(META)).ok()?).ok()
    }
}

/// What was copied into a tenant's volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The snapshot it comes from.
    pub meta: Meta,
    /// What was copied just now; zero for a spare, which was copied before.
    pub stats: CopyStats,
    /// It was a spare, copied in advance.
    pub beforehand: bool,
}

/// The directory of snapshots.
pub struct GoldenStore {
    dir: PathBuf,
    /// Readers copy snapshots out; a writer renames one in and prunes.
    access: Arc<RwLock<()>>,
    spares: Arc<Spares>,
    makers: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl GoldenStore {
    /// Opens `dir`. Removes what a previous run left incomplete; leaves files that somebody else put there alone.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        for entry in fsutil::list(&dir)? {
            let path = entry.path;
            if !entry.is_directory {
                tracing::warn!("{} is no snapshot and is left alone", path.display());
            } else if !fsutil::exists(&path.join(META))
                || path.extension().is_some_and(|e| e == "tmp")
            {
                fsutil::remove_tree(&path)?;
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

    /// Keeps spares in `root`, a directory of ours on the mount that volumes are on. Without this call there are no
    /// spares.
    pub async fn spares_in(&self, root: &Path) {
        let (spares, dir, root) = (self.spares.clone(), self.dir.clone(), root.to_owned());
        let settled = blocking(move || {
            let names = fsutil::list(&dir)?.into_iter();
            let names = names.map(|entry| entry.name.to_string_lossy().into_owned());
            spares.settle(&root, &names.collect::<Vec<_>>())
        });
        if let Err(e) = settled.await {
            tracing::warn!(
                "no golden snapshots can be copied beforehand: {e}; each new tenant waits for its copy"
            );
        }
    }

    /// Another tenant of this kind may follow soon.
    pub fn want_spare(&self, key: &str) {
        self.spares.want(key);
    }

    /// Completes when [`GoldenStore::replenish`] may have work.
    pub async fn spare_wanted(&self) {
        self.spares.wanted().await;
    }

    /// Makes one spare, for the kinds of tenants created last; `true`: another may be missing. Makes none once `stop`
    /// is cancelled.
    pub async fn replenish(&self, stop: CancellationToken) -> io::Result<bool> {
        let reader = self.access.clone().read_owned().await;
        let (spares, dir) = (self.spares.clone(), self.dir.clone());
        blocking(move || {
            let _reader = reader; // held as long as files are read, even if nobody awaits this any more
            spares.replenish(&dir, &stop)
        })
        .await
    }

    /// Makes room: removes all spares, and with `snapshots` these as well. The next tenant of a kind takes longer.
    pub async fn give_way(&self, snapshots: bool) -> io::Result<()> {
        let writer = self.access.clone().write_owned().await;
        let (spares, dir) = (self.spares.clone(), self.dir.clone());
        blocking(move || {
            let _writer = writer; // held even if the caller is dropped
            spares.give_way()?;
            let all = match snapshots {
                true => fsutil::list(&dir)?,
                false => Vec::new(),
            };
            // Not what is being taken just now.
            let all = all.into_iter().filter(|e| Meta::read(&e.path).is_some());
            all.map(|entry| entry.path)
                .filter(|path| path.extension().is_none_or(|e| e != "tmp"))
                .try_for_each(|path| fsutil::remove_tree(&path))
        })
        .await
    }

    /// As while somebody copies one.
    #[cfg(test)]
    pub(in crate::host) async fn used(&self) -> tokio::sync::OwnedRwLockReadGuard<()> {
        self.access.clone().read_owned().await
    }

    /// Allows one maker per key at a time: a second tenant of a new kind waits for the first one's snapshot instead of
    /// initialising the same again.
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
            if fsutil::exists(&place) {
                fsutil::remove_tree(&place)?;
            }
            fsutil::rename(&tmp, &place)?;
            fsutil::sync_entries(&dir)?;
            prune(&dir)
        })
        .await?;
        self.want_spare(key);
        Ok(stats)
    }

    /// Wipes two volumes and fills them from a snapshot: with a spare, or by copying. The filestore is named
    /// `database`.
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
            let _reader = reader; // held even if the caller is dropped
            volumes.wipe()?;
            if spares.take_spare(&kind, &meta, &volumes, &database)? {
                return Ok(Restored {
                    meta,
                    stats: CopyStats::default(),
                    beforehand: true,
                });
            }
            let mut stats = tree::copy(
                &Root::open(&source.join("pgdata"))?,
                &Root::open(&volumes.postgres)?,
            )?;
            let files = source.join("filestore").join(&meta.database);
            if fsutil::exists(&files) {
                let place = filestore(&volumes)?;
                let name = RelPath::root().join(database.as_bytes());
                let name = name.map_err(io::Error::other)?;
                place.make_directory(&name)?;
                stats += tree::copy(&Root::open(&files)?, &place.below(&name)?)?;
            }
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

/// Makes the directory of filestores in Odoo's volume, as Odoo would.
fn filestore(volumes: &Volumes) -> io::Result<Root> {
    let (user, group) = volumes.odoo_owner;
    let odoo = Root::open(&volumes.odoo)?;
    std::os::unix::fs::fchown(&odoo, Some(user), Some(group))?;
    let name = RelPath::root().join(FILESTORE).map_err(io::Error::other)?;
    odoo.make_directory(&name)?;
    let place = odoo.below(&name)?;
    rustix::fs::fchmod(&place, Mode::from_raw_mode(0o755))?;
    std::os::unix::fs::fchown(&place, Some(user), Some(group))?;
    Ok(place)
}

/// Both volumes of a tenant, as directories on this machine.
#[derive(Debug, Clone)]
pub struct Volumes {
    pub postgres: PathBuf,
    pub odoo: PathBuf,
    /// Owner of Odoo's volume.
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
    if fsutil::exists(tmp) {
        fsutil::remove_tree(tmp)?;
    }
    fsutil::private_dir(tmp)?;
    fsutil::make_directory(&tmp.join("pgdata"))?;
    let mut stats = tree::copy(
        &Root::open(&volumes.postgres)?,
        &Root::open(&tmp.join("pgdata"))?,
    )?;
    let kept = tmp.join("filestore").join(database);
    fsutil::make_directories(&kept)?;
    // A program of the tenant has run by now: what it calls its filestore may lead anywhere.
    let files = RelPath::root()
        .join(FILESTORE)
        .and_then(|path| path.join(database.as_bytes()))
        .map_err(io::Error::other)?;
    match Root::open(&volumes.odoo)?.below(&files) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        found => stats += tree::copy(&found?, &Root::open(&kept)?)?,
    }
    let meta = Meta {
        database: database.to_owned(),
        created_ms: now,
        bytes: stats.bytes,
    };
    let bytes = serde_json::to_vec(&meta).unwrap_or_default(); // plain struct: cannot fail
    fsutil::write(&tmp.join(META), &bytes)?;
    tree::sync(tmp)?;
    Ok(stats)
}

fn prune(dir: &Path) -> io::Result<()> {
    let mut found = Vec::new();
    for entry in fsutil::list(dir)? {
        let path = entry.path;
        if let Some(meta) = Meta::read(&path) {
            found.push((meta.created_ms, path));
        }
    }
    found.sort();
    let surplus = found.len().saturating_sub(KEPT);
    found
        .into_iter()
        .take(surplus)
        .try_for_each(|(_, path)| fsutil::remove_tree(&path))
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

    /// Otherwise any directory of the host would get into the next tenants.
    #[tokio::test]
    async fn a_snapshot_takes_nothing_that_a_link_leads_to() {
        use std::os::unix::fs::symlink;

        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("golden")).unwrap();
        let store = GoldenStore::open(dir.path().join("golden")).unwrap();
        let secrets = dir.path().join("secrets");
        std::fs::create_dir_all(secrets.join("odoo_a")).unwrap();
        std::fs::write(secrets.join("odoo_a/ca.key"), "secret").unwrap();
        let whole = volumes(dir.path(), "a");
        symlink(&secrets, whole.odoo.join("filestore")).unwrap();
        let one = volumes(dir.path(), "b");
        std::fs::create_dir(one.odoo.join("filestore")).unwrap();
        symlink(secrets.join("odoo_a"), one.odoo.join("filestore/odoo_a")).unwrap();
        for from in [whole, one] {
            let taken = store.take_snapshot("k", &from, "odoo_a", 0).await;
            assert!(taken.is_err(), "{taken:?}");
            assert!(store.find("k").is_none());
        }
        let inside = volumes(dir.path(), "c");
        std::fs::create_dir_all(inside.odoo.join("filestore/odoo_a")).unwrap();
        for place in ["filestore/odoo_a/00", "filestore/odoo_a/key"] {
            symlink(&secrets, inside.odoo.join(place)).unwrap();
        }
        symlink(&secrets, inside.postgres.join("base")).unwrap();
        let taken = store.take_snapshot("k", &inside, "odoo_a", 0).await;
        assert_eq!(
            (taken.as_ref().unwrap().files, taken.unwrap().skipped),
            (0, 3)
        );
    }
}
