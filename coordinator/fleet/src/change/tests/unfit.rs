//! Creates that ask for what their images do not have: they end with the reason, and their name is free again.
//!
//! Not here: who finds that out, and how (the agents).

use isyone_types::report::{Stuck, TenantProgress, TenantReport};

use super::{operations::ended, *};

const WHY: &str = "there is no module `nonsuch`";

/// The host's word on a tenant that it cannot make.
fn says(bench: &mut Bench, host: &HostName, alfa: &TenantName, unfit: bool) {
    let report = TenantReport {
        progress: TenantProgress::Failing,
        message: WHY.into(),
        stuck: if unfit { Stuck::Unfit } else { Stuck::Blocked },
        containers: Box::default(),
        ..bench.converged_on(alfa, host)
    };
    bench.report(host, resources(8, 32, 100), vec![report]);
}

#[test]
fn a_create_that_cannot_be_ends_and_may_be_repeated_with_another_list() {
    let mut bench = Bench::default();
    let host = bench.host("h1", resources(8, 32, 100));
    let alfa: TenantName = name("alfa");
    let mut wrong = bench.creation("alfa", "small");
    wrong.spec.modules = vec![name("nonsuch")];
    let first = tenant_of(bench.apply(Command::CreateTenant(Box::new(wrong))).unwrap());
    says(&mut bench, &host, &alfa, true);
    // Whatever may be in it is purged at once: nobody can have used it.
    assert_eq!(bench.state.fleet.tenants[&alfa].desired, Lifecycle::Purged);
    bench.settle();
    let (state, why) = ended(&bench, first.operation);
    assert_eq!((state, why.as_str()), (OperationState::Failed, WHY));
    assert!(!bench.state.fleet.tenants.contains_key(&alfa));
    let mut right = bench.creation("alfa", "small");
    right.spec.modules = vec![name("crm")];
    let second = tenant_of(bench.apply(Command::CreateTenant(Box::new(right))).unwrap());
    bench.settle();
    assert_ne!(second.uid, first.uid);
    assert_eq!(ended(&bench, second.operation).0, OperationState::Succeeded);
}

#[test]
fn what_time_or_a_person_on_the_host_mends_is_waited_for() {
    let mut bench = Bench::default();
    let host = bench.host("h1", resources(8, 32, 100));
    let alfa: TenantName = name("alfa");
    let tenant = tenant_of(bench.create("alfa", "small").unwrap());
    says(&mut bench, &host, &alfa, false);
    assert_eq!(bench.progress(tenant.operation).0, OperationState::Retrying);
    // One that is about what was before.
    let mut old = bench.converged_on(&alfa, &host);
    (old.stuck, old.generation) = (Stuck::Unfit, old.generation - 1);
    old.progress = TenantProgress::Failing;
    bench.report(&host, resources(8, 32, 100), vec![old]);
    assert_eq!(bench.state.fleet.tenants[&alfa].desired, Lifecycle::Running);
}

/// No host's word removes a tenant that has run.
#[test]
fn a_tenant_that_has_run_is_never_removed_for_it() {
    let (mut bench, host, alfa) = running();
    bench.settle();
    says(&mut bench, &host, &alfa, true);
    bench.settle();
    let mut larger = bench.creation("alfa", "large");
    larger.force = true;
    bench
        .apply(Command::CreateTenant(Box::new(larger)))
        .unwrap();
    says(&mut bench, &host, &alfa, true);
    assert_eq!(bench.state.fleet.tenants[&alfa].desired, Lifecycle::Running);
}
