//! Finishes the installation of an app that was cut off, in a container of its own beside the running Odoo, which loads its modules
//! anew when that is done.
//!
//! Not here: recognising one and when to try (plan::installs), the container (plan::design).

use std::{pin::pin, time::Duration};

use tokio::time::{sleep, timeout};

use super::{
    Result, Tenant, TenantError, TenantView,
    containers::{no_stack, settled},
    database, visitors,
};
use crate::{base::clock::now_ms, plan::stack::Stack};

/// Lines of its log that are told when it fails.
const LOG_LINES: u32 = 15;
/// The longest that modules may take to load: the largest apps on a slow disk take minutes.
const LONGEST: Duration = Duration::from_secs(3_600);

impl Tenant {
    /// How many modules an installation that was cut off has left behind.
    pub(super) fn cut_off(&self) -> u32 {
        let pending = self.host.board.pending(self.name());
        pending.map_or(0, |pending| pending.cut_off(&self.plan))
    }

    /// Whether its database says that it is at another address: it is another one's that was restored.
    pub(super) fn is_elsewhere(&self) -> bool {
        let pending = self.host.board.pending(self.name());
        pending.is_some_and(|pending| pending.is_elsewhere(&self.plan))
    }
}

/// One try. What fails is told by the tenant's message, and is no failure of the tenant: its Odoo works as it did.
pub(super) async fn finish(tenant: &Tenant, view: &TenantView, stack: &Stack) -> Result<String> {
    tenant.remember(true, |s| {
        s.installs.tries = s.installs.tries.saturating_add(1);
        s.installs.tried_ms = now_ms();
    })?;
    tracing::warn!(tenant = %tenant.name(), "the installation of an app was cut off; finishing it");
    if let Some(why) = run(tenant, view, stack).await? {
        tracing::warn!(tenant = %tenant.name(), "the installation of an app is not finished: {why}");
        return Ok(format!("not finished: {why}"));
    }
    let left = database::count_pending(tenant).await?;
    if left > 0 {
        tracing::warn!(tenant = %tenant.name(), "{left} modules wait still, though Odoo has loaded them");
        return Ok(format!("{left} modules wait still"));
    }
    tenant.host.board.set_pending(tenant.name(), None);
    tenant.remember(true, |s| {
        s.installs.tries = 0;
        s.installs.finished += 1;
    })?;
    Ok("the installation that was cut off is finished".to_owned())
}

/// Returns why it did not end well.
async fn run(tenant: &Tenant, view: &TenantView, stack: &Stack) -> Result<Option<String>> {
    let docker = &tenant.host.docker;
    let facts = view.observed.odoo_image.as_ref().ok_or_else(no_stack)?;
    let name = &stack.finish.name;
    docker.create(&settled(&stack.finish, &facts.id)).await?;
    docker.start(name).await?;
    let why = match beside(tenant, name).await {
        Ok(Ended::With(0)) => None,
        Ok(Ended::With(code)) => {
            let log = docker.log_tail(name, LOG_LINES).await;
            let log = log.unwrap_or_default();
            Some(format!(
                "Odoo ended with code {code}. Last log lines:\n{}",
                log.trim_end()
            ))
        }
        Ok(Ended::TooLate) => Some(format!("it took more than {} s", LONGEST.as_secs())),
        Ok(Ended::Full) => Some("the tenant's disk is full".to_owned()),
        Err(TenantError::Interrupted) => {
            docker.remove(name).await?;
            // Who asks for something else takes no try away.
            tenant.remember(false, |s| {
                s.installs.tries = s.installs.tries.saturating_sub(1)
            })?;
            return Err(TenantError::Interrupted);
        }
        Err(e) => return Err(e),
    };
    docker.remove(name).await?;
    Ok(why)
}

/// How the container's time was over.
enum Ended {
    With(i32),
    TooLate,
    Full,
}

/// Waits for the container, and has an eye on what a tenant's loop would do otherwise: it must not wait for an hour to stop a tenant whose
/// disk is full, to do what somebody asks for, or to tell the relay where an Odoo is that Docker has started again.
async fn beside(tenant: &Tenant, name: &str) -> Result<Ended> {
    let mut ended = pin!(timeout(LONGEST, tenant.host.docker.wait(name)));
    loop {
        tokio::select! {
            ended = &mut ended => return match ended {
                Ok(code) => Ok(Ended::With(code?)),
                Err(_) => Ok(Ended::TooLate),
            },
            () = tenant.interrupted() => return Err(TenantError::Interrupted),
            () = sleep(tenant.host.pace.probe / 3) => {}
        }
        if tenant.disk_state().stops_odoo() {
            return Ok(Ended::Full);
        }
        if tenant.is_outdated() {
            return Err(TenantError::Interrupted);
        }
        visitors::follow_restart(tenant).await;
    }
}
