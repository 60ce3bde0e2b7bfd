//! What is kept of the stopped and the deleted, and for how long.

use super::*;
use crate::operation::Procedure;

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

/// Fails if what nothing is left of but its backups cannot be had back while its key is kept, or if it comes back as it was used.
#[test]
fn one_that_is_gone_is_restored_as_a_new_tenant_until_its_key_goes() {
    let (mut bench, host, alfa) = backed_up(&["main"]);
    pass(&mut bench);
    let order = of(&bench, &alfa).order.unwrap();
    let made = snapshot(1, BackupWork::Base, bench.now);
    let done = vec![job(order.id, JobState::Done, Some(made))];
    report(&mut bench, &host, done, None);
    let was = bench.state.fleet.tenants[&alfa].clone();
    delete_and_purge(&mut bench, &alfa);
    assert!(!bench.state.fleet.tenants.contains_key(&alfa));
    assert_eq!(restart(&bench).fleet, bench.state.fleet);
    let restore = |bench: &mut Bench, as_name: &str| {
        let restore = restore_as(bench, &host, as_name);
        bench.apply(Command::RestoreTenant(Box::new(restore)))
    };
    // Under its own name it is another tenant, too: the name is free, and the key stays the other's.
    for as_name in ["beta", "alfa"] {
        let key = bench.state.fleet.backup_keys[&was.uid].clone();
        bench.state.fleet.remove_backup_key(was.uid);
        let why = restore(&mut bench, as_name).unwrap_err();
        assert!(matches!(why, ChangeError::TenantNotFound(_)), "{why}");
        bench.state.fleet.put_backup_key(key);
        let begun = operation_of(restore(&mut bench, as_name).unwrap());
        let Procedure::Restore(restoration) = &begun.procedure else {
            panic!("{begun:?}");
        };
        assert_eq!(restoration.source_uid, was.uid);
        assert!(restoration.rekey && restoration.neutralise && !restoration.in_place);
        let new: TenantName = name(as_name);
        // Somebody has taken the name since: what was meant as new takes nobody's place.
        if as_name == "alfa" {
            let again = restore_as(&mut bench, &host, as_name);
            let why = bench.apply(Command::RestoreTenant(Box::new(again)));
            let why = why.unwrap_err().to_string();
            assert!(why.contains("another name"), "{why}");
        }
        let new = &bench.state.fleet.tenants[&new];
        assert!(new.uid != was.uid && new.halted);
        assert_eq!((&new.spec.plan, new.size), (&was.spec.plan, was.size));
        assert!(new.spec.domains.is_empty());
    }
}

#[test]
fn a_key_is_deleted_in_its_time_but_by_no_clock_alone() {
    let (mut bench, host, alfa) = backed_up(&["main"]);
    let uid = bench.state.fleet.tenants[&alfa].uid;
    delete_and_purge(&mut bench, &alfa);
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
        as_new: false,
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

fn restore_as(bench: &mut Bench, host: &HostName, as_name: &str) -> RestoreTenant {
    RestoreTenant {
        source: name("alfa"),
        wanted: backups::Wanted::Latest,
        destination: None,
        name: name(as_name),
        uid: bench.id(),
        secrets: Sealed("sealed".into()),
        host: Some(host.clone()),
        live: false,
        as_new: true,
        request_id: None,
    }
}

fn delete_and_purge(bench: &mut Bench, tenant: &TenantName) {
    for purge in [false, true] {
        bench
            .apply(Command::DeleteTenant {
                name: tenant.clone(),
                purge,
                request_id: None,
                cancel_running: true,
            })
            .unwrap();
        bench.settle();
    }
}
