//! Sets up the coordinator's logs and traces, from its configuration and OpenTelemetry's environment.
//!
//! Not here: what is logged, and how spans travel (isyone-telemetry).

use isyone_telemetry::{Format, Telemetry};
use tracing_subscriber::EnvFilter;

use crate::base::config::{Log, LogFormat};

/// Starts logging, and tracing if the environment asks for it. Call it inside the runtime.
pub fn start(log: &Log) -> Telemetry {
    let filter = EnvFilter::try_new(&log.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let format = match log.format {
        LogFormat::Human => Format::Human,
        LogFormat::Json => Format::Json,
    };
    isyone_telemetry::start("isy-coordinator", Some((filter, format)))
}
