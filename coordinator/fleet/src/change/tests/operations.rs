//! Operations: one at a time for a tenant, cancelling, what gives way, waiting for edges, and deadlines.
//!
//! Not here: moves, and what survives crashes between any two steps (the workspace's simulation).

use uuid::Uuid;

use super::*;

pub(super) fn suspend(alfa: &TenantName, cancel_running: bool) -> Command {
    Command::SuspendTenant {
        name: alfa.clone(),
        request_id: None,
        cancel_running,
    }
}

pub(super) fn resize(alfa: &TenantName, plan: &str) -> Command {
    Command::ResizeTenant {
        name: alfa.clone(),
        plan: name(plan),
        request_id: None,
    }
}

pub(super) fn restart_order(alfa: &TenantName) -> Command {
    Command::RestartTenant {
        name: alfa.clone(),
        database: false,
        settings: false,
        request_id: None,
    }
}

pub(super) fn start(bench: &mut Bench, command: Command) -> Uuid {
    operation_of(bench.apply(command).unwrap()).id
}

pub(super) fn ended(bench: &Bench, id: Uuid) -> (OperationState, String) {
    let operation = &bench.state.fleet.operations[&id];
    (operation.state, operation.error.clone())
}

pub(super) fn word(bench: &Bench, id: Uuid) -> &'static str {
    bench.state.fleet.operations[&id].stage().word()
}

/// A running tenant whose edges are settled.
pub(super) fn settled() -> (Bench, HostName, TenantName) {
    let (mut bench, host, alfa) = running();
    bench.settle();
    (bench, host, alfa)
}

#[test]
fn a_second_operation_is_refused_naming_the_first() {
    let (mut bench, _, alfa) = settled();
    let first = start(&mut bench, resize(&alfa, "standard"));
    bench.now += 12_000;
    let refused = bench.apply(restart_order(&alfa)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!(
            "tenant `alfa` is busy: operation {first} (resize) is at stage `host` for 12 s; wait for it \
             (`isyctl op watch {first}`) or cancel it (`isyctl op cancel {first}`)"
        )
    );
    // Those who insist can delete and suspend.
    let second = start(&mut bench, suspend(&alfa, true));
    let (state, why) = ended(&bench, first);
    assert_eq!(state, OperationState::Cancelled);
    assert_eq!(
        why,
        format!("it gave way to operation {second} (suspend, asked for by ana)")
    );
    // The size that was asked for does not come, not even by cancelling this one, too.
    assert_eq!(bench.state.fleet.tenants[&alfa].spec.plan, name("small"));
    start(&mut bench, Command::CancelOperation { id: second });
    bench.settle();
    let tenant = &bench.state.fleet.tenants[&alfa];
    assert_eq!(
        (&tenant.spec.plan, tenant.desired),
        (&name("small"), Lifecycle::Running)
    );
}

#[test]
fn the_same_request_gets_its_operation_however_busy_the_tenant_is() {
    let (mut bench, _, alfa) = settled();
    let command = Command::RestartTenant {
        name: alfa.clone(),
        database: true,
        settings: false,
        request_id: Some("r1".to_owned()),
    };
    let first = start(&mut bench, command.clone());
    assert_eq!(start(&mut bench, command), first);
    assert_eq!(bench.state.fleet.tenants[&alfa].postgres_restarts, 1);
}

#[test]
fn what_only_waits_for_edges_gives_way_and_is_done() {
    let (mut bench, host, alfa) = settled();
    let first = start(&mut bench, resize(&alfa, "standard"));
    let report = bench.converged(&alfa);
    bench.report(&host, resources(8, 32, 100), vec![report]);
    assert_eq!(word(&bench, first), "route");
    start(&mut bench, restart_order(&alfa));
    assert_eq!(ended(&bench, first).0, OperationState::Succeeded);
    let log = &bench.state.fleet.operations[&first].log;
    assert!(
        log.last()
            .unwrap()
            .detail
            .starts_with("published; operation "),
        "{log:?}"
    );
}

