//! `isy-agent`: the host agent's command line. Everything it does is in the library.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use isyone_agent::{
    agent::{Agent, AgentParts, PortAddress},
    base::config::DataDir,
    docker::engine::Engine,
    doctor::{self, Patient},
    host::{
        Pace,
        firewall::{Applier, Nft, Repair},
        probe::NetProbe,
        relay::{Keeper, Program, version},
    },
    jobs::{DEFAULT_RATE_BYTES_PER_S, fetch::Reserve},
    link::join::{JoinOptions, Joined, join},
    relay,
};
use isyone_proto::{finding, ids::HostName, token::JoinToken};
use isyone_telemetry::{Format, Telemetry};
use tokio::{net::TcpListener, signal::unix::SignalKind};

/// Default data directory of the agent.
const DATA_DIR: &str = "/var/lib/isyone-agent";
/// Most tasks end at once; the rest are abandoned, as a crash would abandon them.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// What is logged unless `RUST_LOG` says otherwise. Of these libraries only what is wrong: one repeats what tenants' databases
/// answer, the other tells its progress.
const LOGGED: &str = "info,tokio_postgres=warn,rustic_core=warn";
/// How long a stop may wait for the trace collector.
const LAST_TRACES: Duration = Duration::from_secs(3);

#[derive(Parser)]
#[command(
    name = "isy-agent",
    version,
    about = "Runs a host's Odoo tenants as the coordinator plans them"
)]
struct Cli {
    #[command(subcommand)]
    command: AgentCommand,
}

#[derive(Subcommand)]
enum AgentCommand {
    /// Join a fleet with a token from `isyctl host token`; once per host, and again with --rejoin.
    Join(JoinArguments),
    /// Run until told to stop. Tenants run on without the agent.
    Run(RunArguments),
    /// Run this host's relay, at which tenants' visitors arrive. The agent starts one by itself, unless it is told otherwise
    /// (`run --relay`).
    Relay(RelayArguments),
    /// Look at everything of this host that can break a tenant: what was found, why it matters, what to do. Changes nothing; works
    /// before the host has joined, and while the agent runs.
    Doctor(DoctorArguments),
    /// Print the version.
    Version,
}

#[derive(Args)]
#[command(after_help = DOCTOR_EXAMPLES)]
struct DoctorArguments {
    /// Data directory.
    #[arg(long, env = "ISYONE_AGENT_DATA", default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// The Docker Engine.
    #[arg(
        long,
        env = "ISYONE_DOCKER",
        default_value = "unix:///var/run/docker.sock"
    )]
    docker: String,
    /// Directory for tenants' data, if it is not in Docker's data directory.
    #[arg(long, env = "ISYONE_TENANTS_DIR")]
    tenants_dir: Option<PathBuf>,
    /// For programs.
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

const DOCTOR_EXAMPLES: &str = "\
The worst comes first. Exit code: 0 nothing bad, 1 something is.

Examples:
  isy-agent doctor
  isy-agent doctor -o json | jq '.[] | select(.level == \"bad\")'";

#[derive(Args)]
struct JoinArguments {
    /// The coordinator's enrolment address, HOST:7444.
    #[arg(long, env = "ISYONE_COORDINATOR")]
    coordinator: String,
    /// File with the join token.
    #[arg(long, conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// The join token itself. It would show in the process list: a file or the environment is better.
    #[arg(long, env = "ISYONE_JOIN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// This host's name in the fleet; by default the machine's.
    #[arg(long, env = "ISYONE_HOST_NAME")]
    name: Option<HostName>,
    /// Address at which the edges reach this host's tenants; by default the one that leads to the coordinator.
    #[arg(long, env = "ISYONE_ADVERTISE")]
    advertise: Option<IpAddr>,
    /// Label KEY=VALUE for placement; may be repeated.
    #[arg(long = "label", value_parser = key_value)]
    labels: Vec<(String, String)>,
    /// Join anew where this host has joined before, with a new token for its name. Its data stays, and what is not given
    /// here: name, address, labels.
    #[arg(long)]
    rejoin: bool,
    /// Data directory.
    #[arg(long, env = "ISYONE_AGENT_DATA", default_value = DATA_DIR)]
    data_dir: PathBuf,
}

