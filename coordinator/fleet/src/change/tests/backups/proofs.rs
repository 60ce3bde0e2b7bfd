//! Proofs as stored: ordered where there is room, ended by what a host has found, and by its silence.

use std::sync::Arc;

use isyone_types::{
    backup::RestoreTo,
    plan::JobOrder,
    proof::{Proof, VerifyOrder},
};

use super::*;
use crate::{
    backups::{ProofLimits, ProofTurn, proof_turns, proofs::LATE_MS},
    desired::backups::SnapshotMade,
    views::Verdict,
};

/// What the coordinator's loop does in a pass.
pub(super) fn proofs(bench: &mut Bench) -> Vec<ProofTurn> {
    let settings = bench.settings.clone();
    let rota = views::proof_rota(&bench.state, &settings, bench.now);
    bench.apply(Command::EndProofOrders(rota.dead)).unwrap();
    bench.apply(Command::ProofsBegin(rota.anew)).unwrap();
    let subjects = rota.subjects.iter();
    let limits = ProofLimits::of(rota.provers.len());
    let (begun, _) = proof_turns(subjects, &rota.provers, &rota.running, limits, bench.now);
    bench.apply(Command::OrderProofs(begun.clone())).unwrap();
    begun
}

/// A tenant with a backup, a second host, and whoever asks for a proof.
pub(super) fn with_a_backup() -> (Bench, HostName, TenantName) {
    let (mut bench, host, alfa) = backed_up(&["main"]);
    pass(&mut bench);
    let order = of(&bench, &alfa).order.unwrap();
    let made = snapshot(1, BackupWork::Base, bench.now);
    report(
        &mut bench,
        &host,
        vec![job(order.id, JobState::Done, Some(made))],
        None,
    );
    (bench, host, alfa)
}

fn verifying(bench: &Bench, host: &HostName) -> Vec<(JobOrder, VerifyOrder)> {
    let jobs = plan_of(bench, host).jobs.into_iter();
    let verify = |order: JobOrder| match &order.work {
        JobWork::Verify(verify) => Some((order.clone(), (**verify).clone())),
        _ => None,
    };
    jobs.filter_map(verify).collect()
}

fn found(at: i64, damages: &[&str], is_restorable: bool) -> Proof {
    Proof {
        base: SnapshotName([1; 32]),
        base_at: BEGIN,
        reached: None,
        ended_at: at,
        is_restorable,
        damages: damages.iter().map(|d| (*d).to_owned()).collect(),
        more: 0,
        left_out: Vec::new(),
        relations: 3,
        attachments: 2,
        bytes: 1,
    }
}

fn ended(id: Uuid, proof: Option<Proof>) -> JobReport {
    let state = match proof {
        Some(_) => JobState::Done,
        None => JobState::Failed,
    };
    JobReport {
        proof: proof.map(Box::new),
        ..job(id, state, None)
    }
}

pub(super) fn ask(bench: &mut Bench, tenant: &TenantName) {
    bench
        .apply(Command::AskForProofs(vec![tenant.clone()]))
        .unwrap();
}

fn verdict_of(bench: &Bench, tenant: &TenantName) -> views::Verified {
    let tenant = &bench.state.fleet.tenants[tenant];
    views::verified(&bench.state, &bench.settings, tenant, bench.now)[0].1
}

#[test]
fn what_is_asked_for_is_ordered_proven_and_remembered() {
    let (mut bench, host, alfa) = with_a_backup();
    assert_eq!(verdict_of(&bench, &alfa).verdict, Verdict::None);
    ask(&mut bench, &alfa);
    assert_eq!(proofs(&mut bench).len(), 1);
    assert_eq!(proofs(&mut bench), [], "one at a time");
    let (order, verify) = verifying(&bench, &host).remove(0);
    assert_eq!(verify.restore.to, RestoreTo::Latest);
    assert_eq!(verify.restore.base, SnapshotName([1; 32]));
    assert!(!verify.restore.rekey && !verify.restore.neutralise);
    assert_eq!(
        restart(&bench).fleet,
        bench.state.fleet,
        "it is stored, and its index is made again"
    );
    bench.now += HOUR;
    let good = found(bench.now, &[], true);
    report(
        &mut bench,
        &host,
        vec![ended(order.id, Some(good.clone()))],
        None,
    );
    let of = of(&bench, &alfa);
    let proofs_of = &of.made["main"].proofs;
    assert_eq!(proofs_of.last.as_ref().unwrap().found, good);
    assert!(of.proving.is_none() && of.proof_asked.is_none());
    assert_eq!(proofs_of.good_at, Some(bench.now));
    assert!(verifying(&bench, &host).is_empty(), "its host forgets it");
    assert_eq!(events(&bench, &EventKind::BackupProofAsked), 1);
    let verified = verdict_of(&bench, &alfa);
    assert_eq!(
        (verified.verdict, verified.is_late),
        (Verdict::Proven, false)
    );
    bench.now += LATE_MS + 1;
    assert!(verdict_of(&bench, &alfa).is_late);
}

