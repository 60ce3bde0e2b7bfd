//! Where the fleet's hosts are: addresses to wire messages and back.
//!
//! Not here: what several messages say together (hosts).

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::network::values;
use crate::{error::FieldError, network::MAX_HOST_ADDRESSES, pb::agent::v1 as agent};

/// Most addresses in one message of a list: few messages even for the largest fleet, each a few kilobytes.
pub const MAX_ADDRESSES_PER_PART: usize = 1_000;
/// Bytes of an IPv6 address.
const IPV6_BYTES: usize = 16;

/// One message about the list, as it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostsPart {
    /// It is of a list that replaces the one before.
    pub whole: bool,
    /// What comes to the list.
    pub added: Vec<IpAddr>,
    /// What leaves it, before something comes.
    pub removed: Vec<IpAddr>,
    /// The next message goes on with it.
    pub more: bool,
}

impl From<HostsPart> for agent::HostsPart {
    fn from(part: HostsPart) -> Self {
        let packed = |addresses: &[IpAddr]| (!addresses.is_empty()).then(|| address_set(addresses));
        Self {
            whole: part.whole,
            added: packed(&part.added),
            removed: packed(&part.removed),
            more: part.more,
        }
    }
}

impl TryFrom<agent::HostsPart> for HostsPart {
    type Error = FieldError;

    fn try_from(wire: agent::HostsPart) -> Result<Self, FieldError> {
        let part = Self {
            whole: wire.whole,
            added: addresses("added", wire.added)?,
            removed: addresses("removed", wire.removed)?,
            more: wire.more,
        };
        if part.added.len() + part.removed.len() > MAX_ADDRESSES_PER_PART {
            return Err(FieldError::new(
                "added",
                format!("more than {MAX_ADDRESSES_PER_PART} addresses, removed ones included"),
            ));
        }
        if part.whole && !part.removed.is_empty() {
            return Err(FieldError::new("removed", "not of a whole list"));
        }
        Ok(part)
    }
}

fn address_set(addresses: &[IpAddr]) -> agent::AddressSet {
    let mut set = agent::AddressSet::default();
    for address in addresses {
        match address {
            IpAddr::V4(address) => set.ipv4.push(address.to_bits()),
            IpAddr::V6(address) => set.ipv6.extend(address.octets()),
        }
    }
    set
}

fn addresses(field: &str, wire: Option<agent::AddressSet>) -> Result<Vec<IpAddr>, FieldError> {
    let wire = wire.unwrap_or_default();
    let (ipv6, []) = wire.ipv6.as_chunks::<IPV6_BYTES>() else {
        return Err(FieldError::new(
            format!("{field}.ipv6"),
            format!("{} bytes are not {IPV6_BYTES} each", wire.ipv6.len()),
        ));
    };
    let ipv4 = wire.ipv4.iter().map(|bits| Ipv4Addr::from(*bits).into());
    let ipv6 = ipv6.iter().map(|octets| Ipv6Addr::from(*octets).into());
    Ok(ipv4.chain(ipv6).collect())
}

/// Parses where the fleet's hosts are, as coordinators of before say it.
pub fn host_addresses(wire: &agent::HostAddresses) -> Result<BTreeSet<IpAddr>, FieldError> {
    if wire.addresses.len() > MAX_HOST_ADDRESSES {
        return Err(FieldError::new(
            "addresses",
            format!("more than {MAX_HOST_ADDRESSES}"),
        ));
    }
    let parsed = values::<IpAddr>("addresses", &wire.addresses)?;
    Ok(parsed.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(wire: agent::HostsPart) -> String {
        HostsPart::try_from(wire).unwrap_err().field
    }

    fn ipv4(count: usize) -> Option<agent::AddressSet> {
        Some(agent::AddressSet {
            ipv4: (0..).take(count).collect(),
            ..agent::AddressSet::default()
        })
    }

    #[test]
    fn an_address_is_the_number_that_its_notation_shows() {
        let addresses = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let set = address_set(&addresses);
        assert_eq!(set.ipv4, [0xc000_0201]);
        assert_eq!((set.ipv6[..2].to_vec(), set.ipv6[15]), (vec![0x20, 1], 1));
        assert_eq!(super::addresses("added", Some(set)).unwrap(), addresses);
    }

    #[test]
    fn what_no_coordinator_says_is_refused_by_name() {
        let half = Some(agent::AddressSet {
            ipv6: vec![0; 24],
            ..agent::AddressSet::default()
        });
        let part = agent::HostsPart::default();
        let removed = |set| agent::HostsPart {
            removed: set,
            ..part.clone()
        };
        assert_eq!(refused(removed(half)), "removed.ipv6");
        let many = agent::HostsPart {
            added: ipv4(MAX_ADDRESSES_PER_PART),
            ..removed(ipv4(1))
        };
        assert_eq!(refused(many), "added");
        let whole = agent::HostsPart {
            whole: true,
            ..removed(ipv4(1))
        };
        assert_eq!(refused(whole), "removed");
        assert!(HostsPart::try_from(removed(ipv4(MAX_ADDRESSES_PER_PART))).is_ok());
    }
}
