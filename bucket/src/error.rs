//! What a bucket's answers mean.
//!
//! Not here: what becomes of it (the callers).

use std::io;

use isyone_backup::store::{File, StoreError};
use opendal::{Error, ErrorKind};

/// Longest part of a server's own words that is repeated.
const MOST_SAID: usize = 200;
/// How servers say that there is no more room: S3 itself knows no such thing.
const FULL: [&str; 5] = [
    "QuotaExceeded",
    "XMinioStorageFull",
    "XMinioAdminBucketQuotaExceeded",
    "InsufficientStorage",
    "status: 507",
];
/// How they say that a file is locked, where that is no matter of what a key may do: MinIO's words.
const LOCKED: [&str; 1] = ["WORM protected"];
/// How they say that it is the key that is wrong, and not what it may do.
const WRONG_KEY: [&str; 2] = ["InvalidAccessKeyId", "SignatureDoesNotMatch"];

/// Why a bucket did not do what it was asked. With the server's words, never with ours to it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BucketError {
    #[error("{0} is not there")]
    Absent(String),
    #[error("there is no such bucket")]
    NoBucket,
    #[error("the server refuses the key: {0}")]
    WrongKey(String),
    #[error("the key may not do that: {0}")]
    Denied(String),
    #[error("the bucket is full: {0}")]
    Full(String),
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    #[error("{key} has {bytes} bytes, more than the {most} that it may have")]
    TooLarge { key: String, bytes: u64, most: u64 },
    #[error("there are more than {most} files")]
    TooMany { most: usize },
    #[error("the server answers: {0}")]
    Failed(String),
    /// Nobody waits for it any more.
    #[error("stopped")]
    Stopped,
}

impl BucketError {
    pub(crate) fn of(key: &str, error: &Error) -> Self {
        // What it was asked with and how it answered; shown to nobody.
        let all = error.to_string();
        let any = |words: &[&str]| words.iter().any(|word| all.contains(word));
        let said = said(error);
        match error.kind() {
            _ if any(&FULL) => Self::Full(said),
            _ if any(&LOCKED) => Self::Denied(said),
            ErrorKind::NotFound => Self::Absent(key.to_owned()),
            ErrorKind::ConfigInvalid => Self::NoBucket,
            ErrorKind::PermissionDenied if any(&WRONG_KEY) => Self::WrongKey(said),
            ErrorKind::PermissionDenied => Self::Denied(said),
            ErrorKind::RateLimited => Self::Unreachable(said),
            // Connections that fail or hang, and servers that have trouble: it may pass.
            _ if error.is_temporary() || error.is_persistent() => Self::Unreachable(said),
            _ => Self::Failed(said),
        }
    }

    /// Without words, for what counts or groups.
    #[must_use]
    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    pub(crate) fn of_file(self, file: File) -> StoreError {
        match self {
            Self::Absent(_) => StoreError::Absent(file),
            Self::TooLarge { bytes, most, .. } => StoreError::TooLarge { file, bytes, most },
            Self::TooMany { most } => StoreError::TooMany {
                folder: file.kind.folder(),
                most,
            },
            Self::Stopped => StoreError::Stopped,
            Self::Full(_) => StoreError::Full(io::Error::other(self)),
            Self::Unreachable(_) => StoreError::Unreachable(io::Error::other(self)),
            Self::WrongKey(_) | Self::Denied(_) => StoreError::Denied(io::Error::other(self)),
            Self::NoBucket | Self::Failed(_) => StoreError::Failed(io::Error::other(self)),
        }
    }
}

impl From<BucketError> for io::Error {
    fn from(error: BucketError) -> Self {
        let kind = match &error {
            BucketError::Absent(_) => io::ErrorKind::NotFound,
            BucketError::WrongKey(_) | BucketError::Denied(_) => io::ErrorKind::PermissionDenied,
            BucketError::Full(_) => io::ErrorKind::StorageFull,
            BucketError::Unreachable(_) => io::ErrorKind::HostUnreachable,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// The server's code and words, or what befell the connection.
fn said(error: &Error) -> String {
    let source = std::error::Error::source(error).map(|source| {
        let mut text = source.to_string();
        let mut next = source.source();
        while let Some(cause) = next {
            text = format!("{text}: {cause}");
            next = cause.source();
        }
        text
    });
    let mut said = match source {
        Some(source) => format!("{}: {source}", error.message()),
        None => error.message().to_owned(),
    };
    if said.is_empty() {
        said = error.kind().to_string();
    }
    said.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MOST_SAID)
        .collect()
}
