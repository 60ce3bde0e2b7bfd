//! Standbys of a fleet: which hosts hold them, whose turn it is to be filled, which is never promoted, and which is kept whatever comes.
//!
//! Not here: one standby's life (standby).

use isyone_types::{
    jobs::MAX_STANDBYS_PER_HOST,
    plan::DesiredState,
    report::{JobReport, JobState},
};
use uuid::Uuid;

use super::{
    moves::{desired_on, job_with, plan_of},
    operations::{ended, start, word},
    standby::{add, arm, h2_reports, refused, remove, standby, standing},
    *,
};
use crate::{
    desired::{CopyRole, Standby},
    observed::Hello,
    operation::OperationKind,
};

fn fail_over(tenant: &TenantName) -> Command {
    Command::FailOver {
        name: tenant.clone(),
        is_down: true,
        from_backup: false,
        request_id: None,
    }
}

fn move_standby(tenant: &TenantName, from: &HostName) -> Command {
    Command::MoveStandby {
        name: tenant.clone(),
        from: from.clone(),
    }
}

fn over_to(tenant: &TenantName, host: &HostName) -> Command {
    Command::MoveTenant {
        name: tenant.clone(),
        to: host.clone().into(),
        max_pause_ms: Some(5_000),
        request_id: None,
    }
}

fn standby_of(bench: &Bench, tenant: &TenantName) -> (HostName, Standby) {
    let found = bench.state.fleet.tenants[tenant].standby();
    let (place, standby) = found.expect("it has one");
    (place.host.clone(), standby.clone())
}

fn label(bench: &mut Bench, host: &str, rack: &str) {
    let host = name::<HostName>(host);
    let mut record = (*bench.state.fleet.hosts[&host]).clone();
    record.labels.insert(name("rack"), name(rack));
    bench.state.fleet.hosts.insert(host, record.into());
}

fn told(id: Uuid, state: JobState, filled: bool) -> JobReport {
    JobReport {
        message: "why".to_owned(),
        filled,
        ..JobReport::new(id, state)
    }
}

/// A host tells all of its jobs, and nothing new of its tenants.
fn tell(bench: &mut Bench, host: &HostName, jobs: Vec<JobReport>) {
    let report = isyone_types::report::HostReport {
        resources: resources(8, 32, 100),
        docker_error: String::new(),
        tenants: Vec::new(),
        complete: false,
        jobs,
        condition: Default::default(),
    };
    let report = Box::new(report);
    let host = host.clone();
    bench.apply(Command::Report { host, report }).unwrap();
}

/// Several tenants on h1, and h2 beside it.
fn several(count: usize) -> (Bench, HostName, HostName, Vec<TenantName>) {
    let mut bench = Bench::default();
    let h1 = bench.host("h1", resources(500, 500_000, 900_000));
    let names: Vec<TenantName> = (0..count).map(|n| name(&format!("t{n}"))).collect();
    for tenant in &names {
        bench.create(tenant.as_str(), "small").unwrap();
    }
    bench.settle();
    let h2 = bench.host("h2", resources(500, 500_000, 900_000));
    (bench, h1, h2, names)
}

fn stand(bench: &mut Bench, tenants: &[TenantName], on: &HostName) {
    for tenant in tenants {
        let name = tenant.clone();
        let on = Some(on.clone());
        let apart = None;
        let order = Command::AddStandby { name, on, apart };
        bench.apply(order).unwrap();
    }
}

