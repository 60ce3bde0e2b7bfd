//! The writer's loop. While one group of commands is being stored, the next is already carried out on top of it: neither the disk nor
//! the processor waits for the other. Others see a state, and get answers, only once it is stored.
//!
//! Agents' commands are taken first, then a share of operators': neither can starve the other, and a report waits for two commits at
//! most.
//! Not here: what a command does (isyone_fleet::change) and how it is stored (store).

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

/// Operators' commands stored in one transaction at most: bounds the time of one commit.
pub const GROUP: usize = 512;
/// Agents' commands in one group at most. Nearly all of them store nothing.
const AGENTS: usize = 1_024;
/// Operators' commands carried out between two looks at what agents have sent and whether the disk is ready: some milliseconds.
const SHARE: usize = 64;
/// How often time passes for the core.
pub const TICK: Duration = Duration::from_secs(1);

/// The two queues that commands come from.
pub(super) struct Queues {
    /// Reports, greetings, answers to plans, renewals.
    pub(super) agents: mpsc::Receiver<Envelope>,
    /// Everything else: operators and loops of ours.
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

/// Commands that are stored together.
#[derive(Default)]
struct Group {
    effects: Effects,
    answers: Vec<Answer>,
    agents: usize,
    operators: usize,
}

/// A group on its way to the disk, with the state that it makes.
struct Stored {
    store: Box<dyn Store>,
    group: Group,
    state: State,
    result: Result<(), StoreError>,
}

pub(super) struct Writer {
    /// With everything that was carried out.
    pub(super) state: State,
    /// Without the group that is being gathered.
    pub(super) base: State,
    /// `None` while a group is being stored.
    pub(super) store: Option<Box<dyn Store>>,
    pub(super) settings: Arc<Settings>,
    pub(super) source: Box<dyn Source>,
    /// What is stored, for everybody to read.
    pub(super) snapshot: Arc<ArcSwap<State>>,
    pub(super) publish: watch::Sender<u64>,
    pub(super) signals: Arc<HostSignals>,
    pub(super) timings: Timings,
    pub(super) traces: Arc<Traces>,
    gathered: Group,
    storing: Option<JoinHandle<Stored>>,
}

/// What others share with the writer.
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

/// As many as are there, up to `most`.
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

    /// Runs until `stop` is cancelled (or everybody is gone) and what was accepted is stored.
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
                    // The store panicked: what is on the disk is not known. The process ends, and starts again from there.
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

    /// A command was refused after it had changed something, which none does (tests: `indexes_are_what_records_make_them`). If one did,
    /// everything that is not on its way to the disk yet is taken back.
    fn throw_away(&mut self) {
        tracing::error!("a refused command had changed the state: its group is taken back");
        self.state = self.base.clone();
        for answer in mem::take(&mut self.gathered).answers {
            answer.not_stored("another change of the same group failed");
        }
    }

    /// Sends what is gathered to the disk, if that is free.
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
        // It is here whenever nothing is being stored.
        let Some(mut store) = self.store.take() else {
            return;
        };
        let took = self.timings.commit.clone();
        self.storing = Some(tokio::spawn(async move {
            // One commit is part of every trace that waits for it.
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
        // What was carried out since stands on what was not stored.
        let since = mem::take(&mut self.gathered).answers;
        let commands = group.answers.len() + since.len();
        tracing::error!(%error, commands, "commit failed; the changes are not made");
        self.state = (**self.snapshot.load()).clone();
        self.base = self.state.clone();
        for answer in group.answers.into_iter().chain(since) {
            answer.not_stored(&error.to_string());
        }
    }

    /// A stored group: everybody sees its state, then its commands are answered.
    fn announce(&mut self, group: Group, state: State) {
        for answer in &group.answers {
            if let Ok(outcome) = &answer.result {
                // Before anybody sees the snapshot: the plan that goes out next carries the operation's place.
                self.traces.begin(&answer.span, outcome);
            }
        }
        self.traces.end(&group.effects.writes);
        let snapshot = self.timings.snapshot.clone();
        timed(&snapshot, || self.publish(&group.effects, state));
        for answer in group.answers {
            // Nobody waiting any more is no error: the change is made.
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
