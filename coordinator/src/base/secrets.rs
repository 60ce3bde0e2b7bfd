//! Seals secrets at rest, and draws everything random.
//!
//! XChaCha20-Poly1305 with a random nonce per record. The record's name is authenticated, too, so a sealed value that
//! is moved to another record does not open. The sealing key is in a file of its own (mode 0600) or comes from the
//! environment, never from the database. Nothing else of ours draws random numbers; libraries that make keys and UUIDs do.
//! Not here: hashing visitors' passwords (operators/tenant_access), and certificates' keys (pki).

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use chacha20poly1305::{
    Key, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Generate as _, KeyInit as _, Payload},
};
use isyone_fleet::desired::{Sealed, Tenant, certificates::EdgeCertificate};
use isyone_proto::{
    ids::TenantName,
    plan::{Secret, TenantSecrets},
};
use rand::distr::{Alphanumeric, SampleString as _};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::base::files;

/// Name of the key file in the data directory.
pub const KEY_FILE: &str = "seal.key";
/// The environment variable that may hold the key instead of the file.
pub const KEY_VARIABLE: &str = "ISYONE_SEAL_KEY";
/// The one with the key before, while that is being replaced.
pub const KEY_BEFORE_VARIABLE: &str = "ISYONE_SEAL_KEY_BEFORE";
/// Beside the key file, the key that comes.
pub const NEXT_KEY_FILE: &str = "seal.next.key";
/// The record name that the credentials of the ACME account are sealed for.
pub const ACME_ACCOUNT: &str = "acme/account";
/// 192 bits.
const NONCE_BYTES: usize = 24;

/// Length in characters of a generated password that people type: 142 bits.
const ADMIN_PASSWORD: usize = 24;
/// The same for passwords that only programs use.
const MACHINE_PASSWORD: usize = 32;

/// Why a key is unusable or a value does not open. Never reveals anything about the secret.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key file cannot be read or written.
    #[error("the sealing key {path} cannot be used")]
    Io { path: String, source: io::Error },
    /// Others could read the key.
    #[error("the sealing key {0} is readable by others: chmod 600 it")]
    TooOpen(String),
    /// Not 64 hex digits.
    #[error("the sealing key from {0} is not 64 hex digits (32 bytes)")]
    BadKey(String),
    /// One at a time.
    #[error(
        "the sealing key is being replaced already: `isy-coordinator pki status` says how far it is"
    )]
    UnderWay,
    /// The key is not ours to replace.
    #[error(
        "the sealing key comes from {KEY_VARIABLE}: start the coordinator with the new one there and the old one in {KEY_BEFORE_VARIABLE}, until `isy-coordinator pki status` says that it is not being replaced any more (`pki rotate --ca-only` leaves it as it is)"
    )]
    Environment,
    /// The key of a file is replaced by an order.
    #[error(
        "{KEY_BEFORE_VARIABLE} goes with {KEY_VARIABLE}; a key in a file is replaced by `isy-coordinator pki rotate`"
    )]
    BeforeAlone,
    /// Wrong key, wrong record, or damaged data.
    #[error("a sealed value does not open: wrong sealing key, or the record was damaged")]
    DoesNotOpen,
}

/// Seals and opens secrets. Has one sealing key, or two while it is being replaced: the new one seals, both open.
pub struct Sealer {
    keys: ArcSwap<Keys>,
    /// The file that the key is from; `None`: the environment, or a test.
    file: Option<PathBuf>,
}

#[derive(Clone)]
struct Keys {
    now: XChaCha20Poly1305,
    /// The key before, as long as it has sealed something that is stored.
    before: Option<XChaCha20Poly1305>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

fn cipher(text: &str, from: &str) -> Result<XChaCha20Poly1305, SealError> {
    let mut key = Zeroizing::new([0_u8; 32]);
    hex::decode_to_slice(text.trim(), key.as_mut())
        .map_err(|_| SealError::BadKey(from.to_owned()))?;
    Ok(XChaCha20Poly1305::new(&Key::from(*key)))
}

fn read(path: &Path) -> Result<XChaCha20Poly1305, SealError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| SealError::Io {
        path: name.clone(),
        source,
    })?;
    if !files::is_private(path) {
        return Err(SealError::TooOpen(name));
    }
    cipher(&Zeroizing::new(text), &name)
}

