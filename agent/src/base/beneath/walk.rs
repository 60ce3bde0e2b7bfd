//! Walking the tree below a handle: what is there, in order, bounded.
//!
//! Not here: what is done with it.

use std::{
    ffi::CStr,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::fs::{AtFlags, Dir, FileType, OFlags, Stat, statat};

use super::{MAX_DEPTH, RelPath, Root, invalid, is_regular, open_at};

/// Most that one walk takes in.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Files, directories and whatever else, together.
    pub entries: usize,
    /// Bytes of all their paths.
    pub path_bytes: usize,
}

/// The word for a symbolic link among what is neither file nor directory.
pub const LINK: &str = "link";

/// What something in a tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File {
        size: u64,
        /// It has other names, too: what is written to it is written to them.
        linked: bool,
    },
    /// A link, a pipe, a socket, a device: never opened.
    Other(&'static str),
}

/// Owner, rights and time of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Rights alone, without setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime_ns: i64,
}

/// Something in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub path: RelPath,
    pub kind: Kind,
    pub meta: Meta,
    /// When its content or anything else of it last changed; nobody can set it.
    pub ctime_ms: i64,
}

impl Root {
    /// Visits everything from the directory itself on, each directory before what is in it, names by their bytes.
    /// Follows nothing. Fails at the first error of `visit` or the disk, and beyond the limits.
    pub fn walk(
        &self,
        limits: Limits,
        visit: &mut dyn FnMut(Found) -> io::Result<()>,
    ) -> io::Result<()> {
        let handle = self.directory(&RelPath::root())?;
        let root = found(RelPath::root(), &rustix::fs::fstat(&handle)?);
        let mut walk = Walk {
            limits,
            left: limits,
            held: 0,
            visit,
        };
        walk.take(root)?;
        walk.descend(handle, &RelPath::root(), 0)
    }
}

/// Directories that a survey has open at once. What is nested deeper than this is left out, and [`Surveyed`] says so.
pub const MAX_OPEN: usize = 512;

/// How a survey went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Surveyed {
    /// Directories are nested deeper than [`MAX_OPEN`]: what is in the deepest was not looked at.
    pub too_deep: bool,
}

/// An entry of a directory, as a survey meets it.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The directory that it is in.
    pub directory: BorrowedFd<'a>,
    pub name: &'a CStr,
    pub stat: Stat,
    /// It is in another file system than the survey's root: a subvolume of a btrfs, or below one. (Mounts are not entered.)
    pub is_nested: bool,
    /// Number of the file system of `directory`.
    device: u64,
}

impl Entry<'_> {
    /// Whether it is a subvolume: a directory where another file system begins.
    pub fn is_subvolume(&self) -> bool {
        self.stat.st_dev != self.device
    }

    /// Opens it, if it is a regular file.
    pub fn file(&self) -> io::Result<Option<File>> {
        if !is_regular(&self.stat) {
            return Ok(None);
        }
        let handle = open_at(self.directory, self.name, OFlags::RDONLY)?;
        // It may have become something else meanwhile.
        Ok(is_regular(&rustix::fs::fstat(&handle)?).then(|| handle.into()))
    }
}

impl Root {
    /// Looks at everything below in whatever order, also while programs change it: what vanishes meanwhile, or cannot be
    /// opened, is left out. Memory is bounded whatever is there. `entered` is called with each directory. Subvolumes of a
    /// btrfs are looked at like any directory.
    pub fn survey(
        &self,
        entered: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<()>,
        visit: &mut dyn FnMut(Entry<'_>) -> io::Result<()>,
    ) -> io::Result<Surveyed> {
        let mut surveyed = Surveyed::default();
        let mut open = Vec::new();
        let top = self.directory(&RelPath::root())?;
        let root = rustix::fs::fstat(&top)?.st_dev;
        entered(top.as_fd())?;
        let entries = Dir::read_from(&top)?;
        open.push((top, entries, root));
        loop {
            let depth = open.len();
            let Some((handle, entries, device)) = open.last_mut() else {
                return Ok(surveyed);
            };
            let Some(Ok(entry)) = entries.next() else {
                open.pop();
                continue;
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(stat) = statat(&*handle, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            visit(Entry {
                directory: handle.as_fd(),
                name,
                stat,
                is_nested: stat.st_dev != root,
                device: *device,
            })?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                continue;
            }
            if depth >= MAX_OPEN {
                surveyed.too_deep = true;
            } else if let Ok(below) = open_at(handle.as_fd(), name, OFlags::DIRECTORY)
                && let Ok(entries) = Dir::read_from(&below)
            {
                entered(below.as_fd())?;
                open.push((below, entries, stat.st_dev));
            }
        }
    }
}

struct Walk<'a> {
    limits: Limits,
    left: Limits,
    /// Bytes of memory that the names of all open directories take: a tenant may fill each level of many.
    held: usize,
    visit: &'a mut dyn FnMut(Found) -> io::Result<()>,
}

impl Walk<'_> {
    fn take(&mut self, found: Found) -> io::Result<()> {
        let bytes = found.path.bytes().len();
        let left = &mut self.left;
        match (
            left.entries.checked_sub(1),
            left.path_bytes.checked_sub(bytes),
        ) {
            (Some(entries), Some(path_bytes)) => {
                (left.entries, left.path_bytes) = (entries, path_bytes)
            }
            _ => {
                let Limits {
                    entries,
                    path_bytes,
                } = self.limits;
                return Err(invalid(format!(
                    "a volume has more than {entries} files and directories, or {} MiB of their paths",
                    path_bytes >> 20
                )));
            }
        }
        (self.visit)(found)
    }

