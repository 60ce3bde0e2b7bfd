//! What hosts last said. In memory only: after a restart it is empty, which means "unknown", and fills with the first
//! reports.
//!
//! Not here: judging silence (liveness).

use std::sync::Arc;

use imbl::OrdMap;
use ipnet::Ipv4Net;
use isyone_types::{
    ids::{HostName, TenantName},
    plan::UnixMs,
    report::{HostResources, TenantProgress, TenantReport},
};
/// What an agent says when it connects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    pub agent_version: String,
    /// Docker Engine's version.
    pub docker_version: String,
    /// Networks that the host uses itself: tenants get none that overlaps.
    pub networks: Vec<Ipv4Net>,
}

/// A tenant as last heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantObserved {
    /// The host that told of it.
    pub host: HostName,
    /// When it arrived.
    pub at: UnixMs,
    /// What was said.
    pub report: TenantReport,
    /// The trouble that operators were told of, and under which generation; none since it was last well.
    pub told: Option<(TenantProgress, u64)>,
}

/// A host as last heard of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostObserved {
    /// When the last report arrived; `None` before the first one since the coordinator started.
    pub reported_at: Option<UnixMs>,
    /// What its agent said when it connected.
    pub hello: Hello,
    /// What it has and uses, by the last report.
    pub resources: HostResources,
    /// Busy share of its CPUs, averaged exponentially over [`CPU_AVERAGE_MS`].
    pub cpu_average_permille: u32,
    /// Why Docker does not answer, by the last report; empty when it does.
    pub docker_error: String,
    /// Plan generation that the agent stored.
    pub accepted_generation: u64,
    /// Why it refused a plan; empty when it did not.
    pub plan_error: String,
}

/// Time constant of the CPU average: placement must not follow each spike.
pub const CPU_AVERAGE_MS: i64 = 120_000;

/// Everything that was heard since the start.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    pub hosts: OrdMap<HostName, Arc<HostObserved>>,
    pub tenants: OrdMap<TenantName, Arc<TenantObserved>>,
}

impl HostObserved {
    /// Takes in a report that arrived at `now`.
    pub fn take_report(&mut self, resources: HostResources, docker_error: &str, now: UnixMs) {
        let sample = i64::from(resources.cpu_used_permille);
        let average = match self.reported_at {
            // One sample of a machine that is just starting says little; its load average knows the last minute.
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
