//! A coordinator's data directory with many hosts and tenants, made with the coordinator's own library, and the real
//! program that runs on it.
//!
//! Hosts get certificates of the coordinator's CA, and tenants are stored as placed and running, so nothing has to join
//! or start.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use arc_swap::ArcSwap;
use isyone_coordinator::{
    base::{
        clock::{now_ms, now_seconds},
        config::{self, Config, Span},
    },
    init::{self, DATABASE_FILE},
    server::{self, Parts, Running},
    writer::{
        SystemSource,
        store::{Store as _, TERM, sqlite::SqliteStore},
    },
};
use isyone_fleet::{
    desired::{Host, Tenant, TenantPlacement, VisitorAccess},
    settings::Settings,
    written::{RecordValue, Write},
};
use isyone_proto::{plan::Lifecycle, spec::TenantSpec, tls};
use isyone_tests::e2e::{binary, http, process::Daemon};
use serde::Deserialize;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use uuid::Uuid;

use super::wire::{Identity, Papers, within};

/// Report interval of the hosts, as the targets assume.
pub(super) const REPORT_SECONDS: u64 = 10;
/// After this silence hosts are suspect, and then lost: longer than the product's defaults, as is the interval.
pub(super) const SUSPECT_SECONDS: u64 = 3 * REPORT_SECONDS;
pub(super) const LOST_SECONDS: u64 = 9 * REPORT_SECONDS;
/// Rate of the agents' first connections: too slow to disturb a measurement.
const CONNECTS_PER_SECOND: u32 = 500;
/// Records per transaction while the directory is made.
const CHUNK: usize = 5_000;
/// Starting with 100,000 tenants in the database takes a few seconds, and somewhat more on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(120);

pub(super) struct Site {
    dir: tempfile::TempDir,
    config: Config,
    pub(super) tenants: Vec<String>,
    pub(super) papers: PathBuf,
    daemon: Option<Daemon>,
}

#[derive(Deserialize)]
struct ContextFile {
    ca_pem: String,
    certificate_pem: String,
    key_pem: String,
}

/// An address with a port that is free now.
fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

