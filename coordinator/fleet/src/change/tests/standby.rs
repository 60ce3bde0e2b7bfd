//! Standbys: where one is, what hosts are told of it, when it is made anew, and going over to it.
//!
//! Not here: keeping it up (the agents' jobs).

use isyone_types::{
    plan::{DesiredState, JobWork, Seed},
    report::{Behind, HostReport, JobReport, JobState},
};
use uuid::Uuid;

use super::{
    moves::{desired_on, job, job_with, plan_of},
    operations::{ended, settled, start, word},
    *,
};
use crate::desired::{CopyRole, Standby};

pub(super) fn add(on: Option<&HostName>) -> Command {
    Command::AddStandby {
        name: name("alfa"),
        on: on.cloned(),
        apart: None,
    }
}

pub(super) fn remove() -> Command {
    Command::RemoveStandby { name: name("alfa") }
}

/// alfa runs on h1, and h2 keeps a copy of it up.
pub(super) fn standing() -> (Bench, HostName, HostName, TenantName) {
    let (mut bench, h1, alfa) = settled();
    let h2 = bench.host("h2", resources(8, 32, 100));
    bench.apply(add(None)).unwrap();
    arm(&mut bench, &h1, &alfa);
    (bench, h1, h2, alfa)
}

/// The tenant's own host has done what its plan says.
pub(super) fn arm(bench: &mut Bench, h1: &HostName, alfa: &TenantName) {
    let there = bench.converged_on(alfa, h1);
    bench.report(h1, resources(8, 32, 100), vec![there]);
    bench.apply(Command::Tick).unwrap();
}

pub(super) fn standby(bench: &Bench) -> Option<Standby> {
    let tenant = &bench.state.fleet.tenants[&name::<TenantName>("alfa")];
    tenant.standby().map(|(_, standby)| standby.clone())
}

pub(super) fn refused(bench: &mut Bench, command: Command) -> String {
    bench.apply(command).unwrap_err().to_string()
}

#[test]
fn another_host_keeps_a_copy_up_and_the_tenants_own_lets_it() {
    let (mut bench, h1, h2, alfa) = standing();
    assert_eq!(desired_on(&bench, &h1), Some((DesiredState::Running, 1)));
    assert_eq!(desired_on(&bench, &h2), Some((DesiredState::Standby, 2)));
    let there = plan_of(&bench, &h2);
    assert!(there.tenants[0].follows && there.tenants[0].seed == Seed::Peer(h1.clone()));
    let JobWork::Follow {
        from,
        address,
        last,
        standing,
    } = &there.jobs[0].work
    else {
        panic!("{:?}", there.jobs)
    };
    assert_eq!((from, *last, *standing), (&h1, false, true));
    assert!(address.is_some());
    let grant = plan_of(&bench, &h1).grants.remove(0);
    assert!(grant.live && grant.peer == h2 && grant.expires_at == i64::MAX);
    assert_eq!(grant.operation, there.jobs[0].id);
    let asked = views::Fetching {
        operation: grant.operation,
        tenant: alfa.clone(),
        from: h1.clone(),
        to: h2.clone(),
    };
    assert!(views::is_fetching(&bench.state, &asked, bench.now));
    let wrong = views::Fetching {
        operation: Uuid::nil(),
        ..asked
    };
    assert!(!views::is_fetching(&bench.state, &wrong, bench.now));
    // It takes its room there, and is asked for once.
    let index = &bench.state.fleet.by_host[&h2];
    let size = bench.state.fleet.tenants[&alfa].size;
    assert_eq!(index.memory_bytes, size.memory_bytes);
    let before = standby(&bench);
    bench.apply(add(Some(&h2))).unwrap();
    assert_eq!(standby(&bench), before);
    assert!(refused(&mut bench, add(Some(&h1))).contains("has its standby on host h2"));
    // What is asked of the tenant goes on meanwhile.
    let id = start(&mut bench, super::operations::restart_order(&alfa));
    bench.settle();
    assert_eq!(ended(&bench, id).0, OperationState::Succeeded);

    bench.apply(remove()).unwrap();
    assert_eq!(desired_on(&bench, &h2), Some((DesiredState::Purged, 2)));
    assert!(plan_of(&bench, &h2).jobs.is_empty() && plan_of(&bench, &h1).grants.is_empty());
    bench.settle();
    assert!(bench.state.fleet.tenants[&alfa].copies.is_empty());
    bench.apply(remove()).unwrap();
}

