//! What is known of a tenant's chains, one small file for each destination: `backups/<uid>/<destination>.json`. Written after what it
//! says has become true, so a crash in between costs that something is made again.
//!
//! Not here: what follows from it (chain).

use std::{io, path::PathBuf};

use isyone_proto::ids::ShortName;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::chain::{Chain, SegmentSize};
use crate::base::{config::DataDir, fsutil};

/// Format of the file; one of another is none.
const VERSION: u32 = 1;
/// A record is a kilobyte.
const MOST_BYTES: u64 = 64 << 10;

#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    #[serde(default)]
    size: Option<SegmentSize>,
    chain: Chain,
}

/// Where the records of one tenant are.
#[derive(Debug, Clone)]
pub struct Records {
    directory: PathBuf,
}

impl Records {
    pub fn of(data: &DataDir, tenant: Uuid) -> Self {
        Self {
            directory: data.backups().join(tenant.to_string()),
        }
    }

    fn file(&self, destination: &ShortName) -> PathBuf {
        self.directory.join(format!("{destination}.json"))
    }

    /// Where copies of a repository's small files are kept.
    pub fn cache(&self, destination: &ShortName) -> PathBuf {
        self.directory.join(format!("{destination}.cache"))
    }

    /// What is known of a chain, and its segments' size. Nothing when there is no record, or none that can be read: then nothing is
    /// known, and the next base begins anew. Blocking.
    pub fn load(&self, destination: &ShortName) -> io::Result<(Chain, Option<SegmentSize>)> {
        let path = self.file(destination);
        let bytes = match fsutil::read_small(&path, MOST_BYTES) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Vec::new(),
            bytes => bytes?,
        };
        match serde_json::from_slice::<Written>(&bytes) {
            Ok(written) if written.version == VERSION => Ok((written.chain, written.size)),
            _ => {
                tracing::warn!("{} is no record of backups; it is not used", path.display());
                Ok(Default::default())
            }
        }
    }

    /// Writes it so that a power loss does not bring an older one back. Blocking.
    pub fn save(
        &self,
        destination: &ShortName,
        chain: &Chain,
        size: Option<SegmentSize>,
    ) -> io::Result<()> {
        if let Some(all) = self.directory.parent() {
            fsutil::private_dir(all)?;
        }
        fsutil::private_dir(&self.directory)?;
        let written = Written {
            version: VERSION,
            size,
            chain: chain.clone(),
        };
        // Plain structs: serialising cannot fail.
        let bytes = serde_json::to_vec(&written).unwrap_or_default();
        fsutil::write_atomic(&self.file(destination), &bytes, 0o600, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back_and_what_is_none_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path());
        let records = Records::of(&data, Uuid::from_u128(7));
        let own: ShortName = "own".parse().unwrap();
        assert_eq!(records.load(&own).unwrap(), (Chain::default(), None));
        let chain = Chain {
            shipped_to: Some(5),
            ..Chain::default()
        };
        let size = SegmentSize::try_from(1 << 20).ok();
        records.save(&own, &chain, size).unwrap();
        assert_eq!(records.load(&own).unwrap(), (chain, size));
        std::fs::write(records.file(&own), "{").unwrap();
        assert_eq!(records.load(&own).unwrap(), (Chain::default(), None));
    }
}
