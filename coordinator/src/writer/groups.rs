//! The writer's loop. While one group of commands is being stored, it carries out the next on top of it, so neither
//! disk nor CPU waits for the other. Others see a state, and get answers, only once it is stored.
//!
//! It takes agents' commands first, then a share of operators': neither can starve the other, and a report waits for at
//! most two commits.
//! Not here: what a command does (isyone_fleet::change), how it is stored (store).

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use isyone_fleet::{
    change::{self, ChangeError, Command, Effects, Outcome, Stamp},
    settings::Settings,
    state::State,
};
use isyone_telemetry::{child_span, tracing::Span};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinError, JoinHandle},
};
use tokio_util::sync::CancellationToken;

use super::{Envelope, HostSignals, Source, SubmitError};
use crate::{
    base::timings::{Timings, observe, timed},
    writer::{
        store::{Store, StoreError},
        traces::Traces,
    },
};

/// Most operators' commands in one transaction, which bounds the time of a commit.
pub const GROUP: usize = 512;
/// Most agents' commands in one group. Nearly all of them store nothing.
const AGENTS: usize = 1_024;
/// Operators' commands to carry out before looking again at agents' commands and the disk: some milliseconds.
const SHARE: usize = 64;
/// How often the core gets a tick.
pub const TICK: Duration = Duration::from_secs(1);

/// The two queues of commands.
pub(super) struct Queues {
    /// Reports, greetings, answers to plans, renewals.
    pub(super) agents: mpsc::Receiver<Envelope>,
    /// Everything else: operators, and our own loops.
    pub(super) operators: mpsc::Receiver<Envelope>,
}

struct Answer {
    to: oneshot::Sender<Result<Outcome, SubmitError>>,
    result: Result<Outcome, ChangeError>,
    span: Span,
}

impl Answer {
    fn not_stored(self, why: &str) {
        let _ = self.to.send(Err(SubmitError::NotStored(why.to_owned())));
    }
}

/// Commands to be stored together.
#[derive(Default)]
struct Group {
    effects: Effects,
    answers: Vec<Answer>,
    agents: usize,
    operators: usize,
}

/// A group that has been through the store, with the state that it produces.
struct Stored {
    store: Box<dyn Store>,
    group: Group,
    state: State,
    result: Result<(), StoreError>,
}

pub(super) struct Writer {
    /// Includes everything that was carried out.
    pub(super) state: State,
    /// Excludes the group that is being gathered.
    pub(super) base: State,
    /// `None` while a group is being stored.
    pub(super) store: Option<Box<dyn Store>>,
    pub(super) settings: Arc<Settings>,
    pub(super) source: Box<dyn Source>,
    /// The stored state, for everybody to read.
    pub(super) snapshot: Arc<ArcSwap<State>>,
    pub(super) publish: watch::Sender<u64>,
    pub(super) signals: Arc<HostSignals>,
    pub(super) timings: Timings,
    pub(super) traces: Arc<Traces>,
    gathered: Group,
    storing: Option<JoinHandle<Stored>>,
}

/// What the writer shares with others.
pub(super) struct Shared {
    pub(super) settings: Arc<Settings>,
    pub(super) snapshot: Arc<ArcSwap<State>>,
    pub(super) publish: watch::Sender<u64>,
    pub(super) signals: Arc<HostSignals>,
    pub(super) timings: Timings,
    pub(super) traces: Arc<Traces>,
}

async fn stored(storing: &mut Option<JoinHandle<Stored>>) -> Result<Stored, JoinError> {
    match storing {
        Some(task) => {
            let stored = task.await;
            *storing = None;
            stored
        }
        None => std::future::pending().await,
    }
}

/// Takes what is queued, up to `most`.
fn take_up_to(from: &mut mpsc::Receiver<Envelope>, into: &mut Vec<Envelope>, most: usize) {
    while into.len() < most
        && let Ok(envelope) = from.try_recv()
    {
        into.push(envelope);
    }
}

impl Writer {
    pub(super) fn new(
        state: State,
        store: Box<dyn Store>,
        source: Box<dyn Source>,
        shared: Shared,
    ) -> Self {
        let Shared {
            settings,
            snapshot,
            publish,
            signals,
            timings,
            traces,
        } = shared;
        Self {
            base: state.clone(),
            state,
            store: Some(store),
            settings,
            source,
            snapshot,
            publish,
            signals,
            timings,
            traces,
            gathered: Group::default(),
            storing: None,
        }
    }

