//! The state's way to its destinations in our metrics: for how long something has not been there.
//!
//! Not here: shipping (the parent).

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use isyone_proto::ids::ShortName;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet},
    registry::Unit,
};

use crate::base::{clock, metrics::Families};

/// How a destination stands.
#[derive(Debug, Default)]
pub struct Standing {
    /// Since when something may not be there; `None`: everything is.
    behind_since: Mutex<Option<Instant>>,
}

/// All destinations.
pub type Standings = BTreeMap<ShortName, Arc<Standing>>;

impl Standing {
    /// Something is to be shipped; the time counts from the first that is not there.
    pub(super) fn behind(&self, now: Instant) {
        self.with(|since| *since = since.or(Some(now)));
    }

    /// What there was is there. `since`: when something newer may have come.
    pub(super) fn shipped(&self, since: Option<Instant>) {
        self.with(|behind| *behind = since);
    }

    /// Seconds for which something has not been there; 0: everything is.
    pub fn behind_s(&self, now: Instant) -> u64 {
        self.with(|since| since.map_or(0, |since| now.saturating_duration_since(since).as_secs()))
    }

    fn with<T>(&self, f: impl FnOnce(&mut Option<Instant>) -> T) -> T {
        // The value is whole at any time, whoever has panicked.
        f(&mut self
            .behind_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writes what is known at a scrape.
#[derive(Debug)]
pub struct StateCollector(pub Arc<Standings>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DestinationLabel {
    destination: String,
}

impl Collector for StateCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let now = clock::monotonic();
        let values = self.0.iter().map(|(name, standing)| {
            let destination = name.to_string();
            let seconds = i64::try_from(standing.behind_s(now)).unwrap_or(i64::MAX);
            (DestinationLabel { destination }, seconds)
        });
        Families(encoder).gauges(
            "state_unshipped",
            "For how long something of the coordinator's own state has not been at a destination; 0: everything is",
            Some(&Unit::Seconds),
            values,
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::metrics;

    /// The alert matches this name.
    #[test]
    fn the_alert_finds_what_it_asks_for() {
        let (standing, now) = (Arc::<Standing>::default(), clock::monotonic());
        let later = now + Duration::from_secs(100);
        standing.behind(now);
        standing.behind(later);
        assert_eq!(standing.behind_s(later), 100, "the first counts");
        standing.shipped(Some(later));
        assert_eq!(standing.behind_s(later + Duration::from_secs(3)), 3);
        standing.shipped(None);
        let mut registry = metrics::registry();
        let standings = BTreeMap::from([("b".parse().unwrap(), standing)]);
        registry.register_collector(Box::new(StateCollector(Arc::new(standings))));
        let text = metrics::render(&registry);
        let line = "isyone_state_unshipped_seconds{destination=\"b\"} 0";
        assert!(text.lines().any(|l| l == line), "{text}");
    }
}