/// Makes a key file. Never overwrites one: that would orphan every sealed record.
fn make(path: &Path) -> Result<XChaCha20Poly1305, SealError> {
    let failed = |source| SealError::Io {
        path: path.display().to_string(),
        source,
    };
    if path.exists() {
        return Err(failed(io::ErrorKind::AlreadyExists.into()));
    }
    let text = Zeroizing::new(random_hex(32));
    files::replace(path, text.as_bytes(), 0o600).map_err(failed)?;
    cipher(&text, &path.display().to_string())
}

impl Sealer {
    fn with(now: XChaCha20Poly1305, file: Option<PathBuf>) -> Self {
        let keys = Keys { now, before: None };
        Self {
            keys: ArcSwap::from_pointee(keys),
            file,
        }
    }

    /// Makes a new key file, and never overwrites one.
    pub fn create(path: &Path) -> Result<Self, SealError> {
        Ok(Self::with(make(path)?, Some(path.to_owned())))
    }

    /// Takes the key from `variable` (the value of [`KEY_VARIABLE`]) if set, otherwise from the file; and from the one
    /// beside it, if the key was being replaced.
    pub fn load(path: &Path, variable: Option<&str>) -> Result<Self, SealError> {
        if let Some(text) = variable {
            return Ok(Self::with(cipher(text, KEY_VARIABLE)?, None));
        }
        let known = read(path)?;
        let next = path.with_file_name(NEXT_KEY_FILE);
        if !next.exists() {
            return Ok(Self::with(known, Some(path.to_owned())));
        }
        let sealer = Self::with(read(&next)?, Some(path.to_owned()));
        sealer.opens_also(known);
        Ok(sealer)
    }

    /// Opens what another key has sealed, too, and has it sealed anew: the value of [`KEY_BEFORE_VARIABLE`].
    pub fn load_before(&self, text: &str) -> Result<(), SealError> {
        if self.file.is_some() {
            return Err(SealError::BeforeAlone);
        }
        self.opens_also(cipher(text, KEY_BEFORE_VARIABLE)?);
        Ok(())
    }

    fn opens_also(&self, before: XChaCha20Poly1305) {
        let now = self.keys.load().now.clone();
        let before = Some(before);
        self.keys.store(Arc::new(Keys { now, before }));
    }

    /// Makes another key beside the present one, and seals with it from now on. Refused while that is being done, and for
    /// a key from the environment, which whoever sets it replaces.
    pub fn rotate(&self) -> Result<(), SealError> {
        let path = self.file.as_ref().ok_or(SealError::Environment)?;
        if self.has_two() {
            return Err(SealError::UnderWay);
        }
        let next = make(&path.with_file_name(NEXT_KEY_FILE))?;
        let before = Some(self.keys.load().now.clone());
        self.keys.store(Arc::new(Keys { now: next, before }));
        Ok(())
    }

    /// Whether the key is being replaced.
    pub fn has_two(&self) -> bool {
        self.keys.load().before.is_some()
    }

    /// The value sealed anew, if only the key before opens it.
    pub fn reseal(&self, record: &str, sealed: &Sealed) -> Option<Sealed> {
        let keys = self.keys.load();
        let before = keys.before.as_ref()?;
        let bytes = decoded(sealed).ok()?;
        if opened(&keys.now, record, &bytes).is_ok() {
            return None;
        }
        let plain = opened(before, record, &bytes).ok()?;
        Some(self.seal(record, &plain))
    }

    /// Puts the new key's file in the place of the old one, which is gone then. Only when nothing that is stored was
    /// sealed with that.
    pub fn forget_old(&self) -> Result<(), SealError> {
        if let Some(path) = &self.file {
            let failed = |source| SealError::Io {
                path: path.display().to_string(),
                source,
            };
            std::fs::rename(path.with_file_name(NEXT_KEY_FILE), path).map_err(failed)?;
            std::fs::File::open(files::directory(path))
                .and_then(|directory| directory.sync_all())
                .map_err(failed)?;
        }
        let now = self.keys.load().now.clone();
        self.keys.store(Arc::new(Keys { now, before: None }));
        Ok(())
    }

    /// A key in memory only, for tests and simulations.
    pub fn ephemeral() -> Self {
        let mut key = Zeroizing::new([0_u8; 32]);
        rand_bytes(key.as_mut());
        Self::with(XChaCha20Poly1305::new(&Key::from(*key)), None)
    }

    /// Seals `plain` for the record `record`.
    pub fn seal(&self, record: &str, plain: &[u8]) -> Sealed {
        Sealed(BASE64.encode(self.seal_bytes(record, plain)).into())
    }

