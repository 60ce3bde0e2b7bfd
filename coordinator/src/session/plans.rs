//! Sends a host its plan: at once when it has another one, and after each change.

use std::time::Duration;

use isyone_proto::{
    ids::HostName,
    pb::agent::v1::{Plan, coordinator_message},
    plan::HostPlan,
};
use isyone_telemetry::{child_span, tracing::Span};
use tonic::Status;

use super::{PATIENCE, ToAgent, message};
use crate::{api::status, context::Context, timings::timed, views};

/// What the agent said it has on disk.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) generation: u64,
    pub(super) digest: String,
}

/// Also without a signal: one may go to the session that this one has replaced. And how often a plan that the agent could
/// not take (its disk was full, say) is offered again.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Runs until the agent stops taking plans or the host is gone; says why.
pub(super) async fn send(context: &Context, host: &HostName, to_agent: &ToAgent, known: Known) -> Status {
    // Before the first look, so that no change falls in between.
    let changed = context.handle.host_signal(host);
    let mut sent = match first(context, host, to_agent, &known).await {
        Ok(generation) => generation,
        Err(status) => return status,
    };
    loop {
        // Either way there may be something new.
        let waited = tokio::time::timeout(LOOK_EVERY, changed.notified()).await.is_err();
        let state = context.handle.snapshot();
        let newest = state.fleet.hosts.get(host).map(|h| h.plan_generation);
        let refused = waited && state.observed.hosts.get(host).is_some_and(|h| !h.plan_error.is_empty());
        drop(state);
        if !refused && newest.is_some_and(|generation| generation <= sent) {
            continue;
        }
        sent = match render(context, host) {
            Ok(plan) => match give(context, to_agent, host, &plan).await {
                Ok(()) => plan.generation,
                Err(status) => return status,
            },
            Err(status) => return status,
        };
    }
}

/// The plan, if the agent has another one. Also under the same generation, if the content differs: the agent then raises
/// the alarm.
async fn first(context: &Context, host: &HostName, to_agent: &ToAgent, known: &Known) -> Result<u64, Status> {
    let plan = render(context, host)?;
    if plan.generation > known.generation || plan.digest() != known.digest {
        give(context, to_agent, host, &plan).await?;
    }
    Ok(plan.generation)
}

async fn give(context: &Context, to_agent: &ToAgent, host: &HostName, plan: &HostPlan) -> Result<(), Status> {
    tracing::debug!(%host, generation = plan.generation, tenants = plan.tenants.len(), "sending plan");
    let traces = context.handle.traces();
    let places = traces.places(plan);
    let in_trace = |id: &String| child_span!(&traces.of(id.parse().ok()), "send plan", %host, generation = plan.generation);
    let spans: Vec<Span> = places.keys().map(in_trace).collect();
    let message = message(coordinator_message::Message::Plan(Plan { traces: places, ..Plan::from(plan) }));
    let given = tokio::time::timeout(PATIENCE, to_agent.send(message)).await;
    drop(spans);
    match given {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Status::deadline_exceeded("the agent takes no messages")),
    }
}

fn render(context: &Context, host: &HostName) -> Result<HostPlan, Status> {
    let state = context.handle.snapshot();
    let plan = timed(&context.handle.timings().plan_render, || {
        views::host_plan(&state, context.handle.settings(), host, |tenant| context.open_secrets(tenant))
    });
    let plan = plan.map_err(|error| {
        tracing::error!(%host, %error, "no plan can be made for this host");
        status::seal(&error)
    })?;
    plan.ok_or_else(|| Status::permission_denied("this host was removed"))
}
