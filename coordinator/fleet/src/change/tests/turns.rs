//! Many moves at a time: a tenant is stopped when it is its turn to be copied, and not before.
//!
//! Not here: single moves (moves), and the agents' own turns (their jobs).

use isyone_types::report::JobState;

use super::{
    moves::{job, moving, plan_of},
    operations::*,
    *,
};
use crate::operation::{MoveStage, OperationKind, Procedure};

const TENANTS: [&str; 6] = ["alfa", "beta", "gama", "delta", "echo", "fox"];

fn order(tenant: &str, to: &HostName) -> Command {
    Command::MoveTenant {
        name: name(tenant),
        to: to.clone().into(),
        max_pause_ms: None,
        request_id: None,
    }
}

/// Six tenants on h1, and two hosts beside it.
fn crowd() -> (Bench, [HostName; 3]) {
    let mut bench = Bench::default();
    let h1 = bench.host("h1", resources(16, 64, 500));
    for tenant in TENANTS {
        bench.create(tenant, "small").unwrap();
    }
    bench.settle();
    let h2 = bench.host("h2", resources(16, 64, 500));
    let h3 = bench.host("h3", resources(16, 64, 500));
    (bench, [h1, h2, h3])
}

fn waits_for(bench: &Bench, id: Uuid) -> String {
    let operation = &bench.state.fleet.operations[&id];
    let waiting = crate::procedures::waiting(&bench.state, &bench.settings, operation, bench.now);
    waiting.map(|w| w.to_string()).unwrap_or_default()
}

fn at(bench: &Bench, ids: &[Uuid], stages: &[&str]) -> Vec<Uuid> {
    let some = ids.iter().copied();
    some.filter(|id| !bench.state.fleet.operations[id].is_over())
        .filter(|id| stages.contains(&word(bench, *id)))
        .collect()
}

/// A host carries out two jobs at a time. Tenants that are moved to it together would all be down for as long as all copies
/// take.
#[test]
fn no_more_tenants_are_stopped_than_their_new_host_copies_at_a_time() {
    let (mut bench, [_, h2, _]) = crowd();
    let ids: Vec<Uuid> = TENANTS
        .iter()
        .map(|t| start(&mut bench, order(t, &h2)))
        .collect();
    for _ in 0..TENANTS.len() {
        bench.settle();
        bench.settle();
        let stopped = bench.state.fleet.tenants.values().filter(|t| t.halted);
        assert!(stopped.count() <= 2, "all six are down, and two are copied");
        assert!(plan_of(&bench, &h2).jobs.len() <= 2);
        for id in at(&bench, &ids, &["prepare"]) {
            let waits = waits_for(&bench, id);
            assert_eq!(waits, "queued: host h2 copies for others first");
        }
        if let [first, ..] = at(&bench, &ids, &["copy"])[..] {
            job(&mut bench, &h2, first, JobState::Done);
        }
        bench.settle();
        bench.settle();
    }
    bench.settle();
    for id in ids {
        assert_eq!(
            ended(&bench, id),
            (OperationState::Succeeded, String::new())
        );
    }
    assert!(bench.state.fleet.copying.is_empty());
}

#[test]
fn a_host_that_tenants_leave_for_several_others_copies_as_many_at_a_time() {
    let (mut bench, [_, h2, h3]) = crowd();
    let to = [&h2, &h3, &h2, &h3];
    let ids: Vec<Uuid> = (TENANTS.iter().zip(to))
        .map(|(tenant, to)| start(&mut bench, order(tenant, to)))
        .collect();
    bench.settle();
    bench.settle();
    assert_eq!(at(&bench, &ids, &["stop", "copy"]).len(), 2);
    // One that is given up lets the next one have its turn.
    let first = at(&bench, &ids, &["copy"])[0];
    start(&mut bench, Command::CancelOperation { id: first });
    bench.settle();
    bench.settle();
    assert_eq!(at(&bench, &ids, &["stop", "copy"]).len(), 2);
}

