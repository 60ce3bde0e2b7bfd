//! `state.json` in a tenant's directory: what the agent remembers of the tenant across its own restarts.
//!
//! Not here: what is in it (plan::state).

use std::{io, path::Path};

use isyone_proto::plan::TenantPlan;

use crate::{base::fsutil, plan::state::TenantState};

/// File in the tenant's directory.
const STATE_FILE: &str = "state.json";

/// Reads the state in `directory`; `None` if there is none for this uid. An unreadable file counts as none as well:
/// existing volumes are then adopted as they are, never filled.
pub(super) fn load(directory: &Path, plan: &TenantPlan) -> Option<TenantState> {
    let bytes = fsutil::read(&directory.join(STATE_FILE)).ok()?;
    let state: TenantState = serde_json::from_slice(&bytes).ok()?;
    state.is_of(plan).then_some(state)
}

/// Writes the state; `durable` if a power loss must not bring an older one back.
pub(super) fn save(state: &TenantState, directory: &Path, durable: bool) -> io::Result<()> {
    // Plain structs: serialising cannot fail.
    let bytes = serde_json::to_vec_pretty(state).unwrap_or_default();
    fsutil::write_atomic(&directory.join(STATE_FILE), &bytes, 0o600, durable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plan::state::Database, testing::tenant_plan};

    #[test]
    fn a_state_belongs_to_one_uid() {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = tenant_plan("alfa");
        assert_eq!(load(dir.path(), &plan), None);
        let mut state = TenantState::new(&plan);
        state.database = Database::Filled {
            source: "odoo_alfa".into(),
        };
        save(&state, dir.path(), true).unwrap();
        assert_eq!(load(dir.path(), &plan), Some(state));
        plan.uid = uuid::Uuid::nil();
        assert_eq!(load(dir.path(), &plan), None);
    }
}
