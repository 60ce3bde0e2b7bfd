//! The writer's loop. While one group of commands is being stored, it carries out the next on top of it, so neither
//! disk nor CPU waits for the other. Others see a state, and get answers, only once it is stored.
//!
//! It takes agents' commands first, then a share of operators': neither can starve the other, and a report waits for at
//! most two commits.
//! Not here: what a command does (isyone_fleet::change), how it is stored (store), reading the store again (recovery).

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use isyone_fleet::{
    change::{self, ChangeError, Command, Effects, Outcome, Stamp},
    desired::Fleet,
    settings::Settings,
    state::State,
    written::{self, Contents},
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
        recovery::{self, LostStore},
        store::{CommitError, Store, TERM},
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

impl Queues {
    /// Takes no more commands.
    fn close(&mut self) {
        self.agents.close();
        self.operators.close();
    }

    /// A command that waits, if one does.
    fn try_next(&mut self) -> Option<Envelope> {
        let agents = self.agents.try_recv();
        agents.or_else(|_| self.operators.try_recv()).ok()
    }

    /// The next command of either; never, when both are closed and empty.
    pub(super) async fn next(&mut self) -> Envelope {
        tokio::select! {
            Some(envelope) = self.agents.recv() => envelope,
            Some(envelope) = self.operators.recv() => envelope,
            else => std::future::pending().await,
        }
    }
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

    fn unknown(self, why: &str) {
        let _ = self.to.send(Err(SubmitError::Unknown(why.to_owned())));
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
    state: Arc<State>,
    result: Result<(), CommitError>,
}

pub(super) struct Writer {
    /// Includes everything that was carried out.
    pub(super) state: State,
    /// Excludes the group that is being gathered.
    pub(super) base: Arc<State>,
    /// `None` while a group is being stored.
    pub(super) store: Option<Box<dyn Store>>,
    /// [`Contents::commits`] of the last snapshot.
    commits: u64,
    pub(super) settings: Arc<Settings>,
    pub(super) source: Box<dyn Source>,
    /// The stored state, for everybody to read.
    pub(super) snapshot: Arc<ArcSwap<State>>,
    pub(super) publish: watch::Sender<u64>,
    pub(super) routes_due: watch::Sender<bool>,
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
    pub(super) routes_due: watch::Sender<bool>,
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
        (store, commits): (Box<dyn Store>, u64),
        source: Box<dyn Source>,
        shared: Shared,
    ) -> Self {
        let Shared {
            settings,
            snapshot,
            publish,
            routes_due,
            signals,
            timings,
            traces,
        } = shared;
        Self {
            base: Arc::new(state.clone()),
            state,
            store: Some(store),
            commits,
            settings,
            source,
            snapshot,
            publish,
            routes_due,
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
                    Ok(stored) => if let Err(lost) = self.finish(stored, &mut queues).await {
                        return self.give_up(&mut queues, &lost.to_string());
                    },
                    // The store panicked, so the disk's content is unknown.
                    Err(error) => return self.give_up(&mut queues, &error.to_string()),
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
                    queues.close();
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
            steady: self.source.steady(),
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
        // What this writes stays, also if the command is refused.
        change::heed_the_clock(&mut self.state, &self.settings, &stamp, effects);
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
        self.state = (*self.base).clone();
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
        let state = Arc::new(self.state.clone());
        self.base = state.clone();
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
            let result = store.commit(TERM, &group.effects.writes).await;
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

    /// Does what follows from a commit. An error ends the writer: it can no longer tell what is stored.
    async fn finish(&mut self, stored: Stored, queues: &mut Queues) -> Result<(), LostStore> {
        let Stored {
            mut store,
            group,
            state,
            result,
        } = stored;
        let error = match result {
            Ok(()) => {
                self.store = Some(store);
                self.commits += 1;
                self.announce(group, state);
                return Ok(());
            }
            Err(error) => error,
        };
        let why = error.to_string();
        if let CommitError::Unknown(_) = error {
            tracing::error!(error = why, "reading the store again");
            let read = recovery::read_again(&mut *store, queues).await;
            self.store = Some(store);
            return self.settle(group, state, read, &why);
        }
        self.store = Some(store);
        self.take_back(group, &why);
        match error {
            CommitError::NotLeader { .. } => Err(LostStore::NotLeader(error)),
            CommitError::Refused(_) | CommitError::Unknown(_) => Ok(()),
        }
    }

    /// Nothing of the group is stored. Commands carried out since then build on it, so they are taken back, too.
    fn take_back(&mut self, group: Group, why: &str) {
        let since = mem::take(&mut self.gathered).answers;
        let commands = group.answers.len() + since.len();
        tracing::error!(
            error = why,
            commands,
            "commit failed; the changes are not made"
        );
        self.base = self.snapshot.load_full();
        self.state = (*self.base).clone();
        for answer in group.answers.into_iter().chain(since) {
            answer.not_stored(why);
        }
    }

    /// After a lost answer: goes on from what the store says now.
    fn settle(
        &mut self,
        group: Group,
        state: Arc<State>,
        read: Result<Contents, LostStore>,
        why: &str,
    ) -> Result<(), LostStore> {
        let judged = read.and_then(|read| {
            let stored = recovery::was_stored(self.commits, read.commits)?;
            Ok((stored, read.commits, written::fleet(read)?))
        });
        let (stored, commits, fleet) = match judged {
            Ok(judged) => judged,
            Err(error) => {
                group.answers.into_iter().for_each(|a| a.unknown(why));
                return Err(error);
            }
        };
        self.commits = commits;
        tracing::warn!(stored, "the store was read again");
        if !stored {
            self.take_back(group, why);
            let state = self.snapshot.load_full();
            if fleet != state.fleet {
                let state = self.adopt_stored(&state, fleet);
                self.publish(&Effects::default(), state);
                self.signals.wake_all();
            }
        } else if fleet == state.fleet {
            // What was carried out meanwhile builds on this very state.
            self.announce(group, state);
        } else {
            let state = self.adopt_stored(&state, fleet);
            self.announce(group, state);
            self.signals.wake_all();
        }
        Ok(())
    }

    /// Memory is not what is stored, which is a fault of this program. The store is right: memory gives way to it, and
    /// what was carried out on top is taken back. Returns the state to publish.
    fn adopt_stored(&mut self, state: &State, fleet: Fleet) -> Arc<State> {
        tracing::error!("memory differs from the store, which is right and is put in place");
        for answer in mem::take(&mut self.gathered).answers {
            answer.not_stored("it was made on a state that is not the stored one");
        }
        let mut state = state.clone();
        state.replace_fleet(fleet, &self.settings, self.source.now());
        state.version = self.state.version.max(state.version) + 1;
        self.state = state.clone();
        self.base = Arc::new(state);
        self.base.clone()
    }

    /// The end, when nothing more may be said or done on the strength of this memory. The process must end, too.
    fn give_up(&mut self, queues: &mut Queues, why: &str) {
        tracing::error!(
            error = why,
            "the coordinator must stop and start from the store"
        );
        for answer in mem::take(&mut self.gathered).answers {
            answer.not_stored(why);
        }
        queues.close();
        while let Some(envelope) = queues.try_next() {
            let _ = envelope.answer.send(Err(SubmitError::Stopping));
        }
    }

    /// Publishes a stored group's state, then answers its commands.
    fn announce(&mut self, group: Group, state: Arc<State>) {
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

    pub(super) fn publish(&mut self, effects: &Effects, state: Arc<State>) {
        let (version, due) = (state.version, !state.routes_due.is_empty());
        self.snapshot.store(state);
        self.routes_due
            .send_if_modified(|was| std::mem::replace(was, due) != due);
        for host in &effects.touched_hosts {
            self.signals.wake(host);
        }
        let _ = self.publish.send(version);
    }
}
