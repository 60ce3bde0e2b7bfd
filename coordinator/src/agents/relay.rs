//! Connections between two hosts of which one cannot reach the other: bytes from one agent's Relay call into a stream that
//! the other agent opens, and back, for as long as an operation has the first fetch from the second. The agents do TLS
//! with each other inside: what passes here is sealed, is not looked at, and is kept no longer than its reader is slow.
//!
//! Not here: which host fetches what (isyone_fleet::views), how a host is asked for a stream (streams).

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use isyone_fleet::views::{self, Fetching};
use isyone_proto::{
    convert::parse,
    error::FieldError,
    ids::HostName,
    pb::agent::v1::{
        AttachDown, AttachUp, PeerConnection, RelayDown, RelayTo, RelayUp, attach_down, attach_up,
        open_stream::Target, relay_up,
    },
};
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::{Registry, Unit},
};
use tokio::{
    sync::mpsc,
    time::{interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::streams::{Bridge, Streams};
use crate::{base::clock, wire::status, writer::Handle};

/// Connections at once. A few fill the coordinator's line, and each holds up to some MiB of queues and windows.
const MOST: usize = 16;
/// Of one host that fetches, and of one that is fetched from: an agent has two jobs at work at most. Each is a connection
/// of its own to our port, which takes eight of one agent and then cuts the oldest: its session.
const MOST_PER_HOST: usize = 2;
/// When somebody who was refused for load may come back: a copy takes minutes.
const COME_BACK: Duration = Duration::from_secs(10);
/// Largest piece; documented in the protocol.
const CHUNK: usize = 64 << 10;
/// Pieces queued for a slow caller; beyond that the other host waits.
const QUEUE: usize = 4;
/// How long the first message may take: it is sent along with the call.
const FIRST: Duration = Duration::from_secs(10);
/// How often we look whether the operation still copies.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A connection on which nothing passes for so long has ended for us. The agents send something every 20 s.
const IDLE: Duration = Duration::from_secs(60);
/// How long a slow caller may take to hear why it ends.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Counts what passes on one connection, and on all.
struct Passed<'a> {
    here: AtomicU64,
    all: &'a Counter,
}

impl Passed<'_> {
    fn add(&self, bytes: usize) {
        self.here.fetch_add(bytes as u64, Ordering::Relaxed);
        self.all.inc_by(bytes as u64);
    }

    fn so_far(&self) -> u64 {
        self.here.load(Ordering::Relaxed)
    }
}

type ToCaller = mpsc::Sender<Result<RelayDown, Status>>;

/// All relayed connections.
#[derive(Debug)]
pub struct Relays {
    handle: Handle,
    streams: Arc<Streams>,
    stop: CancellationToken,
    /// What each is for; at most [`MOST`].
    open: Mutex<Vec<Fetching>>,
    count: Gauge,
    bytes: Counter,
}

/// A place among the open ones; given back on drop.
struct Place {
    of: Arc<Relays>,
    fetching: Fetching,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.of.open();
        if let Some(at) = open.iter().position(|other| *other == self.fetching) {
            open.swap_remove(at);
        }
        self.of.count.dec();
    }
}

impl Relays {
    pub fn new(handle: Handle, streams: Arc<Streams>, stop: CancellationToken) -> Self {
        Self {
            handle,
            streams,
            stop,
            open: Mutex::default(),
            count: Gauge::default(),
            bytes: Counter::default(),
        }
    }

    /// Adds its metrics to the registry that is scraped.
    pub fn register(&self, registry: &mut Registry) {
        let count = "Connections between hosts that go through this coordinator";
        registry.register("relays", count, self.count.clone());
        let bytes = "What such connections have carried, both ways";
        registry.register_with_unit("relayed", bytes, Unit::Bytes, self.bytes.clone());
    }

