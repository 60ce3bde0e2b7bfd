//! The trace contexts of the operations of the plan in force, as the coordinator sent them with it.
//!
//! In memory only: a restarted agent works on without traces. Not here: what deserves a span (link, tenant, execute).

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use isyone_proto::convert::MAX_TENANTS_PER_HOST;
use isyone_telemetry::{context, tracing::Span};
use uuid::Uuid;

#[derive(Debug, Default)]
pub struct Traces {
    places: Mutex<HashMap<Uuid, String>>,
}

impl Traces {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, String>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the contexts of the previous plan with those of a new one.
    pub fn replace(&self, wire: HashMap<String, String>) {
        let places = wire
            .into_iter()
            .take(MAX_TENANTS_PER_HOST)
            .filter(|(_, place)| place.len() <= context::MAX_LENGTH)
            .filter_map(|(id, place)| Some((id.parse().ok()?, place)));
        *self.lock() = places.collect();
    }

    /// Operations that are traced.
    pub fn operations(&self) -> Vec<Uuid> {
        self.lock().keys().copied().collect()
    }

    /// The span that `make` makes, in the operation's trace; [`Span::none`] if the operation is not traced.
    pub fn within(&self, operation: Option<Uuid>, make: impl FnOnce() -> Span) -> Span {
        let Some(place) = operation.and_then(|id| self.lock().get(&id).cloned()) else {
            return Span::none();
        };
        let span = make();
        context::adopt(&span, &place);
        span
    }

    /// The operation is done here: later work to keep its tenant as planned is not part of it.
    pub fn done(&self, operation: Option<Uuid>) {
        if let Some(id) = operation {
            self.lock().remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_read_is_kept_and_only_until_it_is_done() {
        let traces = Traces::default();
        let id = Uuid::from_u128(7);
        let wire = [
            (id.to_string(), "00-a-b-01"),
            ("x".to_owned(), "y"),
            (Uuid::nil().to_string(), &*"z".repeat(999)),
        ];
        traces.replace(wire.map(|(id, place)| (id, place.to_owned())).into());
        assert_eq!(traces.operations(), [id]);
        traces.done(Some(id));
        assert!(traces.operations().is_empty());
    }
}
