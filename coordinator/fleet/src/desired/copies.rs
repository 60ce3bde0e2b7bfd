//! Where a tenant lies: the place where it runs, its copies elsewhere, and what it was before a restore.
//!
//! Not here: how they come and go (change/tenants/relocate), what a host is told of them (views::plan).

use ipnet::Ipv4Net;
use isyone_types::{
    ids::HostName,
    plan::{Before, UnixMs, is_default},
};
use serde::{Deserialize, Serialize};

use super::{Standby, Stragglers, Tenant};

/// Where a tenant runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantPlacement {
    pub host: HostName,
    /// Rises with each move; an agent never starts a tenant with an epoch below the highest it has seen.
    pub epoch: u64,
    /// The tenant's network there.
    pub subnet: Ipv4Net,
    /// Published port of Odoo's HTTP server.
    pub http_port: u16,
    /// Published port of Odoo's gevent server.
    pub websocket_port: u16,
    /// Why this host was chosen, in one sentence.
    pub reason: Box<str>,
    /// When it was chosen.
    pub at: UnixMs,
    /// The copy there took over from a host that is lost, with what it had.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_it_is: bool,
    /// Whoever it has followed may run under a lease that this host has renewed: it takes over only when it has not done so for so long,
    /// milliseconds. 0: at once.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lease_over_ms: u32,
}

/// What a copy of a tenant is that lies beside the one that lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyRole {
    /// It is being filled, and may take over.
    Incoming,
    /// It lived here before, and is kept until then in case something is missed. It never starts again. `None`: for as
    /// long as the tenant has not been well in its new place.
    Fenced { until: Option<UnixMs> },
    /// It is being removed, and never was the tenant's only copy.
    Discarded,
    /// It is kept up, and may take over.
    Standby(Standby),
}

/// A copy of a tenant on another host than the one where it lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantCopy {
    pub place: TenantPlacement,
    pub role: CopyRole,
    /// What becomes of requests that still come there.
    #[serde(default, skip_serializing_if = "Stragglers::are_refused")]
    pub stragglers: Stragglers,
}

/// Most copies of a tenant beside the one that lives: one on its way, and some that are kept or being removed.
pub const MAX_COPIES: usize = 4;

/// The data that a tenant had before a restore took its place, on the same host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantBefore {
    /// Where it lies.
    pub host: HostName,
    /// What becomes of it, and by which restore it was set aside.
    pub wish: Before,
    /// Kept until then; `None`: for as long as the tenant has not been well since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixMs>,
}

impl TenantBefore {
    /// The tenant can return to it.
    pub fn is_kept(&self) -> bool {
        matches!(self.wish, Before::Keep(_))
    }
}

impl Tenant {
    /// When the first of what it has left behind is to go, if it is known: a fenced copy, or what it was before a restore.
    pub fn lets_go_at(&self) -> Option<UnixMs> {
        let before = self.before.as_ref();
        let kept = before.filter(|before| before.is_kept());
        let until = kept.and_then(|before| before.until);
        [self.fenced_until(), until].into_iter().flatten().min()
    }

    /// The time of what it has left behind begins anew, once it is well where it lives.
    pub(crate) fn keep_copies_until_well(&mut self) {
        for copy in &mut self.copies {
            if let CopyRole::Fenced { until } = &mut copy.role {
                *until = None;
            }
        }
        if let Some(before) = &mut self.before {
            before.until = None;
        }
    }
}
