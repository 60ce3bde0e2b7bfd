//! The ends of backups, on the repository's threads: what a base needs is there or goes with it, and what was copied as it stood has stood
//! still. Where that is not so, there is no snapshot. What was written just before is shipped besides.
//!
//! Not here: what comes before (make).

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use isyone_proto::{
    backup::{Destination, Fault, Segment, Segments},
    plan::TenantPlan,
};
use tokio::{runtime::Handle, sync::OwnedMutexGuard};

use super::{
    Backups, chain::SegmentSize, manifest::Manifest, ship::Extent, site::Site, spool,
    words::Problem,
};
use crate::base::{
    beneath::{RelPath, Root},
    fsutil::blocking,
};

/// What says of a cluster that it has not run since.
const CONTROL: &str = "global/pg_control";
const CONTROL_BYTES: u64 = 64 << 10;

/// Segments that a base needs, and those of them that go with it.
#[derive(Debug, Default)]
pub(super) struct Rest {
    pub needs: Option<Segments>,
    pub segments: Vec<Segment>,
    /// They are shipped too, with what lies between them and what is there: see [`Chain::leads_to`](super::chain::Chain::leads_to).
    pub are_shipped_too: bool,
    /// The tenant's turn: no segment leaves the spool before it is read, and what is there is written down.
    _turn: Option<OwnedMutexGuard<()>>,
}

/// What is known only at the end.
#[derive(Debug, Clone, Default)]
pub(super) struct Late(Arc<Mutex<Rest>>);

impl Late {
    fn locked(&self) -> std::sync::MutexGuard<'_, Rest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn names(&self) -> Vec<PathBuf> {
        self.locked()
            .segments
            .iter()
            .map(|segment| segment.to_string().into())
            .collect()
    }

    pub(super) fn take(&self) -> Rest {
        std::mem::take(&mut *self.locked())
    }
}

/// The end of a base backup, on the repository's thread: which segments it needs, and whether all of them are there.
pub(super) struct Closing {
    pub backups: Arc<Backups>,
    pub handle: Handle,
    pub tenant: TenantPlan,
    pub site: Arc<Site>,
    pub spool: PathBuf,
    pub first: Segment,
    pub size: SegmentSize,
    pub rest: Late,
}

impl Closing {
    pub(super) fn close(&self) -> io::Result<Segments> {
        let said = |problem: Problem| io::Error::other(problem.message);
        let asked = self.backups.tenants.position(&self.tenant, false);
        let position = self.handle.block_on(asked).map_err(said)?;
        let needs = Segments {
            first: self.first,
            // PostgreSQL has finished the one in which the base ended.
            last: position.finished().max(self.first),
        };
        if (position.timeline, position.size) != (self.first.timeline, self.size) {
            return Err(io::Error::other("PostgreSQL has begun another history"));
        }
        // No segment leaves the spool between the two looks.
        let turn = self
            .handle
            .block_on(self.backups.turn(self.tenant.uid).lock_owned());
        let listed = spool::list(&Root::open(&self.spool)?, self.size)?;
        let (chain, _) = self.handle.block_on(self.site.chain()).map_err(said)?;
        let waiting = listed.names();
        let are_shipped_too = chain.leads_to(needs.last, &waiting, self.size);
        let segments = chain.rest_of(needs, &waiting, self.size);
        let segments = segments.map_err(|missing| {
            io::Error::other(format!(
                "segment {missing} of the log, which it needs, is missing"
            ))
        })?;
        *self.rest.locked() = Rest {
            needs: Some(needs),
            segments,
            are_shipped_too,
            _turn: Some(turn),
        };
        Ok(needs)
    }
}

impl Backups {
    /// Ships what waits to one destination, because a base there has ended, or its log ends: what was written since the last shipment is
    /// reached from the base before only. That it does not succeed is no fault of that base, and is tried again in its turn.
    pub(super) async fn ship_rest(
        &self,
        (tenant, runs): (&TenantPlan, bool),
        destination: &Destination,
        site: &Site,
    ) {
        let _turn = self.turn(tenant.uid).lock_owned().await;
        let shipped = async {
            let found = match runs {
                true => self.find(tenant, None).await?,
                false => self.found(tenant, None, None).await?,
            };
            let extent = Extent::Finished;
            self.ship_to(tenant, destination, site, &found, extent, None)
                .await
        };
        if let Err(problem) = shipped.await {
            tracing::warn!(tenant = %tenant.name, destination = %site.destination, "what was written just before a backup is not shipped: {}", problem.message);
        }
    }
}

/// A manifest that waits for what the base needs.
pub(super) struct OwnedManifest(serde_json::Value);

impl OwnedManifest {
    pub(super) fn of(manifest: &Manifest<'_>) -> Self {
        Self(serde_json::to_value(manifest).unwrap_or_default()) // plain structs
    }

    pub(super) fn with(mut self, needs: Segments) -> Vec<u8> {
        self.0["segments"] = serde_json::to_value(needs).unwrap_or_default();
        serde_json::to_vec_pretty(&self.0).unwrap_or_default()
    }
}

/// A tenant that is copied because it does not run, and must not begin to.
pub(super) struct Still {
    pub backups: Arc<Backups>,
    pub handle: Handle,
    pub tenant: TenantPlan,
    pub postgres: PathBuf,
}

impl Still {
    /// What its control file says, where it is at its usual place.
    pub(super) async fn look(&self) -> Result<Option<String>, Problem> {
        if self.backups.tenants.is_up(&self.tenant).await? {
            return Err(Problem::new(
                Fault::NotNow,
                "the tenant runs: only one that has stopped is copied as it is",
            ));
        }
        let place = self.postgres.clone();
        let control = blocking(move || {
            let path = RelPath::parse(CONTROL.as_bytes()).map_err(io::Error::other)?;
            match Root::open(&place)?.bytes(&path, CONTROL_BYTES) {
                Ok(bytes) => Ok(Some(hex::encode(bytes))),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(e),
            }
        });
        control
            .await
            .map_err(|e| Problem::disk("the database's control file cannot be read", &e))
    }

    pub(super) fn is_as(&self, before: &Option<String>) -> io::Result<()> {
        let now = self.handle.block_on(self.look());
        let now = now.map_err(|problem| io::Error::other(problem.message))?;
        match now == *before {
            true => Ok(()),
            false => Err(io::Error::other("the tenant has run meanwhile")),
        }
    }
}
