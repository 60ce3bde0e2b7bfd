//! What only the coordinator does with repositories: forgets snapshots whose time is over, prunes what nothing needs any more (marked
//! first, removed a day later, so that a host that is just adding loses nothing), and removes the repositories of tenants whose key
//! is deleted.
//!
//! One repository at a time, on a thread that may block. Nothing is removed because something is missing: only on the strength of a
//! record that says so.
//! Not here: which snapshots are kept (isyone-backup's retention, by the policy of isyone_fleet), when a key is deleted (isyone_fleet).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use isyone_backup::{self as backup, Job, Key, Repository, Snapshot, Stop, store::Name};
use isyone_bucket::BucketError;
use isyone_fleet::{
    backups::{CLOCKS_DIFFER_MS, Policy},
    change::Command,
    desired::backups::TenantBackups,
    event::EventKind,
    state::State,
};
use isyone_proto::{
    backup::{RepositoryRef, SnapshotName},
    ids::{ShortName, TenantName},
    plan::UnixMs,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    buckets::{Buckets, back::coming},
    evidence,
    places::Places,
};
use crate::{
    base::{clock, config::Config, secrets::Sealer},
    writer::Handle,
};

/// Pause between two repositories, and before the next look when there is nothing to do.
const PAUSE: Duration = Duration::from_secs(10);
/// A repository is looked after once in this time, milliseconds.
const EVERY_MS: i64 = 24 * 3_600_000;
/// After a failure, milliseconds.
const AGAIN_MS: i64 = 3_600_000;
/// What cannot be removed is tried again after this time, milliseconds; others have their turn meanwhile.
const REMOVE_AGAIN_MS: i64 = 600_000;
/// What was marked is removed after so many hours; longer than any backup takes.
const MARKED_HOURS: u32 = 23;
/// Begins the name of a directory that is being removed.
const REMOVED: &str = ".removed-";

/// What the loop needs, and operators who look.
#[derive(Debug)]
pub struct Upkeep {
    pub handle: Handle,
    pub config: Arc<Config>,
    pub sealer: Arc<Sealer>,
    pub places: Arc<Places>,
    pub buckets: Arc<Buckets>,
    /// One repository at a time, whoever asks.
    pub at_work: tokio::sync::Mutex<()>,
    pub stop: CancellationToken,
}

/// Why a repository is not looked after.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    #[error("there is no destination `{0}` on this machine")]
    NoPlace(ShortName),
    #[error("there is no key of its backups")]
    NoKey,
    #[error("its key does not open")]
    Key(#[from] crate::base::secrets::SealError),
    #[error("its repository")]
    Repository(#[from] backup::Error),
    #[error("its copy")]
    Bucket(#[from] BucketError),
    /// It panicked, or we stop.
    #[error("it did not end")]
    Cut,
}

/// What retention says of a repository.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Snapshots that stay.
    pub kept: usize,
    /// Oldest first.
    pub forgotten: Vec<Snapshot>,
}

/// A repository whose turn it is.
struct Turn {
    of: Arc<TenantBackups>,
    destination: ShortName,
    policy: Policy,
    plan: ShortName,
}

/// Runs until the coordinator stops.
pub async fn run(upkeep: Arc<Upkeep>) {
    // When what failed may be tried again; in memory only: a restart tries again.
    let mut failed: BTreeMap<(Uuid, ShortName), UnixMs> = BTreeMap::new();
    let mut unremoved: BTreeMap<Uuid, UnixMs> = BTreeMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = upkeep.stop.cancelled() => return,
        }
        let (state, now) = (upkeep.handle.snapshot(), clock::now_ms());
        // Nor for longer, if the clock has been put back since.
        failed.retain(|_, at| (now - *at).abs() < AGAIN_MS);
        unremoved.retain(|_, at| (now - *at).abs() < REMOVE_AGAIN_MS);
        // A clock that is wrong must not forget anything before somebody can notice.
        if state.last_tick.is_none() || now < state.quarantine_hold_until {
            continue;
        }
        if let Some(of) = shredded(&state, &unremoved) {
            let tenant = of.tenant;
            if !upkeep.clone().remove(of).await {
                unremoved.insert(tenant, now);
            }
            continue;
        }
        let next = next(&state, upkeep.handle.settings(), now, |key| {
            failed.contains_key(key)
        });
        if let Some(turn) = next {
            let key = (turn.of.tenant, turn.destination.clone());
            if !upkeep.clone().look_after(turn).await {
                failed.insert(key, now);
            }
        }
    }
}