    /// Runs until `stop` is cancelled (or all senders are gone) and everything accepted is stored.
    pub(super) async fn run(mut self, mut queues: Queues, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut agents, mut operators) = (Vec::with_capacity(AGENTS), Vec::with_capacity(SHARE));
        let (mut agents_left, mut operators_left) = (true, true);
        loop {
            self.launch();
            if !agents_left && !operators_left && self.storing.is_none() {
                return;
            }
            let room = AGENTS.saturating_sub(self.gathered.agents);
            let share = GROUP.saturating_sub(self.gathered.operators).min(SHARE);
            tokio::select! {
                biased;
                stored = stored(&mut self.storing) => match stored {
                    Ok(stored) => self.finish(stored),
                    // The store panicked, so the disk's content is unknown. The process exits, and starts again from
                    // there.
                    Err(error) => return tracing::error!(%error, "storing has failed"),
                },
                first = queues.agents.recv(), if agents_left && room > 0 => match first {
                    Some(first) => agents.push(first),
                    None => agents_left = false,
                },
                _ = ticks.tick() => self.tick(),
                first = queues.operators.recv(), if operators_left && share > 0 => match first {
                    Some(first) => operators.push(first),
                    None => operators_left = false,
                },
                () = stop.cancelled(), if !queues.operators.is_closed() => {
                    queues.agents.close();
                    queues.operators.close();
                }
            }
            take_up_to(&mut queues.agents, &mut agents, room);
            take_up_to(&mut queues.operators, &mut operators, share);
            self.gathered.agents += agents.len();
            self.gathered.operators += operators.len();
            for envelope in agents.drain(..).chain(operators.drain(..)) {
                self.carry_out(envelope);
            }
        }
    }

    pub(super) fn stamp(&mut self, actor: String) -> Stamp {
        Stamp {
            now: self.source.now(),
            id: self.source.id(),
            actor,
        }
    }

    fn tick(&mut self) {
        self.carry_out(Envelope::new("coordinator".to_owned(), Command::Tick).0);
    }

    fn carry_out(&mut self, envelope: Envelope) {
        observe(&self.timings.queue_wait, envelope.queued.elapsed());
        drop(envelope.waiting);
        let stamp = self.stamp(envelope.actor);
        let effects = &mut self.gathered.effects;
        let before = effects.writes.len();
        let result = child_span!(&envelope.span, "apply").in_scope(|| {
            timed(&self.timings.apply, || {
                change::apply(
                    &mut self.state,
                    &self.settings,
                    &stamp,
                    effects,
                    envelope.command,
                )
            })
        });
        let half_changed = result.is_err() && effects.writes.len() != before;
        self.gathered.answers.push(Answer {
            to: envelope.answer,
            result,
            span: envelope.span,
        });
        if half_changed {
            self.throw_away();
        }
    }

    /// Handles a command that was refused after it had changed something. None does that (tests:
    /// `indexes_are_what_records_make_them`); if one did, this takes back everything that is not on its way to the disk
    /// yet.
    fn throw_away(&mut self) {
        tracing::error!("a refused command had changed the state: its group is taken back");
        self.state = self.base.clone();
        for answer in mem::take(&mut self.gathered).answers {
            answer.not_stored("another change of the same group failed");
        }
    }

    /// Sends the gathered group to the disk if that is idle.
    fn launch(&mut self) {
        if self.storing.is_some() || self.gathered.answers.is_empty() {
            return;
        }
        let group = mem::take(&mut self.gathered);
        self.timings.group.observe(group.answers.len() as f64);
        self.state.version += 1;
        self.base = self.state.clone();
        let state = self.state.clone();
        if group.effects.writes.is_empty() {
            return self.announce(group, state);
        }
        // Always present while nothing is being stored.
        let Some(mut store) = self.store.take() else {
            return;
        };
        let took = self.timings.commit.clone();
        self.storing = Some(tokio::spawn(async move {
            // The commit is part of every trace that waits for it.
            let (writes, commands) = (group.effects.writes.len(), group.answers.len());
            let span = |a: &Answer| child_span!(&a.span, "commit", writes, group = commands);
            let spans: Vec<Span> = group.answers.iter().map(span).collect();
            let began = Instant::now();
            let result = store.commit(&group.effects.writes).await;
            observe(&took, began.elapsed());
            drop(spans);
            Stored {
                store,
                group,
                state,
                result,
            }
        }));
    }

    fn finish(&mut self, stored: Stored) {
        let Stored {
            store,
            group,
            state,
            result,
        } = stored;
        self.store = Some(store);
        let Err(error) = result else {
            return self.announce(group, state);
        };
        // Commands carried out since then build on a state that was not stored.
        let since = mem::take(&mut self.gathered).answers;
        let commands = group.answers.len() + since.len();
        tracing::error!(%error, commands, "commit failed; the changes are not made");
        self.state = (**self.snapshot.load()).clone();
        self.base = self.state.clone();
        for answer in group.answers.into_iter().chain(since) {
            answer.not_stored(&error.to_string());
        }
    }

    /// Publishes a stored group's state, then answers its commands.
    fn announce(&mut self, group: Group, state: State) {
        for answer in &group.answers {
            if let Ok(outcome) = &answer.result {
                // Before publishing the snapshot, so that the next plan carries the operation's place in its trace.
                self.traces.begin(&answer.span, outcome);
            }
        }
        self.traces.end(&group.effects.writes);
        let snapshot = self.timings.snapshot.clone();
        timed(&snapshot, || self.publish(&group.effects, state));
        for answer in group.answers {
            // If nobody waits any more, that is no error: the change is made.
            let _ = answer.to.send(answer.result.map_err(SubmitError::Refused));
        }
    }

    pub(super) fn publish(&mut self, effects: &Effects, state: State) {
        let version = state.version;
        self.snapshot.store(Arc::new(state));
        for host in &effects.touched_hosts {
            self.signals.wake(host);
        }
        let _ = self.publish.send(version);
    }
}
