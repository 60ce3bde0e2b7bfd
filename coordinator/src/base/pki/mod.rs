//! The coordinator's own certificate authority, its server certificate, and the TLS configurations built from them.
//!
//! Files in `<data_dir>/pki`: `ca.pem` (all trusted CAs; the one that `ca.key` belongs to signs), `ca.key`,
//! `server.pem`, `server.key`; while the CA is being replaced also `rotation.json` and `ca.next.key` (rotation). We look at them every few seconds: a changed file takes effect without a restart, and
//! the server certificate is renewed automatically. A certificate request contributes only its public key.
//!
//! Not here: which certificates are still accepted (the Fleet, asked through [`Admit`]), accepting connections
//! (ports/listener).

mod issue;
pub mod rotation;
mod server;

use std::{
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use arc_swap::ArcSwap;
use isyone_proto::{
    ids::{HostName, ShortName},
    tls::{self, CertificateInfo, OperatorRole, TlsError},
};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_rustls::rustls::ServerConfig;

use self::{issue::Signer, rotation::Stage};
pub use self::{
    issue::{Issued, PkiError},
    rotation::Rotation,
    server::Admit,
};
use crate::base::files;

/// Lifetime of our CA, in seconds. Long: it is replaced on order, not by the calendar.
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
    /// Signs agents' and operators' certificates.
    signer: Signer,
    /// Fingerprint of the CA that signed our server certificate.
    server_ca: String,
    trust: Arc<Trust>,
    rotation: Option<Rotation>,
    server: CertificateInfo,
    mtls: Arc<ServerConfig>,
    enroll: Arc<ServerConfig>,
    edges: Arc<ServerConfig>,
    stamp: Stamp,
}

/// Modification time, inode and size of the files in [`FILES`]; times alone are too coarse.
type Stamp = [Option<(SystemTime, u64, u64)>; FILES.len()];

const FILES: [&str; 6] = [
    "ca.pem",
    "ca.key",
    "server.pem",
    "server.key",
    "rotation.json",
    rotation::NEXT_KEY,
];

/// Which CAs to trust, as everybody is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// All of them, PEM.
    pub ca_pem: String,
    /// SHA-256 of each as DER, hex; the first is the one that signs agents' and operators' certificates.
    pub sha256: Vec<String>,
}

/// The authority's current state.
pub struct Pki {
    config: PkiConfig,
    admit: Admit,
    loaded: ArcSwap<Loaded>,
    /// The trust in force; wakes those who pass it on.
    trust: watch::Sender<Arc<Trust>>,
    /// One change of the files at a time.
    changing: Mutex<()>,
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
        rotation::settle(&config.dir)?;
        ensure_server_certificate(&config, now_s)?;
        let loaded = load(&config, &admit)?;
        Ok(Self {
            config,
            admit,
            trust: watch::Sender::new(loaded.trust.clone()),
            loaded: ArcSwap::from_pointee(loaded),
            changing: Mutex::default(),
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
        (self.admit)(certificate, self.loaded.load().rotation.is_some())
    }

    /// All CAs to trust, PEM.
    pub fn ca_pem(&self) -> String {
        self.loaded.load().ca_pem.clone()
    }

    /// Fingerprint of the CA that signed our server certificate, for join tokens.
    pub fn ca_pin(&self) -> String {
        self.loaded.load().server_ca.clone()
    }

    /// Which CAs to trust, now and whenever it changes.
    pub fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }

    /// The replacement of the CA that is under way, if any.
    pub fn rotation(&self) -> Option<Rotation> {
        self.loaded.load().rotation.clone()
    }

    /// Whether the CA that signs now has signed the certificate with this serial number (hex), as far as that tells: certificates of versions
    /// before have other ones.
    pub fn signed_serial(&self, serial: &str) -> bool {
        issue::is_tagged(serial, self.loaded.load().signer.tag())
    }

    /// Begins to replace the CA: a new one is trusted, and does not sign yet.
    pub fn prepare_rotation(&self, overlap_s: i64, now_s: i64) -> Result<(), PkiError> {
        self.change(now_s, |dir| {
            rotation::prepare(dir, overlap_s, now_s).map(drop)
        })
    }

    /// Goes on without hosts that are away: nobody waits for them any more.
    pub fn leave_out(&self, hosts: &[HostName], now_s: i64) -> Result<(), PkiError> {
        self.change(now_s, |dir| rotation::leave_out(dir, hosts))
    }

    /// Lets the new CA sign.
    pub fn switch(&self, now_s: i64) -> Result<(), PkiError> {
        self.change(now_s, |dir| rotation::switch(dir, now_s))
    }

    /// Forgets the old CA: nothing that it signed is accepted from now on.
    pub fn retire(&self, now_s: i64) -> Result<(), PkiError> {
        self.change(now_s, rotation::retire)
    }

