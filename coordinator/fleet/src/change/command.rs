//! The commands that the Fleet accepts.
//!
//! Not here: what comes of one (outcome), how it is carried out (the other files of this folder).

use ipnet::IpNet;
use isyone_types::{
    backup::SnapshotName,
    generation::Generation,
    identity::{CertificateInfo, Identity, OperatorRole},
    ids::{HostName, ShortName, TenantName},
    plan::UnixMs,
    report::HostReport,
    spec::{Domain, ImageRef, LabelKey, Size, TenantSpec},
};
use uuid::Uuid;

use super::{
    backups::{AskForBackup, JudgedBackups, NewKey, RestoreTenant},
    certified::{Enroll, RenewOperator},
    reseal::Resealed,
    tenants::{SetMail, SetOdoo},
};
use crate::{
    backups::{ProofTurn, Turn},
    desired::{
        Certificate, Rate, Sealed, Token,
        certificates::{AcmeAccount, CertificateTrouble, EdgeCertificate},
        domains::DomainTrouble,
    },
    event::EventKind,
    observed::Hello,
};

/// What a command gets from outside: time, a fresh id, and the actor.
#[derive(Debug, Clone)]
pub struct Stamp {
    pub now: UnixMs,
    /// Milliseconds of a clock that nobody sets, and that goes on while the machine is suspended; from when it counts is of no meaning.
    pub steady: i64,
    /// Fresh UUIDv7, used if the command starts an operation.
    pub id: Uuid,
    /// Who asks: an operator's name, `host/<name>`, `visitor` or `coordinator`.
    pub actor: String,
}

/// The certificate with which somebody asks for another one, or for a token. It may be replaced between the moment when its owner was let
/// in and the moment when the command is carried out: then the command is refused, so that a thief gets nothing that lasts
/// longer. `None`: the coordinator itself asks.
pub type AskedWith = Option<Box<CertificateInfo>>;

/// Where a tenant is to move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whither {
    Host(HostName),
    /// From there to wherever there is most room.
    AwayFrom(HostName),
}

impl From<HostName> for Whither {
    fn from(host: HostName) -> Self {
        Self::Host(host)
    }
}