/// A tenant whose key is deleted, and whose repositories may still be there; not one of those that could not be removed just now.
fn shredded(state: &State, unremoved: &BTreeMap<Uuid, UnixMs>) -> Option<Arc<TenantBackups>> {
    let gone =
        |of: &&Arc<TenantBackups>| of.shredded_at.is_some() && !unremoved.contains_key(&of.tenant);
    state.fleet.backups.values().find(gone).cloned()
}

/// The repository that has not been looked after for longest, if that is long enough ago.
fn next(
    state: &State,
    settings: &isyone_fleet::settings::Settings,
    now: UnixMs,
    is_failing: impl Fn(&(Uuid, ShortName)) -> bool,
) -> Option<Turn> {
    let fleet = &state.fleet;
    let mut oldest: Option<(UnixMs, Turn)> = None;
    for of in fleet.backups.values() {
        let tenant = fleet
            .tenants
            .get(&of.name)
            .filter(|tenant| tenant.uid == of.tenant);
        // What is kept of a deleted tenant stays as it is.
        let Some(tenant) = tenant.filter(|_| fleet.backup_keys.contains_key(&of.tenant)) else {
            continue;
        };
        let Some(policy) = settings.backups.policy(&tenant.spec.plan) else {
            continue;
        };
        for (destination, made) in &of.made {
            let at = made.pruned_at.unwrap_or(0);
            // Nor does a clock that was ahead keep it from its turn.
            let has_had_its_turn = (-CLOCKS_DIFFER_MS..=EVERY_MS).contains(&(now - at));
            let is_due = made.repository.base_at.is_some() && !has_had_its_turn;
            let is_older = oldest.as_ref().is_none_or(|(before, _)| at < *before);
            if is_due && is_older && !is_failing(&(of.tenant, destination.clone())) {
                let turn = Turn {
                    of: of.clone(),
                    destination: destination.clone(),
                    policy: policy.clone(),
                    plan: tenant.spec.plan.clone(),
                };
                oldest = Some((at, turn));
            }
        }
    }
    oldest.map(|(_, turn)| turn)
}

impl Upkeep {
    /// Whether it went well.
    async fn look_after(self: Arc<Self>, turn: Turn) -> bool {
        let (destination, name) = (turn.destination.clone(), turn.of.name.clone());
        let of = RepositoryRef {
            destination: turn.destination,
            tenant: turn.of.tenant,
        };
        match self.clone().prune_now(of, turn.plan, turn.policy).await {
            Ok(verdict) => {
                tracing::debug!(tenant = %name, %destination, forgotten = verdict.forgotten.len(), kept = verdict.kept, "a repository was pruned");
                true
            }
            // We stop, or the log says more.
            Err(UpkeepError::Cut) => false,
            Err(error) => {
                let error = isyone_proto::tls::error_chain(&error);
                self.tell_failed(&name, &destination, &error).await;
                false
            }
        }
    }

    /// Forgets and prunes now, and remembers that.
    ///
    /// # Errors
    /// As [`UpkeepError`] says.
    pub async fn prune_now(
        self: Arc<Self>,
        of: RepositoryRef,
        plan: ShortName,
        policy: Policy,
    ) -> Result<Verdict, UpkeepError> {
        let _turn = self.at_work.lock().await;
        let (upkeep, stop) = (self.clone(), Stop::default());
        let _stops = StopsWith(stop.clone());
        let job = Job {
            stop,
            progress: Arc::default(),
            source: Vec::new(),
            destination: Vec::new(),
            // Beside everything else that the coordinator does.
            processors: 1,
        };
        let at = of.clone();
        let work = tokio::task::spawn_blocking(move || upkeep.prune(&at, &plan, &policy, &job));
        let done = tokio::select! {
            done = work => done,
            () = self.stop.cancelled() => return Err(UpkeepError::Cut),
        };
        let verdict = done.map_err(|error| {
            tracing::error!(tenant = %of.tenant, %error, "pruning did not end well");
            UpkeepError::Cut
        })??;
        self.tell_forgotten(of, &verdict).await;
        Ok(verdict)
    }

