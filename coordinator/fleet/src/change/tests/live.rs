//! Moves of tenants that run meanwhile: when they are stopped, who is held where, and the ways back.
//!
//! Not here: what all moves have in common (moves), and what survives crashes (the workspace's simulation).

use isyone_types::{
    plan::{Callers, DesiredState, JobWork},
    report::{JobState, TenantReport},
};
use uuid::Uuid;

use super::{
    moves::{desired_on, job, job_with, plan_of},
    operations::{ended, settled, start, suspend, word},
    *,
};
use crate::change::Whither;

const ALLOWED_MS: u32 = 5_000;

fn order(to: Whither) -> Command {
    order_of("alfa", to)
}

fn order_of(tenant: &str, to: Whither) -> Command {
    Command::MoveTenant {
        name: name(tenant),
        to,
        max_pause_ms: Some(ALLOWED_MS),
        request_id: None,
    }
}

/// alfa runs on h1, and its copy on h2 is being brought.
fn following() -> (Bench, Uuid, HostName, HostName, TenantName) {
    let (mut bench, h1, alfa) = settled();
    let h2 = bench.host("h2", resources(8, 32, 100));
    let id = start(&mut bench, order(h2.clone().into()));
    bench.settle();
    assert_eq!(word(&bench, id), "follow");
    (bench, id, h1, h2, alfa)
}

fn follows(bench: &Bench, host: &HostName) -> Option<bool> {
    let plan = plan_of(bench, host);
    plan.jobs.first().map(|job| match job.work {
        JobWork::Follow { last, .. } => last,
        _ => panic!("it is not stopped to be fetched"),
    })
}

fn callers(bench: &Bench, host: &HostName) -> Callers {
    plan_of(bench, host).tenants[0].callers.clone()
}

fn waits_for(bench: &Bench, id: Uuid) -> String {
    let operation = &bench.state.fleet.operations[&id];
    let waiting = crate::procedures::waiting(&bench.state, &bench.settings, operation, bench.now);
    waiting.expect("it waits").to_string()
}

fn door(bench: &Bench) -> (std::net::IpAddr, u16) {
    let route = views::routes(&bench.state, &bench.settings).next().unwrap();
    (route.address, route.http_port)
}

