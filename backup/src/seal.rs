//! Encryption and compression of the format, for what is read here, and the two kinds of files that are written without rustic.
//!
//! Everything that unpacks is told how much it may become.

use std::io::Read as _;

use aes256ctr_poly1305aes::{Aes256CtrPoly1305Aes, Nonce, aead::Aead as _};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use rand::Rng as _;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{error::Fault, key::Key, limits, store::Name};

/// In front of a compressed index or snapshot file; others begin with JSON's bracket.
const COMPRESSED: u8 = 2;
const NONCE_BYTES: usize = 16;
/// The nonce before and the tag after what is encrypted.
pub(crate) const OVERHEAD: usize = NONCE_BYTES + 16;

pub(crate) fn name_of(parts: &[u8]) -> Name {
    Name(Sha256::digest(parts).into())
}

fn cipher(key: &[u8; Key::BYTES]) -> Aes256CtrPoly1305Aes {
    Aes256CtrPoly1305Aes::new(&(*key).into())
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[expect(
        clippy::disallowed_methods,
        reason = "nonces and salts, nothing decides by them"
    )]
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

fn encrypt_with(key: &[u8; Key::BYTES], plain: &[u8]) -> Vec<u8> {
    let nonce = random::<NONCE_BYTES>();
    let sealed = cipher(key).encrypt(&Nonce::from(nonce), plain);
    // It fails for more than 2^36 bytes only.
    let sealed = sealed.unwrap_or_default();
    [&nonce[..], &sealed].concat()
}

pub(crate) fn encrypt(key: &Key, plain: &[u8]) -> Vec<u8> {
    encrypt_with(key.bytes(), plain)
}

pub(crate) fn decrypt(key: &Key, sealed: &[u8]) -> Result<Vec<u8>, Fault> {
    let Some((nonce, sealed)) = sealed.split_first_chunk::<NONCE_BYTES>() else {
        return Err(Fault::Malformed);
    };
    cipher(key.bytes())
        .decrypt(&Nonce::from(*nonce), sealed)
        .map_err(|_| Fault::Sealed)
}

/// The content of an index or snapshot file, or of `config`.
pub(crate) fn open_file(key: &Key, sealed: &[u8]) -> Result<Vec<u8>, Fault> {
    let plain = decrypt(key, sealed)?;
    match plain.first() {
        Some(b'{' | b'[') => Ok(plain),
        Some(&COMPRESSED) => unpack(&plain[1..], limits::PLAIN_BYTES),
        _ => Err(Fault::Malformed),
    }
}

/// Unpacks what does not say how much it becomes.
fn unpack(packed: &[u8], most: usize) -> Result<Vec<u8>, Fault> {
    let decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(|_| Fault::Malformed)?;
    let mut plain = Vec::new();
    let read = decoder.take(most as u64 + 1).read_to_end(&mut plain);
    read.map_err(|_| Fault::Malformed)?;
    if plain.len() > most {
        return Err(Fault::Swollen);
    }
    Ok(plain)
}

/// The file for an index or a snapshot.
pub(crate) fn close_file(key: &Key, json: &[u8]) -> Vec<u8> {
    let packed = zstd::bulk::compress(json, limits::COMPRESSION);
    // Where compression fails, the format allows to go without.
    let plain = packed.map_or_else(
        |_| json.to_vec(),
        |packed| [&[COMPRESSED], &packed[..]].concat(),
    );
    encrypt(key, &plain)
}

/// A blob's content from its bytes in a pack. `unpacked` is its length where it is compressed.
pub(crate) fn open_blob(key: &Key, sealed: &[u8], unpacked: Option<u32>) -> Result<Vec<u8>, Fault> {
    let plain = decrypt(key, sealed)?;
    let Some(length) = unpacked else {
        return Ok(plain);
    };
    if length > limits::BLOB_BYTES {
        return Err(Fault::Swollen);
    }
    let plain = zstd::bulk::decompress(&plain, length as usize).map_err(|_| Fault::Malformed)?;
    (plain.len() == length as usize)
        .then_some(plain)
        .ok_or(Fault::Malformed)
}

/// The key under a password, as restic keeps it: the content of a file in `keys/`.
///
/// scrypt is there to slow guessing down; this password is as random as the key, so the cheapest parameters that restic takes
/// are enough, and opening takes no 128 MB of memory.
pub(crate) fn key_file(key: &Key, password: &str) -> Vec<u8> {
    const LOG_N: u8 = 12;
    const R: u32 = 8;
    const P: u32 = 1;
    let salt = random::<64>();
    let mut under = Zeroizing::new([0; Key::BYTES]);
    let params = scrypt::Params::new(LOG_N, R, P).expect("these are within scrypt's bounds");
    scrypt::scrypt(password.as_bytes(), &salt, &params, &mut under[..])
        .expect("64 bytes are within scrypt's bounds");
    let master = Zeroizing::new(key.master().to_string());
    let file = serde_json::json!({
        "hostname": "isyone",
        "username": "isyone",
        "kdf": "scrypt",
        "N": 1u32 << LOG_N,
        "r": R,
        "p": P,
        // restic wants a time here and uses it for nothing.
        "created": "2026-01-01T00:00:00Z",
        "data": BASE64_STANDARD.encode(encrypt_with(&under, master.as_bytes())),
        "salt": BASE64_STANDARD.encode(salt),
    });
    file.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key::new([byte; 64])
    }

    #[test]
    fn what_is_closed_opens_with_its_key_only() {
        let sealed = close_file(&key(1), b"{\"packs\":[]}");
        assert_eq!(open_file(&key(1), &sealed).unwrap(), b"{\"packs\":[]}");
        assert_eq!(open_file(&key(2), &sealed), Err(Fault::Sealed));
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert_eq!(open_file(&key(1), &altered), Err(Fault::Sealed));
        }
        for length in 0..sealed.len() {
            assert!(open_file(&key(1), &sealed[..length]).is_err());
        }
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let zeros = vec![0; 64 << 20];
        let packed = zstd::bulk::compress(&zeros, 3).unwrap();
        assert!(packed.len() < 10_000);
        assert_eq!(unpack(&packed, 1 << 20), Err(Fault::Swollen));
        let blob = encrypt(&key(1), &packed);
        let open = |unpacked| open_blob(&key(1), &blob, Some(unpacked));
        assert_eq!(open(1 << 20), Err(Fault::Malformed));
        assert_eq!(open(u32::MAX), Err(Fault::Swollen));
        assert_eq!(open(64 << 20).map(|plain| plain.len()), Ok(64 << 20));
    }
}