/// Everything that can change the state.
#[derive(Debug, Clone)]
pub enum Command {
    /// Place a new tenant, or find that it already exists.
    CreateTenant(Box<CreateTenant>),
    /// Restart Odoo; with `database` PostgreSQL, too. With `settings`, the tenant's own are written into the database before.
    RestartTenant {
        name: TenantName,
        database: bool,
        settings: bool,
        request_id: Option<String>,
    },
    /// Stop the containers and keep them.
    SuspendTenant {
        name: TenantName,
        request_id: Option<String>,
        /// Cancel the tenant's running operation first.
        cancel_running: bool,
    },
    /// Start a suspended tenant again.
    ResumeTenant {
        name: TenantName,
        request_id: Option<String>,
    },
    /// Start a sleeping tenant again; any other tenant is left alone.
    WakeTenant { name: TenantName },
    /// Give a tenant the size of another plan.
    ResizeTenant {
        name: TenantName,
        plan: ShortName,
        request_id: Option<String>,
    },
    /// Give a tenant other images of its edition; without any, those that the edition has now.
    UpgradeTenant {
        name: TenantName,
        odoo: Option<ImageRef>,
        postgres: Option<ImageRef>,
        request_id: Option<String>,
    },
    /// Change how a tenant's Odoo sends mail.
    SetMail(Box<SetMail>),
    /// Change settings of a tenant's Odoo.
    SetOdoo(Box<SetOdoo>),
    /// Put a tenant into quarantine; with `purge`, remove one that is in quarantine.
    DeleteTenant {
        name: TenantName,
        /// Remove the quarantined volumes now.
        purge: bool,
        request_id: Option<String>,
        /// Cancel the tenant's running operation first.
        cancel_running: bool,
    },
    /// Take a tenant to another host.
    MoveTenant {
        name: TenantName,
        to: Whither,
        /// It runs meanwhile, if it does, and pauses for so long at most, milliseconds. `None`: it is stopped for as long as copying
        /// takes.
        max_pause_ms: Option<u32>,
        request_id: Option<String>,
    },
    /// Keep a copy of a tenant up on another host, which may take over.
    AddStandby {
        name: TenantName,
        /// `None`: where there is most room.
        on: Option<HostName>,
        /// On a host that has another value of this label than the tenant's own.
        apart: Option<LabelKey>,
    },
    /// Remove that copy.
    RemoveStandby { name: TenantName },
    /// Make a tenant's standby on another host than this one.
    MoveStandby { name: TenantName, from: HostName },
    /// Have a tenant whose host is lost go on where its standby is.
    FailOver {
        name: TenantName,
        /// Somebody has made sure that the lost host runs it no more.
        is_down: bool,
        /// Where it has no standby, it is restored from its newest backup.
        from_backup: bool,
        request_id: Option<String>,
    },
    /// Delete a copy that was kept aside, before its time.
    DiscardCopy { name: TenantName, host: HostName },
    /// Bring a tenant back from a backup, as a new one or in its place.
    RestoreTenant(Box<RestoreTenant>),
    /// Put back what a tenant was before it was restored in its place.
    ReturnTenant {
        name: TenantName,
        request_id: Option<String>,
    },
    /// Take a tenant out of quarantine.
    UndeleteTenant {
        name: TenantName,
        request_id: Option<String>,
    },
    /// Change who the edge lets in to a tenant.
    SetAccess {
        name: TenantName,
        change: Box<AccessChange>,
    },
    /// Cancel an operation.
    CancelOperation { id: Uuid },
    /// Store a new join token.
    CreateToken {
        token: Box<Token>,
        asked_with: AskedWith,
    },
    /// Take a join token back before it is used.
    RevokeToken { id: String },
    /// An agent joins with a token.
    Enroll(Box<Enroll>),
    /// A host's certificate was renewed.
    RenewHost {
        host: HostName,
        certificate: Certificate,
        /// Serial numbers (hex) of those of the host that somebody is connected with: none of them gives way.
        in_use: Vec<String>,
        asked_with: AskedWith,
    },
    /// The owner of a certificate of which only the serial number is known has connected: its fingerprint is remembered.
    PinCertificate {
        identity: Identity,
        /// Hex, as in [`Certificate`].
        serial: String,
        sha256: String,
    },
    /// Close a host to new tenants, or open it again.
    CordonHost { host: HostName, cordoned: bool },
    /// Announce work on a host.
    BeginMaintenance {
        host: HostName,
        until: UnixMs,
        reason: String,
        /// They are not moved away.
        leaves_tenants: bool,
    },
    /// It is over.
    EndMaintenance { host: HostName },
    /// Let a host in that joined by a token for any name.
    ApproveHost { host: HostName },
    /// Forget an empty host.
    RemoveHost { host: HostName },
    /// An operator's certificate was signed.
    CreateOperator {
        name: ShortName,
        role: OperatorRole,
        certificate: Certificate,
        /// A revoked name is taken again; else it is refused.
        again: bool,
        asked_with: AskedWith,
    },
    /// An operator's certificate was signed that replaces those it has.
    RenewOperator(Box<RenewOperator>),
    /// An operator has come with its new certificate: refuse all its others.
    RetireCertificates {
        name: ShortName,
        /// The certificate that stays.
        keep: Box<CertificateInfo>,
    },
    /// Refuse all of an operator's certificates from now on.
    RevokeOperator { name: ShortName },
    /// An agent connected.
    Greet {
        host: HostName,
        hello: Hello,
        /// Generation of the plan on its disk.
        accepted_generation: Generation,
    },
    /// An agent stored or refused a plan.
    PlanResult {
        host: HostName,
        /// Generation of that plan.
        generation: Generation,
        /// Why it was refused; empty when it was stored.
        error: String,
    },
    /// An agent sent a report.
    Report {
        host: HostName,
        report: Box<HostReport>,
    },
    /// A certificate for tenants' host names was issued or uploaded.
    PutCertificate(Box<EdgeCertificate>),
    /// Forget a certificate.
    RemoveCertificate {
        name: String,
        /// Why, for the event.
        why: String,
    },
    /// Ordering a certificate failed; with 0 failures: the name is no longer wanted.
    CertificateTrouble(Box<CertificateTrouble>),
    /// An account with the certificate authority was created.
    PutAcmeAccount(Box<AcmeAccount>),
    /// Stored secrets were sealed by another key.
    Reseal(Vec<Resealed>),
    /// Tenants get keys for their backups.
    PutBackupKeys(Vec<NewKey>),
    /// These have their turn to be backed up.
    OrderBackups(Vec<Turn>),
    /// Nobody carries these orders out any more: the tenants' uids, and theirs.
    EndBackupOrders(Vec<(Uuid, Uuid)>),
    /// An operator wants backups now.
    AskForBackup(Box<AskForBackup>),
    /// A repository was pruned: these snapshots are no longer in it.
    SnapshotsForgotten {
        /// The tenant's uid.
        tenant: Uuid,
        destination: ShortName,
        names: Vec<SnapshotName>,
    },
    /// Nothing is left of the repositories of these tenants, by uid, whose keys are deleted.
    RepositoriesRemoved(Vec<Uuid>),
    /// These have their turn to be proven.
    OrderProofs(Vec<ProofTurn>),
    /// These repositories can be proven from now on: the tenants' uids, and destinations.
    ProofsBegin(Vec<(Uuid, ShortName)>),
    /// Nobody carries these proofs out any more: the tenants' uids, and theirs.
    EndProofOrders(Vec<(Uuid, Uuid)>),
    /// An operator wants the backups of these tenants to be proven now.
    AskForProofs(Vec<TenantName>),
    /// Whether tenants can be restored as was promised, of those where that has changed.
    BackupsJudged(Vec<JudgedBackups>),
    /// Add domains to a tenant, or make one of its domains the primary.
    AddDomains(Box<AddDomains>),
    /// Remove a domain from a tenant.
    RemoveDomain {
        name: TenantName,
        domain: Domain,
        request_id: Option<String>,
    },
    /// A domain no longer leads to the edges.
    DomainUnreachable(Box<DomainTrouble>),
    /// It leads to the edges again.
    DomainReachable {
        domain: Domain,
        /// What DNS said, for people.
        found: String,
    },
    /// All edges of these scopes (as in [`crate::shards::Shards::scopes`]) run these snapshots, or newer ones.
    EdgesRun { scopes: Vec<(usize, u64)> },
    /// Record an event that changes nothing: a secret was read, a shell was opened.
    Audit {
        kind: EventKind,
        tenant: TenantName,
        message: String,
    },
    /// Like `Audit`, but about no single tenant: an edge is down.
    Note {
        kind: EventKind,
        /// The host that it is about.
        host: Option<HostName>,
        message: String,
    },
    /// The coordinator has started: adopt its configuration.
    AdoptSettings,
    /// The state is an older one than hosts have seen, on purpose: make them take its plans.
    RaiseIncarnation,
    /// Time has passed: do what is due.
    Tick,
}

