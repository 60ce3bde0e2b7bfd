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
            Agents,
            monitors::{self, MonitorList},
        },
        streams::Streams,
    },
    base::{
        clock,
        config::{Config, ConfigError},
        metrics::Metrics,
        pki::{Pki, PkiConfig, PkiError},
        secrets::{self, SealError, Sealer},
    },
    context::Context,
    edges::{
        acme,
        dns::Resolver,
        domains as watch, probes as blackbox,
        probes::{
            ask::{AskError, Asker},
            board::Board,
        },
        publish::Publisher,
        running as edges,
        running::Edges,
        scraper,
    },
    operators::{Api, access::AccessLayer},
    ports::{
        http::{self, Web},
        listener::{self, Connections},
    },
    writer::{
        self, Handle, Source,
        store::{Store, StoreError, sqlite::SqliteStore},
    },
};
use isyone_fleet::views;

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

/// A coordinator that runs.
#[derive(Debug)]
pub struct Running {
    /// What its parts share; `context.handle` reaches the Fleet.
    pub context: Arc<Context>,
    /// Where gRPC listens.
    pub grpc: SocketAddr,
    /// Where enrolment listens.
    pub enroll: SocketAddr,
    /// Where HTTP listens.
    pub http: SocketAddr,
    /// Where edges on other machines are served.
    pub edges: Option<SocketAddr>,
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
    let pki = Arc::new(authority(&config, &handle)?);
    let asker = blackbox::asker(&config)?;
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
    let metrics = Arc::new(Metrics::new(handle.timings()));
    let context = Arc::new(Context {
        monitors: MonitorList::new(&handle.snapshot()),
        handle,
        dashboard,
        pki,
        sealer: parts.sealer,
        streams: Arc::new(Streams::default()),
        edges: Edges::on(config.edge.ports.first().copied().unwrap_or(EDGE_PORT)),
        challenges: Arc::default(),
        blackbox: Board::new(config.probes.interval.millis()),
        domains: watch::Board::new(&config.dns),
        dns: Arc::new(Resolver::new(config.dns.servers.clone())),
        metrics,
        stop: CancellationToken::new(),
        started_at: clock::now_ms(),
        agent_endpoint: config.reached_at(grpc),
        enroll_endpoint: config.reached_at(enroll),
        config,
    });
    let refresh = Arc::new(Notify::new());
    let listeners = Listeners {
        grpc: grpc_listener,
        enroll: enroll_listener,
        http: http_listener,
        edges: edges_listener,
    };
    let tasks = spawn(&context, listeners, refresh.clone(), asker).await?;
    Ok(Running {
        context,
        grpc,
        enroll,
        http,
        edges,
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

async fn spawn(
    context: &Arc<Context>,
    listeners: Listeners,
    refresh: Arc<Notify>,
    asker: Option<Asker>,
) -> Result<JoinSet<()>, StartError> {
    let connections = Arc::new(Connections::default());
    let mut tasks = JoinSet::new();
    let publisher = Publisher::new(context.clone());
    let web = Web {
        context: context.clone(),
        published: publisher.current(),
        connections: connections.clone(),
        alarm: Arc::default(),
        swallowing: Default::default(),
    };
    tasks.spawn(publisher.run());
    if let Some((listener, tokens)) = listeners.edges {
        let router = http::edges::router(web.clone(), &tokens);
        tasks.spawn(http::serve::serve(
            listener,
            Some(context.pki.clone()),
            router,
            context.stop.clone(),
        ));
    }
    tasks.spawn(http::serve::serve(
        listeners.http,
        None,
        http::router(web),
        context.stop.clone(),
    ));
    let (pki, metrics, stop) = (&context.pki, &context.metrics, &context.stop);
    let incoming = listener::mtls(
        listeners.grpc,
        pki.clone(),
        connections.clone(),
        metrics.clone(),
        stop.clone(),
    );
    tasks.spawn(serve_grpc(incoming, context.clone()).await?);
    let incoming = listener::enroll(listeners.enroll, pki.clone(), metrics.clone(), stop.clone());
    tasks.spawn(serve_enrollment(incoming, context.clone()));
    tasks.spawn(cut_refused(context.clone(), connections));
    tasks.spawn(monitors::follow(context.clone()));
    let watched = context.clone();
    tasks.spawn(async move { edges::watch::run(&watched).await });
    // A part that ends is a failure; without a directory there is nothing to do.
    if context.config.monitoring.certificate_dir.is_some() {
        tasks.spawn(scraper::run(context.clone()));
    }
    if context.config.orders_certificates() {
        tasks.spawn(acme::run(context.clone()));
    }
    if let Some(asker) = asker {
        tasks.spawn(blackbox::run(context.clone(), asker));
    }
    if context.config.dns.watches() {
        tasks.spawn(watch::run(context.clone()));
    }
    tasks.spawn(keep_certificates_fresh(context.clone(), refresh));
    Ok(tasks)
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

async fn serve_grpc(
    incoming: listener::Incoming,
    context: Arc<Context>,
) -> Result<impl Future<Output = ()> + Send + 'static, StartError> {
    let api = Api::new(context.clone());
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
        .layer(AccessLayer::new(context.metrics.clone()))
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
        .add_service(limited!(
            MAX_MESSAGE_BYTES,
            AgentServiceServer::new(Agents::new(context.clone()))
        ));
    Ok(async move {
        let served = router
            .serve_with_incoming_shutdown(incoming, context.stop.cancelled())
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "gRPC ended");
        }
    })
}

async fn serve_enrollment(incoming: listener::Incoming, context: Arc<Context>) {
    let service = EnrollmentServiceServer::new(Enrollment::new(context.clone()));
    let router = builder(MAX_JOIN_STREAMS)
        .layer(AccessLayer::new(context.metrics.clone()))
        .add_service(limited!(MAX_JOIN_BYTES, service));
    if let Err(error) = router
        .serve_with_incoming_shutdown(incoming, context.stop.cancelled())
        .await
    {
        tracing::error!(%error, "enrolment ended");
    }
}

/// Cuts connections whose certificate the Fleet no longer admits.
async fn cut_refused(context: Arc<Context>, connections: Arc<Connections>) {
    let mut changes = context.handle.subscribe();
    let mut seen = context.handle.snapshot();
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = context.stop.cancelled() => return,
        }
        let state = context.handle.snapshot();
        if state.fleet.withdrew_since(&seen.fleet) {
            connections.cut_unless(|certificate| state.fleet.admits(certificate).is_ok());
        }
        seen = state;
        tokio::time::sleep(CUT_PAUSE).await;
    }
}

/// Takes up changed certificate files and renews our own, by and by and when told to.
async fn keep_certificates_fresh(context: Arc<Context>, refresh: Arc<Notify>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(PKI_REFRESH) => {}
            () = refresh.notified() => {}
            () = context.stop.cancelled() => return,
        }
        match context.pki.refresh(clock::now_seconds()) {
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
        self.context.stop.cancel();
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
