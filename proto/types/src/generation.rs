//! The generation of a host's plan: an incarnation of the coordinator's state, and a number that rises with each change.
//!
//! Whoever rebuilds a coordinator from an older state raises the incarnation, on purpose. Not here: when a generation
//! rises (isyone-fleet), what a host does with a lower one (the agent's ledger), and generations of tenants, which are
//! plain numbers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Orders the plans of one host: first by incarnation, then by number.
///
/// One `u64` on the wire and on disk, the incarnation in its upper bits: to programs that know no incarnations, a raised
/// one is just a higher generation, and databases and ledgers from before them hold incarnation 0.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(u64);

/// Bits of the number: at a thousand changes a second they last for 8,900 years.
const NUMBER_BITS: u32 = 48;

impl Generation {
    /// The highest incarnation: two bits stay unused, so that the whole fits into a signed integer with room to spare.
    pub const MAX_INCARNATION: u16 = (1 << 14) - 1;

    /// Puts the two together. A number that is too large becomes the largest.
    pub const fn new(incarnation: u16, number: u64) -> Self {
        let largest = (1 << NUMBER_BITS) - 1;
        let number = if number > largest { largest } else { number };
        Self(((incarnation as u64) << NUMBER_BITS) | number)
    }

    /// How often the coordinator's state was rebuilt from an older one.
    pub const fn incarnation(self) -> u16 {
        // Sixteen bits are left.
        (self.0 >> NUMBER_BITS) as u16
    }

    /// Counts the changes to the host's plan.
    pub const fn number(self) -> u64 {
        self.0 & ((1 << NUMBER_BITS) - 1)
    }

    /// The generation of the next change in this incarnation, or of the first one in a higher. The number goes on, so
    /// that no two generations of a host look alike to people.
    #[must_use]
    pub fn next_in(self, incarnation: u16) -> Self {
        Self::new(incarnation, self.number() + 1).max(Self(self.0.saturating_add(1)))
    }

    /// Both as the one number that is sent and stored.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl From<u64> for Generation {
    fn from(whole: u64) -> Self {
        Self(whole)
    }
}

impl From<Generation> for u64 {
    fn from(generation: Generation) -> Self {
        generation.0
    }
}

impl fmt::Display for Generation {
    /// `17`, and after a rebuild `1.18`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.incarnation() {
            0 => write!(f, "{}", self.number()),
            incarnation => write!(f, "{incarnation}.{}", self.number()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incarnations_come_first_and_all_fit() {
        let rising = [
            Generation::default(),
            Generation::new(0, 1),
            Generation::new(0, 500),
            Generation::new(1, 0),
            Generation::new(1, 3),
            Generation::new(2, 1),
            Generation::new(Generation::MAX_INCARNATION, u64::MAX),
        ];
        assert!(rising.is_sorted() && rising.map(Generation::get).is_sorted());
        for generation in rising {
            let (incarnation, number) = (generation.incarnation(), generation.number());
            assert_eq!(Generation::new(incarnation, number), generation);
            assert!(generation.get() < 1 << 62);
        }
    }

    #[test]
    fn the_next_is_higher_whatever_the_incarnation() {
        let held = Generation::new(1, 17);
        assert_eq!(held.next_in(1), Generation::new(1, 18));
        assert_eq!(held.next_in(3), Generation::new(3, 18));
        assert_eq!(held.next_in(0), Generation::new(1, 18), "it never falls");
    }

    #[test]
    fn people_read_both_and_programs_one_number() {
        assert_eq!(Generation::new(0, 17).to_string(), "17");
        assert_eq!(Generation::new(2, 17).to_string(), "2.17");
        let json = serde_json::to_string(&Generation::new(1, 3)).unwrap();
        assert_eq!(json, ((1_u64 << 48) + 3).to_string());
        assert_eq!(
            serde_json::from_str::<Generation>("17").unwrap(),
            Generation::new(0, 17)
        );
    }
}
