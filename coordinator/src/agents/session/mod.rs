//! Agents: one session per host (plans down, reports up), certificate renewal, and the streams they open when asked.
//!
//! The host's name comes from its certificate. A session is two loops over a bounded queue, so a slow agent holds up
//! only itself. Whether a host is silent depends on time (isyone_fleet::liveness), not on the end of its session.
//! Not here: joining (enroll), what a report means (isyone_fleet::change), who waits for a stream (streams), what
//! goes from host to host (relay).

mod hello;
pub mod hosts;
mod listen;
pub mod monitors;
mod plans;
mod report;
pub mod trust;

use std::{pin::Pin, sync::Arc, time::Duration};

use isyone_fleet::change::Command;
use isyone_proto::{
    error,
    identity::Identity,
    ids::HostName,
    pb::agent::v1::{
        AgentMessage, AttachDown, AttachUp, CoordinatorMessage, RelayDown, RelayUp, RenewRequest,
        RenewResponse, Welcome, agent_message, agent_service_server::AgentService, attach_up,
        coordinator_message,
    },
};
use tokio::sync::{Notify, mpsc};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use self::{hello::Said, hosts::HostList, monitors::MonitorList, trust::Trusts};
use crate::{
    agents::{
        rates::{Call, Rates},
        relay::Relays,
        streams::{Bridge, DOWN_QUEUE, Outgoing, SessionGuard, Streams},
    },
    base::{clock, mail::MailPasswords, metrics::Metrics, pki::Pki, secrets::Sealer},
    ports::listener::{Connections, Peer},
    wire::{caller::Caller, status},
    writer::{Handle, SubmitError},
};

/// Messages queued for one agent: a plan, plus acknowledgements and stream requests.
const SESSION_QUEUE: usize = 32;
/// How long we wait for a connected agent's first message, and for it to take a plan.
const PATIENCE: Duration = Duration::from_secs(30);
/// Agents per second that may come back after we sent them away or were away ourselves. That is half of the handshakes
/// that two cores manage, which leaves room for operators' calls.
pub const COMEBACKS_PER_SECOND: u32 = 500;
/// Shortest absence that agents are asked for: a coordinator that stops is not back sooner.
const LEAST_ABSENCE: Duration = Duration::from_secs(1);
/// Longest absence: however large the fleet, agents do not stay away longer.
const LONGEST_ABSENCE: Duration = Duration::from_secs(20);
/// The shortest spread that agents are told; below it, the jitter of their own back-off is enough.
const LEAST_SPREAD: Duration = Duration::from_millis(500);
/// The longest spread; documented in the protocol.
const LONGEST_SPREAD: Duration = Duration::from_secs(30);
/// How often we look whether a host that waits for approval has it. There are few of them.
const APPROVAL_LOOK: Duration = Duration::from_secs(1);

type Down<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type ToAgent = mpsc::Sender<Outgoing>;

/// What all sessions share.
#[derive(Debug)]
pub struct Shared {
    /// The writer and its snapshots.
    pub handle: Handle,
    /// Signs agents' renewed certificates.
    pub pki: Arc<Pki>,
    /// Lifetime of agents' certificates, in seconds.
    pub agent_ttl_s: i64,
    /// Opens the secrets that plans carry.
    pub sealer: Arc<Sealer>,
    /// The passwords at mail servers that the configuration has.
    pub mail: Arc<MailPasswords>,
    /// The sessions and the bulk-data streams.
    pub streams: Arc<Streams>,
    /// Connections between hosts.
    pub relays: Arc<Relays>,
    /// The certificates that may scrape hosts.
    pub monitors: Arc<MonitorList>,
    /// How often hosts may call.
    pub rates: Rates,
    /// Which certificates are in use.
    pub connections: Arc<Connections>,
    /// Where hosts are.
    pub hosts: Arc<HostList>,
    /// Which CAs hosts trust.
    pub trusts: Arc<Trusts>,
    /// Counts reports.
    pub metrics: Arc<Metrics>,
    /// Cancelled when the coordinator stops.
    pub stop: CancellationToken,
}