/// Otherwise one dead host would hold up moves between all others for a day.
#[test]
fn who_waits_for_a_host_that_is_away_keeps_only_that_hosts_tenants_waiting() {
    let (mut bench, [h1, h2, h3]) = crowd();
    let there = |bench: &mut Bench| {
        for host in [&h2, &h3] {
            bench.report(host, resources(16, 64, 500), Vec::new());
        }
    };
    let omega = Command::CreateTenant(Box::new({
        let mut creation = bench.creation("omega", "small");
        creation.spec.host = Some(h3.clone());
        creation
    }));
    bench.apply(omega).unwrap();
    bench.settle();
    let ids = ["alfa", "beta"].map(|t| start(&mut bench, order(t, &h2)));
    bench.settle();
    bench.settle();
    assert_eq!(at(&bench, &ids, &["copy"]).len(), 2);
    let next = [("gama", &h2), ("omega", &h2)].map(|(t, to)| start(&mut bench, order(t, to)));
    bench.pass(bench.settings.liveness.lost_ms + 1);
    there(&mut bench);
    let made = ["gama", "omega"].map(|t| bench.converged_on(&name(t), &h2));
    bench.report(&h2, resources(16, 64, 500), made.to_vec());
    assert_eq!(
        (word(&bench, next[0]), word(&bench, next[1])),
        ("prepare", "stop")
    );
    assert!(waits_for(&bench, next[0]).starts_with("host h1, silent for"));
    assert_eq!(
        bench.state.fleet.tenants[&name::<TenantName>("gama")]
            .placement
            .host,
        h1
    );
}

/// Both hosts' plans would else take the leave from a copy that has only just begun.
#[test]
fn the_day_for_copying_begins_with_the_copy_and_not_in_the_queue() {
    let (mut bench, id, h1, h2, _) = moving();
    bench.settle();
    bench.settle();
    let leave = |bench: &Bench| match &bench.state.fleet.operations[&id].procedure {
        Procedure::Move(relocation) => (relocation.stage, relocation.leave_until),
        Procedure::Converge(_) | Procedure::Restore(_) => panic!("it is a move"),
    };
    let day = crate::operation::deadline_ms(OperationKind::Move);
    assert_eq!(leave(&bench), (MoveStage::Copy, bench.now + day));
    let since = bench.state.fleet.operations[&id].stage_since;
    bench.now += day - 1_000;
    job(&mut bench, &h2, id, JobState::Waiting);
    assert_eq!(
        waits_for(&bench, id),
        "queued: host h2 copies for others first"
    );
    job(&mut bench, &h2, id, JobState::Running);
    assert_eq!(leave(&bench), (MoveStage::Copy, bench.now + day));
    assert_eq!(plan_of(&bench, &h1).grants[0].expires_at, bench.now + day);
    let operation = &bench.state.fleet.operations[&id];
    let steps: Vec<&str> = operation
        .log
        .iter()
        .map(|step| step.name.as_str())
        .collect();
    assert_eq!(steps, ["place", "prepare", "stop"], "the stage is not over");
    assert_eq!(operation.stage_since, since);
    // Once only.
    bench.now += 3_600_000;
    let until = leave(&bench);
    job(&mut bench, &h2, id, JobState::Running);
    assert_eq!(leave(&bench), until);
    bench.now += day;
    bench.apply(Command::Tick).unwrap();
    assert_eq!(word(&bench, id), "back");
}

#[test]
fn a_copy_that_never_gets_its_turn_is_given_up_after_a_day_and_says_why() {
    let (mut bench, id, _, h2, _) = moving();
    bench.settle();
    bench.settle();
    bench.now += crate::operation::deadline_ms(OperationKind::Move);
    job(&mut bench, &h2, id, JobState::Waiting);
    assert_eq!(word(&bench, id), "back");
    let ending = bench.state.fleet.operations[&id].ending.clone().unwrap();
    assert!(ending.why.contains("its turn on host h2"), "{}", ending.why);
}
