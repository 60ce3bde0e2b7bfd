//! How tenants go, come back and are forgotten.
//!
//! Not here: falling asleep and waking (sleep/tests).

use super::*;

#[test]
fn a_deleted_tenant_is_kept_until_its_time_and_forgotten_only_when_its_host_says_so() {
    let (mut bench, host, alfa) = running();
    let delete = Command::DeleteTenant {
        name: alfa.clone(),
        purge: false,
        request_id: None,
        cancel_running: false,
    };
    bench.apply(delete).unwrap();
    assert_eq!(views::routes(&bench.state, &bench.settings).count(), 0);
    assert!(matches!(
        bench.create("alfa", "small"),
        Err(ChangeError::Quarantined { .. })
    ));
    let report = bench.converged(&alfa);
    bench.report(&host, resources(8, 32, 100), vec![report]);
    bench.apply(Command::Tick).unwrap();
    // A jump of the clock ends no quarantine by itself.
    bench.now += bench.settings.quarantine_ms;
    bench.apply(Command::Tick).unwrap();
    assert_eq!(
        bench.state.fleet.tenants[&alfa].desired,
        Lifecycle::Quarantined
    );
    for _ in 0..bench.settings.quarantine_hold_ms / 30_000 - 1 {
        bench.now += 30_000;
        bench.apply(Command::Tick).unwrap();
    }
    assert_eq!(
        bench.state.fleet.tenants[&alfa].desired,
        Lifecycle::Quarantined
    );
    bench.now += 30_000;
    bench.apply(Command::Tick).unwrap();
    assert_eq!(bench.state.fleet.tenants[&alfa].desired, Lifecycle::Purged);
    // A complete report without the tenant is silence about it, not "absent".
    bench.report(&host, resources(8, 32, 100), Vec::new());
    assert!(bench.state.fleet.tenants.contains_key(&alfa));
    let report = bench.converged(&alfa);
    bench.report(&host, resources(8, 32, 100), vec![report]);
    assert!(!bench.state.fleet.tenants.contains_key(&alfa));
    assert!(bench.state.fleet.by_host.is_empty());
}

#[test]
fn settings_are_applied_only_by_an_agent_that_knows_of_them() {
    let (mut bench, host, alfa) = running();
    let restart = |settings| Command::RestartTenant {
        name: name("alfa"),
        database: false,
        settings,
        request_id: None,
    };
    super::backups::greet(&mut bench, &host, false);
    let before = bench.state.fleet.clone();
    let why = bench.apply(restart(true)).unwrap_err().to_string();
    assert!(why.contains("update that agent"), "{why}");
    assert!(before == bench.state.fleet, "nothing has changed");
    bench.apply(restart(false)).unwrap();
    bench.settle();
    super::backups::greet(&mut bench, &host, true);
    bench.apply(restart(true)).unwrap();
    assert_eq!(bench.state.fleet.tenants[&alfa].settings_asked, 1);
}

#[test]
fn an_undeleted_tenant_runs_again_and_one_that_never_ran_is_purged_at_once() {
    let (mut bench, _, alfa) = running();
    bench
        .apply(Command::DeleteTenant {
            name: alfa.clone(),
            purge: false,
            request_id: None,
            cancel_running: false,
        })
        .unwrap();
    bench.settle();
    bench
        .apply(Command::UndeleteTenant {
            name: alfa.clone(),
            request_id: None,
        })
        .unwrap();
    let tenant = &bench.state.fleet.tenants[&alfa];
    assert_eq!(
        (tenant.desired, tenant.quarantine_until),
        (Lifecycle::Running, None)
    );
    bench.create("beta", "small").unwrap();
    bench
        .apply(Command::DeleteTenant {
            name: name("beta"),
            purge: false,
            request_id: None,
            cancel_running: true,
        })
        .unwrap();
    assert_eq!(
        bench.state.fleet.tenants[&name::<TenantName>("beta")].desired,
        Lifecycle::Purged
    );
}

#[test]
fn cancelling_a_create_removes_what_was_made() {
    let mut bench = Bench::default();
    bench.host("h1", resources(8, 32, 100));
    let Outcome::Tenant {
        operation: Some(operation),
        ..
    } = bench.create("alfa", "small").unwrap()
    else {
        panic!()
    };
    let cancelled = operation_of(
        bench
            .apply(Command::CancelOperation { id: operation.id })
            .unwrap(),
    );
    assert_eq!(cancelled.stage().word(), "back");
    let tenant = &bench.state.fleet.tenants[&name::<TenantName>("alfa")];
    assert!(tenant.desired == Lifecycle::Purged && tenant.purge_now);
    let again = operation_of(
        bench
            .apply(Command::CancelOperation { id: operation.id })
            .unwrap(),
    );
    assert_eq!(again, cancelled, "cancelling twice is cancelling once");
    bench.settle();
    assert!(bench.state.fleet.tenants.is_empty());
    let ended = &bench.state.fleet.operations[&operation.id];
    assert_eq!(
        (ended.state, ended.error.as_str()),
        (OperationState::Cancelled, "cancelled by ana")
    );
    let again = bench
        .apply(Command::CancelOperation { id: operation.id })
        .unwrap_err();
    assert!(matches!(again, ChangeError::NotCancellable { .. }));
}