impl Command {
    /// The command in one word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::CreateTenant(_) => "create-tenant",
            Self::RestartTenant { .. } => "restart-tenant",
            Self::SuspendTenant { .. } => "suspend-tenant",
            Self::ResumeTenant { .. } => "resume-tenant",
            Self::WakeTenant { .. } => "wake-tenant",
            Self::ResizeTenant { .. } => "resize-tenant",
            Self::UpgradeTenant { .. } => "upgrade-tenant",
            Self::SetMail(_) => "set-mail",
            Self::SetOdoo(_) => "set-odoo",
            Self::DeleteTenant { .. } => "delete-tenant",
            Self::UndeleteTenant { .. } => "undelete-tenant",
            Self::MoveTenant { .. } => "move-tenant",
            Self::AddStandby { .. } => "add-standby",
            Self::FailOver { .. } => "fail-over",
            Self::DiscardCopy { .. } => "discard-copy",
            Self::RemoveStandby { .. } => "remove-standby",
            Self::MoveStandby { .. } => "move-standby",
            Self::RestoreTenant(_) => "restore-tenant",
            Self::ReturnTenant { .. } => "return-tenant",
            Self::EdgesRun { .. } => "edges-run",
            Self::SetAccess { .. } => "set-access",
            Self::CancelOperation { .. } => "cancel-operation",
            Self::CreateToken { .. } => "create-token",
            Self::RevokeToken { .. } => "revoke-token",
            Self::Enroll(_) => "enroll",
            Self::RenewHost { .. } => "renew-host",
            Self::PinCertificate { .. } => "pin-certificate",
            Self::CordonHost { .. } => "cordon-host",
            Self::BeginMaintenance { .. } => "begin-maintenance",
            Self::EndMaintenance { .. } => "end-maintenance",
            Self::ApproveHost { .. } => "approve-host",
            Self::RemoveHost { .. } => "remove-host",
            Self::CreateOperator { .. } => "create-operator",
            Self::RenewOperator(_) => "renew-operator",
            Self::RetireCertificates { .. } => "retire-certificates",
            Self::RevokeOperator { .. } => "revoke-operator",
            Self::Greet { .. } => "greet",
            Self::PlanResult { .. } => "plan-result",
            Self::Report { .. } => "report",
            Self::PutCertificate(_) => "put-certificate",
            Self::RemoveCertificate { .. } => "remove-certificate",
            Self::CertificateTrouble(_) => "certificate-trouble",
            Self::PutAcmeAccount(_) => "put-acme-account",
            Self::Reseal(_) => "reseal",
            Self::PutBackupKeys(_) => "put-backup-keys",
            Self::OrderBackups(_) => "order-backups",
            Self::EndBackupOrders(_) => "end-backup-orders",
            Self::AskForBackup(_) => "ask-for-backup",
            Self::SnapshotsForgotten { .. } => "snapshots-forgotten",
            Self::RepositoriesRemoved(_) => "repositories-removed",
            Self::OrderProofs(_) => "order-proofs",
            Self::ProofsBegin(_) => "proofs-begin",
            Self::EndProofOrders(_) => "end-proof-orders",
            Self::AskForProofs(_) => "ask-for-proofs",
            Self::BackupsJudged(_) => "backups-judged",
            Self::AddDomains(_) => "add-domains",
            Self::RemoveDomain { .. } => "remove-domain",
            Self::DomainUnreachable(_) => "domain-unreachable",
            Self::DomainReachable { .. } => "domain-reachable",
            Self::Audit { .. } => "audit",
            Self::Note { .. } => "note",
            Self::AdoptSettings => "adopt-settings",
            Self::RaiseIncarnation => "raise-incarnation",
            Self::Tick => "tick",
        }
    }

    /// [`Command::PinCertificate`] for the certificate that somebody has connected with.
    pub fn pin(shown: CertificateInfo) -> Self {
        Self::PinCertificate {
            serial: shown.serial_hex(),
            sha256: shown.sha256_hex(),
            identity: shown.identity,
        }
    }

    /// The tenant that the command names, if any.
    pub fn tenant(&self) -> Option<&TenantName> {
        match self {
            Self::CreateTenant(create) => Some(&create.name),
            Self::RestoreTenant(restore) => Some(&restore.name),
            Self::AddDomains(add) => Some(&add.name),
            Self::SetMail(set) => Some(&set.name),
            Self::SetOdoo(set) => Some(&set.name),
            Self::RestartTenant { name, .. }
            | Self::SuspendTenant { name, .. }
            | Self::ResumeTenant { name, .. }
            | Self::WakeTenant { name }
            | Self::ResizeTenant { name, .. }
            | Self::UpgradeTenant { name, .. }
            | Self::DeleteTenant { name, .. }
            | Self::UndeleteTenant { name, .. }
            | Self::ReturnTenant { name, .. }
            | Self::MoveTenant { name, .. }
            | Self::AddStandby { name, .. }
            | Self::FailOver { name, .. }
            | Self::RemoveStandby { name }
            | Self::MoveStandby { name, .. }
            | Self::DiscardCopy { name, .. }
            | Self::SetAccess { name, .. }
            | Self::RemoveDomain { name, .. }
            | Self::Audit { tenant: name, .. } => Some(name),
            _ => None,
        }
    }
}

