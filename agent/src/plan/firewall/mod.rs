//! The rules of the host's packet filter: an nftables table of our own, rendered whole from the plan and what surrounds it.
//!
//! Why: a network per tenant does not isolate by itself, because a container reaches every published port through the
//! host's address. The chain hooks prerouting after connection tracking and before Docker's DNAT, so it sees published
//! ports as such and leaves Docker's own rules alone. It only ever drops traffic from or to tenants, so it cannot lock
//! an operator out. Bridged packets inside one network pass here too (br_netfilter), hence the pairs. What is closed to all
//! tenants comes before what a plan opens. Not here: what a plan opens (egress), how many connections (limits), putting it in
//! force (host::firewall), Docker's rules.

mod egress;
mod limits;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net};
use isyone_proto::{
    mail::CATCHER_PORT,
    network::{DnsName, METADATA},
    plan::{Firewall, HostPlan},
};

pub use self::limits::{LIMITS_TABLE, render_limits};
use super::{mail, names::is_usable};

/// Name of the table.
pub const TABLE: &str = "isyone";
/// The port that Prometheus scrapes on every host, by default; no tenant may reach it.
pub const METRICS_PORT: u16 = 7482;
/// The port on every host, by default, where other hosts' agents fetch tenants' data; no tenant may reach it.
pub const PEER_PORT: u16 = 7483;
/// Groups, everybody on a network, and what is reserved: no place of its own is there, whatever a list says.
const GROUPS: &str = "224.0.0.0/3";
/// Where name servers listen.
const DNS: u16 = 53;
/// Longest name of an interface.
const MAX_INTERFACE: usize = 15;

/// What the rules depend on besides the plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Around {
    /// Name servers that this machine asks, and that containers are given.
    pub resolvers: BTreeSet<Ipv4Addr>,
    /// Where the fleet's hosts are.
    pub hosts: BTreeSet<IpAddr>,
    /// Where the control plane is, besides the plan's addresses.
    pub control: BTreeSet<Ipv4Addr>,
    /// What names that tenants may reach have led to lately.
    pub names: BTreeMap<DnsName, BTreeSet<Ipv4Addr>>,
    /// Interfaces that lead to tenants' networks.
    pub bridges: BTreeSet<String>,
    /// Places in the host's table of connections; 0: not known.
    pub conntrack_max: u32,
}

fn set<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let list: Vec<String> = items.into_iter().map(|i| i.to_string()).collect();
    format!("{{ {} }}", list.join(", "))
}

/// The edges by address family; overlapping ranges are merged, because nft refuses them in a set.
fn edges(firewall: &Firewall) -> (Vec<Ipv4Net>, Vec<ipnet::Ipv6Net>) {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for edge in &firewall.edges {
        match edge {
            IpNet::V4(net) => v4.push(net.trunc()),
            IpNet::V6(net) => v6.push(net.trunc()),
        }
    }
    (Ipv4Net::aggregate(&v4), ipnet::Ipv6Net::aggregate(&v6))
}

/// The tenants' networks and published ports in nft's syntax: the configured ranges, and what tenants still have from
/// earlier ones. Changing a range must not expose existing tenants.
fn ranges(plan: &HostPlan) -> (String, String) {
    let Firewall {
        tenant_range,
        first_port,
        last_port,
        ..
    } = &plan.firewall;
    let networks: Vec<Ipv4Net> = plan
        .tenants
        .iter()
        .map(|t| t.subnet.trunc())
        .chain([tenant_range.trunc()])
        .collect();
    let range = match Ipv4Net::aggregate(&networks)[..] {
        [one] => one.to_string(),
        ref many => set(many),
    };
    let ports = format!("{first_port}-{last_port}");
    let outside: BTreeSet<u16> = plan
        .tenants
        .iter()
        .flat_map(|t| [t.http_port, t.websocket_port])
        .filter(|port| !(*first_port..=*last_port).contains(port))
        .collect();
    if outside.is_empty() {
        return (range, ports);
    }
    let all = outside.iter().map(ToString::to_string).chain([ports]);
    (range, set(all))
}

