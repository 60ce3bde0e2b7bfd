//! Long work that a plan orders.
//!
//! Not here: how far it is (report), carrying it out (the agent's jobs).

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    backup::{MakeBackup, RestoreOrder},
    ids::{HostName, TenantName},
    proof::VerifyOrder,
};

/// Most jobs in one host's plan; more wait at the coordinator.
pub const MAX_JOBS_PER_HOST: usize = 256;
/// Most standbys that a host keeps up, and most of its tenants that are followed by one: half of the jobs and of the leaves that one plan
/// may have, so that moves, backups and restores have the other half.
pub const MAX_STANDBYS_PER_HOST: usize = MAX_JOBS_PER_HOST / 2;

/// Long work that a host is to do beside keeping its tenants as planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobOrder {
    /// Identity: the same order is carried out once, however often it is read.
    pub id: Uuid,
    /// The operation that it belongs to.
    pub operation: Uuid,
    /// The tenant that it works on.
    pub tenant: TenantName,
    /// Uid of that tenant.
    pub uid: Uuid,
    /// What is to be done.
    pub work: JobWork,
    /// Most bytes per second; 0: the host's own limit.
    pub rate_bytes_per_s: u64,
}

/// What a job does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobWork {
    /// Copies the tenant's data from another host, where its copy is stopped, into the volumes here, and compares.
    Fetch {
        /// The host that has it.
        from: HostName,
        /// Where that host's agent listens for other agents; `None`: it cannot be reached, go through the coordinator.
        address: Option<SocketAddr>,
    },
    /// Makes a backup for one destination; the job's id is the backup's.
    Backup(MakeBackup),
    /// Fills the tenant's empty volumes from a backup, and has PostgreSQL recover them to the moment that is asked for.
    Restore(Box<RestoreOrder>),
    /// Keeps a copy here up with one that runs on another host, until that is stopped and the copy has all of it.
    Follow {
        /// As in [`JobWork::Fetch`].
        from: HostName,
        /// As in [`JobWork::Fetch`].
        address: Option<SocketAddr>,
        /// The other copy is stopped: bring what is missing, compare, and end. Before, the job only says how long that would take.
        last: bool,
        /// It is kept up for good, by and by, and keeps no other copy waiting.
        standing: bool,
    },
    /// Restores a backup where nobody uses it, looks whether it is whole, and throws it away. The tenant need not be on this host.
    Verify(Box<VerifyOrder>),
}
