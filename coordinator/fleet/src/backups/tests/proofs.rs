//! Weeks of proofs.

use std::collections::{BTreeMap, BTreeSet};

use isyone_types::backup::{RestoreTo, SnapshotName};

use super::{
    super::{policy::MINUTE, proofs::*, turns::Running},
    *,
};

const GB: u64 = 1_000_000_000;

fn subject(number: usize) -> ProofSubject {
    ProofSubject {
        tenant: tenant(number),
        home: host(number % 3),
        destination: short("main"),
        newest: Some(provable(T0)),
        since: Some(T0 - 30 * DAY),
        last: None,
        is_asked_for: false,
        is_free: true,
        failures: 0,
        failed_at: None,
    }
}

fn provable(at: i64) -> Provable {
    Provable {
        base: SnapshotName([1; 32]),
        base_at: at,
        to: RestoreTo::Latest,
        bytes: GB,
    }
}

fn proven(begun_at: i64, of: Provable, is_restorable: bool) -> Option<LastProof> {
    Some(LastProof {
        begun_at,
        base: of.base,
        base_at: of.base_at,
        is_restorable,
    })
}

fn prover(number: usize, free: u64) -> Prover {
    Prover {
        host: host(number),
        free_bytes: free * GB,
        total_bytes: 100 * GB,
        is_cordoned: false,
    }
}

/// Fails if two proofs run on one host, if one is left out of its week, or if they all come on one day.
#[test]
fn each_is_proven_once_a_week_one_at_a_time_on_a_host_and_spread() {
    let mut subjects: Vec<ProofSubject> = (0..200).map(subject).collect();
    for subject in &mut subjects {
        subject.last = proven(T0 - 8 * DAY, provable(T0 - 8 * DAY), true);
    }
    let provers = [0, 1, 2].map(|n| prover(n, 50));
    let mut running: Vec<(i64, Running)> = Vec::new();
    let mut by_day: BTreeMap<i64, usize> = BTreeMap::new();
    let mut times: BTreeMap<Uuid, usize> = BTreeMap::new();
    for step in 0..21 * 24 * 6 {
        let now = T0 + step * 10 * MINUTE;
        running.retain(|(until, _)| *until > now);
        let busy: Vec<Running> = running.iter().map(|(_, job)| job.clone()).collect();
        let limits = ProofLimits::of(3);
        let (begun, _) = proof_turns(subjects.iter(), &provers, &busy, limits, now);
        for turn in begun {
            assert!(busy.iter().all(|job| job.host != turn.host));
            let own = subjects
                .iter_mut()
                .find(|s| s.tenant == turn.tenant)
                .unwrap();
            own.last = proven(now, turn.of, true);
            own.newest = Some(provable(now));
            if step >= 7 * 24 * 6 {
                *by_day.entry((now - T0) / DAY).or_default() += 1;
                *times.entry(turn.tenant).or_default() += 1;
            }
            let job = Running {
                tenant: turn.tenant,
                host: turn.host,
                destination: turn.destination,
            };
            running.push((now + 25 * MINUTE, job));
        }
        let hosts: BTreeSet<_> = running.iter().map(|(_, job)| &job.host).collect();
        assert_eq!(hosts.len(), running.len(), "one at a time on a host");
    }
    assert_eq!(times.len(), 200);
    assert!(
        times.values().all(|count| *count == 2),
        "two weeks: {times:?}"
    );
    assert!(
        by_day.values().all(|count| (14..=44).contains(count)),
        "{by_day:?}"
    );
}

#[test]
fn who_asks_comes_first_and_what_is_damaged_again_with_the_next_backup() {
    let mut damaged = subject(1);
    damaged.last = proven(T0 + HOUR, provable(T0), false);
    for days in 0..20 {
        assert_eq!(
            proof_due(&damaged, T0 + days * DAY),
            None,
            "the same backup"
        );
    }
    let mut same = provable(T0 + DAY);
    damaged.newest = Some(same);
    assert_eq!(proof_due(&damaged, T0 + DAY), None, "the same, said anew");
    same.base = SnapshotName([2; 32]);
    damaged.newest = Some(same);
    assert_eq!(proof_due(&damaged, T0 + DAY), Some(ProofDue::Anew));
    let mut asked = subject(4); // of the same host
    asked.is_asked_for = true;
    asked.last = proven(T0, provable(T0), true);
    assert_eq!(proof_due(&asked, T0 + 1), Some(ProofDue::Asked));
    let all = [damaged, asked];
    let provers = [prover(1, 50)];
    let (begun, waiting) = proof_turns(all.iter(), &provers, &[], ProofLimits::of(3), T0 + DAY);
    assert_eq!(begun[0].tenant, tenant(4));
    assert_eq!(waiting[0].1, ProofWait::Hosts);
    let mut empty = subject(3);
    empty.newest = None;
    empty.is_asked_for = true;
    assert_eq!(proof_due(&empty, T0), None, "there is nothing");
}

