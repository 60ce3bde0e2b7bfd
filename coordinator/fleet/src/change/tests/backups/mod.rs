//! Backups as stored: keys, orders, what hosts say of them, and their end.

mod any_order;
mod clock;
mod elsewhere;
mod end;
mod proofs;
mod restore;
mod said;

use isyone_types::{
    backup::{
        BackupMade, BackupPurpose, BackupReport, BackupWork, Counts, DestinationReport, Fault,
        SnapshotName, Trouble,
    },
    plan::{HostPlan, JobWork},
    report::{HostReport, JobReport, JobState},
};
use uuid::Uuid;

use super::{
    super::backups::{AskForBackup, NewKey, WRITE_EVERY_MS},
    moves::plan_of,
    *,
};
use crate::{
    backups::{self, Limits, Policy, Standing, Turn, Work},
    desired::{Sealed, backups::TenantBackups},
    observed::Hello,
    settings::BackupDestination,
};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// Any time; before it nothing was made.
const BEGIN: i64 = 100 * DAY;

pub(super) fn greet(bench: &mut Bench, host: &HostName, makes_backups: bool) {
    let accepted_generation = bench.state.fleet.hosts[host].plan_generation;
    let hello = Hello {
        makes_backups,
        proves_backups: makes_backups,
        sets_mail: true,
        sorts: true,
        peer_port: Some(7483),
        ..Hello::default()
    };
    bench
        .apply(Command::Greet {
            host: host.clone(),
            hello,
            accepted_generation,
        })
        .unwrap();
}

fn turn_on(bench: &mut Bench, destinations: &[&str]) {
    let names = destinations.iter().map(|n| name(n)).collect();
    bench.settings.backups.standard = Some(Policy::standard(names));
    for one in destinations {
        let reached = BackupDestination {
            at: isyone_types::backup::Place::Coordinator,
            rate_bytes_per_s: 0,
        };
        bench
            .settings
            .backups
            .destinations
            .insert(name(one), reached);
    }
}

fn make_key(bench: &mut Bench, tenant: &TenantName) {
    let key = NewKey {
        name: tenant.clone(),
        uid: bench.state.fleet.tenants[tenant].uid,
        key: Sealed("key".into()),
    };
    bench.apply(Command::PutBackupKeys(vec![key])).unwrap();
}

/// A running tenant that is backed up to these.
fn backed_up(destinations: &[&str]) -> (Bench, HostName, TenantName) {
    let (mut bench, host, alfa) = running();
    bench.settle();
    bench.now = BEGIN;
    turn_on(&mut bench, destinations);
    greet(&mut bench, &host, true);
    report(&mut bench, &host, Vec::new(), None);
    make_key(&mut bench, &alfa);
    (bench, host, alfa)
}

fn of(bench: &Bench, tenant: &TenantName) -> TenantBackups {
    let uid = bench.state.fleet.tenants[tenant].uid;
    (*bench.state.fleet.backups[&uid]).clone()
}

/// A report of the host on its jobs and its tenants.
fn report(bench: &mut Bench, host: &HostName, jobs: Vec<JobReport>, backup: Option<BackupReport>) {
    let tenants = bench
        .state
        .fleet
        .by_host
        .get(host)
        .map(|index| index.tenants.clone());
    let tenants = tenants.into_iter().flatten().map(|tenant| {
        let mut report = bench.converged_on(&tenant, host);
        report.backup = backup.clone().map(Box::new);
        report
    });
    let report = HostReport {
        resources: resources(8, 32, 100),
        docker_error: String::new(),
        tenants: tenants.collect(),
        complete: true,
        jobs,
        condition: Default::default(),
    };
    bench
        .apply(Command::Report {
            host: host.clone(),
            report: Box::new(report),
        })
        .unwrap();
}

fn snapshot(number: u8, work: BackupWork, at: i64) -> BackupMade {
    BackupMade {
        snapshot: SnapshotName([number; 32]),
        work,
        at,
        ended_at: at,
        read_bytes: 10,
        stored_bytes: 5,
        files: 1,
        left_out: 0,
        segments: None,
        counts: Counts::default(),
    }
}

