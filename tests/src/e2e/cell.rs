//! A whole isyone on this machine: a coordinator, agents on the test's own Docker hosts, Traefik. Everything is in one
//! temporary folder, and ends and disappears with it; only the hosts' images are kept for the next cell.
//!
//! The machine's own Docker Engine is never touched: it may run somebody's real tenants.

use std::{net::SocketAddr, path::PathBuf, process::Command, time::Duration};

pub use super::host::{Closed, Host};

use super::{
    binary,
    docker::Docker,
    lane::Lane,
    process::{Daemon, Output, run},
    root, tool, wait_for,
};

/// Ports of a cell in the first lane, different from those of a demo on the same machine.
const GRPC: u16 = 16_443;
const ENROLL: u16 = 16_444;
const HTTP: u16 = 16_480;
const EDGE: u16 = 16_080;
const SECURE_EDGE: u16 = 16_445;
const DASHBOARD: u16 = 16_081;
const EDGE_METRICS: u16 = 16_082;
/// In the hosts' own networks.
const AGENT_HTTP: u16 = 16_481;

/// [`Cell::gateway`] of the first lane, where whoever is alone is.
pub const GATEWAY: &str = "172.30.78.1";

/// An edition of stand-ins (images/standin), for tests that are not about Odoo.
pub const STANDIN: (&str, &str) = ("isyone/standin:4", "isyone/standin-postgres:4");

/// Options of a cell.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Number of hosts; each is a network namespace with its own engine.
    pub hosts: usize,
    /// `(odoo, postgres)` of the default edition.
    pub edition: (&'static str, &'static str),
    /// Lines added to the coordinator's configuration.
    pub config: &'static str,
    /// Serves tenants over TLS, with a certificate that the test uploads.
    pub secure: bool,
    /// The coordinator's `[liveness]`. Tests need shorter limits than the product's.
    pub liveness: &'static str,
}

impl Shape {
    /// One host, real Odoo.
    pub const DEFAULT: Self = Self {
        hosts: 1,
        edition: ("odoo:19.0", "postgres:15"),
        config: "",
        secure: false,
        liveness: "report_interval = \"1s\"\nsuspect = \"5s\"\nlost = \"15s\"",
    };
}

impl Default for Shape {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[derive(Debug)]
pub struct Cell {
    /// Where it runs.
    lane: Lane,
    /// The coordinator, if it runs.
    pub coordinator: Option<Daemon>,
    pub hosts: Vec<Host>,
    /// The edge, if it runs.
    pub traefik: Option<Daemon>,
    /// Holds all files; the last field, so that the logs outlive the programs that write them.
    pub dir: tempfile::TempDir,
}

impl Cell {
    /// Starts everything; returns once all hosts are ready.
    pub fn start(shape: &Shape) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("isyone-test-")
            .tempdir()
            .expect("temporary folder");
        let mut cell = Self {
            lane: Lane::here(),
            coordinator: None,
            hosts: Vec::new(),
            traefik: None,
            dir,
        };
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

    fn init(&self, shape: &Shape) {
        let data = self.path("coordinator");
        let mut init = Command::new(binary("isy-coordinator"));
        init.args([
            "init",
            "--base-domain",
            "isy.one",
            "--advertise",
            &self.gateway(),
            "--context-file",
        ])
        .arg(self.path("admin.toml"));
        run(init.arg("--data-dir").arg(&data)).ok();
        let lane = self.lane;
        let ports = [GRPC, ENROLL, HTTP, EDGE, SECURE_EDGE].map(|port| lane.port(port));
        let [grpc, enroll, http, edge, secure_edge] = ports;
        let (scheme, port) = if shape.secure {
            ("https", secure_edge)
        } else {
            ("http", edge)
        };
        let own = shape.config.replace("{edge_metrics}", &self.edge_metrics());
        let tls = if shape.secure {
            "[tls]\nmode = \"coordinator\"\n[tls.acme]\nenabled = false\n"
        } else {
            ""
        };
        let config = format!(
            "base_domain = \"isy.one\"\nurl_scheme = \"{scheme}\"\nurl_port = {port}\n{top}\n\
             [advertise]\nhosts = [\"{gateway}\"]\n\
             [listen]\ngrpc = \"0.0.0.0:{grpc}\"\nenroll = \"0.0.0.0:{enroll}\"\nhttp = \"127.0.0.1:{http}\"\n\
             [edge]\naddresses = [\"{gateway}\"]\nports = [{edge}, {secure_edge}]\nurl = \"{scheme}://127.0.0.1:{port}\"\n\
             [liveness]\n{liveness}\n[backup]\nenabled = {backup}\n{tls}\
             [editions.\"18.0\"]\nodoo = \"{odoo}\"\npostgres = \"{postgres}\"\n{tables}\n",
            gateway = self.gateway(),
            backup = own.contains("backup"), // else they would share the machine with what is measured
            liveness = shape.liveness,
            odoo = shape.edition.0,
            postgres = shape.edition.1,
            top = own.split("---").next().unwrap_or_default(),
            tables = own.split("---").nth(1).unwrap_or_default(),
        );
        std::fs::write(data.join("coordinator.toml"), config).expect("configuration");
        self.point_context();
    }

