//! How many probes run at once, edge by edge: each edge has its own places, so that one that swallows connections holds up
//! nobody who is asked for through another. Not here: whose turn it is, and what an answer means (isyone_fleet::probes).

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Asked at once through an edge that takes no connections: enough to see soon that it takes them again.
const FEW: usize = 16;
/// How long a turn waits for a place before it is left out. As turns come at a bounded rate, so few wait at once.
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
    /// These are the edges now; they share `concurrency` evenly, and each has one place at least.
    pub fn share(&mut self, edges: &[SocketAddr], concurrency: usize) {
        let share = (concurrency / edges.len().max(1)).max(1);
        // Who is asking with a place of before gives it back to where it is from.
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

    /// Those of one edge; `None` when it is none of them.
    pub fn of(&self, edge: SocketAddr) -> Option<EdgePlaces> {
        self.edges.get(&edge).cloned()
    }
}

impl EdgePlaces {
    /// A place, kept until it is dropped; `None` when none comes free in time. An edge that takes `no_connections` has only a few.
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
        // What is known of it stays known while the edges are the same.
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
