//! Operations: long work that operators wait for, as it is stored, with its steps.
//!
//! Not here: how one begins and ends (change), and what its steps look like while it runs (views).

use isyone_types::{
    ids::{HostName, TenantName},
    operation::{OperationState, Step},
    plan::UnixMs,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Placed and started for the first time.
    Create,
    /// Given another spec.
    Update,
    /// Odoo, and if asked for PostgreSQL, is restarted.
    Restart,
    /// Its containers are stopped.
    Suspend,
    /// Its containers are started.
    Resume,
    /// Given another plan's size.
    Resize,
    /// Put into quarantine.
    Delete,
    /// Taken out of quarantine.
    Restore,
    /// Its volumes are removed.
    Purge,
}

/// Long work on one tenant. While it runs, only its existence is stored; its steps are the host's report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// A UUIDv7, so that operations sort by their time.
    pub id: Uuid,
    pub kind: OperationKind,
    pub tenant: TenantName,
    /// Identity of that tenant.
    pub tenant_uid: Uuid,
    /// The host that carries it out.
    pub host: HostName,
    /// The tenant's generation that must converge.
    pub generation: u64,
    /// Running, or how it ended.
    pub state: OperationState,
    /// Coordinator's own steps; on its end, all of them.
    pub steps: Vec<Step>,
    pub created_at: UnixMs,
    pub ended_at: Option<UnixMs>,
    /// Why it failed; empty unless it did.
    pub error: String,
    /// Who asked for it, as [`crate::change::Stamp::actor`].
    pub actor: String,
    /// Idempotency key of the request: the same one answers this operation again.
    pub request_id: Option<String>,
}
