//! Purges: over when no host has anything left.
//!
//! Not here: what a delete does before (lifecycle), and quarantines that are held (rebuilt).

use super::{moves::moved, operations::*, rebuilt::delete, *};

/// A purge under way of alfa, which lives on h2 and has left a copy on h1.
fn purging() -> (Bench, Uuid, HostName, HostName, TenantName) {
    let (mut bench, h1, h2, alfa) = moved();
    start(&mut bench, delete(false));
    bench.settle();
    let id = start(&mut bench, delete(true));
    (bench, id, h1, h2, alfa)
}

fn gone(bench: &mut Bench, host: &HostName) {
    let gone = bench.converged_on(&name("alfa"), host);
    bench.report(host, resources(8, 32, 100), vec![gone]);
}

fn waits_for(bench: &Bench, id: Uuid) -> String {
    let operation = &bench.state.fleet.operations[&id];
    let waiting = crate::procedures::waiting(&bench.state, &bench.settings, operation, bench.now);
    waiting.unwrap().to_string()
}

#[test]
fn a_purge_is_not_over_while_another_host_keeps_a_copy() {
    let (mut bench, id, h1, h2, alfa) = purging();
    assert_eq!(waits_for(&bench, id), "host h2");
    gone(&mut bench, &h2);
    assert!(bench.state.fleet.tenants[&alfa].copy_on(&h1).is_some());
    assert_eq!(
        ended(&bench, id).0,
        OperationState::Running,
        "h1 has all of its data"
    );
    assert_eq!(waits_for(&bench, id), "host h1");
    gone(&mut bench, &h1);
    assert_eq!(ended(&bench, id).0, OperationState::Succeeded);
    assert!(!bench.state.fleet.tenants.contains_key(&alfa));
    let events = bench.state.fleet.events.iter().rev().take(2);
    let told: Vec<_> = events.map(|e| (e.kind.clone(), e.tenant.clone())).collect();
    let of = Some(alfa);
    assert_eq!(
        told,
        [
            (EventKind::TenantPurged, of.clone()),
            (EventKind::OperationSucceeded, of)
        ]
    );
}

#[test]
fn a_purge_does_not_wait_for_the_copy_of_a_host_that_was_removed() {
    let (mut bench, id, h1, h2, alfa) = purging();
    gone(&mut bench, &h2);
    bench.pass(bench.settings.liveness.lost_ms + 1);
    bench.apply(Command::RemoveHost { host: h1 }).unwrap();
    assert_eq!(ended(&bench, id).0, OperationState::Succeeded);
    assert!(!bench.state.fleet.tenants.contains_key(&alfa));
}

#[test]
fn a_purge_is_over_once_both_have_said_so_in_whatever_order() {
    let (mut bench, id, h1, h2, alfa) = purging();
    gone(&mut bench, &h1);
    assert_eq!(ended(&bench, id).0, OperationState::Running);
    gone(&mut bench, &h2);
    assert_eq!(ended(&bench, id).0, OperationState::Succeeded);
    assert!(!bench.state.fleet.tenants.contains_key(&alfa));
}
