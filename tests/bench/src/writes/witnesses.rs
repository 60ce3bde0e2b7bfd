//! Clients that stay while the coordinator is overloaded: agents with their sessions, one operator who calls now and
//! then, and a sampler of the coordinator's memory.
//!
//! They have their own thread and runtime: on the crowd's they would wait for the crowd, and that time would count as
//! the coordinator's. The agents accept their plans and report; they run nothing. Not here: the crowd, and the names of
//! the figures (overload).

use std::{
    collections::VecDeque,
    sync::mpsc as std_mpsc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use isyone_proto::pb::agent::v1::{
    AgentMessage, CoordinatorMessage, PlanResult, agent_message,
    agent_service_client::AgentServiceClient, coordinator_message::Message,
};
use isyone_proto::pb::v1::tenant_service_client::TenantServiceClient;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::{
    coordinator::{self, Door},
    overload::{Answer, create},
};
use crate::{process::Watched, samples::Samples};

/// Report interval of an agent: twenty times as often as a real one at rest.
const REPORT_EVERY: Duration = Duration::from_millis(250);
/// Interval between the operator's calls.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// Interval between samples of the memory.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// For the first acknowledgements, and for the last ones.
const PATIENCE: Duration = Duration::from_secs(30);
/// Messages of an agent waiting to be sent, as in a real one.
const OUTBOX: usize = 16;

/// Start and duration of an event.
type Timed = (Instant, Duration);

#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Reports, until their acknowledgement.
    acknowledged: Vec<Timed>,
    /// The same without the time spent behind the agent's own earlier reports: those of a session are handled in order.
    turns: Vec<Timed>,
    /// Errors of agents' sessions that should not have ended.
    pub(super) ended: Vec<String>,
    /// The operator's creates that succeeded.
    created: Vec<Timed>,
    /// The operator's creates that were refused because of load.
    refused: Vec<Timed>,
    /// The tenants that the operator has created.
    pub(super) names: Vec<String>,
    /// The coordinator's resident memory, bytes.
    resident: Vec<(Instant, u64)>,
}

/// Durations, in seconds, of the events that began between two moments.
fn between(all: &[Timed], from: Instant, to: Instant) -> Samples {
    all.iter()
        .filter(|(at, _)| (from..to).contains(at))
        .map(|(_, took)| took.as_secs_f64())
        .collect()
}

impl Seen {
    pub(super) fn acknowledged(&self, from: Instant, to: Instant) -> Samples {
        between(&self.acknowledged, from, to)
    }

    pub(super) fn turns(&self, from: Instant, to: Instant) -> Samples {
        between(&self.turns, from, to)
    }

    pub(super) fn created(&self, from: Instant, to: Instant) -> Samples {
        between(&self.created, from, to)
    }

    pub(super) fn refused(&self, from: Instant, to: Instant) -> Samples {
        between(&self.refused, from, to)
    }

    /// Resident memory at a moment.
    pub(super) fn resident_at(&self, moment: Instant) -> Result<f64> {
        let last = self.resident.iter().rfind(|(at, _)| *at <= moment);
        last.map(|(_, bytes)| *bytes as f64)
            .context("the memory was not looked at before")
    }

    /// The largest resident memory between two moments.
    pub(super) fn peak(&self, from: Instant, to: Instant) -> Result<f64> {
        let during = self
            .resident
            .iter()
            .filter(|(at, _)| (from..=to).contains(at));
        during
            .map(|(_, bytes)| *bytes as f64)
            .reduce(f64::max)
            .context("the memory was not looked at")
    }
}

pub(super) struct Witnesses {
    thread: JoinHandle<Result<Seen>>,
    stop: CancellationToken,
}

impl Witnesses {
    /// Starts the witnesses; returns once the first report of each agent is acknowledged.
    pub(super) fn start(agents: Vec<Door>, operator: Door, memory: Watched) -> Result<Self> {
        let stop = CancellationToken::new();
        let (count, (ready, readies)) = (agents.len(), std_mpsc::sync_channel(agents.len()));
        let mine = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(witness(agents, &operator, memory, &ready, &mine))
        });
        let witnesses = Self { thread, stop };
        for _ in 0..count {
            if readies.recv_timeout(PATIENCE).is_err() {
                let why = witnesses.end().map(|seen| seen.ended);
                bail!("not every agent was acknowledged: {why:?}");
            }
        }
        Ok(witnesses)
    }

    /// Ends the sessions and returns what was seen.
    pub(super) fn end(self) -> Result<Seen> {
        self.stop.cancel();
        self.thread
            .join()
            .map_err(|_| anyhow!("the witnesses' thread panicked"))?
    }
}

