//! How often one origin (lobby) may connect to the enrolment port: a token bucket for each, in bounded memory.
//!
//! Not here: limits for peers with a certificate (connections).

use std::{collections::HashMap, net::IpAddr};

use tokio::time::Instant;

/// Connections at once from one origin: a rack of machines behind one NAT joins in a moment.
const BURST: f64 = 50.0;
/// Connections per second after that: guessing a 256-bit token is hopeless at any rate, this just saves our CPU.
const PER_SECOND: f64 = 20.0;
/// Most origins that we remember; above that, we forget those with full buckets. A bucket soon fills up again: only at
/// hundreds of thousands of connections a second is there no room left, and then newcomers are refused for a moment.
const MAX_ORIGINS: usize = 10_000;

/// A token bucket for each recently seen origin.
#[derive(Debug, Default)]
pub(super) struct RateLimit {
    buckets: HashMap<IpAddr, (f64, Instant)>,
}

impl RateLimit {
    /// Whether `origin` may connect at `now`.
    pub(super) fn admits(&mut self, origin: IpAddr, now: Instant) -> bool {
        if self.buckets.len() >= MAX_ORIGINS {
            self.buckets.retain(|_, bucket| level(*bucket, now) < BURST);
            if self.buckets.len() >= MAX_ORIGINS {
                return self
                    .buckets
                    .get_mut(&origin)
                    .is_some_and(|bucket| draw(bucket, now));
            }
        }
        draw(self.buckets.entry(origin).or_insert((BURST, now)), now)
    }
}

fn draw(bucket: &mut (f64, Instant), now: Instant) -> bool {
    let level = level(*bucket, now);
    let allowed = level >= 1.0;
    *bucket = (if allowed { level - 1.0 } else { level }, now);
    allowed
}

fn level((level, since): (f64, Instant), now: Instant) -> f64 {
    (level + now.duration_since(since).as_secs_f64() * PER_SECOND).min(BURST)
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
