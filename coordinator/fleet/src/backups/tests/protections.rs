//! What would be lost, judged by each destination's own last report.

use std::collections::BTreeMap;

use isyone_types::ids::ShortName;
use proptest::prelude::*;

use super::{
    super::{
        policy::{DAY, HOUR, MINUTE, Policy},
        protection::{Facts, Judgement, Protection, Repository, Standing, Why},
    },
    T0, short,
};

const NOW: i64 = T0 + 10 * DAY;

fn good() -> Repository {
    Repository {
        base_at: Some(NOW - 8 * HOUR),
        shipped_to: Some(NOW - 4 * MINUTE),
        gap_since: None,
        failing_since: None,
        proven: Some((NOW - 3 * DAY, true)),
    }
}

fn policy(names: &[&str]) -> Policy {
    Policy::standard(names.iter().map(|name| short(name)).collect())
}

fn seen(all: &[(&str, Repository)]) -> BTreeMap<ShortName, Repository> {
    let all = all.iter();
    all.map(|(name, repository)| (short(name), *repository))
        .collect()
}

fn of(names: &[&str], all: &[(&str, Repository)]) -> Protection {
    let (policy, repositories) = (policy(names), seen(all));
    let facts = Facts {
        policy: &policy,
        repositories: &repositories,
        exists_since: Some(T0),
        stopped_since: None,
    };
    Protection::of(facts, NOW)
}

fn one(repository: Repository) -> Protection {
    of(&["main"], &[("main", repository)])
}

#[test]
fn what_was_shipped_in_time_is_protected() {
    let protection = one(good());
    assert_eq!(protection.standing, Standing::Protected);
    assert_eq!(protection.loses_ms, Some(4 * MINUTE));
    assert_eq!(protection.to, Some((NOW - 4 * MINUTE, short("main"))));
    assert_eq!(protection.sentence(NOW), "would lose 4 min (by main)");
}

#[test]
fn each_reason_is_told() {
    let said = |repository| {
        let protection = one(repository);
        assert_eq!(protection.standing, Standing::NotProtected);
        assert!(protection.is_bad());
        protection.sentence(NOW)
    };
    let none = Repository {
        base_at: None,
        ..good()
    };
    assert_eq!(
        said(none),
        "not protected: main: no base backup; would lose everything"
    );
    let damaged = Repository {
        proven: Some((NOW - HOUR, false)),
        ..good()
    };
    assert_eq!(
        said(damaged),
        "not protected: main: the newest base backup is damaged; would lose everything"
    );
    let silent = Repository {
        shipped_to: Some(NOW - 12 * MINUTE),
        ..good()
    };
    assert_eq!(
        said(silent),
        "not protected: main: nothing was shipped in time; would lose 12 min (by main)"
    );
    let failing = Repository {
        shipped_to: None,
        failing_since: Some(NOW - 3 * HOUR),
        ..good()
    };
    assert_eq!(
        said(failing),
        "not protected: main: shipping has failed for 3 h; would lose 8 h (by main)"
    );
    let gap = Repository {
        gap_since: Some(NOW - 5 * HOUR),
        ..good()
    };
    assert_eq!(
        said(gap),
        "not protected: main: the log has a gap since 5 h ago; would lose 5 h (by main)"
    );
    assert_eq!(
        of(&[], &[]).sentence(NOW),
        "not protected: no destination; would lose everything"
    );
}

#[test]
fn a_base_after_a_gap_or_a_bad_proof_ends_it() {
    let mended = Repository {
        gap_since: Some(NOW - 9 * HOUR),
        proven: Some((NOW - 9 * HOUR, false)),
        ..good()
    };
    assert_eq!(one(mended).standing, Standing::Protected);
}

/// The trap: a second destination in the settings, on which nobody reports, next to one that is not protected.
#[test]
fn a_destination_that_nobody_reports_on_protects_nobody_and_hides_nothing() {
    let bad = Repository {
        base_at: None,
        ..good()
    };
    let both = ["main", "off-site"];
    for (reports, standing) in [
        (&[("main", bad)][..], Standing::NotProtected),
        (&[("off-site", bad)], Standing::NotProtected),
        (&[("main", bad), ("off-site", bad)], Standing::NotProtected),
        (&[("main", good())], Standing::Partly),
        (&[("main", good()), ("off-site", bad)], Standing::Partly),
        (
            &[("main", good()), ("off-site", good())],
            Standing::Protected,
        ),
        (&[], Standing::Unknown),
        // A destination that is no longer wanted does not count.
        (&[("earlier", good())], Standing::Unknown),
        (
            &[("earlier", good()), ("main", bad)],
            Standing::NotProtected,
        ),
    ] {
        let protection = of(&both, reports);
        assert_eq!(protection.standing, standing, "{reports:?}");
    }
    let partly = of(&both, &[("main", good())]);
    assert_eq!(partly.each[1].1, Judgement::Unknown);
    assert_eq!(
        partly.sentence(NOW),
        "partly protected: off-site: not reported on; would lose 4 min (by main)"
    );
    assert_eq!(
        of(&both, &[("main", bad)]).sentence(NOW),
        "not protected: main: no base backup; off-site: not reported on; would lose everything"
    );
}

