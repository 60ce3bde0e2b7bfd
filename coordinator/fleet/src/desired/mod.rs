//! The Fleet: the one value that the coordinator keeps. It holds the desired state (tenants, hosts, operations, tokens,
//! operators) as it is stored, and indexes computed from it.
//!
//! Persistent maps throughout: a clone is a snapshot and costs a few pointers, whatever the fleet's size.
//! Not here: how it changes (change), how the indexes are kept true (index), and what hosts report (observed).

pub mod backups;
pub mod certificates;
mod copies;
pub mod domains;
mod index;
mod maintenance;
mod standby;
mod stragglers;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use imbl::{OrdMap, OrdSet, ordmap::DiffItem};
use ipnet::IpNet;
use isyone_types::{
    generation::Generation,
    identity::{CertificateInfo, Identity, OperatorRole},
    ids::{HostName, ShortName, TenantName},
    mail::Mail,
    odoo::OdooSettings,
    plan::{ImagesAsked, Lifecycle, UnixMs},
    spec::{Domain, LabelKey, LabelValue, Size, TenantSpec},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::{
    copies::{CopyRole, MAX_COPIES, TenantBefore, TenantCopy, TenantPlacement},
    index::HostIndex,
    maintenance::Maintenance,
    standby::Standby,
    stragglers::Stragglers,
};
use crate::{event::EventLog, operation::Operation};

/// Sealed bytes, as base64 so that a JSON record stays readable.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(pub Box<str>);

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[sealed]")
    }
}

/// One customer's tenant, as wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    pub name: TenantName,
    /// Identity; a tenant created again under the same name gets another.
    pub uid: Uuid,
    /// The requested spec, with nothing left to defaults.
    pub spec: TenantSpec,
    /// The plan's size when it was requested: a change of the configuration resizes no existing tenant.
    pub size: Size,
    pub desired: Lifecycle,
    /// Rises with each change to what its host must do.
    pub generation: u64,
    pub placement: TenantPlacement,
    /// When it first converged. From then on it keeps its route, whatever hosts report or fail to report.
    pub activated_at: Option<UnixMs>,
    /// Number of restarts of Odoo requested so far.
    pub odoo_restarts: u64,
    /// Number of restarts of PostgreSQL requested so far.
    pub postgres_restarts: u64,
    /// How often its settings were asked to be written anew so far.
    #[serde(default, skip_serializing_if = "isyone_types::plan::is_default")]
    pub settings_asked: u64,
    /// When its images were last asked for anew.
    #[serde(default, skip_serializing_if = "ImagesAsked::is_never")]
    pub images_asked: ImagesAsked,
    /// How its Odoo sends mail; `None`: as its plan or the fleet does. The password is among its secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<Box<Mail>>,
    /// Settings of its Odoo, in place of its plan's and the fleet's.
    #[serde(default, skip_serializing_if = "OdooSettings::is_empty")]
    pub odoo: OdooSettings,
    /// Its passwords, sealed for its `uid`.
    pub secrets: Sealed,
    pub created_at: UnixMs,
    /// The newest operation on it.
    pub operation: Uuid,
    /// Set while it is deleted: its volumes are kept until then.
    pub quarantine_until: Option<UnixMs>,
    /// Its quarantine does not end by itself, whatever the time: the coordinator was rebuilt from an older state, which may not
    /// know that somebody has brought the tenant back. Until an operator decides.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quarantine_held: bool,
    /// An operator asked to remove its volumes before that.
    pub purge_now: bool,
    /// The one of its domains that browsers are redirected to. `None`: its platform name is the primary, and nobody is
    /// redirected.
    #[serde(default)]
    pub primary: Option<Domain>,
    #[serde(default)]
    pub access: VisitorAccess,
    /// Since when it sleeps: it was suspended because nobody used it, and the next visitor wakes it.
    #[serde(default)]
    pub asleep_since: Option<UnixMs>,
    /// Recorded when it last fell asleep: when a user had last been active before that. `None`: never, as is known.
    #[serde(default)]
    pub last_active_at: Option<UnixMs>,
    /// When it was last woken, resumed or undeleted; `None`: not since it was created.
    #[serde(default)]
    pub started_at: Option<UnixMs>,
    /// Its copies on other hosts; at most [`MAX_COPIES`], each on a host of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<TenantCopy>,
    /// An operation has stopped it for the time being, although it should run.
    #[serde(default)]
    pub halted: bool,
    /// Set while it is halted: for how long its requests are held at most, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_ms: Option<u32>,
    /// The highest epoch that a copy of it ever had, also one that is forgotten since: the host that had it refuses lower
    /// ones. 0 in records of before: then the copies' own count.
    #[serde(default)]
    pub last_epoch: u64,
    /// The restore that fills it from a backup. Until it has run once, that is where its data comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_backup: Option<Uuid>,
    /// What it was before it was last restored in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<TenantBefore>,
    /// Since when it does not run, by anybody's wish; `None` while it should, and in records of a version before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rests_since: Option<UnixMs>,
}

