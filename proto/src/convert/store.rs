//! What calls of `BackupStore` are about: wire messages to checked types and back.
//!
//! Not here: contents of files, and who may reach a repository (the coordinator).

use std::fmt;

use super::parse;
use crate::{backup::RepositoryRef, error::FieldError, pb::agent::v1 as agent};

/// Most bytes of a file's content in one message of `BackupStore`.
pub const MAX_CHUNK_BYTES: usize = 1 << 20;
/// Most files in one page of a list: 40 bytes each, far below the limit of a message.
pub const MAX_LIST_PAGE: u32 = 20_000;
/// Largest pack that is taken. Those that are written have 16 MiB and at most one blob more.
pub const MAX_PACK_BYTES: u64 = 64 << 20;
/// Largest file of another kind that is taken. Index files hold some 50,000 blobs (5 MB).
pub const MAX_OTHER_BYTES: u64 = 32 << 20;

/// The kinds of files in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StoreFileKind {
    /// There is one, without a name.
    Config,
    /// A repository's key under a password.
    Key,
    /// A snapshot.
    Snapshot,
    /// Which blobs are in which pack.
    Index,
    /// Contents and folders.
    Pack,
}

/// A file of a repository.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreFile {
    /// Its kind.
    pub kind: StoreFileKind,
    /// SHA-256 of its content; zeros of `config`.
    pub name: [u8; 32],
}

impl StoreFile {
    /// The largest that is taken of its kind, bytes.
    pub fn most_bytes(&self) -> u64 {
        match self.kind {
            StoreFileKind::Pack => MAX_PACK_BYTES,
            _ => MAX_OTHER_BYTES,
        }
    }
}

impl fmt::Debug for StoreFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, hex::encode(&self.name[..4]))
    }
}

/// What a `Put` begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutHead {
    /// The repository.
    pub of: RepositoryRef,
    /// The file.
    pub file: StoreFile,
    /// Bytes that follow, within the bound of the file's kind.
    pub size: u64,
}

impl TryFrom<agent::PutFile> for PutHead {
    type Error = FieldError;
    fn try_from(wire: agent::PutFile) -> Result<Self, FieldError> {
        let file = store_file(wire.file)?;
        let most = file.most_bytes();
        if wire.size > most {
            let problem = format!("{} bytes are more than {most}", wire.size);
            return Err(FieldError::new("size", problem));
        }
        Ok(Self {
            of: repository(wire.of)?,
            file,
            size: wire.size,
        })
    }
}

/// Parses which repository a call is about.
pub fn repository(wire: Option<agent::Repository>) -> Result<RepositoryRef, FieldError> {
    let wire = wire.ok_or_else(|| FieldError::new("of", "must be set"))?;
    Ok(RepositoryRef {
        destination: parse("of.destination", &wire.destination)?,
        tenant: parse("of.tenant_uid", &wire.tenant_uid)?,
    })
}

/// The repository for the wire.
pub fn repository_to_wire(of: &RepositoryRef) -> agent::Repository {
    agent::Repository {
        destination: of.destination.to_string(),
        tenant_uid: of.tenant.to_string(),
    }
}

/// Parses a kind of files.
pub fn store_kind(wire: i32) -> Result<StoreFileKind, FieldError> {
    let kind = match agent::FileKind::try_from(wire) {
        Ok(agent::FileKind::Config) => Some(StoreFileKind::Config),
        Ok(agent::FileKind::Key) => Some(StoreFileKind::Key),
        Ok(agent::FileKind::Snapshot) => Some(StoreFileKind::Snapshot),
        Ok(agent::FileKind::Index) => Some(StoreFileKind::Index),
        Ok(agent::FileKind::Pack) => Some(StoreFileKind::Pack),
        Ok(agent::FileKind::Unspecified) | Err(_) => None,
    };
    kind.ok_or_else(|| FieldError::new("kind", "is unknown"))
}

