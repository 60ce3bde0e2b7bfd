//! Puts a folder or a file of a snapshot back, below a handle that the caller opened.
//!
//! A snapshot is hostile input: a host that was broken into may have written it. Files and folders are made one name at a time,
//! never through a link and never over something else; links, devices and pipes are refused, modes lose everything but the nine
//! bits, and who owns it is for the caller to say. An error says which file; what was made before it stays, for the caller to
//! throw away as a whole.

#[cfg(test)]
mod tests;

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Write as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
};

use jiff::Timestamp;
use rustix::{
    fs::{
        AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, fchmod, fchown, futimens, mkdirat,
        openat, syncfs, unlinkat,
    },
    io::Errno,
};

use crate::{
    error::{Error, Fault, Refusal},
    limits,
    reader::{At, Reader},
    snapshot::Snapshot,
    store::Name,
    tree::{self, Item, What},
};

/// What to do with a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    Refuse,
    /// For folders whose files are named by their contents: a union of two snapshots.
    Keep,
}

/// User and group that everything belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub user: u32,
    pub group: u32,
}

/// Where to, and how much at most.
#[derive(Debug)]
pub struct Target {
    pub folder: OwnedFd,
    pub existing: Existing,
    /// Without one, whoever runs this.
    pub owner: Option<Owner>,
    pub most_bytes: u64,
    /// Files and folders.
    pub most_entries: u64,
}

/// What was restored, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    pub files: u64,
    pub folders: u64,
    pub bytes: u64,
    /// Files that were there already.
    pub kept: u64,
}

/// What is done with what is found.
trait Visitor {
    /// Bounds on entries and bytes.
    fn bounds(&self) -> (u64, u64);
    fn enter(&mut self, item: &Item, at: At<'_>) -> Result<(), Error>;
    fn leave(&mut self, item: &Item, at: At<'_>) -> Result<(), Error>;
    /// Whether it was there already.
    fn file(&mut self, item: &Item, content: &[Name], at: At<'_>) -> Result<bool, Error>;
}

/// A way through a snapshot, with what was counted on it.
struct Tour<'a, V> {
    reader: &'a Reader,
    snapshot: Name,
    visitor: V,
    counted: Restored,
}

impl<V: Visitor> Tour<'_, V> {
    fn folder(&mut self, tree: Name, path: &str, depth: usize) -> Result<(), Error> {
        let snapshot = self.snapshot;
        let at = At { snapshot, path };
        if depth > limits::DEPTH {
            return Err(at.refused(Refusal::Depth));
        }
        for item in self.reader.folder(tree, at)? {
            let path = tree::join(path, &item.name);
            let at = At {
                snapshot,
                path: &path,
            };
            tree::check(&item.name).map_err(|refusal| at.refused(refusal))?;
            match &item.what {
                What::File { bytes, content } => self.file(&item, *bytes, content, at)?,
                What::Folder(Some(inner)) => {
                    self.counted.folders += 1;
                    self.within(at)?;
                    self.visitor.enter(&item, at)?;
                    self.folder(*inner, &path, depth + 1)?;
                    self.visitor.leave(&item, at)?;
                }
                What::Folder(None) => return Err(at.content(None, Fault::Malformed)),
                What::Special => return Err(at.refused(Refusal::Special)),
            }
        }
        Ok(())
    }

    fn file(&mut self, item: &Item, bytes: u64, content: &[Name], at: At<'_>) -> Result<(), Error> {
        let length = self.reader.length(content, at)?;
        if length != bytes {
            return Err(at.content(None, Fault::Size));
        }
        self.counted.bytes += length;
        self.counted.files += 1;
        self.within(at)?;
        if self.visitor.file(item, content, at)? {
            self.counted.kept += 1;
            self.counted.files -= 1;
            self.counted.bytes -= length;
        }
        Ok(())
    }

    fn within(&self, _: At<'_>) -> Result<(), Error> {
        let (most_entries, most_bytes) = self.visitor.bounds();
        let Restored {
            files,
            folders,
            bytes,
            kept,
        } = self.counted;
        let too_much = |what, most| Err(Error::TooMuch { what, most });
        if files + folders + kept > most_entries {
            return too_much("files", most_entries);
        }
        if bytes > most_bytes {
            return too_much("bytes", most_bytes);
        }
        if self.reader.job.stop.is_stopped() {
            return Err(Error::Stopped);
        }
        Ok(())
    }
}

impl Reader {
    /// What a folder or file would take, without reading contents: for refusing before anything starts.
    ///
    /// # Errors
    /// There is nothing of this name; it would be refused; its folders are damaged; a content is known to be missing.
    pub fn measure(&self, snapshot: &Snapshot, path: &str) -> Result<Restored, Error> {
        self.tour(snapshot, path, Measure)
    }

    /// Puts what a path leads to into the target: a folder's contents, or a file under its own name.
    ///
    /// # Errors
    /// As the module says.
    pub fn restore(
        &self,
        snapshot: &Snapshot,
        path: &str,
        target: &Target,
    ) -> Result<Restored, Error> {
        let put = Put {
            reader: self,
            target,
            within: Vec::new(),
        };
        let restored = self.tour(snapshot, path, put)?;
        syncfs(&target.folder).map_err(|e| failed(path, e))?;
        Ok(restored)
    }