/// Who the edge lets in to a tenant. The default is everybody.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VisitorAccess {
    /// Only clients with these addresses are let in; empty: all.
    #[serde(default)]
    pub addresses: Box<[IpNet]>,
    /// Only users with one of these passwords are let in: `name:hash` with a bcrypt hash. Empty: no password prompt.
    #[serde(default)]
    pub users: Vec<String>,
    /// Rate limit in place of the configured default.
    #[serde(default)]
    pub rate: Option<Rate>,
}

impl VisitorAccess {
    /// Whether everybody is let in.
    pub fn is_open(&self) -> bool {
        self.addresses.is_empty() && self.users.is_empty()
    }
}

/// Rate limit for requests from one client address to one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Requests per second, on average.
    pub average: u32,
    /// Requests that may come at once, before `average` limits them.
    pub burst: u32,
}

/// A certificate that was issued and is still accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Serial number, hex.
    pub serial: String,
    /// End of validity, seconds since the Unix epoch.
    pub not_after: i64,
    /// SHA-256 of the whole certificate as DER, hex. Empty in records of a version before, until its owner connects.
    #[serde(default)]
    pub sha256: String,
    /// The `sha256` of the operator's certificate with which it was asked for. `None` when somebody else asked, and in records of a
    /// version before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<String>,
}

impl Certificate {
    /// Whether this is the very certificate that is meant.
    pub(crate) fn is(&self, shown: &CertificateInfo) -> bool {
        self.serial == shown.serial_hex()
            && (self.sha256.is_empty() || self.sha256 == shown.sha256_hex())
    }
}

/// How a certificate was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// By its fingerprint.
    Certain,
    /// By name and serial number alone, as a version before recorded no more. See [`crate::change::Command::PinCertificate`].
    BySerial,
}

/// A machine with an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Name, also in its certificate.
    pub name: HostName,
    /// Identity; a host that joins again under the same name keeps it.
    pub uid: Uuid,
    /// Where edges reach its tenants.
    pub advertise: IpAddr,
    /// Labels that specs may require.
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Gets no new tenants.
    pub cordoned: bool,
    /// Announced work on it, while there is some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
    /// It joined by a token that names no host, and no admin has approved it yet: it gets no tenant and no plan. Hosts
    /// in records of a version before are approved.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// Its agent makes backups: one of a version before is ordered none. Stored because plans depend on it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub makes_backups: bool,
    /// Likewise, it proves backups.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proves_backups: bool,
    /// Not heard since the coordinator was rebuilt: until then its plan's number stands still, so that it cannot pass the host's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unheard: bool,
    /// Rises with each change to its plan.
    pub plan_generation: Generation,
    pub joined_at: UnixMs,
    /// Accepted certificates, newest last; at most [`MAX_CERTIFICATES`].
    pub certificates: Vec<Certificate>,
}

/// Room for the current certificate, the one being issued in a renewal, and some slack for lost answers.
pub const MAX_CERTIFICATES: usize = 4;

/// A join token. Only the hash of its secret is stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Token {
    /// Public half of the token, its name in logs.
    pub id: String,
    /// SHA-256 of the secret half, hex.
    pub secret_hash: String,
    /// The only host name that it may be used for; `None`: any.
    pub host: Option<HostName>,
    /// Labels that the host gets on joining.
    pub labels: BTreeMap<LabelKey, LabelValue>,
    pub expires_at: UnixMs,
    /// The host that joined with it.
    pub used_by: Option<HostName>,
    /// It is taken from these networks only; empty: from anywhere.
    #[serde(default)]
    pub networks: Vec<IpNet>,
    /// The host is the coordinator's own machine, and may advertise its addresses.
    #[serde(default)]
    pub same_machine: bool,
    /// When it was made; 0 in records of a version before.
    #[serde(default)]
    pub created_at: UnixMs,
    /// Who made it; empty in records of a version before.
    #[serde(default)]
    pub created_by: String,
}

/// Most networks that one token may be bound to.
pub const MAX_TOKEN_NETWORKS: usize = 16;