#[test]
fn a_tenant_runs_until_its_pause_is_short_and_its_callers_wait_where_it_was() {
    let (mut bench, id, h1, h2, alfa) = following();
    let [at_h1, at_h2] = [&h1, &h2].map(|host| bench.state.fleet.hosts[host].advertise);
    let port = bench.state.fleet.tenants[&alfa].placement.http_port;
    assert_eq!(desired_on(&bench, &h1), Some((DesiredState::Running, 1)));
    assert_eq!(desired_on(&bench, &h2), Some((DesiredState::Standby, 2)));
    assert_eq!(follows(&bench, &h2), Some(false));
    let grants = plan_of(&bench, &h1).grants;
    assert!(grants[0].live && plan_of(&bench, &h2).tenants[0].follows);
    job_with(&mut bench, &h2, id, JobState::Running, Some(900));
    assert_eq!(word(&bench, id), "stop");
    assert_eq!(desired_on(&bench, &h1), Some((DesiredState::Suspended, 1)));
    assert_eq!(callers(&bench, &h1), Callers::Held { most_ms: 35_000 });
    // It is kept up until the end.
    assert_eq!(follows(&bench, &h2), Some(false));
    // A request under way takes so long; others are served meanwhile.
    bench.now += 5_000;
    let stopped = TenantReport {
        held_ms: 300,
        ..bench.converged_on(&alfa, &h1)
    };
    bench.report(&h1, resources(8, 32, 100), vec![stopped]);
    assert_eq!(
        (word(&bench, id), follows(&bench, &h2)),
        ("copy", Some(true))
    );

    job(&mut bench, &h2, id, JobState::Done);
    assert_eq!(word(&bench, id), "fence");
    assert_eq!(desired_on(&bench, &h1), Some((DesiredState::Fenced, 2)));
    assert_eq!(callers(&bench, &h1), Callers::Held { most_ms: 35_000 });
    // Its standby must not stop for the moment until it runs.
    let there = plan_of(&bench, &h2).tenants.remove(0);
    assert_eq!(
        (there.desired, there.follows),
        (DesiredState::Standby, true)
    );
    assert_eq!(
        door(&bench),
        (at_h1, port),
        "edges go where callers are held"
    );
    assert!(plan_of(&bench, &h2).firewall.edges.contains(&at_h1.into()));

    let let_go = bench.converged_on(&alfa, &h1);
    bench.report(&h1, resources(8, 32, 100), vec![let_go]);
    assert_eq!((word(&bench, id), door(&bench)), ("start", (at_h1, port)));
    assert_eq!(desired_on(&bench, &h2), Some((DesiredState::Running, 2)));
    bench.now += 1_700;
    let runs = bench.converged_on(&alfa, &h2);
    bench.report(&h2, resources(8, 32, 100), vec![runs]);
    assert_eq!(word(&bench, id), "route");
    let there = bench.state.fleet.tenants[&alfa].placement.clone();
    let passed_on = Callers::PassedOn {
        address: at_h2,
        http_port: there.http_port,
        websocket_port: None,
    };
    assert_eq!(callers(&bench, &h1), passed_on);
    assert_eq!(door(&bench), (at_h2, there.http_port));
    // The old route serves as well, so an edge may take its time.
    bench.now += 10_000;
    bench.apply(Command::Tick).unwrap();
    assert_eq!(word(&bench, id), "route");
    bench.edges_run();
    assert_eq!(
        ended(&bench, id),
        (OperationState::Succeeded, String::new())
    );
    assert_eq!(callers(&bench, &h1), Callers::Refused);
    assert!(plan_of(&bench, &h2).firewall.edges.is_empty());
    let log = &bench.state.fleet.operations[&id].log;
    let told = |step: &str| log.iter().find(|s| s.name == step).unwrap().detail.clone();
    assert_eq!(told("follow"), "a pause of 0.9 s is expected");
    assert_eq!(told("start"), "paused for 2.0 s at most");
}

#[test]
fn a_tenant_is_not_stopped_while_its_pause_would_be_longer_than_was_allowed() {
    let (mut bench, id, _, h2, _) = following();
    job_with(&mut bench, &h2, id, JobState::Running, Some(7_200));
    assert_eq!(word(&bench, id), "follow");
    let waits = waits_for(&bench, id);
    assert!(
        waits.contains("would take 7.2 s now, and 5.0 s are allowed"),
        "{waits}"
    );
}

/// Who was held comes by connections that the new host lets in for as long as the move lasts.
#[test]
fn a_move_lasts_until_those_who_waited_have_been_served() {
    let (mut bench, id, h1, h2, alfa) = following();
    job_with(&mut bench, &h2, id, JobState::Running, Some(900));
    for _ in 0..2 {
        let there = bench.converged_on(&alfa, &h1);
        bench.report(&h1, resources(8, 32, 100), vec![there]);
        if word(&bench, id) == "copy" {
            job(&mut bench, &h2, id, JobState::Done);
        }
    }
    let runs = bench.converged_on(&alfa, &h2);
    bench.report(&h2, resources(8, 32, 100), vec![runs]);
    bench.edges_run();
    bench.apply(Command::Tick).unwrap();
    assert_eq!(word(&bench, id), "route");
    let waits = waits_for(&bench, id);
    assert_eq!(waits, "the requests that waited: they are served now");
    assert!(!plan_of(&bench, &h2).firewall.edges.is_empty());
    bench.now += 10_000;
    bench.apply(Command::Tick).unwrap();
    assert_eq!(ended(&bench, id).0, OperationState::Succeeded);
    assert!(plan_of(&bench, &h2).firewall.edges.is_empty());
}

