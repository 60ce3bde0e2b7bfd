//! `isyctl op`: operations, i.e. long work in steps.

use clap::{Args, Subcommand};
use isyone_proto::{
    convert::unix_ms,
    pb::v1::{
        CancelOperationRequest, GetOperationRequest, ListOperationsRequest, Operation,
        OperationKind, OperationState, OperationStep,
    },
};

use crate::{
    app::App,
    client::Client,
    clock,
    exit::{Exit, Failure, Outcome},
    options::{self, Waiting},
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
    /// Cancel an operation and wait until the tenant is as it was before
    Cancel(Cancel),
}

/// Names one operation.
#[derive(Debug, Args)]
pub struct Id {
    /// The operation's id
    id: String,
}

/// `isyctl op cancel`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isyctl op list --active    what runs, what it waits for, and since when
  isyctl op cancel 0193f5a2-0000-7000-8000-000000000001
  isyctl op cancel 0193f5a2-0000-7000-8000-000000000001 --no-wait

A cancelled operation goes back: what it changed is as before, and the tenant of a create is
deleted again. What cannot be taken back, such as a purge, is not cancelled.")]
pub struct Cancel {
    /// The operation's id
    id: String,
    #[command(flatten)]
    waiting: Waiting,
}

/// `isyctl op list`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isyctl op list
  isyctl op list --active         what runs, what it waits for, and since when
  isyctl op list --tenant alfa --limit 5 -o wide

An operation is late when it should be over by now. Nothing ends it for that.")]
pub struct List {
    /// Only operations on this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only operations that are not done
    #[arg(long)]
    active: bool,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = options::count)]
    limit: usize,
}

