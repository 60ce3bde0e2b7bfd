//! What hosts last said. In memory only: after a restart it is empty, which means "unknown", and fills with the first
//! reports.
//!
//! Not here: judging silence (liveness).

use std::{borrow::Cow, fmt, sync::Arc};

use imbl::OrdMap;
use ipnet::Ipv4Net;
use isyone_types::{
    ids::{HostName, TenantName},
    plan::{Role, UnixMs},
};
use uuid::Uuid;

use crate::operation::Step;

/// Pressure stall information, per mille over 10 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pressure {
    /// Some task waited for a CPU.
    pub cpu_some_permille: u32,
    /// Some task waited for memory.
    pub memory_some_permille: u32,
    /// Some task waited for I/O.
    pub io_some_permille: u32,
}

/// What a host has and uses; see `isyone.v1.HostResources`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resources {
    /// CPUs.
    pub cpus: u32,
    /// Busy share of all CPUs.
    pub cpu_used_permille: u32,
    /// Memory.
    pub memory_total_bytes: u64,
    /// Memory that can be had without swapping.
    pub memory_available_bytes: u64,
    /// Docker's file system.
    pub disk_total_bytes: u64,
    /// Free there.
    pub disk_available_bytes: u64,
    /// Load average over one minute, thousandths.
    pub load1_milli: u32,
    /// Where the kernel has it.
    pub pressure: Option<Pressure>,
    /// Agent's resident memory.
    pub agent_memory_bytes: u64,
    /// Agent's CPU, per mille of one.
    pub agent_cpu_permille: u32,
}

/// How far a host is with a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Working on it.
    Working,
    /// As the plan says.
    Converged,
    /// Last try failed, tried again.
    Failing,
    /// As the plan says, but it does not answer.
    Unhealthy,
}

/// `sha256:…`, as 32 bytes: there are two for each tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageDigest([u8; 32]);

impl ImageDigest {
    /// `None` for anything but `sha256:` and 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.strip_prefix("sha256:")?, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

/// Docker's words for a container's state; the Engine API's `ContainerState.Status`, and ours for none.
const STATES: [&str; 8] = [
    "created",
    "running",
    "paused",
    "restarting",
    "removing",
    "exited",
    "dead",
    "absent",
];

/// A container's state: one of the known words takes no memory of its own.
pub fn container_state(word: String) -> Cow<'static, str> {
    match STATES.into_iter().find(|known| *known == word) {
        Some(known) => Cow::Borrowed(known),
        None => Cow::Owned(word),
    }
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// `odoo_alfa`.
    pub name: String,
    /// Which.
    pub role: Option<Role>,
    /// Docker's word, or `absent`.
    pub state: Cow<'static, str>,
    /// Answers.
    pub healthy: bool,
    /// By Docker.
    pub restarts: u32,
    /// Seen.
    pub oom_kills: u32,
    /// Of its image.
    pub image_digest: Option<ImageDigest>,
    /// Last.
    pub exit_code: i32,
    /// Last start.
    pub started_at: Option<UnixMs>,
}

/// What a tenant uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Thousandths of a CPU.
    pub cpu_millis: u32,
    /// Bytes.
    pub memory_bytes: u64,
    /// Bytes.
    pub disk_bytes: u64,
}

/// What a tenant's visitors do; see `isyone.v1.Traffic`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Answered.
    pub requests_per_minute: u32,
    /// Of these, 500 and above.
    pub errors_per_minute: u32,
    /// 95 % took at most this long.
    pub latency_p95_ms: u32,
    /// Open.
    pub websockets: u32,
    /// Seen lately.
    pub active_users: u32,
    /// When somebody was last logged in, 0: never; none when its Odoo does not tell.
    pub last_active_at: Option<UnixMs>,
}

/// A host's word on a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantReport {
    /// Whom.
    pub name: TenantName,
    /// Which incarnation.
    pub uid: Uuid,
    /// Which placement.
    pub epoch: u64,
    /// Which plan.
    pub generation: u64,
    /// How far.
    pub progress: Progress,
    /// What is wrong.
    pub message: String,
    /// Its containers.
    pub containers: Vec<Container>,
    /// What it uses; none while its host has not measured it.
    pub usage: Option<Usage>,
    /// What its visitors do; none while its host has not measured it.
    pub traffic: Option<Traffic>,
    /// Operation that `steps` belong to.
    pub operation: Option<Uuid>,
    /// What was done for it.
    pub steps: Vec<Step>,
    /// Nothing is left of it.
    pub absent: bool,
    /// Last health probe.
    pub health_latency_ms: u32,
}

/// A host's report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What it has and uses.
    pub resources: Resources,
    /// Empty when Docker answers.
    pub docker_error: String,
    /// Tenants, all when `complete`.
    pub tenants: Vec<TenantReport>,
    /// All tenants are there.
    pub complete: bool,
}

/// What an agent says when it connects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    /// Agent's version.
    pub agent_version: String,
    /// Engine's version.
    pub docker_version: String,
    /// Networks that the host uses itself: tenants get none that overlaps.
    pub networks: Vec<Ipv4Net>,
}

/// A tenant as last heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantObserved {
    /// From whom.
    pub host: HostName,
    /// When it arrived.
    pub at: UnixMs,
    /// What was said.
    pub report: TenantReport,
    /// The trouble that operators were told of, and under which generation; none since it was last well.
    pub told: Option<(Progress, u64)>,
}

/// A host as last heard of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostObserved {
    /// When the last report arrived; none since the coordinator started is `None`.
    pub reported_at: Option<UnixMs>,
    /// Its greeting.
    pub hello: Hello,
    /// From the last report.
    pub resources: Resources,
    /// Busy share of its CPUs, averaged exponentially over [`CPU_AVERAGE_MS`].
    pub cpu_average_permille: u32,
    /// From the last report.
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
    /// Hosts.
    pub hosts: OrdMap<HostName, Arc<HostObserved>>,
    /// Tenants.
    pub tenants: OrdMap<TenantName, Arc<TenantObserved>>,
}

impl HostObserved {
    /// Takes in a report that arrived at `now`.
    pub fn take(&mut self, resources: Resources, docker_error: &str, now: UnixMs) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_and_states_come_back_as_they_went_in() {
        let text = format!("sha256:{}", "5a".repeat(32));
        assert_eq!(ImageDigest::parse(&text).unwrap().to_string(), text);
        for odd in [
            "",
            "sha256:5a",
            "md5:00",
            &format!("{text}00"),
            &text.replace("5a", "zz"),
        ] {
            assert_eq!(ImageDigest::parse(odd), None, "{odd}");
        }
        assert!(matches!(
            container_state("running".to_owned()),
            Cow::Borrowed("running")
        ));
        assert_eq!(container_state("stuck".to_owned()), "stuck");
    }
}
