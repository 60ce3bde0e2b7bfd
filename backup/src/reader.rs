//! Reads what is in snapshots: blobs, folders, files. Every blob's hash is compared with its name, so what is read is what was
//! backed up, or an error that names the file, the pack and the snapshot.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use crate::{
    bridge::most,
    error::{Error, Fault, Refusal},
    index::{Index, Place},
    job::Job,
    key::Key,
    limits, seal,
    snapshot::Snapshot,
    store::{File, Kind, Name, Store, StoreError},
    tree::{self, Item, What},
};

/// Blobs smaller than this are read with the whole pack: their neighbours are wanted next.
const SMALL: u32 = 256 << 10;
/// Packs kept for that: one of folders, one of contents.
const KEPT_PACKS: usize = 2;

/// A repository's content at the moment of [`crate::Repository::reader`].
#[derive(Debug)]
pub struct Reader {
    store: Arc<dyn Store>,
    key: Key,
    pub(crate) job: Job,
    pub(crate) index: Index,
    recent: Mutex<VecDeque<(File, Bytes)>>,
}

/// What a name in a snapshot stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    File,
    Folder,
    /// Never restored.
    Special,
}

/// A line of a folder's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub kind: EntryKind,
    pub bytes: u64,
}

/// A file that was found in a snapshot, and that adds up: nothing of its content is read yet.
#[derive(Clone, Debug)]
pub struct Found {
    bytes: u64,
    content: Vec<Name>,
    snapshot: Name,
    path: String,
}

impl Found {
    /// How long it is.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Where something is, for errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    pub(crate) snapshot: Name,
    pub(crate) path: &'a str,
}

impl At<'_> {
    pub(crate) fn content(&self, file: Option<File>, fault: Fault) -> Error {
        Error::Content {
            snapshot: self.snapshot,
            path: self.path.to_owned(),
            file,
            fault,
        }
    }

    pub(crate) fn refused(&self, refusal: Refusal) -> Error {
        Error::Refused {
            path: self.path.to_owned(),
            refusal,
        }
    }

    fn no_entry(&self) -> Error {
        Error::NoEntry {
            snapshot: self.snapshot,
            path: self.path.to_owned(),
        }
    }
}

impl Reader {
    pub(crate) fn new(store: Arc<dyn Store>, key: Key, job: Job, index: Index) -> Self {
        Self {
            store,
            key,
            job,
            index,
            recent: Mutex::default(),
        }
    }

    /// Index files that are damaged: what only they know of cannot be read.
    #[must_use]
    pub fn damaged(&self) -> &[(File, Fault)] {
        &self.index.damaged
    }

    pub(crate) fn fetch_pack(&self, pack: File) -> Result<Bytes, StoreError> {
        if self.job.stop.is_stopped() {
            return Err(StoreError::Stopped);
        }
        let content = self.store.read(pack, most(Kind::Pack))?;
        let fetched = &self.job.progress.fetched;
        self.job.pass_destination(content.len() as u64, fetched);
        Ok(content)
    }