#[test]
fn an_agent_that_holds_no_standbys_is_never_chosen_for_one() {
    let (mut bench, h1, alfa) = super::operations::settled();
    // It has most room, and moves what runs.
    let h2 = bench.host("h2", resources(8, 64, 100));
    let greet = |bench: &mut Bench, host: &HostName, stands| {
        let hello = Hello {
            peer_port: Some(7483),
            follows: true,
            stands,
            ..Default::default()
        };
        let accepted_generation = bench.state.fleet.hosts[host].plan_generation;
        let host = host.clone();
        let greet = Command::Greet {
            host,
            hello,
            accepted_generation,
        };
        bench.apply(greet).unwrap();
    };
    greet(&mut bench, &h2, false);
    let said = refused(&mut bench, add(Some(&h2)));
    assert!(
        said.contains("host h2: its agent holds no standbys"),
        "{said}"
    );
    bench.host("h3", resources(8, 32, 100));
    bench.apply(add(None)).unwrap();
    assert_eq!(standby_of(&bench, &alfa).0.as_str(), "h3");
    bench.apply(remove()).unwrap();
    bench.settle();
    // Nor is a tenant followed whose host would start it unasked.
    greet(&mut bench, &h1, false);
    let said = refused(&mut bench, add(None));
    assert!(
        said.contains("host h1: its agent holds no standbys"),
        "{said}"
    );
}

#[test]
fn a_host_has_so_many_standbys_on_either_side_and_no_more() {
    let (mut bench, h1, h2, names) = several(MAX_STANDBYS_PER_HOST + 1);
    let (last, most) = names.split_last().unwrap();
    stand(&mut bench, most, &h2);
    let order = |on: &HostName| Command::AddStandby {
        name: last.clone(),
        on: Some(on.clone()),
        apart: None,
    };
    let said = refused(&mut bench, order(&h2));
    assert!(said.contains("128 of its tenants have a standby"), "{said}");
    // One of another host's.
    let h3 = bench.host("h3", resources(500, 500_000, 900_000));
    let mut moved = (*bench.state.fleet.tenants[last]).clone();
    moved.placement.host = h3.clone();
    bench.state.fleet.put_tenant(moved.into());
    let said = refused(&mut bench, order(&h2));
    assert!(said.contains("host h2: it has 128 standbys"), "{said}");
    assert_ne!(h1, h3);
}

#[test]
fn what_is_no_whole_copy_takes_over_from_nobody_and_it_is_said_what_is_done_instead() {
    let (mut bench, _, h2, alfa) = standing();
    bench.settle();
    bench.pass(73_000);
    // Its database runs, and its files have not all come.
    h2_reports(&mut bench, &h2, &alfa);
    let job = standby(&bench).unwrap().job;
    tell(&mut bench, &h2, vec![told(job, JobState::Retrying, false)]);
    let said = refused(&mut bench, fail_over(&alfa));
    assert!(said.contains("is not filled yet"), "{said}");
    assert!(said.contains("isyctl tenant restore alfa --as"), "{said}");
    // One that could not go on since it was whole is better than nothing.
    tell(&mut bench, &h2, vec![told(job, JobState::Failed, true)]);
    let id = start(&mut bench, fail_over(&alfa));
    let detail = bench.state.fleet.operations[&id].log[0].detail.clone();
    assert!(
        detail.contains("It is not kept up any more: why"),
        "{detail}"
    );
}

#[test]
fn what_would_be_lost_is_more_the_longer_nobody_has_looked() {
    let (mut bench, _, h2, alfa) = standing();
    bench.settle();
    bench.pass(73_000);
    h2_reports(&mut bench, &h2, &alfa);
    let word = Command::FailOver {
        name: alfa.clone(),
        is_down: false,
        from_backup: false,
        request_id: None,
    };
    let said = refused(&mut bench, word.clone());
    assert!(said.contains("the log of 1.2 s ago"), "{said}");
    bench.now += 9_000;
    let said = refused(&mut bench, word);
    assert!(said.contains("the log of 10.2 s ago"), "{said}");
    assert!(said.contains("files of 51 s ago"), "{said}");
    assert!(said.contains("was last heard 82 s ago"), "{said}");
}

