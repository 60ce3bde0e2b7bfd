//! What a tenant is short of, from what is measured of its containers and what its Odoo tells.
//!
//! Not here: measuring (usage), reading Odoo's page (metrics).

use isyone_proto::report::Strain;

use super::TenantUsage;

/// How busy a tenant's Odoo is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Of its workers' time, what is taken.
    pub busy_permille: u16,
    /// Requests that waited for a connection to the database.
    pub waits_per_minute: u16,
}

/// Odoo may not tell.
pub(super) fn strain(usage: &TenantUsage, work: Option<&Work>) -> Strain {
    Strain {
        busy_permille: work.map(|work| work.busy_permille),
        waits_per_minute: work.map(|work| work.waits_per_minute),
        memory_permille: usage.memory_permille,
        throttled_permille: usage.throttled_permille,
    }
}
