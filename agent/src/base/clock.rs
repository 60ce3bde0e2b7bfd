//! The only place where the agent reads a clock or draws a random number; everything else takes them as arguments or
//! asks here.
//!
//! Not here: timers (tokio's) and time arithmetic.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

pub use isyone_proto::plan::UnixMs;

/// Milliseconds since the Unix epoch.
#[expect(
    clippy::disallowed_methods,
    reason = "the agent's one read of the wall clock"
)]
pub fn now_ms() -> UnixMs {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMs::try_from(since.as_millis()).unwrap_or(UnixMs::MAX)
}

/// Milliseconds since the machine was started, those included in which it was suspended. Never set by anybody, unlike the time of day.
pub fn boot_ms() -> u64 {
    let since = clock_gettime(ClockId::Boottime);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(since.tv_sec)
        .saturating_mul(1_000)
        .saturating_add(part(since.tv_nsec) / 1_000_000)
}

/// A random duration between zero and `limit`, uniform: full jitter, so that a fleet does not knock all at once.
pub fn jitter(limit: Duration) -> Duration {
    // A v4 UUID's low half holds 62 random bits; 32 of them are plenty here.
    let random = (uuid::Uuid::new_v4().as_u128() & 0xffff_ffff) as u32;
    limit.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// `pause`, extended to end at a multiple of `grid` after the moment that `since` counts from: many waiters then wake
/// together, which costs the machine less than waking at as many separate moments.
pub fn aligned(since: Duration, pause: Duration, grid: Duration) -> Duration {
    let beyond = (since + pause).as_nanos() % grid.as_nanos().max(1);
    let rest = grid.as_nanos().saturating_sub(beyond) % grid.as_nanos().max(1);
    pause + Duration::from_nanos(u64::try_from(rest).unwrap_or(0))
}

/// Doubles from `first` up to `cap`; `attempt` counts from 0.
pub fn backoff(attempt: u32, first: Duration, cap: Duration) -> Duration {
    first.saturating_mul(1u32 << attempt.min(16)).min(cap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_end_together_and_are_never_shorter() {
        let ms = Duration::from_millis;
        assert_eq!(aligned(ms(250), ms(1_500), ms(1_000)), ms(1_750));
        assert_eq!(aligned(ms(500), ms(1_500), ms(1_000)), ms(1_500));
        assert_eq!(aligned(ms(500), ms(1_500), Duration::ZERO), ms(1_500));
    }

    #[test]
    fn backoff_grows_to_its_cap_and_jitter_stays_below() {
        let (first, cap) = (Duration::from_millis(200), Duration::from_secs(15));
        assert_eq!(backoff(0, first, cap), first);
        assert_eq!(backoff(3, first, cap), Duration::from_millis(1600));
        assert_eq!(backoff(u32::MAX, first, cap), cap);
        assert!((0..100).all(|_| jitter(cap) <= cap));
    }
}
