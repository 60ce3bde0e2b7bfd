//! Why a command is refused. `Display` is for operators: what happened, to whom, what to do next.
//!
//! Not here: gRPC codes (the coordinator's wire/status).

use std::net::IpAddr;

use isyone_types::{
    ids::{HostName, ShortName, TenantName},
    plan::UnixMs,
    spec::{Domain, MAX_DOMAINS},
};
use uuid::Uuid;

use super::{
    MAX_TOKENS,
    certificates::MAX_UPLOADED,
    spec_change::{SpecChange, SpecField, listed},
};
use crate::placement::Decision;

/// Why a command was refused. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("there is no tenant `{0}`")]
    TenantNotFound(TenantName),
    /// The name is taken by a tenant with another spec.
    #[error("tenant `{name}` exists with another spec ({}); use --force to apply the new one, its data is kept", listed(.changes, ", "))]
    TenantExists {
        name: TenantName,
        /// Fields that differ.
        changes: Vec<SpecChange>,
    },
    /// The name is taken by a deleted tenant whose volumes still exist.
    #[error(
        "tenant `{name}` was deleted and is in quarantine; `isyctl tenant restore {name}` brings it back, `isyctl tenant delete {name} --purge` removes its data for good"
    )]
    Quarantined {
        name: TenantName,
        /// End of the quarantine.
        until: UnixMs,
    },
    /// Its volumes are being removed.
    #[error("tenant `{0}` is being purged; try again in a moment")]
    BeingPurged(TenantName),
    /// Not possible in the tenant's present state.
    #[error("tenant `{name}` {problem}")]
    WrongState {
        name: TenantName,
        /// What stands in the way, and the way out.
        problem: String,
    },
    /// A field that only the first start can set.
    #[error("{field} of tenant `{name}` cannot be changed after its creation")]
    Immutable { name: TenantName, field: SpecField },
    /// No host can take it.
    #[error("no host fits tenant `{name}`: {}", .decision.reason)]
    NoHostFits {
        name: TenantName,
        /// Every host's reasons.
        decision: Box<Decision>,
    },
    /// The host name leads elsewhere already.
    #[error("domain `{domain}` {problem}")]
    DomainTaken {
        domain: String,
        /// Who has it, and what to do.
        problem: String,
    },
    #[error(
        "tenant `{0}` would have more than {MAX_DOMAINS} domains; remove some that are not needed"
    )]
    TooManyDomains(TenantName),
    #[error("tenant `{name}` has no domain `{domain}`")]
    DomainNotFound { name: TenantName, domain: Domain },
    #[error("there is no plan `{0}`")]
    UnknownPlan(ShortName),
    /// The idempotency key was used for something else.
    #[error("request id was already used for another request (operation {0})")]
    RequestIdReused(Uuid),
    #[error("there is no operation {0}")]
    OperationNotFound(Uuid),
    /// The operation cannot be cancelled.
    #[error("operation {id} {problem}")]
    NotCancellable { id: Uuid, problem: &'static str },
    #[error("there is no host `{0}`")]
    HostNotFound(HostName),
    /// Tenants are placed there.
    #[error("host `{host}` still holds {count} tenants (first: {first}); move or purge them first")]
    HostNotEmpty {
        host: HostName,
        count: usize,
        first: TenantName,
    },
    /// The name is taken by a host that is there.
    #[error(
        "host `{0}` exists; to let it join again, make a token for this very name: `isyctl host token --host {0}`"
    )]
    HostExists(HostName),
    /// The address belongs to another host.
    #[error("address {address} is host `{host}`'s already")]
    AddressTaken { address: IpAddr, host: HostName },
    /// Wrong, used or expired. Does not say which, the log does.
    #[error("join token refused: {0}")]
    TokenRefused(&'static str),
    #[error("more than {MAX_TOKENS} open join tokens; wait until some expire")]
    TooManyTokens,
    #[error("there is no operator `{0}`")]
    OperatorNotFound(ShortName),
    /// Another role than the operator has, or revoked.
    #[error("operator `{name}` {problem}")]
    OperatorConflict {
        name: ShortName,
        /// What stands in the way.
        problem: String,
    },
    /// Bounds of what an edge is told of a tenant.
    #[error("tenant `{name}` {problem}")]
    AccessRefused {
        name: TenantName,
        /// What does not fit.
        problem: String,
    },
    #[error("there is no certificate `{0}`")]
    CertificateNotFound(String),
    #[error("more than {MAX_UPLOADED} uploaded certificates; remove some that are not needed")]
    TooManyCertificates,
    /// A report or renewal of a host that is not there.
    #[error("tenant `{tenant}` is not placed on host `{host}`")]
    NotPlacedHere {
        tenant: TenantName,
        /// The host that reported.
        host: HostName,
    },
}
