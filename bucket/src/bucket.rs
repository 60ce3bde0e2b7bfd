//! One bucket, below its prefix: files are put whole, read, listed and removed.
//!
//! A file appears when all of it has arrived, under its key, in one request: what is cut off leaves nothing.
//! Not here: which files (store, the coordinator).

use std::{fmt, io, sync::Arc, time::SystemTime};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use opendal::{
    Operator,
    layers::{RetryLayer, TimeoutLayer},
    services::S3,
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::{
    access::{Access, Patience},
    error::BucketError,
};

/// Files below one prefix: a repository has as many of a kind at most.
const FILES: usize = 1_000_000;
/// Read at once of a file that goes to a disk.
const PIECE: u64 = 8 << 20;

/// A bucket that can be used. Cloning is cheap.
#[derive(Clone)]
pub struct Bucket {
    operator: Operator,
    runtime: Handle,
    place: Arc<str>,
    stop: CancellationToken,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)
    }
}

/// A file as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Below the prefix.
    pub key: String,
    pub bytes: u64,
    /// When it was put there, by the server's clock.
    pub put_at: Option<SystemTime>,
}

/// What becomes of a file that is removed, or put in place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removals {
    /// It is gone.
    Final,
    /// The bucket keeps versions: what was removed is hidden, and this key can remove it for good.
    Hidden,
    /// The bucket keeps versions and gives none of them up: by an object lock, or because this key may not.
    Kept,
    /// Nothing can be removed with this key.
    Refused,
}

impl Bucket {
    /// Prepares it; asks nobody. Whatever it does ends when it is stopped.
    ///
    /// # Errors
    /// The endpoint is no address.
    pub fn new(
        access: &Access,
        patience: Patience,
        runtime: Handle,
        stop: CancellationToken,
    ) -> Result<Self, BucketError> {
        opendal::install_default();
        let root = format!("/{}", access.prefix.trim_matches('/'));
        let s3 = S3::default()
            .endpoint(access.endpoint.trim_end_matches('/'))
            .bucket(&access.bucket)
            .region(&access.region)
            .root(&root)
            .access_key_id(&access.access_key)
            .secret_access_key(&access.secret_key)
            // A bucket with object lock at Amazon's takes nothing without a sum; this one all servers have known for ever.
            .checksum_algorithm("md5")
            // Nobody else's credentials, wherever they lie on this machine.
            .disable_config_load()
            .disable_ec2_metadata();
        let made = Operator::new(s3);
        let operator = made.map_err(|error| BucketError::of("", &error))?;
        let timeout = TimeoutLayer::new()
            .with_timeout(patience.short)
            .with_io_timeout(patience.long);
        let retry = RetryLayer::new()
            .with_min_delay(patience.pause)
            .with_max_delay(patience.pause * 4)
            .with_max_times(patience.retries)
            .with_jitter();
        Ok(Self {
            // Each attempt has its own time.
            operator: operator.layer(timeout).layer(retry),
            runtime,
            stop,
            place: access.place().into(),
        })
    }

    /// Where it is, for people. Without credentials.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Does something there, unless it is stopped.
    fn run<T>(
        &self,
        key: &str,
        work: impl Future<Output = opendal::Result<T>>,
    ) -> Result<T, BucketError> {
        self.runtime.block_on(async {
            tokio::select! {
                done = work => done.map_err(|e| BucketError::of(key, &e)),
                () = self.stop.cancelled() => Err(BucketError::Stopped),
            }
        })
    }

    /// Whether it is there and we may look into it.
    ///
    /// # Errors
    /// As [`BucketError`] says.
    pub fn check(&self) -> Result<(), BucketError> {
        self.run("", async {
            let mut lister = self.operator.lister_with("").limit(1).await?;
            lister.try_next().await.map(drop)
        })
    }