    fn descend(&mut self, handle: OwnedFd, path: &RelPath, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(invalid(format!("{path} is too deep")));
        }
        // One more than are left, so that `take` says so.
        let room = self.limits.path_bytes.saturating_sub(self.held);
        let names = names(handle.as_fd(), self.left.entries + 1, room)?;
        let held = names.size();
        self.held += held;
        for name in names.iter() {
            let stat = match statat(&handle, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(rustix::io::Errno::NOENT) => continue, // gone meanwhile
                Err(e) => return Err(e.into()),
            };
            let path = path
                .join(name.to_bytes())
                .map_err(|e| invalid(format!("a path below {path}: {e}")))?;
            let found = found(path.clone(), &stat);
            let is_directory = found.kind == Kind::Directory;
            self.take(found)?;
            if is_directory {
                match open_at(handle.as_fd(), name, OFlags::DIRECTORY) {
                    // Whoever visits may have removed it.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    below => self.descend(below?, &path, depth + 1)?,
                }
            }
        }
        self.held -= held;
        Ok(())
    }
}

/// Names in a directory, one after the other: a million in a vector each would take thrice the memory.
#[derive(Default)]
struct Names {
    /// Each ends with a NUL.
    bytes: Vec<u8>,
    /// Where each begins, and its length.
    places: Vec<(u32, u8)>,
}

impl Names {
    /// Bytes of memory that they take.
    fn size(&self) -> usize {
        self.bytes.len() + self.places.len() * size_of::<(u32, u8)>()
    }

    fn at(&self, (begin, length): (u32, u8)) -> &CStr {
        let begin = begin as usize;
        let bytes = &self.bytes[begin..=begin + usize::from(length)];
        CStr::from_bytes_with_nul(bytes).unwrap_or_default() // as they were put there
    }

    fn iter(&self) -> impl Iterator<Item = &CStr> {
        self.places.iter().map(|place| self.at(*place))
    }
}

/// Names in a directory, sorted; an error when there are more than `most`, or when they take more bytes than `room`.
fn names(directory: BorrowedFd<'_>, most: usize, room: usize) -> io::Result<Names> {
    let mut names = Names::default();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let length = u8::try_from(name.count_bytes()); // Linux has no longer ones
        let (Ok(begin), Ok(length)) = (u32::try_from(names.bytes.len()), length) else {
            return Err(too_many());
        };
        if names.places.len() >= most || names.size() > room {
            return Err(too_many());
        }
        names.bytes.extend_from_slice(name.to_bytes_with_nul());
        names.places.push((begin, length));
    }
    let mut places = std::mem::take(&mut names.places);
    places.sort_unstable_by(|a, b| names.at(*a).cmp(names.at(*b)));
    names.places = places;
    Ok(names)
}

fn too_many() -> io::Error {
    invalid("there are too many files".to_owned())
}

fn found(path: RelPath, stat: &Stat) -> Found {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::RegularFile => Kind::File {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            linked: stat.st_nlink > 1,
        },
        FileType::Symlink => Kind::Other(LINK),
        FileType::Fifo => Kind::Other("pipe"),
        FileType::Socket => Kind::Other("socket"),
        FileType::BlockDevice | FileType::CharacterDevice => Kind::Other("device"),
        FileType::Unknown => Kind::Other("unknown thing"),
    };
    Found {
        path,
        kind,
        meta: meta_of(stat),
        ctime_ms: stat
            .st_ctime
            .saturating_mul(1_000)
            .saturating_add(i64::try_from(stat.st_ctime_nsec).unwrap_or(0) / 1_000_000),
    }
}

pub(super) fn meta_of(stat: &Stat) -> Meta {
    let (seconds, nanos) = (
        stat.st_mtime,
        i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
    );
    Meta {
        mode: stat.st_mode & 0o777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime_ns: seconds.saturating_mul(1_000_000_000).saturating_add(nanos),
    }
}