    /// Serves one call of a host's agent; answers once the other agent has opened its end.
    pub async fn serve(
        self: &Arc<Self>,
        caller: HostName,
        mut up: Streaming<RelayUp>,
    ) -> Result<ReceiverStream<Result<RelayDown, Status>>, Status> {
        let first = timeout(FIRST, up.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no first message"))??;
        let fetching = asked(caller, first)?;
        if !self.may(&fetching) {
            tracing::warn!(host = %fetching.to, from = %fetching.from, tenant = %fetching.tenant, "refused: no operation under way has it fetch that");
            return Err(refused());
        }
        let place = self.take(fetching)?;
        let target = Target::Peer(PeerConnection {
            host: place.fetching.to.to_string(),
        });
        let bridge = self.streams.open(&place.fetching.from, target).await?;
        let (down, answers) = mpsc::channel(QUEUE);
        tokio::spawn(run(place, up, bridge, down));
        Ok(ReceiverStream::new(answers))
    }

    /// Takes a place, if there is one.
    fn take(self: &Arc<Self>, fetching: Fetching) -> Result<Place, Status> {
        let mut open = self.open();
        let to = open.iter().filter(|other| other.to == fetching.to);
        let from = open.iter().filter(|other| other.from == fetching.from);
        if open.len() >= MOST || to.count() >= MOST_PER_HOST || from.count() >= MOST_PER_HOST {
            let why = "too many connections between hosts go through the coordinator";
            return Err(status::overloaded(why.to_owned(), COME_BACK));
        }
        open.push(fetching.clone());
        self.count.inc();
        Ok(Place {
            of: self.clone(),
            fetching,
        })
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Vec<Fetching>> {
        // Nothing panics while holding it; the list is consistent in any case.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may(&self, fetching: &Fetching) -> bool {
        views::is_fetching(&self.handle.snapshot(), fetching, clock::now_ms())
    }
}

fn refused() -> Status {
    Status::permission_denied("not granted")
}

/// What a call's first message asks for.
fn asked(caller: HostName, first: Option<RelayUp>) -> Result<Fetching, Status> {
    let Some(relay_up::Message::To(RelayTo {
        operation_id,
        tenant,
        host,
    })) = first.and_then(|first| first.message)
    else {
        return Err(FieldError::new("to", "must be the first message").into());
    };
    Ok(Fetching {
        operation: parse("to.operation_id", &operation_id)?,
        tenant: parse("to.tenant", &tenant)?,
        from: parse("to.host", &host)?,
        to: caller,
    })
}

/// Passes bytes on until one side ends, or it may not go on.
async fn run(place: Place, up: Streaming<RelayUp>, bridge: Bridge, caller: ToCaller) {
    let Place { of, fetching } = &place;
    tracing::info!(host = %fetching.to, from = %fetching.from, tenant = %fetching.tenant, "a copy goes through this coordinator");
    let passed = &Passed {
        here: AtomicU64::new(0),
        all: &of.bytes,
    };
    let ended = tokio::select! {
        ended = to_source(up, bridge.down, passed) => ended,
        ended = to_caller(bridge.up, &caller, passed, &fetching.from) => ended,
        why = until_over(of, fetching, passed) => Err(why),
        () = caller.closed() => Ok(()),
        () = of.stop.cancelled() => Err(status::stopping()),
    };
    let bytes = passed.so_far();
    tracing::info!(host = %fetching.to, from = %fetching.from, tenant = %fetching.tenant, bytes, ?ended, "it does no more");
    drop(place);
    if let Err(status) = ended {
        let _ = timeout(LAST_WORD, caller.send(Err(status))).await; // it may have gone
    }
}

async fn to_source(
    mut up: Streaming<RelayUp>,
    source: mpsc::Sender<Result<AttachDown, Status>>,
    passed: &Passed<'_>,
) -> Result<(), Status> {
    while let Some(message) = up.message().await? {
        let data = match message.message {
            Some(relay_up::Message::Data(data)) => checked(data)?,
            _ => return Err(FieldError::new("data", "must follow").into()),
        };
        let length = data.len();
        let message = AttachDown {
            message: Some(attach_down::Message::Data(data)),
        };
        // Waits for the other side, so the transport's flow control slows this one down.
        if source.send(Ok(message)).await.is_err() {
            break;
        }
        passed.add(length);
    }
    Ok(())
}

async fn to_caller(
    mut up: Streaming<AttachUp>,
    caller: &ToCaller,
    passed: &Passed<'_>,
    source: &HostName,
) -> Result<(), Status> {
    let lost = |error: Status| {
        tracing::debug!(%error, "the stream of a host that is copied from ended");
        status::agent_away(format!(
            "the connection of host {source} to the coordinator was lost"
        ))
    };
    while let Some(message) = up.message().await.map_err(lost)? {
        let data = match message.message {
            Some(attach_up::Message::Data(data)) => checked(data)?,
            // An agent that does not know what a relay is says that it was asked for nothing.
            Some(attach_up::Message::Error(why)) => {
                return Err(Status::failed_precondition(format!(
                    "host {source} takes no connection through the coordinator (its agent may be of a version before): {why}"
                )));
            }
            _ => return Err(Status::internal("the other host sent no bytes")),
        };
        let length = data.len();
        if caller.send(Ok(RelayDown { data })).await.is_err() {
            break;
        }
        passed.add(length);
    }
    Ok(())
}

fn checked(data: Bytes) -> Result<Bytes, Status> {
    if data.len() > CHUNK {
        return Err(FieldError::new("data", format!("at most {CHUNK} bytes at once")).into());
    }
    Ok(data)
}

/// Returns when nothing may pass any more, or nothing does.
async fn until_over(of: &Relays, fetching: &Fetching, passed: &Passed<'_>) -> Status {
    let mut looks = interval(LOOK_EVERY);
    let (mut counted, mut idle) = (0, Duration::ZERO);
    loop {
        looks.tick().await;
        if !of.may(fetching) {
            return refused();
        }
        let now = passed.so_far();
        idle = if now == counted {
            idle + LOOK_EVERY
        } else {
            Duration::ZERO
        };
        if idle > IDLE {
            return Status::deadline_exceeded(format!("nothing passed for {} s", IDLE.as_secs()));
        }
        counted = now;
    }
}