#[test]
fn nothing_follows_a_tenant_that_its_host_would_start_unasked() {
    let (mut bench, h1, alfa) = settled();
    let h2 = bench.host("h2", resources(8, 32, 100));
    assert!(!plan_of(&bench, &h1).tenants[0].asks_first);
    bench.apply(add(None)).unwrap();
    bench.apply(Command::Tick).unwrap();
    assert!(plan_of(&bench, &h1).tenants[0].asks_first);
    assert!(!plan_of(&bench, &h2).tenants[0].asks_first);
    assert!(
        plan_of(&bench, &h1).grants.is_empty(),
        "it has not said so yet"
    );
    arm(&mut bench, &h1, &alfa);
    assert_eq!(plan_of(&bench, &h1).grants.len(), 1);
    // Also while it goes over to its standby, which it may have again.
    bench.settle();
    let order = Command::MoveTenant {
        name: alfa.clone(),
        to: h2.into(),
        max_pause_ms: Some(5_000),
        request_id: None,
    };
    start(&mut bench, order);
    assert!(plan_of(&bench, &h1).tenants[0].asks_first);
    bench.apply(remove()).unwrap();
}

#[test]
fn one_that_has_left_a_host_that_is_lost_goes_on_without_its_last_word() {
    let (mut bench, h1, h2, alfa) = standing();
    bench.settle();
    let order = Command::MoveTenant {
        name: alfa.clone(),
        to: h2.clone().into(),
        max_pause_ms: Some(5_000),
        request_id: None,
    };
    let id = start(&mut bench, order);
    bench.settle();
    job_with(&mut bench, &h2, id, JobState::Running, Some(900));
    let stopped = bench.converged_on(&alfa, &h1);
    bench.report(&h1, resources(8, 32, 100), vec![stopped]);
    job(&mut bench, &h2, id, JobState::Done);
    assert_eq!(word(&bench, id), "fence");
    let fail_over = |is_down| Command::FailOver {
        name: alfa.clone(),
        is_down,
        from_backup: false,
        request_id: None,
    };
    assert!(refused(&mut bench, fail_over(true)).contains("is not lost"));
    bench.pass(73_000);
    bench.report(&h2, resources(8, 32, 100), vec![]);
    assert!(refused(&mut bench, fail_over(false)).contains("nothing would be lost"));
    assert_eq!(start(&mut bench, fail_over(true)), id);
    assert_eq!(word(&bench, id), "start");
    assert_eq!(desired_on(&bench, &h2).unwrap().0, DesiredState::Running);
    assert_eq!(desired_on(&bench, &h1).unwrap().0, DesiredState::Fenced);
}

#[test]
fn what_is_kept_aside_goes_on_order_once_its_tenant_is_well() {
    let (mut bench, h1, h2, alfa) = standing();
    bench.settle();
    let discard = |host: &HostName| Command::DiscardCopy {
        name: alfa.clone(),
        host: host.clone(),
    };
    assert!(refused(&mut bench, discard(&h2)).contains("no copy on host h2"));
    bench.pass(73_000);
    h2_reports(&mut bench, &h2, &alfa);
    let fail_over = Command::FailOver {
        name: alfa.clone(),
        is_down: true,
        from_backup: false,
        request_id: None,
    };
    start(&mut bench, fail_over);
    assert!(refused(&mut bench, discard(&h1)).contains("to fall back on"));
    let runs = bench.converged_on(&alfa, &h2);
    bench.report(&h2, resources(8, 32, 100), vec![runs]);
    bench.edges_run();
    bench.settle();
    bench.apply(discard(&h1)).unwrap();
    assert_eq!(desired_on(&bench, &h1).unwrap().0, DesiredState::Purged);
}

#[test]
fn it_is_where_the_label_says_something_else() {
    let (mut bench, h1, alfa) = settled();
    for (host, memory) in [("h2", 64), ("h3", 32)] {
        bench.host(host, resources(8, memory, 100));
    }
    let label = |bench: &mut Bench, host: &str, rack: &str| {
        let host = name::<HostName>(host);
        let mut record = (*bench.state.fleet.hosts[&host]).clone();
        record.labels.insert(name("rack"), name(rack));
        bench.state.fleet.hosts.insert(host, record.into());
    };
    label(&mut bench, "h1", "a");
    label(&mut bench, "h2", "a");
    let apart = || Command::AddStandby {
        name: alfa.clone(),
        on: None,
        apart: Some(name("rack")),
    };
    let none = bench.apply(apart()).unwrap_err();
    let said = none.to_string();
    assert!(said.contains("h2: its label `rack` does not say"), "{said}");
    assert!(said.contains("h3: its label `rack` does not say"), "{said}");
    label(&mut bench, "h3", "b");
    bench.apply(apart()).unwrap();
    let place = bench.state.fleet.tenants[&alfa].copies[0].place.clone();
    assert_eq!(place.host.as_str(), "h3");
    assert_ne!(place.host, h1);
}

