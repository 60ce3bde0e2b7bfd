//! What hosts' reports change: ones about older plans, about trouble, and refused plans.
//!
//! Not here: taking reports from the wire (isyone-proto's convert).

use super::*;

#[test]
fn a_report_of_an_older_generation_epoch_or_another_host_ends_nothing() {
    let mut bench = Bench::default();
    let h1 = bench.host("h1", resources(8, 32, 100));
    let h2 = bench.host("h2", resources(8, 32, 100));
    bench.create("alfa", "small").unwrap();
    let alfa: TenantName = name("alfa");
    let good = bench.converged(&alfa);
    for wrong in [
        isyone_types::report::TenantReport {
            epoch: 0,
            ..good.clone()
        },
        isyone_types::report::TenantReport {
            generation: 0,
            ..good.clone()
        },
        isyone_types::report::TenantReport {
            generation: 2,
            ..good.clone()
        },
        isyone_types::report::TenantReport {
            uid: uuid::Uuid::from_u128(9),
            ..good.clone()
        },
        isyone_types::report::TenantReport {
            progress: TenantProgress::Working,
            ..good.clone()
        },
    ] {
        bench.report(&h1, resources(8, 32, 100), vec![wrong]);
        assert!(bench.state.fleet.tenants[&alfa].activated_at.is_none());
    }
    let placed = bench.state.fleet.tenants[&alfa].placement.host.clone();
    let other = if placed == h1 { h2 } else { h1 };
    bench.report(&other, resources(8, 32, 100), vec![good.clone()]);
    assert!(bench.state.fleet.tenants[&alfa].activated_at.is_none());
    bench.report(&placed, resources(8, 32, 100), vec![good]);
    assert!(bench.state.fleet.tenants[&alfa].activated_at.is_some());
}

#[test]
fn a_trouble_is_told_once_whatever_its_tries_say_and_odd_counts_do_no_harm() {
    let mut bench = Bench::default();
    let h1 = bench.host("h1", resources(8, 32, 100));
    bench.create("alfa", "small").unwrap();
    let good = bench.converged(&name("alfa"));
    for n in 0..5 {
        for progress in [TenantProgress::Failing, TenantProgress::Working] {
            let mut bad = good.clone();
            (bad.progress, bad.message) = (progress, format!("no answer after {n} s"));
            bad.containers[0].oom_kills = u32::MAX;
            bad.containers.push(bad.containers[0].clone());
            bench.report(&h1, resources(8, 32, 100), vec![bad]);
        }
    }
    bench.report(&h1, resources(8, 32, 100), vec![good.clone()]);
    bench.report(&h1, resources(8, 32, 100), vec![good]);
    let told = |kind: &str| {
        bench
            .state
            .fleet
            .events
            .iter()
            .filter(|e| e.kind.as_str() == kind)
            .count()
    };
    assert_eq!((told("tenant.failing"), told("tenant.recovered")), (1, 1));
}

#[test]
fn a_plan_that_its_host_cannot_take_shows_with_the_tenant_and_its_operation() {
    let mut bench = Bench::default();
    let host = bench.host("h1", resources(8, 32, 100));
    let Outcome::Tenant {
        tenant,
        operation: Some(operation),
        ..
    } = bench.create("alfa", "small").unwrap()
    else {
        panic!()
    };
    let refused = |error: &str| Command::PlanResult {
        host: host.clone(),
        generation: 2.into(),
        error: error.to_owned(),
    };
    bench.apply(refused("No space left on device")).unwrap();
    let (phase, message) = views::phase(&bench.state, &bench.settings, &tenant, bench.now);
    assert_eq!(
        (phase, message.as_str()),
        (
            views::Phase::Failing,
            "host h1 cannot take its plan: No space left on device"
        )
    );
    assert_eq!(
        views::progress(&bench.state, &operation).0,
        OperationState::Retrying
    );
    bench.apply(refused("")).unwrap();
    assert_eq!(
        views::phase(&bench.state, &bench.settings, &tenant, bench.now).0,
        views::Phase::Pending
    );
    assert_eq!(
        views::progress(&bench.state, &operation).0,
        OperationState::Running
    );
}
