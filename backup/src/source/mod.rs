//! What a snapshot is made of: named parts, each a stream, a folder or some bytes.
//!
//! Parts are read one after the other in the order of their names, so what has to be older has to come first (`database.tar`
//! before `filestore`). A part is whole, or there is no snapshot.

mod feed;
mod program;
mod walk;

pub(crate) use feed::Feed;
pub use program::Program;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    io::{self, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// Makes a stream. The end of its bytes is believed only after it said that all went well.
pub trait Producer: Read + Send {
    /// Called once, when there are no more bytes and before the snapshot counts them as all.
    ///
    /// # Errors
    /// It failed: a process that exited with another code than 0, say.
    fn finish(&mut self) -> io::Result<()>;
}

impl<P: Producer + ?Sized> Producer for Box<P> {
    fn finish(&mut self) -> io::Result<()> {
        (**self).finish()
    }
}

/// A stream whose end is its own proof, such as a file.
#[derive(Debug)]
pub struct Plain<R>(pub R);

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read + Send> Producer for Plain<R> {
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts a producer when its turn has come.
pub(crate) type Start = Box<dyn FnOnce() -> io::Result<Box<dyn Producer>> + Send>;

/// A part of a snapshot.
pub struct Part {
    pub(crate) name: String,
    pub(crate) what: What,
}

pub(crate) enum What {
    Stream(Start),
    Bytes(Vec<u8>),
    /// A folder and what of it is wanted.
    Folder(OwnedFd, Only),
}

/// What of a folder is in a snapshot.
pub(crate) enum Only {
    All,
    These(Chosen),
    /// These, as is said when its turn has come.
    Later(Choose),
}

/// Chooses files of a folder when its turn has come.
pub(crate) type Choose = Box<dyn FnOnce() -> io::Result<Vec<PathBuf>> + Send>;

impl fmt::Debug for Only {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::These(_) => "these",
            Self::Later(_) => "later",
        })
    }
}

/// What of a folder is wanted, by name: all of an entry for which nothing is chosen.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Chosen(pub(crate) BTreeMap<OsString, Chosen>);

impl Chosen {
    pub(crate) fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let mut chosen = Self::default();
        paths.into_iter().for_each(|path| chosen.add(path));
        chosen
    }

    fn add(&mut self, path: &Path) {
        let mut at = self;
        for step in path {
            at = at.0.entry(step.to_owned()).or_default();
        }
    }
}

impl Part {
    /// A stream, started when its turn has come.
    pub fn stream<P: Producer + 'static>(
        name: impl Into<String>,
        start: impl FnOnce() -> io::Result<P> + Send + 'static,
    ) -> Self {
        let start: Start = Box::new(move || Ok(Box::new(start()?)));
        Self {
            name: name.into(),
            what: What::Stream(start),
        }
    }

    /// Some bytes: a manifest, configuration.
    pub fn bytes(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            name: name.into(),
            what: What::Bytes(bytes.into()),
        }
    }

    /// A folder with everything in it. Links in it are not followed, whoever laid them there.
    pub fn folder(name: impl Into<String>, folder: impl Into<OwnedFd>) -> Self {
        Self {
            name: name.into(),
            what: What::Folder(folder.into(), Only::All),
        }
    }

    /// Some entries of a folder, such as the segments that are complete.
    pub fn entries(
        name: impl Into<String>,
        folder: impl Into<OwnedFd>,
        names: Vec<OsString>,
    ) -> Self {
        Self::paths(name, folder, names.iter().map(Path::new))
    }

    /// A folder with these of the files and folders anywhere in it, such as those that are new. Folders on the way to them are in the
    /// snapshot, others are not.
    pub fn paths<'a>(
        name: impl Into<String>,
        folder: impl Into<OwnedFd>,
        paths: impl IntoIterator<Item = &'a Path>,
    ) -> Self {
        Self {
            name: name.into(),
            what: What::Folder(folder.into(), Only::These(Chosen::of(paths))),
        }
    }

    /// A folder with files that are chosen when all parts before it have been read. Where they cannot be, there is no snapshot.
    pub fn later(
        name: impl Into<String>,
        folder: impl Into<OwnedFd>,
        choose: impl FnOnce() -> io::Result<Vec<PathBuf>> + Send + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            what: What::Folder(folder.into(), Only::Later(Box::new(choose))),
        }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            What::Stream(_) => "stream",
            What::Bytes(_) => "bytes",
            What::Folder(..) => "folder",
        };
        write!(f, "{} ({what})", self.name)
    }
}

/// What of a folder is not in its snapshot, and is no error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    pub count: u64,
    /// The first of them.
    pub first: Vec<(String, WhyLeftOut)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyLeftOut {
    /// A link, a pipe, a socket, a device: what Odoo and PostgreSQL need none of, and a restore would not bring back.
    Special,
    /// It was removed while the folder was read.
    Vanished,
}

impl LeftOut {
    pub(crate) fn add(&mut self, path: String, why: WhyLeftOut) {
        self.count += 1;
        if self.first.len() < crate::limits::NAMED {
            self.first.push((path, why));
        }
    }
}
