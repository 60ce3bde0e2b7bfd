//! Long work beside the tenants' loops: copies, backups, restores and proofs. The plan says which; each job has a record,
//! counts its bytes, and is tried again from where it stopped until it is done, fails for good, or the plan drops it.
//!
//! What a cancelled job has copied stays where it is: the volumes are removed with their tenant and by nothing else, and
//! a new order for the same copy goes on from there. Not here: what a job does ([`Work`]'s implementations), the
//! tenants' health, which their own loops go on watching.

mod decide;
pub mod fetch;
pub mod follow;
mod progress;
mod record;
pub mod works;

use std::{
    collections::BTreeMap, panic::AssertUnwindSafe, path::PathBuf, sync::Arc, time::Duration,
};

use futures_util::FutureExt as _;
use isyone_proto::{
    plan::{JobOrder, JobWork},
    report::{JobReport, JobState},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tonic::async_trait;
use uuid::Uuid;

pub use self::progress::Progress;
use self::{
    decide::{Running, Step, decide},
    record::{Record, Stage},
};
use crate::{
    base::{
        clock::{backoff, jitter},
        fsutil::blocking,
        throttle::Throttle,
    },
    host::{Host, ledger::InForce},
};

/// Jobs at work at the same time. They share one disk and one line with the tenants: more would only make each slower,
/// and two keep the line busy while one of them compares.
const AT_ONCE: usize = 2;
/// Bytes per second that all jobs of a host take together, by default: half of a line of 1 Gbit/s, whose other half is
/// the visitors'.
pub const DEFAULT_RATE_BYTES_PER_S: u64 = 64 << 20;

/// Why a job is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobError {
    /// Trying again may help.
    Again(String),
    /// It would not.
    Never(String),
}

/// What carries an order out. An attempt that is dropped must leave a state that the next one goes on from.
#[async_trait]
pub trait Work: Send + Sync + 'static {
    async fn attempt(&self, order: &JobOrder, progress: &Progress) -> Result<(), JobError>;

    /// After so many attempts an order has failed, whatever the reason; `None`: it is tried for as long as it is ordered.
    fn most_attempts(&self, _order: &JobOrder) -> Option<u32> {
        None
    }
}

/// All jobs of a host.
pub struct Jobs {
    host: Arc<Host>,
    work: Arc<dyn Work>,
    directory: PathBuf,
    turns: Arc<Semaphore>,
    rate: Arc<Throttle>,
    records: BTreeMap<Uuid, Record>,
    running: BTreeMap<Uuid, Running>,
    tasks: JoinSet<(Uuid, Option<Record>)>,
}

