//! The coordinator's own metrics, in OpenMetrics text: one registry that holds every part's counters.
//!
//! What can be read at a scrape is not kept here; the part that knows it collects it then: the process and the runtime
//! ([`process`]), the edges (edges/running), the Fleet (writer/collector), connections (ports/listener), streams
//! (agents). So two concurrent scrapes cannot disturb each other.

mod collect;
mod process;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};
use tonic::Code;

pub(crate) use self::collect::{Families, number};

/// Content type of [`render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// From reading a snapshot to a commit on a slow disk, in seconds.
const LATENCY_BUCKETS: [f64; 9] = [0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Why a connection ended before any request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Enrolment: too many connections lately.
    #[error("too many connections from this address lately")]
    Rate,
    /// Too many connections of its network at once.
    #[error("too many connections from this network wait for their handshake")]
    Network,
    /// All places are taken.
    #[error("too many connections wait for their handshake")]
    Full,
    /// Its place or its turn went to another connection.
    #[error(
        "this network has more connections before the end of their handshake than others, which came too"
    )]
    Displaced,
    /// Its ClientHello did not arrive in time.
    #[error("it said nothing in time")]
    Silent,
    /// Its turn did not come in time.
    #[error("the handshake's turn did not come in time")]
    Queue,
    /// Its handshake did not finish in time.
    #[error("the handshake did not end in time")]
    Slow,
    /// The peer went away, does not speak TLS, or has a certificate that we do not accept.
    #[error("the handshake failed")]
    Handshake,
}

impl Refused {
    const ALL: [Self; 8] = [
        Self::Rate,
        Self::Network,
        Self::Full,
        Self::Displaced,
        Self::Silent,
        Self::Queue,
        Self::Slow,
        Self::Handshake,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Network => "network",
            Self::Full => "full",
            Self::Displaced => "displaced",
            Self::Silent => "silent",
            Self::Queue => "queue",
            Self::Slow => "slow",
            Self::Handshake => "handshake",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PageLabel {
    page: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShardLabel {
    shard: String,
}

/// Counters of the acting parts. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    latency: Histogram,
    /// Accepted reports.
    pub reports: Counter,
    publications: Family<ShardLabel, Counter>,
    pages: Family<PageLabel, Counter>,
    /// Routes that Traefik would have refused.
    pub rejected_routes: Gauge,
    /// Host names whose certificate waits for an authority's weekly limit.
    pub certificates_held_back: Gauge,
    certificate_orders: Family<ResultLabel, Counter>,
    refused: Family<ReasonLabel, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            requests: Family::default(),
            latency: Histogram::new(LATENCY_BUCKETS),
            reports: Counter::default(),
            publications: Family::default(),
            pages: Family::default(),
            rejected_routes: Gauge::default(),
            certificates_held_back: Gauge::default(),
            certificate_orders: Family::default(),
            refused: Family::default(),
        };
        // Create every series now: Prometheus does not see an increase from nothing to 1.
        for why in Refused::ALL {
            let reason = why.word();
            drop(metrics.refused.get_or_create(&ReasonLabel { reason }));
        }
        metrics
    }
}

/// A new registry of ours, with the metrics of the process.
pub fn registry() -> Registry {
    let mut registry = Registry::with_prefix("isyone");
    let version = vec![("version", env!("CARGO_PKG_VERSION"))];
    registry.register("build", "This coordinator", Info::new(version));
    registry.register_collector(Box::new(process::ProcessCollector));
    registry
}

/// Encodes a registry as text; see [`CONTENT_TYPE`].
pub fn render(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing to a `String` cannot fail.
    let _ = encode(&mut text, registry);
    text
}

impl Metrics {
    /// Adds the metrics to the registry that is scraped.
    pub fn register(&self, r: &mut Registry) {
        r.register(
            "requests",
            "gRPC calls by method and how they ended",
            self.requests.clone(),
        );
        r.register_with_unit(
            "request_duration",
            "Time to a call's first answer",
            Unit::Seconds,
            self.latency.clone(),
        );
        r.register("reports", "Agents' reports taken in", self.reports.clone());
        let published =
            "Changes of Traefik's configuration, by shard; without a name, of everything";
        r.register("publications", published, self.publications.clone());
        let pages = "Visitors who got a page in place of a tenant, by page";
        r.register("pages", pages, self.pages.clone());
        r.register(
            "rejected_routes",
            "Routes left out because Traefik would refuse them",
            self.rejected_routes.clone(),
        );
        r.register(
            "certificate_orders",
            "Orders of certificates by how they ended",
            self.certificate_orders.clone(),
        );
        r.register(
            "certificates_held_back",
            "Host names whose certificate waits for the authority's weekly limit",
            self.certificates_held_back.clone(),
        );
        r.register(
            "connections_refused",
            "Connections to 7443 and 7444 that ended before anything was asked, by reason",
            self.refused.clone(),
        );
    }

    /// Counts a certificate order.
    pub fn certificate_order(&self, issued: bool) {
        let result = if issued { "issued" } else { "failed" };
        self.certificate_orders
            .get_or_create(&ResultLabel { result })
            .inc();
    }

    /// Counts a change of Traefik's configuration: of a shard's, or of the whole one if `shard` is empty.
    pub fn published(&self, shard: &str) {
        self.publications
            .get_or_create(&ShardLabel {
                shard: shard.to_owned(),
            })
            .inc();
    }

    /// Counts a page that a visitor got instead of a tenant.
    pub fn page(&self, page: &'static str) {
        self.pages.get_or_create(&PageLabel { page }).inc();
    }

    /// Counts a finished call and its duration.
    pub fn request(&self, method: &'static str, code: Code, seconds: f64) {
        self.requests
            .get_or_create(&RequestLabels {
                method,
                code: code_word(code),
            })
            .inc();
        self.latency.observe(seconds);
    }

    /// Counts a connection that we refused.
    pub fn refused(&self, why: Refused) {
        self.refused
            .get_or_create(&ReasonLabel { reason: why.word() })
            .inc();
    }
}

fn code_word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
