//! A move as it is stored: from where to where, and how far it is.
//!
//! Not here: what follows a stage (procedures/relocate, procedures/live).

use std::net::SocketAddr;

use isyone_types::{ids::HostName, plan::UnixMs, spec::LabelKey};
use serde::{Deserialize, Serialize};

use crate::backups::RestorePoint;

/// The stages of a move; one of a tenant that is stopped for it has no [`MoveStage::Follow`]. Until [`MoveStage::Fence`] the tenant lives
/// on the old host, and going back is possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveStage {
    /// The new host makes room: network, volumes.
    Prepare,
    /// The tenant runs on, and the new host brings a copy of it and keeps that up.
    Follow,
    /// The old host stops the tenant.
    Stop,
    /// The new host fetches the data.
    Copy,
    /// The point of no return is behind: the old host records that it never runs the tenant again, whoever asks.
    Fence,
    /// The new host starts the tenant.
    Start,
    /// The edges take up the new route.
    Route,
    /// It was cancelled or failed: the old host starts the tenant again, the new one removes its copy.
    Back,
}

/// A tenant goes to another host: it is stopped, copied, and started there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relocation {
    pub from: HostName,
    pub to: HostName,
    /// The generation that the stage's hosts must report.
    pub generation: u64,
    pub stage: MoveStage,
    /// Where the old host's agent listens for the new one's. Recorded when copying begins, as plans show it; `None`: the
    /// data goes through the coordinator.
    pub source: Option<SocketAddr>,
    /// Until when the new host may fetch; recorded when the stage `copy` begins, and again when the host begins to copy.
    pub leave_until: UnixMs,
    /// When the new host was first seen to copy, and not to have it in its queue. Not in records of a version before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copying_since: Option<UnixMs>,
    /// The tenant runs while it is copied. `None`: it is stopped for as long as that takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Live>,
    /// The old host is lost: the copy takes over as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// The old host is lost, and there is no copy: it is restored from this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<Box<RestorePoint>>,
}

/// How a tenant moves that runs on while it is copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// Longest pause that whoever asked accepts, milliseconds: it is not stopped while the estimate is longer.
    pub max_pause_ms: u32,
    /// When it was stopped, and requests began to be held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_at: Option<UnixMs>,
    /// It goes to where its standby is, which it is again if this is taken back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub switches: bool,
    /// Where that standby has to be, as was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apart: Option<LabelKey>,
}
