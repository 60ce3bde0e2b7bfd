//! Assembles the coordinator and takes it apart: store, writer, authority, the ports, the loops.
//!
//! [`start`] is the whole coordinator in one process; `main` and the tests both use it. Not here: command line and
//! signals (program), what any of the parts does.

mod grpc;
mod loops;
mod ports;
mod shared;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use isyone_fleet::{desired::Fleet, views};
use isyone_proto::echo::echo;
use tokio::{
    sync::Notify,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use self::{ports::Listeners, shared::Shared};
use crate::{
    agents::streams::Streams,
    base::{
        config::{Config, ConfigError},
        mail::MailPasswords,
        pki::{Pki, PkiError},
        secrets::{self, SealError, Sealer},
    },
    edges::{
        probes::{self, ask::AskError, board::ProbeBoard},
        running::Edges,
    },
    repositories::buckets::Buckets,
    rotation::Rotations,
    writer::{
        self, Handle, Source,
        store::{Store, StoreError, sqlite::SqliteStore},
    },
};

/// How long open calls may take to finish when the coordinator stops.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Why the coordinator does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("configuration")]
    Config(#[from] ConfigError),
    #[error("the database cannot be opened")]
    Store(#[from] StoreError),
    #[error("the certificate authority cannot be opened")]
    Pki(#[from] PkiError),
    #[error("the sealing key cannot be opened")]
    Seal(#[from] SealError),
    /// A token for edges or Prometheus on other machines cannot be read or created.
    #[error("a token of listen.edges cannot be used")]
    EdgeToken(#[source] io::Error),
    /// The CAs for probes over TLS cannot be used.
    #[error("tenants cannot be probed through the edges")]
    Probes(#[from] AskError),
    /// A port cannot be opened.
    #[error("cannot listen on {address} (listen.{key})")]
    Listen {
        key: &'static str,
        address: SocketAddr,
        source: io::Error,
    },
    /// Our own descriptors are invalid.
    #[error("gRPC reflection cannot be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// What a coordinator needs besides its configuration.
pub struct Parts {
    /// Stores the Fleet.
    pub store: Box<dyn Store>,
    /// Seals and opens secrets at rest.
    pub sealer: Sealer,
}

impl Parts {
    /// Opens them from the data directory. `seal_key` comes from the environment, if set there.
    pub async fn open(config: &Config, seal_key: Option<&str>) -> Result<Self, StartError> {
        let sealer = Sealer::load(&config.data_dir.join(secrets::KEY_FILE), seal_key)?;
        let store = SqliteStore::open(&config.data_dir.join(crate::init::DATABASE_FILE)).await?;
        Ok(Self {
            store: Box::new(store),
            sealer,
        })
    }
}

/// A running coordinator, with the parts that tests and benches inspect.
#[derive(Debug)]
pub struct Running {
    /// The writer and its snapshots.
    pub handle: Handle,
    /// The certificate authority.
    pub pki: Arc<Pki>,
    /// Seals and opens secrets at rest.
    pub sealer: Arc<Sealer>,
    /// Replaces the CA and the sealing key.
    pub rotations: Arc<Rotations>,
    /// The agents' sessions.
    pub streams: Arc<Streams>,
    /// Which edges poll routes, and how far they are.
    pub edges_seen: Arc<Edges>,
    /// The results of the probes through the edges.
    pub probes: Arc<ProbeBoard>,
    /// Address of the gRPC port.
    pub grpc: SocketAddr,
    /// Address of the enrolment port.
    pub enroll: SocketAddr,
    /// Address of the HTTP port.
    pub http: SocketAddr,
    /// Address of the port for edges on other machines.
    pub edges: Option<SocketAddr>,
    stop: CancellationToken,
    refresh: Arc<Notify>,
    tasks: JoinSet<()>,
    writer: JoinHandle<()>,
    stop_writer: CancellationToken,
}

/// Starts everything; when it returns, all ports are open.
pub async fn start(
    config: Config,
    parts: Parts,
    source: impl Source,
) -> Result<Running, StartError> {
    config.check()?;
    let dashboard = config.dashboard()?;
    let stop_writer = CancellationToken::new();
    let (mail, stop) = (MailPasswords::read(&config)?, CancellationToken::new());
    let buckets = Buckets::open(&config, &tokio::runtime::Handle::current(), &stop)?;
    let mut settings = config.settings();
    mail.mark(&mut settings.mail);
    let settings = Arc::new(settings);
    let (handle, writer) =
        writer::start(parts.store, settings, source, stop_writer.clone()).await?;
    warn_of_settings(&handle.snapshot().fleet);
    if let Some((name, tenant)) =
        views::in_the_dashboards_place(&handle.snapshot(), handle.settings())
    {
        tracing::warn!(%tenant, "[edge.dashboard] hostname {name} is a domain of that tenant's; edges cannot serve both: name another, or `isyctl tenant domain remove {tenant} {name}`");
    }
    let (shared, unpinned) = Shared::new(config, handle, parts.sealer, mail, (buckets, stop))?;
    let asker = probes::asker(&shared.config)?;
    let (listeners, addresses) = Listeners::bind(&shared.config).await?;
    let refresh = Arc::new(Notify::new());
    // First the ports: what the loops ask for (challenges, tenants through the edges) is then there.
    let mut tasks = JoinSet::new();
    ports::serve(&shared, listeners, &addresses, dashboard, &mut tasks).await?;
    loops::spawn(&shared, asker, refresh.clone(), &mut tasks);
    tasks.spawn(loops::pin(
        shared.handle.clone(),
        unpinned,
        shared.stop.clone(),
    ));
    Ok(Running {
        handle: shared.handle,
        pki: shared.pki,
        sealer: shared.sealer,
        rotations: shared.rotations,
        streams: shared.streams,
        edges_seen: shared.edges,
        probes: shared.probes,
        stop: shared.stop,
        grpc: addresses.grpc,
        enroll: addresses.enroll,
        http: addresses.http,
        edges: addresses.edges,
        refresh,
        tasks,
        writer,
        stop_writer,
    })
}

/// What a version after this one has stored may be more than this one can use.
fn warn_of_settings(fleet: &Fleet) {
    for tenant in fleet.tenants.values() {
        for setting in tenant.odoo.unusable() {
            let setting = echo(setting);
            tracing::warn!(tenant = %tenant.name, %setting, "this version cannot use the setting; it is kept and counts for nothing");
        }
    }
}

impl Running {
    /// Returns when a part has ended unasked (it panicked, or the writer lost its store; the log says more). The rest only looks alive: the process
    /// must exit and be restarted.
    pub async fn failed(&mut self) {
        tokio::select! {
            _ = &mut self.writer => {}
            // Never empty: the ports are served until the stop.
            Some(_) = self.tasks.join_next() => {}
        }
    }

    /// Checks the certificate files now.
    pub fn refresh_certificates(&self) {
        self.refresh.notify_one();
    }

    /// Ends every stream, waits a bounded time for open calls, then lets the writer finish what it has accepted.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_PATIENCE, ended).await.is_err() {
            tracing::warn!("some calls did not end in time and are cut");
            self.tasks.shutdown().await;
        }
        self.stop_writer.cancel();
        if let Err(error) = self.writer.await {
            tracing::error!(%error, "the writer did not end well");
        }
    }
}