async fn witness(
    agents: Vec<Door>,
    operator: &Door,
    memory: Watched,
    ready: &std_mpsc::SyncSender<()>,
    stop: &CancellationToken,
) -> Result<Seen> {
    let agents: Vec<_> = agents
        .into_iter()
        .map(|door| tokio::spawn(Agent::default().run(door, ready.clone(), stop.clone())))
        .collect();
    let looking = tokio::spawn(look(memory, stop.clone()));
    let mut seen = Seen::default();
    ask(operator, &mut seen, stop)
        .await
        .context("the operator among the witnesses")?;
    seen.resident = looking.await??;
    for agent in agents {
        let (agent, ended) = agent.await?;
        seen.acknowledged.extend(agent.acknowledged);
        seen.turns.extend(agent.turns);
        seen.ended
            .extend(ended.err().map(|error| format!("{error:#}")));
    }
    Ok(seen)
}

async fn look(memory: Watched, stop: CancellationToken) -> Result<Vec<(Instant, u64)>> {
    let (mut every, mut looks) = (interval(LOOK_EVERY), Vec::new());
    while stop.run_until_cancelled(every.tick()).await.is_some() {
        looks.push((Instant::now(), memory.resident()?));
    }
    looks.push((Instant::now(), memory.resident()?));
    Ok(looks)
}

/// One call after another, with pauses: an operator who knows nothing of the crowd.
async fn ask(operator: &Door, seen: &mut Seen, stop: &CancellationToken) -> Result<()> {
    let mut client = TenantServiceClient::new(operator.open().await?);
    let mut every = interval(ASK_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for n in 0_u64.. {
        if stop.run_until_cancelled(every.tick()).await.is_none() {
            break;
        }
        let (name, at) = (format!("witness-{n}"), Instant::now());
        match timeout(PATIENCE, create(&mut client, name.clone()))
            .await
            .context("no answer")??
        {
            Answer::Created => {
                seen.created.push((at, at.elapsed()));
                seen.names.push(name);
            }
            Answer::Refused(_) => seen.refused.push((at, at.elapsed())),
        }
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Agent {
    sequence: u64,
    /// Reports waiting for acknowledgement.
    owed: VecDeque<(u64, Instant)>,
    acknowledged: Vec<Timed>,
    /// The same, but from the previous acknowledgement if that came later.
    turns: Vec<Timed>,
    heard_at: Option<Instant>,
}

impl Agent {
    /// Returns the agent itself, and whether the session lasted.
    async fn run(
        mut self,
        door: Door,
        ready: std_mpsc::SyncSender<()>,
        stop: CancellationToken,
    ) -> (Self, Result<()>) {
        let ended = self.session(&door, ready, &stop).await;
        (self, ended)
    }

    async fn session(
        &mut self,
        door: &Door,
        ready: std_mpsc::SyncSender<()>,
        stop: &CancellationToken,
    ) -> Result<()> {
        let (up, messages) = mpsc::channel(OUTBOX);
        up.send(coordinator::greeting()).await?;
        let mut client = AgentServiceClient::new(door.channel()?);
        let mut down = client
            .session(ReceiverStream::new(messages))
            .await?
            .into_inner();
        let mut every = interval(REPORT_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ready = Some(ready);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = every.tick() => self.report(&up).await?,
                heard = down.message() => self.hear(heard?, &up).await?,
            }
            if !self.acknowledged.is_empty()
                && let Some(ready) = ready.take()
            {
                ready.try_send(()).context("nobody waits for us")?;
            }
        }
        timeout(PATIENCE, self.wait_for_the_last(&mut down, &up))
            .await
            .context("not acknowledged")?
    }

    async fn wait_for_the_last(
        &mut self,
        down: &mut Streaming<CoordinatorMessage>,
        up: &mpsc::Sender<AgentMessage>,
    ) -> Result<()> {
        while !self.owed.is_empty() {
            self.hear(down.message().await?, up).await?;
        }
        Ok(())
    }

    /// Timed from before the report enters the outbox: waiting there counts too when the agent is slowed down.
    async fn report(&mut self, up: &mpsc::Sender<AgentMessage>) -> Result<()> {
        self.sequence += 1;
        self.owed.push_back((self.sequence, Instant::now()));
        up.send(coordinator::word(self.sequence, self.sequence == 1))
            .await
            .context("the session ended")
    }

    async fn hear(
        &mut self,
        heard: Option<CoordinatorMessage>,
        up: &mpsc::Sender<AgentMessage>,
    ) -> Result<()> {
        match heard.context("the session ended")?.message {
            // A later acknowledgement covers the reports before it.
            Some(Message::ReportAck(ack)) => {
                ensure!(
                    ack.sequence <= self.sequence,
                    "report {} was never sent",
                    ack.sequence
                );
                let before = self.heard_at.replace(Instant::now());
                while let Some((_, at)) = self.owed.pop_front_if(|(of, _)| *of <= ack.sequence) {
                    self.acknowledged.push((at, at.elapsed()));
                    self.turns
                        .push((at, before.map_or(at, |before| before.max(at)).elapsed()));
                }
            }
            Some(Message::Plan(plan)) if !plan.more => {
                let taken = PlanResult {
                    generation: plan.generation,
                    ..PlanResult::default()
                };
                let message = Some(agent_message::Message::PlanResult(taken));
                up.send(AgentMessage { message })
                    .await
                    .context("the session ended")?;
            }
            _ => {}
        }
        Ok(())
    }
}
