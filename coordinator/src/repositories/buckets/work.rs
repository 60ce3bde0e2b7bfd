//! Which repositories are copied at this moment, so that whoever removes one can end that first: what is copied beside a removal would be
//! left in the bucket.
//!
//! Not here: copying (follow), removing (the parent).

use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use isyone_backup::Stop;
use uuid::Uuid;

/// A copy that is told to stop ends with the file that is on its way: at 1 MB a second one of 64 MiB has come by then. Whoever removes
/// comes again if it has not.
const PATIENCE: Duration = Duration::from_secs(60);

/// All of one bucket.
#[derive(Debug, Default)]
pub(super) struct Works {
    running: Mutex<BTreeMap<Uuid, Stop>>,
    ended: Condvar,
}

/// Somebody is at work as long as it lives.
#[derive(Debug)]
pub(super) struct AtWork<'a> {
    works: &'a Works,
    tenant: Uuid,
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.works.locked().remove(&self.tenant);
        self.works.ended.notify_all();
    }
}

impl Works {
    /// Begins, unless it `is_gone`, which is asked when nobody can begin any more without being seen.
    pub(super) fn begin(
        &self,
        tenant: Uuid,
        stop: &Stop,
        is_gone: impl FnOnce() -> bool,
    ) -> Option<AtWork<'_>> {
        let mut running = self.locked();
        if is_gone() {
            return None;
        }
        running.insert(tenant, stop.clone());
        Some(AtWork {
            works: self,
            tenant,
        })
    }

    /// Ends what is done with a repository that is gone, so that nobody begins anew. Whether nobody is at work. Blocks.
    pub(super) fn end(&self, tenant: Uuid) -> bool {
        let running = self.locked();
        if let Some(stop) = running.get(&tenant) {
            stop.stop();
        }
        let waited = self
            .ended
            .wait_timeout_while(running, PATIENCE, |running| running.contains_key(&tenant));
        let (_running, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<Uuid, Stop>> {
        // The map is whole at any time, whoever has panicked.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;

    /// Fails if a removal goes on beside a copy, or if a copy begins after it.
    #[test]
    fn a_removal_waits_for_the_copy_that_it_ends_and_none_begins_after_it() {
        let (works, tenant, gone) = (Works::default(), Uuid::from_u128(1), AtomicBool::new(false));
        let other = works.begin(Uuid::from_u128(2), &Stop::default(), || false);
        let (stop, copied) = (Stop::default(), AtomicBool::new(false));
        let begin = |stop: &Stop| works.begin(tenant, stop, || gone.load(Ordering::SeqCst));
        thread::scope(|scope| {
            let at_work = begin(&stop).unwrap();
            scope.spawn(|| {
                let _at_work = at_work;
                while !stop.is_stopped() {
                    thread::yield_now();
                }
                thread::sleep(Duration::from_millis(50)); // the file that is on its way
                copied.store(true, Ordering::SeqCst);
            });
            gone.store(true, Ordering::SeqCst);
            assert!(works.end(tenant) && copied.load(Ordering::SeqCst));
        });
        assert!(begin(&Stop::default()).is_none());
        assert!(
            works.end(tenant),
            "nobody is at work: nothing is waited for"
        );
        assert!(other.is_some() && works.locked().len() == 1);
    }
}
