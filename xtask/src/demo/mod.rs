//! `cargo xtask demo`: the whole product on this machine, from nothing to a tenant that one can log in to.
//!
//! Real parts only: coordinator, agents, Docker, Odoo, PostgreSQL, Traefik, Prometheus, Alertmanager. Everything of a
//! demo is in one folder (`.demo`): configuration, data, logs, records of the running programs. Every step first checks
//! whether it is done, so a second run continues an interrupted one, restarts what died, and changes nothing else.
//! `--down` ends exactly what is recorded there. Not here: the machine's packages (setup) and images (images); both
//! stay.

mod config;
mod down;
mod http;
mod monitoring;
mod process;
mod settings;
mod site;
mod status;
mod up;

use crate::cmd::{need_root, output};
use crate::paths;
use anyhow::{Context as _, Result};
use process::Process;
use settings::Settings;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Options of `demo`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Number of hosts: 1 is this machine's own Docker, more are that many Docker daemons of their own [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=20))]
    hosts: Option<u8>,
    /// Stop the demo and remove everything it made, tenants and their data included
    #[arg(long, conflicts_with_all = ["hosts", "release", "keep_going", "Ports"])]
    down: bool,
    /// Build with optimisations (slower to build)
    #[arg(long)]
    release: bool,
    /// Use the binaries in this folder in place of building them
    #[arg(
        long,
        env = "ISYONE_BIN",
        value_name = "FOLDER",
        conflicts_with = "release"
    )]
    bin: Option<PathBuf>,
    /// Go on without monitoring when it cannot be started, and when a check at the end fails
    #[arg(long)]
    keep_going: bool,
    /// Folder for everything of the demo [default: .demo in the repository]
    #[arg(long, global = true, env = "ISYONE_DEMO", value_name = "FOLDER")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    ports: Ports,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Say what of the demo runs; exit code 1 when a part of it does not
    Status,
}

/// Ports to use in place of the usual ones.
#[derive(clap::Args, Default)]
#[command(next_help_heading = "Ports")]
struct Ports {
    /// Traefik, for visitors [default: 80, or 8080 when that is taken]
    #[arg(long, value_name = "PORT")]
    web_port: Option<u16>,
    /// Traefik's dashboard [default: 8080, or 8081 when that is taken]
    #[arg(long, value_name = "PORT")]
    dashboard_port: Option<u16>,
    /// Coordinator, gRPC [default: 7443]
    #[arg(long, value_name = "PORT")]
    grpc_port: Option<u16>,
    /// Coordinator, joining of hosts [default: 7444]
    #[arg(long, value_name = "PORT")]
    enroll_port: Option<u16>,
    /// Coordinator, HTTP [default: 7480]
    #[arg(long, value_name = "PORT")]
    http_port: Option<u16>,
    /// Agents, HTTP [default: 7481]
    #[arg(long, value_name = "PORT")]
    agent_port: Option<u16>,
    /// Traefik, its metrics [default: 8082]
    #[arg(long, value_name = "PORT")]
    edge_metrics_port: Option<u16>,
    /// Agents, what Prometheus scrapes [default: 7482]
    #[arg(long, value_name = "PORT")]
    agent_metrics_port: Option<u16>,
    /// Prometheus [default: 9090]
    #[arg(long, value_name = "PORT")]
    prometheus_port: Option<u16>,
    /// Alertmanager [default: 9093]
    #[arg(long, value_name = "PORT")]
    alertmanager_port: Option<u16>,
    /// Grafana, where its image can be had [default: 3000]
    #[arg(long, value_name = "PORT")]
    grafana_port: Option<u16>,
}

/// The demo's folder in the repository, unless another is given.
const FOLDER: &str = ".demo";
/// The first tenant.
const TENANT: &str = "alfa";
const DOMAIN: &str = "alfa.isy.one";

pub(crate) fn run_demo(args: &Args) -> Result<ExitCode> {
    let folder = args
        .dir
        .clone()
        .unwrap_or_else(|| paths::root().join(FOLDER));
    let folder = std::path::absolute(&folder)?;
    if matches!(args.verb, Some(Verb::Status)) {
        return status::print(&folder);
    }
    need_root("the demo")?;
    if args.down {
        down::down(&folder)?;
    } else {
        up::up(&folder, args)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A demo that has been started at least once.
struct Demo {
    folder: PathBuf,
    settings: Settings,
    start: Instant,
}

impl Demo {
    /// Reports progress to the user.
    fn say(&self, text: &str) {
        eprintln!("demo {:>6.1} s  {text}", self.start.elapsed().as_secs_f32());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn process(&self, name: &str) -> Process {
        Process::new(&self.folder, name)
    }

    /// The programs of this demo.
    fn processes(&self) -> Vec<Process> {
        let agents = self.settings.host_names();
        let names = ["coordinator".to_owned()]
            .into_iter()
            .chain(agents.iter().map(|host| agent_process(host)));
        let rest = ["traefik", "alertmanager", "prometheus"].map(str::to_owned);
        // Its image is not available everywhere, so it counts only if it was started.
        let grafana =
            Some(monitoring::GRAFANA.to_owned()).filter(|name| self.process(name).was_started());
        names
            .chain(rest)
            .chain(grafana)
            .map(|name| self.process(&name))
            .collect()
    }

    fn context(&self) -> PathBuf {
        self.path("admin.toml")
    }

    /// One of our own programs.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.path("bin").join(name));
        process::without_foreign(&mut command);
        command
    }

    /// `isyctl ARGS…` as the demo's administrator.
    fn isyctl(&self, args: &[&str]) -> Command {
        let mut command = self.program("isyctl");
        command.arg("--context").arg(self.context()).args(args);
        command
    }

    /// The URL under which browsers and `curl` reach Traefik.
    fn edge(&self) -> String {
        format!("http://127.0.0.1{}", self.settings.web_suffix())
    }

    fn hosts(&self) -> Result<crate::hosts::Hosts> {
        hosts_in(&self.folder)
    }
}

fn hosts_in(folder: &Path) -> Result<crate::hosts::Hosts> {
    crate::hosts::Hosts::at(folder.join("hosts"))
        .context("give the demo a shorter folder with --dir")
}

fn agent_process(host: &str) -> String {
    format!("agent-{host}")
}

/// Ensures that only one `demo` runs at a time.
fn lock(folder: &Path) -> Result<File> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = File::options()
        .create(true)
        .append(true)
        .open(folder.join("lock"))?;
    file.try_lock()
        .ok()
        .with_context(|| format!("another `cargo xtask demo` works in {}", folder.display()))?;
    Ok(file)
}

/// Writes a file by rename unless it already has this content; true if it was written.
fn write_changed(file: &Path, text: &str) -> Result<bool> {
    if fs::read_to_string(file).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    let write = || {
        fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
        let new = file.with_extension("new");
        fs::write(&new, text)?;
        // A context file must stay private.
        if let Ok(old) = fs::metadata(file) {
            fs::set_permissions(&new, old.permissions())?;
        }
        fs::rename(&new, file)
    };
    write().with_context(|| format!("cannot write {}", file.display()))?;
    Ok(true)
}

/// What a command prints, or `None` if it fails.
fn said(command: &mut Command) -> Option<String> {
    output(command).ok()
}
