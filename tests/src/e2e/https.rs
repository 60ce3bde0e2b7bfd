//! A coordinator, an agent over a fake engine and real edges, for tests of what edges serve: the test itself answers
//! for the tenants, so that no Odoo is needed. All on free loopback ports.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::Command,
    sync::Once,
    thread,
    time::Duration,
};

use isyone_agent::{
    base::config::DataDir,
    link::join::{JoinOptions, join},
};

use super::{
    acme::Pebble,
    process::{Daemon, Output, run},
    root, tool, wait_for,
    watch::Prometheus,
};

const SOON: Duration = Duration::from_secs(30);
/// First port of the tenants, different from those of other tests on this machine.
const FIRST_PORT: u16 = 26_100;
const LAST_PORT: u16 = 26_119;

#[derive(Debug)]
pub struct Edge {
    pub web: SocketAddr,
    pub secure: SocketAddr,
    _traefik: Daemon,
}

#[derive(Debug)]
pub struct Site {
    pub pebble: Pebble,
    /// The process ends when this is dropped.
    pub coordinator: Option<Daemon>,
    pub edges: Vec<Edge>,
    agent: Option<Daemon>,
    stand_in: PathBuf,
    /// Ports for gRPC, enrolment, HTTP and edges.
    ports: [SocketAddr; 4],
    dir: tempfile::TempDir,
}

/// Ports that are free now; the caller takes them a moment later.
fn free<const N: usize>() -> [SocketAddr; N] {
    let free = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    free.each_ref()
        .map(|listener| listener.local_addr().expect("an address"))
}

