//! Looks after a tenant that has run before while its loop is busy: settling may wait for its turn or for an image, and
//! visitors' Odoo can fail meanwhile.
//!
//! Not here: a settled tenant's checks (rest), what follows from them.

use std::future::Future;

use isyone_proto::plan::{DesiredState, Role};
use tokio::{sync::Semaphore, time::sleep};

use super::Tenant;
use crate::{
    host::board::TenantStatus,
    plan::container::{Container, LABEL_UID},
};

/// Tenants whose containers are asked about at the same time: after a reboot hundreds may wait for their turn, and the
/// engine is busy starting the others.
static TURNS: Semaphore = Semaphore::const_new(2);

/// Runs `work`, and beside it checks the tenant's health as often as a settled tenant's.
pub(super) async fn beside<T>(tenant: &Tenant, work: impl Future<Output = T>) -> T {
    let watch = async {
        loop {
            sleep(tenant.host.aligned(tenant.host.pace.probe)).await;
            if tenant.plan.desired == DesiredState::Running && tenant.state().is_ready() {
                Box::pin(look(tenant)).await;
            }
        }
    };
    tokio::select! {
        biased;
        done = work => done,
        never = watch => never,
    }
}

/// Asks both programs, and shows what they answer. What is being done about it stays as the loop has shown it.
async fn look(tenant: &Tenant) {
    let ours = async |role| {
        let (name, uid) = (tenant.container_name(role), tenant.plan.uid.to_string());
        let found = tenant.host.docker.container(&name).await.ok().flatten();
        found.filter(|c| c.label(LABEL_UID) == uid)
    };
    // Semaphores are never closed: `ok` only drops an error that cannot happen.
    let turn = TURNS.acquire().await.ok();
    let (postgres, odoo) = tokio::join!(ours(Role::Postgres), ours(Role::Odoo));
    drop(turn);
    let probe = &tenant.host.probe;
    let ask_postgres = async {
        match postgres.as_ref().filter(|c| c.is_up()) {
            Some(container) => probe.postgres(container).await.is_ok(),
            None => false,
        }
    };
    let ask_odoo = async {
        match odoo.as_ref().filter(|c| c.is_up()) {
            Some(container) => probe.odoo(container).await.ok(),
            None => None,
        }
    };
    let (postgres_answers, latency) = tokio::join!(ask_postgres, ask_odoo);
    let board = &tenant.host.board;
    let Some(shown) = board.get(tenant.name()) else {
        return;
    };
    if shown.uid != tenant.plan.uid {
        return;
    }
    board.set_latency(tenant.name(), latency.unwrap_or(0));
    let mut status = TenantStatus::clone(&shown);
    for (found, healthy) in [(&odoo, latency.is_some()), (&postgres, postgres_answers)] {
        show(&mut status, found.as_ref(), healthy);
    }
    board.set(tenant.name(), status);
}

fn show(status: &mut TenantStatus, found: Option<&Container>, healthy: bool) {
    let Some(found) = found else { return };
    if let Some(shown) = status.containers.iter_mut().find(|c| c.id == found.id) {
        shown.state.clone_from(&found.state);
        shown.healthy = healthy;
    }
}
