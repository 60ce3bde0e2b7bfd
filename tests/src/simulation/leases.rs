//! Leases in the simulation: each host's clock of time since its boot, who lets whom go on, and that what is over stops.
//!
//! Time is the same for all, but clocks go at different paces, and the coordinator's time of day is set now and then. What is over stops in
//! that very moment, also while the host's agent is dead: a process of its own sees to that. Not here: the agents' real keeping of leases,
//! and their asking each other.

use std::collections::BTreeMap;

use isyone_proto::{
    ids::{HostName, TenantName},
    lease::Lease,
    plan::{HostPlan, Role, TenantPlan},
};
use rand::RngExt as _;
use uuid::Uuid;

use super::{Simulation, host::SimHost};

/// How far a host's clock is off, thousandths: far more than any machine's, and less than what leases allow for.
const PACES: [i64; 5] = [950, 990, 1_000, 1_010, 1_050];

/// What a host knows of leases.
#[derive(Debug, Clone, Default)]
pub struct HostLeases {
    /// Its clock of time since its boot, thousandths of milliseconds, and how fast that goes.
    micros: i64,
    pace: i64,
    /// When its agent began.
    began: i64,
    /// By tenant, the moment before the question that was answered last. On disk, for this boot.
    granted: BTreeMap<Uuid, i64>,
    /// By tenant, when it last let another host go on. In memory.
    let_go_on: BTreeMap<Uuid, i64>,
}

impl HostLeases {
    pub fn new(at: usize) -> Self {
        Self {
            pace: PACES[at % PACES.len()],
            ..Self::default()
        }
    }

    /// Milliseconds since some moment.
    pub fn clock(&self) -> i64 {
        self.micros / 1_000
    }

    fn pass(&mut self, ms: i64) {
        self.micros += ms * self.pace;
    }

    /// The agent begins anew.
    pub fn begin(&mut self) {
        self.began = self.clock();
        self.let_go_on.clear();
    }

    /// The machine begins anew.
    pub fn boot(&mut self) {
        self.granted.clear();
        self.begin();
    }

    fn grant(&mut self, uid: Uuid, asked: i64) {
        let known = self.granted.entry(uid).or_insert(asked);
        *known = (*known).max(asked);
    }

    /// Whether a tenant may run now, as far as its lease goes.
    pub fn lasts(&self, plan: &TenantPlan) -> bool {
        let Some(Lease::Needed { for_ms, .. }) = &plan.lease else {
            return true;
        };
        let granted = self.granted.get(&plan.uid);
        granted.is_some_and(|at| self.clock() < at + i64::from(*for_ms))
    }

    /// So long ago it last let another host go on, for all that it knows.
    pub fn granted_ms(&self, plan: &TenantPlan) -> Option<u64> {
        matches!(plan.lease, Some(Lease::Granted { .. })).then(|| self.since(plan.uid))
    }

    fn since(&self, uid: Uuid) -> u64 {
        let last = self.let_go_on.get(&uid).copied().unwrap_or(self.began);
        u64::try_from(self.clock() - last).unwrap_or(0)
    }

    /// Whether whoever had it before has stopped it, for all that this host has granted.
    pub fn may_take_over(&self, plan: &TenantPlan) -> bool {
        match plan.lease {
            Some(Lease::Over { after_ms }) => self.since(plan.uid) >= u64::from(after_ms),
            _ => true,
        }
    }
}

/// Which tenants of a plan need a lease, and who renews it.
fn needed(plan: &HostPlan) -> Vec<(Uuid, HostName)> {
    let renewer = |tenant: &TenantPlan| match &tenant.lease {
        Some(Lease::Needed { renewer, .. }) => Some((tenant.uid, renewer.clone())),
        _ => None,
    };
    plan.tenants.iter().filter_map(renewer).collect()
}

impl SimHost {
    /// The coordinator has taken in a report that was sent then, under this very plan.
    pub(super) fn renewed_by_the_coordinator(&mut self, sent: i64) {
        let plan = self.held.plan.as_ref();
        for (uid, _) in plan.map(needed).unwrap_or_default() {
            self.leases.grant(uid, sent);
        }
        self.go_on();
    }

    /// What is over stops.
    fn stop_what_is_over(&mut self) {
        let over: Vec<TenantPlan> = self
            .tenants()
            .iter()
            .filter(|plan| !self.leases.lasts(plan))
            .cloned()
            .collect();
        for plan in over {
            let Some(copy) = self.copies.get_mut(&plan.name) else {
                continue;
            };
            if copy.runs() && copy.world.state.uid == plan.uid {
                copy.world.set_state(Role::Odoo, "exited");
                copy.world.set_state(Role::Postgres, "exited");
                self.lapsed += 1;
            }
            self.rest(&plan.name);
        }
    }

    /// What has a lease again, and what has waited for others' to be over, is looked at.
    fn go_on(&mut self) {
        let waiting: Vec<TenantName> = self.tenants().iter().map(|t| t.name.clone()).collect();
        for name in waiting {
            if self.waits_for_lease.remove(&name) {
                self.wake(&name);
            }
        }
    }
}

impl Simulation {
    /// Time goes on for everybody; what is over by then has stopped.
    pub(super) fn time(&mut self, ms: i64) {
        (self.now, self.steady) = (self.now + ms, self.steady + ms);
        for host in self.hosts.values_mut() {
            host.leases.pass(ms);
            if !host.off {
                host.stop_what_is_over();
                host.go_on();
            }
        }
        self.summary.lapsed = self.hosts.values().map(|host| host.lapsed).sum();
    }

    /// Whether two hosts reach each other.
    pub(super) fn reach(&self, one: &HostName, other: &HostName) -> bool {
        let cut = self.cut_off.as_ref();
        self.peers_reach && cut.is_none_or(|host| host != one && host != other)
    }

    /// A host is cut off from everybody, and goes on; or it is not any more.
    pub(super) fn cut_off(&mut self) {
        if let Some(host) = self.cut_off.clone() {
            if self.rng.random_ratio(1, 2) {
                self.cut_off = None;
                self.reconnect(&host);
            }
            return;
        }
        let host = self.pick_host();
        self.cut_off = Some(host.clone());
        self.disconnect(&host);
    }

    /// Somebody sets the coordinator's clock.
    pub(super) fn set_clock(&mut self) {
        let by = [-45_000, 45_000, 45_000, 600_000];
        self.now = (self.now + by[self.rng.random_range(0..by.len())]).max(0);
    }

    /// A host asks those that keep its tenants' standbys. Both directions take a while: it counts from before.
    pub(super) fn ask_to_go_on(&mut self, host: &HostName) {
        let asking = &self.hosts[host];
        if asking.off {
            return;
        }
        let plan = asking.held.plan.as_ref();
        let all = plan.map(needed).unwrap_or_default();
        let asked = asking.leases.clock();
        for (uid, renewer) in all {
            if !self.reach(host, &renewer) {
                continue;
            }
            let Some(other) = self.hosts.get_mut(&renewer).filter(|other| !other.off) else {
                continue;
            };
            let grants = |plan: &TenantPlan| {
                plan.uid == uid && matches!(&plan.lease, Some(Lease::Granted { to }) if to == host)
            };
            if !other.tenants().iter().any(grants) {
                continue;
            }
            let now = other.leases.clock();
            other.leases.let_go_on.insert(uid, now);
            if let Some(asking) = self.hosts.get_mut(host) {
                asking.leases.grant(uid, asked);
                asking.go_on();
            }
        }
    }
}