impl Site {
    /// A site with `hosts` hosts of `each` tenants.
    pub(super) fn make(runtime: &Runtime, hosts: usize, each: usize) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("isyone-bench-").tempdir()?;
        let mut config = Config {
            data_dir: dir.path().join("data"),
            ..Config::default()
        };
        config.backup.enabled = false;
        config.listen.grpc = free()?;
        config.listen.enroll = free()?;
        config.listen.http = free()?;
        config.liveness.report_interval = Span::seconds(REPORT_SECONDS);
        config.liveness.suspect = Span::seconds(SUSPECT_SECONDS);
        config.liveness.lost = Span::seconds(LOST_SECONDS);
        let papers = dir.path().join("agents.json");
        let mut site = Self {
            dir,
            config,
            tenants: Vec::new(),
            papers,
            daemon: None,
        };
        runtime.block_on(site.fill(hosts, each))?;
        Ok(site)
    }

    fn context_file(&self) -> PathBuf {
        self.dir.path().join("admin.toml")
    }

    async fn fill(&mut self, hosts: usize, each: usize) -> Result<()> {
        init::init(&self.config, &"admin".parse()?, &self.context_file()).await?;
        let toml = self.config.data_dir.join(config::FILE_NAME);
        std::fs::write(&toml, self.config.to_toml()).with_context(|| toml.display().to_string())?;
        // Run a coordinator on it: its CA signs the certificates, its key seals secrets, and its configuration shapes
        // the plans.
        let mut private = self.config.clone();
        for address in [
            &mut private.listen.grpc,
            &mut private.listen.enroll,
            &mut private.listen.http,
        ] {
            address.set_port(0);
        }
        let running = server::start(
            private,
            Parts::open(&self.config, None).await?,
            SystemSource,
        )
        .await?;
        let made = self.records(&running, hosts, each);
        running.stop().await;
        let mut store = SqliteStore::open(&self.config.data_dir.join(DATABASE_FILE)).await?;
        for chunk in made?.chunks(CHUNK) {
            store.commit(TERM, chunk).await?;
        }
        Ok(())
    }

    fn records(&mut self, running: &Running, hosts: usize, each: usize) -> Result<Vec<Write>> {
        let settings = self.config.settings();
        let mut agents = Vec::with_capacity(hosts);
        let mut writes = Vec::with_capacity(hosts * (each + 1));
        let mut addresses = BTreeSet::new();
        for index in 0..hosts {
            let (host, identity) = host(running, index)?;
            agents.push(identity);
            addresses.insert(host.advertise);
            for slot in 0..each {
                let tenant = tenant(running, &settings, &host, slot)?;
                self.tenants.push(tenant.name.to_string());
                writes.push(Write::Put(RecordValue::Tenant(Arc::new(tenant))));
            }
            writes.push(Write::Put(RecordValue::Host(Arc::new(host))));
        }
        let papers = Papers {
            endpoint: self.config.listen.grpc.to_string(),
            ca_pem: running.pki.ca_pem(),
            connects_per_second: CONNECTS_PER_SECOND,
            hosts: addresses,
            agents,
        };
        std::fs::write(&self.papers, serde_json::to_vec(&papers)?)?;
        Ok(writes)
    }

    /// Starts the program; returns its process id once it is ready.
    pub(super) fn start(&mut self) -> Result<u32> {
        let pid = self.launch();
        self.wait_ready()?;
        Ok(pid)
    }

    /// Starts the program without waiting for it.
    pub(super) fn launch(&mut self) -> u32 {
        let mut command = Command::new(binary("isy-coordinator"));
        command
            .arg("run")
            .arg("--data-dir")
            .arg(&self.config.data_dir);
        // Otherwise thousands of agents log a line each time they come or go: a fleet of that size logs less.
        command.env("ISYONE_LOG", "warn");
        let daemon = Daemon::start("isy-coordinator", &mut command, &self.log_file());
        let pid = daemon.pid();
        self.daemon = Some(daemon);
        pid
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("coordinator.log")
    }

    /// The end of the coordinator's log.
    pub(super) fn log(&self) -> String {
        let log = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn wait_ready(&self) -> Result<()> {
        let ready = || std::net::TcpStream::connect(self.config.listen.grpc).ok();
        within(START_LIMIT, ready)
            .with_context(|| format!("the coordinator does not start: {}", self.log()))
            .map(drop)
    }

    /// Connections that the running coordinator has refused, by reason.
    pub(super) fn connections_refused(&self) -> Result<BTreeMap<String, u64>> {
        let page = http::get(self.config.listen.http, "localhost", "/metrics");
        ensure!(
            page.status == 200,
            "/metrics: {} {}",
            page.status,
            page.head
        );
        Ok(by_reason(&page.body))
    }

    /// Sends SIGKILL, like `kill -9`.
    pub(super) fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill();
        }
    }

    pub(super) fn admin(&self) -> Result<Channel> {
        let context: ContextFile = toml::from_str(&std::fs::read_to_string(self.context_file())?)?;
        let config =
            tls::client_config(&context.ca_pem, &context.certificate_pem, &context.key_pem)?;
        Ok(tls::channel(
            &self.config.listen.grpc.to_string(),
            Arc::new(ArcSwap::new(config)),
        )?)
    }
}

/// The metric for refused connections, up to the reason.
const REFUSED: &str = "isyone_connections_refused_total{reason=\"";

/// The values of that metric.
fn by_reason(metrics: &str) -> BTreeMap<String, u64> {
    let value = |line: &str| {
        let (reason, count) = line.strip_prefix(REFUSED)?.split_once("\"} ")?;
        Some((reason.to_owned(), count.trim().parse::<f64>().ok()? as u64))
    };
    metrics.lines().filter_map(value).collect()
}

