//! What a host reports about itself and each of its tenants: the checked form of `isyone.agent.v1.Report`, which the
//! agent makes and the coordinator keeps.
//!
//! Not here: bounds on what comes over the wire (isyone-proto's convert), and what follows from a report (the Fleet).

use std::fmt;

use ipnet::Ipv4Net;
use uuid::Uuid;

use crate::{
    backup::{BackupMade, BackupReport, Fault},
    disk::Disk,
    finding::Finding,
    ids::TenantName,
    operation::Step,
    plan::{Role, UnixMs},
    proof::Proof,
};

/// Pressure stall information: share of time, per mille, over 10 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pressure {
    /// Some task was waiting for a CPU.
    pub cpu_some_permille: u32,
    /// Some task was waiting for memory.
    pub memory_some_permille: u32,
    /// Some task was waiting for I/O.
    pub io_some_permille: u32,
}

/// What a host has and uses; see `isyone.v1.HostResources`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostResources {
    /// Number of CPUs.
    pub cpus: u32,
    /// Busy share of all CPUs, per mille.
    pub cpu_used_permille: u32,
    /// Total memory.
    pub memory_total_bytes: u64,
    /// Memory available without swapping.
    pub memory_available_bytes: u64,
    /// Size of the file system that holds tenants' data.
    pub disk_total_bytes: u64,
    /// Free space on that file system.
    pub disk_available_bytes: u64,
    /// Load average over one minute, thousandths.
    pub load1_milli: u32,
    /// How long tasks wait; `None` where the kernel does not provide it.
    pub pressure: Option<Pressure>,
    /// The agent's own resident memory.
    pub agent_memory_bytes: u64,
    /// The agent's own CPU use, per mille of one CPU.
    pub agent_cpu_permille: u32,
}

/// How far a host is with a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TenantProgress {
    /// The host is working on it.
    Working,
    /// The tenant matches the plan.
    Converged,
    /// The last attempt failed; it is retried.
    Failing,
    /// The tenant matches the plan, but does not answer.
    Unhealthy,
}

/// A digest `sha256:…`, stored as 32 bytes because there are two for each tenant.
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

/// Container states: Docker's (the Engine API's `ContainerState.Status`), and `absent` for no container.
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

/// A container's state, in few bytes because there are two for each tenant: a known word is its place among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerState(Word);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    Known(u8),
    /// From a Docker that is newer than this program.
    Other(Box<str>),
}

impl ContainerState {
    /// The word that stands for it.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Word::Known(place) => STATES.get(usize::from(*place)).copied().unwrap_or_default(),
            Word::Other(word) => word,
        }
    }
}

impl From<&str> for ContainerState {
    fn from(word: &str) -> Self {
        let mut places = (0_u8..).zip(STATES);
        Self(match places.find(|(_, known)| *known == word) {
            Some((place, _)) => Word::Known(place),
            None => Word::Other(word.into()),
        })
    }
}

impl PartialEq<str> for ContainerState {
    fn eq(&self, word: &str) -> bool {
        self.as_str() == word
    }
}

/// Which of a tenant's containers. Names of the usual two follow from the tenant's and are not kept: a fleet reports a hundred
/// thousand of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The one that the tenant's plan has for this.
    Its(Role),
    /// A leftover, with its name in Docker.
    Leftover(Box<str>),
}

impl Which {
    /// The tenant's container of this name in Docker. Makes no text of a usual name: it is asked for each container of each report.
    pub fn of(tenant: &TenantName, container: &str) -> Self {
        match container.split_once('_') {
            Some(("odoo", of)) if of == tenant.as_str() => Self::Its(Role::Odoo),
            Some(("postgres", of)) if of == tenant.as_str() => Self::Its(Role::Postgres),
            _ => Self::Leftover(container.into()),
        }
    }

    /// Its name in Docker, such as `odoo_alfa`.
    pub fn name(&self, tenant: &TenantName) -> String {
        match self {
            Self::Its(Role::Odoo) => tenant.odoo_container(),
            Self::Its(Role::Postgres) => tenant.postgres_container(),
            Self::Leftover(name) => name.as_ref().to_owned(),
        }
    }
}

/// One of a tenant's containers, as its host sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerReport {
    /// Which of them it is.
    pub which: Which,
    /// Docker's name for its state, or `absent`.
    pub state: ContainerState,
    /// Whether it passes its health check.
    pub healthy: bool,
    /// Restarts by Docker since it was created.
    pub restarts: u32,
    /// How often the kernel's OOM killer hit it since the agent began to watch.
    pub oom_kills: u32,
    /// Digest of its image, where Docker knows one.
    pub image_digest: Option<ImageDigest>,
    /// Exit code of its last run.
    pub exit_code: i32,
    /// When it was last started.
    pub started_at: Option<UnixMs>,
}