fn job(id: Uuid, state: JobState, made: Option<BackupMade>) -> JobReport {
    JobReport {
        bytes_done: 1,
        bytes_total: 2,
        message: match state {
            JobState::Failed => "the destination is full".to_owned(),
            _ => String::new(),
        },
        fault: (state == JobState::Failed).then_some(Fault::Full),
        backup: made.map(Box::new),
        ..JobReport::new(id, state)
    }
}

fn said(destination: &str, base_at: i64, shipped_to: i64) -> BackupReport {
    BackupReport {
        destinations: vec![DestinationReport {
            name: name(destination),
            base_at: Some(base_at),
            shipped: None,
            shipped_lsn: 0,
            shipped_to: Some(shipped_to),
            gap_since: None,
            trouble: None,
            newest: None,
            snapshots: 0,
            stored_bytes: 0,
        }],
        ..BackupReport::default()
    }
}

/// What the coordinator's loop does in a pass.
fn pass(bench: &mut Bench) -> Vec<Turn> {
    let settings = bench.settings.clone();
    let rota = views::rota(&bench.state, &settings, bench.now);
    bench.apply(Command::EndBackupOrders(rota.dead)).unwrap();
    let subjects = rota
        .subjects
        .iter()
        .map(|(subject, _, policy)| (subject, *policy, policy.window.night(bench.now, |_| 0)));
    let (begun, _) = backups::turns(subjects, &rota.running, Limits::default(), bench.now);
    bench.apply(Command::OrderBackups(begun.clone())).unwrap();
    begun
}

fn jobs(plan: &HostPlan) -> Vec<(Uuid, BackupWork, BackupPurpose)> {
    let works = plan.jobs.iter().map(|order| match &order.work {
        JobWork::Backup(make) => (order.id, make.work, make.purpose),
        other => panic!("{other:?}"),
    });
    works.collect()
}

fn writes_of_backups(bench: &Bench, from: usize) -> usize {
    let writes = bench.effects.writes[from..].iter();
    writes
        .filter(|write| matches!(write, Write::Put(RecordValue::Backups(_))))
        .count()
}

fn events(bench: &Bench, kind: &EventKind) -> usize {
    let events = bench.state.fleet.events.iter();
    events.filter(|event| event.kind == *kind).count()
}

#[test]
fn a_host_is_told_of_backups_when_its_agent_makes_them_and_there_is_a_key() {
    let (mut bench, host, alfa) = running();
    turn_on(&mut bench, &["main"]);
    let told = |bench: &Bench| plan_of(bench, &host).tenants[0].backup.is_some();
    make_key(&mut bench, &alfa);
    assert!(!told(&bench), "its agent is of a version before");
    let generation = bench.state.fleet.hosts[&host].plan_generation;
    greet(&mut bench, &host, true);
    assert!(bench.state.fleet.hosts[&host].plan_generation > generation);
    let plan = plan_of(&bench, &host);
    let tenant = &plan.tenants[0];
    let backup = tenant.backup.as_ref().unwrap();
    assert_eq!(backup.destinations[0].name.as_str(), "main");
    assert_eq!((backup.ship_s, tenant.wal_spool.is_some()), (300, true));
    // The same agent again changes nothing, an older one takes it back.
    let generation = bench.state.fleet.hosts[&host].plan_generation;
    greet(&mut bench, &host, true);
    assert_eq!(bench.state.fleet.hosts[&host].plan_generation, generation);
    assert_eq!(restart(&bench).fleet, bench.state.fleet);
    greet(&mut bench, &host, false);
    assert!(!told(&bench));
    assert!(plan_of(&bench, &host).tenants[0].wal_spool.is_none());
}

#[test]
fn a_key_is_made_once_and_for_a_tenant_that_is_there() {
    let (mut bench, _, alfa) = backed_up(&["main"]);
    let uid = bench.state.fleet.tenants[&alfa].uid;
    let put = |uid| {
        let key = Sealed("other".into());
        let name = name("alfa");
        Command::PutBackupKeys(vec![NewKey { name, uid, key }])
    };
    bench.apply(put(uid)).unwrap();
    bench.apply(put(Uuid::from_u128(1))).unwrap();
    assert_eq!(bench.state.fleet.backup_keys.len(), 1);
    assert_eq!(bench.state.fleet.backup_keys[&uid].key.0.as_ref(), "key");
}

