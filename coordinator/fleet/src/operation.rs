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
    /// First start.
    Create,
    /// New spec for an existing tenant.
    Update,
    /// Odoo (and PostgreSQL) restarted.
    Restart,
    /// Containers stopped.
    Suspend,
    /// Containers started.
    Resume,
    /// New size.
    Resize,
    /// Into quarantine.
    Delete,
    /// Out of quarantine.
    Restore,
    /// Volumes removed.
    Purge,
}

/// Long work on one tenant. While it runs, only its existence is stored; its steps are the host's report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// UUIDv7.
    pub id: Uuid,
    /// What.
    pub kind: OperationKind,
    /// On whom.
    pub tenant: TenantName,
    /// Identity of that tenant.
    pub tenant_uid: Uuid,
    /// Where.
    pub host: HostName,
    /// The tenant's generation that must converge.
    pub generation: u64,
    /// Running, or how it ended.
    pub state: OperationState,
    /// Coordinator's own steps; on its end, all of them.
    pub steps: Vec<Step>,
    /// Begin.
    pub created_at: UnixMs,
    /// End.
    pub ended_at: Option<UnixMs>,
    /// Why it failed.
    pub error: String,
    /// Who asked.
    pub actor: String,
    /// Idempotency key.
    pub request_id: Option<String>,
}
