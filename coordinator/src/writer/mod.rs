//! The single writer: takes commands one at a time from two bounded queues (agents' and operators'), carries them out
//! in groups, stores each group in one transaction, publishes a new snapshot, and only then answers.
//!
//! There is no lock around the state, and no other way to change it.
//! Not here: what a command does (isyone_fleet::change), how groups form (groups), what follows a commit whose answer was
//! lost (recovery), how many calls may wait
//! (operators/gate).

pub(crate) mod collector;
mod groups;
pub mod recovery;
pub mod store;
pub mod traces;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use isyone_fleet::{
    change::{self, ChangeError, Command, Effects, Outcome, Stamp},
    settings::Settings,
    state::State,
};
use isyone_proto::ids::HostName;
use isyone_telemetry::{child_span, tracing::Span};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::groups::{GROUP, TICK};
use self::{
    groups::{Queues, Shared, Writer},
    store::{Store, StoreError, TERM},
    traces::Traces,
};
use crate::base::{clock, timings::Timings};

/// Most operators' commands waiting: a quarter of a second's work with a fast disk. A full queue refuses at once.
pub const OPERATOR_QUEUE: usize = 1_024;
/// Most agents' commands waiting. Each agent waits for an answer before it sends more, so a full queue only slows
/// reports down: none is lost or refused.
pub const AGENT_QUEUE: usize = 1_024;

/// The shortest retry hint after a refusal under load.
const RETRY_LEAST: Duration = Duration::from_millis(100);
/// The longest retry hint: an operator's program should not sleep past the end of a rush.
const RETRY_MOST: Duration = Duration::from_secs(5);
/// What each waiting command adds to the hint: a slow disk stores a thousand a second.
const RETRY_EACH: Duration = Duration::from_millis(1);

/// When to retry if this many are waiting.
pub fn retry_after(waiting: usize) -> Duration {
    let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
    RETRY_EACH
        .saturating_mul(waiting)
        .saturating_add(RETRY_LEAST)
        .min(RETRY_MOST)
}

/// Time and randomness for the writer, supplied from outside.
pub trait Source: Send + 'static {
    /// Milliseconds since the Unix epoch.
    fn now(&mut self) -> i64;
    /// As [`Stamp::steady`].
    fn steady(&mut self) -> i64 {
        clock::steady_ms()
    }
    /// A fresh UUIDv7.
    fn id(&mut self) -> Uuid;
}

/// Real time and randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemSource;

impl Source for SystemSource {
    fn now(&mut self) -> i64 {
        clock::now_ms()
    }
    fn id(&mut self) -> uuid::Uuid {
        uuid::Uuid::now_v7()
    }
}

/// Why a command has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The core refused it; nothing changed.
    #[error(transparent)]
    Refused(#[from] ChangeError),
    /// The queue is full; nothing changed. Try again after this long.
    #[error("the coordinator is overloaded; try again in a moment")]
    Overloaded(Duration),
    /// The store failed; nothing changed.
    #[error("the change could not be stored, so it was not made: {0}")]
    NotStored(String),
    /// The store lost the answer and could not be read again, or the coordinator ended before it answered. The change is
    /// made or not; whoever starts next reads which.
    #[error(
        "it is not known whether the change was made ({0}); look, or ask again with the same request id"
    )]
    Unknown(String),
    /// The coordinator is stopping; nothing changed.
    #[error("the coordinator is stopping")]
    Stopping,
}

struct Envelope {
    actor: String,
    command: Command,
    answer: oneshot::Sender<Result<Outcome, SubmitError>>,
    queued: Instant,
    /// Part of the caller's trace, if any; ends with the answer.
    span: Span,
    /// The time in the queue, as part of `span`.
    waiting: Span,
}

impl Envelope {
    fn new(
        actor: String,
        command: Command,
    ) -> (Self, oneshot::Receiver<Result<Outcome, SubmitError>>) {
        let (answer, outcome) = oneshot::channel();
        let span = traces::command(&command);
        let waiting = child_span!(&span, "queue");
        (
            Self {
                actor,
                command,
                answer,
                queued: Instant::now(),
                span,
                waiting,
            },
            outcome,
        )
    }
}

/// Waits for the writer's answer. An orderly writer answers everything that it took.
async fn answered(
    outcome: oneshot::Receiver<Result<Outcome, SubmitError>>,
) -> Result<Outcome, SubmitError> {
    let ended = "the coordinator ended before it answered";
    outcome
        .await
        .unwrap_or_else(|_| Err(SubmitError::Unknown(ended.to_owned())))
}

/// Wakes the sessions of hosts whose plan changed, and no others.
#[derive(Debug, Default)]
pub struct HostSignals {
    by_host: Mutex<BTreeMap<HostName, Arc<Notify>>>,
}

impl HostSignals {
    /// The signal of a host; exists for as long as somebody holds it.
    pub fn of(&self, host: &HostName) -> Arc<Notify> {
        let mut map = self.by_host.lock().unwrap_or_else(PoisonError::into_inner);
        map.entry(host.clone()).or_default().clone()
    }

    fn wake(&self, host: &HostName) {
        let mut map = self.by_host.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signal) = map.get(host) {
            if Arc::strong_count(signal) == 1 {
                map.remove(host);
            } else {
                signal.notify_one();
            }
        }
    }

    fn wake_all(&self) {
        let map = self.by_host.lock().unwrap_or_else(PoisonError::into_inner);
        map.values().for_each(|signal| signal.notify_one());
    }
}

