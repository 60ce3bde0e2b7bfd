//! The single writer: takes commands one at a time from one bounded queue, applies them in groups, stores each group in one
//! transaction, publishes a new snapshot, and only then answers.
//!
//! There is no lock around the state and no second way to change it.
//! Not here: what a command does (change).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use isyone_proto::ids::HostName;
use isyone_telemetry::{child_span, tracing::Span};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinHandle,
};
use uuid::Uuid;

use crate::{
    change::{self, ChangeError, Command, Effects, Outcome, Stamp},
    settings::Settings,
    state::State,
    store::{self, Store, StoreError},
    timings::{Timings, observe, timed},
    traces::{self, Traces},
};

/// Commands that may wait. A full queue refuses operators at once and makes reports wait: neither is lost unheard.
pub const QUEUE: usize = 4_096;
/// Commands stored in one transaction at most: bounds the time of one commit.
pub const GROUP: usize = 512;
/// How often time passes for the core.
pub const TICK: Duration = Duration::from_secs(1);

/// Time and chance, given to the writer from outside.
pub trait Source: Send + 'static {
    /// Milliseconds since the Unix epoch.
    fn now(&mut self) -> i64;
    /// A fresh UUIDv7.
    fn id(&mut self) -> Uuid;
}

/// Why a command got no outcome.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// Refused; nothing changed.
    #[error(transparent)]
    Refused(#[from] ChangeError),
    /// The queue is full; nothing changed. Try again.
    #[error("the coordinator is overloaded; try again in a moment")]
    Overloaded,
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
    fn new(actor: String, command: Command) -> (Self, oneshot::Receiver<Result<Outcome, SubmitError>>) {
        let (answer, outcome) = oneshot::channel();
        let span = traces::command(&command);
        let waiting = child_span!(&span, "queue");
        (Self { actor, command, answer, queued: Instant::now(), span, waiting }, outcome)
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
    queue: mpsc::Sender<Envelope>,
    snapshot: Arc<ArcSwap<State>>,
    changed: watch::Receiver<u64>,
    signals: Arc<HostSignals>,
    settings: Arc<Settings>,
    timings: Timings,
    traces: Arc<Traces>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("version", &*self.changed.borrow()).finish_non_exhaustive()
    }
}

impl Handle {
    /// Has a command carried out. Answers after it is stored. A full queue is an error at once: for operators.
    pub async fn submit(&self, actor: impl Into<String>, command: Command) -> Result<Outcome, SubmitError> {
        let (envelope, outcome) = Envelope::new(actor.into(), command);
        self.queue.try_send(envelope).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => SubmitError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => SubmitError::Stopping,
        })?;
        outcome.await.unwrap_or(Err(SubmitError::Stopping))
    }

    /// As [`Handle::submit`], but waits for room in the queue: for agents, whose reports then slow down by themselves.
    pub async fn submit_patiently(
        &self,
        actor: impl Into<String>,
        command: Command,
    ) -> Result<Outcome, SubmitError> {
        let (envelope, outcome) = Envelope::new(actor.into(), command);
        self.queue.send(envelope).await.map_err(|_| SubmitError::Stopping)?;
        outcome.await.unwrap_or(Err(SubmitError::Stopping))
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

    /// Where time goes.
    pub fn timings(&self) -> &Timings {
        &self.timings
    }

    /// Operations that belong to a trace.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }
}

/// Loads the Fleet and starts the writer. It ends when `stop` is cancelled and the queue is drained.
pub async fn start(
    mut store: Box<dyn Store>,
    settings: Arc<Settings>,
    mut source: impl Source,
    stop: tokio_util::sync::CancellationToken,
) -> Result<(Handle, JoinHandle<()>), StoreError> {
    let fleet = store::fleet(store.load().await?)?;
    let state = State::new(fleet, source.now());
    let snapshot = Arc::new(ArcSwap::from_pointee(state.clone()));
    let (queue, commands) = mpsc::channel(QUEUE);
    let (publish, changed) = watch::channel(0);
    let signals = Arc::new(HostSignals::default());
    let handle = Handle {
        queue,
        snapshot: snapshot.clone(),
        changed,
        signals: signals.clone(),
        settings: settings.clone(),
        timings: Timings::default(),
        traces: Arc::default(),
    };
    let mut writer = Writer {
        state,
        store,
        settings,
        source: Box::new(source),
        snapshot,
        publish,
        signals,
        timings: handle.timings.clone(),
        traces: handle.traces.clone(),
    };
    // Before anybody asks: plans rendered from a changed configuration need a new generation.
    let mut first = Effects::default();
    let mut adopted = writer.state.clone();
    let stamp = writer.stamp("coordinator".to_owned());
    let outcome = change::apply(&mut adopted, &writer.settings, &stamp, &mut first, Command::AdoptSettings);
    if outcome.is_ok() && !first.writes.is_empty() {
        writer.store.commit(&first.writes).await?;
        writer.state = adopted;
        writer.publish(&first);
    }
    let task = tokio::spawn(async move { writer.run(commands, stop).await });
    Ok((handle, task))
}

