//! Accepts connections: TLS handshakes off the accept loop, limited in all and per network; parses the peer's identity
//! once; and can cut every connection from outside (revocation, certificate expiry, stop).
//!
//! Not here: TLS configurations (base/pki), what is served (server).

mod connections;
mod hello;
mod limit;
mod lobby;
#[cfg(test)]
mod tests;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use isyone_proto::tls::{BULK_PROTOCOL, CertificateInfo, Identity, error_chain};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_rustls::{StartHandshake, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

pub use self::connections::Connections;
use self::{
    connections::Registration,
    limit::RateLimit,
    lobby::{Lobby, Place},
};
use crate::base::{
    clock,
    metrics::{Metrics, Refused},
    pki::Pki,
};

/// From accepting a connection to the end of its handshake, including waits. Clients give up after that time, so we do
/// no work for one that is gone.
const HANDSHAKE_TIMEOUT: Duration = isyone_proto::tls::CONNECT_TIMEOUT;
/// Pause after `accept` failed (out of file descriptors): an immediate retry would spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Finished handshakes waiting for the server.
const READY_QUEUE: usize = 64;
/// Joining takes one call, which needs no longer than this.
const ENROLMENT_LIFETIME: Duration = Duration::from_secs(10);

/// The peer of a connection. In every request's extensions.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its certificate; `None` on the enrolment port.
    pub certificate: Option<CertificateInfo>,
    pub address: SocketAddr,
}

impl Peer {
    /// Its identity, if it presented a certificate.
    pub fn identity(&self) -> Option<&Identity> {
        self.certificate.as_ref().map(|c| &c.identity)
    }
}

type Cut = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection after its handshake.
pub struct PeerStream {
    io: TlsStream<TcpStream>,
    peer: Arc<Peer>,
    /// Resolves when the connection must end; `None` once it has.
    cut: Option<Cut>,
    _registration: Registration,
}

impl PeerStream {
    /// Registers the connection as open, for at most `lifetime`.
    fn new(
        io: TlsStream<TcpStream>,
        peer: Arc<Peer>,
        among: &Arc<Connections>,
        lifetime: Duration,
    ) -> Self {
        let cut = CancellationToken::new();
        let registration = among.add(peer.clone(), cut.clone());
        let expiry = tokio::time::sleep(lifetime);
        let cut: Cut = Box::pin(async move {
            tokio::select! { () = cut.cancelled_owned() => {}, () = expiry => {} }
        });
        Self {
            io,
            peer,
            cut: Some(cut),
            _registration: registration,
        }
    }

    /// Whether an agent said in its handshake that this one is for bulk data.
    pub fn is_bulk(&self) -> bool {
        let protocol = self.io.get_ref().1.alpn_protocol();
        protocol == Some(BULK_PROTOCOL) && matches!(self.peer.identity(), Some(Identity::Agent(_)))
    }

