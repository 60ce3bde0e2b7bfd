//! How the CA is replaced while everybody stays connected, as files in the authority's directory.
//!
//! | stage | who signs clients | who signs our server certificate | trusted |
//! |---|---|---|---|
//! | none | `ca.key` | `ca.key` | `ca.pem` |
//! | prepared | `ca.key` | `ca.key` | both |
//! | switched | `ca.next.key` | `ca.key` | both |
//! | none again | `ca.key`, which is the new one | the same | the new CA alone |
//!
//! The server certificate comes last, so that who was away learns of the new CA by the old one until the very end.
//! `rotation.json` is the record: it is written before anything else of a stage, and [`settle`] finishes what a crash
//! interrupted. A coordinator of the version before sees a bundle of two CAs and the old key, and works.
//! Not here: when a stage may follow (rotation), the TLS configurations (server).

use std::path::Path;

use isyone_proto::{
    ids::HostName,
    tls::{self, fingerprint},
};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::{
    CA_TTL_S,
    issue::{self, PkiError},
    read, write,
};

/// The record of a rotation under way.
const RECORD: &str = "rotation.json";
/// The key of the CA that comes.
pub(super) const NEXT_KEY: &str = "ca.next.key";
/// Most hosts that a rotation goes on without: a site, not the fleet. Above that, `--force`.
pub const MAX_LEFT_OUT: usize = 256;
/// Only that of the record and the files that a stage ends with: where a test stops halfway.
type Files<'a> = &'a mut dyn FnMut(&str) -> Result<(), PkiError>;

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Everybody is told to trust both CAs; the old one still signs.
    Prepared,
    /// The new one signs; certificates of both are accepted.
    Switched,
    /// The old one is being forgotten. Never seen from outside: [`settle`] ends it.
    Retiring,
}

/// A rotation under way, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    pub stage: Stage,
    /// The certificate of the CA that comes, PEM.
    pub next_ca_pem: String,
    /// When it was prepared, seconds since the Unix epoch.
    pub prepared_at: i64,
    /// When the new CA began to sign, likewise.
    #[serde(default)]
    pub switched_at: Option<i64>,
    /// For how long after that both are accepted, seconds.
    pub overlap_s: i64,
    /// Each certificate of an operator is waited for. Not in rotations that a version before began: certificates that were
    /// signed anew do not say there which ones they follow.
    #[serde(default)]
    pub by_certificate: bool,
    /// Hosts that an admin does not wait for; at most [`MAX_LEFT_OUT`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<HostName>,
}

impl Rotation {
    /// When the old CA is to be forgotten, seconds since the Unix epoch; `None` before the new one signs.
    pub fn ends_at(&self) -> Option<i64> {
        self.switched_at
            .map(|switched| switched.saturating_add(self.overlap_s))
    }
}

/// The rotation under way, if there is one.
pub(super) fn under_way(dir: &Path) -> Result<Option<Rotation>, PkiError> {
    let path = dir.join(RECORD);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(PkiError::Io { path, source }),
    };
    let rotation = serde_json::from_str(&text).map_err(|e| PkiError::Record {
        path,
        why: e.to_string(),
    })?;
    Ok(Some(rotation))
}

/// Finishes what a crash interrupted. Each step can be repeated.
pub(super) fn settle(dir: &Path) -> Result<(), PkiError> {
    settle_by(dir, &mut |_| Ok(()))
}

/// Likewise; `before` is called before each write, with what is written.
fn settle_by(dir: &Path, before: Files<'_>) -> Result<(), PkiError> {
    let Some(rotation) = under_way(dir)? else {
        // Of a rotation that did not begin, or of one that has ended: a copy of `ca.key`.
        if dir.join(NEXT_KEY).exists() {
            before(NEXT_KEY)?;
            remove(dir, NEXT_KEY)?;
        }
        return Ok(());
    };
    if rotation.stage == Stage::Retiring {
        let key = read(dir, NEXT_KEY)?;
        if read(dir, "ca.key")? != key {
            before("ca.key")?;
            write(dir, "ca.key", &key, 0o600)?;
        }
        if read(dir, "ca.pem")? != rotation.next_ca_pem {
            before("ca.pem")?;
            write(dir, "ca.pem", &rotation.next_ca_pem, 0o644)?;
        }
        before(RECORD)?;
        remove(dir, RECORD)?;
        before(NEXT_KEY)?;
        return remove(dir, NEXT_KEY);
    }
    let trusted = read(dir, "ca.pem")?;
    if !names(&trusted, &rotation.next_ca_pem)? {
        before("ca.pem")?;
        write(
            dir,
            "ca.pem",
            &bundle(&trusted, &rotation.next_ca_pem),
            0o644,
        )?;
    }
    Ok(())
}