#[test]
fn what_may_be_the_only_good_copy_is_kept() {
    let (mut bench, h1, h2, alfa) = standing();
    bench.settle();
    let first = standby(&bench).unwrap();
    bench.host("h3", resources(8, 64, 100));
    bench.pass(11 * 60_000);
    job_with(&mut bench, &h2, first.job, JobState::Failed, None);
    bench.apply(Command::Tick).unwrap();
    assert_eq!(standby(&bench), Some(first.clone()), "h1 is lost");
    let said = refused(&mut bench, move_standby(&alfa, &h2));
    assert!(said.contains("may be its only good copy"), "{said}");
    let delete = Command::DeleteTenant {
        name: alfa.clone(),
        purge: false,
        request_id: None,
        cancel_running: false,
    };
    start(&mut bench, delete);
    bench.apply(Command::Tick).unwrap();
    assert_eq!(desired_on(&bench, &h2).unwrap().0, DesiredState::Standby);
    // Its host is there again: what is deleted needs no standby.
    let there = bench.converged_on(&alfa, &h1);
    bench.report(&h1, resources(8, 32, 100), vec![there]);
    bench.apply(Command::Tick).unwrap();
    assert_eq!(desired_on(&bench, &h2).unwrap().0, DesiredState::Purged);

    // What was let go before its host was lost is not written over.
    let (mut bench, _, h2, alfa) = standing();
    bench.settle();
    let first = standby(&bench).unwrap();
    bench.pass(11 * 60_000);
    bench.settle();
    job_with(&mut bench, &h2, first.job, JobState::Failed, None);
    bench.apply(Command::Tick).unwrap();
    assert!(standby(&bench).unwrap().anew);
    bench.pass(73_000);
    let gone = bench.converged_on(&alfa, &h2);
    bench.report(&h2, resources(8, 32, 100), vec![gone]);
    bench.apply(Command::Tick).unwrap();
    assert!(standby(&bench).unwrap().anew);
    assert_eq!(desired_on(&bench, &h2).unwrap().0, DesiredState::Fenced);
}

#[test]
fn nothing_is_made_anew_of_a_database_that_is_about_to_be_another_one() {
    let (mut bench, h1, h2, alfa) = standing();
    bench.settle();
    let id = start(&mut bench, super::operations::restart_order(&alfa));
    let mut restores = (*bench.state.fleet.operations[&id]).clone();
    restores.kind = OperationKind::Restore;
    bench.state.fleet.operations.insert(id, restores.into());
    let mut tenant = (*bench.state.fleet.tenants[&alfa]).clone();
    tenant.follow_anew();
    bench.state.fleet.put_tenant(tenant.into());
    let gone = bench.converged_on(&alfa, &h2);
    bench.report(&h2, resources(8, 32, 100), vec![gone.clone()]);
    bench.apply(Command::Tick).unwrap();
    assert!(standby(&bench).unwrap().anew, "it is being restored");
    let there = bench.converged_on(&alfa, &h1);
    bench.report(&h1, resources(8, 32, 100), vec![there]);
    bench.edges_run();
    assert!(bench.state.fleet.operations[&id].is_over());
    bench.report(&h2, resources(8, 32, 100), vec![gone]);
    bench.apply(Command::Tick).unwrap();
    assert!(!standby(&bench).unwrap().anew);
}

#[test]
fn each_time_in_vain_is_longer_after_the_one_before() {
    let (mut bench, _, h2, alfa) = standing();
    bench.settle();
    for (in_vain, minutes) in [(1, 10), (2, 20), (3, 40)] {
        let job = standby(&bench).unwrap().job;
        for (later, fails) in [(minutes * 60_000 - 30_000, false), (31_000, true)] {
            bench.pass(later);
            bench.settle();
            job_with(&mut bench, &h2, job, JobState::Failed, None);
            bench.apply(Command::Tick).unwrap();
            let standby = standby(&bench).unwrap();
            assert_eq!(standby.anew, fails, "{in_vain} after {minutes} min");
        }
        assert_eq!(standby(&bench).unwrap().in_vain, in_vain);
        bench.settle();
        bench.apply(Command::Tick).unwrap();
        bench.apply(Command::Tick).unwrap();
        assert!(standby(&bench).unwrap().is_kept_up());
    }
    // One that was whole is made anew as soon as it was the first time.
    bench.pass(80 * 60_000);
    bench.settle();
    let job = standby(&bench).unwrap().job;
    tell(&mut bench, &h2, vec![told(job, JobState::Failed, true)]);
    bench.apply(Command::Tick).unwrap();
    assert_eq!(standby_of(&bench, &alfa).1.in_vain, 0);
}

