//! The programs of a fleet: start, orderly stop, kill, and restart with what they left behind.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use isyone_agent::{
    agent,
    base::config::DataDir,
    host::{Pace, firewall::Applier},
    jobs::fetch::Reserve,
    testing::fake_docker::FakeDocker,
};
use isyone_coordinator::{
    base::{
        config::Config,
        secrets::{KEY_FILE, Sealer},
    },
    init::{self, DATABASE_FILE},
    rebuild,
    server::{self, Parts, Running, StartError},
    writer::{
        SystemSource,
        store::{Store as _, memory::MemoryStore, sqlite::SqliteStore},
    },
};
use isyone_fleet::{
    state::State,
    written::{Contents, RecordValue, Write},
};
use tokio::{runtime::Runtime, sync::watch};

use super::runtime;

/// Time for a killed program's blocking calls (file writes) to return.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// Time for a port to become free again: other programs may hold it for a moment.
const PORT_PATIENCE: Duration = Duration::from_secs(20);

/// A coordinator, and a store that outlives it.
pub struct Coordinator {
    config: Config,
    /// Its disk; clones share the contents.
    pub store: MemoryStore,
    life: Option<(Runtime, Running)>,
}

/// A store with these contents.
pub fn store_of(contents: Contents) -> MemoryStore {
    let store = MemoryStore::default();
    let records = contents
        .records
        .into_iter()
        .map(|record| Write::Put(RecordValue::Copy(record)));
    let events = contents
        .events
        .into_iter()
        .map(|event| Write::Event(Arc::new(event)));
    store
        .apply(&records.chain(events).collect::<Vec<_>>())
        .expect("nothing fails yet");
    store
}

impl Coordinator {
    /// `init`, then `run`. The database made by `init` is copied into memory, where commits can be told to fail.
    pub(super) fn start(config: Config, context: &Path, client: &Runtime) -> Self {
        let store = client.block_on(async {
            let admin = "admin".parse().expect("a name");
            init::init(&config, &admin, context)
                .await
                .expect("a coordinator can be made");
            let mut made = SqliteStore::open(&config.data_dir.join(DATABASE_FILE))
                .await
                .expect("it opens");
            store_of(made.load().await.expect("it reads back"))
        });
        let mut coordinator = Self {
            config,
            store,
            life: None,
        };
        coordinator.run();
        coordinator
    }

    /// Uses an existing data directory and store; does not start.
    pub(super) fn over(config: Config, store: MemoryStore) -> Self {
        Self {
            config,
            store,
            life: None,
        }
    }

    /// Starts it; on a restart, with the same ports.
    pub fn run(&mut self) {
        assert!(self.life.is_none(), "it runs already");
        let runtime = runtime("coordinator");
        let begin = Instant::now();
        let running = loop {
            let sealer =
                Sealer::load(&self.config.data_dir.join(KEY_FILE), None).expect("the key is there");
            let parts = Parts {
                store: Box::new(self.store.clone()),
                sealer,
            };
            match runtime.block_on(server::start(self.config.clone(), parts, SystemSource)) {
                Ok(running) => break running,
                Err(StartError::Listen { .. }) if begin.elapsed() < PORT_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => panic!("the coordinator does not start: {error}"),
            }
        };
        let listen = &mut self.config.listen;
        (listen.grpc, listen.enroll, listen.http) = (running.grpc, running.enroll, running.http);
        self.life = Some((runtime, running));
    }

    /// What `isy-coordinator raise-incarnation` does to a coordinator that does not run.
    pub fn raise_incarnation(&mut self) {
        assert!(self.life.is_none(), "it runs");
        let (mut store, mut source) = (self.store.clone(), SystemSource);
        let settings = self.config.settings();
        let raise = rebuild::raise_incarnation(&mut store, &settings, &mut source);
        let raised = runtime("rebuild").block_on(raise).expect("it is raised");
        assert_eq!(raised.to, raised.from + 1);
    }

