//! Which snapshots may be forgotten: the newest, and one each day, week and month, stay; and around them whatever makes a point
//! in time reachable. Pure.
//!
//! Not here: packs that nothing needs any more; that is [`crate::Repository::prune`].

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};

use crate::{
    snapshot::{Purpose, Snapshot},
    store::Name,
};

/// How much of each purpose is kept. Days begin when they do for the customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    pub last: usize,
    pub daily: usize,
    pub weekly: usize,
    pub monthly: usize,
    /// Within this time before now, every second is reachable.
    pub every_second: SignedDuration,
    /// How long what was made on purpose is kept ([`Purpose::Kept`]).
    pub kept: SignedDuration,
    pub zone: TimeZone,
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
    /// The first files after a base that stays: those that the base's database names.
    FilesOfBase,
    OnPurpose,
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
pub fn forgettable(snapshots: &[Snapshot], keep: &Keep, now: Timestamp) -> Vec<Name> {
    let kept: BTreeSet<Name> = kept(snapshots, keep, now)
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
#[must_use]
pub fn kept(snapshots: &[Snapshot], keep: &Keep, now: Timestamp) -> Vec<(Name, Kept)> {
    let mut newest_first: Vec<_> = snapshots.iter().collect();
    newest_first.sort_by_key(|s| std::cmp::Reverse((s.time, s.name)));
    let of = |purpose| {
        let is_of = move |s: &&&Snapshot| s.purpose == purpose;
        newest_first.iter().filter(is_of).copied()
    };
    let since = now.saturating_sub(keep.every_second).unwrap_or(now);
    let mut kept: Vec<(Name, Kept)> = Vec::new();
    for purpose in [Purpose::Base, Purpose::Dump] {
        chosen(&of(Some(purpose)).collect::<Vec<_>>(), keep, &mut kept);
    }
    // Every second since then: all bases since, and the one that the first seconds are restored from.
    let mut carrying: Vec<&Snapshot> = of(Some(Purpose::Base))
        .take_while(|s| s.time > since)
        .collect();
    carrying.extend(of(Some(Purpose::Base)).find(|s| s.time <= since));
    let begin = carrying.last().map_or(since, |s| s.time.min(since));
    carrying.extend(of(Some(Purpose::Increment)).filter(|s| s.time >= begin));
    kept.extend(carrying.iter().map(|s| (s.name, Kept::PointInTime)));
    // Files are backed up after the database that names them, so the first after a base belong to it.
    let increments: Vec<_> = of(Some(Purpose::Increment)).collect();
    let bases = of(Some(Purpose::Base)).filter(|s| kept.iter().any(|(name, _)| *name == s.name));
    let files = bases.filter_map(|base| increments.iter().rev().find(|s| s.time >= base.time));
    let files: Vec<_> = files.map(|s| (s.name, Kept::FilesOfBase)).collect();
    kept.extend(files);
    let until = now.saturating_sub(keep.kept).unwrap_or(now);
    let on_purpose = of(Some(Purpose::Kept)).filter(|s| s.time >= until);
    kept.extend(on_purpose.map(|s| (s.name, Kept::OnPurpose)));
    kept.extend(of(None).map(|s| (s.name, Kept::Foreign)));
    kept.sort_by_key(|(name, why)| (*name, *why));
    kept.dedup_by_key(|(name, _)| *name);
    kept
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
