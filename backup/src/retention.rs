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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    /// A year of nights.
    const YEAR: i64 = 365 * DAY;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_793_498_400 + seconds).unwrap()
    }

    fn snapshot(number: u32, purpose: Option<Purpose>, seconds: i64) -> Snapshot {
        let mut name = Name([0; 32]);
        name.0[..4].copy_from_slice(&number.to_be_bytes());
        Snapshot {
            name,
            purpose,
            time: at(seconds),
            host: String::new(),
            tags: Vec::new(),
            parts: Vec::new(),
            tree: Name([0; 32]),
        }
    }

    fn keep() -> Keep {
        Keep {
            last: 2,
            daily: 7,
            weekly: 4,
            monthly: 12,
            every_second: SignedDuration::from_hours(72),
            kept: SignedDuration::from_hours(24 * 30),
            zone: TimeZone::get("America/Sao_Paulo").unwrap(),
        }
    }

    #[test]
    fn a_year_of_nights_is_thinned_to_days_weeks_and_months() {
        let nights = (0..365).map(|n| snapshot(n, Some(Purpose::Base), DAY * i64::from(n)));
        let snapshots: Vec<_> = nights.collect();
        let kept = kept(&snapshots, &keep(), at(YEAR));
        let count = |why| kept.iter().filter(|(_, w)| *w == why).count();
        assert_eq!(
            (count(Kept::Last), count(Kept::Daily)),
            (2, 5),
            "the first two days are the last two as well"
        );
        // A snapshot is counted for its first reason: two weeks and one month end within the last seven days.
        assert_eq!((count(Kept::Weekly), count(Kept::Monthly)), (2, 11));
        let forgotten = forgettable(&snapshots, &keep(), at(YEAR));
        assert_eq!(forgotten.len() + kept.len(), 365);
        assert_eq!(forgotten[0], snapshots[0].name, "oldest first");
    }

    #[test]
    fn what_was_made_on_purpose_goes_by_time_and_what_others_made_never() {
        let snapshots = [
            snapshot(1, Some(Purpose::Kept), 0),
            snapshot(2, Some(Purpose::Kept), 5 * DAY),
            snapshot(3, None, 0),
        ];
        let forgotten = forgettable(&snapshots, &keep(), at(31 * DAY));
        assert_eq!(forgotten, [snapshots[0].name]);
    }

    #[test]
    fn nothing_is_kept_of_nothing() {
        assert_eq!(kept(&[], &keep(), at(0)), []);
    }

    fn any_snapshots() -> impl Strategy<Value = Vec<Snapshot>> {
        let purpose = prop_oneof![
            6 => Just(Some(Purpose::Increment)),
            2 => Just(Some(Purpose::Base)),
            1 => Just(Some(Purpose::Dump)),
            1 => Just(Some(Purpose::Kept)),
            1 => Just(None),
        ];
        let one = (purpose, 0..30 * DAY);
        prop::collection::vec(one, 0..80).prop_map(|all| {
            let numbered = (0..).zip(all);
            numbered.map(|(n, (p, s))| snapshot(n, p, s)).collect()
        })
    }

    fn any_keep() -> impl Strategy<Value = Keep> {
        (0..4_usize, 0..9_usize, 0..4_usize, 0..3_usize, 0..200_i64).prop_map(
            |(last, daily, weekly, monthly, hours)| Keep {
                last,
                daily,
                weekly,
                monthly,
                every_second: SignedDuration::from_hours(hours),
                ..keep()
            },
        )
    }

    proptest! {
        /// A second within the window that could be restored before can be restored afterwards: from the newest base before it,
        /// by every increment until the first after it.
        #[test]
        fn every_second_of_the_window_stays_reachable(
            snapshots in any_snapshots(), keep in any_keep(), back in 0..200 * HOUR,
        ) {
            let now = at(30 * DAY);
            let back = back.min(keep.every_second.as_secs() - 1);
            prop_assume!(back >= 0);
            let wanted = now - SignedDuration::from_secs(back);
            let kept: BTreeSet<_> = kept(&snapshots, &keep, now).into_iter().map(|(n, _)| n).collect();
            let of = |purpose| snapshots.iter().filter(move |s| s.purpose == Some(purpose));
            let base = of(Purpose::Base).filter(|s| s.time <= wanted).max_by_key(|s| (s.time, s.name));
            if let Some(base) = base {
                prop_assert!(kept.contains(&base.name));
                let next = of(Purpose::Increment).filter(|s| s.time >= wanted).map(|s| s.time).min();
                let end = next.unwrap_or(now);
                for needed in of(Purpose::Increment).filter(|s| base.time <= s.time && s.time <= end) {
                    prop_assert!(kept.contains(&needed.name), "{needed:?}");
                }
            }
        }

        #[test]
        fn a_base_that_stays_has_its_files_and_forgetting_twice_is_forgetting_once(
            snapshots in any_snapshots(), keep in any_keep(),
        ) {
            let now = at(30 * DAY);
            let gone: BTreeSet<_> = forgettable(&snapshots, &keep, now).into_iter().collect();
            let left: Vec<_> = snapshots.iter().filter(|s| !gone.contains(&s.name)).cloned().collect();
            prop_assert_eq!(forgettable(&left, &keep, now), []);
            let of = |purpose| snapshots.iter().filter(move |s| s.purpose == Some(purpose));
            for base in of(Purpose::Base).filter(|s| !gone.contains(&s.name)) {
                let files = of(Purpose::Increment).filter(|s| s.time >= base.time);
                if let Some(files) = files.min_by_key(|s| (s.time, s.name)) {
                    prop_assert!(!gone.contains(&files.name));
                }
            }
            let newest = of(Purpose::Base).max_by_key(|s| (s.time, s.name));
            if let Some(newest) = newest && keep.last > 0 {
                prop_assert!(!gone.contains(&newest.name));
            }
        }
    }
}
