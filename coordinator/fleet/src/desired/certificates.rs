//! Certificates of tenants' host names, as stored. They are part of the Fleet because they come from orders that
//! outlive a request, every edge's configuration is a view of them, and the store has only one user, the writer.
//!
//! Not here: agents' and operators' certificates (desired), which certificates to order (orders), and ordering them
//! (the coordinator's edges/acme).

use isyone_types::plan::UnixMs;
use serde::{Deserialize, Serialize};

use super::Sealed;

/// Issue times to remember. The authority's weekly limit for one name is lower, so a longer list would change no
/// decision.
pub const MAX_ISSUED: usize = 8;
/// How long an issued certificate counts against the authority's limits.
pub const WEEK_MS: i64 = 7 * 86_400_000;

/// Where a certificate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Ordered and renewed by the coordinator.
    Acme,
    /// Uploaded by an operator, who renews it by uploading another one.
    Uploaded,
}

/// A certificate that edges serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeCertificate {
    /// An ordered certificate's host name (`alfa.isy.one`, `*.isy.one`), or an uploaded one's name. The latter has no
    /// dot, so the two never clash.
    pub name: String,
    pub origin: Origin,
    /// Host names that it covers; a star stands for one label.
    pub hostnames: Vec<String>,
    /// Serial number, hex.
    pub serial: String,
    pub issuer: String,
    /// Start of validity, seconds since the Unix epoch.
    pub not_before: i64,
    /// End of validity, seconds since the Unix epoch.
    pub not_after: i64,
    /// The chain, PEM, leaf first.
    pub chain_pem: String,
    /// Its private key, PEM, sealed.
    pub key: Sealed,
    /// When it was issued to us during the last week, newest last; at most [`MAX_ISSUED`].
    pub issued: Vec<UnixMs>,
}

impl EdgeCertificate {
    /// What a certificate's key is sealed for: it does not open under another name.
    pub fn sealed_for(name: &str) -> String {
        format!("certificate/{name}")
    }

    /// Whether it covers a host name, whatever the time.
    pub fn covers(&self, hostname: &str) -> bool {
        self.hostnames
            .iter()
            .any(|name| isyone_types::spec::covers(name, hostname) || name == hostname)
    }
}

/// A host name whose certificate order has failed so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateTrouble {
    pub name: String,
    /// Failed orders since the last success.
    pub failures: u32,
    /// When the last order failed.
    pub at: UnixMs,
    /// No new order before this time.
    pub retry_at: UnixMs,
    /// Why the last order failed.
    pub error: String,
}

/// Our account with the certificate authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcmeAccount {
    /// URL of the ACME directory that the account belongs to; it is useless with another one.
    pub directory: String,
    /// Account URL and private key, sealed.
    pub credentials: Sealed,
}
