//! What the agent needs of a container engine, as a small trait with plain types; bollard's stay in [`engine`].
//!
//! Not here: which containers there should be (plan), and the in-memory engine for tests (testing).

pub mod engine;

use std::{collections::HashMap, net::Ipv4Addr, pin::Pin};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::io::AsyncWrite;
use tonic::async_trait;

use crate::plan::container::{Container, ContainerSpec, Limits, NamedSpec, Network, Volume};

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
        image: String,
        /// The registry's or engine's words.
        why: String,
    },
}

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
    pub env: Vec<String>,
    pub labels: HashMap<String, String>,
}

/// One line of a list of containers: cheap, for many at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerSummary {
    pub name: String,
    /// Docker's word.
    pub state: String,
    /// Tenant's name by label.
    pub tenant: String,
}

/// One of our containers in a list: what can be had for many at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListedContainer {
    /// Engine's id.
    pub id: String,
    /// Docker's word.
    pub state: String,
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
    pub containers: HashMap<String, ListedContainer>,
}

/// What a finished command left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
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
pub struct ContainerEvent {
    /// `start`, `die`, `oom`, `destroy` …
    pub action: String,
    /// Name of the container.
    pub container: String,
    /// Tenant's name by label.
    pub tenant: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogQuery {
    /// Go on with new lines as they come.
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
    /// What the command writes.
    pub output: BoxStream<'static, Result<Chunk>>,
    /// Input for the command.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
}

/// State of an exec.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExecState {
    /// The command runs.
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
    /// The container of this name, if there is one.
    async fn container(&self, name: &str) -> Result<Option<Container>>;
    async fn create(&self, spec: &ContainerSpec) -> Result<()>;
    async fn start(&self, name: &str) -> Result<()>;
    /// Stops it within `grace_s`, then hard.
    async fn stop(&self, name: &str, grace_s: u32) -> Result<()>;
    /// Waits for its end: the exit code.
    async fn wait(&self, name: &str) -> Result<i32>;
    /// Removes it, running or not; named volumes stay.
    async fn remove(&self, name: &str) -> Result<()>;
    /// Changes limits in flight.
    async fn update(&self, name: &str, limits: &Limits) -> Result<()>;
    /// The network of this name, if there is one.
    async fn network(&self, name: &str) -> Result<Option<Network>>;
    async fn create_network(&self, network: &NamedSpec, subnet: &str) -> Result<()>;
    /// Removes one; gone already is fine.
    async fn remove_network(&self, name: &str) -> Result<()>;
    /// The volume of this name, if there is one.
    async fn volume(&self, name: &str) -> Result<Option<Volume>>;
    async fn create_volume(&self, volume: &NamedSpec) -> Result<Volume>;
    /// Removes one; gone already is fine.
    async fn remove_volume(&self, name: &str) -> Result<()>;
    /// Runs a command to its end, feeding it `stdin`.
    async fn exec(&self, container: &str, command: &[String], stdin: Vec<u8>)
    -> Result<ExecOutput>;
    /// The end of a container's log, for error texts.
    async fn log_tail(&self, name: &str, lines: u32) -> Result<String>;
    /// Events of our containers from now on; ends when the connection does.
    async fn events(&self) -> Result<BoxStream<'static, Result<ContainerEvent>>>;
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
    /// State of an interactive command.
    async fn exec_state(&self, id: &str) -> Result<ExecState>;
}
