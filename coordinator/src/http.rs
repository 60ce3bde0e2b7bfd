//! The plain HTTP port: health, our metrics, Traefik's configuration, Prometheus' targets and probes, the page of a
//! suspended tenant. Read only, no secrets; on loopback unless configured otherwise.
//!
//! Not here: what the documents say (publish, probes) and gRPC (server).

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::{ConnectInfo, Path, State as Shared},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use isyone_monitoring::Job;

mod pages;
mod probes;

use crate::{
    clock,
    context::Context,
    listener::Connections,
    metrics,
    publish::{Document, Published},
};

/// Prometheus' own text format, for probes.
const PROBE_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the handlers read.
#[derive(Clone)]
pub struct Web {
    /// The shared context.
    pub context: Arc<Context>,
    /// What is published.
    pub published: Arc<ArcSwap<Published>>,
    /// To be counted.
    pub connections: Arc<Connections>,
}

/// All paths.
pub fn router(web: Web) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(own_metrics))
        .route("/traefik/config", get(traefik))
        .route("/sd/{job}", get(targets))
        .route("/probe/{kind}/{name}", get(probe))
        .route("/pages/suspended", get(suspended))
        .with_state(web)
}

async fn ready(Shared(web): Shared<Web>) -> (StatusCode, &'static str) {
    if web.context.stop.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

async fn own_metrics(Shared(web): Shared<Web>) -> impl IntoResponse {
    let context = &web.context;
    let open = (web.connections.count(), context.streams.sessions());
    let live = &context.handle.settings().liveness;
    let text = context.metrics.render(&context.handle.snapshot(), live, clock::now_ms(), open);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text)
}

async fn traefik(
    Shared(web): Shared<Web>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    web.context.edges.asked(from.ip(), tokio::time::Instant::now());
    serve(&web.published.load().traefik, &headers)
}

async fn targets(Shared(web): Shared<Web>, Path(job): Path<String>, headers: HeaderMap) -> Response {
    match Job::from_name(&job) {
        Some(job) => serve(web.published.load().targets(job), &headers),
        None => (StatusCode::NOT_FOUND, "no such job\n").into_response(),
    }
}

/// A document, or word that the client has it already.
fn serve(document: &Document, headers: &HeaderMap) -> Response {
    let etag = [(header::ETAG, document.etag.clone())];
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == document.etag.as_bytes());
    if known {
        (StatusCode::NOT_MODIFIED, etag).into_response()
    } else {
        (etag, [(header::CONTENT_TYPE, "application/json")], document.body.clone()).into_response()
    }
}

async fn probe(Shared(web): Shared<Web>, Path((kind, name)): Path<(String, String)>) -> Response {
    let (state, settings) = (web.context.handle.snapshot(), web.context.handle.settings());
    let now = clock::now_ms();
    let answer = match (Job::from_name(&kind), name.parse(), name.parse()) {
        (Some(Job::Odoo), Ok(tenant), _) => probes::odoo(&state, settings, &tenant, now),
        (Some(Job::Postgres), Ok(tenant), _) => probes::postgres(&state, settings, &tenant, now),
        (Some(Job::Host), _, Ok(host)) => probes::host(&state, settings, &host, now),
        _ => Err(probes::Down::NoSuchTarget),
    };
    match answer {
        Ok(text) => ([(header::CONTENT_TYPE, PROBE_TYPE)], text).into_response(),
        Err(probes::Down::NoSuchTarget) => (StatusCode::NOT_FOUND, "no such target\n").into_response(),
        Err(probes::Down::Because(why)) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
        }
    }
}

async fn suspended(headers: HeaderMap) -> impl IntoResponse {
    let languages = headers.get(header::ACCEPT_LANGUAGE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let status = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::RETRY_AFTER, pages::RETRY_AFTER_S),
        (header::CACHE_CONTROL, "no-store"),
        (header::VARY, "accept-language"),
    ];
    (StatusCode::SERVICE_UNAVAILABLE, status, pages::suspended(languages))
}
