//! Steps of an operation, and how far one is: as hosts report them, as they are stored, and as people see them.
//!
//! Not here: which steps there are (the agent names its own), and operations themselves (the Fleet).

use serde::{Deserialize, Serialize};

use crate::plan::UnixMs;

/// How far an operation or step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// It has not begun.
    Pending,
    /// It is under way.
    Running,
    /// It failed, and is tried again.
    Retrying,
    /// It was done.
    Succeeded,
    /// It was given up.
    Failed,
    /// Stopped by an operator, or overtaken by a newer operation.
    Cancelled,
    /// A step that was not needed.
    Skipped,
}

impl OperationState {
    /// Whether it will not change any more.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Skipped
        )
    }
}

/// One step of an operation, in the order in which they are taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its name, such as `volumes`: programs match on it.
    pub name: String,
    /// How far it is.
    pub state: OperationState,
    /// When it began; none before that.
    pub started_at: Option<UnixMs>,
    /// When it ended; none before that.
    pub ended_at: Option<UnixMs>,
    /// What was done, or why it failed.
    pub detail: String,
    /// How much of it is done, 0 to 100.
    pub progress_percent: u32,
}
