//! What a host reports of itself and of each of its tenants: the checked form of `isyone.agent.v1.Report`, which the agent makes and
//! the coordinator keeps.
//!
//! Not here: bounds of what comes over the wire (isyone-proto's convert), and what follows from a report (the Fleet).

use std::{borrow::Cow, fmt};

use uuid::Uuid;

use crate::{
    ids::TenantName,
    operation::Step,
    plan::{Role, UnixMs},
};

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
pub struct HostResources {
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TenantProgress {
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
pub struct ContainerReport {
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

/// Which of a tenant's containers has this name; none of them for leftovers.
pub fn role_of(tenant: &TenantName, container: &str) -> Option<Role> {
    if container == tenant.odoo_container() {
        Some(Role::Odoo)
    } else if container == tenant.postgres_container() {
        Some(Role::Postgres)
    } else {
        None
    }
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
    pub progress: TenantProgress,
    /// What is wrong.
    pub message: String,
    /// Its containers.
    pub containers: Vec<ContainerReport>,
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
pub struct HostReport {
    /// What it has and uses.
    pub resources: HostResources,
    /// Empty when Docker answers.
    pub docker_error: String,
    /// Tenants, all when `complete`.
    pub tenants: Vec<TenantReport>,
    /// All tenants are there.
    pub complete: bool,
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
