//! Jobs over work that does as it is told, with the records on a real disk. Not here: what real jobs do (fetch).

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use isyone_proto::plan::{HostPlan, JobWork};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::*;
use crate::{
    base::config::DataDir,
    host::Pace,
    testing::{fake_docker::FakeDocker, host_plan},
};

fn order(id: u128, rate: u64) -> JobOrder {
    JobOrder {
        id: Uuid::from_u128(id),
        operation: Uuid::nil(),
        tenant: "alfa".parse().unwrap(),
        uid: Uuid::nil(),
        work: JobWork::Fetch {
            from: "h1".parse().unwrap(),
            address: None,
        },
        rate_bytes_per_s: rate,
    }
}

/// Receives `pieces` of 1,000 bytes, then ends as told; waits for leave before the end.
#[derive(Default)]
struct Scripted {
    pieces: u64,
    outcomes: Mutex<Vec<Result<(), JobError>>>,
    leave: Notify,
    waits: bool,
    begun: Mutex<Vec<Uuid>>,
    at_once: AtomicUsize,
    most: AtomicUsize,
    /// After so many attempts it has failed.
    gives_up: Option<u32>,
}

#[async_trait]
impl Work for Scripted {
    async fn attempt(&self, order: &JobOrder, progress: &Progress) -> Result<(), JobError> {
        self.begun.lock().unwrap().push(order.id);
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let leave = scopeguard(&self.at_once);
        progress.begin(0, self.pieces * 1_000);
        for _ in 0..self.pieces {
            progress.received(1_000).await;
        }
        if self.waits {
            self.leave.notified().await;
        }
        drop(leave);
        self.outcomes.lock().unwrap().pop().unwrap_or(Ok(()))
    }

    fn most_attempts(&self, _: &JobOrder) -> Option<u32> {
        self.gives_up
    }
}

struct Leave<'a>(&'a AtomicUsize);
impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
fn scopeguard(count: &AtomicUsize) -> Leave<'_> {
    Leave(count)
}

struct Life {
    host: Arc<Host>,
    plans: watch::Sender<InForce>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn in_force(orders: &[JobOrder]) -> InForce {
    InForce {
        plan: Some(Arc::new(HostPlan {
            jobs: orders.to_vec(),
            ..host_plan(1, vec![])
        })),
        stale: vec![],
        unasked: false,
    }
}

impl Life {
    fn begin(dir: &std::path::Path, work: &Arc<Scripted>, rate: u64, orders: &[JobOrder]) -> Self {
        let data = DataDir::new(dir.join("agent"));
        data.create().unwrap();
        let docker = FakeDocker::new(dir, 1);
        let advertise = [127, 0, 0, 1].into();
        let host =
            Arc::new(Host::new(docker.clone(), docker, data, advertise, Pace::hasty()).unwrap());
        let (plans, receiver) = watch::channel(in_force(orders));
        let stop = CancellationToken::new();
        let jobs = Jobs::new(host.clone(), work.clone(), rate);
        let task = tokio::spawn(jobs.run(receiver, stop.clone()));
        Self {
            host,
            plans,
            stop,
            task,
        }
    }

    fn plan(&self, orders: &[JobOrder]) {
        self.plans.send_replace(in_force(orders));
    }

    fn job(&self, id: u128) -> Option<JobReport> {
        let jobs = self.host.board.jobs();
        jobs.into_iter().find(|j| j.id == Uuid::from_u128(id))
    }

    async fn wait(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let poll = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if timeout(Duration::from_secs(100), poll).await.is_err() {
            panic!("{what} never came: {:#?}", self.host.board.jobs());
        }
    }