#[test]
fn no_job_is_that_of_another_tenants_standby_or_an_operations() {
    let (mut bench, h1, h2, names) = several(2);
    stand(&mut bench, &names, &h2);
    bench.settle();
    bench.apply(Command::Tick).unwrap();
    let moves: Vec<Uuid> = names
        .iter()
        .map(|tenant| start(&mut bench, over_to(tenant, &h2)))
        .collect();
    bench.settle();
    let failed = |id: &Uuid| told(*id, JobState::Failed, true);
    // Both are taken back by one report.
    tell(&mut bench, &h2, moves.iter().map(failed).collect());
    let jobs = |bench: &Bench| -> Vec<Uuid> {
        let of = |tenant| standby_of(bench, tenant).1.job;
        names.iter().map(of).collect()
    };
    let [one, two] = jobs(&bench)[..] else {
        panic!("two")
    };
    assert_ne!(one, two);
    // And a fail-over in the midst of one.
    bench.settle();
    bench.settle();
    let moves = start(&mut bench, over_to(&names[0], &h2));
    bench.settle();
    bench.pass(73_000);
    let mut there = bench.converged_on(&names[0], &h2);
    there.containers[0].which =
        isyone_types::report::Which::Its(isyone_types::plan::Role::Postgres);
    bench.report(&h2, resources(8, 32, 100), vec![there]);
    tell(&mut bench, &h2, vec![told(moves, JobState::Running, true)]);
    let id = start(&mut bench, fail_over(&names[0]));
    assert_eq!(ended(&bench, moves).0, OperationState::Cancelled);
    assert_eq!(word(&bench, id), "start");
    assert_eq!(desired_on(&bench, &h1).unwrap().0, DesiredState::Fenced);
}

#[test]
fn a_copy_on_a_host_that_is_back_keeps_its_time_until_nothing_of_it_runs() {
    let (mut bench, h1, h2, alfa) = standing();
    bench.settle();
    bench.pass(73_000);
    h2_reports(&mut bench, &h2, &alfa);
    start(&mut bench, fail_over(&alfa));
    let well = |bench: &mut Bench| {
        let runs = bench.converged_on(&alfa, &h2);
        bench.report(&h2, resources(8, 32, 100), vec![runs]);
        bench.edges_run();
        bench.state.fleet.tenants[&alfa].copies[0].role.clone()
    };
    assert_eq!(well(&mut bench), CopyRole::Fenced { until: None });
    // It has the plan, and is at it.
    let mut back = bench.converged_on(&alfa, &h1);
    back.progress = TenantProgress::Working;
    bench.report(&h1, resources(8, 32, 100), vec![back]);
    assert_eq!(well(&mut bench), CopyRole::Fenced { until: None });
    // What it says of an epoch of before is no answer.
    let mut before = bench.converged_on(&alfa, &h1);
    before.epoch -= 1;
    bench.report(&h1, resources(8, 32, 100), vec![before]);
    assert_eq!(well(&mut bench), CopyRole::Fenced { until: None });
    let back = bench.converged_on(&alfa, &h1);
    bench.report(&h1, resources(8, 32, 100), vec![back]);
    let CopyRole::Fenced { until } = well(&mut bench) else {
        panic!("it is kept aside")
    };
    assert!(until.is_some());
}

