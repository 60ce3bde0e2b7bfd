//! What tenants' networks may do (`[plans.*]` and `[network]`), and which addresses may not be in them.
//!
//! Not here: the fields (mod.rs), their defaults (defaults), the rest of `[network]` (check).

use ipnet::{IpNet, Ipv4Net};
use isyone_proto::network::{
    Destination, Egress, MAX_ALLOWED, MAX_CLOSED, MAX_CONNECTIONS, MAX_CONNECTIONS_PER_SECOND,
    MAX_MTU, MAX_RELAYS, MIN_MTU, NetworkRules,
};

use super::{Config, ConfigError, Plan, check::ensure};

/// Odoo's connections to its database alone can be as many.
const MIN_CONNECTIONS: u32 = 64;
/// One page of Odoo begins as many.
const MIN_CONNECTIONS_PER_SECOND: u32 = 10;

impl Plan {
    /// What the networks of its tenants may do.
    pub(super) fn network_rules(&self) -> NetworkRules {
        let usual = NetworkRules::default();
        NetworkRules {
            connections: self.connections.unwrap_or(usual.connections),
            connections_per_second: self
                .connections_per_second
                .unwrap_or(usual.connections_per_second),
            egress: self.egress,
            allow: self.egress_allow.clone(),
            smtp: self.egress_smtp,
        }
    }
}

/// Whether two networks have addresses in common.
pub fn overlap(one: &IpNet, other: Ipv4Net) -> bool {
    let other = IpNet::V4(other);
    one.contains(&other) || other.contains(one)
}

pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let network = &config.network;
    ensure(
        network.closed_networks.len() <= MAX_CLOSED,
        "network.closed_networks",
        || format!("has more than {MAX_CLOSED}"),
    )?;
    for closed in &network.closed_networks {
        ipv4("network.closed_networks", closed)?;
    }
    ensure(
        network.mail_relays.len() <= MAX_RELAYS,
        "network.mail_relays",
        || format!("has more than {MAX_RELAYS}"),
    )?;
    if let Some(mtu) = network.mtu {
        let fits = (MIN_MTU..=MAX_MTU).contains(&mtu);
        ensure(fits, "network.mtu", || {
            format!("{mtu} must be between {MIN_MTU} and {MAX_MTU}")
        })?;
    }
    for (name, plan) in &config.plans {
        limits(&format!("plans.{name}"), plan)?;
        allowed(&format!("plans.{name}.egress_allow"), plan)?;
    }
    apart(config)
}

fn ipv4(key: &str, network: &IpNet) -> Result<(), ConfigError> {
    let fits = matches!(network, IpNet::V4(net) if net.prefix_len() > 0);
    ensure(fits, key, || {
        format!(
            "{network} is not an IPv4 network smaller than all addresses: tenants have no IPv6, and \
             egress = \"listed\" closes everything"
        )
    })
}

fn limits(key: &str, plan: &Plan) -> Result<(), ConfigError> {
    let rules = plan.network_rules();
    for (field, value, least, most) in [
        (
            "connections",
            rules.connections,
            MIN_CONNECTIONS,
            MAX_CONNECTIONS,
        ),
        (
            "connections_per_second",
            rules.connections_per_second,
            MIN_CONNECTIONS_PER_SECOND,
            MAX_CONNECTIONS_PER_SECOND,
        ),
    ] {
        ensure(
            (least..=most).contains(&value),
            &format!("{key}.{field}"),
            || format!("{value} must be between {least} and {most}"),
        )?;
    }
    Ok(())
}

fn allowed(key: &str, plan: &Plan) -> Result<(), ConfigError> {
    ensure(plan.egress_allow.len() <= MAX_ALLOWED, key, || {
        format!("has more than {MAX_ALLOWED}")
    })?;
    for destination in &plan.egress_allow {
        match destination {
            Destination::Network(network) => ipv4(key, network)?,
            Destination::Name(name) => ensure(plan.egress == Egress::Listed, key, || {
                format!("the name {name} counts only with egress = \"listed\"")
            })?,
        }
    }
    Ok(())
}

