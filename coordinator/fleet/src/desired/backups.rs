//! Tenants' backups, as stored: the key of each repository, in a record of its own so that keys can be shipped apart from
//! everything else and be gone from all copies; and what was made, so that a host that is lost, or a coordinator that has just
//! started, does not hide what a tenant can be restored to.
//!
//! Both are found by the tenant's uid: they outlive the tenant, and another tenant of the same name has its own.
//! Not here: what is due (backups), what is told by hosts since the last record (observed), the repositories themselves.

use std::collections::BTreeMap;

use isyone_types::{
    backup::{BackupPurpose, BackupWork, MakeBackup, RestoreTo, SnapshotName},
    ids::{HostName, ShortName, TenantName},
    plan::UnixMs,
    proof::Proof,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Sealed;
use crate::backups::Repository;

/// Snapshots of one tenant at one destination that are remembered by name. The standard policy keeps 26 states of each kind; the
/// oldest are forgotten here first, and stay in the repository.
pub const MAX_SNAPSHOTS: usize = 200;
/// Of those, such as a host said without an order that it answers: a word is lost seldom.
pub const MAX_ONLY_SAID: usize = 20;

/// The random key of a tenant's repositories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupKey {
    /// The tenant's uid.
    pub tenant: Uuid,
    /// What the tenant was called when the key was made, for people.
    pub name: TenantName,
    pub key: Sealed,
    pub made_at: UnixMs,
    /// Set once nothing of the tenant is left on any host: then the key is deleted, and what its repositories hold is noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_at: Option<UnixMs>,
}

impl BackupKey {
    /// What a key is sealed for: it does not open for another tenant.
    pub fn sealed_for(tenant: Uuid) -> String {
        format!("backup/{tenant}")
    }
}

/// A snapshot from which a tenant can be restored. Increments are not listed: there is one each few minutes, and their repository
/// knows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMade {
    pub name: SnapshotName,
    pub work: BackupWork,
    pub purpose: BackupPurpose,
    /// The moment that it stands for.
    pub at: UnixMs,
    /// When it was there.
    pub ended_at: UnixMs,
    /// Bytes of the tenant that were read.
    pub read_bytes: u64,
    /// Bytes that its repository grew by.
    pub stored_bytes: u64,
    /// An operator's words for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<ShortName>,
    /// Its host says that it is there, and no order was known that it answers: pruning trusts no such word.
    #[serde(default, skip_serializing_if = "is_false")]
    pub only_said: bool,
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// What a proof has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// The host that has looked.
    pub host: HostName,
    /// When it was ordered, by our own clock.
    pub begun_at: UnixMs,
    /// The moment of the backup that was ordered to be proven, as it was known here. Records of before have none: 0.
    #[serde(default)]
    pub base_at: UnixMs,
    pub found: Proof,
}

/// The proofs of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proofs {
    /// When there was first something to prove and a host that can: a repository of before there were proofs, or at a destination that
    /// was added later, is not late on its first day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<UnixMs>,
    /// The last one that was carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Box<Proven>>,
    /// When one was last over that found the backup restorable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good_at: Option<UnixMs>,
    /// Proofs that could not be carried out since one was, and the last of them.
    #[serde(default, skip_serializing_if = "isyone_types::plan::is_default")]
    pub failures: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<UnixMs>,
    /// Why; for people.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub failure: Box<str>,
}

impl Proofs {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What there is of a tenant at one destination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    pub repository: Repository,
    /// The newest portable copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump_at: Option<UnixMs>,
    /// Orders that failed since one succeeded, and the last of them.
    #[serde(default, skip_serializing_if = "isyone_types::plan::is_default")]
    pub failures: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<UnixMs>,
    /// Why; for people.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub failure: Box<str>,
    /// Oldest first, at most [`MAX_SNAPSHOTS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<SnapshotMade>,
    /// When snapshots were last forgotten and contents pruned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruned_at: Option<UnixMs>,
    #[serde(default, skip_serializing_if = "Proofs::is_none")]
    pub proofs: Proofs,
    /// When this record was last written: what is only a little newer waits.
    #[serde(default)]
    pub written_at: UnixMs,
}

