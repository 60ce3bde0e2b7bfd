//! The connection to the coordinator: context → mutual TLS → gRPC clients; deadlines, retries with the same request id,
//! paging, errors in words.
//!
//! Not here: what is asked (nouns) and long waiting (`wait`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use isyone_proto::{
    pb::v1::{
        backup_service_client::BackupServiceClient,
        certificate_service_client::CertificateServiceClient,
        domain_service_client::DomainServiceClient, edge_service_client::EdgeServiceClient,
        event_service_client::EventServiceClient, host_service_client::HostServiceClient,
        operation_service_client::OperationServiceClient,
        operator_service_client::OperatorServiceClient, system_service_client::SystemServiceClient,
        tenant_service_client::TenantServiceClient, top_service_client::TopServiceClient,
    },
    tls,
};
use isyone_telemetry::client::Traced;
use rustls_pki_types::ServerName;
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_rustls::{TlsConnector, rustls::ClientConfig};
use tonic::{Request, Response, Status, metadata::MetadataMap, transport::Channel};

use crate::{
    clock,
    context::Context,
    exit::{Exit, Failure},
    output::Ui,
    retry::{self, Reason},
    status::{self, Peer, Transport},
};

/// Deadline of a single call, unless `--timeout` says otherwise: far above any normal answer, short enough to sit
/// through.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest page that the protocol allows: fewest round trips.
const PAGE_SIZE: u32 = 1000;
/// Give up after this many pages: the server is sending us in circles (100,000 tenants are 100 pages).
const MAX_PAGES: usize = 10_000;

/// A connection (made at the first call) and how to use it.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Traced<Channel>,
    config: Arc<ClientConfig>,
    timeout: Duration,
    patience: Duration,
    peer: Arc<Peer>,
    context: Arc<Context>,
    /// An answer named other CAs than the context has, or another one that signs.
    other_trust: Arc<AtomicBool>,
    ui: Ui,
}

impl Client {
    /// Prepares a connection; the first call makes it. `show` is the command that shows this context, `timeout` limits
    /// one answer, `patience` all retries together.
    pub fn new(
        context: Context,
        show: String,
        (timeout, patience): (Duration, Duration),
        ui: Ui,
    ) -> Result<Self, Failure> {
        let bad = |e: tls::TlsError| {
            Failure::usage(format!(
                "the context `{}` cannot be used: {}",
                context.name,
                tls::error_chain(&e)
            ))
            .hint("import its file again: `isyctl context import FILE`")
        };
        let config =
            tls::client_config(&context.ca_pem, &context.certificate_pem, &context.key_pem)
                .map_err(bad)?;
        let channel =
            tls::channel(&context.endpoint, Arc::new(ArcSwap::new(config.clone()))).map_err(bad)?;
        let peer = Peer {
            endpoint: context.endpoint.clone(),
            context: context.name.clone(),
            show,
            certificate_end: context.certificate().ok().map(|info| info.not_after),
        };
        let channel = Traced::new(channel);
        Ok(Self {
            channel,
            config,
            timeout,
            patience,
            peer: Arc::new(peer),
            context: Arc::new(context),
            other_trust: Arc::default(),
            ui,
        })
    }

    pub fn context(&self) -> &Context {
        &self.context
    }

    pub fn tenants(&self) -> TenantServiceClient<Traced<Channel>> {
        TenantServiceClient::new(self.channel.clone())
    }
    pub fn hosts(&self) -> HostServiceClient<Traced<Channel>> {
        HostServiceClient::new(self.channel.clone())
    }
    pub fn operations(&self) -> OperationServiceClient<Traced<Channel>> {
        OperationServiceClient::new(self.channel.clone())
    }
    pub fn events(&self) -> EventServiceClient<Traced<Channel>> {
        EventServiceClient::new(self.channel.clone())
    }
    pub fn operators(&self) -> OperatorServiceClient<Traced<Channel>> {
        OperatorServiceClient::new(self.channel.clone())
    }
    pub fn backups(&self) -> BackupServiceClient<Traced<Channel>> {
        BackupServiceClient::new(self.channel.clone())
    }
    pub fn edges(&self) -> EdgeServiceClient<Traced<Channel>> {
        EdgeServiceClient::new(self.channel.clone())
    }

    /// Certificates of tenants' host names.
    pub fn certificates(&self) -> CertificateServiceClient<Traced<Channel>> {
        CertificateServiceClient::new(self.channel.clone())
    }
    pub fn domains(&self) -> DomainServiceClient<Traced<Channel>> {
        DomainServiceClient::new(self.channel.clone())
    }
    pub fn system(&self) -> SystemServiceClient<Traced<Channel>> {
        SystemServiceClient::new(self.channel.clone())
    }

