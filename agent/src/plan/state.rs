//! What the agent remembers of one tenant between its own deaths.
//!
//! Kept: how far the database is (it decides whether a volume may be filled, and is never guessed), restarts done, which
//! image a moving tag meant, and the steps of the operation under way. Everything else is asked of Docker again. Not here: the
//! file (tenant::state_file).

use isyone_proto::plan::{Role, TenantPlan, UnixMs};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const VERSION: u32 = 1;
/// How far the tenant's database is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "stage")]
pub enum Database {
    /// Nothing was put into the volumes.
    Empty,
    /// Filling began and its end was not recorded: what is in the volumes is scrap and may be wiped.
    Filling,
    /// Complete, under the name `source`, but still with foreign or default keys: Odoo must not see it.
    Filled {
        /// Name of the database in the cluster.
        source: String,
    },
    /// The tenant's own. From here on nothing of the agent ever wipes it.
    Ready {
        /// Its files are known to be on disk, not only in the page cache. Until then the tenant is not converged.
        synced: bool,
    },
}

/// Which image a reference meant when it was first used: tags move, tenants move on purpose only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// As the plan has it.
    pub reference: String,
    /// Engine's id.
    pub id: String,
}

/// Where a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Not begun.
    Pending,
    Running,
    /// Failed, tried again.
    Retrying,
    /// Done.
    Succeeded,
    /// Was not needed.
    Skipped,
}

/// One step of the operation under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Text of a [`StepName`](crate::plan::steps::StepName); another version of the agent may have had others.
    pub name: String,
    pub state: StepState,
    pub start_ms: Option<UnixMs>,
    pub end_ms: Option<UnixMs>,
    /// What was done, or why it failed.
    pub detail: String,
    /// 0..=100 where known.
    pub percent: u32,
}

/// The hashed master password, kept because hashing is slow; `of` is a digest of the password it was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterHash {
    /// SHA-256 over uid and password.
    pub of: String,
    /// passlib's form.
    pub hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantState {
    version: u32,
    /// Uid of the tenant.
    pub uid: Uuid,
    /// Highest epoch seen, beside the ledger's memory.
    pub epoch: u64,
    /// How far the database is.
    pub database: Database,
    /// Restarts of Odoo carried out.
    pub odoo_restarts: u64,
    /// Restarts of PostgreSQL carried out.
    pub postgres_restarts: u64,
    /// [`crate::plan::sql::settings_digest`] that is in the database.
    pub settings: String,
    /// Odoo's image.
    pub odoo_pin: Option<Pin>,
    /// PostgreSQL's image.
    pub postgres_pin: Option<Pin>,
    pub master_hash: Option<MasterHash>,
    /// Operation that the steps belong to.
    pub operation: Option<Uuid>,
    /// Its steps, in order.
    pub steps: Vec<StepRecord>,
    /// Highest plan generation under which it was wanted: an order to purge that is not newer comes from a coordinator
    /// whose database was set back.
    #[serde(default)]
    pub wanted_generation: u64,
}

impl TenantState {
    /// A tenant of which nothing is there.
    pub fn new(plan: &TenantPlan) -> Self {
        Self {
            version: VERSION,
            uid: plan.uid,
            epoch: plan.epoch,
            database: Database::Empty,
            odoo_restarts: plan.odoo_restarts,
            postgres_restarts: plan.postgres_restarts,
            settings: String::new(),
            odoo_pin: None,
            postgres_pin: None,
            master_hash: None,
            operation: None,
            steps: Vec::new(),
            wanted_generation: 0,
        }
    }

    /// It is this tenant's, and of a form that this program knows.
    pub fn is_of(&self, plan: &TenantPlan) -> bool {
        self.version == VERSION && self.uid == plan.uid
    }

    /// The image a role runs under this plan, when it was settled.
    pub fn pinned(&self, role: Role, reference: &str) -> Option<&str> {
        let pin = match role {
            Role::Odoo => &self.odoo_pin,
            Role::Postgres => &self.postgres_pin,
        };
        pin.as_ref()
            .filter(|p| p.reference == reference)
            .map(|p| p.id.as_str())
    }

    pub fn pin(&mut self, role: Role, reference: &str, id: &str) {
        let pin = Some(Pin {
            reference: reference.to_owned(),
            id: id.to_owned(),
        });
        match role {
            Role::Odoo => self.odoo_pin = pin,
            Role::Postgres => self.postgres_pin = pin,
        }
    }

    /// The tenant's own database exists.
    pub fn is_ready(&self) -> bool {
        matches!(self.database, Database::Ready { .. })
    }
}