#[derive(Args)]
struct RunArguments {
    /// Data directory.
    #[arg(long, env = "ISYONE_AGENT_DATA", default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// The Docker Engine.
    #[arg(
        long,
        env = "ISYONE_DOCKER",
        default_value = "unix:///var/run/docker.sock"
    )]
    docker: String,
    /// Directory for tenants' data, which must be there; by default `isyone` in Docker's data directory. Tenants that have data
    /// keep it where it is.
    #[arg(long, env = "ISYONE_TENANTS_DIR")]
    tenants_dir: Option<PathBuf>,
    /// Address of /healthz and /metrics.
    #[arg(long, env = "ISYONE_AGENT_HTTP", default_value = "127.0.0.1:7481")]
    http: SocketAddr,
    /// Where Prometheus scrapes this host and its tenants, with a client certificate: ADDRESS:PORT, or `off`; by default port
    /// 7482 of the address that the edges use.
    #[arg(long, env = "ISYONE_AGENT_METRICS", value_parser = port_address)]
    metrics: Option<PortAddress>,
    /// Where other hosts' agents fetch tenants' data, when the coordinator has them do so: ADDRESS:PORT, or `off`; by default
    /// port 7483 of the address that the edges use.
    #[arg(long, env = "ISYONE_AGENT_PEER", value_parser = port_address)]
    peer: Option<PortAddress>,
    /// MiB per second that copies of tenants to this host may take together, and those from it; 0: no limit.
    #[arg(long, env = "ISYONE_AGENT_COPY_RATE_MIB", default_value_t = DEFAULT_RATE_BYTES_PER_S >> 20)]
    copy_rate_mib: u64,
    /// MiB that copies of tenants leave free on this host's disk; by default 5 % of it, at least 1 GiB and at most 20 GiB.
    #[arg(long, env = "ISYONE_AGENT_COPY_RESERVE_MIB")]
    copy_reserve_mib: Option<u64>,
    /// Keep copies up with tenants that run on other hosts, and let this host's be followed, for moves with `--max-pause`. Not for
    /// production yet: its end-to-end test has not passed as a whole.
    #[arg(long, env = "ISYONE_AGENT_LIVE_MOVES", hide = true)]
    live_moves: bool,
    /// Name servers that Docker gives containers by its own options (dockerd --dns): tenants may ask these, wherever they are,
    /// as those in /etc/resolv.conf. Several are separated by commas.
    #[arg(
        long = "resolver",
        env = "ISYONE_AGENT_RESOLVERS",
        value_name = "ADDRESS",
        value_delimiter = ','
    )]
    resolvers: Vec<Ipv4Addr>,
    /// Who runs the relay at which tenants' visitors arrive. `own`: the agent starts it, and it goes on without the agent; `unit`: the
    /// service manager does (isy-agent-relay.service); `off`: there is none, and Docker publishes tenants' ports.
    #[arg(long, env = "ISYONE_AGENT_RELAY", value_enum, default_value = "own")]
    relay: RelayBy,
    /// Form of the log.
    #[arg(long, env = "ISYONE_LOG_FORMAT", value_enum, default_value = "human")]
    log_format: LogFormat,
    /// Start tenants even where no packet filter can be put up. They can then reach each other.
    #[arg(long, env = "ISYONE_INSECURE_NO_FIREWALL")]
    insecure_no_firewall: bool,
    /// Restart Docker (`systemctl restart docker`) when its own rules of the packet filter are gone, as after `nft flush ruleset`; only
    /// while its `live-restore` is on, so that tenants run on. Without this the host is shown as degraded, with the command.
    #[arg(long, env = "ISYONE_AGENT_REPAIR_DOCKER")]
    repair_docker: bool,
}

#[derive(Args)]
#[command(after_help = RELAY_EXAMPLES)]
struct RelayArguments {
    /// The agent's data directory: the relay's files are in `relay/` there.
    #[arg(long, env = "ISYONE_AGENT_DATA", default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// Have the relay that runs end, and wait for that. Requests under way end first; nobody new is served.
    #[arg(long)]
    stop: bool,
    /// Leave the session of whoever starts it, and keep a log that is a file short.
    #[arg(long, hide = true)]
    detach: bool,
    /// Form of the log.
    #[arg(long, env = "ISYONE_LOG_FORMAT", value_enum, default_value = "human")]
    log_format: LogFormat,
}

const RELAY_EXAMPLES: &str = "\
A relay that runs already hands its sockets over to the new one, comes to the end of what it has, and leaves.

