//! The rules as they are (golden files), and what must hold for any plan: order, and nothing of a plan gets into them as syntax.

use isyone_proto::network::{Egress, NetworkPolicy, NetworkRules};
use proptest::prelude::*;

use super::{testing::busy, *};
use crate::testing::{check_golden, host_plan, tenant_plan};

fn alone(plan: &HostPlan) -> String {
    render(plan, &Around::default())
}

/// Where a line stands in the rules.
fn at(text: &str, line: &str) -> usize {
    text.find(line)
        .unwrap_or_else(|| panic!("{line} is not in\n{text}"))
}

#[test]
fn the_table_is_as_the_golden_one() {
    let mut plan = host_plan(1, vec![tenant_plan("alfa"), tenant_plan("beta")]);
    plan.firewall.edges.push("2001:db8::1/128".parse().unwrap());
    check_golden("firewall.nft", &alone(&plan));
    check_golden(
        "firewall-empty.nft",
        &alone(&HostPlan {
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
fn policies_and_limits_are_as_the_golden_ones() {
    let (plan, around) = busy();
    check_golden("firewall-policies.nft", &render(&plan, &around));
    check_golden("firewall-limits.nft", &render_limits(&plan, &around));
}

#[test]
fn the_catcher_is_open_to_those_who_are_caught_and_to_nobody_else() {
    let (plan, around) = busy();
    let text = render(&plan, &around);
    let caught = plan.tenants[1].subnet.trunc();
    let opened = format!("ip saddr {{ {caught} }} fib daddr type local tcp dport 7484 accept");
    let closed = at(
        &text,
        "fib daddr type local counter drop comment \"this host\"",
    );
    assert!(at(&text, &opened) < closed);
    assert_eq!(
        text.matches("7484").count(),
        2,
        "there, and closed on other hosts"
    );
    assert!(!alone(&host_plan(1, vec![tenant_plan("alfa")])).contains("7484 accept"));
}

#[test]
fn a_tenant_from_an_earlier_range_stays_closed() {
    let mut plan = host_plan(1, vec![tenant_plan("alfa")]);
    plan.tenants[0].subnet = "172.31.7.0/28".parse().unwrap();
    (plan.tenants[0].http_port, plan.tenants[0].websocket_port) = (15_000, 15_001);
    let text = alone(&plan);
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
        at(&text, &line);
    }
}

#[test]
fn what_is_closed_to_all_comes_before_what_a_plan_opens() {
    let (mut plan, around) = busy();
    // A plan that lists everything it should not.
    let everything = [
        "192.0.2.9",
        "192.0.2.11",
        "169.254.169.254",
        "10.240.0.0/14",
        "224.0.0.0/3",
    ];
    plan.firewall.policies[0].rules.allow = everything.map(|d| d.parse().unwrap()).to_vec();
    let text = render(&plan, &around);
    let goes_on = at(&text, "ip saddr vmap");
    for closed in [
        "\"this host\"",
        "\"this host among others\"",
        "\"multicast and broadcast\"",
        "\"another tenant\"",
        "\"published ports, on whatever address\"",
        "\"the control plane\"",
        "\"another host\"",
        "\"metadata services\"",
    ] {
        assert!(at(&text, closed) < goes_on, "{closed}");
    }
    assert!(at(&text, "198.51.100.9") < goes_on, "by its name");
}

/// A host that joins says itself where it is: that opens no port anywhere, unless the configuration has an edge there, and nothing
/// among what is closed to all.
#[test]
fn a_host_opens_nothing_by_saying_where_it_is() {
    let (mut plan, mut around) = busy();
    let hosts = ["192.0.2.11", "192.0.2.12", "169.254.169.254"];
    around.hosts = hosts.map(|host| host.parse().unwrap()).into();
    let text = render(&plan, &around);
    assert!(!text.contains("@hosts tcp dport"), "{text}");
    assert!(!text.contains("192.0.2.11 } tcp dport"), "{text}");
    plan.firewall.edges.push("192.0.2.11/32".parse().unwrap());
    plan.firewall
        .edges
        .push("169.254.169.254/32".parse().unwrap());
    let text = render(&plan, &around);
    let open = at(
        &text,
        "ip daddr { 169.254.169.254, 192.0.2.11 } tcp dport { 80, 443 } accept",
    );
    assert!(at(&text, "\"metadata services\"") < open);
    assert!(open < at(&text, "\"another host\""));
}

/// Whoever listens at a tenant's port, a process of this host or Docker by changing addresses later: a tenant is turned away before
/// any port is looked at, and everybody else but edges and this host where packets come in.
#[test]
fn the_relays_ports_are_closed_as_dockers_are() {
    let (plan, around) = busy();
    let text = render(&plan, &around);
    let from_tenant = at(&text, "chain from_tenant");
    let this_host = at(
        &text,
        "fib daddr type local counter drop comment \"this host\"",
    );
    let incoming = at(&text, "hook prerouting priority mangle");
    let sent = at(&text, "goto from_tenant");
    let edges = text.find("fib daddr type local tcp dport").unwrap();
    let others = at(&text, "counter drop comment \"only edges\"");
    assert!(from_tenant < this_host && this_host < incoming);
    assert!(incoming < sent && sent < others && edges < others);
    let before = &text[from_tenant..this_host];
    let opened = before.lines().filter(|line| line.contains("accept"));
    for line in opened {
        assert!(
            !line.contains("20000"),
            "no tenant's port is opened to one: {line}"
        );
    }
    let limits = render_limits(&plan, &around);
    for tenant in &plan.tenants {
        let http = format!("{} : goto to_", tenant.http_port);
        assert_eq!(
            limits.matches(&http).count(),
            2,
            "from edges, and from this host's"
        );
    }
}

/// Fails where only the host's own addresses are closed: who listens on all of them hears what is said to many, and answers. The
/// broadcast address of the tenant's network is in that network, so it comes before that is open.
#[test]
fn what_is_said_to_many_is_not_said_to_this_host() {
    let (plan, around) = busy();
    let older = host_plan(1, vec![tenant_plan("alfa")]);
    for text in [render(&plan, &around), alone(&older)] {
        let many = at(
            &text,
            "    fib daddr type { broadcast, multicast, anycast } counter drop",
        );
        assert!(many < at(&text, "ip saddr . ip daddr @own_network accept"));
        let all = at(&text, "    ip daddr 224.0.0.0/3 counter drop");
        assert!(
            text.find("ip saddr vmap")
                .is_none_or(|goes_on| all < goes_on)
        );
        // Nothing before these opens them: services are single addresses, and edges' ports those of this host.
        for line in text[at(&text, "chain from_tenant")..many].lines() {
            let opens = line.ends_with("accept");
            let one = line.contains("ip daddr") || line.contains("fib daddr type local tcp dport");
            assert!(!opens || one, "{line}");
        }
    }
}

#[test]
fn services_come_before_what_is_closed() {
    let (plan, around) = busy();
    let text = render(&plan, &around);
    let host = at(&text, "fib daddr type local counter drop");
    assert!(
        at(
            &text,
            "ip daddr { 10.0.0.2 } meta l4proto { tcp, udp } th dport 53 accept"
        ) < host
    );
    assert!(at(&text, "ip daddr . tcp dport { 10.9.9.25 . 587 } accept") < host);
    assert!(at(&text, "fib daddr type local tcp dport { 25 } accept") < host);
}

#[test]
fn a_tenant_of_no_policy_has_the_defaults_and_an_older_coordinators_none() {
    let (mut plan, around) = busy();
    plan.firewall.policies.truncate(1);
    let text = render(&plan, &around);
    let dispatch = &text[at(&text, "ip saddr vmap")..];
    assert!(dispatch.contains("goto egress_other") && !dispatch.contains("egress_1"));
    let limits = render_limits(&plan, &around);
    assert!(!limits.contains(&plan.tenants[1].subnet.to_string()));
    let older = host_plan(1, vec![tenant_plan("alfa")]);
    assert!(!render(&older, &around).contains("egress_"));
    let none = render_limits(&older, &around);
    assert!(
        none.contains("flush table") && !none.contains("drop"),
        "{none}"
    );
}

#[test]
fn one_tenant_has_at_most_its_part_of_a_small_hosts_table() {
    let (plan, mut around) = busy();
    around.conntrack_max = 16_384;
    let limits = render_limits(&plan, &around);
    at(&limits, "ct count over 500");
    at(&limits, "ct count over 1024");
    assert!(!limits.contains("4096"));
}

#[test]
fn networks_that_overlap_do_not_cost_the_host_its_rules() {
    let (mut plan, around) = busy();
    plan.tenants[1].subnet = plan.tenants[0].subnet;
    plan.tenants[2].subnet = Ipv4Net::new(plan.tenants[0].subnet.addr(), 24).unwrap();
    let map = |text: &str| {
        let line = text.lines().find(|l| l.contains("ip saddr vmap"));
        line.unwrap().matches("goto").count()
    };
    assert_eq!(map(&render(&plan, &around)), 1);
    assert_eq!(map(&render_limits(&plan, &around)), 1);
}

fn rules() -> impl Strategy<Value = NetworkRules> {
    let destination = prop_oneof![
        (any::<u32>(), 1u8..=32).prop_map(|(ip, len)| format!("{}/{len}", Ipv4Addr::from(ip))),
        "[a-z][a-z0-9-]{0,8}[a-z]\\.[a-z]{2,5}",
    ];
    (
        64u32..65_535,
        10u32..10_000,
        any::<bool>(),
        prop::collection::vec(destination, 0..8),
        any::<bool>(),
    )
        .prop_map(
            |(connections, per_second, listed, allow, smtp)| NetworkRules {
                connections,
                connections_per_second: per_second,
                egress: if listed { Egress::Listed } else { Egress::Open },
                allow: allow.iter().map(|d| d.parse().unwrap()).collect(),
                smtp,
            },
        )
}

proptest! {
    #[test]
    fn the_order_of_tenants_and_edges_does_not_matter(seed in 0usize..6) {
        let mut tenants = vec![tenant_plan("alfa"), tenant_plan("beta"), tenant_plan("gama")];
        let wanted = alone(&host_plan(1, tenants.clone()));
        tenants.rotate_left(seed % 3);
        if seed > 2 {
            tenants.reverse();
        }
        prop_assert_eq!(alone(&host_plan(9, tenants)), wanted);
    }

    /// Each tenant goes on to the chain of its own plan, and is counted by its own limits, whatever the others have.
    #[test]
    fn each_tenant_has_its_own_plans_rules(all in prop::collection::vec(rules(), 1..4), seed in 0usize..4) {
        let (mut plan, around) = busy();
        let owner = |i: usize| (i + seed) % all.len();
        plan.firewall.policies = all
            .iter()
            .enumerate()
            .map(|(i, rules)| NetworkPolicy {
                tenants: (0..3).filter(|t| owner(*t) == i).map(|t| plan.tenants[t].name.clone()).collect(),
                rules: rules.clone(),
            })
            .collect();
        let (text, limits) = (render(&plan, &around), render_limits(&plan, &around));
        for (i, tenant) in plan.tenants.iter().enumerate() {
            let to = format!("{} : goto egress_{}", tenant.subnet, owner(i));
            prop_assert!(text.contains(&to), "{} not in {}", to, text);
            let rules = &all[owner(i)];
            let most = rules.connections.min(around.conntrack_max / 16);
            let to = format!("{} : goto from_{most}_{}_28", tenant.subnet, rules.connections_per_second);
            prop_assert!(limits.contains(&to), "{} not in {}", to, limits);
            prop_assert!(limits.contains(&format!("{} : goto to_{most}_", tenant.http_port)), "in");
        }
        for (i, rules) in all.iter().enumerate() {
            let chain = &text[text.find(&format!("chain egress_{i} ")).unwrap()..];
            let chain = &chain[..chain.find("}\n  ").unwrap()];
            prop_assert_eq!(chain.contains("\"not listed\""), rules.egress == Egress::Listed);
            prop_assert_eq!(chain.contains("tcp dport 25 "), !rules.smtp);
            prop_assert!(chain.contains("\"private networks\""));
        }
    }
}
