//! A gRPC channel that makes each call a span and sends that span's place in the trace to the other side.
//!
//! Each attempt is a call of its own, so a trace shows retries. Not here: when to retry (ctl).

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::HeaderValue;
use tonic::{Code, Status, body::Body};
use tracing::{Instrument as _, Span, field};

use crate::{context, span};

#[derive(Debug, Clone)]
pub struct Traced<S> {
    inner: S,
}

impl<S> Traced<S> {
    pub fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S> tower::Service<http::Request<Body>> for Traced<S>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let method = request.uri().path().trim_start_matches('/');
        let span = span!(
            "call",
            otel.name = method,
            otel.kind = "client",
            otel.status_code = field::Empty,
            rpc.system = "grpc",
            rpc.grpc.status_code = field::Empty,
        );
        if let Some(place) = context::of(&span).and_then(|place| HeaderValue::try_from(place).ok())
        {
            request.headers_mut().insert(context::HEADER, place);
        }
        let call = self.inner.call(request).instrument(span.clone());
        Box::pin(async move {
            let answer = call.await;
            // A response without a message has its status in the headers; how a stream ends is not visible here.
            let code = match &answer {
                Ok(response) => {
                    Status::from_header_map(response.headers()).map_or(Code::Ok, |s| s.code())
                }
                Err(_) => Code::Unavailable,
            };
            ended(&span, code);
            answer
        })
    }
}

/// Records how a call ended.
pub fn ended(span: &Span, code: Code) {
    span.record("rpc.grpc.status_code", i32::from(code));
    if code != Code::Ok {
        span.record("otel.status_code", "ERROR");
    }
}
