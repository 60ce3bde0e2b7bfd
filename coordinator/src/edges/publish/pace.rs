//! How often an edge's document may change: Traefik rebuilds everything each time, so the pause grows with the tenants.
//!
//! The first change after a pause goes out at once; changes during the pause go out together at its end.
//! Not here: waiting (mod.rs).

use tokio::time::{Duration, Instant};

/// Shortest pause: Traefik's own throttle (`providersThrottleDuration`) as deployed.
const AT_LEAST: Duration = Duration::from_millis(100);
/// Pause per tenant. Traefik needs 0.4 ms per tenant (4 s for 10,000, on both of two cores), so a steady stream of
/// changes keeps it busy at most half of the time.
const PER_TENANT: Duration = Duration::from_micros(800);

/// When one document may change again, and whether a change is waiting for that.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    not_before: Option<Instant>,
    due: Option<Instant>,
}

impl Pace {
    /// Whether the document may change now; if so, the next pause begins. A change that may not go out now is due when
    /// the pause ends.
    pub(super) fn may_change(&mut self, changed: bool, tenants: u64, now: Instant) -> bool {
        self.due = self
            .not_before
            .filter(|not_before| changed && now < *not_before);
        let may = changed && self.due.is_none();
        if may {
            let tenants = u32::try_from(tenants).unwrap_or(u32::MAX);
            self.not_before = Some(now + AT_LEAST.max(PER_TENANT.saturating_mul(tenants)));
        }
        may
    }

    /// When a waiting change may go out.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_change_goes_out_at_once_and_a_stream_at_intervals_that_grow_with_the_tenants() {
        let begin = Instant::now();
        for (tenants, least) in [(10, 100), (1_000, 800), (10_000, 8_000)] {
            let mut pace = Pace::default();
            assert!(pace.may_change(true, tenants, begin) && pace.due().is_none());
            let after = |ms| begin + Duration::from_millis(ms);
            assert!(!pace.may_change(true, tenants, after(least - 1)));
            assert_eq!(pace.due(), Some(after(least)));
            // Reverted before it went out.
            assert!(!pace.may_change(false, tenants, after(least - 1)) && pace.due().is_none());
            assert!(pace.may_change(true, tenants, after(least)));
            assert!(
                !pace.may_change(false, tenants, after(60_000))
                    && pace.may_change(true, tenants, after(60_000))
            );
        }
    }
}
