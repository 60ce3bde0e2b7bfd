//! Leases: on what terms a tenant runs that may be taken over, and when its standby does that by itself.
//!
//! Not here: fail-over on somebody's word (standby), stopping what is over (the agents).

use isyone_types::{lease::Lease, plan::DesiredState};

use super::{
    moves::{desired_on, plan_of},
    operations::{ended, start, word},
    standby::{add, arm, h2_reports_with, refused, standby, standing},
    *,
};
use crate::{desired::Maintenance, observed::Hello, settings::StandbyRules};

const AFTER: u32 = 60_000;

fn rule(bench: &mut Bench, takes_over_after_ms: Option<u32>) {
    let rules = StandbyRules {
        apart: None,
        takes_over_after_ms,
    };
    bench.settings.standbys.insert(name("small"), rules);
}

/// alfa runs on h1 under a lease that h1 has said it heeds, and h2 has a whole copy.
fn leased() -> (Bench, HostName, HostName, TenantName) {
    let (mut bench, h1, h2, alfa) = standing();
    bench.settle();
    rule(&mut bench, Some(AFTER));
    h2_reports_with(&mut bench, &h2, &alfa, None);
    bench.apply(Command::Tick).unwrap();
    assert!(standby(&bench).is_some_and(|s| s.takes_over_after_ms == Some(AFTER) && !s.leased));
    arm(&mut bench, &h1, &alfa);
    assert!(standby(&bench).unwrap().leased);
    (bench, h1, h2, alfa)
}

/// Time passes in which h2 alone is heard, which has let the tenant go on at the beginning of it.
fn alone(bench: &mut Bench, h2: &HostName, alfa: &TenantName, ms: i64, granted_ms: Option<u64>) {
    bench.pass(ms);
    h2_reports_with(bench, h2, alfa, granted_ms);
    bench.apply(Command::Tick).unwrap();
}

fn lives_on(bench: &Bench, alfa: &TenantName) -> HostName {
    bench.state.fleet.tenants[alfa].placement.host.clone()
}

fn lease_on(bench: &Bench, host: &HostName) -> Option<Lease> {
    plan_of(bench, host).tenants[0].lease.clone()
}

#[test]
fn both_hosts_are_told_the_terms_and_nothing_depends_on_them_before_they_are_heeded() {
    let (mut bench, h1, h2, alfa) = standing();
    bench.settle();
    assert_eq!((lease_on(&bench, &h1), lease_on(&bench, &h2)), (None, None));
    rule(&mut bench, Some(AFTER));
    // What is not whole cannot take over, and nobody needs a lease for it.
    bench.apply(Command::Tick).unwrap();
    assert_eq!(lease_on(&bench, &h1), None);
    h2_reports_with(&mut bench, &h2, &alfa, None);
    bench.apply(Command::Tick).unwrap();
    let needed = Lease::Needed {
        for_ms: 52_500,
        renewer: h2.clone(),
        address: Some("192.0.0.2:7483".parse().unwrap()),
    };
    assert_eq!(lease_on(&bench, &h1), Some(needed.clone()));
    assert_eq!(
        lease_on(&bench, &h2),
        Some(Lease::Granted { to: h1.clone() })
    );
    // h1 is lost before it has said that it has these terms: it may run on for ever.
    alone(&mut bench, &h2, &alfa, 130_000, Some(130_000));
    assert_eq!(lives_on(&bench, &alfa), h1);
    arm(&mut bench, &h1, &alfa);
    assert!(standby(&bench).unwrap().leased);
    assert_eq!(lease_on(&bench, &h1), Some(needed));

    // Other terms are agreed anew.
    rule(&mut bench, Some(20_000));
    h2_reports_with(&mut bench, &h2, &alfa, Some(0));
    arm(&mut bench, &h1, &alfa);
    assert!(!standby(&bench).unwrap().leased);
    arm(&mut bench, &h1, &alfa);
    assert!(standby(&bench).unwrap().leased);
    rule(&mut bench, None);
    bench.apply(Command::Tick).unwrap();
    assert_eq!((lease_on(&bench, &h1), lease_on(&bench, &h2)), (None, None));
    assert!(!standby(&bench).unwrap().leased);
}

