//! A real coordinator process with real certificates, and hosts that have reported.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use arc_swap::ArcSwap;
use isyone_coordinator::{
    base::{
        clock,
        config::{Config, FILE_NAME, Span},
        pki::{Pki, PkiConfig},
    },
    init::{self, DATABASE_FILE, PKI_DIR},
    writer::store::{Store as _, TERM, sqlite::SqliteStore},
};
use isyone_fleet::{
    desired::Host,
    written::{RecordValue, Write},
};
use isyone_proto::{
    ids::HostName,
    pb::{
        agent::v1::{
            AgentMessage, Hello, Report, agent_message::Message,
            agent_service_client::AgentServiceClient, coordinator_message,
        },
        v1::{
            CreateOperatorRequest, GetInfoRequest, HostResources, Role,
            operator_service_client::OperatorServiceClient,
            system_service_client::SystemServiceClient,
        },
    },
    tls,
};
use isyone_tests::e2e::{binary, process::Daemon};
use tokio::sync::mpsc;
use tokio_rustls::rustls::ClientConfig;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use uuid::Uuid;

/// For the process to become ready, and for an acknowledgement.
const PATIENCE: Duration = Duration::from_secs(30);
/// Memory of each host: room for all tenants of a run, however few hosts there are.
const MEMORY_BYTES: u64 = 1 << 46;
/// Seven days, in seconds: more than a run takes.
const TTL_S: i64 = 7 * 86_400;

/// The fields that we need from the context file.
#[derive(serde::Deserialize)]
struct Papers {
    ca_pem: String,
    certificate_pem: String,
    key_pem: String,
}

/// An address, and the certificate to connect with.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    grpc: String,
    config: Arc<ClientConfig>,
}

impl Door {
    /// A connection that opens with its first call, on the runtime that this is called on.
    pub(crate) fn channel(&self) -> Result<Channel> {
        Ok(tls::channel(
            &self.grpc,
            Arc::new(ArcSwap::new(self.config.clone())),
        )?)
    }

    /// Opens a connection as an operator.
    pub(crate) async fn open(&self) -> Result<Channel> {
        let channel = self.channel()?;
        SystemServiceClient::new(channel.clone())
            .get_info(GetInfoRequest {})
            .await?;
        Ok(channel)
    }
}

#[derive(Debug)]
pub(crate) struct Coordinator {
    daemon: Daemon,
    config: Config,
    grpc: String,
    papers: PathBuf,
    agents: Vec<Arc<ClientConfig>>,
}

