//! Why a command is refused. `Display` is for operators: what happened, to what, and what to do next.
//!
//! Not here: gRPC codes (the coordinator's wire/status).

use std::net::IpAddr;

use isyone_types::{
    echo::echo,
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
use crate::{
    desired::{MAX_CERTIFICATES, Refusal},
    operation::OperationKind,
    placement::Decision,
    views::utc,
};

/// Why a command was refused. A refused command has changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("there is no tenant `{0}`")]
    TenantNotFound(TenantName),
    /// The name is taken by a tenant with another spec.
    #[error("tenant `{name}` exists with another spec ({}); {}", listed(.changes, ", "), ways(.changes, .fixed))]
    TenantExists {
        name: TenantName,
        /// Fields that differ.
        changes: Vec<SpecChange>,
        /// Those of them that even force does not change.
        fixed: Vec<SpecField>,
    },
    /// The name is taken by a deleted tenant whose volumes still exist.
    #[error(
        "tenant `{name}` was deleted and is in quarantine; `isyctl tenant undelete {name}` brings it back, `isyctl tenant delete {name} --purge` removes its data for good"
    )]
    Quarantined {
        name: TenantName,
        /// End of the quarantine.
        until: UnixMs,
    },
    #[error("tenant `{0}` is being purged; try again in a moment")]
    BeingPurged(TenantName),
    /// The tenant's current state does not allow it.
    #[error("tenant `{name}` {problem}")]
    WrongState {
        name: TenantName,
        /// What prevents it, and what to do about it.
        problem: String,
    },
    /// The tenant has an operation under way; it can have one at a time.
    #[error(
        "tenant `{name}` is busy: operation {operation} ({}) is at stage `{stage}` for {for_s} s; {}", .kind.word(), ways_on(.operation, *.can_go_back)
    )]
    Busy {
        name: TenantName,
        /// The operation under way.
        operation: Uuid,
        kind: OperationKind,
        stage: &'static str,
        /// Whether it can be cancelled there.
        can_go_back: bool,
        /// For how long it has been at that stage.
        for_s: i64,
    },
    #[error("tenant `{name}` cannot be backed up: {problem}")]
    NoBackups {
        name: TenantName,
        problem: &'static str,
    },
    #[error("no backup of tenant `{name}` can be proven: {problem}")]
    NotProvable { name: TenantName, problem: String },
    #[error("tenant `{source_name}` cannot be restored: {problem}")]
    NotRestorable {
        /// The tenant that was backed up.
        source_name: TenantName,
        problem: String,
    },
    /// A field that can be set only at creation.
    #[error("tenant `{name}`: {}", never(.fields))]
    Immutable {
        name: TenantName,
        fields: Vec<SpecField>,
    },
    #[error("no host fits tenant `{name}`: {}", .decision.reason)]
    NoHostFits {
        name: TenantName,
        /// Every host's reasons.
        decision: Box<Decision>,
    },
    /// Another tenant or the platform already uses the host name.
    #[error("domain `{domain}` {problem}")]
    DomainTaken {
        domain: String,
        /// Who uses it, and what to do.
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
    /// The idempotency key belongs to another request.
    #[error("request id was already used for another request (operation {0})")]
    RequestIdReused(Uuid),
    #[error("there is no operation {0}")]
    OperationNotFound(Uuid),
    #[error("operation {id} {problem}")]
    NotCancellable { id: Uuid, problem: &'static str },
    #[error("there is no host `{0}`")]
    HostNotFound(HostName),
    #[error("{}", not_empty(.host, .first, *.count, *.kept, .kept_until.as_ref()))]
    HostNotEmpty {
        host: HostName,
        /// Tenants with any copy there.
        count: usize,
        first: TenantName,
        /// Of these, tenants that have moved away, whose old copies are kept or being removed.
        kept: usize,
        /// When the last of the kept ones goes.
        kept_until: Option<UnixMs>,
    },
    /// A host with this name already exists.
    #[error(
        "host `{0}` exists; to let it join again, make a token for this very name: `isyctl host token --host {0}`"
    )]
    HostExists(HostName),
    #[error(
        "{address} is host `{host}`'s address already; give --advertise this host's own, or forget the other one if it is gone (`isyctl host remove {host}`)"
    )]
    AddressTaken { address: IpAddr, host: HostName },
    /// A host must not advertise it: others would take it for somebody else.
    #[error(
        "{address} is {}: give --advertise the address at which edges reach this host. If it is the coordinator's own machine, join with a token of `isyctl host token --same-machine`", .what.words()
    )]
    AddressRefused { address: IpAddr, what: WrongAddress },
    /// The token is wrong, used, expired, or for another host name or network. Only the log says which.
    #[error("join token refused: {0}")]
    TokenRefused(&'static str),
    #[error("there is no join token `{0}`; expired ones are forgotten")]
    TokenNotFound(String),
    /// Taking it back would change nothing.
    #[error(
        "join token `{id}` was used already, by host `{host}`, and works no more; `isyctl host remove {host}` refuses that host"
    )]
    TokenUsed { id: String, host: HostName },
    #[error("more than {MAX_TOKENS} open join tokens; wait until some expire")]
    TooManyTokens,
    #[error("there is no operator `{0}`")]
    OperatorNotFound(ShortName),
    /// The operator is revoked or has another role.
    #[error("operator `{name}` {problem}")]
    OperatorConflict {
        name: ShortName,
        /// What prevents it.
        problem: String,
    },
    /// The access rules exceed a limit or are not allowed.
    #[error("tenant `{name}` {problem}")]
    AccessRefused {
        name: TenantName,
        /// What is wrong with them.
        problem: String,
    },
    /// The certificate with which somebody asks was replaced or taken back while this was on its way.
    #[error(
        "the certificate of this call is refused by now ({0}); come with the new one. If you have none, an admin helps: `isyctl operator renew NAME`, for a host `isyctl host token --host NAME`"
    )]
    CallerRefused(Refusal),
    /// Somebody is connected with each of them.
    #[error(
        "all {MAX_CERTIFICATES} certificates of host `{0}` are in use, and none gives way to another; if that is not its agent alone, let it join again: `isyctl host token --host {0}`"
    )]
    CertificatesInUse(HostName),
    /// Whatever the name is: nobody checks one that is only looked for.
    #[error("there is no certificate `{}`", echo(.0))]
    CertificateNotFound(String),
    /// There are thousands; nobody gets this far in earnest.
    #[error("incarnation {0} is the last one")]
    LastIncarnation(u16),
    #[error("more than {MAX_UPLOADED} uploaded certificates; remove some that are not needed")]
    TooManyCertificates,
}

