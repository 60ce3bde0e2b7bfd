//! Backups as a host is ordered to make them and as it reports them: the checked forms of what `isyone.agent.v1` says of them.
//!
//! Times are milliseconds since the Unix epoch, UTC.
//! Not here: when one is made and how long it is kept (isyone-fleet), making one (the agent), what lies in a repository
//! (isyone-backup).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::ShortName;

/// Most destinations of one tenant.
pub const MAX_DESTINATIONS: usize = 4;
/// Most labels of one backup.
pub const MAX_LABELS: usize = 8;
/// Longest text about what is wrong with a backup, bytes: a sentence of ours, never what a program of the tenant's said.
pub const MAX_TROUBLE_BYTES: usize = 500;
/// As often as changes are shipped, seconds: opening a repository and its round trips take some of them.
pub const LEAST_SHIP_S: u32 = 10;
/// As seldom as changes are shipped, seconds.
pub const MOST_SHIP_S: u32 = 86_400;

/// Not what it should be; `Display` says what that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A repository's key.
    #[error("must be 128 hexadecimal digits in lower case")]
    Key,
    /// The name of a snapshot.
    #[error("must be 64 hexadecimal digits in lower case")]
    Snapshot,
    /// The name of a segment of the write-ahead log.
    #[error("must be 24 hexadecimal digits in upper case")]
    Segment,
}

fn is_hex(text: &str, digits: usize, letters: std::ops::RangeInclusive<u8>) -> bool {
    text.len() == digits && { text.bytes() }.all(|b| b.is_ascii_digit() || letters.contains(&b))
}

/// The key of a tenant's repositories, 64 bytes in hexadecimal digits. Whoever has it reads and writes the tenant's backups.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryKey(String);

impl RepositoryKey {
    /// The digits: for a repository and the wire, never for a log or an argument list.
    pub fn expose(&self) -> &str {
        &self.0
    }
    /// The key itself.
    pub fn bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        // It was checked when it was made.
        let _ = hex::decode_to_slice(&self.0, &mut bytes);
        bytes
    }
}

impl From<&[u8; 64]> for RepositoryKey {
    fn from(bytes: &[u8; 64]) -> Self {
        Self(hex::encode(bytes))
    }
}

impl TryFrom<String> for RepositoryKey {
    type Error = Malformed;
    /// The error does not repeat what it was given.
    fn try_from(digits: String) -> Result<Self, Malformed> {
        let is_key = is_hex(&digits, 128, b'a'..=b'f');
        is_key.then_some(Self(digits)).ok_or(Malformed::Key)
    }
}

impl From<RepositoryKey> for String {
    fn from(key: RepositoryKey) -> Self {
        key.0
    }
}

impl fmt::Debug for RepositoryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// The name of a snapshot in its repository.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotName(pub [u8; 32]);

impl FromStr for SnapshotName {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut name = [0; 32];
        if !is_hex(text, 64, b'a'..=b'f') || hex::decode_to_slice(text, &mut name).is_err() {
            return Err(Malformed::Snapshot);
        }
        Ok(Self(name))
    }
}

impl TryFrom<String> for SnapshotName {
    type Error = Malformed;
    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<SnapshotName> for String {
    fn from(name: SnapshotName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl fmt::Debug for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..4]))
    }
}

/// A segment of a write-ahead log, by PostgreSQL's name for it: within a timeline, names sort as the log does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Segment {
    /// Which history of the database it is of.
    pub timeline: u32,
    /// The upper half of its position, in units of 4 GiB.
    pub log: u32,
    /// Which segment of these 4 GiB.
    pub number: u32,
}

impl FromStr for Segment {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        if !is_hex(text, 24, b'A'..=b'F') {
            return Err(Malformed::Segment);
        }
        let part = |from: usize| {
            u32::from_str_radix(&text[from..from + 8], 16).map_err(|_| Malformed::Segment)
        };
        Ok(Self {
            timeline: part(0)?,
            log: part(8)?,
            number: part(16)?,
        })
    }
}

