//! Directory trees on the host: copied with owners and modes (as clones where the file system can), wiped, flushed.
//! Blocking: call it from a blocking thread.
//!
//! Not here: which trees (golden, database).

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// What a copy moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyStats {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl std::ops::AddAssign for CopyStats {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
    }
}

/// Copies the content of `from` into `to`, which may exist; `to` takes the mode and owner of `from`.
pub fn copy(from: &Path, to: &Path) -> io::Result<CopyStats> {
    // Asked once per tree: a file system that cannot clone one file can clone none.
    let clones = AtomicBool::new(true);
    copy_dir(from, to, &clones)
}

fn copy_dir(from: &Path, to: &Path, clones: &AtomicBool) -> io::Result<CopyStats> {
    let mut stats = CopyStats::default();
    match fs::create_dir(to) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    take_owner(&fs::symlink_metadata(from)?, to, true)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target, meta) = (entry.path(), to.join(entry.file_name()), entry.metadata()?);
        if meta.is_dir() {
            stats += copy_dir(&source, &target, clones)?;
        } else if meta.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
            take_owner(&meta, &target, false)?;
        } else if meta.is_file() {
            copy_file(&source, &target, clones)?;
            take_owner(&meta, &target, true)?;
            stats += CopyStats { files: 1, bytes: meta.len() };
        } // sockets and pipes are made anew by whoever needs them
    }
    Ok(stats)
}

fn copy_file(from: &Path, to: &Path, clones: &AtomicBool) -> io::Result<()> {
    if clones.load(Ordering::Relaxed) {
        let (source, target) = (fs::File::open(from)?, fs::File::create(to)?);
        if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
            return Ok(());
        }
        clones.store(false, Ordering::Relaxed);
    }
    fs::copy(from, to).map(drop)
}

fn take_owner(of: &fs::Metadata, path: &Path, with_mode: bool) -> io::Result<()> {
    let now = fs::symlink_metadata(path)?;
    if (now.uid(), now.gid()) != (of.uid(), of.gid()) {
        lchown(path, Some(of.uid()), Some(of.gid()))?;
    }
    if with_mode && now.mode() & 0o7777 != of.mode() & 0o7777 {
        fs::set_permissions(path, fs::Permissions::from_mode(of.mode() & 0o7777))?;
    }
    Ok(())
}

/// Removes everything in `dir`, not `dir` itself.
pub fn wipe(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Flushes each file and directory below `dir` to the disk. Files that vanish meanwhile are somebody else's business.
pub fn sync(dir: &Path) -> io::Result<()> {
    let gone = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
    let entries = match fs::read_dir(dir) {
        Err(e) if gone(&e) => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync(&entry.path())?;
        } else if kind.is_file() {
            match fs::File::open(entry.path()) {
                Err(e) if gone(&e) => {}
                file => file?.sync_all()?,
            }
        }
    }
    fs::File::open(dir)?.sync_all()
}

/// Bytes allocated below `dir`; what cannot be read counts nothing. `pause` is called for each directory, so that a long
/// walk leaves the disk to others.
pub fn usage(dir: &Path, pause: &dyn Fn()) -> u64 {
    pause();
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => usage(&entry.path(), pause),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_content_modes_and_links() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir_all(from.join("x/y")).unwrap();
        fs::write(from.join("x/y/f"), b"data").unwrap();
        fs::set_permissions(from.join("x/y/f"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(from.join("x"), fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink("y/f", from.join("x/l")).unwrap();
        fs::create_dir(&to).unwrap();
        assert_eq!(copy(&from, &to).unwrap(), CopyStats { files: 1, bytes: 4 });
        assert_eq!(fs::read(to.join("x/l")).unwrap(), b"data");
        assert_eq!(fs::metadata(to.join("x/y/f")).unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::metadata(to.join("x")).unwrap().mode() & 0o777, 0o700);
        sync(&to).unwrap();
        assert!(usage(&to, &|| ()) > 0);
        wipe(&to).unwrap();
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
    }
}
