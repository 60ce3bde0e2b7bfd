//! Files below a directory whose content is somebody else's: a tenant's volume, or a container's root. Whoever writes
//! there may lay out links, pipes and devices for root to fall into, so everything is opened relative to one handle,
//! without following links of any kind, without leaving the file system, and only what is a regular file or a directory.
//! Blocking: call it from a blocking thread.
//!
//! Not here: which directories (tenant, peer, jobs); our own files (fsutil), copying trees (tree).

#![expect(
    clippy::disallowed_methods,
    reason = "this is where they are called: below a handle, without following links"
)]

mod entries;
mod path;
mod walk;

use std::{
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, fstat,
        openat2, statat,
    },
    path::Arg,
};

use self::walk::meta_of;
pub use self::{
    entries::Lying,
    path::{MAX_DEPTH, PathError, RelPath},
    walk::{Entry, Found, Kind, LINK, Limits, MAX_OPEN, Meta, Surveyed},
};
use super::btrfs;

/// How often a directory is read that is to be emptied: a round takes nearly all of what is in it.
const MAX_ROUNDS: usize = 100;

/// A handle on the directory; it stays that directory, whatever happens to its name.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether this kernel, and whatever filters our calls, lets us open files in this way. A sandbox may answer `openat2` with
/// ENOSYS, as systemd's `RestrictSUIDSGID=` does.
pub fn probe() -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::PATH;
    let root = Root::open(Path::new("/"))?;
    open_at(root.0.as_fd(), ".", flags).map(drop)
}

/// Whether no later attempt can do better: the call itself is refused, or something else is mounted below the volume.
pub fn is_for_good(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::Unsupported | io::ErrorKind::CrossesDevices
    )
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Opens below a handle without following anything.
fn open_at(below: BorrowedFd<'_>, path: impl Arg, flags: OFlags) -> io::Result<OwnedFd> {
    create_at(below, path, flags, Mode::empty())
}

fn create_at(
    below: BorrowedFd<'_>,
    path: impl Arg,
    flags: OFlags,
    mode: Mode,
) -> io::Result<OwnedFd> {
    let mut flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if !flags.contains(OFlags::PATH) {
        flags |= OFlags::NONBLOCK | OFlags::NOCTTY; // `openat2` refuses them where nothing is opened
    }
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    Ok(openat2(below, path, flags, mode, resolve)?)
}

fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

