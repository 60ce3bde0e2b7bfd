//! The program `isy-coordinator`: command line, signals and exit codes around [`server`].
//!
//! Not here: the parts that it starts, and what `init` makes.

mod backup;
mod bucket;
mod pki;
mod restore;

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use isyone_proto::{finding, ids::ShortName, spec::Domain};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    base::{
        config::{self, Config, LogFormat},
        secrets, telemetry,
    },
    doctor, init, rebuild, server,
    writer::SystemSource,
};

/// The coordinator of an isyone fleet: keeps what operators want, chooses hosts, tells agents, Traefik and Prometheus.
#[derive(Parser)]
#[command(name = "isy-coordinator", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Invocation>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Invocation {
    /// Make a new data directory: certificate authority, sealing key, database, configuration, the first admin.
    Init(Init),
    /// Run (the default).
    Run(Run),
    /// Make hosts take the plans of a database that is older than what they have seen.
    ///
    /// For a coordinator that was restored from an older copy of its database, when the newest is lost. Hosts keep their
    /// plans then, and operators are told. This raises the incarnation by one in the database of a coordinator that is
    /// stopped; once it runs again, hosts take its plans as newer than all before. Read docs/operations.md first: what
    /// was done after the copy was made is undone on the hosts, except that no data is removed.
    ///
    /// Example: isy-coordinator raise-incarnation --data-dir /var/lib/isyone
    RaiseIncarnation(RaiseIncarnation),
    /// Replace the CA and the sealing key of the coordinator that runs.
    #[command(subcommand)]
    Pki(pki::Pki),
    /// Rebuild the database and the configuration from what the coordinator has shipped to a destination of backups.
    ///
    /// For a new machine, after `restore-keys` (or with ISYONE_SEAL_KEY). Nothing that is there is overwritten. Hosts and
    /// operators go on when it runs; docs/operations.md says what there is to look at.
    ///
    /// Example: isy-coordinator restore --from /mnt/backups --data-dir /var/lib/isyone
    ///
    /// Example: isy-coordinator restore --from-bucket https://s3.example.com/isyone-backups --access-key-file /root/s3.access --secret-key-file /root/s3.secret
    Restore(restore::Restore),
    /// Look at a bucket of [backup.buckets]: whether it answers, and whether what is in it is what was brought there.
    #[command(subcommand)]
    Bucket(bucket::Order),
    /// Look at everything of this machine and its configuration that can keep the coordinator from its work: what was found, why it
    /// matters, what to do. Changes nothing, and works whether it runs or not. Exit code 1 when something is bad.
    ///
    /// Example: isy-coordinator doctor --data-dir /var/lib/isyone
    Doctor(Doctor),
    /// Copy the database, also while the coordinator runs. The keys are not in it.
    ///
    /// Example: isy-coordinator backup --out /backup/isyone-2026-11-28.db
    Backup(backup::Database),
    /// Encrypt the keys (CA, sealing key, tokens) with a passphrase into a file.
    ///
    /// Example: isy-coordinator backup-keys --out /backup/isyone.keys --passphrase-file /root/passphrase
    BackupKeys(backup::SaveKeys),
    /// Put the keys of a backup into a data directory.
    ///
    /// Example: isy-coordinator restore-keys --from /backup/isyone.keys --passphrase-file /root/passphrase
    RestoreKeys(backup::RestoreKeys),
}

/// What both commands can be told besides the file.
#[derive(Args, Clone)]
struct Common {
    /// Database, keys and certificates.
    #[arg(long, env = "ISYONE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// gRPC listens here.
    #[arg(long, env = "ISYONE_GRPC", value_name = "IP:PORT")]
    grpc: Option<SocketAddr>,
    /// Enrolment listens here.
    #[arg(long, env = "ISYONE_ENROLL", value_name = "IP:PORT")]
    enroll: Option<SocketAddr>,
    /// Plain HTTP listens here.
    #[arg(long, env = "ISYONE_HTTP", value_name = "IP:PORT")]
    http: Option<SocketAddr>,
    /// Name or address of this machine, for its certificate; repeat it. Agents dial the first.
    #[arg(
        long,
        env = "ISYONE_ADVERTISE",
        value_name = "HOST",
        value_delimiter = ','
    )]
    advertise: Vec<String>,
    /// The domain under which tenants get theirs.
    #[arg(long, env = "ISYONE_BASE_DOMAIN", value_name = "DOMAIN")]
    base_domain: Option<Domain>,
}

