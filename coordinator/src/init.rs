//! `isy-coordinator init`: makes a new data directory with authority, sealing key, database and configuration, and the
//! first admin's context.
//!
//! Everything is built aside and renamed into place at the end: a failed or killed `init` leaves nothing that looks
//! finished.
//! Not here: the command line (program) and opening what was made (server).

use std::{
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use isyone_fleet::change::Command;
use isyone_proto::{
    ids::ShortName,
    tls::{OperatorRole, TlsError, error_chain, new_key_and_csr},
};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::{
    base::{
        clock,
        config::{self, Config, ConfigError},
        files,
        pki::{self, Pki, PkiConfig, PkiError},
        secrets::{KEY_FILE, SealError, Sealer},
    },
    writer::{
        self, SubmitError, SystemSource,
        store::{StoreError, sqlite::SqliteStore},
    },
};

/// Name of the database file in the data directory.
pub const DATABASE_FILE: &str = "isyone.db";
/// Name of the authority's directory in it.
pub const PKI_DIR: &str = "pki";

/// Why `init` made nothing.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The data directory exists and is not empty.
    #[error("{0} exists and is not empty: it is left as it is")]
    Exists(PathBuf),
    /// A file or directory cannot be created.
    #[error("{path} cannot be made")]
    Io { path: PathBuf, source: io::Error },
    /// The requested configuration is not valid.
    #[error("configuration")]
    Config(#[from] ConfigError),
    #[error("the certificate authority cannot be made")]
    Pki(#[from] PkiError),
    #[error("the sealing key cannot be made")]
    Seal(#[from] SealError),
    #[error("the admin's key cannot be made")]
    Tls(#[from] TlsError),
    #[error("the database cannot be made")]
    Store(#[from] StoreError),
    #[error("the admin cannot be stored")]
    Submit(#[from] SubmitError),
}

/// isyctl's context file; ARCHITECTURE.md has its contract.
#[derive(Serialize)]
struct ContextFile<'a> {
    name: &'a str,
    endpoint: String,
    ca_pem: String,
    certificate_pem: String,
    key_pem: String,
}

/// Makes everything. `config.data_dir` must be missing or empty; the context goes to `context_file`.
pub async fn init(
    config: &Config,
    admin: &ShortName,
    context_file: &Path,
) -> Result<(), InitError> {
    config.check()?;
    let target = &config.data_dir;
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| InitError::Io { path, source }
    };
    match std::fs::read_dir(target).map(|mut entries| entries.next().is_some()) {
        Ok(true) => return Err(InitError::Exists(target.clone())),
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(target)(error)),
    }
    let parent = target
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(at(parent))?;
    let unfinished = tempfile::Builder::new()
        .prefix(".isyone-init-")
        .tempdir_in(parent)
        .map_err(at(parent))?;
    let dir = unfinished.path();
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(at(dir))?;
    let context = fill(config, dir, admin).await?;
    let toml = dir.join(config::FILE_NAME);
    files::replace(&toml, config::sample(config).as_bytes(), 0o600).map_err(at(&toml))?;
    std::fs::rename(dir, target).map_err(at(target))?;
    // Everything is in place: nothing to clean up.
    let _ = unfinished.keep();
    if let Some(parent) = context_file.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(at(parent))?;
    }
    files::replace(context_file, context.as_bytes(), 0o600).map_err(at(context_file))
}

/// Makes the authority, the key, and the database with the admin in it; returns the admin's context.
async fn fill(config: &Config, dir: &Path, admin: &ShortName) -> Result<String, InitError> {
    let now_s = clock::now_seconds();
    Sealer::create(&dir.join(KEY_FILE))?;
    pki::create(&dir.join(PKI_DIR), now_s)?;
    let pki_config = PkiConfig {
        dir: dir.join(PKI_DIR),
        hosts: config.advertise.hosts.clone(),
        server_ttl_s: config.certificates.server_ttl.millis() / 1000,
    };
    // Nothing connects during `init`.
    let pki = Pki::open(pki_config, Arc::new(|_, _| false), now_s)?;
    let (key_pem, csr) = new_key_and_csr(admin.as_str())?;
    let ttl_s = config.certificates.operator_ttl.millis() / 1000;
    let issued = pki.sign_operator(&csr, admin, OperatorRole::Admin, ttl_s, now_s)?;
    let store = SqliteStore::open(&dir.join(DATABASE_FILE)).await?;
    let stop = CancellationToken::new();
    let settings = Arc::new(config.settings());
    let (handle, writer) =
        writer::start(Box::new(store), settings, SystemSource, stop.clone()).await?;
    let certificate = issued.record();
    let command = Command::CreateOperator {
        name: admin.clone(),
        role: OperatorRole::Admin,
        certificate,
        again: false,
        asked_with: None,
    };
    handle.submit("init", command).await?;
    stop.cancel();
    if let Err(error) = writer.await {
        tracing::warn!(error = error_chain(&error), "the writer did not end well");
    }
    let context = ContextFile {
        name: admin.as_str(),
        endpoint: config.reached_at(config.listen.grpc),
        ca_pem: pki.ca_pem(),
        certificate_pem: issued.pem,
        key_pem,
    };
    // Serialising plain strings cannot fail.
    Ok(toml::to_string(&context).unwrap_or_default())
}
