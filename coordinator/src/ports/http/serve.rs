//! Connections of the plain HTTP port: a bounded number, each with time limits for a request's head and for every piece
//! of an answer, and each remembering the version that it last got.
//!
//! Not here: the answers (mod.rs).

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, extract::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use isyone_proto::tls::CONNECT_TIMEOUT;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::Sleep,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::base::pki::Pki;

/// Most open connections; more wait to be accepted. Each edge has one, each Prometheus a few.
const MAX_CONNECTIONS: usize = 2_048;
/// For a request's head, and between two requests on one connection: twice Prometheus' usual interval.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// For the client to take the next piece of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest head of a request; ours have a few hundred bytes.
const HEAD_BYTES: usize = 16 * 1024;
/// Pause after `accept` failed (out of file descriptors): an immediate retry would spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The connection that a request came on. In every request's extensions.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) address: SocketAddr,
    /// Scope and entity tag of the configuration that this connection last got.
    given: Mutex<Option<(usize, String)>>,
}

impl Caller {
    /// Remembers what this connection got.
    pub(super) fn give(&self, scope: usize, etag: &str) {
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = Some((scope, etag.to_owned()));
    }

    /// The version of a scope that this connection last got.
    pub(super) fn given(&self, scope: usize) -> Option<String> {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given
            .as_ref()
            .filter(|given| given.0 == scope)
            .map(|given| given.1.clone())
    }
}

/// Serves until `stop`, then lets answers in progress finish. With an authority, over TLS.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Pki>>,
    router: Router,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accept = async {
            // The semaphore is never closed.
            let slot = slots.clone().acquire_owned().await.ok();
            listener
                .accept()
                .await
                .map(|(tcp, address)| (tcp, address, slot))
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((tcp, address, slot)) => {
                let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
                connections.spawn(async move {
                    let _ = tcp.set_nodelay(true);
                    match tls {
                        None => connection(tcp, address, router, stop).await,
                        Some(pki) => match handshake(&pki, tcp).await {
                            Ok(io) => connection(io, address, router, stop).await,
                            Err(error) => tracing::info!(%address, %error, "connection refused"),
                        },
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed: is LimitNOFILE high enough?");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn handshake(pki: &Pki, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let shake = TlsAcceptor::from(pki.edges()).accept(tcp);
    tokio::time::timeout(CONNECT_TIMEOUT, shake)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn connection(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: SocketAddr,
    router: Router,
    stop: CancellationToken,
) {
    let caller = Arc::new(Caller {
        address,
        given: Mutex::default(),
    });
    let answer = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        router.clone().oneshot(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES);
    let served = http.serve_connection(TokioIo::new(Patient::new(io)), answer);
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "connection ended");
    }
}

/// A stream whose writes wait no longer than [`WRITE_TIMEOUT`].
struct Patient<S> {
    io: S,
    /// Set while a write waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn new(io: S) -> Self {
        Self { io, deadline: None }
    }

    fn bound<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.deadline = None;
            return written;
        }
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_TIMEOUT)));
        deadline
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, data);
        self.bound(cx, written)
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
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, data);
        self.bound(cx, written)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn start(router: Router) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let task = tokio::spawn(serve(listener, None, router, stop.clone()));
        (address, stop, task)
    }

    #[tokio::test]
    async fn a_connection_answers_again_and_again_and_ends_with_the_stop() {
        let (address, stop, task) = start(Router::new().route("/", get(|| async { "yes" }))).await;
        let mut tcp = TcpStream::connect(address).await.unwrap();
        for _ in 0..2 {
            tcp.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .unwrap();
            let mut answer = [0; 512];
            let n = tcp.read(&mut answer).await.unwrap();
            assert!(String::from_utf8_lossy(&answer[..n]).ends_with("yes"));
        }
        stop.cancel();
        task.await.unwrap();
        assert_eq!(tcp.read(&mut [0; 8]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_finish_a_request_or_does_not_take_the_answer_is_cut() {
        let large = Router::new().route("/", get(|| async { vec![b'x'; 64 << 20] }));
        let (address, _stop, _task) = start(large).await;
        let began = tokio::time::Instant::now();
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nHos").await.unwrap();
        assert_eq!(slow.read(&mut [0; 64]).await.unwrap_or(0), 0);
        assert!(began.elapsed() >= HEAD_TIMEOUT && began.elapsed() < 2 * HEAD_TIMEOUT);
        let mut deaf = TcpStream::connect(address).await.unwrap();
        deaf.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        tokio::time::sleep(2 * WRITE_TIMEOUT).await;
        let mut taken = Vec::new();
        let _ = deaf.read_to_end(&mut taken).await;
        assert!(taken.len() < 64 << 20, "{}", taken.len());
    }
}
