//! Looks after a tenant that has run before while its loop is busy: settling may wait for its turn or for an image, and
//! visitors' Odoo can fail meanwhile.
//!
//! Not here: a settled tenant's checks (rest), what follows from them.

use std::future::Future;

use isyone_proto::plan::{DesiredState, Role};
use tokio::{sync::Semaphore, time::sleep};

use super::Tenant;
use crate::{
    docker,
    host::board::{ContainerStatus, TenantStatus},
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
        let found = tenant.host.docker.container(&name).await;
        found.map(|found| found.filter(|c| c.label(LABEL_UID) == uid))
    };
    // Semaphores are never closed: `ok` only drops an error that cannot happen.
    let turn = TURNS.acquire().await.ok();
    let (postgres, odoo) = tokio::join!(ours(Role::Postgres), ours(Role::Odoo));
    drop(turn);
    let probe = &tenant.host.probe;
    let ask_postgres = async {
        match up(&postgres) {
            Some(container) => probe.postgres(container).await.is_ok(),
            None => false,
        }
    };
    let ask_odoo = async {
        match up(&odoo) {
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
    for (role, found, healthy) in [
        (Role::Odoo, &odoo, latency.is_some()),
        (Role::Postgres, &postgres, postgres_answers),
    ] {
        // What the engine did not tell stays as it was shown.
        if let Ok(found) = found {
            let name = tenant.container_name(role);
            show(&mut status.containers, &name, found.as_ref(), healthy);
        }
    }
    board.set(tenant.name(), status);
}

/// The container, if the engine says that it runs.
fn up(found: &docker::Result<Option<Container>>) -> Option<&Container> {
    let container = found.as_ref().ok().and_then(Option::as_ref);
    container.filter(|c| c.is_up())
}

/// By name: one that is gone has no id any more, and one made anew has another.
fn show(shown: &mut [ContainerStatus], name: &str, found: Option<&Container>, healthy: bool) {
    let Some(shown) = shown.iter_mut().find(|c| c.name == name) else {
        return;
    };
    match found {
        Some(found) => shown.state.clone_from(&found.state),
        None => "absent".clone_into(&mut shown.state),
    }
    shown.healthy = found.is_some() && healthy;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_is_gone_is_healthy_no_more() {
        let of = |name: &str| ContainerStatus {
            name: name.to_owned(),
            state: "running".to_owned(),
            healthy: true,
            id: "before".to_owned(),
            ..ContainerStatus::default()
        };
        let mut shown = [of("odoo_alfa"), of("postgres_alfa")];
        show(&mut shown, "odoo_alfa", None, false);
        assert_eq!(
            (shown[0].state.as_str(), shown[0].healthy),
            ("absent", false)
        );
        assert!(shown[1].healthy);
        let anew = Container {
            id: "anew".to_owned(),
            state: "exited".to_owned(),
            ..Container::default()
        };
        show(&mut shown, "postgres_alfa", Some(&anew), false);
        assert_eq!(
            (shown[1].state.as_str(), shown[1].healthy),
            ("exited", false)
        );
    }
}
