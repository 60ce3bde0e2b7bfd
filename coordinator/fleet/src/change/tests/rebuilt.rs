//! A coordinator that was rebuilt from an older state: no clock removes what may have been brought back since.
//!
//! Not here: generations and incarnations (change/generations), and moves under way (moves).

use isyone_types::plan::DesiredState;

use super::{
    moves::{moved, plan_of},
    operations::*,
    *,
};
use crate::desired::{CopyRole, Fleet};

pub(super) fn delete(purge: bool) -> Command {
    Command::DeleteTenant {
        name: name("alfa"),
        purge,
        request_id: None,
        cancel_running: false,
    }
}

pub(super) fn undelete() -> Command {
    Command::UndeleteTenant {
        name: name("alfa"),
        request_id: None,
    }
}

/// The newest database is lost; an older copy is put in place, and its incarnation raised.
fn rebuild(bench: &mut Bench, older: Fleet) {
    bench.state = State::new(older, bench.now);
    bench.apply(Command::RaiseIncarnation).unwrap();
    let hosts: Vec<HostName> = bench.state.fleet.hosts.keys().cloned().collect();
    for host in &hosts {
        bench.greet(host);
    }
}

/// Nobody does anything until quarantines, fences and holds are over.
fn wait(bench: &mut Bench) {
    let over = bench.now + bench.settings.quarantine_ms + bench.settings.quarantine_hold_ms;
    bench.apply(Command::Tick).unwrap();
    while bench.now < over + 3_600_000 {
        bench.now += 50_000;
        bench.apply(Command::Tick).unwrap();
    }
}

/// alfa has moved from h1 to h2, and was deleted there.
fn deleted() -> (Bench, HostName, HostName, TenantName) {
    let (mut bench, h1, h2, alfa) = moved();
    start(&mut bench, delete(false));
    bench.settle();
    (bench, h1, h2, alfa)
}

/// docs/operations.md: "a tenant was brought back from quarantine | in quarantine again, and held". An agent purges when the
/// order's generation is above the highest under which it was told to run the tenant: that number must not be all.
#[test]
fn the_clock_alone_orders_no_purge_of_what_may_have_been_brought_back() {
    let (mut bench, h1, h2, alfa) = deleted();
    let older = bench.state.fleet.clone();
    start(&mut bench, undelete());
    bench.settle();
    let runs = plan_of(&bench, &h2).tenants[0].clone();
    assert_eq!(runs.desired, DesiredState::Running);
    rebuild(&mut bench, older);
    wait(&mut bench);
    let ordered = plan_of(&bench, &h2).tenants[0].clone();
    assert_eq!(ordered.desired, DesiredState::Quarantined);
    assert!(
        ordered.generation <= runs.generation,
        "it obeys no other order either"
    );
    let other = plan_of(&bench, &h1).tenants[0].desired;
    assert_eq!(
        other,
        DesiredState::Fenced,
        "nor does the copy that it had left go"
    );
    assert!(bench.state.fleet.tenants[&alfa].quarantine_held);
    assert!(bench.state.fleet.quarantines.is_empty() && bench.state.fleet.fenced.is_empty());
}

