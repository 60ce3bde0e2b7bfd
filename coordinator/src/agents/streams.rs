//! Rendezvous with agents: which hosts have a session, and the streams that agents open on request (logs, exec).
//!
//! `open` sends an OpenStream with a random id through the host's session and waits for the Attach that presents it. An
//! id is single-use, valid for [`RENDEZVOUS`], and only for the host that we asked.
//! Not here: what a stream carries (operators/exec), what a session says (session).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use isyone_proto::{
    ids::HostName,
    pb::agent::v1::{
        AttachDown, AttachUp, CoordinatorMessage, OpenStream, coordinator_message,
        open_stream::Target,
    },
};
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::{
    base::{
        metrics::{Families, number},
        secrets,
    },
    wire::status,
};

/// How long an agent has to open the stream it was asked for.
pub const RENDEZVOUS: Duration = Duration::from_secs(10);
/// Streams that may wait for their agents at once. Each is one operator's click, so this is far above real use.
const MAX_WAITING: usize = 1_000;
/// Messages queued for the agent on one stream.
pub const DOWN_QUEUE: usize = 16;

/// A message to an agent. Boxed: even an empty queue allocates room for 32 of them, in each of thousands of sessions.
pub type Outgoing = Box<Result<CoordinatorMessage, Status>>;

/// How to reach a session.
#[derive(Debug, Clone)]
pub struct SessionHandle {
    number: u64,
    /// To the agent.
    pub messages: mpsc::Sender<Outgoing>,
    /// Ends the session.
    pub end: CancellationToken,
}

/// Both directions of a stream that an agent opened.
#[derive(Debug)]
pub struct Bridge {
    /// From the agent.
    pub up: Streaming<AttachUp>,
    /// To the agent.
    pub down: mpsc::Sender<Result<AttachDown, Status>>,
}

/// The open sessions, and the streams that we asked for and that are not open yet.
#[derive(Debug, Default)]
pub struct Streams {
    sessions: Mutex<HashMap<HostName, SessionHandle>>,
    waiting: Mutex<HashMap<String, (HostName, oneshot::Sender<Bridge>)>>,
    next: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding these locks; the maps are consistent in any case.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A session's entry in the table; removed on drop, unless a newer session has replaced it.
#[derive(Debug)]
pub struct SessionGuard {
    host: HostName,
    number: u64,
    of: Arc<Streams>,
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        let mut sessions = lock(&self.of.sessions);
        if sessions
            .get(&self.host)
            .is_some_and(|s| s.number == self.number)
        {
            sessions.remove(&self.host);
        }
    }
}

/// Removes a stream's id when nobody waits for it any more.
struct WaitingGuard<'a> {
    id: String,
    of: &'a Streams,
}

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        lock(&self.of.waiting).remove(&self.id);
    }
}

impl Streams {
    /// Registers a host's session; ends an earlier one of the same host.
    pub fn enter(
        self: &Arc<Self>,
        host: &HostName,
        messages: mpsc::Sender<Outgoing>,
        end: CancellationToken,
    ) -> SessionGuard {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let handle = SessionHandle {
            number,
            messages,
            end,
        };
        if let Some(before) = lock(&self.sessions).insert(host.clone(), handle) {
            before.end.cancel();
        }
        SessionGuard {
            host: host.clone(),
            number,
            of: self.clone(),
        }
    }

    /// How many hosts have a session.
    pub fn sessions(&self) -> usize {
        lock(&self.sessions).len()
    }

    /// Whether a host has a session.
    pub fn is_connected(&self, host: &HostName) -> bool {
        lock(&self.sessions).contains_key(host)
    }

    /// Asks the host's agent to open a stream, and waits for it.
    pub async fn open(&self, host: &HostName, target: Target) -> Result<Bridge, Status> {
        let away = || status::agent_away(format!("the agent of host `{host}` is not connected"));
        let session = lock(&self.sessions).get(host).cloned().ok_or_else(away)?;
        let id = secrets::random_hex(16);
        let (answer, opened) = oneshot::channel();
        {
            let mut waiting = lock(&self.waiting);
            if waiting.len() >= MAX_WAITING {
                return Err(Status::resource_exhausted(
                    "too many streams are being opened; try again in a moment",
                ));
            }
            waiting.insert(id.clone(), (host.clone(), answer));
        }
        let _guard = WaitingGuard {
            id: id.clone(),
            of: self,
        };
        let message = OpenStream {
            stream_id: id,
            target: Some(target),
        };
        let message = CoordinatorMessage {
            message: Some(coordinator_message::Message::OpenStream(message)),
        };
        // When the queue is full, the agent is not reading and would not open a stream either.
        session
            .messages
            .try_send(Box::new(Ok(message)))
            .map_err(|_| away())?;
        match tokio::time::timeout(RENDEZVOUS, opened).await {
            Ok(Ok(bridge)) => Ok(bridge),
            Ok(Err(_)) | Err(_) => {
                let seconds = RENDEZVOUS.as_secs();
                Err(status::agent_away(format!(
                    "the agent of host `{host}` opened no stream within {seconds} s"
                )))
            }
        }
    }

    /// Matches a stream that an agent opened to the caller that waits for its id.
    pub fn attach(&self, host: &HostName, id: &str, bridge: Bridge) -> Result<(), Status> {
        let unknown = || {
            status::not_found(
                "STREAM_NOT_FOUND",
                "nobody waits for this stream (any more)".to_owned(),
            )
        };
        let answer = {
            let mut waiting = lock(&self.waiting);
            match waiting.get(id) {
                Some((asked, _)) if asked == host => waiting.remove(id).map(|(_, answer)| answer),
                // Another host's id: treat it as unknown, and keep it valid for the right host.
                Some(_) | None => None,
            }
        };
        answer
            .ok_or_else(unknown)?
            .send(bridge)
            .map_err(|_| unknown())
    }
}

impl Collector for Streams {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        Families(encoder).gauge(
            "agent_sessions",
            "Agents connected",
            None,
            number(self.sessions()),
        )
    }
}
