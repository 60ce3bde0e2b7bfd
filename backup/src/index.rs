//! Where each blob of a repository lies, as its index files say, in a form that is small in memory.
//!
//! A damaged index file costs what only it knows; what it is called is kept. Not here: whether a pack holds what is said of it.

use std::sync::Arc;

use rustic_core::repofile::IndexFile;

use crate::{
    bridge::{most, name},
    error::{Error, Fault},
    key::Key,
    limits, seal,
    store::{File, Kind, Name, Store, StoreError},
};

/// A blob's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) blob: Name,
    pack: u32,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    /// 0: it is not compressed.
    unpacked: u32,
}

impl Place {
    pub(crate) const fn unpacked(&self) -> Option<u32> {
        match self.unpacked {
            0 => None,
            length => Some(length),
        }
    }

    /// How long the content is.
    pub(crate) fn content_bytes(&self) -> u64 {
        let overhead = seal::OVERHEAD as u64;
        let bare = u64::from(self.length).saturating_sub(overhead);
        self.unpacked().map_or(bare, u64::from)
    }
}

/// All blobs, sorted by name, and the packs they lie in.
#[derive(Debug, Default)]
pub(crate) struct Index {
    packs: Vec<Name>,
    data: Vec<Place>,
    trees: Vec<Place>,
    /// Index files that cannot be used.
    pub(crate) damaged: Vec<(File, Fault)>,
}

impl Index {
    /// Reads all index files.
    pub(crate) fn load(store: &Arc<dyn Store>, key: &Key) -> Result<Self, Error> {
        let place = || store.place();
        let files = store.list(Kind::Index);
        let files = files.map_err(|e| Error::of_store(&place(), e))?;
        Self::of(store, key, files.into_iter().map(|(name, _)| name))
    }

    /// Reads the index files of these names.
    pub(crate) fn of(
        store: &Arc<dyn Store>,
        key: &Key,
        names: impl Iterator<Item = Name>,
    ) -> Result<Self, Error> {
        let mut index = Self::default();
        for name in names {
            let file = File::new(Kind::Index, name);
            match read(store, key, file) {
                Ok(Some(packs)) => index.add(packs)?,
                Ok(None) => {} // replaced by a prune since it was listed
                Err(Error::Damaged { file, fault }) => index.damaged.push((file, fault)),
                Err(other) => return Err(other),
            }
        }
        index.data.sort_unstable();
        index.trees.sort_unstable();
        Ok(index)
    }

    fn add(&mut self, content: IndexFile) -> Result<(), Error> {
        // Packs that are marked to be deleted hold blobs that may still be read, until they are gone.
        for pack in content.packs.into_iter().chain(content.packs_to_delete) {
            let number = self.packs.len() as u32; // fewer than blobs
            self.packs.push(name(&pack.id));
            for blob in pack.blobs {
                let place = Place {
                    blob: name(&blob.id),
                    pack: number,
                    offset: blob.location.offset,
                    length: blob.location.length,
                    unpacked: blob.location.uncompressed_length.map_or(0, u32::from),
                };
                match blob.tpe {
                    rustic_core::repofile::BlobType::Data => self.data.push(place),
                    rustic_core::repofile::BlobType::Tree => self.trees.push(place),
                }
            }
            if self.packs.len() + self.data.len() + self.trees.len() > limits::BLOBS {
                return Err(Error::TooMuch {
                    what: "blobs of the repository",
                    most: limits::BLOBS as u64,
                });
            }
        }
        Ok(())
    }

    fn find(places: &[Place], blob: Name) -> Option<Place> {
        let at = places.partition_point(|place| place.blob < blob);
        places.get(at).copied().filter(|place| place.blob == blob)
    }

    pub(crate) fn data(&self, blob: Name) -> Option<Place> {
        Self::find(&self.data, blob)
    }

    pub(crate) fn tree(&self, blob: Name) -> Option<Place> {
        Self::find(&self.trees, blob)
    }

    /// The pack of a place of this index.
    pub(crate) fn pack(&self, place: &Place) -> File {
        let name = self.packs.get(place.pack as usize);
        File::new(Kind::Pack, name.copied().unwrap_or_default())
    }

    /// All blobs, those of one pack together.
    pub(crate) fn by_pack(&self) -> Vec<(File, Vec<Place>)> {
        let mut packs: Vec<_> = self
            .packs
            .iter()
            .map(|name| (File::new(Kind::Pack, *name), Vec::new()))
            .collect();
        for place in self.data.iter().chain(&self.trees) {
            if let Some((_, places)) = packs.get_mut(place.pack as usize) {
                places.push(*place);
            }
        }
        // A pack may be in several index files, after a prune that was killed.
        packs.sort();
        packs.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1.append(&mut next.1);
            }
            same
        });
        packs
    }
}

/// An index file's content, if there still is one.
fn read(store: &Arc<dyn Store>, key: &Key, file: File) -> Result<Option<IndexFile>, Error> {
    let damaged = |fault| Error::Damaged { file, fault };
    let sealed = match store.read(file, most(file.kind)) {
        Ok(sealed) => sealed,
        Err(StoreError::Absent(_)) => return Ok(None),
        Err(e) => return Err(Error::of_store(&store.place(), e)),
    };
    if seal::name_of(&sealed) != file.name {
        return Err(damaged(Fault::Altered));
    }
    let json = seal::open_file(key, &sealed).map_err(damaged)?;
    let content = serde_json::from_slice(&json);
    content.map(Some).map_err(|_| damaged(Fault::Malformed))
}
