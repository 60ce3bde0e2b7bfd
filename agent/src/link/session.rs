//! The session with the coordinator: accepts plans, sends reports, opens streams.
//!
//! Without a coordinator the ledger's plan stays in force. Not here: what a plan causes (tenant), reports (report), bulk data (streams).

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ipnet::Ipv4Net;
use isyone_proto::{
    generation::Generation,
    hosts::digest,
    parts::PlanAssembly,
    pb::agent::v1::{
        AgentMessage, CoordinatorMessage, Hello, Plan, PlanResult, Trust, Trusted, Welcome,
        agent_message, agent_service_client::AgentServiceClient, coordinator_message, open_stream,
    },
    plan::{HostPlan, MAX_JOBS_PER_HOST},
    report::HostCondition,
    tls::{self, CertificateInfo},
};
use isyone_telemetry::{span, tracing::Span};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::{
    base::{
        clock::{jitter, now_ms},
        fsutil,
    },
    host::{
        Host,
        hosts::Hosts,
        identity::LiveIdentity,
        ledger::{InForce, Ledger, LedgerError},
        monitors::Monitors,
        resources::{HostReader, host_networks},
    },
    link::{
        asked::Asked,
        comeback::Comeback,
        error::{SessionError, gone},
        lists::Lists,
        report::{Reporter, Surroundings},
        streams::{self, ToPeers},
    },
    plan::held::PlanRefused,
};

/// Most reports and answers queued for a slow connection; beyond that the session is abandoned and opened again.
const OUTBOX: usize = 16;
/// Waiting this long for room in the outbox means that the connection is dead.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the start of a session waits for Docker's version.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the coordinator may take to answer a new session with Welcome.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(15);
/// Reports about changes are at least this far apart; changes in between are sent together.
const COALESCE: Duration = Duration::from_millis(100);
/// The same where visitors wait for what the coordinator does next.
const URGENT: Duration = Duration::from_millis(5);
/// Bounds, in milliseconds, of the report interval that the coordinator may ask for.
const REPORT_INTERVAL: (u32, u32) = (100, 300_000);
/// Longest spread of renewals that the coordinator may ask for; documented in the protocol.
const RENEW_WITHIN_MS: u32 = 600_000;
/// Most concurrent logs and shells; each costs a task and a few buffers.
const MAX_STREAMS: usize = 64;

/// The agent's end of the sessions with the coordinator.
pub struct Link {
    pub host: Arc<Host>,
    /// The plan on disk.
    pub ledger: Arc<Mutex<Ledger>>,
    /// Where accepted plans go.
    pub plans: watch::Sender<InForce>,
    pub identity: Arc<LiveIdentity>,
    /// `host:port` of the coordinator.
    pub endpoint: String,
    /// Who may scrape this host.
    pub monitors: Arc<Monitors>,
    /// Where the fleet's hosts are.
    pub hosts: Arc<Hosts>,
    /// Where other hosts' agents reach this one, on the advertised address.
    pub peer_port: Option<u16>,
    /// It keeps copies up with tenants that run elsewhere, and lets its own be followed.
    pub follows: bool,
    /// Who serves other hosts' connections that come through the coordinator.
    pub peers: ToPeers,
    /// True while a session is open, from its Welcome on; for health and metrics.
    pub connected: watch::Sender<bool>,
}

impl Link {
    /// Runs one session. `Ok`: we ended it, to come back with a fresh certificate.
    pub(super) async fn session(
        self: &Arc<Self>,
        comeback: &mut Comeback,
    ) -> Result<(), SessionError> {
        let certificate = self.identity.info();
        let (session, mut inbound) = self.open().await?;
        let welcome = welcomed(&mut inbound).await?;
        tracing::info!(coordinator = %self.endpoint, version = welcome.coordinator_version, "session open");
        self.connected.send_replace(true);
        comeback.welcomed(welcome.comeback_spread_ms);
        session.run(inbound, &welcome, &certificate).await
    }

