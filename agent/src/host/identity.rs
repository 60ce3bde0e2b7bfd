//! This host's key and certificates: stored so that a crash never leaves a key without its certificate, swapped while
//! in use, reloaded when somebody changes the files.
//!
//! Not here: requesting certificates (link::join, link::renew).

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use isyone_proto::tls::{self, CertificateInfo, TlsError};
use tokio::sync::watch;
use tokio_rustls::rustls::{
    self, ClientConfig, RootCertStore, ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};

use crate::base::fsutil;

/// Why there is no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file system refuses.
    #[error("{path} cannot be read or written", path = .0.display())]
    Io(PathBuf, #[source] io::Error),
    /// The files are there but do not fit together.
    #[error("the identity in {path} cannot be used", path = .0.display())]
    Tls(PathBuf, #[source] TlsError),
}

/// The three files.
#[derive(Clone, PartialEq, Eq)]
pub struct Pems {
    pub key: String,
    pub certificate: String,
    /// CAs that must have issued the coordinator's certificate.
    pub ca: String,
}

const NAMES: [&str; 3] = ["key.pem", "certificate.pem", "ca.pem"];
/// Directory of a complete newer set that is about to be moved into place.
const NEXT: &str = "next";

impl Pems {
    fn parts(&self) -> [&str; 3] {
        [&self.key, &self.certificate, &self.ca]
    }

    /// Stores the set: first complete in a directory beside, then moved into place. [`Pems::load`] finishes what a
    /// crash interrupted.
    pub fn store(&self, dir: &Path) -> Result<(), IdentityError> {
        let failed = |e| IdentityError::Io(dir.to_owned(), e);
        let (tmp, next) = (dir.join("next.tmp"), dir.join(NEXT));
        let put = || {
            let _ = fsutil::remove_tree(&tmp); // left incomplete by a previous run
            fsutil::private_dir(&tmp)?;
            for (name, text) in NAMES.iter().zip(self.parts()) {
                fsutil::write_atomic(&tmp.join(name), text.as_bytes(), 0o600, true)?;
            }
            let _ = fsutil::remove_tree(&next);
            fsutil::rename(&tmp, &next)?;
            settle(dir)
        };
        put().map_err(failed)
    }

    /// Reads the set, after finishing an interrupted [`Pems::store`].
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        settle(dir).map_err(|e| IdentityError::Io(dir.to_owned(), e))?;
        let read = |name: &str| {
            fsutil::read_text(&dir.join(name)).map_err(|e| IdentityError::Io(dir.join(name), e))
        };
        Ok(Self {
            key: read(NAMES[0])?,
            certificate: read(NAMES[1])?,
            ca: read(NAMES[2])?,
        })
    }
}