/// Why an address is nobody's to advertise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongAddress {
    Loopback,
    /// The coordinator's.
    Ours,
    /// In the range of tenants' networks.
    Tenants,
    /// See [`isyone_types::network::may_be_a_host`].
    NoMachines,
}

impl WrongAddress {
    fn words(self) -> &'static str {
        match self {
            Self::Loopback => "a loopback address, which leads everybody to themselves",
            Self::Ours => {
                "the coordinator's own address, and a certificate for it would make a coordinator of this host"
            }
            Self::Tenants => "an address of tenants' own networks",
            Self::NoMachines => {
                "an address where no machine of a fleet is (link-local, a cloud's metadata service, or one that stands for others)"
            }
        }
    }
}

/// What whoever finds a tenant busy can do.
fn ways_on(operation: &Uuid, can_go_back: bool) -> String {
    let watch = format!("wait for it (`isyctl op watch {operation}`)");
    match can_go_back {
        true => format!("{watch} or cancel it (`isyctl op cancel {operation}`)"),
        false => format!("{watch}: it cannot be cancelled any more"),
    }
}

/// What can be done about a spec that differs, and what cannot.
fn ways(changes: &[SpecChange], fixed: &[SpecField]) -> String {
    let can = changes.iter().map(|change| change.field);
    let can: Vec<SpecField> = can.filter(|field| !fixed.contains(field)).collect();
    if fixed.is_empty() {
        return "use --force to apply the new one, its data is kept".to_owned();
    }
    if can.is_empty() {
        return never(fixed);
    }
    let can = flags(&can);
    format!("--force applies {can}, the data is kept; {}", never(fixed))
}

fn never(fields: &[SpecField]) -> String {
    let is_image =
        |field: &SpecField| matches!(field, SpecField::OdooImage | SpecField::PostgresImage);
    let upgrade = match fields.iter().any(is_image) {
        true => "; `isyctl tenant upgrade` changes images",
        false => "",
    };
    let flags = flags(fields);
    format!("{flags} cannot be changed after the creation, not even with --force{upgrade}")
}

fn flags(fields: &[SpecField]) -> String {
    let flags: Vec<&str> = fields.iter().map(|field| field.flag()).collect();
    flags.join(", ")
}

/// What keeps a host from being removed, and what to do about it.
fn not_empty(
    host: &HostName,
    first: &TenantName,
    count: usize,
    kept: usize,
    until: Option<&UnixMs>,
) -> String {
    let goes = match until {
        Some(until) => format!("the last goes by itself at {}", utc(*until)),
        None => "they go by themselves, once their tenants are well in their new places".to_owned(),
    };
    let tenants = |n: usize| format!("{n} tenant{}", if n == 1 { "" } else { "s" });
    if kept == 0 {
        return format!(
            "host `{host}` still holds {} (first: {first}); move or purge them first",
            tenants(count)
        );
    }
    let kept_here = format!("old copies of {} moved away", tenants(kept));
    if kept == count {
        return format!("host `{host}` still keeps {kept_here} (first: {first}); {goes}");
    }
    format!(
        "host `{host}` still holds {}, and keeps {kept_here} (first: {first}); move or purge the tenants first; of the copies, {goes}",
        tenants(count - kept)
    )
}
