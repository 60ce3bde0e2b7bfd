//! `EventService`: what happened, from the stored events and live.
//!
//! Not here: which events exist and how many are kept (isyone_fleet).

use std::{sync::Arc, time::Duration};

use isyone_fleet::{event::Event, state::State};
use isyone_proto::{
    convert::parse_optional,
    error::FieldError,
    ids::{HostName, TenantName},
    pb::v1::{self, event_service_server::EventService},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Answers, Api, Parts, STREAM_QUEUE};
use crate::wire::{reader::Reader, shown, status};

/// Number of old events: the default and the maximum.
const TAIL: (usize, usize) = (50, 10_000);
/// We gather new events for this long, so that a burst causes one wake-up.
const FOLLOW_PAUSE: Duration = Duration::from_millis(50);

/// Which events the caller wants.
struct Filter {
    tenant: Option<TenantName>,
    host: Option<HostName>,
}

impl Filter {
    fn matches(&self, event: &Event) -> bool {
        let tenant = self
            .tenant
            .as_ref()
            .is_none_or(|name| event.tenant.as_ref() == Some(name));
        let host = self
            .host
            .as_ref()
            .is_none_or(|name| event.host.as_ref() == Some(name));
        tenant && host
    }
}

#[tonic::async_trait]
impl EventService for Api {
    type StreamEventsStream = Answers<v1::Event>;

    async fn stream_events(
        &self,
        request: Request<v1::StreamEventsRequest>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let reader = Reader::of(&request)?;
        let asked = request.into_inner();
        let filter = Filter {
            tenant: parse_optional("tenant", &asked.tenant)?,
            host: parse_optional("host", &asked.host)?,
        };
        let tail = match usize::try_from(asked.tail).unwrap_or(usize::MAX) {
            0 => TAIL.0,
            n if n <= TAIL.1 => n,
            n => {
                let problem = format!("{n} is more than {}", TAIL.1);
                return Err(FieldError::new("tail", problem).into());
            }
        };
        let after = match asked.after_sequence {
            0 => before_tail(&self.state(), &filter, tail),
            after => after,
        };
        let (caller, answers) = mpsc::channel(STREAM_QUEUE);
        tokio::spawn(stream(
            self.parts.clone(),
            (filter, reader),
            after,
            // The newest ones are whichever are there.
            (asked.follow, asked.after_sequence != 0),
            caller,
        ));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

/// The sequence number before the newest `tail` matching events.
fn before_tail(state: &State, filter: &Filter, tail: usize) -> u64 {
    let newest = state
        .fleet
        .events
        .iter()
        .rev()
        .filter(|e| filter.matches(e))
        .take(tail);
    newest.last().map_or(state.fleet.last_event, |oldest| {
        oldest.sequence.saturating_sub(1)
    })
}

/// Stored events after a sequence number; an error if not all of them are stored any more, and the caller counts on that.
fn after(
    state: &State,
    sequence: u64,
    gapless: bool,
) -> Result<impl Iterator<Item = &Arc<Event>>, Status> {
    let events = &state.fleet.events;
    if gapless && sequence < events.forgotten() {
        let message = format!(
            "some of the events {} to {} are forgotten already",
            sequence + 1,
            events.forgotten()
        );
        return Err(Status::out_of_range(message));
    }
    Ok(events.after(sequence))
}

async fn stream(
    parts: Arc<Parts>,
    (filter, reader): (Filter, Reader),
    mut sequence: u64,
    (follow, mut gapless): (bool, bool),
    caller: mpsc::Sender<Result<v1::Event, Status>>,
) {
    let mut changes = parts.handle.subscribe();
    loop {
        let state = parts.handle.snapshot();
        match after(&state, sequence, gapless) {
            Ok(events) => {
                for event in events {
                    sequence = event.sequence;
                    if filter.matches(event)
                        && caller
                            .send(Ok(reader.event(shown::event(event))))
                            .await
                            .is_err()
                    {
                        return;
                    }
                }
            }
            Err(lost) => return drop(caller.send(Err(lost)).await),
        }
        if !follow {
            return;
        }
        (sequence, gapless) = (sequence.max(state.fleet.last_event), true);
        drop(state);
        let alive = tokio::select! {
            changed = changes.changed() => changed.is_ok(),
            () = caller.closed() => return,
            () = parts.stop.cancelled() => false,
        };
        if !alive {
            return drop(caller.send(Err(status::stopping())).await);
        }
        tokio::time::sleep(FOLLOW_PAUSE).await;
    }
}
