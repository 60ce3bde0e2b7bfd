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
    desired::{Fleet, Host},
    event::Paces,
    liveness::{self, HostState},
    observed::{HostObserved, Observed},
    operation::RoutesDue,
    placement::{PlacementInputs, Ranking},
    settings::{Liveness, Settings},
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
    /// When the coordinator started, or its clock last jumped: what can be waited for is waited for from then on, at the
    /// earliest.
    pub started_at: UnixMs,
    /// When the first command since the coordinator's start was carried out, by [`crate::change::Stamp::steady`]: what leases hosts were
    /// given before is not known.
    pub steady_from: Option<i64>,
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
    /// The last tenant that was asked whether it lacks the standby that its plan gives it; `None`: start from the first.
    pub standby_hand: Option<TenantName>,
    /// Rises with each published snapshot; restarts with the process.
    pub version: u64,
    /// Operations that wait for edges, each with the snapshot that those must run. Computed again after a start.
    pub routes_due: RoutesDue,
    /// The last running operation that was looked at for its deadline; `None`: start from the first.
    pub operation_hand: Option<Uuid>,
    /// Running operations whose deadline an event has reported.
    pub told_overdue: imbl::OrdSet<Uuid>,
    /// Tenants, by uid, of which an event has said that they cannot be restored as was promised.
    pub told_backups: imbl::OrdSet<Uuid>,
    /// How often what can be repeated at will was told of late.
    pub paces: Paces,
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

    /// Puts another desired state in place, as it was read back from the store. What hosts reported stays known, as
    /// far as it is about hosts and tenants that are still there.
    pub fn replace_fleet(&mut self, fleet: Fleet, settings: &Settings, now: UnixMs) {
        let hosts: Vec<HostName> = (self.fleet.hosts.keys())
            .chain(fleet.hosts.keys())
            .cloned()
            .collect();
        self.fleet = fleet;
        let fleet = &self.fleet;
        let observed = &mut self.observed;
        keep(&mut observed.hosts, |host, _| {
            fleet.hosts.contains_key(host)
        });
        observed.keep_copies(|seen| {
            let record = fleet.tenants.get(&seen.report.name);
            record.is_some_and(|record| record.uid == seen.report.uid)
        });
        keep(&mut self.told, |host, _| fleet.hosts.contains_key(host));
        for host in &hosts {
            self.refresh(settings, host, now);
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

    /// The state of a host, and for how many milliseconds it has been silent. Who never reported is counted from the
    /// later of its joining and our start: before that it could not.
    pub fn host_state(&self, live: &Liveness, host: &HostName, now: UnixMs) -> (HostState, i64) {
        let seen = self.observed.hosts.get(host).map(AsRef::as_ref);
        let never_spoke = seen.is_none_or(|seen| seen.reported_at.is_none());
        let joined = never_spoke.then(|| self.fleet.hosts.get(host)).flatten();
        self.judge(live, seen, joined.map(AsRef::as_ref), now)
    }

    /// Like [`Self::host_state`], for who has found the records. The host's own is read only if it never reported.
    pub fn judge(
        &self,
        live: &Liveness,
        seen: Option<&HostObserved>,
        host: Option<&Host>,
        now: UnixMs,
    ) -> (HostState, i64) {
        let never_spoke = seen.is_none_or(|seen| seen.reported_at.is_none());
        let joining = host.filter(|_| never_spoke);
        let since = joining.map_or(self.started_at, |host| {
            liveness::heard_from(host.joined_at, self.started_at, now)
        });
        liveness::judge(seen, since, now, live)
    }

    /// Updates the ranking of one host, as of `now`.
    pub fn refresh(&mut self, settings: &Settings, host: &HostName, now: UnixMs) {
        let entry = Ranking::entry(self.placement_inputs(settings), host, now);
        self.ranking.update(host, entry);
    }
}

/// Keeps the entries that `wanted` says. The persistent map has no such method.
fn keep<K: Ord + Clone, V: Clone>(
    map: &mut imbl::OrdMap<K, V>,
    mut wanted: impl FnMut(&K, &V) -> bool,
) {
    let kept = map.iter().filter(|(key, value)| wanted(key, value));
    *map = kept.map(|(k, v)| (k.clone(), v.clone())).collect();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Bench, name, resources};

    #[test]
    fn a_replaced_fleet_keeps_what_is_known_of_what_is_still_there() {
        let mut bench = Bench::default();
        bench.host("h1", resources(8, 32, 100));
        bench.create("alfa", "small").unwrap();
        let alfa: TenantName = name("alfa");
        let report = bench.converged(&alfa);
        bench.report(&name("h1"), resources(8, 32, 100), vec![report]);
        let older = bench.state.fleet.clone();
        bench.host("h2", resources(8, 32, 100));
        bench.create("beta", "small").unwrap();
        let (settings, now) = (bench.settings.clone(), bench.now);
        let mut newer = bench.state.clone();
        newer.replace_fleet(older.clone(), &settings, now);
        assert!(newer.fleet == older);
        assert!(newer.observed.hosts.contains_key("h1"));
        assert!(!newer.observed.hosts.contains_key("h2"));
        assert!(newer.observed.copy(&alfa, &name("h1")).is_some());
        assert!(
            newer
                .ranking
                .is_true(newer.placement_inputs(&settings), now)
        );
        assert_eq!(newer.ranking.len(), 1);
    }
}