    /// Stops it as SIGTERM does.
    pub fn stop(&mut self) {
        let Some((runtime, running)) = self.life.take() else {
            return;
        };
        runtime.block_on(running.stop());
        runtime.shutdown_timeout(KILL_PATIENCE);
    }

    /// Stops it as SIGKILL does: what is not in the store is lost.
    pub fn kill(&mut self) {
        let Some((runtime, running)) = self.life.take() else {
            return;
        };
        runtime.shutdown_timeout(KILL_PATIENCE);
        drop(running);
    }

    pub fn is_up(&self) -> bool {
        self.life.is_some()
    }

    /// The coordinator's shared parts. Panics while it is down.
    pub fn running(&self) -> &server::Running {
        &self.life.as_ref().expect("the coordinator runs").1
    }

    /// The newest snapshot. Panics while it is down.
    pub fn snapshot(&self) -> Arc<State> {
        self.running().handle.snapshot()
    }

    pub fn grpc(&self) -> SocketAddr {
        self.config.listen.grpc
    }

    pub fn enroll(&self) -> SocketAddr {
        self.config.listen.enroll
    }

    /// Address of the HTTP port for routes and metrics.
    pub fn http(&self) -> SocketAddr {
        self.config.listen.http
    }
}

/// A host's agent, and a Docker that outlives it.
pub struct Agent {
    pub name: String,
    pub data: DataDir,
    pub docker: Arc<FakeDocker>,
    pub pace: Pace,
    /// Where it serves other agents; not at all at first.
    pub peer: agent::PortAddress,
    /// What it puts its packet filter in force with; nothing at first.
    pub firewall: Option<Applier>,
    life: Option<(Runtime, agent::Agent)>,
}

impl Agent {
    /// Uses a directory that has joined; does not start.
    pub fn new(name: &str, data: DataDir, docker: Arc<FakeDocker>) -> Self {
        Self {
            name: name.to_owned(),
            data,
            docker,
            pace: Pace::hasty(),
            peer: agent::PortAddress::Off,
            firewall: None,
            life: None,
        }
    }

    pub fn start(&mut self) {
        assert!(self.life.is_none(), "it runs already");
        let runtime = runtime(&self.name);
        let parts = agent::AgentParts {
            data: self.data.clone(),
            docker: self.docker.clone(),
            probe: self.docker.clone(),
            pace: self.pace.clone(),
            tenants_dir: None,
            http: None,
            metrics: agent::PortAddress::Off,
            peer: self.peer,
            copy_rate_bytes_per_s: 0,
            copy_reserve: Reserve::NONE,
            follows: false,
            relay: None,
            firewall: self.firewall.clone(),
        };
        let started = runtime.block_on(async { agent::Agent::start(parts) });
        self.life = Some((runtime, started.expect("the agent starts")));
    }

    /// Stops it as SIGTERM does; tenants keep running.
    pub fn stop(&mut self) {
        let Some((runtime, agent)) = self.life.take() else {
            return;
        };
        runtime.block_on(agent.stop());
        runtime.shutdown_timeout(KILL_PATIENCE);
    }

    /// Stops it as SIGKILL does; tenants keep running.
    pub fn kill(&mut self) {
        let Some((runtime, agent)) = self.life.take() else {
            return;
        };
        runtime.shutdown_timeout(KILL_PATIENCE);
        drop(agent);
    }

    pub fn is_up(&self) -> bool {
        self.life.is_some()
    }

    /// The running agent. Panics while it is down.
    pub fn agent(&self) -> &agent::Agent {
        &self.life.as_ref().expect("the agent runs").1
    }

    /// Signals whenever its session begins or ends. Panics while it is down.
    pub fn watch(&self) -> watch::Receiver<bool> {
        let mut connected = self.agent().connected.clone();
        connected.mark_unchanged();
        connected
    }

    /// Whether it has a session.
    pub fn is_connected(&self) -> bool {
        self.life
            .as_ref()
            .is_some_and(|(_, agent)| *agent.connected.borrow())
    }
}
