//! What the rules depend on besides the plan, read from this machine: its name servers, tenants' bridges, its table of connections.
//!
//! Small files of the kernel's and of root's. Not here: names' addresses (names), where hosts are (host::hosts).

use std::{collections::BTreeSet, net::Ipv4Addr, path::Path};

use ipnet::Ipv4Net;
use serde::Deserialize;

use crate::{base::fsutil, host::resources::interfaces};

/// Most name servers; a resolv.conf has three.
const MAX_RESOLVERS: usize = 16;
/// Most interfaces, which is above what a host has of tenants.
const MAX_BRIDGES: usize = 4_096;
/// Larger files are not those that we look for.
const MAX_FILE: usize = 64 << 10;
/// What the machine's own programs ask.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// What containers ask where systemd's local one is all that the machine asks: Docker takes this file then.
const SYSTEMD_RESOLV_CONF: &str = "/run/systemd/resolve/resolv.conf";
/// Docker's own settings, with `dns` for all containers.
const DOCKER_CONFIG: &str = "/etc/docker/daemon.json";
/// The size of the table of connections.
const CONNTRACK_MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

fn text(path: &str) -> String {
    let text = fsutil::read_text(Path::new(path)).unwrap_or_default();
    if text.len() > MAX_FILE {
        String::new()
    } else {
        text
    }
}

/// The name servers that containers' questions are passed on to, besides the `given` ones. Those at loopback addresses
/// are asked by Docker itself, from the host, and need no opening.
pub(super) fn resolvers(given: &[Ipv4Addr]) -> BTreeSet<Ipv4Addr> {
    let (own, systemd) = (text(RESOLV_CONF), text(SYSTEMD_RESOLV_CONF));
    let found = chosen(&own, &systemd).into_iter();
    let docker = docker_dns(&text(DOCKER_CONFIG)).into_iter();
    let all = given.iter().copied().chain(found).chain(docker);
    all.filter(|address| !address.is_loopback())
        .take(MAX_RESOLVERS)
        .collect()
}

/// Docker's choice between the two files.
fn chosen(own: &str, systemd: &str) -> Vec<Ipv4Addr> {
    let servers = nameservers(own);
    if servers.iter().all(Ipv4Addr::is_loopback) {
        return nameservers(systemd);
    }
    servers
}

fn nameservers(resolv_conf: &str) -> Vec<Ipv4Addr> {
    let server = |line: &str| {
        let rest = line.trim_start().strip_prefix("nameserver")?;
        let rest = rest.strip_prefix(|c: char| c.is_ascii_whitespace())?;
        rest.split_ascii_whitespace().next()?.parse().ok()
    };
    resolv_conf.lines().filter_map(server).collect()
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    dns: Vec<String>,
}

fn docker_dns(config: &str) -> Vec<Ipv4Addr> {
    let config = serde_json::from_str::<DockerConfig>(config).ok();
    let servers = config.map(|config| config.dns).unwrap_or_default();
    servers
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect()
}

/// The interfaces that lead to these networks.
pub(super) fn bridges(tenants: &BTreeSet<Ipv4Net>) -> BTreeSet<String> {
    interfaces()
        .into_iter()
        .filter(|(_, network)| tenants.contains(network))
        .map(|(interface, _)| interface)
        .take(MAX_BRIDGES)
        .collect()
}

/// Those of these networks to which an interface leads.
pub(super) fn present(tenants: &BTreeSet<Ipv4Net>) -> BTreeSet<Ipv4Net> {
    let all = interfaces().into_iter().map(|(_, network)| network);
    all.filter(|network| tenants.contains(network)).collect()
}

/// Places in the table of connections; 0: not known.
pub(super) fn conntrack_max() -> u32 {
    text(CONNTRACK_MAX).trim().parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_ask_whom_docker_would_have_them_ask() {
        let own = "# made by hand\nsearch x\nnameserver 127.0.0.53\n";
        let systemd = "nameserver 10.0.0.2\nnameserver fe80::1%2\n nameserver\t192.0.2.53 # two\n";
        let wanted = [[10, 0, 0, 2], [192, 0, 2, 53]].map(Ipv4Addr::from);
        assert_eq!(chosen(own, systemd), wanted);
        assert_eq!(chosen(systemd, own), wanted);
        assert!(chosen("nameserverx 10.0.0.9\nnameserver", "").is_empty());
        let docker = r#"{"dns": ["10.0.0.2", "::1"], "ipv6": true}"#;
        assert_eq!(docker_dns(docker), [Ipv4Addr::new(10, 0, 0, 2)]);
        assert!(docker_dns("{ not JSON").is_empty());
    }
}
