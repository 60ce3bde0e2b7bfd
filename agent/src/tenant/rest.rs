//! The loop of one tenant: brings it to what its plan says, then rests until something wakes it.
//!
//! Not here: who starts and wakes it (reconcile), what is done (settle).

use std::{path::PathBuf, sync::Arc, time::Duration};

use isyone_proto::plan::{DesiredState, Role};
use isyone_proto::report::TenantProgress;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use super::{Desired, Tenant, TenantError, TenantView, vigil};
use crate::{
    base::{
        clock::{backoff, jitter},
        fsutil::{self, blocking},
    },
    host::Host,
    plan::container::Container,
};

/// Failed health checks in a row that make a tenant unhealthy: one slow answer is no finding.
const PATIENT_PROBES: u32 = 2;

/// One in this many checks of a healthy tenant asks PostgreSQL too: it rarely hangs, and Docker reports its end.
const POSTGRES_EVERY: u32 = 2;

/// Runs one tenant for as long as plans name it.
pub(super) async fn tenant_loop(
    host: Arc<Host>,
    mut desired: watch::Receiver<Option<Desired>>,
    wake: Arc<Notify>,
) {
    let mut failures = 0u32;
    loop {
        let Some(now) = desired.borrow_and_update().clone() else {
            return;
        };
        let tenant = Tenant::new(host.clone(), now, desired.clone());
        // Boxed, to free the memory that settling needs once the tenant rests: most tenants rest most of the time.
        let settled = vigil::beside(&tenant, Box::pin(tenant.settle())).await;
        let rest = match settled.map(Resting::new) {
            Ok(resting) => {
                failures = 0;
                rest(&tenant, &resting, &mut desired, &wake).await
            }
            Err(TenantError::Interrupted) => Woken::Again,
            Err(_) => {
                let wait = backoff(failures, host.pace.retry_first, host.pace.retry_cap);
                failures = failures.saturating_add(1);
                let woken = nap(wait / 2 + jitter(wait / 2), &mut desired, &wake).await;
                if matches!(woken, Woken::Plan) {
                    failures = 0;
                }
                woken
            }
        };
        if matches!(rest, Woken::Gone) {
            return;
        }
    }
}

/// What is looked at while a tenant rests. The whole view with all that was wanted takes forty kilobytes, which a full host would
/// hold two hundred times.
struct Resting {
    odoo: Option<Container>,
    postgres: Option<Container>,
    /// Directories of its data.
    places: Vec<PathBuf>,
    /// As [`Observed`](crate::plan::diff::Observed) has them.
    cut_off: u32,
    elsewhere: bool,
}

impl Resting {
    fn new(view: TenantView) -> Self {
        let observed = view.observed;
        let volumes = [Role::Postgres, Role::Odoo].map(|role| observed.volume(role));
        let places = volumes.into_iter().flatten();
        Self {
            places: places.map(|volume| volume.path().into()).collect(),
            odoo: observed.odoo.as_ref().map(whereabouts),
            postgres: observed.postgres.as_ref().map(whereabouts),
            cut_off: observed.cut_off,
            elsewhere: observed.elsewhere,
        }
    }
}

/// What a probe needs of a container.
fn whereabouts(container: &Container) -> Container {
    Container {
        name: container.name.clone(),
        id: container.id.clone(),
        state: container.state.clone(),
        ip: container.ip,
        ..Container::default()
    }
}

enum Woken {
    /// A plan arrived.
    Plan,
    /// An event or the timer.
    Again,
    /// No plan names the tenant.
    Gone,
}

async fn nap(
    time: Duration,
    desired: &mut watch::Receiver<Option<Desired>>,
    wake: &Notify,
) -> Woken {
    tokio::select! {
        changed = desired.changed() => if changed.is_ok() { Woken::Plan } else { Woken::Gone },
        () = wake.notified() => Woken::Again,
        () = sleep(time) => Woken::Again,
    }
}

