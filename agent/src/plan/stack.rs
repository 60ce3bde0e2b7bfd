//! What a tenant has on its host, and the numbers of Odoo and PostgreSQL that several parts need. Pure.
//!
//! Not here: building a stack from a plan (design), the text of its files (render).

use std::{collections::BTreeMap, fmt};

use isyone_proto::{
    ids::TenantName,
    plan::{DesiredState, Role, TenantPlan},
    spec::Size,
};

use crate::plan::container::{ContainerSpec, MTU_OPTION, NamedSpec};

/// Odoo's port for HTTP in the container.
pub const HTTP_PORT: u16 = 8069;
/// Odoo's port for websockets (only with workers).
pub const GEVENT_PORT: u16 = 8072;
/// PostgreSQL's port in the container.
pub const POSTGRES_PORT: u16 = 5432;
/// How many seconds a stop ordered by an operator waits for Odoo's requests: as long as any request but an upload may
/// take. A visitor who sends slowly must not hold up a suspension, nor occupy one of this host's work slots, for the
/// twelve minutes of the longest upload.
pub const ODOO_STOP_S: u32 = 130;
/// Whether only the agent may start a tenant's containers when the machine starts, and not the engine by itself.
pub fn stays_down(plan: &TenantPlan) -> bool {
    plan.asks_first || plan.desired == DesiredState::Fenced
}

/// How many seconds Odoo has to stop when its disk is full: it goes on filling meanwhile.
pub const FULL_STOP_S: u32 = 20;
/// How many seconds Odoo has to stop when it has no request under way: it holds up everybody who waits for it.
pub const QUIET_STOP_S: u32 = 5;
/// How many seconds each program has when its tenant's lease is over: another host may run it soon.
pub const LAPSED_STOP_S: u32 = 1;
/// Long enough for the checkpoint that PostgreSQL's fast shutdown writes.
pub const POSTGRES_GRACE_S: u32 = 60;
/// The same for all sizes, so that a resize never restarts PostgreSQL; `db_maxconn` computes Odoo's share.
pub const MAX_CONNECTIONS: u32 = 200;
/// Connections kept for the agent, psql, autovacuum and the like.
const RESERVED_CONNECTIONS: u32 = 10;
/// Name of our Odoo module, and of its directory.
pub const ADDON_NAME: &str = "isyone_metrics";
/// Directory in the container that `addons_path` names.
pub const ADDONS_TARGET: &str = "/mnt/isyone-addons";
/// Where the official image looks for further modules, and declares a volume. An image of one's own may hold some there.
pub const EXTRA_ADDONS_TARGET: &str = "/mnt/extra-addons";
/// Cron processes (threads if there are no workers).
pub const CRON_THREADS: u32 = 1;

/// Everything that a tenant has on its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    pub network: NamedSpec,
    /// CIDR of `network`.
    pub subnet: String,
    /// Its largest packet, where it is not Docker's usual one.
    pub mtu: Option<u16>,
    /// PostgreSQL's data.
    pub postgres_volume: NamedSpec,
    /// Filestore and sessions.
    pub odoo_volume: NamedSpec,
    /// `postgres_<t>`.
    pub postgres: ContainerSpec,
    /// `odoo_<t>`.
    pub odoo: ContainerSpec,
    /// `odoo_<t>_init`: runs `odoo -i base` once.
    pub init: ContainerSpec,
    /// The same container's next use: installs the modules that were asked for; `None`: there are none.
    pub install: Option<ContainerSpec>,
    /// The same container's other use: finishes the installation of an app that was cut off.
    pub finish: ContainerSpec,
    /// And another one: takes from a database what would reach others.
    pub neutralise: ContainerSpec,
    /// Files in the tenant's directory.
    pub files: Vec<RenderedFile>,
    /// There is no database to fill.
    pub standin: bool,
    /// Key of the golden snapshot that fits.
    pub golden_key: String,
}

impl Stack {
    pub fn container(&self, role: Role) -> &ContainerSpec {
        match role {
            Role::Odoo => &self.odoo,
            Role::Postgres => &self.postgres,
        }
    }
    /// Docker's options for the network.
    pub fn network_options(&self) -> BTreeMap<&'static str, String> {
        let mtu = self.mtu.map(|mtu| (MTU_OPTION, mtu.to_string()));
        mtu.into_iter().collect()
    }
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

/// PostgreSQL gets a quarter of the memory, at least 64 MiB and at most 4 GiB, but never more than half.
pub fn split_memory(total: u64) -> (u64, u64) {
    let postgres = (total / 4).clamp(64 << 20, 4 << 30).min(total / 2);
    (total - postgres, postgres)
}

/// Processes and threads that Odoo's container may have: what the plan says, or enough for its workers.
pub fn default_pids(size: &Size) -> u32 {
    match size.bounds.pids {
        0 => 256 + 64 * size.workers,
        said => said,
    }
}

/// Connections of one Odoo process, so that those of all processes together fit PostgreSQL: what was chosen, or 32 at most.
pub fn db_maxconn(plan: &TenantPlan) -> u32 {
    let chosen = plan.odoo.number("db_maxconn");
    let most = most_connections(&plan.size);
    most.min(chosen.map_or(32, |chosen| u32::try_from(chosen).unwrap_or(most)))
}

/// Connections that one Odoo process may have.
fn most_connections(size: &Size) -> u32 {
    let processes = if size.workers == 0 {
        1
    } else {
        size.workers + CRON_THREADS + 1
    };
    ((MAX_CONNECTIONS - RESERVED_CONNECTIONS) / processes).max(1)
}

/// What an Odoo needs in memory before it does anything for anybody, and for what it does beside an upload: 120 MiB at rest, and as
/// much again.
const ODOO_AT_REST: u64 = 256 << 20;
/// Odoo's own default for when a worker is replaced after a request.
const MAX_SOFT_BYTES: u64 = 2048 << 20;
/// Below this a worker would be replaced after each request: an Odoo at rest has 220 MiB of address space.
const MIN_SOFT_BYTES: u64 = 512 << 20;

/// `limit_memory_hard`: how much memory one Odoo process may use, bytes, so that a request which wants more gets an error before the
/// kernel ends its container. 85 % of the container's memory, which half of the workers may have at once; at least what the largest
/// upload takes, as Odoo has it in memory as a whole.
pub fn process_memory(size: &Size, upload_bytes: u64) -> u64 {
    let (odoo, _) = split_memory(size.memory_bytes);
    let most = odoo / 100 * 85;
    let share = most / u64::from((size.workers / 2).max(1));
    share
        .max(upload_bytes.saturating_add(ODOO_AT_REST).min(most))
        .max(ODOO_AT_REST)
}

/// `limit_memory_soft`: address space above which a worker is replaced after its request, bytes; 0: never. A threaded server would
/// reload itself, with everybody's requests and websockets, and each thread's stack counts.
pub fn process_soft_memory(size: &Size, upload_bytes: u64) -> u64 {
    match size.workers {
        0 => 0,
        _ => (process_memory(size, upload_bytes) / 4 * 3).clamp(MIN_SOFT_BYTES, MAX_SOFT_BYTES),
    }
}

/// A file that must exist with this content, mode 0600 and, if given, owner.
#[derive(Clone, PartialEq, Eq)]
pub struct RenderedFile {
    /// Name in the tenant's directory, or in one below it that its container sees as a whole.
    pub name: String,
    /// Its text; may hold secrets.
    pub content: String,
    /// Uid and gid of the container's user that reads it.
    pub owner: Option<(u32, u32)>,
}

impl fmt::Debug for RenderedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.content.len())
    }
}
