//! Domains that were found not to lead to the edges any more, as stored. In the Fleet: routes depend on them, and routes are views
//! of one snapshot.
//!
//! Not here: what was found of other domains, which is in memory only (domains/schedule).

use isyone_types::{ids::TenantName, plan::UnixMs, spec::Domain};
use serde::{Deserialize, Serialize};

/// A domain that visitors do not get here by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainTrouble {
    pub domain: Domain,
    /// The tenant that had it when this was found.
    pub tenant: TenantName,
    /// When that was first seen.
    pub since: UnixMs,
    /// What DNS said when it was concluded, for people.
    pub found: String,
}