    fn small(&self, pack: File, place: &Place) -> Result<Bytes, StoreError> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = recent.iter().find(|(file, _)| *file == pack);
        let content = if let Some((_, content)) = kept {
            content.clone()
        } else {
            let content = self.fetch_pack(pack)?;
            recent.truncate(KEPT_PACKS - 1);
            recent.push_front((pack, content.clone()));
            content
        };
        let begin = place.offset as usize;
        let end = begin + place.length as usize;
        if end > content.len() {
            return Err(StoreError::Altered(pack)); // it was cut off
        }
        Ok(content.slice(begin..end))
    }

    /// The sealed bytes of a blob.
    fn sealed(&self, pack: File, place: &Place) -> Result<Bytes, StoreError> {
        if self.job.stop.is_stopped() {
            return Err(StoreError::Stopped);
        }
        if u64::from(place.length) > limits::PACK_BYTES {
            return Err(StoreError::Swollen(pack));
        }
        if place.length < SMALL {
            return self.small(pack, place);
        }
        let part = self
            .store
            .read_part(pack, u64::from(place.offset), place.length)?;
        let fetched = &self.job.progress.fetched;
        self.job.pass_destination(part.len() as u64, fetched);
        Ok(part)
    }

    /// A blob that is what its name says.
    pub(crate) fn blob(&self, place: Option<Place>, at: At<'_>) -> Result<Vec<u8>, Error> {
        let Some(place) = place else {
            return Err(at.content(None, Fault::NotIndexed));
        };
        let pack = self.index.pack(&place);
        let broken = |fault| at.content(Some(pack), fault);
        let sealed = self.sealed(pack, &place).map_err(|e| match e {
            StoreError::Absent(_) => broken(Fault::Missing),
            StoreError::Altered(_) => broken(Fault::Size),
            StoreError::TooLarge { .. } | StoreError::Swollen(_) => broken(Fault::Swollen),
            // A file that ends before the blob does.
            StoreError::Failed(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                broken(Fault::Size)
            }
            StoreError::Failed(_) => broken(Fault::Unreadable),
            e => Error::of_store(&self.store.place(), e),
        })?;
        let plain = open(&self.key, &sealed, &place).map_err(broken)?;
        Ok(plain)
    }

    /// The entries of a folder.
    pub(crate) fn folder(&self, tree: Name, at: At<'_>) -> Result<Vec<Item>, Error> {
        let json = self.blob(self.index.tree(tree), at)?;
        tree::parse(&json).map_err(|fault| at.content(None, fault))
    }

    /// What a path leads to.
    pub(crate) fn find(&self, snapshot: &Snapshot, path: &str) -> Result<What, Error> {
        let at = At {
            snapshot: snapshot.name,
            path,
        };
        let mut what = What::Folder(Some(snapshot.tree));
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let What::Folder(Some(tree)) = what else {
                return Err(at.no_entry());
            };
            let mut items = self.folder(tree, at)?.into_iter();
            // What restoring refuses is not found here either.
            tree::check(name.as_bytes()).map_err(|_| at.no_entry())?;
            let found = items.find(|item| item.name == name.as_bytes());
            what = found.ok_or_else(|| at.no_entry())?.what;
        }
        Ok(what)
    }

    /// Lists a folder of a snapshot; the empty path is its parts.
    ///
    /// # Errors
    /// There is no such folder, or it cannot be read.
    pub fn list(&self, snapshot: &Snapshot, path: &str) -> Result<Vec<Entry>, Error> {
        let at = At {
            snapshot: snapshot.name,
            path,
        };
        let What::Folder(tree) = self.find(snapshot, path)? else {
            return Err(at.refused(Refusal::NotAFolder));
        };
        let tree = tree.ok_or_else(|| at.content(None, Fault::Malformed))?;
        let items = self.folder(tree, at)?;
        Ok(items.iter().map(entry).collect())
    }

    /// Writes a file's content to `to`.
    ///
    /// # Errors
    /// There is no such file, it is damaged, or `to` takes no more.
    pub fn copy(&self, snapshot: &Snapshot, path: &str, to: &mut dyn Write) -> Result<u64, Error> {
        let at = At {
            snapshot: snapshot.name,
            path,
        };
        match self.find(snapshot, path)? {
            What::File { content, .. } => self.write_content(&content, at, to),
            What::Folder(_) => Err(at.refused(Refusal::Folder)),
            What::Special => Err(at.refused(Refusal::Special)),
        }
    }

    /// Finds a file, and looks whether it has the length that it is said to have: whoever reads it can be told that first.
    ///
    /// # Errors
    /// There is no such file, it is damaged, or nothing that is restored.
    pub fn file(&self, snapshot: &Snapshot, path: &str) -> Result<Found, Error> {
        let at = At {
            snapshot: snapshot.name,
            path,
        };
        let (said, content) = match self.find(snapshot, path)? {
            What::File { bytes, content } => (bytes, content),
            What::Folder(_) => return Err(at.refused(Refusal::Folder)),
            What::Special => return Err(at.refused(Refusal::Special)),
        };
        let bytes = self.length(&content, at)?;
        if bytes != said {
            return Err(at.content(None, Fault::Size));
        }
        Ok(Found {
            bytes,
            content,
            snapshot: snapshot.name,
            path: path.to_owned(),
        })
    }

    /// Writes what was found to `to`, blob by blob.
    ///
    /// # Errors
    /// It is damaged, or `to` takes no more.
    pub fn write(&self, found: &Found, to: &mut dyn Write) -> Result<u64, Error> {
        let at = At {
            snapshot: found.snapshot,
            path: &found.path,
        };
        self.write_content(&found.content, at, to)
    }

    /// How long a content is, by the index.
    pub(crate) fn length(&self, content: &[Name], at: At<'_>) -> Result<u64, Error> {
        let mut length: u64 = 0;
        for blob in content {
            let place = self.index.data(*blob);
            let place = place.ok_or_else(|| at.content(None, Fault::NotIndexed))?;
            length += place.content_bytes(); // a million of 4 GiB at most
        }
        Ok(length)
    }

    pub(crate) fn write_content(
        &self,
        content: &[Name],
        at: At<'_>,
        to: &mut dyn Write,
    ) -> Result<u64, Error> {
        let mut written = 0;
        for blob in content {
            let plain = self.blob(self.index.data(*blob), at)?;
            self.job.pass_source(plain.len() as u64);
            to.write_all(&plain).map_err(|source| Error::Restore {
                path: at.path.to_owned(),
                source,
            })?;
            written += plain.len() as u64;
        }
        Ok(written)
    }

    pub(crate) const fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
}

/// A blob's content, compared with its name.
pub(crate) fn open(key: &Key, sealed: &[u8], place: &Place) -> Result<Vec<u8>, Fault> {
    let plain = seal::open_blob(key, sealed, place.unpacked())?;
    if seal::name_of(&plain) != place.blob {
        return Err(Fault::Altered);
    }
    Ok(plain)
}

fn entry(item: &Item) -> Entry {
    let (kind, bytes) = match item.what {
        What::File { bytes, .. } => (EntryKind::File, bytes),
        What::Folder(_) => (EntryKind::Folder, 0),
        What::Special => (EntryKind::Special, 0),
    };
    let kind = match tree::check(&item.name) {
        Ok(()) => kind,
        // Its name would lead elsewhere.
        Err(_) => EntryKind::Special,
    };
    Entry {
        name: String::from_utf8_lossy(&item.name[..item.name.len().min(limits::NAME_BYTES)])
            .into_owned(),
        kind,
        bytes,
    }
}
