//! A tenant's key. Whoever has it reads and writes the tenant's backups; without it they are noise, also for us.
//!
//! Not here: where keys are kept.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustic_core::Credentials;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroize as _;

/// 32 bytes for AES-256, 32 for Poly1305-AES.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; Self::BYTES]);

impl Key {
    pub const BYTES: usize = 64;

    /// From 64 bytes of a good random source, or as they were stored.
    #[must_use]
    pub const fn new(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// To be sealed and stored.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// What `RESTIC_PASSWORD` must be for stock restic to open the repository.
    ///
    /// It follows from the key, and the repository holds the key under it from the beginning: so a key can be exported without
    /// a repository at hand, and a destination that is lost or read-only is no obstacle.
    #[must_use]
    pub fn restic_password(&self) -> String {
        let hash = Sha256::new_with_prefix(b"isyone: the password of a repository for restic\n");
        hex::encode(hash.chain_update(self.0).finalize())
    }

    /// As restic keeps it within a key file: AES' key and Poly1305-AES' two numbers.
    pub(crate) fn master(&self) -> Value {
        let part = |from, to| BASE64_STANDARD.encode(&self.0[from..to]);
        json!({ "mac": { "k": part(32, 48), "r": part(48, 64) }, "encrypt": part(0, 32) })
    }

    /// For rustic: without a password, and so without scrypt's half second each time.
    pub(crate) fn credentials(&self) -> Credentials {
        // Its type has no constructor from bytes. What it makes of our own JSON is always a key.
        serde_json::from_value(self.master()).map_or_else(
            |_| Credentials::password(self.restic_password()),
            Credentials::Masterkey,
        )
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_shown() {
        assert_eq!(format!("{:?}", Key::new([7; 64])), "Key(…)");
    }

    #[test]
    fn passwords_differ_as_keys_do() {
        let password = |byte| Key::new([byte; 64]).restic_password();
        assert_eq!(password(1), password(1));
        assert_ne!(password(1), password(2));
        assert_eq!(password(1).len(), 64);
    }
}