    async fn tell_forgotten(&self, of: RepositoryRef, verdict: &Verdict) {
        let names = verdict.forgotten.iter().map(|s| SnapshotName(s.name.0));
        let command = Command::SnapshotsForgotten {
            tenant: of.tenant,
            destination: of.destination,
            names: names.collect(),
        };
        if let Err(error) = self.handle.submit_patiently("coordinator", command).await {
            tracing::warn!("a pruned repository is not noted, and pruned again: {error}");
        }
    }

    async fn tell_failed(&self, name: &TenantName, destination: &ShortName, error: &str) {
        tracing::warn!(tenant = %name, %destination, error, "a repository could not be pruned");
        let command = Command::Audit {
            kind: EventKind::BackupPruneFailed,
            tenant: name.clone(),
            message: format!("{destination}: {error}"),
        };
        // It may have been removed meanwhile.
        let _ = self.handle.submit_patiently("coordinator", command).await;
    }

    /// Opens a tenant's repository. Blocks.
    ///
    /// # Errors
    /// As [`UpkeepError`] says.
    pub fn open(&self, of: &RepositoryRef) -> Result<Repository, UpkeepError> {
        let local = self.places.local(of);
        let local = local.ok_or_else(|| UpkeepError::NoPlace(of.destination.clone()))?;
        Ok(Repository::open(Arc::new(local), &self.key(of.tenant)?)?)
    }

    /// The key of a tenant's repositories.
    ///
    /// # Errors
    /// As [`UpkeepError`] says.
    pub(super) fn key(&self, tenant: Uuid) -> Result<Key, UpkeepError> {
        let state = self.handle.snapshot();
        let key = state.fleet.backup_keys.get(&tenant);
        let key = self
            .sealer
            .open_backup_key(key.ok_or(UpkeepError::NoKey)?)?;
        Ok(Key::new(key.bytes()))
    }

    /// What retention says of a tenant's repository now. Changes nothing. Blocks.
    ///
    /// # Errors
    /// As [`UpkeepError`] says.
    pub fn verdict(
        &self,
        of: &RepositoryRef,
        plan: &ShortName,
        policy: &Policy,
    ) -> Result<Verdict, UpkeepError> {
        self.judged(of, &self.open(of)?, plan, policy)
    }

    fn judged(
        &self,
        of: &RepositoryRef,
        repository: &Repository,
        plan: &ShortName,
        policy: &Policy,
    ) -> Result<Verdict, UpkeepError> {
        let snapshots = repository.snapshots()?.snapshots;
        let names = self.forgettable(of, &snapshots, BTreeMap::new(), plan, policy);
        let (forgotten, kept): (Vec<_>, Vec<_>) = snapshots
            .into_iter()
            .partition(|snapshot| names.contains(&snapshot.name));
        Ok(Verdict {
            kept: kept.len(),
            forgotten,
        })
    }

    /// Which of these snapshots retention does not keep. `elsewhere`: when those came that are not here.
    pub(super) fn forgettable(
        &self,
        of: &RepositoryRef,
        snapshots: &[Snapshot],
        elsewhere: BTreeMap<Name, jiff::Timestamp>,
        plan: &ShortName,
        policy: &Policy,
    ) -> BTreeSet<Name> {
        let now = jiff::Timestamp::from_millisecond(clock::now_ms()).unwrap_or_default();
        let keep = keep(policy, self.config.backup_zone(Some(plan)));
        let mut evidence = evidence::of(&self.handle.snapshot(), &self.places, of, snapshots);
        evidence.arrived.extend(elsewhere);
        backup::forgettable(snapshots, &evidence, &keep, now)
            .into_iter()
            .collect()
    }

