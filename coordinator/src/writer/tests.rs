//! The writer from outside: it answers after the commit, a failed commit changes nothing, and what was answered
//! survives.

use isyone_fleet::{
    testing::{Bench, name, resources, settings},
    written::{Contents, Record, RecordKind, RecordValue, Write},
};
use isyone_proto::ids::TenantName;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::writer::store::{CommitError, Term, memory::MemoryStore, sqlite::SqliteStore};

pub(super) struct Counter(pub(super) i64, pub(super) u128);

impl Source for Counter {
    fn now(&mut self) -> i64 {
        self.0 += 1;
        self.0
    }
    fn id(&mut self) -> Uuid {
        self.1 += 1;
        Uuid::from_u128((1 << 100) + self.1)
    }
}

/// A disk with one host, left by an earlier run.
pub(super) fn disk() -> (MemoryStore, HostName) {
    let mut bench = Bench::default();
    let host = bench.host("h1", resources(8, 32, 100));
    let store = MemoryStore::default();
    store.apply(&bench.effects.writes).unwrap();
    (store, host)
}

pub(super) fn creation(tenant: &str) -> Command {
    let mut bench = Bench::default();
    let mut creation = bench.creation(tenant, "small");
    creation.uid = Uuid::from_u128(77);
    Command::CreateTenant(Box::new(creation))
}

pub(super) fn report() -> Box<isyone_proto::report::HostReport> {
    Box::new(isyone_proto::report::HostReport {
        resources: resources(8, 32, 100),
        docker_error: String::new(),
        tenants: Vec::new(),
        complete: true,
        jobs: Vec::new(),
        condition: Default::default(),
    })
}

#[tokio::test]
async fn a_failed_commit_changes_nothing_and_an_answered_one_survives() {
    let (disk, host) = disk();
    let stop = CancellationToken::new();
    let (handle, task) = start(
        Box::new(disk.clone()),
        Arc::new(settings()),
        Counter(0, 0),
        stop.clone(),
    )
    .await
    .unwrap();
    handle
        .submit_patiently(
            "host/h1",
            Command::Report {
                host,
                report: report(),
            },
        )
        .await
        .unwrap();
    disk.fail_next(1);
    let failed = handle.submit("ana", creation("alfa")).await.unwrap_err();
    assert!(matches!(failed, SubmitError::NotStored(_)), "{failed}");
    assert!(handle.snapshot().fleet.tenants.is_empty());
    handle.submit("ana", creation("alfa")).await.unwrap();
    let alfa: TenantName = name("alfa");
    assert!(handle.snapshot().fleet.tenants.contains_key(&alfa));
    stop.cancel();
    task.await.unwrap();
    let reloaded = isyone_fleet::written::fleet(disk.contents()).unwrap();
    assert_eq!(reloaded.tenants, handle.snapshot().fleet.tenants);
    assert!(matches!(
        handle.submit("ana", creation("beta")).await,
        Err(SubmitError::Stopping)
    ));
}

#[tokio::test]
async fn a_plan_change_wakes_its_host_only() {
    let (disk, host) = disk();
    let (handle, _task) = start(
        Box::new(disk),
        Arc::new(settings()),
        Counter(0, 0),
        CancellationToken::new(),
    )
    .await
    .unwrap();
    handle
        .submit(
            "host/h1",
            Command::Report {
                host: host.clone(),
                report: report(),
            },
        )
        .await
        .unwrap();
    let (mine, other) = (handle.host_signal(&host), handle.host_signal(&name("h2")));
    handle.submit("ana", creation("alfa")).await.unwrap();
    tokio::time::timeout(Duration::from_secs(1), mine.notified())
        .await
        .unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(20), other.notified())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn sqlite_keeps_what_memory_keeps_and_lets_nobody_else_in() {
    let (disk, _) = disk();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fleet.db");
    let writes: Vec<_> = disk
        .contents()
        .records
        .into_iter()
        .map(|record| Write::Put(RecordValue::Copy(record)))
        .chain(
            disk.contents()
                .events
                .into_iter()
                .map(|e| Write::Event(Arc::new(e))),
        )
        .collect();
    {
        let mut sqlite = SqliteStore::open(&path).await.unwrap();
        sqlite.commit(TERM, &writes).await.unwrap();
        sqlite
            .commit(
                TERM,
                &[
                    Write::Put(RecordValue::Copy(Record {
                        kind: RecordKind::Meta,
                        id: "x".into(),
                        body: "1".into(),
                    })),
                    Write::Delete(RecordKind::Meta, "x".into()),
                ],
            )
            .await
            .unwrap();
        assert!(
            SqliteStore::open(&path).await.is_err(),
            "a second coordinator on the same database"
        );
    }
    let mut sqlite = SqliteStore::open(&path).await.unwrap();
    let loaded = sqlite.load().await.unwrap();
    let expected = disk.contents();
    let key = |r: &Record| (r.kind, r.id.clone(), r.body.clone());
    let sorted = |mut list: Vec<_>| {
        list.sort();
        list
    };
    assert_eq!(
        sorted(loaded.records.iter().map(key).collect::<Vec<_>>()),
        sorted(expected.records.iter().map(key).collect())
    );
    assert_eq!(loaded.events, expected.events);
}

