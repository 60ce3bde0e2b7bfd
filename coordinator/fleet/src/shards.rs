//! Which edge serves which tenant when edges share the tenants: each edge serves one shard.
//!
//! Rendezvous hashing: every shard gets a weight for a name, and the heaviest one has it. The result depends only on
//! the two names, so everybody who knows the shards agrees. A new shard takes its share from the others, a removed one
//! gives its share to them, and nothing else moves.
//! Not here: what a shard's edge is given (the coordinator's edges/publish).

use isyone_types::ids::ShortName;
use serde::{Deserialize, Serialize};

/// Largest number of shards, more than a fleet has edges. A document of everything has at most this many parts.
pub const MAX: usize = 256;

/// The shards' names, in the order of the configuration. Without shards there is one edge (or several alike) with all
/// tenants.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Shards(Vec<ShortName>);

impl Shards {
    /// At most [`MAX`] names, each once; the configuration is checked for that.
    pub fn new(names: Vec<ShortName>) -> Self {
        Self(names)
    }

    pub fn names(&self) -> &[ShortName] {
        &self.0
    }

    /// Number of scopes, each with its own documents: one for everything, and one for each shard.
    pub fn scopes(&self) -> usize {
        1 + self.0.len()
    }

    /// The name of a scope's shard; empty for the scope of everything.
    pub fn scope_name(&self, scope: usize) -> &str {
        scope
            .checked_sub(1)
            .and_then(|place| self.0.get(place))
            .map_or("", ShortName::as_str)
    }

    /// Index in [`Shards::names`] of a tenant's (or host's) shard; `None` when there are no shards.
    pub fn of(&self, name: &str) -> Option<usize> {
        let name = hash(name);
        let weight = |shard: &ShortName| mix(name ^ mix(hash(shard.as_str())));
        // The name breaks ties between equal weights, so that the order of the configuration does not matter.
        let heaviest = self
            .0
            .iter()
            .enumerate()
            .max_by_key(|(_, shard)| (weight(shard), shard.as_str()));
        heaviest.map(|(place, _)| place)
    }

    /// The name of a tenant's (or host's) shard.
    pub fn name_of(&self, name: &str) -> Option<&ShortName> {
        self.of(name).and_then(|place| self.0.get(place))
    }

    /// Index of the shard with this name.
    pub fn position(&self, shard: &str) -> Option<usize> {
        self.0.iter().position(|name| name.as_str() == shard)
    }
}

/// FNV-1a. It must never change, or tenants would move between shards.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The finalizer of `SplitMix64`, because FNV alone mixes the last letters badly.
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shards(names: &[String]) -> Shards {
        Shards::new(names.iter().map(|n| n.parse().unwrap()).collect())
    }

    #[test]
    fn the_answers_are_the_same_for_ever() {
        let shards = shards(&["a".to_owned(), "b".to_owned(), "c".to_owned()]);
        let names = ["alfa", "beta", "gama", "delta", "t-1", "t-2", "t-3", "t-4"];
        let found: String = names
            .iter()
            .filter_map(|n| shards.name_of(n))
            .map(ShortName::as_str)
            .collect();
        assert_eq!(found, "babcbccc");
        assert_eq!(Shards::default().of("alfa"), None);
    }

    proptest! {
        /// One more shard: whatever moves, moves to it, and it gets about its share. The order of shards does not
        /// matter.
        #[test]
        fn a_new_shard_takes_its_share_and_nothing_else_moves(
            names in proptest::collection::btree_set("[a-z][a-z0-9]{0,6}", 2..9), seed in 0..1_000_000_u32
        ) {
            let mut names: Vec<String> = names.into_iter().collect();
            let after = shards(&names);
            let new = names.swap_remove(seed as usize % names.len());
            let before = shards(&names);
            let tenants: Vec<String> = (0..2_000).map(|n| format!("tenant-{}", seed + n)).collect();
            let moved = tenants.iter().filter(|t| after.name_of(t) != before.name_of(t));
            let moved = moved.map(|t| after.name_of(t).unwrap().as_str()).collect::<Vec<_>>();
            prop_assert!(moved.iter().all(|shard| *shard == new));
            let fair = tenants.len() / (names.len() + 1);
            prop_assert!((fair * 7 / 10..=fair * 13 / 10).contains(&moved.len()), "{} of {fair}", moved.len());
        }
    }
}