/// A person or program with a client certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// Name, also in the certificate.
    pub name: ShortName,
    pub role: OperatorRole,
    /// When the first certificate was issued.
    pub created_at: UnixMs,
    /// All of its certificates are refused.
    pub revoked: bool,
    /// Accepted certificates, newest last; at most [`crate::change::MAX_OPERATOR_CERTIFICATES`].
    pub certificates: Vec<Certificate>,
}

/// Ended operations to remember: a year of a busy small fleet, a few MB.
pub const MAX_OPERATIONS: usize = 10_000;

/// The whole desired state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fleet {
    /// Tenants; deleted ones until they are purged.
    pub tenants: OrdMap<TenantName, Arc<Tenant>>,
    pub hosts: OrdMap<HostName, Arc<Host>>,
    /// Operations, oldest first; bounded by [`MAX_OPERATIONS`].
    pub operations: OrdMap<Uuid, Arc<Operation>>,
    /// Join tokens until they expire.
    pub tokens: OrdMap<String, Arc<Token>>,
    /// Operators, including revoked ones.
    pub operators: OrdMap<ShortName, Arc<Operator>>,
    /// Certificates of tenants' host names, by name.
    pub certificates: OrdMap<String, Arc<certificates::EdgeCertificate>>,
    /// Host names whose certificate order has failed so far.
    pub certificate_troubles: OrdMap<String, Arc<certificates::CertificateTrouble>>,
    /// Tenants' domains that no longer lead to the edges, by name.
    pub domain_troubles: OrdMap<String, Arc<domains::DomainTrouble>>,
    /// The account with the certificate authority.
    pub acme_account: Option<Arc<certificates::AcmeAccount>>,
    /// The newest events; bounded by [`crate::event::MAX_EVENTS`].
    pub events: EventLog,
    /// Sequence number of the newest event ever.
    pub last_event: u64,
    /// The [`crate::settings::Settings::plan_digest`] under which plans have their current generations.
    pub plan_digest: String,
    /// How often this state was rebuilt from an older one: the incarnation of all plans' generations.
    pub incarnation: u16,
    /// The highest generation of a host that was removed. One that joins starts above it: it may be the same machine,
    /// whose agent still has that plan.
    pub retired_generation: Generation,
    /// Keys of tenants' backups, by the tenant's uid; until the time of what was kept of it is over.
    pub backup_keys: OrdMap<Uuid, Arc<backups::BackupKey>>,
    /// What was backed up, by the tenant's uid; as long as there is a key.
    pub backups: OrdMap<Uuid, Arc<backups::TenantBackups>>,
    /// Computed: what is placed on each host; hosts without tenants are not in it.
    pub by_host: OrdMap<HostName, HostIndex>,
    /// Computed: which tenant owns a host name (only customers' domains; platform names follow from tenant names).
    pub by_domain: OrdMap<String, TenantName>,
    /// Computed: idempotency keys of known operations.
    pub by_request: OrdMap<String, Uuid>,
    /// Computed: operations that have ended, in the order in which they did.
    pub ended: OrdSet<(UnixMs, Uuid)>,
    /// Computed: operations under way, oldest first.
    pub running: OrdSet<Uuid>,
    /// Computed: moves that keep their tenants stopped in order to copy them, by each of their two hosts.
    pub copying: OrdSet<(HostName, Uuid)>,
    /// Computed: tenants with a fenced copy, ordered by the time when the first of them is to go. Not those that are deleted:
    /// their copies stay until they are brought back, or purged.
    pub fenced: OrdSet<(UnixMs, TenantName)>,
    /// Computed: tenants with a standby.
    pub standbys: OrdSet<TenantName>,
    /// Computed: tenants in quarantine, ordered by its end; not those that are held.
    pub quarantines: OrdSet<(UnixMs, TenantName)>,
    /// Computed: keys of backups of tenants that are gone, ordered by the time when they are deleted.
    pub key_ends: OrdSet<(UnixMs, Uuid)>,
    /// Computed: proofs under way, by their host and the tenant's uid.
    pub proving: OrdSet<(HostName, Uuid)>,
}

/// Why a certificate is refused although our CA signed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The host was removed, or never joined.
    #[error("no such host")]
    UnknownHost,
    /// The operator was removed, or never existed.
    #[error("no such operator")]
    UnknownOperator,
    /// The certificate was revoked or replaced.
    #[error("certificate revoked")]
    Revoked,
    /// It bears the serial number of another certificate. Somebody else has the CA's key.
    #[error(
        "not the certificate that was issued under its serial number: the CA's key may be stolen"
    )]
    Forged,
    /// The role in the certificate is not the operator's.
    #[error("certificate carries another role")]
    OtherRole,
}