/// `AgentService`: sessions, renewals and streams of bulk data.
#[derive(Debug, Clone)]
pub struct Agents(Arc<Shared>);

impl Agents {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

fn host<T>(request: &Request<T>) -> Result<HostName, Status> {
    match request.extensions().get::<Caller>() {
        Some(Caller::Agent(host)) => Ok(host.clone()),
        Some(Caller::Operator(..) | Caller::Stranger) | None => {
            Err(Status::permission_denied("for agents"))
        }
    }
}

fn message(message: coordinator_message::Message) -> Outgoing {
    Box::new(Ok(CoordinatorMessage {
        message: Some(message),
    }))
}

/// Hands a message to an agent; an error when it takes none. Boxed: it seldom runs, and must not take up room in each of
/// thousands of sessions meanwhile.
fn give(
    to_agent: &ToAgent,
    told: coordinator_message::Message,
) -> Pin<Box<dyn Future<Output = Result<(), Status>> + Send + '_>> {
    Box::pin(async move {
        match tokio::time::timeout(PATIENCE, to_agent.send(message(told))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Status::deadline_exceeded("the agent takes no messages")),
        }
    })
}

/// How long this many hosts take to come back at a rate that we can handle.
fn time_for(hosts: usize) -> Duration {
    let hosts = u32::try_from(hosts).unwrap_or(u32::MAX);
    Duration::from_secs(1).saturating_mul(hosts) / COMEBACKS_PER_SECOND
}

/// The spread for agents of a fleet of this size that come back without having been told when: after a crash or a
/// network outage. Zero for a small fleet. An agent knows what its last Welcome said, at most half of its certificate's
/// lifetime ago: a fleet that has grown tenfold since then comes back at several times the rate, once. After a long
/// absence the first second sees twice the rate, because waits average half the spread; two cores can take that. At
/// most half the time until a silent host is suspect: a single host that lost its connection waits this long, too, and
/// must not raise an alarm.
pub fn comeback_spread(hosts: usize, suspect: Duration) -> Duration {
    let spread = time_for(hosts).min(LONGEST_SPREAD).min(suspect / 2);
    if spread < LEAST_SPREAD {
        Duration::ZERO
    } else {
        spread
    }
}

/// Ends a session that we cannot go on with, through no fault of the agent. The more sessions there are, the longer
/// agents stay away: each comes back at a random moment between one and two times that absence, so at a rate that we
/// can handle.
fn later(shared: &Shared, status: &Status) -> Status {
    let absence = time_for(shared.streams.sessions()).clamp(LEAST_ABSENCE, LONGEST_ABSENCE);
    error::retry_later(status, absence)
}

