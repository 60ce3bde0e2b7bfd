//! A folder that is served to others, who must not cost memory: files that come in pieces, names in pages, sizes.
//!
//! Not here: who may reach it, and over what.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use sha2::{Digest as _, Sha256};

use super::{
    File, Kind, Local, Name, StoreError,
    local::{UNFINISHED, make_folder, meaning, unfinished_name},
};
use crate::limits;

/// What has not been finished for so long never will be.
const LEFTOVER: Duration = Duration::from_secs(86_400);

/// A file that comes in pieces. It appears under its name at the end, and leaves nothing when that does not come.
#[derive(Debug)]
pub struct Unfinished {
    content: fs::File,
    digest: Sha256,
    file: File,
    /// Where it grows, and where it belongs.
    here: PathBuf,
    path: PathBuf,
    renamed: bool,
}

/// What there is before the first piece.
#[derive(Debug)]
pub enum Begun {
    New(Box<Unfinished>),
    /// The file is there, and has this size.
    Exists(u64),
}

impl Local {
    /// Begins a file.
    ///
    /// # Errors
    /// As [`StoreError`] says. `config` that is there is no error here either: its content may be the same.
    pub fn begin(&self, file: File) -> Result<Begun, StoreError> {
        let path = self.at(file);
        match fs::symlink_metadata(&path) {
            Ok(data) => return Ok(Begun::Exists(data.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(meaning(e)),
        }
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        if file.kind == Kind::Pack {
            make_folder(folder).map_err(|e| self.not_begun(file, e))?;
        }
        let here = folder.join(unfinished_name());
        let mut options = fs::OpenOptions::new();
        let opened = options.write(true).create_new(true).mode(0o600).open(&here);
        let content = opened.map_err(|e| self.not_begun(file, e))?;
        Ok(Begun::New(Box::new(Unfinished {
            content,
            digest: Sha256::new(),
            file,
            here,
            path,
            renamed: false,
        })))
    }

    /// A file's size.
    ///
    /// # Errors
    /// As [`StoreError`] says.
    pub fn size(&self, file: File) -> Result<u64, StoreError> {
        let data = fs::metadata(self.at(file)).map_err(|e| self.missing(file, e))?;
        Ok(data.len())
    }

    /// The names after this one, at most `most` of them, sorted, with their sizes; and whether there are more.
    ///
    /// # Errors
    /// As of [`super::Store::list`].
    pub fn page(
        &self,
        kind: Kind,
        after: Option<Name>,
        most: usize,
    ) -> Result<(Vec<(Name, u64)>, bool), StoreError> {
        let unreachable = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => StoreError::Unreachable(e),
            _ => meaning(e),
        };
        let mut folders = self.folders(kind).map_err(unreachable)?;
        folders.sort();
        let (mut page, mut more) = (Vec::new(), false);
        for folder in folders {
            if kind == Kind::Pack && after.is_some_and(|name| is_before(&folder, name)) {
                continue;
            }
            let mut names = names(&folder).map_err(unreachable)?;
            names.retain(|name| after.is_none_or(|after| *name > after));
            names.sort_unstable();
            for name in names {
                more = page.len() >= most;
                if more {
                    return Ok((page, more));
                }
                match fs::symlink_metadata(folder.join(name.to_string())) {
                    Ok(data) if data.is_file() => page.push((name, data.len())),
                    Ok(_) => {}
                    // Pruned between the listing and now.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(meaning(e)),
                }
            }
        }
        Ok((page, more))
    }

    /// Removes files that were begun and never finished, as after a crash.
    ///
    /// # Errors
    /// As [`StoreError`] says.
    pub fn sweep(&self, now: SystemTime) -> Result<usize, StoreError> {
        let mut swept = 0;
        for kind in Kind::NAMED {
            for folder in self.folders(kind).map_err(meaning)? {
                for entry in fs::read_dir(folder).map_err(meaning)? {
                    let entry = entry.map_err(meaning)?;
                    let begun = entry
                        .file_name()
                        .as_encoded_bytes()
                        .starts_with(UNFINISHED.as_bytes());
                    let modified = entry.metadata().and_then(|data| data.modified());
                    let age = modified.map(|at| now.duration_since(at).unwrap_or_default());
                    if begun && age.is_ok_and(|age| age > LEFTOVER) {
                        fs::remove_file(entry.path()).map_err(meaning)?;
                        swept += 1;
                    }
                }
            }
        }
        Ok(swept)
    }

    fn not_begun(&self, file: File, source: io::Error) -> StoreError {
        match self.missing(file, source) {
            StoreError::Absent(_) => StoreError::Unreachable(io::ErrorKind::NotFound.into()),
            other => other,
        }
    }
}

/// Whether a folder of packs (two digits) comes before the one of a name.
fn is_before(folder: &Path, name: Name) -> bool {
    let digits = name.to_string();
    folder
        .file_name()
        .is_some_and(|folder| folder.as_encoded_bytes() < &digits.as_bytes()[..2])
}

fn names(folder: &Path) -> io::Result<Vec<Name>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse::<Name>().ok()));
        if found.len() > limits::FILES {
            return Err(io::Error::other("more files than a repository may have"));
        }
    }
    Ok(found)
}

