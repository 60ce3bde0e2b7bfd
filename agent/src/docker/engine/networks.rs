//! Networks between our plain types and bollard's.
//!
//! Not here: calling (calls), everything else (convert).

use std::collections::HashMap;

use bollard::models as m;

use crate::plan::container::{MTU_OPTION, NamedSpec, Network};

/// Docker's own network, whose options are the daemon's.
pub(super) const OWN: &str = "bridge";

/// A network of Docker's.
pub(super) fn view(network: m::NetworkInspect) -> Network {
    shown(network.id, network.ipam, network.labels, network.options)
}

/// One in a list.
pub(super) fn listed(network: m::Network) -> Option<(String, Network)> {
    let shown = shown(network.id, network.ipam, network.labels, network.options);
    Some((network.name?, shown))
}

fn shown(
    id: Option<String>,
    ipam: Option<m::Ipam>,
    labels: Option<HashMap<String, String>>,
    options: Option<HashMap<String, String>>,
) -> Network {
    let configs = ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    let subnet = configs.into_iter().find_map(|config| config.subnet);
    let options = options.unwrap_or_default();
    Network {
        id: id.unwrap_or_default(),
        subnet: subnet.unwrap_or_default(),
        labels: labels.unwrap_or_default(),
        mtu: options.get(MTU_OPTION).and_then(|mtu| mtu.parse().ok()),
    }
}

/// What is asked for to make one.
pub(super) fn request(
    network: &NamedSpec,
    subnet: &str,
    mtu: Option<u16>,
) -> m::NetworkCreateRequest {
    let ipam = m::Ipam {
        config: Some(vec![m::IpamConfig {
            subnet: Some(subnet.to_owned()),
            ..Default::default()
        }]),
        ..Default::default()
    };
    m::NetworkCreateRequest {
        name: network.name.clone(),
        driver: Some("bridge".to_owned()),
        // The packet filter knows tenants by their IPv4 networks; an engine may give IPv6 to networks that do not refuse it.
        enable_ipv6: Some(false),
        ipam: Some(ipam),
        labels: Some(network.labels.clone().into_iter().collect()),
        options: mtu.map(|mtu| HashMap::from([(MTU_OPTION.to_owned(), mtu.to_string())])),
        ..Default::default()
    }
}
