//! Certificates of tenants' host names, as stored. In the Fleet and not beside it: they come from orders that outlive a request, every
//! edge's configuration is a view of them, and the store has one user, the writer.
//!
//! Not here: agents' and operators' certificates (desired), which to get (orders), and getting them (the coordinator's edges/acme).

use isyone_types::plan::UnixMs;
use serde::{Deserialize, Serialize};

use super::Sealed;

/// Issue times remembered: the authority's weekly limit for one name is below this, so a fuller list changes no decision.
pub const MAX_ISSUED: usize = 8;
/// How long an issue counts against an authority's limits.
pub const WEEK_MS: i64 = 7 * 86_400_000;

/// How we came by a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Ordered by us, renewed by us.
    Acme,
    /// An operator's own; renewed by uploading another one.
    Uploaded,
}

/// A certificate that edges serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeCertificate {
    /// An ordered one's host name (`alfa.isy.one`, `*.isy.one`); an uploaded one's name, which has no dot, so the two never meet.
    pub name: String,
    pub origin: Origin,
    /// Host names that it is good for; a star stands for one label.
    pub hostnames: Vec<String>,
    /// Serial number, hex.
    pub serial: String,
    /// Who signed it.
    pub issuer: String,
    /// Begin of validity, seconds since the Unix epoch.
    pub not_before: i64,
    /// End of validity, seconds since the Unix epoch.
    pub not_after: i64,
    /// The chain as PEM, the leaf first.
    pub chain_pem: String,
    /// Its private key, PEM, sealed.
    pub key: Sealed,
    /// When we had it issued during the last week, newest last; at most [`MAX_ISSUED`].
    pub issued: Vec<UnixMs>,
}

impl EdgeCertificate {
    /// What a certificate's key is sealed for: it opens under no other name.
    pub fn sealed_for(name: &str) -> String {
        format!("certificate/{name}")
    }

    /// Whether it is good for a host name, whatever the time.
    pub fn covers(&self, hostname: &str) -> bool {
        self.hostnames
            .iter()
            .any(|name| isyone_types::spec::covers(name, hostname) || name == hostname)
    }
}

/// A host name for which no certificate could be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateTrouble {
    pub name: String,
    /// Failures since the last success.
    pub failures: u32,
    /// When the last one was.
    pub at: UnixMs,
    /// No new order before this time.
    pub retry_at: UnixMs,
    /// Why the last one failed.
    pub error: String,
}

/// Who we are to the certificate authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcmeAccount {
    /// URL of the directory that it is an account with; with another one it is of no use.
    pub directory: String,
    /// Address and private key, sealed.
    pub credentials: Sealed,
}
