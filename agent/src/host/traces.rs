//! Where the operations of the plan in force belong in their traces, as the coordinator said with it.
//!
//! In memory only: an agent that starts again works on without a trace. Not here: what is worth a span (link, tenant, execute).

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

    /// Takes what came with a plan, in place of what came with the one before.
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

    /// The span that `make` makes, in the operation's trace; none when that is not traced.
    pub fn within(&self, operation: Option<Uuid>, make: impl FnOnce() -> Span) -> Span {
        let Some(place) = operation.and_then(|id| self.lock().get(&id).cloned()) else {
            return Span::none();
        };
        let span = make();
        context::adopt(&span, &place);
        span
    }

    /// The operation is done here: what is done later to keep its tenant so is not part of it.
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
