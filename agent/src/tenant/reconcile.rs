//! The loops: one per tenant, woken by a new plan, a Docker event or a timer, and one that watches the plan and Docker.
//!
//! Signals only wake; what is done follows from the state that is then found. Not here: what is done (tenant, execute).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _};
use isyone_proto::{ids::TenantName, plan::DesiredState};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    base::{
        clock::{backoff, jitter},
        fsutil::blocking,
    },
    docker::{ContainerEvent, ContainerSummary, DockerError},
    host::{Host, board::TenantProgress, ledger::InForce},
    plan::stack::{ODOO_STOP_S, POSTGRES_GRACE_S},
    tenant::{Desired, Tenant, TenantError, TenantView},
};

/// Between attempts to hear Docker's events again.
const EVENTS_RETRY: Duration = Duration::from_secs(2);
/// What is known of containers is written so often when there is news: losing it costs a question for each.
const SAVE_KNOWN: Duration = Duration::from_secs(30);
/// Health checks that may fail before a tenant is called unhealthy: one slow answer is no finding.
const PATIENT_PROBES: u32 = 2;
/// PostgreSQL is asked at one in so many of a healthy tenant's checks: it seldom hangs, and Docker tells of its end by itself.
const POSTGRES_EVERY: u32 = 2;

struct Running {
    desired: watch::Sender<Option<Desired>>,
    wake: Arc<Notify>,
    task: JoinHandle<()>,
}

/// Runs until `stop` is cancelled. Tenants are left as they are then.
pub async fn run(host: Arc<Host>, mut plans: watch::Receiver<InForce>, stop: CancellationToken) {
    let tracker = TaskTracker::new();
    let mut tenants: BTreeMap<TenantName, Running> = BTreeMap::new();
    let (events_tx, mut events) = tokio::sync::mpsc::channel(256);
    tracker.spawn(
        stop.clone()
            .run_until_cancelled_owned(listen(host.clone(), events_tx)),
    );
    let strays = Arc::new(Notify::new());
    let stopping = stop_strays(host.clone(), plans.clone(), strays.clone());
    tracker.spawn(stop.clone().run_until_cancelled_owned(stopping));
    tracker.spawn(
        stop.clone()
            .run_until_cancelled_owned(keep_spares(host.clone(), stop.clone())),
    );
    tracker.spawn(
        stop.clone()
            .run_until_cancelled_owned(keep_known(host.clone())),
    );
    let mut in_force = plans.borrow_and_update().clone();
    adapt(&host, &mut tenants, &in_force, &stop);
    loop {
        let resync = sleep(host.pace.resync);
        tokio::select! {
            () = stop.cancelled() => break,
            changed = plans.changed() => {
                if changed.is_err() {
                    break;
                }
                in_force = plans.borrow_and_update().clone();
                adapt(&host, &mut tenants, &in_force, &stop);
                strays.notify_one();
            }
            Some(signal) = events.recv() => match signal {
                Signal::Event(event) => {
                    if event.action == "oom" {
                        host.board.count_oom(&event.container);
                        tracing::warn!(container = event.container, "killed for want of memory");
                    }
                    if let Some(running) = tenants.get(event.tenant.as_str()) {
                        running.wake.notify_one();
                    }
                }
                Signal::Resync => {
                    tenants.values().for_each(|t| t.wake.notify_one());
                    strays.notify_one();
                }
            },
            () = resync => strays.notify_one(),
        }
    }
    for running in tenants.into_values() {
        drop(running.desired);
        // Between two calls to Docker, or waiting for one: safe to leave at any point, as after a crash.
        running.task.abort();
    }
    tracker.close();
    tracker.wait().await;
    save_known(&host).await;
}

/// Starts loops for new tenants, tells the others what they shall be now, ends those of tenants not named any more.
fn adapt(
    host: &Arc<Host>,
    tenants: &mut BTreeMap<TenantName, Running>,
    in_force: &InForce,
    stop: &CancellationToken,
) {
    let Some(plan) = &in_force.plan else { return };
    for tenant in &plan.tenants {
        let desired = Some(Desired {
            plan: tenant.clone(),
            stale: in_force.stale.contains(&tenant.name),
        });
        if let Some(running) = tenants.get(&tenant.name).filter(|r| !r.task.is_finished()) {
            running.desired.send_if_modified(|now| {
                let news = *now != desired;
                now.clone_from(&desired);
                news
            });
            continue;
        }
        let (sender, receiver) = watch::channel(desired);
        let wake = Arc::new(Notify::new());
        let task = tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(tenant_loop(host.clone(), receiver, wake.clone()))
                .map(drop),
        );
        tenants.insert(
            tenant.name.clone(),
            Running {
                desired: sender,
                wake,
                task,
            },
        );
    }
    tenants.retain(|name, running| {
        let named = plan.tenants.iter().any(|t| t.name == *name);
        if !named {
            running.task.abort();
            host.board.remove(name);
        }
        named
    });
}

/// Containers of ours that no plan names are stopped, and kept. Only an accepted plan can say so. A task of its own:
/// stopping takes as long as a tenant's last requests.
async fn stop_strays(host: Arc<Host>, plans: watch::Receiver<InForce>, look: Arc<Notify>) {
    loop {
        look.notified().await;
        let in_force = plans.borrow().clone();
        let Some(plan) = in_force.plan else { continue };
        let listed = match host.docker.list().await {
            Ok(listed) => listed,
            Err(e) => {
                tracing::debug!("strays are looked for later: {e}");
                continue;
            }
        };
        for (prefix, grace) in [("odoo_", ODOO_STOP_S), ("postgres_", POSTGRES_GRACE_S)] {
            let stray = |c: &&ContainerSummary| {
                let named = plan.tenants.iter().any(|t| t.name.as_str() == c.tenant);
                !named
                    && c.name.starts_with(prefix)
                    && matches!(c.state.as_str(), "running" | "restarting" | "paused")
            };
            for container in listed.iter().filter(stray) {
                tracing::warn!(
                    container = container.name,
                    "no plan names its tenant any more: stopped and kept"
                );
                if let Err(e) = host.docker.stop(&container.name, grace).await {
                    tracing::warn!(container = container.name, "cannot be stopped: {e}");
                }
            }
        }
    }
}

