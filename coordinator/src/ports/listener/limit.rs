//! How often one origin (lobby) may connect to the enrolment port: a token bucket for each, in bounded memory.
//!
//! Not here: limits for peers with a certificate (connections).

use std::{collections::HashMap, net::IpAddr};

use tokio::time::Instant;

use crate::base::rate::{Bucket, Rate};

/// Connections of one origin: at once, as a rack of machines behind one NAT joins in a moment, and a second after that:
/// guessing a 256-bit token is hopeless at any rate, this just saves our CPU.
const RATE: Rate = Rate {
    burst: 50.0,
    per_second: 20.0,
};
/// Most origins that we remember; above that, we forget those with full buckets. A bucket soon fills up again: only at
/// hundreds of thousands of connections a second is there no room left, and then newcomers are refused for a moment.
const MAX_ORIGINS: usize = 10_000;

/// A token bucket for each recently seen origin.
#[derive(Debug, Default)]
pub(super) struct RateLimit {
    buckets: HashMap<IpAddr, Bucket>,
}

impl RateLimit {
    /// Whether `origin` may connect at `now`.
    pub(super) fn admits(&mut self, origin: IpAddr, now: Instant) -> bool {
        if self.buckets.len() >= MAX_ORIGINS {
            self.buckets.retain(|_, bucket| !bucket.is_full(RATE, now));
            if self.buckets.len() >= MAX_ORIGINS {
                return self
                    .buckets
                    .get_mut(&origin)
                    .is_some_and(|bucket| bucket.take(RATE, now).is_ok());
            }
        }
        let bucket = self.buckets.entry(origin);
        let bucket = bucket.or_insert_with(|| Bucket::full(RATE, now));
        bucket.take(RATE, now).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate_holds_and_others_are_not_affected() {
        let mut limit = RateLimit::default();
        let start = Instant::now();
        let (a, b) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        assert_eq!((0..60).filter(|_| limit.admits(a, start)).count(), 50);
        assert!(limit.admits(b, start));
        assert_eq!(
            (0..60)
                .filter(|_| limit.admits(a, start + Duration::from_secs(2)))
                .count(),
            40
        );
    }

    #[test]
    fn memory_is_bounded_and_a_crowd_gives_nobody_a_new_burst() {
        let mut limit = RateLimit::default();
        let start = Instant::now();
        let greedy = "192.0.2.1".parse().unwrap();
        while limit.admits(greedy, start) {}
        for n in 0..30_000_u32 {
            limit.admits(std::net::Ipv4Addr::from(n).into(), start);
        }
        assert!(limit.buckets.len() <= MAX_ORIGINS);
        assert!(!limit.admits(greedy, start));
        assert!(limit.admits("192.0.2.2".parse().unwrap(), start + Duration::from_secs(3)));
    }
}
