//! What can be asked of the Fleet, and what it answers.
//!
//! Not here: how a command is carried out (the other files of this folder).

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use isyone_types::{
    identity::OperatorRole,
    ids::{HostName, ShortName, TenantName},
    plan::UnixMs,
    spec::{Domain, LabelKey, LabelValue, Size, TenantSpec},
};
use uuid::Uuid;

use crate::{
    desired::{
        Certificate, Host, Operator, Rate, Sealed, Tenant, Token,
        certificates::{AcmeAccount, EdgeCertificate, Trouble},
        domains::DomainTrouble,
    },
    event::EventKind,
    observed::Hello,
    operation::Operation,
    placement::Decision,
};
use isyone_types::report::HostReport;

/// What a command is told of the world.
#[derive(Debug, Clone)]
pub struct Stamp {
    /// Now.
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
        /// Whom.
        name: TenantName,
        /// PostgreSQL too.
        database: bool,
        /// Idempotency key.
        request_id: Option<String>,
    },
    /// Stop and keep.
    SuspendTenant {
        /// Whom.
        name: TenantName,
        /// Idempotency key.
        request_id: Option<String>,
    },
    /// Start again.
    ResumeTenant {
        /// Whom.
        name: TenantName,
        /// Idempotency key.
        request_id: Option<String>,
    },
    /// Start again what sleeps; nothing is done with any other.
    WakeTenant {
        /// Whom.
        name: TenantName,
    },
    /// Another size.
    ResizeTenant {
        /// Whom.
        name: TenantName,
        /// To which plan.
        plan: ShortName,
        /// Idempotency key.
        request_id: Option<String>,
    },
    /// Into quarantine; with `purge`, out of existence.
    DeleteTenant {
        /// Whom.
        name: TenantName,
        /// Remove quarantined volumes now.
        purge: bool,
        /// Idempotency key.
        request_id: Option<String>,
    },
    /// Out of quarantine.
    RestoreTenant {
        /// Whom.
        name: TenantName,
        /// Idempotency key.
        request_id: Option<String>,
    },
    /// Who gets in at the edge.
    SetAccess {
        /// To whom.
        name: TenantName,
        /// What is to be other than it is.
        change: Box<AccessChange>,
    },
    /// Give an operation up.
    CancelOperation {
        /// Which.
        id: Uuid,
    },
    /// A join token was made.
    CreateToken(Box<Token>),
    /// An agent shows a token.
    Enroll(Box<Enroll>),
    /// A host's certificate was renewed.
    RenewHost {
        /// Whose.
        host: HostName,
        /// The new one.
        certificate: Certificate,
    },
    /// No new tenants (`cordoned`), or again.
    CordonHost {
        /// Whom.
        host: HostName,
        /// Close or open.
        cordoned: bool,
    },
    /// Forget an empty host.
    RemoveHost {
        /// Whom.
        host: HostName,
    },
    /// An operator's certificate was signed.
    CreateOperator {
        /// Whose.
        name: ShortName,
        /// What they may do.
        role: OperatorRole,
        /// The new one.
        certificate: Certificate,
    },
    /// Refuse an operator.
    RevokeOperator {
        /// Whom.
        name: ShortName,
    },
    /// An agent connected.
    Greet {
        /// Whose.
        host: HostName,
        /// What it says of itself.
        hello: Hello,
        /// The plan on its disk.
        accepted_generation: u64,
    },
    /// An agent answered a plan.
    PlanResult {
        /// Whose.
        host: HostName,
        /// Which.
        generation: u64,
        /// Empty when it was stored.
        error: String,
    },
    /// An agent reported.
    Report {
        /// Whose.
        host: HostName,
        /// What.
        report: Box<HostReport>,
    },
    /// A certificate for tenants' host names was issued or uploaded.
    PutCertificate(Box<EdgeCertificate>),
    /// Forget one.
    RemoveCertificate {
        /// Which.
        name: String,
        /// For the event.
        why: String,
    },
    /// None could be had; no failures: nobody wants one any more.
    CertificateTrouble(Box<Trouble>),
    /// An account with the certificate authority was made.
    PutAcmeAccount(Box<AcmeAccount>),
    /// Domains for a tenant, or another primary among them.
    AddDomains(Box<AddDomains>),
    /// Take a domain away.
    RemoveDomain {
        /// From whom.
        name: TenantName,
        /// Which.
        domain: Domain,
        /// Idempotency key.
        request_id: Option<String>,
    },
    /// A domain does not lead to the edges any more.
    DomainUnreachable(Box<DomainTrouble>),
    /// It does again.
    DomainReachable {
        /// Which.
        domain: Domain,
        /// What DNS said.
        found: String,
    },
    /// Something to remember that changes nothing: a secret was read, a shell opened.
    Audit {
        /// Dotted kind.
        kind: EventKind,
        /// On whom.
        tenant: TenantName,
        /// For people.
        message: String,
    },
    /// Likewise, and it concerns no single tenant: an edge is down.
    Note {
        /// Dotted kind.
        kind: EventKind,
        /// For people.
        message: String,
    },
    /// The configuration was read.
    AdoptSettings,
    /// Time passed.
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

