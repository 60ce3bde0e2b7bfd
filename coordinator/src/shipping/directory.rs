//! The coordinator's folder in a directory of this machine.
//!
//! A file is written aside and renamed when it is whole and on disk. Not here: what is in a file (format), which are written and when
//! (ship).

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::{
    folder::FOLDER,
    format::{Part, Series},
};

/// Begins the name of a file that is not whole.
const UNFINISHED: &str = ".isyone-";
/// Begins the name of a series that is being removed.
const REMOVED: &str = ".removed-";

#[derive(Debug, Clone)]
pub(super) struct Directory {
    /// The destination's own directory, which is never made here: it may be a disk that is not mounted.
    destination: PathBuf,
    root: PathBuf,
    /// Where a test cuts us off; see [`Self::step`].
    #[cfg(test)]
    pub(super) steps_left: Option<std::sync::Arc<std::sync::atomic::AtomicUsize>>,
}

impl Directory {
    pub(super) fn new(destination: &Path) -> Self {
        Self {
            destination: destination.to_owned(),
            root: destination.join(FOLDER),
            #[cfg(test)]
            steps_left: None,
        }
    }

    /// The folder that somebody means by this path: a destination, or the folder itself.
    pub(super) fn found(path: &Path) -> io::Result<Self> {
        let within = Self::new(path);
        if within.root.is_dir() {
            return Ok(within);
        }
        let itself = path.file_name().is_some_and(|name| name == FOLDER) && path.is_dir();
        match path.parent().filter(|_| itself) {
            Some(destination) => Ok(Self::new(destination)),
            None => Err(io::Error::other(format!(
                "there is no {FOLDER}/ in {}: is it the directory of a destination of backups?",
                path.display()
            ))),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// A moment at which a crash leaves something else behind than a moment before. Only tests fail here.
    fn step(&self) -> io::Result<()> {
        #[cfg(test)]
        if let Some(left) = &self.steps_left {
            use std::sync::atomic::Ordering::Relaxed;
            let one_less = |left: usize| left.checked_sub(1);
            if left.fetch_update(Relaxed, Relaxed, one_less).is_err() {
                return Err(io::Error::other("cut off"));
            }
        }
        Ok(())
    }

    /// Makes the folder, if the destination is there.
    pub(super) fn make(&self) -> io::Result<()> {
        fs::metadata(&self.destination)?;
        self.directory(&self.root)
    }

    fn directory(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => sync(path.parent().unwrap_or(Path::new("."))),
        }
    }

    /// Removes what a crash has left behind: half a file of keys is one of keys, too.
    pub(super) fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name();
            let is = |begin: &str| name.as_encoded_bytes().starts_with(begin.as_bytes());
            if is(UNFINISHED) {
                fs::remove_file(entry.path())?;
            } else if is(REMOVED) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    fn path(&self, series: Series, part: Part) -> PathBuf {
        let directory = self.directory_of(series, part);
        directory.join(part.to_string())
    }

    fn directory_of(&self, series: Series, part: Part) -> PathBuf {
        match part {
            Part::Base | Part::Batch(_) => self.root.join(series.to_string()),
            Part::Keys | Part::Configuration => self.root.clone(),
        }
    }

    /// Begins a series.
    pub(super) fn begin(&self, series: Series) -> io::Result<()> {
        self.directory(&self.root.join(series.to_string()))
    }

    /// Writes a file; it is there when it is whole and on disk. Returns its size.
    pub(super) fn put(
        &self,
        series: Series,
        part: Part,
        write: impl FnOnce(&mut io::BufWriter<&mut fs::File>) -> io::Result<()>,
    ) -> io::Result<u64> {
        let directory = self.directory_of(series, part);
        self.step()?;
        let mut file = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .permissions(fs::Permissions::from_mode(0o600))
            .tempfile_in(&directory)?;
        let mut out = io::BufWriter::new(file.as_file_mut());
        write(&mut out)?;
        io::Write::flush(&mut out)?;
        drop(out);
        file.as_file().sync_all()?;
        let size = file.as_file().metadata()?.len();
        self.step()?;
        let persisted = file.persist(self.path(series, part));
        persisted.map_err(|e| e.error)?;
        self.step()?;
        sync(&directory)?;
        Ok(size)
    }

    pub(super) fn open(&self, series: Series, part: Part) -> io::Result<fs::File> {
        fs::File::open(self.path(series, part))
    }

    /// The size of a file that is not of a series.
    pub(super) fn size(&self, part: Part) -> io::Result<u64> {
        Ok(fs::metadata(self.root.join(part.to_string()))?.len())
    }

    /// All series, oldest first. What else lies there is not ours.
    pub(super) fn series(&self) -> io::Result<Vec<Series>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            found.extend(name.to_str().and_then(|name| name.parse::<Series>().ok()));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The parts of a series, with their sizes.
    pub(super) fn parts(&self, series: Series) -> io::Result<BTreeMap<Part, u64>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(self.root.join(series.to_string()))? {
            let entry = entry?;
            if let Some(part) = entry.file_name().to_str().and_then(Part::of_series) {
                found.insert(part, entry.metadata()?.len());
            }
        }
        Ok(found)
    }

    /// Removes a series. Renamed first: half of one must not look like one.
    pub(super) fn remove(&self, series: Series) -> io::Result<()> {
        let going = self.root.join(format!("{REMOVED}{series}"));
        self.step()?;
        fs::rename(self.root.join(series.to_string()), &going)?;
        self.step()?;
        fs::remove_dir_all(going)
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_never_made_and_leftovers_go() {
        let place = tempfile::tempdir().unwrap();
        let missing = Directory::new(&place.path().join("not-mounted"));
        assert!(missing.make().is_err() && !place.path().join("not-mounted").exists());
        let folder = Directory::new(place.path());
        assert!(Directory::found(place.path()).is_err());
        folder.make().unwrap();
        folder.make().unwrap();
        for path in [place.path(), folder.root()] {
            assert_eq!(Directory::found(path).unwrap().root, folder.root);
        }
        fs::write(folder.root().join(".isyone-abc"), "half the keys").unwrap();
        fs::create_dir(folder.root().join(".removed-0000000000001")).unwrap();
        fs::write(folder.root().join("note.txt"), "somebody's").unwrap();
        folder.sweep().unwrap();
        assert_eq!(fs::read_dir(folder.root()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_appears_whole_and_a_series_goes_as_a_whole() {
        let place = tempfile::tempdir().unwrap();
        let folder = Directory::new(place.path());
        folder.make().unwrap();
        let series = Series(1_764_000_000_000);
        folder.begin(series).unwrap();
        let failed = folder.put(series, Part::Base, |out| {
            io::Write::write_all(out, b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(failed.is_err() && folder.parts(series).unwrap().is_empty());
        let size = folder.put(series, Part::Base, |out| {
            io::Write::write_all(out, b"whole")
        });
        assert_eq!(size.unwrap(), 5);
        assert_eq!(folder.parts(series).unwrap()[&Part::Base], 5);
        let mode = fs::metadata(folder.path(series, Part::Base))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        assert_eq!(folder.series().unwrap(), [series]);
        folder.remove(series).unwrap();
        assert_eq!(fs::read_dir(folder.root()).unwrap().count(), 0);
    }
}
