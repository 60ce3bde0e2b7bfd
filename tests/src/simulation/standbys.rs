//! Standbys in the simulation: operators who ask for them and have them take over, and hosts that lose their power.
//!
//! An operator's word that a host is down is true here: what is tested is that a lie is never needed, and that a host that comes back
//! starts nothing of what has gone on elsewhere. Not here: how a copy is kept up (jobs).

use isyone_fleet::{change::Command, desired::Tenant};
use isyone_proto::{
    ids::{HostName, TenantName},
    plan::Lifecycle,
    report::JobState,
};
use rand::RngExt as _;
use uuid::Uuid;

use super::{Simulation, invariants::story};

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

    fn fail_over(&mut self, before: &Tenant, is_down: bool) {
        let request_id = self.request_id();
        self.count(Command::FailOver {
            name: before.name.clone(),
            is_down,
            request_id,
        });
        // Also where the answer was lost, and the coordinator with it.
        let Some(after) = self.state.fleet.tenants.get(&before.name).cloned() else {
            return;
        };
        if after.placement.host == before.placement.host {
            return;
        }
        self.summary.failed_over += 1;
        let copies = &self.hosts[&after.placement.host].copies;
        let data = copies.get(&after.name).and_then(|copy| copy.data);
        let data = data.filter(|data| data.uid == after.uid);
        let story = || story(self, &after.name);
        let kept = data.unwrap_or_else(|| panic!("nothing takes over\n{}", story()));
        // What the standby lacked is lost with the host, and users have been told so.
        let told = self.written.get(&after.uid).copied().unwrap_or_default();
        assert!(kept.value <= told, "{}", story());
        self.written.insert(after.uid, kept.value);
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
        "the standby on {host} has {held:?} of {wanted}\n{}",
        story(sim, &tenant.name)
    );
}
