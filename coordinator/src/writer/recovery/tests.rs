//! Commits whose answers are lost, commits that fail, a store that cannot be read, another leader: what callers are told
//! is true, and memory is what a fresh start would read.
//!
//! Not here: which error of a database means what (store/sqlite).

use std::sync::Arc;

use isyone_fleet::{
    change::{Command, Outcome},
    event::EventKind,
    testing::{name, settings},
    written::{self, Contents, Write},
};
use isyone_proto::ids::TenantName;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::writer::{
    Handle, start,
    store::{CommitError, Store, StoreFuture, TERM, Term, memory::MemoryStore},
    tests::{Counter, SlowDisk, creation, disk, report},
};

/// How long a commit takes here; time is simulated.
const COMMIT: Duration = Duration::from_millis(50);

/// A writer on a disk with one host that has reported.
async fn running() -> (MemoryStore, Handle, JoinHandle<()>, CancellationToken) {
    let (disk, host) = disk();
    let stop = CancellationToken::new();
    let slow = Box::new(SlowDisk(disk.clone(), COMMIT));
    let source = Counter(0, 0);
    let (handle, task) = start(slow, Arc::new(settings()), source, stop.clone())
        .await
        .unwrap();
    let report = report();
    let heard = Command::Report { host, report };
    handle.submit_patiently("host/h1", heard).await.unwrap();
    (disk, handle, task, stop)
}

/// What a coordinator that started now would believe.
fn read(disk: &MemoryStore) -> isyone_fleet::desired::Fleet {
    written::fleet(disk.contents()).unwrap()
}

fn submit(
    handle: &Handle,
    command: Command,
) -> JoinHandle<Result<Outcome, crate::writer::SubmitError>> {
    let handle = handle.clone();
    tokio::spawn(async move { handle.submit("ana", command).await })
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_after_the_commit_does_not_roll_memory_back() {
    let (disk, handle, task, stop) = running().await;
    let woken = handle.host_signal(&name("h1"));
    disk.lose_answers(1);
    let first = submit(&handle, creation("alfa"));
    tokio::time::sleep(COMMIT / 2).await;
    // Carried out while alfa is on its way to the disk; it stays valid, because alfa is stored.
    let suspend = Command::SuspendTenant {
        name: name("alfa"),
        request_id: None,
        cancel_running: true,
    };
    let second = submit(&handle, suspend);
    first.await.unwrap().expect("it is stored");
    second.await.unwrap().expect("and so is what builds on it");
    let alfa: TenantName = name("alfa");
    assert_eq!(handle.snapshot().fleet.tenants[&alfa].generation, 2);
    let heard = tokio::time::timeout(COMMIT, woken.notified()).await;
    heard.expect("the host's session is woken");
    stop.cancel();
    task.await.unwrap();
    assert!(read(&disk) == handle.snapshot().fleet);
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_vanished_is_not_made_nor_is_what_stands_on_it() {
    let (disk, handle, task, stop) = running().await;
    let observed = handle.snapshot().observed.clone();
    disk.lose_commits(1);
    let first = submit(&handle, creation("alfa"));
    tokio::time::sleep(COMMIT / 2).await;
    let second = submit(&handle, Command::AdoptSettings);
    for failed in [first, second] {
        let failed = failed.await.unwrap().unwrap_err();
        assert!(matches!(failed, SubmitError::NotStored(_)), "{failed}");
    }
    assert!(handle.snapshot().fleet.tenants.is_empty());
    assert_eq!(handle.snapshot().observed.hosts, observed.hosts);
    submit(&handle, creation("alfa")).await.unwrap().unwrap();
    stop.cancel();
    task.await.unwrap();
    assert!(read(&disk) == handle.snapshot().fleet);
}

/// A disk from which a tenant disappears while nobody looks.
struct Forgetful(SlowDisk, TenantName);

impl Store for Forgetful {
    fn load(&mut self) -> StoreFuture<'_, Contents> {
        Box::pin(async {
            let mut contents = self.0.load().await?;
            contents
                .records
                .retain(|record| record.id != self.1.as_str());
            Ok(contents)
        })
    }
    fn commit<'a>(
        &'a mut self,
        term: Term,
        writes: &'a [Write],
    ) -> StoreFuture<'a, (), CommitError> {
        self.0.commit(term, writes)
    }
}

