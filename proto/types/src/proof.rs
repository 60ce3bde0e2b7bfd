//! Proofs of backups: what a host is ordered to restore where nobody uses it, and what it has found.
//!
//! Not here: when one is due and what follows from it (isyone-fleet), carrying it out (the agent).

use serde::{Deserialize, Serialize};

use crate::{
    backup::{RestoreOrder, SnapshotName},
    spec::ImageRef,
};

/// Damages that a proof names; what is beyond is counted.
pub const MAX_DAMAGES: usize = 20;
/// What a proof says that it could not look at.
pub const MAX_LEFT_OUT: usize = 8;
/// Longest name of a damage, bytes: a kind, a table's or file's name, a number.
pub const MAX_DAMAGE_BYTES: usize = 240;

/// A backup that is to be restored where nobody uses it, looked at, and thrown away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyOrder {
    /// From where, and how far.
    pub restore: RestoreOrder,
    /// The image of PostgreSQL that opens it.
    pub postgres_image: ImageRef,
    /// The tenant's memory; its PostgreSQL's share of it is what the one that proves gets.
    pub memory_bytes: u64,
    /// The tenant's disk: what is restored is no larger than it may be.
    pub disk_bytes: u64,
}

/// What a proof has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The backup that it began with.
    pub base: SnapshotName,
    /// The moment that the backup stands for.
    pub base_at: i64,
    /// The commit of the last transaction that the log brought back; `None`: it brought none.
    pub reached: Option<i64>,
    /// When it ended.
    pub ended_at: i64,
    /// The database comes back whole, and to the end of its log: what is damaged are files of attachments at most.
    pub is_restorable: bool,
    /// What is damaged, each by its name; at most [`MAX_DAMAGES`]. Empty: everything is as it was written.
    pub damages: Vec<String>,
    /// Damages beyond those.
    pub more: u32,
    /// What could not be looked at, and why; at most [`MAX_LEFT_OUT`].
    pub left_out: Vec<String>,
    /// Tables and indexes that are in it.
    pub relations: u64,
    /// Attachments' files that are there and are what their names say.
    pub attachments: u64,
    /// Bytes that were restored.
    pub bytes: u64,
}

impl Proof {
    /// Nothing is damaged.
    pub fn is_good(&self) -> bool {
        self.damages.is_empty()
    }
}
