//! Directory trees that tenants write into: copied with owners and modes (as clones where the file system can), flushed,
//! measured, removed. Nothing is followed and nothing but files and directories opened (beneath).
//! Blocking: call it from a blocking thread.
//!
//! Not here: which trees (host::golden, tenant).

#![expect(
    clippy::disallowed_methods,
    reason = "below handles, without following links"
)]

mod remove;

use std::{
    fs, io,
    os::fd::BorrowedFd,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

pub use self::remove::{remove_all, wipe, wipe_except};
use super::beneath::{self, Found, Kind, Limits, Meta, RelPath, Root};

/// What a copy copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyStats {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Links, pipes and whatever else was left out.
    pub skipped: u64,
}

impl std::ops::AddAssign for CopyStats {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.skipped += other.skipped;
    }
}

/// Threads that copy one tree: creating files keeps a core busy, and the host's other tenants need some too.
const COPIERS: usize = 4;
/// Most that one copy takes in: a hundred times what a new database and its files are.
const LIMITS: Limits = Limits {
    entries: 2_000_000,
    path_bytes: 256 << 20,
};

/// Most of what is left out that is named in the log.
const NAMED: u64 = 20;

/// A file still to be copied.
struct Job {
    path: RelPath,
    size: u64,
    meta: Meta,
}

/// Copies the content of `from` into `to`, which takes the mode and owner of `from`. What is neither file nor directory
/// is left out: nothing that we copy has any of it, and a link may lead anywhere.
pub fn copy(from: &Root, to: &Root) -> io::Result<CopyStats> {
    copy_with(COPIERS, from, to)
}

/// Like [`copy`], for a copy that nobody waits for: one thread, which leaves the other cores to the tenants.
pub fn copy_aside(from: &Root, to: &Root) -> io::Result<CopyStats> {
    copy_with(1, from, to)
}

fn copy_with(copiers: usize, from: &Root, to: &Root) -> io::Result<CopyStats> {
    let (jobs, skipped) = lay_out(from, to)?;
    // Found out once per tree: a file system that cannot clone one file can clone none.
    let (clones, next) = (AtomicBool::new(true), AtomicUsize::new(0));
    let work = || {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            copy_file(from, to, job, &clones)?;
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
        bytes: jobs.iter().map(|job| job.size).sum(),
        skipped,
    })
}

/// Makes directories, and lists the files; also the number of what is left out.
fn lay_out(from: &Root, to: &Root) -> io::Result<(Vec<Job>, u64)> {
    let (mut jobs, mut skipped) = (Vec::new(), 0);
    from.walk(LIMITS, &mut |Found {
                                path, kind, meta, ..
                            }| {
        match kind {
            Kind::Directory => {
                to.make_directory(&path)?;
                beneath::set_meta(to.directory(&path)?, &meta)?;
            }
            Kind::File { size, .. } => jobs.push(Job { path, size, meta }),
            Kind::Other(what) => {
                skipped += 1;
                if skipped <= NAMED {
                    tracing::warn!("{path} is a {what}, and not copied");
                }
            }
        }
        Ok(())
    })?;
    if skipped > NAMED {
        tracing::warn!("{skipped} links, pipes and the like are not copied in all");
    }
    Ok((jobs, skipped))
}

fn copy_file(from: &Root, to: &Root, job: &Job, clones: &AtomicBool) -> io::Result<()> {
    let (mut source, _) = from.file(&job.path)?;
    let mut target = to.writable(&job.path)?;
    if !clones.load(Ordering::Relaxed) || rustix::fs::ioctl_ficlone(&target, &source).is_err() {
        clones.store(false, Ordering::Relaxed);
        io::copy(&mut source, &mut target)?; // copied in the kernel
    }
    beneath::set_meta(&target, &job.meta)
}

/// Flushes each file and directory below `dir` to disk. Ignores files that vanish meanwhile.
pub fn sync(dir: &Path) -> io::Result<()> {
    let flush = |handle: BorrowedFd<'_>| Ok(rustix::fs::fsync(handle)?);
    let root = Root::open(dir)?;
    let surveyed = root.survey(&mut { flush }, &mut |entry| match entry.file() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        opened => opened?.map_or(Ok(()), |file| file.sync_all()),
    })?;
    if surveyed.too_deep {
        // Nothing that we put there; what its owner nests like that, the system flushes in its own time.
        tracing::warn!(
            "{} has directories nested too deep to be flushed",
            dir.display()
        );
    }
    Ok(())
}

/// Flushes the whole file system that `dir` is on: one journal commit, where flushing thousands of files one by one
/// means thousands of commits that everybody else's writes wait behind. `dir` must be open since before the writing, or
/// errors of it may have been told to somebody else.
pub fn sync_all(dir: &fs::File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(dir)?)
}

/// Of its owner's files, a nested subvolume counts as so many: it has a tree of its own on the disk, and takes one of a
/// machine's million numbers for file systems, which all tenants share.
const SUBVOLUME_INODES: u64 = 1_024;

