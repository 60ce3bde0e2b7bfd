//! Operations: one at a time for a tenant, cancelling, what gives way, waiting for edges, deadlines, and moves.
//!
//! Not here: what survives crashes between any two steps (the workspace's simulation).

use isyone_types::{
    plan::{DesiredState, HostPlan, TenantSecrets},
    report::{JobReport, JobState},
};
use uuid::Uuid;

use super::*;
use crate::desired::CopyRole;

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
        request_id: None,
    }
}

pub(super) fn start(bench: &mut Bench, command: Command) -> Uuid {
    operation_of(bench.apply(command).unwrap()).id
}

fn ended(bench: &Bench, id: Uuid) -> (OperationState, String) {
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

fn plan_of(bench: &Bench, host: &HostName) -> HostPlan {
    let open = |_: &Tenant| Ok::<_, std::convert::Infallible>(TenantSecrets::default());
    views::host_plan(&bench.state, &bench.settings, host, open)
        .unwrap()
        .unwrap()
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
    assert!(bench.state.routes_due.contains_key(&id));
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

/// A move under way from h1, where alfa lives, to h2.
pub(super) fn moving() -> (Bench, Uuid, HostName, HostName, TenantName) {
    let (mut bench, h1, alfa) = settled();
    let h2 = bench.host("h2", resources(8, 32, 100));
    let order = Command::MoveTenant {
        name: alfa.clone(),
        to: h2.clone(),
        request_id: None,
    };
    let id = start(&mut bench, order);
    (bench, id, h1, h2, alfa)
}

pub(super) fn job(bench: &mut Bench, host: &HostName, id: Uuid, state: JobState) {
    let report = isyone_types::report::HostReport {
        resources: resources(8, 32, 100),
        docker_error: String::new(),
        tenants: Vec::new(),
        complete: false,
        jobs: vec![JobReport {
            id,
            state,
            bytes_done: 5 << 20,
            bytes_total: 10 << 20,
            message: match state {
                JobState::Running => String::new(),
                _ => "no route".to_owned(),
            },
        }],
    };
    let report = Box::new(report);
    bench
        .apply(Command::Report {
            host: host.clone(),
            report,
        })
        .unwrap();
}

fn desired_on(bench: &Bench, host: &HostName) -> Option<(DesiredState, u64)> {
    let plan = plan_of(bench, host);
    plan.tenants.first().map(|t| (t.desired, t.epoch))
}

#[test]
fn a_move_stops_copies_takes_over_and_keeps_the_old_copy_fenced() {
    let (mut bench, id, h1, h2, alfa) = moving();
    assert_eq!(desired_on(&bench, &h1), Some((DesiredState::Running, 1)));
    assert_eq!(desired_on(&bench, &h2), Some((DesiredState::Standby, 2)));
    bench.settle();
    assert_eq!(word(&bench, id), "stop");
    assert_eq!(desired_on(&bench, &h1), Some((DesiredState::Suspended, 1)));
    assert!(plan_of(&bench, &h2).jobs.is_empty());
    bench.settle();
    assert_eq!(word(&bench, id), "copy");
    assert_eq!(plan_of(&bench, &h2).jobs[0].id, id);
    assert_eq!(plan_of(&bench, &h1).grants[0].peer, h2);
    job(&mut bench, &h2, id, JobState::Running);
    let waiting = crate::procedures::waiting(
        &bench.state,
        &bench.settings,
        &bench.state.fleet.operations[&id],
        bench.now,
    );
    assert_eq!(
        waiting.unwrap().to_string(),
        "host h2, which copies: 5 of 10 MiB"
    );
    job(&mut bench, &h2, id, JobState::Done);
    // The new host may not start before the old one has recorded that it never will again.
    assert_eq!(word(&bench, id), "fence");
    assert_eq!(desired_on(&bench, &h1), Some((DesiredState::Fenced, 2)));
    assert_eq!(desired_on(&bench, &h2), Some((DesiredState::Suspended, 2)));
    assert!(plan_of(&bench, &h2).jobs.is_empty() && plan_of(&bench, &h1).grants.is_empty());
    let refused = bench.apply(Command::CancelOperation { id }).unwrap_err();
    assert!(
        refused.to_string().contains("point of no return"),
        "{refused}"
    );
    let delete = Command::DeleteTenant {
        name: alfa.clone(),
        purge: false,
        request_id: None,
        cancel_running: true,
    };
    assert!(matches!(
        bench.apply(delete),
        Err(ChangeError::Busy { stage: "fence", .. })
    ));
    let let_go = bench.converged_on(&alfa, &h1);
    bench.report(&h1, resources(8, 32, 100), vec![let_go]);
    assert_eq!(word(&bench, id), "start");
    assert_eq!(desired_on(&bench, &h2), Some((DesiredState::Running, 2)));
    bench.settle();
    assert_eq!(
        ended(&bench, id),
        (OperationState::Succeeded, String::new())
    );
    let steps: Vec<_> = bench.state.fleet.operations[&id]
        .log
        .iter()
        .map(|s| s.name.clone())
        .collect();
    assert_eq!(
        steps,
        [
            "place", "prepare", "stop", "copy", "fence", "start", "route"
        ]
    );
    let route = views::routes(&bench.state, &bench.settings).next().unwrap();
    assert_eq!(route.address, bench.state.fleet.hosts[&h2].advertise);
    // The old copy holds its place until its time is over, and goes then.
    let until = bench.state.fleet.tenants[&alfa].fenced_until().unwrap();
    bench.apply(Command::Tick).unwrap();
    while bench.now < until + bench.settings.quarantine_hold_ms + 60_000 {
        bench.now += 55_000_i64.max((until - bench.now) / 2).min(3_600_000);
        bench.apply(Command::Tick).unwrap();
        for _ in 0..70 {
            bench.now += 55_000;
            bench.apply(Command::Tick).unwrap();
        }
    }
    assert_eq!(desired_on(&bench, &h1), Some((DesiredState::Purged, 2)));
    bench.settle();
    assert_eq!(desired_on(&bench, &h1), None);
    assert!(bench.state.fleet.tenants[&alfa].copies.is_empty());
}

#[test]
fn a_move_that_cannot_copy_goes_back_by_itself_and_a_cancelled_one_on_order() {
    for (state, why) in [
        (OperationState::Failed, "copying failed: no route"),
        (OperationState::Cancelled, "cancelled by ana"),
    ] {
        let (mut bench, id, h1, h2, alfa) = moving();
        bench.settle();
        bench.settle();
        if state == OperationState::Failed {
            job(&mut bench, &h2, id, JobState::Failed);
        } else {
            start(&mut bench, Command::CancelOperation { id });
        }
        assert_eq!(desired_on(&bench, &h1), Some((DesiredState::Running, 1)));
        assert_eq!(desired_on(&bench, &h2), Some((DesiredState::Purged, 2)));
        bench.settle();
        assert_eq!(ended(&bench, id), (state, why.to_owned()));
        assert_eq!(desired_on(&bench, &h2), None);
        let tenant = &bench.state.fleet.tenants[&alfa];
        assert!(tenant.copies.is_empty() && !tenant.halted && tenant.placement.host == h1);
    }
}

#[test]
fn a_deleted_tenant_takes_all_its_copies_along() {
    let (mut bench, id, h1, h2, alfa) = moving();
    bench.settle();
    let delete = |purge, cancel_running| Command::DeleteTenant {
        name: name("alfa"),
        purge,
        request_id: None,
        cancel_running,
    };
    assert!(matches!(
        bench.apply(delete(false, false)),
        Err(ChangeError::Busy { .. })
    ));
    start(&mut bench, delete(false, true));
    assert_eq!(ended(&bench, id).0, OperationState::Cancelled);
    assert_eq!(
        desired_on(&bench, &h1),
        Some((DesiredState::Quarantined, 1))
    );
    assert_eq!(desired_on(&bench, &h2), Some((DesiredState::Purged, 2)));
    bench.settle();
    start(&mut bench, delete(true, false));
    bench.settle();
    assert!(bench.state.fleet.tenants.is_empty() && bench.state.fleet.by_host.is_empty());
    assert!(!bench.state.fleet.tenants.contains_key(&alfa));
}

#[test]
fn a_move_to_where_it_is_or_was_lately_is_refused() {
    let (mut bench, id, h1, h2, alfa) = moving();
    let order = |to: &HostName| Command::MoveTenant {
        name: name("alfa"),
        to: to.clone(),
        request_id: None,
    };
    assert!(matches!(
        bench.apply(order(&h1)),
        Err(ChangeError::Busy { .. })
    ));
    bench.settle();
    bench.settle();
    job(&mut bench, &h2, id, JobState::Done);
    bench.settle();
    let roles: Vec<_> = bench.state.fleet.tenants[&alfa]
        .copies
        .iter()
        .map(|c| &c.role)
        .collect();
    assert!(matches!(roles[..], [CopyRole::Fenced { .. }]));
    for (host, text) in [
        (&h2, "is on host h2 already"),
        (&h1, "still has an older copy on host h1"),
    ] {
        let refused = bench.apply(order(host)).unwrap_err().to_string();
        assert!(refused.contains(text), "{refused}");
    }
    let refused = bench.apply(Command::RemoveHost { host: h1 }).unwrap_err();
    let refused = refused.to_string();
    assert!(
        refused.contains("still keeps old copies of 1 tenant moved away (first: alfa)"),
        "{refused}"
    );
}

#[test]
fn a_fence_does_not_wait_for_a_host_that_was_removed() {
    let (mut bench, id, h1, h2, _) = moving();
    bench.settle();
    bench.settle();
    job(&mut bench, &h2, id, JobState::Done);
    assert_eq!(word(&bench, id), "fence");
    bench.now += bench.settings.liveness.lost_ms + 1;
    bench.apply(Command::RemoveHost { host: h1 }).unwrap();
    bench.settle();
    bench.settle();
    assert_eq!(ended(&bench, id).0, OperationState::Succeeded);
}

/// What an older state calls an incoming copy may be where the tenant has lived since.
#[test]
fn a_coordinator_rebuilt_in_the_midst_of_a_move_keeps_both_copies() {
    let (mut bench, id, h1, h2, alfa) = moving();
    bench.settle();
    bench.settle();
    assert_eq!(word(&bench, id), "copy");
    bench.apply(Command::RaiseIncarnation).unwrap();
    for host in [&h1, &h2] {
        bench.greet(host);
    }
    assert_eq!(desired_on(&bench, &h1), Some((DesiredState::Running, 1)));
    assert_eq!(desired_on(&bench, &h2), Some((DesiredState::Fenced, 2)));
    bench.settle();
    let (state, why) = ended(&bench, id);
    assert_eq!(state, OperationState::Failed);
    assert!(why.contains("rebuilt from an older state"), "{why}");
    let tenant = &bench.state.fleet.tenants[&alfa];
    assert!(!tenant.halted && tenant.copies.len() == 1);
}
