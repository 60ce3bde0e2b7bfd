//! Work on a host that was announced: until when, why, and what becomes of its tenants meanwhile.
//!
//! Not here: when it begins and ends (change::maintenance), what visitors are told (the coordinator's pages).

use isyone_types::plan::UnixMs;
use serde::{Deserialize, Serialize};

/// A host is being worked on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintenance {
    /// It ends by itself then.
    pub until: UnixMs,
    /// Why, for operators; may be empty.
    pub reason: String,
    /// Its tenants stay there; otherwise they are moved away.
    pub leaves_tenants: bool,
    /// It has cordoned the host, and opens it again at its end. Not where somebody had cordoned it before, or has since.
    pub opens: bool,
}
