//! Whether somebody at the other end of a line is fast enough. Pure.
//!
//! Counted is only the time in which we waited for them: who is slowed down by us (a full disk, a worker) is not slow. A fast
//! beginning does not buy a slow rest: each window stands for itself.

use std::time::Duration;

/// One direction of a line.
#[derive(Debug)]
pub(crate) struct Pace {
    floor_bytes_per_s: u64,
    window: Duration,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// At least `floor_bytes_per_s` in each window of waiting.
    pub(crate) fn new(floor_bytes_per_s: u64, window: Duration) -> Self {
        Self {
            floor_bytes_per_s,
            window,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// Notes that `bytes` came (or went) after we had waited for them; `false`: too slow.
    #[must_use]
    pub(crate) fn note(&mut self, waited: Duration, bytes: u64) -> bool {
        self.waited += waited;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.waited < self.window {
            return true;
        }
        let least = self.waited.as_secs_f64() * self.floor_bytes_per_s as f64;
        let is_enough = self.bytes as f64 >= least;
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        is_enough
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    /// Seconds after which a sender of `bytes` each `every` is found too slow.
    fn found_after(every: Duration, bytes: u64) -> Option<u64> {
        let mut pace = Pace::new(1_024, WINDOW);
        let mut sum = Duration::ZERO;
        while sum < Duration::from_secs(600) {
            sum += every;
            if !pace.note(every, bytes) {
                return Some(sum.as_secs());
            }
        }
        None
    }

    #[test]
    fn a_byte_a_second_is_too_slow_after_one_window_and_a_bad_line_is_not() {
        assert_eq!(found_after(Duration::from_secs(1), 1), Some(60));
        assert_eq!(found_after(Duration::from_millis(100), 1_000), None);
    }

    #[test]
    fn a_pause_within_a_window_is_forgiven_when_the_rest_is_fast() {
        assert_eq!(found_after(Duration::from_secs(29), 100_000), None);
    }

    #[test]
    fn a_fast_beginning_does_not_buy_a_slow_rest() {
        let mut pace = Pace::new(1_024, WINDOW);
        assert!(pace.note(WINDOW, 1 << 30));
        assert!(!pace.note(WINDOW, 100));
    }

    proptest! {
        #[test]
        fn time_that_is_ours_never_counts(bytes in prop::collection::vec(0_u64..10, 0..500)) {
            let mut pace = Pace::new(1_024, WINDOW);
            for bytes in bytes {
                prop_assert!(pace.note(Duration::ZERO, bytes));
            }
        }

        #[test]
        fn whoever_keeps_the_rate_is_never_cut(waits in prop::collection::vec(1_u64..30_000, 1..200)) {
            let mut pace = Pace::new(1_024, WINDOW);
            for ms in waits {
                prop_assert!(pace.note(Duration::from_millis(ms), ms * 1_024 / 1_000 + 1));
            }
        }
    }
}
