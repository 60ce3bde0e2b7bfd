//! The four ports: opened before anything runs, then served, with what is published on them.
//!
//! Not here: the gRPC services (grpc), accepting connections and answering HTTP (crate::ports).

use std::{net::SocketAddr, sync::Arc};

use tokio::{net::TcpListener, task::JoinSet};

use super::{
    StartError,
    grpc::{serve_enrollment, serve_grpc},
    shared::Shared,
};
use crate::{
    agents::{enroll::Enrollment, ours::Ours},
    base::config::Config,
    edges::publish::{Publisher, Sources},
    ports::{
        http::{
            self, Web,
            serve::{Door, serve as serve_http},
        },
        listener,
    },
};

pub(super) struct Listeners {
    grpc: TcpListener,
    enroll: TcpListener,
    http: TcpListener,
    /// The port for edges on other machines, if configured, with its tokens.
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

/// The addresses that the ports are bound to.
pub(super) struct Addresses {
    pub(super) grpc: SocketAddr,
    pub(super) enroll: SocketAddr,
    pub(super) http: SocketAddr,
    pub(super) edges: Option<SocketAddr>,
}

impl Listeners {
    pub(super) async fn bind(config: &Config) -> Result<(Self, Addresses), StartError> {
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

/// Serves the ports and starts publishing.
pub(super) async fn serve(
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
        let incoming = listener::edges(listener, pki.clone(), metrics.clone(), stop.clone());
        let door = Door::Tls(incoming);
        tasks.spawn(serve_http(door, router, metrics.clone(), stop.clone()));
    }
    let (door, router) = (Door::Plain(listeners.http), http::router(web));
    tasks.spawn(serve_http(door, router, metrics.clone(), stop.clone()));
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
        ours: Arc::new(Ours::of(&shared.config)),
    };
    tasks.spawn(serve_enrollment(
        incoming,
        enrollment,
        metrics.clone(),
        stop.clone(),
    ));
    Ok(())
}
