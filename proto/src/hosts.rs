//! The list of where the fleet's hosts are, as it goes to an agent: whole, or what has changed in it, in messages of a few
//! hundred addresses; and how the agent puts them together.
//!
//! A fleet has thousands of sessions and as many addresses: the whole list for each of them, and again with each change,
//! would cost the coordinator more than all else that it says. Both ends know a list by its digest.
//! Not here: reading a single message (convert), when something is sent (the coordinator's agents/session), what the list is
//! for (the agent's plan::firewall).

use std::{collections::BTreeSet, net::IpAddr};

use sha2::{Digest as _, Sha256};

use crate::{
    convert::{HostsPart, MAX_ADDRESSES_PER_PART},
    error::FieldError,
    network::MAX_HOST_ADDRESSES,
    pb::agent::v1 as agent,
};

/// Addresses in one message as it is sent. Fewer than agents take: with IPv4 a message fits in the buffer with which a
/// stream begins, and a buffer that has grown stays so as long as the session.
const SENT_PER_PART: usize = 250;
/// Most addresses in one change: all come and all go.
const MAX_CHANGED: usize = 2 * MAX_HOST_ADDRESSES;
const _: () = assert!(SENT_PER_PART <= MAX_ADDRESSES_PER_PART);

/// `Hello.hosts_sha256` of a list.
pub fn digest(list: &BTreeSet<IpAddr>) -> String {
    let mut hash = Sha256::new();
    for address in list {
        match address {
            IpAddr::V4(address) => {
                hash.update([4]);
                hash.update(address.octets());
            }
            IpAddr::V6(address) => {
                hash.update([16]);
                hash.update(address.octets());
            }
        }
    }
    hex::encode(hash.finalize())
}

/// Messages with the whole list.
pub fn whole(list: &BTreeSet<IpAddr>) -> Vec<agent::HostsPart> {
    parts(true, list.iter().map(|address| (true, *address)).collect())
}

/// Messages that make a list of another one; none when they are the same.
pub fn changes(before: &BTreeSet<IpAddr>, after: &BTreeSet<IpAddr>) -> Vec<agent::HostsPart> {
    let removed = before.difference(after).map(|address| (false, *address));
    let added = after.difference(before).map(|address| (true, *address));
    let changed: Vec<_> = removed.chain(added).collect();
    if changed.is_empty() {
        return Vec::new();
    }
    parts(false, changed)
}

/// At least one message: an empty list is one, too. `changed`: whether an address is added, and which.
fn parts(whole: bool, changed: Vec<(bool, IpAddr)>) -> Vec<agent::HostsPart> {
    let count = changed.len().div_ceil(SENT_PER_PART).max(1);
    let some_of = |of: &[(bool, IpAddr)], wanted: bool| {
        let wanted = of.iter().filter(|(added, _)| *added == wanted);
        wanted.map(|(_, address)| *address).collect()
    };
    let mut chunks = changed.chunks(SENT_PER_PART);
    let part = |number: usize| {
        let chunk = chunks.next().unwrap_or_default();
        let part = HostsPart {
            whole,
            added: some_of(chunk, true),
            removed: some_of(chunk, false),
            more: number < count,
        };
        part.into()
    };
    (1..=count).map(part).collect()
}

/// What some messages say together.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HostsChange {
    whole: bool,
    added: BTreeSet<IpAddr>,
    removed: BTreeSet<IpAddr>,
}

impl HostsChange {
    /// The list after it.
    pub fn of(mut self, known: &BTreeSet<IpAddr>) -> Result<BTreeSet<IpAddr>, FieldError> {
        if !self.whole {
            self.added.extend(known.difference(&self.removed));
        }
        if self.added.len() > MAX_HOST_ADDRESSES {
            return Err(too_many(MAX_HOST_ADDRESSES));
        }
        Ok(self.added)
    }
}

/// The messages of one session's current change that have arrived so far.
#[derive(Debug, Default)]
pub struct HostsAssembly {
    begun: Option<HostsChange>,
    /// A message of it could not be taken, so the rest of it is not either.
    broken: bool,
}

impl HostsAssembly {
    /// Adds a message; returns what it and those before say once that is complete. Where one of them cannot be read or does
    /// not fit, none of them counts.
    pub fn add(&mut self, part: agent::HostsPart) -> Result<Option<HostsChange>, FieldError> {
        let more = part.more;
        if self.broken {
            self.broken = more;
            return Ok(None);
        }
        let begun = self.begun.take();
        match Self::with(begun, part) {
            Ok(change) if more => {
                self.begun = Some(change);
                Ok(None)
            }
            Ok(change) => Ok(Some(change)),
            Err(error) => {
                self.broken = more;
                Err(error)
            }
        }
    }

    fn with(begun: Option<HostsChange>, part: agent::HostsPart) -> Result<HostsChange, FieldError> {
        let part = HostsPart::try_from(part)?;
        let mut change = begun.unwrap_or_else(|| HostsChange {
            whole: part.whole,
            ..HostsChange::default()
        });
        if change.whole != part.whole {
            return Err(FieldError::new(
                "whole",
                "a part of another list came in between",
            ));
        }
        change.removed.extend(part.removed);
        change.added.extend(part.added);
        if change.added.len() + change.removed.len() > MAX_CHANGED {
            return Err(too_many(MAX_CHANGED));
        }
        Ok(change)
    }
}

