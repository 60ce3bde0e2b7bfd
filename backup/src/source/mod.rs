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
    ffi::OsString,
    fmt,
    io::{self, Read},
    os::fd::OwnedFd,
};

/// Makes a stream. The end of its bytes is believed only after it said that all went well.
pub trait Producer: Read + Send {
    /// Called once, when there are no more bytes and before the snapshot counts them as all.
    ///
    /// # Errors
    /// It failed: a process that exited with another code than 0, say.
    fn finish(&mut self) -> io::Result<()>;
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
    /// A folder and what is in it, or only these names of it.
    Folder(OwnedFd, Option<Vec<OsString>>),
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
            what: What::Folder(folder.into(), None),
        }
    }

    /// Some entries of a folder, such as the segments that are complete.
    pub fn entries(
        name: impl Into<String>,
        folder: impl Into<OwnedFd>,
        names: Vec<OsString>,
    ) -> Self {
        Self {
            name: name.into(),
            what: What::Folder(folder.into(), Some(names)),
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
