//! Asks a tenant's Odoo for its own metrics, with the tenant's token. The answer is under the customer's control: its
//! time and size are bounded, and only what the customer may report is passed on.
//!
//! Not here: who may ask (server), which lines pass (filter), what the figures mean (traffic).

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::filter;
use crate::plan::stack::HTTP_PORT;

/// Prometheus gives up after 10 s by default; the reason should reach it before that.
const TIMEOUT: Duration = Duration::from_secs(8);
/// Ten times the page of a busy Odoo with every label in use.
const MAX_BYTES: usize = 4 << 20;
/// URL path of Odoo's metrics.
const PATH: &str = "/metrics";

/// Why there is no page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// No answer in time.
    #[error("Odoo did not answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// It does not run, refuses the connection, or drops it.
    #[error("{0}")]
    Unreachable(String),
    /// Something other than metrics.
    #[error(
        "Odoo answered {0}: its module isyone_metrics is not loaded, or does not accept this host's token"
    )]
    Refused(u16),
}

/// What of an answer is kept.
#[derive(Debug, Clone, Copy)]
pub enum Kept {
    /// All that may be passed on.
    Page,
    /// The samples by such names.
    Samples(fn(&str) -> bool),
}

impl Kept {
    fn of(self, body: &[u8]) -> Bytes {
        let text = match self {
            Self::Page => filter::only_odoo(body),
            Self::Samples(wanted) => filter::only_samples(body, wanted),
        };
        text.into()
    }
}

/// The metrics of the Odoo at `address`.
pub async fn odoo(address: Ipv4Addr, token: &str, kept: Kept) -> Result<Bytes, RelayError> {
    let address = SocketAddr::from((address, HTTP_PORT));
    timeout(TIMEOUT, fetch(address, token, kept))
        .await
        .map_err(|_| RelayError::Timeout)?
}

async fn fetch(address: SocketAddr, token: &str, kept: Kept) -> Result<Bytes, RelayError> {
    let failed = |e: &dyn std::error::Error| RelayError::Unreachable(format!("Odoo: {e}"));
    let tcp = TcpStream::connect(address).await.map_err(|e| failed(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp))
        .await
        .map_err(|e| failed(&e))?;
    let request = hyper::Request::get(PATH)
        .header("host", "localhost")
        .header("user-agent", "isy-agent")
        .header("accept", "text/plain; version=0.0.4")
        .header("authorization", format!("Bearer {token}"))
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| failed(&e))?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|e| failed(&e))?;
        let plain = answer
            .headers()
            .get("content-type")
            .and_then(|v| v.to_str().ok())
            .is_some_and(|kind| {
                kind.starts_with("text/plain") || kind.starts_with("application/openmetrics-text")
            });
        if answer.status() != 200 || !plain {
            return Err(RelayError::Refused(answer.status().as_u16()));
        }
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
        let body =
            body.map_err(|e| RelayError::Unreachable(format!("Odoo's answer broke off: {e}")))?;
        Ok(kept.of(&body.to_bytes()))
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    // Drives the connection for as long as the exchange takes, and no longer.
    tokio::select! {
        done = &mut exchange => done,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(e) => Err(failed(&e)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    /// Answers once; the returned handle yields the request.
    async fn serve(answer: Vec<u8>) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0u8; 1024];
            let n = stream.read(&mut request).await.unwrap();
            let _ = stream.write_all(&answer).await;
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        (address, task)
    }

    #[tokio::test]
    async fn the_token_goes_along_and_only_what_is_odoos_comes_back() {
        let (address, task) = serve(
            b"HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n\r\nisyone_edge_up 0\nodoo_a 1\n"
                .to_vec(),
        )
        .await;
        let page = fetch(address, "secret", Kept::Page).await.unwrap();
        assert_eq!(
            page.split(|byte| *byte == b'\n').next().unwrap(),
            b"odoo_a 1"
        );
        assert!(!page.windows(6).any(|part| part == b"isyone"));
        assert!(
            task.await
                .unwrap()
                .to_lowercase()
                .contains("authorization: bearer secret")
        );
    }

    #[tokio::test]
    async fn what_is_no_metrics_is_not_passed_on() {
        let (address, _) = serve(
            b"HTTP/1.1 404 NOT FOUND\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n"
                .to_vec(),
        )
        .await;
        assert_eq!(
            fetch(address, "t", Kept::Page).await,
            Err(RelayError::Refused(404))
        );
        let (address, _) = serve(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi".to_vec(),
        )
        .await;
        assert_eq!(
            fetch(address, "t", Kept::Page).await,
            Err(RelayError::Refused(200))
        );
        let (address, _) = serve(Vec::new()).await;
        assert!(matches!(
            fetch(address, "t", Kept::Page).await,
            Err(RelayError::Unreachable(_))
        ));
    }

    #[tokio::test]
    async fn an_endless_page_is_cut_off() {
        let mut answer =
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n".to_vec();
        answer.resize(MAX_BYTES + (1 << 20), b'a');
        let (address, _) = serve(answer).await;
        assert!(matches!(
            fetch(address, "t", Kept::Page).await,
            Err(RelayError::Unreachable(_))
        ));
    }
}