#[test]
fn a_pause_that_gets_too_long_ends_where_the_tenant_was() {
    for stage in ["stop", "copy"] {
        let (mut bench, id, h1, h2, alfa) = following();
        job_with(&mut bench, &h2, id, JobState::Running, Some(900));
        if stage == "copy" {
            let stopped = bench.converged_on(&alfa, &h1);
            bench.report(&h1, resources(8, 32, 100), vec![stopped]);
        }
        assert_eq!(word(&bench, id), stage);
        bench.now += match stage {
            "stop" => 15 * 60_000,
            _ => i64::from(ALLOWED_MS) + 3_000,
        };
        bench.apply(Command::Tick).unwrap();
        assert_eq!(word(&bench, id), "back");
        assert_eq!(desired_on(&bench, &h1), Some((DesiredState::Running, 1)));
        assert_eq!(callers(&bench, &h1), Callers::Refused);
        assert_eq!(desired_on(&bench, &h2), Some((DesiredState::Purged, 2)));
        bench.settle();
        let (state, why) = ended(&bench, id);
        assert_eq!(state, OperationState::Failed);
        assert!(why.contains("did not"), "{why}");
        let tenant = &bench.state.fleet.tenants[&alfa];
        assert!(!tenant.halted && tenant.hold_ms.is_none() && tenant.placement.host == h1);
    }
}

#[test]
fn it_is_cancelled_at_any_stage_before_the_fence_and_nobody_is_held_any_more() {
    for steps in 0..3 {
        let (mut bench, id, h1, h2, alfa) = following();
        if steps > 0 {
            job_with(&mut bench, &h2, id, JobState::Running, Some(900));
        }
        if steps > 1 {
            let stopped = bench.converged_on(&alfa, &h1);
            bench.report(&h1, resources(8, 32, 100), vec![stopped]);
        }
        start(&mut bench, Command::CancelOperation { id });
        assert_eq!(callers(&bench, &h1), Callers::Refused);
        assert_eq!(desired_on(&bench, &h1), Some((DesiredState::Running, 1)));
        bench.settle();
        assert_eq!(ended(&bench, id).0, OperationState::Cancelled);
    }
}

/// It may be a day until their pauses are short enough.
#[test]
fn moves_that_wait_for_a_quieter_moment_keep_nobody_waiting() {
    let (mut bench, ..) = settled();
    for tenant in ["beta", "gama"] {
        bench.create(tenant, "small").unwrap();
    }
    bench.settle();
    let [h2, h3, h4] = ["h2", "h3", "h4"].map(|host| bench.host(host, resources(8, 32, 100)));
    let tenants = [("alfa", &h2), ("beta", &h3), ("gama", &h4)];
    let ids = tenants.map(|(tenant, to)| start(&mut bench, order_of(tenant, to.clone().into())));
    bench.settle();
    let words = |bench: &Bench| ids.map(|id| word(bench, id));
    assert_eq!(words(&bench), ["follow", "follow", "prepare"]);
    job_with(
        &mut bench,
        &h2,
        ids[0],
        JobState::Running,
        Some(ALLOWED_MS + 1),
    );
    bench.apply(Command::Tick).unwrap();
    assert_eq!(words(&bench), ["follow", "follow", "follow"]);
    job_with(&mut bench, &h2, ids[0], JobState::Running, Some(ALLOWED_MS));
    assert_eq!(word(&bench, ids[0]), "stop");
}

/// Keeping a copy up may last a day: what only follows is backed up meanwhile; what stops is not.
#[test]
fn a_tenant_is_due_for_backups_while_its_copy_is_kept_up_and_not_while_it_is_stopped() {
    let (mut bench, id, _, h2, alfa) = following();
    let copied = |bench: &Bench| {
        let tenant = &bench.state.fleet.tenants[&alfa];
        views::is_being_copied(&bench.state, tenant)
    };
    assert!(!copied(&bench));
    job_with(&mut bench, &h2, id, JobState::Running, Some(900));
    assert_eq!(word(&bench, id), "stop");
    assert!(copied(&bench));
}

