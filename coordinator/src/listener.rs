//! Accepting connections: TLS handshakes off the accept loop, bounded in all and for one address, the peer's identity parsed once, and a switch
//! on every connection that cuts it from outside (revocation, certificate expiry, stop).
//!
//! Not here: TLS configurations (pki) and what is served (server).

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use isyone_proto::tls::{CertificateInfo, Identity, error_chain};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::{clock, pki::Pki};

mod limit;
mod lobby;
#[cfg(test)]
mod tests;

pub use limit::RateLimit;
use lobby::Lobby;

/// From being accepted to the end of the handshake, waiting included: clients give up after that time, so nothing is done for
/// one that is gone.
const HANDSHAKE_TIMEOUT: Duration = isyone_proto::tls::CONNECT_TIMEOUT;
/// After `accept` failed (out of file descriptors): trying again at once would spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Finished handshakes that wait for the server to take them.
const READY_QUEUE: usize = 64;
/// Open enrolment connections: joining takes one call, so this is hundreds a second.
const MAX_ENROLMENTS: usize = 256;
/// And none needs longer.
const ENROLMENT_LIFETIME: Duration = Duration::from_secs(30);

/// Who is at the other end. Lands in every request's extensions.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its certificate; none on the enrolment port.
    pub certificate: Option<CertificateInfo>,
    /// Where it connects from.
    pub address: SocketAddr,
}

impl Peer {
    /// Its identity, if it showed one.
    pub fn identity(&self) -> Option<&Identity> {
        self.certificate.as_ref().map(|c| &c.identity)
    }
}

/// All open connections, so that they can be cut.
#[derive(Debug, Default)]
pub struct Connections {
    open: Mutex<HashMap<u64, (Arc<Peer>, CancellationToken)>>,
    next: AtomicU64,
}