#[test]
fn what_does_not_run_loses_nothing_more() {
    let (policy, repositories) = (policy(&["main"]), seen(&[("main", good())]));
    let mut facts = Facts {
        policy: &policy,
        repositories: &repositories,
        exists_since: Some(T0),
        stopped_since: Some(NOW - 4 * MINUTE),
    };
    let year = NOW + 365 * DAY;
    let protection = Protection::of(facts, year);
    assert_eq!(protection.standing, Standing::Protected);
    assert_eq!(protection.loses_ms, Some(0));
    facts.stopped_since = None;
    let protection = Protection::of(facts, year);
    assert_eq!(protection.standing, Standing::NotProtected);
    facts.exists_since = None;
    let protection = Protection::of(facts, year);
    assert_eq!(
        (protection.standing, protection.loses_ms),
        (Standing::NothingToLose, Some(0))
    );
}

fn any_repository() -> impl Strategy<Value = Repository> {
    let time = || prop::option::of(0..20 * DAY).prop_map(|ago| ago.map(|ago| NOW + DAY - ago));
    (time(), time(), time(), time(), time(), any::<bool>()).prop_map(
        |(base_at, shipped_to, gap_since, failing_since, proven, well)| Repository {
            base_at,
            shipped_to,
            gap_since,
            failing_since,
            proven: proven.map(|at| (at, well)),
        },
    )
}

fn any_reports() -> impl Strategy<Value = BTreeMap<ShortName, Repository>> {
    let names = prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(short);
    prop::collection::btree_map(names, any_repository(), 0..4)
}

proptest! {
    /// Each destination's judgement depends on its own report alone, and the whole is no better than they are.
    #[test]
    fn the_whole_follows_from_each(reports in any_reports(), later in 0..3 * DAY) {
        let policy = policy(&["a", "b", "c"]);
        let facts = Facts {
            policy: &policy, repositories: &reports, exists_since: Some(T0), stopped_since: None,
        };
        let whole = Protection::of(facts, NOW);
        for (name, judged) in &whole.each {
            let alone: BTreeMap<_, _> = reports.get_key_value(name).map(|(k, v)| (k.clone(), *v)).into_iter().collect();
            let alone = Protection::of(Facts { repositories: &alone, ..facts }, NOW);
            prop_assert_eq!(alone.each.iter().find(|(n, _)| n == name).map(|(_, j)| *j), Some(*judged));
            prop_assert_eq!(*judged == Judgement::Unknown, !reports.contains_key(name));
        }
        let any_within = whole.each.iter().any(|(_, j)| matches!(j, Judgement::Within { .. }));
        prop_assert_eq!(any_within, matches!(whole.standing, Standing::Protected | Standing::Partly));
        let known = whole.each.iter().any(|(_, j)| *j != Judgement::Unknown);
        if known && !any_within {
            prop_assert_eq!(whole.standing, Standing::NotProtected);
        }
        if let Some(loses) = whole.loses_ms {
            prop_assert!(loses >= 0);
            prop_assert_eq!(any_within, loses <= policy.may_lose_ms);
        }
        // Silence: the loss grows by just the time that passes, and nothing becomes better.
        let after = Protection::of(facts, NOW + later);
        prop_assert!(after.standing >= whole.standing || reports.values().any(from_the_future));
        if !reports.values().any(from_the_future) {
            prop_assert_eq!(after.loses_ms, whole.loses_ms.map(|ms| ms + later));
        }
        prop_assert!(!whole.sentence(NOW).is_empty());
    }

    /// One more report can only add a point, and the loss is never that of a worse destination.
    #[test]
    fn more_reports_never_lose_more(reports in any_reports(), more in any_repository()) {
        let policy = policy(&["a", "b", "c", "e"]);
        let of = |reports: &BTreeMap<_, _>| {
            let facts = Facts { policy: &policy, repositories: reports, exists_since: Some(T0), stopped_since: None };
            Protection::of(facts, NOW)
        };
        let before = of(&reports);
        let mut with = reports.clone();
        with.insert(short("e"), more);
        let after = of(&with);
        let loss = |p: &Protection| p.loses_ms.unwrap_or(i64::MAX);
        prop_assert!(loss(&after) <= loss(&before));
    }
}

/// A report by a host whose clock is ahead.
fn from_the_future(repository: &Repository) -> bool {
    let times = [
        repository.base_at,
        repository.shipped_to,
        repository.gap_since,
    ];
    times.into_iter().flatten().any(|at| at > NOW)
}

#[test]
fn the_reasons_are_data() {
    let protection = one(Repository {
        shipped_to: None,
        failing_since: Some(5),
        ..good()
    });
    assert_eq!(
        protection.each,
        [(
            short("main"),
            Judgement::Short {
                to: NOW - 8 * HOUR,
                why: Why::Behind {
                    failing_since: Some(5)
                }
            }
        )]
    );
}
