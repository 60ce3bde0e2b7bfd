//! Which tenants fall asleep and which do not; and waking.
//!
//! Not here: other operations on tenants (the crate's change/tests).

use isyone_types::{ids::HostName, operation::OperationState, report::Traffic};

use super::*;
use crate::{
    change::Command,
    desired::Tenant,
    testing::{Bench, name, resources},
    written::Records,
};

const DAY: i64 = 86_400_000;
/// Sleep time of the plan `small`.
const AFTER: i64 = 14 * DAY;

/// A bench whose clock is well after 1970, with running tenants of a plan with a sleep time.
fn bench(tenants: &[&str]) -> (Bench, HostName) {
    let mut bench = Bench::default();
    bench.now = 20_000 * DAY;
    bench.settings.sleep_after_ms.insert(name("small"), AFTER);
    let host = bench.host("h1", resources(64, 256, 1_000));
    for tenant in tenants {
        bench.create(tenant, "small").unwrap();
    }
    tell(&mut bench, &host, Some(0));
    (bench, host)
}

/// The host reports all tenants as converged, with this last activity.
fn tell(bench: &mut Bench, host: &HostName, last_active_at: Option<i64>) {
    let all: Vec<TenantName> = bench.state.fleet.tenants.keys().cloned().collect();
    let told = |tenant: &TenantName| {
        let mut report = bench.converged(tenant);
        report.traffic = Some(Traffic {
            last_active_at,
            ..Traffic::default()
        });
        report
    };
    let reports = all.iter().map(told).collect();
    bench.report(host, resources(64, 256, 1_000), reports);
}

/// Time passes, the host reports this activity, and enough ticks follow for a full round.
fn pass(bench: &mut Bench, host: &HostName, ms: i64, last_active_at: Option<i64>) {
    bench.now += ms;
    // After a jump of the clock nothing happens for an hour.
    bench.apply(Command::Tick).unwrap();
    for _ in 0..90 {
        bench.now += 55_000;
        tell(bench, host, last_active_at);
        bench.apply(Command::Tick).unwrap();
    }
}

fn tenant<'a>(bench: &'a Bench, tenant: &str) -> &'a Tenant {
    &bench.state.fleet.tenants[&name::<TenantName>(tenant)]
}

fn wake(bench: &mut Bench, tenant: &str) -> Outcome {
    bench
        .apply(Command::WakeTenant { name: name(tenant) })
        .unwrap()
}

fn told(bench: &Bench, kind: &str) -> usize {
    bench
        .state
        .fleet
        .events
        .iter()
        .filter(|e| e.kind.as_str() == kind)
        .count()
}

#[test]
fn who_is_not_used_falls_asleep_and_a_visitor_wakes_it() {
    let (mut bench, host) = bench(&["alfa"]);
    let used = bench.now;
    pass(&mut bench, &host, AFTER - DAY, Some(used));
    assert_eq!(tenant(&bench, "alfa").desired, Lifecycle::Running);
    let generation = tenant(&bench, "alfa").generation;
    pass(&mut bench, &host, DAY, Some(used));
    let asleep = tenant(&bench, "alfa").clone();
    assert_eq!(
        (asleep.desired, asleep.last_active_at),
        (Lifecycle::Suspended, Some(used))
    );
    assert!(asleep.asleep_since.is_some() && asleep.generation == generation + 1);
    assert_eq!(told(&bench, "tenant.asleep"), 1);
    let operation = &bench.state.fleet.operations[&asleep.operation];
    assert_eq!(
        (operation.kind, operation.state),
        (OperationKind::Suspend, OperationState::Succeeded)
    );
    let (phase, message) = views::phase(&bench.state, &bench.settings, &asleep, bench.now);
    assert!(
        phase == views::Phase::Suspended && message.starts_with("asleep since 20"),
        "{message}"
    );
    // However many visitors come, it is woken once.
    assert!(matches!(wake(&mut bench, "alfa"), Outcome::Operation(_)));
    assert!(matches!(wake(&mut bench, "alfa"), Outcome::Done));
    let woken = tenant(&bench, "alfa").clone();
    assert_eq!(
        (woken.desired, woken.asleep_since),
        (Lifecycle::Running, None)
    );
    assert_eq!(
        (woken.generation, told(&bench, "tenant.woken")),
        (asleep.generation + 1, 1)
    );
    // Its idle time starts over, whether or not somebody logs in.
    pass(&mut bench, &host, AFTER - DAY, Some(used));
    assert_eq!(tenant(&bench, "alfa").desired, Lifecycle::Running);
    pass(&mut bench, &host, DAY, Some(used));
    assert!(tenant(&bench, "alfa").asleep_since.is_some());
}

