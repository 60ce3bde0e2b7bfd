//! What the agent remembers of one tenant across its own restarts.
//!
//! Kept: how far the database is (this decides whether a volume may be filled, and is never guessed), restarts done,
//! which image a moving tag meant, and the steps of the current operation. Docker is asked again for everything else.
//! Not here: the file (tenant::state_file), what follows from pinned images (pins).

use std::path::PathBuf;

use isyone_proto::plan::{TenantPlan, UnixMs};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::plan::{installs::Installs, pins::Pin};

const VERSION: u32 = 1;
/// Progress of the tenant's database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "stage")]
pub enum Database {
    /// Nothing has been put into the volumes.
    Empty,
    /// Filling started and its end was not recorded: the volumes hold scrap and may be wiped.
    Filling,
    /// Complete, under the name `source`, but still with foreign or default keys: Odoo must not use it.
    Filled {
        /// Name of the database in the cluster.
        source: String,
    },
    /// Complete, as it was in a backup of another tenant: it is given this one's keys before anything of it is used, and never
    /// wiped.
    Restored {
        /// Name of the database in the cluster.
        source: String,
        /// Nothing of it may reach anybody: it is neutralised before that.
        neutralise: bool,
    },
    /// The tenant's own. From here on, nothing in the agent ever wipes it.
    Ready {
        /// Its files are known to be on disk, not only in the page cache. Until then the tenant does not count as
        /// converged.
        synced: bool,
    },
    /// The volumes are for a copy from elsewhere that is not complete: a job may write into them, nothing starts on
    /// them.
    Incoming,
    /// A copy from elsewhere that its PostgreSQL keeps up with the one that runs: a standby, which nobody writes. It is the tenant's own
    /// when it is promoted, and that comes only after it is `complete` and the tenant is to run here.
    Following {
        /// It has all that the other one had when that was stopped.
        complete: bool,
    },
    /// The volumes were there before this record, and nobody knows whether they hold a whole copy: they are neither
    /// written nor started on.
    Doubtful,
}

/// What the tenant had before a restore took its place: it lies in the home, beside what came after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aside {
    /// The restore, by its operation.
    pub restore: Uuid,
    /// It is on its way there or back, and the end of that was not recorded: nothing is known of what lies in the volumes.
    pub moving: bool,
}

/// A request that its images cannot meet: remembered, because finding it out takes as long as a new database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfit {
    /// The golden key of what was asked for: with other images or modules it is worth another try.
    pub key: String,
    /// Why, for people.
    pub why: String,
}

/// State of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Not started.
    Pending,
    Running,
    /// Failed, will be tried again.
    Retrying,
    Succeeded,
    /// Was not needed.
    Skipped,
}

/// A step of the current operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Text of a [`StepName`](crate::plan::steps::StepName); another version of the agent may have other names.
    pub name: String,
    pub state: StepState,
    pub start_ms: Option<UnixMs>,
    pub end_ms: Option<UnixMs>,
    /// What was done, or why it failed.
    pub detail: String,
    /// 0..=100, where known.
    pub percent: u32,
}