/// Rests with a tenant that is as planned: checks its health now and then, cheaply; returns when anything unusual
/// happens.
async fn rest(
    tenant: &Tenant,
    resting: &Resting,
    desired: &mut watch::Receiver<Option<Desired>>,
    wake: &Notify,
) -> Woken {
    let host = &tenant.host;
    let until = Instant::now() + host.until_resync();
    let was_healthy = host
        .board
        .get(tenant.name())
        .is_some_and(|s| s.progress == TenantProgress::Converged);
    let (mut missed, mut round) = (0u32, 0u32);
    loop {
        // Notice soon when an unhealthy tenant recovers.
        let pause = if was_healthy {
            host.pace.probe + jitter(host.pace.probe / 8)
        } else {
            host.pace.probe / 3
        };
        if tenant.plan.desired != DesiredState::Running {
            return idle(tenant, &resting.places, desired, wake).await;
        }
        let pause = host.aligned(pause);
        if tenant.disk_state().stops_odoo() {
            // Its connections are looked at each time.
            return nap(host.aligned(host.pace.probe), desired, wake).await;
        }
        // Together with others, and not at its own next check.
        let pause = pause.min(until.saturating_duration_since(Instant::now()));
        match timeout(pause, nap(host.pace.resync * 2, desired, wake)).await {
            Ok(woken) => return woken,
            Err(_) if Instant::now() >= until => return Woken::Again,
            Err(_) => {}
        }
        round = round.wrapping_add(1);
        let both = round.is_multiple_of(POSTGRES_EVERY) || missed > 0 || !was_healthy;
        missed = if Box::pin(is_healthy(tenant, resting, both)).await {
            0
        } else {
            missed + 1
        };
        let cut_off = tenant.cut_off();
        let told = (cut_off, tenant.is_elsewhere());
        if told != (resting.cut_off, resting.elsewhere) || is_due(tenant, cut_off) {
            return Woken::Again;
        }
        let healthy = missed < PATIENT_PROBES && (missed == 0) | was_healthy;
        if healthy != was_healthy {
            return Woken::Again;
        }
    }
}

/// Rests with a tenant that does not run: looks now and then whether its data is where it was, which costs next to nothing.
async fn idle(
    tenant: &Tenant,
    places: &[PathBuf],
    desired: &mut watch::Receiver<Option<Desired>>,
    wake: &Notify,
) -> Woken {
    let pace = &tenant.host.pace;
    let quarantine = tenant
        .plan
        .quarantine_until
        .filter(|_| tenant.plan.desired == DesiredState::Purged);
    let left = quarantine.map_or(i64::MAX, |until| {
        (until - crate::base::clock::now_ms()).max(0)
    });
    let until = Instant::now() + pace.resync.min(Duration::from_millis(left as u64 + 1));
    let are_there = |places: Vec<PathBuf>| {
        blocking(move || Ok(places.iter().all(|place| fsutil::is_directory(place))))
    };
    // Where this machine does not see Docker's volumes there is nothing to look at.
    let seen = are_there(places.to_vec()).await.unwrap_or(false);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let pause = tenant.host.aligned(pace.probe * 2).min(left);
        match timeout(pause, nap(pace.resync * 2, desired, wake)).await {
            Ok(woken) => return woken,
            Err(_) if Instant::now() >= until => return Woken::Again,
            Err(_) if seen && !are_there(places.to_vec()).await.unwrap_or(true) => {
                return Woken::Again;
            }
            Err(_) => {}
        }
    }
}

/// Whether an installation that was cut off is to be finished now. One that cannot be, for another reason, waits for that.
fn is_due(tenant: &Tenant, cut_off: u32) -> bool {
    cut_off > 0 && tenant.state().installs.is_due(crate::base::clock::now_ms())
}

/// Asks Odoo, and with `both` PostgreSQL too.
async fn is_healthy(tenant: &Tenant, resting: &Resting, both: bool) -> bool {
    let (Some(odoo), Some(postgres)) = (&resting.odoo, &resting.postgres) else {
        return false;
    };
    let latency_ms = tenant.host.probe.odoo(odoo).await;
    tenant
        .host
        .board
        .set_latency(tenant.name(), *latency_ms.as_ref().unwrap_or(&0));
    latency_ms.is_ok() && (!both || tenant.host.probe.postgres(postgres).await.is_ok())
}
