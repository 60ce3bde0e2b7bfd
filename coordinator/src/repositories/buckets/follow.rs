//! The loop of one bucket: looks which repositories have something new, or are lost, and brings it there, or back. Lost ones first, then
//! what has waited longest; some at a time.
//!
//! Whether something is new the folder of snapshots tells, which changes with each; once a day, and at each start, everything is
//! compared. Not here: copying itself (isyone-backup), removing (tidy).

use std::{
    collections::HashMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use futures_util::StreamExt as _;
use isyone_backup::{self as backup, Job, Known, Stop, store::StoreError};
use isyone_fleet::{backups::Policy, state::State};
use isyone_proto::{
    backup::RepositoryRef,
    ids::{ShortName, TenantName},
    plan::UnixMs,
    tls::error_chain,
};
use tokio::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    super::upkeep::{Upkeep, UpkeepError},
    Copies,
    back::{self, Brought},
    is_lost, tidy,
};
use crate::base::clock;

/// From one look to the next.
const PAUSE: Duration = Duration::from_secs(5);
/// How often a bucket is asked whether it is there, milliseconds.
const LOOK_MS: i64 = 30_000;
/// After this time everything is compared anew, milliseconds.
const COMPARE_MS: i64 = 24 * 3_600_000;
/// A repository that failed is tried again after this time, milliseconds.
const AGAIN_MS: i64 = 60_000;
/// Repositories at a time: each holds one file, of 16 MiB as we write them.
const AT_ONCE: usize = 4;

/// What the loop needs.
#[derive(Debug)]
pub struct Follower {
    pub copies: Arc<Copies>,
    pub upkeep: Arc<Upkeep>,
    pub stop: CancellationToken,
}

/// What is remembered of a repository.
#[derive(Debug, Default)]
struct Memory {
    /// `None`: to be compared.
    known: Option<Known>,
    compared_at: UnixMs,
    /// The folder of snapshots when everything was there.
    seen: Option<SystemTime>,
    /// The pruning here after which the bucket was tidied.
    tidied: Option<UnixMs>,
    failed_at: Option<UnixMs>,
}

/// A repository that has its turn.
struct Turn {
    of: RepositoryRef,
    name: TenantName,
    is_lost: bool,
    /// The folder of snapshots now.
    seen: Option<SystemTime>,
    /// Pruned here and not there: when, and what is kept.
    pruned: Option<(UnixMs, ShortName, Policy)>,
    since: UnixMs,
    memory: Memory,
}

/// Runs until the coordinator stops.
pub async fn run(follower: Arc<Follower>) {
    let mut memories: HashMap<Uuid, Memory> = HashMap::new();
    let mut looked_at = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = follower.stop.cancelled() => return,
        }
        let now = clock::now_ms();
        // A network file system may hang.
        let looking = follower.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let turns = looking.turns(&mut memories, now);
            (turns, memories)
        });
        let Ok((turns, back)) = looked.await else {
            tracing::error!(bucket = %follower.copies.name, "looking for what is new did not end well");
            return follower.stop.cancelled().await;
        };
        memories = back;
        let is_due = looked_at.is_none_or(|at| !(0..LOOK_MS).contains(&(now - at)));
        if is_due || !turns.is_empty() {
            looked_at = Some(now);
            if !follower.clone().look().await {
                for turn in turns {
                    memories.insert(turn.of.tenant, turn.memory);
                }
                continue;
            }
        }
        // Whether the bucket had trouble: the others would have the same, and wait for it.
        let broken = Arc::new(AtomicBool::new(false));
        let take = |turn| follower.clone().take(turn, broken.clone());
        let work = futures_util::stream::iter(turns).map(take);
        let mut work = std::pin::pin!(work.buffer_unordered(AT_ONCE));
        while let Some((tenant, memory)) = work.next().await {
            memories.insert(tenant, memory);
        }
    }
}

