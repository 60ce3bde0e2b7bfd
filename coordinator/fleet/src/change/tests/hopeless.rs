//! Moves of copies that can never come: they are given up, with the reason, while the tenant runs on where it is.
//!
//! Not here: copies that come late (moves, turns), and who finds out that one cannot come (the agents).

use isyone_types::{
    plan::DesiredState,
    report::{JobState, Stuck, TenantProgress, TenantReport},
};

use super::{
    moves::{desired_on, job, moving},
    operations::{ended, word},
    *,
};

const DOUBT: &str = "whether the copy is complete is not known";

/// The new host's word on its copy.
fn says(bench: &mut Bench, host: &HostName, alfa: &TenantName, blocked: bool) {
    let report = failing(bench, host, alfa, blocked);
    bench.report(host, resources(8, 32, 100), vec![report]);
}

fn failing(bench: &Bench, host: &HostName, alfa: &TenantName, blocked: bool) -> TenantReport {
    TenantReport {
        progress: TenantProgress::Failing,
        message: DOUBT.into(),
        stuck: if blocked { Stuck::Blocked } else { Stuck::No },
        ..bench.converged_on(alfa, host)
    }
}

#[test]
fn a_copy_in_doubt_ends_its_move_before_the_tenant_is_stopped() {
    let (mut bench, id, h1, h2, alfa) = moving();
    says(&mut bench, &h2, &alfa, true);
    assert!(!bench.state.fleet.tenants[&alfa].halted);
    assert_eq!(desired_on(&bench, &h1), Some((DesiredState::Running, 1)));
    assert_eq!(desired_on(&bench, &h2), Some((DesiredState::Purged, 2)));
    bench.settle();
    let (state, why) = ended(&bench, id);
    assert_eq!(state, OperationState::Failed);
    for part in [
        DOUBT,
        "host h2",
        "tenant alfa",
        "stays on host h1",
        "move it again",
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
    assert!(bench.state.fleet.tenants[&alfa].copies.is_empty());
}

/// An agent of the version before does not say whether it is for good.
#[test]
fn a_place_that_may_still_come_is_waited_for() {
    let (mut bench, id, h1, h2, alfa) = moving();
    says(&mut bench, &h2, &alfa, false);
    assert_eq!(word(&bench, id), "prepare");
    // Nor does one that is about what was before this move.
    let mut old = failing(&bench, &h2, &alfa, true);
    old.generation -= 1;
    bench.report(&h2, resources(8, 32, 100), vec![old]);
    let mut of_another = failing(&bench, &h2, &alfa, true);
    of_another.operation = Some(Uuid::from_u128(9));
    bench.report(&h2, resources(8, 32, 100), vec![of_another]);
    assert_eq!(word(&bench, id), "prepare");
    bench.settle();
    assert_eq!(word(&bench, id), "stop");
    assert_eq!(desired_on(&bench, &h1), Some((DesiredState::Suspended, 1)));
}

#[test]
fn a_copy_that_falls_into_doubt_while_it_is_filled_lets_the_tenant_run_again() {
    let (mut bench, id, h1, h2, alfa) = moving();
    bench.settle();
    bench.settle();
    assert_eq!(word(&bench, id), "copy");
    says(&mut bench, &h2, &alfa, true);
    assert_eq!(desired_on(&bench, &h1), Some((DesiredState::Running, 1)));
    bench.settle();
    let (state, why) = ended(&bench, id);
    assert_eq!(state, OperationState::Failed);
    assert!(why.contains(DOUBT), "{why}");
}

#[test]
fn a_copy_that_took_too_long_says_what_was_wrong_at_last() {
    let (mut bench, id, _, h2, _) = moving();
    bench.settle();
    bench.settle();
    job(&mut bench, &h2, id, JobState::Retrying);
    bench.now += 25 * 3_600_000;
    job(&mut bench, &h2, id, JobState::Retrying);
    bench.settle();
    let (state, why) = ended(&bench, id);
    assert_eq!(state, OperationState::Failed);
    assert!(why.contains("no route"), "{why}");
}
