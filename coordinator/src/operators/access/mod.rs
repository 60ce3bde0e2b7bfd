//! What every call passes before it reaches a service: the table of who may call what ([`table`]), a place at the gate,
//! and its span. Counts and logs each call once, with caller, method and result.
//!
//! Not here: how many calls there may be (gate), TLS (ports/listener).

mod table;

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::BodyExt as _;
use isyone_telemetry::{
    context, span,
    tracing::{Instrument as _, Span, field},
};
use tonic::{Code, Status, body::Body};

use self::table::{OPEN_ENDED, TIMES_ITSELF, judge};
use super::gate::{self, CallKind, Gate, Place};
use crate::{base::metrics::Metrics, ports::listener::Peer, wire::caller::Caller};

/// How long a call may take to arrive completely and get its first answer. A shell may wait half of it for its first
/// message (exec); a slower call holds memory for nothing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How much of a refused request we read, and for how long: far more than an ordinary request has.
const REFUSED_BYTES: usize = 64 << 10;
const REFUSED_TIMEOUT: Duration = Duration::from_secs(1);

/// Methods that clients following the fleet call every few seconds.
const FOLLOWING: &str = "/isyone.v1.TopService/";

/// Checks the table in front of all services of a port.
#[derive(Debug, Clone)]
pub struct AccessLayer {
    metrics: Arc<Metrics>,
    gate: Arc<Gate>,
}

impl AccessLayer {
    /// Makes its own gate; counts into `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            gate: Arc::default(),
        }
    }
}

impl<S> tower::Layer<S> for AccessLayer {
    type Service = AccessService<S>;
    fn layer(&self, inner: S) -> Self::Service {
        AccessService {
            inner,
            metrics: self.metrics.clone(),
            gate: self.gate.clone(),
        }
    }
}

/// A service behind the table and the gate of [`AccessLayer`].
#[derive(Debug, Clone)]
pub struct AccessService<S> {
    inner: S,
    metrics: Arc<Metrics>,
    gate: Arc<Gate>,
}

impl<S> tower::Service<http::Request<Body>> for AccessService<S>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>> + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        let (method, caller, verdict) = judge(request.uri().path(), peer.as_deref());
        let metrics = self.metrics.clone();
        if let Err(refusal) = verdict {
            let address = peer.map(|p| p.address.to_string()).unwrap_or_default();
            tracing::warn!(%caller, method = request.uri().path(), address, "refused: {}", refusal.message());
            metrics.request(method, refusal.code(), 0.0);
            return Box::pin(refuse(method, request, refusal).map(Ok));
        }
        let place = match self.place(method, &caller) {
            Ok(place) => place,
            Err(refusal) => {
                // These come in crowds; the metric counts them.
                tracing::debug!(%caller, method, "refused: {}", refusal.message());
                metrics.request(method, refusal.code(), 0.0);
                return Box::pin(refuse(method, request, refusal).map(Ok));
            }
        };
        request.extensions_mut().insert(caller.clone());
        let span = traced(&caller, method, request.headers());
        let began = Instant::now();
        let answer = span
            .in_scope(|| self.inner.call(request))
            .instrument(span.clone());
        Box::pin(async move {
            let response = match TIMES_ITSELF.contains(&method) {
                true => answer.await?,
                false => match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
                    Ok(answered) => answered?,
                    Err(_) => late().into_http(),
                },
            };
            // An error without a message body is in the headers; the end of a stream is not seen here.
            let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |s| s.code());
            let seconds = began.elapsed().as_secs_f64();
            metrics.request(method, code, seconds);
            isyone_telemetry::client::ended(&span, code);
            tell(&caller, method, code, seconds, response.headers());
            Ok(holding(response, place))
        })
    }
}

/// Answers with a refusal, but only once the whole request has arrived. An earlier answer would reset the stream, and
/// whatever still arrives on it counts as an error in the transport (h2), which closes a connection after a thousand of
/// them, along with all other calls on it: a client with many refused calls would lose the accepted ones, too.
async fn refuse(
    method: &str,
    request: http::Request<Body>,
    refusal: Status,
) -> http::Response<Body> {
    if OPEN_ENDED.contains(&method) {
        return refusal.into_http();
    }
    let mut body = request.into_body();
    let whole = async {
        let mut left = REFUSED_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    // The stream of a client that sends more is reset.
    let _ = tokio::time::timeout(REFUSED_TIMEOUT, whole).await;
    refusal.into_http()
}

fn late() -> Status {
    let seconds = ANSWER_TIMEOUT.as_secs();
    Status::deadline_exceeded(format!(
        "not answered within {seconds} s; look whether it was done, then try again"
    ))
}

/// A span for an operator's call, in the trace that its headers name. Agents get none: their calls are sessions, which
/// never end.
fn traced(caller: &Caller, method: &'static str, headers: &http::HeaderMap) -> Span {
    let Caller::Operator(name, _) = caller else {
        return Span::none();
    };
    let span = span!(
        "call",
        otel.name = method.trim_start_matches('/'),
        otel.kind = "server",
        otel.status_code = field::Empty,
        rpc.system = "grpc",
        rpc.grpc.status_code = field::Empty,
        actor = %name,
    );
    context::adopt_headers(&span, headers);
    span
}

impl<S> AccessService<S> {
    /// Only operators' calls need a place.
    fn place(&self, method: &str, caller: &Caller) -> Result<Option<Place>, Status> {
        let Caller::Operator(name, _) = caller else {
            return Ok(None);
        };
        let kind = CallKind::of(method);
        self.gate
            .enter(kind, name)
            .map(Some)
            .map_err(|after| gate::refusal(kind, after))
    }
}

/// Holds the place until the answer is sent: an answer that nobody reads takes memory, too.
fn holding(response: http::Response<Body>, place: Option<Place>) -> http::Response<Body> {
    let Some(place) = place else { return response };
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _held = &place;
            frame
        }))
    })
}

fn tell(caller: &Caller, method: &str, code: Code, seconds: f64, headers: &http::HeaderMap) {
    let ms = (seconds * 1e6).round() / 1e3;
    let reason = Status::from_header_map(headers)
        .map(|s| s.message().to_owned())
        .unwrap_or_default();
    match (code, caller) {
        // Agents call all the time, and so do screens that follow the fleet; people look for other operators' calls.
        (Code::Ok, Caller::Agent(_)) => tracing::debug!(%caller, method, ms, "ok"),
        (Code::Ok, _) if method.starts_with(FOLLOWING) => {
            tracing::debug!(%caller, method, ms, "ok")
        }
        (Code::Ok, _) => tracing::info!(%caller, method, ms, "ok"),
        (Code::Internal | Code::Unknown | Code::DataLoss, _) => {
            tracing::error!(%caller, method, ?code, ms, "failed: {reason}");
        }
        _ => tracing::info!(%caller, method, ?code, ms, "refused: {reason}"),
    }
}

#[cfg(test)]
mod tests;