impl Fleet {
    /// Whether the owner of a certificate may connect. An allow-list: only certificates in the Fleet are accepted, so that
    /// not even whoever has the CA's key can make one.
    pub fn admits(&self, certificate: &CertificateInfo) -> Result<Admission, Refusal> {
        let known = |list: &[Certificate]| {
            let known = list.iter().find(|known| known.is(certificate));
            let serial = certificate.serial_hex();
            match known {
                Some(known) if known.sha256.is_empty() => Ok(Admission::BySerial),
                Some(_) => Ok(Admission::Certain),
                None if list.iter().any(|known| known.serial == serial) => Err(Refusal::Forged),
                None => Err(Refusal::Revoked),
            }
        };
        match &certificate.identity {
            Identity::Agent(host) => known(
                &self
                    .hosts
                    .get(host)
                    .ok_or(Refusal::UnknownHost)?
                    .certificates,
            ),
            Identity::Operator(name, role) => {
                let operator = self.operators.get(name).ok_or(Refusal::UnknownOperator)?;
                if operator.revoked {
                    return Err(Refusal::Revoked);
                }
                if operator.role != *role {
                    return Err(Refusal::OtherRole);
                }
                known(&operator.certificates)
            }
            Identity::Coordinator => Err(Refusal::UnknownOperator),
        }
    }
}

impl Fleet {
    /// Whether some certificate that was accepted `before` may be refused now. Looks only at what changed between the
    /// two; hosts' records change with every change of a tenant.
    pub fn withdrew_since(&self, before: &Self) -> bool {
        let host_lost_one = |item: DiffItem<'_, '_, HostName, Arc<Host>>| match item {
            DiffItem::Add(..) => false,
            DiffItem::Remove(..) => true,
            DiffItem::Update {
                old: (_, old),
                new: (_, new),
            } => !old
                .certificates
                .iter()
                .all(|certificate| new.certificates.contains(certificate)),
        };
        // Operators change a few times a day, so any change of theirs counts.
        !self.operators.ptr_eq(&before.operators)
            || before.hosts.diff(&self.hosts).any(host_lost_one)
    }
}

impl Tenant {
    /// Its copy on a host: the place, and its role unless it is the one that lives.
    pub fn copy_on(&self, host: &HostName) -> Option<(&TenantPlacement, Option<&CopyRole>)> {
        if self.placement.host == *host {
            return Some((&self.placement, None));
        }
        let copy = self.copies.iter().find(|copy| copy.place.host == *host)?;
        Some((&copy.place, Some(&copy.role)))
    }

    /// Its place on a host, whatever its role.
    pub fn place_on(&self, host: &HostName) -> Option<&TenantPlacement> {
        self.copy_on(host).map(|(place, _)| place)
    }

    /// All its places, with their roles; the one where it lives first.
    pub fn places(&self) -> impl Iterator<Item = (&TenantPlacement, Option<&CopyRole>)> {
        let others = self.copies.iter();
        std::iter::once((&self.placement, None))
            .chain(others.map(|copy| (&copy.place, Some(&copy.role))))
    }

    /// When its first fenced copy is to go, if it has one.
    pub fn fenced_until(&self) -> Option<UnixMs> {
        let ends = self.copies.iter().filter_map(|copy| match copy.role {
            CopyRole::Fenced { until } => until,
            CopyRole::Incoming | CopyRole::Discarded | CopyRole::Standby(_) => None,
        });
        ends.min()
    }

    /// Whether a restore is under way that fills its volumes.
    pub fn is_being_filled(&self) -> bool {
        self.halted && self.from_backup == Some(self.operation)
    }

    /// Whether memory and CPU are reserved for it. Suspended tenants keep theirs, so that resume cannot fail.
    pub fn reserves_compute(&self) -> bool {
        matches!(self.desired, Lifecycle::Running | Lifecycle::Suspended)
    }

    /// Whether operators see it as deleted.
    pub fn is_deleted(&self) -> bool {
        matches!(self.desired, Lifecycle::Quarantined | Lifecycle::Purged)
    }

    /// The host name under the base domain, which every tenant has.
    pub fn platform_name(&self, base_domain: &str) -> String {
        format!("{}.{base_domain}", self.name)
    }

    /// The host name that Odoo uses as its own.
    pub fn primary_name(&self, base_domain: &str) -> String {
        self.primary
            .as_ref()
            .map_or_else(|| self.platform_name(base_domain), ToString::to_string)
    }

    /// All host names that lead to it, the platform name first.
    pub fn hostnames(&self, base_domain: &str) -> Vec<String> {
        std::iter::once(self.platform_name(base_domain))
            .chain(self.spec.domains.iter().map(ToString::to_string))
            .collect()
    }
}
