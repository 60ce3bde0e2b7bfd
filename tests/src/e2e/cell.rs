//! A whole isyone on this machine: a coordinator, agents on one or several Docker hosts, Traefik. Everything in one temporary
//! folder, everything ended and removed with it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{
    binary,
    docker::Docker,
    process::{Daemon, Output, run},
    root, tool, wait_for,
};

/// Ports of the cell, apart from those of a demo on the same machine.
const GRPC: u16 = 27_443;
const ENROLL: u16 = 27_444;
const HTTP: u16 = 27_480;
const EDGE: u16 = 27_080;
const AGENT_HTTP: u16 = 27_481;

/// One machine with an agent.
#[derive(Debug)]
pub struct Host {
    /// `h1`.
    pub name: String,
    /// Its engine.
    pub docker: Docker,
    /// Where it advertises its tenants.
    pub address: String,
    /// The agent's data.
    pub data: PathBuf,
    /// The agent, when it runs.
    pub agent: Option<Daemon>,
    /// In which network namespace; `None` is this machine's own.
    namespace: Option<PathBuf>,
    /// Port of its HTTP.
    http: u16,
}

/// What differs between cells.
#[derive(Debug, Clone)]
pub struct Shape {
    /// 0: this machine is the only host; else that many hosts in network namespaces.
    pub hosts: usize,
    /// Images that the hosts need besides what they have.
    pub images: &'static [&'static str],
    /// `(odoo, postgres)` of the default edition.
    pub edition: (&'static str, &'static str),
    /// Lines added to the coordinator's configuration.
    pub config: &'static str,
}

