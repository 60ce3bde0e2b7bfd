//! Where the fleet's hosts are, as the coordinator said last; kept on disk, so that they stay closed to tenants while it is away.
//!
//! Not here: the rules (plan::firewall), this host's own address (agent.toml).

use std::{collections::BTreeSet, io, net::IpAddr, path::PathBuf};

use tokio::sync::watch;

use crate::base::fsutil;

/// The list and its file.
#[derive(Debug)]
pub struct Hosts {
    path: PathBuf,
    known: watch::Sender<BTreeSet<IpAddr>>,
}

impl Hosts {
    /// Reads the file `path`; without one, no host is known yet.
    pub fn open(path: PathBuf) -> Self {
        let stored = fsutil::read(&path).ok();
        let known = stored.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self {
            path,
            known: watch::Sender::new(known.unwrap_or_default()),
        }
    }

    /// Replaces the whole list. It counts even where it cannot be written down.
    pub fn replace(&self, hosts: BTreeSet<IpAddr>) -> io::Result<()> {
        if *self.known.borrow() == hosts {
            return Ok(());
        }
        // Serialising a set of addresses cannot fail.
        let bytes = serde_json::to_vec(&hosts).unwrap_or_default();
        let written = fsutil::write_atomic(&self.path, &bytes, 0o600, false);
        self.known.send_replace(hosts);
        written
    }

    /// The list, now and whenever it changes.
    pub fn subscribe(&self) -> watch::Receiver<BTreeSet<IpAddr>> {
        self.known.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_outlives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts.json");
        let hosts = BTreeSet::from(["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]);
        Hosts::open(path.clone()).replace(hosts.clone()).unwrap();
        assert_eq!(*Hosts::open(path).subscribe().borrow(), hosts);
    }
}
