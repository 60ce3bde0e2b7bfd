//! `isyctl tenant`: the life of a customer's Odoo.

pub mod access;
pub mod change;
pub mod create;
pub mod delete;
pub mod domain;
pub mod exec;
pub mod failover;
pub mod inside;
pub mod logs;
pub mod mail;
pub mod moving;
pub mod read;
pub mod restore;
pub mod settings;
pub mod standby;
pub mod upgrade;
pub mod verify;

use clap::{Args, Subcommand, ValueEnum};
use isyone_proto::pb::v1::{ContainerRole, GetTenantRequest, Tenant};

use crate::{app::App, client::Client, exit::Failure, exit::Outcome};

/// `isyctl tenant …`.
#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// Create a tenant and wait until it answers
    Create(Box<create::Create>),
    /// List tenants
    #[command(alias = "ls")]
    List(read::List),
    /// Show one tenant
    #[command(
        after_help = "Examples:\n  isyctl tenant show alfa\n  isyctl tenant show alfa -o wide    with settings of its Odoo that were chosen\n  isyctl tenant show alfa -o json"
    )]
    Show(Name),
    /// Say why a tenant is where it is, and how each host would score today
    #[command(
        after_help = "Examples:\n  isyctl tenant explain alfa\n  isyctl tenant explain alfa -o wide    with the parts of each load"
    )]
    Explain(Name),
    /// Print a tenant's login and passwords (audited)
    #[command(
        after_help = "Examples:\n  isyctl tenant credentials alfa\n  isyctl tenant credentials alfa -o wide    with the database's and the master password\n  isyctl tenant credentials alfa -o json"
    )]
    Credentials(Name),
    /// Print log lines of a tenant's containers
    Logs(logs::Logs),
    /// Open a shell in a tenant's Odoo container, or run a command there (audited)
    Shell(exec::Shell),
    /// Run a command in one of a tenant's containers (audited)
    Exec(exec::Exec),
    /// Open psql on a tenant's database (audited)
    Psql(exec::Psql),
    /// Restart Odoo
    Restart(change::Restart),
    /// Stop a tenant; visitors see a page that says so, data and place are kept
    Suspend(change::Suspend),
    /// Start a suspended tenant again
    #[command(after_help = "Examples:\n  isyctl tenant resume alfa")]
    Resume(change::Plain),
    /// Give a tenant another plan
    Resize(change::Resize),
    /// Give a tenant other images of its edition, such as a patched build
    Upgrade(upgrade::Upgrade),
    /// Take a tenant to another host; it is stopped while its data is copied
    Move(moving::Move),
    /// A copy of a tenant that is kept up on another host, and may take over
    #[command(subcommand)]
    Standby(standby::StandbyCommand),
    /// Take a tenant to its standby, which loses nothing
    Switchover(standby::Switchover),
    /// Let a tenant whose host is lost go on where its standby is
    Failover(failover::Failover),
    /// Delete a tenant; its volumes are kept for a time
    Delete(delete::Delete),
    /// Bring a deleted tenant back, as long as its volumes are kept
    #[command(
        after_help = "Examples:\n  isyctl tenant list --deleted     what is kept; `show` says until when\n  isyctl tenant undelete alfa"
    )]
    Undelete(change::Plain),
    /// Bring a tenant back from a backup: in its place, or as another one (--as)
    Restore(restore::Restore),
    /// Who gets in to a tenant, at the edge
    #[command(subcommand)]
    Access(access::AccessCommand),
    /// By which server a tenant sends mail, whether it can, and what it could not
    #[command(subcommand)]
    Mail(mail::MailCommand),
    /// Settings of a tenant's Odoo, and what isyone writes into its database
    #[command(subcommand)]
    Settings(settings::SettingsCommand),
    /// The domains by which visitors reach a tenant
    #[command(subcommand)]
    Domain(domain::DomainCommand),
    /// Check from outside that a tenant works
    Verify(verify::Verify),
}

/// Names one tenant.
#[derive(Debug, Args)]
pub struct Name {
    /// The tenant's name
    pub name: String,
}

/// One of a tenant's containers.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum Container {
    #[default]
    Odoo,
    Postgres,
}

impl Container {
    fn role(self) -> ContainerRole {
        match self {
            Self::Odoo => ContainerRole::Odoo,
            Self::Postgres => ContainerRole::Postgres,
        }
    }
}

impl TenantCommand {
    pub async fn run(self, app: &App) -> Outcome {
        match self {
            Self::Create(command) => command.run(app).await,
            Self::List(command) => command.run(app).await,
            Self::Show(Name { name }) => read::show(app, &name).await,
            Self::Explain(Name { name }) => read::explain(app, &name).await,
            Self::Credentials(Name { name }) => read::credentials(app, &name).await,
            Self::Logs(command) => command.run(app).await,
            Self::Shell(command) => command.run(app).await,
            Self::Exec(command) => command.run(app).await,
            Self::Psql(command) => command.run(app).await,
            Self::Restart(command) => command.run(app).await,
            Self::Suspend(command) => command.run(app).await,
            Self::Resume(command) => change::resume(app, command).await,
            Self::Resize(command) => command.run(app).await,
            Self::Upgrade(command) => command.run(app).await,
            Self::Move(command) => command.run(app).await,
            Self::Standby(command) => command.run(app).await,
            Self::Switchover(command) => command.run(app).await,
            Self::Failover(command) => command.run(app).await,
            Self::Delete(command) => command.run(app).await,
            Self::Undelete(command) => change::undelete(app, command).await,
            Self::Restore(command) => command.run(app).await,
            Self::Access(command) => command.run(app).await,
            Self::Mail(command) => command.run(app).await,
            Self::Settings(command) => command.run(app).await,
            Self::Domain(command) => command.run(app).await,
            Self::Verify(command) => command.run(app).await,
        }
    }
}

pub async fn get(client: &Client, name: &str) -> Result<Tenant, Failure> {
    let request = GetTenantRequest {
        name: name.to_owned(),
    };
    client
        .read(
            &format!("show tenant `{name}`"),
            request,
            |c, r| async move { c.tenants().get_tenant(r).await },
        )
        .await
}