    /// The same as bytes, for what is no record: nonce and ciphertext.
    pub fn seal_bytes(&self, record: &str, plain: &[u8]) -> Vec<u8> {
        let nonce = XNonce::generate();
        let payload = Payload {
            msg: plain,
            aad: record.as_bytes(),
        };
        // The cipher refuses only messages of 256 GiB or more.
        let sealed = self.keys.load().now.encrypt(&nonce, payload);
        let mut bytes = nonce.to_vec();
        bytes.extend(sealed.unwrap_or_default());
        bytes
    }

    /// Opens what was sealed for the same record.
    pub fn open(&self, record: &str, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.open_bytes(record, &decoded(sealed)?)
    }

    /// Opens what [`Self::seal_bytes`] has sealed for the same record.
    pub fn open_bytes(&self, record: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let keys = self.keys.load();
        match (opened(&keys.now, record, sealed), &keys.before) {
            (Err(_), Some(before)) => opened(before, record, sealed),
            (result, _) => result,
        }
    }
}

fn decoded(sealed: &Sealed) -> Result<Vec<u8>, SealError> {
    BASE64
        .decode(sealed.0.as_bytes())
        .map_err(|_| SealError::DoesNotOpen)
}

fn opened(
    cipher: &XChaCha20Poly1305,
    record: &str,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let (nonce, message) = sealed
        .split_at_checked(NONCE_BYTES)
        .ok_or(SealError::DoesNotOpen)?;
    let nonce = XNonce::try_from(nonce).map_err(|_| SealError::DoesNotOpen)?;
    let payload = Payload {
        msg: message,
        aad: record.as_bytes(),
    };
    let plain = cipher.decrypt(&nonce, payload);
    plain
        .map(Zeroizing::new)
        .map_err(|_| SealError::DoesNotOpen)
}

/// Only letters and digits, which need no quoting anywhere. 24 of them have 142 bits.
pub fn random_password(length: usize) -> String {
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    let mut rng = rand::rng();
    Alphanumeric.sample_string(&mut rng, length)
}

/// 2^6 rounds, some 4 ms: an edge computes the hash at every request, including each picture of a page, and for anyone
/// who guesses. The rate limit in front of it bounds the guesses; long passwords do the rest.
const EDGE_COST: u32 = 6;

/// bcrypt hash of a password for the edge's own prompt, as `htpasswd -B` writes it; `None` if the password is too long
/// for bcrypt.
pub fn edge_hash(password: &str) -> Option<String> {
    let mut salt = [0; 16];
    rand_bytes(&mut salt);
    let parts = bcrypt::non_truncating_hash_with_salt(password, EDGE_COST, salt).ok()?;
    Some(parts.format_for_version(bcrypt::Version::TwoY))
}

/// This many random bytes, as hex.
pub fn random_hex(bytes: usize) -> String {
    let mut buffer = Zeroizing::new(vec![0_u8; bytes]);
    rand_bytes(&mut buffer);
    hex::encode(&*buffer)
}

