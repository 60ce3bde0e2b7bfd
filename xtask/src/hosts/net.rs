//! The network of the test hosts: the bridge, one namespace per host, the firewall rules, cutting and healing links.

use super::Host;
use crate::cmd::{cmd, output, say, succeeds};
use crate::seal;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The third octet of the hosts' addresses, unless [`VARIABLE`] sets another.
pub(crate) const DEFAULT_NET: u8 = 77;
/// The environment variable that selects another network, so that two sets of hosts (a demo's and a test's) can exist
/// side by side on one machine.
const VARIABLE: &str = "ISYONE_HOSTS_NET";

/// The third octet of the hosts' addresses.
pub(crate) fn number() -> u8 {
    std::env::var(VARIABLE)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(DEFAULT_NET)
}

/// A suffix that distinguishes this set's names from the default set's; empty for the default.
pub(super) fn mark() -> String {
    if number() == DEFAULT_NET {
        String::new()
    } else {
        number().to_string()
    }
}

/// The first three octets of every host's address; the machine is `.1`.
pub(super) fn subnet() -> String {
    format!("172.30.{}", number())
}

fn bridge() -> String {
    format!("br-isyone{}", mark())
}

const CUT: &str = "isyone-cut";
/// A handful of daemons and their containers exhaust the kernel's default of 128.
const INOTIFY_INSTANCES: u32 = 1024;

fn ip(words: &str) -> Command {
    cmd("ip", words.split_whitespace())
}

/// Makes the bridge, unless it exists, for one state folder. Another folder's bridge must have gone before.
pub(super) fn ensure_bridge(state: &Path) -> Result<()> {
    if let Some(owner) = owner() {
        if owner != state {
            let owner = owner.display();
            bail!(
                "test hosts are up already, with their state in {owner}: `cargo xtask hosts --state {owner} down` removes them"
            );
        }
        return Ok(());
    }
    let route = output(&mut ip(&format!(
        "-4 route show {}.0/24 type unicast",
        subnet()
    )))?;
    if !route.is_empty() {
        bail!(
            "this machine uses {}.0/24 already ({route}), which the test hosts need; {VARIABLE}=78 takes another network",
            subnet()
        );
    }
    output(&mut ip(&format!("link add {} type bridge", bridge())))
        .context("cannot make the test hosts' bridge")?;
    output(cmd("ip", ["link", "set", &bridge(), "alias"]).arg(state))?;
    output(&mut ip(&format!(
        "addr add {}.1/24 dev {}",
        subnet(),
        bridge()
    )))?;
    output(&mut ip(&format!("link set {} up", bridge())))?;
    for rule in forward_rules() {
        // Another set of hosts may be made at this moment.
        output(&mut cmd(
            "iptables",
            ["-w", "-I", "FORWARD"]
                .into_iter()
                .chain(rule.split_whitespace()),
        ))?;
    }
    Ok(())
}

/// Removes the bridge and its rules, if it belongs to this state folder.
pub(super) fn remove_bridge(state: &Path) {
    if owner().is_some_and(|owner| owner == state) {
        for rule in forward_rules() {
            succeeds(&mut cmd(
                "iptables",
                ["-w", "-D", "FORWARD"]
                    .into_iter()
                    .chain(rule.split_whitespace()),
            ));
        }
        succeeds(&mut ip(&format!("link del {}", bridge())));
    }
}

/// The state folder that the existing bridge belongs to, as recorded in the bridge's alias.
pub(super) fn owner() -> Option<PathBuf> {
    let alias = fs::read_to_string(format!("/sys/class/net/{}/ifalias", bridge())).ok()?;
    Some(PathBuf::from(alias.trim_end()))
}

/// The processes on this set's hosts, whoever's state folder they belong to.
pub(super) fn processes() -> Vec<String> {
    let pids = |space: String| output(&mut ip(&format!("netns pids {space}"))).unwrap_or_default();
    let text: String = namespaces()
        .into_iter()
        .map(|space| pids(space) + "\n")
        .collect();
    text.split_whitespace().map(str::to_owned).collect()
}

/// Removes this set's namespaces and links, which need no state folder to be found.
pub(super) fn remove_namespaces() {
    for space in namespaces() {
        succeeds(&mut ip(&format!("link del v-{space}")));
        succeeds(&mut ip(&format!("netns del {space}")));
    }
}