/// What is below a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes allocated.
    pub bytes: u64,
    /// Of these, in subvolumes nested there, which their file system counts by themselves.
    pub nested_bytes: u64,
    /// Files, directories and whatever else; what has two names counts twice.
    pub inodes: u64,
    /// Directories are nested so deep that what is below them was left out.
    pub too_deep: bool,
    /// There are more than were to be counted.
    pub cut: bool,
    /// The time was over before all was counted.
    pub late: bool,
}

/// How a walk goes on.
pub struct Pace<'a> {
    /// Called for each directory, so that a long walk leaves the disk to others.
    pub pause: &'a dyn Fn(),
    /// Whether its time is over; asked at each file and directory.
    pub is_over: &'a dyn Fn() -> bool,
}

impl Pace<'_> {
    /// Of a walk that takes as long as it takes.
    pub const FREE: Self = Self {
        pause: &|| (),
        is_over: &|| false,
    };
}

/// Counts what is below `dir`, up to some more than `most` files and directories; what cannot be read counts as nothing.
pub fn usage(dir: &Path, most: u64, pace: &Pace<'_>) -> Usage {
    let mut found = Usage::default();
    let surveyed = Root::open(dir).and_then(|root| {
        let mut entered = |_: BorrowedFd<'_>| {
            (pace.pause)();
            Ok(())
        };
        root.survey(&mut entered, &mut |entry| {
            let bytes = u64::try_from(entry.stat.st_blocks).unwrap_or(0) * 512;
            found.bytes = found.bytes.saturating_add(bytes);
            if entry.is_nested {
                found.nested_bytes = found.nested_bytes.saturating_add(bytes);
            }
            let subvolume = entry.is_subvolume();
            found.inodes += if subvolume { SUBVOLUME_INODES } else { 1 };
            found.cut = found.inodes > most;
            if found.cut {
                return Err(io::Error::other("it holds more files than are counted"));
            }
            found.late = (pace.is_over)();
            if found.late {
                return Err(io::Error::other("it takes longer than it may"));
            }
            Ok(())
        })
    });
    match surveyed {
        Ok(surveyed) => found.too_deep = surveyed.too_deep,
        Err(e) => tracing::debug!("{} is not measured to its end: {e}", dir.display()),
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use rustix::fs::{CWD, Mode};

    use super::*;

    #[test]
    fn a_copy_keeps_content_and_modes_and_leaves_links_out() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        let linked = dir.path().join("linked");
        std::os::unix::fs::symlink("/etc", &linked).unwrap();
        assert!(Root::open(&linked).is_err(), "a root is no link");
        fs::create_dir_all(from.join("x/y")).unwrap();
        fs::write(from.join("x/y/f"), b"data").unwrap();
        fs::set_permissions(from.join("x/y/f"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(from.join("x"), fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink("y/f", from.join("x/l")).unwrap();
        fs::create_dir(&to).unwrap();
        std::os::unix::fs::symlink("/", from.join("root")).unwrap();
        rustix::fs::mkfifoat(CWD, from.join("pipe"), Mode::RWXU).unwrap();
        let root = |path: &Path| Root::open(path).unwrap();
        let copied = CopyStats {
            files: 1,
            bytes: 4,
            skipped: 3,
        };
        assert_eq!(copy(&root(&from), &root(&to)).unwrap(), copied);
        assert_eq!(fs::read(to.join("x/y/f")).unwrap(), b"data");
        assert!(!to.join("x/l").exists() && !to.join("root").exists());
        assert_eq!(
            fs::metadata(to.join("x/y/f")).unwrap().mode() & 0o777,
            0o640
        );
        assert_eq!(fs::metadata(to.join("x")).unwrap().mode() & 0o777, 0o700);
        sync(&to).unwrap();
        let found = usage(&to, 100, &Pace::FREE);
        assert!(
            found.bytes > 0 && found.inodes == 3 && !found.cut,
            "{found:?}"
        );
        let cut = usage(&to, 2, &Pace::FREE);
        assert!(cut.cut && cut.inodes == 3, "{cut:?}");
        wipe(&to).unwrap();
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
    }

    /// Whatever a tenant lays out, the thread's stack does not decide.
    #[test]
    fn what_is_nested_deep_is_copied_on_a_small_stack_and_deeper_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        for (depth, copies) in [(60, true), (1_900, false)] {
            let at = dir.path().join(depth.to_string());
            let inner = at.join("a").join(vec!["d"; depth].join("/"));
            fs::create_dir_all(&inner).unwrap();
            fs::write(inner.join("f"), b"data").unwrap();
            fs::create_dir(at.join("b")).unwrap();
            let (from, to) = (Root::open(&at.join("a")), Root::open(&at.join("b")));
            let work = move || copy(&from.unwrap(), &to.unwrap());
            let thread = std::thread::Builder::new().stack_size(256 << 10);
            let copied = thread.spawn(work).unwrap().join().unwrap();
            assert_eq!(copied.is_ok(), copies, "{copied:?}");
            remove_all(&at).unwrap();
        }
    }
}
