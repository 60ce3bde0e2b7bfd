//! Sequences that once went wrong, found by reading and by the simulation; each keeps its name here.
//!
//! Not here: what operations do as a rule (operations).

use isyone_types::report::JobState;

use super::{
    moves::{job, moving},
    operations::*,
    *,
};
use crate::desired::CopyRole;

fn delete(purge: bool, cancel_running: bool) -> Command {
    Command::DeleteTenant {
        name: name("alfa"),
        purge,
        request_id: None,
        cancel_running,
    }
}

/// Nothing is heard of a host for long; the other one reports.
fn lost(bench: &mut Bench, host: &HostName) {
    bench.pass(bench.settings.liveness.lost_ms + 1);
    let others = bench.state.fleet.hosts.keys().filter(|h| *h != host);
    for other in others.cloned().collect::<Vec<_>>() {
        bench.report(&other, resources(8, 32, 100), Vec::new());
    }
}

fn undelete() -> Command {
    Command::UndeleteTenant {
        name: name("alfa"),
        request_id: None,
    }
}

#[test]
fn cancelling_an_undelete_after_the_quarantine_s_end_removes_nothing() {
    let (mut bench, _, alfa) = settled();
    start(&mut bench, delete(false, false));
    bench.settle();
    let until = bench.state.fleet.tenants[&alfa].quarantine_until.unwrap();
    bench.now = until - 60_000;
    bench.settle();
    let id = start(&mut bench, undelete());
    bench.now = until + 60_000;
    start(&mut bench, Command::CancelOperation { id });
    let quarantine = bench.settings.quarantine_ms;
    let tenant = &bench.state.fleet.tenants[&alfa];
    assert_eq!(tenant.quarantine_until, Some(bench.now + quarantine));
}

#[test]
fn a_delete_on_a_silent_host_can_be_taken_back() {
    let (mut bench, host, alfa) = settled();
    bench.pass(bench.settings.liveness.lost_ms + 1_000);
    bench.apply(Command::Tick).unwrap();
    let id = start(&mut bench, delete(false, false));
    start(&mut bench, Command::CancelOperation { id });
    assert_eq!(bench.state.fleet.tenants[&alfa].desired, Lifecycle::Running);
    // Also when nothing is known of it since a start.
    bench.state.observed.hosts.remove(&host);
    bench.settings.placement.memory_reserve_bytes = 0;
    let id = start(&mut bench, delete(false, true));
    start(&mut bench, Command::CancelOperation { id });
    assert_eq!(bench.state.fleet.tenants[&alfa].desired, Lifecycle::Running);
}

#[test]
fn the_copy_that_a_tenant_has_left_stays_until_it_was_well_in_its_new_place() {
    let (mut bench, id, h1, h2, alfa) = moving();
    bench.settle();
    bench.settle();
    job(&mut bench, &h2, id, JobState::Done);
    let fenced = |bench: &Bench| bench.state.fleet.tenants[&alfa].copies[0].role.clone();
    assert_eq!(fenced(&bench), CopyRole::Fenced { until: None });
    bench.now += 3 * bench.settings.quarantine_ms;
    for _ in 0..3 {
        bench.now += 50_000;
        bench.apply(Command::Tick).unwrap();
    }
    assert_eq!(fenced(&bench), CopyRole::Fenced { until: None });
    bench.settle();
    let until = Some(bench.now + bench.settings.quarantine_ms);
    assert_eq!(fenced(&bench), CopyRole::Fenced { until });
    // A lost host can be removed, and with it what is left there.
    lost(&mut bench, &h1);
    bench.apply(Command::RemoveHost { host: h1 }).unwrap();
    assert!(bench.state.fleet.tenants[&alfa].copies.is_empty());
    assert!(matches!(
        bench.apply(Command::RemoveHost { host: h2 }),
        Err(ChangeError::HostNotEmpty { count: 1, .. })
    ));
}

#[test]
fn a_purged_tenant_is_forgotten_when_the_host_of_its_last_copy_is_removed() {
    let (mut bench, id, h1, h2, _) = moving();
    bench.settle();
    bench.settle();
    job(&mut bench, &h2, id, JobState::Done);
    bench.settle();
    start(&mut bench, delete(false, false));
    bench.settle();
    start(&mut bench, delete(true, false));
    let gone = bench.converged(&name("alfa"));
    bench.report(&h2, resources(8, 32, 100), vec![gone]);
    assert_eq!(bench.state.fleet.tenants.len(), 1, "h1 has not answered");
    lost(&mut bench, &h1);
    bench.apply(Command::RemoveHost { host: h1 }).unwrap();
    assert!(bench.state.fleet.tenants.is_empty());
}

