//! Largest packet of tenants' networks. Packets that are larger than a tunnel takes would get lost, and with them whole answers.
//!
//! Not here: making networks (tenant).

use std::sync::atomic::Ordering;

use super::{Host, resources};
use crate::docker::EngineInfo;

/// What Docker gives networks of which nobody says another.
const USUAL_MTU: u16 = 1500;

impl Host {
    /// Largest packet of tenants' networks: as the fleet says, or as Docker was told, or as the host's own network has it, if that is
    /// smaller than usual.
    pub(super) fn mtu(&self, engine: &EngineInfo) -> Option<u16> {
        let said = Some(self.mtu.load(Ordering::Relaxed)).filter(|mtu| *mtu > 0);
        let told = engine.mtu.filter(|mtu| *mtu != USUAL_MTU);
        let own = || resources::default_mtu().filter(|mtu| *mtu < USUAL_MTU);
        said.or(told).or_else(own)
    }

    /// What the fleet says of the largest packet of tenants' networks.
    pub fn set_mtu(&self, mtu: Option<u16>) {
        self.mtu.store(mtu.unwrap_or(0), Ordering::Relaxed);
    }
}