impl Connections {
    fn add(self: &Arc<Self>, peer: Arc<Peer>, cut: CancellationToken) -> Registration {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(id, (peer, cut));
        Registration { id, of: self.clone() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, (Arc<Peer>, CancellationToken)>> {
        // Nothing panics while holding the lock; the map is whole in any case.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts every connection whose certificate is no longer accepted; how many.
    pub fn cut_unless(&self, accepted: impl Fn(&CertificateInfo) -> bool) -> usize {
        let open = self.lock();
        let refused =
            open.values().filter(|(peer, _)| peer.certificate.as_ref().is_some_and(|c| !accepted(c)));
        refused.inspect(|(peer, cut)| {
            tracing::info!(peer = ?peer.identity().map(ToString::to_string), address = %peer.address, "certificate no longer accepted: connection cut");
            cut.cancel();
        }).count()
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.lock().len()
    }
}

struct Registration {
    id: u64,
    of: Arc<Connections>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.of.lock().remove(&self.id);
    }
}

type Cut = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection after its handshake.
pub struct PeerStream {
    io: TlsStream<TcpStream>,
    peer: Arc<Peer>,
    /// Resolves when the connection must end; `None` once it has.
    cut: Option<Cut>,
    _held: (Option<Registration>, Option<tokio::sync::OwnedSemaphorePermit>),
}

impl PeerStream {
    /// `Err` once the connection was cut; registers for waking otherwise.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let over = self.cut.as_mut().is_none_or(|cut| cut.as_mut().poll(cx).is_ready());
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
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
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

/// What the server takes its connections from.
pub type Incoming = ReceiverStream<io::Result<PeerStream>>;

/// Connections with client certificates that the Fleet admits. Ends with `stop`.
pub fn mtls(
    listener: TcpListener,
    pki: Arc<Pki>,
    connections: Arc<Connections>,
    stop: CancellationToken,
) -> Incoming {
    let (ready, incoming) = mpsc::channel(READY_QUEUE);
    let shake = move |tcp: TcpStream, address: SocketAddr| {
        let (pki, connections) = (pki.clone(), connections.clone());
        async move {
            let io = TlsAcceptor::from(pki.mtls()).accept(tcp).await?;
            let shown = io.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let shown = shown.ok_or_else(|| io::Error::other("no client certificate"))?;
            let certificate = CertificateInfo::parse(shown).map_err(io::Error::other)?;
            let cut = CancellationToken::new();
            let left = u64::try_from(certificate.not_after - clock::now_seconds()).unwrap_or(0);
            let expiry = tokio::time::sleep(Duration::from_secs(left));
            let peer = Arc::new(Peer { certificate: Some(certificate), address });
            let registration = connections.add(peer.clone(), cut.clone());
            // Revoked between the handshake and the line above: nobody would cut it any more.
            if peer.certificate.as_ref().is_some_and(|c| !pki.admits(c)) {
                return Err(io::Error::other("certificate no longer accepted"));
            }
            let cut: Cut = Box::pin(async move {
                tokio::select! { () = cut.cancelled_owned() => {}, () = expiry => {} }
            });
            Ok(PeerStream { io, peer, cut: Some(cut), _held: (Some(registration), None) })
        }
    };
    tokio::spawn(accept(listener, ready, stop, |_| true, shake));
    ReceiverStream::new(incoming)
}

/// Connections without client certificates, short-lived and few per address. Ends with `stop`.
pub fn enroll(listener: TcpListener, pki: Arc<Pki>, stop: CancellationToken) -> Incoming {
    let (ready, incoming) = mpsc::channel(READY_QUEUE);
    let slots = Arc::new(Semaphore::new(MAX_ENROLMENTS));
    let mut rate = RateLimit::default();
    let may_connect = move |address: SocketAddr| rate.take(address.ip(), tokio::time::Instant::now());
    let shake = move |tcp: TcpStream, address: SocketAddr| {
        let (pki, slots) = (pki.clone(), slots.clone());
        async move {
            let slot =
                slots.try_acquire_owned().map_err(|_| io::Error::other("too many enrolments at once"))?;
            let io = TlsAcceptor::from(pki.enroll()).accept(tcp).await?;
            let peer = Arc::new(Peer { certificate: None, address });
            let cut: Cut = Box::pin(tokio::time::sleep(ENROLMENT_LIFETIME));
            Ok(PeerStream { io, peer, cut: Some(cut), _held: (None, Some(slot)) })
        }
    };
    tokio::spawn(accept(listener, ready, stop, may_connect, shake));
    ReceiverStream::new(incoming)
}

async fn accept<F>(
    listener: TcpListener,
    ready: mpsc::Sender<io::Result<PeerStream>>,
    stop: CancellationToken,
    mut may_connect: impl FnMut(SocketAddr) -> bool,
    shake: impl Fn(TcpStream, SocketAddr) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = io::Result<PeerStream>> + Send + 'static,
{
    let lobby = Arc::new(Lobby::default());
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            () = ready.closed() => return,
            accepted = async {
                let room = lobby.room().await;
                listener.accept().await.map(|(tcp, address)| (tcp, address, room))
            } => accepted,
        };
        let (tcp, address, room) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept failed: is LimitNOFILE high enough?");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let place = if may_connect(address) { lobby.enter(room, address.ip()) } else { None };
        let Some(place) = place else {
            tracing::debug!(%address, "too many connections from this address");
            continue;
        };
        let _ = tcp.set_nodelay(true);
        let (shake, ready) = (shake.clone(), ready.clone());
        tokio::spawn(async move {
            let handshake = async {
                // Silence takes nobody's turn. (A look at the first byte: `readable` may be wrong.)
                tcp.peek(&mut [0]).await?;
                let _turn = place.turn().await;
                shake(tcp, address).await
            };
            let result = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await;
            drop(place);
            match result {
                Ok(Ok(stream)) => drop(ready.send(Ok(stream)).await),
                Ok(Err(error)) => {
                    tracing::info!(%address, reason = error_chain(&error), "connection refused")
                }
                Err(_) => tracing::info!(%address, reason = "handshake timed out", "connection refused"),
            }
        });
    }
}
