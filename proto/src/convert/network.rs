//! A host's packet filter, what tenants' networks may do and where a tenant is reached: wire messages to checked types and back.
//!
//! Not here: the rest of a plan (mod.rs).

use std::{collections::BTreeSet, fmt::Display, str::FromStr};

use ipnet::{IpNet, Ipv4Net};

use super::{MAX_TENANTS_PER_HOST, parse, port};
use crate::{
    error::FieldError,
    ids::TenantName,
    network::{
        Egress, MAX_ALLOWED, MAX_CONNECTIONS, MAX_CONNECTIONS_PER_SECOND, MAX_MTU, MIN_MTU,
        NetworkPolicy, NetworkRules,
    },
    pb::agent::v1 as agent,
    plan::Firewall,
};

/// Most policies in one host's plan: a plan of the configuration is one, and nobody has that many.
const MAX_POLICIES: usize = 1_000;

pub(super) fn texts<T: Display>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

pub(super) fn values<T: FromStr>(field: &str, texts: &[String]) -> Result<Vec<T>, FieldError>
where
    T::Err: Display,
{
    texts.iter().map(|text| parse(field, text)).collect()
}

impl From<&Firewall> for agent::Firewall {
    fn from(f: &Firewall) -> Self {
        Self {
            tenant_range: f.tenant_range.to_string(),
            first_port: f.first_port.into(),
            last_port: f.last_port.into(),
            edges: f.edges.iter().map(ToString::to_string).collect(),
            edge_ports: f.edge_ports.iter().map(|p| u32::from(*p)).collect(),
            protected_addresses: texts(&f.protected_addresses),
            protected_names: texts(&f.protected_names),
            public_addresses: texts(&f.public_addresses),
            closed_networks: texts(&f.closed),
            mail_relays: texts(&f.mail_relays),
            policies: f.policies.iter().map(Into::into).collect(),
            mtu: f.mtu.map_or(0, Into::into),
        }
    }
}

impl TryFrom<agent::Firewall> for Firewall {
    type Error = FieldError;
    fn try_from(wire: agent::Firewall) -> Result<Self, FieldError> {
        Ok(Self {
            tenant_range: parse::<Ipv4Net>("tenant_range", &wire.tenant_range)?,
            first_port: port("first_port", wire.first_port)?,
            last_port: port("last_port", wire.last_port)?,
            edges: wire
                .edges
                .iter()
                .map(|e| parse::<IpNet>("edges", e))
                .collect::<Result<_, _>>()?,
            edge_ports: wire
                .edge_ports
                .iter()
                .map(|p| port("edge_ports", *p))
                .collect::<Result<_, _>>()?,
            protected_addresses: values("protected_addresses", &wire.protected_addresses)?,
            protected_names: values("protected_names", &wire.protected_names)?,
            public_addresses: values("public_addresses", &wire.public_addresses)?,
            closed: values("closed_networks", &wire.closed_networks)?,
            mail_relays: values("mail_relays", &wire.mail_relays)?,
            policies: policies(wire.policies)?,
            mtu: mtu(wire.mtu)?,
        })
    }
}

/// 0: none is asked for.
pub(super) fn mtu(value: u32) -> Result<Option<u16>, FieldError> {
    if value == 0 {
        return Ok(None);
    }
    let fits = u16::try_from(value).ok();
    let fits = fits.filter(|mtu| (MIN_MTU..=MAX_MTU).contains(mtu));
    let problem = || format!("{value} is not between {MIN_MTU} and {MAX_MTU}");
    let fits = fits.ok_or_else(|| FieldError::new("mtu", problem()))?;
    Ok(Some(fits))
}

impl From<&NetworkPolicy> for agent::NetworkPolicy {
    fn from(policy: &NetworkPolicy) -> Self {
        let NetworkPolicy { tenants, rules } = policy;
        Self {
            tenants: texts(tenants),
            connections: rules.connections,
            connections_per_second: rules.connections_per_second,
            listed: rules.egress == Egress::Listed,
            allow: texts(&rules.allow),
            smtp: rules.smtp,
        }
    }
}

/// Parses policies; a tenant that is in two has no certain rules, which is an error.
pub(super) fn policies(wire: Vec<agent::NetworkPolicy>) -> Result<Vec<NetworkPolicy>, FieldError> {
    let bounded = |field: &str, count: usize, most: usize| {
        if count <= most {
            return Ok(());
        }
        Err(FieldError::new(field, format!("more than {most}")))
    };
    bounded("policies", wire.len(), MAX_POLICIES)?;
    let mut known = BTreeSet::new();
    let one = |(i, policy): (usize, agent::NetworkPolicy)| {
        let at = |field: &str| format!("policies[{i}].{field}");
        bounded(&at("tenants"), policy.tenants.len(), MAX_TENANTS_PER_HOST)?;
        bounded(&at("allow"), policy.allow.len(), MAX_ALLOWED)?;
        let number = |field: &str, value: u32, most: u32| {
            if (1..=most).contains(&value) {
                return Ok(value);
            }
            Err(FieldError::new(
                at(field),
                format!("{value} is not between 1 and {most}"),
            ))
        };
        let tenants: Vec<TenantName> = values(&at("tenants"), &policy.tenants)?;
        if let Some(twice) = tenants.iter().find(|name| !known.insert((*name).clone())) {
            return Err(FieldError::new(
                at("tenants"),
                format!("`{twice}` is there twice"),
            ));
        }
        Ok(NetworkPolicy {
            tenants,
            rules: NetworkRules {
                connections: number("connections", policy.connections, MAX_CONNECTIONS)?,
                connections_per_second: number(
                    "connections_per_second",
                    policy.connections_per_second,
                    MAX_CONNECTIONS_PER_SECOND,
                )?,
                egress: if policy.listed {
                    Egress::Listed
                } else {
                    Egress::Open
                },
                allow: values(&at("allow"), &policy.allow)?,
                smtp: policy.smtp,
            },
        })
    };
    wire.into_iter().enumerate().map(one).collect()
}

/// Accepts `http(s)://host[:port]` without a path: it ends up in SQL and in odoo.conf.
pub(super) fn base_url(field: &str, url: String) -> Result<String, FieldError> {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"));
    let ok = rest.is_some_and(|r| {
        !r.is_empty()
            && r.len() <= 260
            && r.bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':'))
    });
    if ok {
        Ok(url)
    } else {
        Err(FieldError::new(field, "is not `http(s)://host[:port]`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(tenants: &[&str]) -> agent::NetworkPolicy {
        agent::NetworkPolicy {
            tenants: tenants.iter().map(|t| (*t).to_owned()).collect(),
            connections: 10,
            connections_per_second: 5,
            ..agent::NetworkPolicy::default()
        }
    }

    #[test]
    fn a_policy_without_limits_or_a_tenant_with_two_is_refused_by_name() {
        assert_eq!(policies(vec![policy(&["alfa"])]).unwrap().len(), 1);
        let refused = |list: Vec<agent::NetworkPolicy>| policies(list).unwrap_err().field;
        let twice = vec![policy(&["alfa"]), policy(&["beta", "alfa"])];
        assert_eq!(refused(twice), "policies[1].tenants");
        let mut none = policy(&[]);
        none.connections = 0;
        assert_eq!(refused(vec![none]), "policies[0].connections");
        let mut odd = policy(&[]);
        odd.allow = vec!["} accept".to_owned()];
        assert_eq!(refused(vec![odd]), "policies[0].allow");
    }
}