#[test]
fn another_host_proves_what_could_not_be_proven_at_home_and_may_read_that_and_nothing_else() {
    let (mut bench, home, alfa) = with_a_backup();
    let other: HostName = bench.host("h9", resources(8, 32, 500));
    greet(&mut bench, &other, true);
    report(&mut bench, &other, Vec::new(), None);
    let uid = bench.state.fleet.tenants[&alfa].uid;
    let may = |bench: &Bench| {
        views::may_read_repository(&bench.state, &bench.settings, &other, uid, &name("main"))
    };
    ask(&mut bench, &alfa);
    assert_eq!(proofs(&mut bench)[0].host, home, "its key stays there");
    let (order, _) = verifying(&bench, &home).remove(0);
    report(&mut bench, &home, vec![ended(order.id, None)], None);
    bench.now += 2 * HOUR;
    for host in [&home, &other] {
        report(&mut bench, host, Vec::new(), None);
    }
    assert!(!may(&bench));
    assert_eq!(proofs(&mut bench)[0].host, other);
    assert!(may(&bench) && verifying(&bench, &home).is_empty());
    assert_eq!(verifying(&bench, &other).len(), 1);
    assert!(plan_of(&bench, &other).tenants.is_empty());
    // Its agent is replaced by one of a version before: it is not told what that does not know.
    greet(&mut bench, &other, false);
    assert!(verifying(&bench, &other).is_empty());
    proofs(&mut bench);
    let of = of(&bench, &alfa);
    assert!(!may(&bench) && of.made["main"].proofs.failures == 2);
}

#[test]
fn a_damage_is_told_named_and_makes_the_tenant_unprotected_until_the_next_backup() {
    let (mut bench, host, alfa) = with_a_backup();
    ask(&mut bench, &alfa);
    proofs(&mut bench);
    let (order, _) = verifying(&bench, &host).remove(0);
    let damaged = found(bench.now, &["table public.rows, block 7"], false);
    report(
        &mut bench,
        &host,
        vec![ended(order.id, Some(damaged))],
        None,
    );
    let tenant = bench.state.fleet.tenants[&alfa].clone();
    let standing = |bench: &Bench| {
        let protection = views::protection(&bench.state, &bench.settings, &tenant, bench.now);
        protection.unwrap().standing
    };
    assert_eq!(standing(&bench), Standing::NotProtected);
    assert_eq!(verdict_of(&bench, &alfa).verdict, Verdict::Damaged);
    let events = bench.state.fleet.events.iter();
    let told: Vec<_> = events
        .filter(|e| e.kind == EventKind::BackupDamaged)
        .collect();
    assert!(
        told[0].message.contains("table public.rows, block 7"),
        "{}",
        told[0].message
    );
    // A file that is missing is told, and all else can be restored.
    ask(&mut bench, &alfa);
    proofs(&mut bench);
    let (order, _) = verifying(&bench, &host).remove(0);
    let incomplete = found(bench.now, &["file ab/abcd is missing"], true);
    report(
        &mut bench,
        &host,
        vec![ended(order.id, Some(incomplete))],
        None,
    );
    assert_ne!(standing(&bench), Standing::NotProtected);
    assert_eq!(verdict_of(&bench, &alfa).verdict, Verdict::Incomplete);
}

/// Fails if turns go by what the host says of the backup's moment: where the damage is met while it is fetched, it says none.
#[test]
fn a_damage_that_is_met_while_it_is_fetched_is_not_proven_again_before_the_next_backup() {
    let (mut bench, host, alfa) = with_a_backup();
    ask(&mut bench, &alfa);
    proofs(&mut bench);
    let (order, _) = verifying(&bench, &host).remove(0);
    let mut damaged = found(bench.now, &["content cannot be read"], false);
    damaged.base_at = 0;
    report(
        &mut bench,
        &host,
        vec![ended(order.id, Some(damaged))],
        None,
    );
    for _ in 0..14 {
        bench.now += 12 * HOUR;
        report(&mut bench, &host, Vec::new(), None);
        assert_eq!(proofs(&mut bench), [], "it is the same backup");
    }
    let mut of = of(&bench, &alfa);
    let known = of.made["main"].snapshots[0].clone();
    of.made.get_mut("main").unwrap().remember(SnapshotMade {
        name: SnapshotName([2; 32]),
        at: bench.now,
        ended_at: bench.now,
        ..known
    });
    let uid = of.tenant;
    bench.state.fleet.backups.insert(uid, Arc::new(of));
    assert_eq!(proofs(&mut bench).len(), 1);
}

