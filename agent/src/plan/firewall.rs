//! The rules of the host's packet filter: an nftables table of our own, rendered whole from the plan.
//!
//! Why: a network per tenant does not isolate by itself, because a container reaches every published port through the
//! host's address. The chain hooks prerouting after connection tracking and before Docker's DNAT, so it sees published
//! ports as such and leaves Docker's own rules alone. It only ever drops traffic from or to tenants, so it cannot lock
//! an operator out. Bridged packets inside one network pass here too (br_netfilter), hence the pairs. Not here: putting
//! it in force (host::firewall), Docker's rules.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net};
use isyone_proto::plan::{Firewall, HostPlan};

/// Name of the table.
pub const TABLE: &str = "isyone";
/// The port that Prometheus scrapes on every host, by default; no tenant may reach it.
pub const METRICS_PORT: u16 = 7482;
/// The port on every host, by default, where other hosts' agents fetch tenants' data; no tenant may reach it.
pub const PEER_PORT: u16 = 7483;
/// Cloud metadata and other link-local services.
const LINK_LOCAL: &str = "169.254.0.0/16";

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
pub fn render(plan: &HostPlan) -> String {
    let (range, ports) = ranges(plan);
    let mut text =
        format!("table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
    own_network(&mut text, plan);
    from_tenant(&mut text, &plan.firewall, &range, &ports);
    prerouting(&mut text, &plan.firewall, &range, &ports);
    text += "}\n";
    text
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

/// What a tenant may reach.
fn from_tenant(text: &mut String, firewall: &Firewall, range: &str, ports: &str) {
    let protected: BTreeSet<Ipv4Addr> = firewall
        .protected_addresses
        .iter()
        .filter_map(|a| match a {
            IpAddr::V4(a) => Some(*a),
            IpAddr::V6(_) => None, // tenant networks have no IPv6
        })
        .collect();
    let edge_ports: BTreeSet<u16> = firewall.edge_ports.iter().copied().collect();
    let to_edge = |rule: &str| {
        if edge_ports.is_empty() {
            String::new()
        } else {
            format!("    {rule} tcp dport {} accept\n", set(&edge_ports))
        }
    };
    // This host comes first: the gateway's address is in the tenant's own network.
    *text += "  chain from_tenant {\n";
    *text += &to_edge("fib daddr type local");
    *text += "    fib daddr type local counter drop comment \"this host\"\n";
    *text += "    ip saddr . ip daddr @own_network accept\n";
    // Writing to a String cannot fail, so results are ignored.
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
        "    tcp dport {{ {METRICS_PORT}, {PEER_PORT} }} counter drop comment \"hosts' metrics and agents, on whatever address\""
    );
    if !protected.is_empty() {
        *text += &to_edge(&format!("ip daddr {}", set(&protected)));
        let _ = writeln!(
            text,
            "    ip daddr {} counter drop comment \"the control plane\"",
            set(&protected)
        );
    }
    let _ = writeln!(
        text,
        "    ip daddr {LINK_LOCAL} counter drop comment \"metadata services\"\n  }}"
    );
}

/// Who may reach tenants: edges, through published ports.
fn prerouting(text: &mut String, firewall: &Firewall, range: &str, ports: &str) {
    *text +=
        "  chain prerouting {\n    type filter hook prerouting priority mangle; policy accept;\n";
    *text += "    iif \"lo\" accept\n    ct state established,related accept\n";
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_golden, host_plan, tenant_plan};
    use proptest::prelude::*;

    #[test]
    fn the_table_is_as_the_golden_one() {
        let mut plan = host_plan(1, vec![tenant_plan("alfa"), tenant_plan("beta")]);
        plan.firewall.edges.push("2001:db8::1/128".parse().unwrap());
        check_golden("firewall.nft", &render(&plan));
        check_golden(
            "firewall-empty.nft",
            &render(&HostPlan {
                firewall: Firewall {
                    edges: vec![],
                    edge_ports: vec![],
                    protected_addresses: vec![],
                    ..plan.firewall
                },
                tenants: vec![],
                ..host_plan(1, vec![])
            }),
        );
    }

    #[test]
    fn a_tenant_from_an_earlier_range_stays_closed() {
        let mut plan = host_plan(1, vec![tenant_plan("alfa")]);
        plan.tenants[0].subnet = "172.31.7.0/28".parse().unwrap();
        (plan.tenants[0].http_port, plan.tenants[0].websocket_port) = (15_000, 15_001);
        let text = render(&plan);
        let ports = format!(
            "{{ 15000, 15001, {}-{} }}",
            plan.firewall.first_port, plan.firewall.last_port
        );
        let range = format!("{{ {}, 172.31.7.0/28 }}", plan.firewall.tenant_range);
        for line in [
            format!("ip saddr {range} goto from_tenant"),
            format!("ip daddr {range} counter drop"),
            format!("tcp dport {ports} counter drop"),
        ] {
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }

    proptest! {
        #[test]
        fn the_order_of_tenants_and_edges_does_not_matter(seed in 0usize..6) {
            let mut tenants = vec![tenant_plan("alfa"), tenant_plan("beta"), tenant_plan("gama")];
            let wanted = render(&host_plan(1, tenants.clone()));
            tenants.rotate_left(seed % 3);
            if seed > 2 {
                tenants.reverse();
            }
            prop_assert_eq!(render(&host_plan(9, tenants)), wanted);
        }
    }
}
