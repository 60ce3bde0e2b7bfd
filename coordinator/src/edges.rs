//! Which edges ask for their configuration, and how far they are: so that an operation is told to be over when visitors
//! get through, not a second earlier.
//!
//! Only a courtesy to whoever watches: bounded in time, and without effect where edges take files or none asks.
//! Not here: the configuration (publish) and serving it (http).

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

/// Who has not asked for so long is no edge (any more). Traefik's usual poll is every second, at most every few.
const GONE: Duration = Duration::from_secs(10);
/// Edges remembered; more addresses than a fleet has edges.
const MAX_EDGES: usize = 64;
/// Longest wait for edges. A slower one gets there by itself.
const PATIENCE: Duration = Duration::from_secs(5);
/// From an edge's request to its new routes: Traefik's throttle of 100 ms, and building them.
const TAKE_UP: Duration = Duration::from_millis(200);

/// How far publication is.
#[derive(Debug, Clone, Copy, Default)]
struct Publication {
    /// The snapshot it is made of.
    version: u64,
    /// Counts the changes of the document.
    revision: u64,
}

#[derive(Debug, Clone, Copy)]
struct Edge {
    asked: Instant,
    revision: u64,
    /// Asks regularly: a person's single look does not make an edge.
    regular: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Edges {
    edges: Mutex<HashMap<IpAddr, Edge>>,
    published: watch::Sender<Publication>,
    asked: watch::Sender<()>,
}

impl Edges {
    /// The documents now show snapshot `version`; `changed` when the edges' one is another than before.
    pub fn published(&self, version: u64, changed: bool) {
        self.published.send_modify(|p| {
            *p = Publication { version, revision: p.revision + u64::from(changed) };
        });
    }

    /// Somebody was given the present configuration.
    pub fn asked(&self, from: IpAddr, now: Instant) {
        let revision = self.published.borrow().revision;
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        edges.retain(|_, edge| now.duration_since(edge.asked) < GONE);
        let regular = edges.contains_key(&from);
        if regular || edges.len() < MAX_EDGES {
            edges.insert(from, Edge { asked: now, revision, regular });
        }
        drop(edges);
        self.asked.send_replace(());
    }

    /// Whether an edge that asks regularly has an older configuration than `revision`.
    fn behind(&self, revision: u64, now: Instant) -> bool {
        let edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        edges.values().any(|e| e.regular && e.revision < revision && now.duration_since(e.asked) < GONE)
    }

    /// Waits until every edge has what snapshot `version` says, within bounds.
    pub async fn take_up(&self, version: u64) {
        let wait = async {
            let mut published = self.published.subscribe();
            // The sender is ours: it cannot be gone.
            let Ok(publication) = published.wait_for(|p| p.version >= version).await.map(|p| *p) else {
                return;
            };
            let mut asked = self.asked.subscribe();
            let mut waited = false;
            while self.behind(publication.revision, Instant::now()) {
                waited = true;
                // Wakes also without a request: an edge may be gone.
                let _ = tokio::time::timeout(Duration::from_secs(1), asked.changed()).await;
            }
            if waited {
                tokio::time::sleep(TAKE_UP).await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[tokio::test(start_paused = true)]
    async fn without_edges_nobody_waits() {
        let edges = Edges::default();
        edges.published(3, true);
        let began = Instant::now();
        edges.take_up(3).await;
        // One look of a person is no edge.
        edges.asked(EDGE, Instant::now());
        edges.published(4, true);
        edges.take_up(4).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_edge_is_waited_for_until_it_has_asked_again() {
        let edges = std::sync::Arc::new(Edges::default());
        edges.asked(EDGE, Instant::now());
        edges.asked(EDGE, Instant::now());
        edges.published(5, true);
        let poll = edges.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(700)).await;
            poll.asked(EDGE, Instant::now());
        });
        let began = Instant::now();
        edges.take_up(5).await;
        assert_eq!(began.elapsed(), Duration::from_millis(700) + TAKE_UP);
        // It has this one already.
        edges.published(6, false);
        edges.take_up(6).await;
        assert_eq!(began.elapsed(), Duration::from_millis(700) + TAKE_UP);
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_is_bounded_also_when_nothing_is_published() {
        let edges = Edges::default();
        let began = Instant::now();
        edges.take_up(1).await;
        assert_eq!(began.elapsed(), PATIENCE);
    }
}
