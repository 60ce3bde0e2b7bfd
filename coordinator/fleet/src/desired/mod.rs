//! The Fleet: the one value that the coordinator keeps. What operators want (tenants, hosts, operations, tokens,
//! operators), as it is stored, with indexes that are computed from it.
//!
//! Persistent maps throughout: a clone is a snapshot and costs a few pointers, whatever the fleet's size.
//! Not here: how it changes (change), how the indexes are kept true (index), and what hosts report (observed).

pub mod certificates;
pub mod domains;
mod index;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use imbl::{OrdMap, OrdSet, ordmap::DiffItem};
use ipnet::{IpNet, Ipv4Net};
use isyone_types::{
    identity::{CertificateInfo, Identity, OperatorRole},
    ids::{HostName, ShortName, TenantName},
    plan::{DesiredState, UnixMs},
    spec::{Domain, LabelKey, LabelValue, Size, TenantSpec},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::index::HostIndex;
use crate::{event::Event, operation::Operation};

/// Sealed bytes, base64 in JSON so that a record stays readable.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(pub String);

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[sealed]")
    }
}

/// Where a tenant runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantPlacement {
    pub host: HostName,
    /// Rises with each move; an agent never starts a lower one than it has seen.
    pub epoch: u64,
    /// The tenant's network there.
    pub subnet: Ipv4Net,
    /// Published port of Odoo's HTTP server.
    pub http_port: u16,
    /// Published port of Odoo's gevent server.
    pub websocket_port: u16,
    /// Why this host, in one sentence.
    pub reason: String,
    /// When it was chosen.
    pub at: UnixMs,
}

/// One customer, as wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    pub name: TenantName,
    /// Identity across re-creation of the name.
    pub uid: Uuid,
    /// What was asked for, with nothing left to defaults.
    pub spec: TenantSpec,
    /// The plan's size at the time it was asked for: a changed configuration resizes nobody.
    pub size: Size,
    /// What it shall be.
    pub desired: DesiredState,
    /// Rises with each change of what its host must do.
    pub generation: u64,
    pub placement: TenantPlacement,
    /// When it first converged. From then on its route stays, whatever is (not) reported.
    pub activated_at: Option<UnixMs>,
    /// Restarts of Odoo asked for so far.
    pub odoo_restarts: u64,
    /// Restarts of PostgreSQL asked for so far.
    pub postgres_restarts: u64,
    /// Its passwords, sealed for its `uid`.
    pub secrets: Sealed,
    /// When it was asked for.
    pub created_at: UnixMs,
    /// The newest operation on it.
    pub operation: Uuid,
    /// While deleted: its volumes live until then.
    pub quarantine_until: Option<UnixMs>,
    /// An operator asked for the removal of its volumes before that.
    pub purge_now: bool,
    /// The one of its domains that browsers are sent to; none: the platform's name, and nobody is sent anywhere.
    #[serde(default)]
    pub primary: Option<Domain>,
    /// Who gets in.
    #[serde(default)]
    pub access: VisitorAccess,
    /// Suspended because nobody used it, since then: the next visitor wakes it.
    #[serde(default)]
    pub asleep_since: Option<UnixMs>,
    /// When it fell asleep last: when somebody had last used it before; none: nobody ever did, as far as is known.
    #[serde(default)]
    pub last_active_at: Option<UnixMs>,
    /// When it was last woken, resumed or restored; none: not since it was created.
    #[serde(default)]
    pub started_at: Option<UnixMs>,
}

/// Who gets in to a tenant, at the edge. The default is everybody.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VisitorAccess {
    /// Only clients with these addresses; empty: all.
    #[serde(default)]
    pub addresses: Vec<IpNet>,
    /// Only who knows one of these, `name:hash` with a bcrypt hash; empty: nobody is asked.
    #[serde(default)]
    pub users: Vec<String>,
    /// In place of what the configuration says for all.
    #[serde(default)]
    pub rate: Option<Rate>,
}

impl VisitorAccess {
    /// Whether everybody gets in.
    pub fn is_open(&self) -> bool {
        self.addresses.is_empty() && self.users.is_empty()
    }
}

/// Requests from one client address to one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Requests per second, on average.
    pub average: u32,
    /// Requests that may come at once.
    pub burst: u32,
}

/// A certificate that was issued and is still accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Serial number, hex.
    pub serial: String,
    /// End of validity, seconds since the Unix epoch.
    pub not_after: i64,
}

/// A machine with an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Name, also in its certificate.
    pub name: HostName,
    /// Identity across re-joining.
    pub uid: Uuid,
    /// Where edges reach its tenants.
    pub advertise: IpAddr,
    /// What specs may ask of a host.
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Gets no new tenants.
    pub cordoned: bool,
    /// Rises with each change of its plan.
    pub plan_generation: u64,
    /// When it joined.
    pub joined_at: UnixMs,
    /// Accepted certificates, newest last; at most [`MAX_CERTIFICATES`].
    pub certificates: Vec<Certificate>,
}

/// The present certificate, the one being renewed, and slack for a lost answer.
pub const MAX_CERTIFICATES: usize = 4;

