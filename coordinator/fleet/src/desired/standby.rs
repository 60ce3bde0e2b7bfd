//! A copy of a tenant that is kept up for good, to take over from the one that lives.
//!
//! Not here: when there is one (change::tenants::standby), how it is kept up (the agents' jobs).

use std::net::SocketAddr;

use isyone_types::spec::LabelKey;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{CopyRole, Tenant, TenantPlacement};

/// What is recorded of it beside its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standby {
    /// The job that keeps it up; another one for each time that it is made anew.
    pub job: Uuid,
    /// Where the agent of the host where the tenant lives listens; `None`: it cannot be reached, go through the coordinator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SocketAddr>,
    /// It cannot go on from what it has: first that is let go, then it is made anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anew: bool,
    /// The tenant's own host has made sure that it starts the tenant only when asked to, should it start anew: before that nothing follows
    /// it, because what cannot take over safely is no standby.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub armed: bool,
    /// Nothing of it comes yet: as many as may be are being filled at its host or at the tenant's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
    /// How often in a row it was made anew before it was whole: each time is longer after the one before, as each reads all of the tenant.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub in_vain: u8,
    /// Its host has another value of this label than the tenant's: so it was asked for, and so it is placed again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apart: Option<LabelKey>,
    /// Where the agent of its own host listens; `None`: it is not known, or cannot be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<SocketAddr>,
    /// It takes over by itself when the tenant's host was not heard for so long, milliseconds: by then the tenant's lease is over there.
    /// `None`: never by itself, and the tenant needs no lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes_over_after_ms: Option<u32>,
    /// The tenant's own host has said that it heeds that. Only then has silence a meaning.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leased: bool,
}

fn is_zero(number: &u8) -> bool {
    *number == 0
}

impl Standby {
    /// A job keeps it up, or brings it.
    pub fn is_kept_up(&self) -> bool {
        !self.anew && !self.waits
    }
}

impl Tenant {
    /// Its standby, if it has one.
    pub fn standby(&self) -> Option<(&TenantPlacement, &Standby)> {
        self.copies.iter().find_map(|copy| match &copy.role {
            CopyRole::Standby(standby) => Some((&copy.place, standby)),
            CopyRole::Incoming | CopyRole::Fenced { .. } | CopyRole::Discarded => None,
        })
    }

    /// An epoch above all that any copy of it has had.
    pub(crate) fn next_epoch(&self) -> u64 {
        let known = self.places().map(|(place, _)| place.epoch);
        known.fold(self.last_epoch, u64::max) + 1
    }

    /// What follows it cannot go on: its database is to be another one.
    pub(crate) fn follow_anew(&mut self) {
        for copy in &mut self.copies {
            if let CopyRole::Standby(standby) = &mut copy.role {
                standby.anew = true;
            }
        }
    }

    /// Nothing follows it any more; whether anything did.
    pub(crate) fn discard_standby(&mut self) -> bool {
        let mut any = false;
        for copy in &mut self.copies {
            if matches!(copy.role, CopyRole::Standby(_)) {
                (copy.role, any) = (CopyRole::Discarded, true);
            }
        }
        any
    }
}
