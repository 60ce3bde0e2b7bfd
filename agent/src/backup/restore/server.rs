//! The PostgreSQL that recovers a restored database, and programs of its that look at the files: for as long as that takes, without a
//! network. A trait, so that tests have them without an engine.
//!
//! Not here: what it is asked (recover), its settings (plan::recovery).

use std::{path::PathBuf, sync::Arc, time::Duration};

use isyone_backup::{Stop, source::Producer};
use isyone_proto::backup::Fault;
use tokio::time::{Instant, sleep, timeout};
use tonic::async_trait;

use super::{
    super::{producer::Program, words::Problem},
    recover::OF_HOST,
};
use crate::{
    docker::{Docker, DockerError, POSTGRES_USER},
    host::Host,
    plan::{
        container::{Container, ContainerSpec},
        facts::ImageFacts,
        recovery::{Cell, Extent, Look, Purpose},
        stack::POSTGRES_GRACE_S,
    },
};

/// The last of what it says that is looked at.
const LOG_LINES: u32 = 200;
/// How often a program is looked at, and how long one may take: its own limit, and some time to start.
const LOOK: Duration = Duration::from_millis(200);
const LONGEST_PROGRAM: Duration = Duration::from_secs(2 * 3_600 + 120);
/// How long the engine may take to remove it.
const REMOVE: Duration = Duration::from_secs(60);

/// What it works on.
#[derive(Debug, Clone)]
pub struct Launch {
    pub purpose: Purpose,
    /// Of the tenant.
    pub memory_bytes: u64,
    pub image: ImageFacts,
    pub volume: PathBuf,
    /// The segments.
    pub log: PathBuf,
    pub extent: Extent,
}

impl Launch {
    fn cell(&self) -> Cell<'_> {
        Cell {
            purpose: &self.purpose,
            image: &self.image,
            memory_bytes: self.memory_bytes,
            volume: self.volume.display().to_string(),
            log: self.log.display().to_string(),
        }
    }
}

/// Starts them.
#[async_trait]
pub trait Servers: Send + Sync + 'static {
    /// One at a time on a volume: what an attempt before has left is removed first.
    async fn start(&self, launch: &Launch) -> Result<Box<dyn Server>, Problem>;
    /// Looks at the files of a cluster that no PostgreSQL uses: how the program has ended, and its last words.
    async fn look(
        &self,
        launch: &Launch,
        look: Look,
        stop: &Stop,
    ) -> Result<(i32, String), Problem>;
    /// Removes whatever still runs for this.
    async fn clear(&self, purpose: &Purpose) -> Result<(), Problem>;
}

/// One that runs, until it is stopped or dropped.
#[async_trait]
pub trait Server: Send + Sync {
    /// Its last words, once it has ended by itself.
    async fn ended(&self) -> Result<Option<String>, Problem>;
    /// What it has said so far, the last of it.
    async fn words(&self) -> Result<String, Problem>;
    /// Runs a client beside it, which may be silent for so long.
    async fn run(
        &self,
        words: Vec<String>,
        silence: Duration,
        stop: &Stop,
    ) -> Result<Box<dyn Producer>, Problem>;
    /// Ends it as it should end, and waits for that.
    async fn stop(&self) -> Result<(), Problem>;
}

/// In containers of this host.
pub struct ContainerServers(pub Arc<Host>);