impl Site {
    /// Starts everything and waits for the host. `tls` returns the coordinator's `[tls]` and other tables, in which
    /// `{edge}` stands for the first edge's TLS address. `resolvers` returns what to add to the edges' static
    /// configuration. Both get the CA, whose certificates are valid for `life_s` seconds.
    pub fn start(
        stand_in: &str,
        edges: usize,
        life_s: u32,
        tls: impl Fn(&Pebble) -> String,
        resolvers: impl Fn(&Pebble) -> String,
    ) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("isyone-https-")
            .tempdir()
            .expect("temporary folder");
        let mut web = Vec::new();
        for _ in 0..edges {
            web.push(free::<4>());
        }
        let pebble = Pebble::start(dir.path(), free(), web[0][0].port(), life_s);
        let mut site = Self {
            pebble,
            coordinator: None,
            edges: Vec::new(),
            agent: None,
            stand_in: stand_in.into(),
            ports: free(),
            dir,
        };
        site.init(
            &tls(&site.pebble).replace("{edge}", &web[0][1].to_string()),
            web[0][1].port(),
        );
        site.start_coordinator();
        site.start_agent();
        let resolvers = resolvers(&site.pebble);
        site.edges = web
            .iter()
            .enumerate()
            .map(|(i, ports)| site.start_edge(i, ports, &resolvers))
            .collect();
        answer_for_tenants();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, role: &str) -> Command {
        let mut command = Command::new(&self.stand_in);
        command
            .arg(role)
            .env("ISYCTL_CONFIG_DIR", self.path("config"));
        command
    }

    fn init(&self, tls: &str, port: u16) {
        let [grpc, enroll, http, edges] = self.ports.map(|port| port.to_string());
        let data = self.path("coordinator");
        let mut init = self.command("coordinator");
        init.arg("init")
            .arg("--data-dir")
            .arg(&data)
            .arg("--context-file")
            .arg(self.path("admin.toml"));
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
        let config = format!(
            "url_scheme = \"https\"\nurl_port = {port}\n\
             [listen]\ngrpc = \"{grpc}\"\nenroll = \"{enroll}\"\nhttp = \"{http}\"\n\
             edges = \"{edges}\"\n[advertise]\nhosts = [\"127.0.0.1\"]\n\
             [network]\nfirst_port = {FIRST_PORT}\nlast_port = {LAST_PORT}\n\
             [placement]\nmemory_reserve = \"1MiB\"\ndisk_reserve = \"1MiB\"\n\
             [backup]\nenabled = false\n\
             [plans]\nsmall = {{ memory = \"64MiB\", cpu = 0.1, disk = \"16MiB\" }}\n{tls}"
        );
        std::fs::write(data.join("coordinator.toml"), config).expect("configuration");
    }

    /// Starts it and waits until it is ready.
    pub fn start_coordinator(&mut self) {
        let mut serve = self.command("coordinator");
        serve
            .arg("run")
            .arg("--data-dir")
            .arg(self.path("coordinator"));
        let log = self.path("coordinator.log");
        self.coordinator = Some(Daemon::start("coordinator", &mut serve, &log));
        wait_for("the coordinator", SOON, || {
            (super::http::get(self.ports[2], "localhost", "/readyz").status == 200).then_some(())
        });
    }

    fn start_agent(&mut self) {
        // Coordinator, edge and host are one machine.
        let make = ["host", "token", "--host", "h1", "--same-machine"];
        let token = self.isyctl(&make).ok();
        let options = JoinOptions {
            coordinator: self.ports[1].to_string(),
            token: token.trim().parse().expect("a token"),
            name: Some("h1".parse().expect("a name")),
            advertise: Some([127, 0, 0, 1].into()),
            labels: Default::default(),
            rejoin: false,
        };
        let data = self.path("agent");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime
            .block_on(join(&DataDir::new(data.clone()), options))
            .expect("joined");
        let mut serve = self.command("agent");
        serve.arg(data).arg(self.path("docker"));
        self.agent = Some(Daemon::start("agent", &mut serve, &self.path("agent.log")));
        wait_for("the host", SOON, || {
            self.isyctl(&["host", "list", "-o", "json"])
                .stdout
                .contains("\"ready\"")
                .then_some(())
        });
    }

    /// Traefik with the product's own static configuration, on these ports.
    fn start_edge(
        &self,
        index: usize,
        [web, secure, dashboard, metrics]: &[SocketAddr; 4],
        more: &str,
    ) -> Edge {
        let config = std::fs::read_to_string(root().join("traefik/deploy/traefik.yml"))
            .expect("traefik.yml");
        let config = config
            .replace("\":80\"", &format!("\"{web}\""))
            .replace("\":443\"", &format!("\"{secure}\""))
            .replace(
                "/var/log/isyone-edge/access.log",
                &self
                    .file(&format!("access{index}.log"))
                    .display()
                    .to_string(),
            )
            .replace("127.0.0.1:8080", &dashboard.to_string())
            .replace("127.0.0.1:8082", &metrics.to_string())
            .replace("127.0.0.1:7480", &self.ports[2].to_string());
        // The first edge is on the coordinator's machine; the others pretend to be elsewhere.
        let config = if index == 0 {
            config
        } else {
            self.asking_from_afar(&config)
        };
        let path = self.path(&format!("traefik{index}.yml"));
        std::fs::write(&path, config + more).expect("traefik.yml");
        let mut command = Command::new(tool("traefik"));
        command.arg(format!("--configFile={}", path.display()));
        let log = self.path(&format!("traefik{index}.log"));
        Edge {
            web: *web,
            secure: *secure,
            _traefik: Daemon::start("traefik", &mut command, &log),
        }
    }

    /// Changes the configuration to that of an edge on another machine: over TLS with the token, as the deployed file
    /// describes.
    fn asking_from_afar(&self, config: &str) -> String {
        let data = self.path("coordinator");
        let token = std::fs::read_to_string(data.join("edge.token")).expect("a token");
        let ca = data.join("pki/ca.pem");
        let lines = config
            .lines()
            .filter(|line| !line.trim_start().starts_with("endpoint:"));
        let config: String = lines
            .map(|line| line.replace("# edges: ", "") + "\n")
            .collect();
        config
            .replace("coordinator.example.com:7445", &self.ports[3].to_string())
            .replace("Bearer …", &format!("Bearer {}", token.trim()))
            .replace("/etc/traefik/isyone-ca.pem", &ca.display().to_string())
    }

    /// Runs `isyctl` as the admin.
    pub fn isyctl(&self, arguments: &[&str]) -> Output {
        run(self
            .command("isyctl")
            .arg("--context")
            .arg(self.path("admin.toml"))
            .args(arguments))
    }

    /// `isyctl … -o json`, parsed.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.isyctl(&[arguments, &["-o", "json"]].concat()).ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// A page of the coordinator's HTTP port.
    pub fn http(&self, path: &str) -> String {
        super::http::get(self.ports[2], "localhost", path).body
    }

    /// Asks on the port for other machines, with a token from the coordinator's data directory. Returns status line,
    /// head and body.
    pub fn as_bearer(&self, token: &str, path: &str) -> String {
        let data = self.path("coordinator");
        let token = std::fs::read_to_string(data.join(token)).expect("a token");
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--include", "--cacert"])
            .arg(data.join("pki/ca.pem"));
        curl.args([
            "--header",
            &format!("Authorization: Bearer {}", token.trim()),
        ]);
        run(curl.arg(format!("https://{}{path}", self.for_edges()))).stdout
    }

    /// A Prometheus for this site; needs `[monitoring] certificate_dir = "prometheus"` in its configuration.
    pub fn prometheus(&self) -> Prometheus {
        Prometheus::over(self.dir.path(), self.ports[2], "1s")
    }

    /// The port for edges on other machines.
    pub fn for_edges(&self) -> SocketAddr {
        self.ports[3]
    }

    /// The path of a file in this site's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path(name)
    }
}