impl TryFrom<String> for Segment {
    type Error = Malformed;
    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<Segment> for String {
    fn from(segment: Segment) -> Self {
        segment.to_string()
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            timeline,
            log,
            number,
        } = self;
        f.pad(&format!("{timeline:08X}{log:08X}{number:08X}"))
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A tenant's backups, as its host is ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupPlan {
    /// Of its repositories, at all destinations.
    pub key: RepositoryKey,
    /// At most [`MAX_DESTINATIONS`], sorted by name, each once. Each gets everything.
    pub destinations: Vec<Destination>,
    /// So often finished segments of the log and new files are shipped, seconds; 0: only as jobs order.
    pub ship_s: u32,
}

/// Where a tenant's backups go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// The operators' name for it.
    pub name: ShortName,
    /// How it is reached.
    pub at: Place,
    /// A segment of the log stays in the spool until it is there.
    pub required: bool,
    /// Most bytes per second that go there; 0: the host's own limit.
    pub rate_bytes_per_s: u64,
}

/// How a destination is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Through the coordinator's service `BackupStore`. The tenant's uid is the repository.
    Coordinator,
}

/// What a job makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupWork {
    /// The database's files while it runs, as a base for the log that follows; and the filestore.
    Base,
    /// A portable dump, and the filestore.
    Dump,
    /// What was written until now: the segment under way is finished first.
    Ship,
    /// All files of a tenant that does not run.
    Stopped,
}

/// Why a backup is made, and so how long it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupPurpose {
    /// Its turn has come.
    Scheduled,
    /// An operator asked for it.
    OnOrder,
    /// The tenant has stopped.
    OnStop,
    /// The tenant is being deleted.
    BeforeDelete,
    /// The tenant is being upgraded.
    BeforeUpgrade,
    /// Another host is to take over.
    BeforeFailover,
}

/// One backup for one destination: what a job is ordered to make. The job's id is the backup's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MakeBackup {
    /// Of what: the running database, a dump, what is new, or a stopped tenant's files.
    pub work: BackupWork,
    /// Decides how long it is kept.
    pub purpose: BackupPurpose,
    /// One of [`BackupPlan::destinations`].
    pub destination: ShortName,
    /// An operator's own words for it, kept with the snapshot. At most [`MAX_LABELS`].
    pub labels: Vec<ShortName>,
}

/// Up to where a tenant is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreTo {
    /// As it was when the backup ended: of the log, only what the backup cannot do without.
    Backup,
    /// Everything that was committed before this moment and nothing after it, milliseconds.
    Time(i64),
    /// Everything that was ever shipped after the backup.
    Latest,
}

/// What a job is to bring back into the volumes of a tenant that does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreOrder {
    /// Uid of the tenant that was backed up: its repository.
    pub source: Uuid,
    /// Of that repository.
    pub key: RepositoryKey,
    /// Where it is.
    pub destination: Destination,
    /// The backup to begin with, by its snapshot.
    pub base: SnapshotName,
    /// Up to where.
    pub to: RestoreTo,
    /// What comes is another tenant's: it gets this tenant's name, keys and address before it is used.
    pub rekey: bool,
    /// Nothing of it may reach anybody: it is neutralised before it is used.
    pub neutralise: bool,
}

/// A snapshot that is whole and at its destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupMade {
    /// Its name in the repository.
    pub snapshot: SnapshotName,
    /// What it is.
    pub work: BackupWork,
    /// The moment that it stands for.
    pub at: i64,
    /// When it was there.
    pub ended_at: i64,
    /// Bytes read from the tenant.
    pub read_bytes: u64,
    /// Bytes written to the destination.
    pub stored_bytes: u64,
    /// Files in it that were read.
    pub files: u64,
    /// What lay there and is no file or folder, or vanished meanwhile.
    pub left_out: u64,
    /// The segments in it; of a base, those that it needs.
    pub segments: Option<Segments>,
    /// What its manifest counts.
    pub counts: Counts,
}

/// A range of segments of one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segments {
    /// The first.
    pub first: Segment,
    /// The last.
    pub last: Segment,
}

/// What was in the database when a backup was made; 0 where it was not asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Bytes of the database, as PostgreSQL says.
    pub database_bytes: u64,
    /// Tables and indexes.
    pub relations: u64,
    /// Attachments with a file.
    pub attachments: u64,
}