/// Whoever cancels a move at its end, or moves the tenant on, leaves nobody held.
#[test]
fn what_gives_way_lets_its_callers_go() {
    let (mut bench, id, h1, h2, alfa) = following();
    job_with(&mut bench, &h2, id, JobState::Running, Some(900));
    for _ in 0..2 {
        let there = bench.converged_on(&alfa, &h1);
        bench.report(&h1, resources(8, 32, 100), vec![there]);
        if word(&bench, id) == "copy" {
            job(&mut bench, &h2, id, JobState::Done);
        }
    }
    assert_eq!(word(&bench, id), "start");
    start(&mut bench, suspend(&alfa, true));
    assert_eq!(ended(&bench, id).0, OperationState::Succeeded);
    assert_eq!(callers(&bench, &h1), Callers::Refused);
    assert_eq!(desired_on(&bench, &h2), Some((DesiredState::Suspended, 2)));
}

/// A silent host would leave the tenant stopped; and nothing is stopped by an estimate of before a failure.
#[test]
fn nothing_is_stopped_for_a_host_that_is_not_heard_or_an_estimate_that_is_old() {
    let (mut bench, id, h1, h2, _) = following();
    job_with(&mut bench, &h2, id, JobState::Retrying, Some(900));
    assert_eq!(word(&bench, id), "follow");
    bench.now += bench.settings.liveness.suspect_ms + 1;
    job_with(&mut bench, &h2, id, JobState::Running, Some(900));
    assert_eq!(word(&bench, id), "follow");
    assert!(waits_for(&bench, id).contains("host h1, silent"));
    bench.report(&h1, resources(8, 32, 100), vec![]);
    bench.apply(Command::Tick).unwrap();
    assert_eq!(word(&bench, id), "stop");
}

#[test]
fn where_it_cannot_run_meanwhile_that_is_said_and_one_that_is_suspended_is_moved_as_it_is() {
    let (mut bench, h1, alfa) = settled();
    let h2 = bench.host("h2", resources(8, 32, 100));
    bench
        .apply(Command::Greet {
            host: h2.clone(),
            hello: crate::observed::Hello {
                peer_port: Some(7483),
                ..Default::default()
            },
            accepted_generation: bench.state.fleet.hosts[&h2].plan_generation,
        })
        .unwrap();
    let refused = bench
        .apply(order(h2.clone().into()))
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("Without `--max-pause` it is moved all the same"),
        "{refused}"
    );
    start(&mut bench, suspend(&alfa, false));
    bench.settle();
    let id = start(&mut bench, order(h2.into()));
    bench.settle();
    assert_eq!(word(&bench, id), "stop");
    assert_eq!(callers(&bench, &h1), Callers::Refused);
}

#[test]
fn away_from_a_host_leads_to_where_there_is_most_room_and_over_no_older_copy() {
    let (mut bench, h1, alfa) = settled();
    let busy = isyone_types::report::HostResources {
        memory_available_bytes: 10 << 30,
        ..resources(8, 32, 100)
    };
    bench.host("h2", busy);
    let h3 = bench.host("h3", resources(8, 32, 100));
    let wrong = order(Whither::AwayFrom(h3.clone()));
    let refused = bench.apply(wrong).unwrap_err().to_string();
    assert!(
        refused.contains("is on host h1, so it need not move"),
        "{refused}"
    );
    start(&mut bench, order(Whither::AwayFrom(h1.clone())));
    let copies = &bench.state.fleet.tenants[&alfa].copies;
    assert_eq!(copies[0].place.host, h3);
    let mut alone = Bench::default();
    let h1 = alone.host("h1", resources(8, 32, 100));
    alone.create("alfa", "small").unwrap();
    alone.settle();
    let none = alone.apply(order(Whither::AwayFrom(h1))).unwrap_err();
    assert!(matches!(none, ChangeError::NoHostFits { .. }));
}
