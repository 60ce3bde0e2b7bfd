//! Domains that were found not to lead to the edges any more, as stored. In the Fleet: routes depend on them, and routes are views
//! of one snapshot. What was found of others is in memory (`domains/watch`).

use isyone_types::{ids::TenantName, plan::UnixMs, spec::Domain};
use serde::{Deserialize, Serialize};

/// A domain that visitors do not get here by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainTrouble {
    /// Which.
    pub domain: Domain,
    /// Whose.
    pub tenant: TenantName,
    /// When that was first seen.
    pub since: UnixMs,
    /// What DNS said when it was concluded, for people.
    pub found: String,
}
