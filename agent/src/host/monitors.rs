//! Who may scrape this host: the certificates that the coordinator sent, kept on disk so that they also apply while
//! it is unreachable.
//!
//! Not here: the port (metrics::server).

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use isyone_proto::tls::{CertificateInfo, Identity, OperatorRole};
use serde::Deserialize;

use super::written::Written;
use crate::base::fsutil;

/// Longer lists are a mistake; the coordinator sends at most this many.
pub const MAX_MONITORS: usize = 64;
/// A serial number has at most 20 octets.
const MAX_SERIAL_CHARS: usize = 42;
/// SHA-256, hex.
const SHA256_CHARS: usize = 64;

/// By serial number, the fingerprint that the certificate must have; empty: a coordinator of before has told none.
type Known = BTreeMap<String, String>;

#[derive(Debug)]
pub struct Monitors {
    file: Written,
    known: ArcSwap<Known>,
}

/// The file's content. A version before wrote the serial numbers alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Known(Known),
    Serials(Vec<String>),
}

impl Monitors {
    /// Reads the file `path`; without one, nobody may scrape until the coordinator has said who may.
    pub fn open(path: PathBuf) -> Self {
        let stored = fsutil::read(&path).ok();
        let stored = stored.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let known = match stored {
            Some(Stored::Known(known)) => known,
            Some(Stored::Serials(serials)) => {
                serials.into_iter().map(|s| (s, String::new())).collect()
            }
            None => Known::new(),
        };
        Self {
            file: Written::new(path, true),
            known: ArcSwap::from_pointee(known),
        }
    }

    /// Replaces the whole list. Writes it before using it: a revocation must survive a restart.
    pub fn replace(&self, serials: Vec<String>, sha256: Vec<String>) -> io::Result<()> {
        let sha256 = sha256.into_iter().chain(std::iter::repeat(String::new()));
        let known: Known = serials
            .into_iter()
            .zip(sha256)
            .filter(|(serial, sha256)| {
                serial.len() <= MAX_SERIAL_CHARS && matches!(sha256.len(), 0 | SHA256_CHARS)
            })
            .take(MAX_MONITORS)
            .collect();
        if **self.known.load() == known {
            return Ok(());
        }
        let known = Arc::new(known);
        self.file
            .replace(&bytes(&known), || self.known.store(known.clone()))
    }

    /// Writes the list down if that has failed.
    pub fn write_again(&self) -> io::Result<()> {
        self.file.again(|| bytes(&self.known.load()))
    }

    /// Whether the owner of a certificate (signed by our CA) may scrape now.
    pub fn allow(&self, certificate: &CertificateInfo) -> bool {
        matches!(
            certificate.identity,
            Identity::Operator(_, OperatorRole::Monitor)
        ) && self
            .known
            .load()
            .get(&certificate.serial_hex())
            .is_some_and(|sha256| sha256.is_empty() || *sha256 == certificate.sha256_hex())
    }
}

/// Serialising a map of strings cannot fail.
fn bytes(known: &Known) -> Vec<u8> {
    serde_json::to_vec(known).unwrap_or_default()
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
            sha256: [0; 32],
        }
    }

    #[test]
    fn only_listed_monitors_may_scrape_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("monitors.json");
        let monitor = certificate("spiffe://isyone/operator/prometheus/monitor", 0xab);
        let monitors = Monitors::open(path.clone());
        assert!(!monitors.allow(&monitor));
        monitors.replace(vec!["ab".into()], Vec::new()).unwrap();
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
        monitors.replace(Vec::new(), Vec::new()).unwrap();
        assert!(!monitors.allow(&monitor) && !Monitors::open(path).allow(&monitor));
    }

    #[test]
    fn a_certificate_with_a_listed_serial_number_must_be_the_listed_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("monitors.json");
        std::fs::write(&path, r#"["ab"]"#).unwrap();
        let monitor = certificate("spiffe://isyone/operator/prometheus/monitor", 0xab);
        let monitors = Monitors::open(path.clone());
        assert!(monitors.allow(&monitor), "a list of a version before");
        let listed = |sha256: &str| monitors.replace(vec!["ab".into()], vec![sha256.to_owned()]);
        listed(&hex::encode([0; 32])).unwrap();
        let forged = CertificateInfo {
            sha256: [1; 32],
            ..monitor.clone()
        };
        for monitors in [&monitors, &Monitors::open(path)] {
            assert!(monitors.allow(&monitor) && !monitors.allow(&forged));
        }
        listed("short").unwrap();
        assert!(!monitors.allow(&monitor));
    }
}
