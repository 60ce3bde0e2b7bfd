//! Containers, networks and volumes as plain data: what an engine is asked to make, and what it says is there.
//!
//! Not here: the engine (docker), and which of them a tenant has (stack).

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
};

use isyone_proto::plan::UnixMs;
use serde::{Deserialize, Serialize};

/// Label: name of the tenant.
pub const LABEL_TENANT: &str = "one.isy.tenant";
/// Label: uid of the tenant.
pub const LABEL_UID: &str = "one.isy.uid";
/// Label: `odoo`, `postgres` or `init`.
pub const LABEL_ROLE: &str = "one.isy.role";
/// Label: hash over what cannot be changed without making the container anew.
pub const LABEL_CONFIG_HASH: &str = "one.isy.config-hash";
/// Label of an image that only poses as Odoo or PostgreSQL: there is no database to fill.
pub const LABEL_STANDIN: &str = "one.isy.standin";

/// What can be changed on a living container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, swap included.
    pub memory_bytes: u64,
    /// Billionths of a CPU.
    pub nano_cpus: u64,
    /// Processes and threads.
    pub pids: u32,
}

/// Where a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A named volume.
    Volume(String),
    /// A file of the host, read-only.
    File(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub source: MountSource,
    /// Where in the container.
    pub target: String,
}

/// A published TCP port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Address of the host.
    pub host_ip: IpAddr,
    /// Port of the host.
    pub host: u16,
    /// Port of the container.
    pub container: u16,
}

/// A container to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub name: String,
    /// Image: a reference, or an id when the reference has moved on.
    pub image: String,
    /// Arguments; empty: the image's own.
    pub command: Vec<String>,
    /// Environment. Never a secret.
    pub env: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub mounts: Vec<Mount>,
    /// The one network.
    pub network: String,
    /// Other names of it there.
    pub aliases: Vec<String>,
    pub ports: Vec<PublishedPort>,
    /// Changeable limits.
    pub limits: Limits,
    /// `/dev/shm`.
    pub shm_bytes: Option<u64>,
    /// Capabilities kept; all others are dropped.
    pub cap_add: Vec<String>,
    /// Run a small init as process 1 that reaps orphans.
    pub init: bool,
    /// Seconds between the polite and the hard signal.
    pub stop_grace_s: u32,
    /// Restarted by the engine unless stopped on purpose.
    pub restart: bool,
}

/// A network or volume to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedSpec {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

/// A container that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// Its name, without the slash.
    pub name: String,
    /// Engine's id.
    pub id: String,
    /// Docker's word: created, running, paused, restarting, exited, dead.
    pub state: String,
    pub labels: HashMap<String, String>,
    /// Id of the image it was made from.
    pub image_id: String,
    /// Exit code of the last run.
    pub exit_code: i32,
    /// Restarts by the engine.
    pub restarts: u32,
    /// Start of the present or last run.
    pub started_ms: Option<UnixMs>,
    /// Address in its network.
    pub ip: Option<Ipv4Addr>,
    /// Process id of its process 1 on the host; 0 when not running.
    pub pid: i32,
    pub limits: Limits,
    /// Engine's error text of the last start.
    pub error: String,
}

impl Container {
    /// A label's value, or nothing.
    pub fn label(&self, key: &str) -> &str {
        self.labels.get(key).map_or("", String::as_str)
    }
    /// Its process is there (or comes back by itself).
    pub fn is_up(&self) -> bool {
        matches!(self.state.as_str(), "running" | "restarting" | "paused")
    }
}

/// A network that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Its range, in CIDR form.
    pub subnet: String,
    pub labels: HashMap<String, String>,
}

/// A volume that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volume {
    /// Directory on the engine's machine.
    pub mountpoint: String,
    pub labels: HashMap<String, String>,
}
