//! Operations that wait for edges, each with the snapshot that those must run; in the order in which they began to wait.
//!
//! Kept so that neither a tick nor a word of an edge looks at operations which cannot go on yet. Not here: how long one
//! waits (procedures), and asking the edges (the coordinator's edges/running).

use imbl::{OrdMap, OrdSet};
use uuid::Uuid;

/// The waiting operations. Never stored: computed again after a start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RoutesDue {
    due: OrdMap<Uuid, u64>,
    /// Snapshots are counted upwards, so this is the order in time, too.
    order: OrdSet<(u64, Uuid)>,
}

impl RoutesDue {
    /// The snapshot that edges must run for this operation.
    pub fn get(&self, id: &Uuid) -> Option<u64> {
        self.due.get(id).copied()
    }

    /// An operation begins to wait for this snapshot. One that waits already is left as it is.
    pub fn wait(&mut self, id: Uuid, version: u64) {
        if !self.due.contains_key(&id) {
            self.due.insert(id, version);
            self.order.insert((version, id));
        }
    }

    /// An operation waits no longer.
    pub fn remove(&mut self, id: &Uuid) {
        if let Some(version) = self.due.remove(id) {
            self.order.remove(&(version, *id));
        }
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Operations with their snapshots, the longest wait first.
    pub fn oldest_first(&self) -> impl Iterator<Item = (u64, Uuid)> {
        self.order.iter().copied()
    }

    /// Operations with their snapshots, the newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = (u64, Uuid)> {
        self.order.iter().rev().copied()
    }
}
