//! The background loops; three small ones (our own certificates, those to remember, connections to cut) are here.
//!
//! Not here: the writer's loop and publishing, which start with the ports.

use std::{sync::Arc, time::Duration};

use isyone_fleet::change::Command;
use isyone_proto::tls::{CertificateInfo, error_chain};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::shared::Shared;
use crate::{
    agents::session::{hosts, monitors},
    base::{clock, pki::Pki},
    edges::{
        acme::{self, Acme},
        domains::{self, Watch},
        probes::{self, Prober, ask::Asker},
        running,
        scraper::{self, Scraper},
    },
    ports::listener::Connections,
    repositories::{
        buckets::{self, Follower},
        collector,
        rota::{self, Rota},
        upkeep,
    },
    shipping::{self, Shipping, folder::Folder, format::Configuration},
    writer::Handle,
};

/// How often we look at the certificate files.
const PKI_REFRESH: Duration = Duration::from_secs(5);
/// Pause between two looks at changes, of which there may be thousands a second.
const CUT_PAUSE: Duration = Duration::from_millis(50);

/// Starts the background loops.
pub(super) fn spawn(
    shared: &Shared,
    asker: Option<Asker>,
    refresh: Arc<Notify>,
    tasks: &mut JoinSet<()>,
) {
    let (handle, config, stop) = (&shared.handle, &shared.config, &shared.stop);
    tasks.spawn(cut_refused(
        handle.clone(),
        shared.connections.clone(),
        stop.clone(),
    ));
    spawn_lists(shared, tasks);
    tasks.spawn(running::watch::run(
        handle.clone(),
        shared.edges.clone(),
        stop.clone(),
    ));
    tasks.spawn(running::routes::run(
        handle.clone(),
        shared.edges.clone(),
        stop.clone(),
    ));
    // Without a directory there is nothing to do, and a loop that returns counts as a failure.
    if config.monitoring.certificate_dir.is_some() {
        tasks.spawn(scraper::run(Scraper {
            handle: handle.clone(),
            config: config.clone(),
            pki: shared.pki.clone(),
            stop: stop.clone(),
        }));
    }
    if config.orders_certificates() {
        tasks.spawn(acme::run(Arc::new(Acme {
            handle: handle.clone(),
            config: config.clone(),
            sealer: shared.sealer.clone(),
            challenges: shared.challenges.clone(),
            metrics: shared.metrics.clone(),
            stop: stop.clone(),
        })));
    }
    if let Some(asker) = asker {
        let prober = Prober {
            handle: handle.clone(),
            config: config.clone(),
            board: shared.probes.clone(),
            stop: stop.clone(),
        };
        tasks.spawn(probes::run(Arc::new(prober), asker));
    }
    if config.dns.watches() {
        tasks.spawn(domains::run(Watch {
            handle: handle.clone(),
            config: config.clone(),
            looks: shared.domains.clone(),
            dns: shared.dns.clone(),
            stop: stop.clone(),
        }));
    }
    spawn_backups(shared, tasks);
    let rotations = shared.rotations.clone();
    tasks.spawn(rotations.clone().run(stop.clone()));
    tasks.spawn(rotations.serve(stop.clone()));
    tasks.spawn(keep_certificates_fresh(
        shared.pki.clone(),
        refresh,
        stop.clone(),
    ));
}

/// The loops of tenants' backups, and of our own state to the same destinations. Upkeep also where none are made any more: what was made is still removed in its time.
fn spawn_backups(shared: &Shared, tasks: &mut JoinSet<()>) {
    if shared.config.backup.enabled {
        tasks.spawn(rota::run(Rota {
            handle: shared.handle.clone(),
            config: shared.config.clone(),
            sealer: shared.sealer.clone(),
            standings: shared.standings.clone(),
            stop: shared.stop.clone(),
        }));
        tasks.spawn(collector::watch(
            shared.upkeep.places.clone(),
            shared.rooms.clone(),
            shared.stop.clone(),
        ));
        let places = shared.upkeep.places.iter();
        let directories = places.map(|(name, place)| (name.clone(), Folder::new(&place.directory)));
        let buckets = shared.upkeep.buckets.iter();
        let in_buckets = buckets.map(|of| (of.name.clone(), Folder::in_bucket(of.bucket.clone())));
        tasks.spawn(shipping::run(Shipping {
            handle: shared.handle.clone(),
            sealer: shared.sealer.clone(),
            destinations: directories.chain(in_buckets).collect(),
            data_dir: shared.config.data_dir.clone(),
            configuration: Configuration {
                text: shared.config.to_toml(),
                mail_passwords: shared.mail.all(),
            },
            standings: shared.shipped.clone(),
            stop: shared.stop.clone(),
        }));
    }
    tasks.spawn(upkeep::run(shared.upkeep.clone()));
    for copies in shared.upkeep.buckets.iter() {
        tasks.spawn(buckets::run(Arc::new(Follower {
            copies: copies.clone(),
            upkeep: shared.upkeep.clone(),
            stop: shared.stop.clone(),
        })));
    }
}

/// The loops behind the lists that all hosts are sent.
fn spawn_lists(shared: &Shared, tasks: &mut JoinSet<()>) {
    let (handle, stop) = (&shared.handle, &shared.stop);
    tasks.spawn(monitors::follow(
        handle.clone(),
        shared.monitors.clone(),
        stop.clone(),
    ));
    tasks.spawn(hosts::follow(
        handle.clone(),
        shared.hosts.clone(),
        stop.clone(),
    ));
}

/// Cuts connections whose certificate the Fleet no longer admits.
async fn cut_refused(handle: Handle, connections: Arc<Connections>, stop: CancellationToken) {
    let mut changes = handle.subscribe();
    let mut seen = handle.snapshot();
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
        let state = handle.snapshot();
        if state.fleet.withdrew_since(&seen.fleet) {
            connections.cut_unless(|certificate| state.fleet.admits(certificate).is_ok());
        }
        seen = state;
        tokio::time::sleep(CUT_PAUSE).await;
    }
}

/// Remembers the fingerprints of certificates that a version before issued, when their owners connect.
pub(super) async fn pin(
    handle: Handle,
    mut unpinned: mpsc::Receiver<CertificateInfo>,
    stop: CancellationToken,
) {
    loop {
        let certificate = tokio::select! {
            certificate = unpinned.recv() => certificate,
            () = stop.cancelled() => return,
        };
        let Some(certificate) = certificate else {
            return stop.cancelled().await; // nobody can connect any more
        };
        let command = Command::pin(certificate);
        if let Err(e) = handle.submit_patiently("coordinator", command).await {
            tracing::warn!("a certificate is not remembered whole yet: {e}");
        }
    }
}

/// Loads changed certificate files and renews our own, periodically and on request.
async fn keep_certificates_fresh(pki: Arc<Pki>, refresh: Arc<Notify>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(PKI_REFRESH) => {}
            () = refresh.notified() => {}
            () = stop.cancelled() => return,
        }
        match pki.refresh(clock::now_seconds()) {
            Ok(true) => tracing::info!("certificates taken up"),
            Ok(false) => {}
            Err(error) => {
                let error = error_chain(&error);
                tracing::error!(
                    error,
                    "certificates cannot be taken up; the old ones stay in use"
                );
            }
        }
    }
}
