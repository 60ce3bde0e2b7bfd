//! A bounded stock that many draw from, none of them more than what is left for others. Pure.
//!
//! A key that holds something may hold at most a stated part of what is free, so each greedy one leaves room for the next, and
//! nobody has to be evicted (the dynamic thresholds of switches' shared buffers). Whoever holds nothing yet gets what there is.

use std::{collections::HashMap, hash::Hash};

/// Which bound was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// This key has its share.
    Key,
    /// The whole is given away.
    All,
}

/// The stock and who holds how much.
#[derive(Debug)]
pub(crate) struct Shares<K> {
    bound: u64,
    per_key: u64,
    /// A key may hold one n-th of what is free.
    part: u64,
    used: u64,
    held: HashMap<K, u64>,
}

impl<K: Copy + Eq + Hash> Shares<K> {
    /// A stock of `bound`, of which a key never has more than `per_key`, nor more than one `part`th of what is free: with 1 one
    /// alone gets half and ten leave nothing, with 8 one alone gets a ninth and fifty leave something.
    pub(crate) fn new(bound: u64, per_key: u64, part: u64) -> Self {
        Self {
            bound,
            per_key,
            part: part.max(1),
            used: 0,
            held: HashMap::new(),
        }
    }

    /// Other bounds from now on. What is held stays held.
    pub(crate) fn resize(&mut self, bound: u64, per_key: u64) {
        (self.bound, self.per_key) = (bound, per_key);
    }

    /// Takes `amount` for a key, or nothing.
    pub(crate) fn take(&mut self, key: K, amount: u64) -> Result<(), Full> {
        let free = self.bound.saturating_sub(self.used);
        if amount > free {
            return Err(Full::All);
        }
        let held = self.held.get(&key).copied().unwrap_or(0);
        let most = if held == 0 { free } else { free / self.part };
        if held.saturating_add(amount) > self.per_key.min(most) {
            return Err(Full::Key);
        }
        self.used += amount;
        if amount > 0 {
            *self.held.entry(key).or_default() += amount;
        }
        Ok(())
    }

    /// Gives back.
    pub(crate) fn give(&mut self, key: K, amount: u64) {
        self.used = self.used.saturating_sub(amount);
        let Some(held) = self.held.get_mut(&key) else {
            return;
        };
        *held = held.saturating_sub(amount);
        if *held == 0 {
            self.held.remove(&key);
        }
    }

    /// How much is given away.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    #[cfg(test)]
    fn holders(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn greedy(stock: &mut Shares<u32>, key: u32) -> u64 {
        (0..).take_while(|_| stock.take(key, 1).is_ok()).count() as u64
    }

    #[test]
    fn one_alone_gets_half_and_a_newcomer_as_much_as_is_left() {
        let mut stock = Shares::new(100, 1_000, 1);
        assert_eq!(greedy(&mut stock, 1), 50);
        assert_eq!(greedy(&mut stock, 2), 25);
        assert_eq!(stock.take(1, 1), Err(Full::Key));
        assert_eq!(stock.take(3, 26), Err(Full::All));
        assert_eq!(stock.take(3, 10), Ok(()));
    }

    #[test]
    fn a_keys_own_bound_comes_first() {
        let mut stock = Shares::new(100, 3, 1);
        assert_eq!(greedy(&mut stock, 1), 3);
    }

    #[test]
    fn fifty_greedy_ones_leave_room_for_the_next() {
        let mut stock = Shares::new(4_096, 512, 8);
        for key in 0..50 {
            greedy(&mut stock, key);
        }
        // In turns until none gets more: they share alike.
        while (0..50).any(|key| stock.take(key, 1).is_ok()) {}
        assert_eq!(stock.take(99, 1), Ok(()));
    }

    proptest! {
        #[test]
        fn never_more_than_the_bound_and_everything_comes_back(
            bound in 0_u64..500,
            per_key in 0_u64..500,
            part in 1_u64..10,
            steps in prop::collection::vec((0_u32..6, 0_u64..60, any::<bool>()), 0..200),
        ) {
            let mut stock = Shares::new(bound, per_key, part);
            let mut held: HashMap<u32, Vec<u64>> = HashMap::new();
            for (key, amount, is_take) in steps {
                let of_key = held.entry(key).or_default();
                if is_take {
                    if stock.take(key, amount).is_ok() {
                        of_key.push(amount);
                        prop_assert!(of_key.iter().sum::<u64>() <= per_key.min(bound));
                    }
                } else if let Some(amount) = of_key.pop() {
                    stock.give(key, amount);
                }
                let sum: u64 = held.values().flatten().sum();
                prop_assert_eq!(stock.used(), sum);
                prop_assert!(sum <= bound);
            }
            for (key, amounts) in held {
                amounts.into_iter().for_each(|amount| stock.give(key, amount));
            }
            prop_assert_eq!((stock.used(), stock.holders()), (0, 0));
        }
    }
}
