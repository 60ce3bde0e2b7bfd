//! The coordinator's own state on its way to the destinations of tenants' backups: what is committed is there a few seconds later, so
//! that a fleet can be rebuilt when this machine is lost.
//!
//! One loop for each destination follows the writer's snapshots, which are committed states: what is written is what lies between the
//! one that is there and the newest. One that hangs or is full keeps no other waiting, and nobody who commits. Nothing is queued: the
//! next shipment has everything.
//! All files are sealed by the sealing key, which is in none of them, nor is the CA's key (backup-keys).
//! Not here: what is written when (ship), where (folder), and how (format); making a coordinator of it (program).

pub mod collector;
mod directory;
pub mod folder;
pub mod format;
mod in_bucket;
pub mod rebuilt;
mod retention;
pub mod ship;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use isyone_proto::{ids::ShortName, tls::error_chain};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{
    collector::{Standing, Standings},
    folder::Folder,
    format::Configuration,
    ship::{Ship, ShipError},
};
use crate::{
    base::{clock, config::Backup, secrets::Sealer},
    writer::Handle,
};

/// From one shipment to the next, at the least. With the time that one takes this is what may be lost: well within 10 s.
const PAUSE: Duration = Duration::from_secs(3);
/// After one that failed.
const AGAIN: Duration = Duration::from_secs(5);
/// How often the destination is looked at although nothing has changed.
const LOOK: Duration = Duration::from_secs(60);

/// What the loops need.
#[derive(Debug)]
pub struct Shipping {
    pub handle: Handle,
    pub sealer: Arc<Sealer>,
    /// Our folder at each.
    pub destinations: BTreeMap<ShortName, Folder>,
    pub data_dir: PathBuf,
    /// The configuration in effect, which goes along.
    pub configuration: Configuration,
    pub standings: Arc<Standings>,
    pub stop: CancellationToken,
}

impl Shipping {
    /// Whether whoever loses the database loses all that was shipped.
    fn is_near(&self) -> bool {
        let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev()).ok();
        let own = device(&self.data_dir);
        let mut all = self.destinations.values();
        let is_here = |folder: &Folder| folder.directory().is_some_and(|d| device(&d) == own);
        own.is_some() && all.all(is_here)
    }
}

/// All destinations of a configuration, buckets too.
pub fn names(backup: &Backup) -> Vec<ShortName> {
    let all = backup.destinations.keys().chain(backup.buckets.keys());
    all.cloned().collect()
}

/// One for each destination.
pub fn standings(destinations: Vec<ShortName>) -> Standings {
    let each = destinations.into_iter();
    each.map(|name| (name, Arc::default())).collect()
}

/// Ships to all destinations until the coordinator stops.
pub async fn run(shipping: Shipping) {
    if shipping.is_near() {
        tracing::warn!(
            "the coordinator's state is shipped to the disk that its database is on, and nowhere else: name a destination elsewhere in [backup.destinations], or a bucket in [backup.buckets]"
        );
    }
    let mut loops = tokio::task::JoinSet::new();
    for (name, folder) in &shipping.destinations {
        let ship = Ship::new(
            folder.clone(),
            shipping.sealer.clone(),
            shipping.configuration.clone(),
        );
        let follower = Follower {
            handle: shipping.handle.clone(),
            name: name.clone(),
            standing: shipping.standings.get(name).cloned().unwrap_or_default(),
            said: String::new(),
            stop: shipping.stop.clone(),
        };
        loops.spawn(follower.follow(ship));
    }
    shipping.stop.cancelled().await;
    // What was committed until now; the rest goes with the next start.
    while loops.join_next().await.is_some() {}
}

/// The loop of one destination.
struct Follower {
    handle: Handle,
    name: ShortName,
    standing: Arc<Standing>,
    /// The trouble that was logged last; once is enough.
    said: String,
    stop: CancellationToken,
}

impl Follower {
    async fn follow(mut self, mut ship: Ship) {
        let mut changes = self.handle.subscribe();
        loop {
            let began = Instant::now();
            changes.mark_unchanged();
            // Also when nothing has changed, as far as is known: a destination that hangs must show.
            self.standing.behind(began.into_std());
            let state = self.handle.snapshot();
            let work = move || {
                let shipped = ship.ship(&state.fleet, clock::now_ms());
                (ship, shipped)
            };
            let Ok((back, shipped)) = tokio::task::spawn_blocking(work).await else {
                tracing::error!(destination = %self.name, "shipping the coordinator's state did not end well");
                return;
            };
            ship = back;
            let is_there = self.note(shipped);
            if is_there {
                // The writer is gone: there is nothing newer.
                let newer = changes.has_changed().unwrap_or(false);
                self.standing.shipped(newer.then(|| began.into_std()));
            }
            if self.stop.is_cancelled() {
                return;
            }
            let pause = if is_there { PAUSE } else { AGAIN };
            self.wait(began + pause, &mut changes, is_there).await;
        }
    }

    /// Until the next shipment: at `at` at the earliest, and then at a change, at the next look, or at the end.
    async fn wait(
        &self,
        at: Instant,
        changes: &mut tokio::sync::watch::Receiver<u64>,
        is_there: bool,
    ) {
        tokio::select! {
            () = tokio::time::sleep_until(at) => {}
            () = self.stop.cancelled() => return,
        }
        if !is_there {
            return;
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                self.stop.cancelled().await;
            },
            () = tokio::time::sleep(LOOK) => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// Logs trouble, and its end; whether the state is there.
    fn note(&mut self, shipped: Result<(), ShipError>) -> bool {
        let trouble = shipped.err().map(|error| error_chain(&error));
        let trouble = trouble.unwrap_or_default();
        let destination = &self.name;
        if trouble.is_empty() && !self.said.is_empty() {
            tracing::info!(%destination, "the coordinator's state is shipped again");
        } else if trouble != self.said {
            tracing::error!(%destination, error = trouble, "the coordinator's state is not shipped: what is changed now would be lost with this machine");
        }
        self.said = trouble;
        self.said.is_empty()
    }
}
