//! Puts the coordinator together and takes it apart: store, writer, authority, the three ports, the loops.
//!
//! [`start`] is the whole coordinator in one process; `main` and the tests both use it.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use isyone_proto::{
    pb::{
        self,
        agent::v1::{
            agent_service_server::AgentServiceServer,
            enrollment_service_server::EnrollmentServiceServer,
        },
        v1::{
            certificate_service_server::CertificateServiceServer,
            domain_service_server::DomainServiceServer, edge_service_server::EdgeServiceServer,
            event_service_server::EventServiceServer, host_service_server::HostServiceServer,
            operation_service_server::OperationServiceServer,
            operator_service_server::OperatorServiceServer,
            system_service_server::SystemServiceServer, tenant_service_server::TenantServiceServer,
            top_service_server::TopServiceServer,
        },
    },
    tls::{CertificateInfo, MAX_MESSAGE_BYTES},
};
use tokio::{
    net::TcpListener,
    sync::Notify,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::{
    agents::{
        enroll::Enrollment,
        session::{
            self, Agents,
            monitors::{self, MonitorList},
        },
        streams::Streams,
    },
    base::{
        clock,
        config::{Config, ConfigError},
        metrics::{self, Metrics},
        pki::{Pki, PkiConfig, PkiError},
        secrets::{self, SealError, Sealer},
    },
    edges::{
        acme::{self, Acme, Challenges},
        dns::{Dns, Resolver},
        domains::{self, DomainLooks, Watch},
        probes::{
            self, Prober,
            ask::{AskError, Asker},
            board::ProbeBoard,
        },
        publish::{Publisher, Sources},
        running::{self, Edges, collector::EdgeCollector},
        scraper::{self, Scraper},
    },
    operators::{self, Api, access::AccessLayer},
    ports::{
        http::{self, Web},
        listener::{self, Connections},
    },
    writer::{
        self, Handle, Source,
        collector::FleetCollector,
        store::{Store, StoreError, sqlite::SqliteStore},
    },
};
use isyone_fleet::views;
use prometheus_client::registry::Registry;

/// Largest request of an operator: 200 modules, 50 domains and 32 labels are 40 KiB, a piece of a shell's input is 64 KiB. As much is
/// held of each call that runs.
const MAX_REQUEST_BYTES: usize = 256 << 10;
/// Largest request of somebody who joins, of whom we know nothing: a token, a key and a few labels.
const MAX_JOIN_BYTES: usize = 64 << 10;
/// Streams that one connection may have open while it joins: one call, and slack.
const MAX_JOIN_STREAMS: u32 = 2;
/// Streams that one connection may have open: an agent needs its session and one for each operator who looks at a log;
/// this is well above both and bounds what one peer can hold.
const MAX_STREAMS: u32 = 128;
/// Where edges serve HTTP when the configuration names no port.
const EDGE_PORT: u16 = 80;
/// How long open calls may take to end when the coordinator stops.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// How often certificate files are looked at.
const PKI_REFRESH: Duration = Duration::from_secs(5);
/// Pause between two looks at what changed, of which there may be thousands a second.
const CUT_PAUSE: Duration = Duration::from_millis(50);

/// Why the coordinator does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Configuration.
    #[error("configuration")]
    Config(#[from] ConfigError),
    /// Database.
    #[error("the database cannot be opened")]
    Store(#[from] StoreError),
    /// Certificates.
    #[error("the certificate authority cannot be opened")]
    Pki(#[from] PkiError),
    /// Sealing key.
    #[error("the sealing key cannot be opened")]
    Seal(#[from] SealError),
    /// Tokens of edges and Prometheus on other machines.
    #[error("a token of listen.edges cannot be used")]
    EdgeToken(#[source] io::Error),
    /// Probes through the edges.
    #[error("tenants cannot be probed through the edges")]
    Probes(#[from] AskError),
    /// A port.
    #[error("cannot listen on {address} (listen.{key})")]
    Listen {
        /// Which.
        key: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Our own descriptors are damaged.
    #[error("gRPC reflection cannot be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// What a coordinator is made of besides its configuration.
pub struct Parts {
    /// Where the Fleet is kept.
    pub store: Box<dyn Store>,
    /// Secrets at rest.
    pub sealer: Sealer,
}

impl Parts {
    /// From the data directory. `seal_key` is the environment's, when it gives one.
    pub async fn open(config: &Config, seal_key: Option<&str>) -> Result<Self, StartError> {
        let sealer = Sealer::load(&config.data_dir.join(secrets::KEY_FILE), seal_key)?;
        let store = SqliteStore::open(&config.data_dir.join(crate::init::DATABASE_FILE)).await?;
        Ok(Self {
            store: Box::new(store),
            sealer,
        })
    }
}

/// A coordinator that runs, with the parts that tests and benches look into.
#[derive(Debug)]
pub struct Running {
    /// To the Fleet.
    pub handle: Handle,
    /// As checked.
    pub config: Arc<Config>,
    /// Certificates.
    pub pki: Arc<Pki>,
    /// Secrets at rest.
    pub sealer: Arc<Sealer>,
    /// To the agents.
    pub streams: Arc<Streams>,
    /// Who asks for routes.
    pub edges_seen: Arc<Edges>,
    /// What the probes through the edges found.
    pub probes: Arc<ProbeBoard>,
    /// Where gRPC listens.
    pub grpc: SocketAddr,
    /// Where enrolment listens.
    pub enroll: SocketAddr,
    /// Where HTTP listens.
    pub http: SocketAddr,
    /// Where edges on other machines are served.
    pub edges: Option<SocketAddr>,
    stop: CancellationToken,
    refresh: Arc<Notify>,
    tasks: JoinSet<()>,
    writer: JoinHandle<()>,
    stop_writer: CancellationToken,
}

struct Listeners {
    grpc: TcpListener,
    enroll: TcpListener,
    http: TcpListener,
    /// With its tokens.
    edges: Option<(TcpListener, http::edges::Tokens)>,
}

async fn bind(
    key: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen {
        key,
        address,
        source,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Where the ports are.
struct Addresses {
    grpc: SocketAddr,
    enroll: SocketAddr,
    http: SocketAddr,
    edges: Option<SocketAddr>,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<(Self, Addresses), StartError> {
        let (grpc_listener, grpc) = bind("grpc", config.listen.grpc).await?;
        let (enroll_listener, enroll) = bind("enroll", config.listen.enroll).await?;
        let (http_listener, http) = bind("http", config.listen.http).await?;
        let (edges_listener, edges) = match config.listen.edges {
            None => (None, None),
            Some(address) => {
                let tokens =
                    http::edges::Tokens::open(&config.data_dir).map_err(StartError::EdgeToken)?;
                let (listener, bound) = bind("edges", address).await?;
                (Some((listener, tokens)), Some(bound))
            }
        };
        let listeners = Self {
            grpc: grpc_listener,
            enroll: enroll_listener,
            http: http_listener,
            edges: edges_listener,
        };
        let addresses = Addresses {
            grpc,
            enroll,
            http,
            edges,
        };
        Ok((listeners, addresses))
    }
}

/// What the tasks share; made once, taken apart by [`spawn`].
struct Shared {
    handle: Handle,
    config: Arc<Config>,
    pki: Arc<Pki>,
    sealer: Arc<Sealer>,
    streams: Arc<Streams>,
    monitors: Arc<MonitorList>,
    edges: Arc<Edges>,
    challenges: Arc<Challenges>,
    probes: Arc<ProbeBoard>,
    domains: Arc<DomainLooks>,
    dns: Arc<dyn Dns>,
    metrics: Arc<Metrics>,
    connections: Arc<Connections>,
    stop: CancellationToken,
}

impl Shared {
    fn new(config: Config, handle: Handle, sealer: Sealer) -> Result<Self, PkiError> {
        Ok(Self {
            pki: Arc::new(authority(&config, &handle)?),
            monitors: Arc::new(MonitorList::new(&handle.snapshot())),
            sealer: Arc::new(sealer),
            streams: Arc::default(),
            edges: Arc::new(Edges::on(
                config.edge.ports.first().copied().unwrap_or(EDGE_PORT),
            )),
            challenges: Arc::default(),
            probes: Arc::new(ProbeBoard::new(config.probes.interval.millis())),
            domains: Arc::new(DomainLooks::new(&config.dns)),
            dns: Arc::new(Resolver::new(config.dns.servers.clone())),
            metrics: Arc::default(),
            connections: Arc::default(),
            stop: CancellationToken::new(),
            config: Arc::new(config),
            handle,
        })
    }

    fn agent_ttl_s(&self) -> i64 {
        self.config.certificates.agent_ttl.millis() / 1000
    }

    /// Everything that is counted, and what is collected at each scrape.
    fn registry(&self) -> Registry {
        let mut registry = metrics::registry();
        self.handle.timings().register(&mut registry);
        self.metrics.register(&mut registry);
        registry.register_collector(Box::new(EdgeCollector {
            edges: self.edges.clone(),
            shards: self.handle.settings().shards.clone(),
        }));
        registry.register_collector(Box::new(FleetCollector {
            handle: self.handle.clone(),
        }));
        registry.register_collector(Box::new(self.connections.clone()));
        registry.register_collector(Box::new(self.streams.clone()));
        registry
    }
}

/// Starts everything; when it answers, all ports are open.
pub async fn start(
    config: Config,
    parts: Parts,
    source: impl Source,
) -> Result<Running, StartError> {
    config.check()?;
    let dashboard = config.dashboard()?;
    let stop_writer = CancellationToken::new();
    let settings = Arc::new(config.settings());
    let (handle, writer) =
        writer::start(parts.store, settings, source, stop_writer.clone()).await?;
    if let Some((name, tenant)) =
        views::in_the_dashboards_place(&handle.snapshot(), handle.settings())
    {
        tracing::warn!(%tenant, "[edge.dashboard] hostname {name} is a domain of that tenant's; edges cannot serve both: name another, or `isyctl tenant domain remove {tenant} {name}`");
    }
    let asker = probes::asker(&config)?;
    let shared = Shared::new(config, handle, parts.sealer)?;
    let (listeners, addresses) = Listeners::bind(&shared.config).await?;
    let refresh = Arc::new(Notify::new());
    let mut tasks = spawn(&shared, asker, refresh.clone());
    serve(&shared, listeners, &addresses, dashboard, &mut tasks).await?;
    Ok(Running {
        handle: shared.handle,
        config: shared.config,
        pki: shared.pki,
        sealer: shared.sealer,
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

fn authority(config: &Config, handle: &Handle) -> Result<Pki, PkiError> {
    let pki_config = PkiConfig {
        dir: config.data_dir.join(crate::init::PKI_DIR),
        hosts: config.advertise.hosts.clone(),
        server_ttl_s: config.certificates.server_ttl.millis() / 1000,
    };
    let handle = handle.clone();
    let admit =
        move |certificate: &CertificateInfo| match handle.snapshot().fleet.admits(certificate) {
            Ok(()) => true,
            Err(refusal) => {
                tracing::info!(who = %certificate.identity, %refusal, "certificate refused");
                false
            }
        };
    Pki::open(pki_config, Arc::new(admit), clock::now_seconds())
}

/// The loops that look, ask and tell by themselves.
fn spawn(shared: &Shared, asker: Option<Asker>, refresh: Arc<Notify>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let (handle, config, stop) = (&shared.handle, &shared.config, &shared.stop);
    tasks.spawn(cut_refused(
        handle.clone(),
        shared.connections.clone(),
        stop.clone(),
    ));
    tasks.spawn(monitors::follow(
        handle.clone(),
        shared.monitors.clone(),
        stop.clone(),
    ));
    tasks.spawn(running::watch::run(
        handle.clone(),
        shared.edges.clone(),
        stop.clone(),
    ));
    // A part that ends is a failure; without a directory there is nothing to do.
    if config.monitoring.certificate_dir.is_some() {
        tasks.spawn(scraper::run(Scraper {
            handle: handle.clone(),
            config: config.clone(),
            pki: shared.pki.clone(),
            stop: stop.clone(),
        }));
    }
    if config.orders_certificates() {
        tasks.spawn(acme::run(Arc::new(Acme {
            handle: handle.clone(),
            config: config.clone(),
            sealer: shared.sealer.clone(),
            challenges: shared.challenges.clone(),
            metrics: shared.metrics.clone(),
            stop: stop.clone(),
        })));
    }
    if let Some(asker) = asker {
        let prober = Prober {
            handle: handle.clone(),
            config: config.clone(),
            board: shared.probes.clone(),
            stop: stop.clone(),
        };
        tasks.spawn(probes::run(Arc::new(prober), asker));
    }
    if config.dns.watches() {
        tasks.spawn(domains::run(Watch {
            handle: handle.clone(),
            config: config.clone(),
            looks: shared.domains.clone(),
            dns: shared.dns.clone(),
            stop: stop.clone(),
        }));
    }
    tasks.spawn(keep_certificates_fresh(
        shared.pki.clone(),
        refresh,
        stop.clone(),
    ));
    tasks
}

/// The ports, and what is published on them.
async fn serve(
    shared: &Shared,
    listeners: Listeners,
    addresses: &Addresses,
    dashboard: Option<isyone_traefik::Dashboard>,
    tasks: &mut JoinSet<()>,
) -> Result<(), StartError> {
    let (pki, metrics, stop) = (&shared.pki, &shared.metrics, &shared.stop);
    let publisher = Publisher::new(Arc::new(Sources {
        handle: shared.handle.clone(),
        config: shared.config.clone(),
        dashboard,
        pki: pki.clone(),
        sealer: shared.sealer.clone(),
        edges: shared.edges.clone(),
        metrics: metrics.clone(),
        stop: stop.clone(),
    }));
    let web = Web {
        handle: shared.handle.clone(),
        published: publisher.current(),
        edges: shared.edges.clone(),
        challenges: shared.challenges.clone(),
        probes: shared.probes.clone(),
        metrics: metrics.clone(),
        registry: Arc::new(shared.registry()),
        stop: stop.clone(),
        alarm: Arc::default(),
        swallowing: Default::default(),
    };
    tasks.spawn(publisher.run());
    if let Some((listener, tokens)) = listeners.edges {
        let router = http::edges::router(web.clone(), &tokens);
        tasks.spawn(http::serve::serve(
            listener,
            Some(pki.clone()),
            router,
            stop.clone(),
        ));
    }
    tasks.spawn(http::serve::serve(
        listeners.http,
        None,
        http::router(web),
        stop.clone(),
    ));
    let incoming = listener::mtls(
        listeners.grpc,
        pki.clone(),
        shared.connections.clone(),
        metrics.clone(),
        stop.clone(),
    );
    tasks.spawn(serve_grpc(incoming, shared, addresses).await?);
    let incoming = listener::enroll(listeners.enroll, pki.clone(), metrics.clone(), stop.clone());
    let enrollment = Enrollment {
        handle: shared.handle.clone(),
        pki: pki.clone(),
        agent_ttl_s: shared.agent_ttl_s(),
        agent_endpoint: shared.config.reached_at(addresses.grpc),
    };
    tasks.spawn(serve_enrollment(
        incoming,
        enrollment,
        metrics.clone(),
        stop.clone(),
    ));
    Ok(())
}

fn builder(max_streams: u32) -> Server {
    Server::builder()
        // Without it a half-open connection lives for hours.
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(max_streams)
        // Small windows: thousands of agents send little each.
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(256 * 1024)
}

macro_rules! limited {
    ($most:expr, $service:expr) => {
        $service
            .max_decoding_message_size($most)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    };
}

/// The services behind the gRPC port.
fn services(shared: &Shared, addresses: &Addresses) -> (Api, Agents) {
    let api = Api::new(Arc::new(operators::Parts {
        handle: shared.handle.clone(),
        config: shared.config.clone(),
        pki: shared.pki.clone(),
        sealer: shared.sealer.clone(),
        streams: shared.streams.clone(),
        edges: shared.edges.clone(),
        probes: shared.probes.clone(),
        domains: shared.domains.clone(),
        dns: shared.dns.clone(),
        enroll_endpoint: shared.config.reached_at(addresses.enroll),
        started_at: clock::now_ms(),
        stop: shared.stop.clone(),
    }));
    let agents = Agents::new(Arc::new(session::Shared {
        handle: shared.handle.clone(),
        pki: shared.pki.clone(),
        agent_ttl_s: shared.agent_ttl_s(),
        sealer: shared.sealer.clone(),
        streams: shared.streams.clone(),
        monitors: shared.monitors.clone(),
        metrics: shared.metrics.clone(),
        stop: shared.stop.clone(),
    }));
    (api, agents)
}

async fn serve_grpc(
    incoming: listener::Incoming,
    shared: &Shared,
    addresses: &Addresses,
) -> Result<impl Future<Output = ()> + Send + use<>, StartError> {
    let (api, agents) = services(shared, addresses);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<TenantServiceServer<Api>>().await;
    health.set_serving::<HostServiceServer<Api>>().await;
    health.set_serving::<OperationServiceServer<Api>>().await;
    health.set_serving::<EventServiceServer<Api>>().await;
    health.set_serving::<SystemServiceServer<Api>>().await;
    health.set_serving::<OperatorServiceServer<Api>>().await;
    health.set_serving::<CertificateServiceServer<Api>>().await;
    health.set_serving::<DomainServiceServer<Api>>().await;
    health.set_serving::<EdgeServiceServer<Api>>().await;
    health.set_serving::<TopServiceServer<Api>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let most = MAX_REQUEST_BYTES;
    let router = builder(MAX_STREAMS)
        .layer(AccessLayer::new(shared.metrics.clone()))
        .add_service(limited!(most, health_service))
        .add_service(limited!(most, reflection().build_v1()?))
        // Older clients know only this one.
        .add_service(limited!(most, reflection().build_v1alpha()?))
        .add_service(limited!(most, TenantServiceServer::new(api.clone())))
        .add_service(limited!(most, HostServiceServer::new(api.clone())))
        .add_service(limited!(most, OperationServiceServer::new(api.clone())))
        .add_service(limited!(most, EventServiceServer::new(api.clone())))
        .add_service(limited!(most, SystemServiceServer::new(api.clone())))
        .add_service(limited!(most, OperatorServiceServer::new(api.clone())))
        .add_service(limited!(most, CertificateServiceServer::new(api.clone())))
        .add_service(limited!(most, DomainServiceServer::new(api.clone())))
        .add_service(limited!(most, EdgeServiceServer::new(api.clone())))
        .add_service(limited!(most, TopServiceServer::new(api)))
        // A host's report may be long.
        .add_service(limited!(MAX_MESSAGE_BYTES, AgentServiceServer::new(agents)));
    let stop = shared.stop.clone();
    Ok(async move {
        let served = router
            .serve_with_incoming_shutdown(incoming, stop.cancelled())
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "gRPC ended");
        }
    })
}

async fn serve_enrollment(
    incoming: listener::Incoming,
    enrollment: Enrollment,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let service = EnrollmentServiceServer::new(enrollment);
    let router = builder(MAX_JOIN_STREAMS)
        .layer(AccessLayer::new(metrics))
        .add_service(limited!(MAX_JOIN_BYTES, service));
    if let Err(error) = router
        .serve_with_incoming_shutdown(incoming, stop.cancelled())
        .await
    {
        tracing::error!(%error, "enrolment ended");
    }
}

/// Cuts connections whose certificate the Fleet no longer admits.
async fn cut_refused(handle: Handle, connections: Arc<Connections>, stop: CancellationToken) {
    let mut changes = handle.subscribe();
    let mut seen = handle.snapshot();
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
        let state = handle.snapshot();
        if state.fleet.withdrew_since(&seen.fleet) {
            connections.cut_unless(|certificate| state.fleet.admits(certificate).is_ok());
        }
        seen = state;
        tokio::time::sleep(CUT_PAUSE).await;
    }
}

/// Takes up changed certificate files and renews our own, by and by and when told to.
async fn keep_certificates_fresh(pki: Arc<Pki>, refresh: Arc<Notify>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(PKI_REFRESH) => {}
            () = refresh.notified() => {}
            () = stop.cancelled() => return,
        }
        match pki.refresh(clock::now_seconds()) {
            Ok(true) => tracing::info!("certificates taken up"),
            Ok(false) => {}
            Err(error) => {
                let error = isyone_proto::tls::error_chain(&error);
                tracing::error!(
                    error,
                    "certificates cannot be taken up; the old ones stay in use"
                );
            }
        }
    }
}

impl Running {
    /// Returns when a part has ended although nobody asked for it (it panicked: the log says where). What is left then only
    /// looks alive; the process must end, and be started again.
    pub async fn failed(&mut self) {
        tokio::select! {
            _ = &mut self.writer => {}
            // Never empty: the ports are served until the stop.
            Some(_) = self.tasks.join_next() => {}
        }
    }

    /// Looks at the certificate files now.
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
