//! Tells hosts where the others are, so that their tenants cannot reach them: at a session's start when there are others, and soon
//! after the list has changed.
//!
//! One task computes the list from the snapshots; sessions share it. The list is not part of the plan: a host that joins must
//! not give ten thousand plans a new generation. Not here: what a host does with it (the agent's plan::firewall).

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use isyone_fleet::{state::State, views};
use isyone_proto::pb::agent::v1::{HostAddresses, coordinator_message};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{PATIENCE, ToAgent, message};
use crate::writer::Handle;

/// Pause between two lists: while many hosts join, each gets few of them.
const PAUSE: Duration = Duration::from_secs(5);

/// Where all hosts are, as of a recent snapshot.
#[derive(Debug)]
pub struct HostList {
    current: watch::Sender<Arc<BTreeSet<IpAddr>>>,
}

impl HostList {
    pub fn new(state: &State) -> Self {
        Self {
            current: watch::Sender::new(Arc::new(views::host_addresses(state))),
        }
    }

    fn update(&self, state: &State) {
        let newest = views::host_addresses(state);
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
pub(crate) async fn follow(handle: Handle, hosts: Arc<HostList>, stop: CancellationToken) {
    let mut changes = handle.subscribe();
    changes.mark_changed();
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
        hosts.update(&handle.snapshot());
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Sends an agent the list, then every newer one. Runs until the agent stops taking messages; returns why.
pub(super) async fn send(hosts: &HostList, to_agent: &ToAgent) -> Status {
    let mut list = hosts.current.subscribe();
    let mut alone = true;
    loop {
        let addresses: Vec<String> = list
            .borrow_and_update()
            .iter()
            .map(ToString::to_string)
            .collect();
        // A host that is alone and always was need not be told.
        alone &= addresses.len() < 2;
        if !alone {
            let told = HostAddresses { addresses };
            let message = message(coordinator_message::Message::HostAddresses(told));
            match tokio::time::timeout(PATIENCE, to_agent.send(message)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => {
                    return Status::deadline_exceeded("the agent takes no messages");
                }
            }
        }
        if list.changed().await.is_err() {
            // Unreachable in practice: the list lives as long as the sessions.
            return std::future::pending().await;
        }
    }
}
