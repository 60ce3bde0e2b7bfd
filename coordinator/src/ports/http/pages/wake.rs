//! Wakes sleeping tenants when a visitor comes: one command per tenant at a time, and no more tenants per time window
//! than hosts can start unnoticed. A visitor above that limit sees the same page, whose reload tries again.
//!
//! Not here: which requests wake a tenant (visitor), what waking changes (isyone_fleet::change).

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use isyone_fleet::change::Command;
use isyone_proto::ids::TenantName;
use tokio::time::Instant;

use crate::writer::Handle;

/// The actor in the events.
const ACTOR: &str = "visitor";
/// Most tenants woken within [`WINDOW`]: a crawler that visits ten thousand sleeping tenants must not start them all at
/// once.
const MOST: usize = 20;
/// See [`MOST`]; about as long as a start takes.
const WINDOW: Duration = Duration::from_secs(10);

/// Wakes tenants, but no more than the hosts can start unnoticed.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    ringing: Mutex<Ringing>,
}

#[derive(Debug, Default)]
struct Ringing {
    /// Tenants whose command is with the writer.
    under_way: BTreeSet<TenantName>,
    /// The times of the last wake-ups, oldest first.
    lately: VecDeque<Instant>,
}

impl Ringing {
    /// Whether this tenant may be woken now; if so, counts it.
    fn takes(&mut self, tenant: &TenantName, now: Instant) -> bool {
        while self
            .lately
            .front()
            .is_some_and(|at| now.duration_since(*at) >= WINDOW)
        {
            self.lately.pop_front();
        }
        if self.lately.len() >= MOST || self.under_way.contains(tenant) {
            return false;
        }
        self.lately.push_back(now);
        self.under_way.insert(tenant.clone())
    }
}

impl Alarm {
    /// Starts waking a tenant, unless that is already in progress or too many were woken lately. Does not wait for it.
    pub(super) fn ring(self: &Arc<Self>, handle: &Handle, tenant: &TenantName) {
        if !self.lock().takes(tenant, Instant::now()) {
            return;
        }
        let (alarm, handle, tenant) = (self.clone(), handle.clone(), tenant.clone());
        tokio::spawn(async move {
            let woken = handle
                .submit(
                    ACTOR,
                    Command::WakeTenant {
                        name: tenant.clone(),
                    },
                )
                .await;
            if let Err(error) = woken {
                tracing::warn!(%tenant, %error, "a visitor could not wake it; the next one tries again");
            }
            alarm.lock().under_way.remove(&tenant);
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ringing> {
        self.ringing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_once_and_not_too_many() {
        let mut ringing = Ringing::default();
        let name = |n: usize| format!("t{n}").parse::<TenantName>().unwrap();
        assert!(ringing.takes(&name(0), Instant::now()));
        assert!(!ringing.takes(&name(0), Instant::now()), "it is under way");
        let taken = (1..1_000)
            .filter(|n| ringing.takes(&name(*n), Instant::now()))
            .count();
        assert_eq!(taken, MOST - 1, "a crawler wakes a few");
        tokio::time::advance(WINDOW).await;
        assert!(!ringing.takes(&name(0), Instant::now()), "it still is");
        assert!(ringing.takes(&name(500), Instant::now()));
    }
}
