//! Interfaces that hold a tenant's network without being it: a bridge that a Docker killed in mid-creation has left, or somebody
//! else's. The kernel would send a tenant's packets there. Found before a network is made, and now and then; removed only if it is
//! Docker's by its name, leads nowhere, and of no network that Docker lists.
//!
//! Not here: making networks (tenant), which networks tenants get (the coordinator, which is told of every network of a host).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::Duration,
};

use ipnet::Ipv4Net;
use tokio::{sync::watch, time::sleep};

use super::{Host, ledger::InForce, resources::interfaces};
use crate::{
    base::{
        clock::now_ms,
        fsutil::blocking,
        netlink::{self, Address, Link},
    },
    docker::DockerError,
    plan::container::Network,
};

/// Between looks. What is removed was there in two: Docker may be about to make a network.
const EVERY: Duration = Duration::from_secs(60);
/// How Docker names its bridges: this and twelve hexadecimal digits.
const BRIDGE: &str = "br-";
const DIGITS: usize = 12;
/// Subject on the host's board.
const SUBJECT: &str = "bridge";

/// Whether the name is one that Docker gives.
fn is_dockers(name: &str) -> bool {
    let digits = name.strip_prefix(BRIDGE).unwrap_or_default();
    digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether it would be sent there what is for an address of `network`: as narrow a network, or a narrower one.
fn stands_in_the_way(link: Ipv4Net, network: Ipv4Net) -> bool {
    network.contains(&link)
}

/// The interfaces in the way of a network.
fn in_the_way(links: &[(String, Ipv4Net)], network: Ipv4Net) -> Vec<String> {
    let of = links.iter();
    let found = of.filter(|(_, link)| stands_in_the_way(*link, network));
    let names: BTreeSet<String> = found.map(|(name, _)| name.clone()).collect();
    names.into_iter().collect()
}

/// Bridges that may be Docker's leftovers: by their names, empty, and in the tenants' range. A tenant's own network is no excuse: Docker
/// leaves one bridge more each time that it fails after it has made one, and these are down, so that no route tells of them.
fn suspects(links: &[Link], addresses: &[Address], range: Ipv4Net) -> BTreeSet<(String, Ipv4Net)> {
    let in_use: BTreeSet<u32> = links.iter().filter_map(|link| link.master).collect();
    let named = links.iter().filter(|link| is_dockers(&link.name));
    let empty: BTreeMap<u32, &str> = named
        .filter(|link| !in_use.contains(&link.index))
        .map(|link| (link.index, link.name.as_str()))
        .collect();
    let held = addresses.iter().filter_map(|own| {
        let network = Ipv4Net::new(own.address, own.bits).ok()?.trunc();
        Some(((*empty.get(&own.index)?).to_owned(), network))
    });
    held.filter(|(_, network)| range.contains(network))
        .collect()
}

/// The bridges of Docker's networks.
fn bridges<'a>(networks: impl IntoIterator<Item = &'a Network>) -> BTreeSet<String> {
    let digits = networks.into_iter().filter_map(|n| n.id.get(..DIGITS));
    digits.map(|digits| format!("{BRIDGE}{digits}")).collect()
}

/// A bridge that no interface of a container is in; what cannot be found out is in use.
fn empty(name: &str) -> Option<u32> {
    let all = netlink::links().ok()?;
    let index = all.iter().find(|link| link.name == name)?.index;
    let in_use = all.iter().any(|link| link.master == Some(index));
    (!in_use).then_some(index)
}

fn remove(name: &str) -> io::Result<()> {
    let index = empty(name).ok_or_else(|| io::Error::other("something is in it by now"))?;
    netlink::remove_link(index)
}

/// Makes room for a tenant's network that Docker does not have yet; the interface that is in the way and is not ours to remove.
pub async fn make_room(host: &Host, network: Ipv4Net) -> Result<Option<String>, DockerError> {
    let found = in_the_way(&interfaces(), network);
    if found.is_empty() || lists(host, network).await? {
        return Ok(None); // Docker's own word on the second is better than ours
    }
    for name in found {
        if !(is_dockers(&name) && empty(&name).is_some()) {
            return Ok(Some(name));
        }
        take_away(host, &name, network).await;
    }
    Ok(in_the_way(&interfaces(), network).into_iter().next())
}

