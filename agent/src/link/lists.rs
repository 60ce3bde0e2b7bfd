//! Lists of the fleet that the coordinator tells beside the plan: who may scrape this host, and where the others are.
//!
//! Not here: what they are for (metrics::server, plan::firewall), their files (host::monitors, host::hosts).

use std::{collections::BTreeSet, io, net::IpAddr, sync::Arc};

use isyone_proto::{
    convert,
    hosts::HostsAssembly,
    pb::agent::v1::{HostAddresses, HostsPart, Monitors as MonitorsTold},
};
use tokio::task::spawn_blocking;

use crate::host::{hosts::Hosts, monitors::Monitors};

/// What one session has told of them.
pub(super) struct Lists {
    monitors: Arc<Monitors>,
    hosts: Arc<Hosts>,
    part: HostsAssembly,
}

impl Lists {
    pub(super) fn new(monitors: Arc<Monitors>, hosts: Arc<Hosts>) -> Self {
        Self {
            monitors,
            hosts,
            part: HostsAssembly::default(),
        }
    }

    pub(super) async fn take_monitors(&self, told: MonitorsTold) {
        let monitors = self.monitors.clone();
        written("who may scrape", move || {
            monitors.replace(told.serials, told.sha256)
        })
        .await;
    }

    /// The list of hosts as coordinators of before send it. One that cannot be read is told and left: the one before counts
    /// on.
    pub(super) async fn take_hosts(&self, told: HostAddresses) {
        match convert::host_addresses(&told) {
            Err(e) => tracing::error!("where the fleet's hosts are cannot be read: {e}"),
            Ok(addresses) => self.replace_hosts(addresses).await,
        }
    }

    /// A message of the list of hosts, or of what has changed in it. What cannot be read is told and left, too: the next
    /// session tells the coordinator which list this host has, and gets the whole one.
    pub(super) async fn take_part(&mut self, told: HostsPart) {
        let after = match self.part.add(told) {
            Ok(Some(change)) => change.of(&self.hosts.known()).map(Some),
            Ok(None) => Ok(None),
            Err(e) => Err(e),
        };
        match after {
            Err(e) => tracing::error!("where the fleet's hosts are cannot be read: {e}"),
            Ok(None) => {}
            Ok(Some(addresses)) => self.replace_hosts(addresses).await,
        }
    }

    async fn replace_hosts(&self, addresses: BTreeSet<IpAddr>) {
        let hosts = self.hosts.clone();
        written("where the fleet's hosts are", move || {
            hosts.replace(addresses)
        })
        .await;
    }
}

/// Takes a list, which writes to disk: so not on the runtime's threads.
async fn written(what: &str, take: impl FnOnce() -> io::Result<()> + Send + 'static) {
    if let Ok(Err(e)) = spawn_blocking(take).await {
        tracing::error!("{what} is in force, but could not be written down: {e}");
    }
}