#[test]
fn what_cannot_go_on_is_let_go_and_made_anew() {
    let (mut bench, h1, h2, alfa) = standing();
    bench.settle();
    let first = standby(&bench).unwrap();
    job_with(&mut bench, &h2, first.job, JobState::Failed, None);
    bench.apply(Command::Tick).unwrap();
    assert_eq!(standby(&bench), Some(first.clone()), "not at once again");
    bench.now += 10 * 60_000;
    bench.settle();
    job_with(&mut bench, &h2, first.job, JobState::Failed, None);
    bench.apply(Command::Tick).unwrap();
    assert!(standby(&bench).unwrap().anew);
    let lost = bench.state.fleet.events.last().unwrap();
    assert_eq!(lost.kind, EventKind::TenantStandbyLost);
    assert_eq!(desired_on(&bench, &h2), Some((DesiredState::Fenced, 2)));
    assert!(plan_of(&bench, &h1).grants.is_empty(), "its slot goes");
    bench.apply(Command::Tick).unwrap();
    assert!(standby(&bench).unwrap().anew, "it has not let go yet");
    let gone = bench.converged_on(&alfa, &h2);
    bench.report(&h2, resources(8, 32, 100), vec![gone]);
    bench.apply(Command::Tick).unwrap();
    // Another look: it is its turn.
    bench.apply(Command::Tick).unwrap();
    let second = standby(&bench).unwrap();
    assert!(!second.anew && second.job != first.job);
    assert_eq!(desired_on(&bench, &h2), Some((DesiredState::Standby, 3)));
    assert_eq!(plan_of(&bench, &h2).jobs[0].id, second.job);
}

#[test]
fn a_move_to_it_goes_over_to_what_is_there_and_back_leaves_it_standing() {
    let (mut bench, h1, h2, alfa) = standing();
    let h3 = bench.host("h3", resources(8, 32, 100));
    bench.settle();
    let first = standby(&bench).unwrap();
    let order = |to: &HostName, max_pause_ms| Command::MoveTenant {
        name: alfa.clone(),
        to: to.clone().into(),
        max_pause_ms,
        request_id: None,
    };
    for wrong in [order(&h3, Some(5_000)), order(&h2, None)] {
        let why = refused(&mut bench, wrong);
        assert!(why.contains("has a standby on host h2"), "{why}");
    }
    for round in 0..2 {
        let id = start(&mut bench, order(&h2, Some(5_000)));
        assert!(standby(&bench).is_none());
        bench.settle();
        assert_eq!(word(&bench, id), "follow");
        assert_eq!(plan_of(&bench, &h2).jobs[0].id, id);
        if round == 0 {
            start(&mut bench, Command::CancelOperation { id });
            bench.settle();
            assert_eq!(ended(&bench, id).0, OperationState::Cancelled);
            let again = standby(&bench).unwrap();
            assert!(again.job != first.job && !again.anew);
            assert_eq!(desired_on(&bench, &h2).unwrap().0, DesiredState::Standby);
            continue;
        }
        job_with(&mut bench, &h2, id, JobState::Running, Some(900));
        let stopped = bench.converged_on(&alfa, &h1);
        bench.report(&h1, resources(8, 32, 100), vec![stopped]);
        job(&mut bench, &h2, id, JobState::Done);
        assert_eq!(word(&bench, id), "fence");
        bench.settle();
    }
    let tenant = &bench.state.fleet.tenants[&alfa];
    assert_eq!(tenant.placement.host, h2);
    assert!(standby(&bench).is_none());
}

#[test]
fn it_ends_with_its_tenant_and_an_older_state_does_not_call_it_one() {
    let (mut bench, _, h2, alfa) = standing();
    bench.settle();
    bench.apply(Command::RaiseIncarnation).unwrap();
    // It may have taken over since.
    let copy = bench.state.fleet.tenants[&alfa].copies[0].clone();
    assert_eq!(copy.role, CopyRole::Fenced { until: None });
    let (mut bench, ..) = {
        let scene = standing();
        (scene.0, scene.1)
    };
    bench.settle();
    let delete = Command::DeleteTenant {
        name: alfa,
        purge: false,
        request_id: None,
        cancel_running: false,
    };
    start(&mut bench, delete);
    assert_eq!(desired_on(&bench, &h2).unwrap().0, DesiredState::Purged);
}

#[test]
fn where_there_can_be_none_that_is_said() {
    let mut bench = Bench::default();
    bench.host("h1", resources(8, 32, 100));
    let h2 = bench.host("h2", resources(8, 32, 100));
    bench.create("alfa", "small").unwrap();
    assert!(refused(&mut bench, add(None)).contains("has never run"));
    bench.settle();
    let hello = crate::observed::Hello {
        peer_port: Some(7483),
        ..Default::default()
    };
    let accepted_generation = bench.state.fleet.hosts[&h2].plan_generation;
    for host in ["h1", "h2"].map(name::<HostName>) {
        let greet = Command::Greet {
            host,
            hello: hello.clone(),
            accepted_generation,
        };
        bench.apply(greet).unwrap();
    }
    let said = refused(&mut bench, add(None));
    assert!(said.contains("h2: its agent holds no standbys"), "{said}");
}

