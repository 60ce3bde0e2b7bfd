//! What is kept of the stopped and the deleted, and for how long.

use super::*;

#[test]
fn what_stopped_is_backed_up_once_more_and_the_last_time_before_it_goes() {
    let (mut bench, host, alfa) = backed_up(&["main"]);
    let now = bench.now;
    report(&mut bench, &host, Vec::new(), Some(said("main", now, now)));
    bench.now += HOUR;
    let delete = |purge| Command::DeleteTenant {
        name: alfa.clone(),
        purge,
        request_id: None,
        cancel_running: true,
    };
    bench.apply(delete(false)).unwrap();
    assert_eq!(
        bench.state.fleet.tenants[&alfa].rests_since,
        Some(bench.now)
    );
    bench.settle();
    pass(&mut bench);
    let order = of(&bench, &alfa).order.unwrap();
    let make = (order.make.work, order.make.purpose);
    assert_eq!(make, (BackupWork::Stopped, BackupPurpose::BeforeDelete));
    bench.now += 60_000;
    let made = snapshot(1, BackupWork::Stopped, bench.now);
    report(
        &mut bench,
        &host,
        vec![job(order.id, JobState::Done, Some(made))],
        None,
    );
    assert_eq!(pass(&mut bench), [], "once is enough");

    let uid = bench.state.fleet.tenants[&alfa].uid;
    bench.apply(delete(true)).unwrap();
    bench.settle();
    assert!(!bench.state.fleet.tenants.contains_key(&alfa));
    let key = bench.state.fleet.backup_keys[&uid].clone();
    assert_eq!(key.delete_at, Some(bench.now + 30 * DAY));
    assert_eq!(restart(&bench).fleet, bench.state.fleet);
    // Another tenant of the name has nothing of it.
    bench.create("alfa", "small").unwrap();
    make_key(&mut bench, &alfa);
    assert_eq!(bench.state.fleet.backup_keys.len(), 2);
}

#[test]
fn a_key_is_deleted_in_its_time_but_by_no_clock_alone() {
    let (mut bench, host, alfa) = backed_up(&["main"]);
    let uid = bench.state.fleet.tenants[&alfa].uid;
    for purge in [false, true] {
        bench
            .apply(Command::DeleteTenant {
                name: alfa.clone(),
                purge,
                request_id: None,
                cancel_running: true,
            })
            .unwrap();
        bench.settle();
    }
    let has_key = |bench: &Bench| bench.state.fleet.backup_keys.contains_key(&uid);
    bench.apply(Command::Tick).unwrap();
    // The clock jumps by a year: nothing goes for an hour.
    bench.now += 365 * DAY;
    for _ in 0..3 {
        bench.apply(Command::Tick).unwrap();
        bench.now += 1_000;
    }
    assert!(has_key(&bench));
    for _ in 0..130 {
        bench.apply(Command::Tick).unwrap();
        bench.now += 30_000;
    }
    assert!(!has_key(&bench));
    assert_eq!(events(&bench, &EventKind::BackupKeyDeleted), 1);
    let left = bench.state.fleet.backups[&uid].clone();
    assert!(left.shredded_at.is_some() && left.made.is_empty());
    assert_eq!(restart(&bench).fleet, bench.state.fleet);
    bench
        .apply(Command::RepositoriesRemoved(vec![uid]))
        .unwrap();
    assert!(bench.state.fleet.backups.is_empty());
    assert_eq!(restart(&bench).fleet, bench.state.fleet);
    drop(host);
}

/// Fails if a record goes whose key is still there.
#[test]
fn repositories_of_the_living_are_not_said_to_be_removed() {
    let (mut bench, _, alfa) = backed_up(&["main"]);
    let uid = bench.state.fleet.tenants[&alfa].uid;
    bench
        .apply(Command::RepositoriesRemoved(vec![uid]))
        .unwrap();
    assert!(bench.state.fleet.backups.contains_key(&uid));
}

#[test]
fn a_coordinator_rebuilt_in_the_midst_of_a_restore_says_what_to_do() {
    let (mut bench, host, _) = backed_up(&["main"]);
    pass(&mut bench);
    let tenant = name("alfa");
    let id = of(&bench, &tenant).order.unwrap().id;
    let made = snapshot(1, BackupWork::Base, bench.now);
    let done = vec![job(id, JobState::Done, Some(made))];
    report(&mut bench, &host, done, None);
    let restore = RestoreTenant {
        source: tenant,
        wanted: backups::Wanted::Latest,
        destination: None,
        name: name("beta"),
        uid: bench.id(),
        secrets: Sealed("sealed".into()),
        host: Some(host),
        live: false,
        request_id: None,
    };
    let begun = bench.apply(Command::RestoreTenant(Box::new(restore)));
    let id = operation_of(begun.unwrap()).id;
    bench.apply(Command::RaiseIncarnation).unwrap();
    let operation = &bench.state.fleet.operations[&id];
    assert_eq!(operation.state, OperationState::Failed);
    let why = &operation.error;
    let says = |words| why.contains(words);
    assert!(
        says("purge it and restore again") && !says("old host"),
        "{why}"
    );
}