#[test]
fn silence_is_not_disuse() {
    let (mut bench, host) = bench(&["alfa"]);
    let awake = |bench: &Bench| tenant(bench, "alfa").desired == Lifecycle::Running;
    // For a month, Odoo does not tell.
    pass(&mut bench, &host, 30 * DAY, None);
    assert!(awake(&bench));
    // A silent host, although its last report was that nobody is active.
    tell(&mut bench, &host, Some(0));
    bench.now += 60_000;
    for _ in 0..100 {
        bench.now += 50_000;
        bench.apply(Command::Tick).unwrap();
    }
    assert!(awake(&bench));
    // Back after a partition, the host reports a user who was active in the meantime.
    let used = bench.now - DAY;
    pass(&mut bench, &host, 0, Some(used));
    assert!(awake(&bench));
    // A tenant of a plan without a sleep time never sleeps.
    bench.settings.sleep_after_ms.clear();
    pass(&mut bench, &host, 365 * DAY, Some(0));
    assert!(awake(&bench));
}

#[test]
fn a_restarted_coordinator_knows_who_sleeps_and_holds_on_for_a_while() {
    let (mut bench, host) = bench(&["alfa", "beta"]);
    pass(&mut bench, &host, AFTER, Some(0));
    assert!(tenant(&bench, "alfa").asleep_since.is_some());
    wake(&mut bench, "beta");
    let mut store = Records::default();
    store.apply(&bench.effects.writes);
    bench.state = State::new(crate::written::fleet(store.contents()).unwrap(), bench.now);
    assert!(tenant(&bench, "alfa").asleep_since.is_some());
    // Two weeks later by a clock that may be wrong: nothing happens within the hour.
    bench.now += AFTER;
    tell(&mut bench, &host, Some(0));
    bench.apply(Command::Tick).unwrap();
    bench.now += 1_000;
    bench.apply(Command::Tick).unwrap();
    assert_eq!(tenant(&bench, "beta").desired, Lifecycle::Running);
    pass(&mut bench, &host, 0, Some(0));
    assert!(tenant(&bench, "beta").asleep_since.is_some());
    assert!(matches!(wake(&mut bench, "alfa"), Outcome::Operation(_)));
}

#[test]
fn an_operators_word_goes_before() {
    let (mut bench, host) = bench(&["alfa", "beta", "gama"]);
    let order = |bench: &mut Bench, command| bench.apply(command).unwrap();
    order(
        &mut bench,
        Command::SuspendTenant {
            name: name("gama"),
            request_id: None,
            cancel_running: false,
        },
    );
    pass(&mut bench, &host, AFTER, Some(0));
    assert!(
        tenant(&bench, "gama").asleep_since.is_none(),
        "suspended is not asleep"
    );
    assert!(matches!(wake(&mut bench, "gama"), Outcome::Done));
    assert_eq!(
        tenant(&bench, "gama").desired,
        Lifecycle::Suspended,
        "no visitor lifts that"
    );
    // Once an operator suspends a sleeping tenant, visitors no longer wake it.
    order(
        &mut bench,
        Command::SuspendTenant {
            name: name("alfa"),
            request_id: None,
            cancel_running: false,
        },
    );
    assert!(matches!(wake(&mut bench, "alfa"), Outcome::Done));
    assert_eq!(tenant(&bench, "alfa").desired, Lifecycle::Suspended);
    // Resuming a sleeping tenant wakes it.
    order(
        &mut bench,
        Command::ResumeTenant {
            name: name("beta"),
            request_id: None,
        },
    );
    assert_eq!(
        (
            tenant(&bench, "beta").desired,
            tenant(&bench, "beta").asleep_since
        ),
        (Lifecycle::Running, None)
    );
    // A deleted tenant cannot be woken.
    pass(&mut bench, &host, AFTER, Some(0));
    order(
        &mut bench,
        Command::DeleteTenant {
            name: name("beta"),
            purge: false,
            request_id: None,
            cancel_running: false,
        },
    );
    assert_eq!(tenant(&bench, "beta").asleep_since, None);
    assert!(
        bench
            .apply(Command::WakeTenant { name: name("beta") })
            .is_err()
    );
}

#[test]
fn they_fall_asleep_by_and_by_and_nobody_is_forgotten() {
    let names: Vec<String> = (0..35).map(|n| format!("t{n:02}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let (mut bench, host) = bench(&all);
    bench.now += AFTER;
    bench.apply(Command::Tick).unwrap();
    bench.state.sleep_hold_until = 0;
    let asleep = |bench: &Bench| {
        bench
            .state
            .fleet
            .tenants
            .values()
            .filter(|t| t.asleep_since.is_some())
            .count()
    };
    for expected in [10, 20, 30, 35, 35] {
        tell(&mut bench, &host, Some(0));
        bench.apply(Command::Tick).unwrap();
        assert_eq!(asleep(&bench), expected);
    }
    let operations: std::collections::BTreeSet<_> = bench
        .state
        .fleet
        .tenants
        .values()
        .map(|t| t.operation)
        .collect();
    assert_eq!(operations.len(), 35, "each has its own operation");
}