#[test]
fn a_standby_takes_over_when_nobody_has_let_its_tenant_go_on() {
    let (mut bench, h1, h2, alfa) = leased();
    alone(&mut bench, &h2, &alfa, 59_000, Some(70_000));
    assert_eq!(lives_on(&bench, &alfa), h1, "too early");
    bench.pass(1_000);
    assert_eq!(desired_on(&bench, &h2), Some((DesiredState::Running, 3)));
    assert_eq!(lease_on(&bench, &h2), Some(Lease::Over { after_ms: AFTER }));
    assert_eq!(desired_on(&bench, &h1), Some((DesiredState::Fenced, 3)));
    let id = bench.state.fleet.tenants[&alfa].operation;
    assert_eq!(word(&bench, id), "start");
    let operation = &bench.state.fleet.operations[&id];
    let said = &operation.log[0].detail;
    assert!(said.contains("nobody has let it go on"), "{said}");
    let runs = bench.converged_on(&alfa, &h2);
    bench.report(&h2, resources(8, 32, 100), vec![runs]);
    bench.edges_run();
    assert_eq!(ended(&bench, id).0, OperationState::Succeeded);
    assert_eq!(lives_on(&bench, &alfa), h2);
}

#[test]
fn whoever_its_standbys_host_lets_go_on_stays_where_it_is() {
    let (mut bench, h1, h2, alfa) = leased();
    for _ in 0..10 {
        // Cut off from the coordinator only.
        alone(&mut bench, &h2, &alfa, 60_000, Some(2_000));
        assert_eq!(lives_on(&bench, &alfa), h1);
    }
    // What it said then is older by now.
    alone(&mut bench, &h2, &alfa, 10_000, Some(12_000));
    bench.pass(40_000);
    assert_eq!(lives_on(&bench, &alfa), h1);
    // It says nothing of it: an agent that was put back to a version before, say.
    alone(&mut bench, &h2, &alfa, 60_000, None);
    assert_eq!(lives_on(&bench, &alfa), h1);
    alone(&mut bench, &h2, &alfa, 1_000, Some(60_000));
    assert_eq!(lives_on(&bench, &alfa), h2);
}

#[test]
fn a_clock_that_is_set_and_a_start_of_the_coordinator_end_no_lease() {
    let (mut bench, h1, h2, alfa) = leased();
    // So little that it is no jump.
    bench.now += 59_000;
    bench.set_by += 59_000;
    alone(&mut bench, &h2, &alfa, 3_000, Some(100_000));
    assert_eq!(lives_on(&bench, &alfa), h1);
    // Nothing was heard since this start: all may have been let go on a moment before.
    let fleet = bench.state.fleet.clone();
    bench.state = crate::state::State::new(fleet, bench.now);
    bench.apply(Command::AdoptSettings).unwrap();
    bench.greet(&h2);
    alone(&mut bench, &h2, &alfa, 59_000, Some(200_000));
    assert_eq!(lives_on(&bench, &alfa), h1);
    bench.pass(2_000);
    assert_eq!(lives_on(&bench, &alfa), h2);
}

#[test]
fn work_that_was_announced_and_a_silent_standby_keep_a_tenant_where_it_is() {
    let (mut bench, h1, h2, alfa) = leased();
    let mut record = (*bench.state.fleet.hosts[&h1]).clone();
    record.maintenance = Some(Maintenance {
        until: bench.now + 3_600_000,
        reason: String::new(),
        leaves_tenants: true,
        opens: true,
    });
    bench.state.fleet.hosts.insert(h1.clone(), record.into());
    alone(&mut bench, &h2, &alfa, 120_000, Some(120_000));
    assert_eq!(lives_on(&bench, &alfa), h1);
    let order = |is_down| Command::FailOver {
        name: alfa.clone(),
        is_down,
        from_backup: false,
        request_id: None,
    };
    bench.pass(100_000);
    let silent = refused(&mut bench, order(true));
    assert!(silent.contains("silent, too"), "{silent}");
    h2_reports_with(&mut bench, &h2, &alfa, Some(220_000));
    // Who only asks is told what is known, and nothing is changed.
    let said = refused(&mut bench, order(false));
    assert!(
        said.contains("runs it no more: nobody has let it go on"),
        "{said}"
    );
    start(&mut bench, order(true));
    assert_eq!(lease_on(&bench, &h2), None, "somebody vouches for it");
}