impl Edge {
    /// An HTTPS request as made by a browser that trusts `root`: headers and body, or the error.
    pub fn https(&self, host: &str, root: &std::path::Path) -> Result<String, String> {
        let port = self.secure.port();
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail",
            "--include",
            "--max-time",
            "10",
            "--cacert",
        ])
        .arg(root);
        curl.args([
            "--resolve",
            &format!("{host}:{port}:127.0.0.1"),
            &format!("https://{host}:{port}/web/health"),
        ]);
        let answer = run(&mut curl);
        if answer.code == 0 {
            Ok(answer.stdout)
        } else {
            Err(answer.stderr)
        }
    }

    /// Serial number of the certificate served for a host, in lower-case hex without leading zeroes.
    pub fn serial(&self, host: &str) -> String {
        self.certificate(host, "serial")
            .to_lowercase()
            .trim_start_matches('0')
            .to_owned()
    }

    /// When that certificate expires, in seconds since 1970.
    pub fn ends(&self, host: &str) -> i64 {
        let date = self.certificate(host, "enddate");
        let seconds = run(Command::new("date").args(["+%s", "--date", &date])).ok();
        seconds.trim().parse().expect("seconds")
    }

    /// A field of that certificate, as `openssl` prints it.
    fn certificate(&self, host: &str, field: &str) -> String {
        let script = format!(
            "openssl s_client -connect {} -servername {host} </dev/null 2>/dev/null | openssl x509 -noout -{field}",
            self.secure
        );
        let answer = run(Command::new("sh").args(["-c", &script])).stdout;
        answer
            .trim()
            .split_once('=')
            .map(|(_, value)| value.to_owned())
            .unwrap_or_default()
    }
}

/// Answers on all ports that tenants may have (see `replies`), from the first site on until the process ends.
fn answer_for_tenants() {
    static ONCE: Once = Once::new();
    ONCE.call_once(listen_for_tenants);
}

fn listen_for_tenants() {
    for port in FIRST_PORT..=LAST_PORT {
        let listener =
            TcpListener::bind(("127.0.0.1", port)).unwrap_or_else(|e| panic!("port {port}: {e}"));
        thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                thread::spawn(move || answer(tcp));
            }
        });
    }
}

fn answer(mut tcp: std::net::TcpStream) {
    let mut head = [0; 8 * 1024];
    let _ = tcp.set_read_timeout(Some(SOON));
    if let Ok(length @ 1..) = tcp.read(&mut head) {
        let _ = tcp.write_all(&super::replies::reply(&String::from_utf8_lossy(
            &head[..length],
        )));
    }
}