#[test]
fn operators_are_told_of_held_quarantines_and_end_them() {
    let (mut bench, h1, h2, alfa) = deleted();
    let older = bench.state.fleet.clone();
    rebuild(&mut bench, older);
    let rebuilt = bench.state.fleet.events.last().unwrap().message.clone();
    assert!(
        rebuilt.contains("1 quarantines do not end") && rebuilt.contains("(alfa)"),
        "{rebuilt}"
    );
    bench.settle();
    let tenant = bench.state.fleet.tenants[&alfa].clone();
    let (phase, text) = views::phase(&bench.state, &bench.settings, &tenant, bench.now);
    assert_eq!(phase, views::Phase::Quarantined);
    assert!(text.contains("until somebody decides"), "{text}");
    // It is stored, and not over with the next start.
    bench.state = restart(&bench);
    for host in [&h1, &h2] {
        bench.greet(host);
        bench.report(host, resources(8, 32, 100), Vec::new());
    }
    assert!(bench.state.fleet.tenants[&alfa].quarantine_held);
    // Deleted again: its time begins anew, and its host is given a newer order.
    bench.now += 8 * 86_400_000;
    let generation = bench.state.fleet.tenants[&alfa].generation;
    let id = start(&mut bench, delete(false));
    let tenant = bench.state.fleet.tenants[&alfa].clone();
    assert_eq!(
        (tenant.desired, tenant.quarantine_held),
        (Lifecycle::Quarantined, false)
    );
    assert_eq!(tenant.generation, generation + 1);
    assert_eq!(
        tenant.quarantine_until,
        Some(bench.now + bench.settings.quarantine_ms)
    );
    // Whoever takes that back has decided nothing.
    start(&mut bench, Command::CancelOperation { id });
    bench.settle();
    assert!(bench.state.fleet.tenants[&alfa].quarantine_held);
    start(&mut bench, delete(false));
    wait(&mut bench);
    let tenant = bench.state.fleet.tenants[&alfa].clone();
    assert_eq!(
        (tenant.desired, tenant.purge_now),
        (Lifecycle::Purged, false)
    );
}

#[test]
fn a_held_quarantine_ends_at_once_where_an_operator_says_so() {
    let (mut bench, ..) = deleted();
    let older = bench.state.fleet.clone();
    rebuild(&mut bench, older.clone());
    start(&mut bench, delete(true));
    let tenant = bench.state.fleet.tenants[&name::<TenantName>("alfa")].clone();
    assert_eq!(
        (tenant.desired, tenant.quarantine_held),
        (Lifecycle::Purged, false)
    );
    rebuild(&mut bench, older);
    start(&mut bench, undelete());
    let tenant = bench.state.fleet.tenants[&name::<TenantName>("alfa")].clone();
    assert_eq!(
        (tenant.desired, tenant.quarantine_held),
        (Lifecycle::Running, false)
    );
}

/// The copy that a tenant has left by an older state may be the one that is written to by now.
#[test]
fn what_moved_tenants_have_left_stays_until_they_are_well_in_their_places_again() {
    let (mut bench, h1, _, alfa) = moved();
    let until = bench.state.fleet.tenants[&alfa].fenced_until();
    assert!(until.is_some());
    let older = bench.state.fleet.clone();
    rebuild(&mut bench, older);
    wait(&mut bench);
    let role = |bench: &Bench| {
        bench.state.fleet.tenants[&alfa]
            .copy_on(&h1)
            .unwrap()
            .1
            .cloned()
    };
    assert_eq!(role(&bench), Some(CopyRole::Fenced { until: None }));
    bench.settle();
    let again = bench.state.fleet.tenants[&alfa].fenced_until();
    assert_eq!(again, Some(bench.now + bench.settings.quarantine_ms));
}

/// Otherwise it would go at the first tick after the tenant was brought back, before that is known to run.
#[test]
fn the_copy_of_a_deleted_tenant_stays_and_its_time_begins_anew_when_that_is_well() {
    let (mut bench, h1, _, alfa) = deleted();
    let until = bench.state.fleet.tenants[&alfa].fenced_until().unwrap();
    let end = bench.state.fleet.tenants[&alfa].quarantine_until.unwrap();
    bench.apply(Command::Tick).unwrap();
    while bench.now < until.max(end) - 60_000 {
        bench.now += 50_000;
        bench.apply(Command::Tick).unwrap();
    }
    let generation = bench.state.fleet.tenants[&alfa].generation;
    start(&mut bench, undelete());
    bench.now = until + 1;
    bench.apply(Command::Tick).unwrap();
    let tenant = bench.state.fleet.tenants[&alfa].clone();
    assert_eq!(
        tenant.copy_on(&h1).unwrap().1,
        Some(&CopyRole::Fenced { until: None })
    );
    assert_eq!(tenant.generation, generation + 1);
    bench.settle();
    let tenant = bench.state.fleet.tenants[&alfa].clone();
    assert_eq!(
        tenant.fenced_until(),
        Some(bench.now + bench.settings.quarantine_ms)
    );
}
