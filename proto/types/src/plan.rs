//! What a host shall run, and what it says of it: the checked form of `isyone.agent.v1.Plan` and its parts.
//!
//! The agent stores a [`HostPlan`] on disk as JSON; [`HostPlan::digest`] is over that form.
//! Not here: how a plan comes about (isyone-fleet's views) and how it is carried out (the agent).

use std::{fmt, net::IpAddr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{
    ids::TenantName,
    spec::{Country, ImageRef, Language, Login, Module, Size, TimeZone},
};

/// Milliseconds since the Unix epoch, UTC.
pub type UnixMs = i64;

/// Raised whenever plans are rendered differently or have more in them than before: so that an upgrade of the coordinator gives all plans
/// new generations, and an upgraded agent takes a plan anew of which its predecessor kept only what it knew.
pub const PLAN_FORMAT: u32 = 2;

/// Everything one host shall run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPlan {
    /// Rises with each change; a lower one is refused.
    pub generation: u64,
    /// Ordered by name, each once.
    pub tenants: Vec<TenantPlan>,
    /// The host's packet filter.
    pub firewall: Firewall,
}

impl HostPlan {
    /// SHA-256 over the canonical JSON, hex. Equal plans have equal digests.
    pub fn digest(&self) -> String {
        // Serialising our own plain structs cannot fail: no maps with non-string keys, no foreign impls.
        let json = serde_json::to_vec(self).unwrap_or_default();
        hex::encode(Sha256::digest(json))
    }
}

/// Who may reach what on a host, as data for its packet filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firewall {
    /// The range that all tenants' networks lie in.
    pub tenant_range: Ipv4Net,
    /// First of the ports that tenants' containers are published on.
    pub first_port: u16,
    /// Last of these ports.
    pub last_port: u16,
    /// Edges: the only ones that reach published ports from outside the host.
    pub edges: Vec<ipnet::IpNet>,
    /// Ports on the host's own addresses that tenants may reach.
    pub edge_ports: Vec<u16>,
    /// Control plane addresses, closed to tenants.
    pub protected_addresses: Vec<IpAddr>,
}

/// What the tenant shall be on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DesiredState {
    /// Both containers up and healthy.
    Running,
    /// Containers stopped and kept.
    Suspended,
    /// Containers and network removed, volumes kept.
    Quarantined,
    /// Containers, network and volumes removed.
    Purged,
}

/// One tenant on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantPlan {
    /// The tenant's name.
    pub name: TenantName,
    /// Identity across re-creation of the name.
    pub uid: Uuid,
    /// Rises with each move between hosts; an older one is never started.
    pub epoch: u64,
    /// Rises with each change of this plan.
    pub generation: u64,
    /// What it shall be.
    pub desired: DesiredState,
    /// The operation whose steps are to be reported.
    pub operation: Option<Uuid>,
    /// Image of Odoo.
    pub odoo_image: ImageRef,
    /// Image of PostgreSQL.
    pub postgres_image: ImageRef,
    /// Limits of its containers, and workers.
    pub size: Size,
    /// The tenant's network.
    pub subnet: Ipv4Net,
    /// Port on the host that leads to Odoo's HTTP server, 8069.
    pub http_port: u16,
    /// Port on the host that leads to Odoo's gevent server, 8072.
    pub websocket_port: u16,
    /// Odoo's own address, its parameter `web.base.url`.
    pub base_url: String,
    /// Language of its Odoo.
    pub language: Language,
    /// The company's country.
    pub country: Country,
    /// The administrator's time zone.
    pub time_zone: TimeZone,
    /// Modules besides `base`, sorted.
    pub modules: Vec<Module>,
    /// The administrator's login.
    pub admin_login: Login,
    /// Its passwords.
    pub secrets: TenantSecrets,
    /// Number of restarts of Odoo asked for so far.
    pub odoo_restarts: u64,
    /// Number of restarts of PostgreSQL asked for so far.
    pub postgres_restarts: u64,
    /// Its volumes are kept until then at least.
    pub quarantine_until: Option<UnixMs>,
    /// An operator asked for removal before that.
    pub purge_now: bool,
    /// It has run before: its volumes hold data and are never filled again.
    #[serde(default)]
    pub activated: bool,
    /// Largest file that Odoo takes; 0: as Odoo has it.
    #[serde(default)]
    pub upload_limit_bytes: u64,
}

/// A text that `Debug` does not print.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
    /// The text: for the configuration file and the wire, never for a log or an argument list.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Passwords of one tenant. `[A-Za-z0-9]` only, so they need no quoting anywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct TenantSecrets {
    /// Password of role `odoo` in PostgreSQL.
    pub database_password: Secret,
    /// Password of Odoo's administrator.
    pub admin_password: Secret,
    /// Odoo's master password; written to odoo.conf as a hash.
    pub master_password: Secret,
}

/// What a tenant's container is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Odoo: `odoo_<tenant>`.
    Odoo,
    /// PostgreSQL: `postgres_<tenant>`.
    Postgres,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "[secret]");
    }
}