/// Who is trusted or let in by address must not be a tenant.
fn apart(config: &Config) -> Result<(), ConfigError> {
    let range = config.network.tenant_range;
    let edge = &config.edge;
    let dashboard = edge.dashboard.iter().flat_map(|d| &d.addresses);
    let allowed = config.plans.values().flat_map(|plan| &plan.egress_allow);
    let networks = allowed.filter_map(|destination| match destination {
        Destination::Network(network) => Some(network),
        Destination::Name(_) => None,
    });
    let all = (edge
        .trusted_proxies
        .iter()
        .map(|net| ("edge.trusted_proxies", net)))
    .chain(edge.addresses.iter().map(|net| ("edge.addresses", net)))
    .chain(dashboard.map(|net| ("edge.dashboard.addresses", net)))
    .chain(networks.map(|net| ("plans.*.egress_allow", net)));
    for (key, net) in all {
        ensure(!overlap(net, range), key, || {
            format!(
                "{net} has addresses in common with tenants' networks (network.tenant_range, {range}): a tenant \
                 would be taken for it; name only the parts outside"
            )
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "[plans.small]\nmemory = \"1GiB\"\ncpu = 0.5\ndisk = \"1GiB\"\n";

    fn refused(text: &str) -> String {
        let config = Config::parse("f", text).unwrap();
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn plans_say_what_their_networks_may_do() {
        let text = format!(
            "{SMALL}egress = \"listed\"\negress_allow = [\"api.example.com\", \"203.0.113.9\"]\negress_smtp = true\nconnections = 500\n"
        );
        let config = Config::parse("f", &text).unwrap();
        config.check().unwrap();
        let settings = config.settings();
        let rules = settings.network_rules.values().next().unwrap();
        assert_eq!((rules.connections, rules.smtp), (500, true));
        assert_eq!(
            (rules.connections_per_second, rules.allow.len()),
            (NetworkRules::default().connections_per_second, 2)
        );
        assert_ne!(
            settings.plan_digest(),
            Config::default().settings().plan_digest()
        );
    }

    #[test]
    fn what_cannot_hold_is_refused_by_its_key() {
        for (text, key) in [
            ("connections = 1", "plans.small.connections: "),
            (
                "connections_per_second = 0",
                "plans.small.connections_per_second: ",
            ),
            (
                "egress_allow = [\"api.example.com\"]",
                "plans.small.egress_allow: ",
            ),
            (
                "egress_allow = [\"2001:db8::/32\"]",
                "plans.small.egress_allow: ",
            ),
            (
                "egress_allow = [\"0.0.0.0/0\"]",
                "plans.small.egress_allow: ",
            ),
        ] {
            let said = refused(&format!("{SMALL}{text}\n"));
            assert!(said.starts_with(key), "{said}");
        }
        let said = refused("[network]\nmtu = 100\n");
        assert!(said.starts_with("network.mtu: "), "{said}");
        let said = refused("[network]\nclosed_networks = [\"fd00::/8\"]\n");
        assert!(said.starts_with("network.closed_networks: "), "{said}");
        for text in ["egress = \"shut\"", "egress_allow = [\"*.example.com\"]"] {
            let said = Config::parse("f", &format!("{SMALL}{text}\n")).unwrap_err();
            assert!(said.to_string().contains("plans.small.egress"), "{said}");
        }
    }

    #[test]
    fn nobody_who_is_trusted_is_in_a_tenants_network() {
        for (text, key) in [
            (
                "[edge]\ntrusted_proxies = [\"10.201.0.7\"]",
                "edge.trusted_proxies: ",
            ),
            (
                "[edge]\ntrusted_proxies = [\"10.0.0.0/8\"]",
                "edge.trusted_proxies: ",
            ),
            (
                "[edge]\naddresses = [\"10.200.0.0/16\"]",
                "edge.addresses: ",
            ),
            (
                "[edge.dashboard]\nusers_file = \"u\"\naddresses = [\"10.203.255.255\"]",
                "edge.dashboard.addresses: ",
            ),
        ] {
            let said = refused(text);
            assert!(
                said.starts_with(key) && said.contains("10.200.0.0/14"),
                "{said}"
            );
        }
        let apart =
            "[edge]\ntrusted_proxies = [\"10.199.0.0/16\", \"10.204.0.0/16\", \"2001:db8::/32\"]";
        Config::parse("f", apart).unwrap().check().unwrap();
    }

    #[test]
    fn a_coordinator_with_a_name_is_protected_by_it() {
        let text = "[advertise]\nhosts = [\"isy.example.com\", \"127.0.0.1\", \"localhost\", \"192.0.2.1\"]";
        let edge = Config::parse("f", text).unwrap().settings().edge;
        assert_eq!(edge.protected_names, ["isy.example.com".parse().unwrap()]);
        assert_eq!(
            edge.protected_addresses,
            ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]
        );
    }
}
