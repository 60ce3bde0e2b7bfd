//! `isyctl tenant settings`: settings of a tenant's Odoo, and what isyone writes into its database.
//!
//! Which settings there are, the coordinator knows. Not here: what its administrator sets in Odoo, which stays his.

use clap::{Args, Subcommand};
use isyone_proto::pb::v1::{
    OdooSetting, RestartTenantRequest, SetOdooSettingsRequest, SettingSource,
};

use super::{Name, change::settle, get};
use crate::{
    app::App,
    clock,
    exit::{Exit, Failure, Outcome},
    options::Waiting,
    output::{table::Table, wire::Wire},
};

/// `isyctl tenant settings …`.
#[derive(Debug, Subcommand)]
pub enum SettingsCommand {
    /// Show the settings of a tenant's Odoo that somebody has chosen
    #[command(
        after_help = "Examples:\n  isyctl tenant settings show alfa\n  isyctl tenant settings show alfa -o json"
    )]
    Show(Name),
    /// Choose settings of a tenant's Odoo
    Set(Set),
    /// Write a tenant's own settings into its database, whatever is there
    Apply(Apply),
}

/// `isyctl tenant settings set`.
#[derive(Debug, Args)]
#[command(after_help = "\
Lines of odoo.conf and environment variables, in place of what isyone sets: limits, log_level, log_handler, db_maxconn, unaccent, \
server_wide_modules (added to isyone's), queue_job_channels, ODOO_MAX_HTTP_THREADS and others; docs/odoo.md lists them with their \
bounds. What is not chosen here is as the tenant's plan or the fleet has it ([odoo] of the coordinator's configuration). Odoo is \
restarted.

Examples:
  isyctl tenant settings set alfa limit_time_real=300 log_handler=odoo.sql_db:DEBUG
  isyctl tenant settings set alfa server_wide_modules=queue_job queue_job_channels=root:2
  isyctl tenant settings set alfa --unset log_handler")]
pub struct Set {
    /// The tenant's name
    name: String,
    /// A setting and its value (repeat it)
    #[arg(value_name = "SETTING=VALUE", value_parser = pair, required_unless_present = "unset")]
    settings: Vec<Pair>,
    /// As its plan or the fleet has it again (repeat it)
    #[arg(long, value_name = "SETTING")]
    unset: Vec<String>,
    #[command(flatten)]
    waiting: Waiting,
}

/// A setting and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pair(String, String);

fn pair(text: &str) -> Result<Pair, &'static str> {
    let found = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = found.ok_or("it is no setting with its value, such as log_level=warn")?;
    Ok(Pair(name.to_owned(), value.to_owned()))
}

/// `isyctl tenant settings apply`.
#[derive(Debug, Args)]
#[command(after_help = "\
For a database that was brought from elsewhere, such as a restored dump: it has the other one's address, identity, limits and \
administrator. Written are the tenant's own; the administrator's login and password are those that `isyctl tenant credentials` \
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
            Self::Show(Name { name }) => show(app, name).await,
            Self::Set(command) => command.run(app).await,
            Self::Apply(command) => command.run(app).await,
        }
    }
}

async fn show(app: &App, name: String) -> Outcome {
    let tenant = get(&app.client()?, &name).await?;
    let found = &tenant.odoo_settings;
    let text = |_| match found.is_empty() {
        true => "nothing is chosen: its Odoo has what isyone sets\n".to_owned(),
        false => table(found),
    };
    let names = || found.iter().map(|setting| setting.name.clone()).collect();
    app.ui.emit(&Wire::all(found), names, text)?;
    Ok(Exit::Done)
}

fn table(settings: &[OdooSetting]) -> String {
    let mut table = Table::new(["SETTING", "VALUE", "WHOSE"]);
    for setting in settings {
        let whose = match setting.source() {
            SettingSource::Tenant => "its own",
            SettingSource::Plan => "its plan's",
            SettingSource::Fleet => "the fleet's",
            SettingSource::Unspecified => "-",
        };
        let [name, value] = [&setting.name, &setting.value].map(String::as_str);
        table.row([name.into(), value.into(), whose.into()]);
    }
    table.render()
}

impl Set {
    async fn run(self, app: &App) -> Outcome {
        let count = self.settings.len();
        let pairs = self
            .settings
            .into_iter()
            .map(|Pair(name, value)| (name, value));
        let message = SetOdooSettingsRequest {
            name: self.name.clone(),
            set: pairs.collect(),
            unset: self.unset,
            request_id: clock::request_id(),
        };
        if message.set.len() < count {
            return Err(Failure::usage("a setting is named twice"));
        }
        let client = app.client()?;
        let operation = client
            .change(
                &format!("change settings of tenant `{}`", self.name),
                message,
                |c, r| async move { c.tenants().set_odoo_settings(r).await },
            )
            .await?;
        settle(app, &client, operation, self.waiting, "given its settings").await
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