#[test]
fn an_agent_that_heeds_no_lease_is_given_none() {
    let (mut bench, h1, h2, alfa) = leased();
    let hello = Hello {
        peer_port: Some(7483),
        follows: true,
        stands: true,
        ..Hello::default()
    };
    bench
        .apply(Command::Greet {
            host: h1.clone(),
            hello,
            accepted_generation: bench.state.fleet.hosts[&h1].plan_generation,
        })
        .unwrap();
    bench.apply(Command::Tick).unwrap();
    assert_eq!(lease_on(&bench, &h1), None);
    alone(&mut bench, &h2, &alfa, 200_000, Some(200_000));
    assert_eq!(lives_on(&bench, &alfa), h1);
}

#[test]
fn what_was_refused_has_ended_nothing() {
    let (mut bench, h1, h2, alfa) = leased();
    let stuck = start(&mut bench, super::operations::restart_order(&alfa));
    bench.pass(1_000);
    h2_reports_with(&mut bench, &h2, &alfa, Some(1_000));
    let writes = bench.effects.writes.len();
    let stamp = crate::change::Stamp {
        now: bench.now,
        steady: bench.now,
        id: bench.id(),
        actor: "ana".to_owned(),
    };
    let order = Command::FailOver {
        name: alfa.clone(),
        is_down: true,
        from_backup: false,
        request_id: None,
    };
    let settings = bench.settings.clone();
    let done = crate::change::apply(
        &mut bench.state,
        &settings,
        &stamp,
        &mut bench.effects,
        order,
    );
    assert!(done.unwrap_err().to_string().contains("is not lost"));
    assert_eq!(bench.effects.writes.len(), writes);
    assert!(!bench.state.fleet.operations[&stuck].is_over());
    assert_eq!(lives_on(&bench, &alfa), h1);
}

#[test]
fn a_plan_gives_its_tenants_a_standby_each() {
    let (mut bench, _, alfa) = super::operations::settled();
    rule(&mut bench, None);
    bench.pass(5_000);
    assert!(standby(&bench).is_none(), "there is no other host");
    let h2 = bench.host("h2", resources(8, 32, 100));
    bench.pass(5_000);
    let tenant = &bench.state.fleet.tenants[&alfa];
    assert_eq!(
        tenant.standby().map(|(place, _)| place.host.clone()),
        Some(h2)
    );
    let writes = bench.effects.writes.len();
    bench.pass(300_000);
    let added = |write: &&crate::written::Write| format!("{write:?}").contains("standby_added");
    let later = &bench.effects.writes[writes..];
    assert_eq!(later.iter().filter(added).count(), 0, "given once");
    assert!(refused(&mut bench, add(Some(&name("h1")))).contains("has its standby on host h2"));
}

#[test]
fn standbys_that_are_given_at_once_have_jobs_of_their_own() {
    let (mut bench, _, _) = super::operations::settled();
    bench.create("beta", "small").unwrap();
    bench.settle();
    bench.host("h2", resources(8, 32, 100));
    rule(&mut bench, None);
    bench.apply(Command::Tick).unwrap();
    let all = bench.state.fleet.tenants.values();
    let jobs: Vec<_> = all
        .filter_map(|t| t.standby().map(|(_, s)| s.job))
        .collect();
    assert!(jobs.len() == 2 && jobs[0] != jobs[1], "{jobs:?}");
}
