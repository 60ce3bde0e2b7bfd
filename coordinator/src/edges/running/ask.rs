//! Asks an edge which configuration it runs: every document has a router whose name says so (isyone-traefik).
//!
//! Not here: when to ask, and what follows from the answer (mod.rs).

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::Empty;
use hyper::{Request, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use isyone_traefik::{VERSION_HEADER, VERSION_HOST};
use tokio::net::TcpStream;

/// An edge that builds its routes on a busy machine answers late; an edge behind a firewall never does.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Largest head of an answer; Traefik's has some 100 bytes.
const HEAD_BYTES: usize = 8 * 1024;

type Question = dyn Fn(IpAddr) -> BoxFuture<'static, Option<String>> + Send + Sync;

/// Asks the edge at an address. The answer is a document's version, or `None`: no answer, or not an edge's.
pub(super) struct Ask(Box<Question>);

impl Ask {
    /// Asks over HTTP, on this port of the edge.
    pub(super) fn on(port: u16) -> Self {
        Self::with(move |edge| {
            let asked = tokio::time::timeout(TIMEOUT, version(SocketAddr::new(edge, port)));
            Box::pin(async { asked.await.ok().flatten() })
        })
    }

    /// Asks with `question`, for tests.
    pub(super) fn with(
        question: impl Fn(IpAddr) -> BoxFuture<'static, Option<String>> + Send + Sync + 'static,
    ) -> Self {
        Self(Box::new(question))
    }

    pub(super) async fn version(&self, edge: IpAddr) -> Option<String> {
        (self.0)(edge).await
    }
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ask")
    }
}

async fn version(edge: SocketAddr) -> Option<String> {
    let tcp = TcpStream::connect(edge).await.ok()?;
    let mut http = http1::Builder::new();
    http.max_buf_size(HEAD_BYTES);
    let (mut sender, connection) = http.handshake(TokioIo::new(tcp)).await.ok()?;
    let question = Request::get("/")
        .header(HOST, VERSION_HOST)
        .body(Empty::<Bytes>::new())
        .ok()?;
    let answer = sender.send_request(question);
    tokio::pin!(answer);
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // The connection may end with the answer.
        _ = connection => answer.await,
    };
    answer
        .ok()?
        .headers()
        .get(VERSION_HEADER)?
        .to_str()
        .ok()
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    async fn answered(answer: &'static str) -> Option<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let edge = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let read = tcp.read(&mut head).await.unwrap();
            tcp.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&head[..read]).into_owned()
        });
        let version = Ask::on(edge.port()).version(edge.ip()).await;
        assert!(
            served
                .await
                .unwrap()
                .contains("host: edge.isyone.invalid\r\n")
        );
        version
    }

    #[tokio::test]
    async fn the_version_is_the_answers_header() {
        let teapot =
            "HTTP/1.1 418 I'm a teapot\r\nX-Isyone-Version: 0a1b\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(answered(teapot).await.as_deref(), Some("0a1b"));
        assert_eq!(
            answered("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await,
            None
        );
        assert_eq!(answered("SSH-2.0-nothing of ours\r\n").await, None);
    }
}