#[test]
fn a_backup_is_ordered_made_and_remembered() {
    let (mut bench, host, alfa) = backed_up(&["main"]);
    let begun = pass(&mut bench);
    assert_eq!(begun.len(), 1);
    let ordered = jobs(&plan_of(&bench, &host));
    let [(id, BackupWork::Base, BackupPurpose::Scheduled)] = ordered[..] else {
        panic!("{ordered:?}")
    };
    assert_eq!(pass(&mut bench), [], "one at a time");
    report(
        &mut bench,
        &host,
        vec![job(id, JobState::Running, None)],
        None,
    );
    assert!(of(&bench, &alfa).order.is_some());
    bench.now += HOUR;
    let made = snapshot(1, BackupWork::Base, bench.now - HOUR / 2);
    let done = job(id, JobState::Done, Some(made));
    report(&mut bench, &host, vec![done.clone()], None);
    let backups = of(&bench, &alfa);
    let main = &backups.made["main"];
    assert_eq!(backups.order, None);
    assert_eq!(main.repository.base_at, Some(bench.now - HOUR / 2));
    assert_eq!(main.snapshots.len(), 1);
    assert_eq!(jobs(&plan_of(&bench, &host)), []);
    // Said again, it is nothing new.
    let writes = bench.effects.writes.len();
    report(&mut bench, &host, vec![done], None);
    assert_eq!(writes_of_backups(&bench, writes), 0);
    assert_eq!(restart(&bench).fleet, bench.state.fleet);
}

#[test]
fn a_failure_is_told_and_tried_again_later() {
    let (mut bench, host, alfa) = backed_up(&["main"]);
    for failures in 1..4 {
        pass(&mut bench);
        let id = of(&bench, &alfa).order.unwrap().id;
        report(
            &mut bench,
            &host,
            vec![job(id, JobState::Failed, None)],
            None,
        );
        let made = &of(&bench, &alfa).made["main"];
        assert_eq!(
            (made.failures, &*made.failure),
            (failures, "the destination is full")
        );
        assert_eq!(pass(&mut bench), [], "not at once");
        bench.now += 3 * HOUR;
        report(&mut bench, &host, Vec::new(), None);
    }
    assert_eq!(events(&bench, &EventKind::BackupFailed), 3);
    // Who asks now does not wait.
    pass(&mut bench);
    let id = of(&bench, &alfa).order.unwrap().id;
    report(
        &mut bench,
        &host,
        vec![job(id, JobState::Failed, None)],
        None,
    );
    assert_eq!(pass(&mut bench), []);
    let tenants = vec![alfa.clone()];
    let labels = Vec::new();
    let ask = Command::AskForBackup(Box::new(AskForBackup { tenants, labels }));
    bench.apply(ask).unwrap();
    assert_eq!(of(&bench, &alfa).made["main"].failures, 0);
    assert_eq!(pass(&mut bench).len(), 1);
    let id = of(&bench, &alfa).order.unwrap().id;
    let made = snapshot(1, BackupWork::Base, bench.now);
    report(
        &mut bench,
        &host,
        vec![job(id, JobState::Done, Some(made))],
        None,
    );
    assert_eq!(of(&bench, &alfa).made["main"].failures, 0);
}

#[test]
fn what_is_asked_for_comes_at_once_and_everywhere_before_it_is_over() {
    let (mut bench, host, alfa) = backed_up(&["main", "off-site"]);
    let now = bench.now;
    for place in ["main", "off-site"] {
        bench.now += 2 * WRITE_EVERY_MS;
        report(&mut bench, &host, Vec::new(), Some(said(place, now, now)));
    }
    assert_eq!(pass(&mut bench), [], "there is one, and it is day");
    let ask = |tenant: &TenantName| {
        Command::AskForBackup(Box::new(AskForBackup {
            tenants: vec![tenant.clone()],
            labels: vec![name("before-import")],
        }))
    };
    assert!(matches!(
        bench.apply(ask(&name("nobody"))),
        Err(ChangeError::TenantNotFound(_))
    ));
    bench.apply(ask(&alfa)).unwrap();
    bench.apply(ask(&alfa)).unwrap();
    for (number, left) in [(1, 1), (2, 0)] {
        let begun = pass(&mut bench);
        assert_eq!((begun.len(), begun[0].work), (1, Work::Asked));
        let order = of(&bench, &alfa).order.unwrap();
        assert_eq!(order.make.purpose, BackupPurpose::OnOrder);
        let made = snapshot(number, BackupWork::Base, bench.now);
        report(
            &mut bench,
            &host,
            vec![job(order.id, JobState::Done, Some(made))],
            None,
        );
        let backups = of(&bench, &alfa);
        assert_eq!(backups.asked.map_or(0, |asked| asked.left.len()), left);
        let labels = &backups.made[&order.make.destination].snapshots[0].labels;
        assert_eq!(labels, &[name("before-import")]);
    }
    assert_eq!(pass(&mut bench), []);
    greet(&mut bench, &host, false);
    assert!(matches!(
        bench.apply(ask(&alfa)),
        Err(ChangeError::NoBackups { .. })
    ));
}