impl Root {
    /// The directory at a path of the host's own.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(CWD, path, flags, Mode::empty())?))
    }

    /// The root of the file system that a process sees. The kernel resolves this one link, and nobody in the container
    /// can lay it out.
    pub fn of_process(pid: i32) -> io::Result<Self> {
        let path = format!("/proc/{pid}/root");
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(CWD, path, flags, Mode::empty())?))
    }

    /// A directory below as a root of its own.
    pub fn below(&self, path: &RelPath) -> io::Result<Self> {
        Ok(Self(self.directory(path)?))
    }

    /// Up to `most` bytes of a small text file.
    pub fn text(&self, path: &RelPath, most: u64) -> io::Result<String> {
        let mut text = String::new();
        self.file(path)?.0.take(most).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Up to `most` bytes of a small file.
    pub fn bytes(&self, path: &RelPath, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(path)?.0.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    pub fn directory(&self, path: &RelPath) -> io::Result<OwnedFd> {
        open_at(self.0.as_fd(), path.as_path(), OFlags::DIRECTORY)
    }

    /// A regular file, to be read, and its size. Nothing else is ever opened: merely opening a device can do things.
    pub fn file(&self, path: &RelPath) -> io::Result<(File, u64)> {
        let handle = open_at(self.0.as_fd(), path.as_path(), OFlags::PATH)?;
        let stat = fstat(&handle)?;
        if !is_regular(&stat) {
            return Err(invalid(format!("{path} is not a regular file")));
        }
        // The handle's own entry leads to the very file that was looked at.
        let own = format!("/proc/self/fd/{}", handle.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, own, flags, Mode::empty())?;
        Ok((file.into(), u64::try_from(stat.st_size).unwrap_or(0)))
    }

    /// A regular file, made where there is none, to be read and written.
    pub fn writable(&self, path: &RelPath) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE;
        let mode = Mode::RUSR | Mode::WUSR;
        let handle = create_at(self.0.as_fd(), path.as_path(), flags, mode)?;
        let stat = fstat(&handle)?;
        // Two names of one file: writing one would change the other, wherever that is.
        if !is_regular(&stat) || stat.st_nlink > 1 {
            return Err(invalid(format!("{path} is not a file of its own")));
        }
        Ok(handle.into())
    }

    /// Makes a directory, unless there is one.
    pub fn make_directory(&self, path: &RelPath) -> io::Result<()> {
        let Some((parent, name)) = path.split() else {
            return Ok(());
        };
        match rustix::fs::mkdirat(self.directory(&parent)?, name, Mode::RWXU) {
            Err(rustix::io::Errno::EXIST) => self.directory(path).map(drop),
            made => Ok(made?),
        }
    }

    /// Removes whatever is there, with everything in it.
    pub fn remove(&self, path: &RelPath) -> io::Result<()> {
        let Some((parent, name)) = path.split() else {
            return Err(invalid("a volume's own directory stays".to_owned()));
        };
        remove(self.directory(&parent)?.as_fd(), name, 0)
    }

    /// A unix socket, as a handle that it can be connected through (`/proc/self/fd/<n>`).
    pub fn socket(&self, path: &RelPath) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // `/run` is a file system of its own in many containers.
        let resolve =
            ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let handle = openat2(&self.0, path.as_path(), flags, Mode::empty(), resolve)?;
        if FileType::from_raw_mode(fstat(&handle)?.st_mode) != FileType::Socket {
            return Err(invalid(format!("{path} is not a socket")));
        }
        Ok(handle)
    }

    /// Whether nothing is in it but what every file system of its own has at its root.
    pub fn is_empty(&self) -> io::Result<bool> {
        let own = |name: &[u8]| matches!(name, b"." | b".." | b"lost+found");
        for entry in Dir::read_from(self.directory(&RelPath::root())?)? {
            if !own(entry?.file_name().to_bytes()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Renames an entry of another directory into this one.
    pub fn take(&self, from: &Self, name: &[u8], to: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::renameat(from, name, self, to)?)
    }

    /// Renames all entries of another directory into this one. They are few: all their names are held.
    pub fn take_all(&self, from: &Self) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in Dir::read_from(from.directory(&RelPath::root())?)? {
            let name = entry?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        names
            .iter()
            .try_for_each(|name| self.take(from, name.to_bytes(), name.to_bytes()))
    }

    /// Lets everybody connect to a unix socket who reaches it.
    pub fn open_to_all(&self, socket: &RelPath) -> io::Result<()> {
        let handle = self.socket(socket)?;
        // A handle without access cannot be changed itself; its own entry leads to the very socket.
        let own = format!("/proc/self/fd/{}", handle.as_raw_fd());
        Ok(rustix::fs::chmod(own, Mode::from_raw_mode(0o666))?)
    }

    /// Free bytes of the file system, and its size.
    pub fn space(&self) -> io::Result<(u64, u64)> {
        let of = rustix::fs::fstatvfs(&self.0)?;
        let block = of.f_frsize;
        Ok((
            of.f_bavail.saturating_mul(block),
            of.f_blocks.saturating_mul(block),
        ))
    }
}

/// Flushes the whole file system that a directory is on: one journal commit, where flushing each file means thousands. An
/// error of writing is reported to the handle that was open when it happened, and only once: so `held` must be open since
/// before the first write.
pub fn sync(held: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::syncfs(held)?)
}

/// Gives a file or directory its owner, rights and time. Rights are taken without setuid, setgid and sticky.
pub fn set_meta(of: impl AsFd, meta: &Meta) -> io::Result<()> {
    let now = fstat(&of)?;
    if (now.st_uid, now.st_gid) != (meta.uid, meta.gid) {
        // The all-ones ids mean "leave as it is" and name nobody.
        if meta.uid == u32::MAX || meta.gid == u32::MAX {
            return Err(invalid("an owner that is none".to_owned()));
        }
        std::os::unix::fs::fchown(&of, Some(meta.uid), Some(meta.gid))?;
    }
    rustix::fs::fchmod(&of, Mode::from_raw_mode(meta.mode & 0o777))?;
    let time = Timespec {
        tv_sec: meta.mtime_ns.div_euclid(1_000_000_000),
        tv_nsec: meta.mtime_ns.rem_euclid(1_000_000_000),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::futimens(of, &times)?)
}

/// What is now known of an open file's owner, rights and time.
pub fn meta(of: impl AsFd) -> io::Result<Meta> {
    Ok(meta_of(&fstat(of)?))
}

fn remove(directory: BorrowedFd<'_>, name: &[u8], depth: usize) -> io::Result<()> {
    let name = std::ffi::OsStr::from_bytes(name);
    let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        stat => stat?,
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(rustix::fs::unlinkat(directory, name, AtFlags::empty())?);
    }
    if depth > MAX_DEPTH {
        return Err(invalid("what is to be removed is too deep".to_owned()));
    }
    let below = open_at(directory, name, OFlags::DIRECTORY)?;
    // A subvolume of the tenant's own may be read-only.
    btrfs::make_writable(below.as_fd())?;
    // No list of what is in it, which may be millions. A directory that changes while it is read may leave entries out, so
    // it is read until nothing is left.
    for _ in 0..MAX_ROUNDS {
        let mut found = false;
        for inner in Dir::read_from(&below)? {
            let inner = inner?;
            let inner = inner.file_name().to_bytes();
            if !matches!(inner, b"." | b"..") {
                found = true;
                remove(below.as_fd(), inner, depth + 1)?;
            }
        }
        if !found {
            break;
        }
    }
    Ok(rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?)
}

#[cfg(test)]
mod tests;
