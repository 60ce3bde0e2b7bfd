//! The value that the writer holds and everybody else reads as a snapshot: desired state, observed state, and hosts
//! ranked by load. Persistent maps make it cheap to clone.
//!
//! Not here: changing it (change) and publishing it (the coordinator's writer).

use isyone_types::{
    ids::{HostName, TenantName},
    plan::UnixMs,
};

use uuid::Uuid;

use crate::{
    desired::Fleet,
    liveness::HostState,
    observed::Observed,
    placement::{PlacementInputs, Ranking},
    settings::Settings,
};

/// The state of the coordinator at one moment.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The desired state; stored.
    pub fleet: Fleet,
    /// What hosts reported; in memory only.
    pub observed: Observed,
    /// Hosts by load; computed from both.
    pub ranking: Ranking,
    /// When the coordinator started.
    pub started_at: UnixMs,
    /// Host states that events have reported, so that each change is reported once.
    pub told: imbl::OrdMap<HostName, HostState>,
    /// Time of the last tick; `None` before the first one.
    pub last_tick: Option<UnixMs>,
    /// No quarantine ends before this time.
    pub quarantine_hold_until: UnixMs,
    /// No tenant is put to sleep before this time.
    pub sleep_hold_until: UnixMs,
    /// The last tenant that was checked for idleness; `None`: start from the first.
    pub sleep_hand: Option<TenantName>,
    /// Rises with each published snapshot; restarts with the process.
    pub version: u64,
    /// Operations that wait for edges, each with the snapshot that those must run. Computed again after a start.
    pub routes_due: imbl::OrdMap<Uuid, u64>,
    /// The last running operation that was looked at for its deadline; `None`: start from the first.
    pub operation_hand: Option<Uuid>,
    /// Running operations whose deadline an event has reported.
    pub told_overdue: imbl::OrdSet<Uuid>,
}

impl State {
    /// The state right after a start: nothing observed yet.
    pub fn new(fleet: Fleet, started_at: UnixMs) -> Self {
        Self {
            fleet,
            started_at,
            ..Self::default()
        }
    }

    /// The inputs of placement.
    pub fn placement_inputs<'a>(&'a self, settings: &'a Settings) -> PlacementInputs<'a> {
        PlacementInputs {
            fleet: &self.fleet,
            observed: &self.observed,
            ranking: &self.ranking,
            started_at: self.started_at,
            settings,
        }
    }

    /// Updates the ranking of one host, as of `now`.
    pub fn refresh(&mut self, settings: &Settings, host: &HostName, now: UnixMs) {
        let entry = Ranking::entry(self.placement_inputs(settings), host, now);
        self.ranking.update(host, entry);
    }
}