impl ContainerServers {
    /// Removes what an agent that died has left of whatever it was restoring: nobody else would.
    pub async fn sweep(&self) -> Result<(), DockerError> {
        for container in self.0.docker.list().await? {
            // Only the one-off's own name: the label alone may be anybody's.
            let is_ours = container
                .name
                .strip_prefix("postgres_")
                .and_then(|rest| rest.strip_suffix("_restore"))
                == Some(container.tenant.as_str());
            if is_ours && !container.tenant.is_empty() {
                tracing::warn!(
                    tenant = container.tenant,
                    "a restore had left its PostgreSQL"
                );
                self.0.docker.remove(&container.name).await?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Servers for ContainerServers {
    async fn start(&self, launch: &Launch) -> Result<Box<dyn Server>, Problem> {
        let spec = launch.cell().server(launch.extent);
        Ok(Box::new(self.run(&spec).await?))
    }

    async fn look(
        &self,
        launch: &Launch,
        look: Look,
        stop: &Stop,
    ) -> Result<(i32, String), Problem> {
        let program = self.run(&launch.cell().program(look)).await?;
        let (docker, begun) = (&self.0.docker, Instant::now());
        loop {
            let container = docker.container(&program.id).await?;
            match container {
                Some(container) if !container.is_up() => {
                    let said = docker.log_tail(&program.id, LOG_LINES).await?;
                    return Ok((container.exit_code, said));
                }
                Some(_) if stop.is_stopped() => return Err(Problem::stopped()),
                Some(_) if begun.elapsed() < LONGEST_PROGRAM => sleep(LOOK).await,
                _ => {
                    let why = "a program of PostgreSQL's that looks at the files did not end";
                    return Err(Problem::new(Fault::Other, why));
                }
            }
        }
    }

    async fn clear(&self, purpose: &Purpose) -> Result<(), Problem> {
        for name in [purpose.server(), purpose.program()] {
            self.0.docker.remove(&name).await?;
        }
        Ok(())
    }
}

impl ContainerServers {
    async fn run(&self, spec: &ContainerSpec) -> Result<Contained, Problem> {
        let docker = self.0.docker.clone();
        docker.remove(&spec.name).await?;
        docker.create(spec).await.map_err(refused)?;
        let made = docker.container(&spec.name).await?;
        let id = made.map(|container| container.id).unwrap_or_default();
        // From here on it is removed whatever happens; by its id, because the next one has the same name.
        let contained = Contained { docker, id };
        contained
            .docker
            .start(&contained.id)
            .await
            .map_err(refused)?;
        Ok(contained)
    }
}

/// Somebody or the kernel has ended it: that says nothing of what it was given.
fn was_killed(container: &Container) -> bool {
    // 128 and the signal: KILL, TERM.
    container.is_out_of_memory || matches!(container.exit_code, 137 | 143)
}

fn refused(error: DockerError) -> Problem {
    tracing::warn!("PostgreSQL does not start to recover a backup: {error}");
    match error {
        DockerError::Unreachable(_) => error.into(),
        _ => Problem::new(
            Fault::Other,
            "Docker does not start the PostgreSQL that recovers it; the agent's log says why",
        ),
    }
}

struct Contained {
    docker: Arc<dyn Docker>,
    id: String,
}

#[async_trait]
impl Server for Contained {
    async fn ended(&self) -> Result<Option<String>, Problem> {
        let container = self.docker.container(&self.id).await?;
        match container {
            Some(container) if container.is_up() => Ok(None),
            Some(container) if was_killed(&container) => Err(Problem::new(Fault::NotNow, OF_HOST)),
            Some(_) => Ok(Some(self.docker.log_tail(&self.id, LOG_LINES).await?)),
            None => Err(Problem::new(
                Fault::Other,
                "somebody has removed the PostgreSQL that recovers it",
            )),
        }
    }

    async fn words(&self) -> Result<String, Problem> {
        Ok(self.docker.log_tail(&self.id, LOG_LINES).await?)
    }

    async fn run(
        &self,
        words: Vec<String>,
        silence: Duration,
        stop: &Stop,
    ) -> Result<Box<dyn Producer>, Problem> {
        let program = Program {
            docker: self.docker.clone(),
            container: self.id.clone(),
            user: POSTGRES_USER,
            words,
            silence,
        };
        Ok(Box::new(program.start(stop.clone()).await?))
    }

    async fn stop(&self) -> Result<(), Problem> {
        self.docker.stop(&self.id, POSTGRES_GRACE_S).await?;
        let container = self.docker.container(&self.id).await?;
        match container {
            Some(container) if !container.is_up() && container.exit_code == 0 => Ok(()),
            _ => Err(Problem::new(
                Fault::Other,
                "the PostgreSQL that recovered it did not end as it should",
            )),
        }
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        let (docker, id) = (self.docker.clone(), self.id.clone());
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return; // the agent ends: the next one sweeps
        };
        drop(runtime.spawn(async move {
            if timeout(REMOVE, docker.remove(&id)).await.is_err() {
                tracing::warn!(
                    "container {id}, which has recovered a backup, could not be removed in time"
                );
            }
        }));
    }
}