#[derive(Args)]
struct Init {
    #[command(flatten)]
    common: Common,
    /// Where to write the first admin's context for isyctl [default: <DATA_DIR>/<ADMIN>.context.toml]
    #[arg(long, env = "ISYONE_CONTEXT_FILE", value_name = "FILE")]
    context_file: Option<PathBuf>,
    /// Name of the first admin.
    #[arg(long, env = "ISYONE_ADMIN", default_value = "admin")]
    admin: ShortName,
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    common: Common,
    /// Configuration file [default: <DATA_DIR>/coordinator.toml]
    #[arg(long, env = "ISYONE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the effective configuration and exit; 2 when it is wrong.
    #[arg(long)]
    check_config: bool,
    /// How log lines look.
    #[arg(long, env = "ISYONE_LOG_FORMAT", value_enum)]
    log_format: Option<LogFormat>,
    /// What is logged, as RUST_LOG.
    #[arg(long, env = "ISYONE_LOG")]
    log: Option<String>,
}

#[derive(Args)]
struct Doctor {
    #[command(flatten)]
    run: Run,
    /// For programs.
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Args)]
struct RaiseIncarnation {
    /// The stopped coordinator's data directory.
    #[arg(long, env = "ISYONE_DATA_DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
}

/// How long a stop may wait to deliver the last traces: well within what remains of systemd's stop timeout.
const LAST_TRACES: Duration = Duration::from_secs(3);
/// The data directory of a packaged coordinator.
const DEFAULT_DATA_DIR: &str = "/var/lib/isyone";

impl Common {
    fn apply(&self, config: &mut Config) {
        if let Some(dir) = &self.data_dir {
            config.data_dir.clone_from(dir);
        }
        config.listen.grpc = self.grpc.unwrap_or(config.listen.grpc);
        config.listen.enroll = self.enroll.unwrap_or(config.listen.enroll);
        config.listen.http = self.http.unwrap_or(config.listen.http);
        if !self.advertise.is_empty() {
            config.advertise.hosts.clone_from(&self.advertise);
        }
        if let Some(domain) = &self.base_domain {
            config.base_domain = domain.clone();
        }
    }
}

