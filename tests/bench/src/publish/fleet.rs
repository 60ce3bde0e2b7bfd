//! A coordinator in this process that starts with a fleet of running tenants.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use isyone_coordinator::{
    base::{
        config::Config,
        secrets::{KEY_FILE, Sealer},
    },
    init,
    server::{self, Parts, Running},
    writer::{SystemSource, store::memory::MemoryStore},
};
use isyone_fleet::{
    change::{Command, Outcome},
    desired::Host,
    testing::{Bench, resources},
    written::{RecordValue, Write},
};
use isyone_proto::ids::{HostName, TenantName};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;
use uuid::Uuid;

/// Tenants per host.
pub(crate) const PER_HOST: usize = 50;
/// First port on each host; each tenant has two.
pub(crate) const FIRST_PORT: u16 = 21_000;
/// Far above what a change may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Fleet {
    pub(crate) tenants: Vec<TenantName>,
    pub(crate) running: Running,
    pub(crate) runtime: Runtime,
    _dir: tempfile::TempDir,
}

impl Fleet {
    /// Starts with this many tenants, divided among this many edges (0: no shards).
    pub(crate) fn start(tenants: usize, shards: usize) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut config = Config {
            data_dir: dir.path().join("coordinator"),
            ..Config::default()
        };
        config.backup.enabled = false;
        for listen in [
            &mut config.listen.grpc,
            &mut config.listen.enroll,
            &mut config.listen.http,
        ] {
            *listen = ([127, 0, 0, 1], 0).into();
        }
        // Traefik must reach the page for suspended tenants, so choose this port before the start.
        config.listen.http = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        config.network.first_port = FIRST_PORT;
        config.network.last_port = FIRST_PORT + 2 * u16::try_from(PER_HOST)? - 1;
        config.edge.shards = (0..shards)
            .map(|n| format!("e{n}").parse())
            .collect::<Result<_, _>>()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let (store, tenants) = store(&config, tenants)?;
        let running = runtime.block_on(async {
            init::init(&config, &"admin".parse()?, &dir.path().join("admin.toml")).await?;
            let sealer = Sealer::load(&config.data_dir.join(KEY_FILE), None)?;
            let parts = Parts {
                store: Box::new(store),
                sealer,
            };
            anyhow::Ok(server::start(config, parts, SystemSource).await?)
        })?;
        Ok(Self {
            tenants,
            running,
            runtime,
            _dir: dir,
        })
    }

    /// A tenant's shard.
    pub(crate) fn shard(&self, tenant: &TenantName) -> Option<String> {
        let shards = &self.running.handle.settings().shards;
        shards.name_of(tenant.as_str()).map(ToString::to_string)
    }

    /// Whether a tenant's desired state is running.
    pub(crate) fn runs(&self, tenant: &TenantName) -> Result<bool> {
        let snapshot = self.running.handle.snapshot();
        let record = snapshot
            .fleet
            .tenants
            .get(tenant)
            .context("no such tenant")?;
        Ok(record.desired == isyone_proto::plan::Lifecycle::Running)
    }

    /// Suspends a running tenant, takes a suspension back: both change its routes and its targets. (There are no hosts that
    /// could carry one out, and a tenant has one operation at a time.) Returns once the change is stored, with the new
    /// desired state (true: running).
    pub(crate) fn toggle(&self, tenant: &TenantName) -> Result<bool> {
        let handle = &self.running.handle;
        let runs = self.runs(tenant)?;
        let command = if runs {
            Command::SuspendTenant {
                name: tenant.clone(),
                request_id: None,
                cancel_running: false,
            }
        } else {
            let id = handle.snapshot().fleet.tenants[tenant].operation;
            Command::CancelOperation { id }
        };
        let outcome = self.runtime.block_on(handle.submit("bench", command))?;
        ensure!(
            !matches!(outcome, Outcome::Done),
            "{tenant}: nothing was changed"
        );
        Ok(!runs)
    }

    /// Waits until the published documents show the newest state of a tenant's shard.
    pub(crate) fn published(&self, tenant: &TenantName) -> Result<()> {
        let running = &self.running;
        let shard = running.handle.settings().shards.of(tenant.as_str());
        let shown = running
            .edges_seen
            .shown(running.handle.snapshot().version, shard);
        let shown = self
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, shown).await });
        shown.with_context(|| format!("{tenant} was not published"))
    }

    pub(crate) fn stop(self) {
        self.runtime.block_on(self.running.stop());
    }
}

/// The store of a coordinator whose tenants all run.
fn store(config: &Config, tenants: usize) -> Result<(MemoryStore, Vec<TenantName>)> {
    let store = MemoryStore::default();
    let mut bench = Bench::default();
    bench.settings = config.settings();
    let machine = resources(256, 1_024, 100_000);
    let mut hosts = Vec::new();
    for n in 0..tenants.div_ceil(PER_HOST) {
        let name: HostName = format!("h{n}").parse()?;
        let host = Host {
            name: name.clone(),
            uid: Uuid::from_u128(n as u128),
            // All of 127.0.0.0/8 leads to this machine.
            advertise: Ipv4Addr::from_bits(0x7F01_0000 + u32::try_from(n)?).into(),
            labels: BTreeMap::new(),
            cordoned: false,
            maintenance: None,
            pending: false,
            plan_generation: 1.into(),
            joined_at: 0,
            makes_backups: false,
            proves_backups: false,
            unheard: false,
            certificates: Vec::new(),
        };
        let host = Arc::new(host);
        store.apply(&[Write::Put(RecordValue::Host(host.clone()))])?;
        bench.state.fleet.hosts.insert(name.clone(), host);
        bench.report(&name, machine, Vec::new());
        hosts.push(name);
    }
    let mut names = Vec::with_capacity(tenants);
    for n in 0..tenants {
        let name = format!("tenant-{n}");
        bench
            .create(&name, "small")
            .with_context(|| format!("no room for {name}"))?;
        store.apply(&std::mem::take(&mut bench.effects.writes))?;
        names.push(name.parse()?);
    }
    for name in hosts {
        let placed = bench
            .state
            .fleet
            .by_host
            .get(&name)
            .map(|i| i.tenants.clone())
            .unwrap_or_default();
        let running = placed
            .iter()
            .map(|tenant| bench.converged(tenant))
            .collect();
        bench.report(&name, machine, running);
        store.apply(&std::mem::take(&mut bench.effects.writes))?;
    }
    Ok((store, names))
}

/// CPU time of this process without the calling thread.
pub(crate) fn others() -> Duration {
    cpu(ClockId::ProcessCPUTime).saturating_sub(here())
}

/// CPU time of the calling thread.
pub(crate) fn here() -> Duration {
    cpu(ClockId::ThreadCPUTime)
}

fn cpu(of: ClockId) -> Duration {
    let time = clock_gettime(of);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
