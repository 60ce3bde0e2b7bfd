//! `isyctl tenant failover`: a tenant whose host is lost goes on where its standby is, or elsewhere, from its newest backup.
//!
//! Not here: planned moves to a standby (moving).

use clap::Args;
use isyone_proto::pb::v1::{FailOverTenantRequest, Operation};

use super::change;
use crate::{app::App, clock, exit::Outcome, options::Waiting};

/// `isyctl tenant failover`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without `--is-down` nothing is changed, and it is said what would be lost. With it, the standby takes over with what it has; a tenant \
that has none is restored from its newest backup on another host, under its name, with its passwords and domains. Only when the lost host is switched off, or cut off from everything, since a host that is merely not heard may still run the tenant, and \
what is written there would be lost. When the host comes back, it keeps its copy aside, fenced, and never starts it.

Examples:
  isyctl tenant failover alfa               what would be lost
  isyctl tenant failover alfa --is-down")]
pub struct Failover {
    /// The tenant's name
    name: String,
    /// The lost host is off, or cut off from everything
    #[arg(long)]
    is_down: bool,
    #[command(flatten)]
    waiting: Waiting,
}

impl Failover {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let message = FailOverTenantRequest {
            name: self.name.clone(),
            request_id: clock::request_id(),
            is_down: self.is_down,
        };
        let doing = format!("fail tenant `{}` over", self.name);
        let call =
            |c: crate::client::Client, r| async move { c.tenants().fail_over_tenant(r).await };
        let operation = client.change(&doing, message, call).await?;
        let told = |_: &Operation| "runs on another host".to_owned();
        change::settle_as(app, &client, operation, self.waiting, told).await
    }
}
