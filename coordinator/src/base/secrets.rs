//! Seals secrets at rest, and draws everything random.
//!
//! XChaCha20-Poly1305 with a random nonce per record. The record's name is authenticated, too, so a sealed value that
//! is moved to another record does not open. The sealing key is in a file of its own (mode 0600) or comes from the
//! environment, never from the database. Nothing else of ours draws random numbers; libraries that make keys and UUIDs do.
//! Not here: hashing visitors' passwords (operators/tenant_access), and certificates' keys (pki).

use std::{fmt, io, path::Path};

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
    /// Wrong key, wrong record, or damaged data.
    #[error("a sealed value does not open: wrong sealing key, or the record was damaged")]
    DoesNotOpen,
}

/// Seals and opens secrets with the one sealing key.
pub struct Sealer {
    cipher: XChaCha20Poly1305,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    /// Makes a new key file. Never overwrites one: that would orphan every sealed record.
    pub fn create(path: &Path) -> Result<Self, SealError> {
        let failed = |source| SealError::Io {
            path: path.display().to_string(),
            source,
        };
        if path.exists() {
            return Err(failed(io::ErrorKind::AlreadyExists.into()));
        }
        let text = Zeroizing::new(random_hex(32));
        files::replace(path, text.as_bytes(), 0o600).map_err(failed)?;
        Self::from_hex(&text, &path.display().to_string())
    }

    /// Takes the key from `variable` (the value of [`KEY_VARIABLE`]) if set, otherwise from the file.
    pub fn load(path: &Path, variable: Option<&str>) -> Result<Self, SealError> {
        if let Some(text) = variable {
            return Self::from_hex(text, KEY_VARIABLE);
        }
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| SealError::Io {
            path: name.clone(),
            source,
        })?;
        if !files::is_private(path) {
            return Err(SealError::TooOpen(name));
        }
        Self::from_hex(&Zeroizing::new(text), &name)
    }

    fn from_hex(text: &str, from: &str) -> Result<Self, SealError> {
        let mut key = Zeroizing::new([0_u8; 32]);
        hex::decode_to_slice(text.trim(), key.as_mut())
            .map_err(|_| SealError::BadKey(from.to_owned()))?;
        Ok(Self {
            cipher: XChaCha20Poly1305::new(&Key::from(*key)),
        })
    }

    /// A key in memory only, for tests and simulations.
    pub fn ephemeral() -> Self {
        let mut key = Zeroizing::new([0_u8; 32]);
        rand_bytes(key.as_mut());
        Self {
            cipher: XChaCha20Poly1305::new(&Key::from(*key)),
        }
    }

    /// Seals `plain` for the record `record`.
    pub fn seal(&self, record: &str, plain: &[u8]) -> Sealed {
        let nonce = XNonce::generate();
        // The cipher refuses only messages of 256 GiB or more.
        let sealed = self
            .cipher
            .encrypt(
                &nonce,
                Payload {
                    msg: plain,
                    aad: record.as_bytes(),
                },
            )
            .unwrap_or_default();
        let mut bytes = nonce.to_vec();
        bytes.extend(sealed);
        Sealed(BASE64.encode(bytes))
    }

    /// Opens what was sealed for the same record.
    pub fn open(&self, record: &str, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let bytes = BASE64
            .decode(&sealed.0)
            .map_err(|_| SealError::DoesNotOpen)?;
        let (nonce, message) = bytes
            .split_at_checked(NONCE_BYTES)
            .ok_or(SealError::DoesNotOpen)?;
        let nonce = XNonce::try_from(nonce).map_err(|_| SealError::DoesNotOpen)?;
        let plain = self.cipher.decrypt(
            &nonce,
            Payload {
                msg: message,
                aad: record.as_bytes(),
            },
        );
        plain
            .map(Zeroizing::new)
            .map_err(|_| SealError::DoesNotOpen)
    }
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
fn record(name: &str, uid: Uuid) -> String {
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
    fn passwords_are_letters_and_digits() {
        let password = random_password(24);
        assert_eq!(password.len(), 24);
        assert!(password.bytes().all(|b| b.is_ascii_alphanumeric()));
        assert_ne!(password, random_password(24));
        assert_eq!(random_hex(32).len(), 64);
    }
}
