//! Tenants' backups on this host: the log and new files shipped every few minutes, base backups, dumps and final copies as jobs order.
//!
//! A base backup and the segments of the log that follow it are a chain at each destination; what is shipped is a snapshot of few files,
//! because it is made only when something was written, and brings only what is new: a tenant that is idle costs nothing. Everything is a
//! snapshot in the tenant's repository (isyone-backup), which is there only when all of it is, so an agent that dies leaves nothing that
//! looks good; what it knew is on disk, and what it did not come to write down is shipped again.
//!
//! Nothing happens for tenants whose plan has no backups. Not here: when a base backup is made, what is kept, and to what is restored
//! (the coordinator's); putting segments into the spool (PostgreSQL, `plan/postgres/archive.sh`).

mod cache;
mod chain;
mod close;
mod cluster;
mod files;
mod make;
mod manifest;
mod producer;
mod proof;
mod put;
mod record;
mod remote;
pub mod restore;
mod ship;
mod shipper;
mod site;
mod source;
mod spool;
mod store;
mod words;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use isyone_backup::Pace;
use isyone_proto::{
    backup::Destination,
    ids::{HostName, ShortName},
    plan::TenantPlan,
};
use tokio::sync::watch;
use uuid::Uuid;

pub use self::{
    make::Make,
    proof::Verify,
    restore::{ContainerServers, Restore},
    shipper::Shipper,
    source::{HostTenants, Tenants},
    store::{CoordinatorStores, Stores},
};
use self::{record::Records, site::Site, words::Problem};
use crate::host::{Host, ledger::InForce};

/// What all backups of a host share.
pub struct Backups {
    host: Arc<Host>,
    name: HostName,
    plans: watch::Receiver<InForce>,
    tenants: Arc<dyn Tenants>,
    stores: Arc<dyn Stores>,
    /// The host's own rate.
    pace: Arc<Pace>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    sites: HashMap<(Uuid, ShortName), Arc<Site>>,
    /// Held while a tenant's spool is looked at and changed.
    turns: HashMap<Uuid, Arc<tokio::sync::Mutex<()>>>,
    /// Each destination's rate.
    paces: HashMap<ShortName, Arc<Pace>>,
}

impl Backups {
    /// All backups of the host together keep to a rate; 0: no limit.
    pub fn new(
        host: Arc<Host>,
        name: HostName,
        plans: watch::Receiver<InForce>,
        tenants: Arc<dyn Tenants>,
        stores: Arc<dyn Stores>,
        rate_bytes_per_s: u64,
    ) -> Self {
        Self {
            host,
            name,
            plans,
            tenants,
            stores,
            pace: Arc::new(Pace::new(rate_bytes_per_s)),
            known: Mutex::default(),
        }
    }

    fn known<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn site(&self, tenant: Uuid, destination: &ShortName) -> Arc<Site> {
        let records = Records::of(&self.host.data, tenant);
        let make = || Arc::new(Site::new(destination.clone(), records));
        let key = (tenant, destination.clone());
        self.known(|known| known.sites.entry(key).or_insert_with(make).clone())
    }

    fn sites(&self, tenant: &TenantPlan) -> Vec<Arc<Site>> {
        destinations(tenant)
            .iter()
            .map(|d| self.site(tenant.uid, &d.name))
            .collect()
    }

    fn turn(&self, tenant: Uuid) -> Arc<tokio::sync::Mutex<()>> {
        self.known(|known| known.turns.entry(tenant).or_default().clone())
    }

    fn pace_of(&self, destination: &Destination) -> Arc<Pace> {
        let rate = destination.rate_bytes_per_s;
        let pace = self.known(|known| {
            let new = || Arc::new(Pace::new(rate));
            known
                .paces
                .entry(destination.name.clone())
                .or_insert_with(new)
                .clone()
        });
        pace.set(rate);
        pace
    }

    /// Forgets what is in memory of tenants that are not here any more.
    fn forget_all_but(&self, tenants: &[Uuid]) {
        self.known(|known| {
            known
                .sites
                .retain(|(tenant, _), _| tenants.contains(tenant));
            known.turns.retain(|tenant, _| tenants.contains(tenant));
        });
    }

    /// A tenant of the plan, by its identity.
    fn tenant(&self, uid: Uuid) -> Option<TenantPlan> {
        let plan = self.plans.borrow().plan.clone()?;
        plan.tenants.iter().find(|t| t.uid == uid).cloned()
    }

    /// Shows how a tenant's backups are. `spool`: as it was looked at; unset where that was not possible.
    async fn show(&self, tenant: &TenantPlan, spool: Option<&spool::Listed>, archiver: &str) {
        if tenant.backup.is_none() {
            return;
        }
        let board = &self.host.board;
        let before = board.backup(&tenant.name, tenant.uid);
        let mut report = before.map(|before| *before).unwrap_or_default();
        if let Some(spool) = spool {
            archiver.clone_into(&mut report.archiver);
            report.spool_bytes = spool.bytes;
            report.spool_segments = u32::try_from(spool.segments.len()).unwrap_or(u32::MAX);
            report.spool_since = spool.segments.values().min().copied();
            report.gap = spool.gap;
        }
        report.destinations = Vec::new();
        for site in self.sites(tenant) {
            report.destinations.push(site.report().await);
        }
        board.set_backup(&tenant.name, tenant.uid, Some(report));
    }
}

fn destinations(tenant: &TenantPlan) -> &[Destination] {
    tenant
        .backup
        .as_ref()
        .map_or(&[], |backup| &backup.destinations)
}

/// The destination of this name in a tenant's plan.
fn destination(tenant: &TenantPlan, name: &ShortName) -> Result<Destination, Problem> {
    let found = destinations(tenant).iter().find(|d| d.name == *name);
    let none = || {
        let fault = isyone_proto::backup::Fault::NotNow;
        Problem::new(
            fault,
            format!("the tenant's plan has no destination {name}"),
        )
    };
    found.cloned().ok_or_else(none)
}
