//! A whole fleet in one process: a real coordinator and real agents, joined with real tokens, talking over mutual TLS
//! on loopback. Only Docker is a fake ([`FakeDocker`]), and the store can be one that fails on command.
//!
//! Each program has its own runtime, so that it can be killed as with `kill -9`: its tasks stop at whatever they await,
//! while its data directory, store and Docker remain. Tests are plain functions; only API calls are futures.

pub mod chaos;
pub mod model;
pub mod node;
pub mod operator;
pub mod quiet;
pub mod stored;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use isyone_agent::{
    base::config::DataDir,
    link::join::{JoinOptions, join},
    testing::fake_docker::FakeDocker,
};
use isyone_coordinator::base::config::Config;
use tokio::runtime::Runtime;

use node::{Agent, Coordinator};
use operator::Operator;

/// Threads per program: few enough to run beside the test on two cores.
const WORKERS: usize = 1;

pub struct Fleet {
    pub coordinator: Coordinator,
    /// The agents `h1`, `h2`, ….
    pub agents: Vec<Agent>,
    /// The admin created by `init`.
    pub admin: Operator,
    /// Runs clients' futures; dropped last, except for the directory.
    pub client: Runtime,
    pub dir: tempfile::TempDir,
}

/// A runtime for one program.
fn runtime(name: &str) -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name(name)
        .enable_all()
        .build()
        .expect("threads can be started")
}

/// Plans that fit any machine many times over, the shortest report interval allowed, and ports chosen by the system.
const CONFIG: &str = r#"
default_plan = "small"
[listen]
grpc = "127.0.0.1:0"
enroll = "127.0.0.1:0"
http = "127.0.0.1:0"
[placement]
cpu_overcommit = 100.0
memory_reserve = "1MiB"
disk_reserve = "1MiB"
[liveness]
report_interval = "1s"
suspect = "20s"
lost = "60s"
[plans]
small = { memory = "64MiB", cpu = 0.1, disk = "16MiB" }
standard = { memory = "80MiB", cpu = 0.1, disk = "16MiB" }
large = { memory = "96MiB", cpu = 0.1, disk = "64MiB" }
"#;

impl Fleet {
    /// A coordinator, an admin and no hosts. `settings` are additional lines of its configuration.
    pub fn start(settings: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory can be made");
        Self::start_in(dir, settings)
    }

    /// Likewise, with all its files in a new directory below this one, if that is there.
    pub fn start_below(place: &Path, settings: &str) -> Self {
        let dir = tempfile::tempdir_in(place).or_else(|_| tempfile::tempdir());
        Self::start_in(dir.expect("a directory can be made"), settings)
    }

    fn start_in(dir: tempfile::TempDir, settings: &str) -> Self {
        let mut config =
            Config::parse("fleet", &format!("{CONFIG}{settings}")).expect("a configuration");
        config.backup.enabled &= settings.contains("[backup");
        config.data_dir = dir.path().join("coordinator");
        let client = runtime("client");
        let context = dir.path().join("admin.toml");
        let coordinator = Coordinator::start(config, &context, &client);
        let admin = client.block_on(async { Operator::open(&context, coordinator.grpc()) });
        Self {
            coordinator,
            agents: Vec::new(),
            admin,
            client,
            dir,
        }
    }

    /// Adds a host: joins it with a token and starts its agent. `seed` determines its Docker's faults.
    pub fn add_agent(&mut self, seed: u64) -> &mut Agent {
        let number = self.agents.len() + 1;
        let name = format!("h{number}");
        let dir = self.dir.path().join(&name);
        let data = DataDir::new(dir.join("agent"));
        let token = self
            .client
            .block_on(self.admin.token(&name))
            .expect("a token is made");
        let options = JoinOptions {
            coordinator: self.coordinator.enroll().to_string(),
            token,
            name: Some(name.parse().expect("a host name")),
            advertise: Some([192, 0, 2, u8::try_from(number).expect("a handful of hosts")].into()),
            labels: std::collections::BTreeMap::new(),
            rejoin: false,
        };
        self.client
            .block_on(join(&data, options))
            .expect("the host joins");
        let mut agent = Agent::new(&name, data, FakeDocker::new(&dir.join("docker"), seed));
        agent.start();
        self.agents.push(agent);
        self.agents.last_mut().expect("just pushed")
    }

    /// Waits until each agent has a session and the coordinator has its first report.
    pub fn all_report(&self) {
        wait_for("a report of each host", Duration::from_secs(20), || {
            let state = self.coordinator.snapshot();
            let heard = |a: &Agent| {
                a.is_connected()
                    && state
                        .observed
                        .hosts
                        .get(a.name.as_str())
                        .is_some_and(|h| h.reported_at.is_some())
            };
            self.agents.iter().all(heard)
        });
    }

    /// The coordinator's HTTP document at `path`; empty while it is down.
    pub fn http(&self, path: &str) -> String {
        crate::e2e::http::get(self.coordinator.http(), "coordinator", path).body
    }

    /// Creates a tenant and waits until it runs.
    pub fn create(&self, tenant: &str) {
        self.client
            .block_on(self.admin.create(tenant))
            .expect("the tenant is placed");
        self.runs(tenant);
    }

    /// Waits until a tenant is reported as running.
    pub fn runs(&self, tenant: &str) {
        wait_for(&format!("{tenant} to run"), Duration::from_secs(20), || {
            let state = self.coordinator.snapshot();
            let record = state.fleet.tenants.get(tenant)?;
            let open = state
                .fleet
                .operations
                .get(&record.operation)
                .is_some_and(|o| !o.state.is_final());
            (record.activated_at.is_some() && !open).then_some(())
        });
    }
}

/// A value that [`wait_for`] can wait for.
pub trait Answer {
    /// What the wait returns; `Some` ends it.
    type Value;
    fn answer(self) -> Option<Self::Value>;
}

impl Answer for bool {
    type Value = ();
    fn answer(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Answer for Option<T> {
    type Value = T;
    fn answer(self) -> Self {
        self
    }
}

/// Polls until the answer is yes; panics with `what` after `limit`.
pub fn wait_for<A: Answer>(
    what: &str,
    limit: Duration,
    mut question: impl FnMut() -> A,
) -> A::Value {
    let begin = Instant::now();
    loop {
        if let Some(value) = question().answer() {
            return value;
        }
        assert!(
            begin.elapsed() < limit,
            "gave up after {limit:?} waiting for {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
