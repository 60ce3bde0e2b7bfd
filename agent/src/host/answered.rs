//! Whether the coordinator has said, since this machine started, that the plan here is the one that holds: kept by the machine's boot, so
//! that a restart of the agent need not ask again.
//!
//! Not here: who waits for it (plan::diff), the plan (ledger).

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::base::{fsutil, kernel};

/// Beside the plan's file.
const FILE: &str = "answered";
/// A boot's id is a UUID.
const MAX_FILE_BYTES: u64 = 100;

#[derive(Debug)]
pub(super) struct Answered {
    path: PathBuf,
    /// Empty where the machine does not tell: then each start of the agent asks.
    boot: String,
    is_set: bool,
}

impl Answered {
    /// Beside the plan at `plan`. What cannot be read is asked once more.
    pub(super) fn open(plan: &Path) -> Self {
        Self::at(plan.with_file_name(FILE), kernel::boot_id())
    }

    fn at(path: PathBuf, boot: String) -> Self {
        let kept = fsutil::read_small(&path, MAX_FILE_BYTES).unwrap_or_default();
        let is_set = !boot.is_empty() && kept == boot.as_bytes();
        Self { path, boot, is_set }
    }

    pub(super) fn is_set(&self) -> bool {
        self.is_set
    }

    pub(super) fn set(&mut self) -> io::Result<()> {
        // Not flushed: after a power loss the boot is another one.
        fsutil::write_atomic(&self.path, self.boot.as_bytes(), 0o600, false)?;
        self.is_set = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_outlives_the_agent_and_not_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let at = |boot: &str| Answered::at(dir.path().join(FILE), boot.to_owned());
        let mut answered = at("one");
        assert!(!answered.is_set());
        answered.set().unwrap();
        assert!(answered.is_set() && at("one").is_set() && !at("two").is_set());
        assert!(!at("").is_set(), "a machine that does not say");
        std::fs::write(dir.path().join(FILE), [b'x'; 200]).unwrap();
        assert!(!at("one").is_set());
    }
}
