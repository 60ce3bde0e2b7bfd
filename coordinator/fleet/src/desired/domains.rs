//! Domains that were found to no longer lead to the edges, as stored. They are part of the Fleet because routes depend
//! on them, and routes are views of one snapshot.
//!
//! Not here: results for other domains, which are in memory only (domains/schedule).

use isyone_types::{ids::TenantName, plan::UnixMs, spec::Domain};
use serde::{Deserialize, Serialize};

/// A domain that does not lead visitors to the edges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainTrouble {
    pub domain: Domain,
    /// The tenant that owned it when this was found.
    pub tenant: TenantName,
    /// When a check first found this.
    pub since: UnixMs,
    /// What DNS said when it was declared unreachable, for people.
    pub found: String,
    /// Nothing was found: DNS was not asked yet. Nobody is redirected to it, and nobody is alarmed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unasked: bool,
}