#[test]
fn a_host_whose_agent_serves_no_others_gets_no_move_and_no_tenant_stops_for_it() {
    let (mut bench, _, alfa) = settled();
    let h2 = bench.host("h2", resources(8, 32, 100));
    let mut seen = (*bench.state.observed.hosts[&h2]).clone();
    seen.hello.peer_port = None;
    bench
        .state
        .observed
        .hosts
        .insert(h2.clone(), std::sync::Arc::new(seen));
    let order = Command::MoveTenant {
        name: alfa.clone(),
        to: h2.into(),
        max_pause_ms: None,
        request_id: None,
    };
    let refused = bench.apply(order).unwrap_err().to_string();
    assert!(
        refused.contains("host h2 serves no other agents"),
        "{refused}"
    );
    assert!(bench.state.fleet.tenants[&alfa].copies.is_empty());
}

#[test]
fn who_asks_for_what_is_so_is_not_answered_with_what_went_back() {
    let (mut bench, _, alfa) = settled();
    let id = start(&mut bench, resize(&alfa, "standard"));
    start(&mut bench, Command::CancelOperation { id });
    bench.settle();
    let Outcome::Tenant { operation, .. } = bench.create("alfa", "small").unwrap() else {
        panic!()
    };
    assert_eq!(operation, None);
    let again = start(&mut bench, resize(&alfa, "small"));
    assert_ne!(again, id);
    bench.settle();
    // Nor with what is under way for something else.
    start(&mut bench, suspend(&alfa, false));
    bench.settle();
    let update = start(&mut bench, resize(&alfa, "standard"));
    assert!(matches!(
        bench.apply(suspend(&alfa, false)),
        Err(ChangeError::Busy { .. })
    ));
    assert_ne!(start(&mut bench, suspend(&alfa, true)), update);
}

#[test]
fn a_halted_tenant_is_not_shown_as_running_and_not_probed() {
    let (mut bench, _, h1, _, alfa) = moving();
    bench.settle();
    bench.settle();
    let tenant = bench.state.fleet.tenants[&alfa].clone();
    assert!(tenant.halted && tenant.placement.host == h1);
    let (phase, _) = views::phase(&bench.state, &bench.settings, &tenant, bench.now);
    assert_eq!(phase, views::Phase::Updating);
    assert!(!views::monitored(&tenant));
}

#[test]
fn a_job_of_a_host_that_is_ahead_takes_nothing_over() {
    let (mut bench, id, _, h2, alfa) = moving();
    bench.settle();
    bench.settle();
    let mut seen = (*bench.state.observed.hosts[&h2]).clone();
    seen.accepted_generation = isyone_types::generation::Generation::new(0, 1_000);
    bench
        .state
        .observed
        .hosts
        .insert(h2.clone(), std::sync::Arc::new(seen));
    job(&mut bench, &h2, id, JobState::Done);
    bench.apply(Command::Tick).unwrap();
    assert_eq!(word(&bench, id), "copy");
    assert!(bench.state.fleet.tenants[&alfa].halted);
}

#[test]
fn cancelling_another_spec_brings_its_domains_back_that_nobody_has_taken() {
    let (mut bench, _, alfa) = settled();
    let force = |bench: &mut Bench, domains: &[&str]| {
        let mut creation = bench.creation("alfa", "small");
        creation.spec.domains = domains.iter().map(|d| name(d)).collect();
        creation.force = true;
        bench
            .apply(Command::CreateTenant(Box::new(creation)))
            .unwrap();
    };
    force(&mut bench, &["a.example", "b.example"]);
    bench.settle();
    force(&mut bench, &["c.example"]);
    let mut other = bench.creation("beta", "small");
    other.spec.domains = vec![name("b.example")];
    bench.apply(Command::CreateTenant(Box::new(other))).unwrap();
    let id = bench.state.fleet.tenants[&alfa].operation;
    start(&mut bench, Command::CancelOperation { id });
    let domains = &bench.state.fleet.tenants[&alfa].spec.domains;
    assert_eq!(domains[..], [name("c.example"), name("a.example")]);
}

#[test]
fn nobody_is_named_as_the_platform_itself() {
    let mut bench = Bench::default();
    for reserved in ["coordinator", "visitor", "init"] {
        let create = Command::CreateOperator {
            name: name(reserved),
            role: OperatorRole::Operator,
            certificate: Certificate {
                serial: "01".to_owned(),
                not_after: 1,
                sha256: String::new(),
                follows: None,
            },
            again: true,
            asked_with: None,
        };
        let refused = bench.apply(create).unwrap_err().to_string();
        assert!(refused.contains("choose another"), "{refused}");
    }
}

#[test]
fn what_was_late_before_a_start_is_no_news() {
    let (mut bench, _, alfa) = settled();
    let id = start(&mut bench, restart_order(&alfa));
    bench.now = bench.state.fleet.operations[&id].deadline + 1;
    bench.state = super::restart(&bench);
    bench.apply(Command::Tick).unwrap();
    let told = bench.state.fleet.events.iter();
    assert_eq!(
        told.filter(|e| e.kind.as_str() == "operation.overdue")
            .count(),
        0
    );
}
