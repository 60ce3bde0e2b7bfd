//! What hosts say: what is believed, and how often it is written down.

use super::{
    super::super::backups::{JudgedBackups, POINT_EVERY_MS},
    *,
};

/// Fails if a host whose clock is ahead, or that lies, makes a tenant look safe.
#[test]
fn what_cannot_be_is_not_believed() {
    let (mut bench, host, alfa) = backed_up(&["main"]);
    pass(&mut bench);
    let id = of(&bench, &alfa).order.unwrap().id;
    let tomorrow = bench.now + DAY;
    let made = snapshot(1, BackupWork::Base, tomorrow);
    report(
        &mut bench,
        &host,
        vec![job(id, JobState::Done, Some(made))],
        None,
    );
    let backups = of(&bench, &alfa);
    assert_eq!(backups.made["main"].repository.base_at, None);
    assert_eq!(backups.made["main"].failures, 1);
    bench.now += WRITE_EVERY_MS;
    report(
        &mut bench,
        &host,
        Vec::new(),
        Some(said("main", tomorrow, tomorrow + DAY)),
    );
    let standing = |bench: &Bench| {
        let tenant = &bench.state.fleet.tenants[&alfa];
        views::protection(&bench.state, &bench.settings, tenant, bench.now).unwrap()
    };
    assert_eq!(standing(&bench).standing, Standing::NotProtected);
    // Of a destination that nobody has named, nothing is kept.
    let now = bench.now;
    report(
        &mut bench,
        &host,
        Vec::new(),
        Some(said("elsewhere", now, now)),
    );
    assert!(!of(&bench, &alfa).made.contains_key("elsewhere"));
    report(&mut bench, &host, Vec::new(), Some(said("main", now, now)));
    assert_eq!(standing(&bench).standing, Standing::Protected);
}

/// Fails if a host that was taken over is told to make one backup after another, until they have pushed out all others; or has what it
/// only says taken for what it was ordered.
#[test]
fn an_answer_is_no_older_than_its_order_and_a_word_is_no_answer() {
    let (mut bench, host, alfa) = backed_up(&["main"]);
    pass(&mut bench);
    let id = of(&bench, &alfa).order.unwrap().id;
    let long_ago = snapshot(1, BackupWork::Base, bench.now - DAY);
    let done = vec![job(id, JobState::Done, Some(long_ago))];
    report(&mut bench, &host, done, None);
    let made = of(&bench, &alfa).made["main"].clone();
    assert_eq!((made.failures, made.snapshots.len()), (1, 0));
    bench.now += WRITE_EVERY_MS;
    let mut told = said("main", bench.now, bench.now);
    told.destinations[0].newest = Some(snapshot(2, BackupWork::Base, bench.now));
    report(&mut bench, &host, Vec::new(), Some(told));
    assert!(of(&bench, &alfa).made["main"].snapshots[0].only_said);
}

/// Fails if a host can keep the store busy with what it says.
#[test]
fn what_a_host_says_is_written_down_seldom() {
    let (mut bench, host, _) = backed_up(&["main"]);
    let from = bench.effects.writes.len();
    let minutes = 600;
    for second in 0..minutes * 60 / 10 {
        bench.now = BEGIN + second * 10_000;
        let base = BEGIN + second;
        let mut told = said("main", base, bench.now);
        let number = u8::try_from(second % 250).unwrap();
        told.destinations[0].newest = Some(snapshot(number, BackupWork::Base, base));
        report(&mut bench, &host, Vec::new(), Some(told));
    }
    let most = usize::try_from(minutes).unwrap() + 2;
    let written = writes_of_backups(&bench, from);
    assert!(written <= most, "{written}");
}

#[test]
fn a_point_that_moves_on_is_written_down_each_hour_and_trouble_at_once() {
    let (mut bench, host, alfa) = backed_up(&["main"]);
    let base = bench.now;
    report(
        &mut bench,
        &host,
        Vec::new(),
        Some(said("main", base, base)),
    );
    let from = bench.effects.writes.len();
    for minutes in 1..=60 {
        bench.now = base + minutes * 60_000;
        let now = bench.now;
        report(&mut bench, &host, Vec::new(), Some(said("main", base, now)));
    }
    assert_eq!(writes_of_backups(&bench, from), 1);
    assert_eq!(
        of(&bench, &alfa).made["main"].repository.shipped_to,
        Some(base + POINT_EVERY_MS)
    );
    bench.now += 2 * WRITE_EVERY_MS;
    let now = bench.now;
    let mut told = said("main", base, now);
    told.destinations[0].trouble = Some(Trouble {
        fault: Fault::Full,
        message: "full".to_owned(),
        since: now - 5,
        failures: 1,
    });
    report(&mut bench, &host, Vec::new(), Some(told));
    let repository = of(&bench, &alfa).made["main"].repository;
    assert_eq!(
        (repository.failing_since, repository.shipped_to),
        (Some(now - 5), Some(now))
    );
    // After a restart nobody is shown as unknown who is known.
    let after = restart(&bench);
    let tenant = &after.fleet.tenants[&alfa];
    let shown = views::protection(&after, &bench.settings, tenant, bench.now).unwrap();
    assert_eq!(shown.standing, Standing::Protected);
}

#[test]
fn who_cannot_be_restored_is_told_of_once_and_when_it_is_over() {
    let (mut bench, _, alfa) = backed_up(&["main"]);
    let tenant = bench.state.fleet.tenants[&alfa].uid;
    let judged = |is_bad| {
        Command::BackupsJudged(vec![JudgedBackups {
            tenant,
            is_bad,
            sentence: "would lose 3 h".to_owned(),
        }])
    };
    for is_bad in [false, true, true, false, false] {
        bench.apply(judged(is_bad)).unwrap();
    }
    let told =
        [EventKind::BackupLate, EventKind::BackupRecovered].map(|kind| events(&bench, &kind));
    assert_eq!(told, [1, 1]);
}
