//! Restoring as a new tenant: what is refused before anything starts, and its stages with what its host is told in each.

use isyone_types::{
    backup::RestoreTo,
    mail::Via,
    plan::{Before, DesiredState, Seed},
    report::{HostCondition, Stuck, TenantProgress},
};

use super::*;
use crate::{
    backups::Wanted,
    change::tests::conditions::conditioned,
    operation::{RestoreStage, Stage},
    state::State,
};

/// One with a backup of an hour ago, shipped until now, and a second host.
pub(super) fn to_restore() -> (Bench, HostName, TenantName) {
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

pub(super) fn order(bench: &mut Bench, wanted: Wanted) -> RestoreTenant {
    RestoreTenant {
        source: name("alfa"),
        wanted,
        destination: None,
        name: name("beta"),
        uid: bench.id(),
        secrets: Sealed("sealed".into()),
        host: Some(name("h2")),
        live: false,
        as_new: false,
        request_id: Some("r1".to_owned()),
    }
}

pub(super) fn ask(bench: &mut Bench, order: RestoreTenant) -> Result<Outcome, ChangeError> {
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

/// Fails if a copy for tests has the fleet's relay and its password.
#[test]
fn what_a_neutralised_copy_sends_is_caught() {
    for (live, via) in [(false, Some(Via::Catcher)), (true, None)] {
        let (mut bench, h2, _) = to_restore();
        let mut wanted = order(&mut bench, Wanted::Latest);
        wanted.live = live;
        ask(&mut bench, wanted).unwrap();
        let plan = plan_of(&bench, &h2);
        let beta = plan.tenants.iter().find(|t| t.name == name("beta"));
        let mail = beta.unwrap().mail.clone();
        assert_eq!(mail.map(|mail| mail.via), via, "live: {live}");
    }
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
    assert!(!why.contains("there may be more"), "{why}");
    let why = refused(&mut bench, &|w| w.wanted = Wanted::Time(BEGIN - 1));
    assert!(why.contains("first backup"), "{why}");
    let why = refused(&mut bench, &|w| w.name = name("alfa"));
    assert!(why.contains("in its place it is restored there"), "{why}");
    bench.create("gama", "small").unwrap();
    let why = refused(&mut bench, &|w| w.name = name("gama"));
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
    // It has just started, and nobody has spoken.
    bench.state = State::new(bench.state.fleet.clone(), bench.now);
    let later = bench.now + 1;
    let why = refused(&mut bench, &|w| w.wanted = Wanted::Time(later));
    assert!(why.contains("there may be more, and `latest`"), "{why}");
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

/// In its place, on the host where it is.
fn in_place(bench: &mut Bench) -> (HostName, Uuid) {
    let mut wanted = order(bench, Wanted::Latest);
    (wanted.name, wanted.host) = (name("alfa"), None);
    let id = operation_of(ask(bench, wanted).unwrap()).id;
    (name("h1"), id)
}

fn told_of_alfa(bench: &Bench) -> (DesiredState, Seed, Option<Before>) {
    let plan = plan_of(bench, &name("h1"));
    let alfa = plan.tenants.iter().find(|t| t.name.as_str() == "alfa");
    let alfa = alfa.unwrap();
    (alfa.desired, alfa.seed.clone(), alfa.before)
}

#[test]
fn in_its_place_what_it_had_is_set_aside_and_kept_for_its_time() {
    let (mut bench, ..) = to_restore();
    let alfa: TenantName = name("alfa");
    let (host, id) = in_place(&mut bench);
    let uid = bench.state.fleet.tenants[&alfa].uid;
    assert_eq!(
        told_of_alfa(&bench),
        (DesiredState::Suspended, Seed::Existing, None)
    );
    report(&mut bench, &host, Vec::new(), None);
    let keep = Some(Before::Keep(id));
    assert_eq!(
        told_of_alfa(&bench),
        (DesiredState::Standby, Seed::Backup(id), keep)
    );
    report(&mut bench, &host, Vec::new(), None);
    assert_eq!(stage(&bench, id), Stage::Restore(RestoreStage::Fetch));
    let JobWork::Restore(restore) = &plan_of(&bench, &host).jobs[0].work.clone() else {
        panic!("no order");
    };
    assert!(!restore.rekey && !restore.neutralise, "it is itself");
    report(&mut bench, &host, vec![job(id, JobState::Done, None)], None);
    assert_eq!(
        told_of_alfa(&bench),
        (DesiredState::Running, Seed::Existing, keep)
    );
    bench.settle();
    bench.settle();
    let operation = &bench.state.fleet.operations[&id];
    assert_eq!(operation.state, OperationState::Succeeded);
    let record = &bench.state.fleet.tenants[&alfa];
    assert_eq!((record.uid, record.from_backup), (uid, None));
    assert!(
        of(&bench, &alfa).asked.is_some(),
        "the log of before leads no further"
    );
    // It is kept for its time, and nothing else is set aside as long.
    let until = record.before.as_ref().unwrap().until.unwrap();
    assert_eq!(until, bench.now + bench.settings.quarantine_ms);
    let mut wanted = order(&mut bench, Wanted::Latest);
    (wanted.name, wanted.host, wanted.request_id) = (name("alfa"), None, None);
    let refused = ask(&mut bench, wanted).unwrap_err().to_string();
    assert!(refused.contains("is kept until"), "{refused}");
    // The clock alone decides nothing when it jumps.
    bench.now = until;
    bench.apply(Command::Tick).unwrap();
    assert_eq!(told_of_alfa(&bench).2, keep);
    let end = until + bench.settings.quarantine_hold_ms + 60_000;
    while bench.now < end {
        bench.now += 50_000;
        bench.apply(Command::Tick).unwrap();
    }
    assert_eq!(told_of_alfa(&bench).2, Some(Before::Remove(id)));
}

#[test]
fn in_its_place_it_can_go_back_until_it_is_well_and_return_after_that() {
    // Before it is set aside, while it is fetched, and when it does not start.
    for steps in 0..4 {
        let (mut bench, ..) = to_restore();
        let (host, id) = in_place(&mut bench);
        for _ in 0..steps.min(2) {
            report(&mut bench, &host, Vec::new(), None);
        }
        if steps == 3 {
            report(&mut bench, &host, vec![job(id, JobState::Done, None)], None);
        }
        bench.apply(Command::CancelOperation { id }).unwrap();
        let (desired, seed, before) = told_of_alfa(&bench);
        assert_eq!((desired, seed), (DesiredState::Running, Seed::Existing));
        let returns = (steps > 0).then_some(Before::Return(id));
        assert_eq!(before, returns, "{steps}");
        bench.settle();
        let operation = &bench.state.fleet.operations[&id];
        assert_eq!(operation.state, OperationState::Cancelled, "{steps}");
    }
    let (mut bench, ..) = to_restore();
    let back = |bench: &mut Bench| {
        bench.apply(Command::ReturnTenant {
            name: name("alfa"),
            request_id: None,
        })
    };
    assert!(
        back(&mut bench)
            .unwrap_err()
            .to_string()
            .contains("nothing to return to")
    );
    let (host, id) = in_place(&mut bench);
    for jobs in [Vec::new(), Vec::new(), vec![job(id, JobState::Done, None)]] {
        report(&mut bench, &host, jobs, None);
    }
    assert!(matches!(back(&mut bench), Err(ChangeError::Busy { .. })));
    bench.settle();
    bench.settle();
    let operation = operation_of(back(&mut bench).unwrap());
    assert_eq!(told_of_alfa(&bench).2, Some(Before::Return(id)));
    bench.now += 1_000;
    let mut wanted = order(&mut bench, Wanted::Latest);
    (wanted.name, wanted.host, wanted.request_id) = (name("alfa"), None, None);
    let again = ask(&mut bench, wanted);
    assert!(again.is_err(), "not before it is what it was");
    bench.settle();
    bench.settle();
    let ended = &bench.state.fleet.operations[&operation.id];
    assert_eq!(ended.state, OperationState::Succeeded);
}

/// Fails if a tenant whose data is gone or whose host is full is stopped for what cannot be.
#[test]
fn in_its_place_nothing_begins_where_nothing_can_be_set_aside_or_started_again() {
    let wanted = |bench: &mut Bench| {
        let mut wanted = order(bench, Wanted::Latest);
        (wanted.name, wanted.host, wanted.request_id) = (name("alfa"), None, None);
        wanted
    };
    let (mut bench, ..) = to_restore();
    let mut gone = bench.converged(&name("alfa"));
    (gone.progress, gone.stuck) = (TenantProgress::Failing, Stuck::Blocked);
    bench.report(&name("h1"), resources(8, 32, 100), vec![gone]);
    let asked = wanted(&mut bench);
    let refused = ask(&mut bench, asked).unwrap_err().to_string();
    assert!(refused.contains("--as"), "{refused}");

    let (mut bench, ..) = to_restore();
    let condition = HostCondition {
        full: "the disk is full".into(),
        ..HostCondition::default()
    };
    bench.apply(conditioned(condition)).unwrap();
    let asked = wanted(&mut bench);
    let refused = ask(&mut bench, asked).unwrap_err().to_string();
    assert!(refused.contains("HostDiskFull"), "{refused}");
}

/// Fails if a way back waits for a tenant to be well that was restored because it was not.
#[test]
fn in_its_place_the_way_back_of_who_was_not_well_ends() {
    let (mut bench, ..) = to_restore();
    let (host, id) = in_place(&mut bench);
    bench.apply(Command::CancelOperation { id }).unwrap();
    let mut gone = bench.converged(&name("alfa"));
    (gone.progress, gone.stuck) = (TenantProgress::Failing, Stuck::Blocked);
    bench.report(&host, resources(8, 32, 100), vec![gone]);
    let operation = &bench.state.fleet.operations[&id];
    assert_eq!(operation.state, OperationState::Cancelled);
}

/// Fails if a tenant is down, or waited for, for ever, because somebody has removed what it was to return to.
#[test]
fn what_is_not_there_any_more_ends_the_return() {
    let (mut bench, ..) = to_restore();
    let (host, id) = in_place(&mut bench);
    for jobs in [Vec::new(), Vec::new(), vec![job(id, JobState::Done, None)]] {
        report(&mut bench, &host, jobs, None);
    }
    bench.settle();
    bench.settle();
    let returns = Command::ReturnTenant {
        name: name("alfa"),
        request_id: None,
    };
    let operation = operation_of(bench.apply(returns).unwrap());
    let mut gone = bench.converged(&name("alfa"));
    (gone.progress, gone.stuck) = (TenantProgress::Failing, Stuck::Blocked);
    bench.report(&host, resources(8, 32, 100), vec![gone]);
    let ended = &bench.state.fleet.operations[&operation.id];
    assert_eq!(ended.state, OperationState::Failed);
    assert_eq!(told_of_alfa(&bench).2, None);
}