    async fn state(&self, id: u128, state: JobState) -> JobReport {
        self.wait("the state", |l| l.job(id).is_some_and(|j| j.state == state))
            .await;
        self.job(id).unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn records(dir: &std::path::Path) -> usize {
    std::fs::read_dir(dir.join("agent/jobs")).unwrap().count()
}

#[tokio::test]
async fn a_job_is_tried_again_runs_once_and_is_remembered_until_the_plan_drops_it() {
    let dir = tempfile::tempdir().unwrap();
    let work = Arc::new(Scripted {
        pieces: 3,
        outcomes: Mutex::new(vec![Ok(()), Err(JobError::Again("the line fell".into()))]),
        ..Scripted::default()
    });
    let life = Life::begin(dir.path(), &work, 0, &[order(1, 0)]);
    let done = life.state(1, JobState::Done).await;
    assert_eq!((done.bytes_done, done.bytes_total), (3_000, 3_000));
    assert_eq!(work.begun.lock().unwrap().len(), 2);
    life.plan(&[order(1, 7)]);
    life.end().await;
    let life = Life::begin(dir.path(), &work, 0, &[order(1, 7)]);
    life.state(1, JobState::Done).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(work.begun.lock().unwrap().len(), 2, "the same id runs once");
    assert_eq!(records(dir.path()), 1);
    life.plan(&[]);
    life.wait("forgetting", |l| l.job(1).is_none()).await;
    life.end().await;
    assert_eq!(records(dir.path()), 0);
}

#[tokio::test]
async fn what_fails_for_good_says_why_and_is_not_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let work = Arc::new(Scripted {
        outcomes: Mutex::new(vec![Err(JobError::Never("too large".into()))]),
        ..Scripted::default()
    });
    let life = Life::begin(dir.path(), &work, 0, &[order(1, 0)]);
    assert_eq!(life.state(1, JobState::Failed).await.message, "too large");
    life.end().await;
    let life = Life::begin(dir.path(), &work, 0, &[order(1, 0)]);
    assert_eq!(life.state(1, JobState::Failed).await.message, "too large");
    assert_eq!(work.begun.lock().unwrap().len(), 1);
    life.end().await;
}

/// Fails if one that never passes keeps its place for ever.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_tried_so_often_has_failed_then_with_the_last_reason() {
    let dir = tempfile::tempdir().unwrap();
    let again = |why: &str| Err(JobError::Again(why.into()));
    let work = Arc::new(Scripted {
        outcomes: Mutex::new(vec![
            Ok(()),
            again("third"),
            again("second"),
            again("first"),
        ]),
        gives_up: Some(3),
        ..Scripted::default()
    });
    let life = Life::begin(dir.path(), &work, 0, &[order(1, 0)]);
    assert_eq!(life.state(1, JobState::Failed).await.message, "third");
    assert_eq!(work.begun.lock().unwrap().len(), 3);
    life.end().await;
}

#[tokio::test]
async fn a_few_run_at_once_a_cancelled_one_ends_and_a_restart_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let work = Arc::new(Scripted {
        waits: true,
        ..Scripted::default()
    });
    let orders: Vec<_> = (1..=4).map(|id| order(id, 0)).collect();
    let life = Life::begin(dir.path(), &work, 0, &orders);
    life.wait("two", |_| work.begun.lock().unwrap().len() == AT_ONCE)
        .await;
    life.state(3, JobState::Waiting).await;
    // The first is cancelled: its place is another's, its record goes.
    let first = work.begun.lock().unwrap()[0];
    let left: Vec<_> = orders.iter().filter(|o| o.id != first).cloned().collect();
    life.plan(&left);
    life.wait("the next", |_| work.begun.lock().unwrap().len() == 3)
        .await;
    life.wait("forgetting", |l| l.host.board.jobs().len() == 3)
        .await;
    life.end().await;
    assert_eq!(records(dir.path()), 3);
    work.begun.lock().unwrap().clear();
    let life = Life::begin(dir.path(), &work, 0, &left);
    life.wait("two again", |_| work.begun.lock().unwrap().len() == AT_ONCE)
        .await;
    while life
        .host
        .board
        .jobs()
        .iter()
        .any(|j| j.state != JobState::Done)
    {
        work.leave.notify_one();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(work.begun.lock().unwrap().len(), 3);
    assert_eq!(work.most.load(Ordering::SeqCst), AT_ONCE);
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_order_lowers_the_hosts_rate_and_never_raises_it() {
    for (host, order_rate, least_s, most_s) in [
        (10_000, 0, 9.8, 10.3),
        (10_000, 2_000, 49.8, 50.5),
        (10_000, 1_000_000, 9.8, 10.3),
        (0, 0, 0.0, 0.1),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let work = Arc::new(Scripted {
            pieces: 100,
            ..Scripted::default()
        });
        let begin = Instant::now();
        let life = Life::begin(dir.path(), &work, host, &[order(1, order_rate)]);
        life.state(1, JobState::Done).await;
        let took = begin.elapsed().as_secs_f64();
        assert!(
            (least_s..most_s).contains(&took),
            "{took} s at {host} and {order_rate}"
        );
        life.end().await;
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_as_none() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("agent/jobs")).unwrap();
    for name in ["x.json", &format!("{}.json", Uuid::from_u128(1))] {
        std::fs::write(dir.path().join("agent/jobs").join(name), "{").unwrap();
    }
    let work = Arc::new(Scripted::default());
    let life = Life::begin(dir.path(), &work, 0, &[order(1, 0)]);
    life.state(1, JobState::Done).await;
    life.end().await;
    assert_eq!(records(dir.path()), 1);
}
