//! Asks the edges periodically what they run, and submits an event when one does not take up what it was given.
//!
//! Not here: what is known of an edge, and how it is judged (isyone_fleet::edge).

use std::{sync::Arc, time::Duration};

use isyone_fleet::{change::Command, event::EventKind, shards::Shards};
use tokio_util::sync::CancellationToken;

use super::{EdgeSeen, EdgeState, Edges};
use crate::{base::clock, writer::Handle};

/// Between two looks. Well below the time after which an edge's answer is stale (isyone_fleet::edge).
const EVERY: Duration = Duration::from_secs(15);

/// Runs until the coordinator stops.
pub(crate) async fn run(handle: Handle, edges: Arc<Edges>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.cancelled() => return,
        }
        edges.look(|_| true).await;
        let seen = edges.seen(clock::monotonic());
        edges.keep_look(&seen);
        let shards = &handle.settings().shards;
        for edge in seen {
            tell(&handle, &edges, shards, &edge).await;
        }
    }
}

/// Reports an edge that became stuck or recovered. If the event cannot be stored, the next look reports it.
async fn tell(handle: &Handle, edges: &Edges, shards: &Shards, edge: &EdgeSeen) {
    let Some(event) = news(edge, shards.scope_name(edge.scope)) else {
        return;
    };
    match handle.submit("coordinator", event).await {
        Ok(_) => edges.told(edge, edge.state == EdgeState::Stuck),
        Err(error) => tracing::warn!(%error, "an edge's event could not be stored; tried again"),
    }
}

fn news(edge: &EdgeSeen, shard: &str) -> Option<Command> {
    let who = if shard.is_empty() {
        edge.address.to_string()
    } else {
        format!("{} ({shard})", edge.address)
    };
    let short = |version: &Option<String>| {
        version
            .as_deref()
            .map_or("another", |v| v.get(..8).unwrap_or(v))
            .to_owned()
    };
    let (runs, given) = (short(&edge.runs), short(&edge.given));
    match (edge.state, edge.told) {
        (EdgeState::Stuck, false) => Some(Command::Note {
            kind: EventKind::EdgeStuck,
            host: None,
            message: format!(
                "edge {who} was given version {given} and still runs {runs}: its Traefik refuses it or hangs. Its log says why; its tenants \
                 are served as before"
            ),
        }),
        // An edge that cannot be asked now, or is away, may still be stuck.
        (EdgeState::Current, true) => Some(Command::Note {
            kind: EventKind::EdgeRecovered,
            host: None,
            message: format!("edge {who} runs what it was given, version {runs}"),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_is_told_to_be_stuck_once_and_to_be_well_when_it_is() {
        let now = clock::monotonic();
        let seen = |state, told| EdgeSeen {
            address: [192, 0, 2, 1].into(),
            scope: 1,
            state,
            asked: now,
            given: Some("0123456789abcdef".to_owned()),
            tenants: 3,
            runs: Some("fedcba9876543210".to_owned()),
            newest: None,
            behind_since: None,
            told,
        };
        let told = |state, told| match news(&seen(state, told), "a") {
            Some(Command::Note { kind, message, .. }) => Some((kind, message)),
            _ => None,
        };
        let (kind, message) = told(EdgeState::Stuck, false).unwrap();
        assert_eq!(kind, EventKind::EdgeStuck);
        assert!(
            message.contains("192.0.2.1 (a)")
                && message.contains("01234567 and still runs fedcba98")
        );
        assert_eq!(told(EdgeState::Stuck, true), None);
        for state in EdgeState::ALL {
            let recovered = told(state, true).map(|(kind, _)| kind);
            assert_eq!(
                recovered,
                (state == EdgeState::Current).then_some(EventKind::EdgeRecovered),
                "{state:?}"
            );
            assert!(state == EdgeState::Stuck || told(state, false).is_none());
        }
    }
}