/// Moves a complete newer set into place.
fn settle(dir: &Path) -> io::Result<()> {
    let next = dir.join(NEXT);
    if !fsutil::is_directory(&next) {
        return Ok(());
    }
    for name in NAMES {
        match fsutil::read(&next.join(name)) {
            Ok(bytes) => fsutil::write_atomic(&dir.join(name), &bytes, 0o600, true)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    fsutil::remove_tree(&next)
}

/// Most CAs that a coordinator may name: one, or while it replaces it two, and slack.
const MAX_CAS: usize = 4;
/// Their length as PEM, bytes; documented in the protocol.
const MAX_CA_BYTES: usize = 64 << 10;

/// The identity in use.
pub struct LiveIdentity {
    dir: PathBuf,
    /// One change of the files at a time: what is trusted and what we show come by different ways.
    changing: Mutex<()>,
    /// What the coordinator last said of its CAs asks for another certificate.
    wanted: watch::Sender<Option<Wanted>>,
    /// Counts the certificates that were renewed because of that.
    moved: watch::Sender<u64>,
    config: Arc<ArcSwap<ClientConfig>>,
    server: Arc<ArcSwap<ServerConfig>>,
    peers: Arc<ArcSwap<ServerConfig>>,
    now: Mutex<(CertificateInfo, Vec<Option<SystemTime>>)>,
}

impl LiveIdentity {
    /// Loads the files in `dir`.
    pub fn open(dir: PathBuf) -> Result<Self, IdentityError> {
        let pems = Pems::load(&dir)?;
        let Usable {
            client,
            server,
            info,
        } = usable(&dir, &pems)?;
        let stamps = stamps(&dir);
        let swap = |server: Arc<ServerConfig>| Arc::new(ArcSwap::from(server));
        Ok(Self {
            dir,
            changing: Mutex::default(),
            wanted: watch::Sender::new(None),
            moved: watch::Sender::new(0),
            config: Arc::new(ArcSwap::from(client)),
            peers: swap(for_peers(&server)),
            server: swap(server),
            now: Mutex::new((info, stamps)),
        })
    }

    /// For channels: each new connection uses the newest identity.
    pub fn config(&self) -> Arc<ArcSwap<ClientConfig>> {
        self.config.clone()
    }

    /// Likewise for the port that Prometheus scrapes.
    pub fn server(&self) -> Arc<ArcSwap<ServerConfig>> {
        self.server.clone()
    }

    /// Likewise for the port of other hosts' agents.
    pub fn peers(&self) -> Arc<ArcSwap<ServerConfig>> {
        self.peers.clone()
    }

    pub fn info(&self) -> CertificateInfo {
        self.now
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .clone()
    }

    /// Stores a new set and uses it. An invalid set changes nothing.
    pub fn replace(&self, pems: &Pems) -> Result<(), IdentityError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.put(pems)?;
        if self.wanted.send_replace(None).is_some() {
            self.moved.send_modify(|count| *count += 1);
        }
        Ok(())
    }

    fn put(&self, pems: &Pems) -> Result<(), IdentityError> {
        let usable = usable(&self.dir, pems)?;
        pems.store(&self.dir)?;
        self.adopt(usable);
        Ok(())
    }

    /// Trusts these CAs from now on, and no others; returns their fingerprints. If our certificate is not of the CA
    /// `signing`, another one is wanted within `within`. On disk and in use when it returns; on an error nothing has changed.
    pub fn trust(
        &self,
        ca_pem: &str,
        signing: &str,
        within: Duration,
    ) -> Result<Vec<String>, IdentityError> {
        let failed = |e| IdentityError::Tls(self.dir.clone(), e);
        let too_much = |why: &str| TlsError::Unreadable {
            what: "CA",
            why: why.to_owned(),
        };
        if ca_pem.len() > MAX_CA_BYTES {
            return Err(failed(too_much("more than 64 KiB")));
        }
        let named = tls::fingerprints("CA", ca_pem).map_err(failed)?;
        if named.len() > MAX_CAS || !named.iter().any(|ca| ca == signing) {
            return Err(failed(too_much("too many, or not the one that signs")));
        }
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let pems = Pems::load(&self.dir)?;
        let wanted = !tls::is_of(&pems.certificate, ca_pem, signing);
        if pems.ca != ca_pem {
            let ca = ca_pem.to_owned();
            self.put(&Pems { ca, ..pems })?;
        }
        self.wanted.send_if_modified(|now| {
            let changed = now.is_some() != wanted;
            if changed {
                *now = wanted.then_some(Wanted { within });
            }
            changed
        });
        Ok(named)
    }

    /// SHA-256 of the CAs that we trust, hex; none if the file cannot be read.
    pub fn trusted(&self) -> Vec<String> {
        let ca = fsutil::read_text(&self.dir.join(NAMES[2])).unwrap_or_default();
        tls::fingerprints("CA", &ca).unwrap_or_default()
    }

    /// Whether a certificate of another CA is wanted, and within what time; now and whenever it changes.
    pub fn wanted(&self) -> watch::Receiver<Option<Wanted>> {
        self.wanted.subscribe()
    }

    /// Changes when that has been done: what is open should be opened anew.
    pub fn moved(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// Reloads the files if they have changed on disk; returns whether they had.
    pub fn reload(&self) -> Result<bool, IdentityError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = self
            .now
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .clone();
        if stamps(&self.dir) == seen {
            return Ok(false);
        }
        self.adopt(usable(&self.dir, &Pems::load(&self.dir)?)?);
        Ok(true)
    }

    fn adopt(&self, usable: Usable) {
        self.config.store(usable.client);
        self.peers.store(for_peers(&usable.server));
        self.server.store(usable.server);
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = (usable.info, stamps(&self.dir));
    }
}

/// A certificate of another CA is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// A moment within this time suits: all hosts are told at once.
    pub within: Duration,
}

struct Usable {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    info: CertificateInfo,
}

/// TLS of the port that Prometheus scrapes: presents our certificate, requires a client certificate of our CA.
pub fn server_config(
    ca: &str,
    certificate: &str,
    key: &str,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    for ca in tls::certificates("CA", ca)? {
        roots.add(ca)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider())
        .build()
        .map_err(|e| TlsError::Unreadable {
            what: "CA",
            why: e.to_string(),
        })?;
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            tls::certificates("certificate", certificate)?,
            tls::private_key(key)?,
        )?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would not present its certificate again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The same for the port of other hosts' agents, who speak HTTP/2.
pub fn for_peers(server: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = server.clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

fn usable(dir: &Path, pems: &Pems) -> Result<Usable, IdentityError> {
    let failed = |e| IdentityError::Tls(dir.to_owned(), e);
    let client = tls::client_config(&pems.ca, &pems.certificate, &pems.key).map_err(failed)?;
    let server = server_config(&pems.ca, &pems.certificate, &pems.key).map_err(failed)?;
    let chain = tls::certificates("certificate", &pems.certificate).map_err(failed)?;
    let info = isyone_proto::tls::certificate_info(&chain[0]).map_err(failed)?; // never empty: `certificates` refuses that
    Ok(Usable {
        client,
        server,
        info,
    })
}

fn stamps(dir: &Path) -> Vec<Option<SystemTime>> {
    NAMES
        .iter()
        .map(|name| fsutil::modified(&dir.join(name)).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_while_storing_leaves_a_matching_set() {
        let dir = tempfile::tempdir().unwrap();
        let set = |n: &str| Pems {
            key: format!("k{n}"),
            certificate: format!("c{n}"),
            ca: "ca".into(),
        };
        set("1").store(dir.path()).unwrap();
        // Crashed after the commit, before everything was in place.
        let next = dir.path().join(NEXT);
        std::fs::create_dir(&next).unwrap();
        for (name, text) in NAMES.iter().zip(set("2").parts()) {
            std::fs::write(next.join(name), text).unwrap();
        }
        std::fs::write(dir.path().join("key.pem"), "k2").unwrap();
        assert!(Pems::load(dir.path()).unwrap() == set("2"));
        // Crashed before the commit.
        std::fs::create_dir(dir.path().join("next.tmp")).unwrap();
        std::fs::write(dir.path().join("next.tmp/key.pem"), "k3").unwrap();
        assert!(Pems::load(dir.path()).unwrap() == set("2"));
    }
}