impl Jobs {
    /// Limits all jobs together to a rate; 0: no limit.
    pub fn new(host: Arc<Host>, work: Arc<dyn Work>, rate_bytes_per_s: u64) -> Self {
        Self {
            directory: host.data.jobs(),
            host,
            work,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            rate: Arc::new(Throttle::new(rate_bytes_per_s)),
            records: BTreeMap::new(),
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Runs until `stop`. Jobs under way then end where they are, and go on at the next start.
    pub async fn run(mut self, mut plans: watch::Receiver<InForce>, stop: CancellationToken) {
        let directory = self.directory.clone();
        match blocking(move || record::load(&directory)).await {
            Ok(records) => self.records = records,
            // They are begun anew: what they have done is found where they did it.
            Err(e) => tracing::error!("the records of jobs cannot be read: {e}"),
        }
        for record in self.records.values() {
            self.host.board.set_job(record.report());
        }
        loop {
            let plan = plans.borrow_and_update().plan.clone();
            if let Some(plan) = plan {
                for step in decide(&plan.jobs, &self.records, &self.running) {
                    self.take(step).await;
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                changed = plans.changed() => if changed.is_err() { break },
                Some(ended) = self.tasks.join_next() => self.ended(ended),
            }
        }
        for running in self.running.values() {
            running.stop.cancel();
        }
        while self.tasks.join_next().await.is_some() {}
    }

    fn ended(&mut self, ended: Result<(Uuid, Option<Record>), tokio::task::JoinError>) {
        // A panic in a job's work is caught inside its task: what comes here is an answer.
        let Ok((id, record)) = ended else { return };
        self.running.remove(&id);
        if let Some(record) = record {
            self.records.insert(id, record);
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Stop(id) => {
                if let Some(running) = self.running.get_mut(&id) {
                    running.stopping = true;
                    running.stop.cancel();
                }
            }
            Step::Forget(id) => {
                tracing::info!(job = %id, "forgotten: the plan does not name it any more");
                self.records.remove(&id);
                self.host.board.remove_job(id);
                let directory = self.directory.clone();
                if let Err(e) = blocking(move || record::remove(&directory, id)).await {
                    // It is forgotten again at the next start.
                    tracing::warn!(job = %id, "its record cannot be removed: {e}");
                }
            }
            Step::Start(order) => self.start(order).await,
        }
    }

    async fn start(&mut self, order: JobOrder) {
        let id = order.id;
        let mut record = Record::new(order.clone());
        if let Some(known) = self.records.get(&id) {
            // What it had done, until it has found that itself.
            (record.bytes_done, record.bytes_total) = (known.bytes_done, known.bytes_total);
            record.filled = known.filled;
        }
        let stop = CancellationToken::new();
        let running = Running {
            order,
            stop: stop.clone(),
            stopping: false,
        };
        self.running.insert(id, running);
        self.records.insert(id, record.clone());
        let task = Task {
            host: self.host.clone(),
            work: self.work.clone(),
            directory: self.directory.clone(),
            turns: self.turns.clone(),
            rate: self.rate.clone(),
            record,
        };
        task.keep().await;
        self.tasks
            .spawn(async move { (id, stop.run_until_cancelled_owned(task.run()).await) });
    }
}

/// One job at work.
struct Task {
    host: Arc<Host>,
    work: Arc<dyn Work>,
    directory: PathBuf,
    turns: Arc<Semaphore>,
    rate: Arc<Throttle>,
    record: Record,
}

impl Task {
    /// Tries until it is done or has failed for good; returns the record of that.
    async fn run(mut self) -> Record {
        let (id, mut failures) = (self.record.order.id, 0u32);
        let own = Throttle::new(self.record.order.rate_bytes_per_s);
        let progress = Progress::new(self.host.clone(), id, [self.rate.clone(), Arc::new(own)]);
        progress.restore(self.record.bytes_done, self.record.bytes_total);
        progress.filled(self.record.filled);
        let most = self.work.most_attempts(&self.record.order);
        loop {
            progress.hold(self.turn().await);
            self.tell(JobState::Running, "");
            tracing::info!(job = %id, tenant = %self.record.order.tenant, "begun");
            let attempt = self.work.attempt(&self.record.order, &progress);
            let outcome = AssertUnwindSafe(attempt).catch_unwind().await;
            progress.let_others_begin();
            (self.record.bytes_done, self.record.bytes_total) = progress.bytes();
            let ended = progress.take_ended();
            self.record.backup = ended.backup.map(Box::new);
            self.record.proof = ended.proof.map(Box::new);
            self.record.fault = ended.fault;
            self.record.filled = progress.is_filled();
            let outcome = outcome.unwrap_or_else(|_panic| {
                Err(JobError::Again("the agent's own error; see its log".into()))
            });
            match outcome {
                Ok(()) => {
                    tracing::info!(job = %id, bytes = self.record.bytes_done, "done");
                    self.end(Stage::Done, progress.noted()).await;
                    return self.record;
                }
                Err(JobError::Never(why)) => {
                    tracing::error!(job = %id, tenant = %self.record.order.tenant, "failed: {why}");
                    self.end(Stage::Failed, why).await;
                    return self.record;
                }
                Err(JobError::Again(why)) if most.is_some_and(|most| failures + 1 >= most) => {
                    tracing::error!(job = %id, tenant = %self.record.order.tenant, "failed each time: {why}");
                    self.end(Stage::Failed, why).await;
                    return self.record;
                }
                Err(JobError::Again(why)) => {
                    tracing::warn!(job = %id, tenant = %self.record.order.tenant, "tried again: {why}");
                    self.end(Stage::Retrying, why).await;
                }
            }
            let pace = &self.host.pace;
            let wait = backoff(failures, pace.retry_first, pace.retry_cap);
            failures = failures.saturating_add(1);
            sleep(wait / 2 + jitter(wait / 2)).await;
        }
    }

    /// A place among those at work, where one is needed.
    async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        if !takes_a_turn(&self.record.order.work) {
            return None;
        }
        // Semaphores are never closed: `ok` only drops an error that cannot happen.
        self.turns.clone().acquire_owned().await.ok()
    }

    /// Records and shows how an attempt ended; a job is not reported as ended before the record is on disk.
    async fn end(&mut self, stage: Stage, why: String) {
        self.record.stage = stage;
        self.record.message = record::shortened(why);
        self.keep().await;
        if let JobWork::Follow { last: true, .. } = self.record.order.work {
            // The tenant is stopped.
            self.host.board.hurry();
        }
    }

    /// Writes the record, for as long as it takes: without it an ended job would be reported, then run again.
    async fn keep(&self) {
        loop {
            let (directory, record) = (self.directory.clone(), self.record.clone());
            match blocking(move || record::save(&directory, &record)).await {
                Ok(()) => break,
                Err(e) => {
                    let id = self.record.order.id;
                    tracing::error!(job = %id, "its record cannot be written: {e}");
                    self.tell(JobState::Retrying, &format!("the disk refuses: {e}"));
                    if !self.record.is_final() {
                        return; // found again from what it has done
                    }
                    sleep(RECORD_RETRY).await;
                }
            }
        }
        self.host.board.set_job(self.record.report());
    }

    fn tell(&self, state: JobState, message: &str) {
        self.host.board.set_job(JobReport {
            state,
            message: message.to_owned(),
            ..self.record.report()
        });
    }
}

/// Whether work takes a place among those at work. A proof takes none: nobody waits for it, and it is the only one on its host. Nor does
/// a copy that is kept up, which may last a day and is idle for most of it; and at its end a stopped tenant waits for it.
fn takes_a_turn(work: &JobWork) -> bool {
    !matches!(work, JobWork::Verify(_) | JobWork::Follow { .. })
}

/// Between attempts to write the end of a job to a disk that refuses.
const RECORD_RETRY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
