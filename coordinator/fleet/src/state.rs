//! What the writer holds and everybody else reads as a snapshot: desired, observed, and hosts ranked by load.
//! Cloning it is cheap: persistent maps.
//!
//! Not here: who changes it (change) and who publishes it (the coordinator's writer).

use isyone_types::{
    ids::{HostName, TenantName},
    plan::UnixMs,
};

use crate::{
    desired::Fleet,
    liveness::HostState,
    observed::Observed,
    placement::{PlacementInputs, Ranking},
    settings::Settings,
};

/// One moment of the coordinator.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// What operators want; stored.
    pub fleet: Fleet,
    /// What hosts reported; in memory only.
    pub observed: Observed,
    /// Hosts by load; computed from both.
    pub ranking: Ranking,
    /// When the coordinator started.
    pub started_at: UnixMs,
    /// The host states that events have told; so that each change is told once.
    pub told: imbl::OrdMap<HostName, HostState>,
    /// When time last passed for the core; `None` until the first tick.
    pub last_tick: Option<UnixMs>,
    /// Until then no quarantine ends.
    pub quarantine_hold_until: UnixMs,
    /// And until then nobody falls asleep.
    pub sleep_hold_until: UnixMs,
    /// The last tenant that was looked at for whether it is used; none: the round begins anew.
    pub sleep_hand: Option<TenantName>,
    /// Rises with each published snapshot.
    pub version: u64,
}

impl State {
    /// A state as it is right after a start: nothing heard yet.
    pub fn new(fleet: Fleet, started_at: UnixMs) -> Self {
        Self {
            fleet,
            started_at,
            ..Self::default()
        }
    }

    /// What placement decides by.
    pub fn placement_inputs<'a>(&'a self, settings: &'a Settings) -> PlacementInputs<'a> {
        PlacementInputs {
            fleet: &self.fleet,
            observed: &self.observed,
            ranking: &self.ranking,
            started_at: self.started_at,
            settings,
        }
    }

    /// Brings the ranking of one host up to date, as of `now`.
    pub fn refresh(&mut self, settings: &Settings, host: &HostName, now: UnixMs) {
        let entry = Ranking::entry(self.placement_inputs(settings), host, now);
        self.ranking.update(host, entry);
    }
}
