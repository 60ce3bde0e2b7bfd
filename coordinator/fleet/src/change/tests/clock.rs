//! A clock that jumps, and jumps back: what is waited for is waited for as long as ever.
//!
//! Not here: quarantines and sleep, which an hour's hold protects (mends, lifecycle, the sleep tests).

use isyone_types::report::JobState;
use uuid::Uuid;

use super::{
    moves::{job, job_with, plan_of},
    operations::{ended, settled, start, word},
    *,
};
use crate::{liveness::HostState, operation::Procedure, state::State};

const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;
const YEARS: i64 = 10 * 365 * DAY;
/// A time at which a clock that is right may be, so that one ten years behind it can be, too.
const NOW: i64 = 3 * YEARS;
/// A clock that is put forward or back, and then stays so or is set right again.
const JUMPS: [(i64, bool); 4] = [
    (YEARS, false),
    (-YEARS, false),
    (YEARS, true),
    (-YEARS, true),
];
const ALLOWED_MS: u32 = 5_000;

/// alfa runs on h1, and there is an h2; the clock has been watched for a while.
fn at_work() -> (Bench, HostName, HostName, TenantName) {
    let (mut bench, h1, alfa) = settled();
    bench.now = NOW;
    let h2 = bench.host("h2", resources(8, 32, 100));
    bench.settle();
    bench.apply(Command::Tick).unwrap();
    (bench, h1, h2, alfa)
}

fn order(bench: &mut Bench, to: &HostName, max_pause_ms: Option<u32>) -> Uuid {
    let order = Command::MoveTenant {
        name: name("alfa"),
        to: to.clone().into(),
        max_pause_ms,
        request_id: None,
    };
    let id = start(bench, order);
    bench.settle();
    id
}

/// A host speaks before the next tick: it is the first to meet the new time.
fn speaks(bench: &mut Bench, host: &HostName) {
    bench.report(host, resources(8, 32, 100), Vec::new());
}

/// The clock jumps, and back if it is set right; `after` looks at what has become of it each time.
fn jump(bench: &mut Bench, (by, right): (i64, bool), mut after: impl FnMut(&mut Bench)) {
    for by in [by, -by].into_iter().take(1 + usize::from(right)) {
        bench.now += by;
        after(bench);
        bench.apply(Command::Tick).unwrap();
        after(bench);
    }
}

/// It is given up at `limit_ms`, and no sooner.
fn lasts(bench: &mut Bench, id: Uuid, stage: &str, limit_ms: i64) {
    bench.pass(limit_ms - 1_000);
    assert_eq!(word(bench, id), stage);
    bench.pass(1_000);
    assert_eq!(word(bench, id), "back");
}

fn leave(bench: &Bench, id: Uuid) -> i64 {
    match &bench.state.fleet.operations[&id].procedure {
        Procedure::Move(relocation) => relocation.leave_until,
        Procedure::Converge(_) | Procedure::Restore(_) => panic!("it is a move"),
    }
}

#[test]
fn a_copy_that_is_kept_up_has_its_day_by_whatever_clock() {
    for set in JUMPS {
        let (mut bench, h1, h2, _) = at_work();
        let id = order(&mut bench, &h2, Some(ALLOWED_MS));
        let generation = bench.state.fleet.hosts[&h1].plan_generation;
        jump(&mut bench, set, |bench| {
            job_with(bench, &h2, id, JobState::Running, Some(9_000));
            assert_eq!(word(bench, id), "follow");
            // Whose plan shows it gets a new one.
            assert_eq!(leave(bench, id), bench.now + DAY);
            assert_eq!(plan_of(bench, &h1).grants[0].expires_at, bench.now + DAY);
        });
        assert!(bench.state.fleet.hosts[&h1].plan_generation > generation);
        lasts(&mut bench, id, "follow", DAY);
    }
}

#[test]
fn the_rest_of_a_copy_has_its_seconds_by_whatever_clock() {
    for set in JUMPS {
        let (mut bench, h1, h2, alfa) = at_work();
        let id = order(&mut bench, &h2, Some(ALLOWED_MS));
        job_with(&mut bench, &h2, id, JobState::Running, Some(900));
        let stopped = bench.converged_on(&alfa, &h1);
        bench.report(&h1, resources(8, 32, 100), vec![stopped]);
        jump(&mut bench, set, |bench| {
            job(bench, &h2, id, JobState::Running);
            assert_eq!(word(bench, id), "copy");
        });
        lasts(&mut bench, id, "copy", i64::from(ALLOWED_MS) + 3_000);
    }
}

#[test]
fn requests_under_way_have_their_minutes_by_whatever_clock() {
    for set in JUMPS {
        let (mut bench, h1, h2, _) = at_work();
        let id = order(&mut bench, &h2, Some(ALLOWED_MS));
        job_with(&mut bench, &h2, id, JobState::Running, Some(900));
        jump(&mut bench, set, |bench| {
            speaks(bench, &h1);
            assert_eq!(word(bench, id), "stop");
        });
        lasts(&mut bench, id, "stop", 15 * MINUTE);
    }
}

#[test]
fn a_tenant_that_is_stopped_for_its_copy_has_its_day_by_whatever_clock() {
    for set in JUMPS {
        let (mut bench, h1, h2, _) = at_work();
        let id = order(&mut bench, &h2, None);
        bench.settle();
        job(&mut bench, &h2, id, JobState::Running);
        jump(&mut bench, set, |bench| {
            job(bench, &h2, id, JobState::Running);
            assert_eq!(word(bench, id), "copy");
            assert_eq!(plan_of(bench, &h1).grants[0].expires_at, bench.now + DAY);
        });
        lasts(&mut bench, id, "copy", DAY);
    }
}

