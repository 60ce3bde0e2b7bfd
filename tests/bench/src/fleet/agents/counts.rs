//! Counters shared by all agents, and how sessions end.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::time::Instant;

use super::super::wire::Status;

/// Number of different endings to keep apart.
const MAX_ENDINGS: usize = 20;

#[derive(Default)]
pub(super) struct Counts {
    pub(super) connected: AtomicUsize,
    pub(super) heard: AtomicUsize,
    pub(super) planned: AtomicUsize,
    pub(super) made: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) unreachable: AtomicU64,
    pub(super) cut: AtomicU64,
    pub(super) longest_owed_ms: AtomicU64,
    pub(super) sessions: AtomicU64,
    pub(super) owed: Mutex<BTreeMap<(Instant, usize), u64>>,
    pub(super) endings: Mutex<BTreeMap<String, u64>>,
}

impl Counts {
    pub(super) fn status(&self) -> Status {
        let owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = owed
            .keys()
            .next()
            .map_or(0, |(at, _)| at.elapsed().as_millis());
        Status {
            connected: self.connected.load(Relaxed),
            heard: self.heard.load(Relaxed),
            planned: self.planned.load(Relaxed),
            made: self.made.load(Relaxed),
            owed: owed.values().sum(),
            oldest_owed_ms: u64::try_from(oldest).unwrap_or(u64::MAX),
            longest_owed_ms: self.longest_owed_ms.load(Relaxed),
            failed: self.failed.load(Relaxed),
            unreachable: self.unreachable.load(Relaxed),
            cut: self.cut.load(Relaxed),
            sessions: self.sessions.load(Relaxed),
            endings: self
                .endings
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }

    /// Counts the end of a session, or of an attempt at one.
    pub(super) fn over(&self, ending: &Ending) {
        let counter = match ending {
            Ending::Cut => &self.cut,
            Ending::Unreachable => &self.unreachable,
            Ending::Failed => &self.failed,
        };
        counter.fetch_add(1, Relaxed);
    }

    pub(super) fn ended(&self, ending: String) {
        let mut endings = self.endings.lock().unwrap_or_else(PoisonError::into_inner);
        let other = endings.len() >= MAX_ENDINGS && !endings.contains_key(&ending);
        *endings
            .entry(if other { "other".to_owned() } else { ending })
            .or_default() += 1;
    }
}

/// Counts up while it exists.
pub(super) struct While<'a>(&'a AtomicUsize);

impl<'a> While<'a> {
    pub(super) fn begin(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Relaxed);
        Self(counter)
    }
}

impl Drop for While<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// How a session, or an attempt at one, ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// After one of its reports was acknowledged.
    Cut,
    /// Nothing listened at the port.
    Unreachable,
    /// Something listened, but no report was acknowledged.
    Failed,
}

impl Ending {
    pub(super) fn of(heard: bool, closed_port: bool) -> Self {
        match (heard, closed_port) {
            (true, _) => Self::Cut,
            (false, true) => Self::Unreachable,
            (false, false) => Self::Failed,
        }
    }
}

/// Whether an error means that nothing listens at the port. A server without capacity resets the connection, or stays
/// silent.
pub(super) fn is_closed_port(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arc_swap::ArcSwap;
    use isyone_proto::{pb::agent::v1::agent_service_client::AgentServiceClient, tls};
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    /// The error of a session at this port.
    async fn attempt(endpoint: &str) -> tonic::Status {
        let config = tls::pinned_config(&format!("sha256:{}", "0".repeat(64))).unwrap();
        let channel = tls::channel(endpoint, Arc::new(ArcSwap::new(config))).unwrap();
        let (_up, messages) = mpsc::channel(1);
        AgentServiceClient::new(channel)
            .session(ReceiverStream::new(messages))
            .await
            .unwrap_err()
    }

    #[tokio::test]
    async fn turned_away_at_an_open_port_is_no_closed_port() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let lobby = tokio::spawn(async move { listener.accept().await.map(drop) });
        let turned_away = attempt(&endpoint).await;
        lobby.await.unwrap().unwrap();
        assert!(!is_closed_port(&turned_away), "{turned_away:?}");
        let closed = attempt(&endpoint).await;
        assert!(is_closed_port(&closed), "{closed:?}");
    }

    #[test]
    fn what_an_ending_counts_as() {
        let all = Counts::default();
        for (heard, closed_port) in [(true, false), (false, true), (false, false), (false, false)] {
            all.over(&Ending::of(heard, closed_port));
        }
        let status = all.status();
        assert_eq!((status.cut, status.unreachable, status.failed), (1, 1, 2));
    }
}
