//! One command as one trace, where the environment asks for traces: its root span, and the sending at the end.
//!
//! Unset, nothing is started. A collector that does not answer delays the end of a command by [`LAST_TRACES`] at most.

use std::time::Duration;

use isyone_telemetry::{
    Format, otlp, span,
    tracing::{Instrument as _, field},
};
use tracing_subscriber::EnvFilter;

use crate::exit::Outcome;

/// How long a command may wait at its end for the collector: a person waits too.
const LAST_TRACES: Duration = Duration::from_secs(1);
/// With `-v`, why traces do not arrive. Without it, a collector that is away is nobody's business here.
const TROUBLE: &str = "off,isyone_telemetry=warn,opentelemetry_sdk=warn,opentelemetry_otlp=warn";

/// Carries a command out, within a trace if one is wanted. `name` gives the command's words, without arguments: those may be secret.
pub async fn command(
    verbose: bool,
    name: impl FnOnce() -> String,
    run: impl Future<Output = Outcome>,
) -> Outcome {
    if otlp::Wanted::from_environment() == otlp::Wanted::Off {
        return run.await;
    }
    let log = verbose.then(|| (EnvFilter::new(TROUBLE), Format::Human));
    let telemetry = isyone_telemetry::start("isyctl", log);
    let span = span!(
        "command",
        otel.name = name(),
        otel.status_code = field::Empty,
        exit_code = field::Empty
    );
    let outcome = run.instrument(span.clone()).await;
    let code = outcome
        .as_ref()
        .map_or_else(|failure| failure.exit.code(), |exit| exit.code());
    span.record("exit_code", code);
    if outcome.is_err() {
        span.record("otel.status_code", "ERROR");
    }
    drop(span);
    // The connection to the collector lives on this thread, so waiting for it does not.
    let _ = tokio::task::spawn_blocking(move || telemetry.finish(LAST_TRACES)).await;
    outcome
}
