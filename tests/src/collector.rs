//! A trace collector: receives spans over OTLP/gRPC as real ones do, and keeps them.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message as _;
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// A span, and the service that sent it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The resource attribute `service.name`.
    pub service: String,
    pub span: Span,
}

impl Seen {
    /// An attribute's text; empty if there is none.
    pub fn attribute(&self, key: &str) -> String {
        text(&self.span.attributes, key)
    }
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let value = attributes
        .iter()
        .find(|a| a.key == key)
        .and_then(|a| a.value.clone())
        .and_then(|v| v.value);
    match value {
        Some(Value::StringValue(text)) => text,
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

#[derive(Debug, Clone, Default)]
pub struct Collector {
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.lock().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Starts a collector on a port that the system chooses.
    pub fn start(runtime: &Runtime) -> (Self, SocketAddr) {
        let collector = Self::default();
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let service = TraceServiceServer::new(collector.clone());
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        runtime.spawn(serving);
        (collector, address)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ExportTraceServiceRequest>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything received, as it was on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock()
            .iter()
            .flat_map(|request| request.encode_to_vec())
            .collect()
    }

    /// All spans, by trace id.
    pub fn traces(&self) -> HashMap<Vec<u8>, Vec<Seen>> {
        let mut traces: HashMap<Vec<u8>, Vec<Seen>> = HashMap::new();
        for resource in self
            .lock()
            .iter()
            .flat_map(|request| &request.resource_spans)
        {
            let attributes = resource
                .resource
                .as_ref()
                .map(|r| r.attributes.as_slice())
                .unwrap_or_default();
            let service = text(attributes, "service.name");
            for span in resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
                let seen = Seen {
                    service: service.clone(),
                    span: span.clone(),
                };
                traces.entry(span.trace_id.clone()).or_default().push(seen);
            }
        }
        traces
    }

    /// The trace whose root span has this name.
    pub fn trace(&self, root: &str) -> Vec<Seen> {
        let is_root = |seen: &Seen| seen.span.parent_span_id.is_empty() && seen.span.name == root;
        let found: Vec<_> = self
            .traces()
            .into_values()
            .filter(|spans| spans.iter().any(is_root))
            .collect();
        assert_eq!(found.len(), 1, "traces that begin with `{root}`");
        found.into_iter().next().unwrap_or_default()
    }
}

/// Spans whose parent is not in the trace; the root is one of them.
pub fn orphans(trace: &[Seen]) -> Vec<&Seen> {
    let known: BTreeSet<_> = trace
        .iter()
        .map(|seen| seen.span.span_id.as_slice())
        .collect();
    trace
        .iter()
        .filter(|seen| !known.contains(seen.span.parent_span_id.as_slice()))
        .collect()
}

/// A trace as an indented list: start and duration of each span (milliseconds), its service and its name.
pub fn tree(trace: &[Seen]) -> String {
    let begin = trace
        .iter()
        .map(|seen| seen.span.start_time_unix_nano)
        .min()
        .unwrap_or_default();
    let mut text = String::new();
    for root in orphans(trace) {
        branch(trace, root, begin, 0, &mut text);
    }
    text
}

fn branch(trace: &[Seen], seen: &Seen, begin: u64, depth: usize, text: &mut String) {
    let Span {
        start_time_unix_nano: start,
        end_time_unix_nano: end,
        name,
        ..
    } = &seen.span;
    let ms = |nanos: u64| nanos as f64 / 1e6;
    let (at, took, indent) = (
        ms(start - begin),
        ms(end.saturating_sub(*start)),
        "  ".repeat(depth),
    );
    text.push_str(&format!(
        "{at:9.2} {took:9.2}  {indent}{}: {name}\n",
        seen.service
    ));
    let mut children: Vec<&Seen> = trace
        .iter()
        .filter(|child| child.span.parent_span_id == seen.span.span_id)
        .collect();
    children.sort_by_key(|child| child.span.start_time_unix_nano);
    for child in children {
        branch(trace, child, begin, depth + 1, text);
    }
}
