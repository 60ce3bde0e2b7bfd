//! A folder of this machine as a destination.
//!
//! A file appears by a rename after it was synced, so one that is there is whole. Whoever may write into the folder besides us
//! is trusted with it: an operator's own tool, stock restic.

use std::{
    fs, io,
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use rustix::io::Errno;

use super::{File, Kind, Name, Store, StoreError};
use crate::limits;

/// Begins the names of files that are not yet whole.
pub(super) const UNFINISHED: &str = ".unfinished-";

/// Tells writers of this process apart.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A repository in a folder.
#[derive(Debug, Clone)]
pub struct Local {
    root: PathBuf,
}

impl Local {
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(super) fn at(&self, file: File) -> PathBuf {
        self.root.join(file.path())
    }

    /// What a failure to open means: without the repository's folder (a disk that is not mounted) nothing is known of a file.
    pub(super) fn missing(&self, file: File, source: io::Error) -> StoreError {
        match source.kind() {
            io::ErrorKind::NotFound if self.root.is_dir() => StoreError::Absent(file),
            io::ErrorKind::NotFound => StoreError::Unreachable(source),
            _ => meaning(source),
        }
    }

    fn add_files(&self, folder: &Path, found: &mut Vec<(Name, u64)>) -> io::Result<bool> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            match entry.metadata() {
                Ok(data) if data.is_file() => found.push((name, data.len())),
                Ok(_) => {}
                // Pruned between the listing and now.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
            if found.len() > limits::FILES {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn folders(&self, kind: Kind) -> io::Result<Vec<PathBuf>> {
        let folder = self.root.join(kind.folder());
        if kind != Kind::Pack {
            return Ok(vec![folder]);
        }
        let mut inner = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            // Two digits: what else lies here is not ours.
            if entry.file_name().len() == 2 && entry.file_type()?.is_dir() {
                inner.push(entry.path());
            }
        }
        Ok(inner)
    }
}

/// What an error of the file system means for a backup.
pub(super) fn meaning(source: io::Error) -> StoreError {
    match Errno::from_io_error(&source) {
        Some(Errno::NOSPC | Errno::DQUOT) => StoreError::Full(source),
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => StoreError::Denied(source),
        // Network file systems.
        Some(
            Errno::STALE
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::TIMEDOUT
            | Errno::NOTCONN
            | Errno::NODEV
            | Errno::NXIO,
        ) => StoreError::Unreachable(source),
        _ => StoreError::Failed(source),
    }
}

pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// A name that no other writer has.
pub(super) fn unfinished_name() -> String {
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{UNFINISHED}{}-{number}", std::process::id())
}

/// Writes and syncs a new file; removes it when that fails.
fn write_new(path: &Path, content: &[Bytes]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let written = content
        .iter()
        .try_for_each(|part| file.write_all(part))
        .and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(path); // the first error counts
    }
    written
}

impl Store for Local {
    fn place(&self) -> String {
        self.root.display().to_string()
    }

    fn create(&self) -> Result<(), StoreError> {
        let make = |path: &Path| {
            make_folder(path).map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => StoreError::Unreachable(e),
                _ => meaning(e),
            })
        };
        make(&self.root)?;
        // `locks` is stock restic's.
        let kinds = Kind::NAMED.map(Kind::folder);
        kinds
            .iter()
            .chain(&["locks"])
            .try_for_each(|folder| make(&self.root.join(folder)))
    }

    fn list(&self, kind: Kind) -> Result<Vec<(Name, u64)>, StoreError> {
        if kind == Kind::Config {
            let path = self.at(File::config());
            return match fs::metadata(&path) {
                Ok(data) => Ok(vec![(File::config().name, data.len())]),
                Err(e) => match self.missing(File::config(), e) {
                    StoreError::Absent(_) => Ok(Vec::new()),
                    other => Err(other),
                },
            };
        }
        let mut found = Vec::new();
        let unreachable = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => StoreError::Unreachable(e),
            _ => meaning(e),
        };
        for folder in self.folders(kind).map_err(unreachable)? {
            if !self.add_files(&folder, &mut found).map_err(unreachable)? {
                return Err(StoreError::TooMany {
                    folder: kind.folder(),
                    most: limits::FILES,
                });
            }
        }
        Ok(found)
    }

    fn read(&self, file: File, most: u64) -> Result<Bytes, StoreError> {
        let opened = fs::File::open(self.at(file)).map_err(|e| self.missing(file, e))?;
        let bytes = opened.metadata().map_err(meaning)?.len();
        if bytes > most {
            return Err(StoreError::TooLarge { file, bytes, most });
        }
        let mut content = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
        // No more than was allowed, should it grow meanwhile.
        opened
            .take(bytes)
            .read_to_end(&mut content)
            .map_err(meaning)?;
        Ok(content.into())
    }

    fn read_part(&self, file: File, offset: u64, length: u32) -> Result<Bytes, StoreError> {
        let mut opened = fs::File::open(self.at(file)).map_err(|e| self.missing(file, e))?;
        opened.seek(io::SeekFrom::Start(offset)).map_err(meaning)?;
        let mut content = vec![0; length as usize];
        opened.read_exact(&mut content).map_err(meaning)?;
        Ok(content.into())
    }

    fn write(&self, file: File, content: &[Bytes]) -> Result<(), StoreError> {
        let path = self.at(file);
        let folder = path.parent().unwrap_or(&self.root);
        match fs::symlink_metadata(&path) {
            Ok(_) if file.kind == Kind::Config => return Err(StoreError::Exists(file)),
            Ok(_) => return Ok(()), // the name is the content's hash
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(meaning(e)),
        }
        // One of 256, made when it is needed. The folder above must be there: see `missing`.
        if file.kind == Kind::Pack {
            make_folder(folder).map_err(|e| self.missing(file, e))?;
        }
        let unfinished = folder.join(unfinished_name());
        write_new(&unfinished, content).map_err(|e| match self.missing(file, e) {
            StoreError::Absent(_) => StoreError::Unreachable(io::ErrorKind::NotFound.into()),
            other => other,
        })?;
        let renamed = fs::rename(&unfinished, &path).and_then(|()| {
            // Without it the file may be gone after a power cut, and with it the snapshot that needs it.
            fs::File::open(folder)?.sync_all()
        });
        renamed.map_err(|e| {
            let _ = fs::remove_file(&unfinished); // the first error counts
            meaning(e)
        })
    }

    fn remove(&self, file: File) -> Result<(), StoreError> {
        match fs::remove_file(self.at(file)) {
            Ok(()) => Ok(()),
            Err(e) => match self.missing(file, e) {
                StoreError::Absent(_) => Ok(()),
                other => Err(other),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(byte: u8) -> File {
        File::new(Kind::Pack, Name([byte; 32]))
    }

    #[test]
    fn what_is_written_is_listed_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = Local::new(folder.path().join("alfa"));
        store.create().unwrap();
        store.create().unwrap();
        let content = [Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        store.write(file(1), &content).unwrap();
        assert_eq!(store.list(Kind::Pack).unwrap(), [(Name([1; 32]), 6)]);
        assert_eq!(store.read(file(1), 6).unwrap(), "onetwo");
        assert_eq!(store.read_part(file(1), 2, 3).unwrap(), "etw");
        assert!(matches!(
            store.read(file(1), 5),
            Err(StoreError::TooLarge { bytes: 6, .. })
        ));
        assert!(store.read_part(file(1), 4, 3).is_err(), "it ends before");
        store.remove(file(1)).unwrap();
        store.remove(file(1)).unwrap();
        assert!(matches!(store.read(file(1), 9), Err(StoreError::Absent(_))));
    }

    #[test]
    fn a_disk_that_is_not_mounted_is_not_an_empty_repository() {
        let folder = tempfile::tempdir().unwrap();
        let store = Local::new(folder.path().join("disk/alfa"));
        for result in [
            store.create(),
            store.list(Kind::Snapshot).map(drop),
            store.list(Kind::Pack).map(drop),
            store.list(Kind::Config).map(drop),
            store.read(file(1), 9).map(drop),
            store.write(file(1), &[]),
            store.write(File::new(Kind::Index, Name([2; 32])), &[]),
            store.remove(file(1)),
        ] {
            assert!(
                matches!(result, Err(StoreError::Unreachable(_))),
                "{result:?}"
            );
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn leftovers_and_other_peoples_files_are_not_listed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Local::new(folder.path().join("alfa"));
        store.create().unwrap();
        store.write(file(1), &[]).unwrap();
        let data = folder.path().join("alfa/data");
        fs::write(data.join("01/.unfinished-1-1"), "x").unwrap();
        fs::write(data.join("readme.txt"), "x").unwrap();
        fs::create_dir(data.join("01").join("ab".repeat(32))).unwrap();
        assert_eq!(store.list(Kind::Pack).unwrap().len(), 1);
    }
}
