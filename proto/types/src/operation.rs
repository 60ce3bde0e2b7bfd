//! An operation's steps and progress: as hosts report them, as they are stored, and as people see them.
//!
//! Not here: which steps exist (the agent names its own), and operations themselves (the Fleet).

use serde::{Deserialize, Serialize};

use crate::plan::UnixMs;

/// The state of an operation or of one of its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// It has not begun.
    Pending,
    /// It is under way.
    Running,
    /// The last attempt failed; it is retried.
    Retrying,
    /// It is done.
    Succeeded,
    /// It failed for good.
    Failed,
    /// An operator stopped it, or a newer operation replaced it.
    Cancelled,
    /// A step that was not needed.
    Skipped,
}

impl OperationState {
    /// Whether the state will not change any more.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Skipped
        )
    }
}

/// One step of an operation. Steps are listed in the order of execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its name, such as `volumes`; stable, programs match on it.
    pub name: String,
    /// Its state.
    pub state: OperationState,
    /// When it began; `None` before that.
    pub started_at: Option<UnixMs>,
    /// When it ended; `None` before that.
    pub ended_at: Option<UnixMs>,
    /// What was done, or why it failed; for people.
    pub detail: String,
    /// How much of it is done, 0 to 100.
    pub progress_percent: u32,
}
