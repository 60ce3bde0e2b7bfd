//! Restoring as a new tenant: what is refused before anything starts, and its stages with what its host is told in each.

use isyone_types::{
    backup::RestoreTo,
    plan::{DesiredState, Seed},
};

use super::*;
use crate::{
    backups::Wanted,
    operation::{RestoreStage, Stage},
};

/// One with a backup of an hour ago, shipped until now, and a second host.
fn to_restore() -> (Bench, HostName, TenantName) {
    let (mut bench, host, alfa) = backed_up(&["main"]);
    pass(&mut bench);
    let order = of(&bench, &alfa).order.unwrap();
    let made = snapshot(1, BackupWork::Base, bench.now);
    let done = vec![job(order.id, JobState::Done, Some(made))];
    report(&mut bench, &host, done, None);
    bench.now += HOUR;
    let (from, now) = (bench.now - HOUR, bench.now);
    report(&mut bench, &host, Vec::new(), Some(said("main", from, now)));
    let h2 = bench.host("h2", resources(8, 32, 100));
    greet(&mut bench, &h2, true);
    report(&mut bench, &h2, Vec::new(), None);
    (bench, h2, alfa)
}

fn order(bench: &mut Bench, wanted: Wanted) -> RestoreTenant {
    RestoreTenant {
        source: name("alfa"),
        wanted,
        destination: None,
        name: name("beta"),
        uid: bench.id(),
        secrets: Sealed("sealed".into()),
        host: Some(name("h2")),
        live: false,
        request_id: Some("r1".to_owned()),
    }
}

fn ask(bench: &mut Bench, order: RestoreTenant) -> Result<Outcome, ChangeError> {
    bench.apply(Command::RestoreTenant(Box::new(order)))
}

fn stage(bench: &Bench, id: Uuid) -> Stage {
    bench.state.fleet.operations[&id].stage()
}

#[test]
fn it_is_filled_before_it_runs_and_only_its_host_may_read_meanwhile() {
    let (mut bench, h2, alfa) = to_restore();
    let (uid, at) = (bench.state.fleet.tenants[&alfa].uid, bench.now - 60_000);
    let wanted = order(&mut bench, Wanted::Time(at));
    let operation = operation_of(ask(&mut bench, wanted.clone()).unwrap());
    let id = operation.id;
    let again = operation_of(ask(&mut bench, wanted).unwrap());
    assert_eq!(again.id, id, "asked again");
    let beta: TenantName = name("beta");
    let reads = |bench: &Bench, host: &HostName| {
        views::may_read_repository(&bench.state, &bench.settings, host, uid, &name("main"))
    };
    let told = |bench: &Bench| {
        let plan = plan_of(bench, &h2);
        let beta = plan.tenants.iter().find(|t| t.name == beta).unwrap();
        (beta.desired, beta.seed.clone(), plan.jobs.len())
    };
    assert_eq!(told(&bench), (DesiredState::Standby, Seed::Backup(id), 0));
    assert!(!reads(&bench, &h2), "not before it fetches");
    report(&mut bench, &h2, Vec::new(), None);
    assert_eq!(stage(&bench, id), Stage::Restore(RestoreStage::Fetch));
    let record = &bench.state.fleet.tenants[&beta];
    assert_eq!(record.activated_at, None, "empty volumes are no tenant");
    assert!(reads(&bench, &h2));
    let may_write =
        views::may_reach_repository(&bench.state, &bench.settings, &h2, uid, &name("main"));
    assert!(!may_write, "it adds nothing to another tenant's backups");
    let plan = plan_of(&bench, &h2);
    let JobWork::Restore(restore) = &plan.jobs[0].work else {
        panic!("{:?}", plan.jobs);
    };
    assert_eq!((restore.source, restore.to), (uid, RestoreTo::Time(at)));
    assert!(restore.rekey && restore.neutralise);
    assert_eq!(restore.base, SnapshotName([1; 32]));
    let done = JobReport {
        message: "the last transaction is of noon".to_owned(),
        ..job(id, JobState::Done, None)
    };
    report(&mut bench, &h2, vec![done], None);
    assert_eq!(stage(&bench, id), Stage::Restore(RestoreStage::Start));
    assert_eq!(told(&bench), (DesiredState::Running, Seed::Backup(id), 0));
    assert!(!reads(&bench, &h2), "not after it has fetched");
    report(&mut bench, &h2, Vec::new(), None);
    bench.settle();
    let operation = &bench.state.fleet.operations[&id];
    assert_eq!(operation.state, OperationState::Succeeded);
    let fetch = operation.log.iter().find(|step| step.name == "fetch");
    assert!(fetch.unwrap().detail.contains("transaction is of noon"));
    assert_eq!(told(&bench).1, Seed::Existing);
    let now = bench.now;
    assert_eq!(bench.state.fleet.tenants[&beta].activated_at, Some(now));
    // And the tenant that was backed up is as it was.
    assert_eq!(bench.state.fleet.tenants[&alfa].desired, Lifecycle::Running);
}

