//! `isyctl op`: operations, i.e. long work in steps.

use clap::{Args, Subcommand};
use isyone_proto::pb::v1::{
    CancelOperationRequest, GetOperationRequest, ListOperationsRequest, Operation, OperationStep,
};

use crate::{
    app::App,
    client::Client,
    clock,
    exit::{Exit, Failure, Outcome},
    output::{
        format,
        table::{Cell, Paint, Table, clean},
        wire::Wire,
    },
    wait,
};

/// `isyctl op …`.
#[derive(Debug, Subcommand)]
pub enum OpCommand {
    /// List operations, newest first
    #[command(alias = "ls")]
    List(List),
    /// Show one operation with its steps
    #[command(after_help = "Examples:\n  isyctl op show 0193f5a2-0000-7000-8000-000000000001")]
    Show(Id),
    /// Watch an operation until it is done; the exit code says how it ended
    #[command(
        after_help = "Examples:\n  isyctl op watch 0193f5a2-0000-7000-8000-000000000001\n  isyctl op watch 0193f5a2-0000-7000-8000-000000000001 --timeout 10m"
    )]
    Watch(Id),
    /// Ask an operation to stop; a create is undone
    #[command(after_help = "Examples:\n  isyctl op cancel 0193f5a2-0000-7000-8000-000000000001")]
    Cancel(Id),
}

/// Names one operation.
#[derive(Debug, Args)]
pub struct Id {
    /// The operation's id
    id: String,
}

/// `isyctl op list`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  isyctl op list\n  isyctl op list --active\n  isyctl op list --tenant alfa --limit 5"
)]
pub struct List {
    /// Only operations on this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only operations that are not done
    #[arg(long)]
    active: bool,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

impl OpCommand {
    pub async fn run(self, app: &App) -> Outcome {
        match self {
            Self::List(command) => command.run(app).await,
            Self::Show(Id { id }) => show(app, &id).await,
            Self::Watch(Id { id }) => watch(app, &id).await,
            Self::Cancel(Id { id }) => cancel(app, id).await,
        }
    }
}

impl List {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let operations = client
            .pages(Some(self.limit), |page_size, page_token| {
                let request = ListOperationsRequest {
                    page_size,
                    page_token,
                    tenant: self.tenant.clone().unwrap_or_default(),
                    active_only: self.active,
                };
                let client = &client;
                async move {
                    let page = client
                        .read("list operations", request, |c, r| async move {
                            c.operations().list_operations(r).await
                        })
                        .await?;
                    Ok((page.operations, page.next_page_token))
                }
            })
            .await?;
        let ids = || operations.iter().map(|o| o.id.clone()).collect();
        app.ui.emit(&Wire::all(&operations), ids, |wide| {
            list(&operations, wide, clock::now_ms())
        })?;
        Ok(Exit::Done)
    }
}

fn list(operations: &[Operation], wide: bool, now_ms: i64) -> String {
    if operations.is_empty() {
        return String::new();
    }
    let mut header = vec![
        "ID", "KIND", "TENANT", "HOST", "STATE", "STEP", "TOOK", "AGE",
    ];
    if wide {
        header.extend(["ACTOR", "ERROR"]);
    }
    let mut table = Table::new(header);
    for operation in operations {
        let step = current_step(operation).map_or("-", |step| step.name.as_str());
        let mut row: Vec<Cell> = vec![
            operation.id.as_str().into(),
            format::operation_kind(operation.kind).into(),
            operation.tenant.as_str().into(),
            format::or_dash(&operation.host).into(),
            Paint::word(&format::operation_state(operation.state)),
            step.into(),
            format::between(operation.create_time.as_ref(), operation.end_time.as_ref()).into(),
            format::age(now_ms, operation.create_time.as_ref()).into(),
        ];
        if wide {
            row.extend([
                Cell::from(format::or_dash(&operation.actor)),
                operation.error.as_str().into(),
            ]);
        }
        table.row(row);
    }
    table.render()
}

/// The step under way, or the one that failed.
fn current_step(operation: &Operation) -> Option<&OperationStep> {
    operation
        .steps
        .iter()
        .find(|step| step.start_time.is_some() && step.end_time.is_none())
        .or_else(|| {
            operation.steps.iter().find(|step| {
                matches!(
                    format::operation_state(step.state).as_str(),
                    "failed" | "retrying"
                )
            })
        })
}

async fn get(client: &Client, id: &str) -> Result<Operation, Failure> {
    let request = GetOperationRequest { id: id.to_owned() };
    client
        .read(
            &format!("show operation {id}"),
            request,
            |c, r| async move { c.operations().get_operation(r).await },
        )
        .await
}

async fn show(app: &App, id: &str) -> Outcome {
    let operation = get(&app.client()?, id).await?;
    app.ui.emit(
        &Wire::of(&operation),
        || vec![operation.id.clone()],
        |_| details(&operation),
    )?;
    Ok(Exit::Done)
}

fn details(operation: &Operation) -> String {
    let mut pairs: Vec<(&str, Cell)> = vec![
        ("Operation", operation.id.as_str().into()),
        ("Kind", format::operation_kind(operation.kind).into()),
        ("Tenant", operation.tenant.as_str().into()),
        ("Host", format::or_dash(&operation.host).into()),
        (
            "State",
            Paint::word(&format::operation_state(operation.state)),
        ),
        ("Asked by", format::or_dash(&operation.actor).into()),
        (
            "Began",
            format::local(operation.create_time.as_ref()).into(),
        ),
        (
            "Took",
            format::between(operation.create_time.as_ref(), operation.end_time.as_ref()).into(),
        ),
    ];
    if !operation.error.is_empty() {
        pairs.push(("Error", Paint::Bad.on(&operation.error)));
    }
    let mut text = Table::pairs(pairs);
    if operation.steps.is_empty() {
        return text;
    }
    let mut table = Table::new(["STEP", "STATE", "TOOK", "DETAIL"]);
    for step in &operation.steps {
        let percent = if step.progress_percent > 0 && step.end_time.is_none() {
            format!("{}% ", step.progress_percent)
        } else {
            String::new()
        };
        table.row([
            step.name.as_str().into(),
            Paint::word(&format::operation_state(step.state)),
            format::between(step.start_time.as_ref(), step.end_time.as_ref()).into(),
            format!("{percent}{}", step.detail).into(),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render());
    text
}

async fn watch(app: &App, id: &str) -> Outcome {
    let client = app.client()?;
    let first = get(&client, id).await?;
    let last = wait::finished(&client, &app.ui, first, app.wait_limit()).await?;
    told(app, &last, "succeeded")
}

async fn cancel(app: &App, id: String) -> Outcome {
    let client = app.client()?;
    let request = client.request(CancelOperationRequest { id: id.clone() });
    let operation = client
        .call(
            &format!("cancel operation {id}"),
            client.operations().cancel_operation(request),
        )
        .await?;
    told(
        app,
        &operation,
        if operation.done {
            "is cancelled"
        } else {
            "is being cancelled"
        },
    )
}

fn told(app: &App, operation: &Operation, what: &str) -> Outcome {
    if app.ui.for_people() {
        let (kind, tenant) = (
            format::operation_kind(operation.kind),
            clean(&operation.tenant),
        );
        app.ui
            .note(&format!("the {kind} of tenant {tenant} {what}"));
    } else {
        app.ui.emit(
            &Wire::of(operation),
            || vec![operation.id.clone()],
            |_| String::new(),
        )?;
    }
    Ok(Exit::Done)
}