    /// Opens a session with Hello; the answer is still to come.
    async fn open(self: &Arc<Self>) -> Result<(Session, Inbound), SessionError> {
        // First: what is renewed from here on may be too late for this connection.
        let moved = self.identity.moved();
        let channel = tls::channel(&self.endpoint, self.identity.config())?;
        let mut client =
            AgentServiceClient::new(channel).max_decoding_message_size(tls::MAX_MESSAGE_BYTES);
        let (outbox, messages) = mpsc::channel(OUTBOX);
        // If Docker is unreachable, the next session reports its version.
        let _ = timeout(ENGINE_TIMEOUT, self.host.engine()).await;
        let hello = self.hello();
        outbox
            .send(wrap(agent_message::Message::Hello(hello)))
            .await
            .map_err(|_| gone())?;
        let inbound = timeout(
            WELCOME_TIMEOUT,
            client.session(ReceiverStream::new(messages)),
        )
        .await
        .map_err(|_| {
            SessionError::Ended(format!("no answer within {} s", WELCOME_TIMEOUT.as_secs()))
        })??
        .into_inner();
        let session = Session {
            link: self.clone(),
            streams: tls::channel(&self.endpoint, self.identity.config())?,
            outbox,
            reporter: Reporter::default(),
            asked: Asked::default(),
            plan: PlanAssembly::default(),
            lists: Lists::new(self.monitors.clone(), self.hosts.clone()),
            reader: HostReader::default(),
            moved,
        };
        Ok((session, inbound))
    }

    /// Networks that the host uses itself.
    fn networks(&self) -> Vec<Ipv4Net> {
        let plan = self.plans.borrow().plan.clone();
        let tenants = plan.iter().flat_map(|plan| &plan.tenants);
        let own: Vec<_> = tenants.map(|t| t.subnet.trunc()).collect();
        host_networks(&own)
    }