Examples:
  isy-agent relay
  isy-agent relay --data-dir /srv/isyone-agent --log-format json
  isy-agent relay --stop
  curl --unix-socket /var/lib/isyone-agent/relay/admin.sock http://localhost/health";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RelayBy {
    Own,
    Unit,
    Off,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Human,
    Json,
}

fn port_address(text: &str) -> Result<PortAddress, String> {
    if text == "off" {
        return Ok(PortAddress::Off);
    }
    text.parse()
        .map(PortAddress::At)
        .map_err(|_| "expected ADDRESS:PORT or off".to_owned())
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("isy-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    // A relay has as many threads as there are CPUs. For the rest two are plenty: the work is in Docker, PostgreSQL and the disk.
    match &cli.command {
        AgentCommand::Relay(arguments) if !arguments.stop => {
            if let Err(e) = relay::shed_privileges() {
                eprintln!("isy-agent: the relay keeps what it may do here: {e}");
            }
        }
        _ => drop(threads.worker_threads(2)),
    }
    let runtime = threads.enable_all().build()?;
    match cli.command {
        AgentCommand::Version => {
            println!("isy-agent {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        AgentCommand::Doctor(arguments) => runtime.block_on(see_doctor(arguments)),
        AgentCommand::Join(arguments) => runtime.block_on(join_fleet(arguments)),
        AgentCommand::Relay(arguments) if arguments.stop => {
            let data = DataDir::new(arguments.data_dir);
            let stopped = runtime.block_on(relay::stop(&data))?;
            let said = if stopped { "stopped" } else { "no relay runs" };
            println!("{said}");
            Ok(())
        }
        AgentCommand::Run(arguments) => {
            let format = arguments.log_format;
            with_telemetry("isy-agent", format, runtime, serve(arguments))
        }
        AgentCommand::Relay(arguments) => {
            let format = arguments.log_format;
            let serving = async move {
                let data = DataDir::new(arguments.data_dir);
                Ok(relay::serve(&data, arguments.detach).await?)
            };
            with_telemetry("isy-agent-relay", format, runtime, serving)
        }
    }
}

/// Runs a service to its end, with logs and traces.
fn with_telemetry(
    name: &'static str,
    format: LogFormat,
    runtime: tokio::runtime::Runtime,
    service: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let telemetry = {
        let _inside = runtime.enter();
        start_telemetry(name, format)
    };
    let outcome = runtime.block_on(service);
    telemetry.finish(LAST_TRACES);
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Logs as `RUST_LOG` says, and traces if the environment asks for it.
fn start_telemetry(name: &'static str, format: LogFormat) -> Telemetry {
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| LOGGED.into());
    let format = match format {
        LogFormat::Human => Format::Human,
        LogFormat::Json => Format::Json,
    };
    isyone_telemetry::start(name, Some((filter, format)))
}

#[expect(
    clippy::disallowed_methods,
    reason = "whoever joins the host names the file with the token"
)]
async fn join_fleet(arguments: JoinArguments) -> anyhow::Result<()> {
    let token = match (&arguments.token_file, &arguments.token) {
        (Some(path), _) => std::fs::read_to_string(path)
            .with_context(|| format!("{} cannot be read", path.display()))?,
        (None, Some(token)) => token.clone(),
        (None, None) => {
            anyhow::bail!("give the join token with --token-file, or in ISYONE_JOIN_TOKEN")
        }
    };
    let again = arguments.rejoin;
    let options = JoinOptions {
        coordinator: arguments.coordinator,
        token: token
            .parse::<JoinToken>()
            .map_err(|e| anyhow::anyhow!("the token {e}"))?,
        name: arguments.name,
        advertise: arguments.advertise,
        labels: arguments.labels.into_iter().collect::<BTreeMap<_, _>>(),
        rejoin: arguments.rejoin,
    };
    let data = DataDir::new(arguments.data_dir);
    let Joined { config, pending } = join(&data, options).await?;
    println!(
        "joined as `{}`, reached by the edges at {}",
        config.name, config.advertise
    );
    if pending {
        println!(
            "it gets no tenants before an admin has let it in: isyctl host approve {}",
            config.name
        );
    }
    println!("next: isy-agent run --data-dir {}", data.path().display());
    if again {
        println!(
            "an agent that runs already takes up the new certificate by itself; restart it if it joined another coordinator"
        );
    }
    Ok(())
}

async fn see_doctor(arguments: DoctorArguments) -> anyhow::Result<()> {
    let patient = Patient {
        data: DataDir::new(arguments.data_dir),
        docker: Arc::new(Engine::new(&arguments.docker)),
        tenants_dir: arguments.tenants_dir,
        nft: Nft::default(),
    };
    let found = doctor::examine(&patient).await;
    match arguments.output {
        Output::Text => print!("{}", finding::text(&found)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&found)?),
    }
    let bad = found
        .iter()
        .filter(|f| f.level == finding::Level::Bad)
        .count();
    anyhow::ensure!(bad == 0, "{bad} of {} checks are bad", found.len());
    Ok(())
}