    /// Puts a file there that is nobody's, reads it back and removes it: what this key may do there, and what becomes of what is removed.
    ///
    /// # Errors
    /// As [`BucketError`] says: it cannot be put or read.
    pub fn try_out(&self, key: &str) -> Result<Removals, BucketError> {
        let content = Bytes::from_static(
            b"put here by `isy-coordinator bucket check`, to be removed at once\n",
        );
        self.put(key, content.clone())?;
        if self.get(key, 1 << 10)? != content {
            return Err(BucketError::Failed(format!(
                "{key} is not what was put there"
            )));
        }
        let data = self.run(key, self.operator.stat(key))?;
        // A server writes `null` where versions were switched off again.
        let version = data.version().filter(|version| *version != "null");
        match self.remove(key) {
            Err(BucketError::Denied(_)) => return Ok(Removals::Refused),
            removed => removed?,
        }
        let Some(version) = version else {
            return Ok(Removals::Final);
        };
        let remove = async { self.operator.delete_with(key).version(version).await };
        match self.run(key, remove) {
            Err(BucketError::Denied(_)) => Ok(Removals::Kept),
            removed => removed.map(|()| Removals::Hidden),
        }
    }

    /// Puts a file there, in place of one that is.
    ///
    /// # Errors
    /// As [`BucketError`] says; then what was there is.
    pub fn put(&self, key: &str, content: impl Into<opendal::Buffer>) -> Result<(), BucketError> {
        self.run(key, self.operator.write(key, content.into()))
            .map(drop)
    }

    /// A whole file of at most so many bytes.
    ///
    /// # Errors
    /// As [`BucketError`] says.
    pub fn get(&self, key: &str, most: u64) -> Result<Bytes, BucketError> {
        let bytes = self.size(key)?;
        if bytes > most {
            let key = key.to_owned();
            return Err(BucketError::TooLarge { key, bytes, most });
        }
        self.part(key, 0, bytes)
    }

    /// A part of a file: all of it, or an error.
    ///
    /// # Errors
    /// As [`BucketError`] says.
    pub fn part(&self, key: &str, offset: u64, length: u64) -> Result<Bytes, BucketError> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let range = offset..offset + length;
        let read = async { self.operator.read_with(key).range(range).await };
        let content = self.run(key, read)?.to_bytes();
        match content.len() as u64 == length {
            true => Ok(content),
            false => Err(BucketError::Failed(format!("{key} is shorter than it was"))),
        }
    }

    /// Writes a file's content somewhere, in pieces.
    ///
    /// # Errors
    /// As [`BucketError`] says, or the other side cannot be written to.
    pub fn fetch(&self, key: &str, to: &mut impl io::Write) -> io::Result<u64> {
        let size = self.size(key)?;
        let mut done = 0;
        while done < size {
            let piece = self.part(key, done, PIECE.min(size - done))?;
            to.write_all(&piece)?;
            done += piece.len() as u64;
        }
        Ok(done)
    }

    /// A file's size.
    ///
    /// # Errors
    /// As [`BucketError`] says.
    pub fn size(&self, key: &str) -> Result<u64, BucketError> {
        let data = self.run(key, self.operator.stat(key))?;
        Ok(data.content_length())
    }

    /// All files whose keys begin so (a folder, ending in `/`), also in folders within, in no order.
    ///
    /// # Errors
    /// As [`BucketError`] says. That there is none is no error.
    pub fn list(&self, folder: &str) -> Result<Vec<Object>, BucketError> {
        let found = self.run(folder, async {
            let mut lister = self.operator.lister_with(folder).recursive(true).await?;
            let mut found = Vec::new();
            while let Some(entry) = lister.try_next().await? {
                let data = entry.metadata();
                if data.is_file() {
                    let put_at = data.last_modified().map(SystemTime::from);
                    found.push(Object {
                        key: entry.path().to_owned(),
                        bytes: data.content_length(),
                        put_at,
                    });
                }
                if found.len() > FILES {
                    break;
                }
            }
            Ok(found)
        })?;
        match found.len() > FILES {
            true => Err(BucketError::TooMany { most: FILES }),
            false => Ok(found),
        }
    }

    /// Removes a file. That there is none is no error.
    ///
    /// # Errors
    /// As [`BucketError`] says.
    pub fn remove(&self, key: &str) -> Result<(), BucketError> {
        match self.run(key, self.operator.delete(key)) {
            Err(BucketError::Absent(_)) => Ok(()),
            other => other,
        }
    }
}