    fn hello(&self) -> Hello {
        let networks = self.networks();
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        Hello {
            networks: networks.iter().map(ToString::to_string).collect(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            docker_version: self.host.docker_version(),
            advertise_address: self.host.advertise().to_string(),
            plan_generation: ledger.generation().get(),
            plan_digest: ledger.digest().to_owned(),
            peer_port: self.peer_port.map_or(0, u32::from),
            follows: self.follows,
            stands: self.follows,
            leases: self.follows,
            trusted_sha256: self.identity.trusted(),
            hosts_sha256: digest(&self.hosts.known()),
            makes_backups: true,
            proves_backups: true,
            sets_mail: true,
            sorts: true,
        }
    }

    /// Trusts what the coordinator says. Returns the answer; without one it goes on believing that we do not.
    fn take_trust(&self, trust: &Trust) -> Option<Trusted> {
        let within = Duration::from_millis(trust.renew_within_ms.min(RENEW_WITHIN_MS).into());
        match self
            .identity
            .trust(&trust.ca_pem, &trust.signing_sha256, within)
        {
            Ok(sha256) => {
                tracing::info!(cas = sha256.len(), "the coordinator's CAs are known");
                Some(Trusted { sha256 })
            }
            Err(e) => {
                tracing::error!(
                    "the coordinator's CAs are not taken: {}",
                    tls::error_chain(&e)
                );
                None
            }
        }
    }

    /// Checks and stores a plan, and puts it in force. Returns the answer for the coordinator.
    fn take_plan(&self, mut wire: Plan) -> PlanResult {
        let generation = Generation::from(wire.generation);
        let traces = &self.host.traces;
        traces.replace(std::mem::take(&mut wire.traces));
        let begun = || span!("store plan", otel.kind = "consumer", %generation);
        let _spans: Vec<Span> = traces
            .operations()
            .into_iter()
            .map(|id| traces.within(Some(id), begun))
            .collect();
        let plan = match HostPlan::try_from(wire) {
            Ok(plan) => plan,
            Err(e) => {
                tracing::error!(%generation, "the plan cannot be read: {e}");
                return PlanResult {
                    generation: generation.get(),
                    digest: String::new(),
                    error: format!("the plan cannot be read: {e}"),
                };
            }
        };
        let digest = plan.digest();
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let error = match ledger.accept(plan) {
            Ok(news) => {
                tracing::info!(%generation, news, "plan accepted");
                self.host.board.set_warning("ledger", ""); // a new plan repairs a corrupt ledger
                self.put_in_force(&ledger);
                String::new()
            }
            Err(e) => {
                let chain = tls::error_chain(&e);
                match e {
                    LedgerError::Refused(PlanRefused::Older { .. }) => tracing::warn!("{chain}"),
                    LedgerError::Refused(PlanRefused::Conflict { .. }) | LedgerError::Io(..) => {
                        tracing::error!("{chain}")
                    }
                }
                chain
            }
        };
        PlanResult {
            generation: generation.get(),
            digest,
            error,
        }
    }

    /// The ledger's plan holds from now on, its leases first: nobody acts on it before them.
    fn put_in_force(&self, ledger: &Ledger) {
        let in_force = ledger.in_force();
        self.host.leases.adapt(&in_force);
        self.plans.send_replace(in_force);
    }

    /// Whether each tenant of the plan in force has a status.
    fn all_known(&self, known: &BTreeSet<&str>) -> bool {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger
            .plan()
            .is_some_and(|plan| plan.tenants.iter().all(|t| known.contains(t.name.as_str())))
    }
}

/// What the coordinator sends.
type Inbound = tonic::Streaming<CoordinatorMessage>;

/// Waits for the first message of a session.
async fn welcomed(inbound: &mut Inbound) -> Result<Welcome, SessionError> {
    let first = timeout(WELCOME_TIMEOUT, inbound.message())
        .await
        .map_err(|_| SessionError::Ended("no welcome".to_owned()))??;
    match first.and_then(|m| m.message) {
        Some(coordinator_message::Message::Welcome(welcome)) => Ok(welcome),
        _ => Err(SessionError::Ended(
            "the first message was no welcome".to_owned(),
        )),
    }
}

fn until_ms(at_ms: i64) -> Duration {
    Duration::from_millis((at_ms - now_ms()).clamp(0, 365 * 86_400_000) as u64)
}

fn wrap(message: agent_message::Message) -> AgentMessage {
    AgentMessage {
        message: Some(message),
    }
}

struct Session {
    link: Arc<Link>,
    /// For logs and commands: a second connection, made when there is a first one to carry.
    streams: Channel,
    outbox: mpsc::Sender<AgentMessage>,
    reporter: Reporter,
    asked: Asked,
    plan: PlanAssembly,
    lists: Lists,
    reader: HostReader,
    /// Changes when this session should be opened anew, by another certificate.
    moved: watch::Receiver<u64>,
}

/// Shared by all sessions of this process: streams opened by an earlier session still count.
static STREAMS: Semaphore = Semaphore::const_new(MAX_STREAMS);

impl Session {
    /// Sends reports and does what the coordinator says, until either side ends the session.
    async fn run(
        mut self,
        mut inbound: Inbound,
        welcome: &Welcome,
        certificate: &CertificateInfo,
    ) -> Result<(), SessionError> {
        let link = self.link.clone();
        let every = Duration::from_millis(
            welcome
                .report_interval_ms
                .clamp(REPORT_INTERVAL.0, REPORT_INTERVAL.1)
                .into(),
        );
        // The first report goes out at once, the regular ones start at a random moment: otherwise hosts that came back
        // together would report together from then on.
        let mut regular = interval_at(Instant::now() + jitter(every), every);
        regular.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.report(true).await?;
        let (mut last_report, mut pending) = (Instant::now(), None);
        // Near the end of the old certificate, leave for a fresh one before the coordinator cuts the stream.
        let leave_at = Instant::now()
            + until_ms(
                (certificate.not_after - (certificate.not_after - certificate.not_before) / 10)
                    * 1000,
            );
        let mut moved = self.moved.clone();
        loop {
            tokio::select! {
                message = inbound.message() => match message?.ok_or_else(gone)?.message {
                    Some(message) => self.handle(message).await?,
                    None => tracing::debug!("a message of a newer coordinator was skipped"),
                },
                _ = regular.tick() => {
                    self.report(true).await?;
                    (last_report, pending) = (Instant::now(), None);
                }
                () = link.host.board.changed() => {
                    let apart = if link.host.board.take_urgency() { URGENT } else { COALESCE };
                    pending = Some(pending.map_or(apart, |other: Duration| other.min(apart)));
                }
                () = sleep_until(last_report + pending.unwrap_or(COALESCE)), if pending.is_some() => {
                    self.report(false).await?;
                    (last_report, pending) = (Instant::now(), None);
                }
                // To come back by the certificate of the new CA before the old one is forgotten.
                Ok(()) = moved.changed() => return Ok(()),
                () = sleep_until(leave_at), if link.identity.info().serial != certificate.serial => return Ok(()),
            }
        }
    }

