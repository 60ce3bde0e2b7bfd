//! What the agent asks of the relay that runs, through its unix socket.
//!
//! Not here: what is done about the answers (the parent, keep).

use std::{io, path::PathBuf, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use isyone_proto::ids::TenantName;
use isyone_relay::{Health, OfTenant};
use tokio::{net::UnixStream, time::timeout};

use crate::base::config::DataDir;

/// For a question and its answer: it is a process of this host, which answers from memory.
const ANSWER: Duration = Duration::from_secs(2);
/// Most bytes of an answer: a page with some 40 figures of each of a thousand tenants.
const MAX_BYTES: usize = 4 << 20;

/// The way to the relay.
#[derive(Debug, Clone)]
pub struct Admin(PathBuf);

impl Admin {
    /// The relay of this data directory.
    pub fn new(data: &DataDir) -> Self {
        Self(data.relay().join("admin.sock"))
    }

    /// Where it is asked.
    pub fn path(&self) -> &PathBuf {
        &self.0
    }

    /// Whether that error says that no relay runs, rather than that one does not answer.
    pub fn is_nobody(error: &io::Error) -> bool {
        matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
        )
    }

    /// How it does.
    pub async fn health(&self) -> io::Result<Health> {
        self.json("/health").await
    }

    /// Has it look at its routes at once. It does so beside its answer.
    pub async fn reload(&self) -> io::Result<Health> {
        self.json("/reload").await
    }

    /// What there is of a tenant; `None`: it has no route.
    pub async fn of_tenant(&self, name: &TenantName) -> io::Result<Option<OfTenant>> {
        let all: Vec<OfTenant> = self.json("/tenants").await?;
        Ok(all.into_iter().find(|one| one.name == name.as_str()))
    }

    /// Its page for Prometheus.
    pub async fn metrics(&self) -> io::Result<Bytes> {
        self.ask("/metrics").await
    }

    async fn json<T: serde::de::DeserializeOwned>(&self, path: &str) -> io::Result<T> {
        let body = self.ask(path).await?;
        serde_json::from_slice(&body).map_err(io::Error::other)
    }

    async fn ask(&self, path: &str) -> io::Result<Bytes> {
        let answered = timeout(ANSWER, self.exchange(path)).await;
        answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn exchange(&self, path: &str) -> io::Result<Bytes> {
        let stream = UnixStream::connect(&self.0).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let request = hyper::Request::get(path)
            .header("host", "localhost")
            .header("connection", "close")
            .body(Empty::<Bytes>::new())
            .map_err(io::Error::other)?;
        let exchange = async {
            let answer = sender.send_request(request).await;
            let answer = answer.map_err(io::Error::other)?;
            if answer.status() != 200 {
                let text = format!("it answered {} to {path}", answer.status());
                return Err(io::Error::other(text));
            }
            let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
            Ok(body.map_err(io::Error::other)?.to_bytes())
        };
        tokio::pin!(connection);
        tokio::pin!(exchange);
        // Drives the connection for as long as the exchange takes, and no longer.
        tokio::select! {
            done = &mut exchange => done,
            ended = &mut connection => match ended {
                Ok(()) => exchange.await,
                Err(e) => Err(io::Error::other(e)),
            },
        }
    }
}
