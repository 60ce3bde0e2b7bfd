//! What hosts last reported. In memory only: after a restart it is empty, which means "unknown", and fills with the
//! first reports.
//!
//! Not here: judging silence (liveness).

use std::sync::Arc;

use imbl::OrdMap;
use ipnet::Ipv4Net;
use isyone_types::{
    disk::DiskState,
    generation::Generation,
    ids::{HostName, TenantName},
    plan::{Role, UnixMs},
    report::{HostCondition, HostResources, JobReport, TenantProgress, TenantReport, Which},
};
use uuid::Uuid;

/// What an agent sends when it connects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    pub agent_version: String,
    pub docker_version: String,
    /// Networks that the host uses itself; tenants get none that overlaps.
    pub networks: Vec<Ipv4Net>,
    /// TCP port on its advertised address where other hosts' agents fetch data; `None` where there is none.
    pub peer_port: Option<u16>,
    /// It makes backups, as its plan orders. Never from agents of before.
    pub makes_backups: bool,
    /// It keeps copies up with ones that run, and lets its own be followed.
    pub follows: bool,
    /// It keeps standbys up, and starts what has one only when asked to. Never from agents of before.
    pub stands: bool,
    /// Its agent heeds leases of tenants, and grants them.
    pub leases: bool,
    /// It proves backups. Never from agents of before.
    pub proves_backups: bool,
    /// It does what a plan says of a tenant's mail and its Odoo's settings. Never from agents of before.
    pub sets_mail: bool,
    /// It makes databases that sort in a language's order. Never from agents of before.
    pub sorts: bool,
}

/// The last report on a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantObserved {
    /// The host that reported it.
    pub host: HostName,
    /// When the report arrived.
    pub at: UnixMs,
    /// As reported, with the disk as last measured; see [`DISK_KNOWN_MS`].
    pub report: TenantReport,
    /// When its disk was last reported; of no meaning when none is known.
    pub disk_at: UnixMs,
    /// The trouble last reported to operators by an event; `None` since the tenant was last well.
    pub told: Option<Told>,
}

/// Trouble that operators were told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    pub trouble: TenantProgress,
    /// That was under a plan before the one of the last report: the same trouble under this one is news. Not which plan it was,
    /// because each tenant has one of these.
    pub before: bool,
}

/// For how long a disk's state is believed when reports do not tell it any more, milliseconds. An agent that has just
/// started has not measured yet, and takes at most a few rounds of all tenants to; one that never does must not leave a
/// tenant's uploads refused for ever.
pub const DISK_KNOWN_MS: i64 = 3_600_000;

impl TenantObserved {
    /// Whether the edges are to refuse uploads to it.
    pub fn refuses_uploads(&self) -> bool {
        let disk = self.report.disk;
        disk.is_some_and(|disk| disk.state >= DiskState::UploadsRefused)
    }

    /// Whether its Odoo runs.
    pub fn runs_odoo(&self) -> bool {
        let mut containers = self.report.containers.iter();
        containers.any(|c| c.which == Which::Its(Role::Odoo) && c.state == *"running")
    }

    /// What of it a route depends on; none when nothing does.
    fn seen_by_edges(&self, first_start: bool) -> Option<SeenByEdges> {
        let seen = SeenByEdges {
            uid: self.report.uid,
            epoch: self.report.epoch,
            starts: first_start && self.runs_odoo(),
            refuses_uploads: self.refuses_uploads(),
        };
        (seen.starts || seen.refuses_uploads).then_some(seen)
    }
}

/// What a tenant's route depends on in a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenByEdges {
    /// The tenant and the epoch that the report is about.
    pub uid: Uuid,
    pub epoch: u64,
    /// It runs Odoo for the first time, from when on it has a route.
    pub starts: bool,
    pub refuses_uploads: bool,
}

/// What is known of a host from its agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostObserved {
    /// When the last report arrived; `None` before the first one since the coordinator started.
    pub reported_at: Option<UnixMs>,
    /// Likewise, by [`crate::change::Stamp::steady`]: what leases are counted from, which no clock that is set may end early.
    pub heard: Option<i64>,
    pub hello: Hello,
    /// What it has and uses, from the last report.
    pub resources: HostResources,
    /// Busy share of its CPUs, as an exponential average over [`CPU_AVERAGE_MS`].
    pub cpu_average_permille: u32,
    /// Why the host takes no new tenants: Docker does not answer, or other trouble of its agent; from the last report, empty when there is none.
    pub docker_error: String,
    /// How the host itself is, from the last report.
    pub condition: HostCondition,
    /// All jobs of its plan, from the last report.
    pub jobs: OrdMap<Uuid, Arc<JobReport>>,
    /// Generation of the plan that the agent has stored.
    pub accepted_generation: Generation,
    /// Why it refused the last plan; empty when it did not.
    pub plan_error: String,
}

