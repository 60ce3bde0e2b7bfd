//! The coordinator's own certificate authority, its server certificate, and the TLS configurations built from them.
//!
//! Files in `<data_dir>/pki`: `ca.pem` (all trusted CAs; the one that `ca.key` belongs to signs), `ca.key`,
//! `server.pem`, `server.key`. We look at them every few seconds: a changed file takes effect without a restart, and
//! the server certificate is renewed automatically. A certificate request contributes only its public key.
//!
//! Not here: which certificates are still accepted (the Fleet, asked through [`Admit`]), accepting connections
//! (ports/listener).

mod issue;
mod server;

use std::{
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use arc_swap::ArcSwap;
use isyone_proto::{
    ids::{HostName, ShortName},
    tls::{self, CertificateInfo, OperatorRole, TlsError},
};
use rcgen::{Issuer, KeyPair};
use rustls_pki_types::CertificateDer;
use tokio_rustls::rustls::ServerConfig;

pub use self::{
    issue::{Issued, PkiError},
    server::Admit,
};
use crate::base::files;

/// Lifetime of our CA, in seconds. Long, because replacing the CA means touching every host.
const CA_TTL_S: i64 = 10 * 366 * 86_400;

/// Where the files are, and what the server certificate contains.
#[derive(Debug, Clone)]
pub struct PkiConfig {
    /// `<data_dir>/pki`.
    pub dir: PathBuf,
    /// Names and addresses besides [`tls::COORDINATOR_NAME`].
    pub hosts: Vec<String>,
    /// Lifetime of the server certificate, in seconds.
    pub server_ttl_s: i64,
}

/// The parsed files.
struct Loaded {
    ca_pem: String,
    signing_ca: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    server: CertificateInfo,
    mtls: Arc<ServerConfig>,
    enroll: Arc<ServerConfig>,
    edges: Arc<ServerConfig>,
    stamp: Stamp,
}

/// Modification time, inode and size of `ca.pem`, `ca.key`, `server.pem`, `server.key`; times alone are too coarse.
type Stamp = [Option<(SystemTime, u64, u64)>; 4];

/// The authority's current state.
pub struct Pki {
    config: PkiConfig,
    admit: Admit,
    loaded: ArcSwap<Loaded>,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Makes a new authority. Fails if one exists.
pub fn create(dir: &Path, now_s: i64) -> Result<(), PkiError> {
    if dir.join("ca.key").exists() {
        return Err(PkiError::Exists(dir.to_owned()));
    }
    std::fs::create_dir_all(dir).map_err(|source| PkiError::Io {
        path: dir.to_owned(),
        source,
    })?;
    let (certificate, key) = issue::new_ca(now_s, CA_TTL_S)?;
    write(dir, "ca.key", &key, 0o600)?;
    write(dir, "ca.pem", &certificate, 0o644)
}

impl Pki {
    /// Reads the authority; makes or renews the server certificate if due.
    pub fn open(config: PkiConfig, admit: Admit, now_s: i64) -> Result<Self, PkiError> {
        ensure_server_certificate(&config, now_s)?;
        let loaded = ArcSwap::from_pointee(load(&config, &admit)?);
        Ok(Self {
            config,
            admit,
            loaded,
        })
    }

    /// TLS with client certificates.
    pub fn mtls(&self) -> Arc<ServerConfig> {
        self.loaded.load().mtls.clone()
    }

    /// TLS for the first contact: no client certificate, and our CA in the chain, so that a joining agent finds the CA
    /// whose fingerprint it has.
    pub fn enroll(&self) -> Arc<ServerConfig> {
        self.loaded.load().enroll.clone()
    }

    /// TLS for edges: no client certificate, HTTP/1.1.
    pub fn edges(&self) -> Arc<ServerConfig> {
        self.loaded.load().edges.clone()
    }

    /// Whether the Fleet still accepts a certificate.
    pub fn admits(&self, certificate: &CertificateInfo) -> bool {
        (self.admit)(certificate)
    }

    /// All CAs to trust, PEM.
    pub fn ca_pem(&self) -> String {
        self.loaded.load().ca_pem.clone()
    }

    /// Fingerprint of the signing CA, for join tokens.
    pub fn ca_pin(&self) -> String {
        tls::fingerprint(&self.loaded.load().signing_ca)
    }

    /// Expiry of our own server certificate, in seconds since the Unix epoch.
    pub fn server_not_after(&self) -> i64 {
        self.loaded.load().server.not_after
    }

    /// Issues a certificate for an agent, whose host others know by the address `advertise`.
    pub fn sign_agent(
        &self,
        csr_pem: &str,
        host: &HostName,
        advertise: IpAddr,
        ttl_s: i64,
        now_s: i64,
    ) -> Result<Issued, PkiError> {
        let life = issue::Life { now_s, ttl_s };
        issue::sign_host(&self.loaded.load().issuer, csr_pem, host, advertise, life)
    }

    /// Issues a certificate for an operator.
    pub fn sign_operator(
        &self,
        csr_pem: &str,
        name: &ShortName,
        role: OperatorRole,
        ttl_s: i64,
        now_s: i64,
    ) -> Result<Issued, PkiError> {
        let life = issue::Life { now_s, ttl_s };
        issue::sign_operator(&self.loaded.load().issuer, csr_pem, name, role, life)
    }

    /// Whether the CA that signs now has signed the first certificate of a PEM text.
    pub fn has_signed(&self, pem: &str) -> bool {
        issue::signed_by(pem, &self.loaded.load().signing_ca)
    }

    /// Renews the server certificate if due, and loads changed files. Returns `true` when something changed. On an
    /// error the old state stays in use.
    pub fn refresh(&self, now_s: i64) -> Result<bool, PkiError> {
        ensure_server_certificate(&self.config, now_s)?;
        if stamp(&self.config.dir) == self.loaded.load().stamp {
            return Ok(false);
        }
        self.loaded
            .store(Arc::new(load(&self.config, &self.admit)?));
        Ok(true)
    }
}

fn load(config: &PkiConfig, admit: &Admit) -> Result<Loaded, PkiError> {
    let dir = &config.dir;
    // Taken before reading, so that the next look notices a file that changes meanwhile.
    let stamp = stamp(dir);
    for name in ["ca.key", "server.key"] {
        if !files::is_private(&dir.join(name)) {
            return Err(PkiError::TooOpen(dir.join(name)));
        }
    }
    let ca_pem = read(dir, "ca.pem")?;
    let (signing_ca, issuer) = issue::load_issuer(&ca_pem, &read(dir, "ca.key")?)?;
    let server_pem = read(dir, "server.pem")?;
    let chain = tls::certificates("server certificate", &server_pem)?;
    let server = isyone_proto::tls::certificate_info(&chain[0])?;
    let key_pem = read(dir, "server.key")?;
    Ok(Loaded {
        mtls: server::mtls(
            &ca_pem,
            chain.clone(),
            tls::private_key(&key_pem)?,
            admit.clone(),
        )?,
        enroll: server::enroll(chain.clone(), &signing_ca, tls::private_key(&key_pem)?)?,
        edges: server::edges(chain, tls::private_key(&key_pem)?)?,
        ca_pem,
        signing_ca,
        issuer,
        server,
        stamp,
    })
}

/// Makes a new server certificate unless the present one is ours, young enough, for these hosts, and signed by the
/// signing CA.
fn ensure_server_certificate(config: &PkiConfig, now_s: i64) -> Result<(), PkiError> {
    let dir = &config.dir;
    let ca_pem = read(dir, "ca.pem")?;
    let (signing_ca, issuer) = issue::load_issuer(&ca_pem, &read(dir, "ca.key")?)?;
    if let Ok(pem) = std::fs::read_to_string(dir.join("server.pem"))
        && dir.join("server.key").exists()
        && issue::server_fits(&pem, &signing_ca, &config.hosts, now_s)
    {
        return Ok(());
    }
    let (certificate, key) = issue::new_server(&issuer, &config.hosts, config.server_ttl_s, now_s)?;
    // Write the key first: between the two writes the pair does not match, so loading fails loudly rather than
    // silently.
    write(dir, "server.key", &key, 0o600)?;
    write(dir, "server.pem", &certificate, 0o644)
}

fn stamp(dir: &Path) -> Stamp {
    ["ca.pem", "ca.key", "server.pem", "server.key"].map(|name| {
        std::fs::metadata(dir.join(name))
            .and_then(|m| Ok((m.modified()?, m.ino(), m.len())))
            .ok()
    })
}

fn read(dir: &Path, name: &str) -> Result<String, PkiError> {
    let path = dir.join(name);
    std::fs::read_to_string(&path).map_err(|source| PkiError::Io { path, source })
}

fn write(dir: &Path, name: &str, content: &str, mode: u32) -> Result<(), PkiError> {
    let path = dir.join(name);
    files::replace(&path, content.as_bytes(), mode).map_err(|source| PkiError::Io { path, source })
}

impl From<TlsError> for PkiError {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

#[cfg(test)]
mod tests;
