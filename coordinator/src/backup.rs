//! Backups of the coordinator in two parts, so that no file holds all of it in clear: the database, whose secrets are sealed, and
//! the keys, encrypted with a passphrase.
//!
//! Not here: the command line (program), tenants' data (hosts).

use std::{
    collections::BTreeMap,
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use chacha20poly1305::{
    Key, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Generate as _, KeyInit as _, Payload},
};
use isyone_fleet::written::{Contents, RecordValue, Write};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    base::{files, secrets},
    writer::store::{CommitError, Store as _, StoreError, TERM, sqlite::SqliteStore},
};

/// What keys are, in the data directory: those that are there are taken, in this order.
const KEYS: [&str; 10] = [
    secrets::KEY_FILE,
    secrets::NEXT_KEY_FILE,
    "pki/ca.pem",
    "pki/ca.key",
    "pki/ca.next.key",
    "pki/rotation.json",
    "pki/server.pem",
    "pki/server.key",
    "edge.token",
    "prometheus.token",
];
/// Of all keys together, bytes.
const MAX_BYTES: u64 = 1 << 20;
/// The first field of the file; authenticated with the rest.
const FORMAT: &str = "isyone-keys-1";
/// Begins the name of a folder in which a copy of the database is made.
pub const UNFINISHED: &str = ".isyone-backup-";
/// A passphrase of six words, or 24 characters of base64, is longer.
const MIN_PASSPHRASE: usize = 16;
/// 64 MiB and three passes: some tenths of a second here, and for whoever guesses (RFC 9106, section 4, second choice).
const COST: Cost = Cost {
    memory_kib: 64 << 10,
    passes: 3,
    lanes: 4,
};
/// What a file may ask of us: it may be anybody's.
const MOST: Cost = Cost {
    memory_kib: 1 << 20,
    passes: 16,
    lanes: 16,
};

/// Why there is no backup, or none that can be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{path} cannot be used")]
    Io { path: PathBuf, source: io::Error },
    /// Nothing is overwritten.
    #[error("{0} is there already: it is left as it is")]
    Exists(PathBuf),
    #[error("the copy of the database")]
    Store(#[from] StoreError),
    #[error("the copy of the database")]
    Commit(#[from] CommitError),
    #[error("there are no keys in {0}: is it the coordinator's data directory?")]
    NoKeys(PathBuf),
    #[error(
        "the passphrase: at least {MIN_PASSPHRASE} characters; `openssl rand -base64 24` makes one"
    )]
    Weak,
    #[error("{0} is no backup of keys, or of a newer version")]
    Format(PathBuf),
    #[error("{0} does not open: another passphrase, or the file is damaged")]
    DoesNotOpen(PathBuf),
}

fn at(path: &Path) -> impl Fn(io::Error) -> BackupError + '_ {
    |source| BackupError::Io {
        path: path.to_owned(),
        source,
    }
}

/// Writes a database with everything in `writes`, as one commit. `path` must not be there; it appears when it is whole and on
/// disk.
pub async fn write_database(writes: &[Write], path: &Path) -> Result<(), BackupError> {
    if path.exists() {
        return Err(BackupError::Exists(path.to_owned()));
    }
    let directory = files::directory(path);
    // In a folder of its own: SQLite puts files of its own beside it.
    let folder = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir_in(directory)
        .map_err(at(directory))?;
    let unfinished = folder.path().join("isyone.db");
    let mut store = SqliteStore::open(&unfinished).await?;
    store.commit(TERM, writes).await?;
    store.close().await;
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&unfinished, private)
        .and_then(|()| std::fs::File::open(&unfinished)?.sync_all())
        .and_then(|()| std::fs::rename(&unfinished, path))
        .and_then(|()| std::fs::File::open(directory)?.sync_all())
        .map_err(at(path))
}

/// Writes a database with what was read of another one; see [`write_database`].
pub async fn copy_database(contents: Contents, path: &Path) -> Result<(), BackupError> {
    let records = contents.records.into_iter().map(RecordValue::Copy);
    let events = contents
        .events
        .into_iter()
        .map(|event| Write::Event(event.into()));
    let writes: Vec<Write> = records.map(Write::Put).chain(events).collect();
    write_database(&writes, path).await
}