/// The hashed master password, kept because hashing is slow; `of` is a digest that identifies the password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterHash {
    /// SHA-256 over uid and password.
    pub of: String,
    /// In passlib's format.
    pub hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantState {
    version: u32,
    pub uid: Uuid,
    /// Highest epoch seen; the ledger remembers it too.
    pub epoch: u64,
    pub database: Database,
    /// Number of Odoo restarts carried out.
    pub odoo_restarts: u64,
    /// Number of PostgreSQL restarts carried out.
    pub postgres_restarts: u64,
    /// The last request to write its settings anew that was carried out.
    #[serde(default)]
    pub settings_asked: u64,
    /// [`crate::plan::sql::settings_digest`] of the settings in the database.
    pub settings: String,
    /// Odoo's pinned image.
    pub odoo_pin: Option<Pin>,
    /// PostgreSQL's pinned image.
    pub postgres_pin: Option<Pin>,
    /// The image that Odoo had before this one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub odoo_pin_before: Option<Pin>,
    /// The same of PostgreSQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres_pin_before: Option<Pin>,
    pub master_hash: Option<MasterHash>,
    /// Operation that the steps belong to.
    pub operation: Option<Uuid>,
    /// Its steps, in order.
    pub steps: Vec<StepRecord>,
    /// Highest plan generation that wanted the tenant: an order to purge that is not newer comes from a coordinator
    /// whose database was set back.
    #[serde(default)]
    pub wanted_generation: u64,
    /// The job that completed this copy: the same order, read again, finds that it is done. Of one that follows, the job that first had all
    /// of it.
    #[serde(default)]
    pub copied_by: Option<Uuid>,
    /// The epoch under which this copy was told that its time is over. Only such a copy may be overwritten by one from
    /// elsewhere.
    #[serde(default)]
    pub fenced_at: Option<u64>,
    /// What it had before it was restored in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aside: Option<Aside>,
    /// The highest timeline of PostgreSQL's that a restore in its place or a promotion has begun here: the next restore begins none of
    /// before, so that no two histories in its backups have segments of the same names.
    #[serde(default)]
    pub timeline: u32,
    /// Where its data lies, from when it was put there: a host's tenants may later be kept elsewhere.
    #[serde(default)]
    pub home: Option<PathBuf>,
    /// Records of its volumes are being made anew; those that are missing are not news.
    #[serde(default)]
    pub recording: bool,
    /// How often records of its volumes were gone and have been put back.
    #[serde(default)]
    pub volume_repairs: u64,
    /// What was done about installations of apps that were cut off.
    #[serde(default)]
    pub installs: Installs,
    /// What was asked for and cannot be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfit: Option<Unfit>,
    /// The engine does not start its containers when the machine starts: the agent does, once it knows that it may.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stays_down: bool,
    /// It has taken over from another host, and its settings are those that it had there, or nearly: its users do not wait for them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub settings_can_wait: bool,
}

impl TenantState {
    /// State of a tenant of which nothing exists yet.
    pub fn new(plan: &TenantPlan) -> Self {
        Self {
            version: VERSION,
            uid: plan.uid,
            epoch: plan.epoch,
            database: Database::Empty,
            odoo_restarts: plan.odoo_restarts,
            postgres_restarts: plan.postgres_restarts,
            settings_asked: plan.settings_asked,
            settings: String::new(),
            odoo_pin: None,
            postgres_pin: None,
            odoo_pin_before: None,
            postgres_pin_before: None,
            master_hash: None,
            operation: None,
            steps: Vec::new(),
            wanted_generation: 0,
            copied_by: None,
            fenced_at: None,
            aside: None,
            timeline: 0,
            home: None,
            recording: false,
            volume_repairs: 0,
            installs: Installs::default(),
            unfit: None,
            stays_down: false,
            settings_can_wait: false,
        }
    }

    /// Whether the tenant lives here, as far as this host was ever told: it was wanted here since its data came, and
    /// nobody has said that its time here is over.
    pub fn lives_here(&self) -> bool {
        self.wanted_generation > 0 && self.fenced_at.is_none()
    }

    /// The data that is here is to be replaced by the tenant's newer data from elsewhere. What was remembered of its life
    /// here is of no more use, but where its data lies.
    pub fn come_again(&mut self, plan: &TenantPlan) {
        *self = Self {
            database: Database::Incoming,
            home: self.home.take(),
            // It lies in the same home, and goes on order only.
            aside: self.aside.map(|aside| Aside {
                moving: false,
                ..aside
            }),
            timeline: self.timeline,
            recording: self.recording,
            volume_repairs: self.volume_repairs,
            ..Self::new(plan)
        };
    }

    /// Whether this is the tenant's state, in a format that this program knows.
    pub fn is_of(&self, plan: &TenantPlan) -> bool {
        self.version == VERSION && self.uid == plan.uid
    }

    /// Whether what is here is data that nobody fills or wipes: the tenant's own, or what was restored for it.
    pub fn is_whole(&self) -> bool {
        self.is_ready() || matches!(self.database, Database::Restored { .. })
    }

    /// Whether it is a copy that is kept up with one that runs, or was until it became complete.
    pub fn follows(&self) -> bool {
        matches!(self.database, Database::Following { .. })
    }

    /// Whether it is such a copy, and a whole one: its base backup has come, and all files of a pass. One that was let go is none, though
    /// its data lies there until it is brought anew.
    pub fn is_filled(&self) -> bool {
        self.follows() && self.copied_by.is_some() && self.fenced_at.is_none()
    }

    /// Whether the tenant's own database exists.
    pub fn is_ready(&self) -> bool {
        matches!(self.database, Database::Ready { .. })
    }
}