async fn serve(arguments: RunArguments) -> anyhow::Result<()> {
    let data = DataDir::new(arguments.data_dir);
    data.load_config()?; // a host that has not joined gets no lock file
    let _lock = data.lock()?;
    let http = TcpListener::bind(arguments.http)
        .await
        .with_context(|| format!("{} cannot be listened on", arguments.http))?;
    let relay = keeper(arguments.relay, &data, arguments.log_format)?;
    let agent = Agent::start(AgentParts {
        data,
        relay,
        docker: Arc::new(Engine::new(&arguments.docker)),
        probe: Arc::new(NetProbe),
        pace: Pace::default(),
        tenants_dir: arguments.tenants_dir,
        http: Some(http),
        metrics: arguments.metrics.unwrap_or(PortAddress::Advertised),
        peer: arguments.peer.unwrap_or(PortAddress::Advertised),
        copy_rate_bytes_per_s: arguments.copy_rate_mib.saturating_mul(1 << 20),
        copy_reserve: arguments
            .copy_reserve_mib
            .map_or_else(Reserve::default, Reserve::mib),
        follows: arguments.live_moves,
        firewall: Some(Applier {
            insecure: arguments.insecure_no_firewall,
            resolvers: arguments.resolvers,
            repair: Repair {
                allowed: arguments.repair_docker,
                ..Repair::default()
            },
            ..Applier::default()
        }),
    })?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), http = %arguments.http, "running");
    notify(sd_notify::NotifyState::Ready);
    until_told().await?;
    notify(sd_notify::NotifyState::Stopping);
    tracing::info!("stopping; tenants run on");
    if tokio::time::timeout(STOP_TIMEOUT, agent.stop())
        .await
        .is_err()
    {
        tracing::warn!("some tasks did not end in time and are left behind");
    }
    Ok(())
}

/// Who keeps the relay running, if there is to be one.
fn keeper(by: RelayBy, data: &DataDir, format: LogFormat) -> anyhow::Result<Option<Keeper>> {
    match by {
        RelayBy::Off => return Ok(None),
        RelayBy::Unit => return Ok(Some(Keeper::Unit(version()))),
        RelayBy::Own => {}
    }
    if std::env::var_os("INVOCATION_ID").is_some() {
        tracing::warn!(
            "a service manager runs this agent, and ends the relay with it unless its unit says KillMode=process; \
             better let it run the relay, too: isy-agent-relay.service, and --relay unit"
        );
    }
    let path = std::env::current_exe().context("where this program is cannot be found out")?;
    let directory = std::path::absolute(data.path())?;
    let format = match format {
        LogFormat::Human => "human",
        LogFormat::Json => "json",
    };
    let arguments = [
        "relay".to_owned(),
        "--detach".to_owned(),
        format!("--log-format={format}"),
        format!("--data-dir={}", directory.display()),
    ];
    Ok(Some(Keeper::Agent(Program {
        version: version(),
        path,
        arguments: arguments.to_vec(),
        log: DataDir::new(directory).relay().join("relay.log"),
    })))
}

/// Notifies systemd, if it is there; without it nothing is lost.
fn notify(state: sd_notify::NotifyState<'_>) {
    let _ = sd_notify::notify(&[state]);
}

/// Waits for SIGTERM or SIGINT and feeds systemd's watchdog meanwhile.
async fn until_told() -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(SignalKind::interrupt())?;
    let watchdog = sd_notify::watchdog_enabled();
    let mut feed = tokio::time::interval(watchdog.unwrap_or(Duration::from_secs(3600)) / 2);
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = feed.tick() => if watchdog.is_some() { notify(sd_notify::NotifyState::Watchdog) },
        }
    }
}