    /// `Err` once the connection was cut; otherwise registers for a wake-up.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let over = self
            .cut
            .as_mut()
            .is_none_or(|cut| cut.as_mut().poll(cx).is_ready());
        if over {
            self.cut = None;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl Connected for PeerStream {
    type ConnectInfo = Arc<Peer>;
    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, data)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// The connections for the server.
pub type Incoming = ReceiverStream<io::Result<PeerStream>>;

/// Accepts connections with client certificates that the Fleet admits. Ends with `stop`.
pub fn mtls(
    listener: TcpListener,
    pki: Arc<Pki>,
    connections: Arc<Connections>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Incoming {
    let (ready, incoming) = mpsc::channel(READY_QUEUE);
    let shake = move |hello: StartHandshake<TcpStream>, address: SocketAddr| {
        let (pki, connections) = (pki.clone(), connections.clone());
        async move {
            let io = hello.into_stream(pki.mtls()).await?;
            let shown = io
                .get_ref()
                .1
                .peer_certificates()
                .and_then(|chain| chain.first());
            let shown = shown.ok_or_else(|| io::Error::other("no client certificate"))?;
            let certificate =
                isyone_proto::tls::certificate_info(shown).map_err(io::Error::other)?;
            let left = u64::try_from(certificate.not_after - clock::now_seconds()).unwrap_or(0);
            let peer = Arc::new(Peer {
                certificate: Some(certificate),
                address,
            });
            let stream = PeerStream::new(io, peer.clone(), &connections, Duration::from_secs(left));
            // Check again: if it was revoked between the handshake and the line above, nobody else would cut it.
            if peer.certificate.as_ref().is_some_and(|c| !pki.admits(c)) {
                return Err(io::Error::other("certificate no longer accepted"));
            }
            Ok(stream)
        }
    };
    tokio::spawn(accept(listener, ready, stop, metrics, |_| true, shake));
    ReceiverStream::new(incoming)
}

/// Accepts connections without client certificates, short-lived and few per address. Ends with `stop`.
pub fn enroll(
    listener: TcpListener,
    pki: Arc<Pki>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Incoming {
    let (ready, incoming) = mpsc::channel(READY_QUEUE);
    let connections = Arc::<Connections>::default();
    let mut rate = RateLimit::default();
    let may_connect =
        move |address: SocketAddr| rate.admits(lobby::origin(address.ip()), Instant::now());
    let shake = move |hello: StartHandshake<TcpStream>, address: SocketAddr| {
        let (pki, connections) = (pki.clone(), connections.clone());
        async move {
            let io = hello.into_stream(pki.enroll()).await?;
            let peer = Arc::new(Peer {
                certificate: None,
                address,
            });
            Ok(PeerStream::new(io, peer, &connections, ENROLMENT_LIFETIME))
        }
    };
    tokio::spawn(accept(listener, ready, stop, metrics, may_connect, shake));
    ReceiverStream::new(incoming)
}

/// A connection without a client certificate, and where it is from.
pub type Visitor = (TlsStream<TcpStream>, SocketAddr);

/// Accepts connections of edges on other machines: TLS alone, they show a token later. Ends with `stop`.
pub fn edges(
    listener: TcpListener,
    pki: Arc<Pki>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> ReceiverStream<io::Result<Visitor>> {
    let (ready, incoming) = mpsc::channel(READY_QUEUE);
    let shake = move |hello: StartHandshake<TcpStream>, address: SocketAddr| {
        let pki = pki.clone();
        async move { Ok((hello.into_stream(pki.edges()).await?, address)) }
    };
    tokio::spawn(accept(listener, ready, stop, metrics, |_| true, shake));
    ReceiverStream::new(incoming)
}

/// Why a connection did not become a stream.
enum Failure {
    Refused(Refused),
    Handshake(io::Error),
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Handshake(error)
    }
}

async fn accept<T, F>(
    listener: TcpListener,
    ready: mpsc::Sender<io::Result<T>>,
    stop: CancellationToken,
    metrics: Arc<Metrics>,
    mut may_connect: impl FnMut(SocketAddr) -> bool,
    shake: impl Fn(StartHandshake<TcpStream>, SocketAddr) -> F + Clone + Send + Sync + 'static,
) where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
{
    let lobby = Arc::new(Lobby::default());
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            () = ready.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept failed: is LimitNOFILE high enough?");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let place = if may_connect(address) {
            lobby.enter(address.ip())
        } else {
            Err(Refused::Rate)
        };
        let place = match place {
            Ok(place) => place,
            Err(refused) => {
                tracing::debug!(%address, reason = %refused, "connection refused");
                metrics.refused(refused);
                continue;
            }
        };
        let _ = tcp.set_nodelay(true);
        let (shake, ready, metrics) = (shake.clone(), ready.clone(), metrics.clone());
        tokio::spawn(async move {
            match welcome(place, tcp, |hello| shake(hello, address)).await {
                Ok(stream) => drop(ready.send(Ok(stream)).await),
                Err(Failure::Refused(refused)) => {
                    tracing::info!(%address, reason = %refused, "connection refused");
                    metrics.refused(refused);
                }
                Err(Failure::Handshake(error)) => {
                    tracing::info!(%address, reason = error_chain(&error), "connection refused");
                    metrics.refused(Refused::Handshake);
                }
            }
        });
    }
}

/// Turns a connection into a stream; frees the place when it ends.
async fn welcome<T, F>(
    mut place: Place,
    tcp: TcpStream,
    shake: impl FnOnce(StartHandshake<TcpStream>) -> F,
) -> Result<T, Failure>
where
    F: Future<Output = io::Result<T>>,
{
    let late = Instant::now() + HANDSHAKE_TIMEOUT;
    let hello = timeout_at(late, place.listen(hello::read(tcp))).await;
    let hello = hello.map_err(|_| Refused::Silent)???;
    let turn = timeout_at(late, place.turn())
        .await
        .map_err(|_| Refused::Queue)??;
    tokio::select! {
        _ = turn => Err(Refused::Displaced.into()),
        shaken = timeout_at(late, shake(hello)) => Ok(shaken.map_err(|_| Refused::Slow)??),
    }
}
