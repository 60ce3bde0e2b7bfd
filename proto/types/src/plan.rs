//! What a host must run: the checked form of `isyone.agent.v1.Plan` and its parts.
//!
//! The agent stores a [`HostPlan`] on disk as JSON; [`HostPlan::digest`] covers that form.
//! Not here: how a plan is made (isyone-fleet's views) and how it is carried out (the agent).

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

/// Raise this when plans are rendered differently or get new fields. An upgraded coordinator then gives all plans new
/// generations, so an upgraded agent takes them again in full: its predecessor kept only the fields that it knew.
pub const PLAN_FORMAT: u32 = 2;

/// Everything that one host must run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPlan {
    /// Rises with each change; agents refuse a lower one.
    pub generation: u64,
    /// Sorted by name, each once.
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

/// Who may reach what on a host: the input for its packet filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firewall {
    /// The range that contains all tenants' networks.
    pub tenant_range: Ipv4Net,
    /// First port on which tenants' containers are published.
    pub first_port: u16,
    /// Last such port.
    pub last_port: u16,
    /// Addresses of the edges: from outside the host, only they reach published ports.
    pub edges: Vec<ipnet::IpNet>,
    /// Ports on the host's own addresses that tenants may reach.
    pub edge_ports: Vec<u16>,
    /// Control plane addresses, closed to tenants.
    pub protected_addresses: Vec<IpAddr>,
}

/// What a tenant must be on this host.
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
    /// Rises with each move between hosts; an agent never starts a tenant with an epoch below the highest it has seen.
    pub epoch: u64,
    /// Rises with each change to this plan.
    pub generation: u64,
    /// The state it must reach.
    pub desired: DesiredState,
    /// The operation whose steps the agent reports.
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
    /// Odoo's own URL, its parameter `web.base.url`.
    pub base_url: String,
    /// Language of the tenant's Odoo.
    pub language: Language,
    /// The company's country.
    pub country: Country,
    /// The administrator's time zone.
    pub time_zone: TimeZone,
    /// Modules in addition to `base`, sorted.
    pub modules: Vec<Module>,
    /// The administrator's login.
    pub admin_login: Login,
    /// The tenant's passwords.
    pub secrets: TenantSecrets,
    /// Number of restarts of Odoo requested so far.
    pub odoo_restarts: u64,
    /// Number of restarts of PostgreSQL requested so far.
    pub postgres_restarts: u64,
    /// Volumes are kept at least until then.
    pub quarantine_until: Option<UnixMs>,
    /// An operator asked to remove them before that.
    pub purge_now: bool,
    /// The tenant has run before: its volumes hold data, and the agent never initialises them again.
    #[serde(default)]
    pub activated: bool,
    /// Largest upload that Odoo accepts, bytes; 0: Odoo's default.
    #[serde(default)]
    pub upload_limit_bytes: u64,
}

/// Text that `Debug` does not print.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
    /// The text itself: for the configuration file and the wire, never for a log or an argument list.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Passwords of one tenant: `[A-Za-z0-9]` only, so they need no quoting anywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct TenantSecrets {
    /// Password of role `odoo` in PostgreSQL.
    pub database_password: Secret,
    /// Password of Odoo's administrator.
    pub admin_password: Secret,
    /// Odoo's master password; written to odoo.conf as a hash.
    pub master_password: Secret,
}

/// The role of a tenant's container.
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