/// Edges are asked for some seconds, neither for ever nor not at all.
#[test]
fn edges_have_their_seconds_by_whatever_clock() {
    for set in JUMPS {
        let (mut bench, h1, _, alfa) = at_work();
        let id = start(&mut bench, super::operations::resize(&alfa, "standard"));
        let there = bench.converged(&alfa);
        bench.report(&h1, resources(8, 32, 100), vec![there]);
        jump(&mut bench, set, |bench| {
            speaks(bench, &h1);
            assert_eq!(word(bench, id), "route");
        });
        bench.pass(crate::procedures::ROUTE_PATIENCE_MS - 1);
        assert_eq!(word(&bench, id), "route");
        bench.pass(1);
        assert_eq!(ended(&bench, id).0, OperationState::Succeeded);
    }
}

#[test]
fn what_was_begun_by_a_wrong_clock_has_as_long_by_the_right_one() {
    for by in [YEARS, -YEARS] {
        let (mut bench, _, h2, _) = at_work();
        bench.now += by;
        bench.apply(Command::Tick).unwrap();
        let id = order(&mut bench, &h2, None);
        bench.settle();
        assert_eq!(word(&bench, id), "copy");
        bench.now -= by;
        job(&mut bench, &h2, id, JobState::Running);
        lasts(&mut bench, id, "copy", DAY);
    }
}

/// A start cannot know how far the clock was off; but nothing has begun in the future.
#[test]
fn what_was_begun_by_a_clock_that_was_ahead_counts_from_the_start() {
    let (mut bench, h1, h2, _) = at_work();
    let id = order(&mut bench, &h2, None);
    bench.settle();
    job(&mut bench, &h2, id, JobState::Running);
    bench.now -= YEARS;
    bench.state = State::new(bench.state.fleet.clone(), bench.now);
    bench.apply(Command::Tick).unwrap();
    assert_eq!(plan_of(&bench, &h1).grants[0].expires_at, bench.now + DAY);
    lasts(&mut bench, id, "copy", DAY);
}

fn overdue(bench: &Bench) -> usize {
    let events = bench.state.fleet.events.iter();
    events
        .filter(|e| e.kind == EventKind::OperationOverdue)
        .count()
}

#[test]
fn what_is_late_is_told_when_it_is_late_by_whatever_clock() {
    for set in JUMPS {
        let (mut bench, _, _, alfa) = at_work();
        let id = start(&mut bench, super::operations::resize(&alfa, "standard"));
        jump(&mut bench, set, |bench| assert_eq!(overdue(bench), 0));
        bench.pass(10 * MINUTE - 1_000);
        assert_eq!(overdue(&bench), 0);
        bench.pass(1_000);
        assert_eq!(overdue(&bench), 1);
        let told = bench.state.fleet.events.last().unwrap().message.clone();
        assert!(told.contains("is not over after 10 min"), "{told}");
        assert_eq!(word(&bench, id), "host");
    }
}

fn state_of(bench: &Bench, host: &HostName) -> HostState {
    views::host_state(&bench.state, &bench.settings, host, bench.now).0
}

/// Whether a fail-over finds the host lost on which alfa is.
fn is_lost_for_a_fail_over(bench: &mut Bench) -> bool {
    let order = Command::FailOver {
        name: name("alfa"),
        is_down: true,
        from_backup: false,
        request_id: None,
    };
    let refused = bench.apply(order).unwrap_err().to_string();
    let lost = refused.contains("has no standby");
    assert!(lost || refused.contains("which is not lost"), "{refused}");
    lost
}

#[test]
fn a_jump_makes_no_host_lost_and_lets_nothing_take_over() {
    for set in JUMPS {
        let (mut bench, h1, h2, _) = at_work();
        let h3 = bench.join("h3");
        let told = bench.state.fleet.last_event;
        bench.pass(10_000);
        speaks(&mut bench, &h2);
        jump(&mut bench, set, |bench| {
            assert!(!is_lost_for_a_fail_over(bench));
        });
        assert_eq!(state_of(&bench, &h1), HostState::Ready);
        assert_eq!(state_of(&bench, &h3), HostState::Unknown);
        assert_eq!(bench.state.fleet.last_event, told, "it is no news");
        // Silence goes on by the new clock from where it was.
        bench.pass(49_000);
        assert!(!is_lost_for_a_fail_over(&mut bench));
        assert_eq!(state_of(&bench, &h3), HostState::Unknown);
        bench.pass(2_000);
        assert!(is_lost_for_a_fail_over(&mut bench));
        assert_eq!(state_of(&bench, &h2), HostState::Suspect);
        bench.pass(9_000);
        assert_eq!(state_of(&bench, &h3), HostState::Lost);
    }
}

/// A host that joined by a clock that was ahead, and never speaks, is lost as soon as another.
#[test]
fn who_joined_in_the_future_is_not_waited_for_until_then() {
    let (mut bench, ..) = at_work();
    bench.now += YEARS;
    bench.apply(Command::Tick).unwrap();
    let h3 = bench.join("h3");
    bench.now -= YEARS;
    bench.apply(Command::Tick).unwrap();
    assert_eq!(state_of(&bench, &h3), HostState::Unknown);
    bench.pass(bench.settings.liveness.lost_ms);
    assert_eq!(state_of(&bench, &h3), HostState::Lost);
}
