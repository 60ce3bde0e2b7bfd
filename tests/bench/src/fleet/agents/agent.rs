//! One simulated agent: its sessions, what it reports, and how it accepts a plan.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use arc_swap::ArcSwap;
use isyone_agent::{
    base::clock::{jitter, now_ms},
    host::board::{ContainerStatus, StatusBoard, TenantStatus as TenantState},
    link::{
        comeback::Comeback,
        error::SessionError,
        report::{Reporter, Surroundings},
    },
};
use isyone_proto::report::{HostResources, Pressure, TenantProgress};
use isyone_proto::{
    ids::TenantName,
    parts::PlanAssembly,
    pb::agent::v1::{
        AgentMessage, Hello, Plan, PlanResult, agent_message,
        agent_service_client::AgentServiceClient, coordinator_message,
    },
    plan::{HostPlan, TenantPlan},
    tls,
};
use tokio::{
    sync::mpsc,
    time::{Instant, interval_at, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{
    super::{
        measured::measured,
        wire::{Line, clock_ns},
    },
    Fleet,
    counts::{Counts, Ending, While, is_closed_port},
};

/// As in the real agent.
const OUTBOX: usize = 16;
const WELCOME_TIMEOUT: Duration = Duration::from_secs(15);
const COALESCE: Duration = Duration::from_millis(100);
/// Memory of the machine: room for more tenants than it has.
const MEMORY: u64 = 64 << 30;
const DISK: u64 = 1 << 40;

pub(super) struct Agent {
    index: usize,
    fleet: Arc<Fleet>,
    config: Arc<ArcSwap<tokio_rustls::rustls::ClientConfig>>,
    all: Arc<Counts>,
    lines: mpsc::Sender<Line>,
    board: StatusBoard,
    /// Generation and digest of the plan in the ledger.
    held: (u64, String),
    /// Each tenant's restart counter, from its newest plan.
    restarts: BTreeMap<TenantName, u64>,
    /// How often the tenants were measured.
    measurements: u64,
    /// Reports waiting for acknowledgement: sequence number in this session (0: of an earlier one) and time.
    owed: Vec<(u64, Instant)>,
    /// Whether a report of this session was acknowledged.
    heard: bool,
    /// Whether this attempt met a closed port.
    closed_port: bool,
}

fn wrap(message: agent_message::Message) -> AgentMessage {
    AgentMessage {
        message: Some(message),
    }
}

fn gone() -> SessionError {
    SessionError::Ended("the session ended".to_owned())
}

impl Agent {
    pub(super) fn new(
        index: usize,
        fleet: Arc<Fleet>,
        config: Arc<ArcSwap<tokio_rustls::rustls::ClientConfig>>,
        all: Arc<Counts>,
        lines: mpsc::Sender<Line>,
    ) -> Self {
        Self {
            index,
            fleet,
            config,
            all,
            lines,
            board: StatusBoard::default(),
            held: (0, String::new()),
            restarts: BTreeMap::new(),
            measurements: 0,
            owed: Vec::new(),
            heard: false,
            closed_port: false,
        }
    }

    pub(super) async fn run(mut self, after: Duration) {
        sleep(after).await;
        let mut comeback = Comeback::default();
        loop {
            let begin = Instant::now();
            (self.heard, self.closed_port) = (false, false);
            let ended = self.session(&mut comeback).await;
            self.all.over(&Ending::of(self.heard, self.closed_port));
            if let Err(error) = &ended {
                // Group by the message alone: drop digits, because addresses and numbers differ.
                self.all.ended(
                    error
                        .to_string()
                        .chars()
                        .filter(|c| !c.is_ascii_digit())
                        .collect(),
                );
            }
            let span = comeback.after(&ended, begin.elapsed());
            sleep(span.least + jitter(span.most - span.least)).await;
        }
    }

    async fn session(&mut self, comeback: &mut Comeback) -> Result<(), SessionError> {
        let all = self.all.clone();
        all.sessions.fetch_add(1, Relaxed);
        let channel = tls::channel(&self.fleet.endpoint, self.config.clone())?;
        let mut client =
            AgentServiceClient::new(channel).max_decoding_message_size(tls::MAX_MESSAGE_BYTES);
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let hello = Hello {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            docker_version: "28.0.0".to_owned(),
            plan_generation: self.held.0,
            plan_digest: self.held.1.clone(),
            hosts_sha256: self.fleet.hosts.sha256().to_owned(),
            sets_mail: true,
            sorts: true,
            ..Hello::default()
        };
        outbox
            .send(wrap(agent_message::Message::Hello(hello)))
            .await
            .map_err(|_| gone())?;
        let late = |_| SessionError::Ended("no answer in time".to_owned());
        let opened = timeout(
            WELCOME_TIMEOUT,
            client.session(ReceiverStream::new(messages)),
        )
        .await;
        let opened = opened.map_err(late)?;
        self.closed_port = opened.as_ref().is_err_and(|status| is_closed_port(status));
        let mut inbound = opened?.into_inner();
        let first = timeout(WELCOME_TIMEOUT, inbound.message()).await;
        let first = first.map_err(late)??;
        let Some(coordinator_message::Message::Welcome(welcome)) = first.and_then(|m| m.message)
        else {
            return Err(gone());
        };
        comeback.welcomed(welcome.comeback_spread_ms);
        let _connected = While::begin(&all.connected);
        let every = Duration::from_millis(welcome.report_interval_ms.into());
        self.talk(&all, &outbox, &mut inbound, every).await
    }

    /// Like the real agent's session, except that regular reports come at this agent's own moment.
    async fn talk(
        &mut self,
        all: &Counts,
        outbox: &mpsc::Sender<AgentMessage>,
        inbound: &mut Streaming<isyone_proto::pb::agent::v1::CoordinatorMessage>,
        every: Duration,
    ) -> Result<(), SessionError> {
        let mut reporter = Reporter::default();
        self.owed.iter_mut().for_each(|(sequence, _)| *sequence = 0);
        let (mut heard, mut parts) = (None, PlanAssembly::default());
        let mut regular = interval_at(self.moment(every), every);
        self.report(&mut reporter, outbox, true).await?;
        let (mut last_report, mut pending) = (Instant::now(), false);
        loop {
            tokio::select! {
                message = inbound.message() => {
                    match message?.ok_or_else(gone)?.message {
                        Some(coordinator_message::Message::Plan(part)) => {
                            let whole = parts.add(part).map_err(|e| SessionError::Ended(e.to_string()))?;
                            if let Some(plan) = whole {
                                self.plan(plan, outbox).await?;
                            }
                        }
                        Some(coordinator_message::Message::ReportAck(ack)) => {
                            heard.get_or_insert_with(|| While::begin(&all.heard));
                            self.heard = true;
                            self.acknowledged(ack.sequence);
                        }
                        // It would be work that a fleet at rest does not have.
                        Some(coordinator_message::Message::Hosts(_)) => {
                            return Err(SessionError::Ended("told where hosts are, which it knows".to_owned()));
                        }
                        _ => {}
                    }
                }
                _ = regular.tick() => {
                    self.report(&mut reporter, outbox, true).await?;
                    (last_report, pending) = (Instant::now(), false);
                }
                () = self.board.changed(), if !pending => pending = true,
                () = sleep_until(last_report + COALESCE), if pending => {
                    self.report(&mut reporter, outbox, false).await?;
                    (last_report, pending) = (Instant::now(), false);
                }
            }
        }
    }

    /// The next time of this agent's fixed moment in the interval, which is the same in every session.
    fn moment(&self, every: Duration) -> Instant {
        let mine = every.mul_f64(self.index as f64 / self.fleet.count as f64);
        let since = self.fleet.begin.elapsed().as_nanos() % every.as_nanos();
        let since = Duration::from_nanos(u64::try_from(since).unwrap_or(0));
        let wait = if mine > since {
            mine - since
        } else {
            mine + every - since
        };
        Instant::now() + wait
    }

    async fn report(
        &mut self,
        reporter: &mut Reporter,
        outbox: &mpsc::Sender<AgentMessage>,
        regular: bool,
    ) -> Result<(), SessionError> {
        if regular {
            self.measure();
        }
        let host = HostResources {
            cpus: 16,
            cpu_used_permille: 150 + (self.index % 100) as u32,
            memory_total_bytes: MEMORY,
            memory_available_bytes: MEMORY / 2,
            disk_total_bytes: DISK,
            disk_available_bytes: DISK / 2,
            load1_milli: 2_000,
            pressure: Some(Pressure {
                cpu_some_permille: 5,
                memory_some_permille: 0,
                io_some_permille: 3,
            }),
            agent_memory_bytes: 20 << 20,
            agent_cpu_permille: 4,
        };
        let around = Surroundings {
            host,
            all_known: self.held.0 > 0,
            now: now_ms(),
            ..Surroundings::default()
        };
        let report = reporter.next(self.board.entries(), &around, regular);
        self.all.made.fetch_add(1, Relaxed);
        let at = Instant::now();
        self.owed.push((report.sequence, at));
        self.all
            .owed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((at, self.index), 1);
        outbox
            .send(wrap(agent_message::Message::Report(report)))
            .await
            .map_err(|_| gone())
    }

    /// The real agent measures every 10 s or more, at its own times; here each regular report has new values.
    fn measure(&mut self) {
        self.measurements += 1;
        for (slot, tenant) in self.restarts.keys().enumerate() {
            let (usage, traffic) = measured(self.index + slot, self.measurements, now_ms());
            self.board.set_usage(tenant, usage);
            self.board.set_traffic(tenant, Some(traffic));
        }
    }

    /// An acknowledged report covers the earlier ones: the coordinator takes them in order, and the first of a session
    /// is complete.
    fn acknowledged(&mut self, sequence: u64) {
        let mut all = self.all.owed.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, at) in self.owed.extract_if(.., |(of, _)| *of <= sequence) {
            all.remove(&(at, self.index));
            let waited = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.all.longest_owed_ms.fetch_max(waited, Relaxed);
        }
    }

    async fn plan(
        &mut self,
        wire: Plan,
        outbox: &mpsc::Sender<AgentMessage>,
    ) -> Result<(), SessionError> {
        let plan = HostPlan::try_from(wire).map_err(|e| SessionError::Ended(e.to_string()))?;
        let at_ns = clock_ns();
        let (generation, digest) = (plan.generation.get(), plan.digest());
        if self.held.0 == 0 {
            self.all.planned.fetch_add(1, Relaxed);
        }
        for tenant in &plan.tenants {
            let before = self
                .restarts
                .insert(tenant.name.clone(), tenant.odoo_restarts);
            if before.is_some_and(|before| before < tenant.odoo_restarts) {
                let line = Line::Restart {
                    tenant: tenant.name.to_string(),
                    at_ns,
                };
                self.lines.send(line).await.map_err(|_| gone())?;
            }
            self.board.set(&tenant.name, state(tenant));
        }
        self.held = (generation, digest.clone());
        let result = PlanResult {
            generation,
            digest,
            error: String::new(),
        };
        outbox
            .send(wrap(agent_message::Message::PlanResult(result)))
            .await
            .map_err(|_| gone())
    }
}

/// The state of a tenant that runs as planned.
fn state(tenant: &TenantPlan) -> TenantState {
    let container = |name: String| ContainerStatus {
        name,
        state: "running".to_owned(),
        healthy: true,
        image_digest: format!("sha256:{}", "5".repeat(64)),
        started_ms: Some(1_760_000_000_000),
        ..ContainerStatus::default()
    };
    TenantState {
        uid: tenant.uid,
        epoch: tenant.epoch,
        generation: tenant.generation,
        progress: TenantProgress::Converged,
        message: String::new(),
        blocked: false,
        unfit: false,
        containers: vec![
            container(tenant.name.postgres_container()),
            container(tenant.name.odoo_container()),
        ],
        operation: tenant.operation,
        steps: Vec::new(),
        absent: false,
        volumes: Vec::new(),
        volume_repairs: 0,
        own_database: true,
        modules_cut_off: 0,
        installs_finished: 0,
    }
}
