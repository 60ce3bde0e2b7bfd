//! Where traces go: OTLP over gRPC, configured by OpenTelemetry's own environment variables only.
//!
//! `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) turns it on. The libraries read the rest:
//! `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER` with `_ARG`, `OTEL_EXPORTER_OTLP_HEADERS` and
//! `_TIMEOUT`, `OTEL_BSP_*`. An unreachable collector costs log lines and a bounded queue (2,048 spans by default);
//! what does not fit is dropped.

use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{ExporterBuildError, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider},
};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::Registry;

/// Whether the environment asks for traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    Off,
    At(String),
}

/// Why no traces are sent although the environment asks for them.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Only gRPC without TLS is supported.
    #[error(
        "the endpoint `{0}` is not http://HOST:PORT: OTLP is sent as gRPC without TLS, so run a collector beside this program that passes it on"
    )]
    Endpoint(String),
    /// The library rejects the environment.
    #[error("OpenTelemetry cannot be set up")]
    Build(#[from] ExporterBuildError),
}

impl Wanted {
    /// Reads OpenTelemetry's usual environment variables.
    pub fn from_environment() -> Self {
        Self::of(|name| std::env::var(name).ok())
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name| {
            variable(name)
                .map(|v| v.trim().to_owned())
                .filter(|v| !v.is_empty())
        };
        let disabled = set("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
        let elsewhere = set("OTEL_TRACES_EXPORTER").is_some_and(|v| v != "otlp");
        if disabled || elsewhere {
            return Self::Off;
        }
        let endpoint = set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
            .or_else(|| set("OTEL_EXPORTER_OTLP_ENDPOINT"));
        endpoint.map_or(Self::Off, Self::At)
    }
}

/// Makes and sends spans; None when the environment asks for none. Call it inside a tokio runtime.
pub(crate) fn provider(
    service: &'static str,
    wanted: &Wanted,
) -> Result<Option<SdkTracerProvider>, Trouble> {
    let Wanted::At(endpoint) = wanted else {
        return Ok(None);
    };
    if !endpoint.starts_with("http://") {
        return Err(Trouble::Endpoint(endpoint.clone()));
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()?;
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none_or(|name| name.is_empty()) {
        resource = resource.with_service_name(service);
    }
    let resource = resource
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(Some(
        SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .build(),
    ))
}

/// Turns our spans into the provider's. Leaves out source lines and thread numbers, which would be half of the data.
pub(crate) fn layer(provider: &SdkTracerProvider) -> OpenTelemetryLayer<Registry, SdkTracer> {
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("isyone"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(variables: &[(&str, &str)]) -> Wanted {
        Wanted::of(|name| {
            variables
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn traces_are_off_until_an_endpoint_is_named() {
        let at = |endpoint: &str| Wanted::At(endpoint.to_owned());
        let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4317");
        assert_eq!(wanted(&[]), Wanted::Off);
        assert_eq!(wanted(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), Wanted::Off);
        assert_eq!(wanted(&[general]), at("http://a:4317"));
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b:4317");
        assert_eq!(wanted(&[general, own]), at("http://b:4317"));
        assert_eq!(
            wanted(&[general, ("OTEL_SDK_DISABLED", "TRUE")]),
            Wanted::Off
        );
        assert_eq!(
            wanted(&[general, ("OTEL_TRACES_EXPORTER", "none")]),
            Wanted::Off
        );
        assert_eq!(
            wanted(&[general, ("OTEL_TRACES_EXPORTER", "otlp")]),
            at("http://a:4317")
        );
    }

    #[test]
    fn an_endpoint_that_cannot_be_served_is_told() {
        let told = provider("x", &Wanted::At("https://c:4317".to_owned())).unwrap_err();
        assert!(told.to_string().contains("https://c:4317"), "{told}");
    }
}
