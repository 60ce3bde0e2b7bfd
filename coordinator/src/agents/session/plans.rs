//! Sends a host its plan: at once if the agent has a different one, and again after each change.
//!
//! Not here: what a plan contains (isyone_fleet::views).

use std::time::Duration;

use isyone_fleet::{desired::Host, views};
use isyone_proto::{
    generation::Generation,
    ids::HostName,
    parts,
    pb::agent::v1::{Plan, coordinator_message},
    plan::HostPlan,
};
use isyone_telemetry::{child_span, tracing::Span};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tonic::Status;

use super::{Shared, ToAgent};
use crate::{base::timings::timed, wire::status, writer::Handle};

/// What the agent said it has on disk.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) generation: Generation,
    pub(super) digest: String,
}

/// How often a session looks without a signal. Seldom: there are thousands of sessions, and none should miss a signal.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// After this time we offer a plan again that the agent could not take (because its disk was full, say).
const OFFER_AGAIN: Duration = Duration::from_secs(5);

/// Runs until the agent stops taking plans or the host is gone; returns why. `refused` signals that the agent rejected
/// one.
pub(super) async fn send(
    shared: &Shared,
    host: &HostName,
    to_agent: &ToAgent,
    known: Known,
    refused: &Notify,
) -> Status {
    // Subscribe before the first look, so that we miss no change in between.
    let changed = shared.handle.host_signal(host);
    let mut sent = match Box::pin(first(shared, host, to_agent, &known)).await {
        Ok(generation) => generation,
        Err(status) => return status,
    };
    // Not for the months of the session.
    drop(known);
    loop {
        let again = tokio::select! {
            () = changed.notified() => false,
            () = sleep(LOOK_EVERY) => false,
            () = refused.notified() => {
                // Either way there is a plan to send.
                let _ = Box::pin(timeout(OFFER_AGAIN, changed.notified())).await;
                true
            }
        };
        let state = shared.handle.snapshot();
        let record = state.fleet.hosts.get(host);
        let has_newest = |h: &Host| !again && h.plan_generation <= sent;
        if record.is_some_and(|h| h.pending || has_newest(h)) {
            continue;
        }
        sent = match Box::pin(newest(shared, host, to_agent)).await {
            Ok(generation) => generation,
            Err(status) => return status,
        };
    }
}

/// Whether a host has joined, but nobody has let it in: it gets no plan.
pub(super) fn is_pending(handle: &Handle, host: &HostName) -> bool {
    let state = handle.snapshot();
    state.fleet.hosts.get(host).is_some_and(|host| host.pending)
}

/// Sends the plan if the agent has a different one. Also when the generation is the same but the content differs: the
/// agent then raises the alarm.
async fn first(
    shared: &Shared,
    host: &HostName,
    to_agent: &ToAgent,
    known: &Known,
) -> Result<Generation, Status> {
    if is_pending(&shared.handle, host) {
        return Ok(Generation::default());
    }
    let plan = render(shared, host)?;
    if plan.generation > known.generation || plan.digest() != known.digest {
        give(shared, to_agent, host, &plan).await?;
    }
    Ok(plan.generation)
}

/// Sends the plan as it is now.
async fn newest(
    shared: &Shared,
    host: &HostName,
    to_agent: &ToAgent,
) -> Result<Generation, Status> {
    let plan = render(shared, host)?;
    give(shared, to_agent, host, &plan).await?;
    Ok(plan.generation)
}

async fn give(
    shared: &Shared,
    to_agent: &ToAgent,
    host: &HostName,
    plan: &HostPlan,
) -> Result<(), Status> {
    tracing::debug!(%host, generation = %plan.generation, tenants = plan.tenants.len(), "sending plan");
    let traces = shared.handle.traces();
    let places = traces.places(plan);
    let in_trace = |id: &String| child_span!(&traces.of(id.parse().ok()), "send plan", %host, generation = %plan.generation);
    let _spans: Vec<Span> = places.keys().map(in_trace).collect();
    for part in parts::split(Plan {
        traces: places,
        ..Plan::from(plan)
    }) {
        super::give(to_agent, coordinator_message::Message::Plan(part)).await?;
    }
    Ok(())
}

fn render(shared: &Shared, host: &HostName) -> Result<HostPlan, Status> {
    let state = shared.handle.snapshot();
    let plan = timed(&shared.handle.timings().plan_render, || {
        let settings = shared.handle.settings();
        views::host_plan(
            &state,
            settings,
            host,
            |tenant| {
                let secrets = shared.sealer.open_secrets(tenant)?;
                Ok(shared.mail.complete(settings, tenant, secrets))
            },
            |key| shared.sealer.open_backup_key(key),
        )
    });
    let plan = plan.map_err(|error| {
        tracing::error!(%host, %error, "no plan can be made for this host");
        status::seal(&error)
    })?;
    plan.ok_or_else(|| Status::permission_denied("this host was removed"))
}