/// Makes a CA beside the one that signs. Refused while a rotation is under way.
pub(super) fn prepare(dir: &Path, overlap_s: i64, now_s: i64) -> Result<Rotation, PkiError> {
    prepare_by(dir, overlap_s, now_s, &mut |_| Ok(()))
}

fn prepare_by(
    dir: &Path,
    overlap_s: i64,
    now_s: i64,
    before: Files<'_>,
) -> Result<Rotation, PkiError> {
    if under_way(dir)?.is_some() {
        return Err(PkiError::UnderWay);
    }
    let (next_ca_pem, key) = issue::new_ca(now_s, CA_TTL_S)?;
    before(NEXT_KEY)?;
    write(dir, NEXT_KEY, &key, 0o600)?;
    let rotation = Rotation {
        stage: Stage::Prepared,
        next_ca_pem,
        prepared_at: now_s,
        switched_at: None,
        overlap_s,
        by_certificate: true,
        without: Vec::new(),
    };
    record(dir, &rotation, before)?;
    settle_by(dir, before)?;
    Ok(rotation)
}

/// Lets the new CA sign. Nothing happens if it does already.
pub(super) fn switch(dir: &Path, now_s: i64) -> Result<(), PkiError> {
    match under_way(dir)?.ok_or(PkiError::NotUnderWay)? {
        rotation if rotation.stage == Stage::Prepared => {
            let switched = Rotation {
                stage: Stage::Switched,
                switched_at: Some(now_s),
                ..rotation
            };
            record(dir, &switched, &mut |_| Ok(()))
        }
        _ => Ok(()),
    }
}

/// Remembers hosts that nobody waits for any more.
pub(super) fn leave_out(dir: &Path, hosts: &[HostName]) -> Result<(), PkiError> {
    let mut rotation = under_way(dir)?.ok_or(PkiError::NotUnderWay)?;
    rotation.without.extend_from_slice(hosts);
    rotation.without.sort();
    rotation.without.dedup();
    if rotation.without.len() > MAX_LEFT_OUT {
        return Err(PkiError::TooManyLeftOut);
    }
    record(dir, &rotation, &mut |_| Ok(()))
}

/// Forgets the old CA. Refused before the new one signs.
pub(super) fn retire(dir: &Path) -> Result<(), PkiError> {
    retire_by(dir, &mut |_| Ok(()))
}

fn retire_by(dir: &Path, before: Files<'_>) -> Result<(), PkiError> {
    let rotation = under_way(dir)?.ok_or(PkiError::NotUnderWay)?;
    if rotation.stage == Stage::Prepared {
        return Err(PkiError::NotSwitched);
    }
    let retiring = Rotation {
        stage: Stage::Retiring,
        ..rotation
    };
    record(dir, &retiring, before)?;
    settle_by(dir, before)
}

fn record(dir: &Path, rotation: &Rotation, before: Files<'_>) -> Result<(), PkiError> {
    before(RECORD)?;
    // Serialising plain strings and numbers cannot fail.
    let text = serde_json::to_string(rotation).unwrap_or_default();
    write(dir, RECORD, &text, 0o600)
}

fn remove(dir: &Path, name: &str) -> Result<(), PkiError> {
    let path = dir.join(name);
    let removed = match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        // The directory's entry must be gone for good before what follows.
        _ => std::fs::File::open(dir).and_then(|dir| dir.sync_all()),
    };
    removed.map_err(|source| PkiError::Io { path, source })
}

/// Whether a bundle has all the certificates of another one.
fn names(bundle: &str, others: &str) -> Result<bool, PkiError> {
    let trusted = fingerprints(bundle)?;
    Ok(fingerprints(others)?
        .iter()
        .all(|other| trusted.contains(other)))
}

/// SHA-256 of each certificate of a bundle, hex.
pub(super) fn fingerprints(bundle: &str) -> Result<Vec<String>, PkiError> {
    let all = tls::certificates("CA", bundle)?;
    Ok(all.iter().map(fingerprint).collect())
}

fn bundle(before: &str, next: &str) -> String {
    let line = if before.ends_with('\n') { "" } else { "\n" };
    format!("{before}{line}{next}")
}

