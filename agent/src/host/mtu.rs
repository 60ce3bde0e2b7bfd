//! Largest packet of tenants' networks. Packets that are larger than a tunnel takes would get lost, and with them whole answers.
//!
//! Not here: making networks (tenant).

use std::{
    sync::{PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{Host, resources};
use crate::docker::EngineInfo;

/// What Docker gives networks of which nobody says another.
const USUAL_MTU: u16 = 1500;
/// How long the uplink's is believed.
const UPLINK: Duration = Duration::from_secs(60);

impl Host {
    /// Largest packet of tenants' networks: as the fleet says, or as Docker was told, or as the host's own network has it, if that is
    /// smaller than usual.
    pub(super) fn mtu(&self, engine: &EngineInfo) -> Option<u16> {
        let said = Some(self.mtu.load(Ordering::Relaxed)).filter(|mtu| *mtu > 0);
        let told = engine.mtu.filter(|mtu| *mtu != USUAL_MTU);
        said.or(told)
            .or_else(|| self.uplink().filter(|mtu| *mtu < USUAL_MTU))
    }

    /// Asked for with each look at a tenant, and found out once a minute.
    fn uplink(&self) -> Option<u16> {
        let mut known = self.uplink.lock().unwrap_or_else(PoisonError::into_inner);
        match *known {
            Some((at, mtu)) if at.elapsed() < UPLINK => mtu,
            _ => {
                let mtu = resources::default_mtu();
                *known = Some((Instant::now(), mtu));
                mtu
            }
        }
    }

    /// What the fleet says of the largest packet of tenants' networks.
    pub fn set_mtu(&self, mtu: Option<u16>) {
        self.mtu.store(mtu.unwrap_or(0), Ordering::Relaxed);
    }
}
