//! Where a tenant's connections may go outside its own network, by its plan: chains that the rules for all tenants lead to.
//!
//! Not here: what is closed to all tenants (mod.rs), how many connections they may have (limits).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::Ipv4Addr,
};

use ipnet::{IpNet, Ipv4Net};
use isyone_proto::{
    network::{Destination, Egress, NetworkPolicy, NetworkRules},
    plan::HostPlan,
};

use super::{Around, set};

/// Other people's mail servers.
const SMTP: u16 = 25;
/// How long an address that a name has led to is open when nobody puts the rules in force again. The agent does, six times in that
/// time.
const NAMES_FOR: &str = "1h";

/// Whether the coordinator says what tenants' networks may do; one of before does not, and then nothing is added.
pub(super) fn is_said(plan: &HostPlan) -> bool {
    !plan.firewall.policies.is_empty() || !plan.firewall.closed.is_empty()
}

/// The networks of each policy's tenants. Overlapping ones would be ambiguous, and nft would refuse all rules for it: the second one
/// is left out, and has the defaults.
pub(super) fn subnets(plan: &HostPlan) -> BTreeMap<Ipv4Net, &NetworkPolicy> {
    let by_name: BTreeMap<_, _> = plan
        .tenants
        .iter()
        .map(|t| (&t.name, t.subnet.trunc()))
        .collect();
    let mut found: BTreeMap<Ipv4Net, &NetworkPolicy> = BTreeMap::new();
    for policy in &plan.firewall.policies {
        for subnet in policy.tenants.iter().filter_map(|name| by_name.get(name)) {
            // Networks without common addresses lie in a row, so only the neighbours can have some.
            let before = found.range(..=*subnet).next_back();
            let after = found.range(*subnet..).next();
            let clash =
                |(other, _): (&Ipv4Net, _)| other.contains(subnet) || subnet.contains(other);
            if !before.is_some_and(clash) && !after.is_some_and(clash) {
                found.insert(*subnet, policy);
            }
        }
    }
    found
}

/// The sets and chains of all policies. They come before whatever leads to them.
pub(super) fn chains(text: &mut String, plan: &HostPlan, around: &Around) {
    if !is_said(plan) {
        return;
    }
    for (i, policy) in plan.firewall.policies.iter().enumerate() {
        names(text, i, &policy.rules, around);
    }
    let closed = closed(plan);
    for (i, policy) in plan.firewall.policies.iter().enumerate() {
        chain(text, &i.to_string(), &policy.rules, &closed);
    }
    chain(text, "other", &NetworkRules::default(), &closed);
}

/// The end of the rules for all tenants: each goes on with those of its plan.
pub(super) fn dispatch(text: &mut String, plan: &HostPlan) {
    if !is_said(plan) {
        return;
    }
    let index = |policy: &NetworkPolicy| {
        let all = &plan.firewall.policies;
        all.iter().position(|other| std::ptr::eq(other, policy))
    };
    let to = |(subnet, policy): (&Ipv4Net, &&NetworkPolicy)| {
        Some(format!("{subnet} : goto egress_{}", index(policy)?))
    };
    let map: Vec<String> = subnets(plan).iter().filter_map(to).collect();
    if !map.is_empty() {
        let _ = writeln!(text, "    ip saddr vmap {}", set(map));
    }
    *text += "    goto egress_other\n";
}

fn closed(plan: &HostPlan) -> Vec<Ipv4Net> {
    let nets = plan.firewall.closed.iter().filter_map(ipv4);
    Ipv4Net::aggregate(&nets.collect::<Vec<_>>())
}

/// Tenants' networks have no IPv6.
pub(super) fn ipv4(net: &IpNet) -> Option<Ipv4Net> {
    match net {
        IpNet::V4(net) => Some(net.trunc()),
        IpNet::V6(_) => None,
    }
}

/// What the listed names of a policy have led to.
fn names(text: &mut String, i: usize, rules: &NetworkRules, around: &Around) {
    if rules.egress == Egress::Open {
        return;
    }
    let found: BTreeSet<Ipv4Addr> = rules
        .allow
        .iter()
        .filter_map(|destination| match destination {
            Destination::Name(name) => around.names.get(name),
            Destination::Network(_) => None,
        })
        .flatten()
        .copied()
        .collect();
    let _ = writeln!(
        text,
        "  set names_{i} {{\n    type ipv4_addr\n    flags timeout\n    timeout {NAMES_FOR}"
    );
    if !found.is_empty() {
        let _ = writeln!(text, "    elements = {}", set(&found));
    }
    *text += "  }\n";
}

fn chain(text: &mut String, name: &str, rules: &NetworkRules, closed: &[Ipv4Net]) {
    let _ = writeln!(text, "  chain egress_{name} {{");
    if !rules.smtp {
        let _ = writeln!(
            text,
            "    tcp dport {SMTP} counter drop comment \"mail servers\""
        );
    }
    let listed = rules
        .allow
        .iter()
        .filter_map(|destination| match destination {
            Destination::Network(net) => ipv4(net),
            Destination::Name(_) => None,
        });
    let listed = Ipv4Net::aggregate(&listed.collect::<Vec<_>>());
    if !listed.is_empty() {
        let _ = writeln!(text, "    ip daddr {} accept", set(listed));
    }
    if !closed.is_empty() {
        let _ = writeln!(
            text,
            "    ip daddr {} counter drop comment \"private networks\"",
            set(closed)
        );
    }
    if rules.egress == Egress::Listed {
        let _ = writeln!(text, "    ip daddr @names_{name} accept");
        *text += "    counter drop comment \"not listed\"\n";
    }
    *text += "  }\n";
}
