//! What the host's agent and Prometheus read of the relay, over a unix socket: `/health`, `/metrics`, `/tenants`. `/reload` makes it
//! look at its file of routes at once.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::{
    net::UnixListener,
    sync::{Notify, Semaphore},
};
use tokio_util::sync::CancellationToken;

use crate::{
    figures::{self, Now},
    ledger::locked,
    tenant::{Host, Tenant},
};

/// Conversations at once: the agent, Prometheus through it, and a person.
const MAX_CONVERSATIONS: usize = 16;
/// For a conversation. The largest page takes some milliseconds.
const CONVERSATION: Duration = Duration::from_secs(30);

/// What is shown.
#[derive(Debug)]
pub(crate) struct Shown {
    /// What all share.
    pub(crate) host: Arc<Host>,
    /// The tenants, sorted by name.
    pub(crate) tenants: Mutex<Vec<Arc<Tenant>>>,
    /// What is wrong with the routes' file, and where it cannot listen.
    pub(crate) faults: Mutex<Vec<String>>,
    /// Which version of the program this is.
    pub(crate) version: String,
    /// Rings when the file of routes is to be looked at.
    pub(crate) look_now: Notify,
}

/// How a relay does: what `/health` answers. What an older relay leaves out is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Which version of the program it is.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// The routes' number.
    pub revision: u64,
    /// A successor has taken over.
    pub is_draining: bool,
    /// What is wrong; the relay goes on with what it had.
    pub faults: Vec<String>,
}

/// What there is of one tenant at this moment: a row of `/tenants`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfTenant {
    /// The tenant's name.
    pub name: String,
    /// What there is.
    #[serde(flatten)]
    pub now: Now,
}

/// Answers until it is stopped.
pub(crate) async fn serve(listener: UnixListener, shown: Arc<Shown>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONVERSATIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(50)).await; // no file handles
                    continue;
                }
            },
        };
        let shown = Arc::clone(&shown);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let path = request.uri().path();
                if path == "/reload" {
                    shown.look_now.notify_one();
                }
                let response = answer(path, &shown);
                async move { Ok::<_, Infallible>(response) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(CONVERSATION, served).await;
            drop(place);
        });
    }
}

fn answer(path: &str, shown: &Shown) -> Response<Full<Bytes>> {
    let (status, kind, body) = match path {
        "/health" | "/reload" => (StatusCode::OK, "application/json", health(shown)),
        "/tenants" => (StatusCode::OK, "application/json", tenants(shown)),
        "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4", metrics(shown)),
        _ => (
            StatusCode::NOT_FOUND,
            "text/plain",
            "there are /health, /metrics, /reload and /tenants\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn health(shown: &Shown) -> String {
    let health = Health {
        version: shown.version.clone(),
        pid: std::process::id(),
        revision: shown.host.revision.load(Ordering::Relaxed),
        is_draining: shown.host.is_draining.load(Ordering::Relaxed),
        faults: locked(&shown.faults).clone(),
    };
    serde_json::to_string(&health).expect("numbers and texts are JSON")
}

fn tenants(shown: &Shown) -> String {
    let tenants = locked(&shown.tenants).clone();
    let of = |tenant: &Arc<Tenant>| OfTenant {
        name: tenant.name.to_string(),
        now: tenant.now(),
    };
    let all: Vec<OfTenant> = tenants.iter().map(of).collect();
    serde_json::to_string(&all).expect("numbers and texts are JSON")
}

/// The page for Prometheus.
pub(crate) fn metrics(shown: &Shown) -> String {
    let tenants = locked(&shown.tenants).clone();
    let of = |tenant: &'_ Arc<Tenant>| (tenant.name.to_string(), tenant.now());
    let now: Vec<(String, Now)> = tenants.iter().map(of).collect();
    let rows = now.into_iter().zip(&tenants);
    let rows: Vec<_> = rows
        .map(|((name, now), tenant)| (name, &tenant.figures, now))
        .collect();
    let host = &shown.host;
    figures::page(&host.own, host.revision.load(Ordering::Relaxed), &rows)
}