/// Whether Docker has a network there.
async fn lists(host: &Host, network: Ipv4Net) -> Result<bool, DockerError> {
    let networks = host.docker.survey().await?.networks;
    let mut subnets = networks.values().filter_map(|n| n.subnet.parse().ok());
    Ok(subnets.any(|subnet: Ipv4Net| subnet.contains(&network) || network.contains(&subnet)))
}

async fn take_away(host: &Host, name: &str, network: Ipv4Net) {
    let link = name.to_owned();
    let removed = blocking(move || remove(&link)).await;
    match removed {
        Ok(()) => {
            let text = format!(
                "{name} held {network} without a network of Docker's (was Docker killed while it made one?): removed"
            );
            tracing::warn!("{text}");
            host.board.set_mended(SUBJECT, &text, now_ms());
        }
        Err(e) => tracing::warn!("the leftover bridge {name} of {network} cannot be removed: {e}"),
    }
}

/// Looks for leftovers for as long as the agent runs: what they hold is lost for new tenants.
pub async fn sweep(host: Arc<Host>, plans: watch::Receiver<InForce>) {
    let (mut before, mut known) = (BTreeSet::new(), BTreeSet::new());
    loop {
        sleep(EVERY).await;
        let in_force = plans.borrow().plan.clone();
        let Some(range) = in_force.map(|plan| plan.firewall.tenant_range) else {
            continue;
        };
        let (Ok(links), Ok(addresses)) = (netlink::links(), netlink::addresses()) else {
            continue;
        };
        let now = suspects(&links, &addresses, range);
        let mut twice: Vec<_> = now.intersection(&before).cloned().collect();
        twice.retain(|(name, _)| !known.contains(name));
        // Asked for those alone that Docker has not named before. Whatever cannot be asked is left.
        if !twice.is_empty()
            && let Ok(survey) = host.docker.survey().await
        {
            known = bridges(survey.networks.values());
            for (name, network) in &twice {
                if !known.contains(name) {
                    take_away(&host, name, *network).await;
                }
            }
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn only_what_docker_names_like_this_is_ours_to_remove() {
        assert!(is_dockers("br-0123456789ab"));
        for other in [
            "br-0123456789a",
            "br-0123456789abc",
            "br-0123456789xy",
            "docker0",
            "br0",
            "bridge7",
            "",
        ] {
            assert!(!is_dockers(other), "{other}");
        }
    }

    #[test]
    fn what_is_in_the_way_is_as_narrow_as_the_network_or_narrower() {
        let links = [
            ("eth0".to_owned(), net("10.0.0.0/8")),
            ("br-0123456789ab".to_owned(), net("10.90.0.16/28")),
            ("tun0".to_owned(), net("10.90.0.18/32")),
        ];
        assert_eq!(
            in_the_way(&links, net("10.90.0.16/28")),
            ["br-0123456789ab", "tun0"]
        );
        assert!(in_the_way(&links, net("10.90.0.0/28")).is_empty());
    }

    /// A Docker whose chains are gone fails each time that it makes a tenant's network, and leaves a bridge: seen four in ten seconds.
    #[test]
    fn of_many_bridges_in_a_tenants_network_the_one_that_docker_lists_stays() {
        let link = |index, name: &str, master| Link {
            index,
            name: name.to_owned(),
            mtu: 1500,
            master,
        };
        let links = [
            link(4, "br-0123456789ab", None),
            link(5, "br-3c9ea87a8f82", None), // of a tenant that is suspended
            link(6, "br-ffffffffffff", None), // somebody runs in it
            link(7, "veth0", Some(6)),
            link(8, "bridge7", None),
        ];
        let addresses = [4, 5, 6, 8].map(|index| Address {
            index,
            address: [10, 90, 0, 17].into(),
            bits: 28,
        });
        let own = Network {
            id: "3c9ea87a8f82c3d4e5f60718293a4b5c6d7e8f90".to_owned(),
            subnet: "10.90.0.16/28".to_owned(),
            ..Network::default()
        };
        let known = bridges([&own, &Network::default()]);
        let mut found = suspects(&links, &addresses, net("10.90.0.0/16"));
        assert_eq!(found.len(), 2);
        found.retain(|(name, _)| !known.contains(name));
        let left = ("br-0123456789ab".to_owned(), net("10.90.0.16/28"));
        assert_eq!(found, BTreeSet::from([left]));
        assert!(suspects(&links, &addresses, net("10.91.0.0/16")).is_empty());
    }
}