/// The names of this set's namespaces that exist.
fn namespaces() -> Vec<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let ours = format!("isy{}-h", mark());
    names.filter(|name| name.starts_with(&ours)).collect()
}

/// Docker sets FORWARD's policy to DROP, and bridged frames may pass through it (bridge-nf-call-iptables), so allow the
/// hosts to talk to each other. Traffic from them to the uplink is dropped.
fn forward_rules() -> Vec<String> {
    let bridge = bridge();
    let mut rules = vec![format!("-i {bridge} -o {bridge} -j ACCEPT")];
    rules.extend(seal::uplink().map(|uplink| format!("-i {bridge} -o {uplink} -j DROP")));
    rules
}

/// Makes the host's namespace with its address and default route, unless it exists.
pub(super) fn ensure_namespace(host: &Host) -> Result<()> {
    if host.namespace_file().exists() {
        return Ok(());
    }
    let (space, link) = (host.namespace(), link(host));
    // One that a killed run has left behind.
    succeeds(&mut ip(&format!("link del {link}")));
    let make = || -> Result<()> {
        output(&mut ip(&format!("netns add {space}")))?;
        output(&mut ip(&format!(
            "link add {link} type veth peer name eth0 netns {space}"
        )))?;
        output(&mut ip(&format!("link set {link} master {} up", bridge())))?;
        output(&mut ip(&format!("-n {space} link set lo up")))?;
        output(&mut ip(&format!(
            "-n {space} addr add {}/24 dev eth0",
            host.ip()
        )))?;
        output(&mut ip(&format!("-n {space} link set eth0 up")))?;
        output(&mut ip(&format!(
            "-n {space} route add default via {}.1",
            subnet()
        )))?;
        Ok(())
    };
    make()
        .with_context(|| format!("cannot make the network of {}", host.name()))
        .inspect_err(|_| remove_namespace(host))
}

/// The machine's end of the veth pair.
fn link(host: &Host) -> String {
    format!("v-isy{}-{}", mark(), host.name())
}

/// Removes the veth pair and the host's namespace. The pair by itself and first: with the namespace it goes only some time after its
/// last process, and the next host of that name would find its name taken.
pub(super) fn remove_namespace(host: &Host) {
    succeeds(&mut ip(&format!("link del {}", link(host))));
    succeeds(&mut ip(&format!("netns del {}", host.namespace())));
}

/// Drops the host's traffic (with one peer, or all) before and after routing: its own and that of its containers'
/// published ports. Connections hang, as with a dead link.
pub(super) fn cut(host: &Host, peer: Option<&str>) -> Result<()> {
    let from = peer.map(|peer| format!("-s {peer}")).unwrap_or_default();
    let to = peer.map(|peer| format!("-d {peer}")).unwrap_or_default();
    let rules = [
        format!("-t raw -I PREROUTING -i eth0 {from} -m comment --comment {CUT} -j DROP"),
        format!("-t mangle -I POSTROUTING -o eth0 {to} -m comment --comment {CUT} -j DROP"),
    ];
    for rule in rules {
        output(&mut host.exec("iptables", rule.split_whitespace()))?;
    }
    Ok(())
}

/// Removes every rule of [`cut`].
pub(super) fn heal(host: &Host) -> Result<()> {
    for (table, chain) in [("raw", "PREROUTING"), ("mangle", "POSTROUTING")] {
        let rules = output(&mut host.exec("iptables", ["-t", table, "-S", chain]))?;
        for rule in rules.lines().filter(|rule| rule.contains(CUT)) {
            let words = rule
                .split_whitespace()
                .map(|word| if word == "-A" { "-D" } else { word });
            output(&mut host.exec("iptables", ["-t", table].into_iter().chain(words)))?;
        }
    }
    Ok(())
}

/// Lets many daemons and containers watch files at once. The limit stays raised: that costs nothing.
pub(super) fn raise_inotify_limit() {
    let file = "/proc/sys/fs/inotify/max_user_instances";
    let now = fs::read_to_string(file)
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok());
    if now.is_some_and(|now| now < INOTIFY_INSTANCES)
        && let Err(err) = fs::write(file, INOTIFY_INSTANCES.to_string())
    {
        say!("warning: cannot raise {file}: {err}");
    }
}