#[test]
fn a_route_is_done_when_edges_run_it_and_after_a_while_without_saying_so() {
    let (mut bench, host, alfa) = settled();
    let id = start(&mut bench, suspend(&alfa, false));
    let report = bench.converged(&alfa);
    bench.report(&host, resources(8, 32, 100), vec![report.clone()]);
    let older = bench.state.version - 1;
    bench
        .apply(Command::EdgesRun {
            scopes: vec![(0, older)],
        })
        .unwrap();
    assert_eq!(word(&bench, id), "route", "an older snapshot's routes");
    // A restarted coordinator knows no version of the old process: it asks anew.
    bench.state = restart_of(&bench);
    bench.report(&host, resources(8, 32, 100), vec![report]);
    assert!(bench.state.routes_due.get(&id).is_some());
    bench.edges_run();
    assert_eq!(ended(&bench, id).0, OperationState::Succeeded);

    let id = start(
        &mut bench,
        Command::ResumeTenant {
            name: alfa.clone(),
            request_id: None,
        },
    );
    let report = bench.converged(&alfa);
    bench.report(&host, resources(8, 32, 100), vec![report]);
    bench.now += crate::procedures::ROUTE_PATIENCE_MS;
    bench.apply(Command::Tick).unwrap();
    let operation = &bench.state.fleet.operations[&id];
    assert_eq!(operation.state, OperationState::Succeeded);
    let said = &operation.log.last().unwrap().detail;
    assert_eq!(
        said,
        "published; not every edge has said within 5 s that it runs it"
    );
}

fn restart_of(bench: &Bench) -> State {
    let mut state = super::restart(bench);
    for (host, seen) in &bench.state.observed.hosts {
        state.observed.hosts.insert(host.clone(), seen.clone());
        state.refresh(&bench.settings, host, bench.now);
    }
    state
}

#[test]
fn a_cancelled_change_ends_when_the_tenant_is_as_it_was() {
    let (mut bench, host, alfa) = settled();
    let before = bench.state.fleet.tenants[&alfa].clone();
    let id = start(&mut bench, resize(&alfa, "standard"));
    start(&mut bench, Command::CancelOperation { id });
    let tenant = bench.state.fleet.tenants[&alfa].clone();
    assert_eq!((tenant.size, &tenant.spec), (before.size, &before.spec));
    assert_eq!(tenant.generation, before.generation + 2);
    assert_eq!(ended(&bench, id).0, OperationState::Running);
    assert_eq!(bench.progress(id).1, "cancelled by ana");
    let report = bench.converged(&alfa);
    bench.report(&host, resources(8, 32, 100), vec![report]);
    assert_eq!(
        ended(&bench, id),
        (OperationState::Cancelled, "cancelled by ana".to_owned())
    );
}

#[test]
fn a_cancelled_delete_runs_again_and_a_cancelled_undelete_is_deleted() {
    let (mut bench, _, alfa) = settled();
    let delete = Command::DeleteTenant {
        name: alfa.clone(),
        purge: false,
        request_id: None,
        cancel_running: false,
    };
    let id = start(&mut bench, delete.clone());
    start(&mut bench, Command::CancelOperation { id });
    bench.settle();
    let tenant = &bench.state.fleet.tenants[&alfa];
    assert_eq!(
        (tenant.desired, tenant.quarantine_until),
        (Lifecycle::Running, None)
    );
    start(&mut bench, delete);
    bench.settle();
    let until = bench.state.fleet.tenants[&alfa].quarantine_until;
    let undelete = Command::UndeleteTenant {
        name: alfa.clone(),
        request_id: None,
    };
    let id = start(&mut bench, undelete);
    start(&mut bench, Command::CancelOperation { id });
    bench.settle();
    let tenant = &bench.state.fleet.tenants[&alfa];
    assert_eq!(
        (tenant.desired, tenant.quarantine_until),
        (Lifecycle::Quarantined, until)
    );
    assert_eq!(ended(&bench, id).0, OperationState::Cancelled);
}

