//! A tenant's place on a host: a network and two ports.
//!
//! Not here: which host (placement), and recording what is taken (desired/index).

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use isyone_types::{ids::HostName, plan::UnixMs};

use crate::{
    desired::{HostIndex, TenantPlacement},
    settings::Network,
};

/// A free network and a free pair of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    pub subnet: Ipv4Net,
    /// Published port of Odoo's HTTP server.
    pub http_port: u16,
    /// Published port of Odoo's gevent server.
    pub websocket_port: u16,
}

impl Slot {
    /// On a host that was chosen now, for a copy that takes over from nobody.
    pub(crate) fn place(
        self,
        host: HostName,
        epoch: u64,
        reason: &str,
        at: UnixMs,
    ) -> TenantPlacement {
        TenantPlacement {
            host,
            epoch,
            subnet: self.subnet,
            http_port: self.http_port,
            websocket_port: self.websocket_port,
            reason: reason.into(),
            at,
            as_it_is: false,
            lease_over_ms: 0,
        }
    }
}

/// Finds a free network and pair of ports on a host: slot `i` is the i-th network and the i-th pair. It tries the slot
/// after the highest used one first, so that addresses of deleted tenants are not reused soon, then the lowest gap.
pub fn allocate(index: &HostIndex, network: &Network, avoid: &[Ipv4Net]) -> Option<Slot> {
    let base = network.tenant_range.network().to_bits();
    let prefix = network.subnet_prefix;
    let networks = 1u64
        << prefix
            .saturating_sub(network.tenant_range.prefix_len())
            .min(31);
    let pairs = (u64::from(network.last_port) + 1).saturating_sub(network.first_port.into()) / 2;
    let slots = u32::try_from(networks.min(pairs)).ok()?;
    let step = 1u32.checked_shl(32 - u32::from(prefix))?;
    let free = |i: u32| -> Option<Slot> {
        let first = Ipv4Addr::from_bits(base.checked_add(i.checked_mul(step)?)?);
        let subnet = Ipv4Net::new(first, prefix).ok()?;
        let http_port = u16::try_from(u32::from(network.first_port) + 2 * i).ok()?;
        let websocket_port = http_port.checked_add(1)?;
        let taken = index.subnets.contains(&subnet.network().to_bits())
            || index.ports.contains(&http_port)
            || index.ports.contains(&websocket_port);
        let overlaps = avoid
            .iter()
            .any(|n| n.contains(&subnet) || subnet.contains(n));
        (!taken && !overlaps).then_some(Slot {
            subnet,
            http_port,
            websocket_port,
        })
    };
    let top = index
        .subnets
        .get_max()
        .and_then(|top| top.checked_sub(base));
    let next = top.map_or(0, |d| d / step + 1).min(slots);
    (next..slots).chain(0..next).find_map(free)
}
