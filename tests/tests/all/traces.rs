//! Traces over OTLP, from three processes to a collector: one command is one trace, and it contains no secrets.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use isyone_agent::{
    base::config::DataDir,
    link::join::{JoinOptions, join},
};
use isyone_tests::{
    collector::{Collector, Seen, orphans, tree},
    e2e::process::{Daemon, Output, run},
    fleet::wait_for,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Timeout, far above any normal wait.
const SOON: Duration = Duration::from_secs(30);

/// Plans that fit any machine.
const CONFIG: &str = r#"
default_plan = "small"
[placement]
memory_reserve = "1MiB"
disk_reserve = "1MiB"
[plans]
small = { memory = "64MiB", cpu = 0.1, disk = "16MiB" }
"#;

const CREATE: &str = "isyone.v1.TenantService/CreateTenant";

/// Spans of each program that a create's trace must have.
const EXPECTED: [(&str, &[&str]); 3] = [
    (
        "isyctl",
        &[
            "isyctl tenant create",
            CREATE,
            "isyone.v1.OperationService/WatchOperation",
        ],
    ),
    (
        "isy-coordinator",
        &[
            CREATE,
            "write",
            "queue",
            "apply",
            "commit",
            "operation create",
            "send plan",
            "report",
        ],
    ),
    (
        "isy-agent",
        &[
            "store plan",
            "reconcile",
            "look",
            "network",
            "volumes",
            "database",
            "postgres",
            "odoo",
            "healthy",
        ],
    ),
];

/// A coordinator's data directory, and the addresses in use.
struct Site {
    dir: TempDir,
    runtime: Runtime,
    collector: Collector,
    endpoint: SocketAddr,
    ports: [SocketAddr; 3],
}

impl Site {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (collector, endpoint) = Collector::start(&runtime);
        // Ports that are free now and will be taken a moment later.
        let free = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = free
            .each_ref()
            .map(|listener| listener.local_addr().unwrap());
        drop(free);
        Self {
            dir: tempfile::tempdir().unwrap(),
            runtime,
            collector,
            endpoint,
            ports,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, role: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_isyone-stand-in"));
        command.arg(role).env(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://{}", self.endpoint),
        );
        command
            .env("OTEL_BSP_SCHEDULE_DELAY", "200")
            .env("ISYCTL_CONFIG_DIR", self.path("config"));
        command
    }

    fn coordinator(&self) -> Daemon {
        let [grpc, enroll, http] = self.ports.map(|port| port.to_string());
        let (data, context) = (self.path("coordinator"), self.path("admin.toml"));
        let mut init = self.command("coordinator");
        init.arg("init")
            .arg("--data-dir")
            .arg(&data)
            .arg("--context-file")
            .arg(&context);
        init.args([
            "--grpc",
            &grpc,
            "--enroll",
            &enroll,
            "--http",
            &http,
            "--advertise",
            "127.0.0.1",
        ]);
        run(&mut init).ok();
        let config = data.join("coordinator.toml");
        let listen =
            format!("[listen]\ngrpc = \"{grpc}\"\nenroll = \"{enroll}\"\nhttp = \"{http}\"\n");
        let hosts = "[advertise]\nhosts = [\"127.0.0.1\"]\n";
        std::fs::write(&config, format!("{CONFIG}{listen}{hosts}")).unwrap();
        let mut serve = self.command("coordinator");
        let daemon = Daemon::start(
            "coordinator",
            serve.arg("run").arg("--data-dir").arg(&data),
            &self.path("coordinator.log"),
        );
        wait_for("the coordinator", SOON, || daemon.log().contains("ready"));
        daemon
    }

    fn agent(&self) -> Daemon {
        let make = ["host", "token", "--host", "h1", "--same-machine"];
        let token = self.isyctl(&make).ok();
        let options = JoinOptions {
            coordinator: self.ports[1].to_string(),
            token: token.trim().parse().unwrap(),
            name: Some("h1".parse().unwrap()),
            advertise: Some([192, 0, 2, 1].into()),
            labels: Default::default(),
            rejoin: false,
        };
        let data = self.path("agent");
        self.runtime
            .block_on(join(&DataDir::new(data.clone()), options))
            .unwrap();
        let mut serve = self.command("agent");
        let daemon = Daemon::start(
            "agent",
            serve.arg(data).arg(self.path("docker")),
            &self.path("agent.log"),
        );
        wait_for("the host", SOON, || {
            self.isyctl(&["host", "list", "-o", "json"])
                .stdout
                .contains("\"ready\"")
        });
        daemon
    }

    fn isyctl(&self, arguments: &[&str]) -> Output {
        run(self
            .command("isyctl")
            .arg("--context")
            .arg(self.path("admin.toml"))
            .args(arguments))
    }

    /// Values that must not be in any trace.
    fn secrets(&self) -> Vec<String> {
        let told = self
            .isyctl(&["tenant", "credentials", "alfa", "-o", "json"])
            .ok();
        let credentials: serde_json::Value = serde_json::from_str(&told).unwrap();
        let secret = |key: &str| {
            credentials[key]
                .as_str()
                .unwrap_or_else(|| panic!("{key} in {told}"))
                .to_owned()
        };
        vec![
            secret("password"),
            secret("master_password"),
            secret("database_password"),
            "PRIVATE KEY".to_owned(),
        ]
    }
}

fn names<'a>(trace: &'a [Seen], service: &str) -> BTreeSet<&'a str> {
    trace
        .iter()
        .filter(|seen| seen.service == service)
        .map(|seen| seen.span.name.as_str())
        .collect()
}

#[test]
fn a_create_is_one_trace_through_all_three_programs_without_secrets() {
    let site = Site::new();
    let mut coordinator = site.coordinator();
    let mut agent = site.agent();
    site.isyctl(&["tenant", "create", "alfa"]).ok();
    let secrets = site.secrets();
    assert_eq!((agent.terminate(), coordinator.terminate()), (0, 0));

    let trace = site.collector.trace("isyctl tenant create");
    println!("{}", tree(&trace));
    for (service, spans) in EXPECTED {
        let found = names(&trace, service);
        let missing: Vec<_> = spans
            .iter()
            .filter(|name| !found.contains(**name))
            .collect();
        assert!(
            missing.is_empty(),
            "{service}: {missing:?} missing in {found:?}"
        );
    }
    let roots: Vec<_> = orphans(&trace)
        .iter()
        .map(|seen| seen.span.name.clone())
        .collect();
    assert_eq!(roots, ["isyctl tenant create"]);
    let operation = trace
        .iter()
        .find(|seen| seen.span.name == "operation create")
        .unwrap();
    assert_eq!(
        (operation.attribute("tenant"), operation.attribute("state")),
        ("alfa".into(), "succeeded".into())
    );

    nothing_secret_was_sent(&site, &secrets);
    // Background work is not traced: no host's report, no tick.
    let others = site.collector.traces();
    let begins = |spans: &Vec<Seen>| {
        spans
            .iter()
            .any(|s| s.service == "isyctl" && s.span.parent_span_id.is_empty())
    };
    assert!(
        others.values().all(begins),
        "{:?}",
        others.values().find(|spans| !begins(spans))
    );
}

fn nothing_secret_was_sent(site: &Site, secrets: &[String]) {
    let bytes = site.collector.bytes();
    for secret in secrets {
        assert!(secret.len() > 8);
        let found = bytes
            .windows(secret.len())
            .any(|window| window == secret.as_bytes());
        assert!(!found, "a secret was sent to the collector");
    }
}