/// See [`Command::CreateTenant`].
#[derive(Debug, Clone)]
pub struct CreateTenant {
    /// Name.
    pub name: TenantName,
    /// Identity if it is new; `secrets` are sealed for it.
    pub uid: Uuid,
    /// Complete spec.
    pub spec: TenantSpec,
    /// Its plan's size.
    pub size: Size,
    /// Passwords if it is new.
    pub secrets: Sealed,
    /// Idempotency key.
    pub request_id: Option<String>,
    /// Apply the spec to an existing tenant.
    pub force: bool,
    /// Decide only.
    pub dry_run: bool,
}

/// See [`Command::SetAccess`]. What is not named stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessChange {
    /// In place of all networks.
    pub networks: Option<Vec<IpNet>>,
    /// All users go.
    pub remove_all_users: bool,
    /// These go.
    pub remove_users: Vec<String>,
    /// Then this one comes, or gets another password.
    pub put_user: Option<User>,
    /// In place of the rate; `Some(None)`: what holds for all.
    pub rate: Option<Option<Rate>>,
}

/// Somebody whom the edge lets in.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// Name.
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

/// See [`Command::AddDomains`].
#[derive(Debug, Clone)]
pub struct AddDomains {
    /// Whose they shall be.
    pub name: TenantName,
    /// Which; those that it has already stay.
    pub domains: Vec<Domain>,
    /// The first of them is the primary from now on; of none, the platform's own name.
    pub primary: bool,
    /// DNS was asked just now, and leads all of them here.
    pub checked: bool,
    /// Idempotency key.
    pub request_id: Option<String>,
}

/// See [`Command::Enroll`].
#[derive(Debug, Clone)]
pub struct Enroll {
    /// Public half.
    pub token_id: String,
    /// SHA-256 of the secret half, hex.
    pub secret_hash: String,
    /// Wanted name.
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
        /// Why there.
        decision: Box<Decision>,
        /// It was there already with this spec.
        existed: bool,
    },
    /// A dry run that found no host.
    NoHost(Box<Decision>),
    /// A tenant that was changed at once.
    Changed(Arc<Tenant>),
    /// Whose domains have changed, or were so already.
    Domains {
        /// As stored.
        tenant: Arc<Tenant>,
        /// Its host has something to do.
        operation: Option<Arc<Operation>>,
    },
    /// Long work.
    Operation(Arc<Operation>),
    /// A host.
    Host(Arc<Host>),
    /// An operator.
    Operator(Arc<Operator>),
    /// A certificate of tenants' host names.
    Certificate(Arc<EdgeCertificate>),
}
