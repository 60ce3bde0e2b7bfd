//! What the host has to report about its jobs.
//!
//! Not here: the jobs.

use isyone_proto::report::{Behind, JobReport};
use tokio::time::Instant;
use uuid::Uuid;

use super::StatusBoard;

impl StatusBoard {
    /// How far a job is. Wakes the link when more than its bytes have changed: those are sent along.
    pub fn set_job(&self, mut job: JobReport) {
        let mut inner = self.lock();
        // What was last seen of a source that is not reached any more is what is known of the loss.
        if let Some(before) = inner.jobs.get(&job.id) {
            (job.behind, job.filled) = (job.behind.or(before.behind), before.filled);
        }
        let news = inner
            .jobs
            .get(&job.id)
            .is_none_or(|old| (old.state, &old.message) != (job.state, &job.message));
        inner.jobs.insert(job.id, job);
        drop(inner);
        if news {
            self.changed.notify_one();
        }
    }

    /// Changes how far a job is, without waking the link.
    pub fn set_job_bytes(&self, id: Uuid, done: u64, total: u64) {
        if let Some(job) = self.lock().jobs.get_mut(&id) {
            (job.bytes_done, job.bytes_total) = (done, total);
        }
    }

    /// How a job goes. Wakes the link.
    pub fn set_job_message(&self, id: Uuid, message: &str) {
        if let Some(job) = self.lock().jobs.get_mut(&id) {
            message.clone_into(&mut job.message);
        }
        self.changed.notify_one();
    }

    /// How long the tenant of a job would pause. Wakes the link where that is news.
    pub fn set_job_pause(&self, id: Uuid, pause_ms: Option<u32>) {
        let mut news = false;
        if let Some(job) = self.lock().jobs.get_mut(&id) {
            news = std::mem::replace(&mut job.pause_ms, pause_ms) != pause_ms;
        }
        if news {
            self.changed.notify_one();
        }
    }

    /// How far the copy of a job is behind, as is seen now; told with the next report, and as old as it is by then.
    pub fn set_job_behind(&self, id: Uuid, behind: Option<Behind>) {
        let mut inner = self.lock();
        if let Some(job) = inner.jobs.get_mut(&id) {
            job.behind = behind;
            inner.seen_behind.insert(id, Instant::now());
        }
    }

    /// Whether the copy of a job is a whole one. Wakes the link where that is news.
    pub fn set_job_filled(&self, id: Uuid, filled: bool) {
        let mut news = false;
        if let Some(job) = self.lock().jobs.get_mut(&id) {
            news = std::mem::replace(&mut job.filled, filled) != filled;
        }
        if news {
            self.changed.notify_one();
        }
    }

    /// A job that no plan names any more.
    pub fn remove_job(&self, id: Uuid) {
        let mut inner = self.lock();
        inner.jobs.remove(&id);
        inner.seen_behind.remove(&id);
    }

    /// All jobs, by id.
    pub fn jobs(&self) -> Vec<JobReport> {
        let (inner, now) = (self.lock(), Instant::now());
        let aged = |job: &JobReport| {
            let seen = inner.seen_behind.get(&job.id);
            let age = seen.map_or(0, |seen| now.saturating_duration_since(*seen).as_millis());
            let age = u64::try_from(age).unwrap_or(u64::MAX);
            JobReport {
                behind: job.behind.map(|behind| behind.later(age)),
                ..job.clone()
            }
        };
        inner.jobs.values().map(aged).collect()
    }
}