#[test]
fn what_cannot_be_restored_is_refused_before_anything_starts() {
    let (mut bench, _, alfa) = to_restore();
    let now = bench.now;
    let refused = |bench: &mut Bench, change: &dyn Fn(&mut RestoreTenant)| {
        let mut wanted = order(bench, Wanted::Latest);
        change(&mut wanted);
        let before = bench.state.fleet.clone();
        let why = ask(bench, wanted).unwrap_err().to_string();
        assert!(before == bench.state.fleet, "nothing has changed");
        why
    };
    let why = refused(&mut bench, &|w| w.wanted = Wanted::Time(now + 1));
    assert!(why.contains("what was committed after"), "{why}");
    let why = refused(&mut bench, &|w| w.wanted = Wanted::Time(BEGIN - 1));
    assert!(why.contains("first backup"), "{why}");
    let why = refused(&mut bench, &|w| w.name = name("alfa"));
    assert!(why.contains("choose another name"), "{why}");
    let why = refused(&mut bench, &|w| w.destination = Some(name("mars")));
    assert!(why.contains("no destination mars"), "{why}");
    let why = refused(&mut bench, &|w| w.source = name("nobody"));
    assert!(why.contains("no tenant"), "{why}");
    let why = refused(&mut bench, &|w| w.host = Some(name("h9")));
    assert!(why.contains("h9") || why.contains("fits"), "{why}");
    greet(&mut bench, &name("h2"), false);
    let why = refused(&mut bench, &|_| {});
    assert!(why.contains("version before"), "{why}");
    greet(&mut bench, &name("h2"), true);
    let uid = bench.state.fleet.tenants[&alfa].uid;
    bench.state.fleet.remove_backup_key(uid);
    let why = refused(&mut bench, &|_| {});
    assert!(why.contains("no key"), "{why}");
}

#[test]
fn one_that_fails_or_is_cancelled_leaves_nothing() {
    for cancelled in [true, false] {
        let (mut bench, h2, _) = to_restore();
        let wanted = order(&mut bench, Wanted::Latest);
        let id = operation_of(ask(&mut bench, wanted).unwrap()).id;
        report(&mut bench, &h2, Vec::new(), None);
        let suspend = Command::SuspendTenant {
            name: name("beta"),
            request_id: None,
            cancel_running: true,
        };
        assert!(
            matches!(bench.apply(suspend), Err(ChangeError::Busy { .. })),
            "half of it is of use to nobody"
        );
        match cancelled {
            true => drop(bench.apply(Command::CancelOperation { id }).unwrap()),
            false => report(&mut bench, &h2, vec![job(id, JobState::Failed, None)], None),
        }
        assert_eq!(stage(&bench, id), Stage::Restore(RestoreStage::Back));
        assert_eq!(plan_of(&bench, &h2).jobs, [], "nothing more is fetched");
        bench.settle();
        let operation = &bench.state.fleet.operations[&id];
        let ended = match cancelled {
            true => OperationState::Cancelled,
            false => OperationState::Failed,
        };
        assert_eq!(operation.state, ended, "{operation:?}");
        // A bench's hosts say of each tenant that its Odoo ran: then it is kept as any that was deleted.
        let left = bench.state.fleet.tenants.get(&name::<TenantName>("beta"));
        assert!(left.is_none_or(|tenant| tenant.is_deleted()));
    }
}

#[test]
fn a_key_that_is_deleted_meanwhile_ends_it() {
    let (mut bench, h2, alfa) = to_restore();
    let wanted = order(&mut bench, Wanted::Latest);
    let id = operation_of(ask(&mut bench, wanted).unwrap()).id;
    report(&mut bench, &h2, Vec::new(), None);
    let uid = bench.state.fleet.tenants[&alfa].uid;
    bench.state.fleet.remove_backup_key(uid);
    assert_eq!(plan_of(&bench, &h2).jobs, []);
    bench.apply(Command::Tick).unwrap();
    assert_eq!(stage(&bench, id), Stage::Restore(RestoreStage::Back));
}
