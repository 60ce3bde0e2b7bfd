//! One repository in a bucket, as restic lays it out.
//!
//! Not here: the bucket itself.

use bytes::Bytes;
use isyone_backup::store::{File, Kind, Name, Store, StoreError};
use opendal::Buffer;

use crate::{bucket::Bucket, error::BucketError};

/// A repository below a folder of a bucket.
#[derive(Debug, Clone)]
pub struct InBucket {
    bucket: Bucket,
    folder: String,
}

impl InBucket {
    #[must_use]
    pub fn new(bucket: Bucket, folder: &str) -> Self {
        let folder = format!("{}/", folder.trim_matches('/'));
        Self { bucket, folder }
    }

    /// What the keys of its files begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.folder
    }

    fn key(&self, file: File) -> String {
        format!("{}{}", self.folder, file.path())
    }

    /// Removes all of it; `config` first, so that half of it is no repository. Returns how many files there were.
    ///
    /// # Errors
    /// As [`BucketError`] says.
    pub fn remove_all(&self) -> Result<usize, BucketError> {
        self.bucket.remove(&self.key(File::config()))?;
        let all = self.bucket.list(&self.folder)?;
        all.iter()
            .try_for_each(|object| self.bucket.remove(&object.key))?;
        Ok(all.len())
    }
}

impl Store for InBucket {
    fn place(&self) -> String {
        format!(
            "{}/{}",
            self.bucket.place(),
            self.folder.trim_end_matches('/')
        )
    }

    fn create(&self) -> Result<(), StoreError> {
        let checked = self.bucket.check();
        checked.map_err(|e| e.of_file(File::config()))
    }

    fn list(&self, kind: Kind) -> Result<Vec<(Name, u64)>, StoreError> {
        if kind == Kind::Config {
            let config = File::config();
            return match self.bucket.size(&self.key(config)) {
                Ok(bytes) => Ok(vec![(config.name, bytes)]),
                Err(BucketError::Absent(_)) => Ok(Vec::new()),
                Err(error) => Err(error.of_file(config)),
            };
        }
        let of_kind = File::new(kind, Name::default());
        let folder = format!("{}{}/", self.folder, kind.folder());
        let listed = self.bucket.list(&folder);
        let listed = listed.map_err(|e| e.of_file(of_kind))?;
        // Only what lies where we would put it.
        let ours = |key: &str, name: Name| key == self.key(File::new(kind, name));
        let named = listed.iter().filter_map(|object| {
            let name = object.key.rsplit('/').next()?.parse().ok()?;
            ours(&object.key, name).then_some((name, object.bytes))
        });
        Ok(named.collect())
    }

    fn read(&self, file: File, most: u64) -> Result<Bytes, StoreError> {
        let read = self.bucket.get(&self.key(file), most);
        read.map_err(|e| e.of_file(file))
    }

    fn read_part(&self, file: File, offset: u64, length: u32) -> Result<Bytes, StoreError> {
        let read = self.bucket.part(&self.key(file), offset, length.into());
        read.map_err(|e| e.of_file(file))
    }

    fn write(&self, file: File, content: &[Bytes]) -> Result<(), StoreError> {
        let content: Buffer = content.iter().cloned().collect();
        let put = self.bucket.put(&self.key(file), content);
        put.map_err(|e| e.of_file(file))
    }

    fn remove(&self, file: File) -> Result<(), StoreError> {
        let removed = self.bucket.remove(&self.key(file));
        removed.map_err(|e| e.of_file(file))
    }
}
