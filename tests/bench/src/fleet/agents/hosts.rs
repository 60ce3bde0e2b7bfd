//! Where the fleet's hosts are, as simulated agents know it: as on a real agent's disk, for as long as the process lives.
//!
//! Ten thousand agents in one process cannot each have a list of ten thousand addresses: those that know the same share it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use isyone_agent::link::error::SessionError;
use isyone_proto::hosts::{HostsChange, digest};

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
    fn of(addresses: BTreeSet<IpAddr>) -> Self {
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

/// All lists that an agent knows, by digest.
#[derive(Default)]
pub(super) struct Lists(Mutex<BTreeMap<String, Weak<KnownHosts>>>);

impl Lists {
    /// The list that a change makes of one.
    pub(super) fn after(
        &self,
        known: &KnownHosts,
        change: HostsChange,
    ) -> Result<Arc<KnownHosts>, SessionError> {
        let addresses = change.of(&known.addresses);
        let made = addresses.map_err(|e| SessionError::Ended(e.to_string()))?;
        let made = Arc::new(KnownHosts::of(made));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = all.get(&made.sha256).and_then(Weak::upgrade) {
            return Ok(same);
        }
        all.retain(|_, list| list.strong_count() > 0);
        all.insert(made.sha256.clone(), Arc::downgrade(&made));
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use isyone_proto::hosts::{HostsAssembly, whole};

    use super::*;

    #[test]
    fn agents_that_know_the_same_share_it() {
        let lists = Lists::default();
        let list = BTreeSet::from([IpAddr::from([192, 0, 2, 1])]);
        let told = || {
            let part = whole(&list).remove(0);
            let change = HostsAssembly::default().add(part).unwrap().unwrap();
            lists.after(&KnownHosts::default(), change).unwrap()
        };
        let (one, other) = (told(), told());
        assert!(Arc::ptr_eq(&one, &other));
        assert_eq!(one.sha256(), digest(&list));
    }
}
