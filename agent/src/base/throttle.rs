//! A limit on bytes per second: a token bucket, and the waiting for it.
//!
//! Not here: which limits there are (jobs, peer).

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};

/// What may pass at once after a pause, as a time at the full rate: long enough that timers' grain costs no throughput,
/// short enough that neighbours do not feel it.
const BURST: Duration = Duration::from_millis(100);
/// Longest wait for one piece, whatever the rate: a rate that was meant in other units must not look like a peer that
/// hangs, which is cut off.
const LONGEST: Duration = Duration::from_secs(10);

/// How far ahead of time bytes are booked. Whoever books and goes away must not make the others wait for what never passes,
/// and a wait must stay below what counts as a peer that hangs.
const MOST_AHEAD: Duration = Duration::from_secs(30);

/// A token bucket. Pure: the time is an argument, counted from whatever moment the owner likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    rate_bytes_per_s: u64,
    /// Until when what has passed fills the rate.
    filled_until: Duration,
}

impl Bucket {
    /// A full bucket; a rate of 0 is no limit.
    pub fn new(rate_bytes_per_s: u64) -> Self {
        Self {
            rate_bytes_per_s,
            filled_until: Duration::ZERO,
        }
    }

    /// Takes `bytes` out and says how long to wait before the next ones.
    pub fn take(&mut self, now: Duration, bytes: u64) -> Duration {
        if self.rate_bytes_per_s == 0 {
            return Duration::ZERO;
        }
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate_bytes_per_s);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(LONGEST);
        self.filled_until = self.filled_until.max(now.saturating_sub(BURST)) + cost;
        self.filled_until = self.filled_until.min(now + MOST_AHEAD);
        self.filled_until.saturating_sub(now)
    }
}

/// A bucket that several tasks take from; each waits its share.
#[derive(Debug)]
pub struct Throttle {
    bucket: Mutex<Bucket>,
    born: Instant,
}

impl Throttle {
    /// A rate of 0 is no limit.
    pub fn new(rate_bytes_per_s: u64) -> Self {
        Self {
            bucket: Mutex::new(Bucket::new(rate_bytes_per_s)),
            born: Instant::now(),
        }
    }

    /// Accounts for bytes that have passed, and waits until the next ones may.
    pub async fn pass(&self, bytes: u64) {
        let wait = self
            .bucket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(self.born.elapsed(), bytes);
        if wait > Duration::ZERO {
            sleep(wait).await;
        }
    }
}

/// Longest that bytes of a connection wait: whoever sends them takes one that stands still for dead.
const SLOWED: Duration = Duration::from_secs(5);

/// Counts what comes over connections, and slows it down.
#[derive(Debug, Default)]
pub struct Meter {
    limits: Vec<Arc<Throttle>>,
    bytes: AtomicU64,
}

impl Meter {
    /// With all of these limits.
    pub fn new(limits: Vec<Arc<Throttle>>) -> Self {
        Self {
            limits,
            bytes: AtomicU64::new(0),
        }
    }

    /// Counts these, and waits where they came too fast.
    pub async fn pass(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let slowed = async {
            for limit in &self.limits {
                limit.pass(bytes).await;
            }
        };
        let _ = timeout(SLOWED, slowed).await; // long enough
    }

    /// All that came.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_span_of_time_has_more_than_its_rate_and_one_burst(
            rate in 1_000u64..1_000_000_000,
            pieces in proptest::collection::vec((0u64..500, 1u64..300_000), 1..60),
        ) {
            let mut bucket = Bucket::new(rate);
            let mut now = Duration::ZERO;
            let mut passed: Vec<(Duration, u64)> = Vec::new();
            for (pause_ms, bytes) in pieces {
                now += Duration::from_millis(pause_ms);
                passed.push((now, bytes));
                now += bucket.take(now, bytes);
            }
            for first in 0..passed.len() {
                for last in first..passed.len() {
                    // The last piece is let in before it is paid for.
                    let sum: u64 = passed[first..last].iter().map(|p| p.1).sum();
                    let span = passed[last].0 - passed[first].0 + BURST + Duration::from_micros(1);
                    prop_assert!(sum as f64 <= span.as_secs_f64() * rate as f64 * 1.000_001 + 60.0);
                }
            }
        }

        #[test]
        fn who_always_waits_gets_the_whole_rate(rate in 1_000u64..1_000_000_000, pieces in 1u64..50) {
            let (mut bucket, mut now) = (Bucket::new(rate), Duration::ZERO);
            let piece = rate / 100 + 1;
            for _ in 0..pieces {
                now += bucket.take(now, piece);
            }
            let ideal = Duration::from_secs_f64((piece * pieces) as f64 / rate as f64);
            prop_assert!(now <= ideal, "{now:?} for {ideal:?}");
        }
    }

    #[test]
    fn without_a_rate_nothing_waits_and_a_tiny_one_does_not_hang() {
        assert_eq!(
            Bucket::new(0).take(Duration::ZERO, u64::MAX),
            Duration::ZERO
        );
        assert_eq!(Bucket::new(1).take(Duration::ZERO, u64::MAX), LONGEST);
    }

    #[test]
    fn who_books_and_goes_away_does_not_make_the_others_wait_for_ever() {
        let mut bucket = Bucket::new(1_000_000);
        for _ in 0..10_000 {
            bucket.take(Duration::ZERO, 128 << 10);
        }
        assert_eq!(bucket.take(Duration::ZERO, 1), MOST_AHEAD);
    }

    #[tokio::test(start_paused = true)]
    async fn two_tasks_share_one_rate() {
        let throttle = Arc::new(Throttle::new(1_000_000));
        let begin = Instant::now();
        let one = |throttle: Arc<Throttle>| async move {
            for _ in 0..100 {
                throttle.pass(50_000).await;
            }
        };
        tokio::join!(one(throttle.clone()), one(throttle.clone()));
        let took = begin.elapsed().as_secs_f64();
        assert!((9.8..10.2).contains(&took), "10 MB at 1 MB/s took {took} s");
    }
}