impl Default for Shape {
    fn default() -> Self {
        Self { hosts: 0, images: &[], edition: ("odoo:19.0", "postgres:15"), config: "" }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Cell {
    /// Everything's folder.
    pub dir: tempfile::TempDir,
    /// The coordinator, when it runs.
    pub coordinator: Option<Daemon>,
    /// In order.
    pub hosts: Vec<Host>,
    /// The edge, when it runs.
    pub traefik: Option<Daemon>,
    netns: bool,
}

impl Cell {
    /// Starts everything; returns when all hosts are ready.
    pub fn start(shape: &Shape) -> Self {
        let dir = tempfile::Builder::new().prefix("isyone-test-").tempdir().expect("temporary folder");
        let mut cell =
            Self { dir, coordinator: None, hosts: Vec::new(), traefik: None, netns: shape.hosts > 0 };
        cell.init(shape);
        cell.start_coordinator();
        cell.make_hosts(shape);
        for index in 0..cell.hosts.len() {
            cell.join(index);
            cell.start_agent(index, &[]);
        }
        cell.start_traefik();
        let names: Vec<String> = cell.hosts.iter().map(|h| h.name.clone()).collect();
        for name in names {
            cell.wait_host(&name, "ready");
        }
        cell
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn advertise(&self) -> &'static str {
        if self.netns { "172.30.77.1" } else { "127.0.0.1" }
    }

    fn init(&self, shape: &Shape) {
        let data = self.path("coordinator");
        let mut init = Command::new(binary("isy-coordinator"));
        init.args(["init", "--base-domain", "isy.one", "--advertise", self.advertise(), "--context-file"])
            .arg(self.path("admin.toml"));
        run(init.arg("--data-dir").arg(&data)).ok();
        let edges = if self.netns { r#"["172.30.77.1"]"# } else { "[]" };
        let config = format!(
            "base_domain = \"isy.one\"\nurl_port = {EDGE}\n{top}\n[advertise]\nhosts = [\"{advertise}\"]\n\
             [listen]\ngrpc = \"0.0.0.0:{GRPC}\"\nenroll = \"0.0.0.0:{ENROLL}\"\nhttp = \"127.0.0.1:{HTTP}\"\n\
             [edge]\naddresses = {edges}\nports = [{EDGE}]\nurl = \"http://127.0.0.1:{EDGE}\"\n\
             [liveness]\nreport_interval = \"1s\"\nsuspect = \"5s\"\nlost = \"15s\"\n\
             [editions.\"18.0\"]\nodoo = \"{odoo}\"\npostgres = \"{postgres}\"\n{tables}\n",
            advertise = self.advertise(),
            odoo = shape.edition.0,
            postgres = shape.edition.1,
            top = shape.config.split("---").next().unwrap_or_default(),
            tables = shape.config.split("---").nth(1).unwrap_or_default(),
        );
        std::fs::write(data.join("coordinator.toml"), config).expect("configuration");
        self.point_context();
    }

    /// `init` writes the context for the default port.
    fn point_context(&self) {
        let path = self.path("admin.toml");
        let text = std::fs::read_to_string(&path).expect("context");
        let lines = text.lines().map(|line| {
            if line.starts_with("endpoint") {
                format!("endpoint = \"127.0.0.1:{GRPC}\"")
            } else {
                line.to_owned()
            }
        });
        std::fs::write(&path, lines.collect::<Vec<_>>().join("\n")).expect("context");
    }

    /// Starts the coordinator and waits until it is ready.
    pub fn start_coordinator(&mut self) {
        let data = self.path("coordinator");
        let mut command = Command::new(binary("isy-coordinator"));
        command.arg("run").arg("--config").arg(data.join("coordinator.toml")).arg("--data-dir").arg(&data);
        self.coordinator =
            Some(Daemon::start("isy-coordinator", &mut command, &self.path("coordinator.log")));
        wait_for("the coordinator to be ready", Duration::from_secs(15), || {
            (super::http::get(self.http(), "localhost", "/readyz").status == 200).then_some(())
        });
    }

    fn make_hosts(&mut self, shape: &Shape) {
        if shape.hosts == 0 {
            let docker = Docker::local();
            docker.clean();
            self.hosts.push(self.host("h1", docker, primary_address(), None, AGENT_HTTP));
            return;
        }
        let state = self.path("hosts");
        xtask(&state, &["up", &shape.hosts.to_string()]).ok();
        if !shape.images.is_empty() {
            let mut args = vec!["load", "all"];
            args.extend(shape.images);
            xtask(&state, &args).ok();
        }
        for i in 1..=shape.hosts {
            let name = format!("h{i}");
            let address = xtask(&state, &["ip", &name]).ok().trim().to_owned();
            let docker = Docker { socket: state.join(&name).join("run/docker.sock") };
            let namespace = PathBuf::from(format!("/run/netns/isy-{name}"));
            self.hosts.push(self.host(&name, docker, address, Some(namespace), AGENT_HTTP));
        }
    }

    fn host(
        &self,
        name: &str,
        docker: Docker,
        address: String,
        namespace: Option<PathBuf>,
        http: u16,
    ) -> Host {
        let data = self.path(&format!("agent-{name}"));
        Host { name: name.to_owned(), docker, address, data, agent: None, namespace, http }
    }

    fn join(&self, index: usize) {
        let host = &self.hosts[index];
        let token = self.isyctl(&["host", "token", "-o", "json"]).ok();
        let token: serde_json::Value = serde_json::from_str(&token).expect("JSON");
        let file = self.path(&format!("token-{}", host.name));
        std::fs::write(&file, token["token"].as_str().expect("a token")).expect("token file");
        let mut join = self.in_namespace(host, "isy-agent");
        join.args(["join", "--coordinator", &format!("{}:{ENROLL}", self.advertise()), "--token-file"])
            .arg(&file);
        join.args([
            "--name",
            &host.name,
            "--advertise",
            &host.address,
            "--label",
            &format!("name={}", host.name),
        ]);
        run(join.arg("--data-dir").arg(&host.data)).ok();
    }

    /// Our program, on a host.
    fn in_namespace(&self, host: &Host, program: &str) -> Command {
        match &host.namespace {
            None => Command::new(binary(program)),
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", namespace.display())).arg(binary(program));
                command
            }
        }
    }

    /// Starts a host's agent.
    pub fn start_agent(&mut self, index: usize, environment: &[(&str, &str)]) {
        let host = &self.hosts[index];
        let mut command = self.in_namespace(host, "isy-agent");
        command.arg("run").arg("--data-dir").arg(&host.data).args(["--docker", &host.docker.host()]);
        command.args(["--http", &format!("127.0.0.1:{}", host.http)]).envs(environment.iter().copied());
        let log = self.path(&format!("agent-{}.log", host.name));
        self.hosts[index].agent =
            Some(Daemon::start(&format!("isy-agent {}", self.hosts[index].name), &mut command, &log));
    }

    /// Starts Traefik with the product's own static configuration, on the cell's ports.
    pub fn start_traefik(&mut self) {
        let config = std::fs::read_to_string(root().join("traefik/deploy/traefik.yml")).expect("traefik.yml");
        let config = config
            .replace("\":80\"", &format!("\"127.0.0.1:{EDGE}\""))
            .replace("127.0.0.1:8080", "127.0.0.1:27081")
            .replace("127.0.0.1:7480", &format!("127.0.0.1:{HTTP}"));
        let path = self.path("traefik.yml");
        std::fs::write(&path, config).expect("traefik.yml");
        let mut command = Command::new(tool("traefik"));
        command.arg(format!("--configFile={}", path.display()));
        self.traefik = Some(Daemon::start("traefik", &mut command, &self.path("traefik.log")));
    }

    /// `isyctl` as the admin.
    pub fn isyctl(&self, args: &[&str]) -> Output {
        self.isyctl_as("admin.toml", args)
    }

    /// `isyctl` with another context file of this cell.
    pub fn isyctl_as(&self, context: &str, args: &[&str]) -> Output {
        let mut command = Command::new(binary("isyctl"));
        command.arg("--context").arg(self.path(context)).args(args);
        run(command.env("ISYCTL_CONFIG_DIR", self.path("contexts")))
    }

    /// `isyctl … -o json`, parsed.
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        let text = self.isyctl(&all).ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// Waits until a tenant is in a phase.
    pub fn wait_phase(&self, tenant: &str, phase: &str, limit: Duration) {
        wait_for(&format!("{tenant} to be {phase}"), limit, || {
            (self.json(&["tenant", "show", tenant])["phase"] == phase).then_some(())
        });
    }

    /// Waits until a host is in a state.
    pub fn wait_host(&self, host: &str, state: &str) {
        wait_for(&format!("host {host} to be {state}"), Duration::from_secs(60), || {
            (self.json(&["host", "show", host])["state"] == state).then_some(())
        });
    }

    /// The coordinator's HTTP.
    pub fn http(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], HTTP))
    }

    /// The coordinator's gRPC.
    pub fn grpc(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], GRPC))
    }

    /// The edge.
    pub fn edge(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], EDGE))
    }

    /// All logs of our own programs together.
    pub fn logs(&self) -> String {
        let daemons = self.coordinator.iter().chain(self.hosts.iter().filter_map(|h| h.agent.as_ref()));
        daemons.map(Daemon::log).collect()
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            host.agent = None;
            if host.namespace.is_none() {
                host.docker.clean();
                let _ = run(Command::new("nft").args(["delete", "table", "inet", "isyone"]));
            }
        }
        if self.netns {
            xtask(&self.path("hosts"), &["down"]);
        }
    }
}

/// `cargo xtask hosts …` with its state in the cell.
pub fn xtask(state: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(binary("xtask"));
    run(command.arg("hosts").arg("--state").arg(state).args(args).current_dir(root()))
}

/// This machine's address on its way out, or loopback when it has none.
fn primary_address() -> String {
    let route = run(Command::new("ip").args(["-o", "-4", "route", "get", "192.0.2.1"])).stdout;
    let mut words = route.split_whitespace().skip_while(|word| *word != "src");
    words.nth(1).unwrap_or("127.0.0.1").to_owned()
}
