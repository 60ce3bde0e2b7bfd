//! Which backup a restore begins with.

use std::collections::BTreeMap;

use isyone_types::{
    backup::{BackupWork, RestoreTo, SnapshotName},
    ids::ShortName,
};
use proptest::prelude::*;

use super::{T0, short};
use crate::backups::{Candidate, NoPoint, Offer, Repository, Wanted, choose, policy::HOUR};

fn backup(number: u8, work: BackupWork, at: i64) -> Candidate {
    Candidate {
        name: SnapshotName([number; 32]),
        work,
        at,
        ended_at: at + HOUR / 60,
    }
}

fn offer(backups: Vec<Candidate>, shipped_to: i64, gap_since: Option<i64>) -> Offer {
    Offer {
        repository: Repository {
            base_at: backups.iter().map(|b| b.at).max(),
            shipped_to: Some(shipped_to),
            gap_since,
            ..Repository::default()
        },
        backups,
        stopped_since: None,
    }
}

fn one(offer: Offer) -> BTreeMap<ShortName, Offer> {
    [(short("own"), offer)].into()
}

fn days() -> Vec<Candidate> {
    vec![
        backup(1, BackupWork::Base, T0),
        backup(2, BackupWork::Dump, T0 + 12 * HOUR),
        backup(3, BackupWork::Base, T0 + 24 * HOUR),
    ]
}

#[test]
fn a_moment_begins_with_the_backup_before_it_and_the_latest_with_the_newest() {
    let all = one(offer(days(), T0 + 30 * HOUR, None));
    let base = |wanted| choose(&all, wanted).map(|point| (point.base.0[0], point.to));
    let at = T0 + 20 * HOUR;
    assert_eq!(base(Wanted::Time(at)), Ok((1, RestoreTo::Time(at))));
    let at = T0 + 25 * HOUR;
    assert_eq!(base(Wanted::Time(at)), Ok((3, RestoreTo::Time(at))));
    assert_eq!(base(Wanted::Latest), Ok((3, RestoreTo::Latest)));
    let first = Wanted::Backup(SnapshotName([1; 32]));
    assert_eq!(base(first), Ok((1, RestoreTo::Backup)));
    // Before the second has ended, it is the first that leads there.
    let at = T0 + 24 * HOUR + 1;
    assert_eq!(base(Wanted::Time(at)), Ok((1, RestoreTo::Time(at))));
}

#[test]
fn what_cannot_be_is_said_with_what_can() {
    let shipped = T0 + 30 * HOUR;
    let all = one(offer(days(), shipped, None));
    let no = |offers: &BTreeMap<_, _>, wanted| choose(offers, wanted).unwrap_err();
    assert_eq!(
        no(&all, Wanted::Time(shipped + 1)),
        NoPoint::TooLate { last: shipped }
    );
    assert_eq!(
        no(&all, Wanted::Time(T0)),
        NoPoint::TooEarly {
            first: T0 + HOUR / 60
        }
    );
    let dump = SnapshotName([2; 32]);
    assert_eq!(no(&all, Wanted::Backup(dump)), NoPoint::Portable(dump));
    let unknown = SnapshotName([9; 32]);
    assert_eq!(no(&all, Wanted::Backup(unknown)), NoPoint::Unknown(unknown));
    assert_eq!(no(&BTreeMap::new(), Wanted::Latest), NoPoint::NoBackup);
    let since = T0 + 29 * HOUR;
    let gap = one(offer(days(), since - HOUR, Some(since)));
    let refused = NoPoint::Gap {
        since,
        last: since - HOUR,
    };
    assert_eq!(no(&gap, Wanted::Latest), refused);
    assert_eq!(no(&gap, Wanted::Time(since)), refused);
    assert!(choose(&gap, Wanted::Time(since - HOUR)).is_ok());
    // A gap that a newer backup has closed is none.
    let closed = one(offer(days(), shipped, Some(T0 + 10 * HOUR)));
    assert!(choose(&closed, Wanted::Latest).is_ok());
}

#[test]
fn a_backup_of_a_tenant_that_was_stopped_is_as_good_as_long_as_it_stays_stopped() {
    let stopped = backup(1, BackupWork::Stopped, T0 + HOUR);
    let mut of = offer(vec![stopped], T0 + 48 * HOUR, None);
    of.stopped_since = Some(T0);
    let later = Wanted::Time(T0 + 20 * HOUR);
    let point = choose(&one(of.clone()), later).unwrap();
    assert_eq!(point.to, RestoreTo::Backup);
    // It runs again: nobody knows what it has written since.
    of.stopped_since = None;
    let last = stopped.ended_at;
    assert_eq!(choose(&one(of), later), Err(NoPoint::TooLate { last }));
    let then = vec![stopped, backup(2, BackupWork::Base, T0 + 40 * HOUR)];
    let of = offer(then, T0 + 48 * HOUR, None);
    assert_eq!(choose(&one(of), later), Err(NoPoint::TooLate { last }));
}

#[test]
fn of_several_destinations_the_one_that_leads_further_is_taken() {
    let mut all = one(offer(days(), T0 + 26 * HOUR, None));
    all.insert(short("far"), offer(days(), T0 + 30 * HOUR, None));
    let at = |wanted| choose(&all, wanted).unwrap().destination;
    assert_eq!(at(Wanted::Latest), short("far"));
    assert_eq!(at(Wanted::Time(T0 + 29 * HOUR)), short("far"));
    assert_eq!(
        at(Wanted::Time(T0 + 2 * HOUR)),
        short("far"),
        "equal: by name"
    );
    let none = choose(&all, Wanted::Time(T0 + 31 * HOUR));
    assert_eq!(
        none,
        Err(NoPoint::TooLate {
            last: T0 + 30 * HOUR
        }),
        "the nearest is told"
    );
}

proptest! {
    #[test]
    fn a_moment_that_is_promised_lies_between_its_backup_and_what_is_there(
        at in 0i64..100, ends in proptest::collection::btree_map(0i64..80, any::<bool>(), 0..6),
        shipped in 0i64..100, gap in proptest::option::of(0i64..100),
    ) {
        let made = ends.iter().enumerate().map(|(n, (hour, dump))| {
            let work = if *dump { BackupWork::Dump } else { BackupWork::Base };
            backup(u8::try_from(n).unwrap(), work, T0 + hour * HOUR)
        });
        let made: Vec<Candidate> = made.collect();
        let all = one(offer(made.clone(), T0 + shipped * HOUR, gap.map(|g| T0 + g * HOUR)));
        let at = T0 + at * HOUR;
        if let Ok(point) = choose(&all, Wanted::Time(at)) {
            let base = made.iter().find(|m| m.name == point.base).unwrap();
            prop_assert!(base.work == BackupWork::Base && base.ended_at <= at);
            let newest = made.iter().rfind(|m| m.work == BackupWork::Base).unwrap();
            prop_assert!(newest.name != base.name || at <= (T0 + shipped * HOUR).max(base.at));
            prop_assert_eq!(point.to, RestoreTo::Time(at));
        }
    }
}