#[test]
fn it_is_placed_again_where_the_label_says_something_else() {
    let (mut bench, _, alfa) = super::operations::settled();
    for (host, memory, rack) in [("h2", 32, "b"), ("h3", 64, "a"), ("h4", 32, "c")] {
        bench.host(host, resources(8, memory, 100));
        label(&mut bench, host, rack);
    }
    label(&mut bench, "h1", "a");
    let apart = |apart: Option<&str>| Command::AddStandby {
        name: alfa.clone(),
        on: None,
        apart: apart.map(name),
    };
    bench.apply(apart(Some("rack"))).unwrap();
    let (first, _) = standby_of(&bench, &alfa);
    assert_eq!(first.as_str(), "h2");
    arm(&mut bench, &name("h1"), &alfa);
    // Also when it goes over there and is taken back.
    let id = start(&mut bench, over_to(&alfa, &first));
    start(&mut bench, Command::CancelOperation { id });
    bench.settle();
    let cordon = Command::CordonHost {
        host: first.clone(),
        cordoned: true,
    };
    bench.apply(cordon).unwrap();
    let before = standby(&bench).unwrap().job;
    bench.apply(move_standby(&alfa, &first)).unwrap();
    let (second, standby) = standby_of(&bench, &alfa);
    assert_eq!(second.as_str(), "h4", "h3 has more room, in the same rack");
    assert!(standby.apart == Some(name("rack")) && standby.waits);
    assert_ne!(standby.job, before);
    assert_eq!(desired_on(&bench, &first).unwrap().0, DesiredState::Purged);
    // It has left that host.
    bench.apply(move_standby(&alfa, &first)).unwrap();
    assert_eq!(standby_of(&bench, &alfa).0, second);
    // Nowhere else: then it stays.
    let said = refused(&mut bench, move_standby(&alfa, &second));
    assert!(said.contains("h3: its label `rack` does not say"), "{said}");
    assert_eq!(standby_of(&bench, &alfa).0, second);
}

#[test]
fn who_is_to_leave_a_host_without_stopping_goes_to_its_standby() {
    let (mut bench, h1, h2, alfa) = standing();
    bench.host("h3", resources(8, 64, 100));
    let away = |max_pause_ms| Command::MoveTenant {
        name: alfa.clone(),
        to: Whither::AwayFrom(h1.clone()),
        max_pause_ms,
        request_id: None,
    };
    let said = refused(&mut bench, away(None));
    assert!(said.contains("has a standby on host h2"), "{said}");
    let id = start(&mut bench, away(Some(5_000)));
    let operation = &bench.state.fleet.operations[&id];
    assert_eq!(operation.procedure.host(), &h2);
}

#[test]
fn few_are_filled_at_a_time_and_the_others_wait() {
    let (mut bench, _, h2, names) = several(4);
    stand(&mut bench, &names, &h2);
    bench.settle();
    let look = |bench: &mut Bench| -> Vec<bool> {
        bench.apply(Command::Tick).unwrap();
        let waits = |tenant| standby_of(bench, tenant).1.waits;
        names.iter().map(waits).collect()
    };
    let waits = look(&mut bench);
    assert_eq!(waits.iter().filter(|waits| **waits).count(), 2);
    assert_eq!(look(&mut bench), waits);
    assert_eq!(plan_of(&bench, &h2).jobs.len(), 2);
    // One is whole, and another failed: their turns are free.
    let mut begun = names.iter().zip(&waits).filter(|(_, waits)| !**waits);
    let mut job = || standby_of(&bench, begun.next().unwrap().0).1.job;
    let jobs = vec![
        told(job(), JobState::Running, true),
        told(job(), JobState::Running, false),
    ];
    tell(&mut bench, &h2, jobs.clone());
    let waits = look(&mut bench);
    assert_eq!(waits.iter().filter(|waits| **waits).count(), 1);
    let failed = told(jobs[1].id, JobState::Failed, false);
    let third = plan_of(&bench, &h2).jobs;
    assert_eq!(third.len(), 3);
    tell(&mut bench, &h2, vec![jobs[0].clone(), failed]);
    let waits = look(&mut bench);
    assert!(waits.iter().all(|waits| !waits), "{waits:?}");
}