    async fn send(&self, message: agent_message::Message) -> Result<(), SessionError> {
        match timeout(SEND_TIMEOUT, self.outbox.send(wrap(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(SessionError::Ended(
                "the connection does not take reports".to_owned(),
            )),
        }
    }

    async fn handle(&mut self, message: coordinator_message::Message) -> Result<(), SessionError> {
        match message {
            coordinator_message::Message::Plan(plan) => {
                let whole = self
                    .plan
                    .add(plan)
                    .map_err(|e| SessionError::Ended(e.to_string()))?;
                let Some(plan) = whole else { return Ok(()) };
                let link = self.link.clone();
                // Writes to disk, so it does not run on the runtime's threads.
                let result = tokio::task::spawn_blocking(move || link.take_plan(plan)).await;
                let result = result.map_err(|e| SessionError::Ended(e.to_string()))?;
                self.send(agent_message::Message::PlanResult(result)).await
            }
            coordinator_message::Message::OpenStream(open) => {
                let Ok(turn) = STREAMS.try_acquire() else {
                    tracing::warn!("{MAX_STREAMS} streams are open already; one more was refused");
                    return Ok(());
                };
                let link = &self.link;
                // Another host's copy has a connection of its own, so that it cannot hold up this session.
                let channel = match open.target {
                    Some(open_stream::Target::Peer(_)) => {
                        tls::bulk_channel(&link.endpoint, link.identity.config())?
                    }
                    // Whoever does not read a log must not hold up the session either.
                    _ => self.streams.clone(),
                };
                let (host, peers) = (link.host.clone(), link.peers.clone());
                tokio::spawn(streams::serve(host, channel, open, peers, turn));
                Ok(())
            }
            coordinator_message::Message::Monitors(list) => {
                self.lists.take_monitors(list).await;
                Ok(())
            }
            coordinator_message::Message::HostAddresses(list) => {
                self.lists.take_hosts(list).await;
                Ok(())
            }
            coordinator_message::Message::Hosts(part) => {
                self.lists.take_part(part).await;
                Ok(())
            }
            coordinator_message::Message::Trust(trust) => {
                let link = self.link.clone();
                // Writes to disk, so it does not run on the runtime's threads.
                let taken = tokio::task::spawn_blocking(move || link.take_trust(&trust)).await;
                match taken {
                    Ok(Some(trusted)) => self.send(agent_message::Message::Trusted(trusted)).await,
                    Ok(None) | Err(_) => Ok(()),
                }
            }
            coordinator_message::Message::ReportAck(ack) => {
                let asked_ms = self.asked.answered(ack.sequence);
                if let Some(generation) = ack.plan_generation {
                    self.answered(generation.into(), asked_ms).await;
                }
                Ok(())
            }
            coordinator_message::Message::Welcome(_) => Ok(()),
        }
    }

    /// The coordinator has taken a report in, and says which plan is to hold here: what asks first may start under it, and the leases
    /// of that very plan go on.
    async fn answered(&self, generation: Generation, asked_ms: Option<u64>) {
        let link = self.link.clone();
        // Writes to disk once in a machine's life.
        let taken = tokio::task::spawn_blocking(move || {
            let mut ledger = link.ledger.lock().unwrap_or_else(PoisonError::into_inner);
            match ledger.answered(generation) {
                Ok(true) => link.put_in_force(&ledger),
                Ok(false) => {}
                Err(e) => tracing::warn!("what asks first waits on: {e}"),
            }
            if let Some(asked_ms) = asked_ms.filter(|_| ledger.generation() == generation) {
                link.host.leases.acknowledged(asked_ms);
            }
        });
        // A panic there has been told.
        let _ = taken.await;
    }

    async fn report(&mut self, regular: bool) -> Result<(), SessionError> {
        let host = &self.link.host;
        let asked_ms = host.leases.now_ms();
        let disk = host
            .data_root()
            .filter(|p| fsutil::exists(p))
            .unwrap_or_else(|| PathBuf::from(host.data.path()));
        let entries = host.board.entries();
        let known = entries.iter().map(|e| e.name.as_str()).collect();
        let around = Surroundings {
            host: self.reader.read(&disk),
            docker_error: host.board.troubles(),
            all_known: self.link.all_known(&known),
            jobs: host
                .leases
                .with_ages(host.board.jobs())
                .into_iter()
                .take(MAX_JOBS_PER_HOST)
                .collect(),
            condition: HostCondition {
                networks: Some(self.link.networks()),
                ..host.board.condition()
            },
            now: now_ms(),
        };
        let report = self.reporter.next(entries, &around, regular);
        self.asked.note(report.sequence, asked_ms);
        self.send(agent_message::Message::Report(report)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_bounded() {
        assert_eq!(until_ms(0), Duration::ZERO);
        assert!(until_ms(i64::MAX) <= Duration::from_secs(366 * 86_400));
    }
}