/// A random number in 0..1, to spread out what should not happen everywhere at once.
pub fn chance() -> f64 {
    let mut bytes = [0; 4];
    rand_bytes(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

pub fn rand_bytes(buffer: &mut [u8]) {
    use rand::Rng as _;
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    let mut rng = rand::rng();
    rng.fill_bytes(buffer);
}

/// Record name of a tenant's secrets, so that they open for no other name and no other incarnation.
pub fn record(name: &str, uid: Uuid) -> String {
    format!("tenant/{name}/{uid}")
}

/// Sealing and opening of particular records.
impl Sealer {
    /// Generates and seals passwords for a new tenant.
    pub fn new_secrets(&self, name: &TenantName, uid: Uuid) -> Sealed {
        let password = |length| Secret::new(random_password(length));
        let fresh = TenantSecrets {
            database_password: password(MACHINE_PASSWORD),
            admin_password: password(ADMIN_PASSWORD),
            master_password: password(MACHINE_PASSWORD),
            mail_password: Secret::default(),
        };
        // Serialising plain data cannot fail.
        let json = Zeroizing::new(serde_json::to_vec(&fresh).unwrap_or_default());
        self.seal(&record(name.as_str(), uid), &json)
    }

    /// The private key of a certificate for tenants' host names, as PEM.
    pub fn open_key(&self, certificate: &EdgeCertificate) -> Result<Zeroizing<String>, SealError> {
        let key = self.open(
            &EdgeCertificate::sealed_for(&certificate.name),
            &certificate.key,
        )?;
        let key = std::str::from_utf8(&key).map_err(|_| SealError::DoesNotOpen)?;
        Ok(Zeroizing::new(key.to_owned()))
    }

    /// A tenant's passwords.
    pub fn open_secrets(&self, tenant: &Tenant) -> Result<TenantSecrets, SealError> {
        let json = self.open(&record(tenant.name.as_str(), tenant.uid), &tenant.secrets)?;
        serde_json::from_slice(&json).map_err(|_| SealError::DoesNotOpen)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_value_opens_for_its_record_and_key_only() {
        let sealer = Sealer::ephemeral();
        let sealed = sealer.seal("tenant/alfa/1", b"hunter2");
        assert_eq!(
            &**sealer.open("tenant/alfa/1", &sealed).unwrap(),
            b"hunter2"
        );
        assert!(sealer.open("tenant/beta/1", &sealed).is_err());
        assert!(Sealer::ephemeral().open("tenant/alfa/1", &sealed).is_err());
        assert!(
            sealer
                .open("tenant/alfa/1", &Sealed("AAAA".into()))
                .is_err()
        );
        assert_ne!(sealed, sealer.seal("tenant/alfa/1", b"hunter2"));
    }

    #[test]
    fn the_key_file_must_be_private_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        let sealed = Sealer::create(&path).unwrap().seal("r", b"x");
        assert!(Sealer::create(&path).is_err());
        assert!(
            Sealer::load(&path, None)
                .unwrap()
                .open("r", &sealed)
                .is_ok()
        );
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            Sealer::load(Path::new("/nowhere"), Some(&text))
                .unwrap()
                .open("r", &sealed)
                .is_ok()
        );
        assert!(matches!(
            Sealer::load(&path, Some("abc")),
            Err(SealError::BadKey(_))
        ));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            Sealer::load(&path, None),
            Err(SealError::TooOpen(_))
        ));
    }

    #[test]
    fn a_new_key_seals_while_the_old_one_still_opens_also_after_a_kill() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        let sealer = Sealer::create(&path).unwrap();
        let old = sealer.seal("r", b"x");
        assert_eq!(sealer.reseal("r", &old), None, "there is one key");
        sealer.rotate().unwrap();
        assert!(matches!(sealer.rotate(), Err(SealError::UnderWay)));
        // Killed here, and started again.
        for sealer in [sealer, Sealer::load(&path, None).unwrap()] {
            assert!(sealer.has_two());
            assert_eq!(&**sealer.open("r", &old).unwrap(), b"x");
            let new = sealer.reseal("r", &old).unwrap();
            assert_eq!(sealer.reseal("r", &new), None, "once is enough");
            assert_eq!(
                sealer.reseal("other", &old),
                None,
                "it opens for its record only"
            );
        }
        let sealer = Sealer::load(&path, None).unwrap();
        let new = sealer.reseal("r", &old).unwrap();
        sealer.forget_old().unwrap();
        for sealer in [sealer, Sealer::load(&path, None).unwrap()] {
            assert!(!sealer.has_two() && sealer.open("r", &old).is_err());
            assert_eq!(&**sealer.open("r", &new).unwrap(), b"x");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_from_the_environment_is_replaced_there() {
        let (old, new) = ("11".repeat(32), "22".repeat(32));
        let sealed = Sealer::load(Path::new("/nowhere"), Some(&old))
            .unwrap()
            .seal("r", b"x");
        let sealer = Sealer::load(Path::new("/nowhere"), Some(&new)).unwrap();
        let said = sealer.rotate().unwrap_err().to_string();
        assert!(said.contains(KEY_BEFORE_VARIABLE), "{said}");
        assert!(sealer.open("r", &sealed).is_err());
        sealer.load_before(&old).unwrap();
        assert!(sealer.has_two() && sealer.open("r", &sealed).is_ok());
        sealer.forget_old().unwrap();
        assert!(sealer.open("r", &sealed).is_err());
    }

    #[test]
    fn passwords_are_letters_and_digits() {
        let password = random_password(24);
        assert_eq!(password.len(), 24);
        assert!(password.bytes().all(|b| b.is_ascii_alphanumeric()));
        assert_ne!(password, random_password(24));
        assert_eq!(random_hex(32).len(), 64);
    }
}
