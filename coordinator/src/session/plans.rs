//! Sends a host its plan: at once when it has another one, and after each change.

use isyone_proto::{
    ids::HostName,
    pb::agent::v1::{Plan, coordinator_message},
    plan::HostPlan,
};
use tonic::Status;

use super::{PATIENCE, ToAgent, message};
use crate::{api::status, context::Context, views};

/// What the agent said it has on disk.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) generation: u64,
    pub(super) digest: String,
}

/// Runs until the agent stops taking plans or the host is gone; says why.
pub(super) async fn send(context: &Context, host: &HostName, to_agent: &ToAgent, known: Known) -> Status {
    // Before the first look, so that no change falls in between.
    let changed = context.handle.host_signal(host);
    let mut sent = known.generation;
    let mut first = true;
    loop {
        let plan = match render(context, host) {
            Ok(Some(plan)) => plan,
            Ok(None) => return Status::permission_denied("this host was removed"),
            Err(status) => return status,
        };
        // At first also under the same generation, if the content differs: the agent then raises the alarm.
        let due = plan.generation > sent || (first && plan.digest() != known.digest);
        if due {
            sent = plan.generation;
            tracing::debug!(%host, generation = sent, tenants = plan.tenants.len(), "sending plan");
            let plan = message(coordinator_message::Message::Plan(Plan::from(&plan)));
            if tokio::time::timeout(PATIENCE, to_agent.send(plan)).await.is_err() {
                return Status::deadline_exceeded("the agent takes no messages");
            }
        }
        first = false;
        changed.notified().await;
    }
}

fn render(context: &Context, host: &HostName) -> Result<Option<HostPlan>, Status> {
    let state = context.handle.snapshot();
    let plan =
        views::host_plan(&state, context.handle.settings(), host, |tenant| context.open_secrets(tenant));
    plan.map_err(|error| {
        tracing::error!(%host, %error, "no plan can be made for this host");
        status::seal(&error)
    })
}
