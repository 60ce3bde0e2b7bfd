//! How many expensive requests an address may make: a token bucket each, kept as one number (GCRA). Pure: the time is an argument.

use std::{collections::HashMap, hash::Hash, time::Duration};

/// Addresses that are remembered at once. One is forgotten when its bucket is full again; above this, newcomers share one bucket.
const MAX_KEYS: usize = 65_536;

/// The buckets of all addresses.
#[derive(Debug)]
pub(crate) struct Budgets<K> {
    period_us: u64,
    tolerance_us: u64,
    max_keys: usize,
    /// When a key's bucket is full again, microseconds. Who is not here has a full one.
    full_at_us: HashMap<Option<K>, u64>,
    pruned_us: u64,
}

impl<K: Copy + Eq + Hash> Budgets<K> {
    /// `per_minute` when it goes on, `burst` at once.
    pub(crate) fn new(per_minute: u64, burst: u64) -> Self {
        let mut new = Self {
            period_us: 0,
            tolerance_us: 0,
            max_keys: MAX_KEYS,
            full_at_us: HashMap::new(),
            pruned_us: 0,
        };
        new.set(per_minute, burst);
        new
    }

    /// Other rates from now on.
    pub(crate) fn set(&mut self, per_minute: u64, burst: u64) {
        self.period_us = (60_000_000 / per_minute.max(1)).max(1);
        self.tolerance_us = self.period_us.saturating_mul(burst.max(1) - 1);
    }

    /// Takes one token, or says after how long there will be one. `now` is the time since any fixed moment.
    pub(crate) fn spend(&mut self, key: K, now: Duration) -> Result<(), Duration> {
        let now_us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let key = self.place_for(key, now_us);
        let full_at = self.full_at_us.get(&key).copied().unwrap_or(0).max(now_us);
        let ahead = full_at - now_us;
        if ahead > self.tolerance_us {
            return Err(Duration::from_micros(ahead - self.tolerance_us));
        }
        self.full_at_us
            .insert(key, full_at.saturating_add(self.period_us));
        Ok(())
    }

    /// The key itself, or the common one when there is no place for another.
    fn place_for(&mut self, key: K, now_us: u64) -> Option<K> {
        if self.full_at_us.contains_key(&Some(key)) || self.full_at_us.len() < self.max_keys {
            return Some(key);
        }
        // Once a second at most: it looks at all of them.
        if now_us.saturating_sub(self.pruned_us) >= 1_000_000 {
            self.pruned_us = now_us;
            self.full_at_us.retain(|_, full_at| *full_at > now_us);
        }
        (self.full_at_us.len() < self.max_keys).then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_then_the_rate_then_full_again() {
        let mut budgets = Budgets::new(60, 3);
        let at = Duration::from_secs;
        let spent = (0..5).filter(|_| budgets.spend(1, at(100)).is_ok()).count();
        assert_eq!(spent, 3);
        assert_eq!(budgets.spend(1, at(100)), Err(at(1)));
        assert_eq!(
            budgets.spend(2, at(100)),
            Ok(()),
            "another address has its own"
        );
        assert_eq!(budgets.spend(1, at(101)), Ok(()));
        assert!(budgets.spend(1, at(101)).is_err());
        let later = (0..5)
            .filter(|_| budgets.spend(1, at(1_000)).is_ok())
            .count();
        assert_eq!(later, 3);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_newcomers_then_share() {
        let mut budgets = Budgets::new(60, 2);
        budgets.max_keys = 10;
        let at = Duration::from_secs;
        for key in 0..10 {
            budgets.spend(key, at(10)).unwrap();
        }
        assert_eq!(budgets.spend(100, at(10)), Ok(()));
        assert_eq!(budgets.spend(101, at(10)), Ok(()));
        assert!(budgets.spend(102, at(10)).is_err(), "they share one bucket");
        assert!(budgets.full_at_us.len() <= 11);
        assert_eq!(budgets.spend(103, at(20)), Ok(()));
        assert_eq!(
            budgets.full_at_us.len(),
            1,
            "those with full buckets are forgotten"
        );
    }

    proptest! {
        #[test]
        fn in_no_span_more_than_burst_and_rate(
            per_minute in 1_u64..6_000,
            burst in 1_u64..50,
            gaps_ms in prop::collection::vec(0_u64..2_000, 1..300),
        ) {
            let mut budgets = Budgets::new(per_minute, burst);
            let (mut now_ms, mut spent) = (0_u64, 0_u64);
            for gap in gaps_ms {
                now_ms += gap;
                spent += u64::from(budgets.spend((), Duration::from_millis(now_ms)).is_ok());
                // One more for the period's rounding down.
                prop_assert!(spent <= burst + now_ms * per_minute / 60_000 + 1 + now_ms / 60_000);
            }
        }
    }
}