/// How hard guessing is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Encrypted {
    format: String,
    argon2id: Cost,
    /// Hex.
    salt: String,
    /// Nonce and ciphertext, base64.
    sealed: String,
}

/// Name in the data directory → content, base64.
type Files = BTreeMap<String, String>;

fn cipher(passphrase: &str, salt: &[u8], cost: Cost) -> Option<XChaCha20Poly1305> {
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).ok()?;
    let mut key = Zeroizing::new([0_u8; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, key.as_mut())
        .ok()?;
    Some(XChaCha20Poly1305::new(&Key::from(*key)))
}

/// Encrypts the keys of a data directory into a new file of mode 0600. The coordinator may run. Returns which there were.
pub fn save_keys(
    data_dir: &Path,
    passphrase: &str,
    out: &Path,
) -> Result<Vec<String>, BackupError> {
    if passphrase.chars().count() < MIN_PASSPHRASE {
        return Err(BackupError::Weak);
    }
    if out.exists() {
        return Err(BackupError::Exists(out.to_owned()));
    }
    let mut kept = Files::new();
    for name in KEYS {
        let path = data_dir.join(name);
        match std::fs::read(&path).map(Zeroizing::new) {
            Ok(bytes) => drop(kept.insert(name.to_owned(), BASE64.encode(&*bytes))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(at(&path)(e)),
        }
    }
    if !kept.contains_key("pki/ca.key") {
        return Err(BackupError::NoKeys(data_dir.to_owned()));
    }
    // Serialising a map of strings cannot fail.
    let plain = Zeroizing::new(serde_json::to_vec(&kept).unwrap_or_default());
    let salt = secrets::random_hex(16);
    let cipher = cipher(passphrase, salt.as_bytes(), COST).ok_or(BackupError::Weak)?;
    let nonce = XNonce::generate();
    let payload = Payload {
        msg: &plain,
        aad: FORMAT.as_bytes(),
    };
    let mut sealed = nonce.to_vec();
    // The cipher refuses only messages of 256 GiB or more.
    sealed.extend(cipher.encrypt(&nonce, payload).unwrap_or_default());
    let file = Encrypted {
        format: FORMAT.to_owned(),
        argon2id: COST,
        salt,
        sealed: BASE64.encode(sealed),
    };
    let text = serde_json::to_vec_pretty(&file).unwrap_or_default();
    files::replace(out, &text, 0o600).map_err(at(out))?;
    Ok(kept.into_keys().collect())
}

/// Puts the keys of a backup into a data directory, which is made if it is not there. No key that is there is overwritten: then
/// nothing is written. Returns which there were.
pub fn restore_keys(
    from: &Path,
    passphrase: &str,
    data_dir: &Path,
) -> Result<Vec<String>, BackupError> {
    let size = std::fs::metadata(from).map_err(at(from))?.len();
    if size > 2 * MAX_BYTES {
        return Err(BackupError::Format(from.to_owned()));
    }
    let text = std::fs::read(from).map_err(at(from))?;
    let format = || BackupError::Format(from.to_owned());
    let file: Encrypted = serde_json::from_slice(&text).map_err(|_| format())?;
    let asks = file.argon2id;
    let bounded = asks.memory_kib <= MOST.memory_kib
        && asks.passes <= MOST.passes
        && asks.lanes <= MOST.lanes;
    if file.format != FORMAT || !bounded {
        return Err(format());
    }
    let kept =
        decrypted(&file, passphrase).ok_or_else(|| BackupError::DoesNotOpen(from.to_owned()))?;
    for name in kept.keys() {
        let path = data_dir.join(name);
        // Ours, but what is written where is not for a file to say.
        if !KEYS.contains(&name.as_str()) {
            return Err(format());
        }
        if path.exists() {
            return Err(BackupError::Exists(path));
        }
    }
    let pki = data_dir.join("pki");
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&pki)
        .map_err(at(&pki))?;
    for (name, content) in &kept {
        let path = data_dir.join(name);
        let bytes = Zeroizing::new(BASE64.decode(content).map_err(|_| format())?);
        let mode = if name.ends_with(".pem") { 0o644 } else { 0o600 };
        files::replace(&path, &bytes, mode).map_err(at(&path))?;
    }
    Ok(kept.into_keys().collect())
}