/// Why a backup or a shipment fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The destination does not answer.
    Unreachable,
    /// The destination has no room.
    Full,
    /// The destination refuses.
    Denied,
    /// The repository was made with another key.
    WrongKey,
    /// Something in the repository is not as it was written.
    Damaged,
    /// The tenant's data could not be read, or PostgreSQL failed.
    Source,
    /// The tenant's state does not allow it now.
    NotNow,
    /// Anything else.
    Other,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// For programs.
    pub fault: Fault,
    /// For people, at most [`MAX_TROUBLE_BYTES`].
    pub message: String,
    /// Since when it has failed again and again.
    pub since: i64,
    /// How often, since then.
    pub failures: u32,
}

/// A tenant's backups, as its host sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupReport {
    /// What waits in its spool.
    pub spool_bytes: u64,
    /// Segments that wait there.
    pub spool_segments: u32,
    /// When the oldest of them was finished.
    pub spool_since: Option<i64>,
    /// Segments that were let go because there was no room.
    pub gap: Option<Segments>,
    /// What keeps PostgreSQL from putting segments there; empty when nothing does.
    pub archiver: String,
    /// By destination, sorted by name.
    pub destinations: Vec<DestinationReport>,
}

/// A tenant's backups at one destination, as its host knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationReport {
    /// As in the tenant's plan.
    pub name: ShortName,
    /// When the newest base that is whole was made; of a tenant that was stopped then, too.
    pub base_at: Option<i64>,
    /// The last segment after that base that is there, and all before it are.
    pub shipped: Option<Segment>,
    /// The position in the log up to which it is there.
    pub shipped_lsn: u64,
    /// Everything that was committed before this time is there.
    pub shipped_to: Option<i64>,
    /// Since when something is missing in the log after the newest base.
    pub gap_since: Option<i64>,
    /// Why the last attempt failed; `None` when it did not.
    pub trouble: Option<Trouble>,
    /// The newest snapshot.
    pub newest: Option<BackupMade>,
    /// Snapshots made and bytes stored since the agent started.
    pub snapshots: u64,
    /// Bytes stored since the agent started.
    pub stored_bytes: u64,
}

/// The repository of a tenant at a destination of the coordinator's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryRef {
    /// The destination.
    pub destination: ShortName,
    /// The tenant's uid.
    pub tenant: Uuid,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_checked_and_neither_shown_nor_repeated() {
        let key = RepositoryKey::from(&[0xab; 64]);
        assert_eq!(key.bytes(), [0xab; 64]);
        assert_eq!(
            RepositoryKey::try_from(key.expose().to_owned()),
            Ok(key.clone())
        );
        assert_eq!(format!("{key:?}"), "[secret]");
        for odd in [
            "",
            "ab",
            &"AB".repeat(64),
            &"zz".repeat(64),
            &"ab".repeat(65),
        ] {
            assert_eq!(
                RepositoryKey::try_from((*odd).to_owned()),
                Err(Malformed::Key)
            );
        }
        let read: Result<RepositoryKey, _> = serde_json::from_str("\"hunter2\"");
        assert!(!read.unwrap_err().to_string().contains("hunter2"));
    }

    #[test]
    fn segments_are_named_and_sorted_as_postgresql_does() {
        let name = "0000000200000001000000FE";
        let segment: Segment = name.parse().unwrap();
        assert_eq!(
            (segment.timeline, segment.log, segment.number),
            (2, 1, 0xfe)
        );
        assert_eq!(segment.to_string(), name);
        assert!(segment < "000000020000000100000100".parse().unwrap());
        for odd in [
            "",
            "0000000200000001000000fe",
            "00000002.history",
            "0000000200000001000000FE.partial",
            "../../../../../../etc/xx",
        ] {
            assert_eq!(odd.parse::<Segment>(), Err(Malformed::Segment), "{odd}");
        }
    }

    #[test]
    fn names_of_snapshots_are_read_as_they_are_written() {
        let name = SnapshotName([0x0f; 32]);
        assert_eq!(name.to_string().parse(), Ok(name));
        assert_eq!(
            "0F".repeat(32).parse::<SnapshotName>(),
            Err(Malformed::Snapshot)
        );
    }
}
