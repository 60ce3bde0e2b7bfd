//! Tells the core which snapshots the edges run, as far as operations wait for that.
//!
//! One wait for each shard at a time, always for the newest snapshot that an operation of that shard needs. Not here: how
//! long an operation waits when an edge does not take it up (isyone_fleet's procedures).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use isyone_fleet::{change::Command, shards::Shards, state::State};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Edges, own_scope};
use crate::writer::Handle;

/// Shortest time between two looks: a busy fleet publishes many snapshots a second.
const PAUSE: Duration = Duration::from_millis(10);
/// Before a wait that has failed is begun again.
const AGAIN: Duration = Duration::from_millis(500);

/// Runs until the coordinator stops.
pub(crate) async fn run(handle: Handle, edges: Arc<Edges>, stop: CancellationToken) {
    let (mut changes, mut routes_due) = (handle.subscribe(), handle.routes_due());
    let mut waits: JoinSet<Option<usize>> = JoinSet::new();
    let mut under_way = BTreeSet::new();
    loop {
        // While none waits, and that is nearly always, snapshots are no news here.
        let waits_for_edges = *routes_due.borrow_and_update();
        let state = handle.snapshot();
        for (shard, version) in due(&state, &handle.settings().shards) {
            if under_way.insert(shard) {
                waits.spawn(wait(handle.clone(), edges.clone(), shard, version));
            }
        }
        tokio::select! {
            changed = changes.changed(), if waits_for_edges => if changed.is_err() { return },
            changed = routes_due.changed() => if changed.is_err() { return },
            Some(ended) = waits.join_next() => {
                // A wait cannot panic; if it did, its shard would have to wait for the core's patience from then on.
                if let Ok(shard) = ended {
                    under_way.remove(&shard);
                }
            }
            () = stop.cancelled() => return,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// For each shard with operations that wait: the newest snapshot that one of them needs.
fn due(state: &State, shards: &Shards) -> BTreeMap<Option<usize>, u64> {
    let mut due = BTreeMap::new();
    let all = shards.names().len().max(1);
    for (version, id) in state.routes_due.newest_first() {
        let operation = state.fleet.operations.get(&id);
        if let Some(tenant) = operation.and_then(|o| o.tenant()) {
            due.entry(shards.of(tenant.as_str())).or_insert(version);
        }
        if due.len() == all {
            break;
        }
    }
    due
}

/// Waits until the edges of a shard run this snapshot, and tells the core.
async fn wait(
    handle: Handle,
    edges: Arc<Edges>,
    shard: Option<usize>,
    version: u64,
) -> Option<usize> {
    if !edges.take_up(version, shard).await {
        tokio::time::sleep(AGAIN).await;
        return shard;
    }
    // Edges that take everything have been waited for, too.
    let scopes = BTreeSet::from([0, own_scope(shard)]);
    let command = Command::EdgesRun {
        scopes: scopes.into_iter().map(|scope| (scope, version)).collect(),
    };
    if let Err(error) = handle.submit_patiently("coordinator", command).await {
        tracing::debug!(%error, "what the edges run could not be told; told again");
        tokio::time::sleep(AGAIN).await;
    }
    shard
}