/// A kind for the wire.
pub fn store_kind_to_wire(kind: StoreFileKind) -> i32 {
    match kind {
        StoreFileKind::Config => agent::FileKind::Config,
        StoreFileKind::Key => agent::FileKind::Key,
        StoreFileKind::Snapshot => agent::FileKind::Snapshot,
        StoreFileKind::Index => agent::FileKind::Index,
        StoreFileKind::Pack => agent::FileKind::Pack,
    }
    .into()
}

/// Parses a file.
pub fn store_file(wire: Option<agent::RepositoryFile>) -> Result<StoreFile, FieldError> {
    let wire = wire.ok_or_else(|| FieldError::new("file", "must be set"))?;
    let kind = store_kind(wire.kind).map_err(|e| e.within("file"))?;
    let name = match (kind, &wire.name[..]) {
        (StoreFileKind::Config, []) => [0; 32],
        (StoreFileKind::Config, _) => {
            return Err(FieldError::new("file.name", "must be empty"));
        }
        (_, name) => <[u8; 32]>::try_from(name)
            .map_err(|_| FieldError::new("file.name", "must have 32 bytes"))?,
    };
    Ok(StoreFile { kind, name })
}

/// A file for the wire.
pub fn store_file_to_wire(file: StoreFile) -> agent::RepositoryFile {
    agent::RepositoryFile {
        kind: store_kind_to_wire(file.kind),
        name: match file.kind {
            StoreFileKind::Config => Vec::new(),
            _ => file.name.to_vec(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_call_is_about_survives_the_wire() {
        let of = RepositoryRef {
            destination: "own".parse().unwrap(),
            tenant: uuid::Uuid::from_u128(7),
        };
        assert_eq!(repository(Some(repository_to_wire(&of))).unwrap(), of);
        for (kind, name) in [
            (StoreFileKind::Config, [0; 32]),
            (StoreFileKind::Key, [1; 32]),
            (StoreFileKind::Snapshot, [2; 32]),
            (StoreFileKind::Index, [3; 32]),
            (StoreFileKind::Pack, [4; 32]),
        ] {
            let file = StoreFile { kind, name };
            assert_eq!(store_file(Some(store_file_to_wire(file))).unwrap(), file);
        }
    }

    #[test]
    fn what_no_agent_asks_is_refused_by_name() {
        let refused = |kind: agent::FileKind, name: Vec<u8>| {
            let kind = kind.into();
            store_file(Some(agent::RepositoryFile { kind, name }))
                .unwrap_err()
                .field
        };
        assert_eq!(refused(agent::FileKind::Config, vec![0; 32]), "file.name");
        assert_eq!(refused(agent::FileKind::Pack, vec![0; 31]), "file.name");
        assert_eq!(refused(agent::FileKind::Pack, Vec::new()), "file.name");
        assert_eq!(
            refused(agent::FileKind::Unspecified, vec![0; 32]),
            "file.kind"
        );
        assert_eq!(store_file(None).unwrap_err().field, "file");
        let mut put = agent::PutFile {
            of: Some(agent::Repository {
                destination: "own".to_owned(),
                tenant_uid: uuid::Uuid::from_u128(7).to_string(),
            }),
            file: Some(store_file_to_wire(StoreFile {
                kind: StoreFileKind::Pack,
                name: [9; 32],
            })),
            size: MAX_PACK_BYTES,
        };
        assert_eq!(PutHead::try_from(put.clone()).unwrap().size, MAX_PACK_BYTES);
        put.size += 1;
        assert_eq!(PutHead::try_from(put.clone()).unwrap_err().field, "size");
        (put.size, put.of) = (1, None);
        assert_eq!(PutHead::try_from(put.clone()).unwrap_err().field, "of");
        put.of = Some(agent::Repository {
            destination: "../x".to_owned(),
            tenant_uid: String::new(),
        });
        assert_eq!(PutHead::try_from(put).unwrap_err().field, "of.destination");
    }
}
