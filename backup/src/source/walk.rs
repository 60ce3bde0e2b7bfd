//! Walks through a folder in the order that the format wants: by names, a folder before its contents.
//!
//! What lies there was laid by a tenant's program. Every step is one name below a handle, without following links, so nothing
//! outside is ever opened; pipes cannot make us wait.

use std::{
    ffi::{CString, OsStr, OsString},
    io,
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Path, PathBuf},
    sync::Arc,
    vec,
};

use jiff::Timestamp;
use rustic_core::repofile::{Metadata, Node, NodeType};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat},
    io::Errno,
};

use super::{Chosen, Only};
use crate::limits;

/// Go's bit for a folder, which restic's `mode` has.
const GO_FOLDER: u32 = 1 << 31;

/// A file to be opened when its turn has come.
#[derive(Debug)]
pub(super) struct Found {
    folder: Arc<OwnedFd>,
    name: OsString,
    device: u64,
    inode: u64,
}

impl Found {
    /// Opens what was found, if it still is that.
    pub(super) fn open(self) -> io::Result<std::fs::File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = openat(&*self.folder, &self.name, flags, Mode::empty())?;
        let now = fstat(&opened)?;
        if (now.st_dev, now.st_ino) != (self.device, self.inode) {
            return Err(io::Error::other("another file took its place"));
        }
        Ok(opened.into())
    }
}

/// A step of the walk. Paths begin with the part's name.
#[derive(Debug)]
pub(super) enum Step {
    Folder(PathBuf, Node),
    File(PathBuf, Node, Found),
    Special(PathBuf),
    Vanished(PathBuf),
}

/// A folder under way.
#[derive(Debug)]
struct Level {
    folder: Arc<OwnedFd>,
    names: vec::IntoIter<OsString>,
    path: PathBuf,
    /// What is wanted of its folders, where not all is.
    chosen: Chosen,
}

/// Names of a folder that are wanted, and what is wanted of each.
fn wanted(folder: &OwnedFd, only: Option<Chosen>) -> io::Result<(Vec<OsString>, Chosen)> {
    match only {
        None => Ok((names_in(folder)?, Chosen::default())),
        Some(chosen) => Ok((sorted(chosen.0.keys().cloned().collect())?, chosen)),
    }
}

/// A walk under way.
#[derive(Debug)]
pub(super) struct Walk {
    levels: Vec<Level>,
}

/// A walk whose first folder is not listed yet.
#[derive(Debug)]
pub(super) struct Planned {
    path: PathBuf,
    folder: OwnedFd,
    only: Only,
}

impl Planned {
    pub(super) fn new(part: &str, folder: OwnedFd, only: Only) -> Self {
        Self {
            path: PathBuf::from(part),
            folder,
            only,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder itself.
    pub(super) fn root(&self) -> io::Result<Step> {
        let node = node(self.path.as_os_str(), NodeType::Dir, &fstat(&self.folder)?);
        Ok(Step::Folder(self.path.clone(), node))
    }

    /// Lists it.
    pub(super) fn begin(self) -> io::Result<Walk> {
        let only = match self.only {
            Only::All => None,
            Only::These(chosen) => Some(chosen),
            Only::Later(choose) => Some(Chosen::of(choose()?.iter().map(PathBuf::as_path))),
        };
        let (names, chosen) = wanted(&self.folder, only)?;
        Ok(Walk {
            levels: vec![Level {
                folder: Arc::new(self.folder),
                names: names.into_iter(),
                path: self.path,
                chosen,
            }],
        })
    }
}

impl Walk {
    /// The next step. An error is a path with it, and the end.
    pub(super) fn next(&mut self) -> Option<Result<Step, (PathBuf, io::Error)>> {
        loop {
            let level = self.levels.last_mut()?;
            if let Some(name) = level.names.next() {
                let path = level.path.join(&name);
                let step = self.step(&path, name);
                return Some(step.map_err(|e| (path, e)));
            }
            self.levels.pop();
        }
    }

    fn step(&mut self, path: &Path, name: OsString) -> io::Result<Step> {
        let depth = self.levels.len();
        let Some(level) = self.levels.last() else {
            return Err(io::ErrorKind::NotFound.into()); // `next` has one
        };
        let path = path.to_path_buf();
        let stat = match statat(&*level.folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Step::Vanished(path)),
            Err(e) => return Err(e.into()),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let node = node(&name, NodeType::File, &stat);
                let found = Found {
                    folder: level.folder.clone(),
                    name,
                    device: stat.st_dev,
                    inode: stat.st_ino,
                };
                Ok(Step::File(path, node, found))
            }
            FileType::Directory if depth >= limits::DEPTH => Err(io::Error::other("too deep")),
            FileType::Directory => self.enter(path, &name),
            _ => Ok(Step::Special(path)),
        }
    }

    fn enter(&mut self, path: PathBuf, name: &OsStr) -> io::Result<Step> {
        let Some(level) = self.levels.last_mut() else {
            return Err(io::ErrorKind::NotFound.into()); // `step` has one
        };
        let only = level.chosen.0.remove(name).filter(|c| !c.0.is_empty());
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = match openat(&*level.folder, name, flags, Mode::empty()) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(Step::Vanished(path)),
            Err(e) => return Err(e.into()),
        };
        let stat = fstat(&folder)?;
        let (names, chosen) = wanted(&folder, only)?;
        self.levels.push(Level {
            folder: Arc::new(folder),
            names: names.into_iter(),
            path: path.clone(),
            chosen,
        });
        Ok(Step::Folder(path, node(name, NodeType::Dir, &stat)))
    }
}

fn names_in(folder: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = CString::from(entry?.file_name()).into_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
        if names.len() > limits::ENTRIES {
            return Err(io::Error::other("too many entries"));
        }
    }
    sorted(names)
}

fn sorted(mut names: Vec<OsString>) -> io::Result<Vec<OsString>> {
    names.sort();
    names.dedup();
    let stays = |name: &OsString| crate::tree::check(name.as_bytes()).is_ok();
    if !names.iter().all(stays) {
        return Err(io::Error::other("a name that leads elsewhere"));
    }
    Ok(names)
}

fn time(seconds: i64, nanoseconds: i64) -> Option<Timestamp> {
    Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok()
}

fn node(name: &OsStr, kind: NodeType, stat: &Stat) -> Node {
    let is_folder = kind == NodeType::Dir;
    let mode = (stat.st_mode & 0o777) | if is_folder { GO_FOLDER } else { 0 };
    let meta = Metadata {
        mode: Some(mode),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec as i64),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec as i64),
        uid: Some(stat.st_uid),
        gid: Some(stat.st_gid),
        inode: stat.st_ino,
        device_id: stat.st_dev,
        size: if is_folder {
            0
        } else {
            stat.st_size.unsigned_abs()
        },
        links: 1,
        ..Metadata::default()
    };
    Node::new_node(name, kind, meta)
}
