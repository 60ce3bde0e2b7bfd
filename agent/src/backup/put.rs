//! Writes one snapshot into a tenant's repository, on a thread of its own, and shows how far it is. Whoever drops the attempt stops it:
//! then there is no snapshot.
//!
//! Not here: what it consists of (ship, make).

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use isyone_backup::{Error, Job, Label, Pace, Part, Snapshot, Stop, Store, Written, store::Name};
use isyone_proto::{
    backup::{RepositoryKey, SnapshotName},
    plan::UnixMs,
};
use jiff::Timestamp;
use tokio::time::sleep;

use super::{
    store,
    words::{Problem, problem},
};
use crate::jobs::Progress;

/// How often progress is shown.
const SHOW: Duration = Duration::from_secs(1);

/// Where a snapshot goes, and how fast.
pub(super) struct Put {
    pub store: Arc<dyn Store>,
    pub key: RepositoryKey,
    pub stop: Stop,
    /// Held against what is read of the tenant.
    pub source: Vec<Arc<Pace>>,
    /// Held against what goes to the destination.
    pub destination: Vec<Arc<Pace>>,
    pub processors: usize,
}

/// Tells a job to stop when nobody waits for it any more.
pub(super) struct StopWhenDropped(pub Stop);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// A moment as a repository takes it; the epoch for what no calendar has.
pub(super) fn timestamp(at: UnixMs) -> Timestamp {
    Timestamp::from_millisecond(at).unwrap_or_default()
}

impl Put {
    /// Writes it. `make`: a repository that is not there is made. `parent`: a snapshot with the same parts saves reading; where it is
    /// gone, everything is read.
    pub(super) async fn write(
        self,
        label: Label,
        parts: Vec<Part>,
        parent: Option<SnapshotName>,
        make: bool,
        progress: Option<&Progress>,
    ) -> Result<Written, Problem> {
        let job = Job {
            stop: self.stop.clone(),
            source: self.source,
            destination: self.destination,
            processors: self.processors,
            ..Job::default()
        };
        let counter = job.progress.clone();
        let (store, key) = (self.store, self.key);
        let work = move || -> Result<Written, Error> {
            let repository = store::open(store, &key, make, &job)?;
            let parent: Option<Snapshot> =
                parent.and_then(|name| repository.snapshot(Name(name.0)).ok());
            repository.write(&label, parts, parent.as_ref(), &job)
        };
        let mut work = tokio::task::spawn_blocking(work);
        loop {
            tokio::select! {
                written = &mut work => {
                    // A panic of the repository's is its own error; one besides is logged by the runtime.
                    let written = written.map_err(|_| Problem::stopped())?;
                    return written.map_err(|e| problem(&e));
                }
                () = sleep(SHOW) => if let Some(progress) = progress {
                    progress.begin(counter.read.load(Ordering::Relaxed), 0);
                },
            }
        }
    }
}