fn host(running: &Running, index: usize) -> Result<(Host, Identity)> {
    let name = format!("h{index:05}").parse()?;
    let (key_pem, csr) = tls::new_key_and_csr(&format!("h{index:05}"))?;
    let advertise =
        Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 0)) + u32::try_from(index)?).into();
    let issued = running
        .pki
        .sign_agent(&csr, &name, advertise, 86_400, now_seconds())?;
    let certificate = issued.record();
    let host = Host {
        name,
        uid: Uuid::now_v7(),
        advertise,
        labels: [("rack".parse()?, (index % 100).to_string().parse()?)].into(),
        cordoned: false,
        maintenance: None,
        pending: false,
        plan_generation: 1.into(),
        joined_at: now_ms(),
        makes_backups: false,
        proves_backups: false,
        unheard: false,
        certificates: vec![certificate],
    };
    Ok((
        host,
        Identity {
            certificate_pem: issued.pem,
            key_pem,
        },
    ))
}

fn tenant(running: &Running, settings: &Settings, host: &Host, slot: usize) -> Result<Tenant> {
    let name = format!("{}-t{slot}", host.name).parse()?;
    let uid = Uuid::now_v7();
    let defaults = &settings.defaults;
    let edition = &settings.editions[&defaults.edition];
    let width = 1_u32 << (32 - settings.network.subnet_prefix);
    let network = u32::from(settings.network.tenant_range.network()) + u32::try_from(slot)? * width;
    let port = settings.network.first_port + u16::try_from(slot * 2)?;
    let placement = TenantPlacement {
        as_it_is: false,
        lease_over_ms: 0,
        host: host.name.clone(),
        epoch: 1,
        subnet: ipnet::Ipv4Net::new(network.into(), settings.network.subnet_prefix)?,
        http_port: port,
        websocket_port: port + 1,
        reason: "it was made for measuring".into(),
        at: now_ms(),
    };
    let spec = TenantSpec {
        plan: defaults.plan.clone(),
        domains: Vec::new(),
        language: defaults.language.clone(),
        country: defaults.country.clone(),
        time_zone: defaults.time_zone.clone(),
        modules: vec!["crm".parse()?, "sale_management".parse()?],
        edition: defaults.edition.clone(),
        odoo_image: edition.odoo.clone(),
        postgres_image: edition.postgres.clone(),
        host: None,
        host_labels: Default::default(),
        admin_login: defaults.admin_login.clone(),
        signup: false,
        collation: None,
    };
    Ok(Tenant {
        secrets: running.sealer.new_secrets(&name, uid),
        name,
        uid,
        size: settings.plans[&defaults.plan],
        spec,
        desired: Lifecycle::Running,
        generation: 1,
        placement,
        activated_at: Some(now_ms()),
        odoo_restarts: 0,
        postgres_restarts: 0,
        settings_asked: 0,
        mail: None,
        odoo: Default::default(),
        images_asked: Default::default(),
        created_at: now_ms(),
        operation: Uuid::now_v7(),
        quarantine_until: None,
        quarantine_held: false,
        purge_now: false,
        primary: None,
        access: VisitorAccess::default(),
        asleep_since: None,
        last_active_at: None,
        copies: Vec::new(),
        halted: false,
        hold_ms: None,
        last_epoch: 0,
        from_backup: None,
        before: None,
        rests_since: None,
        started_at: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_read_by_reason() {
        let metrics = "# TYPE isyone_connections_refused_total counter\nisyone_connections_refused_total{reason=\"waiting\"} 12\n\
                       isyone_connections_refused_total{reason=\"handshake\"} 3\nisyone_hosts 4\n";
        let read = by_reason(metrics);
        assert_eq!(
            read,
            [("handshake".to_owned(), 3), ("waiting".to_owned(), 12)].into()
        );
    }
}