    /// Forgets and prunes. Blocks.
    ///
    /// # Errors
    /// As [`UpkeepError`] says.
    pub fn prune(
        &self,
        of: &RepositoryRef,
        plan: &ShortName,
        policy: &Policy,
        job: &Job,
    ) -> Result<Verdict, UpkeepError> {
        let repository = self.open(of)?;
        let verdict = self.judged(of, &repository, plan, policy)?;
        let names: Vec<_> = verdict.forgotten.iter().map(|s| s.name).collect();
        repository.forget(&names)?;
        repository.prune(MARKED_HOURS, job)?;
        if let Some(local) = self.places.local(of)
            && let Err(error) = local.sweep(wall())
        {
            tracing::warn!(tenant = %of.tenant, %error, "what a crash has left behind stays");
        }
        Ok(verdict)
    }

    /// Removes the repositories of a tenant whose key is deleted, everywhere, and then the record that says so. Whether it went well.
    async fn remove(self: Arc<Self>, of: Arc<TenantBackups>) -> bool {
        let (upkeep, tenant) = (self.clone(), of.tenant);
        let work = tokio::task::spawn_blocking(move || upkeep.remove_all(tenant));
        match work.await {
            Ok(Ok(())) => {
                tracing::info!(tenant = %of.name, uid = %tenant, "the backups of a deleted tenant are removed");
                let command = Command::RepositoriesRemoved(vec![tenant]);
                let _ = self.handle.submit_patiently("coordinator", command).await; // tried again
                true
            }
            Ok(Err(error)) => {
                let error = isyone_proto::tls::error_chain(&error);
                tracing::warn!(tenant = %of.name, uid = %tenant, error, "the backups of a deleted tenant cannot be removed yet");
                false
            }
            Err(error) => {
                tracing::error!(%error, "removing did not end well");
                false
            }
        }
    }

    fn remove_all(&self, tenant: Uuid) -> io::Result<()> {
        // Whoever copies it now would put into a bucket, or bring back, what was just removed.
        if !self.buckets.end(tenant) {
            return Err(io::Error::other("a copy of it is still under way"));
        }
        for (_, place) in self.places.iter() {
            // A destination that is not there holds what is noise without the key: nobody waits for it.
            if place.directory.is_dir() {
                remove(&place.repository(tenant))?;
                remove(&coming(place, tenant))?;
            }
        }
        Ok(self.buckets.remove(tenant)?)
    }
}

/// Removes a directory; one that is not there is removed. Renamed first: half a repository must not look like one.
fn remove(directory: &Path) -> io::Result<()> {
    let name = directory
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let going = directory.with_file_name(format!("{REMOVED}{name}"));
    match fs::rename(directory, &going) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => other?,
    }
    match fs::remove_dir_all(&going) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn wall() -> SystemTime {
    let since = u64::try_from(clock::now_ms()).unwrap_or(0);
    UNIX_EPOCH + Duration::from_millis(since)
}

/// Tells a job to stop when nobody waits for it any more.
struct StopsWith(Stop);

impl Drop for StopsWith {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn keep(policy: &Policy, zone: jiff::tz::TimeZone) -> backup::Keep {
    let keep = policy.keep;
    backup::Keep {
        last: keep.last.into(),
        daily: keep.daily.into(),
        weekly: keep.weekly.into(),
        monthly: keep.monthly.into(),
        every_second: jiff::SignedDuration::from_millis(keep.every_second_ms),
        kept: jiff::SignedDuration::from_millis(keep.on_purpose_ms),
        zone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_removed_is_gone_and_its_neighbours_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let [alfa, beta] = ["alfa", "beta"].map(|name| folder.path().join(name));
        for directory in [&alfa, &beta] {
            fs::create_dir_all(directory.join("data/00")).unwrap();
        }
        remove(&alfa).unwrap();
        remove(&alfa).unwrap();
        // Cut off in the middle: renamed, and not yet removed.
        fs::create_dir(folder.path().join(format!("{REMOVED}alfa"))).unwrap();
        remove(&alfa).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        assert_eq!(left, [beta]);
    }
}
