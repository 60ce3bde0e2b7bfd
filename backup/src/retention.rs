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
    /// The first files after a base that stays: those that the base's database names.
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
    kept.extend(files.into_iter().map(|name| (name, Kept::FilesOfBase)));
    let foreign = snapshots.iter().filter(|s| s.purpose.is_none());
    kept.extend(foreign.map(|s| (s.name, Kept::Foreign)));
    kept.sort_by_key(|(name, why)| (*name, *why));
    kept.dedup_by_key(|(name, _)| *name);
    kept
}

/// Whether a snapshot is one of so many, and is known by name where it was ordered. Increments come by themselves.
fn is_counted(snapshot: &Snapshot) -> bool {
    matches!(snapshot.purpose, Some(Purpose::Base | Purpose::Dump))
}

/// What the policy says of these, but for the files of bases.
fn by_policy(newest_first: &[&Snapshot], keep: &Keep, now: Timestamp) -> Vec<(Name, Kept)> {
    let of = |purpose| {
        let is_of = move |s: &&&Snapshot| s.purpose == Some(purpose);
        newest_first.iter().filter(is_of).copied()
    };
    let since = now.saturating_sub(keep.every_second).unwrap_or(now);
    let mut kept: Vec<(Name, Kept)> = Vec::new();
    for purpose in [Purpose::Base, Purpose::Dump] {
        chosen(&of(purpose).collect::<Vec<_>>(), keep, &mut kept);
    }
    // Every second since then: all bases since, and the one that the first seconds are restored from.
    let mut carrying: Vec<&Snapshot> = of(Purpose::Base).take_while(|s| s.time > since).collect();
    carrying.extend(of(Purpose::Base).find(|s| s.time <= since));
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
            Some(Purpose::Base) if kept.contains(&snapshot.name) => {
                files.extend(first);
                files.extend(came.map(|(_, _, name)| name));
            }
            _ => {}
        }
    }
    files.into_iter().collect()
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

    /// All of these were ordered, and came at once.
    fn all(snapshots: &[Snapshot]) -> Evidence {
        Evidence {
            ordered: snapshots.iter().map(|s| s.name).collect(),
            arrived: snapshots.iter().map(|s| (s.name, s.time)).collect(),
        }
    }

    #[test]
    fn a_year_of_nights_is_thinned_to_days_weeks_and_months() {
        let nights = (0..365).map(|n| snapshot(n, Some(Purpose::Base), DAY * i64::from(n)));
        let snapshots: Vec<_> = nights.collect();
        let kept = kept(&snapshots, &all(&snapshots), &keep(), at(YEAR));
        let count = |why| kept.iter().filter(|(_, w)| *w == why).count();
        assert_eq!(
            (count(Kept::Last), count(Kept::Daily)),
            (2, 5),
            "the first two days are the last two as well"
        );
        // A snapshot is counted for its first reason: two weeks and one month end within the last seven days.
        assert_eq!((count(Kept::Weekly), count(Kept::Monthly)), (2, 11));
        let forgotten = forgettable(&snapshots, &all(&snapshots), &keep(), at(YEAR));
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
        let forgotten = forgettable(&snapshots, &all(&snapshots), &keep(), at(31 * DAY));
        assert_eq!(forgotten, [snapshots[0].name]);
    }

    #[test]
    fn nothing_is_kept_of_nothing() {
        assert_eq!(kept(&[], &Evidence::default(), &keep(), at(0)), []);
    }

    /// 60 nights that were ordered, with the files of each.
    fn nights() -> Vec<Snapshot> {
        let both = (0..60).flat_map(|n| {
            let at = DAY * i64::from(n);
            let base = snapshot(n, Some(Purpose::Base), at);
            [base, snapshot(100 + n, Some(Purpose::Increment), at + 300)]
        });
        both.collect()
    }

    #[test]
    fn what_a_host_invents_pushes_nothing_out_and_goes_some_time_after_it_came() {
        let (mut snapshots, now) = (nights(), at(60 * DAY));
        let mut evidence = all(&snapshots);
        let before = forgettable(&snapshots, &evidence, &keep(), now);
        // In years to come, one a month, just before the window, and files just after each base.
        let base = |n: u32, at| snapshot(1_000 + n, Some(Purpose::Base), at);
        let mut invented: Vec<_> = (0..20)
            .map(|n| base(n, 20_000 * DAY + i64::from(n)))
            .collect();
        invented.extend((20..40).map(|n| base(n, (660 - 30 * i64::from(n)) * DAY)));
        invented.push(base(40, 57 * DAY - 1));
        let files =
            (0..60).map(|n| snapshot(2_000 + n, Some(Purpose::Increment), DAY * i64::from(n) + 1));
        invented.extend(files);
        invented.push(snapshot(3_000, Some(Purpose::Kept), 20_000 * DAY));
        invented.push(snapshot(3_001, Some(Purpose::Increment), 20_000 * DAY));
        let names: BTreeSet<_> = invented.iter().map(|s| s.name).collect();
        evidence
            .arrived
            .extend(names.iter().map(|name| (*name, now)));
        snapshots.extend(invented);
        let mut forgotten = forgettable(&snapshots, &evidence, &keep(), now);
        assert!(
            !forgotten
                .iter()
                .any(|name| names.contains(name) && !is_file(name))
        );
        forgotten.retain(|name| !names.contains(name));
        assert!(forgotten.iter().all(|name| before.contains(name)));
        // A month later what is ahead is gone, and what was ordered has gone as it would have.
        let later = now + SignedDuration::from_hours(31 * 24);
        let forgotten = forgettable(&snapshots, &evidence, &keep(), later);
        let ahead = snapshots.iter().filter(|s| s.time > later);
        for gone in ahead {
            assert!(forgotten.contains(&gone.name), "{gone:?}");
        }
    }

    fn is_file(name: &Name) -> bool {
        (2_000..3_000).contains(&u32::from_be_bytes(name.0[..4].try_into().unwrap()))
    }

    #[test]
    fn a_coordinator_that_knows_of_none_keeps_what_one_that_knows_them_would() {
        let (snapshots, now) = (nights(), at(60 * DAY));
        let mut evidence = all(&snapshots);
        let known = kept(&snapshots, &evidence, &keep(), now);
        evidence.ordered.clear();
        let unknown: BTreeSet<_> = kept(&snapshots, &evidence, &keep(), now)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert!(known.iter().all(|(name, _)| unknown.contains(name)));
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

    /// Of some it is known that they were ordered, of some when they came.
    fn any_known() -> impl Strategy<Value = (Vec<Snapshot>, Evidence)> {
        let bits = prop::collection::vec((any::<bool>(), 0..60 * DAY), 80);
        (any_snapshots(), bits).prop_map(|(snapshots, bits)| {
            let mut evidence = Evidence::default();
            for (snapshot, (ordered, seconds)) in snapshots.iter().zip(bits) {
                if ordered {
                    evidence.ordered.insert(snapshot.name);
                }
                if seconds < 30 * DAY {
                    evidence.arrived.insert(snapshot.name, at(seconds));
                }
            }
            (snapshots, evidence)
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
            (snapshots, evidence) in any_known(), keep in any_keep(), back in 0..200 * HOUR,
        ) {
            let now = at(30 * DAY);
            let back = back.min(keep.every_second.as_secs() - 1);
            prop_assume!(back >= 0);
            let wanted = now - SignedDuration::from_secs(back);
            let kept: BTreeSet<_> = kept(&snapshots, &evidence, &keep, now).into_iter().map(|(n, _)| n).collect();
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
            (snapshots, evidence) in any_known(), keep in any_keep(),
        ) {
            let now = at(30 * DAY);
            let gone: BTreeSet<_> = forgettable(&snapshots, &evidence, &keep, now).into_iter().collect();
            let left: Vec<_> = snapshots.iter().filter(|s| !gone.contains(&s.name)).cloned().collect();
            prop_assert_eq!(forgettable(&left, &evidence, &keep, now), []);
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
