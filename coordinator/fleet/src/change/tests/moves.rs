//! Moves: there, back, where they are refused, and what becomes of the copies.
//!
//! Not here: what survives crashes between any two steps (the workspace's simulation).

use isyone_types::{
    backup::RepositoryKey,
    plan::{DesiredState, HostPlan, TenantSecrets},
    report::{JobReport, JobState},
};
use uuid::Uuid;

use crate::desired::backups::BackupKey;

use super::{
    operations::{ended, settled, start, word},
    *,
};

pub(super) fn plan_of(bench: &Bench, host: &HostName) -> HostPlan {
    let open = |_: &Tenant| Ok::<_, std::convert::Infallible>(TenantSecrets::default());
    let open_key = |_: &BackupKey| Ok(RepositoryKey::from(&[7; 64]));
    views::host_plan(&bench.state, &bench.settings, host, open, open_key)
        .unwrap()
        .unwrap()
}

/// A week later the old copy is removed.
#[test]
fn what_a_copy_left_behind_is_told_when_the_move_is_over() {
    let (mut bench, id, _, h2, _) = moving();
    bench.settle();
    bench.settle();
    job(&mut bench, &h2, id, JobState::Done); // its message is "no route"
    let log = &bench.state.fleet.operations[&id].log;
    let copy = log.iter().find(|step| step.name == "copy").unwrap();
    assert_eq!(copy.detail, "5 MiB; no route");
    let moved = bench.state.fleet.events.last().unwrap();
    assert_eq!(moved.kind, EventKind::TenantMoved);
    assert!(
        moved
            .message
            .ends_with("has what did not come along: no route"),
        "{}",
        moved.message
    );
}

/// A move under way from h1, where alfa lives, to h2.
pub(super) fn moving() -> (Bench, Uuid, HostName, HostName, TenantName) {
    let (mut bench, h1, alfa) = settled();
    let h2 = bench.host("h2", resources(8, 32, 100));
    let order = Command::MoveTenant {
        name: alfa.clone(),
        to: h2.clone().into(),
        max_pause_ms: None,
        request_id: None,
    };
    let id = start(&mut bench, order);
    (bench, id, h1, h2, alfa)
}

pub(super) fn job(bench: &mut Bench, host: &HostName, id: Uuid, state: JobState) {
    job_with(bench, host, id, state, None);
}

pub(super) fn job_with(
    bench: &mut Bench,
    host: &HostName,
    id: Uuid,
    state: JobState,
    pause_ms: Option<u32>,
) {
    let report = isyone_types::report::HostReport {
        resources: resources(8, 32, 100),
        docker_error: String::new(),
        tenants: Vec::new(),
        complete: false,
        jobs: vec![JobReport {
            bytes_done: 5 << 20,
            bytes_total: 10 << 20,
            message: match state {
                JobState::Running => String::new(),
                _ => "no route".to_owned(),
            },
            pause_ms,
            ..JobReport::new(id, state)
        }],
        condition: Default::default(),
    };
    let report = Box::new(report);
    bench
        .apply(Command::Report {
            host: host.clone(),
            report,
        })
        .unwrap();
}

pub(super) fn desired_on(bench: &Bench, host: &HostName) -> Option<(DesiredState, u64)> {
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
}

