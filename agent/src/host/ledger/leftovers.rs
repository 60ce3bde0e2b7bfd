//! What may be left of plans beside the ledger's file: one that could not be read and was put aside, and what a kill has cut off. Both
//! have tenants' keys in them, and go before these are promised to be gone.
//!
//! Not here: the plan that holds (ledger).

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::base::fsutil;

/// Plans that were put aside; beyond this many the last name is reused.
const MAX_ASIDE: u32 = 100;

fn aside(ledger: &Path, number: u32) -> PathBuf {
    PathBuf::from(format!("{}.corrupt-{number}", ledger.display()))
}

/// Puts a plan aside that cannot be read, for whoever wants to see it. Returns where it is.
pub(super) fn put_aside(ledger: &Path) -> io::Result<PathBuf> {
    let free = (1..MAX_ASIDE)
        .map(|n| aside(ledger, n))
        .find(|p| !fsutil::exists(p))
        .unwrap_or_else(|| aside(ledger, MAX_ASIDE));
    fsutil::rename(ledger, &free)?;
    Ok(free)
}

/// Removes what was put aside. A tenant has left whose keys are in it, and a plan that was taken since has all that it was kept for.
pub(super) fn forget(ledger: &Path) {
    for copy in (1..=MAX_ASIDE).map(|n| aside(ledger, n)) {
        match fsutil::remove_file(&copy) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %copy.display(), error = %e, "a plan that was put aside stays; it has keys of tenants that have left");
            }
            _ => {}
        }
    }
}

/// Removes plans that were not written to their end before an agent was killed. Only the agent that runs may do so: it is the one that
/// writes them.
pub(super) fn sweep(ledger: &Path) {
    let beside = ledger.parent().map(fsutil::list);
    for entry in beside.into_iter().flatten().flatten() {
        if fsutil::is_unfinished(&entry.name) && !entry.is_directory {
            let _ = fsutil::remove_file(&entry.path); // tried again at the next start
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Ledger, *};
    use crate::testing::{host_plan, tenant_plan};

    /// Fails if the keys of a tenant that has left stay in a plan that was put aside, or in one that a kill has cut off.
    #[test]
    fn what_was_put_aside_or_cut_off_goes_with_who_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.json");
        let there = |name: &str| dir.path().join(name).exists();
        std::fs::write(dir.path().join(".isy-abc123"), "half a plan").unwrap();
        std::fs::write(dir.path().join("note"), "somebody's").unwrap();
        sweep(&path);
        assert!(!there(".isy-abc123") && there("note"));
        std::fs::write(&path, "{\"version\":").unwrap();
        let (mut ledger, warning) = Ledger::open(&path).unwrap();
        assert!(warning.is_some());
        let (alfa, beta) = (tenant_plan("alfa"), tenant_plan("beta"));
        let both = host_plan(1, vec![alfa.clone(), beta]);
        ledger.accept(both).unwrap();
        assert!(there("plan.json.corrupt-1"), "somebody may want to see it");
        ledger.accept(host_plan(2, vec![alfa])).unwrap();
        assert!(!there("plan.json.corrupt-1"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("\"alfa\"") && !text.contains("\"beta\""),
            "{text}"
        );
    }
}
