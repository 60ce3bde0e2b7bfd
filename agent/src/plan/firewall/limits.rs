//! How many connections a tenant may have and begin: a second table, so that a kernel that cannot count costs the limits and not the
//! isolation.
//!
//! What is bounded is the host's table of connections, which all tenants share: a full one drops everybody's new connections. Only a
//! packet that would take a new place there is looked at. Counts are kept in sets that outlive the rules (`flush table` leaves
//! them): otherwise each new plan would forget the connections that are open. Their names say what they count, so that another
//! limit is another set; the kernel empties those that nobody uses. Not here: what is closed (mod.rs, egress).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use ipnet::Ipv4Net;
use isyone_proto::{network::NetworkRules, plan::HostPlan};

use super::{Around, egress::subnets, set};

/// Name of the table.
pub const LIMITS_TABLE: &str = "isyone_limits";
/// Of the host's table of connections, one tenant's to the outside, and those to each of its two ports, get at most this part each.
const SHARE: u32 = 16;
/// With fewer connections Odoo does not work.
const LEAST: u32 = 64;
/// What may begin at once, in seconds of the rate: a page of Odoo is dozens of requests.
const BURST_S: u32 = 4;
/// Edges are not the tenant: they have limits of their own for each visitor, and one port carries all visitors.
const EDGES_FACTOR: u32 = 4;
/// Most tenants and ports that are counted; more than a host can have.
const SET_SIZE: u32 = 65_535;

/// The limits of one tenant, as far as the host's own table allows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Limits {
    connections: u32,
    per_second: u32,
}

impl Limits {
    fn of(rules: &NetworkRules, around: &Around) -> Self {
        let share = match around.conntrack_max {
            0 => u32::MAX, // not known
            most => (most / SHARE).max(LEAST),
        };
        Self {
            connections: rules.connections.min(share),
            per_second: rules.connections_per_second,
        }
    }

    /// A chain's name says what is in it.
    fn from(self, prefix: u8) -> String {
        format!("from_{}_{}_{prefix}", self.connections, self.per_second)
    }

    fn to(self) -> String {
        format!("to_{}_{}", self.connections, self.per_second)
    }
}

/// The whole table as an nft script that replaces the rules of any earlier one and keeps its counts.
pub fn render_limits(plan: &HostPlan, around: &Around) -> String {
    let tenants: BTreeMap<Ipv4Net, Limits> = subnets(plan)
        .into_iter()
        .map(|(subnet, policy)| (subnet, Limits::of(&policy.rules, around)))
        .collect();
    let mut text = format!("table inet {LIMITS_TABLE}\nflush table inet {LIMITS_TABLE}\n");
    let _ = writeln!(text, "table inet {LIMITS_TABLE} {{");
    counts(&mut text, &tenants);
    chains(&mut text, &tenants);
    hooks(&mut text, plan, &tenants);
    text += "}\n";
    text
}

/// What survives a new plan.
fn counts(text: &mut String, tenants: &BTreeMap<Ipv4Net, Limits>) {
    let limits: BTreeSet<Limits> = tenants.values().copied().collect();
    let mut one = |name: &str, key: &str, flags: &str| {
        let _ = writeln!(
            text,
            "  set {name} {{\n    type {key}\n    size {SET_SIZE}\n    flags {flags}\n  }}"
        );
    };
    let connections: BTreeSet<u32> = limits.iter().map(|l| l.connections).collect();
    let rates: BTreeSet<u32> = limits.iter().map(|l| l.per_second).collect();
    for n in connections {
        one(&format!("from_{n}"), "ipv4_addr", "dynamic");
        one(&format!("to_{n}"), "inet_service", "dynamic");
    }
    for n in rates {
        // A bucket that was not used for a minute is full again.
        let flags = "dynamic,timeout\n    timeout 1m";
        one(&format!("from_rate_{n}"), "ipv4_addr", flags);
        one(&format!("to_rate_{n}"), "inet_service", flags);
    }
}

/// The rate comes first: what it drops must not be counted as open.
fn chains(text: &mut String, tenants: &BTreeMap<Ipv4Net, Limits>) {
    let kinds: BTreeSet<(Limits, u8)> = tenants
        .iter()
        .map(|(subnet, limits)| (*limits, subnet.prefix_len()))
        .collect();
    let mut one = |name: &str, key: &str, direction: &str, limits: Limits, factor: u32| {
        let Limits {
            connections,
            per_second,
        } = limits;
        let rate = per_second.saturating_mul(factor);
        let burst = rate.saturating_mul(BURST_S);
        let _ = writeln!(
            text,
            "  chain {name} {{\n    update @{direction}_rate_{per_second} {{ {key} limit rate over {rate}/second burst \
             {burst} packets }} counter drop comment \"new connections a second\"\n    add @{direction}_{connections} \
             {{ {key} ct count over {connections} }} counter drop comment \"open connections\"\n  }}"
        );
    };
    for (limits, prefix) in &kinds {
        // All of a tenant's addresses count as its network's.
        let mask = Ipv4Net::new([0; 4].into(), *prefix).map(|net| net.netmask());
        let key = mask.map_or("ip saddr".to_owned(), |mask| format!("ip saddr & {mask}"));
        one(&limits.from(*prefix), &key, "from", *limits, 1);
    }
    let limits: BTreeSet<Limits> = kinds.iter().map(|(limits, _)| *limits).collect();
    for limits in limits {
        one(&limits.to(), "tcp dport", "to", limits, EDGES_FACTOR);
    }
}

/// After the other table has dropped what is closed, and before Docker changes addresses.
fn hooks(text: &mut String, plan: &HostPlan, tenants: &BTreeMap<Ipv4Net, Limits>) {
    let from = tenants
        .iter()
        .map(|(subnet, limits)| format!("{subnet} : goto {}", limits.from(subnet.prefix_len())));
    let from: Vec<String> = from.collect();
    let mut ports: BTreeMap<u16, String> = BTreeMap::new();
    for tenant in &plan.tenants {
        if let Some(limits) = tenants.get(&tenant.subnet.trunc()) {
            ports.insert(tenant.http_port, limits.to());
            ports.insert(tenant.websocket_port, limits.to());
        }
    }
    let to = ports
        .iter()
        .map(|(port, chain)| format!("{port} : goto {chain}"));
    let to: Vec<String> = to.collect();
    // The second one is for an edge on this host.
    for hook in ["prerouting", "output"] {
        let _ = writeln!(
            text,
            "  chain {hook} {{\n    type filter hook {hook} priority mangle + 10; policy accept;"
        );
        *text += "    ct state != new accept\n    ct status & confirmed != 0 accept\n";
        if hook == "prerouting" {
            *text += "    iif \"lo\" accept\n";
            if !from.is_empty() {
                let _ = writeln!(text, "    ip saddr vmap {}", set(&from));
            }
        }
        if !to.is_empty() {
            let _ = writeln!(text, "    fib daddr type local tcp dport vmap {}", set(&to));
        }
        *text += "  }\n";
    }
}