impl Follower {
    /// Whether the bucket answers.
    async fn look(self: Arc<Self>) -> bool {
        let bucket = self.copies.bucket.clone();
        let looked = tokio::task::spawn_blocking(move || bucket.check()).await;
        let failure = match looked {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error_chain(&error)),
            Err(_) => Some("looking at it did not end well".to_owned()),
        };
        if self.stop.is_cancelled() {
            return false;
        }
        let was_up = self
            .copies
            .standing
            .with(|seen| seen.is_up.replace(failure.is_none()));
        let name = &self.copies.name;
        match failure {
            None => {
                if was_up == Some(false) {
                    tracing::info!(bucket = %name, "a bucket is there again");
                }
                true
            }
            Some(error) => {
                self.failed(error);
                false
            }
        }
    }

    /// Logs what is news.
    fn failed(&self, error: String) {
        let bucket = &self.copies.name;
        if self.copies.standing.failed(clock::now_ms(), error.clone()) {
            tracing::warn!(%bucket, error, "a bucket does not get its copies; they are brought there when it can be");
        }
    }

    /// Whose turn it is; those that wait are noted.
    fn turns(&self, memories: &mut HashMap<Uuid, Memory>, now: UnixMs) -> Vec<Turn> {
        let state = self.upkeep.handle.snapshot();
        memories.retain(|tenant, _| state.fleet.backups.contains_key(tenant));
        let mut turns = Vec::new();
        for of in state.fleet.backups.values() {
            if of.shredded_at.is_none()
                && let Some(turn) = self.turn(&state, (of.tenant, &of.name), memories, now)
            {
                turns.push(turn);
            }
        }
        self.copies.standing.with(|seen| {
            let of = |tenant: &Uuid| state.fleet.backups.get(tenant);
            let there = |tenant: &Uuid| of(tenant).is_some_and(|of| of.shredded_at.is_none());
            seen.waiting.retain(|tenant, _| there(tenant));
            seen.only_there.retain(|tenant, _| there(tenant));
            for turn in &mut turns {
                turn.since = *seen.waiting.entry(turn.of.tenant).or_insert(now);
            }
            if seen.waiting.is_empty() && seen.is_up == Some(true) {
                seen.failure = None;
            }
        });
        turns.sort_by_key(|turn| (!turn.is_lost, turn.since, turn.of.tenant));
        turns
    }

    /// A repository with something to do, taken out of the memory.
    fn turn(
        &self,
        state: &State,
        (tenant, name): (Uuid, &TenantName),
        memories: &mut HashMap<Uuid, Memory>,
        now: UnixMs,
    ) -> Option<Turn> {
        let of = RepositoryRef {
            tenant,
            destination: self.copies.of.clone(),
        };
        let backups = state.fleet.backups.get(&tenant)?;
        let made = backups.made.get(&of.destination)?;
        let place = self.upkeep.places.get(&of.destination)?;
        let is_lost = is_lost(state, &self.upkeep.places, &of);
        let repository = place.repository(tenant);
        let changed = fs::metadata(repository.join("snapshots")).and_then(|data| data.modified());
        // Without `config` it is only being made.
        let is_made = repository.join("config").exists();
        let seen = changed.ok().filter(|_| is_made);
        let memory = memories.entry(tenant).or_default();
        let has_failed = { memory.failed_at }.is_some_and(|at| (0..AGAIN_MS).contains(&(now - at)));
        let pruned = pruned(self, state, backups, made.pruned_at, memory);
        let is_new = memory.seen != seen || memory.known.is_none();
        let is_old = now - memory.compared_at > COMPARE_MS;
        let comes_back = is_lost && !self.copies.is_not_there(tenant);
        let goes_there = !is_lost && seen.is_some() && (is_new || is_old || pruned.is_some());
        ((comes_back || goes_there) && !has_failed).then(|| Turn {
            of,
            name: name.clone(),
            is_lost,
            seen,
            pruned,
            since: now,
            memory: std::mem::take(memory),
        })
    }

    /// Works on one; returns what is to be remembered of it.
    async fn take(self: Arc<Self>, mut turn: Turn, broken: Arc<AtomicBool>) -> (Uuid, Memory) {
        let tenant = turn.of.tenant;
        if broken.load(Ordering::Relaxed) {
            return (tenant, turn.memory);
        }
        let (follower, name) = (self.clone(), turn.name.clone());
        let stop = Stop::default();
        let job = Job {
            stop: stop.clone(),
            destination: vec![self.copies.pace.clone()],
            processors: 1,
            ..Job::default()
        };
        let work = tokio::task::spawn_blocking(move || {
            let is_gone = || follower.is_gone(tenant);
            let at_work = follower.copies.works.begin(tenant, &job.stop, is_gone);
            let done = match at_work {
                Some(_at_work) => follower.work(&mut turn, &job),
                None => Ok(()),
            };
            (turn.memory, done)
        });
        let ended = tokio::select! {
            ended = work => ended,
            () = self.stop.cancelled() => {
                stop.stop();
                return (tenant, Memory::default());
            }
        };
        let (mut memory, done) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(bucket = %self.copies.name, tenant = %name, %error, "copying did not end well");
                return (tenant, Memory::default());
            }
        };
        match done {
            Ok(()) => {
                memory.failed_at = None;
                self.copies
                    .standing
                    .with(|seen| seen.waiting.remove(&tenant));
            }
            Err(_) if self.stop.is_cancelled() || self.is_gone(tenant) => {}
            Err(error) => {
                memory.failed_at = Some(clock::now_ms());
                broken.fetch_or(is_of_all(&error), Ordering::Relaxed);
                self.failed(format!("{name}: {}", error_chain(&error)));
            }
        }
        (tenant, memory)
    }

    /// Whether the key is deleted: what is left of the repository is, or was, removed.
    fn is_gone(&self, tenant: Uuid) -> bool {
        let state = self.upkeep.handle.snapshot();
        let of = state.fleet.backups.get(&tenant);
        of.is_none_or(|of| of.shredded_at.is_some())
    }

    fn work(&self, turn: &mut Turn, job: &Job) -> Result<(), UpkeepError> {
        let tenant = turn.of.tenant;
        if turn.is_lost {
            return self.bring_back(turn, job);
        }
        let there = self.copies.repository(tenant);
        let now = clock::now_ms();
        if now - turn.memory.compared_at > COMPARE_MS {
            turn.memory.known = None;
        }
        let mut known = match turn.memory.known.take() {
            Some(known) => known,
            None => {
                turn.memory.compared_at = now;
                Known::list(&there)?
            }
        };
        let local = self.upkeep.places.local(&turn.of);
        let local = local.ok_or_else(|| UpkeepError::NoPlace(turn.of.destination.clone()))?;
        let copied = backup::copy(&local, &there, &mut known, job);
        let copied = copied.map(|copied| self.count(copied));
        let tidied = match (&copied, turn.pruned.take()) {
            (Ok(()), Some((at, plan, policy))) => {
                let kept = (&plan, &policy);
                let done = tidy::tidy(
                    &self.upkeep,
                    &self.copies,
                    &turn.of,
                    kept,
                    (&mut known, job),
                );
                done.map(|tidied| {
                    turn.memory.tidied = Some(at);
                    self.tell(turn, &tidied);
                })
            }
            _ => Ok(()),
        };
        // Also what was brought there before it failed.
        turn.memory.known = Some(known);
        copied?;
        turn.memory.seen = turn.seen;
        tidied
    }

    fn bring_back(&self, turn: &mut Turn, job: &Job) -> Result<(), UpkeepError> {
        let (tenant, name) = (turn.of.tenant, &turn.name);
        let place = self.upkeep.places.get(&turn.of.destination);
        let place = place.ok_or_else(|| UpkeepError::NoPlace(turn.of.destination.clone()))?;
        let bucket = &self.copies.name;
        match back::bring(&self.copies, place, tenant, job)? {
            Brought::NotThere => self.copies.note_not_there(tenant),
            Brought::Whole(copied) => {
                tracing::info!(%bucket, tenant = %name, files = copied.files, bytes = copied.bytes, "a repository that was lost here was brought back from a bucket");
            }
        }
        Ok(())
    }

    fn count(&self, copied: backup::Copied) {
        self.copies.standing.with(|seen| {
            seen.copied_files += copied.files;
            seen.copied_bytes += copied.bytes;
            seen.copied_at = Some(clock::now_ms());
        });
    }

    fn tell(&self, turn: &Turn, tidied: &backup::Tidied) {
        let (bucket, tenant) = (&self.copies.name, &turn.name);
        self.copies.standing.with(|seen| {
            // Where there was nothing to remove nobody has refused anything either.
            if tidied.refused.is_some() || tidied.removed > 0 {
                seen.keeps_all = tidied.refused.is_some();
            }
            match tidied.only_there {
                0 => seen.only_there.remove(&turn.of.tenant),
                count => seen.only_there.insert(turn.of.tenant, count),
            };
        });
        if let Some(refused) = &tidied.refused {
            tracing::info!(%bucket, %tenant, "a bucket keeps what was pruned here: {}", error_chain(refused));
        }
        if tidied.only_there > 0 {
            tracing::warn!(%bucket, %tenant, snapshots = tidied.only_there, "a bucket has snapshots that are to be kept and are not here any more");
        }
    }
}

/// Whether the next repository would fail in the same way.
fn is_of_all(error: &UpkeepError) -> bool {
    let of_all = |error: &StoreError| {
        matches!(
            error,
            StoreError::Unreachable(_) | StoreError::Full(_) | StoreError::Denied(_)
        )
    };
    match error {
        UpkeepError::Repository(error) => error.store().is_some_and(of_all),
        UpkeepError::Bucket(_) => true,
        _ => false,
    }
}

/// Whether the bucket is to be tidied: this machine has pruned since.
fn pruned(
    follower: &Follower,
    state: &State,
    backups: &isyone_fleet::desired::backups::TenantBackups,
    pruned_at: Option<UnixMs>,
    memory: &Memory,
) -> Option<(UnixMs, ShortName, Policy)> {
    let at = pruned_at.filter(|at| memory.tidied != Some(*at))?;
    let tenant = state.fleet.tenants.get(&backups.name);
    let tenant = tenant.filter(|tenant| tenant.uid == backups.tenant)?;
    let settings = follower.upkeep.handle.settings();
    let policy = settings.backups.policy(&tenant.spec.plan)?;
    Some((at, tenant.spec.plan.clone(), policy.clone()))
}