#[test]
fn an_order_that_nobody_carries_out_ends() {
    let (mut bench, host, alfa) = backed_up(&["main"]);
    pass(&mut bench);
    // Its host is well, has the plan, and never speaks of the job.
    bench.now += 10 * 60_000;
    report(&mut bench, &host, Vec::new(), None);
    pass(&mut bench);
    assert!(of(&bench, &alfa).order.is_some(), "it may be on its way");
    bench.now += 6 * 60_000;
    report(&mut bench, &host, Vec::new(), None);
    pass(&mut bench);
    let backups = of(&bench, &alfa);
    assert_eq!((backups.order, backups.made["main"].failures), (None, 1));
    assert_eq!(
        events(&bench, &EventKind::BackupFailed),
        0,
        "nobody said that it failed"
    );
}

/// What its new host knows of its log begins with a base.
#[test]
fn a_tenant_that_has_moved_is_backed_up_anew_and_at_once() {
    let (mut bench, _, alfa) = backed_up(&["main"]);
    let h2 = bench.host("h2", resources(8, 32, 100));
    greet(&mut bench, &h2, true);
    let moving = Command::MoveTenant {
        name: alfa.clone(),
        to: h2.clone().into(),
        max_pause_ms: None,
        request_id: None,
    };
    let id = operation_of(bench.apply(moving).unwrap()).id;
    bench.settle();
    bench.settle();
    assert_eq!(of(&bench, &alfa).asked, None);
    report(&mut bench, &h2, vec![job(id, JobState::Done, None)], None);
    let asked = of(&bench, &alfa).asked.unwrap();
    let left: Vec<&str> = asked.left.iter().map(|name| name.as_str()).collect();
    assert_eq!(left, ["main"]);
    assert_eq!(pass(&mut bench), [], "not while it moves");
    for _ in 0..3 {
        bench.settle();
    }
    let begun = pass(&mut bench);
    assert_eq!(begun.len(), 1);
    let order = of(&bench, &alfa).order.unwrap();
    assert_eq!((order.host, order.make.work), (h2, BackupWork::Base));
}

#[test]
fn a_host_reaches_what_is_placed_there_and_nothing_else() {
    let (mut bench, h1, alfa) = backed_up(&["main"]);
    let h2 = bench.host("h2", resources(8, 32, 100));
    let uid = bench.state.fleet.tenants[&alfa].uid;
    let may = |bench: &Bench, host: &HostName, tenant, destination: &str| {
        let (state, settings) = (&bench.state, &bench.settings);
        views::may_reach_repository(state, settings, host, tenant, &name(destination))
    };
    assert!(may(&bench, &h1, uid, "main"));
    assert!(!may(&bench, &h2, uid, "main"));
    assert!(!may(&bench, &h1, uid, "other"));
    assert!(!may(&bench, &h1, Uuid::from_u128(5), "main"));
    assert!(!may(&bench, &name("nobody"), uid, "main"));
    // Where it is on its way to it may, and where it has left it may not any more.
    bench
        .apply(Command::MoveTenant {
            name: alfa.clone(),
            to: h2.clone().into(),
            max_pause_ms: None,
            request_id: None,
        })
        .unwrap();
    assert!(may(&bench, &h2, uid, "main") && may(&bench, &h1, uid, "main"));
    bench.settings.backups.standard = None;
    assert!(!may(&bench, &h1, uid, "main"), "they are off");
}
