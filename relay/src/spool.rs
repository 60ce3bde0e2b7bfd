//! Where large bodies and answers lie: files without a name in a directory of the relay's own.
//!
//! Nothing of it outlives the process, and nothing is found there by name. Not here: how much may lie there (`ledger`).

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt},
    },
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use rustix::{
    fs::{AtFlags, FallocateFlags, Mode, OFlags},
    io::Errno,
};

use crate::ledger::locked;

/// Names that exist for a moment where the file system has no unnamed files.
const PREFIX: &str = "part-";

/// The directory.
#[derive(Debug)]
pub(crate) struct Spool {
    dir: Mutex<Arc<OwnedFd>>,
    next: AtomicU64,
}

impl Spool {
    /// Opens the directory, making it if need be, and removes what a crash left. Refuses one that others may enter or own, and links.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            dir: Mutex::new(Arc::new(directory(path)?)),
            next: AtomicU64::new(0),
        })
    }

    /// Where the directory was removed: the one that is there now, made if need be, for all that comes.
    pub(crate) fn open_again(&self, path: &Path) -> io::Result<()> {
        *locked(&self.dir) = Arc::new(directory(path)?);
        Ok(())
    }

    /// A new file without a name. Blocks.
    pub(crate) fn file(&self) -> io::Result<File> {
        let dir = Arc::clone(&locked(&self.dir));
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let unnamed = OFlags::TMPFILE | OFlags::EXCL;
        match rustix::fs::openat(&*dir, ".", flags | unnamed, mode) {
            Ok(fd) => Ok(fd.into()),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                let name = format!("{PREFIX}{}-{number}", std::process::id());
                let create = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let fd = rustix::fs::openat(&*dir, &name, flags | create, mode)?;
                rustix::fs::unlinkat(&*dir, &name, AtFlags::empty())?;
                Ok(fd.into())
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn directory(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let dir = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = dir.metadata()?;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        let text = format!("{} belongs to somebody else", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    dir.set_permissions(std::fs::Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PREFIX.as_bytes())
        {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(dir.into())
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// A new file, without blocking the caller's thread.
pub(crate) async fn create(spool: &Arc<Spool>) -> io::Result<Arc<File>> {
    let spool = Arc::clone(spool);
    blocking(move || spool.file().map(Arc::new)).await
}

/// Writes all of it at an offset.
pub(crate) async fn write_at(file: &Arc<File>, bytes: Bytes, offset: u64) -> io::Result<()> {
    let file = Arc::clone(file);
    blocking(move || file.write_all_at(&bytes, offset)).await
}

/// Reads exactly `length` bytes at an offset. Blocks.
pub(crate) fn read_at(file: &File, offset: u64, length: usize) -> io::Result<Bytes> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.into())
}

/// Gives the disk space of a part back that was read. `false` where the file system cannot. Blocks.
pub(crate) fn punch(file: &File, from: u64, length: u64) -> bool {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(file.as_fd(), flags, from, length).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_no_name_and_what_a_crash_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        drop(Spool::open(&path).unwrap());
        std::fs::write(path.join("part-1-2"), "left").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let spool = Spool::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        let file = spool.file().unwrap();
        file.write_all_at(b"hello", 3).unwrap();
        assert_eq!(read_at(&file, 3, 5).unwrap(), "hello");
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
        assert!(read_at(&file, 4, 5).is_err());
    }

    #[test]
    fn space_of_what_was_read_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(&folder.path().join("spool")).unwrap();
        let file = spool.file().unwrap();
        file.write_all_at(&vec![1; 4 << 20], 0).unwrap();
        file.sync_all().unwrap();
        let before = file.metadata().unwrap().blocks();
        if punch(&file, 0, 3 << 20) {
            assert!(file.metadata().unwrap().blocks() < before);
            assert_eq!(read_at(&file, 3 << 20, 2).unwrap()[..], [1, 1]);
        }
    }

    #[test]
    fn a_link_in_its_place_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("spool");
        std::os::unix::fs::symlink("/tmp", &link).unwrap();
        assert!(Spool::open(&link).is_err());
    }
}
