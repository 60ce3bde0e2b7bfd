//! Where a repository's files lie. A file is written whole or not at all, and never changed: its name is the hash of its content
//! (but for the one called `config`).
//!
//! Not here: what is in the files, or that it is still what was written; the reader checks that.

mod add_only;
mod local;
mod served;

pub use add_only::AddOnly;
pub use local::Local;
pub use served::{Begun, Unfinished};

use std::{fmt, io, str::FromStr};

use bytes::Bytes;

/// The kinds of files in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Version and chunker of the repository. There is one.
    Config,
    /// The repository's key under a password, for stock restic.
    Key,
    Snapshot,
    /// Which blobs are in which pack.
    Index,
    /// Contents and folders.
    Pack,
}

impl Kind {
    /// All kinds of which there are many.
    pub const NAMED: [Self; 4] = [Self::Key, Self::Snapshot, Self::Index, Self::Pack];

    /// The folder of the kind, as restic lays it out.
    #[must_use]
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Config => "",
            Self::Key => "keys",
            Self::Snapshot => "snapshots",
            Self::Index => "index",
            Self::Pack => "data",
        }
    }
}

/// The name of a file or blob: the SHA-256 of its content.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub [u8; 32]);

impl Name {
    /// The first characters, enough for people and for `restic`.
    #[must_use]
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// Not 64 hexadecimal digits in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a name of 64 hexadecimal digits")]
pub struct NotAName;

impl FromStr for Name {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let mut name = [0; 32];
        hex::decode_to_slice(text, &mut name).map_err(|_| NotAName)?;
        // Upper case would be a second way to write the same name.
        let is_lower = !text.bytes().any(|b| b.is_ascii_uppercase());
        is_lower.then_some(Self(name)).ok_or(NotAName)
    }
}

/// A file of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct File {
    pub kind: Kind,
    pub name: Name,
}

impl File {
    #[must_use]
    pub const fn new(kind: Kind, name: Name) -> Self {
        Self { kind, name }
    }

    #[must_use]
    pub const fn config() -> Self {
        Self::new(Kind::Config, Name([0; 32]))
    }

    /// The path within the repository.
    #[must_use]
    pub fn path(&self) -> String {
        let name = self.name.to_string();
        match self.kind {
            Kind::Config => "config".to_owned(),
            Kind::Pack => format!("data/{}/{name}", &name[..2]),
            kind => format!("{}/{name}", kind.folder()),
        }
    }
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

/// Why a destination did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{0} is not there")]
    Absent(File),
    #[error("{0} is there already and may not be replaced")]
    Exists(File),
    #[error("the destination is full")]
    Full(#[source] io::Error),
    #[error("the destination cannot be reached")]
    Unreachable(#[source] io::Error),
    #[error("the destination does not allow it")]
    Denied(#[source] io::Error),
    #[error("{file} has {bytes} bytes, more than the {most} that such a file may have")]
    TooLarge { file: File, bytes: u64, most: u64 },
    #[error("there are more than {most} files in {folder}")]
    TooMany { folder: &'static str, most: usize },
    /// The job was told to stop.
    #[error("stopped")]
    Stopped,
    /// What was read is not what was written.
    #[error("{0} is damaged: its content is not what its name says")]
    Altered(File),
    #[error("{0} unpacks to more than it may")]
    Swollen(File),
    #[error("storage failed")]
    Failed(#[source] io::Error),
}

/// A place for one repository's files.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Where it is, for people. Without credentials.
    fn place(&self) -> String;

    /// Makes what must exist before the first file is written. Repeating it changes nothing.
    ///
    /// # Errors
    /// When the destination itself is not there: only the repository's own folder is made.
    fn create(&self) -> Result<(), StoreError>;

    /// All files of a kind with their sizes, in no order. What has no right name is left out.
    ///
    /// # Errors
    /// Also when the repository's folder is gone: that is never "no files".
    fn list(&self, kind: Kind) -> Result<Vec<(Name, u64)>, StoreError>;

    /// A whole file of at most `most` bytes.
    ///
    /// # Errors
    /// As [`StoreError`] says.
    fn read(&self, file: File, most: u64) -> Result<Bytes, StoreError>;

    /// A part of a file: all `length` bytes, or an error.
    ///
    /// # Errors
    /// As [`StoreError`] says; a file that ends before is a failure.
    fn read_part(&self, file: File, offset: u64, length: u32) -> Result<Bytes, StoreError>;

    /// Writes a file so that it is whole and durable when this returns, and was not there before.
    ///
    /// # Errors
    /// As [`StoreError`] says; then nothing of it is left.
    fn write(&self, file: File, content: &[Bytes]) -> Result<(), StoreError>;

    /// Removes a file. That there is none is no error.
    ///
    /// # Errors
    /// As [`StoreError`] says.
    fn remove(&self, file: File) -> Result<(), StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_nothing_else_is_one() {
        let name = Name([0xab; 32]);
        assert_eq!(name.to_string().parse(), Ok(name));
        for wrong in [
            "",
            "ab",
            &"AB".repeat(32),
            &"zz".repeat(32),
            &"ab".repeat(33),
            ".tmp-1",
            "../../../etc",
        ] {
            assert_eq!(wrong.parse::<Name>(), Err(NotAName), "{wrong}");
        }
    }

    #[test]
    fn paths_are_those_of_restic() {
        let name = Name([0x0f; 32]);
        let hex = "0f".repeat(32);
        let path = |kind| File::new(kind, name).path();
        assert_eq!(File::config().path(), "config");
        assert_eq!(path(Kind::Pack), format!("data/0f/{hex}"));
        assert_eq!(path(Kind::Key), format!("keys/{hex}"));
    }
}
