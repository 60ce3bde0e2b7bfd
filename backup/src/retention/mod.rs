//! Which snapshots may be forgotten: the newest, and one each day, week and month, stay; and around them whatever makes a point
//! in time reachable. Pure.
//!
//! Whoever writes a snapshot chooses its time and tags, so what nobody has ordered pushes nothing out that was: see [`Evidence`].
//!
//! Not here: packs that nothing needs any more; that is [`crate::Repository::prune`].

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};

use crate::{
    snapshot::{Purpose, Snapshot},
    store::Name,
};

/// Clocks differ, by no more than this.
const AHEAD: SignedDuration = SignedDuration::from_hours(1);
/// No base takes longer.
const LONGEST: SignedDuration = SignedDuration::from_hours(24);

/// How much of each purpose is kept. Days begin when they do for the customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    pub last: usize,
    pub daily: usize,
    pub weekly: usize,
    pub monthly: usize,
    /// Within this time before now, every second is reachable.
    pub every_second: SignedDuration,
    /// How long what was made on purpose is kept ([`Purpose::Kept`]) at least: it is one of each day, week and month as others are.
    pub kept: SignedDuration,
    pub zone: TimeZone,
}

/// What is known of snapshots from elsewhere than themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Bases and dumps that were made on order.
    pub ordered: BTreeSet<Name>,
    /// When a file came, by the destination; it may be later after the destination was copied.
    pub arrived: BTreeMap<Name, Timestamp>,
}

/// Why a snapshot stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    Last,
    Daily,
    Weekly,
    Monthly,
    /// It carries a point in time that is to be reachable.
    PointInTime,
    /// The first files after a base that stays, those that the base's database names; and what was shipped while it was made, without
    /// which it cannot be started.
    FilesOfBase,
    OnPurpose,
    /// Nobody is known to have ordered it, or its time has not come.
    Unordered,
    /// Its purpose is not ours.
    Foreign,
}

type Rule = (Kept, usize, fn(Date) -> (i16, i32));

impl Keep {
    fn rules(&self) -> [Rule; 4] {
        let week = |date: Date| {
            let week = date.iso_week_date();
            (week.year(), i32::from(week.week()))
        };
        [
            // Each is a period of its own: see `chosen`.
            (Kept::Last, self.last, |_| (0, 0)),
            (Kept::Daily, self.daily, |date| {
                (date.year(), i32::from(date.day_of_year()))
            }),
            (Kept::Weekly, self.weekly, week),
            (Kept::Monthly, self.monthly, |date| {
                (date.year(), i32::from(date.month()))
            }),
        ]
    }
}

/// Snapshots that may be forgotten, oldest first. `snapshots` may come in any order.
#[must_use]
pub fn forgettable(
    snapshots: &[Snapshot],
    evidence: &Evidence,
    keep: &Keep,
    now: Timestamp,
) -> Vec<Name> {
    let kept: BTreeSet<Name> = kept(snapshots, evidence, keep, now)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let mut rest: Vec<_> = snapshots
        .iter()
        .filter(|s| !kept.contains(&s.name))
        .collect();
    rest.sort_by_key(|s| (s.time, s.name));
    rest.into_iter().map(|s| s.name).collect()
}

/// Snapshots that stay, each with its first reason.
///
/// What was ordered is judged by itself, and stays whatever else there is. Then all are judged together, as a coordinator that was
/// rebuilt from an older state does not know of all that was ordered: what it does not know is kept no shorter than if it did.
#[must_use]
pub fn kept(
    snapshots: &[Snapshot],
    evidence: &Evidence,
    keep: &Keep,
    now: Timestamp,
) -> Vec<(Name, Kept)> {
    let mut newest_first: Vec<_> = snapshots.iter().collect();
    newest_first.sort_by_key(|s| Reverse((s.time, s.name)));
    let (past, ahead): (Vec<_>, Vec<_>) = newest_first.iter().copied().partition(|s| s.time <= now);
    let is_ordered = |s: &&Snapshot| !is_counted(s) || evidence.ordered.contains(&s.name);
    let ordered: Vec<_> = past.iter().copied().filter(is_ordered).collect();
    let mut kept = by_policy(&ordered, keep, now);
    kept.extend(by_policy(&past, keep, now));
    // What is left may be somebody's, or a host's that was taken over: it goes by when it came, whatever it says of itself.
    let until = now.saturating_sub(keep.kept).unwrap_or(now);
    let others = past.iter().filter(|s| is_counted(s) && !is_ordered(s));
    let others = others.chain(&ahead).filter(|s| {
        let arrived = evidence.arrived.get(&s.name);
        arrived.is_none_or(|at| *at >= until) || evidence.ordered.contains(&s.name)
    });
    kept.extend(others.map(|s| (s.name, Kept::Unordered)));
    let files = files_of_bases(&past, evidence, &kept);
    let files = files
        .into_iter()
        .chain(log_of_bases(&past, evidence, &kept));
    kept.extend(
        files
            .map(|name| (name, Kept::FilesOfBase))
            .collect::<Vec<_>>(),
    );
    let foreign = snapshots.iter().filter(|s| s.purpose.is_none());
    kept.extend(foreign.map(|s| (s.name, Kept::Foreign)));
    kept.sort_by_key(|(name, why)| (*name, *why));
    kept.dedup_by_key(|(name, _)| *name);
    kept
}

