//! The coordinator's folder at a destination: `coordinator/` beside tenants' repositories. `keys` and `configuration` are replaced, a
//! series is a folder of files that are never changed.
//!
//! Here: which kind of destination it is. Not here: what is in a file (format), which are written and when (ship).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use isyone_bucket::Bucket;

use super::{
    directory::Directory,
    format::{Part, Series},
    in_bucket::InBucket,
};

/// Its name at a destination; no tenant's uid.
pub const FOLDER: &str = "coordinator";

#[derive(Debug, Clone)]
pub struct Folder(At);

#[derive(Debug, Clone)]
enum At {
    Directory(Directory),
    Bucket(InBucket),
}

impl Folder {
    pub fn new(destination: &Path) -> Self {
        Self(At::Directory(Directory::new(destination)))
    }

    pub fn in_bucket(bucket: Bucket) -> Self {
        Self(At::Bucket(InBucket::new(bucket)))
    }

    /// The folder that somebody means by this path: a destination, or the folder itself.
    pub fn found(path: &Path) -> io::Result<Self> {
        Directory::found(path).map(At::Directory).map(Self)
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        match &self.0 {
            At::Directory(at) => at.root().display().to_string(),
            At::Bucket(at) => at.place(),
        }
    }

    /// The destination's directory, if it is one of this machine.
    pub(super) fn directory(&self) -> Option<PathBuf> {
        match &self.0 {
            At::Directory(at) => at.root().parent().map(Path::to_owned),
            At::Bucket(_) => None,
        }
    }

    /// Makes the folder, if the destination is there.
    pub(super) fn make(&self) -> io::Result<()> {
        match &self.0 {
            At::Directory(at) => at.make(),
            At::Bucket(at) => at.check(),
        }
    }

    /// Removes what a crash has left behind: half a file of keys is one of keys, too.
    pub(super) fn sweep(&self) -> io::Result<()> {
        match &self.0 {
            At::Directory(at) => at.sweep(),
            // Nothing is there that is not whole.
            At::Bucket(_) => Ok(()),
        }
    }

    /// Begins a series.
    pub(super) fn begin(&self, series: Series) -> io::Result<()> {
        match &self.0 {
            At::Directory(at) => at.begin(series),
            At::Bucket(_) => Ok(()),
        }
    }

    /// Writes a file; it is there when it is whole and durable. Returns its size.
    pub(super) fn put(
        &self,
        series: Series,
        part: Part,
        write: impl FnOnce(&mut io::BufWriter<&mut fs::File>) -> io::Result<()>,
    ) -> io::Result<u64> {
        match &self.0 {
            At::Directory(at) => at.put(series, part, write),
            At::Bucket(at) => at.put(series, part, write),
        }
    }

    pub(super) fn open(&self, series: Series, part: Part) -> io::Result<fs::File> {
        match &self.0 {
            At::Directory(at) => at.open(series, part),
            At::Bucket(at) => at.open(series, part),
        }
    }

    /// The size of a file that is not of a series.
    pub(super) fn size(&self, part: Part) -> io::Result<u64> {
        match &self.0 {
            At::Directory(at) => at.size(part),
            At::Bucket(at) => at.size(part),
        }
    }

    /// All series, oldest first. What else lies there is not ours.
    pub fn series(&self) -> io::Result<Vec<Series>> {
        match &self.0 {
            At::Directory(at) => at.series(),
            At::Bucket(at) => at.series(),
        }
    }

    /// The parts of a series, with their sizes.
    pub(super) fn parts(&self, series: Series) -> io::Result<BTreeMap<Part, u64>> {
        match &self.0 {
            At::Directory(at) => at.parts(series),
            At::Bucket(at) => at.parts(series),
        }
    }

    /// Removes a series; half of one does not look like one.
    pub(super) fn remove(&self, series: Series) -> io::Result<()> {
        match &self.0 {
            At::Directory(at) => at.remove(series),
            At::Bucket(at) => at.remove(series),
        }
    }
}

#[cfg(test)]
impl Folder {
    /// The folder itself, where it is one of this machine.
    pub(super) fn root(&self) -> PathBuf {
        self.directory().unwrap().join(FOLDER)
    }

    /// Cuts it off after so many steps.
    pub(super) fn cut_after(&mut self, left: std::sync::Arc<std::sync::atomic::AtomicUsize>) {
        if let At::Directory(at) = &mut self.0 {
            at.steps_left = Some(left);
        }
    }
}
