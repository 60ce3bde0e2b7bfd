//! Cuts off whoever is being served when a lease ends: timers do not go on while the machine is suspended, so the clock is looked at over
//! and over.
//!
//! Not here: who is let in, and answers that come too late (serve).

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{admin::Shown, clock, ledger::locked};

/// Between looks at leases: what is open is cut off within a second of their end, with what they have to take their answer.
const LOOK: Duration = Duration::from_millis(250);
/// The same while no tenant has one: one may come that is soon over.
const IDLE_LOOK: Duration = Duration::from_millis(500);

/// Cuts off whoever is being served when a lease ends, until `stop`.
pub(crate) fn begin(shown: &Arc<Shown>, stop: &CancellationToken) {
    tokio::spawn(watch(Arc::clone(shown), stop.clone()));
}

async fn watch(shown: Arc<Shown>, stop: CancellationToken) {
    loop {
        let tenants = locked(&shown.tenants).clone();
        let mut pause = IDLE_LOOK;
        for tenant in tenants {
            let current = tenant.current();
            if let Some(lease) = &current.route.lease {
                pause = LOOK;
                let is_over = lease.is_over(&tenant.host.boot, clock::boot_ms());
                tenant.bell.look(Some(lease), is_over);
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