/// The whole table as an nft script that replaces any earlier one in one transaction.
pub fn render(plan: &HostPlan, around: &Around) -> String {
    let (range, ports) = ranges(plan);
    let mut text =
        format!("table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
    own_network(&mut text, plan);
    let hosts = usable(&around.hosts);
    if !hosts.is_empty() {
        let elements = set(&hosts);
        let _ = writeln!(
            text,
            "  set hosts {{\n    type ipv4_addr\n    elements = {elements}\n  }}"
        );
    }
    egress::chains(&mut text, plan, around);
    text += "  chain from_tenant {\n";
    services(&mut text, &plan.firewall, around);
    this_host(&mut text, plan);
    platform(&mut text, &plan.firewall, around, &range, &ports);
    egress::dispatch(&mut text, plan);
    text += "  }\n";
    prerouting(&mut text, &plan.firewall, around, &range, &ports);
    text += "}\n";
    text
}

/// Addresses that tenants could reach: their networks have no IPv6.
fn usable<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> BTreeSet<Ipv4Addr> {
    let v4 = addresses.into_iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    v4.filter(|address| is_usable(*address)).collect()
}

/// Pairs of equal networks: traffic within one tenant's network.
fn own_network(text: &mut String, plan: &HostPlan) {
    let subnets: BTreeSet<Ipv4Net> = plan.tenants.iter().map(|t| t.subnet.trunc()).collect();
    *text += "  set own_network {\n    type ipv4_addr . ipv4_addr\n    flags interval\n";
    if !subnets.is_empty() {
        let pairs = set(subnets.iter().map(|s| format!("{s} . {s}")));
        *text += &format!("    elements = {pairs}\n");
    }
    *text += "  }\n";
}

/// What is open wherever it is, also on this host or among closed addresses: name servers, because without them nothing works, and
/// mail relays, because they were declared.
fn services(text: &mut String, firewall: &Firewall, around: &Around) {
    let resolvers = around.resolvers.iter().filter(|a| is_usable(**a));
    let resolvers: BTreeSet<_> = resolvers.collect();
    // Writing to a String cannot fail, so results are ignored, here and below.
    if !resolvers.is_empty() {
        let _ = writeln!(
            text,
            "    ip daddr {} meta l4proto {{ tcp, udp }} th dport {DNS} accept",
            set(resolvers)
        );
    }
    let relays: BTreeSet<String> = firewall
        .mail_relays
        .iter()
        .filter_map(|relay| Some(format!("{} . {}", relay.address?, relay.port)))
        .collect();
    if !relays.is_empty() {
        let _ = writeln!(text, "    ip daddr . tcp dport {} accept", set(relays));
    }
}

fn edge_ports(firewall: &Firewall) -> BTreeSet<u16> {
    firewall.edge_ports.iter().copied().collect()
}

/// A rule that opens the edges' ports at some addresses: Odoo calls its own URL.
fn open_edge(text: &mut String, firewall: &Firewall, at: &str) {
    let ports = edge_ports(firewall);
    if !ports.is_empty() {
        let _ = writeln!(text, "    {at} tcp dport {} accept", set(&ports));
    }
}

/// This host comes first: the gateway's address is in the tenant's own network.
fn this_host(text: &mut String, plan: &HostPlan) {
    let firewall = &plan.firewall;
    open_edge(text, firewall, "fib daddr type local");
    let relays: BTreeSet<u16> = firewall
        .mail_relays
        .iter()
        .filter(|relay| relay.address.is_none())
        .map(|relay| relay.port)
        .collect();
    if !relays.is_empty() {
        let _ = writeln!(
            text,
            "    fib daddr type local tcp dport {} accept",
            set(relays)
        );
    }
    let caught = plan.tenants.iter().filter(|tenant| mail::is_caught(tenant));
    let caught: Vec<Ipv4Net> = caught.map(|tenant| tenant.subnet.trunc()).collect();
    if !caught.is_empty() {
        let _ = writeln!(
            text,
            "    ip saddr {} fib daddr type local tcp dport {CATCHER_PORT} accept",
            set(Ipv4Net::aggregate(&caught))
        );
    }
    *text += "    fib daddr type local counter drop comment \"this host\"\n";
    // What many are called by, this host among them: whoever listens here on all addresses hears that, too. The tenant's own
    // network has such an address as well.
    *text += "    fib daddr type { broadcast, multicast, anycast } counter drop comment \"this host among others\"\n";
    *text += "    ip saddr . ip daddr @own_network accept\n";
}

/// What is closed to all tenants, whatever their plans list.
fn platform(text: &mut String, firewall: &Firewall, around: &Around, range: &str, ports: &str) {
    let _ = writeln!(
        text,
        "    ip daddr {range} counter drop comment \"another tenant\""
    );
    let _ = writeln!(
        text,
        "    tcp dport {ports} counter drop comment \"published ports, on whatever address\""
    );
    let _ = writeln!(
        text,
        "    tcp dport {{ {METRICS_PORT}, {PEER_PORT}, {CATCHER_PORT} }} counter drop comment \"hosts' metrics and agents, on whatever address\""
    );
    // Before whatever opens a port at an address that somebody else has said: a host does where it joins.
    let _ = writeln!(
        text,
        "    ip daddr {} counter drop comment \"metadata services\"",
        set(METADATA)
    );
    let _ = writeln!(
        text,
        "    ip daddr {GROUPS} counter drop comment \"multicast and broadcast\""
    );
    let mut control = usable(&firewall.protected_addresses);
    control.extend(around.control.iter().filter(|a| is_usable(**a)));
    if !control.is_empty() {
        let at = format!("ip daddr {}", set(&control));
        open_edge(text, firewall, &at);
        let _ = writeln!(text, "    {at} counter drop comment \"the control plane\"");
    }
    let hosts = usable(&around.hosts);
    if !hosts.is_empty() {
        // Of hosts those that are edges, as the configuration says; a host says itself where it is.
        let is_edge = |host: &Ipv4Addr| {
            let host = IpAddr::from(*host);
            let mut edges = firewall.edges.iter();
            edges.any(|edge| edge.contains(&host)) || firewall.public_addresses.contains(&host)
        };
        let edges: BTreeSet<&Ipv4Addr> = hosts.iter().filter(|host| is_edge(host)).collect();
        if !edges.is_empty() {
            open_edge(text, firewall, &format!("ip daddr {}", set(edges)));
        }
        *text += "    ip daddr @hosts counter drop comment \"another host\"\n";
    }
    // Edges may have private addresses. A network of them may have more than edges in it.
    let single = firewall.edges.iter().filter_map(egress::ipv4);
    let single = single
        .filter(|net| net.prefix_len() == 32)
        .map(|n| n.addr());
    let edges: BTreeSet<Ipv4Addr> = usable(&firewall.public_addresses)
        .into_iter()
        .chain(single.filter(|address| is_usable(*address)))
        .filter(|address| !control.contains(address))
        .collect();
    if !edges.is_empty() {
        open_edge(text, firewall, &format!("ip daddr {}", set(&edges)));
    }
}

/// Who may reach tenants: edges, through published ports.
fn prerouting(text: &mut String, firewall: &Firewall, around: &Around, range: &str, ports: &str) {
    *text +=
        "  chain prerouting {\n    type filter hook prerouting priority mangle; policy accept;\n";
    *text += "    iif \"lo\" accept\n";
    let bridges = around.bridges.iter().filter(|name| is_interface(name));
    let bridges: Vec<String> = bridges.map(|name| format!("\"{name}\"")).collect();
    if !bridges.is_empty() {
        let _ = writeln!(
            text,
            "    iifname {} meta nfproto ipv6 counter drop comment \"tenants have no IPv6\"",
            set(bridges)
        );
    }
    *text += "    ct state established,related accept\n";
    let _ = writeln!(text, "    ip saddr {range} goto from_tenant");
    let _ = writeln!(
        text,
        "    ip daddr {range} counter drop comment \"tenants are reached by published ports only\""
    );
    let (v4, v6) = edges(firewall);
    if !v4.is_empty() {
        let _ = writeln!(
            text,
            "    fib daddr type local tcp dport {ports} ip saddr {} accept",
            set(&v4)
        );
    }
    if !v6.is_empty() {
        let _ = writeln!(
            text,
            "    fib daddr type local tcp dport {ports} ip6 saddr {} accept",
            set(&v6)
        );
    }
    let _ = writeln!(
        text,
        "    fib daddr type local tcp dport {ports} counter drop comment \"only edges\"\n  }}"
    );
}

/// Whether a name can stand in the rules as it is.
fn is_interface(name: &str) -> bool {
    (1..=MAX_INTERFACE).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}