fn decrypted(file: &Encrypted, passphrase: &str) -> Option<Files> {
    let bytes = BASE64.decode(&file.sealed).ok()?;
    let (nonce, message) = bytes.split_at_checked(24)?;
    let nonce = XNonce::try_from(nonce).ok()?;
    let payload = Payload {
        msg: message,
        aad: FORMAT.as_bytes(),
    };
    let cipher = cipher(passphrase, file.salt.as_bytes(), file.argon2id)?;
    let plain = cipher.decrypt(&nonce, payload).map(Zeroizing::new).ok()?;
    serde_json::from_slice(&plain).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSPHRASE: &str = "correct horse battery staple";

    fn data_dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pki")).unwrap();
        for name in [secrets::KEY_FILE, "pki/ca.key", "pki/ca.pem"] {
            std::fs::write(dir.path().join(name), format!("secret of {name}")).unwrap();
        }
        dir
    }

    #[test]
    fn keys_come_back_by_their_passphrase_alone_and_overwrite_nothing() {
        let (from, to) = (data_dir(), tempfile::tempdir().unwrap());
        let file = to.path().join("keys");
        let weak = save_keys(from.path(), "short", &file).unwrap_err();
        assert!(matches!(weak, BackupError::Weak), "{weak}");
        let saved = save_keys(from.path(), PASSPHRASE, &file).unwrap();
        assert_eq!(saved, ["pki/ca.key", "pki/ca.pem", "seal.key"]);
        assert!(files::is_private(&file));
        let text = std::fs::read_to_string(&file).unwrap();
        let secret = BASE64.encode("secret of seal.key");
        assert!(!text.contains("secret of") && !text.contains(&secret[..16]));
        let there = save_keys(from.path(), PASSPHRASE, &file).unwrap_err();
        assert!(matches!(there, BackupError::Exists(_)));

        let target = to.path().join("isyone");
        let wrong = restore_keys(&file, "another passphrase, longer", &target).unwrap_err();
        assert!(matches!(wrong, BackupError::DoesNotOpen(_)) && !target.exists());
        assert_eq!(restore_keys(&file, PASSPHRASE, &target).unwrap(), saved);
        for name in &saved {
            let read = |dir: &Path| std::fs::read(dir.join(name)).unwrap();
            assert_eq!(read(&target), read(from.path()), "{name}");
        }
        assert!(files::is_private(&target.join("pki/ca.key")));
        assert!(files::is_private(&target.join(secrets::KEY_FILE)));
        let again = restore_keys(&file, PASSPHRASE, &target).unwrap_err();
        assert!(matches!(again, BackupError::Exists(_)), "{again}");
    }

    #[test]
    fn a_file_that_is_damaged_or_asks_too_much_is_refused() {
        let (from, to) = (data_dir(), tempfile::tempdir().unwrap());
        let file = to.path().join("keys");
        save_keys(from.path(), PASSPHRASE, &file).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        for (was, is) in [
            ("\"memory_kib\": 65536", "\"memory_kib\": 4000000000"),
            ("isyone-keys-1", "isyone-keys-2"),
            ("\"salt\": \"", "\"salt\": \"0"),
        ] {
            std::fs::write(&file, text.replace(was, is)).unwrap();
            assert_ne!(text, text.replace(was, is));
            assert!(
                restore_keys(&file, PASSPHRASE, &to.path().join("x")).is_err(),
                "{is}"
            );
        }
        let nothing = save_keys(to.path(), PASSPHRASE, &to.path().join("y")).unwrap_err();
        assert!(matches!(nothing, BackupError::NoKeys(_)), "{nothing}");
    }
}