/// A disk that takes a while for each commit.
pub(super) struct SlowDisk(pub(super) MemoryStore, pub(super) Duration);

impl Store for SlowDisk {
    fn load(&mut self) -> store::StoreFuture<'_, Contents> {
        self.0.load()
    }
    fn commit<'a>(
        &'a mut self,
        term: Term,
        writes: &'a [Write],
    ) -> store::StoreFuture<'a, (), CommitError> {
        Box::pin(async move {
            tokio::time::sleep(self.1).await;
            self.0.commit(term, writes).await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_operators_delays_no_report_beyond_two_commits_and_is_told_to_come_back() {
    let (disk, host) = disk();
    let commit = Duration::from_millis(500);
    let slow = Box::new(SlowDisk(disk.clone(), commit));
    let (handle, _task) = start(
        slow,
        Arc::new(settings()),
        Counter(0, 0),
        CancellationToken::new(),
    )
    .await
    .unwrap();
    handle
        .submit_patiently(
            "host/h1",
            Command::Report {
                host: host.clone(),
                report: report(),
            },
        )
        .await
        .unwrap();
    // Three times the queue's capacity, again and again.
    let flood: Vec<_> = (0..3 * OPERATOR_QUEUE)
        .map(|n| {
            let handle = handle.clone();
            tokio::spawn(async move {
                let (mut refused, mut hints) = (0, Vec::new());
                for round in 0..4 {
                    match handle
                        .submit("ana", creation(&format!("t{n}-{round}")))
                        .await
                    {
                        Ok(_) | Err(SubmitError::Refused(_)) => {}
                        Err(SubmitError::Overloaded(after)) => {
                            refused += 1;
                            hints.push(after);
                            tokio::time::sleep(after).await;
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
                (refused, hints)
            })
        })
        .collect();
    let mut worst = Duration::ZERO;
    for _ in 0..20 {
        let began = tokio::time::Instant::now();
        let heard = handle.submit_patiently(
            "host/h1",
            Command::Report {
                host: host.clone(),
                report: report(),
            },
        );
        heard.await.unwrap();
        worst = worst.max(began.elapsed());
        tokio::time::sleep(Duration::from_millis(70)).await;
    }
    assert!(worst <= 2 * commit, "a report waited for {worst:?}");
    let mut refused = 0;
    for one in flood {
        let (count, hints) = one.await.unwrap();
        refused += count;
        assert!(hints.iter().all(|h| *h > RETRY_LEAST && *h <= RETRY_MOST));
    }
    assert!(refused > OPERATOR_QUEUE, "only {refused} were refused");
    let stored = isyone_fleet::written::fleet(disk.contents()).unwrap();
    assert_eq!(stored.tenants, handle.snapshot().fleet.tenants);
}

#[tokio::test(start_paused = true)]
async fn what_stands_on_a_failed_commit_is_not_made_either() {
    let (disk, host) = disk();
    let slow = Box::new(SlowDisk(disk.clone(), Duration::from_millis(500)));
    let (handle, _task) = start(
        slow,
        Arc::new(settings()),
        Counter(0, 0),
        CancellationToken::new(),
    )
    .await
    .unwrap();
    handle
        .submit_patiently(
            "host/h1",
            Command::Report {
                host,
                report: report(),
            },
        )
        .await
        .unwrap();
    disk.fail_next(1);
    let first = tokio::spawn({
        let handle = handle.clone();
        async move { handle.submit("ana", creation("alfa")).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    // Carried out while alfa is on its way to the disk, as if alfa existed: a mere restart of it.
    let restart = Command::RestartTenant {
        name: name("alfa"),
        database: false,
        settings: false,
        request_id: None,
    };
    let second = handle.submit("ana", restart).await;
    assert!(matches!(
        first.await.unwrap(),
        Err(SubmitError::NotStored(_))
    ));
    assert!(
        matches!(second, Err(SubmitError::NotStored(_))),
        "{second:?}"
    );
    assert!(handle.snapshot().fleet.tenants.is_empty());
    handle.submit("ana", creation("alfa")).await.unwrap();
    assert_eq!(
        isyone_fleet::written::fleet(disk.contents())
            .unwrap()
            .tenants,
        handle.snapshot().fleet.tenants
    );
}
