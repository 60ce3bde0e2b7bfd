//! Connections of the HTTP ports: a bounded number, shared fairly between networks, each with time limits for a request's
//! head and for every piece of an answer, and each remembering the version that it last got. Who has shown a token has a
//! place that strangers cannot take.
//!
//! Not here: the answers (mod.rs), handshakes (ports/listener).

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
use isyone_proto::places::{Place, Places};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    task::JoinSet,
    time::Sleep,
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{
    base::metrics::{Metrics, Refused},
    ports::listener::Visitor,
};

/// Most open connections of those who have shown no token, and as many of those who have; one network may take all until
/// others come. Each edge has one, each Prometheus a few, visitors who get a page share their edge's.
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
    place: Place,
    /// Scope and entity tag of the configuration that this connection last got.
    given: Mutex<Option<(usize, String)>>,
}

impl Caller {
    /// It has shown a token: strangers cannot take its place.
    pub(super) fn mark_known(&self) {
        self.place.mark_known();
    }

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

/// Where connections come from.
pub(crate) enum Door {
    Plain(TcpListener),
    /// Handshakes are done.
    Tls(ReceiverStream<io::Result<Visitor>>),
}

/// A connection, whatever is below it.
trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Io for S {}

impl Door {
    /// The next connection; none when there will be no more.
    async fn next(&mut self) -> Option<io::Result<(Box<dyn Io>, SocketAddr)>> {
        match self {
            Self::Plain(listener) => Some(listener.accept().await.map(|(tcp, address)| {
                let _ = tcp.set_nodelay(true);
                (Box::new(tcp) as Box<dyn Io>, address)
            })),
            Self::Tls(incoming) => {
                let next = incoming.next().await?;
                Some(next.map(|(tls, address)| (Box::new(tls) as Box<dyn Io>, address)))
            }
        }
    }
}

/// Serves until `stop`, then lets answers in progress finish.
pub(crate) async fn serve(
    door: Door,
    router: Router,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let places = Places::new(MAX_CONNECTIONS, MAX_CONNECTIONS);
    serve_within(Arc::new(places), door, router, metrics, stop).await;
}

async fn serve_within(
    places: Arc<Places>,
    mut door: Door,
    router: Router,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = door.next() => accepted,
        };
        match accepted {
            Some(Ok((io, address))) => match places.enter(address.ip()) {
                Ok(place) => {
                    let caller = Caller {
                        address,
                        place,
                        given: Mutex::default(),
                    };
                    let (router, metrics, stop) = (router.clone(), metrics.clone(), stop.clone());
                    connections.spawn(connection(io, Arc::new(caller), router, metrics, stop));
                }
                Err(full) => {
                    tracing::debug!(%address, "connection refused: {full}");
                    metrics.refused(Refused::Full);
                }
            },
            Some(Err(error)) => {
                tracing::warn!(%error, "accept failed: is LimitNOFILE high enough?");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
            None => break,
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn connection(
    io: Box<dyn Io>,
    caller: Arc<Caller>,
    router: Router,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let (own, address) = (caller.clone(), caller.address);
    let answer = service_fn(move |mut request: Request<Incoming>| {
        caller.place.mark_heard();
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
        () = own.place.lost() => {
            tracing::debug!(%address, "connection cut: others came, and its network has the most");
            return metrics.refused(Refused::Displaced);
        }
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
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;

    async fn start(router: Router) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let door = Door::Plain(listener);
        let task = tokio::spawn(serve(door, router, Arc::default(), stop.clone()));
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

    async fn from(address: SocketAddr, last: u8) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, last], 0).into()).unwrap();
        socket.connect(address).await.unwrap()
    }

    /// The end of an answer; nothing if the connection was cut.
    async fn asked(tcp: &mut TcpStream) -> String {
        let request = tcp.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        if request.await.is_err() {
            return String::new();
        }
        let mut answer = [0; 512];
        let read = tokio::time::timeout(std::time::Duration::from_secs(3), tcp.read(&mut answer));
        let n = read.await.expect("an answer or an end").unwrap_or(0);
        let answer = String::from_utf8_lossy(&answer[..n]).into_owned();
        answer
            .chars()
            .rev()
            .take(3)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect()
    }

    #[tokio::test]
    async fn a_crowd_of_one_network_costs_no_other_its_connection_nor_one_with_a_token() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let shows_token = |axum::Extension(caller): axum::Extension<Arc<Caller>>| async move {
            if caller.address.ip() == std::net::IpAddr::from([127, 0, 0, 3]) {
                caller.mark_known();
            }
            "yes"
        };
        let router = Router::new().route("/", get(shows_token));
        let places = Arc::new(Places::new(20, 20));
        let door = Door::Plain(listener);
        tokio::spawn(serve_within(
            places,
            door,
            router,
            Arc::default(),
            stop.clone(),
        ));
        let mut edge = from(address, 2).await;
        assert_eq!(asked(&mut edge).await, "yes");
        let mut with_token = from(address, 3).await;
        assert_eq!(asked(&mut with_token).await, "yes");
        let mut crowd = Vec::new();
        for _ in 0..60 {
            crowd.push(from(address, 3).await);
        }
        // A newcomer from elsewhere is answered, and so are those who were there.
        let mut newcomer = from(address, 4).await;
        assert_eq!(asked(&mut newcomer).await, "yes");
        assert_eq!(asked(&mut edge).await, "yes");
        assert_eq!(asked(&mut with_token).await, "yes");
        assert_eq!(
            asked(&mut crowd[0]).await,
            "",
            "the first of the crowd was cut"
        );
        stop.cancel();
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
