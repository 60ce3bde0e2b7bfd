//! `/healthz` and `/metrics` on the loopback interface.
//!
//! Healthy means: the agent's loops run. A coordinator or Docker that is away is a metric, not a reason to restart the
//! agent. Not here: measuring (resources, usage).

use std::sync::{Arc, atomic::AtomicU64};

use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{host::Host, resources, status::Progress};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByProgress {
    progress: &'static str,
}

struct Metrics {
    registry: Registry,
    tenants: Family<ByProgress, Gauge>,
    connected: Gauge,
    docker_up: Gauge,
    memory: Gauge<u64, AtomicU64>,
}

impl Metrics {
    fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("isyone_agent"),
            tenants: Family::default(),
            connected: Gauge::default(),
            docker_up: Gauge::default(),
            memory: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("tenants", "Tenants of this host by how far they are", metrics.tenants.clone());
        registry.register(
            "coordinator_connected",
            "1 while a session with the coordinator is open",
            metrics.connected.clone(),
        );
        registry.register("docker_up", "1 while Docker answers", metrics.docker_up.clone());
        registry.register_with_unit(
            "resident_memory",
            "The agent's own memory",
            Unit::Bytes,
            metrics.memory.clone(),
        );
        metrics
    }
}

struct App {
    host: Arc<Host>,
    connected: watch::Receiver<bool>,
    metrics: Metrics,
}

/// Serves until `stop`.
pub async fn serve(
    listener: TcpListener,
    host: Arc<Host>,
    connected: watch::Receiver<bool>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let app = Arc::new(App { host, connected, metrics: Metrics::new() });
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .with_state(app);
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    let counts = app.host.board.counts();
    for (progress, name) in [
        (Progress::Working, "working"),
        (Progress::Converged, "converged"),
        (Progress::Failing, "failing"),
        (Progress::Unhealthy, "unhealthy"),
    ] {
        let count = counts.get(&progress).copied().unwrap_or(0);
        app.metrics.tenants.get_or_create(&ByProgress { progress: name }).set(count as i64);
    }
    app.metrics.connected.set((*app.connected.borrow()).into());
    app.metrics.docker_up.set(app.host.board.docker_error().is_empty().into());
    app.metrics.memory.set(resources::own_memory());
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = encode(&mut text, &app.metrics.registry);
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}
