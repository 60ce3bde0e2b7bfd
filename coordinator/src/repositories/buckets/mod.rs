//! Copies of tenants' repositories in buckets: brought there continuously (follow), pruned there when they were pruned here (tidy), and
//! brought back when this machine's disk is lost (back).
//!
//! Only the coordinator has the buckets' keys: hosts add to the directory of a destination, and a bucket follows it. **Nothing leaves a
//! bucket because it is missing here**: only what retention says may go, after this machine has pruned.
//! Not here: what is copied in which order (isyone-backup's copy), the buckets themselves (isyone-bucket), our own state on its way to
//! them (shipping).

pub(super) mod back;
pub mod collector;
mod follow;
pub mod standing;
mod tidy;
mod work;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use isyone_backup::Pace;
use isyone_bucket::{Bucket, BucketError, InBucket, Patience};
use isyone_fleet::{desired::backups::Made, state::State};
use isyone_proto::{backup::RepositoryRef, ids::ShortName};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use follow::{Follower, run};

use self::{standing::Standing, work::Works};
use super::places::Places;
use crate::base::config::{Bytes, Config, ConfigError};

/// A bucket and what it has a copy of.
#[derive(Debug)]
pub struct Copies {
    pub name: ShortName,
    pub bucket: Bucket,
    /// The destination.
    pub of: ShortName,
    /// Of all that is sent there.
    pub pace: Arc<Pace>,
    pub standing: Standing,
    /// Repositories that are known not to be there.
    not_there: Mutex<BTreeSet<Uuid>>,
    works: Works,
}

/// All buckets, by name.
#[derive(Debug, Default)]
pub struct Buckets(Vec<Arc<Copies>>);

impl Buckets {
    /// Those of a configuration, with their keys. Asks no server.
    ///
    /// # Errors
    /// Keys cannot be read, or others may read them.
    pub fn open(
        config: &Config,
        runtime: &Handle,
        stop: &CancellationToken,
    ) -> Result<Self, ConfigError> {
        let mut all = Vec::new();
        for (name, configured) in &config.backup.buckets {
            let access = configured.access(name, &config.data_dir)?;
            // Without one the configuration was refused.
            let Some(of) = configured.copies(&config.backup) else {
                continue;
            };
            let patience = Patience::default();
            let bucket = Bucket::new(&access, patience, runtime.clone(), stop.clone());
            let bucket = bucket.map_err(|e| ConfigError::Invalid {
                place: format!("backup.buckets.{name}.endpoint"),
                problem: e.to_string(),
            })?;
            all.push(Arc::new(Copies {
                name: name.clone(),
                bucket,
                of,
                pace: Arc::new(Pace::new(configured.rate_limit.map_or(0, Bytes::get))),
                standing: Standing::default(),
                not_there: Mutex::default(),
                works: Works::default(),
            }));
        }
        Ok(Self(all))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Copies>> {
        self.0.iter()
    }

    /// The bucket that a repository is being brought back from: until then nobody may begin it anew.
    pub fn bring_back(
        &self,
        state: &State,
        places: &Places,
        of: &RepositoryRef,
    ) -> Option<&ShortName> {
        let mut of_it = self.iter().filter(|copies| copies.of == of.destination);
        let found = of_it.find(|copies| !copies.is_not_there(of.tenant))?;
        (is_lost(state, places, of)).then_some(&found.name)
    }

    /// Ends what is being copied of a tenant whose key is deleted: nothing of it begins any more. Whether nobody is at work. Blocks.
    pub fn end(&self, tenant: Uuid) -> bool {
        // All are told before one is waited for.
        let ended: Vec<bool> = self.iter().map(|copies| copies.works.end(tenant)).collect();
        ended.into_iter().all(|ended| ended)
    }

    /// Removes a deleted tenant's repository everywhere; nobody may be at work on it. Blocks. A bucket that lets nobody remove keeps it,
    /// which is said: without its key it is noise. The last other error: then it is to be tried again.
    ///
    /// # Errors
    /// As [`BucketError`] says.
    pub fn remove(&self, tenant: Uuid) -> Result<(), BucketError> {
        let mut removed = Ok(());
        for copies in self.iter() {
            let repository = copies.repository(tenant);
            match repository.remove_all() {
                Ok(_) => {}
                Err(error @ BucketError::Denied(_)) => {
                    let prefix = repository.prefix();
                    tracing::warn!(bucket = %copies.name, prefix, %error, "the backups of a deleted tenant stay in a bucket; nobody can read them, its key is deleted");
                    copies.standing.with(|seen| seen.keeps_all = true);
                }
                Err(error) => removed = Err(error),
            }
        }
        removed
    }
}

impl Copies {
    /// A tenant's repository in the bucket.
    pub fn repository(&self, tenant: Uuid) -> InBucket {
        InBucket::new(self.bucket.clone(), &tenant.to_string())
    }

    fn is_not_there(&self, tenant: Uuid) -> bool {
        let not_there = self.not_there.lock();
        // The set is whole at any time, here and below.
        let not_there = not_there.unwrap_or_else(PoisonError::into_inner);
        not_there.contains(&tenant)
    }

    fn note_not_there(&self, tenant: Uuid) {
        let not_there = self.not_there.lock();
        let mut not_there = not_there.unwrap_or_else(PoisonError::into_inner);
        not_there.insert(tenant);
    }
}

/// Whether a repository was here, as far as is known, and is not any more.
fn is_lost(state: &State, places: &Places, of: &RepositoryRef) -> bool {
    let backups = state.fleet.backups.get(&of.tenant);
    let made = backups.and_then(|backups| backups.made.get(&of.destination));
    made.is_some_and(was_made)
        && places.get(&of.destination).is_some_and(|place| {
            // A disk that is not mounted has lost nothing.
            place.directory.is_dir() && !place.repository(of.tenant).join("config").exists()
        })
}

/// Whether there was ever something in it: hosts that find it lost say that there is nothing.
fn was_made(made: &Made) -> bool {
    made.repository.base_at.is_some() || !made.snapshots.is_empty() || made.pruned_at.is_some()
}
