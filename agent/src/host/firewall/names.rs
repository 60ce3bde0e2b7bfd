//! Looks up the names that tenants may reach, and those of the control plane, which they may not; on a timer, a few at a time.
//!
//! The book of answers is kept on disk: after a restart without a name server the control plane must still be closed. Not here: how
//! long an answer counts (plan::names).

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use isyone_proto::network::DnsName;
use tokio::{
    net::lookup_host,
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    base::{clock::now_ms, fsutil},
    host::ledger::InForce,
    plan::names::{NameBook, wanted},
};

/// Between two rounds: an address that a name has newly got is open to tenants after at most this and the round itself.
const EVERY: Duration = Duration::from_secs(60);
/// The system's own resolver gives up sooner, as a rule.
const PATIENCE: Duration = Duration::from_secs(10);
/// Each look-up holds a thread.
const AT_ONCE: usize = 4;

/// Keeps the book of answers.
pub(super) struct Lookups {
    path: PathBuf,
    /// The control plane as this host calls it, if by name.
    endpoint: Option<DnsName>,
    book: watch::Sender<NameBook>,
    /// The book on disk is older: written again with the next round.
    unwritten: AtomicBool,
}

impl Lookups {
    /// Begins with the book on disk.
    pub(super) fn open(path: PathBuf, endpoint: Option<DnsName>) -> Self {
        let stored = fsutil::read(&path).ok();
        let book = stored.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self {
            path,
            endpoint,
            book: watch::Sender::new(book.unwrap_or_default()),
            unwritten: AtomicBool::new(false),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<NameBook> {
        self.book.subscribe()
    }

    /// Runs until `stop`.
    pub(super) async fn run(self, mut plans: watch::Receiver<InForce>, stop: CancellationToken) {
        let mut silent = BTreeSet::new();
        loop {
            let plan = plans.borrow_and_update().plan.clone();
            let names = plan.map(|plan| wanted(&plan, self.endpoint.as_ref()));
            let names = names.unwrap_or_default();
            let unanswered = tokio::select! {
                unanswered = self.round(&names) => unanswered,
                () = stop.cancelled() => return,
            };
            if unanswered != silent && !unanswered.is_empty() {
                let list: Vec<&str> = unanswered.iter().map(DnsName::as_str).take(10).collect();
                tracing::warn!(
                    count = unanswered.len(),
                    "names without an IPv4 address now, {} and so on; what they led to before counts on",
                    list.join(", ")
                );
            }
            silent = unanswered;
            tokio::select! {
                () = sleep(EVERY) => {}
                () = news(&mut plans, &names, self.endpoint.as_ref()) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Asks for each name once; returns those without an answer.
    async fn round(&self, names: &BTreeSet<DnsName>) -> BTreeSet<DnsName> {
        let look = |name: DnsName| async move {
            let found = look_up(name.as_str()).await;
            (name, found)
        };
        let answers: Vec<_> = stream::iter(names.iter().cloned().map(look))
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let (before, now) = (self.book.borrow().clone(), now_ms());
        let mut book = before.clone();
        book.keep(names);
        for (name, answer) in &answers {
            book.learn(name, answer, now);
        }
        let silent = answers.into_iter().filter(|(_, answer)| answer.is_empty());
        let silent = silent.map(|(name, _)| name).collect();
        if book == before && !self.unwritten.load(Ordering::Relaxed) {
            return silent;
        }
        // Serialising names and addresses cannot fail.
        let bytes = serde_json::to_vec(&book).unwrap_or_default();
        let written = fsutil::write_atomic(&self.path, &bytes, 0o600, false);
        self.unwritten.store(written.is_err(), Ordering::Relaxed);
        if let Err(e) = written {
            tracing::warn!("what names lead to cannot be written down, tried again: {e}");
        }
        if book != before {
            self.book.send_replace(book);
        }
        silent
    }
}

/// Ends when a plan has other names.
async fn news(
    plans: &mut watch::Receiver<InForce>,
    names: &BTreeSet<DnsName>,
    endpoint: Option<&DnsName>,
) {
    loop {
        if plans.changed().await.is_err() {
            return std::future::pending().await; // the agent stops
        }
        let plan = plans.borrow_and_update().plan.clone();
        if plan.is_some_and(|plan| wanted(&plan, endpoint) != *names) {
            return;
        }
    }
}

/// The addresses of a name; none when nobody says so in time.
async fn look_up(name: &str) -> Vec<Ipv4Addr> {
    let found = timeout(PATIENCE, lookup_host((name, 0))).await;
    let Ok(Ok(found)) = found else {
        return Vec::new();
    };
    let v4 = found.filter_map(|address| match address.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    v4.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::host_plan;

    #[tokio::test]
    async fn names_are_looked_up_and_written_down() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names.json");
        // Every machine knows this one, without a name server; its address is of no use to anybody.
        let lookups = Lookups::open(path.clone(), Some("localhost".parse().unwrap()));
        let names = wanted(&host_plan(1, Vec::new()), lookups.endpoint.as_ref());
        assert_eq!(names.len(), 1);
        lookups.round(&names).await;
        assert!(!path.exists(), "nothing was learnt");
        // What could not be written down is written with a later round, although nothing was learnt since.
        lookups.unwritten.store(true, Ordering::Relaxed);
        lookups.round(&names).await;
        assert!(path.exists() && !lookups.unwritten.load(Ordering::Relaxed));
        let known: DnsName = "coordinator.example.com".parse().unwrap();
        let mut book = NameBook::default();
        book.learn(&known, &[Ipv4Addr::new(192, 0, 2, 9)], now_ms());
        std::fs::write(&path, serde_json::to_vec(&book).unwrap()).unwrap();
        let again = Lookups::open(path, Some(known.clone()));
        assert_eq!(again.subscribe().borrow().closed(&known).len(), 1);
    }
}
