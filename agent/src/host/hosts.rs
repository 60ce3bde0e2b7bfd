//! Where the fleet's hosts are, as the coordinator said last; kept on disk, so that they stay closed to tenants while it is away.
//!
//! Not here: the rules (plan::firewall), this host's own address (agent.toml).

use std::{collections::BTreeSet, io, net::IpAddr, path::PathBuf};

use tokio::sync::watch;

use super::written::Written;
use crate::base::fsutil;

/// The list and its file.
#[derive(Debug)]
pub struct Hosts {
    file: Written,
    known: watch::Sender<BTreeSet<IpAddr>>,
}

impl Hosts {
    /// Reads the file `path`; without one, no host is known yet.
    pub fn open(path: PathBuf) -> Self {
        let stored = fsutil::read(&path).ok();
        let known = stored.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self {
            file: Written::new(path, false),
            known: watch::Sender::new(known.unwrap_or_default()),
        }
    }

    /// Replaces the whole list. It counts even where it cannot be written down.
    pub fn replace(&self, hosts: BTreeSet<IpAddr>) -> io::Result<()> {
        if *self.known.borrow() == hosts {
            return Ok(());
        }
        self.file.replace(&bytes(&hosts), || {
            self.known.send_replace(hosts.clone());
        })
    }

    /// Writes the list down if that has failed.
    pub fn write_again(&self) -> io::Result<()> {
        self.file.again(|| bytes(&self.known.borrow()))
    }

    /// The list as it is now.
    pub fn known(&self) -> BTreeSet<IpAddr> {
        self.known.borrow().clone()
    }

    /// The list, now and whenever it changes.
    pub fn subscribe(&self) -> watch::Receiver<BTreeSet<IpAddr>> {
        self.known.subscribe()
    }
}

/// Serialising a set of addresses cannot fail.
fn bytes(hosts: &BTreeSet<IpAddr>) -> Vec<u8> {
    serde_json::to_vec(hosts).unwrap_or_default()
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

    /// Fails where a list that could not be written down stays so until it changes: the next start knows none of these hosts.
    #[test]
    fn what_could_not_be_written_down_is_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts.json");
        let hosts = BTreeSet::from(["192.0.2.1".parse().unwrap()]);
        let known = Hosts::open(path.clone());
        std::fs::create_dir(&path).unwrap();
        assert!(known.replace(hosts.clone()).is_err());
        assert_eq!(*known.subscribe().borrow(), hosts, "it counts at once");
        assert!(known.write_again().is_err());
        std::fs::remove_dir(&path).unwrap();
        known.write_again().unwrap();
        assert_eq!(*Hosts::open(path.clone()).subscribe().borrow(), hosts);
        std::fs::remove_file(&path).unwrap();
        known.write_again().unwrap();
        assert!(!path.exists(), "once");
    }
}
