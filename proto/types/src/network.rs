//! What a tenant's network may do on its host: how many connections, and where to.
//!
//! Values only. Not here: the packet filter that is made of them (the agent's plan::firewall), a tenant's place in the
//! address plan (plan).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{echo::echo, ids::TenantName, spec::ValueError};

/// Most destinations that one plan may list: each name is looked up by every host that has a tenant of the plan.
pub const MAX_ALLOWED: usize = 64;
/// Most mail relays.
pub const MAX_RELAYS: usize = 16;
/// Most networks that are closed to tenants.
pub const MAX_CLOSED: usize = 64;
/// Connections that a plan may set at most. The kernel walks a tenant's list when it counts.
pub const MAX_CONNECTIONS: u32 = 65_535;
/// New connections a second that a plan may set at most; beyond that a limit is none.
pub const MAX_CONNECTIONS_PER_SECOND: u32 = 10_000;
/// Most addresses of hosts that a host is sent, and closes to its tenants.
pub const MAX_HOST_ADDRESSES: usize = 10_000;
/// Smallest largest packet of a network: what every IPv4 host takes.
pub const MIN_MTU: u16 = 576;
/// The largest: jumbo frames, as clouds have them.
pub const MAX_MTU: u16 = 9_216;

/// Where clouds tell machines about themselves, keys included. Link-local: nearly all of them. The others are Alibaba's, Azure's and
/// Oracle's older one.
pub const METADATA: [&str; 4] = [
    "169.254.0.0/16",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
];
/// Networks where no machine of a fleet is: of each link anew, of a cloud's metadata service (AWS), addresses that stand for others
/// (NAT64, 6to4), and what nobody may have.
const NO_MACHINES: [&str; 7] = [
    "0.0.0.0/8",
    "224.0.0.0/3",
    "fe80::/10",
    "fd00:ec2::/32",
    "64:ff9b::/96",
    "2002::/16",
    "ff00::/8",
];

/// Whether a host may be at an address: others open and close their tenants' ways there.
pub fn may_be_a_host(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let is_there = |text: &str| match text.parse::<IpNet>() {
        Ok(net) => net.contains(&address),
        Err(_) => text.parse() == Ok(address),
    };
    let mut nobodys = METADATA.iter().chain(&NO_MACHINES);
    !address.is_unspecified() && !nobodys.any(|text| is_there(text))
}

/// Where a tenant's connections may go outside its own network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Egress {
    /// To whatever is not closed to all tenants.
    #[default]
    Open,
    /// To what the plan lists, and nowhere else.
    Listed,
}

/// What a plan allows its tenants' networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRules {
    /// Connections of one tenant that its host tracks at one time; those to each of its ports count apart.
    pub connections: u32,
    /// Connections that one tenant may begin in a second; four times as many for a moment. Edges may begin four times as
    /// many to each of its ports.
    pub connections_per_second: u32,
    /// Where they may go.
    pub egress: Egress,
    /// What is open in any case: networks also where they are closed to other tenants. At most [`MAX_ALLOWED`].
    pub allow: Vec<Destination>,
    /// Whether TCP port 25 is open: other people's mail servers.
    pub smtp: bool,
}

impl Default for NetworkRules {
    fn default() -> Self {
        Self {
            connections: 4_096,
            connections_per_second: 250,
            egress: Egress::Open,
            allow: Vec::new(),
            smtp: false,
        }
    }
}

/// The rules of some of a host's tenants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPolicy {
    /// Those tenants, sorted, each once.
    pub tenants: Vec<TenantName>,
    /// What holds for each of them.
    #[serde(flatten)]
    pub rules: NetworkRules,
}

/// A name in DNS, in lower case: one label or more, no trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DnsName(String);

impl DnsName {
    /// The checked text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DnsName {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        // A name whose last label is a number would be read as an address.
        let last = text.rsplit('.').next().unwrap_or_default();
        let numeric = last.bytes().all(|b| b.is_ascii_digit());
        if text.len() <= 253 && text.split('.').all(label) && !numeric {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(ValueError(format!(
                "`{}` is not a host name such as `api.example.com`",
                echo(text)
            )))
        }
    }
}

