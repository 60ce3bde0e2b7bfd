//! A tenant whose host is lost, and that has no standby, comes back from its newest backup on another host.

use isyone_types::{
    backup::RestoreTo,
    plan::{DesiredState, Seed},
};

use super::{restore::to_restore, *};
use crate::{
    desired::CopyRole,
    operation::{MoveStage, Stage},
};

fn fail_over(is_down: bool, from_backup: bool) -> Command {
    Command::FailOver {
        name: name("alfa"),
        is_down,
        from_backup,
        request_id: None,
    }
}

fn refused(bench: &mut Bench, command: Command) -> String {
    bench.apply(command).unwrap_err().to_string()
}

/// alfa's host is lost; h2 is heard.
fn lost() -> (Bench, HostName, HostName, TenantName) {
    let (mut bench, h2, alfa) = to_restore();
    let h1 = bench.state.fleet.tenants[&alfa].placement.host.clone();
    let early = refused(&mut bench, fail_over(true, true));
    assert!(early.contains("is not lost"), "{early}");
    bench.pass(73_000);
    report(&mut bench, &h2, Vec::new(), None);
    bench.apply(Command::Tick).unwrap();
    (bench, h1, h2, alfa)
}

fn told(bench: &Bench, host: &HostName) -> (DesiredState, Seed, u64) {
    let plan = plan_of(bench, host);
    let alfa = &plan.tenants[0];
    (alfa.desired, alfa.seed.clone(), alfa.epoch)
}

fn begun(bench: &mut Bench) -> Uuid {
    operation_of(bench.apply(fail_over(true, true)).unwrap()).id
}

fn stage(bench: &Bench, id: Uuid) -> Stage {
    bench.state.fleet.operations[&id].stage()
}

#[test]
fn it_comes_back_under_its_name_and_the_old_copy_never_runs_again() {
    let (mut bench, h1, h2, alfa) = lost();
    let before = bench.state.fleet.tenants[&alfa].clone();
    let said = refused(&mut bench, fail_over(true, false));
    assert!(
        said.contains("has no standby. Its data is on host"),
        "{said}"
    );
    let said = refused(&mut bench, fail_over(false, true));
    assert!(
        said.contains("is restored on host h2 only if host h1 runs it no more")
            && said.contains("what was committed after"),
        "{said}"
    );
    let id = begun(&mut bench);
    assert_eq!(stage(&bench, id), Stage::Move(MoveStage::Prepare));
    assert_eq!(
        told(&bench, &h2),
        (DesiredState::Standby, Seed::Backup(id), 2)
    );
    let reads = |bench: &Bench| {
        let main = name("main");
        views::may_read_repository(&bench.state, &bench.settings, &h2, before.uid, &main)
    };
    report(&mut bench, &h2, Vec::new(), None);
    assert_eq!(stage(&bench, id), Stage::Move(MoveStage::Copy));
    assert!(reads(&bench), "while it fetches");
    let plan = plan_of(&bench, &h2);
    let JobWork::Restore(order) = &plan.jobs[0].work else {
        panic!("{:?}", plan.jobs);
    };
    assert_eq!((order.source, order.to), (before.uid, RestoreTo::Latest));
    assert!(!order.rekey && !order.neutralise, "it is the tenant itself");
    assert_eq!(bench.state.fleet.tenants[&alfa].placement.host, h1);

    let done = vec![job(id, JobState::Done, None)];
    report(&mut bench, &h2, done, None);
    assert_eq!(stage(&bench, id), Stage::Move(MoveStage::Start));
    assert_eq!(
        told(&bench, &h2),
        (DesiredState::Running, Seed::Existing, 2)
    );
    assert!(plan_of(&bench, &h2).jobs.is_empty());
    // Whenever it is back.
    assert_eq!(told(&bench, &h1).0, DesiredState::Fenced);
    report(&mut bench, &h2, Vec::new(), None);
    bench.edges_run();
    assert_eq!(
        bench.state.fleet.operations[&id].state,
        OperationState::Succeeded
    );
    let after = &bench.state.fleet.tenants[&alfa];
    assert_eq!((after.uid, &after.placement.host), (before.uid, &h2));
    assert!(matches!(after.copies[0].role, CopyRole::Fenced { .. }));
    assert!(
        of(&bench, &alfa).asked.is_some(),
        "its log goes on from another base"
    );
}

#[test]
fn a_host_that_is_heard_again_keeps_its_tenant_as_long_as_nothing_has_taken_its_place() {
    let (mut bench, h1, h2, alfa) = lost();
    let id = begun(&mut bench);
    report(&mut bench, &h2, Vec::new(), None);
    greet(&mut bench, &h1, true);
    report(&mut bench, &h1, Vec::new(), None);
    report(
        &mut bench,
        &h2,
        vec![job(id, JobState::Running, None)],
        None,
    );
    let operation = &bench.state.fleet.operations[&id];
    assert_eq!(operation.state, OperationState::Failed);
    assert!(
        operation.error.contains("host h1 is heard again"),
        "{}",
        operation.error
    );
    assert_eq!(bench.state.fleet.tenants[&alfa].placement.host, h1);
    assert_eq!(told(&bench, &h1).0, DesiredState::Running);
    let left = plan_of(&bench, &h2).tenants;
    assert!(left.iter().all(|t| t.desired == DesiredState::Purged));
}

#[test]
fn a_restore_that_fails_or_is_cancelled_leaves_the_tenant_where_it_was_and_may_be_tried_again() {
    for cancels in [false, true] {
        let (mut bench, h1, h2, alfa) = lost();
        let id = begun(&mut bench);
        report(&mut bench, &h2, Vec::new(), None);
        match cancels {
            true => {
                bench.apply(Command::CancelOperation { id }).unwrap();
            }
            false => report(&mut bench, &h2, vec![job(id, JobState::Failed, None)], None),
        }
        bench.apply(Command::Tick).unwrap();
        assert!(
            bench.state.fleet.operations[&id].is_over(),
            "cancelled: {cancels}"
        );
        let tenant = &bench.state.fleet.tenants[&alfa];
        assert!(tenant.placement.host == h1 && !tenant.halted);
        assert_eq!(told(&bench, &h2).0, DesiredState::Purged);
        // What was made for it goes; then it is asked again.
        let mut gone = bench.converged_on(&alfa, &h2);
        gone.absent = true;
        bench.report(&h2, resources(8, 32, 100), vec![gone]);
        assert_ne!(begun(&mut bench), id);
    }
}

#[test]
fn without_a_backup_or_a_host_that_is_said() {
    let (mut bench, _, h2, alfa) = lost();
    bench.pass(73_000);
    let said = refused(&mut bench, fail_over(true, true));
    assert!(
        said.contains("no host fits") || said.contains("h2"),
        "{said}"
    );
    report(&mut bench, &h2, Vec::new(), None);
    let uid = bench.state.fleet.tenants[&alfa].uid;
    bench.state.fleet.backup_keys.remove(&uid);
    let said = refused(&mut bench, fail_over(true, true));
    assert!(said.contains("no key of its backups"), "{said}");
}
