//! The plain HTTP port: health, our metrics, Traefik's configuration, Prometheus' targets, the pages that stand in for
//! tenants, and CAs' challenges. Read-only; on loopback unless configured otherwise. Free of secrets except for the
//! private keys in Traefik's configuration when the coordinator gets certificates; in that case always on loopback
//! (base/config).
//!
//! Not here: what the documents say (edges/publish), gRPC (server/grpc).

pub(crate) mod edges;
mod pages;
pub(crate) mod serve;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, Query, State as Shared},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use isyone_monitoring::Job;
use isyone_proto::ids::ShortName;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use self::serve::Caller;
use crate::{
    base::{
        clock,
        metrics::{self, Metrics},
    },
    edges::{
        acme::Challenges,
        probes as blackbox,
        probes::board::ProbeBoard,
        publish::{Document, Published},
        running::Edges,
    },
    writer::Handle,
};

/// Longest time that we hold an answer back; below the time after which an edge counts as gone (isyone_fleet::edge).
const MAX_WAIT: Duration = Duration::from_secs(5);

/// What the handlers read.
#[derive(Clone)]
pub struct Web {
    /// The writer and its snapshots.
    pub handle: Handle,
    /// The currently published documents.
    pub published: Arc<ArcSwap<Published>>,
    /// Learns who polls routes, and knows how far they are.
    pub edges: Arc<Edges>,
    /// Answers to CAs' challenges.
    pub challenges: Arc<Challenges>,
    /// The results of the probes through the edges.
    pub probes: Arc<ProbeBoard>,
    /// Counts pages.
    pub metrics: Arc<Metrics>,
    /// All metrics.
    pub registry: Arc<Registry>,
    /// Cancelled when the coordinator stops.
    pub stop: CancellationToken,
    /// Wakes sleeping tenants.
    pub(crate) alarm: Arc<pages::Alarm>,
    /// Limits how many visitors' request bodies we read at a time.
    pub(crate) swallowing: pages::Swallowing,
}

/// The routes of the plain port.
pub fn router(web: Web) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(own_metrics))
        .route("/probes", get(blackbox_page))
        .route("/traefik/config", get(whole_traefik))
        .route("/traefik/config/{shard}", get(shard_traefik))
        .route("/edges/map", get(hostnames))
        .route("/sd/{job}", get(targets))
        .route(isyone_traefik::PAGE_PATH, any(pages::tenant))
        .route(isyone_traefik::UNKNOWN_PATH, any(pages::unknown))
        .route(isyone_traefik::FULL_PATH, any(pages::full))
        .route("/.well-known/acme-challenge/{token}", get(challenge))
        .with_state(web)
}

async fn ready(Shared(web): Shared<Web>) -> (StatusCode, &'static str) {
    if web.stop.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

async fn own_metrics(Shared(web): Shared<Web>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)],
        metrics::render(&web.registry),
    )
}

