//! What the agent needs from a container engine, as a small trait with plain types; bollard's types stay in [`engine`].
//!
//! Not here: which containers there should be (plan), and the in-memory engine for tests (testing).

pub mod engine;

use std::{collections::HashMap, net::Ipv4Addr, path::Path, pin::Pin};

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
    /// Any other refusal, with the engine's message.
    #[error("{0}")]
    Refused(String),
    /// An image could not be pulled.
    #[error("image {image} cannot be pulled: {why}")]
    Pull {
        image: String,
        /// Message of the registry or the engine.
        why: String,
    },
}

pub type Result<T> = std::result::Result<T, DockerError>;

/// The engine and its machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineInfo {
    /// Product version, such as `20.10.24`.
    pub version: String,
    /// Such as `/var/lib/docker`.
    pub root_dir: String,
    /// CPUs available to containers.
    pub cpus: u32,
    /// Containers run on while it is started anew.
    pub live_restore: bool,
    /// A container's users are others outside it (`userns-remap`).
    pub maps_users: bool,
    /// It runs as a user who is not root.
    pub rootless: bool,
    /// How it stores images and containers, such as `overlay2`.
    pub driver: String,
    /// Largest packet of its own network, as the daemon is told; `None`: there is no such network.
    pub mtu: Option<u16>,
}

impl EngineInfo {
    /// Why no tenant can run here, and what to do, in one sentence; `None`: they can.
    pub fn unfit(&self) -> Option<&'static str> {
        if self.maps_users {
            return Some(
                "Docker on this host maps users (`userns-remap`), which isyone does not support, because tenants' files would belong to \
                 other users than their containers have: remove it from /etc/docker/daemon.json and restart Docker",
            );
        }
        self.rootless.then_some(
            "Docker on this host is a rootless one, which isyone does not support, because tenants' networks and limits need root: install \
             the system's Docker, or name its socket (`isy-agent run --docker`)",
        )
    }
}

/// A local image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// `sha256:…` under which a registry knows it; the id when it comes from no registry.
    pub digest: String,
    /// `USER` of its configuration.
    pub user: String,
    pub env: Vec<String>,
    pub labels: HashMap<String, String>,
}

/// A line in a list of containers: cheap for many at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerSummary {
    pub name: String,
    /// Docker's name for the state.
    pub state: String,
    /// The tenant's name, from the label.
    pub tenant: String,
}

/// One of our containers in a list, with what the engine can list for many at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListedContainer {
    /// Engine's id.
    pub id: String,
    /// Docker's name for the state.
    pub state: String,
    pub labels: HashMap<String, String>,
    /// Id of the image it was made from.
    pub image_id: String,
    /// Address in its network.
    pub ip: Option<Ipv4Addr>,
}

/// The engine's networks, volumes and containers, for looks at many tenants at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// All networks, by name.
    pub networks: HashMap<String, Network>,
    /// All volumes, by name.
    pub volumes: HashMap<String, Volume>,
    /// All containers with a tenant label, by name.
    pub containers: HashMap<String, ListedContainer>,
}

/// Result of a finished command.
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
/// The system's user in PostgreSQL's images that owns its data. Commands in its containers run as it: a client's `\!` is
/// no way to root.
pub const POSTGRES_USER: &str = "postgres";
/// Likewise in Odoo's images, where their own configuration names no other.
pub const ODOO_USER: &str = "odoo";
/// A container's own root, for admins who ask for it. It has the container's capabilities, which are none but what
/// PostgreSQL's entrypoint needs.
pub const ROOT_USER: &str = "0";

/// An event of one of our containers, or the end of any volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineEvent {
    /// `start`, `die`, `oom`, `destroy` …
    pub action: String,
    /// Name of the container or volume.
    pub name: String,
    /// The tenant's name: from the container's label, or from the volume's name, which may be anybody's.
    pub tenant: String,
}

/// The tenant whose volume has this name, or an empty string.
pub fn tenant_of_volume(name: &str) -> &str {
    ["pgdata_", "odoo_data_"]
        .into_iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or_default()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogQuery {
    /// Continue with new lines as they come.
    pub follow: bool,
    /// Number of lines from the end.
    pub tail: u32,
    /// Prefix each line with its time.
    pub timestamps: bool,
}

/// A piece of output: whether it is from standard error, and its bytes.
pub type Chunk = (bool, Bytes);

/// An interactive command.
pub struct ExecSession {
    /// Engine's id of the command.
    pub id: String,
    /// What the command writes.
    pub output: BoxStream<'static, Result<Chunk>>,
    /// Input for the command.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
}

/// State of an exec.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExecState {
    /// Whether the command runs.
    pub running: bool,
    /// Exit code, once it does not run.
    pub code: i32,
    /// Process id on the host.
    pub pid: i32,
}

