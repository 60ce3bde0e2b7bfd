//! What comes of a command.
//!
//! Not here: commands (command), why one is refused (error).

use std::sync::Arc;

use crate::{
    desired::{Host, Operator, Tenant, certificates::EdgeCertificate},
    operation::Operation,
    placement::Decision,
};

/// The result of a command.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Nothing to return.
    Done,
    /// A tenant that was placed or found.
    Tenant {
        /// As stored; for a dry run, as it would be.
        tenant: Arc<Tenant>,
        /// `None` for a dry run.
        operation: Option<Arc<Operation>>,
        /// Why it is placed there.
        decision: Box<Decision>,
        /// Whether the tenant already existed.
        existed: bool,
    },
    /// A dry run that found no host.
    NoHost(Box<Decision>),
    /// A tenant that was changed without an operation.
    Changed(Arc<Tenant>),
    /// A tenant whose domains have changed, or were already as requested.
    Domains {
        tenant: Arc<Tenant>,
        /// `None` when its host has nothing to do.
        operation: Option<Arc<Operation>>,
    },
    /// The operation that does the work, started now or found.
    Operation(Arc<Operation>),
    Host(Arc<Host>),
    Operator(Arc<Operator>),
    /// A certificate of tenants' host names.
    Certificate(Arc<EdgeCertificate>),
}