    fn change(
        &self,
        now_s: i64,
        change: impl FnOnce(&Path) -> Result<(), PkiError>,
    ) -> Result<(), PkiError> {
        {
            let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
            change(&self.config.dir)?;
        }
        self.refresh(now_s).map(drop)
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
        issue::sign_host(&self.loaded.load().signer, csr_pem, host, advertise, life)
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
        issue::sign_operator(&self.loaded.load().signer, csr_pem, name, role, life)
    }

    /// Whether a request is for the very key of a certificate, and from who holds that.
    pub fn same_key(
        &self,
        csr_pem: &str,
        certificate: &CertificateDer<'_>,
    ) -> Result<bool, PkiError> {
        issue::same_key(csr_pem, certificate)
    }

    /// Whether the CA that signs now has signed the first certificate of a PEM text.
    pub fn has_signed(&self, pem: &str) -> bool {
        issue::signed_by(pem, &self.loaded.load().signer.ca)
    }

    /// Renews the server certificate if due, and loads changed files. Returns `true` when something changed. On an
    /// error the old state stays in use.
    pub fn refresh(&self, now_s: i64) -> Result<bool, PkiError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        rotation::settle(&self.config.dir)?;
        ensure_server_certificate(&self.config, now_s)?;
        if stamp(&self.config.dir) == self.loaded.load().stamp {
            return Ok(false);
        }
        let loaded = load(&self.config, &self.admit)?;
        let trust = loaded.trust.clone();
        self.loaded.store(Arc::new(loaded));
        self.trust.send_if_modified(|known| {
            let changed = *known != trust;
            *known = trust;
            changed
        });
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
    let rotation = rotation::under_way(dir)?;
    let of_server = issue::load_issuer(&ca_pem, &read(dir, "ca.key")?)?;
    let server_ca = of_server.ca.clone();
    let signer = match rotation.as_ref().map(|rotation| rotation.stage) {
        Some(Stage::Switched | Stage::Retiring) => {
            if !files::is_private(&dir.join(rotation::NEXT_KEY)) {
                return Err(PkiError::TooOpen(dir.join(rotation::NEXT_KEY)));
            }
            issue::load_issuer(&ca_pem, &read(dir, rotation::NEXT_KEY)?)?
        }
        Some(Stage::Prepared) | None => of_server,
    };
    let server_pem = read(dir, "server.pem")?;
    let chain = tls::certificates("server certificate", &server_pem)?;
    let server = isyone_proto::tls::certificate_info(&chain[0])?;
    let key_pem = read(dir, "server.key")?;
    Ok(Loaded {
        mtls: server::mtls(
            &ca_pem,
            chain.clone(),
            tls::private_key(&key_pem)?,
            (admit.clone(), rotation.is_some()),
        )?,
        enroll: server::enroll(chain.clone(), &server_ca, tls::private_key(&key_pem)?)?,
        edges: server::edges(chain, tls::private_key(&key_pem)?)?,
        trust: Arc::new(trusted(&ca_pem, &signer)?),
        server_ca: tls::fingerprint(&server_ca),
        ca_pem,
        signer,
        rotation,
        server,
        stamp,
    })
}

/// What everybody is told, the CA that signs first.
fn trusted(ca_pem: &str, signer: &Signer) -> Result<Trust, PkiError> {
    let signing = tls::fingerprint(&signer.ca);
    let mut sha256 = rotation::fingerprints(ca_pem)?;
    sha256.retain(|ca| *ca != signing);
    sha256.insert(0, signing);
    Ok(Trust {
        ca_pem: ca_pem.to_owned(),
        sha256,
    })
}

/// Makes a new server certificate unless the present one is ours, young enough, for these hosts, and signed by the
/// signing CA.
fn ensure_server_certificate(config: &PkiConfig, now_s: i64) -> Result<(), PkiError> {
    let dir = &config.dir;
    let ca_pem = read(dir, "ca.pem")?;
    let signer = issue::load_issuer(&ca_pem, &read(dir, "ca.key")?)?;
    if let Ok(pem) = std::fs::read_to_string(dir.join("server.pem"))
        && dir.join("server.key").exists()
        && issue::server_fits(&pem, &signer.ca, &config.hosts, now_s)
    {
        return Ok(());
    }
    let (certificate, key) = issue::new_server(&signer, &config.hosts, config.server_ttl_s, now_s)?;
    // Write the key first: between the two writes the pair does not match, so loading fails loudly rather than
    // silently.
    write(dir, "server.key", &key, 0o600)?;
    write(dir, "server.pem", &certificate, 0o644)
}

fn stamp(dir: &Path) -> Stamp {
    FILES.map(|name| {
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
