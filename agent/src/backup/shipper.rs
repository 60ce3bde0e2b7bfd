//! Ships each tenant's changes when its time has come: so often as its plan says, tenants spread over the interval, few at once, and after a
//! failure again soon, then more and more seldom.
//!
//! Not here: a shipment (ship).

use std::{collections::HashMap, sync::Arc, time::Duration};

use isyone_proto::plan::{DesiredState, TenantPlan};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Backups;
use crate::base::{
    clock::backoff,
    fsutil::{self, blocking},
};

/// Between looks at which tenants are due.
const LOOK: Duration = Duration::from_secs(2);
/// Shipments at the same time: each takes some 50 MB, and shares a disk and a line with tenants.
const AT_ONCE: usize = 2;
/// The first wait after a failure.
const RETRY: Duration = Duration::from_secs(20);

/// When a tenant's turn comes.
#[derive(Debug, Clone, Copy)]
struct Turn {
    due: Instant,
    every: Duration,
    failures: u32,
}

/// The loop of all shipments of a host.
pub struct Shipper {
    backups: Arc<Backups>,
    turns: HashMap<Uuid, Turn>,
    at_work: JoinSet<(Uuid, bool)>,
    /// At work, or waiting for room.
    busy: std::collections::HashSet<Uuid>,
    room: Arc<Semaphore>,
}

/// How often a tenant's changes are shipped; `None`: only as jobs order.
fn every(tenant: &TenantPlan) -> Option<Duration> {
    let backup = tenant.backup.as_ref()?;
    tenant.wal_spool?;
    // What another copy of the tenant has written is for that one's host to ship.
    if !matches!(
        tenant.desired,
        DesiredState::Running | DesiredState::Suspended
    ) {
        return None;
    }
    (backup.ship_s > 0 && !backup.destinations.is_empty())
        .then(|| Duration::from_secs(backup.ship_s.into()))
}

/// A tenant's own part of an interval: evenly spread over tenants, the same each time.
fn phase(tenant: Uuid, every: Duration) -> Duration {
    // The lower half of a uuid is as good as random.
    let part = (tenant.as_u128() & 0xffff_ffff) as u32;
    every.mul_f64(f64::from(part) / f64::from(u32::MAX))
}

/// When the next shipment is due after one that began at `begun`.
fn next(turn: Turn, begun: Instant, now: Instant, went_well: bool) -> Turn {
    let (failures, wait) = match went_well {
        true => (0, turn.every),
        false => (
            turn.failures.saturating_add(1),
            backoff(turn.failures, RETRY, turn.every),
        ),
    };
    // One that took longer than the interval is followed by the next at once, but for a look.
    let due = (begun + wait).max(now);
    Turn {
        due,
        failures,
        ..turn
    }
}

