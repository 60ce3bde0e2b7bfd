//! Where the fleet's hosts are, as simulated agents know it: as on a real agent's disk, for as long as the process lives.
//!
//! Ten thousand agents in one process can neither each have a list of ten thousand addresses nor each make it of its messages,
//! as real ones do on as many machines: those that were told the same share the list and the work.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use isyone_agent::link::error::SessionError;
use isyone_proto::{
    hosts::{HostsAssembly, HostsChange, digest},
    pb::agent::v1::HostsPart,
};

/// One list.
pub(super) struct KnownHosts {
    addresses: BTreeSet<IpAddr>,
    sha256: String,
}

impl Default for KnownHosts {
    fn default() -> Self {
        Self::of(BTreeSet::new())
    }
}

impl KnownHosts {
    pub(super) fn of(addresses: BTreeSet<IpAddr>) -> Self {
        Self {
            sha256: digest(&addresses),
            addresses,
        }
    }

    /// What an agent says of it.
    pub(super) fn sha256(&self) -> &str {
        &self.sha256
    }
}

/// What one agent was told last, and had before; nearly always, the next is told the same.
#[derive(Default)]
pub(super) struct Lists(Mutex<Option<Told>>);

struct Told {
    /// The digest of the list before.
    before: String,
    parts: Vec<HostsPart>,
    list: Arc<KnownHosts>,
}

impl Lists {
    /// The list that the messages of one change make of another list.
    pub(super) fn after(
        &self,
        known: &KnownHosts,
        parts: Vec<HostsPart>,
    ) -> Result<Arc<KnownHosts>, SessionError> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = last.as_ref()
            && told.before == known.sha256
            && told.parts == parts
        {
            return Ok(told.list.clone());
        }
        let change = assembled(&parts)?;
        let addresses = change
            .of(&known.addresses)
            .map_err(|e| SessionError::Ended(e.to_string()))?;
        // Who came to the same list by another way has it already.
        let sha256 = digest(&addresses);
        let same = last.as_ref().filter(|told| told.list.sha256 == sha256);
        let list = match same {
            Some(told) => told.list.clone(),
            None => Arc::new(KnownHosts { addresses, sha256 }),
        };
        *last = Some(Told {
            before: known.sha256.clone(),
            parts,
            list: list.clone(),
        });
        Ok(list)
    }
}

fn assembled(parts: &[HostsPart]) -> Result<HostsChange, SessionError> {
    let mut assembly = HostsAssembly::default();
    for part in parts {
        let whole = assembly.add(part.clone());
        if let Some(change) = whole.map_err(|e| SessionError::Ended(e.to_string()))? {
            return Ok(change);
        }
    }
    Err(SessionError::Ended(
        "a list of hosts without an end".to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use isyone_proto::hosts::{changes, whole};

    use super::*;

    #[test]
    fn agents_that_are_told_the_same_share_it() {
        let lists = Lists::default();
        let list = |last| BTreeSet::from([1, last].map(|n| IpAddr::from([192, 0, 2, n])));
        let told = |known: &KnownHosts, parts| lists.after(known, parts).unwrap();
        let (nothing, few, other) = (KnownHosts::default(), list(2), list(3));
        let (one, two) = (told(&nothing, whole(&few)), told(&nothing, whole(&few)));
        assert!(Arc::ptr_eq(&one, &two));
        assert_eq!(one.sha256(), digest(&few));
        let changed = told(&one, changes(&few, &other));
        assert_eq!(changed.sha256(), digest(&other));
        let same = told(&nothing, whole(&other));
        assert!(Arc::ptr_eq(&changed, &same));
        assert!(lists.after(&nothing, Vec::new()).is_err());
    }
}