/// Time constant of the CPU average, milliseconds: placement must not follow every spike.
pub const CPU_AVERAGE_MS: i64 = 120_000;

/// What is known of a tenant's copies, one entry for each host that has reported on it. Nearly always one, which then needs no
/// memory of its own: a map copies its entries by the dozen.
#[derive(Debug, Clone)]
enum Copies {
    One(Arc<TenantObserved>),
    Several(Arc<Vec<Arc<TenantObserved>>>),
}

impl Copies {
    fn all(&self) -> &[Arc<TenantObserved>] {
        match self {
            Self::One(seen) => std::slice::from_ref(seen),
            Self::Several(all) => all,
        }
    }

    /// Stores what a host has reported in place of what it said before.
    fn put(&mut self, seen: Arc<TenantObserved>) {
        match self {
            Self::One(before) if before.host == seen.host => *before = seen,
            Self::One(other) => *self = Self::Several(Arc::new(vec![other.clone(), seen])),
            Self::Several(all) => {
                let all = Arc::make_mut(all);
                match all.iter_mut().find(|before| before.host == seen.host) {
                    Some(before) => *before = seen,
                    None => all.push(seen),
                }
            }
        }
    }

    /// Without what one host said; none when nothing is left.
    fn without(&self, host: &HostName) -> Option<Self> {
        let others = self.all().iter().filter(|seen| seen.host != *host);
        let mut left: Vec<_> = others.cloned().collect();
        match left.len() {
            0 | 1 => left.pop().map(Self::One),
            _ => Some(Self::Several(Arc::new(left))),
        }
    }
}

/// What is known of a tenant's copy on one host.
#[derive(Debug, Clone, Copy)]
pub enum CopyObserved<'a> {
    /// The host has not reported on it since the coordinator started. That is never taken for absence.
    Unknown,
    /// The host has reported that nothing of it is left.
    Absent,
    Present(&'a Arc<TenantObserved>),
}

/// Everything that was reported since the start.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    pub hosts: OrdMap<HostName, Arc<HostObserved>>,
    /// By tenant; kept true by [`Observed::put_copy`].
    tenants: OrdMap<TenantName, Copies>,
    /// What routes depend on, which seldom changes: so that who publishes them need not look at every report. Kept true by
    /// [`Observed::put_copy`].
    seen_by_edges: OrdMap<(TenantName, HostName), SeenByEdges>,
    /// For each scope of the edges' configuration (as in [`crate::shards::Shards::scopes`]): the newest snapshot whose
    /// routes all edges of that scope are known to run. Missing: not known since the start.
    pub edges_run: OrdMap<usize, u64>,
}

impl Observed {
    /// The last report of this host on a tenant of this name, whatever its uid and epoch.
    pub fn copy(&self, tenant: &TenantName, host: &HostName) -> Option<&Arc<TenantObserved>> {
        let mut copies = self.tenants.get(tenant)?.all().iter();
        copies.find(|seen| seen.host == *host)
    }

    /// Stores a report in place of the same host's last one; `first_start`: the tenant has not been active yet.
    pub fn put_copy(&mut self, seen: TenantObserved, first_start: bool) {
        let seen = Arc::new(seen);
        match self.tenants.get_mut(&seen.report.name) {
            Some(copies) => copies.put(seen.clone()),
            None => {
                let name = seen.report.name.clone();
                self.tenants.insert(name, Copies::One(seen.clone()));
            }
        }
        let key = (seen.report.name.clone(), seen.host.clone());
        let now = seen.seen_by_edges(first_start);
        if now.as_ref() != self.seen_by_edges.get(&key) {
            match now {
                Some(now) => self.seen_by_edges.insert(key, now),
                None => self.seen_by_edges.remove(&key),
            };
        }
    }

    /// What routes depend on, for all copies of which there is anything to say.
    pub fn seen_by_edges(&self) -> &OrdMap<(TenantName, HostName), SeenByEdges> {
        &self.seen_by_edges
    }