#[test]
fn what_could_not_be_carried_out_is_tried_again_later_and_elsewhere_first() {
    let mut failed = subject(1);
    (failed.failures, failed.failed_at) = (1, Some(T0));
    assert_eq!(proof_due(&failed, T0 + RETRY_MS - 1), None);
    assert!(proof_due(&failed, T0 + RETRY_MS).is_some());
    assert!(proof_due(&failed, T0 - 1).is_some(), "a clock was set back");
    failed.failures = 30;
    assert!(proof_due(&failed, T0 + LONGEST_RETRY_MS).is_some());
    let provers = [prover(0, 90), prover(1, 50), prover(2, 60)];
    let chosen = |failures, busy: &[usize], provers: &[Prover]| {
        let subject = ProofSubject {
            failures,
            ..failed.clone()
        };
        let busy = busy.iter().map(|n| host(*n)).collect();
        choose_prover(&subject, GB, provers, &busy)
    };
    assert_eq!(chosen(0, &[], &provers), Ok(host(1)), "its own");
    let waits = Err(ProofWait::Hosts);
    assert_eq!(
        chosen(0, &[1], &provers),
        waits,
        "nobody else learns its key"
    );
    assert_eq!(chosen(1, &[], &provers), Ok(host(0)));
    assert_eq!(chosen(1, &[0], &provers), Ok(host(2)));
    assert_eq!(chosen(2, &[], &provers), Ok(host(1)));
    assert_eq!(
        chosen(1, &[], &provers[1..2]),
        Ok(host(1)),
        "there is no other"
    );
}

#[test]
fn nothing_is_proven_where_there_is_no_room_and_that_is_said_in_numbers() {
    // Its own host, 1, has less room than the other.
    let provers = [prover(0, 7), prover(1, 6)];
    let chosen = |needs, busy: &[usize], provers: &[Prover]| {
        let busy = busy.iter().map(|n| host(*n)).collect();
        choose_prover(&subject(1), needs, provers, &busy)
    };
    let refused = chosen(3 * GB, &[], &provers).unwrap_err();
    let room = ProofWait::Room {
        needs: 3 * GB,
        most: 2 * GB,
    };
    assert_eq!(refused, room);
    let said = no_room(refused).unwrap();
    assert!(
        said.contains("3000 MB") && said.contains("2000 MB"),
        "{said}"
    );
    assert_eq!(chosen(2 * GB, &[], &provers), Ok(host(0)), "elsewhere");
    let waits = Err(ProofWait::Hosts);
    assert_eq!(
        chosen(2 * GB, &[0], &provers),
        waits,
        "not where there is no room"
    );
    let nobody = chosen(GB, &[], &[]).unwrap_err();
    assert!(no_room(nobody).unwrap().contains("no host can prove"));
    assert_eq!(provable(T0).needs_bytes(), GB + GB / 4 + (1 << 30));
}

/// Fails if a large fleet does not come round in a week because of the number of proofs at one destination.
#[test]
fn a_larger_fleet_proves_more_at_a_time_at_one_destination() {
    let places = |provers| ProofLimits::of(provers).per_destination;
    assert_eq!([0, 1, 39, 40, 100].map(places), [4, 4, 4, 5, 12]);
    let subjects: Vec<ProofSubject> = (0..100).map(subject).collect();
    let provers: Vec<Prover> = (0..100).map(|number| prover(number, 50)).collect();
    let elsewhere: Vec<ProofSubject> = subjects
        .into_iter()
        .enumerate()
        .map(|(number, subject)| ProofSubject {
            home: host(number),
            ..subject
        })
        .collect();
    let limits = ProofLimits::of(provers.len());
    let (begun, _) = proof_turns(elsewhere.iter(), &provers, &[], limits, T0);
    assert_eq!(begun.len(), 12);
}

/// Fails if a host that is being emptied gets others' backups to prove.
#[test]
fn who_is_cordoned_proves_its_own_alone() {
    let mut provers = [prover(0, 90), prover(1, 50), prover(2, 60)];
    let cordon = |provers: &mut [Prover], number: usize| provers[number].is_cordoned = true;
    let chosen = |failures, provers: &[Prover]| {
        let subject = ProofSubject {
            failures,
            ..subject(1)
        };
        choose_prover(&subject, GB, provers, &BTreeSet::new())
    };
    cordon(&mut provers, 0);
    assert_eq!(
        chosen(1, &provers),
        Ok(host(2)),
        "not the one with most room"
    );
    cordon(&mut provers, 1);
    assert_eq!(chosen(0, &provers), Ok(host(1)), "its own");
    cordon(&mut provers, 2);
    assert_eq!(chosen(1, &provers), Ok(host(1)), "there is no other");
    assert_eq!(chosen(0, &provers[..1]), Err(ProofWait::NoHost));
}