impl Coordinator {
    /// Makes a data directory in `dir`, starts the program on it, and lets all its hosts report once.
    pub(crate) async fn start(dir: &Path, hosts: usize) -> Result<Self> {
        let mut config = Config {
            data_dir: dir.join("data"),
            ..Config::default()
        };
        config.backup.enabled = false;
        let papers = dir.join("admin.toml");
        init::init(&config, &"admin".parse()?, &papers).await?;
        let agents = join(&config, hosts).await?;
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        (config.listen.grpc, config.listen.enroll, config.listen.http) = (any, any, any);
        // The hosts report only once and must count as fresh for the whole run.
        (config.liveness.suspect, config.liveness.lost) = (Span::days(1), Span::days(2));
        std::fs::write(config.data_dir.join(FILE_NAME), config.to_toml())?;
        let mut command = Command::new(binary("isy-coordinator"));
        command
            .args(["run", "--log-format", "json", "--data-dir"])
            .arg(&config.data_dir);
        let daemon = Daemon::start(
            "isy-coordinator",
            &mut command,
            &dir.join("coordinator.log"),
        );
        let grpc = ready(&daemon).await?;
        for (name, agent) in &agents {
            let door = Door {
                grpc: grpc.clone(),
                config: agent.clone(),
            };
            report(door.channel()?)
                .await
                .with_context(|| name.clone())?;
        }
        let agents = agents.into_iter().map(|(_, agent)| agent).collect();
        Ok(Self {
            daemon,
            config,
            grpc,
            papers,
            agents,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.daemon.kill();
    }

    fn door(&self, config: Arc<ClientConfig>) -> Door {
        Door {
            grpc: self.grpc.clone(),
            config,
        }
    }

    pub(crate) fn admin(&self) -> Result<Door> {
        let papers: Papers = toml::from_str(&std::fs::read_to_string(&self.papers)?)?;
        Ok(self.door(tls::client_config(
            &papers.ca_pem,
            &papers.certificate_pem,
            &papers.key_pem,
        )?))
    }

    /// Creates another operator.
    pub(crate) async fn operator(&self, name: &str) -> Result<Door> {
        let (key, csr_pem) = tls::new_key_and_csr(name)?;
        let request = CreateOperatorRequest {
            name: name.to_owned(),
            role: Role::Operator.into(),
            csr_pem,
            ..CreateOperatorRequest::default()
        };
        let channel = self.admin()?.channel()?;
        let made = OperatorServiceClient::new(channel)
            .create_operator(request)
            .await?
            .into_inner();
        Ok(self.door(tls::client_config(
            &made.ca_pem,
            &made.certificate_pem,
            &key,
        )?))
    }

    /// The doors of `count` agents, or of all if there are fewer.
    pub(crate) fn agents(&self, count: usize) -> Vec<Door> {
        self.agents
            .iter()
            .take(count)
            .map(|config| self.door(config.clone()))
            .collect()
    }

    /// Opens `count` connections as the admin.
    pub(crate) async fn clients(&self, count: usize) -> Result<Vec<Channel>> {
        let door = self.admin()?;
        let mut channels = Vec::with_capacity(count);
        for _ in 0..count {
            channels.push(door.open().await?);
        }
        Ok(channels)
    }

    /// Names of the tenants in the database. The coordinator must be dead.
    pub(crate) async fn stored(&self) -> Result<BTreeSet<String>> {
        let mut store = SqliteStore::open(&self.config.data_dir.join(DATABASE_FILE)).await?;
        let fleet = isyone_fleet::written::fleet(store.load().await?)?;
        Ok(fleet.tenants.keys().map(ToString::to_string).collect())
    }
}

/// Writes hosts with certificates into the database; returns how each connects.
async fn join(config: &Config, hosts: usize) -> Result<Vec<(String, Arc<ClientConfig>)>> {
    let now_s = clock::now_seconds();
    let pki_config = PkiConfig {
        dir: config.data_dir.join(PKI_DIR),
        hosts: config.advertise.hosts.clone(),
        server_ttl_s: TTL_S,
    };
    let pki = Pki::open(pki_config, Arc::new(|_, _| false), now_s)?;
    let (mut writes, mut agents) = (Vec::new(), Vec::new());
    for n in 0..hosts {
        let name: HostName = format!("h{n}").parse()?;
        let (key, csr) = tls::new_key_and_csr(name.as_str())?;
        let advertise = Ipv4Addr::from_bits(0xC612_0000 + u32::try_from(n)?).into();
        let issued = pki.sign_agent(&csr, &name, advertise, TTL_S, now_s)?;
        let host = Host {
            uid: Uuid::now_v7(),
            advertise,
            labels: BTreeMap::new(),
            cordoned: false,
            maintenance: None,
            pending: false,
            plan_generation: 1.into(),
            joined_at: now_s * 1000,
            makes_backups: false,
            proves_backups: false,
            unheard: false,
            certificates: vec![issued.record()],
            name: name.clone(),
        };
        writes.push(Write::Put(RecordValue::Host(Arc::new(host))));
        agents.push((
            name.to_string(),
            tls::client_config(&pki.ca_pem(), &issued.pem, &key)?,
        ));
    }
    let mut store = SqliteStore::open(&config.data_dir.join(DATABASE_FILE)).await?;
    store.commit(TERM, &writes).await?;
    Ok(agents)
}

/// The address where it serves gRPC, once it reports that it is ready.
async fn ready(daemon: &Daemon) -> Result<String> {
    let look = async {
        loop {
            let log = daemon.log();
            let lines = log
                .lines()
                .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            let mut said = lines.filter(|line| line["message"] == "ready");
            if let Some(grpc) = said
                .next()
                .and_then(|line| line["grpc"].as_str().map(ToOwned::to_owned))
            {
                return grpc;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look)
        .await
        .with_context(|| format!("not ready:\n{}", daemon.log()))
}

/// The report of a host without tenants. `complete`: it covers everything the host runs.
pub(crate) fn word(sequence: u64, complete: bool) -> AgentMessage {
    let resources = HostResources {
        cpus: 1 << 20,
        memory_total_bytes: MEMORY_BYTES,
        memory_available_bytes: MEMORY_BYTES,
        disk_total_bytes: MEMORY_BYTES,
        disk_available_bytes: MEMORY_BYTES,
        ..HostResources::default()
    };
    let report = Report {
        sequence,
        resources: Some(resources),
        complete,
        ..Report::default()
    };
    AgentMessage {
        message: Some(Message::Report(report)),
    }
}

/// The first message of a session, from a host that holds no plan.
pub(crate) fn greeting() -> AgentMessage {
    AgentMessage {
        message: Some(Message::Hello(Hello::default())),
    }
}

/// Sends one host's greeting and report, and waits for the acknowledgement.
async fn report(channel: Channel) -> Result<()> {
    let (up, messages) = mpsc::channel(2);
    for message in [greeting(), word(1, true)] {
        up.send(message).await?;
    }
    let talk = async {
        let mut client = AgentServiceClient::new(channel);
        let mut down = client
            .session(ReceiverStream::new(messages))
            .await?
            .into_inner();
        while let Some(said) = down.message().await? {
            if matches!(
                said.message,
                Some(coordinator_message::Message::ReportAck(_))
            ) {
                return Ok(());
            }
        }
        bail!("the session ended without an acknowledgement")
    };
    let result = tokio::time::timeout(PATIENCE, talk)
        .await
        .context("no acknowledgement")?;
    drop(up);
    result
}
