//! What hosts last reported. In memory only: after a restart it is empty, which means "unknown", and fills with the
//! first reports.
//!
//! Not here: judging silence (liveness).

use std::sync::Arc;

use imbl::OrdMap;
use ipnet::Ipv4Net;
use isyone_types::{
    generation::Generation,
    ids::{HostName, TenantName},
    plan::UnixMs,
    report::{HostResources, TenantProgress, TenantReport},
};
/// What an agent sends when it connects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    pub agent_version: String,
    pub docker_version: String,
    /// Networks that the host uses itself; tenants get none that overlaps.
    pub networks: Vec<Ipv4Net>,
    /// TCP port on its advertised address where other hosts' agents fetch data; `None` where there is none.
    pub peer_port: Option<u16>,
}

/// The last report on a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantObserved {
    /// The host that reported it.
    pub host: HostName,
    /// When the report arrived.
    pub at: UnixMs,
    pub report: TenantReport,
    /// The trouble last reported to operators by an event, and under which generation; `None` since the tenant was last
    /// well.
    pub told: Option<(TenantProgress, u64)>,
}

/// What is known of a host from its agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostObserved {
    /// When the last report arrived; `None` before the first one since the coordinator started.
    pub reported_at: Option<UnixMs>,
    pub hello: Hello,
    /// What it has and uses, from the last report.
    pub resources: HostResources,
    /// Busy share of its CPUs, as an exponential average over [`CPU_AVERAGE_MS`].
    pub cpu_average_permille: u32,
    /// Why Docker does not answer, from the last report; empty when it does.
    pub docker_error: String,
    /// Generation of the plan that the agent has stored.
    pub accepted_generation: Generation,
    /// Why it refused the last plan; empty when it did not.
    pub plan_error: String,
}

/// Time constant of the CPU average, milliseconds: placement must not follow every spike.
pub const CPU_AVERAGE_MS: i64 = 120_000;

/// Everything that was reported since the start.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    pub hosts: OrdMap<HostName, Arc<HostObserved>>,
    pub tenants: OrdMap<TenantName, Arc<TenantObserved>>,
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
