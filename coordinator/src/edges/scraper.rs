//! Prometheus' own certificate, when `[monitoring] certificate_dir` asks for it: issued, renewed at half of its
//! lifetime, and issued anew when it is missing, revoked or signed by another CA. A site then needs no manual step
//! before hosts can be scraped.
//!
//! Files: `ca.pem` (all CAs to trust), `prometheus.pem`, `prometheus.key`, readable by their group. A renewal keeps the
//! key and so replaces one file only; Prometheus, which reads them at each handshake, never sees a mismatched pair.
//! To get a new key, remove `prometheus.key`; one whose certificate was revoked or replaced is not used again.
//! Not here: telling the hosts (agents/session/monitors).

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use isyone_fleet::{change::Command, desired::Admission};
use isyone_proto::tls::{self, CertificateInfo, Identity, OperatorRole, TlsError};
use tokio_util::sync::CancellationToken;

use crate::{
    base::{
        clock,
        config::Config,
        files,
        pki::{Pki, PkiError},
    },
    writer::Handle,
};

/// Prometheus picks up a new file without help, so a short lifetime costs nothing; half of it is longer than a long
/// weekend without a coordinator.
const TTL_S: i64 = 30 * 86_400;
/// How often we look at the files.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Access for owner and group only.
const MODE: u32 = 0o640;

/// Why Prometheus has no (fresh) certificate.
#[derive(Debug, thiserror::Error)]
enum ScraperError {
    #[error("{path} cannot be used")]
    Io { path: PathBuf, source: io::Error },
    #[error("its certificate cannot be made")]
    Tls(#[from] TlsError),
    #[error("its certificate cannot be signed")]
    Pki(#[from] PkiError),
    #[error("its certificate is not accepted: {0}")]
    Refused(String),
}

/// What Prometheus' certificate needs from the coordinator.
#[derive(Debug)]
pub(crate) struct Scraper {
    pub(crate) handle: Handle,
    pub(crate) config: Arc<Config>,
    pub(crate) pki: Arc<Pki>,
    pub(crate) stop: CancellationToken,
}

/// Keeps the files up to date until the coordinator stops.
pub(crate) async fn run(scraper: Scraper) {
    let Some(dir) = &scraper.config.monitoring.certificate_dir else {
        return;
    };
    let dir = scraper.config.data_dir.join(dir);
    let mut said = String::new();
    let mut trust = scraper.pki.trust();
    loop {
        match refresh(&scraper, &dir).await {
            Ok(()) => said.clear(),
            Err(error) => {
                let error = tls::error_chain(&error);
                if said != error {
                    tracing::error!(dir = %dir.display(), error, "Prometheus' certificate is not fresh; tried again");
                    said = error;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            // Before hosts show certificates of another CA.
            Ok(()) = trust.changed() => {}
            () = scraper.stop.cancelled() => return,
        }
    }
}

async fn refresh(scraper: &Scraper, dir: &Path) -> Result<(), ScraperError> {
    let (ca, certificate, key) = (
        dir.join("ca.pem"),
        dir.join("prometheus.pem"),
        dir.join("prometheus.key"),
    );
    std::fs::create_dir_all(dir).map_err(|source| ScraperError::Io {
        path: dir.to_owned(),
        source,
    })?;
    write_if_other(&ca, &scraper.pki.ca_pem())?;
    let now_s = clock::now_seconds();
    let present = std::fs::read_to_string(&certificate).unwrap_or_default();
    let key_pem = std::fs::read_to_string(&key)
        .ok()
        .filter(|pem| tls::private_key(pem).is_ok());
    let name = &scraper.config.monitoring.certificate_operator;
    let good = |info: &CertificateInfo| -> bool {
        info.identity == Identity::Operator(name.clone(), OperatorRole::Monitor)
            && info.is_fresh(now_s)
            // One that is known by its serial number alone is refused while the CA is being replaced.
            && scraper.handle.snapshot().fleet.admits(info) == Ok(Admission::Certain)
            && scraper.pki.has_signed(&present)
    };
    let now_there = info(&present);
    if key_pem.is_some() && now_there.as_ref().is_some_and(good) {
        return Ok(());
    }
    // Somebody may have its key whose certificate was taken back.
    let state = scraper.handle.snapshot();
    let is_refused = |info: &CertificateInfo| state.fleet.admits(info).is_err();
    let valid = now_there.filter(|info| now_s < info.not_after);
    let taken_back = valid.as_ref().is_some_and(is_refused);
    let (key_pem, csr, asked_with) = match key_pem.filter(|_| !taken_back) {
        Some(key_pem) => {
            let csr = tls::csr_for(&key_pem, name.as_str())?;
            // It may be taken back this very moment: then the next look makes another key.
            (key_pem, csr, valid.map(Box::new))
        }
        None => {
            let (key_pem, csr) = tls::new_key_and_csr(name.as_str())?;
            (key_pem, csr, None)
        }
    };
    let issued = scraper
        .pki
        .sign_operator(&csr, name, OperatorRole::Monitor, TTL_S, now_s)?;
    let accepted = issued.record();
    let command = Command::CreateOperator {
        name: name.clone(),
        role: OperatorRole::Monitor,
        certificate: accepted,
        // Whoever revoked it says when it begins anew.
        again: false,
        asked_with,
    };
    let submitted = scraper
        .handle
        .submit_patiently("coordinator", command)
        .await;
    submitted.map_err(|e| ScraperError::Refused(e.to_string()))?;
    // Write the key first: otherwise the next look could take a certificate without its new key for complete.
    write_if_other(&key, &key_pem)?;
    write_if_other(&certificate, &issued.pem)?;
    tracing::info!(dir = %dir.display(), operator = %name, "Prometheus has a fresh certificate");
    Ok(())
}

fn info(pem: &str) -> Option<CertificateInfo> {
    let chain = tls::certificates("Prometheus' certificate", pem).ok()?;
    isyone_proto::tls::certificate_info(chain.first()?).ok()
}

fn write_if_other(path: &Path, content: &str) -> Result<(), ScraperError> {
    if std::fs::read(path).is_ok_and(|old| old == content.as_bytes()) {
        return Ok(());
    }
    files::replace(path, content.as_bytes(), MODE).map_err(|source| ScraperError::Io {
        path: path.to_owned(),
        source,
    })
}
