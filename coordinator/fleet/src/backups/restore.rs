//! Which backup a restore begins with, at which destination, and how far the log is followed from there; or why there is none, with
//! what can be restored instead.
//!
//! Decided on what is known of a tenant's repositories before anything starts. Not here: what lies in them (the agent looks, and says
//! what it found), the operation (procedures/restore).

use std::collections::BTreeMap;

use isyone_types::{
    backup::{BackupWork, RestoreTo, SnapshotName},
    ids::ShortName,
    plan::UnixMs,
};
use serde::{Deserialize, Serialize};

use super::Repository;

/// What somebody asks a tenant to be restored to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// As much as there is.
    Latest,
    /// This backup, by its snapshot, as it was when it ended.
    Backup(SnapshotName),
    /// Everything that was committed before this moment, and nothing after it.
    Time(UnixMs),
}

/// A backup, as far as choosing needs to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    pub name: SnapshotName,
    pub work: BackupWork,
    /// The moment that it stands for.
    pub at: UnixMs,
    /// When it was there.
    pub ended_at: UnixMs,
}

/// What there is at one destination.
#[derive(Debug, Clone)]
pub struct Offer {
    pub repository: Repository,
    /// Oldest first.
    pub backups: Vec<Candidate>,
    /// Since when the tenant has not run; `None`: it runs.
    pub stopped_since: Option<UnixMs>,
}

/// Where a restore begins, and how far it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePoint {
    pub destination: ShortName,
    /// The backup to begin with.
    pub base: SnapshotName,
    /// The moment that it stands for.
    pub base_at: UnixMs,
    pub to: RestoreTo,
}

/// Why nothing can be restored to what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoPoint {
    /// There is no backup at all, or none there.
    NoBackup,
    /// No backup has this name.
    Unknown(SnapshotName),
    /// It is the portable copy, which PostgreSQL's own program reads.
    Portable(SnapshotName),
    /// The first backup ended only then.
    TooEarly { first: UnixMs },
    /// Nothing that was committed later is there.
    TooLate { last: UnixMs },
    /// Something is missing in the log since then: nothing after the last point can be reached before the next backup.
    Gap { since: UnixMs, last: UnixMs },
}

/// Chooses among destinations. The one from which more is restored comes first, then the first by name.
pub fn choose(
    offers: &BTreeMap<ShortName, Offer>,
    wanted: Wanted,
) -> Result<RestorePoint, NoPoint> {
    let mut best: Option<(UnixMs, RestorePoint)> = None;
    let mut why: Option<NoPoint> = None;
    for (destination, offer) in offers {
        match of_one(offer, wanted) {
            Ok((base, to, reaches)) => {
                let point = RestorePoint {
                    destination: destination.clone(),
                    base: base.name,
                    base_at: base.at,
                    to,
                };
                let is_better = best.as_ref().is_none_or(|(known, _)| reaches > *known);
                if is_better {
                    best = Some((reaches, point));
                }
            }
            // What is nearest to success is told.
            Err(refused)
                if why
                    .as_ref()
                    .is_none_or(|known| rank(&refused) > rank(known)) =>
            {
                why = Some(refused);
            }
            Err(_) => {}
        }
    }
    match best {
        Some((_, point)) => Ok(point),
        None => Err(why.unwrap_or(NoPoint::NoBackup)),
    }
}

fn rank(refused: &NoPoint) -> (u8, UnixMs) {
    match refused {
        NoPoint::NoBackup => (0, 0),
        NoPoint::Unknown(_) => (1, 0),
        NoPoint::TooEarly { first } => (2, -*first),
        NoPoint::Portable(_) => (3, 0),
        NoPoint::TooLate { last } | NoPoint::Gap { last, .. } => (4, *last),
    }
}

fn is_base(snapshot: &Candidate) -> bool {
    matches!(snapshot.work, BackupWork::Base | BackupWork::Stopped)
}

/// The backup to begin with at one destination, how far to go, and what is reached by that.
fn of_one(offer: &Offer, wanted: Wanted) -> Result<(&Candidate, RestoreTo, UnixMs), NoPoint> {
    let bases = || offer.backups.iter().filter(|made| is_base(made));
    match wanted {
        Wanted::Backup(name) => {
            let found = offer.backups.iter().find(|made| made.name == name);
            let found = found.ok_or(NoPoint::Unknown(name))?;
            match is_base(found) {
                true => Ok((found, RestoreTo::Backup, found.at)),
                false => Err(NoPoint::Portable(name)),
            }
        }
        Wanted::Latest => {
            let newest = bases().next_back().ok_or(NoPoint::NoBackup)?;
            let last = reaches(offer, newest);
            match offer.repository.gap_since {
                Some(since) if newest.at < since => Err(NoPoint::Gap { since, last }),
                _ => Ok((newest, follows(newest), last)),
            }
        }
        Wanted::Time(at) => {
            let first = bases().next().ok_or(NoPoint::NoBackup)?;
            // Only when a backup has ended is there a state that it could be brought to.
            let before = bases().rfind(|made| made.ended_at <= at);
            let base = before.ok_or(NoPoint::TooEarly {
                first: first.ended_at,
            })?;
            let has_newer = bases()
                .next_back()
                .is_some_and(|newest| newest.at > base.at);
            let last = reaches(offer, base);
            match (has_newer, offer.repository.gap_since) {
                // The log between two backups is looked at by the host that restores; after one of a tenant that was stopped there is
                // none.
                (true, _) if base.work == BackupWork::Stopped && at > base.ended_at => {
                    return Err(NoPoint::TooLate {
                        last: base.ended_at,
                    });
                }
                (true, _) => {}
                (false, Some(since)) if at > last => return Err(NoPoint::Gap { since, last }),
                (false, _) if at > last => return Err(NoPoint::TooLate { last }),
                (false, _) => {}
            }
            let to = match base.work {
                BackupWork::Stopped => RestoreTo::Backup,
                _ => RestoreTo::Time(at),
            };
            Ok((base, to, at))
        }
    }
}

/// How far the newest base leads.
fn reaches(offer: &Offer, base: &Candidate) -> UnixMs {
    match base.work {
        // While it is stopped nothing is written: that is so for as long as it stays.
        BackupWork::Stopped if offer.stopped_since.is_some_and(|since| since <= base.at) => {
            offer.repository.shipped_to.unwrap_or(0).max(base.ended_at)
        }
        BackupWork::Stopped => base.ended_at,
        _ => offer.repository.shipped_to.unwrap_or(0).max(base.at),
    }
}

fn follows(base: &Candidate) -> RestoreTo {
    match base.work {
        BackupWork::Stopped => RestoreTo::Backup,
        _ => RestoreTo::Latest,
    }
}