/// The probes' results for each tenant. A separate page, so that `/metrics` stays small.
async fn blackbox_page(Shared(web): Shared<Web>, Query(of): Query<OfShard>) -> Response {
    let scope = match scope(&web, of.shard.as_deref()) {
        Ok(scope) => scope,
        Err(why) => return not_found(&why),
    };
    let state = web.handle.snapshot();
    // Takes milliseconds for a large fleet: keep it off the threads that answer calls.
    let made = move || blackbox::page(&web.handle, &web.probes, &state, scope.checked_sub(1));
    match tokio::task::spawn_blocking(made).await {
        Ok(text) => ([(header::CONTENT_TYPE, blackbox::page::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// `?wait=4`, in seconds.
#[derive(serde::Deserialize)]
struct Waiting {
    #[serde(default)]
    wait: f32,
}

/// `?shard=a`.
#[derive(serde::Deserialize)]
struct OfShard {
    shard: Option<String>,
}

async fn whole_traefik(
    Shared(web): Shared<Web>,
    Extension(caller): Extension<Arc<Caller>>,
    Query(waiting): Query<Waiting>,
    headers: HeaderMap,
) -> Response {
    traefik(&web, &caller, 0, &waiting, &headers).await
}

async fn shard_traefik(
    Shared(web): Shared<Web>,
    Path(shard): Path<String>,
    Extension(caller): Extension<Arc<Caller>>,
    Query(waiting): Query<Waiting>,
    headers: HeaderMap,
) -> Response {
    match scope(&web, Some(&shard)) {
        Ok(scope) => traefik(&web, &caller, scope, &waiting, &headers).await,
        Err(why) => not_found(&why),
    }
}

/// The configuration of a scope. With `wait`, a connection that already got the present version is answered when a new
/// version appears or the time is over; then it gets the same version again, so nothing depends on what the client did
/// with it.
async fn traefik(
    web: &Web,
    caller: &Caller,
    scope: usize,
    waiting: &Waiting,
    headers: &HeaderMap,
) -> Response {
    if let Some(known) = caller.given(scope).filter(|_| waiting.wait > 0.0) {
        let wait = Duration::try_from_secs_f32(waiting.wait)
            .unwrap_or(MAX_WAIT)
            .min(MAX_WAIT);
        tokio::select! {
            () = another(web, scope, &known) => {}
            () = tokio::time::sleep(wait) => {}
            () = web.stop.cancelled() => {}
        }
    }
    // Before loading the document, so that an edge never counts as having more than it gets.
    web.edges
        .asked(caller.address.ip(), scope, clock::monotonic());
    let published = web.published.load_full();
    let Some(document) = published.traefik(scope) else {
        return not_found("nothing is published");
    };
    caller.give(scope, document.etag());
    serve(document, headers)
}

/// Returns when a scope's configuration differs from the known version.
async fn another(web: &Web, scope: usize, known: &str) {
    let mut publications = web.edges.publications();
    loop {
        publications.mark_unchanged();
        if web
            .published
            .load()
            .traefik(scope)
            .is_none_or(|document| document.etag() != known)
        {
            return;
        }
        // The publisher lives as long as this server.
        if publications.changed().await.is_err() {
            return;
        }
    }
}

/// The scope of the requested shard, or of everything if none; an error lists the shards that exist.
fn scope(web: &Web, shard: Option<&str>) -> Result<usize, String> {
    let shards = &web.handle.settings().shards;
    let Some(shard) = shard else { return Ok(0) };
    shards
        .position(shard)
        .map(|place| place + 1)
        .ok_or_else(|| {
            let names: Vec<&str> = shards.names().iter().map(ShortName::as_str).collect();
            match names.as_slice() {
                [] => "no such shard; there are none ([edge] shards)".to_owned(),
                names => format!("no such shard; there are: {}", names.join(", ")),
            }
        })
}

fn not_found(why: &str) -> Response {
    (StatusCode::NOT_FOUND, format!("{why}\n")).into_response()
}

async fn hostnames(Shared(web): Shared<Web>, headers: HeaderMap) -> Response {
    match web.published.load().hostnames() {
        Some(document) => serve(document, &headers),
        None => not_found("there are no shards ([edge] shards)"),
    }
}

async fn targets(
    Shared(web): Shared<Web>,
    Path(job): Path<String>,
    Query(of): Query<OfShard>,
    headers: HeaderMap,
) -> Response {
    let scope = match scope(&web, of.shard.as_deref()) {
        Ok(scope) => scope,
        Err(why) => return not_found(&why),
    };
    let published = web.published.load();
    match Job::from_name(&job).and_then(|job| published.targets(job, scope)) {
        Some(document) => serve(document, &headers),
        None => not_found("no such job"),
    }
}

/// A document, or 304 if the client already has it.
fn serve(document: &Arc<Document>, headers: &HeaderMap) -> Response {
    let etag = [(header::ETAG, document.etag().to_owned())];
    let known = headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|v| v.as_bytes() == document.etag().as_bytes());
    if known {
        return (StatusCode::NOT_MODIFIED, etag).into_response();
    }
    let length = document.length().to_string();
    let pieces = document
        .pieces()
        .to_vec()
        .into_iter()
        .map(Ok::<_, std::convert::Infallible>);
    let body = Body::from_stream(tokio_stream::iter(pieces));
    let form = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::CONTENT_LENGTH, length),
    ];
    (etag, form, body).into_response()
}

/// Answers a CA's challenge, which may arrive through any edge.
async fn challenge(Shared(web): Shared<Web>, Path(token): Path<String>) -> Response {
    match web.challenges.answer(&token) {
        Some(answer) => {
            ([(header::CONTENT_TYPE, "application/octet-stream")], answer).into_response()
        }
        None => not_found("no such challenge"),
    }
}
