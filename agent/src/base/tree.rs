//! Directory trees on the host: copied with owners and modes (as clones where the file system can), wiped, flushed.
//! Blocking: call it from a blocking thread.
//!
//! Not here: which trees (host::golden, tenant).

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// What a copy copied.
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

/// Threads that copy one tree: creating files keeps a core busy, and the host's other tenants need some too.
const COPIERS: usize = 4;

/// A file still to be copied.
struct Job {
    from: PathBuf,
    to: PathBuf,
    meta: fs::Metadata,
}

/// Copies the content of `from` into `to`, which may exist; `to` takes the mode and owner of `from`.
pub fn copy(from: &Path, to: &Path) -> io::Result<CopyStats> {
    copy_with(COPIERS, from, to)
}

/// Like [`copy`], for a copy that nobody waits for: one thread, which leaves the other cores to the tenants.
pub fn copy_aside(from: &Path, to: &Path) -> io::Result<CopyStats> {
    copy_with(1, from, to)
}

fn copy_with(copiers: usize, from: &Path, to: &Path) -> io::Result<CopyStats> {
    let mut jobs = Vec::new();
    lay_out(from, to, &mut jobs)?;
    // Found out once per tree: a file system that cannot clone one file can clone none.
    let (clones, next) = (AtomicBool::new(true), AtomicUsize::new(0));
    let work = || {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            copy_file(job, &clones)?;
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(copiers)
        .min(jobs.len());
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut done = work();
        for helper in helpers {
            done = done.and(
                helper
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("copying panicked"))),
            );
        }
        done
    })?;
    Ok(CopyStats {
        files: jobs.len() as u64,
        bytes: jobs.iter().map(|job| job.meta.len()).sum(),
    })
}

/// Makes directories and symlinks, and lists the files.
fn lay_out(from: &Path, to: &Path, jobs: &mut Vec<Job>) -> io::Result<()> {
    match fs::create_dir(to) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    take_owner(&fs::symlink_metadata(from)?, to, true)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target, meta) = (entry.path(), to.join(entry.file_name()), entry.metadata()?);
        if meta.is_dir() {
            lay_out(&source, &target, jobs)?;
        } else if meta.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
            take_owner(&meta, &target, false)?;
        } else if meta.is_file() {
            jobs.push(Job {
                from: source,
                to: target,
                meta,
            });
        } // sockets and pipes are recreated by the programs that need them
    }
    Ok(())
}

fn copy_file(job: &Job, clones: &AtomicBool) -> io::Result<()> {
    let Job { from, to, meta } = job;
    let (mut source, mut target) = (fs::File::open(from)?, fs::File::create(to)?);
    if !clones.load(Ordering::Relaxed) || rustix::fs::ioctl_ficlone(&target, &source).is_err() {
        clones.store(false, Ordering::Relaxed);
        io::copy(&mut source, &mut target)?; // copied in the kernel
    }
    let now = target.metadata()?;
    if (now.uid(), now.gid()) != (meta.uid(), meta.gid()) {
        std::os::unix::fs::fchown(&target, Some(meta.uid()), Some(meta.gid()))?;
    }
    if now.mode() & 0o7777 != meta.mode() & 0o7777 {
        target.set_permissions(fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    }
    Ok(())
}

/// Gives `path` the owner and, if wanted, the mode of another file.
pub fn take_owner(of: &fs::Metadata, path: &Path, with_mode: bool) -> io::Result<()> {
    let now = fs::symlink_metadata(path)?;
    if (now.uid(), now.gid()) != (of.uid(), of.gid()) {
        lchown(path, Some(of.uid()), Some(of.gid()))?;
    }
    if with_mode && now.mode() & 0o7777 != of.mode() & 0o7777 {
        fs::set_permissions(path, fs::Permissions::from_mode(of.mode() & 0o7777))?;
    }
    Ok(())
}

/// Removes everything in `dir`, not `dir` itself. Follows no link.
pub fn wipe(dir: &Path) -> io::Result<()> {
    wipe_except(dir, "")
}

/// Like [`wipe`], but leaves the entry `kept`.
pub fn wipe_except(dir: &Path, kept: &str) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == kept {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Flushes each file and directory below `dir` to disk. Ignores files that vanish meanwhile.
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

/// Flushes the whole file system that `dir` is on: one journal commit, where flushing thousands of files one by one
/// means thousands of commits that everybody else's writes wait behind.
pub fn sync_all(dir: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(fs::File::open(dir)?)?)
}

/// Bytes allocated below `dir`; what cannot be read counts as 0. Calls `pause` for each directory, so that a long walk
/// leaves the disk to others.
pub fn usage(dir: &Path, pause: &dyn Fn()) -> u64 {
    pause();
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
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
        assert_eq!(
            fs::metadata(to.join("x/y/f")).unwrap().mode() & 0o777,
            0o640
        );
        assert_eq!(fs::metadata(to.join("x")).unwrap().mode() & 0o777, 0o700);
        sync(&to).unwrap();
        assert!(usage(&to, &|| ()) > 0);
        wipe(&to).unwrap();
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
    }
}
