//! What somebody would run instead: Odoo and PostgreSQL by `docker compose` as the image's page shows it, behind a Traefik with one
//! route and nothing else, with the memory and CPU of the tenant beside it.
//!
//! Not here: what is measured (the parent).

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use isyone_tests::e2e::{
    bombard::Place,
    cell::Cell,
    docker::Docker,
    process::{Daemon, run},
    tool,
};

use super::Plan;

/// Ports that no tenant gets: Odoo's two, and Traefik's.
const PORTS: (u16, u16, u16) = (18_169, 18_172, 16_190);
const DATABASE: &str = "plain";
/// Odoo's own password for its first user.
const PASSWORD: &str = "admin";
/// The first start creates the database, on a busy machine in a minute.
const PATIENCE: Duration = Duration::from_secs(300);

/// One project, and its Traefik.
pub(super) struct Compose {
    docker: Docker,
    file: PathBuf,
    address: SocketAddr,
    _traefik: Daemon,
}

impl Compose {
    /// Starts it on the cell's host, and waits for its login page.
    pub(super) fn start(cell: &Cell, plan: &Plan) -> Result<Self> {
        let host = &cell.hosts[0];
        let dir = cell.dir.path().join("plain");
        std::fs::create_dir_all(&dir)?;
        let (docker, file) = (host.docker.clone(), dir.join("compose.yml"));
        std::fs::write(&file, project(&host.address, plan))?;
        let traefik = traefik(&dir, &host.address, plan)?;
        let compose = Self {
            docker,
            file,
            address: SocketAddr::from(([127, 0, 0, 1], PORTS.2)),
            _traefik: traefik,
        };
        compose.run(&["up", "-d", "db"])?;
        let first = ["run", "--rm", "odoo", "--"];
        let init = ["-d", DATABASE, "-i", "base", "--stop-after-init"];
        compose.run(&[&first[..], &init, &["--workers=0"]].concat())?;
        compose.run(&["up", "-d"])?;
        compose.answers()?;
        Ok(compose)
    }

    /// Where its visitors go.
    pub(super) fn place(&self) -> Place {
        Place {
            edge: self.address,
            host: "plain.isy.one".to_owned(),
            database: DATABASE.to_owned(),
            login: "admin".to_owned(),
            password: PASSWORD.to_owned(),
        }
    }

    /// Starts Odoo again, for what comes next must not suffer from what was.
    pub(super) fn restart(&self) -> Result<()> {
        self.run(&["restart", "odoo"])?;
        self.answers()
    }

    fn answers(&self) -> Result<()> {
        let begin = Instant::now();
        while isyone_tests::e2e::http::get(self.address, "plain.isy.one", "/web/login").status
            != 200
        {
            ensure!(begin.elapsed() < PATIENCE, "plain Odoo does not answer");
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    fn run(&self, args: &[&str]) -> Result<()> {
        let mut command = Command::new("docker");
        command.args(["compose", "-p", "plain", "-f"]);
        command.arg(&self.file).args(args);
        let output = run(command.env("DOCKER_HOST", self.docker.host()));
        let words = args.join(" ");
        ensure!(output.code == 0, "compose {words}: {}", output.stderr);
        Ok(())
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        let down = self.run(&["down", "--volumes", "--timeout", "1"]);
        if let Err(error) = down {
            eprintln!("{error:#}");
        }
    }
}

fn project(address: &str, plan: &Plan) -> String {
    let (http, gevent, _) = PORTS;
    // As the agent splits a plan: three quarters are Odoo's.
    let (odoo, postgres) = (plan.memory_mib * 3 / 4, plan.memory_mib / 4);
    let workers = plan.workers;
    format!(
        "services:
  odoo:
    image: odoo:19.0
    depends_on: [db]
    command: [\"--\", \"-d\", \"{DATABASE}\", \"--workers={workers}\", \"--proxy-mode\"]
    environment: {{HOST: db, USER: odoo, PASSWORD: odoo}}
    ports: [\"{address}:{http}:8069\", \"{address}:{gevent}:8072\"]
    restart: unless-stopped
    mem_limit: {odoo}m
    cpus: 1
    labels: {{one.isy.tenant: plain}}
  db:
    image: postgres:15
    environment: {{POSTGRES_USER: odoo, POSTGRES_PASSWORD: odoo, POSTGRES_DB: postgres}}
    restart: unless-stopped
    mem_limit: {postgres}m
    cpus: 1
    labels: {{one.isy.tenant: plain}}
"
    )
}

fn traefik(dir: &Path, address: &str, plan: &Plan) -> Result<Daemon> {
    let (http, gevent, port) = PORTS;
    // Without workers, the one process serves both.
    let gevent = if plan.workers > 0 { gevent } else { http };
    let routes = format!(
        "http:
  routers:
    odoo: {{rule: \"PathPrefix(`/`)\", service: odoo, entryPoints: [web]}}
    websocket: {{rule: \"PathPrefix(`/websocket`)\", service: websocket, entryPoints: [web]}}
  services:
    odoo: {{loadBalancer: {{servers: [{{url: \"http://{address}:{http}\"}}]}}}}
    websocket: {{loadBalancer: {{servers: [{{url: \"http://{address}:{gevent}\"}}]}}}}
"
    );
    let fixed = format!(
        "global: {{checkNewVersion: false, sendAnonymousUsage: false}}
entryPoints: {{web: {{address: \"127.0.0.1:{port}\"}}}}
providers: {{file: {{filename: \"{}\"}}}}
",
        dir.join("routes.yml").display()
    );
    let file = dir.join("traefik.yml");
    std::fs::write(dir.join("routes.yml"), routes).context("routes")?;
    std::fs::write(&file, fixed).context("traefik.yml")?;
    let mut command = Command::new(tool("traefik"));
    command.arg(format!("--configFile={}", file.display()));
    Ok(Daemon::start(
        "plain traefik",
        &mut command,
        &dir.join("traefik.log"),
    ))
}