fn too_many(most: usize) -> FieldError {
    FieldError::new("added", format!("more than {most} addresses together"))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn ipv4(count: u32) -> BTreeSet<IpAddr> {
        (0..count).map(|n| Ipv4Addr::from(n).into()).collect()
    }

    /// What an agent knows that knew `known` and gets these.
    fn taken(known: &BTreeSet<IpAddr>, messages: Vec<agent::HostsPart>) -> BTreeSet<IpAddr> {
        let mut assembly = HostsAssembly::default();
        let count = messages.len();
        let mut known = known.clone();
        for (n, message) in (1..).zip(messages) {
            let change = assembly.add(message).unwrap();
            assert_eq!(change.is_some(), n == count, "applied with the last one");
            if let Some(change) = change {
                known = change.of(&known).unwrap();
            }
        }
        known
    }

    /// Lists of addresses out of few, so that they overlap.
    fn list() -> impl Strategy<Value = BTreeSet<IpAddr>> {
        let address = prop_oneof![
            (0..700_u32).prop_map(|n| IpAddr::from(Ipv4Addr::from(n << 7))),
            (0..300_u128).prop_map(|n| IpAddr::from(Ipv6Addr::from(n << 93))),
        ];
        proptest::collection::btree_set(address, 0..700)
    }

    proptest! {
        /// An agent that comes knowing anything gets the whole list, then every change: it always has the coordinator's.
        #[test]
        fn any_lists_arrive_one_after_the_other(known in list(), lists in proptest::collection::vec(list(), 1..6)) {
            let mut theirs = taken(&known, whole(&lists[0]));
            prop_assert_eq!(&theirs, &lists[0]);
            for pair in lists.windows(2) {
                theirs = taken(&theirs, changes(&pair[0], &pair[1]));
                prop_assert_eq!(&theirs, &pair[1]);
            }
        }

        #[test]
        fn a_digest_stands_for_one_list(one in list(), other in list()) {
            prop_assert_eq!(digest(&one) == digest(&other), one == other);
        }
    }

    #[test]
    fn four_of_the_one_kind_are_not_one_of_the_other() {
        let all = |n: u8| BTreeSet::from([IpAddr::from([n; 16])]);
        let four = BTreeSet::from([IpAddr::from([4; 4])]);
        assert_ne!(digest(&all(4)), digest(&four));
        assert_eq!(
            digest(&BTreeSet::from([IpAddr::from([192, 0, 2, 1])])),
            hex::encode(Sha256::digest([4, 192, 0, 2, 1])),
            "documented in the protocol"
        );
    }

    #[test]
    fn the_largest_list_goes_in_messages_that_fit_a_small_buffer() {
        let most = ipv4(u32::try_from(MAX_HOST_ADDRESSES).unwrap());
        let messages = whole(&most);
        assert_eq!(messages.len(), MAX_HOST_ADDRESSES / SENT_PER_PART);
        assert!(messages.iter().all(|m| m.encoded_len() < 1_024));
        let other = most.iter().map(|a| match a {
            IpAddr::V4(a) => a.to_ipv6_mapped().into(),
            IpAddr::V6(_) => *a,
        });
        let other: BTreeSet<IpAddr> = other.collect();
        assert_eq!(taken(&most, changes(&most, &other)), other, "all at once");
        assert_eq!(taken(&most, whole(&BTreeSet::new())), BTreeSet::new());
        assert_eq!(changes(&most, &most), []);
    }

    /// Fails where the rest of a list counts without a part of it: hosts would be open to tenants.
    #[test]
    fn of_a_list_with_a_part_that_cannot_be_read_nothing_counts() {
        let mut messages = whole(&ipv4(600));
        messages[1].added.as_mut().unwrap().ipv6 = vec![0; 3];
        let mut assembly = HostsAssembly::default();
        let mut next = || assembly.add(messages.remove(0));
        assert_eq!(next(), Ok(None));
        assert_eq!(next().unwrap_err().field, "added.ipv6");
        assert_eq!(next(), Ok(None), "the rest of it");
        let after = assembly.add(whole(&ipv4(1)).remove(0)).unwrap().unwrap();
        assert_eq!(after.of(&ipv4(5)), Ok(ipv4(1)));
    }

    #[test]
    fn lists_do_not_mix_and_memory_is_bounded() {
        let mut assembly = HostsAssembly::default();
        let first = |mut messages: Vec<agent::HostsPart>| messages.remove(0);
        assert_eq!(assembly.add(first(whole(&ipv4(300)))), Ok(None));
        let change = first(changes(&ipv4(1), &ipv4(2)));
        assert_eq!(assembly.add(change.clone()).unwrap_err().field, "whole");
        assert!(assembly.add(change.clone()).unwrap().is_some(), "anew");
        let full = ipv4(u32::try_from(MAX_HOST_ADDRESSES).unwrap());
        let one_more = HostsChange {
            added: BTreeSet::from([IpAddr::from([255; 4])]),
            ..HostsChange::default()
        };
        assert!(one_more.of(&full).is_err());
        let endless = (0..).map(|n: u32| {
            let mut part = first(whole(&ipv4(1)));
            part.added.as_mut().unwrap().ipv4 = (n * 1_000..(n + 1) * 1_000).collect();
            part.more = true;
            part
        });
        let mut assembly = HostsAssembly::default();
        let taken = endless.take(100).map(|part| assembly.add(part).is_ok());
        assert_eq!(taken.take_while(|ok| *ok).count(), MAX_CHANGED / 1_000);
    }
}
