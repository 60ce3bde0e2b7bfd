//! Tells hosts who may scrape them: at a session's start and whenever the list changes.
//!
//! One task computes the list from the snapshots; sessions share it. The list is not part of the plan: a scraper's new
//! certificate must not give ten thousand plans a new generation.
//! Not here: which certificates are in the list (isyone_fleet::views), renewing Prometheus' own (edges/scraper).

use std::sync::Arc;

use isyone_fleet::{state::State, views};
use isyone_proto::pb::agent::v1::{Monitors, coordinator_message};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{ToAgent, give};
use crate::writer::Handle;

/// The certificates that may scrape hosts, as of the newest snapshot.
#[derive(Debug)]
pub struct MonitorList {
    current: watch::Sender<Arc<Vec<(String, String)>>>,
}

impl MonitorList {
    pub fn new(state: &State) -> Self {
        Self {
            current: watch::Sender::new(Arc::new(views::monitors(state))),
        }
    }

    fn update(&self, state: &State) {
        let newest = views::monitors(state);
        self.current.send_if_modified(|list| {
            let changed = **list != newest;
            if changed {
                *list = Arc::new(newest);
            }
            changed
        });
    }
}

/// Follows the snapshots until the coordinator stops.
pub(crate) async fn follow(handle: Handle, monitors: Arc<MonitorList>, stop: CancellationToken) {
    let mut changes = handle.subscribe();
    changes.mark_changed();
    let mut seen = None;
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
        let state = handle.snapshot();
        let operators = &state.fleet.operators;
        if !seen.as_ref().is_some_and(|seen| operators.ptr_eq(seen)) {
            monitors.update(&state);
            seen = Some(operators.clone());
        }
    }
}

/// Sends an agent the list, then every newer one. Runs until the agent stops taking messages; returns why.
pub(super) async fn send(monitors: &MonitorList, to_agent: &ToAgent) -> Status {
    let mut list = monitors.current.subscribe();
    loop {
        let (serials, sha256) = list.borrow_and_update().iter().cloned().unzip();
        let monitors = Monitors { serials, sha256 };
        let told = coordinator_message::Message::Monitors(monitors);
        if let Err(status) = give(to_agent, told).await {
            return status;
        }
        if list.changed().await.is_err() {
            // Unreachable in practice: the list lives as long as the sessions.
            return std::future::pending().await;
        }
    }
}