/// Arguments of [`Command::CreateTenant`].
#[derive(Debug, Clone)]
pub struct CreateTenant {
    pub name: TenantName,
    /// Its uid if it is new; `secrets` are sealed for it.
    pub uid: Uuid,
    pub spec: TenantSpec,
    /// Size of the spec's plan.
    pub size: Size,
    /// Its passwords if it is new, sealed.
    pub secrets: Sealed,
    pub request_id: Option<String>,
    /// If the tenant exists, apply the spec to it.
    pub force: bool,
    /// Only decide; change nothing.
    pub dry_run: bool,
}

/// What [`Command::SetAccess`] changes. Fields that are not set stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessChange {
    /// Replaces the whole list of networks.
    pub networks: Option<Vec<IpNet>>,
    pub remove_all_users: bool,
    pub remove_users: Vec<String>,
    /// Added after the removals. An existing user gets the new password.
    pub put_user: Option<User>,
    /// A rate of the tenant's own; `Some(None)`: back to the default.
    pub rate: Option<Option<Rate>>,
}

/// A user whom the edge lets in.
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

/// Arguments of [`Command::AddDomains`].
#[derive(Debug, Clone)]
pub struct AddDomains {
    pub name: TenantName,
    /// Domains to add; ones that the tenant already has stay.
    pub domains: Vec<Domain>,
    /// Make the first of them the primary; if there is none, the platform name.
    pub primary: bool,
    /// DNS was just checked, and all of them lead to the edges.
    pub checked: bool,
    pub request_id: Option<String>,
}