#[test]
fn an_old_copy_holds_its_place_until_its_time_is_over_and_goes_then() {
    let (mut bench, h1, _, alfa) = moved();
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

pub(super) fn order(to: &HostName) -> Command {
    Command::MoveTenant {
        name: name("alfa"),
        to: to.clone().into(),
        max_pause_ms: None,
        request_id: None,
    }
}

/// alfa has moved from h1 to h2, and is well there.
pub(super) fn moved() -> (Bench, HostName, HostName, TenantName) {
    let (mut bench, id, h1, h2, alfa) = moving();
    bench.settle();
    bench.settle();
    job(&mut bench, &h2, id, JobState::Done);
    bench.settle();
    bench.settle();
    assert_eq!(ended(&bench, id).0, OperationState::Succeeded);
    (bench, h1, h2, alfa)
}

#[test]
fn a_move_is_refused_to_where_it_is_and_to_a_copy_that_may_be_needed() {
    let (mut bench, id, h1, h2, alfa) = moving();
    assert!(matches!(
        bench.apply(order(&h1)),
        Err(ChangeError::Busy { .. })
    ));
    bench.settle();
    bench.settle();
    job(&mut bench, &h2, id, JobState::Done);
    bench.settle();
    let refused = bench.apply(order(&h2)).unwrap_err().to_string();
    assert!(refused.contains("is on host h2 already"), "{refused}");
    bench.settle();
    // Ill where it lives: the older copy may be the one that is needed.
    let mut ill = bench.converged_on(&alfa, &h2);
    ill.progress = TenantProgress::Unhealthy;
    bench.report(&h2, resources(8, 32, 100), vec![ill]);
    let refused = bench.apply(order(&h1)).unwrap_err().to_string();
    let text =
        "still has an older copy on host h1, which is kept until the tenant is well on host h2";
    assert!(refused.contains(text), "{refused}");
    let refused = bench.apply(Command::RemoveHost { host: h1 }).unwrap_err();
    let refused = refused.to_string();
    assert!(
        refused.contains("still keeps old copies of 1 tenant moved away (first: alfa)"),
        "{refused}"
    );
}

/// Otherwise a host that has removed such a copy would refuse the next one for ever.
#[test]
fn an_epoch_is_never_given_twice() {
    let (mut bench, _, _, h2, alfa) = moving();
    for epoch in 3..6 {
        let id = bench.state.fleet.tenants[&alfa].operation;
        start(&mut bench, Command::CancelOperation { id });
        bench.settle();
        assert_eq!(desired_on(&bench, &h2), None);
        start(&mut bench, order(&h2));
        let given = desired_on(&bench, &h2);
        assert_eq!(given, Some((DesiredState::Standby, epoch)));
    }
}

/// Otherwise `tenant show` would go on saying that it may only be where it no longer is.
#[test]
fn a_tenant_that_was_pinned_to_its_host_is_pinned_to_where_it_was_moved() {
    let mut bench = Bench::default();
    let h1 = bench.host("h1", resources(8, 32, 100));
    let h2 = bench.host("h2", resources(8, 32, 100));
    let mut creation = bench.creation("alfa", "small");
    creation.spec.host = Some(h1.clone());
    bench
        .apply(Command::CreateTenant(Box::new(creation)))
        .unwrap();
    bench.settle();
    let id = start(&mut bench, order(&h2));
    bench.settle();
    bench.settle();
    let pinned = |bench: &Bench| {
        bench.state.fleet.tenants[&name::<TenantName>("alfa")]
            .spec
            .host
            .clone()
    };
    assert_eq!(pinned(&bench), Some(h1), "it may still go back");
    job(&mut bench, &h2, id, JobState::Done);
    assert_eq!(pinned(&bench), Some(h2));
}

#[test]
fn a_fence_does_not_wait_for_a_host_that_was_removed() {
    let (mut bench, id, h1, h2, _) = moving();
    bench.settle();
    bench.settle();
    job(&mut bench, &h2, id, JobState::Done);
    assert_eq!(word(&bench, id), "fence");
    bench.pass(bench.settings.liveness.lost_ms + 1);
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
    let (state, why) = ended(&bench, id);
    assert_eq!(state, OperationState::Failed);
    assert!(why.contains("rebuilt from an older state"), "{why}");
    let tenant = bench.state.fleet.tenants[&alfa].clone();
    assert!(!tenant.halted && tenant.copies.len() == 1);
    // That it is well deleted says nothing of how well it runs.
    let delete = Command::DeleteTenant {
        name: alfa.clone(),
        purge: false,
        request_id: None,
        cancel_running: false,
    };
    start(&mut bench, delete);
    bench.settle();
    assert_eq!(bench.state.fleet.tenants[&alfa].fenced_until(), None);
    let undelete = Command::UndeleteTenant {
        name: alfa.clone(),
        request_id: None,
    };
    start(&mut bench, undelete);
    bench.settle();
    assert!(bench.state.fleet.tenants[&alfa].fenced_until().is_some());
    // What happened since has taken epochs that this state does not know of.
    let h3 = bench.host("h3", resources(8, 32, 100));
    start(&mut bench, order(&h3));
    let (_, epoch) = desired_on(&bench, &h3).unwrap();
    assert!(epoch > 1 << 20, "{epoch}");
}

/// After the fence the tenant lives on its new host, whatever becomes of the operation.
#[test]
fn a_move_past_its_fence_that_gives_way_has_succeeded() {
    let (mut bench, id, h1, h2, alfa) = moving();
    bench.settle();
    bench.settle();
    job(&mut bench, &h2, id, JobState::Done);
    let busy = bench
        .apply(super::operations::suspend(&alfa, true))
        .unwrap_err()
        .to_string();
    assert!(busy.ends_with("it cannot be cancelled any more"), "{busy}");
    let let_go = bench.converged_on(&alfa, &h1);
    bench.report(&h1, resources(8, 32, 100), vec![let_go]);
    assert_eq!(word(&bench, id), "start");
    let suspend = start(&mut bench, super::operations::suspend(&alfa, true));
    assert_eq!(bench.state.fleet.tenants[&alfa].placement.host, h2);
    assert_eq!(
        ended(&bench, id),
        (OperationState::Succeeded, String::new())
    );
    let last = bench.state.fleet.operations[&id]
        .log
        .last()
        .unwrap()
        .detail
        .clone();
    assert!(
        last.starts_with("the tenant lives on h2; operation "),
        "{last}"
    );
    bench.settle();
    bench.settle();
    assert_eq!(ended(&bench, suspend).0, OperationState::Succeeded);
}
