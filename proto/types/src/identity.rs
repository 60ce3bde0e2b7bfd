//! Who the owner of a certificate is, and what their role lets them do.
//!
//! Not here: reading certificates (proto's tls), and which of them are accepted (the Fleet).

use std::{fmt, str::FromStr};

use crate::ids::{HostName, ShortName};

/// A certificate without an isyone identity, or with an unknown role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the certificate names no isyone identity")]
pub struct NoIdentity;

/// The owner of a certificate: the URI `spiffe://isyone/<kind>/<name>[/<role>]` in its SAN.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// An agent: `spiffe://isyone/agent/<host>`.
    Agent(HostName),
    /// A person or program: `spiffe://isyone/operator/<name>/<role>`.
    Operator(ShortName, OperatorRole),
    /// The coordinator itself.
    Coordinator,
}

/// What an operator may do. Each role may do all that the roles before it may.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum OperatorRole {
    /// Scrapes hosts; over gRPC it may only ask for health.
    Monitor,
    /// Reads everything but secrets and logs; changes nothing.
    Viewer,
    /// Also works on tenants.
    Operator,
    /// Also works on hosts and operators.
    Admin,
}

impl fmt::Display for OperatorRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Monitor => "monitor",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

impl FromStr for OperatorRole {
    type Err = NoIdentity;
    fn from_str(text: &str) -> Result<Self, NoIdentity> {
        match text {
            "monitor" => Ok(Self::Monitor),
            "viewer" => Ok(Self::Viewer),
            "operator" => Ok(Self::Operator),
            "admin" => Ok(Self::Admin),
            _ => Err(NoIdentity),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(host) => write!(f, "spiffe://isyone/agent/{host}"),
            Self::Operator(name, role) => write!(f, "spiffe://isyone/operator/{name}/{role}"),
            Self::Coordinator => f.write_str("spiffe://isyone/coordinator"),
        }
    }
}

impl FromStr for Identity {
    type Err = NoIdentity;
    fn from_str(uri: &str) -> Result<Self, NoIdentity> {
        let path = uri.strip_prefix("spiffe://isyone/").ok_or(NoIdentity)?;
        match path.split('/').collect::<Vec<_>>()[..] {
            ["agent", host] => Ok(Self::Agent(host.parse().map_err(|_| NoIdentity)?)),
            ["operator", name, role] => Ok(Self::Operator(
                name.parse().map_err(|_| NoIdentity)?,
                role.parse()?,
            )),
            ["coordinator"] => Ok(Self::Coordinator),
            _ => Err(NoIdentity),
        }
    }
}

/// The fields of a certificate that isyone uses.
#[derive(Debug, Clone)]
pub struct CertificateInfo {
    /// Who it was issued to.
    pub identity: Identity,
    /// The serial number, big-endian, as in DER.
    pub serial: Vec<u8>,
    /// Start of validity, seconds since the Unix epoch.
    pub not_before: i64,
    /// End of validity, seconds since the Unix epoch.
    pub not_after: i64,
    /// Whether its owner may also use it as a TLS server (hosts do, on the port for scrapes).
    pub serves: bool,
    /// SHA-256 of the whole certificate as DER. A forged one may bear any name and serial number, but not this.
    pub sha256: [u8; 32],
}

impl CertificateInfo {
    /// The serial number as lists of accepted certificates spell it: lower-case hex.
    pub fn serial_hex(&self) -> String {
        hex::encode(&self.serial)
    }

    /// The fingerprint as lists of accepted certificates spell it: lower-case hex.
    pub fn sha256_hex(&self) -> String {
        hex::encode(self.sha256)
    }

    /// When to renew, seconds since the Unix epoch: after half of its lifetime.
    pub fn renew_at(&self) -> i64 {
        self.not_before + (self.not_after - self.not_before) / 2
    }

    /// Whether there is nothing to renew yet. One that begins in the future is of a clock that was wrong, and is refused by everybody
    /// until then.
    pub fn is_fresh(&self, now_s: i64) -> bool {
        self.not_before <= now_s && now_s < self.renew_at()
    }

    /// Whether it is accepted at that time.
    pub fn is_valid(&self, now_s: i64) -> bool {
        self.not_before <= now_s && now_s <= self.not_after
    }
}
