//! A host's work besides its tenants: stops strays, copies snapshots in advance, saves what is known of containers.
//!
//! Not here: the tenants' own loops (tenant).

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{Host, hosts::Hosts, ledger::InForce, monitors::Monitors};
use crate::{
    base::fsutil::blocking,
    docker::ContainerSummary,
    plan::stack::{ODOO_STOP_S, POSTGRES_GRACE_S},
};

/// How often known containers are saved if there are changes: losing one costs one request to the engine.
const SAVE_KNOWN: Duration = Duration::from_secs(30);

/// Between tries to write down lists of the coordinator's that could not be written: they count already.
const WRITE_LISTS: Duration = Duration::from_secs(60);

/// Writes down, once that can be done, which hosts and monitors the coordinator has named.
pub async fn write_lists(hosts: Arc<Hosts>, monitors: Arc<Monitors>) {
    loop {
        sleep(WRITE_LISTS).await;
        let (hosts, monitors) = (hosts.clone(), monitors.clone());
        let written = blocking(move || hosts.write_again().and(monitors.write_again()));
        if let Err(e) = written.await {
            tracing::warn!("a list of the coordinator's cannot be written down, tried again: {e}");
        }
    }
}

/// Stops, but keeps, our containers that no plan names. Only an accepted plan can decide that. Runs as a task of its
/// own: stopping takes as long as a tenant's last requests.
pub async fn stop_strays(host: Arc<Host>, plans: watch::Receiver<InForce>, look: Arc<Notify>) {
    loop {
        look.notified().await;
        let in_force = plans.borrow().clone();
        let Some(plan) = in_force.plan else { continue };
        let listed = match host.docker.list().await {
            Ok(listed) => listed,
            Err(e) => {
                tracing::debug!("strays are looked for later: {e}");
                continue;
            }
        };
        for (prefix, grace) in [("odoo_", ODOO_STOP_S), ("postgres_", POSTGRES_GRACE_S)] {
            let stray = |c: &&ContainerSummary| {
                let named = plan.tenants.iter().any(|t| t.name.as_str() == c.tenant);
                !named
                    && c.name.starts_with(prefix)
                    && matches!(c.state.as_str(), "running" | "restarting" | "paused")
            };
            for container in listed.iter().filter(stray) {
                tracing::warn!(
                    container = container.name,
                    "no plan names its tenant any more: stopped and kept"
                );
                if let Err(e) = host.docker.stop(&container.name, grace).await {
                    tracing::warn!(container = container.name, "cannot be stopped: {e}");
                }
            }
        }
    }
}

/// Copies golden snapshots in advance, while no tenant is being created.
pub async fn keep_spares(host: Arc<Host>, stop: CancellationToken) {
    loop {
        host.golden.spare_wanted().await;
        loop {
            // Before each copy: a create that has arrived meanwhile goes first.
            host.until_idle().await;
            match host.golden.replenish(stop.clone()).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => {
                    tracing::warn!(
                        "no golden snapshot could be copied beforehand: {e}; the next tenant waits for its copy"
                    );
                    break;
                }
            }
        }
    }
}

/// Periodically saves what is known of containers, for the agent's next run.
pub async fn keep_known(host: Arc<Host>) {
    loop {
        sleep(SAVE_KNOWN).await;
        save_known(&host).await;
    }
}

/// Saves it now.
pub async fn save_known(host: &Arc<Host>) {
    let host = host.clone();
    if let Err(e) = blocking(move || host.known.save()).await {
        tracing::debug!(
            "what is known of containers is not kept: {e}; the next start asks Docker for each"
        );
    }
}
