//! Directory trees on the host: copied with owners and modes (as clones where the file system can), wiped, flushed.
//! Blocking: call it from a blocking thread.
//!
//! Not here: which trees (host::golden, tenant).

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt as _, PermissionsExt as _, lchown},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags},
    io::Errno,
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

/// Makes directories and symlinks, and lists the files. What is nested too deep for a path is an error.
fn lay_out(from: &Path, to: &Path, jobs: &mut Vec<Job>) -> io::Result<()> {
    let mut left = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = left.pop() {
        match fs::create_dir(&to) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        take_owner(&fs::symlink_metadata(&from)?, &to, true)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let (source, target, meta) =
                (entry.path(), to.join(entry.file_name()), entry.metadata()?);
            if meta.is_dir() {
                left.push((source, target));
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
            remove_all(&entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Removes a directory with everything in it, following no link. A tenant may have nested tens of thousands of
/// directories, so neither the stack nor descriptors are used for each level, as `fs::remove_dir_all` does: what a
/// directory holds is moved up into `dir` until nothing is nested. May be repeated after an interruption.
pub fn remove_all(dir: &Path) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, dir, flags, Mode::empty())?;
    let mut left = Vec::new();
    empty(&root, |name| {
        left.push(name);
        Ok(())
    })?;
    let mut moved = 0u64;
    while let Some(name) = left.pop() {
        let below = rustix::fs::openat(&root, &name, flags, Mode::empty())?;
        empty(&below, |inner| {
            left.push(move_up(&below, &inner, &root, &mut moved)?);
            Ok(())
        })?;
        rustix::fs::unlinkat(&root, &name, AtFlags::REMOVEDIR)?;
    }
    fs::remove_dir(dir)
}

/// Removes what a directory holds, but hands over its directories.
fn empty(directory: &OwnedFd, mut nested: impl FnMut(CString) -> io::Result<()>) -> io::Result<()> {
    // All names first: a directory that changes while it is read may show an entry twice or not at all.
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    for name in names {
        let stat = rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            nested(name)?;
        } else {
            rustix::fs::unlinkat(directory, &name, AtFlags::empty())?;
        }
    }
    Ok(())
}

/// Moves a directory into `root` under a name that is free, and returns that.
fn move_up(from: &OwnedFd, name: &CString, root: &OwnedFd, moved: &mut u64) -> io::Result<CString> {
    loop {
        *moved += 1;
        let free = CString::new(format!(".isy-removed-{moved}"))?;
        match rustix::fs::renameat_with(from, name, root, &free, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {} // the tenant's own, or of an interrupted attempt
            done => return Ok(done.map(|()| free)?),
        }
    }
}

/// Flushes each file and directory below `dir` to disk. Ignores files that vanish meanwhile.
pub fn sync(dir: &Path) -> io::Result<()> {
    let gone = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        let entries = match fs::read_dir(&dir) {
            Err(e) if gone(&e) => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() {
                match fs::File::open(entry.path()) {
                    Err(e) if gone(&e) => {}
                    file => file?.sync_all()?,
                }
            }
        }
        match fs::File::open(&dir) {
            Err(e) if gone(&e) => {}
            opened => opened?.sync_all()?,
        }
    }
    Ok(())
}

/// Flushes the whole file system that `dir` is on: one journal commit, where flushing thousands of files one by one
/// means thousands of commits that everybody else's writes wait behind. `dir` must be open since before the writing, or
/// errors of it may have been told to somebody else.
pub fn sync_all(dir: &fs::File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(dir)?)
}

/// Bytes allocated below `dir`; what cannot be read counts as 0. Calls `pause` for each directory, so that a long walk
/// leaves the disk to others.
pub fn usage(dir: &Path, pause: &dyn Fn()) -> u64 {
    let (mut left, mut bytes) = (vec![dir.to_owned()], 0);
    while let Some(dir) = left.pop() {
        pause();
        let Ok(entries) = fs::read_dir(dir) else {
            continue;
        };
        for entry in entries.flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => left.push(entry.path()),
                Ok(meta) => bytes += meta.blocks() * 512,
                Err(_) => {}
            }
        }
    }
    bytes
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

    /// As deep as paths reach: a tenant's snapshot may hold that, and the thread's stack must not decide. What is deeper is
    /// an error.
    #[test]
    fn what_is_nested_deep_is_copied_on_a_small_stack() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        let inner: PathBuf = std::iter::repeat_n("d", 1_900).collect();
        fs::create_dir_all(from.join(&inner)).unwrap();
        fs::write(from.join(&inner).join("f"), b"data").unwrap();
        let work = move || {
            let stats = copy(&from, &to)?;
            Ok::<_, io::Error>((stats, to))
        };
        let thread = std::thread::Builder::new().stack_size(256 << 10);
        let (stats, to) = thread.spawn(work).unwrap().join().unwrap().unwrap();
        assert_eq!(stats, CopyStats { files: 1, bytes: 4 });
        assert_eq!(fs::read(to.join(&inner).join("f")).unwrap(), b"data");
        for top in ["a", "b"] {
            remove_all(&dir.path().join(top)).unwrap();
        }
    }

    /// Deeper than descriptors and a small stack reach, and than any path is long.
    #[test]
    fn what_is_nested_very_deep_is_removed_on_a_small_stack_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (top, outside) = (dir.path().join("top"), dir.path().join("outside"));
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("f"), "somebody's").unwrap();
        fs::create_dir_all(top.join(".isy-removed-1/x")).unwrap();
        fs::write(top.join(".isy-removed-2"), "in the way").unwrap();
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at = rustix::fs::openat(CWD, &top, flags, Mode::empty()).unwrap();
        for _ in 0..5_000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            rustix::fs::symlinkat(&outside, &at, "link").unwrap();
            at = rustix::fs::openat(&at, "d", flags, Mode::empty()).unwrap();
        }
        let work = move || {
            usage(&top, &|| ()); // what no path reaches counts nothing
            remove_all(&top).map(|()| top)
        };
        let thread = std::thread::Builder::new().stack_size(256 << 10);
        let top = thread.spawn(work).unwrap().join().unwrap().unwrap();
        assert!(!top.exists() && outside.join("f").exists());
    }
}
