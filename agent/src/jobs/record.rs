//! A job's record, one small file each: what was ordered, and how the last attempt ended. Written at those moments only;
//! how far a job is between them is found where it works.
//!
//! Not here: when (the parent).

use std::{collections::BTreeMap, io, path::Path};

use isyone_proto::{
    backup::{BackupMade, Fault, RepositoryKey},
    plan::{JobOrder, JobWork, MAX_JOBS_PER_HOST},
    proof::Proof,
    report::{JobReport, JobState},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::base::fsutil;

/// Format of the file; a record of another is none.
const VERSION: u32 = 1;
/// Longest reason kept: an error with its path fits, a runaway message does not.
const MAX_MESSAGE_BYTES: usize = 2_000;
/// Largest file that is read: a record is some hundred bytes and the message.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// How a job stands, as it is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// It has not ended; whether it is at work now is not written down.
    Waiting,
    /// The last attempt failed.
    Retrying,
    Done,
    /// It failed, and trying again would not help.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    pub(super) order: JobOrder,
    pub(super) stage: Stage,
    pub(super) bytes_done: u64,
    pub(super) bytes_total: u64,
    pub(super) message: String,
    /// The snapshot that it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) backup: Option<Box<BackupMade>>,
    /// For programs, why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fault: Option<Fault>,
    /// What it has found of a backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) proof: Option<Box<Proof>>,
    /// The copy that it keeps up was whole when the last attempt ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) filled: bool,
}

impl Record {
    pub(super) fn new(order: JobOrder) -> Self {
        Self {
            version: VERSION,
            order,
            stage: Stage::Waiting,
            bytes_done: 0,
            bytes_total: 0,
            message: String::new(),
            backup: None,
            fault: None,
            proof: None,
            filled: false,
        }
    }

    pub(super) fn is_final(&self) -> bool {
        matches!(self.stage, Stage::Done | Stage::Failed)
    }

    pub(super) fn report(&self) -> JobReport {
        JobReport {
            id: self.order.id,
            state: match self.stage {
                Stage::Waiting => JobState::Waiting,
                Stage::Retrying => JobState::Retrying,
                Stage::Done => JobState::Done,
                Stage::Failed => JobState::Failed,
            },
            bytes_done: self.bytes_done,
            bytes_total: self.bytes_total,
            message: self.message.clone(),
            backup: self.backup.clone(),
            fault: self.fault,
            pause_ms: None,
            behind: None,
            filled: self.filled,
            granted_ms: None,
            proof: self.proof.clone(),
        }
    }
}

pub(super) fn shortened(mut text: String) -> String {
    let mut end = text.len().min(MAX_MESSAGE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

fn file(id: Uuid) -> String {
    format!("{id}.json")
}

/// Reads all records. One that cannot be read is as none: its job is found again from what it has done.
pub(super) fn load(directory: &Path) -> io::Result<BTreeMap<Uuid, Record>> {
    let mut records = BTreeMap::new();
    // Twice as many as a plan has: those of the one before may not have been removed yet.
    let found = fsutil::list(directory)?.into_iter();
    for entry in found.take(2 * MAX_JOBS_PER_HOST) {
        let bytes = match fsutil::read_small(&entry.path, MAX_FILE_BYTES) {
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Vec::new(),
            bytes => bytes?,
        };
        match serde_json::from_slice::<Record>(&bytes) {
            Ok(record)
                if record.version == VERSION
                    && entry.name.to_str() == Some(&file(record.order.id)) =>
            {
                records.insert(record.order.id, record);
            }
            _ => {
                let path = entry.path;
                tracing::warn!("{} is no record of a job; it is removed", path.display());
                fsutil::remove_file(&path)?;
            }
        }
    }
    Ok(records)
}

/// What stands in a record for a repository's key: a key in its form, and nobody's.
const NO_KEY: [u8; 64] = [0; 64];

/// As it is written down: without the key of a repository. No job goes on from a record alone; the plan orders it again, with the key.
fn without_key(record: &Record) -> Record {
    let mut record = record.clone();
    // All kinds are named: whoever adds one decides whether it has a key.
    let restore = match &mut record.order.work {
        JobWork::Restore(order) => order,
        JobWork::Verify(verify) => &mut verify.restore,
        JobWork::Fetch { .. } | JobWork::Follow { .. } | JobWork::Backup(_) => return record,
    };
    restore.key = RepositoryKey::from(&NO_KEY);
    record
}

/// Writes a record so that a power loss does not bring an older one back.
pub(super) fn save(directory: &Path, record: &Record) -> io::Result<()> {
    // Plain structs: serialising cannot fail.
    let bytes = serde_json::to_vec(&without_key(record)).unwrap_or_default();
    fsutil::write_atomic(&directory.join(file(record.order.id)), &bytes, 0o600, true)
}

/// Removes a record, if there is one.
pub(super) fn remove(directory: &Path, id: Uuid) -> io::Result<()> {
    match fsutil::remove_file(&directory.join(file(id))) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use isyone_proto::{
        backup::{Destination, Place, RestoreOrder, RestoreTo, SnapshotName},
        proof::VerifyOrder,
    };

    use super::*;

    #[test]
    fn the_key_of_a_repository_is_in_no_record() {
        let folder = tempfile::tempdir().unwrap();
        let restore = RestoreOrder {
            source: Uuid::from_u128(1),
            key: RepositoryKey::from(&[0xab; 64]),
            destination: Destination {
                name: "main".parse().unwrap(),
                at: Place::Coordinator,
                required: true,
                rate_bytes_per_s: 0,
            },
            base: SnapshotName([1; 32]),
            to: RestoreTo::Latest,
            rekey: true,
            neutralise: true,
        };
        let verify = VerifyOrder {
            restore: restore.clone(),
            postgres_image: "postgres:15".parse().unwrap(),
            memory_bytes: 1 << 30,
            disk_bytes: 1 << 30,
        };
        let works = [
            JobWork::Restore(Box::new(restore)),
            JobWork::Verify(Box::new(verify)),
        ];
        for work in works {
            let record = Record::new(JobOrder {
                id: Uuid::from_u128(2),
                operation: Uuid::from_u128(2),
                tenant: "beta".parse().unwrap(),
                uid: Uuid::from_u128(3),
                work,
                rate_bytes_per_s: 0,
            });
            save(folder.path(), &record).unwrap();
            let path = folder.path().join(file(record.order.id));
            let text = std::fs::read_to_string(path).unwrap();
            assert!(!text.contains("abab"), "{text}");
            let known = load(folder.path()).unwrap();
            assert_eq!(known[&record.order.id], without_key(&record));
        }
    }
}
