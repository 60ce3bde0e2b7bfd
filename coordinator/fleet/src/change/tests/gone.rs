//! Tenants of whom something is gone that no waiting brings back: operations end with the reason, and the phase says so, also of those
//! that do not run.
//!
//! Not here: moves of copies that can never come (hopeless), finding out (the agents).

use isyone_types::report::Stuck;

use super::{operations::ended, *};

const GONE: &str = "volume pgdata_alfa is gone, and with it this tenant's data";

/// The host says that only a person can help.
fn says_gone(bench: &mut Bench, host: &HostName, alfa: &TenantName) {
    let mut report = bench.converged(alfa);
    (report.progress, report.stuck) = (TenantProgress::Failing, Stuck::Blocked);
    report.message = GONE.into();
    bench.report(host, resources(8, 32, 100), vec![report]);
}

fn converges(bench: &mut Bench, host: &HostName, alfa: &TenantName) {
    let report = bench.converged(alfa);
    bench.report(host, resources(8, 32, 100), vec![report]);
}

fn phase(bench: &Bench, alfa: &TenantName) -> (views::Phase, String) {
    let tenant = &bench.state.fleet.tenants[alfa];
    views::phase(&bench.state, &bench.settings, tenant, bench.now)
}

fn suspend(alfa: &TenantName) -> Command {
    Command::SuspendTenant {
        name: alfa.clone(),
        request_id: None,
        cancel_running: false,
    }
}

/// Fails where a resume of a tenant without data goes on for ever without a reason.
#[test]
fn a_resume_without_data_ends_with_the_reason_and_the_tenant_stays_suspended() {
    let (mut bench, host, alfa) = running();
    bench.apply(suspend(&alfa)).unwrap();
    converges(&mut bench, &host, &alfa);
    says_gone(&mut bench, &host, &alfa);
    let said = (views::Phase::Failing, GONE.to_owned());
    assert_eq!(
        phase(&bench, &alfa),
        said,
        "it is told while nobody needs it"
    );
    let resume = Command::ResumeTenant {
        name: alfa.clone(),
        request_id: None,
    };
    let operation = operation_of(bench.apply(resume).unwrap());
    says_gone(&mut bench, &host, &alfa); // it cannot be started
    says_gone(&mut bench, &host, &alfa); // nor is it well now that it is to stay suspended
    let (state, why) = ended(&bench, operation.id);
    assert_eq!((state, why.as_str()), (OperationState::Failed, GONE));
    let tenant = &bench.state.fleet.tenants[&alfa];
    assert_eq!(tenant.desired, Lifecycle::Suspended);
    let told = bench.state.fleet.events.iter();
    let told: Vec<_> = told.map(|e| e.kind.as_str().to_owned()).collect();
    assert!(told.contains(&"tenant.failing".to_owned()), "{told:?}");
}

#[test]
fn a_restart_ends_at_once_and_a_suspension_is_carried_out() {
    let (mut bench, host, alfa) = running();
    let restart = Command::RestartTenant {
        name: alfa.clone(),
        database: false,
        settings: false,
        request_id: None,
    };
    let operation = operation_of(bench.apply(restart).unwrap());
    says_gone(&mut bench, &host, &alfa);
    assert_eq!(ended(&bench, operation.id).0, OperationState::Failed);
    let operation = operation_of(bench.apply(suspend(&alfa)).unwrap());
    says_gone(&mut bench, &host, &alfa);
    assert_eq!(ended(&bench, operation.id).0, OperationState::Succeeded);
    assert_eq!(phase(&bench, &alfa).0, views::Phase::Failing);
}