#[test]
fn a_restart_is_left_alone_and_a_purge_cannot_be_taken_back() {
    let (mut bench, _, alfa) = settled();
    let id = start(&mut bench, restart_order(&alfa));
    start(&mut bench, Command::CancelOperation { id });
    assert_eq!(ended(&bench, id).0, OperationState::Cancelled);
    let delete = |purge| Command::DeleteTenant {
        name: name("alfa"),
        purge,
        request_id: None,
        cancel_running: false,
    };
    start(&mut bench, delete(false));
    bench.settle();
    let id = start(&mut bench, delete(true));
    let refused = bench.apply(Command::CancelOperation { id }).unwrap_err();
    assert!(
        matches!(refused, ChangeError::NotCancellable { .. }),
        "{refused}"
    );
}

#[test]
fn an_overdue_operation_is_told_once() {
    let (mut bench, _, alfa) = settled();
    let id = start(&mut bench, restart_order(&alfa));
    bench.now = bench.state.fleet.operations[&id].deadline;
    bench.apply(Command::Tick).unwrap();
    bench.apply(Command::Tick).unwrap();
    let told = bench
        .state
        .fleet
        .events
        .iter()
        .filter(|e| e.kind.as_str() == "operation.overdue");
    let told: Vec<_> = told.map(|e| e.message.as_str()).collect();
    assert_eq!(told.len(), 1);
    assert!(
        told[0].starts_with("restart is not over after 10 min; it waits for host h1"),
        "{told:?}"
    );
}

#[test]
fn a_word_of_an_edge_and_a_tick_look_only_at_operations_that_can_end() {
    let (mut bench, host, alfa) = settled();
    let mut waiting = Vec::new();
    for name in ["beta", "gama"] {
        bench.create(name, "small").unwrap();
        let tenant: TenantName = name.parse().unwrap();
        let report = bench.converged(&tenant);
        bench.report(&host, resources(8, 32, 100), vec![report]);
        waiting.push(bench.state.fleet.tenants[&tenant].operation);
        bench.now += 1_000;
    }
    let order = |bench: &Bench| -> Vec<_> {
        let oldest = bench.state.routes_due.oldest_first();
        oldest.map(|(_, id)| id).collect()
    };
    assert_eq!(order(&bench), waiting, "the longest wait first");
    let first_due = bench.state.routes_due.get(&waiting[0]).unwrap();
    bench
        .apply(Command::EdgesRun {
            scopes: vec![(0, first_due)],
        })
        .unwrap();
    assert_eq!(
        order(&bench),
        waiting[1..],
        "the edge has not the second one yet"
    );
    assert_eq!(ended(&bench, waiting[0]).0, OperationState::Succeeded);
    bench.now += crate::procedures::ROUTE_PATIENCE_MS - 1_001;
    bench.apply(Command::Tick).unwrap();
    assert_eq!(order(&bench), waiting[1..]);
    bench.now += 1;
    bench.apply(Command::Tick).unwrap();
    assert!(order(&bench).is_empty(), "{alfa} waits for nothing");
    assert_eq!(ended(&bench, waiting[1]).0, OperationState::Succeeded);
}

/// Otherwise it would be forgotten at the next command, before anybody who waits for it has asked, and with it its
/// idempotency key.
#[test]
fn an_operation_that_took_long_is_remembered_when_it_has_ended() {
    let (mut bench, _, alfa) = settled();
    let id = start(&mut bench, resize(&alfa, "standard"));
    let some = bench.state.fleet.operations[&id].clone();
    for n in 0..crate::desired::MAX_OPERATIONS {
        let mut other = (*some).clone();
        other.id = Uuid::from_u128((1 << 100) + n as u128);
        other.state = OperationState::Succeeded;
        other.ended_at = Some(bench.now);
        other.request_id = None;
        bench.state.fleet.put_operation(std::sync::Arc::new(other));
    }
    bench.now += 1_000;
    bench.settle();
    bench.settle();
    assert_eq!(ended(&bench, id).0, OperationState::Succeeded);
    bench.create("beta", "small").unwrap();
    let fleet = &bench.state.fleet;
    assert!(
        fleet.operations.contains_key(&id),
        "how it ended cannot be found out any more"
    );
    let oldest = Uuid::from_u128(1 << 100);
    assert!(
        !fleet.operations.contains_key(&oldest),
        "who ended first is forgotten first"
    );
    assert_eq!(
        fleet.ended.len() + fleet.running.len(),
        fleet.operations.len()
    );
}
