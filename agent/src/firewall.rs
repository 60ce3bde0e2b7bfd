//! The host's packet filter: an nftables table of our own, rendered from the plan, applied whole and only on change.
//!
//! Why: a network per tenant is no isolation by itself; through the host's address a container reaches every published
//! port. The chain hooks prerouting after connection tracking and before Docker's DNAT, so it sees published ports as such
//! and leaves Docker's own rules alone. It only ever drops traffic from or to tenants, so it cannot lock an operator out.
//! Bridged packets inside one network pass here too (br_netfilter), hence the pairs. Not here: Docker's rules.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net};
use isyone_proto::plan::{Firewall, HostPlan};
use tokio::{io::AsyncWriteExt as _, process::Command, sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    fsutil,
    host::{Gate, Host},
    metrics::PORT as METRICS_PORT,
    reconcile::InForce,
};

/// Name of the table.
pub const TABLE: &str = "isyone";
/// How often it is checked that the table is still there: a reload of the host's own rules may flush it.
const CHECK: Duration = Duration::from_secs(30);
/// The rules in force, in the data directory.
const RULES_FILE: &str = "firewall.nft";
/// `nft` answers within milliseconds; a hanging one must not hang us.
const NFT_TIMEOUT: Duration = Duration::from_secs(20);
/// Cloud metadata and other link-local services.
const LINK_LOCAL: &str = "169.254.0.0/16";

fn set<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let list: Vec<String> = items.into_iter().map(|i| i.to_string()).collect();
    format!("{{ {} }}", list.join(", "))
}

/// The edges of one address family; overlapping ranges are merged, for nft refuses them in a set.
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

/// The tenants' networks and published ports, as nft writes them: the configured ranges, and what tenants still have from
/// earlier ones. A changed range must not open those that are there.
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
    let firewall = &plan.firewall;
    let (range, ports) = ranges(plan);
    let subnets: BTreeSet<Ipv4Net> = plan.tenants.iter().map(|t| t.subnet.trunc()).collect();
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
    let mut text =
        format!("table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
    // Writing to a String cannot fail: the results are not looked at.
    let _ = write!(
        text,
        "  set own_network {{\n    type ipv4_addr . ipv4_addr\n    flags interval\n"
    );
    if !subnets.is_empty() {
        let _ = writeln!(
            text,
            "    elements = {}",
            set(subnets.iter().map(|s| format!("{s} . {s}")))
        );
    }
    text += "  }\n";
    // This host first: the gateway's address lies in the tenant's own network.
    text += "  chain from_tenant {\n";
    text += &to_edge("fib daddr type local");
    text += "    fib daddr type local counter drop comment \"this host\"\n";
    text += "    ip saddr . ip daddr @own_network accept\n";
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
        "    tcp dport {METRICS_PORT} counter drop comment \"hosts' metrics, on whatever address\""
    );
    if !protected.is_empty() {
        text += &to_edge(&format!("ip daddr {}", set(&protected)));
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
    text +=
        "  chain prerouting {\n    type filter hook prerouting priority mangle; policy accept;\n";
    text += "    iif \"lo\" accept\n    ct state established,related accept\n";
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
        "    fib daddr type local tcp dport {ports} counter drop comment \"only edges\"\n  }}\n}}"
    );
    text
}

/// Why the filter is not in force.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// No `nft`.
    #[error("`nft` cannot be run ({0}); install the package nftables")]
    Missing(std::io::Error),
    /// It said no.
    #[error("nft refuses the packet filter: {0}")]
    Refused(String),
}

async fn nft(arguments: &[&str], input: &str) -> Result<(), FirewallError> {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(FirewallError::Missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // If it ends early its exit code tells why.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = tokio::time::timeout(NFT_TIMEOUT, child.wait_with_output())
        .await
        .map_err(|_| {
            FirewallError::Refused(format!("no answer within {} s", NFT_TIMEOUT.as_secs()))
        })?
        .map_err(FirewallError::Missing)?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(FirewallError::Refused(
        words.lines().take(3).collect::<Vec<_>>().join(" "),
    ))
}

/// Keeps the filter in force.
#[derive(Debug, Clone, Copy, Default)]
pub struct Applier {
    /// Start tenants even without a filter (`--insecure-no-firewall`).
    pub insecure: bool,
}

impl Applier {
    /// Runs until `stop`; the table stays in force after that.
    pub async fn run(
        self,
        host: Arc<Host>,
        mut plans: watch::Receiver<InForce>,
        stop: CancellationToken,
    ) {
        let mut applied = String::new();
        loop {
            let plan = plans.borrow_and_update().plan.clone();
            if let Some(plan) = plan {
                let wanted = render(&plan);
                let there = wanted == applied
                    && nft(&["list", "chain", "inet", TABLE, "prerouting"], "")
                        .await
                        .is_ok();
                if !there {
                    let outcome = nft(&["-f", "-"], &wanted).await;
                    self.keep(&host, &wanted);
                    applied = if outcome.is_ok() {
                        wanted
                    } else {
                        String::new()
                    };
                    self.tell(&host, &outcome);
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = plans.changed() => if changed.is_err() { return },
                () = sleep(CHECK) => {}
            }
        }
    }

    /// For the next boot: Docker starts containers before us, and the table must be there first
    /// (`isy-agent-firewall.service` loads this file).
    fn keep(self, host: &Host, rules: &str) {
        let path = host.data.path().join(RULES_FILE);
        if let Err(e) = fsutil::write_atomic(&path, rules.as_bytes(), 0o600, true) {
            tracing::warn!(
                "{} cannot be written, so the next boot begins without a packet filter: {e}",
                path.display()
            );
        }
    }

    fn tell(self, host: &Host, outcome: &Result<(), FirewallError>) {
        let Err(error) = outcome else {
            tracing::info!("packet filter in force");
            host.board.set_warning("firewall", "");
            host.gate.send_replace(Gate::Open);
            return;
        };
        tracing::error!("no packet filter: {error}");
        if self.insecure {
            host.board.set_warning(
                "firewall",
                &format!("{error}; tenants can reach each other (--insecure-no-firewall)"),
            );
            host.gate.send_replace(Gate::Open);
        } else {
            let text = format!(
                "{error}. New tenants are not started without a packet filter; running ones stay"
            );
            host.board.set_warning("firewall", &text);
            host.gate.send_replace(Gate::Closed(text));
        }
    }
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
                generation: 1,
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