/// A join token. Only the hash of its secret is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Public half of the token, its name in logs.
    pub id: String,
    /// SHA-256 of the secret half, hex.
    pub secret_hash: String,
    /// The only name it may be used for.
    pub host: Option<HostName>,
    /// Labels that the host gets.
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Good until then.
    pub expires_at: UnixMs,
    /// The host that used it up.
    pub used_by: Option<HostName>,
}

/// Somebody with a client certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// Name, also in the certificate.
    pub name: ShortName,
    /// What they may do.
    pub role: OperatorRole,
    /// When its first certificate was made.
    pub created_at: UnixMs,
    /// Refused, whatever certificate is shown.
    pub revoked: bool,
    /// Certificates that are accepted, newest last; at most [`crate::change::MAX_OPERATOR_CERTIFICATES`].
    pub certificates: Vec<Certificate>,
}

/// Ended operations that are remembered: a year of a busy small fleet, a few MB.
pub const MAX_OPERATIONS: usize = 10_000;
/// Events that are remembered.
pub const MAX_EVENTS: usize = 10_000;

/// Everything that is wanted.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    /// Tenants, deleted ones until they are purged.
    pub tenants: OrdMap<TenantName, Arc<Tenant>>,
    pub hosts: OrdMap<HostName, Arc<Host>>,
    /// Operations, oldest first; bounded by [`MAX_OPERATIONS`].
    pub operations: OrdMap<Uuid, Arc<Operation>>,
    /// Join tokens until they expire.
    pub tokens: OrdMap<String, Arc<Token>>,
    /// Operators, revoked ones too.
    pub operators: OrdMap<ShortName, Arc<Operator>>,
    /// Certificates of tenants' host names, by name.
    pub certificates: OrdMap<String, Arc<certificates::EdgeCertificate>>,
    /// Host names for which no certificate could be had.
    pub certificate_troubles: OrdMap<String, Arc<certificates::CertificateTrouble>>,
    /// Tenants' domains that do not lead to the edges any more, by name.
    pub domain_troubles: OrdMap<String, Arc<domains::DomainTrouble>>,
    /// The account with the certificate authority.
    pub acme_account: Option<Arc<certificates::AcmeAccount>>,
    /// The newest events, oldest first; bounded by [`MAX_EVENTS`].
    pub events: imbl::Vector<Arc<Event>>,
    /// Sequence of the newest event ever.
    pub last_event: u64,
    /// [`crate::settings::Settings::plan_digest`] that all plans were last rendered with.
    pub plan_digest: String,
    /// Computed: what is placed on each host; hosts without tenants are not in it.
    pub by_host: OrdMap<HostName, HostIndex>,
    /// Computed: which tenant owns a host name (customers' domains; platform names follow from tenant names).
    pub by_domain: OrdMap<String, TenantName>,
    /// Computed: idempotency keys of known operations.
    pub by_request: OrdMap<String, Uuid>,
    /// Computed: operations that have ended, oldest first.
    pub ended: OrdSet<Uuid>,
    /// Computed: tenants in quarantine by its end.
    pub quarantines: OrdSet<(UnixMs, TenantName)>,
}

/// Why a certificate is refused although our CA signed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Removed, or never joined here.
    #[error("no such host")]
    UnknownHost,
    /// Removed, or never made here.
    #[error("no such operator")]
    UnknownOperator,
    /// Revoked or replaced.
    #[error("certificate revoked")]
    Revoked,
    /// The role in the certificate is not the operator's.
    #[error("certificate carries another role")]
    OtherRole,
}

impl Fleet {
    /// Whether the owner of a certificate may talk to us. An allow-list: only serials that we remember are accepted.
    pub fn admits(&self, certificate: &CertificateInfo) -> Result<(), Refusal> {
        let known = |list: &[Certificate]| {
            let serial = hex::encode(&certificate.serial);
            if list.iter().any(|c| c.serial == serial) {
                Ok(())
            } else {
                Err(Refusal::Revoked)
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
    /// Whether a certificate may be refused now that was accepted `before`. Looks at what changed, not at what there is; a host's
    /// record changes with each change of a tenant.
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
        // Operators change a few times a day.
        !self.operators.ptr_eq(&before.operators)
            || before.hosts.diff(&self.hosts).any(host_lost_one)
    }
}

impl Tenant {
    /// Whether memory and CPU are kept free for it. Suspended tenants keep their place: resume must not fail.
    pub fn reserves_compute(&self) -> bool {
        matches!(
            self.desired,
            DesiredState::Running | DesiredState::Suspended
        )
    }

    /// Deleted, in the eyes of operators.
    pub fn is_deleted(&self) -> bool {
        matches!(
            self.desired,
            DesiredState::Quarantined | DesiredState::Purged
        )
    }

    /// The platform's own name for it, which it always has.
    pub fn platform_name(&self, base_domain: &str) -> String {
        format!("{}.{base_domain}", self.name)
    }

    /// The host name that Odoo calls its own.
    pub fn primary_name(&self, base_domain: &str) -> String {
        self.primary
            .as_ref()
            .map_or_else(|| self.platform_name(base_domain), ToString::to_string)
    }

    /// All host names that lead to it, the platform's first.
    pub fn hostnames(&self, base_domain: &str) -> Vec<String> {
        std::iter::once(self.platform_name(base_domain))
            .chain(self.spec.domains.iter().map(ToString::to_string))
            .collect()
    }
}
