//! `isyctl tenant restart`, `suspend`, `resume`, `resize`, `undelete`: send the request, then wait for the operation.

use clap::Args;
use isyone_proto::pb::v1::{
    Operation, ResizeTenantRequest, RestartTenantRequest, ResumeTenantRequest,
    SuspendTenantRequest, UndeleteTenantRequest,
};

use crate::{
    app::App,
    client::Client,
    clock,
    exit::{Exit, Failure, Outcome},
    options::Waiting,
    output::{format, table::clean, wire::Wire},
    wait,
};

/// A change without options.
#[derive(Debug, Args)]
pub struct Plain {
    /// The tenant's name
    name: String,
    #[command(flatten)]
    waiting: Waiting,
}

/// `isyctl tenant suspend`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isyctl tenant suspend alfa
  isyctl tenant suspend alfa --no-wait
  isyctl tenant suspend alfa --cancel-running   also while it is being created, resized, …")]
pub struct Suspend {
    /// The tenant's name
    name: String,
    /// If an operation is under way on the tenant, cancel it for this one instead of being refused
    #[arg(long)]
    cancel_running: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// `isyctl tenant restart`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  isyctl tenant restart alfa\n  isyctl tenant restart alfa --with-database"
)]
pub struct Restart {
    /// The tenant's name
    name: String,
    /// PostgreSQL too
    #[arg(long)]
    with_database: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// `isyctl tenant resize`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  isyctl tenant resize alfa --plan large")]
pub struct Resize {
    /// The tenant's name
    name: String,
    /// The new size by name (`isyctl version -o yaml` lists the coordinator's)
    #[arg(long)]
    plan: String,
    #[command(flatten)]
    waiting: Waiting,
}

impl Restart {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let message = RestartTenantRequest {
            name: self.name.clone(),
            with_database: self.with_database,
            request_id: clock::request_id(),
            ..RestartTenantRequest::default()
        };
        let operation = client
            .change(
                &format!("restart tenant `{}`", self.name),
                message,
                |c, r| async move { c.tenants().restart_tenant(r).await },
            )
            .await?;
        settle(app, &client, operation, self.waiting, "restarted").await
    }
}

impl Resize {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let message = ResizeTenantRequest {
            name: self.name.clone(),
            plan: self.plan.clone(),
            request_id: clock::request_id(),
        };
        let operation = client
            .change(
                &format!("resize tenant `{}`", self.name),
                message,
                |c, r| async move { c.tenants().resize_tenant(r).await },
            )
            .await?;
        settle(
            app,
            &client,
            operation,
            self.waiting,
            &format!("resized to {}", clean(&self.plan)),
        )
        .await
    }
}

impl Suspend {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let message = SuspendTenantRequest {
            name: self.name.clone(),
            request_id: clock::request_id(),
            cancel_running: self.cancel_running,
        };
        let operation = client
            .change(
                &format!("suspend tenant `{}`", self.name),
                message,
                |c, r| async move { c.tenants().suspend_tenant(r).await },
            )
            .await?;
        settle(app, &client, operation, self.waiting, "suspended").await
    }
}

pub async fn resume(app: &App, plain: Plain) -> Outcome {
    let client = app.client()?;
    let message = ResumeTenantRequest {
        name: plain.name.clone(),
        request_id: clock::request_id(),
    };
    let operation = client
        .change(
            &format!("resume tenant `{}`", plain.name),
            message,
            |c, r| async move { c.tenants().resume_tenant(r).await },
        )
        .await?;
    settle(app, &client, operation, plain.waiting, "resumed").await
}

pub async fn undelete(app: &App, plain: Plain) -> Outcome {
    let client = app.client()?;
    let message = UndeleteTenantRequest {
        name: plain.name.clone(),
        request_id: clock::request_id(),
    };
    let operation = client
        .change(
            &format!("undelete tenant `{}`", plain.name),
            message,
            |c, r| async move { c.tenants().undelete_tenant(r).await },
        )
        .await?;
    settle(app, &client, operation, plain.waiting, "undeleted").await
}

/// Waits if wanted, reports how the operation ended, and prints it for programs.
pub async fn settle(
    app: &App,
    client: &Client,
    operation: Operation,
    waiting: Waiting,
    done: &str,
) -> Outcome {
    settle_as(app, client, operation, waiting, |_| done.to_owned()).await
}

/// The same where what was done follows from how it went.
pub async fn settle_as(
    app: &App,
    client: &Client,
    operation: Operation,
    waiting: Waiting,
    done: impl Fn(&Operation) -> String,
) -> Outcome {
    let last = outcome_as(app, client, operation, waiting, done).await?;
    if !app.ui.for_people() {
        app.ui.emit(
            &Wire::of(&last),
            || vec![last.tenant.clone()],
            |_| String::new(),
        )?;
    }
    Ok(Exit::Done)
}

/// Waits if wanted, and reports how the operation ended.
pub async fn outcome(
    app: &App,
    client: &Client,
    operation: Operation,
    waiting: Waiting,
    done: &str,
) -> Result<Operation, Failure> {
    outcome_as(app, client, operation, waiting, |_| done.to_owned()).await
}

async fn outcome_as(
    app: &App,
    client: &Client,
    operation: Operation,
    waiting: Waiting,
    done: impl Fn(&Operation) -> String,
) -> Result<Operation, Failure> {
    let tenant = clean(&operation.tenant);
    if !waiting.wanted() {
        let (kind, id) = (format::operation_kind(operation.kind), clean(&operation.id));
        app.ui.note(&format!(
            "the {kind} of tenant {tenant} has begun; follow it with `isyctl op watch {id}`"
        ));
        return Ok(operation);
    }
    let last = wait::finished(client, &app.ui, operation, app.wait_limit()).await?;
    let took = format::between(last.create_time.as_ref(), last.end_time.as_ref());
    app.ui
        .note(&format!("tenant {tenant} {} ({took})", done(&last)));
    Ok(last)
}
