//! A token bucket: so many at once, then so many a second.
//!
//! Not here: who has one (ports/listener's origins, agents' hosts).

use std::time::Duration;

use tokio::time::Instant;

/// How often something may be.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// So many at once; at least 1.
    pub burst: f64,
    /// So many a second after that; above 0.
    pub per_second: f64,
}

/// What one owner has left.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    level: f64,
    since: Instant,
}

impl Bucket {
    /// One from which nothing was taken.
    pub fn full(rate: Rate, now: Instant) -> Self {
        Self {
            level: rate.burst,
            since: now,
        }
    }

    fn level(&self, rate: Rate, now: Instant) -> f64 {
        let passed = now.duration_since(self.since).as_secs_f64();
        (self.level + passed * rate.per_second).min(rate.burst)
    }

    /// Whether it holds all it can: there is nothing to remember.
    pub fn is_full(&self, rate: Rate, now: Instant) -> bool {
        self.level(rate, now) >= rate.burst
    }

    /// Takes one, or says after which time there is one.
    pub fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let level = self.level(rate, now);
        let left = level - 1.0;
        *self = Self {
            level: if left < 0.0 { level } else { left },
            since: now,
        };
        if left < 0.0 {
            return Err(Duration::from_secs_f64(-left / rate.per_second));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_passes_and_whoever_waits_as_told_passes() {
        let rate = Rate {
            burst: 3.0,
            per_second: 2.0,
        };
        let start = Instant::now();
        let mut bucket = Bucket::full(rate, start);
        let passed = (0..9).filter(|_| bucket.take(rate, start).is_ok()).count();
        assert_eq!(passed, 3);
        let wait = bucket.take(rate, start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(500));
        assert!(bucket.take(rate, start + wait).is_ok());
        assert!(bucket.take(rate, start + wait).is_err());
        assert!(!bucket.is_full(rate, start) && bucket.is_full(rate, start + 4 * wait));
    }

    proptest! {
        #[test]
        fn no_more_than_the_rate_passes(steps in prop::collection::vec(0..500_u64, 1..200)) {
            let rate = Rate { burst: 5.0, per_second: 4.0 };
            let start = Instant::now();
            let (mut bucket, mut now, mut passed) = (Bucket::full(rate, start), start, 0_u32);
            for step in steps {
                now += Duration::from_millis(step);
                passed += u32::from(bucket.take(rate, now).is_ok());
                let most = rate.burst + (now - start).as_secs_f64() * rate.per_second;
                prop_assert!(f64::from(passed) <= most + 1e-6);
            }
        }
    }
}