/// Access to the writer for everything else.
#[derive(Clone)]
pub struct Handle {
    agents: mpsc::Sender<Envelope>,
    operators: mpsc::Sender<Envelope>,
    snapshot: Arc<ArcSwap<State>>,
    changed: watch::Receiver<u64>,
    routes_due: watch::Receiver<bool>,
    signals: Arc<HostSignals>,
    settings: Arc<Settings>,
    timings: Timings,
    traces: Arc<Traces>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle")
            .field("version", &*self.changed.borrow())
            .finish_non_exhaustive()
    }
}

impl Handle {
    /// Carries a command out; returns after it is stored. A full queue is an immediate error: for operators.
    pub async fn submit(
        &self,
        actor: impl Into<String>,
        command: Command,
    ) -> Result<Outcome, SubmitError> {
        let (envelope, outcome) = Envelope::new(actor.into(), command);
        self.operators.try_send(envelope).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => {
                SubmitError::Overloaded(retry_after(OPERATOR_QUEUE))
            }
            mpsc::error::TrySendError::Closed(_) => SubmitError::Stopping,
        })?;
        answered(outcome).await
    }

    /// Like [`Handle::submit`], but takes precedence over operators' commands, and waits for room in the queue. For
    /// agents: their reports then slow down.
    pub async fn submit_patiently(
        &self,
        actor: impl Into<String>,
        command: Command,
    ) -> Result<Outcome, SubmitError> {
        let (envelope, outcome) = Envelope::new(actor.into(), command);
        self.agents
            .send(envelope)
            .await
            .map_err(|_| SubmitError::Stopping)?;
        answered(outcome).await
    }

    /// What a command would return, computed on a copy of the newest snapshot: changes nothing and does not wait.
    pub fn rehearse(&self, stamp: &Stamp, command: Command) -> Result<Outcome, SubmitError> {
        let (mut copy, mut effects) = ((*self.snapshot()).clone(), Effects::default());
        change::heed_the_clock(&mut copy, &self.settings, stamp, &mut effects);
        Ok(change::apply(
            &mut copy,
            &self.settings,
            stamp,
            &mut effects,
            command,
        )?)
    }

    pub fn snapshot(&self) -> Arc<State> {
        self.snapshot.load_full()
    }

    /// Notified of each new snapshot (its version). Slow readers miss versions, but never the newest.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        let mut receiver = self.changed.clone();
        receiver.mark_unchanged();
        receiver
    }

    /// Whether operations wait for what edges run, in the newest snapshot. For who would otherwise look at each of
    /// thousands of snapshots in which none does.
    pub fn routes_due(&self) -> watch::Receiver<bool> {
        self.routes_due.clone()
    }

    /// Notified when a host's plan changed.
    pub fn host_signal(&self, host: &HostName) -> Arc<Notify> {
        self.signals.of(host)
    }

    /// The configuration that commands depend on.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Histograms of the writer's stages.
    pub fn timings(&self) -> &Timings {
        &self.timings
    }

    /// Traced operations.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }
}

/// Loads the Fleet and starts the writer, which ends when `stop` is cancelled and the queues are drained. It also ends,
/// and with it the process, when it can no longer know that its memory is what is stored.
pub async fn start(
    mut store: Box<dyn Store>,
    settings: Arc<Settings>,
    mut source: impl Source,
    stop: CancellationToken,
) -> Result<(Handle, JoinHandle<()>), StoreError> {
    let contents = store.load().await?;
    let mut commits = contents.commits;
    let fleet = isyone_fleet::written::fleet(contents)?;
    let mut state = State::new(fleet, source.now());
    if adopt(&mut state, &mut *store, &settings, &mut source).await? {
        commits += 1;
    }
    let snapshot = Arc::new(ArcSwap::from_pointee(state.clone()));
    let (agents, from_agents) = mpsc::channel(AGENT_QUEUE);
    let (operators, from_operators) = mpsc::channel(OPERATOR_QUEUE);
    let (publish, changed) = watch::channel(state.version);
    let (due, routes_due) = watch::channel(!state.routes_due.is_empty());
    let (signals, timings, traces) = (
        Arc::<HostSignals>::default(),
        Timings::default(),
        Arc::default(),
    );
    let handle = Handle {
        agents,
        operators,
        snapshot: snapshot.clone(),
        changed,
        routes_due,
        signals: signals.clone(),
        settings: settings.clone(),
        timings: timings.clone(),
        traces: Arc::clone(&traces),
    };
    let shared = Shared {
        settings,
        snapshot,
        publish,
        routes_due: due,
        signals,
        timings,
        traces,
    };
    let writer = Writer::new(state, (store, commits), Box::new(source), shared);
    let queues = Queues {
        agents: from_agents,
        operators: from_operators,
    };
    let task = tokio::spawn(writer.run(queues, stop));
    Ok((handle, task))
}

/// Runs before any request: plans rendered with a changed configuration need a new generation. Returns whether it stored
/// something. Whatever goes wrong here ends the start, so that the next one reads the store anew.
async fn adopt(
    state: &mut State,
    store: &mut dyn Store,
    settings: &Settings,
    source: &mut impl Source,
) -> Result<bool, StoreError> {
    let mut effects = Effects::default();
    let stamp = Stamp {
        now: source.now(),
        steady: source.steady(),
        id: source.id(),
        actor: "coordinator".to_owned(),
    };
    let outcome = change::apply(
        state,
        settings,
        &stamp,
        &mut effects,
        Command::AdoptSettings,
    );
    // It is never refused.
    if outcome.is_ok() && !effects.writes.is_empty() {
        store.commit(TERM, &effects.writes).await?;
        state.version += 1;
        return Ok(true);
    }
    Ok(false)
}

#[cfg(test)]
mod tests;
