//! The coordinator's own certificate authority, its server certificate, and the TLS configurations made of them.
//!
//! Files in `<data_dir>/pki`: `ca.pem` (all trusted CAs; the one that `ca.key` belongs to signs), `ca.key`,
//! `server.pem`, `server.key`. They are looked at every few seconds: a changed file is taken up without a restart, and
//! the server certificate renews itself. Of a certificate request only the public key is used.
//!
//! Not here: which certificates are still accepted (the Fleet, asked through [`Admit`]), accepting connections (ports/listener).

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

/// How long our CA lives, seconds: replacing it means touching every host, so seldom.
const CA_TTL_S: i64 = 10 * 366 * 86_400;

/// Where the files are, and what the server certificate shall say.
#[derive(Debug, Clone)]
pub struct PkiConfig {
    /// `<data_dir>/pki`.
    pub dir: PathBuf,
    /// Names and addresses besides [`tls::COORDINATOR_NAME`].
    pub hosts: Vec<String>,
    /// Life of the server certificate, seconds.
    pub server_ttl_s: i64,
}

/// What is on disk, parsed.
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

/// Modification time, inode and size of `ca.pem`, `ca.key`, `server.pem`, `server.key`: times alone are too coarse.
type Stamp = [Option<(SystemTime, u64, u64)>; 4];

/// The authority as it is now.
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

/// Makes a new authority. Fails if there is one.
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
    /// Reads the authority; makes or renews the server certificate when that is due.
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

    /// TLS for the first contact: no client certificate, and our CA in the chain so that a joining agent finds the one
    /// it has the fingerprint of.
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

    /// End of our own certificate, seconds since the Unix epoch.
    pub fn server_not_after(&self) -> i64 {
        self.loaded.load().server.not_after
    }

    /// A certificate for an agent, which others know by the address `advertise`.
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

    /// A certificate for an operator.
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

    /// Whether the first certificate of a PEM text is of the CA that signs now.
    pub fn has_signed(&self, pem: &str) -> bool {
        issue::signed_by(pem, &self.loaded.load().signing_ca)
    }

    /// Renews the server certificate if due and takes up changed files. `true` when something changed. On an error the
    /// old state stays in use.
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
    // Before reading: a file that changes meanwhile is then seen as changed at the next look.
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

/// A server certificate that is ours, young enough, for these hosts and of the signing CA; else a new one is made.
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
    // Key first: between the two writes the pair does not match, and loading fails loudly rather than quietly.
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
