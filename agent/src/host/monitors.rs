//! Who may scrape this host: the serial numbers that the coordinator sent, kept on disk so that they also apply while
//! it is unreachable.
//!
//! Not here: the port (metrics::server).

use std::{collections::BTreeSet, io, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use isyone_proto::tls::{CertificateInfo, Identity, OperatorRole};

use crate::base::fsutil;

/// Longer lists are a mistake; the coordinator sends at most this many.
pub const MAX_SERIALS: usize = 64;
/// A serial number has at most 20 octets.
const MAX_SERIAL_CHARS: usize = 42;

#[derive(Debug)]
pub struct Monitors {
    path: PathBuf,
    serials: ArcSwap<BTreeSet<String>>,
}

impl Monitors {
    /// Reads the file `path`; without one, nobody may scrape until the coordinator has said who may.
    pub fn open(path: PathBuf) -> Self {
        let known: BTreeSet<String> = std::fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Self {
            path,
            serials: ArcSwap::from_pointee(known),
        }
    }

    /// Replaces the whole list. Writes it before using it: a revocation must survive a restart.
    pub fn replace(&self, serials: Vec<String>) -> io::Result<()> {
        let serials: BTreeSet<String> = serials
            .into_iter()
            .filter(|s| s.len() <= MAX_SERIAL_CHARS)
            .take(MAX_SERIALS)
            .collect();
        if **self.serials.load() == serials {
            return Ok(());
        }
        let serials = Arc::new(serials);
        let bytes = serde_json::to_vec(&*serials).unwrap_or_default(); // serialising a list of strings cannot fail
        let written = fsutil::write_atomic(&self.path, &bytes, 0o600, true);
        self.serials.store(serials);
        written
    }

    /// Whether the owner of a certificate (signed by our CA) may scrape now.
    pub fn allow(&self, certificate: &CertificateInfo) -> bool {
        matches!(
            certificate.identity,
            Identity::Operator(_, OperatorRole::Monitor)
        ) && self.serials.load().contains(&certificate.serial_hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(identity: &str, serial: u8) -> CertificateInfo {
        CertificateInfo {
            identity: identity.parse().unwrap(),
            serial: vec![serial],
            not_before: 0,
            not_after: 0,
            serves: false,
        }
    }

    #[test]
    fn only_listed_monitors_may_scrape_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("monitors.json");
        let monitor = certificate("spiffe://isyone/operator/prometheus/monitor", 0xab);
        let monitors = Monitors::open(path.clone());
        assert!(!monitors.allow(&monitor));
        monitors.replace(vec!["ab".into()]).unwrap();
        assert!(monitors.allow(&monitor));
        assert!(!monitors.allow(&certificate(
            "spiffe://isyone/operator/prometheus/monitor",
            0xac
        )));
        for other in [
            "spiffe://isyone/operator/ana/admin",
            "spiffe://isyone/agent/h1",
            "spiffe://isyone/coordinator",
        ] {
            assert!(!monitors.allow(&certificate(other, 0xab)), "{other}");
        }
        let monitors = Monitors::open(path.clone());
        assert!(monitors.allow(&monitor));
        monitors.replace(Vec::new()).unwrap();
        assert!(!monitors.allow(&monitor) && !Monitors::open(path).allow(&monitor));
    }
}