/// What h2 says of its standby: its PostgreSQL runs, and how far it was behind when it last looked.
pub(super) fn h2_reports(bench: &mut Bench, h2: &HostName, alfa: &TenantName) {
    h2_reports_with(bench, h2, alfa, None);
}

/// Likewise, and so long ago it has let the tenant go on.
pub(super) fn h2_reports_with(
    bench: &mut Bench,
    h2: &HostName,
    alfa: &TenantName,
    granted_ms: Option<u64>,
) {
    let mut there = bench.converged_on(alfa, h2);
    there.containers[0].which =
        isyone_types::report::Which::Its(isyone_types::plan::Role::Postgres);
    let job = JobReport {
        id: standby(bench).unwrap().job,
        state: JobState::Retrying,
        bytes_done: 0,
        bytes_total: 0,
        message: "it is not reached".to_owned(),
        backup: None,
        fault: None,
        proof: None,
        pause_ms: None,
        filled: true,
        granted_ms,
        behind: Some(Behind {
            bytes: 4_096,
            ms: 1_250,
            files_ms: 42_000,
            unlogged: 0,
        }),
    };
    let report = HostReport {
        resources: resources(8, 32, 100),
        docker_error: String::new(),
        tenants: vec![there],
        complete: true,
        jobs: vec![job],
        condition: Default::default(),
    };
    let command = Command::Report {
        host: h2.clone(),
        report: Box::new(report),
    };
    bench.apply(command).unwrap();
}

#[test]
fn a_lost_hosts_tenant_goes_on_from_its_standby_on_somebodys_word() {
    let (mut bench, h1, h2, alfa) = standing();
    bench.settle();
    let fail_over = |is_down| Command::FailOver {
        name: alfa.clone(),
        is_down,
        from_backup: false,
        request_id: None,
    };
    h2_reports(&mut bench, &h2, &alfa);
    let early = refused(&mut bench, fail_over(true));
    assert!(early.contains("is not lost"), "{early}");
    bench.pass(73_000);
    h2_reports(&mut bench, &h2, &alfa);
    bench.apply(Command::Tick).unwrap();
    let said = refused(&mut bench, fail_over(false));
    assert!(said.contains("switch that machine off"), "{said}");
    assert!(
        said.contains(
            "has all of the log of 1.2 s ago (4096 bytes more were known to be written), and files of 42 s ago"
        ),
        "{said}"
    );
    // Whatever was asked of the lost host gives way.
    let stuck = start(&mut bench, super::operations::restart_order(&alfa));
    h2_reports(&mut bench, &h2, &alfa);
    let id = start(&mut bench, fail_over(true));
    assert_eq!(ended(&bench, stuck).0, OperationState::Cancelled);
    assert_eq!(word(&bench, id), "start");
    assert_eq!(desired_on(&bench, &h2), Some((DesiredState::Running, 3)));
    assert!(plan_of(&bench, &h2).tenants[0].as_it_is && plan_of(&bench, &h2).jobs.is_empty());
    // Whenever it comes back.
    assert_eq!(desired_on(&bench, &h1), Some((DesiredState::Fenced, 3)));
    let runs = bench.converged_on(&alfa, &h2);
    bench.report(&h2, resources(8, 32, 100), vec![runs]);
    bench.edges_run();
    assert_eq!(ended(&bench, id).0, OperationState::Succeeded);
    let tenant = &bench.state.fleet.tenants[&alfa];
    assert_eq!(tenant.placement.host, h2);
    assert!(matches!(tenant.copies[0].role, CopyRole::Fenced { .. }));
}

#[test]
fn what_is_no_database_yet_takes_over_from_nobody() {
    let (mut bench, _, h2, alfa) = standing();
    bench.settle();
    bench.pass(73_000);
    let there = bench.converged_on(&alfa, &h2);
    bench.report(&h2, resources(8, 32, 100), vec![there]);
    bench.apply(Command::Tick).unwrap();
    let order = || Command::FailOver {
        name: alfa.clone(),
        is_down: true,
        from_backup: false,
        request_id: None,
    };
    let said = refused(&mut bench, order());
    assert!(said.contains("is not filled yet"), "{said}");
    bench.pass(73_000);
    assert!(refused(&mut bench, order()).contains("silent, too"));
    bench.apply(remove()).unwrap();
    assert!(refused(&mut bench, order()).contains("has no standby"));
}
