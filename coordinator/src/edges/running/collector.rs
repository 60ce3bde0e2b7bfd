//! The edges in our metrics, as the last round of questions to all of them found them.
//!
//! Not here: what is known of an edge (mod.rs).

use std::{collections::BTreeMap, fmt, sync::Arc};

use isyone_fleet::shards::Shards;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet},
};

use super::{EdgeState, Edges};
use crate::base::metrics::Families;

/// Collects the edges that poll their configuration.
#[derive(Debug)]
pub(crate) struct EdgeCollector {
    pub(crate) edges: Arc<Edges>,
    pub(crate) shards: Shards,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EdgeLabels {
    edge: String,
    shard: String,
}

impl Collector for EdgeCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let seen = self.edges.looked.load_full();
        let mut states: BTreeMap<&str, i64> = EdgeState::ALL.map(|state| (state.word(), 0)).into();
        for edge in seen.iter() {
            *states.entry(edge.state.word()).or_default() += 1;
        }
        let mut families = Families(encoder);
        families.gauges(
            "edges",
            "Edges that ask for their configuration, by how far they are",
            None,
            states
                .into_iter()
                .map(|(state, count)| (StateLabel { state }, count)),
        )?;
        // Edges that cannot be asked, or no longer poll, have no "stuck" sample; other metrics cover them.
        let known = seen.iter().filter(|edge| {
            matches!(
                edge.state,
                EdgeState::Current | EdgeState::Behind | EdgeState::Stuck
            )
        });
        families.gauges(
            "edge_stuck",
            "1 when an edge was given a configuration long ago and runs an older one",
            None,
            known.map(|edge| {
                let labels = EdgeLabels {
                    edge: edge.address.to_string(),
                    shard: self.shards.scope_name(edge.scope).to_owned(),
                };
                (labels, i64::from(edge.state == EdgeState::Stuck))
            }),
        )
    }
}
