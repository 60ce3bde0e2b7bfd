//! Waits for the programs of a stack to answer, and gives up when waiting is pointless.
//!
//! Not here: how to ask them (probe), what is started before (execute).

use std::time::Duration;

use isyone_proto::plan::Role;
use tokio::time::{Instant, sleep};

use crate::{
    plan::container::Container,
    tenant::{Result, Tenant, TenantError, visitors},
};

/// Log lines quoted when a program does not come up.
const LOG_LINES: u32 = 15;
/// The first pause between probes is [`crate::host::Pace::poll`] divided by this; pauses then grow up to `poll`.
const POLL_GROWTH: u32 = 5;
/// While a program does not answer, its container is looked at once per this many full pauses.
const LOOK_EVERY_POLLS: u32 = 8;
/// Who waits without a turn asks this many times more seldom: after a reboot hundreds may wait at once.
const SELDOM: u32 = 20;
/// A program that Docker has had to restart this often since it is waited for will not come up. What it restarted before does not count:
/// on a busy host Odoo, which is started beside a copied database, may ask that database before it has its keys, and end for it.
const MAX_RESTARTS_WHILE_WAITING: u32 = 3;

/// Waits until PostgreSQL answers.
pub(super) async fn await_postgres(tenant: &Tenant) -> Result<String> {
    await_answer(tenant, Role::Postgres).await?;
    Ok(String::new())
}

/// Waits until Odoo answers. With workers, websockets have a process of their own, which Odoo starts last: wait for
/// that too, but not for long, because everything else works without it.
pub(super) async fn await_odoo(tenant: &Tenant) -> Result<String> {
    let (took, container) = await_answer(tenant, Role::Odoo).await?;
    // Before anybody is told that it is there: edges may ask at once.
    visitors::follow(tenant, Some(&container)).await;
    let detail = format!("/web/health answers after {:.1} s", took.as_secs_f64());
    if tenant.plan.size.workers == 0 {
        return Ok(detail);
    }
    Ok(match await_websockets(tenant).await? {
        Ok(more) => format!(
            "{detail}, websockets after {:.1} s",
            (took + more).as_secs_f64()
        ),
        Err(why) => format!("{detail}, its process for websockets does not: {why}"),
    })
}

/// Returns how long it took, or why there was no answer in time.
async fn await_websockets(tenant: &Tenant) -> Result<std::result::Result<Duration, String>> {
    let (name, pace) = (tenant.container_name(Role::Odoo), &tenant.host.pace);
    let begin = Instant::now();
    let Some(container) = tenant.host.docker.container(&name).await? else {
        return Ok(Err("its container has gone".to_owned()));
    };
    loop {
        let Err(why) = tenant.host.probe.websockets(&container).await else {
            return Ok(Ok(begin.elapsed()));
        };
        if begin.elapsed() > pace.websockets_timeout {
            tracing::warn!(tenant = %tenant.name(), "Odoo answers, but its process for websockets does not: {why}");
            return Ok(Err(why));
        }
        if tenant.is_interrupted() {
            return Err(TenantError::Interrupted);
        }
        sleep(full_pause(tenant)).await;
    }
}

async fn ask(
    tenant: &Tenant,
    role: Role,
    container: &Container,
) -> std::result::Result<(), String> {
    match role {
        Role::Odoo => tenant.host.probe.odoo(container).await.map(drop),
        Role::Postgres => tenant.host.probe.postgres(container).await,
    }
}

/// The longest pause between probes.
fn full_pause(tenant: &Tenant) -> Duration {
    let poll = tenant.host.pace.poll;
    if tenant.turn.is_held() {
        poll
    } else {
        poll * SELDOM
    }
}

/// Asks until there is an answer; returns how long that took, and who answered. Asks Docker less often than the program: it only
/// tells whether waiting is pointless.
async fn await_answer(tenant: &Tenant, role: Role) -> Result<(Duration, Container)> {
    let (name, pace) = (tenant.container_name(role), &tenant.host.pace);
    let begin = Instant::now();
    let (mut container, mut looked) = (tenant.host.docker.container(&name).await?, begin);
    let before = container.as_ref().map_or(0, |c| c.restarts);
    let mut pause = pace.poll / POLL_GROWTH;
    loop {
        let why = match &container {
            Some(c) => match ask(tenant, role, c).await {
                Ok(()) => return Ok((begin.elapsed(), c.clone())),
                Err(why) => why,
            },
            None => "it is not there".to_owned(),
        };
        let stale = looked.elapsed() > full_pause(tenant) * LOOK_EVERY_POLLS;
        if stale
            || container
                .as_ref()
                .is_none_or(|c| !c.is_up() || c.ip.is_none())
        {
            (container, looked) = (tenant.host.docker.container(&name).await?, Instant::now());
            check_waiting(tenant, role, container.as_ref(), (begin, before), &why).await?;
        }
        if tenant.is_interrupted() {
            return Err(TenantError::Interrupted);
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(full_pause(tenant));
    }
}

/// Fails when further waiting is pointless. It began at a time, after so many restarts.
async fn check_waiting(
    tenant: &Tenant,
    role: Role,
    container: Option<&Container>,
    (begin, before): (Instant, u32),
    why: &str,
) -> Result<()> {
    let name = tenant.container_name(role);
    let what = match role {
        Role::Odoo => "Odoo",
        Role::Postgres => "PostgreSQL",
    };
    let given_up = match container {
        None => Some(format!("{what} does not start: container {name} has gone")),
        Some(c) if !c.is_up() => Some(format!(
            "{what} does not start: it ended with code {}. {}",
            c.exit_code, c.error
        )),
        Some(c) if c.restarts.saturating_sub(before) >= MAX_RESTARTS_WHILE_WAITING => Some(
            format!("{what} does not start: it ended {} times", c.restarts),
        ),
        Some(_) if begin.elapsed() > tenant.host.pace.start_timeout => Some(format!(
            "{what} does not answer after {:.0} s: {why}",
            begin.elapsed().as_secs_f64()
        )),
        Some(_) => None,
    };
    let Some(text) = given_up else { return Ok(()) };
    let log = tenant
        .host
        .docker
        .log_tail(&name, LOG_LINES)
        .await
        .unwrap_or_default();
    Err(TenantError::Program(format!(
        "{text} Last log lines:\n{}",
        log.trim_end()
    )))
}