#[tonic::async_trait]
impl AgentService for Agents {
    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        let host = host(&request)?;
        let peer = request.extensions().get::<Arc<Peer>>();
        let asked_with = peer.and_then(|peer| peer.certificate.clone()).map(Box::new);
        let asked_with =
            asked_with.ok_or_else(|| Status::internal("request without a certificate"))?;
        let shared = &self.0;
        shared.rates.admit(&host, Call::Renew)?;
        let known = shared
            .handle
            .snapshot()
            .fleet
            .hosts
            .get(&host)
            .map(|h| h.advertise);
        let advertise = known.ok_or_else(|| Status::permission_denied("this host was removed"))?;
        let issued = shared
            .pki
            .sign_agent(
                &request.get_ref().csr_pem,
                &host,
                advertise,
                shared.agent_ttl_s,
                clock::now_seconds(),
            )
            .map_err(|e| status::pki(&e))?;
        let certificate = issued.record();
        let command = Command::RenewHost {
            in_use: shared
                .connections
                .serials_of(&Identity::Agent(host.clone())),
            host: host.clone(),
            certificate,
            asked_with: Some(asked_with),
        };
        shared
            .handle
            .submit_patiently(format!("host/{host}"), command)
            .await
            .map_err(status::submit)?;
        let trust = shared.pki.trust().borrow().clone();
        // An agent of a version before learns of CAs in no other way, and does not say that it has.
        shared.trusts.say(&host, trust.sha256.clone());
        Ok(Response::new(RenewResponse {
            certificate_pem: issued.pem,
            ca_pem: trust.ca_pem.clone(),
        }))
    }

    type SessionStream = Down<CoordinatorMessage>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let host = host(&request)?;
        self.0.rates.admit(&host, Call::Session)?;
        let up = request.into_inner();
        let (to_agent, messages) = mpsc::channel(SESSION_QUEUE);
        let session = Session {
            shared: self.0.clone(),
            actor: format!("host/{host}"),
            host,
            to_agent,
            end: CancellationToken::new(),
            refused: Notify::new(),
        };
        tokio::spawn(session.run(up));
        Ok(Response::new(Box::pin(
            ReceiverStream::new(messages).map(|message| *message),
        )))
    }

    type AttachStream = Down<AttachDown>;

    async fn attach(
        &self,
        request: Request<Streaming<AttachUp>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let host = host(&request)?;
        self.0.rates.admit(&host, Call::Stream)?;
        let mut up = request.into_inner();
        let first = tokio::time::timeout(PATIENCE, up.message()).await;
        let first = first
            .map_err(|_| Status::deadline_exceeded("no stream id"))??
            .and_then(|m| m.message);
        let Some(attach_up::Message::StreamId(id)) = first else {
            return Err(Status::invalid_argument(
                "the first message must carry the stream's id",
            ));
        };
        let (down, messages) = mpsc::channel(DOWN_QUEUE);
        self.0.streams.attach(&host, &id, Bridge { up, down })?;
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    type RelayStream = Down<RelayDown>;

    async fn relay(
        &self,
        request: Request<Streaming<RelayUp>>,
    ) -> Result<Response<Self::RelayStream>, Status> {
        let host = host(&request)?;
        self.0.rates.admit(&host, Call::Stream)?;
        let answers = self.0.relays.serve(host, request.into_inner()).await?;
        Ok(Response::new(Box::pin(answers)))
    }
}

struct Session {
    shared: Arc<Shared>,
    host: HostName,
    actor: String,
    to_agent: ToAgent,
    end: CancellationToken,
    /// Signals that the agent rejected its plan.
    refused: Notify,
}