    pub fn top(&self) -> TopServiceClient<Traced<Channel>> {
        TopServiceClient::new(self.channel.clone())
    }

    /// The same client, printing nothing on standard error.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.ui = self.ui.quiet();
        self
    }

    /// A request that tells the coordinator how long we wait.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        // Slightly longer than our own deadline, so that we time out first and report it in our words.
        request.set_timeout(self.timeout + Duration::from_millis(500));
        request
    }

    /// One call with a deadline and no retry, for what must not be sent twice. `doing` completes "cannot …".
    pub async fn call<R>(
        &self,
        doing: &str,
        call: impl Future<Output = Result<Response<R>, Status>>,
    ) -> Result<R, Failure> {
        let answer = self.timed(doing, call).await?;
        answer.map_err(|status| self.failure(doing, &status))
    }

    /// Opens a stream. The deadline covers only the opening, so the request must not carry one.
    pub async fn open<R>(
        &self,
        doing: &str,
        call: impl Future<Output = Result<Response<R>, Status>>,
    ) -> Result<Result<R, Status>, Failure> {
        self.timed(doing, call).await
    }

    /// Like [`Client::open`], but retried while the coordinator is busy or away. Once open, a lost stream is not
    /// resumed: its lines have no numbers to resume from.
    pub async fn open_again<R, F>(&self, doing: &str, call: impl Fn() -> F) -> Result<R, Failure>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        // The request carries no deadline: it would end the stream.
        self.repeat(doing, call, refused_for_now).await
    }

    /// A read, retried while the coordinator is busy or away.
    pub async fn read<M: Clone, R, F>(
        &self,
        doing: &str,
        message: M,
        call: impl Fn(Self, Request<M>) -> F,
    ) -> Result<R, Failure>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        self.repeat(
            doing,
            || call(self.clone(), self.request(message.clone())),
            refused_for_now,
        )
        .await
    }

    /// A change, retried with the same request id while the coordinator is busy or it is unknown whether the request
    /// arrived.
    pub async fn change<M: Clone, R, F>(
        &self,
        doing: &str,
        message: M,
        call: impl Fn(Self, Request<M>) -> F,
    ) -> Result<R, Failure>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let worth = |attempt: Attempt<'_>| match attempt {
            Attempt::Ended(status, number) => retry::reason(status)
                .or_else(|| worth_repeating(status, number).then_some(Reason::Away)),
            Attempt::NoAnswer => Some(Reason::Away),
        };
        self.repeat(
            doing,
            || call(self.clone(), self.request(message.clone())),
            worth,
        )
        .await
    }

    async fn repeat<R, F>(
        &self,
        doing: &str,
        call: impl Fn() -> F,
        worth: impl Fn(Attempt<'_>) -> Option<Reason>,
    ) -> Result<R, Failure>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let give_up_at = Instant::now() + self.patience;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (problem, reason) = match self.timed(doing, call()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => (
                    self.failure(doing, &status),
                    worth(Attempt::Ended(&status, attempt)),
                ),
                Err(late) if late.exit == Exit::Unavailable => (late, worth(Attempt::NoAnswer)),
                Err(refused) => return Err(refused),
            };
            let Some(reason) = reason.filter(|_| attempt < retry::MAX_ATTEMPTS) else {
                return Err(problem);
            };
            let pause = retry::pause(attempt, reason, clock::chance());
            if Instant::now() + pause >= give_up_at {
                return Err(problem);
            }
            self.ui.detail(|| problem.message.clone());
            self.ui.note(&format!(
                "{}, trying again in {:.1} s",
                reason.words(),
                pause.as_secs_f64()
            ));
            tokio::time::sleep(pause).await;
        }
    }

    async fn timed<R>(
        &self,
        doing: &str,
        call: impl Future<Output = Result<Response<R>, Status>>,
    ) -> Result<Result<R, Status>, Failure> {
        let start = Instant::now();
        let answer = tokio::time::timeout(self.timeout, call).await;
        self.ui.detail(|| {
            format!(
                "{doing}: {} in {} ms",
                self.peer.endpoint,
                start.elapsed().as_millis()
            )
        });
        match answer {
            Ok(Err(status)) if status::transport(&status) == Some(Transport::Lost) => {
                match self.refusal().await {
                    Some(cause) => {
                        Err(status::refused(doing, &self.peer, clock::now_ms()).cause(cause))
                    }
                    None => Ok(Err(status)),
                }
            }
            Ok(answer) => {
                if let Ok(answer) = &answer {
                    self.notice(answer.metadata());
                }
                Ok(answer.map(Response::into_inner))
            }
            Err(_) => Err(status::no_answer(doing, &self.peer, self.timeout)),
        }
    }

    /// Looks which CAs the coordinator names.
    fn notice(&self, head: &MetadataMap) {
        let named = head.get(tls::TRUST_HEADER).and_then(|v| v.to_str().ok());
        if named.is_some_and(|named| !self.context.keeps_to(named)) {
            self.other_trust.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the context has fallen behind the coordinator's CAs.
    pub fn other_trust(&self) -> bool {
        self.other_trust.load(Ordering::Relaxed)
    }

    /// Why the coordinator refuses our certificate, if it does. With TLS 1.3 its alert comes after our side of the
    /// handshake; if we have sent a request by then, the alert is lost with the connection. This sends nothing, so it
    /// arrives.
    async fn refusal(&self) -> Option<String> {
        let ask = async {
            let tcp = TcpStream::connect(&self.peer.endpoint).await.ok()?;
            let name = ServerName::try_from(tls::COORDINATOR_NAME).ok()?;
            let mut stream = TlsConnector::from(self.config.clone())
                .connect(name, tcp)
                .await
                .ok()?;
            let refused = stream.read_u8().await.err()?;
            let chain = tls::error_chain(&refused);
            chain.contains(status::ALERT).then_some(chain)
        };
        tokio::time::timeout(tls::CONNECT_TIMEOUT, ask)
            .await
            .ok()
            .flatten()
    }

    /// Words for a failed call or stream.
    pub fn failure(&self, doing: &str, status: &Status) -> Failure {
        status::failure(doing, &self.peer, status, clock::now_ms())
    }

    /// All items of a paged list, at most `limit`. `page` fetches one page by size and token, and returns its items and
    /// the next token.
    pub async fn pages<T, F>(
        &self,
        limit: Option<usize>,
        mut page: impl FnMut(u32, String) -> F,
    ) -> Result<Vec<T>, Failure>
    where
        F: Future<Output = Result<(Vec<T>, String), Failure>>,
    {
        let mut all = Vec::new();
        let mut token = String::new();
        for _ in 0..MAX_PAGES {
            let missing = limit.map_or(PAGE_SIZE as usize, |limit| limit.saturating_sub(all.len()));
            if missing == 0 {
                break;
            }
            let size = u32::try_from(missing).unwrap_or(PAGE_SIZE).min(PAGE_SIZE);
            let (items, next) = page(size, token).await?;
            all.extend(items);
            token = next;
            if token.is_empty() {
                break;
            }
        }
        all.truncate(limit.unwrap_or(usize::MAX));
        if all.is_empty() && self.ui.for_people() {
            self.ui.note("nothing to list");
        }
        Ok(all)
    }
}

/// How an unsuccessful attempt ended.
enum Attempt<'a> {
    /// The status, and the number of the attempt (from 1).
    Ended(&'a Status, u32),
    /// No answer within the time limit for one call.
    NoAnswer,
}

/// No connection on the first attempt: nothing was sent, so fail at once. On later ones the coordinator is restarting.
fn worth_repeating(status: &Status, attempt: u32) -> bool {
    status::outcome_unknown(status)
        || (attempt > 1 && status::transport(status) == Some(status::Transport::NotConnected))
}

/// Listens for Ctrl-C from the moment it is created, so that none is missed while something else happens first.
#[derive(Debug)]
pub struct Interrupt(Option<Signal>);

impl Interrupt {
    /// Starts listening. If no handler can be installed, Ctrl-C simply ends the process.
    pub fn listen() -> Self {
        Self(signal(SignalKind::interrupt()).ok())
    }

    /// Waits for Ctrl-C and returns the failure with its own exit code.
    pub async fn came(mut self) -> Failure {
        match &mut self.0 {
            Some(signal) => signal.recv().await,
            None => std::future::pending().await,
        };
        Failure::new(Exit::Interrupted, "")
    }
}

/// Why to retry a call that changes nothing. Not after a timeout: the person has waited long already.
fn refused_for_now(attempt: Attempt<'_>) -> Option<Reason> {
    match attempt {
        Attempt::Ended(status, _) => retry::reason(status),
        Attempt::NoAnswer => None,
    }
}
