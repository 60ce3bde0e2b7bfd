//! Keeps the traffic of demos and tests on this machine.
//!
//! Packets to a removed tenant or host would follow the default route to the uplink, because Traefik and Prometheus
//! keep polling it for a while. Blackhole routes of the lowest priority catch exactly those: every network that exists
//! has a route that is more specific or takes precedence. Each user of the seal has its own metric, so one user can
//! remove its seal without touching the others'. Not for production, nor for `setup`.

use crate::cmd::{cmd, output, say, succeeds};
use crate::hosts::net;
use anyhow::Result;
use std::net::Ipv4Addr;
use std::process::Command;

/// A user of the seal; the number is the metric of its routes.
#[derive(Clone, Copy)]
pub(crate) enum Holder {
    /// `cargo xtask hosts up … down`.
    Hosts = 7701,
    /// `cargo xtask test`.
    Test = 7702,
}

/// The range of the tenants' subnets, and the test hosts' network.
const TENANTS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 200, 0, 0), 14);

fn networks() -> [(Ipv4Addr, u8); 2] {
    [TENANTS, (Ipv4Addr::new(172, 30, net::number(), 0), 24)]
}

/// The routes' metric: distinct for each holder and each set of hosts.
fn metric(holder: Holder) -> u32 {
    holder as u32 + 100 * u32::from(net::number().abs_diff(net::DEFAULT_NET))
}

/// Adds the routes. A network that this machine itself needs is left open, with a warning.
pub(crate) fn on(holder: Holder) -> Result<()> {
    let needed = neighbours();
    for (network, bits) in networks() {
        if let Some(ip) = needed.iter().find(|ip| contains(network, bits, **ip)) {
            say!(
                "warning: {network}/{bits} is not sealed off, because this machine needs {ip} in it"
            );
            continue;
        }
        let (net, metric) = (format!("{network}/{bits}"), metric(holder).to_string());
        output(&mut cmd(
            "ip",
            ["route", "replace", "blackhole", &net, "metric", &metric],
        ))?;
    }
    // Only if Docker has created its chain, and only once.
    if let Some(rule) = uplink_rule(holder).filter(|rule| !succeeds(&mut docker_user("-C", rule))) {
        succeeds(&mut docker_user("-I", &rule));
    }
    Ok(())
}

/// Removes this holder's routes.
pub(crate) fn off(holder: Holder) {
    for (network, bits) in networks() {
        let (net, metric) = (format!("{network}/{bits}"), metric(holder).to_string());
        // No error if it is not there.
        succeeds(&mut cmd(
            "ip",
            ["route", "del", "blackhole", &net, "metric", &metric],
        ));
    }
    if let Some(rule) = uplink_rule(holder) {
        succeeds(&mut docker_user("-D", &rule));
    }
}

/// The rule that blocks traffic from test tenants to the outside (Odoo's news and licence checks, for example).
fn uplink_rule(holder: Holder) -> Option<String> {
    let (network, bits) = TENANTS;
    let (uplink, name) = (uplink()?, metric(holder));
    Some(format!(
        "-s {network}/{bits} -o {uplink} -m comment --comment isyone-seal-{name} -j DROP"
    ))
}

fn docker_user(action: &str, rule: &str) -> Command {
    cmd(
        "iptables",
        ["-w", action, "DOCKER-USER"]
            .into_iter()
            .chain(rule.split_whitespace()),
    )
}

/// The network interface of the default route.
pub(crate) fn uplink() -> Option<String> {
    let routes = output(&mut cmd("ip", ["-o", "-4", "route", "show", "default"])).ok()?;
    routes
        .split_whitespace()
        .skip_while(|word| *word != "dev")
        .nth(1)
        .map(str::to_owned)
}

/// The gateway and name servers of this machine.
fn neighbours() -> Vec<Ipv4Addr> {
    let routes = output(&mut cmd("ip", ["-4", "route", "show", "default"])).unwrap_or_default();
    let resolver = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    routes
        .split_whitespace()
        .chain(resolver.split_whitespace())
        .filter_map(|word| word.parse().ok())
        .collect()
}

fn contains(network: Ipv4Addr, bits: u8, ip: Ipv4Addr) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
    (network.to_bits() & mask) == (ip.to_bits() & mask)
}

#[cfg(test)]
mod tests {
    use super::contains;
    use std::net::Ipv4Addr;

    #[test]
    fn a_network_contains_its_addresses_only() {
        let network = Ipv4Addr::new(10, 200, 0, 0);
        assert!(contains(network, 14, Ipv4Addr::new(10, 203, 255, 1)));
        assert!(!contains(network, 14, Ipv4Addr::new(10, 204, 0, 1)));
    }
}
