//! One command as one trace, if the environment asks for traces: the root span, and the export at the end.
//!
//! Without that setting, nothing is started. A collector that does not answer delays a command's end by at most
//! [`LAST_TRACES`].

use std::time::Duration;

use isyone_telemetry::{
    Format, otlp, span,
    tracing::{Instrument as _, field},
};
use tracing_subscriber::EnvFilter;

use crate::exit::Outcome;

/// How long a command may wait for the collector at its end: a person waits too.
const LAST_TRACES: Duration = Duration::from_secs(1);
/// With `-v`, log why traces do not arrive. Without it, an unreachable collector is not reported.
const TROUBLE: &str = "off,isyone_telemetry=warn,opentelemetry_sdk=warn,opentelemetry_otlp=warn";

/// Runs a command, within a trace if one is wanted. `name` is the command's words without arguments, which may be
/// secret.
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
    // The connection to the collector runs on this thread, so the wait must happen on another.
    let _ = tokio::task::spawn_blocking(move || telemetry.finish(LAST_TRACES)).await;
    outcome
}