#[tokio::test(start_paused = true)]
async fn where_memory_and_store_differ_the_store_is_right() {
    for stored in [true, false] {
        let (disk, host) = disk();
        let store = Forgetful(SlowDisk(disk.clone(), COMMIT), name("alfa"));
        let (handle, _task) = start(
            Box::new(store),
            Arc::new(settings()),
            Counter(0, 0),
            CancellationToken::new(),
        )
        .await
        .unwrap();
        let report = report();
        let heard = Command::Report { host, report };
        handle.submit_patiently("host/h1", heard).await.unwrap();
        submit(&handle, creation("alfa")).await.unwrap().unwrap();
        let woken = handle.host_signal(&name("h1"));
        let version = handle.snapshot().version;
        disk.lose_answers(usize::from(stored));
        disk.lose_commits(usize::from(!stored));
        let first = submit(&handle, note(1));
        tokio::time::sleep(COMMIT / 2).await;
        let second = submit(&handle, note(2)).await.unwrap();
        assert!(matches!(second, Err(SubmitError::NotStored(_))));
        assert_eq!(first.await.unwrap().is_ok(), stored);
        let state = handle.snapshot();
        assert!(state.fleet.tenants.is_empty() && state.version > version);
        assert_eq!(state.observed.hosts.len(), 1, "what hosts said stays known");
        let heard = tokio::time::timeout(COMMIT, woken.notified()).await;
        heard.expect("all sessions look at their plans");
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_store_cannot_be_read_commands_are_refused_and_then_it_goes_on() {
    let (disk, handle, _task, _stop) = running().await;
    disk.lose_answers(1);
    disk.fail_loads(2);
    let first = submit(&handle, creation("alfa"));
    tokio::time::sleep(COMMIT + PAUSES[0] / 2).await;
    let meanwhile = submit(&handle, creation("beta")).await.unwrap();
    let failed = meanwhile.unwrap_err();
    assert!(
        failed.to_string().contains("being read again"),
        "unexpected: {failed}"
    );
    first.await.unwrap().expect("it is stored");
    submit(&handle, creation("beta")).await.unwrap().unwrap();
    assert!(read(&disk) == handle.snapshot().fleet);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_unreadable_ends_the_writer_and_nobody_is_told_a_guess() {
    let (disk, handle, task, _stop) = running().await;
    disk.lose_answers(1);
    disk.fail_loads(usize::MAX);
    let first = submit(&handle, creation("alfa"));
    task.await.unwrap();
    let unknown = first.await.unwrap().unwrap_err();
    assert!(matches!(unknown, SubmitError::Unknown(_)), "{unknown}");
    let late = submit(&handle, creation("beta")).await.unwrap();
    assert!(matches!(late, Err(SubmitError::Stopping)), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_is_no_longer_the_leader_ends_and_stores_nothing() {
    let (disk, handle, task, _stop) = running().await;
    let before = disk.contents().commits;
    disk.take_over(Term(TERM.0 + 1));
    let first = submit(&handle, creation("alfa"));
    tokio::time::sleep(COMMIT / 2).await;
    let second = submit(&handle, creation("beta"));
    task.await.unwrap();
    for failed in [first, second] {
        let failed = failed.await.unwrap().unwrap_err();
        assert!(matches!(failed, SubmitError::NotStored(_)), "{failed}");
    }
    assert!(handle.snapshot().fleet.tenants.is_empty());
    assert_eq!(disk.contents().commits, before);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_somebody_else_has_written_to_ends_the_writer() {
    let (disk, handle, task, _stop) = running().await;
    let first = submit(&handle, creation("alfa"));
    tokio::time::sleep(COMMIT / 2).await;
    for _ in 0..2 {
        disk.apply(&[]).unwrap();
    }
    disk.lose_commits(1);
    task.await.unwrap();
    let unknown = first.await.unwrap().unwrap_err();
    assert!(matches!(unknown, SubmitError::Unknown(_)), "{unknown}");
}

/// A command that leaves a trace: its text is stored if and only if it was carried out.
fn note(mark: u32) -> Command {
    Command::Note {
        kind: EventKind::EdgeUp,
        host: None,
        message: format!("mark {mark}"),
    }
}

fn any(rng: &mut StdRng, mark: u32) -> Command {
    let tenant: TenantName = name(["alfa", "beta", "gama"][rng.random_range(0..3usize)]);
    match rng.random_range(0..6u32) {
        0 => creation(tenant.as_str()),
        1 => Command::SuspendTenant {
            name: tenant,
            request_id: None,
            cancel_running: true,
        },
        2 => Command::ResumeTenant {
            name: tenant,
            request_id: None,
        },
        3 => Command::CordonHost {
            host: name("h1"),
            cordoned: rng.random_range(0..4u32) == 0,
        },
        _ => note(mark),
    }
}

/// Returns whether it takes a while until all is well again.
fn inject(rng: &mut StdRng, disk: &MemoryStore) -> bool {
    match rng.random_range(0..6u32) {
        0 => disk.fail_next(1),
        1 => disk.lose_answers(1),
        2 => disk.lose_commits(1),
        3 => {
            // This round's commit must meet it, not one of a later round.
            disk.fail_next(0);
            disk.lose_answers(1);
            disk.fail_loads(rng.random_range(1..PAUSES.len()));
            return true;
        }
        _ => {}
    }
    false
}

/// Whether what was answered is what is stored.
fn is_true(
    fleet: &isyone_fleet::desired::Fleet,
    mark: u32,
    answer: &Result<Outcome, SubmitError>,
) -> bool {
    let text = format!("mark {mark}");
    let stored = fleet.events.iter().any(|event| event.message == text);
    match answer {
        Ok(_) => stored,
        Err(SubmitError::NotStored(_)) => !stored,
        Err(_) => false,
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_answers_are_true_and_memory_is_what_is_stored() {
    let (mut made, mut not_made) = (0, 0);
    for seed in 0..40 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (disk, handle, task, stop) = running().await;
        let (mut notes, mut others) = (Vec::new(), Vec::new());
        for mark in 0..60 {
            let unreadable = inject(&mut rng, &disk);
            for _ in 0..rng.random_range(1..3u32) {
                others.push(submit(&handle, any(&mut rng, u32::MAX)));
            }
            notes.push((mark, submit(&handle, note(mark))));
            tokio::time::sleep(COMMIT * rng.random_range(0..150) / 100).await;
            if unreadable {
                // More failures while it is read again would end the writer, which is another test.
                tokio::time::sleep(PAUSES.iter().sum()).await;
            }
        }
        stop.cancel();
        task.await.unwrap();
        let fleet = read(&disk);
        let snapshot = handle.snapshot();
        assert_eq!(fleet.events, snapshot.fleet.events, "seed {seed}");
        assert!(fleet == snapshot.fleet, "seed {seed}");
        for (mark, note) in notes {
            let answer = note.await.unwrap();
            assert!(
                is_true(&fleet, mark, &answer),
                "seed {seed}, mark {mark}: {answer:?}"
            );
            *(if answer.is_ok() {
                &mut made
            } else {
                &mut not_made
            }) += 1;
        }
        for other in others {
            if let Ok(Outcome::Tenant { tenant, .. }) = other.await.unwrap() {
                assert!(fleet.tenants.contains_key(&tenant.name), "seed {seed}");
            }
        }
    }
    assert!(made > 200 && not_made > 200, "{made} {not_made}");
}
