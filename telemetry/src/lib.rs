//! Logs to standard error, and traces to an OpenTelemetry collector, the same way in all three programs.
//!
//! Traces are off unless the environment names a collector ([`otlp`]). Then one request is one trace through `isyctl`,
//! coordinator and agent: [`client`] puts the caller's place into gRPC metadata, [`context`] reads it. Spans are made
//! by [`span!`] only: they never appear in logs, and cost next to nothing while traces are off.
//!
//! A span's fields are names, numbers and codes; never a request, a spec, an environment or an error's text, which may
//! hold secrets. Not here: what deserves a span (each program decides), metrics.

use std::{io::IsTerminal as _, time::Duration};

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::filter_fn, fmt, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

pub mod client;
pub mod context;
mod lines;
pub mod otlp;

pub use tracing;

/// Target of every span that belongs to a trace, and of nothing else. (The macro repeats it: a target must be a
/// literal.)
pub const TARGET: &str = "isyone::trace";

/// A span of a trace: `span!("commit", writes = 3)`, `span!(parent: &other, "apply")`. The module says which fields it
/// may have.
#[macro_export]
macro_rules! span {
    ($($rest:tt)+) => { $crate::tracing::info_span!(target: "isyone::trace", $($rest)+) };
}

/// Like [`span!`], as a child of another span; disabled when that one is, so that no partial trace starts in the
/// middle.
#[macro_export]
macro_rules! child_span {
    ($parent:expr, $($rest:tt)+) => {{
        let parent: &$crate::tracing::Span = $parent;
        if parent.is_disabled() { $crate::tracing::Span::none() } else { $crate::span!(parent: parent, $($rest)+) }
    }};
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people; coloured at a terminal.
    Human,
    /// One JSON object per line.
    Json,
}

/// The tracing exporter; call [`Telemetry::finish`] before the program ends.
#[derive(Debug)]
#[must_use = "spans that wait to be sent are lost without `finish`"]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// Starts logging (unless `log` is None) and, if the environment asks for it, tracing with `service` as the service
/// name. Call it inside a tokio runtime: the connection to the collector lives there. A second start in one process
/// (tests) changes nothing.
pub fn start(service: &'static str, log: Option<(EnvFilter, Format)>) -> Telemetry {
    let wanted = otlp::Wanted::from_environment();
    let (provider, trouble) = match otlp::provider(service, &wanted) {
        Ok(provider) => (provider, None),
        Err(trouble) => (None, Some(trouble)),
    };
    let mut layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = Vec::new();
    layers.extend(log.map(|(filter, format)| logger(filter, format)));
    layers.extend(provider.as_ref().map(|provider| {
        let layer = otlp::layer(provider);
        layer
            .with_filter(filter_fn(|metadata| metadata.target() == TARGET))
            .boxed()
    }));
    // The only possible error: a subscriber is already installed.
    drop(tracing_subscriber::registry().with(layers).try_init());
    match (&wanted, trouble) {
        (_, Some(trouble)) => tracing::error!("no traces are sent: {trouble}"),
        (otlp::Wanted::At(endpoint), None) => tracing::info!(endpoint, "traces are sent"),
        (otlp::Wanted::Off, None) => {}
    }
    Telemetry { provider }
}

fn logger(filter: EnvFilter, format: Format) -> Box<dyn Layer<Registry> + Send + Sync> {
    // Without this, the spans of a trace would prefix each log line within them.
    let filter = match format!("{TARGET}=off").parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    };
    let layer = fmt::layer().with_writer(std::io::stderr);
    match format {
        // Colours are for terminals, not for files.
        Format::Human => layer
            .fmt_fields(lines::fields())
            .with_ansi(std::io::stderr().is_terminal())
            .with_filter(filter)
            .boxed(),
        Format::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
    }
}

impl Telemetry {
    /// Whether traces are sent.
    pub fn is_tracing(&self) -> bool {
        self.provider.is_some()
    }

    /// Sends the spans still queued, for at most `patience`. Blocks; the runtime of [`start`] must still run, on
    /// another thread.
    pub fn finish(self, patience: Duration) {
        if let Some(provider) = self.provider
            && let Err(error) = provider.shutdown_with_timeout(patience)
        {
            tracing::warn!("the last traces may not have arrived: {error}");
        }
    }
}
