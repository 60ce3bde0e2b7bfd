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
    /// Number of CPUs.
    pub cpus: u32,
    /// Busy share of all CPUs, per mille.
    pub cpu_used_permille: u32,
    /// All of its memory.
    pub memory_total_bytes: u64,
    /// Memory that can be had without swapping.
    pub memory_available_bytes: u64,
    /// Size of the file system that Docker's data lies on.
    pub disk_total_bytes: u64,
    /// Free space on that file system.
    pub disk_available_bytes: u64,
    /// Load average over one minute, thousandths.
    pub load1_milli: u32,
    /// How long tasks wait; none where the kernel does not say.
    pub pressure: Option<Pressure>,
    /// The agent's own resident memory.
    pub agent_memory_bytes: u64,
    /// The agent's own use of CPU, per mille of one.
    pub agent_cpu_permille: u32,
}

/// How far a host is with a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TenantProgress {
    /// The host is working on it.
    Working,
    /// It is as the plan says.
    Converged,
    /// The last try failed; it is tried again.
    Failing,
    /// It is as the plan says, but does not answer.
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

/// One of a tenant's containers, as its host sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerReport {
    /// Its name in Docker, such as `odoo_alfa`.
    pub name: String,
    /// What it is for; none for a leftover.
    pub role: Option<Role>,
    /// Docker's word for its state, or `absent`.
    pub state: Cow<'static, str>,
    /// Whether it answers the probe of its health.
    pub healthy: bool,
    /// Restarts by Docker since it was created.
    pub restarts: u32,
    /// How often the kernel killed a process of it for want of memory, since the agent began to watch.
    pub oom_kills: u32,
    /// Digest of its image, where Docker knows one.
    pub image_digest: Option<ImageDigest>,
    /// Exit code of its last run.
    pub exit_code: i32,
    /// When it was last started.
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
    /// CPU of both containers, thousandths of one.
    pub cpu_millis: u32,
    /// Memory of both containers, bytes.
    pub memory_bytes: u64,
    /// Disk of its volumes, bytes; 0: not measured.
    pub disk_bytes: u64,
}

/// What a tenant's visitors do; see `isyone.v1.Traffic`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Requests that its Odoo answered, per minute.
    pub requests_per_minute: u32,
    /// Of these, answers with status 500 and above.
    pub errors_per_minute: u32,
    /// 95 % of the requests took at most this long; 0 when there was none.
    pub latency_p95_ms: u32,
    /// Websockets that are open.
    pub websockets: u32,
    /// Users with a request within the last hour.
    pub active_users: u32,
    /// When somebody was last logged in, 0: never; none when its Odoo does not tell.
    pub last_active_at: Option<UnixMs>,
}

/// A host's word on a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantReport {
    /// The tenant's name.
    pub name: TenantName,
    /// Identity of the tenant across re-creation of its name.
    pub uid: Uuid,
    /// Epoch of the placement that the host carries out.
    pub epoch: u64,
    /// Generation of the tenant's plan that this is about.
    pub generation: u64,
    /// How far the host is with that plan.
    pub progress: TenantProgress,
    /// What is wrong, for people; empty when nothing is.
    pub message: String,
    /// Its containers, leftovers too.
    pub containers: Vec<ContainerReport>,
    /// What it uses; none while its host has not measured it.
    pub usage: Option<Usage>,
    /// What its visitors do; none while its host has not measured it.
    pub traffic: Option<Traffic>,
    /// Operation that `steps` belong to.
    pub operation: Option<Uuid>,
    /// What was done for that operation so far.
    pub steps: Vec<Step>,
    /// Whether nothing is left of it on the host.
    pub absent: bool,
    /// How long the last probe of its health took; 0 when it failed.
    pub health_latency_ms: u32,
}

/// A host's report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostReport {
    /// What it has and uses.
    pub resources: HostResources,
    /// Why Docker does not answer; empty when it does.
    pub docker_error: String,
    /// Tenants that changed since the report before; all of them when `complete`.
    pub tenants: Vec<TenantReport>,
    /// Whether all tenants of the host are in `tenants`: who is missing is absent.
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