    fn tour<V: Visitor>(
        &self,
        snapshot: &Snapshot,
        path: &str,
        visitor: V,
    ) -> Result<Restored, Error> {
        let mut tour = Tour {
            reader: self,
            snapshot: snapshot.name,
            visitor,
            counted: Restored::default(),
        };
        let at = At {
            snapshot: snapshot.name,
            path,
        };
        match self.find(snapshot, path)? {
            What::Folder(Some(tree)) => tour.folder(tree, path.trim_matches('/'), 0)?,
            What::Folder(None) => return Err(at.content(None, Fault::Malformed)),
            What::Special => return Err(at.refused(Refusal::Special)),
            What::File { bytes, content } => {
                let name = path.rsplit('/').find(|name| !name.is_empty());
                let name = name.unwrap_or_default().as_bytes().to_vec();
                tree::check(&name).map_err(|refusal| at.refused(refusal))?;
                let item = Item {
                    name,
                    what: What::Special, // what it is, is passed beside it
                    mode: None,
                    modified: None,
                };
                tour.file(&item, bytes, &content, at)?;
            }
        }
        Ok(tour.counted)
    }
}

/// Only counts.
struct Measure;

impl Visitor for Measure {
    fn bounds(&self) -> (u64, u64) {
        (limits::BLOBS as u64, u64::MAX)
    }

    fn enter(&mut self, _: &Item, _: At<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn leave(&mut self, _: &Item, _: At<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn file(&mut self, _: &Item, _: &[Name], _: At<'_>) -> Result<bool, Error> {
        Ok(false)
    }
}

/// Puts it where it belongs.
struct Put<'a> {
    reader: &'a Reader,
    target: &'a Target,
    /// The folders that we are in.
    within: Vec<OwnedFd>,
}

fn failed(path: &str, error: impl Into<io::Error>) -> Error {
    Error::Restore {
        path: path.to_owned(),
        source: error.into(),
    }
}

fn timespec(time: Timestamp) -> Timespec {
    Timespec {
        tv_sec: time.as_second(),
        tv_nsec: time.subsec_nanosecond().max(0).into(),
    }
}

impl Put<'_> {
    fn folder(&self) -> BorrowedFd<'_> {
        self.within
            .last()
            .map_or_else(|| self.target.folder.as_fd(), AsFd::as_fd)
    }

    /// Owner, mode and time of what was just made.
    fn finish(&self, made: impl AsFd, item: &Item, default: u32) -> rustix::io::Result<()> {
        if let Some(Owner { user, group }) = self.target.owner {
            fchown(&made, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        }
        let mode = item.mode.map_or(default, |mode| mode & 0o777);
        fchmod(&made, Mode::from_raw_mode(mode))?;
        let Some(modified) = item.modified.map(timespec) else {
            return Ok(());
        };
        let times = Timestamps {
            last_access: modified,
            last_modification: modified,
        };
        futimens(&made, &times)
    }

    fn write(&self, made: OwnedFd, item: &Item, content: &[Name], at: At<'_>) -> Result<(), Error> {
        let mut file = File::from(made);
        self.reader.write_content(content, at, &mut file)?;
        file.flush().map_err(|e| failed(at.path, e))?;
        self.finish(&file, item, 0o600)
            .map_err(|e| failed(at.path, e))
    }
}

impl Visitor for Put<'_> {
    fn bounds(&self) -> (u64, u64) {
        (self.target.most_entries, self.target.most_bytes)
    }

    fn enter(&mut self, item: &Item, at: At<'_>) -> Result<(), Error> {
        let name = OsStr::from_bytes(&item.name);
        match mkdirat(self.folder(), name, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) if self.target.existing == Existing::Keep => {}
            Err(Errno::EXIST) => return Err(at.refused(Refusal::Exists)),
            Err(e) => return Err(failed(at.path, e)),
        }
        // If it is there and no folder but a link, this fails.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(self.folder(), name, flags, Mode::empty());
        let made = made.map_err(|e| failed(at.path, e))?;
        self.within.push(made);
        Ok(())
    }

    fn leave(&mut self, item: &Item, at: At<'_>) -> Result<(), Error> {
        let Some(made) = self.within.pop() else {
            return Ok(()); // each is entered first
        };
        self.finish(&made, item, 0o700)
            .map_err(|e| failed(at.path, e))
    }

    fn file(&mut self, item: &Item, content: &[Name], at: At<'_>) -> Result<bool, Error> {
        let name = OsStr::from_bytes(&item.name);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = match openat(self.folder(), name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(made) => made,
            Err(Errno::EXIST) if self.target.existing == Existing::Keep => return Ok(true),
            Err(Errno::EXIST) => return Err(at.refused(Refusal::Exists)),
            Err(e) => return Err(failed(at.path, e)),
        };
        let written = self.write(made, item, content, at);
        if written.is_err() {
            // Half a file would look like a whole one to the next restore with `Keep`.
            let _ = unlinkat(self.folder(), name, AtFlags::empty());
        }
        written.map(|()| false)
    }
}
