//! What names have led to, and for how long that counts. Which names a host looks up.
//!
//! Why a book and not the last answer: a tenant may have been given another of a name's addresses than we, and one that is closed
//! to tenants must stay so when nobody answers. Not here: asking (host::firewall::names), the rules (firewall).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use isyone_proto::{
    network::{Destination, DnsName, Egress},
    plan::{HostPlan, UnixMs},
};
use serde::{Deserialize, Serialize};

/// Most names that a host looks up; more are left out, and what they lead to is not open.
pub const MAX_NAMES: usize = 512;
/// Most addresses of one name; the newest stay.
const MAX_ADDRESSES: usize = 64;
/// How long an address is open after a name has last led to it, milliseconds: browsers and programs keep answers about as long.
const OPEN_FOR_MS: UnixMs = 3_600_000;
/// How long an address is closed after a name has last led to it, milliseconds.
const CLOSED_FOR_MS: UnixMs = 7 * 86_400_000;

/// Names and their addresses, each with the moment when it was last an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NameBook(BTreeMap<DnsName, BTreeMap<Ipv4Addr, UnixMs>>);

impl NameBook {
    /// Takes an answer down. None at all is no answer: what was known stays.
    pub fn learn(&mut self, name: &DnsName, answer: &[Ipv4Addr], now: UnixMs) {
        let usable = answer.iter().filter(|address| is_usable(**address));
        let usable: Vec<Ipv4Addr> = usable.take(MAX_ADDRESSES).copied().collect();
        if usable.is_empty() {
            return;
        }
        let known = self.0.entry(name.clone()).or_default();
        known.extend(usable.into_iter().map(|address| (address, now)));
        known.retain(|_, seen| now - *seen < CLOSED_FOR_MS);
        if known.len() > MAX_ADDRESSES {
            let mut newest: Vec<_> = known.iter().map(|(a, seen)| (*seen, *a)).collect();
            newest.sort_unstable_by(|a, b| b.cmp(a));
            newest.truncate(MAX_ADDRESSES);
            *known = newest.into_iter().map(|(seen, a)| (a, seen)).collect();
        }
    }

    /// Forgets names that nobody asks about any more.
    pub fn keep(&mut self, names: &BTreeSet<DnsName>) {
        self.0.retain(|name, _| names.contains(name));
    }

    /// Where a name has led lately.
    pub fn open(&self, name: &DnsName, now: UnixMs) -> BTreeSet<Ipv4Addr> {
        let known = self.0.get(name).into_iter().flatten();
        known
            .filter(|(_, seen)| now - **seen < OPEN_FOR_MS)
            .map(|(address, _)| *address)
            .collect()
    }

    /// Wherever a name has led.
    pub fn closed(&self, name: &DnsName) -> BTreeSet<Ipv4Addr> {
        let known = self.0.get(name).into_iter().flatten();
        known.map(|(address, _)| *address).collect()
    }
}

/// Whether packets can go there at all.
pub fn is_usable(address: Ipv4Addr) -> bool {
    !(address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_broadcast())
}

/// The names of the control plane: the plan's, and the one that this host itself calls.
pub fn protected(plan: &HostPlan, endpoint: Option<&DnsName>) -> BTreeSet<DnsName> {
    let said = plan.firewall.protected_names.iter();
    said.chain(endpoint).cloned().collect()
}

/// The names that some tenant may reach.
pub fn allowed(plan: &HostPlan) -> BTreeSet<DnsName> {
    let policies = plan.firewall.policies.iter();
    policies
        .filter(|policy| policy.rules.egress == Egress::Listed)
        .flat_map(|policy| &policy.rules.allow)
        .filter_map(|destination| match destination {
            Destination::Name(name) => Some(name.clone()),
            Destination::Network(_) => None,
        })
        .collect()
}

/// All names to look up, those of the control plane first.
pub fn wanted(plan: &HostPlan, endpoint: Option<&DnsName>) -> BTreeSet<DnsName> {
    let protected = protected(plan, endpoint);
    let all = protected.into_iter().chain(allowed(plan));
    all.take(MAX_NAMES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> DnsName {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_open_ends_and_what_is_closed_outlives_silence() {
        let (mut book, api) = (NameBook::default(), name("api.example.com"));
        let [old, new] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(Ipv4Addr::from);
        book.learn(&api, &[old], 0);
        book.learn(&api, &[], OPEN_FOR_MS / 2);
        book.learn(&api, &[new], OPEN_FOR_MS - 1);
        assert_eq!(book.open(&api, OPEN_FOR_MS - 1), BTreeSet::from([old, new]));
        assert_eq!(book.open(&api, OPEN_FOR_MS), BTreeSet::from([new]));
        assert_eq!(book.closed(&api), BTreeSet::from([old, new]));
        assert!(book.open(&api, i64::MAX / 2).is_empty());
        assert_eq!(book.closed(&api).len(), 2, "nobody has answered since");
        book.learn(&api, &[new], CLOSED_FOR_MS);
        assert_eq!(book.closed(&api), BTreeSet::from([new]));
        book.keep(&BTreeSet::new());
        assert_eq!(book, NameBook::default());
    }

    #[test]
    fn an_answer_opens_nothing_of_the_host_itself() {
        let (mut book, api) = (NameBook::default(), name("api.example.com"));
        let odd = [[127, 0, 0, 1], [0, 0, 0, 0], [224, 0, 0, 1], [255; 4]].map(Ipv4Addr::from);
        book.learn(&api, &odd, 0);
        assert!(book.closed(&api).is_empty());
    }

    proptest! {
        #[test]
        fn a_name_with_ever_other_addresses_stays_small_and_has_the_newest(
            answers in prop::collection::vec(prop::collection::vec(any::<u32>(), 0..100), 0..20),
        ) {
            let (mut book, api) = (NameBook::default(), name("cdn.example.com"));
            for (now, answer) in answers.iter().enumerate() {
                let answer: Vec<Ipv4Addr> = answer.iter().map(|n| Ipv4Addr::from(*n)).collect();
                book.learn(&api, &answer, now as UnixMs);
                prop_assert!(book.closed(&api).len() <= MAX_ADDRESSES);
                let newest = answer.iter().filter(|a| is_usable(**a)).take(MAX_ADDRESSES);
                let open = book.open(&api, now as UnixMs);
                prop_assert!(newest.into_iter().all(|a| open.contains(a)));
            }
        }
    }
}