/// Copies golden snapshots beforehand, while no tenant is being made.
async fn keep_spares(host: Arc<Host>, stop: CancellationToken) {
    loop {
        host.golden.spare_wanted().await;
        loop {
            // Before each: a create that has come meanwhile goes first.
            host.until_idle().await;
            match host.golden.replenish(stop.clone()).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => {
                    tracing::warn!(
                        "no golden snapshot could be copied beforehand: {e}; the next tenant waits for its copy"
                    );
                    break;
                }
            }
        }
    }
}

/// Writes down now and then what is known of containers, for the agent's next life.
async fn keep_known(host: Arc<Host>) {
    loop {
        sleep(SAVE_KNOWN).await;
        save_known(&host).await;
    }
}

async fn save_known(host: &Arc<Host>) {
    let host = host.clone();
    if let Err(e) = blocking(move || host.known.save()).await {
        tracing::debug!(
            "what is known of containers is not kept: {e}; the next start asks Docker for each"
        );
    }
}

enum Signal {
    Event(ContainerEvent),
    Resync,
}

/// Hears Docker's events; each time the connection is new, everything is looked at again, for events may have been lost.
async fn listen(host: Arc<Host>, signals: tokio::sync::mpsc::Sender<Signal>) {
    loop {
        match host.docker.events().await {
            Ok(mut events) => {
                if signals.send(Signal::Resync).await.is_err() {
                    return;
                }
                while let Some(event) = events.next().await {
                    let Ok(event) = event else { break };
                    if signals.send(Signal::Event(event)).await.is_err() {
                        return;
                    }
                }
            }
            Err(DockerError::Unreachable(why)) => {
                if host.board.set_docker_error(&why) {
                    tracing::error!(
                        "Docker does not answer: {why}; tenants run on, nothing can be changed until it is back"
                    );
                }
            }
            Err(e) => tracing::warn!("no events from Docker: {e}"),
        }
        host.forget_engine();
        sleep(EVENTS_RETRY.min(host.pace.resync)).await;
    }
}

/// One tenant, for as long as plans name it.
async fn tenant_loop(
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
        // Boxed, so that the memory of all that may be to do is given back when nothing is: most tenants rest most of the time.
        let rest = match Box::pin(tenant.settle()).await.map(Box::new) {
            Ok(view) => {
                failures = 0;
                rest(&tenant, view, &mut desired, &wake).await
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

enum Woken {
    /// A plan came.
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

/// A tenant as planned: its health is asked now and then, cheaply; anything unusual ends the rest.
async fn rest(
    tenant: &Tenant,
    view: Box<TenantView>,
    desired: &mut watch::Receiver<Option<Desired>>,
    wake: &Notify,
) -> Woken {
    let host = &tenant.host;
    let until = Instant::now() + host.pace.resync + jitter(host.pace.resync / 4);
    let was_healthy = host
        .board
        .get(tenant.name())
        .is_some_and(|s| s.progress == TenantProgress::Converged);
    let (mut missed, mut round) = (0u32, 0u32);
    loop {
        // An unhealthy tenant that recovers should be known soon.
        let pause = if was_healthy {
            host.pace.probe + jitter(host.pace.probe / 8)
        } else {
            host.pace.probe / 3
        };
        if tenant.plan.desired != DesiredState::Running {
            let quarantine = tenant
                .plan
                .quarantine_until
                .filter(|_| tenant.plan.desired == DesiredState::Purged);
            let left = quarantine.map_or(i64::MAX, |until| {
                (until - crate::base::clock::now_ms()).max(0)
            });
            return nap(
                host.pace.resync.min(Duration::from_millis(left as u64 + 1)),
                desired,
                wake,
            )
            .await;
        }
        let pause = host.aligned(pause);
        match timeout(pause, nap(host.pace.resync * 2, desired, wake)).await {
            Ok(woken) => return woken,
            Err(_) if Instant::now() >= until => return Woken::Again,
            Err(_) => {}
        }
        round = round.wrapping_add(1);
        let both = round.is_multiple_of(POSTGRES_EVERY) || missed > 0 || !was_healthy;
        missed = if Box::pin(is_healthy(tenant, &view, both)).await {
            0
        } else {
            missed + 1
        };
        let healthy = missed < PATIENT_PROBES && (missed == 0) | was_healthy;
        if healthy != was_healthy {
            return Woken::Again;
        }
    }
}

/// Asks Odoo, and PostgreSQL when `both` are wanted.
async fn is_healthy(tenant: &Tenant, view: &TenantView, both: bool) -> bool {
    let (Some(odoo), Some(postgres)) = (&view.observed.odoo, &view.observed.postgres) else {
        return false;
    };
    let latency_ms = tenant.host.probe.odoo(odoo).await;
    tenant
        .host
        .board
        .set_latency(tenant.name(), *latency_ms.as_ref().unwrap_or(&0));
    latency_ms.is_ok() && (!both || tenant.host.probe.postgres(postgres).await.is_ok())
}
