//! Who is at the other end: a visitor's address, and what stands for it when visitors are counted. Pure.
//!
//! What a header says is believed only as far as edges of ours wrote it.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// Entries of `X-Forwarded-For` that are looked at, from its end. More hops than anybody has edges.
const MAX_HOPS: usize = 16;

/// Visitors that are counted as one: an IPv4 address, or an IPv6 /64 (which one line has).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Visitor {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// The first half of an IPv6 address.
    V6([u16; 4]),
}

impl From<IpAddr> for Visitor {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4),
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

/// Whether an address is one of our edges.
pub(crate) fn is_edge(address: IpAddr, edges: &[IpNet]) -> bool {
    let address = address.to_canonical();
    edges.iter().any(|net| net.contains(&address))
}

/// The visitor's address: the last hop that is not ours, as the edges give it. The peer itself when it is no edge, or when an edge
/// says nothing that can be read. `forwarded` are the values of all `X-Forwarded-For` headers, in order.
pub(crate) fn address<'a>(
    peer: IpAddr,
    forwarded: impl DoubleEndedIterator<Item = &'a str>,
    edges: &[IpNet],
) -> IpAddr {
    let mut last = peer.to_canonical();
    let hops = forwarded.rev().flat_map(|value| value.rsplit(','));
    for hop in hops.take(MAX_HOPS) {
        if !is_edge(last, edges) {
            break;
        }
        let Some(before) = parsed(hop) else {
            break;
        };
        last = before;
    }
    last
}

/// An address as proxies write it: bare, in brackets, or with a port.
fn parsed(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let address = text.parse::<IpAddr>().ok();
    let with_port = || {
        text.parse::<std::net::SocketAddr>()
            .ok()
            .map(|address| address.ip())
    };
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address = address.or_else(with_port).or_else(bracketed)?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(peer: &str, forwarded: &[&str]) -> String {
        let edges = [
            "10.0.0.0/24".parse().unwrap(),
            "fd00::1/128".parse().unwrap(),
        ];
        let peer = peer.parse().unwrap();
        address(peer, forwarded.iter().copied(), &edges).to_string()
    }

    #[test]
    fn a_stranger_is_who_he_is_whatever_he_says() {
        assert_eq!(found("203.0.113.7", &["198.51.100.1"]), "203.0.113.7");
        assert_eq!(found("::ffff:203.0.113.7", &["10.0.0.1"]), "203.0.113.7");
    }

    #[test]
    fn an_edge_says_who_came_and_what_that_one_said_does_not_count() {
        assert_eq!(found("10.0.0.1", &["203.0.113.7"]), "203.0.113.7");
        assert_eq!(found("10.0.0.1", &["1.1.1.1, 203.0.113.7"]), "203.0.113.7");
        assert_eq!(
            found("10.0.0.1", &["1.1.1.1", "203.0.113.7"]),
            "203.0.113.7"
        );
        assert_eq!(found("10.0.0.1", &["203.0.113.7, 10.0.0.2"]), "203.0.113.7");
        assert_eq!(found("fd00::1", &["[2001:db8::5]:443"]), "2001:db8::5");
    }

    #[test]
    fn what_cannot_be_read_ends_the_chain() {
        assert_eq!(found("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(found("10.0.0.1", &["203.0.113.7, unknown"]), "10.0.0.1");
        assert_eq!(found("10.0.0.1", &[""]), "10.0.0.1");
    }

    #[test]
    fn one_line_of_ipv6_is_one_visitor() {
        let visitor = |text: &str| Visitor::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(visitor("2001:db8:1:2::1"), visitor("2001:db8:1:2:ffff::9"));
        assert_ne!(visitor("2001:db8:1:2::1"), visitor("2001:db8:1:3::1"));
        assert_eq!(visitor("::ffff:1.2.3.4"), visitor("1.2.3.4"));
    }

    proptest! {
        /// Whatever a visitor writes before the edge adds his address, it is his address that counts.
        #[test]
        fn nobody_writes_himself_another_address(said in "[ -~]{0,200}", hops in 0_usize..3) {
            let mut value = format!("{said}, 203.0.113.7");
            for hop in 0..hops {
                value.push_str(&format!(", 10.0.0.{}", hop + 2));
            }
            prop_assert_eq!(found("10.0.0.1", &[&value]), "203.0.113.7");
        }
    }
}
