//! How often an edge's document may change: Traefik builds everything anew each time, so the pause grows with the tenants.
//!
//! The first change after a pause goes out at once; what comes during the pause goes out together at its end.
//! Not here: waiting (the folder's head).

use tokio::time::{Duration, Instant};

/// However few tenants: Traefik's own throttle (`providersThrottleDuration`) as it is deployed.
const AT_LEAST: Duration = Duration::from_millis(100);
/// For each tenant. Traefik needs 0.4 ms for a tenant (4 s for 10,000, on both of two cores), so that a steady stream of
/// changes keeps it busy for half of the time at most.
const PER_TENANT: Duration = Duration::from_micros(800);

/// When one document may change again, and whether a change waits for that.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    not_before: Option<Instant>,
    due: Option<Instant>,
}

impl Pace {
    /// Whether the document may change now; if so, the next pause begins. A change that may not is due at the pause's end.
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

    /// When a change that waits may go out.
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
            // Taken back before it went out.
            assert!(!pace.may_change(false, tenants, after(least - 1)) && pace.due().is_none());
            assert!(pace.may_change(true, tenants, after(least)));
            assert!(
                !pace.may_change(false, tenants, after(60_000))
                    && pace.may_change(true, tenants, after(60_000))
            );
        }
    }
}
