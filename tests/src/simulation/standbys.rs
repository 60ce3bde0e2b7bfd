//! Standbys in the simulation: operators who ask for them and have them take over, and hosts that lose their power.
//!
//! An operator's word that a host is down is true here: what is tested is that a lie is never needed, and that a host that comes back
//! starts nothing of what has gone on elsewhere. Not here: how a copy is kept up (jobs).

use std::sync::Arc;

use isyone_fleet::{change::Command, desired::Tenant};
use isyone_proto::{
    ids::{HostName, TenantName},
    plan::Lifecycle,
    report::JobState,
};
use rand::RngExt as _;
use uuid::Uuid;

use super::{
    Simulation,
    invariants::{story, story_of},
};

impl Simulation {
    /// Something about a tenant's standby.
    pub(super) fn order_standby(&mut self, tenant: &TenantName) {
        let is_lost = |tenant: &&Tenant| self.hosts[&tenant.placement.host].off;
        let mut all = self.state.fleet.tenants.values().map(|tenant| &**tenant);
        let lost = all.find(is_lost).map(|tenant| tenant.name.clone());
        let tenant = lost
            .as_ref()
            .filter(|_| self.rng.random_ratio(1, 2))
            .unwrap_or(tenant);
        let Some(record) = self.state.fleet.tenants.get(tenant).cloned() else {
            return;
        };
        let standby = record.standby().map(|(place, _)| place.host.clone());
        let lives_on = record.placement.host.clone();
        let name = tenant.clone();
        match (standby, self.rng.random_range(0..8u32)) {
            // It is told the truth; without that, nothing may come of it.
            _ if self.hosts[&lives_on].off => self.fail_over(&record, true),
            (_, 0) => self.fail_over(&record, false),
            (None, _) => {
                let command = Command::AddStandby {
                    name,
                    on: None,
                    apart: None,
                };
                self.count(command);
            }
            (Some(_), 1) => {
                self.count(Command::RemoveStandby { name });
            }
            (Some(to), 2) => {
                let request_id = self.request_id();
                let command = Command::MoveTenant {
                    name,
                    to: to.into(),
                    max_pause_ms: Some(60_000),
                    request_id,
                };
                self.count(command);
            }
            _ => {}
        }
    }

    /// The coordinator's own clock strikes; standbys may take over by themselves.
    pub(super) fn tick(&mut self) {
        let fleet = &self.state.fleet;
        let followed = fleet.standbys.iter().filter_map(|n| fleet.tenants.get(n));
        let before: Vec<_> = followed.cloned().collect();
        self.submit(Command::Tick);
        for tenant in before {
            self.summary.by_itself += u64::from(self.has_gone_over(&tenant));
        }
    }

    /// Whether a tenant was told to go on where its standby is.
    fn has_gone_over(&mut self, before: &Tenant) -> bool {
        let after = self.state.fleet.tenants.get(&before.name).cloned();
        let moved = |after: &&Arc<Tenant>| after.placement.host != before.placement.host;
        let Some(after) = after.as_ref().filter(moved) else {
            return false;
        };
        self.summary.failed_over += 1;
        let to = after.placement.host.clone();
        self.taking_over.insert(after.uid, to);
        self.what_is_left_counts();
        true
    }

    /// What a standby lacks that takes over is lost with the host, and users have been told so: until it has, what it has is what counts.
    pub(super) fn what_is_left_counts(&mut self) {
        let all = std::mem::take(&mut self.taking_over);
        for (uid, host) in all {
            // Who is deleted before that has nothing to go on with.
            let mut tenants = self.state.fleet.tenants.values();
            let lives = tenants.any(|tenant| tenant.uid == uid && !tenant.is_deleted());
            if !lives {
                continue;
            }
            let copies = self.hosts[&host].copies.values();
            let mut ours = copies.filter(|copy| copy.data.is_some_and(|data| data.uid == uid));
            let Some(copy) = ours.next() else {
                panic!("nothing takes over on {host}\n{}", story_of(self, &uid));
            };
            let Some(kept) = copy.data else { continue };
            if !copy.world.state.follows() {
                continue;
            }
            self.written.insert(uid, kept.value);
            self.taking_over.insert(uid, host);
        }
    }

    fn fail_over(&mut self, before: &Tenant, is_down: bool) {
        let request_id = self.request_id();
        self.count(Command::FailOver {
            name: before.name.clone(),
            is_down,
            from_backup: false,
            request_id,
        });
        // Also where the answer was lost, and the coordinator with it.
        self.has_gone_over(before);
    }

    /// A host loses its power, or has it again.
    pub(super) fn power(&mut self) {
        let off = self.hosts.values().find(|host| host.off);
        if let Some(host) = off.map(|host| host.name.clone()) {
            // Long enough to be lost, as often as not.
            if self.rng.random_ratio(1, 6) {
                self.power_on(&host);
            }
            return;
        }
        let host = self.pick_host();
        self.disconnect(&host);
        if let Some(sim) = self.hosts.get_mut(&host) {
            sim.power_off();
        }
    }

    /// Whether it reaches the coordinator at once is another matter.
    pub(super) fn power_on(&mut self, host: &HostName) {
        if let Some(sim) = self.hosts.get_mut(host) {
            sim.power_on();
        }
        if self.rng.random_ratio(1, 2) {
            self.reconnect(host);
        }
    }
}

/// In the end a standby has what its tenant has, unless its job has failed: that is made anew after a while.
pub(super) fn check_quiet(sim: &Simulation, tenant: &Tenant, host: &HostName, job: Uuid) {
    let there = &sim.hosts[host];
    let failed = there.jobs.get(&job).map(|job| job.state) == Some(JobState::Failed);
    if failed || tenant.desired != Lifecycle::Running {
        return;
    }
    let held = there.copies.get(&tenant.name).and_then(|copy| copy.data);
    let wanted = sim.written.get(&tenant.uid).copied().unwrap_or_default();
    assert!(
        held.is_some_and(|data| data.uid == tenant.uid && data.value == wanted),
        "the standby on {host} has {held:?} of {wanted}, by {:?}\n{}",
        there.jobs.get(&job),
        story(sim, &tenant.name)
    );
}
