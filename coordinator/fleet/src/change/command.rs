//! What can be asked of the Fleet, and what it answers.
//!
//! Not here: how a command is carried out (the other files of this folder).

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use isyone_types::{
    identity::OperatorRole,
    ids::{HostName, ShortName, TenantName},
    plan::UnixMs,
    report::HostReport,
    spec::{Domain, LabelKey, LabelValue, Size, TenantSpec},
};
use uuid::Uuid;

use crate::{
    desired::{
        Certificate, Host, Operator, Rate, Sealed, Tenant, Token,
        certificates::{AcmeAccount, CertificateTrouble, EdgeCertificate},
        domains::DomainTrouble,
    },
    event::EventKind,
    observed::Hello,
    operation::Operation,
    placement::Decision,
};

/// What a command is told of the world.
#[derive(Debug, Clone)]
pub struct Stamp {
    pub now: UnixMs,
    /// Fresh UUIDv7, for an operation.
    pub id: Uuid,
    /// Who asks: an operator's name, `host/<name>`, `visitor` or `coordinator`.
    pub actor: String,
}

/// Everything that can change the state.
#[derive(Debug, Clone)]
pub enum Command {
    /// Place a new tenant, or find that it is there already.
    CreateTenant(Box<CreateTenant>),
    /// Restart Odoo, with `database` PostgreSQL too.
    RestartTenant {
        name: TenantName,
        database: bool,
        request_id: Option<String>,
    },
    /// Stop the containers and keep them.
    SuspendTenant {
        name: TenantName,
        request_id: Option<String>,
    },
    /// Start a suspended tenant again.
    ResumeTenant {
        name: TenantName,
        request_id: Option<String>,
    },
    /// Start again what sleeps; nothing is done with any other.
    WakeTenant { name: TenantName },
    /// Give a tenant the size of another plan.
    ResizeTenant {
        name: TenantName,
        plan: ShortName,
        request_id: Option<String>,
    },
    /// Put a tenant into quarantine; with `purge`, remove one that is there.
    DeleteTenant {
        name: TenantName,
        /// Remove quarantined volumes now.
        purge: bool,
        request_id: Option<String>,
    },
    /// Take a tenant out of quarantine.
    RestoreTenant {
        name: TenantName,
        request_id: Option<String>,
    },
    /// Change who gets in to a tenant at the edge.
    SetAccess {
        name: TenantName,
        /// What is to be other than it is.
        change: Box<AccessChange>,
    },
    /// Give an operation up.
    CancelOperation { id: Uuid },
    /// A join token was made.
    CreateToken(Box<Token>),
    /// An agent shows a token.
    Enroll(Box<Enroll>),
    /// A host's certificate was renewed.
    RenewHost {
        host: HostName,
        certificate: Certificate,
    },
    /// Close a host to new tenants, or open it again.
    CordonHost { host: HostName, cordoned: bool },
    /// Forget an empty host.
    RemoveHost { host: HostName },
    /// An operator's certificate was signed.
    CreateOperator {
        name: ShortName,
        /// What they may do.
        role: OperatorRole,
        certificate: Certificate,
    },
    /// Refuse an operator.
    RevokeOperator { name: ShortName },
    /// An agent connected.
    Greet {
        host: HostName,
        /// What it says of itself.
        hello: Hello,
        /// The plan on its disk.
        accepted_generation: u64,
    },
    /// An agent answered a plan.
    PlanResult {
        host: HostName,
        /// Of the plan that it answers.
        generation: u64,
        /// Empty when it was stored.
        error: String,
    },
    /// An agent reported.
    Report {
        host: HostName,
        report: Box<HostReport>,
    },
    /// A certificate for tenants' host names was issued or uploaded.
    PutCertificate(Box<EdgeCertificate>),
    /// Forget a certificate.
    RemoveCertificate {
        /// Name of the certificate.
        name: String,
        /// Why, for the event.
        why: String,
    },
    /// No certificate could be had; with 0 failures: nobody wants one any more.
    CertificateTrouble(Box<CertificateTrouble>),
    /// An account with the certificate authority was made.
    PutAcmeAccount(Box<AcmeAccount>),
    /// Domains for a tenant, or another primary among them.
    AddDomains(Box<AddDomains>),
    /// Take a domain away.
    RemoveDomain {
        name: TenantName,
        domain: Domain,
        request_id: Option<String>,
    },
    /// A domain does not lead to the edges any more.
    DomainUnreachable(Box<DomainTrouble>),
    /// It leads to the edges again.
    DomainReachable {
        domain: Domain,
        /// What DNS said.
        found: String,
    },
    /// Something to remember that changes nothing: a secret was read, a shell opened.
    Audit {
        kind: EventKind,
        tenant: TenantName,
        message: String,
    },
    /// As `Audit`, of what concerns no single tenant: an edge is down.
    Note { kind: EventKind, message: String },
    /// The coordinator has started: take its configuration in.
    AdoptSettings,
    /// Time has passed: what is due is done.
    Tick,
}

