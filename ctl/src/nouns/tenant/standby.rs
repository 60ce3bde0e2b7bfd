//! `isyctl tenant standby`: a copy of a tenant that is kept up on another host, and may take over.
//!
//! Not here: going over to it (moving), how far it is behind (`tenant show`).

use std::time::Duration;

use clap::{Args, Subcommand};
use isyone_proto::pb::v1::{AddStandbyRequest, CopyRole, RemoveStandbyRequest, Tenant};

use super::{Name, get, moving::Move};
use crate::{
    app::App,
    exit::{Exit, Failure, Outcome},
    options::{Waiting, duration},
    output::{table::clean, wire::Wire},
};

/// `isyctl tenant standby …`.
#[derive(Debug, Subcommand)]
pub enum StandbyCommand {
    /// Keep a copy of a tenant up on another host
    Add(Add),
    /// Remove that copy, with its data
    #[command(
        alias = "rm",
        after_help = "Examples:\n  isyctl tenant standby remove alfa"
    )]
    Remove(Name),
}

/// `isyctl tenant standby add`.
#[derive(Debug, Args)]
#[command(after_help = "\
PostgreSQL follows by streaming, files come once a minute; `tenant show` says how far behind that is. It has its memory and disk \
there, as the tenant has here. It never fills the disk of the tenant's host: what has been away for too long is made anew by itself.

`isyctl tenant move alfa --to HOST --max-pause 5s`, to its host, goes over to it, which takes a second or two and loses nothing. The \
old place is kept as after each move; for another standby, add one.

Examples:
  isyctl tenant standby add alfa                  on the host with most room
  isyctl tenant standby add alfa --on h2
  isyctl tenant standby add alfa --apart rack     on a host whose label `rack` says something else")]
pub struct Add {
    /// The tenant's name
    name: String,
    /// The host to keep it on
    #[arg(long, value_name = "HOST")]
    on: Option<String>,
    /// On a host with another value of this label than the tenant's
    #[arg(long, value_name = "LABEL", conflicts_with = "on")]
    apart: Option<String>,
}

/// `isyctl tenant switchover`.
#[derive(Debug, Args)]
#[command(after_help = "\
The same as `isyctl tenant move alfa --to HOST --max-pause 5s` with the host of its standby: nothing is copied first, requests wait \
for a second or two, and nothing is lost. If anything fails before the standby has all, the tenant goes on where it was. Afterwards \
its old place is an older copy, as after each move; `isyctl tenant standby add` makes another standby.

Examples:
  isyctl tenant switchover alfa
  isyctl tenant switchover alfa --max-pause 30s --yes")]
pub struct Switchover {
    /// The tenant's name
    name: String,
    /// Pause for so long at most (500ms to 10m)
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    max_pause: Duration,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    waiting: Waiting,
}

impl Switchover {
    pub async fn run(self, app: &App) -> Outcome {
        let tenant = get(&app.client()?, &self.name).await?;
        let Some(host) = host_of(&tenant) else {
            let name = clean(&self.name);
            return Err(Failure::new(
                Exit::Failed,
                format!(
                    "tenant {name} has no standby: `isyctl tenant standby add {name}` makes one"
                ),
            ));
        };
        // The coordinator refuses a move elsewhere as long as there is a standby, and one without is copied as any other.
        let order = Move::to(self.name, host, self.max_pause, self.yes, self.waiting);
        order.run(app).await
    }
}

/// Where a tenant's standby is.
fn host_of(tenant: &Tenant) -> Option<String> {
    let mut copies = tenant.copies.iter();
    let standby = copies.find(|copy| copy.role() == CopyRole::Standby);
    standby.map(|copy| copy.host.clone())
}

impl StandbyCommand {
    pub async fn run(self, app: &App) -> Outcome {
        match self {
            Self::Add(command) => command.run(app).await,
            Self::Remove(Name { name }) => remove(app, name).await,
        }
    }
}

impl Add {
    async fn run(self, app: &App) -> Outcome {
        let doing = format!("add a standby of tenant `{}`", self.name);
        let message = AddStandbyRequest {
            name: self.name,
            on_host: self.on.unwrap_or_default(),
            apart: self.apart.unwrap_or_default(),
        };
        let client = app.client()?;
        let call = |c: crate::client::Client, r| async move { c.tenants().add_standby(r).await };
        let tenant = client.change(&doing, message, call).await?;
        let host = |tenant: &Tenant| host_of(tenant).unwrap_or_default();
        app.ui.emit(
            &Wire::of(&tenant),
            || vec![host(&tenant)],
            |_| {
                format!(
                    "standby of {} on {}; `isyctl tenant show {}` says how far it is\n",
                    clean(&tenant.name),
                    clean(&host(&tenant)),
                    clean(&tenant.name)
                )
            },
        )?;
        Ok(Exit::Done)
    }
}

async fn remove(app: &App, name: String) -> Outcome {
    let doing = format!("remove the standby of tenant `{name}`");
    let client = app.client()?;
    let call = |c: crate::client::Client, r| async move { c.tenants().remove_standby(r).await };
    let tenant: Tenant = client
        .change(&doing, RemoveStandbyRequest { name }, call)
        .await?;
    app.ui.emit(
        &Wire::of(&tenant),
        || vec![tenant.name.clone()],
        |_| format!("{} has no standby any more\n", clean(&tenant.name)),
    )?;
    Ok(Exit::Done)
}