/// Runs a command line; the first argument is the program's name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let began = Instant::now();
    let cli = Cli::parse_from(arguments);
    let result = match cli.command {
        Some(Invocation::Init(init)) => make(init).map(|()| ExitCode::SUCCESS),
        Some(Invocation::Run(run)) => serve(run, began),
        Some(Invocation::RaiseIncarnation(raise)) => {
            raise_incarnation(&raise).map(|()| ExitCode::SUCCESS)
        }
        Some(Invocation::Doctor(doctor)) => examine(&doctor),
        Some(Invocation::Pki(order)) => pki::run(order),
        Some(Invocation::Bucket(order)) => bucket::run(&order),
        Some(Invocation::Restore(asked)) => restore::run(&asked).map(|()| ExitCode::SUCCESS),
        Some(Invocation::Backup(asked)) => backup::database(&asked).map(|()| ExitCode::SUCCESS),
        Some(Invocation::BackupKeys(asked)) => {
            backup::save_keys(&asked).map(|()| ExitCode::SUCCESS)
        }
        Some(Invocation::RestoreKeys(asked)) => {
            backup::restore_keys(&asked).map(|()| ExitCode::SUCCESS)
        }
        None => serve(cli.run, began),
    };
    result.unwrap_or_else(|error| {
        eprintln!("isy-coordinator: {error:#}");
        ExitCode::FAILURE
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no runtime")
}

fn make(init: Init) -> Result<()> {
    let mut config = Config {
        data_dir: DEFAULT_DATA_DIR.into(),
        ..Config::default()
    };
    init.common.apply(&mut config);
    let context = match init.context_file {
        Some(file) => file,
        None => config.data_dir.join(format!("{}.context.toml", init.admin)),
    };
    runtime()?.block_on(init::init(&config, &init.admin, &context))?;
    let dir = config.data_dir.display();
    println!("data directory  {dir}");
    println!("configuration   {dir}/{}", config::FILE_NAME);
    println!("admin's context {}", context.display());
    println!("next            isy-coordinator run --data-dir {dir}");
    println!(
        "Keep a copy of the keys somewhere else (isy-coordinator backup-keys): without them no stored password can be read."
    );
    Ok(())
}

fn examine(asked: &Doctor) -> Result<ExitCode> {
    let found = match effective(&asked.run) {
        Ok(config) => doctor::examine(&config),
        Err(error) => doctor::unusable(&format!("{error:#}")),
    };
    match asked.output {
        Output::Text => print!("{}", finding::text(&found)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&found)?),
    }
    Ok(match found.iter().any(|f| f.level == finding::Level::Bad) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

fn raise_incarnation(raise: &RaiseIncarnation) -> Result<()> {
    let dir = &raise.data_dir;
    raised(dir)?;
    println!(
        "next            isy-coordinator run --data-dir {}",
        dir.display()
    );
    println!("then            isyctl host list; isyctl tenant list (see docs/operations.md)");
    Ok(())
}

fn raised(dir: &Path) -> Result<()> {
    let raised = runtime()?.block_on(async {
        let mut store = rebuild::open(dir).await?;
        // What depends on the configuration (which hosts get new tenants) is not stored, so any does.
        let settings = Config::default().settings();
        rebuild::raise_incarnation(&mut store, &settings, &mut SystemSource).await
    })?;
    println!("incarnation     {}, was {}", raised.to, raised.from);
    println!(
        "hosts           {}: each takes this database's plan when it connects, whatever it has",
        raised.hosts
    );
    Ok(())
}

/// The file's configuration, overridden by command line and environment.
fn effective(run: &Run) -> Result<Config> {
    let dir = run
        .common
        .data_dir
        .clone()
        .unwrap_or_else(|| DEFAULT_DATA_DIR.into());
    let file = run
        .config
        .clone()
        .unwrap_or_else(|| dir.join(config::FILE_NAME));
    let mut config = Config::load(&file)?;
    run.common.apply(&mut config);
    config.log.format = run.log_format.unwrap_or(config.log.format);
    if let Some(filter) = &run.log {
        config.log.filter.clone_from(filter);
    }
    config.check()?;
    Ok(config)
}

fn serve(run: Run, began: Instant) -> Result<ExitCode> {
    let config = match effective(&run) {
        Ok(config) => config,
        Err(error) if run.check_config => {
            eprintln!("isy-coordinator: {error:#}");
            return Ok(ExitCode::from(2));
        }
        Err(error) => return Err(error),
    };
    if run.check_config {
        print!("{}", config.to_toml());
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = runtime()?;
    let telemetry = {
        let _inside = runtime.enter();
        telemetry::start(&config.log)
    };
    raise_file_limit();
    // A default provider for code that asks the process for one; our own code passes its provider explicitly.
    let _ = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider().install_default();
    let ended = runtime.block_on(run_until_told(config, began));
    telemetry.finish(LAST_TRACES);
    ended.map(|()| ExitCode::SUCCESS)
}

async fn run_until_told(config: Config, began: Instant) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP")?;
    let key = std::env::var(secrets::KEY_VARIABLE).ok();
    let parts = server::Parts::open(&config, key.as_deref()).await?;
    if let Ok(before) = std::env::var(secrets::KEY_BEFORE_VARIABLE) {
        parts.sealer.load_before(&before)?;
    }
    let mut running = server::start(config, parts, SystemSource).await?;
    warn_of_file_limit(running.handle.snapshot().fleet.hosts.len());
    let ms = began.elapsed().as_millis();
    tracing::info!(grpc = %running.grpc, enroll = %running.enroll, http = %running.http, ms, "ready");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => running.refresh_certificates(),
            () = running.failed() => anyhow::bail!("a part of the coordinator has failed (see the log above); it must be started again"),
        }
    }
    tracing::info!("stopping");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    running.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// Open files besides the agents' connections: database, operators, edges, connections in their handshake.
const OTHER_FILES: u64 = 1_024;

/// Warns at startup of what would otherwise show only when the fleet comes back and some hosts do not get in.
fn warn_of_file_limit(hosts: usize) {
    use rustix::process::{Resource, getrlimit};
    let needed = hosts as u64 + OTHER_FILES;
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if limit < needed {
        tracing::warn!(
            limit,
            needed,
            hosts,
            "too few open files are allowed for all hosts to connect: raise LimitNOFILE"
        );
    }
}

/// Raises the limit as far as allowed, because every agent is an open file. A unit file needs a `LimitNOFILE` above the
/// number of hosts.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    ) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