impl OpCommand {
    pub async fn run(self, app: &App) -> Outcome {
        match self {
            Self::List(command) => command.run(app).await,
            Self::Show(Id { id }) => show(app, &id).await,
            Self::Watch(Id { id }) => watch(app, &id).await,
            Self::Cancel(command) => command.run(app).await,
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

/// Characters of what an operation waits for in the list: "host h2, silent for 1234 s" fits. Why a host has trouble is
/// longer, and in the wide list.
const WAITING_WIDTH: usize = 28;

fn list(operations: &[Operation], wide: bool, now_ms: i64) -> String {
    if operations.is_empty() {
        return String::new();
    }
    let mut header = vec![
        "ID",
        "KIND",
        "TENANT",
        "STATE",
        "STAGE",
        "WAITING FOR",
        "SINCE",
        "AGE",
    ];
    if wide {
        header.extend(["TOOK", "HOST", "STEP", "ACTOR", "ERROR"]);
    }
    let mut table = Table::new(header);
    for operation in operations {
        let waiting_for = format::or_dash(&operation.waiting_for);
        let mut row: Vec<Cell> = vec![
            operation.id.as_str().into(),
            format::operation_kind(operation.kind).into(),
            operation.tenant.as_str().into(),
            state(operation, now_ms),
            format::or_dash(&operation.stage).into(),
            if wide {
                waiting_for.into()
            } else {
                format::shortened(waiting_for, WAITING_WIDTH).into()
            },
            format::age(now_ms, operation.stage_start_time.as_ref()).into(),
            format::age(now_ms, operation.create_time.as_ref()).into(),
        ];
        if wide {
            let step = current_step(operation).map_or("-", |step| step.name.as_str());
            row.extend([
                format::between(operation.create_time.as_ref(), operation.end_time.as_ref()).into(),
                Cell::from(format::or_dash(&operation.host)),
                step.into(),
                format::or_dash(&operation.actor).into(),
                operation.error.as_str().into(),
            ]);
        }
        table.row(row);
    }
    table.render()
}

/// Under way longer than such an operation takes.
fn late(operation: &Operation, now_ms: i64) -> bool {
    let due = operation.deadline_time.as_ref();
    !operation.done && due.is_some_and(|due| unix_ms(due) <= now_ms)
}

/// Its state as a word, and that it is late.
fn state(operation: &Operation, now_ms: i64) -> Cell {
    let word = format::operation_state(operation.state);
    if late(operation, now_ms) {
        Paint::Bad.on(&format!("{word}, late"))
    } else {
        Paint::word(&word)
    }
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
        |_| details(&operation, clock::now_ms()),
    )?;
    Ok(Exit::Done)
}

fn details(operation: &Operation, now_ms: i64) -> String {
    let mut text = Table::pairs(facts(operation, now_ms));
    if !operation.steps.is_empty() {
        text.push('\n');
        text.push_str(&steps(operation));
    }
    text
}

fn facts(operation: &Operation, now_ms: i64) -> Vec<(&'static str, Cell)> {
    let mut pairs: Vec<(&str, Cell)> = vec![
        ("Operation", operation.id.as_str().into()),
        ("Kind", format::operation_kind(operation.kind).into()),
        ("Tenant", operation.tenant.as_str().into()),
        ("Host", format::or_dash(&operation.host).into()),
        ("State", state(operation, now_ms)),
    ];
    if !operation.done {
        pairs.extend(underway(operation, now_ms));
    }
    if !operation.parent_id.is_empty() {
        pairs.push(("Part of", operation.parent_id.as_str().into()));
    }
    pairs.extend([
        ("Asked by", format::or_dash(&operation.actor).into()),
        (
            "Began",
            format::local(operation.create_time.as_ref()).into(),
        ),
        (
            "Took",
            format::between(operation.create_time.as_ref(), operation.end_time.as_ref()).into(),
        ),
    ]);
    if !operation.error.is_empty() {
        pairs.push(match operation.state() {
            // Who cancelled it, or why it goes back: no error at present.
            OperationState::Cancelled | OperationState::Running => {
                ("Why", operation.error.as_str().into())
            }
            _ => ("Error", Paint::Bad.on(&operation.error)),
        });
    }
    pairs
}

/// How far an operation is that is not done. A coordinator of before stages says nothing of this.
fn underway(operation: &Operation, now_ms: i64) -> Vec<(&'static str, Cell)> {
    let mut pairs = Vec::new();
    if !operation.stage.is_empty() {
        pairs.push(("Stage", operation.stage.as_str().into()));
    }
    if !operation.waiting_for.is_empty() {
        pairs.push(("Waiting for", operation.waiting_for.as_str().into()));
    }
    if let Some(since) = &operation.stage_start_time {
        let ago = format::age(now_ms, Some(since));
        let text = format!("{}, for {ago}", format::local(Some(since)));
        pairs.push(("Since", text.into()));
    }
    if let Some(due) = &operation.deadline_time {
        let text = format::local(Some(due));
        let cell = if late(operation, now_ms) {
            Paint::Bad.on(&format!("{text}, late"))
        } else {
            text.into()
        };
        pairs.push(("Deadline", cell));
    }
    pairs
}

fn steps(operation: &Operation) -> String {
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
    table.render()
}

async fn watch(app: &App, id: &str) -> Outcome {
    let client = app.client()?;
    let first = get(&client, id).await?;
    let last = wait::finished(&client, &app.ui, first, app.wait_limit()).await?;
    told(app, &last, "succeeded")
}

impl Cancel {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let request = client.request(CancelOperationRequest {
            id: self.id.clone(),
        });
        let going_back = client
            .call(
                &format!("cancel operation {}", self.id),
                client.operations().cancel_operation(request),
            )
            .await?;
        if !self.waiting.wanted() && !going_back.done {
            let id = clean(&going_back.id);
            let how = format!("is being cancelled; follow it with `isyctl op watch {id}`");
            return told(app, &going_back, &how);
        }
        let last = wait::ended(&client, &app.ui, going_back, app.wait_limit()).await?;
        match last.state() {
            OperationState::Cancelled => {
                told(app, &last, &format!("is cancelled: {}", taken_back(&last)))
            }
            OperationState::Succeeded => {
                Err(wait::unwanted(&last, "is not cancelled: it had succeeded"))
            }
            _ => Err(wait::unwanted(&last, "is not cancelled: it failed")),
        }
    }
}

/// What a tenant is like after a cancelled operation.
fn taken_back(operation: &Operation) -> &'static str {
    match operation.kind() {
        OperationKind::Create => "the tenant is deleted again",
        OperationKind::Restart => "the tenant is left as it is",
        OperationKind::Undelete => "the tenant stays deleted",
        OperationKind::Move => "the tenant stays where it was",
        OperationKind::Restore => "what was made of it is removed again",
        _ => "the tenant is as it was before",
    }
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