impl TryFrom<String> for DnsName {
    type Error = ValueError;
    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl From<DnsName> for String {
    fn from(name: DnsName) -> Self {
        name.0
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Something that tenants may reach: an address, a network, or whatever a name leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Destination {
    /// A network; a single address is one with all bits.
    Network(IpNet),
    /// A name, looked up by each host every now and then.
    Name(DnsName),
}

impl FromStr for Destination {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let network = text
            .parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        if let Ok(network) = network {
            return Ok(Self::Network(network.trunc()));
        }
        text.parse().map(Self::Name).map_err(|_| {
            ValueError(format!(
                "`{}` is neither a host name nor an address or network such as 203.0.113.0/24",
                echo(text)
            ))
        })
    }
}

impl TryFrom<String> for Destination {
    type Error = ValueError;
    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        destination.to_string()
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) if network.prefix_len() == network.max_prefix_len() => {
                network.addr().fmt(f)
            }
            Self::Network(network) => network.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// A mail server that tenants may reach wherever it is: `192.0.2.25:587`, or `host:25` for the machine that they run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MailRelay {
    /// `None`: any address of the tenant's own host.
    pub address: Option<Ipv4Addr>,
    /// TCP port.
    pub port: u16,
}

/// In a relay's text, the machine that a tenant runs on.
const OWN_HOST: &str = "host";

impl FromStr for MailRelay {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || {
            ValueError(format!(
                "`{}` is not an IPv4 address and port such as `192.0.2.25:587`, or `host:25` for a tenant's own host",
                echo(text)
            ))
        };
        let (address, port) = text.split_once(':').ok_or_else(wrong)?;
        let address = match address {
            OWN_HOST => None,
            address => Some(address.parse().map_err(|_| wrong())?),
        };
        let port = port.parse().ok().filter(|port| *port > 0);
        Ok(Self {
            address,
            port: port.ok_or_else(wrong)?,
        })
    }
}

impl TryFrom<String> for MailRelay {
    type Error = ValueError;
    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl From<MailRelay> for String {
    fn from(relay: MailRelay) -> Self {
        relay.to_string()
    }
}

impl fmt::Display for MailRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{address}:{}", self.port),
            None => write!(f, "{OWN_HOST}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_host_is_where_clouds_tell_keys_or_where_others_are_meant() {
        for bad in [
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "::ffff:169.254.169.254",
            "fd00:ec2::254",
            "fe80::1",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "0.1.2.3",
            "240.0.0.1",
            "255.255.255.255",
            "224.0.0.1",
            "ff02::1",
            "0.0.0.0",
            "::",
        ] {
            assert!(!may_be_a_host(bad.parse().unwrap()), "{bad}");
        }
        for good in [
            "10.1.2.3",
            "192.0.2.7",
            "203.0.113.9",
            "2001:db8::1",
            "fd00::7",
        ] {
            assert!(may_be_a_host(good.parse().unwrap()), "{good}");
        }
    }

    #[test]
    fn what_may_be_listed_is_read_and_written_alike() {
        for (text, shown) in [
            ("203.0.113.9", "203.0.113.9"),
            ("203.0.113.9/24", "203.0.113.0/24"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("API.Example.com", "api.example.com"),
            ("_spf.example.com", "_spf.example.com"),
        ] {
            let read: Destination = text.parse().unwrap();
            assert_eq!(read.to_string(), shown);
            assert_eq!(shown.parse::<Destination>().unwrap(), read);
        }
        for bad in [
            "",
            "*.example.com",
            "a b",
            "1.2.3",
            "1.2.3.4/33",
            "x\n",
            "{ 0.0.0.0/0 }",
            "-a.example",
        ] {
            assert!(bad.parse::<Destination>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_relay_has_an_address_and_a_port() {
        for text in ["192.0.2.25:587", "host:25"] {
            assert_eq!(text.parse::<MailRelay>().unwrap().to_string(), text);
        }
        for bad in [
            "host",
            "mail.example.com:25",
            "192.0.2.1:0",
            ":25",
            "[::1]:25",
        ] {
            let said = bad.parse::<MailRelay>().unwrap_err().to_string();
            assert!(said.contains("host:25"), "{said}");
        }
    }
}