struct Writer {
    state: State,
    store: Box<dyn Store>,
    settings: Arc<Settings>,
    source: Box<dyn Source>,
    snapshot: Arc<ArcSwap<State>>,
    publish: watch::Sender<u64>,
    signals: Arc<HostSignals>,
    timings: Timings,
    traces: Arc<Traces>,
}

struct Answer {
    to: oneshot::Sender<Result<Outcome, SubmitError>>,
    result: Result<Outcome, ChangeError>,
    span: Span,
}

impl Writer {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Envelope>,
        stop: tokio_util::sync::CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut group = Vec::with_capacity(GROUP);
        loop {
            tokio::select! {
                n = commands.recv_many(&mut group, GROUP) => {
                    if n == 0 {
                        return;
                    }
                    self.carry_out(&mut group).await;
                }
                _ = ticks.tick() => {
                    group.push(Envelope::new("coordinator".to_owned(), Command::Tick).0);
                    self.carry_out(&mut group).await;
                }
                () = stop.cancelled(), if !commands.is_closed() => commands.close(),
            }
        }
    }

    fn stamp(&mut self, actor: String) -> Stamp {
        Stamp { now: self.source.now(), id: self.source.id(), actor }
    }

    /// One group: apply all, store once, publish once, answer all.
    async fn carry_out(&mut self, group: &mut Vec<Envelope>) {
        let before = self.state.clone();
        let mut effects = Effects::default();
        let mut answers: Vec<Answer> = Vec::with_capacity(group.len());
        self.timings.group.observe(group.len() as f64);
        for envelope in group.drain(..) {
            observe(&self.timings.queue_wait, envelope.queued.elapsed());
            drop(envelope.waiting);
            let stamp = self.stamp(envelope.actor);
            let (kept, writes) = (self.state.clone(), effects.writes.len());
            let result = child_span!(&envelope.span, "apply").in_scope(|| {
                timed(&self.timings.apply, || {
                    change::apply(&mut self.state, &self.settings, &stamp, &mut effects, envelope.command)
                })
            });
            if result.is_err() {
                self.state = kept;
                effects.writes.truncate(writes);
            }
            answers.push(Answer { to: envelope.answer, result, span: envelope.span });
        }
        if let Err(error) = self.commit(&effects, &answers).await {
            tracing::error!(%error, commands = answers.len(), "commit failed; the changes are not made");
            self.state = before;
            for answer in answers {
                let _ = answer.to.send(Err(SubmitError::NotStored(error.to_string())));
            }
            return;
        }
        for answer in &answers {
            if let Ok(outcome) = &answer.result {
                // Before anybody sees the snapshot: the plan that goes out next carries the operation's place.
                self.traces.begin(&answer.span, outcome);
            }
        }
        self.traces.end(&self.state.fleet, &effects.writes);
        let snapshot = self.timings.snapshot.clone();
        timed(&snapshot, || self.publish(&effects));
        for answer in answers {
            // Nobody waiting any more is no error: the change is made.
            let _ = answer.to.send(answer.result.map_err(SubmitError::Refused));
        }
    }

    async fn commit(&mut self, effects: &Effects, answers: &[Answer]) -> Result<(), StoreError> {
        if effects.writes.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        // One commit is part of every trace that waits for it.
        let (writes, group) = (effects.writes.len(), answers.len());
        let spans: Vec<Span> =
            answers.iter().map(|a| child_span!(&a.span, "commit", writes, group)).collect();
        let committed = self.store.commit(&effects.writes).await;
        drop(spans);
        observe(&self.timings.commit, began.elapsed());
        committed
    }

    fn publish(&mut self, effects: &Effects) {
        self.state.version += 1;
        self.snapshot.store(Arc::new(self.state.clone()));
        for host in &effects.touched_hosts {
            self.signals.wake(host);
        }
        let _ = self.publish.send(self.state.version);
    }
}

#[cfg(test)]
mod tests;
