//! `OperationService`: shows, lists, watches and cancels operations.
//!
//! Not here: what ends an operation (isyone_fleet's procedures).

use std::{sync::Arc, time::Duration};

use isyone_fleet::{
    change::{ChangeError, Command},
    settings::Settings,
    state::State,
    views,
};
use isyone_proto::{
    convert::{parse, parse_optional},
    ids::TenantName,
    pb::v1::{self, operation_service_server::OperationService},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{Answers, Api, Parts, STREAM_QUEUE, caller, now, page_size};
use crate::{
    wire::{reader::Reader, shown, status},
    writer::SubmitError,
};

/// Shortest time between two updates to a watcher: a busy fleet publishes many snapshots a second.
const WATCH_PAUSE: Duration = Duration::from_millis(50);

fn unknown(id: Uuid) -> Status {
    status::submit(SubmitError::Refused(ChangeError::OperationNotFound(id)))
}

fn find(state: &State, settings: &Settings, id: Uuid) -> Result<v1::Operation, Status> {
    state
        .fleet
        .operations
        .get(&id)
        .map(|o| shown::operation(state, settings, o, now()))
        .ok_or_else(|| unknown(id))
}

#[tonic::async_trait]
impl OperationService for Api {
    async fn get_operation(
        &self,
        request: Request<v1::GetOperationRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        let reader = Reader::of(&request)?;
        let id = parse("id", &request.get_ref().id)?;
        let found = find(&self.state(), self.parts.handle.settings(), id)?;
        Ok(Response::new(reader.operation(found)))
    }

    async fn list_operations(
        &self,
        request: Request<v1::ListOperationsRequest>,
    ) -> Result<Response<v1::ListOperationsResponse>, Status> {
        let reader = Reader::of(&request)?;
        let asked = request.into_inner();
        let size = page_size(asked.page_size)?;
        let tenant: Option<TenantName> = parse_optional("tenant", &asked.tenant)?;
        let active = asked.active_only.to_string();
        let pages = self.pages("operations", &[&asked.tenant, &active]);
        let before: Option<Uuid> = pages.after(&asked.page_token)?;
        let state = self.state();
        let mut rest = views::operations(&state, tenant.as_ref(), before)
            .filter(|operation| !asked.active_only || !operation.state.is_final());
        let page: Vec<_> = rest.by_ref().take(size).collect();
        let more = rest.next().is_some();
        Ok(Response::new(v1::ListOperationsResponse {
            next_page_token: pages.next(page.last().filter(|_| more).map(|o| o.id.to_string())),
            operations: page
                .into_iter()
                .map(|o| reader.operation(self.shown_operation(&state, o)))
                .collect(),
        }))
    }

    type WatchOperationStream = Answers<v1::Operation>;

    async fn watch_operation(
        &self,
        request: Request<v1::WatchOperationRequest>,
    ) -> Result<Response<Self::WatchOperationStream>, Status> {
        let reader = Reader::of(&request)?;
        let id = parse("id", &request.get_ref().id)?;
        find(&self.state(), self.parts.handle.settings(), id)?;
        let (caller, answers) = mpsc::channel(STREAM_QUEUE);
        tokio::spawn(watch(self.parts.clone(), id, reader, caller));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn cancel_operation(
        &self,
        request: Request<v1::CancelOperationRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        let actor = caller(&request)?.to_string();
        let id = parse("id", &request.get_ref().id)?;
        let command = Command::CancelOperation { id };
        self.operation(actor, command).await
    }
}

/// Sends the operation whenever it differs from what was sent last. A slow caller misses intermediate states, never the
/// last one.
async fn watch(
    parts: Arc<Parts>,
    id: Uuid,
    reader: Reader,
    caller: mpsc::Sender<Result<v1::Operation, Status>>,
) {
    // Subscribe before the first look, so that we miss no change in between.
    let mut changes = parts.handle.subscribe();
    let mut told: Option<v1::Operation> = None;
    loop {
        let state = parts.handle.snapshot();
        match find(&state, parts.handle.settings(), id) {
            Ok(operation) => {
                let operation = reader.operation(operation);
                let done = operation.done;
                if told.as_ref() != Some(&operation) {
                    told = Some(operation.clone());
                    if caller.send(Ok(operation)).await.is_err() {
                        return;
                    }
                }
                if done {
                    return;
                }
            }
            Err(gone) => return drop(caller.send(Err(gone)).await),
        }
        let alive = tokio::select! {
            changed = changes.changed() => changed.is_ok(),
            () = caller.closed() => return,
            () = parts.stop.cancelled() => false,
        };
        if !alive {
            return drop(caller.send(Err(status::stopping())).await);
        }
        tokio::time::sleep(WATCH_PAUSE).await;
    }
}
