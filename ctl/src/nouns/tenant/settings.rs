//! `isyctl tenant settings`: what isyone writes into a tenant's database.
//!
//! Not here: what its administrator sets in Odoo, which stays his.

use clap::{Args, Subcommand};
use isyone_proto::pb::v1::RestartTenantRequest;

use super::change::settle;
use crate::{app::App, clock, exit::Outcome, options::Waiting};

/// `isyctl tenant settings …`.
#[derive(Debug, Subcommand)]
pub enum SettingsCommand {
    /// Write a tenant's own settings into its database, whatever is there
    Apply(Apply),
}

/// `isyctl tenant settings apply`.
#[derive(Debug, Args)]
#[command(after_help = "\
For a database that was brought from elsewhere, such as a restored dump: it has the other one's address, identity, limits and
administrator. Written are the tenant's own; the administrator's login and password are those that `isyctl tenant credentials`
prints, and everybody has to log in anew. Company, users and modules stay. Odoo is restarted.

Example:
  isyctl tenant settings apply alfa")]
pub struct Apply {
    /// The tenant's name
    name: String,
    #[command(flatten)]
    waiting: Waiting,
}

impl SettingsCommand {
    pub async fn run(self, app: &App) -> Outcome {
        match self {
            Self::Apply(command) => command.run(app).await,
        }
    }
}

impl Apply {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let message = RestartTenantRequest {
            name: self.name.clone(),
            with_settings: true,
            request_id: clock::request_id(),
            ..RestartTenantRequest::default()
        };
        let operation = client
            .change(
                &format!("write the settings of tenant `{}`", self.name),
                message,
                |c, r| async move { c.tenants().restart_tenant(r).await },
            )
            .await?;
        settle(
            app,
            &client,
            operation,
            self.waiting,
            "given its own settings",
        )
        .await
    }
}