/// Fails if a fleet that has made backups for long is late with all proofs on the day it learns to prove.
#[test]
fn nobody_is_late_before_there_was_time_to_prove() {
    let (mut bench, host, alfa) = with_a_backup();
    bench.now += 2 * LATE_MS;
    greet(&mut bench, &host, false);
    report(&mut bench, &host, Vec::new(), None);
    assert_eq!(proofs(&mut bench), []);
    assert!(!verdict_of(&bench, &alfa).is_late, "no host can");
    greet(&mut bench, &host, true);
    report(&mut bench, &host, Vec::new(), None);
    assert_eq!(proofs(&mut bench), [], "its place in the week comes");
    let begun = bench.now;
    assert!(!verdict_of(&bench, &alfa).is_late);
    bench.now += LATE_MS;
    report(&mut bench, &host, Vec::new(), None);
    assert_eq!(proofs(&mut bench).len(), 1);
    assert_eq!(of(&bench, &alfa).made["main"].proofs.since, Some(begun));
    assert!(!verdict_of(&bench, &alfa).is_late);
    bench.now += 1;
    assert!(verdict_of(&bench, &alfa).is_late);
    assert_eq!(restart(&bench).fleet, bench.state.fleet);
}

#[test]
fn what_is_not_carried_out_is_a_failure_and_no_proof_and_keeps_nobody_up() {
    let (mut bench, host, alfa) = with_a_backup();
    ask(&mut bench, &alfa);
    proofs(&mut bench);
    let (order, _) = verifying(&bench, &host).remove(0);
    report(&mut bench, &host, vec![ended(order.id, None)], None);
    let failed = |bench: &Bench| of(bench, &alfa).made["main"].proofs.clone();
    assert_eq!((failed(&bench).failures, failed(&bench).last), (1, None));
    assert_eq!(events(&bench, &EventKind::BackupProofFailed), 1);
    assert_eq!(proofs(&mut bench), [], "it waits before it is tried again");
    bench.now += 2 * HOUR;
    report(&mut bench, &host, Vec::new(), None);
    assert_eq!(proofs(&mut bench).len(), 1);
    // Nobody speaks of it.
    bench.now += HOUR;
    report(&mut bench, &host, Vec::new(), None);
    proofs(&mut bench);
    assert_eq!(
        (failed(&bench).failures, of(&bench, &alfa).proving),
        (2, None)
    );
    // What another backup's proof says does not count for this one.
    bench.now += 3 * HOUR;
    report(&mut bench, &host, Vec::new(), None);
    proofs(&mut bench);
    let (order, _) = verifying(&bench, &host).remove(0);
    let mut other = found(bench.now, &[], true);
    other.base = SnapshotName([9; 32]);
    report(&mut bench, &host, vec![ended(order.id, Some(other))], None);
    assert_eq!((failed(&bench).failures, failed(&bench).last), (3, None));
}

#[test]
fn nothing_is_asked_for_that_no_host_has_room_for_or_that_is_not_there() {
    let (mut bench, host, alfa) = backed_up(&["main"]);
    let ask = |bench: &mut Bench| {
        let refused = bench.apply(Command::AskForProofs(vec![alfa.clone()]));
        refused.unwrap_err().to_string()
    };
    assert!(ask(&mut bench).contains("there is no backup yet"));
    pass(&mut bench);
    let order = of(&bench, &alfa).order.unwrap();
    let mut made = snapshot(1, BackupWork::Base, bench.now);
    made.read_bytes = 10 << 40;
    report(
        &mut bench,
        &host,
        vec![job(order.id, JobState::Done, Some(made))],
        None,
    );
    let why = ask(&mut bench);
    assert!(
        why.contains("no host has room") && why.contains("MB"),
        "{why}"
    );
    greet(&mut bench, &host, false);
    assert!(ask(&mut bench).contains("version before"));
}

#[test]
fn a_tenant_that_is_gone_is_proven_no_more() {
    let (mut bench, host, alfa) = with_a_backup();
    ask(&mut bench, &alfa);
    proofs(&mut bench);
    let uid = bench.state.fleet.tenants[&alfa].uid;
    for purge in [false, true] {
        let delete = Command::DeleteTenant {
            name: alfa.clone(),
            purge,
            request_id: None,
            cancel_running: true,
        };
        bench.apply(delete).unwrap();
        bench.settle();
    }
    assert!(!bench.state.fleet.tenants.contains_key(&alfa));
    let of = &bench.state.fleet.backups[&uid];
    assert!(of.proving.is_none() && of.proof_asked.is_none());
    assert!(bench.state.fleet.proving.is_empty() && verifying(&bench, &host).is_empty());
}