impl Command {
    /// What is asked, in one word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::CreateTenant(_) => "create-tenant",
            Self::RestartTenant { .. } => "restart-tenant",
            Self::SuspendTenant { .. } => "suspend-tenant",
            Self::ResumeTenant { .. } => "resume-tenant",
            Self::WakeTenant { .. } => "wake-tenant",
            Self::ResizeTenant { .. } => "resize-tenant",
            Self::DeleteTenant { .. } => "delete-tenant",
            Self::RestoreTenant { .. } => "restore-tenant",
            Self::SetAccess { .. } => "set-access",
            Self::CancelOperation { .. } => "cancel-operation",
            Self::CreateToken(_) => "create-token",
            Self::Enroll(_) => "enroll",
            Self::RenewHost { .. } => "renew-host",
            Self::CordonHost { .. } => "cordon-host",
            Self::RemoveHost { .. } => "remove-host",
            Self::CreateOperator { .. } => "create-operator",
            Self::RevokeOperator { .. } => "revoke-operator",
            Self::Greet { .. } => "greet",
            Self::PlanResult { .. } => "plan-result",
            Self::Report { .. } => "report",
            Self::PutCertificate(_) => "put-certificate",
            Self::RemoveCertificate { .. } => "remove-certificate",
            Self::CertificateTrouble(_) => "certificate-trouble",
            Self::PutAcmeAccount(_) => "put-acme-account",
            Self::AddDomains(_) => "add-domains",
            Self::RemoveDomain { .. } => "remove-domain",
            Self::DomainUnreachable(_) => "domain-unreachable",
            Self::DomainReachable { .. } => "domain-reachable",
            Self::Audit { .. } => "audit",
            Self::Note { .. } => "note",
            Self::AdoptSettings => "adopt-settings",
            Self::Tick => "tick",
        }
    }

    /// The tenant it is about, if one is named.
    pub fn tenant(&self) -> Option<&TenantName> {
        match self {
            Self::CreateTenant(create) => Some(&create.name),
            Self::AddDomains(add) => Some(&add.name),
            Self::RestartTenant { name, .. }
            | Self::SuspendTenant { name, .. }
            | Self::ResumeTenant { name, .. }
            | Self::WakeTenant { name }
            | Self::ResizeTenant { name, .. }
            | Self::DeleteTenant { name, .. }
            | Self::RestoreTenant { name, .. }
            | Self::SetAccess { name, .. }
            | Self::RemoveDomain { name, .. }
            | Self::Audit { tenant: name, .. } => Some(name),
            _ => None,
        }
    }
}

/// What is asked of [`Command::CreateTenant`].
#[derive(Debug, Clone)]
pub struct CreateTenant {
    pub name: TenantName,
    /// Its identity if it is new; `secrets` are sealed for it.
    pub uid: Uuid,
    pub spec: TenantSpec,
    /// Its plan's size.
    pub size: Size,
    /// Its passwords if it is new.
    pub secrets: Sealed,
    pub request_id: Option<String>,
    /// Apply the spec to the tenant if there is one of that name.
    pub force: bool,
    /// Decide only, and change nothing.
    pub dry_run: bool,
}

/// What [`Command::SetAccess`] changes. What is not named stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessChange {
    /// Networks in place of all that there are.
    pub networks: Option<Vec<IpNet>>,
    pub remove_all_users: bool,
    pub remove_users: Vec<String>,
    /// Added after the removals, or given another password.
    pub put_user: Option<User>,
    /// A rate in place of the tenant's own; `Some(None)`: what holds for all.
    pub rate: Option<Option<Rate>>,
}

/// Somebody whom the edge lets in.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    /// bcrypt hash of the password.
    pub hash: String,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What is asked of [`Command::AddDomains`].
#[derive(Debug, Clone)]
pub struct AddDomains {
    pub name: TenantName,
    /// Domains to add; those that it has already stay.
    pub domains: Vec<Domain>,
    /// The first of them is the primary from now on; of none, the platform's own name.
    pub primary: bool,
    /// DNS was asked just now, and leads all of them here.
    pub checked: bool,
    pub request_id: Option<String>,
}

/// What an agent shows in [`Command::Enroll`].
#[derive(Debug, Clone)]
pub struct Enroll {
    /// Public half of the token.
    pub token_id: String,
    /// SHA-256 of the secret half, hex.
    pub secret_hash: String,
    /// The name that the host wants.
    pub host: HostName,
    /// Identity if it is new.
    pub uid: Uuid,
    /// Where edges reach it.
    pub advertise: IpAddr,
    /// The agent's own labels; the token's win.
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Signed, handed out only when this succeeds.
    pub certificate: Certificate,
}

/// What a command answers.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Nothing to say.
    Done,
    /// A tenant, placed or found.
    Tenant {
        /// As stored (or as it would be).
        tenant: Arc<Tenant>,
        /// None for a dry run.
        operation: Option<Arc<Operation>>,
        /// Why it is placed there.
        decision: Box<Decision>,
        /// Whether the name was there already.
        existed: bool,
    },
    /// A dry run that found no host.
    NoHost(Box<Decision>),
    /// A tenant that was changed at once, without an operation.
    Changed(Arc<Tenant>),
    /// A tenant whose domains have changed, or were so already.
    Domains {
        tenant: Arc<Tenant>,
        /// None when its host has nothing to do.
        operation: Option<Arc<Operation>>,
    },
    /// The operation that does it, begun now or found.
    Operation(Arc<Operation>),
    Host(Arc<Host>),
    Operator(Arc<Operator>),
    /// A certificate of tenants' host names.
    Certificate(Arc<EdgeCertificate>),
}
