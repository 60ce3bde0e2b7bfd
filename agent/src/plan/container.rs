//! Containers, networks and volumes as plain data: what an engine is asked to create, and what it says exists.
//!
//! Not here: the engine (docker), and which of them a tenant has (stack).

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
};

use isyone_proto::plan::UnixMs;
use serde::{Deserialize, Serialize};

/// Label: the tenant's name.
pub const LABEL_TENANT: &str = "one.isy.tenant";
/// Label: the tenant's uid.
pub const LABEL_UID: &str = "one.isy.uid";
/// Label: `odoo`, `postgres`, `init`, `finish`, `neutralise`, `restore` or `proof`.
pub const LABEL_ROLE: &str = "one.isy.role";
/// Label: hash over what cannot change without a new container.
pub const LABEL_CONFIG_HASH: &str = "one.isy.config-hash";
/// Label: the reference of the image that it was made of. The image itself is named by id.
pub const LABEL_IMAGE: &str = "one.isy.image";
/// Label: that id. What an engine says a container is made of is not compared with what it says an image is.
pub const LABEL_IMAGE_ID: &str = "one.isy.image-id";
/// Label: whose the published ports of an Odoo container are. Without it they are Docker's.
pub const LABEL_PORTS: &str = "one.isy.ports";
/// Value of [`LABEL_PORTS`]: the container has none, the host's relay listens.
pub const PORTS_RELAYED: &str = "relay";
/// Label: how a PostgreSQL container has its settings. Without it, it is of an agent that knew none of its files.
pub const LABEL_SETTINGS: &str = "one.isy.settings";
/// Value of [`LABEL_SETTINGS`]: they are in files.
pub const SETTINGS_IN_FILES: &str = "files";
/// Label of an image that only poses as Odoo or PostgreSQL: there is no database to fill.
pub const LABEL_STANDIN: &str = "one.isy.standin";

/// What can be changed on a running container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, including swap.
    pub memory_bytes: u64,
    /// Billionths of a CPU.
    pub nano_cpus: u64,
    /// Processes and threads.
    pub pids: u32,
}

/// Files that one process may have open where the plan does not say: more than Odoo and PostgreSQL need, far less than would
/// be felt on the host. What every engine can give.
pub const DEFAULT_NOFILE: u32 = 20_000;

/// Limits on reading from and writing to one device; 0: none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLimits {
    /// Its path on the host.
    pub device: String,
    /// Bytes per second.
    pub read_bps: u64,
    /// Bytes per second.
    pub write_bps: u64,
    /// Operations per second.
    pub read_iops: u32,
    /// Operations per second.
    pub write_iops: u32,
}

/// Where a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A named volume.
    Volume(String),
    /// A file or directory on the host, read-only.
    File(String),
    /// A directory on the host that the container writes.
    Directory(String),
    /// What the image itself has there, read-only: whatever was written there would vanish with the container.
    Image,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub source: MountSource,
    /// Path in the container.
    pub target: String,
}

/// A published TCP port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Address on the host.
    pub host_ip: IpAddr,
    /// Port on the host.
    pub host: u16,
    /// Port in the container.
    pub container: u16,
}

/// A container to create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub name: String,
    /// A reference; an id once it is settled which image that means.
    pub image: String,
    /// Arguments; if empty, the image's own.
    pub command: Vec<String>,
    /// Whom it runs as, in numbers; empty: as the image says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Never contains a secret.
    pub env: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub mounts: Vec<Mount>,
    /// The only network it is in.
    pub network: String,
    /// Other names for it in that network.
    pub aliases: Vec<String>,
    pub ports: Vec<PublishedPort>,
    /// Limits that can be changed later.
    pub limits: Limits,
    /// Size of `/dev/shm`.
    pub shm_bytes: Option<u64>,
    /// Capabilities to keep; all others are dropped.
    pub cap_add: Vec<String>,
    /// Run a small init as process 1 that reaps orphans.
    pub init: bool,
    /// Seconds between the stop signal and SIGKILL.
    pub stop_grace_s: u32,
    /// The engine restarts it unless it was stopped on purpose.
    pub restart: bool,
    /// Files that one process may have open, if the plan says; else [`DEFAULT_NOFILE`] of containers made from now on. Only
    /// what a plan says is part of the container's configuration: no container is made anew for a default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nofile: Option<u32>,
    /// Limits on the device that tenants' data is on, if the plan says any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceLimits>,
}

/// A network or volume to create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedSpec {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

/// A container that exists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// Its name, without the slash.
    pub name: String,
    /// Engine's id.
    pub id: String,
    /// Docker's name for the state: created, running, paused, restarting, exited, dead.
    pub state: String,
    pub labels: HashMap<String, String>,
    /// Whom its process 1 begins as, as the image names it; empty: root. Only where the engine was asked for this very
    /// container.
    pub user: String,
    /// Id of the image it was made from.
    pub image_id: String,
    /// Exit code of the last run.
    pub exit_code: i32,
    /// The kernel has ended a process of its last run for want of memory.
    pub is_out_of_memory: bool,
    /// Restarts by the engine.
    pub restarts: u32,
    /// Start of the current or last run.
    pub started_ms: Option<UnixMs>,
    /// Address in its network.
    pub ip: Option<Ipv4Addr>,
    /// Pid on the host of its process 1; 0 when it is not running.
    pub pid: i32,
    pub limits: Limits,
    /// Directories of the volumes that it may write and that are nobody's by name: the engine makes one for each `VOLUME` of an
    /// image that nothing else is mounted on.
    pub unnamed: Vec<String>,
    /// Engine's error text from the last start.
    pub error: String,
}

impl Container {
    /// Value of a label, or an empty string.
    pub fn label(&self, key: &str) -> &str {
        self.labels.get(key).map_or("", String::as_str)
    }
    /// Id of the image that it was made of, as it was asked for; in the engine's words where an agent before made it.
    pub fn made_of(&self) -> &str {
        match self.label(LABEL_IMAGE_ID) {
            "" => &self.image_id,
            id => id,
        }
    }
    /// Whether its process runs (or comes back by itself).
    pub fn is_up(&self) -> bool {
        matches!(self.state.as_str(), "running" | "restarting" | "paused")
    }
}

/// Docker's option for a network's largest packet.
pub const MTU_OPTION: &str = "com.docker.network.driver.mtu";

/// A network that exists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// By which Docker names its bridge.
    pub id: String,
    /// Its address range, in CIDR notation.
    pub subnet: String,
    pub labels: HashMap<String, String>,
    /// Its largest packet, where it was made with one.
    pub mtu: Option<u16>,
}

/// A volume that exists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volume {
    /// Docker's own directory for it; its data is there unless there is a `device`.
    pub mountpoint: String,
    /// The directory that it is a record of, which Docker mounts on `mountpoint` while a container uses it.
    pub device: Option<String>,
    /// Of another driver, or with other options: only Docker knows where its data is, and it stays there.
    pub opaque: bool,
    pub labels: HashMap<String, String>,
}

impl Volume {
    /// The directory on the engine's machine that holds its data.
    pub fn path(&self) -> &str {
        self.device.as_deref().unwrap_or(&self.mountpoint)
    }
}