impl Made {
    /// Remembers a snapshot, in the order of the moments they stand for; the oldest give way, but for what was ordered none to what was
    /// only said. One that is known is left as it is, unless it was only said so far.
    pub fn remember(&mut self, snapshot: SnapshotMade) {
        let known = self.snapshots.iter().position(|s| s.name == snapshot.name);
        match known {
            Some(place) if self.snapshots[place].only_said && !snapshot.only_said => {
                self.snapshots.remove(place);
            }
            Some(_) => return,
            None => {}
        }
        let place = self
            .snapshots
            .partition_point(|known| known.at <= snapshot.at);
        self.snapshots.insert(place, snapshot);
        let said = self.snapshots.iter().filter(|s| s.only_said).count();
        if said > MAX_ONLY_SAID || self.snapshots.len() > MAX_SNAPSHOTS {
            let oldest_said = self.snapshots.iter().position(|s| s.only_said);
            self.snapshots.remove(oldest_said.unwrap_or(0));
        }
    }
}

/// What a host was ordered to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupOrder {
    pub id: Uuid,
    /// It is carried out there; when the tenant lives elsewhere it is over.
    pub host: HostName,
    pub make: MakeBackup,
    pub since: UnixMs,
}

/// What a host was ordered to prove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofOrder {
    pub id: Uuid,
    /// It is carried out there, wherever the tenant lives.
    pub host: HostName,
    pub destination: ShortName,
    /// The backup to begin with, and how far the log is followed.
    pub base: SnapshotName,
    #[serde(default)]
    pub base_at: UnixMs,
    pub to: RestoreTo,
    pub since: UnixMs,
}

/// A backup or a proof that an operator asked for, until there is one everywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub at: UnixMs,
    /// Who asked.
    pub by: String,
    /// Kept with the snapshots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<ShortName>,
    /// Destinations where it has not been made yet.
    pub left: Vec<ShortName>,
}

/// A tenant's backups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantBackups {
    /// The tenant's uid.
    pub tenant: Uuid,
    /// What it is called, or was.
    pub name: TenantName,
    /// By destination.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub made: BTreeMap<ShortName, Made>,
    /// At most one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<BackupOrder>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// A proof under way: at most one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proving: Option<ProofOrder>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof_asked: Option<Asked>,
    /// When its key was deleted. What is left of its repositories is noise, and is removed; then this record goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shredded_at: Option<UnixMs>,
}

impl TenantBackups {
    pub fn new(tenant: Uuid, name: TenantName) -> Self {
        Self {
            tenant,
            name,
            made: BTreeMap::new(),
            order: None,
            asked: None,
            proving: None,
            proof_asked: None,
            shredded_at: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(number: u8, at: UnixMs) -> SnapshotMade {
        SnapshotMade {
            name: SnapshotName([number; 32]),
            work: BackupWork::Base,
            purpose: BackupPurpose::Scheduled,
            at,
            ended_at: at,
            read_bytes: 1,
            stored_bytes: 1,
            labels: Vec::new(),
            only_said: false,
        }
    }

    #[test]
    fn what_was_only_said_pushes_out_nothing_that_was_ordered() {
        let mut made = Made::default();
        for number in 0..10 {
            made.remember(snapshot(number, i64::from(number)));
        }
        let said = |number: u8| SnapshotMade {
            only_said: true,
            ..snapshot(number, 1_000 + i64::from(number))
        };
        for number in 10..=u8::MAX {
            made.remember(said(number));
        }
        assert_eq!(made.snapshots.len(), 10 + MAX_ONLY_SAID);
        assert!(made.snapshots[..10].iter().all(|s| !s.only_said));
        // The order's own answer comes after all.
        made.remember(snapshot(250, 1_250));
        made.remember(said(250));
        let known: Vec<_> = made.snapshots.iter().filter(|s| s.at == 1_250).collect();
        assert!(known.len() == 1 && !known[0].only_said);
        for number in 11..=240 {
            made.remember(snapshot(number, i64::from(number)));
        }
        assert_eq!(made.snapshots.len(), MAX_SNAPSHOTS);
        assert!(made.snapshots.iter().all(|s| !s.only_said));
    }

    #[test]
    fn snapshots_are_kept_in_order_each_once_and_bounded() {
        let mut made = Made::default();
        for (number, at) in [(1, 10), (3, 30), (2, 20), (3, 31)] {
            made.remember(snapshot(number, at));
        }
        let order: Vec<_> = made.snapshots.iter().map(|s| s.at).collect();
        assert_eq!(order, [10, 20, 30]);
        for number in 0..=u8::MAX {
            made.remember(snapshot(number, 100 + i64::from(number)));
        }
        assert_eq!(made.snapshots.len(), MAX_SNAPSHOTS);
        assert_eq!(made.snapshots.last().map(|s| s.at), Some(355));
        assert!(made.snapshots.iter().all(|s| s.at >= 100));
    }
}
