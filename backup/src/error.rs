//! What can go wrong, as types: whoever shows it decides on the words, and nobody parses ours.

use std::io;

use crate::store::{File, Name, StoreError};

/// Why a backup, a restore or a check did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its destination refused or failed; [`StoreError`] says whether it is full, unreachable, …
    #[error("the repository at {place}")]
    Store {
        place: String,
        #[source]
        source: StoreError,
    },
    #[error("there is no repository at {place}")]
    NoRepository { place: String },
    #[error("there is a repository at {place} already")]
    RepositoryExists { place: String },
    /// What lies at a copy is not of the repository that is copied.
    #[error("there is another repository at {place}; it is left as it is")]
    OtherRepository { place: String },
    /// Something intact was found that this key does not open.
    #[error("the repository at {place} was made with another key")]
    WrongKey { place: String },
    /// Named, so that one can tell which backups are affected.
    #[error("{file} in the repository is damaged: {fault}")]
    Damaged { file: File, fault: Fault },
    #[error("{path} of snapshot {snapshot} cannot be read: {fault}")]
    Content {
        snapshot: Name,
        path: String,
        /// The pack it lies in, where the index knows one.
        file: Option<File>,
        fault: Fault,
    },
    #[error("there is no snapshot {0}")]
    NoSnapshot(Name),
    #[error("there is no {path} in snapshot {snapshot}")]
    NoEntry { snapshot: Name, path: String },
    /// A producer failed, a file could not be read or changed while it was. No snapshot was left.
    #[error("{path} could not be backed up")]
    Source {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("a part of a snapshot cannot be called {0:?}")]
    PartName(String),
    #[error("{0} parts are more than a snapshot may have")]
    TooManyParts(usize),
    /// What was to be restored is not what a backup of a tenant holds; see [`Refusal`].
    #[error("{path:?} is not restored: {refusal}")]
    Refused { path: String, refusal: Refusal },
    #[error("{path:?} could not be restored")]
    Restore {
        path: String,
        #[source]
        source: io::Error,
    },
    /// The limit is the caller's: what it has room for.
    #[error("{what} are more than the {most} that were allowed")]
    TooMuch { what: &'static str, most: u64 },
    #[error("stopped")]
    Stopped,
    /// rustic_core failed in a way that it does not type.
    #[error("the repository could not be {doing}: {said}")]
    Library { doing: &'static str, said: String },
}

/// What is wrong with a file of a repository, or with content in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("it is not there")]
    Missing,
    #[error("its content is not what its name says")]
    Altered,
    #[error("its size is not what the index says")]
    Size,
    #[error("it cannot be opened with the repository's key")]
    Sealed,
    #[error("it unpacks to more than it may")]
    Swollen,
    #[error("it is not of the format")]
    Malformed,
    #[error("no index names it")]
    NotIndexed,
    #[error("reading it failed")]
    Unreadable,
}

/// Why something is not restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("its name would lead elsewhere")]
    Name,
    #[error("it is neither a file nor a folder")]
    Special,
    #[error("it lies too deep")]
    Depth,
    #[error("it is there already")]
    Exists,
    #[error("it is a folder")]
    Folder,
    #[error("it is a file")]
    NotAFolder,
}

impl Error {
    /// What a destination's failure means to the job.
    pub(crate) fn of_store(place: &str, source: StoreError) -> Self {
        let damaged = |file, fault| Self::Damaged { file, fault };
        match source {
            StoreError::Stopped => Self::Stopped,
            StoreError::Altered(file) => damaged(file, Fault::Altered),
            StoreError::Swollen(file) => damaged(file, Fault::Swollen),
            StoreError::TooLarge { file, .. } => damaged(file, Fault::Swollen),
            source => Self::Store {
                place: place.to_owned(),
                source,
            },
        }
    }

    /// The destination's failure, if it was that.
    #[must_use]
    pub const fn store(&self) -> Option<&StoreError> {
        match self {
            Self::Store { source, .. } => Some(source),
            _ => None,
        }
    }
}