/// What a tenant uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU use of both containers, thousandths of one CPU.
    pub cpu_millis: u32,
    /// Memory use of both containers, bytes.
    pub memory_bytes: u64,
    /// Disk use of its volumes, bytes; 0: not measured.
    pub disk_bytes: u64,
}

/// Visitors' load on a tenant; see `isyone.v1.Traffic`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Requests that its Odoo answered, per minute.
    pub requests_per_minute: u32,
    /// Of these, responses with status 500 and above.
    pub errors_per_minute: u32,
    /// 95th percentile of response time, milliseconds; 0 without requests.
    pub latency_p95_ms: u32,
    /// Open websockets.
    pub websockets: u32,
    /// Users with a request within the last hour.
    pub active_users: u32,
    /// When a user was last active; 0: never; `None` when its Odoo does not tell.
    pub last_active_at: Option<UnixMs>,
    /// Mails that its Odoo could not send, and has given up; `None` when it does not tell.
    pub mails_failed: Option<u16>,
}

/// What a tenant comes close to the end of, in few bytes because each tenant has one; see `isyone.v1.Strain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Strain {
    /// Of its workers' time, what is taken; `None` when its Odoo does not tell.
    pub busy_permille: Option<u16>,
    /// Requests that waited for a connection to the database; `None` when its Odoo does not tell.
    pub waits_per_minute: Option<u16>,
    /// Memory in use, of its limit.
    pub memory_permille: u16,
    /// How often it was held back for want of CPU.
    pub throttled_permille: u16,
}

/// What must come before a further attempt of a host can mend what is wrong. One byte: each tenant has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stuck {
    /// Nothing, or its agent does not say.
    #[default]
    No,
    /// A person must act.
    Blocked,
    /// Another request: what was asked for at its creation cannot be had, and nothing of it has run.
    Unfit,
}

impl Stuck {
    /// As agents say it: one that cannot have what was asked for is blocked, too.
    pub fn of(blocked: bool, unfit: bool) -> Self {
        match (unfit, blocked) {
            (true, _) => Self::Unfit,
            (false, true) => Self::Blocked,
            (false, false) => Self::No,
        }
    }
}

/// A host's report on one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantReport {
    /// The tenant's name.
    pub name: TenantName,
    /// Identity of the tenant; a tenant created again under the same name gets another.
    pub uid: Uuid,
    /// Epoch of the placement that the host carries out.
    pub epoch: u64,
    /// The tenant's plan generation that this report is about.
    pub generation: u64,
    /// How far the host is with that plan.
    pub progress: TenantProgress,
    /// What is wrong, for people; empty when all is well.
    pub message: Box<str>,
    /// Whether a further attempt can mend what is wrong.
    pub stuck: Stuck,
    /// Its containers, including leftovers.
    pub containers: Box<[ContainerReport]>,
    /// What it uses; `None` until its host has measured it.
    pub usage: Option<Usage>,
    /// Its visitors' load; `None` until its host has measured it.
    pub traffic: Option<Traffic>,
    /// What it is short of; `None` until its host has measured it, and from agents that do not.
    pub strain: Option<Strain>,
    /// The operation that `steps` belongs to.
    pub operation: Option<Uuid>,
    /// Steps of that operation so far.
    pub steps: Box<[Step]>,
    /// Whether nothing is left of it on the host.
    pub absent: bool,
    /// Duration of the last health check, milliseconds; 0 when it failed.
    pub health_latency_ms: u32,
    /// How often the records of its volumes were gone from Docker and have been put back, as its host counts.
    pub volume_repairs: u32,
    /// Modules that the installation of an app has left behind, which was cut off; 0 from agents that do not look.
    pub modules_cut_off: u16,
    /// How many installations that were cut off have been finished, as its host counts.
    pub installs_finished: u32,
    /// For how long its callers have been held for a move by the time this was said, milliseconds; 0 where they are not, and from agents
    /// that do not say. Attempts after which they were served again do not count.
    pub held_ms: u16,
    /// Its disk against its plan; `None` until its host has measured it, and from agents that do not.
    pub disk: Option<Disk>,
    /// Its backups; `None` where its plan has none, until its host has looked, and from agents that make none. In a box: most of a
    /// fleet's reports are kept without a change for minutes.
    pub backup: Option<Box<BackupReport>>,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobState {
    /// It waits for its turn.
    Waiting,
    /// It is under way.
    Running,
    /// The last attempt failed; it is tried again, from where it stopped.
    Retrying,
    /// It is done.
    Done,
    /// It failed, and trying again would not help.
    Failed,
}

