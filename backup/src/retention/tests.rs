//! Retention: a year of nights, what a host invents, and any snapshots at all.

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
        snapshot(4, Some(Purpose::Base), 5 * DAY + HOUR),
        snapshot(5, Some(Purpose::Base), 5 * DAY + 2 * HOUR),
    ];
    let few = Keep {
        daily: 0,
        weekly: 0,
        monthly: 0,
        ..keep()
    };
    let forgotten = forgettable(&snapshots, &all(&snapshots), &few, at(31 * DAY));
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
        let base = snapshots.iter().filter(|s| is_base(s) && s.time <= wanted).max_by_key(|s| (s.time, s.name));
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
        for base in snapshots.iter().filter(|s| is_base(s) && !gone.contains(&s.name)) {
            let files = of(Purpose::Increment).filter(|s| s.time >= base.time);
            if let Some(files) = files.min_by_key(|s| (s.time, s.name)) {
                prop_assert!(!gone.contains(&files.name));
            }
        }
        let newest = snapshots.iter().filter(|s| is_base(s)).max_by_key(|s| (s.time, s.name));
        if let Some(newest) = newest && keep.last > 0 {
            prop_assert!(!gone.contains(&newest.name));
        }
    }
}

/// A large tenant's base takes an hour, and its log is shipped meanwhile: without those segments the base cannot be started.
#[test]
fn what_was_shipped_while_a_base_was_made_stays_as_long_as_the_base() {
    let base = snapshot(1, Some(Purpose::Base), 0);
    let during = (0..12).map(|n| snapshot(100 + n, Some(Purpose::Increment), 300 * i64::from(n)));
    let during: Vec<_> = during.collect();
    let after = snapshot(200, Some(Purpose::Increment), 5 * HOUR);
    let newer = (2..9).map(|n| snapshot(n, Some(Purpose::Base), DAY * i64::from(30 + n)));
    let mut snapshots: Vec<_> = newer.collect();
    snapshots.extend(during.clone());
    snapshots.extend([base.clone(), after.clone()]);
    let mut evidence = all(&snapshots);
    evidence.arrived.insert(base.name, at(HOUR));
    let gone = |evidence: &Evidence| forgettable(&snapshots, evidence, &keep(), at(40 * DAY));
    // It is the month's.
    assert_eq!(gone(&evidence), [after.name]);
    // A destination that was copied has lost when it came: no base takes longer than a day.
    evidence.arrived.insert(base.name, at(40 * DAY));
    assert_eq!(gone(&evidence), []);
}

/// Whoever backs up all tenants each night by hand has no others.
#[test]
fn what_is_made_on_purpose_each_night_is_thinned_as_others_are() {
    let night = |n: u32| snapshot(n, Some(Purpose::Kept), DAY * i64::from(n));
    let snapshots: Vec<_> = (0..365).map(night).collect();
    let kept = kept(&snapshots, &all(&snapshots), &keep(), at(YEAR));
    let count = |why| kept.iter().filter(|(_, w)| *w == why).count();
    assert_eq!(count(Kept::Monthly), 11, "{kept:?}");
    assert_eq!(count(Kept::Weekly) + count(Kept::Daily), 7);
    assert!(count(Kept::OnPurpose) > 15);
}