impl Session {
    #[expect(
        clippy::manual_async_fn,
        reason = "an `async fn` holds its arguments twice, and there are thousands of sessions"
    )]
    fn run(self, mut up: Streaming<AgentMessage>) -> impl Future<Output = ()> + Send {
        async move {
            // Boxed, here and below: short-lived futures must not take up room in thousands of sessions for months.
            let why = match Box::pin(self.greet(&mut up)).await {
                Ok((guard, Said { known, cas, hosts })) => {
                    tracing::info!(host = %self.host, "agent connected");
                    let why = tokio::select! {
                        why = self.listen(&mut up) => why,
                        why = plans::send(&self.shared, &self.host, &self.to_agent, known, &self.refused) => why,
                        why = self.tell_who_else_there_is(hosts) => why,
                        why = trust::send(&self.shared.pki, cas, || self.hosts(), &self.to_agent) => why,
                        () = self.end.cancelled() => Status::aborted("another session of this host has begun"),
                        () = self.shared.stop.cancelled() => later(&self.shared, &status::stopping()),
                    };
                    drop(guard);
                    // The session that replaced us waits for the same signal; a notification that reached us at the end was
                    // meant for it.
                    self.shared.handle.host_signal(&self.host).notify_one();
                    why
                }
                Err(why) => why,
            };
            tracing::info!(host = %self.host, reason = why.message(), "agent's session ended");
            // The agent may be gone or may not be reading; either way the connection ends.
            let _ = self.to_agent.try_send(Box::new(Err(why)));
        }
    }

    /// Takes the agent's hello, and answers it with a welcome.
    async fn greet(
        &self,
        up: &mut Streaming<AgentMessage>,
    ) -> Result<(SessionGuard, Said), Status> {
        let first = tokio::select! {
            first = tokio::time::timeout(PATIENCE, up.message()) => first,
            () = self.shared.stop.cancelled() => return Err(later(&self.shared, &status::stopping())),
        };
        let first = first
            .map_err(|_| Status::deadline_exceeded("no hello"))??
            .and_then(|m| m.message);
        let Some(agent_message::Message::Hello(hello)) = first else {
            return Err(Status::invalid_argument(
                "the first message must be `hello`",
            ));
        };
        self.warn_of_other_address(&hello.advertise_address);
        let (hello, said) = hello::checked(hello)?;
        let command = Command::Greet {
            host: self.host.clone(),
            hello,
            accepted_generation: said.known.generation,
        };
        self.submit(command).await?;
        self.shared.trusts.say(&self.host, said.cas.clone());
        // From here on this session gets the host's messages; an older session ends.
        let guard = self
            .shared
            .streams
            .enter(&self.host, self.to_agent.clone(), self.end.clone());
        // The queue has room: it is empty.
        let _ = self
            .to_agent
            .try_send(message(coordinator_message::Message::Welcome(
                self.welcome(),
            )));
        Ok((guard, said))
    }

    fn hosts(&self) -> usize {
        self.shared.handle.snapshot().fleet.hosts.len()
    }

    fn welcome(&self) -> Welcome {
        let handle = &self.shared.handle;
        let settings = handle.settings();
        let liveness = &settings.liveness;
        let suspect = Duration::from_millis(u64::try_from(liveness.suspect_ms).unwrap_or(0));
        let spread = comeback_spread(self.hosts(), suspect);
        Welcome {
            coordinator_version: env!("CARGO_PKG_VERSION").to_owned(),
            report_interval_ms: liveness.report_interval_ms,
            comeback_spread_ms: u32::try_from(spread.as_millis()).unwrap_or(u32::MAX),
        }
    }

    /// Whoever nobody has let in learns neither who scrapes the fleet nor where its hosts are.
    async fn tell_who_else_there_is(&self, hosts_sha256: String) -> Status {
        while plans::is_pending(&self.shared.handle, &self.host) {
            Box::pin(tokio::time::sleep(APPROVAL_LOOK)).await;
        }
        tokio::select! {
            why = monitors::send(&self.shared.monitors, &self.to_agent) => why,
            why = hosts::send(&self.shared.hosts, hosts_sha256, &self.to_agent) => why,
        }
    }

    /// The address is fixed when the host joins, because other machines' routes and firewalls depend on it.
    fn warn_of_other_address(&self, said: &str) {
        let state = self.shared.handle.snapshot();
        let Some(host) = state.fleet.hosts.get(&self.host) else {
            return;
        };
        if !said.is_empty() && said.parse() != Ok(host.advertise) {
            tracing::warn!(
                host = %self.host, known = %host.advertise, %said,
                "agent advertises another address than it joined with; to change it, let the host join again"
            );
        }
    }

    /// Submits a command on the agent's behalf.
    async fn submit(&self, command: Command) -> Result<(), Status> {
        match self
            .shared
            .handle
            .submit_patiently(&self.actor, command)
            .await
        {
            Ok(_) => Ok(()),
            Err(error @ SubmitError::Refused(_)) => Err(status::submit(error)),
            Err(error) => Err(later(&self.shared, &status::submit(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails where a future that seldom runs takes up room in each of thousands of sessions.
    #[test]
    fn a_session_takes_about_two_kilobytes() {
        fn size<F>(_: impl FnOnce(Session, Streaming<AgentMessage>) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(Session::run);
        // 1,880 when this was written; another compiler may lay it out a little differently.
        assert!(size <= 2_048, "{size} bytes");
    }

    #[test]
    fn the_spread_grows_with_the_fleet_from_half_a_second_to_its_bound() {
        let (patient, usual) = (Duration::from_secs(120), Duration::from_secs(20));
        let told = [0, 1, 3, 249, 250, 1_000, 10_000, 15_000, usize::MAX]
            .map(|n| comeback_spread(n, patient));
        assert_eq!(
            comeback_spread(10_000, usual),
            usual / 2,
            "a lone host is back before it is suspect"
        );
        assert_eq!(
            told,
            [0, 0, 0, 0, 500, 2_000, 20_000, 30_000, 30_000].map(Duration::from_millis)
        );
    }
}