/// The first four bytes of a CA's fingerprint, which certificates of it have in their serial number: so their records
/// tell who signed them.
pub(super) fn tag(ca: &CertificateDer<'_>) -> [u8; 4] {
    use sha2::{Digest as _, Sha256};
    let digest: [u8; 32] = Sha256::digest(ca.as_ref()).into();
    [digest[0], digest[1], digest[2], digest[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything in a directory, sorted.
    fn files(dir: &Path) -> Vec<(String, String)> {
        let mut all: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                (name, std::fs::read_to_string(path).unwrap())
            })
            .collect();
        all.sort();
        all
    }

    fn authority() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        super::super::create(dir.path(), 1_000_000).unwrap();
        dir
    }

    /// Whether the files can be used as they lie there: a key for each CA that signs, and the bundle with both.
    fn usable(dir: &Path) {
        let ca = read(dir, "ca.pem").unwrap();
        issue::load_issuer(&ca, &read(dir, "ca.key").unwrap()).unwrap();
        if let Some(rotation) = under_way(dir).unwrap() {
            let key = read(dir, NEXT_KEY).unwrap();
            issue::load_issuer(&rotation.next_ca_pem, &key).unwrap();
            assert!(names(&ca, &rotation.next_ca_pem).unwrap());
        }
    }

    fn crash() -> PkiError {
        PkiError::BadRequest("the process was killed".to_owned())
    }

    /// Runs `act` with a crash before its n-th write, for each n until it comes through; `after` looks at what
    /// [`settle`] makes of it.
    fn killed_everywhere(
        ready: impl Fn(&Path),
        act: impl Fn(&Path, Files<'_>) -> Result<(), PkiError>,
        after: impl Fn(&Path, usize),
    ) -> usize {
        for survives in 0.. {
            let dir = authority();
            ready(dir.path());
            let mut writes = 0;
            let ended = act(dir.path(), &mut |_| {
                writes += 1;
                if writes > survives {
                    Err(crash())
                } else {
                    Ok(())
                }
            });
            settle(dir.path()).unwrap();
            usable(dir.path());
            after(dir.path(), survives);
            if ended.is_ok() {
                return survives;
            }
        }
        unreachable!("a rotation has few writes")
    }

    #[test]
    fn a_crash_at_any_write_of_the_preparation_leaves_no_rotation_or_a_whole_one() {
        let writes = killed_everywhere(
            |_| {},
            |dir, before| prepare_by(dir, 60, 1_000_100, before).map(drop),
            |dir, survived| {
                let begun = under_way(dir).unwrap().is_some();
                // The key alone is nothing.
                assert_eq!(begun, survived >= 2, "after {survived} writes");
                let trusted = fingerprints(&read(dir, "ca.pem").unwrap()).unwrap().len();
                assert_eq!(trusted, 1 + usize::from(begun));
                assert_eq!(dir.join(NEXT_KEY).exists(), begun);
                // It can be begun, or gone on with.
                if !begun {
                    prepare(dir, 60, 1_000_200).unwrap();
                }
                switch(dir, 1_000_300).unwrap();
                usable(dir);
            },
        );
        assert_eq!(writes, 3);
    }

    #[test]
    fn a_crash_at_any_write_of_the_end_leaves_both_or_the_new_one_alone() {
        let writes = killed_everywhere(
            |dir| {
                prepare(dir, 60, 1_000_100).unwrap();
                switch(dir, 1_000_200).unwrap();
            },
            |dir, before| retire_by(dir, before),
            |dir, survived| {
                let trusted = fingerprints(&read(dir, "ca.pem").unwrap()).unwrap().len();
                assert_eq!(trusted, if survived == 0 { 2 } else { 1 });
                if under_way(dir).unwrap().is_some() {
                    retire(dir).unwrap();
                }
                let left: Vec<String> = files(dir).into_iter().map(|(name, _)| name).collect();
                assert_eq!(left, ["ca.key", "ca.pem"], "after {survived} writes");
            },
        );
        assert_eq!(writes, 5);
    }

    #[test]
    fn stages_follow_in_order_and_can_be_repeated() {
        let dir = authority();
        let dir = dir.path();
        assert!(matches!(switch(dir, 1), Err(PkiError::NotUnderWay)));
        assert!(matches!(retire(dir), Err(PkiError::NotUnderWay)));
        let prepared = prepare(dir, 60, 1_000_100).unwrap();
        assert!(matches!(prepare(dir, 60, 2), Err(PkiError::UnderWay)));
        assert!(matches!(retire(dir), Err(PkiError::NotSwitched)));
        assert_eq!(prepared.ends_at(), None);
        for _ in 0..2 {
            switch(dir, 1_000_200).unwrap();
            let now = under_way(dir).unwrap().unwrap();
            assert_eq!(now.ends_at(), Some(1_000_260));
        }
        retire(dir).unwrap();
        assert_eq!(read(dir, "ca.pem").unwrap(), prepared.next_ca_pem);
        // What is there is the beginning of the next one.
        prepare(dir, 60, 1_000_400).unwrap();
        usable(dir);
    }
}