    /// Forgets what one host said of a tenant.
    pub fn forget_copy(&mut self, tenant: &TenantName, host: &HostName) {
        let copies = self.tenants.get(tenant);
        if let Some(copies) = copies.filter(|copies| copies.all().iter().any(|s| s.host == *host)) {
            match copies.without(host) {
                Some(left) => self.tenants.insert(tenant.clone(), left),
                None => self.tenants.remove(tenant),
            };
        }
        self.seen_by_edges.remove(&(tenant.clone(), host.clone()));
    }

    /// Forgets all that was said of a tenant.
    pub fn forget(&mut self, tenant: &TenantName) {
        let copies = self.tenants.remove(tenant);
        for seen in copies.iter().flat_map(Copies::all) {
            let key = (tenant.clone(), seen.host.clone());
            self.seen_by_edges.remove(&key);
        }
    }

    /// Forgets the copies for which this is false.
    pub fn keep_copies(&mut self, wanted: impl Fn(&TenantObserved) -> bool) {
        let unwanted: Vec<(TenantName, HostName)> = self
            .tenants
            .values()
            .flat_map(Copies::all)
            .filter(|seen| !wanted(seen))
            .map(|seen| (seen.report.name.clone(), seen.host.clone()))
            .collect();
        for (tenant, host) in &unwanted {
            self.forget_copy(tenant, host);
        }
    }

    /// Number of tenants that any host has reported on.
    pub fn tenants_seen(&self) -> usize {
        self.tenants.len()
    }

    /// What a host last said of a job.
    pub fn job(&self, host: &HostName, id: Uuid) -> Option<&JobReport> {
        self.hosts.get(host)?.jobs.get(&id).map(AsRef::as_ref)
    }
}

impl HostObserved {
    /// Stores a report that arrived at `now`.
    pub fn take_report(&mut self, resources: HostResources, docker_error: &str, now: UnixMs) {
        let sample = i64::from(resources.cpu_used_permille);
        let average = match self.reported_at {
            // One sample of a machine that is just starting says little; its load average covers the last minute.
            None => i64::from(resources.load1_milli) / i64::from(resources.cpus.max(1)),
            Some(before) => {
                let elapsed = (now - before).clamp(0, CPU_AVERAGE_MS);
                let old = i64::from(self.cpu_average_permille);
                old + (sample - old) * elapsed / CPU_AVERAGE_MS
            }
        };
        self.cpu_average_permille = u32::try_from(average.clamp(0, 1000)).unwrap_or(0);
        self.reported_at = Some(now);
        self.resources = resources;
        docker_error.clone_into(&mut self.docker_error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Bench, name, resources};

    /// A fleet has a hundred thousand of them.
    #[test]
    fn what_is_known_of_a_tenant_takes_few_bytes() {
        use isyone_types::report::ContainerReport;
        // With the counters of an `Arc`: a size that the allocator has.
        assert!(size_of::<TenantObserved>() + 16 <= 320);
        assert!(size_of::<[ContainerReport; 2]>() <= 192);
    }

    #[test]
    fn each_host_has_one_word_on_a_tenant() {
        let mut bench = Bench::default();
        bench.host("h1", resources(4, 16, 200));
        bench.create("alfa", "small").unwrap();
        let (alfa, hosts) = (name("alfa"), ["h1", "h2", "h3"].map(name::<HostName>));
        let said = |host: &HostName, at| TenantObserved {
            host: host.clone(),
            at,
            report: bench.converged(&alfa),
            told: None,
            disk_at: 0,
        };
        let mut seen = Observed::default();
        for (at, host) in (1..).zip(hosts.iter().chain(&hosts)) {
            seen.put_copy(said(host, at), false);
        }
        let known = |seen: &Observed| hosts.each_ref().map(|h| seen.copy(&alfa, h).map(|s| s.at));
        assert_eq!(known(&seen), [Some(4), Some(5), Some(6)]);
        seen.forget_copy(&alfa, &hosts[0]);
        assert_eq!(known(&seen), [None, Some(5), Some(6)]);
        seen.keep_copies(|seen| seen.at > 5);
        assert_eq!(known(&seen), [None, None, Some(6)]);
        seen.forget_copy(&alfa, &hosts[2]);
        assert_eq!(seen.tenants_seen(), 0);
    }
}
