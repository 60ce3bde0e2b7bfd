//! How many probes run at once through each edge: every edge has its own places, so that an edge that swallows
//! connections does not delay probes through another. Not here: whose turn it is, and what an answer means
//! (isyone_fleet::probes).

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Most probes at once through an edge that takes no connections: enough to notice soon when it does again.
const FEW: usize = 16;
/// How long a turn waits for a place before it is skipped. Turns come at a bounded rate, so this also bounds how many
/// wait.
const PATIENCE: Duration = Duration::from_secs(1);

/// The places of all edges.
#[derive(Debug, Default)]
pub struct Places {
    share: usize,
    edges: HashMap<SocketAddr, EdgePlaces>,
}

/// The places of one edge.
#[derive(Debug, Clone)]
pub struct EdgePlaces {
    share: usize,
    free: Arc<Semaphore>,
}

impl Places {
    /// Sets the edges; they share `concurrency` evenly, and each gets at least one place.
    pub fn share(&mut self, edges: &[SocketAddr], concurrency: usize) {
        let share = (concurrency / edges.len().max(1)).max(1);
        // Running probes return their places to the old semaphores.
        if share != self.share {
            self.edges.clear();
        }
        self.share = share;
        self.edges.retain(|edge, _| edges.contains(edge));
        for edge in edges {
            let new = || EdgePlaces {
                share,
                free: Arc::new(Semaphore::new(share)),
            };
            self.edges.entry(*edge).or_insert_with(new);
        }
    }

    /// One edge's places; `None` for an unknown edge.
    pub fn of(&self, edge: SocketAddr) -> Option<EdgePlaces> {
        self.edges.get(&edge).cloned()
    }
}

impl EdgePlaces {
    /// Takes a place until it is dropped; `None` if none frees up in time. An edge that takes `no_connections` has only
    /// a few.
    pub async fn enter(&self, no_connections: bool) -> Option<OwnedSemaphorePermit> {
        let taken = self.share.saturating_sub(self.free.available_permits());
        if no_connections && taken >= FEW {
            return None;
        }
        timeout(PATIENCE, self.free.clone().acquire_owned())
            .await
            .ok()?
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(n: u8) -> SocketAddr {
        ([192, 0, 2, n], 443).into()
    }

    #[tokio::test(start_paused = true)]
    async fn an_edge_that_swallows_everything_takes_no_place_from_another() {
        let mut places = Places::default();
        places.share(&[edge(1), edge(2)], 64);
        let (black, well) = (places.of(edge(1)).unwrap(), places.of(edge(2)).unwrap());
        let mut held = Vec::new();
        for _ in 0..32 {
            held.push(black.enter(false).await.unwrap());
        }
        assert!(black.enter(false).await.is_none());
        assert!(well.enter(false).await.is_some());
        // Places in use survive while the edges stay the same.
        places.share(&[edge(2), edge(1)], 64);
        assert_eq!(places.of(edge(1)).unwrap().free.available_permits(), 0);
        held.clear();
        assert!(black.enter(false).await.is_some());
        assert!(places.of(edge(3)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn through_an_edge_that_takes_no_connections_a_few_are_asked_for() {
        let mut places = Places::default();
        places.share(&[edge(1)], 64);
        let dead = places.of(edge(1)).unwrap();
        let mut held = Vec::new();
        while let Some(place) = dead.enter(true).await {
            held.push(place);
        }
        assert_eq!(held.len(), FEW);
        assert!(dead.enter(false).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn more_edges_than_places_have_one_each() {
        let edges: Vec<_> = (1..=9).map(edge).collect();
        let mut places = Places::default();
        places.share(&edges, 4);
        for one in edges {
            assert_eq!(places.of(one).unwrap().free.available_permits(), 1);
        }
    }
}
