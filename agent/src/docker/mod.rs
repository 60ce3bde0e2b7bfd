//! What the agent needs of a container engine, as a small trait with plain types; bollard's stay in [`engine`].
//!
//! Not here: which containers there should be (stack, diff), and the in-memory engine for tests (fake_docker).

pub mod engine;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use isyone_proto::plan::UnixMs;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWrite;
use tonic::async_trait;

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

/// Why an engine call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DockerError {
    /// No answer: Docker is down, restarting, or hangs.
    #[error("Docker does not answer: {0}")]
    Unreachable(String),
    /// The thing is not there.
    #[error("{0}")]
    NotFound(String),
    /// The name is taken, or the thing is in use.
    #[error("{0}")]
    Conflict(String),
    /// Any other refusal, in the engine's words.
    #[error("{0}")]
    Refused(String),
    /// An image could not be fetched.
    #[error("image {image} cannot be pulled: {why}")]
    Pull {
        /// The reference.
        image: String,
        /// The registry's or engine's words.
        why: String,
    },
}

/// Short form.
pub type Result<T> = std::result::Result<T, DockerError>;

/// The engine and its machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineInfo {
    /// Product version, `20.10.24`.
    pub version: String,
    /// `/var/lib/docker`.
    pub root_dir: String,
    /// CPUs that containers can be given.
    pub cpus: u32,
}

/// An image that is present.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// `sha256:…` under which a registry knows it; the id when it comes from none.
    pub digest: String,
    /// `USER` of its configuration.
    pub user: String,
    /// Environment.
    pub env: Vec<String>,
    /// Labels.
    pub labels: HashMap<String, String>,
}

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

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What.
    pub source: MountSource,
    /// Where in the container.
    pub target: String,
}

/// A published TCP port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
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
    /// Its name.
    pub name: String,
    /// Image: a reference, or an id when the reference has moved on.
    pub image: String,
    /// Arguments; empty: the image's own.
    pub command: Vec<String>,
    /// Environment. Never a secret.
    pub env: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// The one network.
    pub network: String,
    /// Other names of it there.
    pub aliases: Vec<String>,
    /// Published ports.
    pub ports: Vec<Port>,
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

/// A container that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// Its name, without the slash.
    pub name: String,
    /// Engine's id.
    pub id: String,
    /// Docker's word: created, running, paused, restarting, exited, dead.
    pub state: String,
    /// Labels.
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
    /// Limits in force.
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

/// One line of a list of containers: cheap, for many at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerSummary {
    /// Its name.
    pub name: String,
    /// Docker's word.
    pub state: String,
    /// Tenant's name by label.
    pub tenant: String,
}

/// A network that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// CIDR.
    pub subnet: String,
    /// Labels.
    pub labels: HashMap<String, String>,
}

/// A volume that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volume {
    /// Directory on the engine's machine.
    pub mountpoint: String,
    /// Labels.
    pub labels: HashMap<String, String>,
}

/// One of our containers in a list: what can be had for many at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// Engine's id.
    pub id: String,
    /// Docker's word.
    pub state: String,
    /// Labels.
    pub labels: HashMap<String, String>,
    /// Id of the image it was made from.
    pub image_id: String,
    /// Address in its network.
    pub ip: Option<Ipv4Addr>,
}

/// What the engine has of networks, volumes and containers of ours: for looks at many tenants at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// All networks, by name.
    pub networks: HashMap<String, Network>,
    /// All volumes, by name.
    pub volumes: HashMap<String, Volume>,
    /// All containers with a tenant label, by name.
    pub containers: HashMap<String, Listed>,
}

/// A network or volume to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// What a finished command left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit code.
    pub code: i32,
    /// Standard output, cut at [`MAX_OUTPUT_BYTES`].
    pub stdout: Vec<u8>,
    /// Standard error, cut likewise.
    pub stderr: Vec<u8>,
}

/// Most bytes kept of a command's output or a container's last log lines.
pub const MAX_OUTPUT_BYTES: usize = 64 << 10;

/// Something happened to a container of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `start`, `die`, `oom`, `destroy` …
    pub action: String,
    /// Name of the container.
    pub container: String,
    /// Tenant's name by label.
    pub tenant: String,
}

/// Which log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogQuery {
    /// Go on with new ones.
    pub follow: bool,
    /// Lines from the end.
    pub tail: u32,
    /// Prefix with the time.
    pub timestamps: bool,
}