impl Shipper {
    pub fn new(backups: Arc<Backups>) -> Self {
        Self {
            backups,
            turns: HashMap::new(),
            at_work: JoinSet::new(),
            busy: Default::default(),
            room: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Runs until `stop`. A shipment under way then ends without a snapshot.
    pub async fn run(mut self, stop: CancellationToken) {
        self.forget_departed().await;
        loop {
            // What is known from before is shown at once: shipments come in their turns.
            for tenant in self.look() {
                self.backups.show(&tenant, None, "").await;
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(LOOK) => {}
                Some(ended) = self.at_work.join_next() => self.ended(ended),
            }
        }
        self.at_work.shutdown().await;
    }

    /// Removes records of tenants that have left this host: should one come back, its next base begins anew.
    async fn forget_departed(&self) {
        let plan = self.backups.plans.borrow().plan.clone();
        let Some(plan) = plan else { return };
        let directory = self.backups.host.data.backups();
        let removed = blocking(move || {
            if !fsutil::is_directory(&directory) {
                return Ok(());
            }
            let is_here = |name: &str| plan.tenants.iter().any(|t| t.uid.to_string() == name);
            for found in fsutil::list(&directory)? {
                if !found.name.to_str().is_some_and(is_here) {
                    fsutil::remove_tree(&found.path)?;
                }
            }
            Ok(())
        });
        if let Err(e) = removed.await {
            tracing::warn!("records of departed tenants' backups remain: {e}");
        }
    }

    /// Begins what is due; returns tenants that are new here.
    fn look(&mut self) -> Vec<TenantPlan> {
        let plan = self.backups.plans.borrow().plan.clone();
        let Some(plan) = plan else { return Vec::new() };
        let mut new = Vec::new();
        let now = Instant::now();
        let mut there = Vec::with_capacity(plan.tenants.len());
        for tenant in &plan.tenants {
            there.push(tenant.uid);
            let Some(every) = every(tenant) else {
                if self.turns.remove(&tenant.uid).is_some() && tenant.backup.is_none() {
                    self.backups
                        .host
                        .board
                        .set_backup(&tenant.name, tenant.uid, None);
                }
                continue;
            };
            let first = || Turn {
                due: now + phase(tenant.uid, every),
                every,
                failures: 0,
            };
            if !self.turns.contains_key(&tenant.uid) {
                new.push(tenant.clone());
            }
            let turn = self.turns.entry(tenant.uid).or_insert_with(first);
            if turn.every != every {
                *turn = first();
            }
            if turn.due <= now && self.busy.insert(tenant.uid) {
                self.begin(tenant.uid);
            }
        }
        self.turns.retain(|tenant, _| there.contains(tenant));
        self.backups.forget_all_but(&there);
        new
    }

    fn begin(&mut self, tenant: Uuid) {
        let (backups, room) = (self.backups.clone(), self.room.clone());
        self.at_work.spawn(async move {
            // Semaphores are never closed: `ok` only drops an error that cannot happen.
            let _room = room.acquire_owned().await.ok();
            // As it is now: it may have waited.
            let Some(tenant) = backups.tenant(tenant).filter(|t| every(t).is_some()) else {
                return (tenant, true);
            };
            let shipped = backups.ship_all(&tenant).await;
            if let Err(problem) = &shipped {
                tracing::warn!(tenant = %tenant.name, "not shipped: {}", problem.message);
            }
            (tenant.uid, shipped.is_ok())
        });
    }

    fn ended(&mut self, ended: Result<(Uuid, bool), tokio::task::JoinError>) {
        let Ok((tenant, went_well)) = ended else {
            // A panic: nobody knows of which. All are asked again at their times.
            self.busy.clear();
            return;
        };
        self.busy.remove(&tenant);
        let now = Instant::now();
        if let Some(turn) = self.turns.get_mut(&tenant) {
            *turn = next(*turn, turn.due, now, went_well);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_follow_the_interval_and_failures_are_tried_again_soon() {
        let now = Instant::now();
        let turn = Turn {
            due: now,
            every: Duration::from_secs(300),
            failures: 0,
        };
        let at = |turn: Turn| turn.due.duration_since(now).as_secs();
        let well = next(turn, now, now + Duration::from_secs(5), true);
        assert_eq!((at(well), well.failures), (300, 0));
        let mut bad = turn;
        let mut waits = Vec::new();
        for _ in 0..6 {
            bad = next(bad, now, now, false);
            waits.push(at(bad));
        }
        assert_eq!(waits, [20, 40, 80, 160, 300, 300]);
        let long = next(turn, now, now + Duration::from_secs(400), true);
        assert_eq!(at(long), 400);
    }

    #[test]
    fn tenants_are_spread_over_the_interval() {
        let every = Duration::from_secs(300);
        let phases: Vec<_> = (0..8u128)
            .map(|n| phase(Uuid::from_u128(n * 0x2000_0000), every).as_secs())
            .collect();
        assert_eq!(phases, [0, 37, 75, 112, 150, 187, 225, 262]);
    }
}
