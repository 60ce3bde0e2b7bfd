//! Waiting for an operation: watches it until it is done, reconnecting as needed, with a live view of its steps.
//! Stopping the wait never stops the operation.

use std::time::Duration;

use isyone_proto::pb::v1::{Operation, OperationState, WatchOperationRequest};
use tokio::time::Instant;
use tonic::Status;

use crate::{
    client::{Client, Interrupt},
    clock,
    exit::{Exit, Failure},
    output::{Ui, format, table::clean},
    progress::OperationProgress,
    retry, status,
};

/// How long the coordinator may be unreachable while we wait: longer than a restart, shorter than patience.
const MAX_SILENCE: Duration = Duration::from_secs(120);

/// Watches `first` until it is done or `limit` has passed; returns its last state if it succeeded.
pub async fn finished(
    client: &Client,
    ui: &Ui,
    first: Operation,
    limit: Option<Duration>,
) -> Result<Operation, Failure> {
    judge(ended(client, ui, first, limit).await?)
}

/// Watches `first` until it is done or `limit` has passed; returns its last state, however it ended.
pub async fn ended(
    client: &Client,
    ui: &Ui,
    first: Operation,
    limit: Option<Duration>,
) -> Result<Operation, Failure> {
    // Before anything is printed: a user who sees the first line may press Ctrl-C.
    let interrupt = Interrupt::listen();
    let id = first.id.clone();
    let mut progress = OperationProgress::new(ui, &first);
    if first.done {
        return Ok(first);
    }
    let deadline = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let watched = tokio::select! {
        watched = watch(client, &id, &mut progress) => watched,
        stopped = interrupt.came() => Err(left_running(stopped, "stopped waiting", &id)),
        () = deadline => {
            let waited = humantime::format_duration(limit.unwrap_or_default());
            Err(left_running(Failure::new(Exit::Unavailable, ""), &format!("not done within {waited}"), &id))
        }
    };
    progress.end();
    watched
}

fn left_running(mut failure: Failure, what: &str, id: &str) -> Failure {
    failure.message = format!("{what}: the work goes on in the background");
    failure.hint(format!("follow it with `isyctl op watch {id}`"))
}

async fn watch(
    client: &Client,
    id: &str,
    progress: &mut OperationProgress,
) -> Result<Operation, Failure> {
    let doing = format!("watch operation {id}");
    let (mut heard, mut lost_before) = (Instant::now(), 0);
    loop {
        let heard_before = heard;
        let lost = match follow(client, id, &doing, progress, &mut heard).await? {
            Ok(operation) => return Ok(operation),
            Err(status) => status,
        };
        if !status::passing(&lost) || heard.elapsed() > MAX_SILENCE {
            return Err(client
                .failure(&doing, &lost)
                .hint(format!("the work goes on: `isyctl op watch {id}`")));
        }
        progress.lost();
        lost_before = if heard > heard_before {
            1
        } else {
            lost_before + 1
        };
        tokio::time::sleep(retry::stream_pause(lost_before, &lost, clock::chance())).await;
    }
}

/// Watches over one connection.
async fn follow(
    client: &Client,
    id: &str,
    doing: &str,
    progress: &mut OperationProgress,
    heard: &mut Instant,
) -> Result<Result<Operation, Status>, Failure> {
    let mut service = client.operations();
    let mut stream = match client
        .open(
            doing,
            service.watch_operation(WatchOperationRequest { id: id.to_owned() }),
        )
        .await
    {
        Ok(Ok(stream)) => stream,
        Ok(Err(status)) => return Ok(Err(status)),
        // A timeout counts as a lost connection.
        Err(failure) if failure.exit != Exit::Unavailable || heard.elapsed() > MAX_SILENCE => {
            return Err(failure);
        }
        Err(failure) => return Ok(Err(Status::unavailable(failure.message))),
    };
    loop {
        match stream.message().await {
            Ok(Some(operation)) => {
                *heard = Instant::now();
                progress.show(&operation);
                if operation.done {
                    return Ok(Ok(operation));
                }
            }
            Ok(None) => return Ok(Err(Status::unavailable("the stream ended early"))),
            Err(status) => return Ok(Err(status)),
        }
    }
}

fn judge(operation: Operation) -> Result<Operation, Failure> {
    match operation.state() {
        OperationState::Succeeded => Ok(operation),
        OperationState::Cancelled => Err(unwanted(&operation, "was cancelled")),
        _ => Err(unwanted(
            &operation,
            &format::operation_state(operation.state),
        )),
    }
}

/// The failure of an operation that ended in another way than was waited for: "the resize of tenant `alfa` …".
pub fn unwanted(operation: &Operation, how: &str) -> Failure {
    let why = if operation.error.is_empty() {
        String::new()
    } else {
        format!(": {}", clean(&operation.error))
    };
    let (kind, tenant) = (
        format::operation_kind(operation.kind),
        clean(&operation.tenant),
    );
    Failure::failed(format!("the {kind} of tenant `{tenant}` {how}{why}")).hint(format!(
        "`isyctl op show {}` has its steps, `isyctl tenant show {tenant}` the tenant",
        clean(&operation.id)
    ))
}