/// A piece of output: from standard error?, bytes.
pub type Chunk = (bool, Bytes);

/// An interactive command.
pub struct ExecSession {
    /// Engine's id of it.
    pub id: String,
    /// What it says.
    pub output: BoxStream<'static, Result<Chunk>>,
    /// What it hears.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
}

/// State of an exec.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExecState {
    /// Still there.
    pub running: bool,
    /// Exit code once it is not.
    pub code: i32,
    /// Process id on the host.
    pub pid: i32,
}

/// Tells how far a pull is, in percent.
pub type PullProgress<'a> = &'a (dyn Fn(u32) + Send + Sync);

/// The engine. All methods may be repeated; "already so" is success, except that making a container whose name is taken
/// is a [`DockerError::Conflict`].
#[async_trait]
pub trait Docker: Send + Sync + 'static {
    /// Version and machine.
    async fn info(&self) -> Result<EngineInfo>;
    /// An image, by reference or id.
    async fn image(&self, reference: &str) -> Result<Option<Image>>;
    /// Fetches an image.
    async fn pull(&self, reference: &str, progress: PullProgress<'_>) -> Result<()>;
    /// Contents of files of an image (no container is started).
    async fn image_files(&self, image: &str, paths: &[&str]) -> Result<HashMap<String, Vec<u8>>>;
    /// All containers with a tenant label.
    async fn list(&self) -> Result<Vec<ContainerSummary>>;
    /// All networks and volumes, ours or not, and all containers with a tenant label.
    async fn survey(&self) -> Result<Survey>;
    /// One container.
    async fn container(&self, name: &str) -> Result<Option<Container>>;
    /// Makes one.
    async fn create(&self, spec: &ContainerSpec) -> Result<()>;
    /// Starts it.
    async fn start(&self, name: &str) -> Result<()>;
    /// Stops it within `grace_s`, then hard.
    async fn stop(&self, name: &str, grace_s: u32) -> Result<()>;
    /// Waits for its end: the exit code.
    async fn wait(&self, name: &str) -> Result<i32>;
    /// Removes it, running or not; named volumes stay.
    async fn remove(&self, name: &str) -> Result<()>;
    /// Changes limits in flight.
    async fn update(&self, name: &str, limits: &Limits) -> Result<()>;
    /// A network.
    async fn network(&self, name: &str) -> Result<Option<Network>>;
    /// Makes one.
    async fn create_network(&self, network: &Named, subnet: &str) -> Result<()>;
    /// Removes one; gone already is fine.
    async fn remove_network(&self, name: &str) -> Result<()>;
    /// A volume.
    async fn volume(&self, name: &str) -> Result<Option<Volume>>;
    /// Makes one.
    async fn create_volume(&self, volume: &Named) -> Result<Volume>;
    /// Removes one; gone already is fine.
    async fn remove_volume(&self, name: &str) -> Result<()>;
    /// Runs a command to its end, feeding it `stdin`.
    async fn exec(&self, container: &str, command: &[String], stdin: Vec<u8>)
    -> Result<ExecOutput>;
    /// The end of a container's log, for error texts.
    async fn log_tail(&self, name: &str, lines: u32) -> Result<String>;
    /// Events of our containers from now on; ends when the connection does.
    async fn events(&self) -> Result<BoxStream<'static, Result<Event>>>;
    /// A container's log.
    async fn logs(&self, name: &str, query: LogQuery) -> Result<BoxStream<'static, Result<Chunk>>>;
    /// Starts an interactive command.
    async fn exec_session(
        &self,
        container: &str,
        command: &[String],
        tty: Option<(u16, u16)>,
    ) -> Result<ExecSession>;
    /// Changes its terminal's size (columns, rows).
    async fn exec_resize(&self, id: &str, size: (u16, u16)) -> Result<()>;
    /// How it is.
    async fn exec_state(&self, id: &str) -> Result<ExecState>;
}

/// Whether the programs inside answer.
#[async_trait]
pub trait Probe: Send + Sync + 'static {
    /// `/web/health` of Odoo: milliseconds it took, or why not.
    async fn odoo(&self, odoo: &Container) -> std::result::Result<u32, String>;
    /// Whether the process that Odoo has for websockets, when it has workers, takes connections.
    async fn websockets(&self, odoo: &Container) -> std::result::Result<(), String>;
    /// A start-up exchange with PostgreSQL.
    async fn postgres(&self, postgres: &Container) -> std::result::Result<(), String>;
}
