//! Steps of an operation, and how far one is: as hosts report them, as they are stored, and as people see them.
//!
//! Not here: which steps there are (the agent names its own), and operations themselves (the Fleet).

use serde::{Deserialize, Serialize};

use crate::plan::UnixMs;

/// How far an operation or step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Not begun.
    Pending,
    /// Under way.
    Running,
    /// Failed for now, tried again.
    Retrying,
    /// Done.
    Succeeded,
    /// Given up.
    Failed,
    /// Stopped by an operator, or overtaken by a newer operation.
    Cancelled,
    /// A step that was not needed.
    Skipped,
}

impl OperationState {
    /// Will not change any more.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Skipped
        )
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Stable name.
    pub name: String,
    /// How far.
    pub state: OperationState,
    /// Begin.
    pub started_at: Option<UnixMs>,
    /// End.
    pub ended_at: Option<UnixMs>,
    /// What was done, or why it failed.
    pub detail: String,
    /// 0..=100.
    pub progress_percent: u32,
}