/// Called with the progress of a pull, in percent.
pub type PullProgress<'a> = &'a (dyn Fn(u32) + Send + Sync);

/// The engine. All methods may be repeated; "already so" is success, except that creating a container whose name is
/// taken is a [`DockerError::Conflict`].
#[async_trait]
pub trait Docker: Send + Sync + 'static {
    /// Whether it answers at all.
    async fn ping(&self) -> Result<()>;
    /// Version and machine.
    async fn info(&self) -> Result<EngineInfo>;
    /// An image, by reference or id.
    async fn image(&self, reference: &str) -> Result<Option<Image>>;
    /// Pulls an image.
    async fn pull(&self, reference: &str, progress: PullProgress<'_>) -> Result<()>;
    /// Contents of files in an image (starts no container).
    async fn image_files(&self, image: &str, paths: &[&str]) -> Result<HashMap<String, Vec<u8>>>;
    /// All containers with a tenant label.
    async fn list(&self) -> Result<Vec<ContainerSummary>>;
    /// All networks and volumes, ours or not, and all containers with a tenant label.
    async fn survey(&self) -> Result<Survey>;
    /// The container of this name, if there is one.
    async fn container(&self, name: &str) -> Result<Option<Container>>;
    async fn create(&self, spec: &ContainerSpec) -> Result<()>;
    async fn start(&self, name: &str) -> Result<()>;
    /// Stops it; kills it after `grace_s`.
    async fn stop(&self, name: &str, grace_s: u32) -> Result<()>;
    /// Waits until it ends; returns the exit code.
    async fn wait(&self, name: &str) -> Result<i32>;
    /// Removes it, running or not; named volumes stay.
    async fn remove(&self, name: &str) -> Result<()>;
    /// Changes limits of a running container.
    async fn update(&self, name: &str, limits: &Limits) -> Result<()>;
    /// Changes whether the engine starts a container that it finds stopped when it starts itself, or that ends.
    async fn update_restart(&self, name: &str, restart: bool) -> Result<()>;
    /// The network of this name, if there is one.
    async fn network(&self, name: &str) -> Result<Option<Network>>;
    async fn create_network(
        &self,
        network: &NamedSpec,
        subnet: &str,
        mtu: Option<u16>,
    ) -> Result<()>;
    /// Removes it; already gone is fine.
    async fn remove_network(&self, name: &str) -> Result<()>;
    /// The volume of this name, if there is one.
    async fn volume(&self, name: &str) -> Result<Option<Volume>>;
    /// Makes a volume: of Docker's own, or a record of `directory`, which must be there when a container starts. One
    /// that exists is returned as it is.
    async fn create_volume(&self, volume: &NamedSpec, directory: Option<&Path>) -> Result<Volume>;
    /// Removes it; already gone is fine.
    async fn remove_volume(&self, name: &str) -> Result<()>;
    /// Runs a command until it ends, feeding it `stdin`. `user`: whom it runs as, a name or number in the container. There
    /// is no default, so that nothing runs as root because nobody thought of it.
    async fn exec(
        &self,
        container: &str,
        user: &str,
        command: &[String],
        stdin: Vec<u8>,
    ) -> Result<ExecOutput>;
    /// The end of a container's log, for error texts.
    async fn log_tail(&self, name: &str, lines: u32) -> Result<String>;
    /// Events of our containers, and of volumes that are removed, from now on; ends when the connection ends.
    async fn events(&self) -> Result<BoxStream<'static, Result<EngineEvent>>>;
    /// A container's log.
    async fn logs(&self, name: &str, query: LogQuery) -> Result<BoxStream<'static, Result<Chunk>>>;
    /// Starts an interactive command; `user` as above.
    async fn exec_session(
        &self,
        container: &str,
        user: &str,
        command: &[String],
        tty: Option<(u16, u16)>,
    ) -> Result<ExecSession>;
    /// Changes the size of its terminal (columns, rows).
    async fn exec_resize(&self, id: &str, size: (u16, u16)) -> Result<()>;
    /// State of an interactive command.
    async fn exec_state(&self, id: &str) -> Result<ExecState>;
}
