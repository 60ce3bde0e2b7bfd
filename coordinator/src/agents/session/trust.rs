//! Tells hosts which CAs to trust, and remembers which they do, so that the CA can be replaced without losing one.
//!
//! What hosts say is kept in memory only: each says it again when it connects. Not here: when the new CA may sign
//! (rotation), the CAs themselves (base/pki).

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use isyone_proto::{
    ids::HostName,
    pb::agent::v1::{Trust as Wire, coordinator_message},
};
use tonic::Status;

use super::{ToAgent, give, time_for};
use crate::base::pki::Pki;

/// Most CAs that a host may say it trusts; an agent takes no more.
const MAX_CAS: usize = 4;
/// SHA-256, hex.
const SHA256_CHARS: usize = 64;
/// Different answers of which hosts share one: before, during and after a rotation, each in two orders.
const MAX_SHARED: usize = 8;
/// Within this time all hosts renew at the latest, however many there are; documented in the protocol.
const LONGEST_SPREAD: Duration = Duration::from_secs(600);

/// Which CAs each host trusts, as it said last.
#[derive(Debug, Default)]
pub struct Trusts {
    said: Mutex<Said>,
}

/// By their SHA-256 in hex.
type Cas = Arc<[String]>;

#[derive(Debug, Default)]
struct Said {
    by_host: HashMap<HostName, Cas>,
    /// What was said lately, the newest first: thousands of hosts say the same.
    lately: VecDeque<Cas>,
}

impl Said {
    /// The same, in the memory of who said it before.
    fn shared(&mut self, cas: Vec<String>) -> Cas {
        let place = self.lately.iter().position(|one| **one == *cas);
        let same = place.and_then(|place| self.lately.remove(place));
        let one = same.unwrap_or_else(|| cas.into());
        self.lately.truncate(MAX_SHARED - 1);
        self.lately.push_front(one.clone());
        one
    }
}

impl Trusts {
    fn lock(&self) -> MutexGuard<'_, Said> {
        // Nothing panics while holding the lock.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host says that it trusts these, by their SHA-256 in hex.
    pub(super) fn say(&self, host: &HostName, mut sha256: Vec<String>) {
        sha256.retain(|one| one.len() == SHA256_CHARS);
        sha256.truncate(MAX_CAS);
        let mut said = self.lock();
        let cas = said.shared(sha256);
        said.by_host.insert(host.clone(), cas);
    }

    /// Whether a host trusts a CA; no while it has said nothing.
    pub fn has(&self, host: &HostName, sha256: &str) -> bool {
        let said = self.lock();
        said.by_host
            .get(host)
            .is_some_and(|all| all.iter().any(|one| one == sha256))
    }

    /// Whether a host has said anything: an agent of a version before does not.
    pub fn speaks(&self, host: &HostName) -> bool {
        let said = self.lock();
        said.by_host.get(host).is_some_and(|all| !all.is_empty())
    }

    /// Forgets hosts that are not in the fleet any more.
    pub fn keep(&self, known: impl Fn(&HostName) -> bool) {
        self.lock().by_host.retain(|host, _| known(host));
    }
}

/// Tells an agent that speaks of it which CAs to trust, now unless it does already, and whenever they change. Runs until
/// the agent stops taking messages; returns why.
pub(super) async fn send(
    pki: &Pki,
    said: Vec<String>,
    hosts: impl Fn() -> usize,
    to_agent: &ToAgent,
) -> Status {
    if said.is_empty() {
        return std::future::pending().await;
    }
    let mut trust = pki.trust();
    let mut known = pki.rotation().is_none() && same(&said, &trust.borrow().sha256);
    // Not for the months of the session.
    drop(said);
    loop {
        let now = trust.borrow_and_update().clone();
        if !known {
            let within = time_for(hosts()).min(LONGEST_SPREAD);
            let wire = Wire {
                ca_pem: now.ca_pem.clone(),
                signing_sha256: now.sha256.first().cloned().unwrap_or_default(),
                renew_within_ms: u32::try_from(within.as_millis()).unwrap_or(u32::MAX),
            };
            let told = coordinator_message::Message::Trust(wire);
            if let Err(status) = give(to_agent, told).await {
                return status;
            }
        }
        known = false;
        if trust.changed().await.is_err() {
            // Unreachable in practice: the authority lives as long as the sessions.
            return std::future::pending().await;
        }
    }
}

fn same(said: &[String], told: &[String]) -> bool {
    said.len() == told.len() && told.iter().all(|one| said.contains(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_says_is_bounded_and_goes_with_it() {
        let trusts = Trusts::default();
        let (h1, h2): (HostName, HostName) = ("h1".parse().unwrap(), "h2".parse().unwrap());
        let ca = |n: usize| format!("{n:064}");
        trusts.say(&h1, (0..9).map(ca).chain(["short".to_owned()]).collect());
        assert!(trusts.speaks(&h1) && trusts.has(&h1, &ca(3)) && !trusts.has(&h1, &ca(4)));
        assert!(!trusts.speaks(&h2) && !trusts.has(&h2, &ca(0)));
        trusts.say(&h2, Vec::new());
        assert!(!trusts.speaks(&h2));
        trusts.keep(|host| *host == h2);
        assert!(!trusts.speaks(&h1));
    }

    #[test]
    fn hosts_that_say_the_same_share_it() {
        let trusts = Trusts::default();
        let host = |n: usize| format!("h{n}").parse::<HostName>().unwrap();
        for n in 0..100 {
            trusts.say(&host(n), vec![format!("{:064}", n % 20)]);
            trusts.say(&host(n), vec![format!("{:064}", 7)]);
        }
        let said = trusts.lock();
        assert_eq!((said.by_host.len(), said.lately.len()), (100, MAX_SHARED));
        let first = &said.by_host[&host(0)];
        assert!(said.by_host.values().all(|cas| Arc::ptr_eq(cas, first)));
    }
}