impl Unfinished {
    /// The next piece.
    ///
    /// # Errors
    /// As [`StoreError`] says; then drop it.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        self.digest.update(piece);
        self.content.write_all(piece).map_err(meaning)
    }

    /// The file is whole: it appears, durable, under its name.
    ///
    /// # Errors
    /// [`StoreError::Altered`] when its content is not what its name says; as [`StoreError`] says.
    pub fn finish(mut self) -> Result<(), StoreError> {
        let digest: [u8; 32] = self.digest.finalize_reset().into();
        if self.file.kind != Kind::Config && digest != self.file.name.0 {
            return Err(StoreError::Altered(self.file));
        }
        self.content.sync_all().map_err(meaning)?;
        if self.file.kind == Kind::Config {
            // Never replaced, whoever else has written one meanwhile.
            return match fs::hard_link(&self.here, &self.path) {
                Ok(()) => self.synced(),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    Err(StoreError::Exists(self.file))
                }
                Err(e) => Err(meaning(e)),
            };
        }
        fs::rename(&self.here, &self.path).map_err(meaning)?;
        self.renamed = true;
        self.synced()
    }

    /// Without it the file may be gone after a power cut, and with it the snapshot that needs it.
    fn synced(&self) -> Result<(), StoreError> {
        let folder = self.path.parent().unwrap_or_else(|| Path::new("."));
        fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(meaning)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_file(&self.here); // swept by and by if it stays
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::store::Store as _;

    fn of(content: &[u8]) -> File {
        File::new(Kind::Pack, Name(Sha256::digest(content).into()))
    }

    fn put(store: &Local, file: File, pieces: &[&[u8]]) -> Result<(), StoreError> {
        let Begun::New(mut unfinished) = store.begin(file)? else {
            return Err(StoreError::Exists(file));
        };
        pieces
            .iter()
            .try_for_each(|piece| unfinished.write(piece))?;
        unfinished.finish()
    }

    fn all_files(folder: &Path) -> usize {
        let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
        entries
            .map(|path| if path.is_dir() { all_files(&path) } else { 1 })
            .sum()
    }

    #[test]
    fn what_comes_in_pieces_is_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = Local::new(folder.path().join("alfa"));
        assert!(matches!(
            store.begin(of(b"x")),
            Err(StoreError::Unreachable(_))
        ));
        store.create().unwrap();
        put(&store, of(b"onetwo"), &[b"one", b"two"]).unwrap();
        assert_eq!(store.read(of(b"onetwo"), 9).unwrap(), Bytes::from("onetwo"));
        assert_eq!(store.size(of(b"onetwo")).unwrap(), 6);
        assert!(matches!(store.begin(of(b"onetwo")), Ok(Begun::Exists(6))));
        let other = put(&store, of(b"one"), &[b"two"]);
        assert!(matches!(other, Err(StoreError::Altered(_))));
        drop(store.begin(of(b"three")).unwrap());
        assert!(matches!(
            store.size(of(b"three")),
            Err(StoreError::Absent(_))
        ));
        assert_eq!(
            all_files(folder.path()),
            1,
            "nothing is left of what did not end"
        );
        // Two write the same.
        let (a, b) = (store.begin(of(b"")).unwrap(), store.begin(of(b"")).unwrap());
        for begun in [a, b] {
            let Begun::New(unfinished) = begun else {
                panic!()
            };
            unfinished.finish().unwrap();
        }
    }

    #[test]
    fn a_config_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let store = Local::new(folder.path().join("alfa"));
        store.create().unwrap();
        let two = [(); 2].map(|()| store.begin(File::config()).unwrap());
        let [first, second] = two.map(|begun| match begun {
            Begun::New(unfinished) => unfinished,
            Begun::Exists(_) => panic!(),
        });
        let finish = |mut unfinished: Box<Unfinished>, content: &[u8]| {
            unfinished.write(content).unwrap();
            unfinished.finish()
        };
        finish(first, b"first").unwrap();
        assert!(matches!(
            finish(second, b"second"),
            Err(StoreError::Exists(_))
        ));
        assert_eq!(store.read(File::config(), 9).unwrap(), Bytes::from("first"));
        assert_eq!(all_files(folder.path()), 1);
    }

    #[test]
    fn pages_have_every_name_once_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let store = Local::new(folder.path().join("alfa"));
        assert!(matches!(
            store.page(Kind::Pack, None, 9),
            Err(StoreError::Unreachable(_))
        ));
        store.create().unwrap();
        for number in 0..100_u32 {
            let content = number.to_le_bytes();
            put(&store, of(&content), &[&content]).unwrap();
        }
        fs::write(folder.path().join("alfa/data/readme"), "x").unwrap();
        let mut wanted = store.list(Kind::Pack).unwrap();
        wanted.sort_unstable();
        for most in [1, 7, 99, 100, 101] {
            let (mut all, mut after) = (Vec::new(), None);
            loop {
                let (page, more) = store.page(Kind::Pack, after, most).unwrap();
                assert!(page.len() <= most && (page.len() == most || !more));
                all.extend(page);
                after = all.last().map(|(name, _)| *name);
                if !more {
                    break;
                }
            }
            assert_eq!(all, wanted, "{most}");
        }
        assert_eq!(
            store.page(Kind::Snapshot, None, 5).unwrap(),
            (Vec::new(), false)
        );
    }

    #[test]
    fn what_a_crash_left_behind_is_swept_a_day_later() {
        let folder = tempfile::tempdir().unwrap();
        let store = Local::new(folder.path().join("alfa"));
        store.create().unwrap();
        put(&store, of(b"one"), &[b"one"]).unwrap();
        std::mem::forget(store.begin(of(b"two")).unwrap());
        assert_eq!(all_files(folder.path()), 2);
        let now = fs::metadata(folder.path().join("alfa/data")).unwrap();
        let now = now.modified().unwrap();
        assert_eq!(store.sweep(now).unwrap(), 0, "it may be under way");
        assert_eq!(store.sweep(now + 2 * LEFTOVER).unwrap(), 1);
        assert_eq!(store.list(Kind::Pack).unwrap().len(), 1);
    }
}
