//! Operations as they are stored: long-running work that operators wait for, with its steps.
//!
//! Not here: how an operation begins and ends (change), and what its steps look like while it runs (views).

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
    /// Places a tenant and starts it for the first time.
    Create,
    /// Applies another spec.
    Update,
    /// Restarts Odoo and, if asked, PostgreSQL.
    Restart,
    /// Stops the containers.
    Suspend,
    /// Starts the containers again.
    Resume,
    /// Applies the size of another plan.
    Resize,
    /// Puts the tenant into quarantine.
    Delete,
    /// Takes it out of quarantine.
    Restore,
    /// Removes its volumes.
    Purge,
}

/// Long-running work on one tenant. While it runs, the host's steps are not stored: they come from its reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// A UUIDv7, so that operations sort by time of creation.
    pub id: Uuid,
    pub kind: OperationKind,
    pub tenant: TenantName,
    /// Uid of that tenant.
    pub tenant_uid: Uuid,
    /// The host that carries it out.
    pub host: HostName,
    /// The generation that the tenant must converge to.
    pub generation: u64,
    /// Running, or how it ended.
    pub state: OperationState,
    /// The coordinator's own steps; once it has ended, all steps.
    pub steps: Vec<Step>,
    pub created_at: UnixMs,
    pub ended_at: Option<UnixMs>,
    /// Why it failed; empty otherwise.
    pub error: String,
    /// Who asked for it; see [`crate::change::Stamp::actor`].
    pub actor: String,
    /// Idempotency key of the request; a repeated request with the same key gets this operation again.
    pub request_id: Option<String>,
}