/// Whether a snapshot is one of so many, and is known by name where it was ordered. Increments come by themselves.
fn is_counted(snapshot: &Snapshot) -> bool {
    is_base(snapshot) || snapshot.purpose == Some(Purpose::Dump)
}

/// Whether a restore can begin with it.
fn is_base(snapshot: &Snapshot) -> bool {
    matches!(snapshot.purpose, Some(Purpose::Base | Purpose::Kept))
}

/// What the policy says of these, but for the files of bases.
fn by_policy(newest_first: &[&Snapshot], keep: &Keep, now: Timestamp) -> Vec<(Name, Kept)> {
    let of = |purpose| {
        let is_of = move |s: &&&Snapshot| s.purpose == Some(purpose);
        newest_first.iter().filter(is_of).copied()
    };
    // Whatever they were made for: a tenant of which somebody makes one each night by hand has no others.
    let bases = || newest_first.iter().filter(|s| is_base(s)).copied();
    let since = now.saturating_sub(keep.every_second).unwrap_or(now);
    let mut kept: Vec<(Name, Kept)> = Vec::new();
    chosen(&bases().collect::<Vec<_>>(), keep, &mut kept);
    chosen(&of(Purpose::Dump).collect::<Vec<_>>(), keep, &mut kept);
    // Every second since then: all bases since, and the one that the first seconds are restored from.
    let mut carrying: Vec<&Snapshot> = bases().take_while(|s| s.time > since).collect();
    carrying.extend(bases().find(|s| s.time <= since));
    let begin = carrying.last().map_or(since, |s| s.time.min(since));
    carrying.extend(of(Purpose::Increment).filter(|s| s.time >= begin));
    kept.extend(carrying.iter().map(|s| (s.name, Kept::PointInTime)));
    let until = now.saturating_sub(keep.kept).unwrap_or(now);
    let on_purpose = of(Purpose::Kept).filter(|s| s.time >= until);
    kept.extend(on_purpose.map(|s| (s.name, Kept::OnPurpose)));
    kept
}

/// Files are backed up after the database that names them, so the first after a base belong to it: those that say so, and, as a
/// host may say it of others later, those that came first. In one pass, as a host may write many.
fn files_of_bases(past: &[&Snapshot], evidence: &Evidence, kept: &[(Name, Kept)]) -> Vec<Name> {
    let kept: BTreeSet<Name> = kept.iter().map(|(name, _)| *name).collect();
    let mut newest_first = past.to_vec();
    // Of one moment the files come first: they are after its base.
    newest_first.sort_by_key(|s| {
        let is_other = s.purpose != Some(Purpose::Increment);
        (Reverse(s.time), is_other, Reverse(s.name))
    });
    let mut files = BTreeSet::new();
    let (mut first, mut came) = (None, None);
    for snapshot in newest_first {
        match snapshot.purpose {
            Some(Purpose::Increment) => {
                first = Some(snapshot.name);
                let arrived = evidence.arrived.get(&snapshot.name).copied();
                // Not what was there long before its time.
                let arrived = arrived.filter(|at| snapshot.time.duration_since(*at) <= AHEAD);
                let this = arrived.map(|at| (at, snapshot.time, snapshot.name));
                came = came.into_iter().chain(this).min();
            }
            Some(Purpose::Base | Purpose::Kept) if kept.contains(&snapshot.name) => {
                files.extend(first);
                files.extend(came.map(|(_, _, name)| name));
            }
            _ => {}
        }
    }
    files.into_iter().collect()
}

/// While a base is made the log is shipped, and what went so is not in the base: it stays as long as that. A base comes when it has
/// ended. In one pass, as a host may write many.
fn log_of_bases(past: &[&Snapshot], evidence: &Evidence, kept: &[(Name, Kept)]) -> Vec<Name> {
    let kept: BTreeSet<Name> = kept.iter().map(|(name, _)| *name).collect();
    let end = |base: &Snapshot| {
        let latest = base.time.saturating_add(LONGEST).unwrap_or(Timestamp::MAX);
        let arrived = evidence.arrived.get(&base.name).copied();
        let arrived = arrived.map(|at| at.saturating_add(AHEAD).unwrap_or(Timestamp::MAX));
        arrived.map_or(latest, |at| at.min(latest))
    };
    let mut oldest_first = past.to_vec();
    // Of one moment the base comes first.
    oldest_first.sort_by_key(|s| (s.time, s.purpose == Some(Purpose::Increment), s.name));
    let mut until = None;
    let mut log = Vec::new();
    for snapshot in oldest_first {
        if is_base(snapshot) && kept.contains(&snapshot.name) {
            until = until.max(Some(end(snapshot)));
        }
        if snapshot.purpose == Some(Purpose::Increment) && Some(snapshot.time) <= until {
            log.push(snapshot.name);
        }
    }
    log
}

/// The newest of each of the last periods.
fn chosen(newest_first: &[&Snapshot], keep: &Keep, kept: &mut Vec<(Name, Kept)>) {
    for (why, count, period) in keep.rules() {
        let mut before = None;
        let mut left = count;
        for snapshot in newest_first {
            let date = snapshot.time.to_zoned(keep.zone.clone()).date();
            let this = period(date);
            let is_new = why == Kept::Last || before != Some(this);
            if left == 0 {
                break;
            }
            if is_new {
                kept.push((snapshot.name, why));
                left -= 1;
            }
            before = Some(this);
        }
    }
}

#[cfg(test)]
mod tests;
