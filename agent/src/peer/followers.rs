//! What followers leave at a tenant's database that runs here: a slot that holds its log. When nobody may follow it any more, that goes.
//!
//! Not here: following (jobs), who may (the coordinator).

use std::{
    collections::BTreeSet,
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use isyone_proto::{
    ids::TenantName,
    plan::{DesiredState, TenantPlan},
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Of,
    cluster::{self, Cluster},
    service::Peers,
};

/// How long a tenant whose follower has ended is watched, from when nobody may follow it any more: a move that goes back starts it again
/// within minutes. And between looks.
const WATCHED: (Duration, Duration) = (Duration::from_secs(900), Duration::from_secs(2));
/// Tenants that are asked in one look: the others come with the next ones.
const ASKED: usize = 20;

/// Takes a tenant off the list of those that are watched.
struct Watched<'a>(&'a Peers, &'a Of);

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.0.watched().retain(|of| of != self.1);
    }
}

impl Peers {
    fn watched(&self) -> MutexGuard<'_, Vec<Of>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a connection to a database has ended: when it runs and nobody may follow it any more, what holds its log for a follower
    /// goes. Who waits for that is one for each tenant, however many connections there were. (What an agent that ends now leaves is swept
    /// by the next.)
    pub(super) async fn forget_follower(&self, of: &Of) {
        {
            let mut watched = self.watched();
            if watched.contains(of) {
                return;
            }
            watched.push(of.clone());
        }
        let _watched = Watched(self, of);
        let mut begin = Instant::now();
        while begin.elapsed() < WATCHED.0 {
            if self.is_followed(of) {
                begin = Instant::now();
            } else if matches!(self.drop_slot(of).await, Ok(0)) {
                return;
            }
            sleep(WATCHED.1).await;
        }
    }

    /// Asks each tenant that runs here and that nobody may follow, until it has said once that nothing holds its log: what followed it may
    /// have been removed while this agent was away, or may have come along with its files.
    pub async fn sweep(self, stop: CancellationToken) {
        let mut clean = BTreeSet::new();
        let mut last = None;
        while stop
            .run_until_cancelled(sleep(self.host.pace.retry_cap))
            .await
            .is_some()
        {
            let due = self.to_be_asked(&mut clean, &mut last);
            for of in due {
                let asked = stop.run_until_cancelled(self.drop_slot(&of)).await;
                // One that does not answer is asked again.
                if matches!(asked, Some(Ok(0))) {
                    clean.insert((of.tenant, of.uid));
                }
            }
        }
    }

    /// The next few, after the last one.
    fn to_be_asked(
        &self,
        clean: &mut BTreeSet<(TenantName, Uuid)>,
        last: &mut Option<TenantName>,
    ) -> Vec<Of> {
        let Some(plan) = self.plans.borrow().plan.clone() else {
            return Vec::new();
        };
        let of = |tenant: &TenantPlan| Of {
            tenant: tenant.name.clone(),
            uid: tenant.uid,
        };
        let running = plan.tenants.iter();
        let running = running
            .filter(|t| t.desired == DesiredState::Running)
            .map(of);
        let mut alone: Vec<Of> = running.filter(|of| !self.is_followed(of)).collect();
        alone.sort_by(|a, b| a.tenant.cmp(&b.tenant));
        clean.retain(|(tenant, uid)| {
            let found = alone.binary_search_by(|of| of.tenant.cmp(tenant));
            found.is_ok_and(|at| alone[at].uid == *uid)
        });
        alone.retain(|of| !clean.contains(&(of.tenant.clone(), of.uid)));
        let after = alone.partition_point(|of| Some(&of.tenant) <= last.as_ref());
        alone.rotate_left(after);
        alone.truncate(ASKED);
        *last = alone.last().map(|of| of.tenant.clone());
        alone
    }

    /// Drops the slot of a follower that has gone; how many are left.
    async fn drop_slot(&self, of: &Of) -> Result<u64, String> {
        let socket = self.databases.connect(of).await;
        let session = Cluster::open(socket.map_err(|e| e.to_string())?, "postgres").await?;
        // It may be followed by now, and not for the first time: that one's log is to stay.
        if !self.is_followed(of) {
            session.number(&cluster::drop_slot()).await?;
        }
        session.number(cluster::SLOTS).await
    }

    /// Whether a tenant that runs here may be followed.
    pub(super) fn is_followed(&self, of: &Of) -> bool {
        let plan = self.plans.borrow().plan.clone();
        plan.is_some_and(|plan| {
            let mut grants = plan.grants.iter();
            grants.any(|g| g.live && g.tenant == of.tenant && g.uid == of.uid)
        })
    }
}
