//! When something that failed is tried again: after a pause that grows to a bound, for ever. Pure.
//!
//! Not here: what is tried (the parent).

use std::time::Duration;

use tokio::time::Instant;

use crate::base::clock::backoff;

/// Pauses between tries.
#[derive(Debug, Clone, Copy)]
pub struct Pauses {
    /// After the first failure; doubles.
    pub first: Duration,
    /// The longest.
    pub most: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(2),
            // What the kernel refuses for good costs one run of `nft` a minute.
            most: Duration::from_secs(60),
        }
    }
}

/// One thing that must be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Again {
    failures: u32,
    next: Option<Instant>,
}

impl Again {
    /// After a try.
    pub(super) fn tried(&mut self, worked: bool, now: Instant, pauses: Pauses) {
        if worked {
            *self = Self::default();
            return;
        }
        self.next = Some(now + backoff(self.failures, pauses.first, pauses.most));
        self.failures = self.failures.saturating_add(1);
    }

    /// Whether the last try failed.
    pub(super) fn is_failing(&self) -> bool {
        self.next.is_some()
    }

    /// Whether it is to be tried now because the last try failed.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next.is_some_and(|next| next <= now)
    }

    /// How long until then; at most `most`.
    pub(super) fn until(&self, now: Instant, most: Duration) -> Duration {
        let next = self.next.map(|next| next.saturating_duration_since(now));
        next.unwrap_or(most).min(most)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_fails_is_tried_for_ever_never_hurriedly_and_what_works_is_left(
            tries in proptest::collection::vec(any::<bool>(), 1..80)
        ) {
            let (mut again, mut now) = (Again::default(), Instant::now());
            let pauses = Pauses::default();
            let mut failures = 0u32;
            for worked in tries {
                again.tried(worked, now, pauses);
                failures = if worked { 0 } else { failures + 1 };
                prop_assert_eq!(again.is_failing(), !worked);
                prop_assert!(!again.is_due(now));
                let pause = again.until(now, Duration::from_secs(3600));
                if worked {
                    prop_assert_eq!(&again, &Again::default());
                } else {
                    prop_assert!(pause >= pauses.first && pause <= pauses.most);
                    prop_assert!(failures < 6 || pause == pauses.most);
                    now += pause;
                    prop_assert!(again.is_due(now));
                }
            }
        }
    }
}
