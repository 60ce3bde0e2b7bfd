//! The single writer: takes commands one at a time from two bounded queues (agents' and operators'), carries them out in groups, stores
//! each group in one transaction, publishes a new snapshot, and only then answers.
//!
//! There is no lock around the state and no second way to change it.
//! Not here: what a command does (isyone_fleet::change), how groups are made (groups), how many calls may wait (operators/gate).

pub(crate) mod collector;
mod groups;
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
    store::{Store, StoreError},
    traces::Traces,
};
use crate::base::{clock, timings::Timings};

/// Operators' commands that may wait: a quarter of a second's work for a fast disk. A full queue refuses at once.
pub const OPERATOR_QUEUE: usize = 1_024;
/// Agents' commands that may wait. Each agent waits for an answer before it says more, so a full queue only slows reports down: none is
/// lost or refused.
pub const AGENT_QUEUE: usize = 1_024;

/// The shortest hint to whoever is refused for load.
const RETRY_LEAST: Duration = Duration::from_millis(100);
/// And the longest: an operator's program should not sleep through the end of a rush.
const RETRY_MOST: Duration = Duration::from_secs(5);
/// What one waiting command adds to it: a slow disk stores a thousand in a second.
const RETRY_EACH: Duration = Duration::from_millis(1);

/// When to try again, where so many wait already.
pub fn retry_after(waiting: usize) -> Duration {
    let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
    RETRY_EACH
        .saturating_mul(waiting)
        .saturating_add(RETRY_LEAST)
        .min(RETRY_MOST)
}

/// Time and chance, given to the writer from outside.
pub trait Source: Send + 'static {
    /// Milliseconds since the Unix epoch.
    fn now(&mut self) -> i64;
    /// A fresh UUIDv7.
    fn id(&mut self) -> Uuid;
}

/// Real time and chance, for the writer.
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

/// Why a command got no outcome.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// Refused; nothing changed.
    #[error(transparent)]
    Refused(#[from] ChangeError),
    /// The queue is full; nothing changed. Try again after this long.
    #[error("the coordinator is overloaded; try again in a moment")]
    Overloaded(Duration),
    /// The store failed; nothing changed.
    #[error("the change could not be stored, so it was not made: {0}")]
    NotStored(String),
    /// The coordinator is stopping; nothing changed.
    #[error("the coordinator is stopping")]
    Stopping,
}

struct Envelope {
    actor: String,
    command: Command,
    answer: oneshot::Sender<Result<Outcome, SubmitError>>,
    queued: Instant,
    /// Part of the caller's trace, if that has one; ends with the answer.
    span: Span,
    /// Its part in the queue.
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

/// Wakes sessions whose host's plan changed, and only those.
#[derive(Debug, Default)]
pub struct HostSignals {
    by_host: Mutex<BTreeMap<HostName, Arc<Notify>>>,
}

impl HostSignals {
    /// The signal of a host; it is kept for as long as somebody holds it.
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
}

/// What everybody else has of the writer.
#[derive(Clone)]
pub struct Handle {
    agents: mpsc::Sender<Envelope>,
    operators: mpsc::Sender<Envelope>,
    snapshot: Arc<ArcSwap<State>>,
    changed: watch::Receiver<u64>,
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
    /// Has a command carried out. Answers after it is stored. A full queue is an error at once: for operators.
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
        outcome.await.unwrap_or(Err(SubmitError::Stopping))
    }

    /// As [`Handle::submit`], but taken before operators' commands, and waits for room in the queue: for agents, whose reports then
    /// slow down by themselves.
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
        outcome.await.unwrap_or(Err(SubmitError::Stopping))
    }

    /// What a command would answer, carried out on a copy of the newest snapshot: nothing is changed, nothing waits.
    pub fn rehearse(&self, stamp: &Stamp, command: Command) -> Result<Outcome, SubmitError> {
        let mut copy = (*self.snapshot()).clone();
        Ok(change::apply(
            &mut copy,
            &self.settings,
            stamp,
            &mut Effects::default(),
            command,
        )?)
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> Arc<State> {
        self.snapshot.load_full()
    }

    /// Told at each new snapshot (its version). Slow readers miss versions, never the newest.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        let mut receiver = self.changed.clone();
        receiver.mark_unchanged();
        receiver
    }

    /// Told when a host's plan changed.
    pub fn host_signal(&self, host: &HostName) -> Arc<Notify> {
        self.signals.of(host)
    }

    /// The configuration that commands are judged by.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Histograms of the writer's stages.
    pub fn timings(&self) -> &Timings {
        &self.timings
    }

    /// Operations that belong to a trace.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }
}

/// Loads the Fleet and starts the writer. It ends when `stop` is cancelled and the queues are drained.
pub async fn start(
    mut store: Box<dyn Store>,
    settings: Arc<Settings>,
    mut source: impl Source,
    stop: CancellationToken,
) -> Result<(Handle, JoinHandle<()>), StoreError> {
    let fleet = isyone_fleet::written::fleet(store.load().await?)?;
    let mut state = State::new(fleet, source.now());
    adopt(&mut state, &mut *store, &settings, &mut source).await?;
    let snapshot = Arc::new(ArcSwap::from_pointee(state.clone()));
    let (agents, from_agents) = mpsc::channel(AGENT_QUEUE);
    let (operators, from_operators) = mpsc::channel(OPERATOR_QUEUE);
    let (publish, changed) = watch::channel(state.version);
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
        signals: signals.clone(),
        settings: settings.clone(),
        timings: timings.clone(),
        traces: Arc::clone(&traces),
    };
    let shared = Shared {
        settings,
        snapshot,
        publish,
        signals,
        timings,
        traces,
    };
    let writer = Writer::new(state, store, Box::new(source), shared);
    let queues = Queues {
        agents: from_agents,
        operators: from_operators,
    };
    let task = tokio::spawn(writer.run(queues, stop));
    Ok((handle, task))
}

/// Before anybody asks: plans rendered from a changed configuration need a new generation.
async fn adopt(
    state: &mut State,
    store: &mut dyn Store,
    settings: &Settings,
    source: &mut impl Source,
) -> Result<(), StoreError> {
    let mut effects = Effects::default();
    let stamp = Stamp {
        now: source.now(),
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
    // It cannot be refused.
    if outcome.is_ok() && !effects.writes.is_empty() {
        store.commit(&effects.writes).await?;
        state.version += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