/// How far a copy that is kept up is behind the one that lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    /// Of the write-ahead log.
    pub bytes: u64,
    /// So long ago it had all of the other one's log of then, milliseconds.
    pub ms: u64,
    /// So long ago the last pass over the files began, milliseconds.
    pub files_ms: u64,
    /// Tables whose content is in no log (UNLOGGED): they are empty once it takes over.
    pub unlogged: u32,
}

impl Behind {
    /// What is known of it so much later, when nobody has looked since.
    #[must_use]
    pub fn later(self, ms: u64) -> Self {
        Self {
            ms: self.ms.saturating_add(ms),
            files_ms: self.files_ms.saturating_add(ms),
            ..self
        }
    }
}

/// A host's report on one job that its plan names; see [`crate::plan::JobOrder`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobReport {
    /// Identity of the order.
    pub id: Uuid,
    /// How far it is.
    pub state: JobState,
    /// Bytes done so far.
    pub bytes_done: u64,
    /// Bytes to do altogether; 0 while that is not known.
    pub bytes_total: u64,
    /// For people: why it failed or is tried again; while it runs, what is unusual about how it goes. Empty otherwise.
    pub message: String,
    /// The snapshot that it made.
    pub backup: Option<Box<BackupMade>>,
    /// For programs, why a backup failed or is tried again.
    pub fault: Option<Fault>,
    /// Of a copy that is kept up with one that runs: how long the tenant would pause if it came over now, by its host's estimate,
    /// milliseconds. `None`: it is not that far.
    pub pause_ms: Option<u32>,
    /// How far such a copy is behind; `None`: it is not that far.
    pub behind: Option<Behind>,
    /// Such a copy is whole: its base backup has come, and all files of a pass. Never from agents of before.
    pub filled: bool,
    /// So long ago its host last let the one go on where the tenant lives, milliseconds: since that host's agent began at the latest.
    /// `None`: by its plan it lets nobody ([`crate::lease::Lease::Granted`]).
    pub granted_ms: Option<u64>,
    /// What it has found, where it proves a backup.
    pub proof: Option<Box<Proof>>,
}

impl JobReport {
    /// Of a job of which nothing is known but how far it is.
    pub fn new(id: Uuid, state: JobState) -> Self {
        Self {
            id,
            state,
            bytes_done: 0,
            bytes_total: 0,
            message: String::new(),
            backup: None,
            fault: None,
            pause_ms: None,
            behind: None,
            filled: false,
            granted_ms: None,
            proof: None,
        }
    }
}

/// Something on a host that was not as it must be, and is again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mended {
    /// What it was, such as `packet filter`.
    pub subject: Box<str>,
    /// When it was last mended, by the host's clock.
    pub at: UnixMs,
    /// What was found and done, for people.
    pub message: Box<str>,
}

/// How a host itself is, besides what it has and uses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostCondition {
    /// Docker does not answer, so what is known of its tenants is old. Never from agents that do not say.
    pub docker_away: bool,
    /// What its agent has mended by itself since it began, each subject once.
    pub mended: Vec<Mended>,
    /// The networks that the host uses now, without those of its tenants; `None`: as it said when it connected.
    pub networks: Option<Vec<Ipv4Net>>,
    /// That the disk of its tenants' data is full, in words; empty: it is not.
    pub full: Box<str>,
    /// What its doctor has found to be wrong, the worst first.
    pub findings: Vec<Finding>,
}

/// A host's report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostReport {
    /// What the host has and uses.
    pub resources: HostResources,
    /// What troubles the host: Docker that does not answer, limits that the kernel refuses; empty when nothing does.
    pub docker_error: String,
    /// Tenants that changed since the last report; all of them when `complete`.
    pub tenants: Vec<TenantReport>,
    /// Whether `tenants` has every tenant of the host. One that is missing is not absent: only its own report says that.
    pub complete: bool,
    /// All jobs of the plan.
    pub jobs: Vec<JobReport>,
    /// How the host itself is.
    pub condition: HostCondition,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_container_it_is_follows_from_its_name() {
        let alfa: TenantName = "alfa".parse().unwrap();
        let of = |container: &str| {
            let which = Which::of(&alfa, container);
            assert_eq!(which.name(&alfa), container);
            which
        };
        assert_eq!(of(&alfa.odoo_container()), Which::Its(Role::Odoo));
        assert_eq!(of(&alfa.postgres_container()), Which::Its(Role::Postgres));
        for other in [
            "",
            "odoo",
            "alfa",
            "odoo_",
            "odoo_alfa_init",
            "odoo_beta",
            "redis_alfa",
        ] {
            assert_eq!(of(other), Which::Leftover(other.into()));
        }
    }

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
        for word in STATES.into_iter().chain(["stuck", ""]) {
            let state = ContainerState::from(word);
            assert_eq!(state.as_str(), word);
            assert_eq!(matches!(state.0, Word::Known(_)), STATES.contains(&word));
        }
    }
}
