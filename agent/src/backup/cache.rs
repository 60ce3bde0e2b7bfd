//! Copies of a repository's small files: each backup reads the whole index, which is hundreds of files that never change, and a destination
//! may be far away. What is read is compared with its name, so a copy is as good as what it is of.
//!
//! Blocking. Not here: packs, and snapshots, which nobody reads to write.

use std::path::PathBuf;

use bytes::Bytes;
use isyone_backup::{
    Store,
    store::{File, Kind, Name, StoreError},
};
use sha2::{Digest as _, Sha256};

use crate::base::fsutil;

/// Largest index file that is kept: one has some 500 bytes as a shipment makes it, and 5 MB with 50,000 blobs.
const MOST_BYTES: u64 = 8 << 20;

/// A store whose index files are kept in a directory of our own.
#[derive(Debug)]
pub(super) struct Cached<S> {
    inner: S,
    directory: PathBuf,
}

impl<S: Store> Cached<S> {
    pub(super) fn new(inner: S, directory: PathBuf) -> Self {
        Self { inner, directory }
    }

    fn path(&self, name: Name) -> PathBuf {
        self.directory.join(name.to_string())
    }

    fn kept(&self, name: Name) -> Option<Bytes> {
        let content = fsutil::read_small(&self.path(name), MOST_BYTES).ok()?;
        is_of(name, &content).then(|| content.into())
    }

    /// Keeps a copy; without one everything works, slower.
    fn keep(&self, name: Name, content: &[u8]) {
        if content.len() as u64 > MOST_BYTES || !is_of(name, content) {
            return;
        }
        let kept = fsutil::private_dir(&self.directory)
            .and_then(|()| fsutil::write_atomic(&self.path(name), content, 0o600, false));
        if let Err(e) = kept {
            tracing::debug!("an index file of a repository is not kept: {}", e.kind());
        }
    }

    /// Forgets copies of what is not there any more.
    fn forget_all_but(&self, listed: &[(Name, u64)]) {
        let there: std::collections::HashSet<Name> = listed.iter().map(|(name, _)| *name).collect();
        for kept in fsutil::list(&self.directory).unwrap_or_default() {
            let name = kept.name.to_str().and_then(|name| name.parse().ok());
            if name.is_none_or(|name: Name| !there.contains(&name)) {
                let _ = fsutil::remove_file(&kept.path); // tried again next time
            }
        }
    }
}

fn is_of(name: Name, content: &[u8]) -> bool {
    name.0 == <[u8; 32]>::from(Sha256::digest(content))
}

impl<S: Store> Store for Cached<S> {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn create(&self) -> Result<(), StoreError> {
        self.inner.create()
    }

    fn list(&self, kind: Kind) -> Result<Vec<(Name, u64)>, StoreError> {
        let listed = self.inner.list(kind)?;
        if kind == Kind::Index {
            self.forget_all_but(&listed);
        }
        Ok(listed)
    }

    fn read(&self, file: File, most: u64) -> Result<Bytes, StoreError> {
        if file.kind != Kind::Index {
            return self.inner.read(file, most);
        }
        if let Some(kept) = self
            .kept(file.name)
            .filter(|kept| kept.len() as u64 <= most)
        {
            return Ok(kept);
        }
        let content = self.inner.read(file, most)?;
        self.keep(file.name, &content);
        Ok(content)
    }

    fn read_part(&self, file: File, offset: u64, length: u32) -> Result<Bytes, StoreError> {
        self.inner.read_part(file, offset, length)
    }

    fn write(&self, file: File, content: &[Bytes]) -> Result<(), StoreError> {
        self.inner.write(file, content)?;
        if file.kind == Kind::Index {
            self.keep(file.name, &content.concat());
        }
        Ok(())
    }

    fn remove(&self, file: File) -> Result<(), StoreError> {
        self.inner.remove(file)
    }
}

#[cfg(test)]
mod tests {
    use isyone_backup::store::Local;

    use super::*;

    #[test]
    fn index_files_are_read_once_and_a_spoilt_copy_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let local = Local::new(dir.path().join("repository"));
        let cache = dir.path().join("cache");
        let store = Cached::new(local.clone(), cache.clone());
        store.create().unwrap();
        let content = Bytes::from_static(b"an index");
        let name = Name(Sha256::digest(&content).into());
        let file = File::new(Kind::Index, name);
        local.write(file, std::slice::from_ref(&content)).unwrap();
        assert_eq!(store.read(file, 99).unwrap(), content);
        let copy = cache.join(name.to_string());
        assert!(copy.exists());
        std::fs::write(&copy, "spoilt").unwrap();
        assert_eq!(store.read(file, 99).unwrap(), content);
        local.remove(file).unwrap();
        assert_eq!(
            store.read(file, 99).unwrap(),
            content,
            "as long as nobody lists"
        );
        assert_eq!(store.list(Kind::Index).unwrap(), []);
        assert!(!copy.exists() && store.read(file, 99).is_err());
    }
}
