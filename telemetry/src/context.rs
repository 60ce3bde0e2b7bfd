//! A span's place in a trace as text (W3C `traceparent`), to carry it from program to program.
//!
//! A value from outside only groups spans: a forged one makes its sender's own trace unreadable, nothing more.

use opentelemetry::{
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::TraceContextExt as _,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Name of the HTTP header and of the gRPC metadata key.
pub const HEADER: &str = "traceparent";
/// Version 00 has 55 characters; later ones may have more.
pub const MAX_LENGTH: usize = 128;

struct One<'a>(&'a str);

impl Extractor for One<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == HEADER).then_some(self.0)
    }
    fn keys(&self) -> Vec<&str> {
        vec![HEADER]
    }
}

#[derive(Default)]
struct Taken(Option<String>);

impl Injector for Taken {
    fn set(&mut self, key: &str, value: String) {
        if key == HEADER {
            self.0 = Some(value);
        }
    }
}

/// The span's place, including whether its trace is recorded; None while traces are off.
pub fn of(span: &Span) -> Option<String> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    if !context.span().span_context().is_valid() {
        return None;
    }
    let mut taken = Taken::default();
    TraceContextPropagator::new().inject_context(&context, &mut taken);
    taken.0
}

/// Makes the span a child of a span in another program. Ignores an unreadable `traceparent`: the span then starts its
/// own trace.
pub fn adopt(span: &Span, traceparent: &str) {
    if span.is_disabled() || traceparent.len() > MAX_LENGTH {
        return;
    }
    let context = TraceContextPropagator::new().extract(&One(traceparent));
    if context.span().span_context().is_valid() {
        // Fails only if the span has already started or our layer is missing; the span then keeps its place.
        let _ = span.set_parent(context);
    }
}

/// Like [`adopt`], from a request's headers.
pub fn adopt_headers(span: &Span, headers: &http::HeaderMap) {
    if let Some(traceparent) = headers.get(HEADER).and_then(|value| value.to_str().ok()) {
        adopt(span, traceparent);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    const OUTSIDE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn traced(test: impl FnOnce()) {
        let provider = SdkTracerProvider::builder().build();
        let subscriber = tracing_subscriber::registry().with(crate::otlp::layer(&provider));
        tracing::subscriber::with_default(subscriber, test);
    }

    #[test]
    fn a_place_goes_from_program_to_program() {
        traced(|| {
            let span = crate::span!("here");
            adopt(&span, OUTSIDE);
            let place = of(&span).unwrap();
            assert_eq!(place[..35], OUTSIDE[..35]);
            assert_ne!(place, OUTSIDE);
        });
    }

    #[test]
    fn nonsense_from_outside_is_left() {
        traced(|| {
            let zero = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
            for nonsense in ["", "x", zero, &OUTSIDE[1..], &"0".repeat(MAX_LENGTH + 1)] {
                let span = crate::span!("here");
                adopt(&span, nonsense);
                assert!(
                    of(&span).is_some_and(|place| place.len() == OUTSIDE.len()),
                    "{nonsense}"
                );
            }
        });
    }

    #[test]
    fn without_traces_there_is_no_place() {
        let span = crate::span!("here");
        adopt(&span, OUTSIDE);
        assert_eq!(of(&span), None);
    }
}
