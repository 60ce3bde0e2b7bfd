//! Turns with a message: so many in all, and one of each tenant, so that none keeps the others from theirs.
//!
//! Not here: connections (base::shares), how long a turn lasts (mod.rs).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use isyone_proto::ids::TenantName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Who waits for a turn waits for its tenant's first, so that one tenant waits for the others' with one connection at most.
pub(super) struct Turns {
    all: Arc<Semaphore>,
    of: Mutex<HashMap<TenantName, Arc<Semaphore>>>,
}

/// Given back on drop.
pub(super) struct Turn {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Turns {
    pub(super) fn new(most: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(most)),
            of: Mutex::default(),
        }
    }

    /// The tenant's next turn; `None`: never, the turns are over.
    pub(super) async fn take(&self, tenant: &TenantName) -> Option<Turn> {
        let own = self.own(tenant).acquire_owned().await.ok()?;
        let all = self.all.clone().acquire_owned().await.ok()?;
        Some(Turn {
            _own: own,
            _all: all,
        })
    }

    fn own(&self, tenant: &TenantName) -> Arc<Semaphore> {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        // Of those that have no connection with a message, nothing is kept.
        of.retain(|_, own| Arc::strong_count(own) > 1);
        let own = of.entry(tenant.clone());
        own.or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Fails if one tenant's slow messages keep another's from its turn.
    #[tokio::test(start_paused = true)]
    async fn a_tenant_has_one_turn_and_the_others_theirs() {
        let turns = Turns::new(2);
        let [alfa, beta, gama]: [TenantName; 3] =
            ["alfa", "beta", "gama"].map(|n| n.parse().unwrap());
        let soon = |tenant| timeout(Duration::from_secs(1), turns.take(tenant));
        let first = soon(&alfa).await.unwrap().unwrap();
        assert!(soon(&alfa).await.is_err(), "its second waits");
        let second = soon(&beta).await.unwrap().unwrap();
        assert!(soon(&gama).await.is_err(), "all are taken");
        drop(first);
        let third = soon(&alfa).await.unwrap().unwrap();
        drop((second, third));
        drop(soon(&gama).await.unwrap());
        assert!(turns.of.lock().unwrap().len() <= 1, "nothing is kept");
    }
}