    /// Sets the port in the context, because `init` writes it for the default port.
    fn point_context(&self) {
        let path = self.path("admin.toml");
        let text = std::fs::read_to_string(&path).expect("context");
        let lines = text.lines().map(|line| {
            if line.starts_with("endpoint") {
                format!("endpoint = \"127.0.0.1:{}\"", self.lane.port(GRPC))
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
        command
            .arg("run")
            .arg("--config")
            .arg(data.join("coordinator.toml"))
            .arg("--data-dir")
            .arg(&data);
        self.coordinator = Some(Daemon::start(
            "isy-coordinator",
            &mut command,
            &self.path("coordinator.log"),
        ));
        wait_for(
            "the coordinator to be ready",
            Duration::from_secs(15),
            || (super::http::get(self.http(), "localhost", "/readyz").status == 200).then_some(()),
        );
    }

    fn make_hosts(&mut self, shape: &Shape) {
        self.on_hosts(&["up", &shape.hosts.to_string()]).ok();
        for i in 1..=shape.hosts {
            let name = format!("h{i}");
            let address = self.on_hosts(&["ip", &name]).ok().trim().to_owned();
            let docker = Docker {
                socket: self.lane.hosts_state().join(&name).join("run/docker.sock"),
            };
            docker.clean();
            for image in [shape.edition.0, shape.edition.1] {
                if docker.run(&["image", "inspect", image]).code != 0 {
                    self.on_hosts(&["load", &name, image]).ok();
                }
            }
            let namespace = self.lane.namespace(&name);
            let data = self.path(&format!("agent-{name}"));
            self.hosts.push(Host {
                name,
                docker,
                address,
                data,
                agent: None,
                namespace,
            });
        }
    }

    fn join(&self, index: usize) {
        let host = &self.hosts[index];
        let make = ["host", "token", "--host", &host.name, "-o", "json"];
        let token = self.isyctl(&make).ok();
        let token: serde_json::Value = serde_json::from_str(&token).expect("JSON");
        let file = self.path(&format!("token-{}", host.name));
        std::fs::write(&file, token["token"].as_str().expect("a token")).expect("token file");
        let mut join = self.in_namespace(host, "isy-agent");
        join.args([
            "join",
            "--coordinator",
            &format!("{}:{}", self.gateway(), self.lane.port(ENROLL)),
            "--token-file",
        ])
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

    /// One of our programs, in a host's network namespace.
    fn in_namespace(&self, host: &Host, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", host.namespace.display()))
            .arg(binary(program));
        command
    }

    pub fn start_agent(&mut self, index: usize, environment: &[(&str, &str)]) {
        let host = &self.hosts[index];
        let mut command = self.in_namespace(host, "isy-agent");
        command
            .arg("run")
            .arg("--data-dir")
            .arg(&host.data)
            .args(["--docker", &host.docker.host()])
            .args(["--http", &format!("127.0.0.1:{AGENT_HTTP}")])
            // A test must not depend on how full its machine's disk is.
            .env("ISYONE_AGENT_COPY_RESERVE_MIB", "1024")
            .envs(environment.iter().copied());
        let log = self.path(&format!("agent-{}.log", host.name));
        self.hosts[index].agent = Some(Daemon::start(
            &format!("isy-agent {}", self.hosts[index].name),
            &mut command,
            &log,
        ));
    }

    /// Starts a host's agent anew, with these texts in place of the machine's `/etc/hosts` and `/etc/resolv.conf`.
    pub fn start_agent_reading(&mut self, index: usize, hosts: &str, resolv_conf: &str) {
        self.hosts[index].agent = None;
        let texts = [("hosts", hosts), ("resolv.conf", resolv_conf)];
        let files = texts.map(|(name, text)| {
            let file = self.path(&format!("{name}-{index}"));
            std::fs::write(&file, text).expect("a file");
            file
        });
        let host = &self.hosts[index];
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", host.namespace.display()))
            .args(["unshare", "--mount", "sh", "-ec"])
            .arg("mount --bind \"$1\" /etc/hosts; mount --bind \"$2\" /etc/resolv.conf; shift 2; exec \"$@\"")
            .arg("sh")
            .args(files)
            .arg(binary("isy-agent"))
            .args(["run", "--data-dir"])
            .arg(&host.data)
            .args(["--docker", &host.docker.host()])
            .args(["--http", &format!("127.0.0.1:{AGENT_HTTP}")]);
        let log = self.path(&format!("agent-{}.log", host.name));
        let name = format!("isy-agent {}", host.name);
        self.hosts[index].agent = Some(Daemon::start(&name, &mut command, &log));
    }

    /// Starts Traefik with the product's own static configuration, on the cell's ports.
    pub fn start_traefik(&mut self) {
        let local = |port: u16| format!("127.0.0.1:{}", self.lane.port(port));
        let config = std::fs::read_to_string(root().join("traefik/deploy/traefik.yml"))
            .expect("traefik.yml");
        let config = config
            .replace("\":80\"", &format!("\"{}\"", local(EDGE)))
            .replace("\":443\"", &format!("\"{}\"", local(SECURE_EDGE)))
            .replace(
                "/var/log/isyone-edge/access.log",
                &self.path("access.log").display().to_string(),
            )
            .replace("127.0.0.1:8080", &local(DASHBOARD))
            .replace("127.0.0.1:8082", &self.edge_metrics())
            .replace("127.0.0.1:7480", &local(HTTP));
        let path = self.path("traefik.yml");
        std::fs::write(&path, config).expect("traefik.yml");
        let mut command = Command::new(tool("traefik"));
        command.arg(format!("--configFile={}", path.display()));
        self.traefik = Some(Daemon::start(
            "traefik",
            &mut command,
            &self.path("traefik.log"),
        ));
    }

    /// Runs `isyctl` as the admin.
    pub fn isyctl(&self, args: &[&str]) -> Output {
        self.isyctl_as("admin.toml", args)
    }

    /// Runs `isyctl` with another context file of this cell.
    pub fn isyctl_as(&self, context: &str, args: &[&str]) -> Output {
        run(self.isyctl_command(context).args(args))
    }

    /// `isyctl` with a context file of this cell; the caller adds the arguments.
    pub fn isyctl_command(&self, context: &str) -> Command {
        let mut command = Command::new(binary("isyctl"));
        command
            .arg("--context")
            .arg(self.path(context))
            .env("ISYCTL_CONFIG_DIR", self.path("contexts"));
        command
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

    /// Waits until a host has this state.
    pub fn wait_host(&self, host: &str, state: &str) {
        wait_for(
            &format!("host {host} to be {state}"),
            Duration::from_secs(60),
            || (self.json(&["host", "show", host])["state"] == state).then_some(()),
        );
    }

    pub fn http(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.lane.port(HTTP)))
    }

    /// The edge's own metrics, for `[monitoring] edges`: `{edge_metrics}` stands for them in a shape's configuration.
    pub fn edge_metrics(&self) -> String {
        format!("127.0.0.1:{}", self.lane.port(EDGE_METRICS))
    }

    /// This machine as the hosts see it: the coordinator and the edge run here.
    pub fn gateway(&self) -> String {
        self.lane.gateway()
    }

    /// The coordinator's ports for its API and for hosts that join.
    pub fn coordinator_ports(&self) -> [u16; 2] {
        [GRPC, ENROLL].map(|port| self.lane.port(port))
    }

    pub fn edge(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.lane.port(EDGE)))
    }

    /// Origin of a tenant's URLs in a secure cell.
    pub fn secure_origin(&self, host: &str) -> String {
        format!("https://{host}:{}", self.lane.port(SECURE_EDGE))
    }

    /// Ends a host's agent, and then its relay, which outlives it.
    pub fn end_agent(&mut self, host: usize) {
        self.hosts[host].end_agent();
    }

    /// `cargo xtask hosts …` for this cell's hosts.
    pub fn on_hosts(&self, args: &[&str]) -> Output {
        hosts_of(self.lane, args)
    }

    /// The logs of all our programs, concatenated.
    pub fn logs(&self) -> String {
        let agents = self.hosts.iter().filter_map(|h| h.agent.as_ref());
        let daemons = self.coordinator.iter().chain(agents);
        daemons.map(Daemon::log).collect()
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            host.end_agent();
            host.docker.clean();
        }
        self.on_hosts(&["down", "--keep-images"]);
    }
}

/// `cargo xtask hosts …` for the hosts of this thread's lane.
pub fn hosts(args: &[&str]) -> Output {
    hosts_of(Lane::here(), args)
}

/// `cargo xtask hosts …` for the hosts of a lane.
pub(super) fn hosts_of(lane: Lane, args: &[&str]) -> Output {
    let mut command = Command::new(binary("xtask"));
    // A separate network: a demo's hosts may be up on this machine.
    run(command
        .env("ISYONE_HOSTS_NET", lane.net().to_string())
        // A swarm on such a host must not ask a registry for images that are there.
        .env("DOCKER_SERVICE_PREFER_OFFLINE_IMAGE", "1")
        .arg("hosts")
        .arg("--state")
        .arg(lane.hosts_state())
        .args(args)
        .current_dir(root()))
}
