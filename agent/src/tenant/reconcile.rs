//! The loops: one per tenant, woken by a new plan, a Docker event or a timer, and one that watches the plan and wakes
//! them.
//!
//! Signals only wake a loop; the state that it then finds decides what is done. Not here: what is done (settle).

use std::{collections::BTreeMap, sync::Arc};

use futures_util::FutureExt as _;
use isyone_proto::ids::TenantName;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Desired, rest};
use crate::host::{
    Host, addresses, answers, chores,
    events::{self, Signal},
    ledger::InForce,
    links,
};

struct Running {
    desired: watch::Sender<Option<Desired>>,
    wake: Arc<Notify>,
    task: JoinHandle<()>,
}

/// Tasks beside the loops, which end with them.
struct Beside<'a>(&'a TaskTracker, &'a CancellationToken);

impl Beside<'_> {
    fn run(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.1.clone();
        self.0.spawn(stop.run_until_cancelled_owned(work));
    }
}

/// Runs until `stop` is cancelled. Tenants are then left as they are.
pub async fn run(host: Arc<Host>, mut plans: watch::Receiver<InForce>, stop: CancellationToken) {
    let tracker = TaskTracker::new();
    let mut tenants: BTreeMap<TenantName, Running> = BTreeMap::new();
    let (events_tx, mut events) = tokio::sync::mpsc::channel(256);
    let strays = Arc::new(Notify::new());
    let beside = Beside(&tracker, &stop);
    beside.run(events::listen(host.clone(), events_tx.clone()));
    beside.run(addresses::watch(host.clone(), events_tx));
    beside.run(answers::ask(host.clone()));
    beside.run(links::sweep(host.clone(), plans.clone()));
    beside.run(chores::stop_strays(
        host.clone(),
        plans.clone(),
        strays.clone(),
    ));
    beside.run(chores::keep_spares(host.clone(), stop.clone()));
    beside.run(chores::keep_known(host.clone()));
    let mut leases = host.leases.changes();
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
            // (The host has the sender.)
            Ok(()) = leases.changed() => adapt(&host, &mut tenants, &in_force, &stop),
            Some(signal) = events.recv() => match signal {
                Signal::Event(event) => {
                    if event.action == "oom" {
                        host.board.count_oom(&event.name);
                        tracing::warn!(container = event.name, "killed for want of memory");
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
            crossed = host.board.crossed() => {
                for running in crossed.iter().filter_map(|name| tenants.get(name)) {
                    running.wake.notify_one();
                }
            }
            () = resync => strays.notify_one(),
        }
    }
    for running in tenants.into_values() {
        drop(running.desired);
        // It is between two calls to Docker or waiting for one: safe to abort at any point, like a crash.
        running.task.abort();
        // Nobody acts any more when this returns: another run may begin then. (An error says that it was aborted.)
        let _ = running.task.await;
    }
    tracker.close();
    tracker.wait().await;
    chores::save_known(&host).await;
}

/// Starts loops for new tenants, tells the others their new desired state, ends those of tenants that are no longer
/// named.
fn adapt(
    host: &Arc<Host>,
    tenants: &mut BTreeMap<TenantName, Running>,
    in_force: &InForce,
    stop: &CancellationToken,
) {
    let Some(plan) = &in_force.plan else { return };
    host.set_mtu(plan.firewall.mtu);
    for tenant in &plan.tenants {
        let desired = Some(Desired {
            plan: tenant.clone(),
            stale: in_force.stale.contains(&tenant.name),
            unasked: tenant.asks_first && in_force.unasked,
            hold: host.leases.standing(&tenant.uid).hold(),
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
                .run_until_cancelled_owned(rest::tenant_loop(host.clone(), receiver, wake.clone()))
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
