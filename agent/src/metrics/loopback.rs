//! `/healthz` and `/metrics` on the loopback interface, without certificates.
//!
//! Healthy means that the agent's loops run. An unreachable coordinator or Docker is a metric, not a reason to restart
//! the agent. Not here: the metrics (metrics::own); those of the host and the tenants are on the port that Prometheus
//! scrapes.

use std::sync::Arc;

use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::{scrape::Scraper, text::CONTENT_TYPE};

/// Serves until `stop`.
pub async fn serve(
    listener: TcpListener,
    scraper: Arc<Scraper>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .with_state(scraper);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn metrics(State(scraper): State<Arc<Scraper>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], scraper.own())
}
