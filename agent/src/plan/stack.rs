//! What a tenant has on its host, and the numbers of Odoo and PostgreSQL that more than one part must know. Pure.
//!
//! Not here: making a stack of a plan (design), the text of its files (render).

use std::fmt;

use isyone_proto::{ids::TenantName, plan::Role, spec::Size};

use crate::plan::container::{ContainerSpec, NamedSpec};

/// Odoo's port for HTTP in the container.
pub const HTTP_PORT: u16 = 8069;
/// Its port for websockets (only with workers).
pub const GEVENT_PORT: u16 = 8072;
/// PostgreSQL's port in the container.
pub const POSTGRES_PORT: u16 = 5432;
/// So long a stop that an operator has ordered waits for Odoo's requests: as long as any but an upload may take. A visitor who sends
/// slowly must not hold up a suspension, nor a place among those who work on this host, for the longest upload's twelve minutes.
pub const ODOO_STOP_S: u32 = 130;
/// PostgreSQL's fast shutdown writes a checkpoint.
pub const POSTGRES_GRACE_S: u32 = 60;
/// The same for each size, so that a resize never restarts PostgreSQL; Odoo's share is worked out in `db_maxconn`.
pub const MAX_CONNECTIONS: u32 = 200;
/// Of these, kept for the agent, psql and autovacuum's like.
const RESERVED_CONNECTIONS: u32 = 10;
/// Our Odoo module and its directory.
pub const ADDON_NAME: &str = "isyone_metrics";
/// Directory in the container that `addons_path` names.
pub const ADDONS_TARGET: &str = "/mnt/isyone-addons";
/// Cron processes (threads without workers).
pub const CRON_THREADS: u32 = 1;

/// All that a tenant has on its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    pub network: NamedSpec,
    /// That network's CIDR.
    pub subnet: String,
    /// PostgreSQL's data.
    pub postgres_volume: NamedSpec,
    /// Filestore and sessions.
    pub odoo_volume: NamedSpec,
    /// `postgres_<t>`.
    pub postgres: ContainerSpec,
    /// `odoo_<t>`.
    pub odoo: ContainerSpec,
    /// `odoo -i`, run once: `odoo_<t>_init`.
    pub init: ContainerSpec,
    /// Files in the tenant's directory.
    pub files: Vec<RenderedFile>,
    /// No database to fill.
    pub standin: bool,
    /// Which golden snapshot fits.
    pub golden_key: String,
}

impl Stack {
    /// The container that plays a role.
    pub fn container(&self, role: Role) -> &ContainerSpec {
        match role {
            Role::Odoo => &self.odoo,
            Role::Postgres => &self.postgres,
        }
    }
    /// The volume of a role.
    pub fn volume(&self, role: Role) -> &NamedSpec {
        match role {
            Role::Odoo => &self.odoo_volume,
            Role::Postgres => &self.postgres_volume,
        }
    }
}

/// `odoo_<t>_init`.
pub fn init_name(tenant: &TenantName) -> String {
    format!("{}_init", tenant.odoo_container())
}

/// A quarter of the memory is PostgreSQL's, at least 64 MiB and at most 4 GiB, but never more than half.
pub fn split_memory(total: u64) -> (u64, u64) {
    let postgres = (total / 4).clamp(64 << 20, 4 << 30).min(total / 2);
    (total - postgres, postgres)
}

/// Connections of one Odoo process, so that all of them together fit PostgreSQL.
pub fn db_maxconn(size: &Size) -> u32 {
    let processes = if size.workers == 0 {
        1
    } else {
        size.workers + CRON_THREADS + 1
    };
    ((MAX_CONNECTIONS - RESERVED_CONNECTIONS) / processes).clamp(1, 32)
}

/// A file to be there with this content, mode 0600 and, when given, owner.
#[derive(Clone, PartialEq, Eq)]
pub struct RenderedFile {
    /// Name in the tenant's directory.
    pub name: String,
    /// Its text; may hold secrets.
    pub content: String,
    /// User and group, by number, of who reads it in the container.
    pub owner: Option<(u32, u32)>,
}

impl fmt::Debug for RenderedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.content.len())
    }
}
