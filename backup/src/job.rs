//! What a running job shares with who started it: a way to stop it, what it has done, how fast it may go.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Tells a job to stop. It ends with an error and leaves no snapshot.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a job has done so far.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes read from the tenant, or restored.
    pub read: AtomicU64,
    /// Bytes written to the destination.
    pub stored: AtomicU64,
    /// Bytes read from the destination.
    pub fetched: AtomicU64,
}

/// A rate, shared by all jobs that use the same host or destination.
#[derive(Debug)]
pub struct Pace {
    per_second: AtomicU64,
    /// When what has been let through so far is paid for.
    paid: Mutex<Option<Instant>>,
}

/// A job that slept asks anew after this time: it may have been stopped, the rate may have changed.
const NAP: Duration = Duration::from_millis(100);
/// What may go at once after a rest.
const BURST: Duration = Duration::from_millis(500);

impl Pace {
    /// 0 is no bound.
    #[must_use]
    pub const fn new(bytes_per_second: u64) -> Self {
        Self {
            per_second: AtomicU64::new(bytes_per_second),
            paid: Mutex::new(None),
        }
    }

    pub fn set(&self, bytes_per_second: u64) {
        self.per_second.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Books `bytes` and says until when to wait. Pure but for the time it is told.
    fn book(&self, bytes: u64, now: Instant) -> Option<Instant> {
        let per_second = self.per_second.load(Ordering::Relaxed);
        if per_second == 0 {
            return None;
        }
        // Another thread's panic leaves a time that is as good as any.
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let begin = paid.map_or(earliest, |paid| paid.max(earliest));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(per_second);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // An hour for one piece is no rate that anybody meant; later bytes pay for it.
        let until = begin + cost.min(Duration::from_secs(3600));
        *paid = Some(until);
        Some(until)
    }

    /// Waits until `bytes` more may go.
    fn take(&self, bytes: u64, stop: &Stop) {
        let Some(until) = self.book(bytes, Instant::now()) else {
            return;
        };
        while !stop.is_stopped() && self.per_second.load(Ordering::Relaxed) > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(NAP));
        }
    }
}

/// How a job runs.
#[derive(Clone, Debug)]
pub struct Job {
    pub stop: Stop,
    pub progress: Arc<Progress>,
    /// Held against what is read from the tenant.
    pub source: Vec<Arc<Pace>>,
    /// Held against what goes to and comes from the destination.
    pub destination: Vec<Arc<Pace>>,
    /// How many processors it may use, and with each of them some 50 MB.
    pub processors: usize,
}

impl Default for Job {
    fn default() -> Self {
        Self {
            stop: Stop::default(),
            progress: Arc::default(),
            source: Vec::new(),
            destination: Vec::new(),
            processors: 2,
        }
    }
}

impl Job {
    pub(crate) fn pass_source(&self, bytes: u64) {
        self.progress.read.fetch_add(bytes, Ordering::Relaxed);
        self.source.iter().for_each(|p| p.take(bytes, &self.stop));
    }

    pub(crate) fn pass_destination(&self, bytes: u64, counter: &AtomicU64) {
        self.destination
            .iter()
            .for_each(|p| p.take(bytes, &self.stop));
        counter.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_held_over_many_pieces_and_rest_is_not_saved_up() {
        let pace = Pace::new(1000);
        let start = Instant::now();
        let after = |until: Option<Instant>| until.map(|u| u.saturating_duration_since(start));
        assert_eq!(after(pace.book(500, start)), Some(Duration::ZERO), "burst");
        assert_eq!(after(pace.book(1000, start)), Some(Duration::from_secs(1)));
        assert_eq!(after(pace.book(1000, start)), Some(Duration::from_secs(2)));
        let much_later = start + Duration::from_secs(100);
        assert_eq!(
            after(pace.book(1000, much_later)),
            Some(Duration::from_millis(100_500)),
            "the rest counts for half a second only"
        );
        pace.set(0);
        assert_eq!(pace.book(u64::MAX, start), None);
    }

    #[test]
    fn who_waits_can_be_stopped() {
        let stop = Stop::default();
        let pace = Pace::new(1);
        stop.stop();
        let start = Instant::now();
        pace.take(1_000_000, &stop);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}
