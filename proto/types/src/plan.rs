//! What a host must run: the checked form of `isyone.agent.v1.Plan` and its parts.
//!
//! The agent stores a [`HostPlan`] on disk as JSON; [`HostPlan::digest`] covers that. Not here: how it is made (isyone-fleet's views).

use std::{fmt, net::IpAddr};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{
    backup::BackupPlan,
    generation::Generation,
    ids::{HostName, TenantName},
    mail::Mail,
    network::{DnsName, MailRelay, NetworkPolicy},
    odoo::OdooSettings,
    spec::{Collation, Country, ImageRef, Language, Login, Module, Size, TimeZone},
};
pub use crate::{
    callers::Callers,
    jobs::{JobOrder, JobWork, MAX_JOBS_PER_HOST, MAX_STANDBYS_PER_HOST},
    lease::Lease,
};

/// Milliseconds since the Unix epoch, UTC.
pub type UnixMs = i64;

/// Raise this when plans are rendered differently or get new fields. An upgraded coordinator then gives all plans new
/// generations, so an upgraded agent takes them again in full: its predecessor kept only the fields that it knew.
pub const PLAN_FORMAT: u32 = 11;

/// Everything that one host must run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPlan {
    /// Rises with each change; agents refuse a lower one.
    pub generation: Generation,
    /// Sorted by name, each once.
    pub tenants: Vec<TenantPlan>,
    /// The host's packet filter.
    pub firewall: Firewall,
    /// Long work beside keeping tenants as planned. Sorted by id, each once. A job that is no longer here is cancelled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<JobOrder>,
    /// Which other hosts may fetch which tenants' data from this one. Sorted by operation, tenant and peer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<PeerGrant>,
}

impl HostPlan {
    /// SHA-256 over the canonical JSON, hex. Equal plans have equal digests.
    pub fn digest(&self) -> String {
        // Serialising our own plain structs cannot fail: no maps with non-string keys, no foreign impls.
        let json = serde_json::to_vec(self).unwrap_or_default();
        hex::encode(Sha256::digest(json))
    }
}

/// Who may reach what on a host: the input for its packet filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firewall {
    /// The range that contains all tenants' networks.
    pub tenant_range: Ipv4Net,
    /// First port on which tenants' containers are published.
    pub first_port: u16,
    /// Last such port.
    pub last_port: u16,
    /// Addresses of the edges: from outside the host, only they reach published ports.
    pub edges: Vec<IpNet>,
    /// Ports on the host's own addresses that tenants may reach.
    pub edge_ports: Vec<u16>,
    /// Control plane addresses, closed to tenants.
    pub protected_addresses: Vec<IpAddr>,
    /// Names of the control plane: what they lead to is closed to tenants as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protected_names: Vec<DnsName>,
    /// Where visitors reach the edges: tenants may do the same, on [`Firewall::edge_ports`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub public_addresses: Vec<IpAddr>,
    /// Networks that are closed to tenants, private ones above all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub closed: Vec<IpNet>,
    /// Mail servers that tenants may reach wherever they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mail_relays: Vec<MailRelay>,
    /// What tenants' networks may do, by plan. Each tenant is in at most one; one that is in none has no limits, as under
    /// coordinators of before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<NetworkPolicy>,
    /// Largest packet of tenants' networks; `None`: as the host's own are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

/// What is wanted of a tenant as a whole, wherever its copies are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// It serves visitors.
    Running,
    /// It is stopped, and its place is kept.
    Suspended,
    /// It is deleted, and its data is kept for a while.
    Quarantined,
    /// It is deleted, and its data is being removed.
    Purged,
}

impl From<Lifecycle> for DesiredState {
    /// What the host must do where the tenant lives.
    fn from(wanted: Lifecycle) -> Self {
        match wanted {
            Lifecycle::Running => Self::Running,
            Lifecycle::Suspended => Self::Suspended,
            Lifecycle::Quarantined => Self::Quarantined,
            Lifecycle::Purged => Self::Purged,
        }
    }
}

/// What a tenant's copy on one host must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DesiredState {
    /// Both containers up and healthy.
    Running,
    /// Containers stopped and kept.
    Suspended,
    /// Containers and network removed, volumes kept.
    Quarantined,
    /// Containers, network and volumes removed.
    Purged,
    /// A copy that is being filled or kept up to date: volumes exist, nothing of it runs that visitors or jobs could
    /// reach.
    Standby,
    /// A copy whose time is over: containers removed, volumes kept, and it never starts again under this epoch.
    Fenced,
}

/// Where the data of a tenant's copy on a host comes from: whether the host may fill empty volumes, must find them
/// filled, or must fetch their content first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", into = "SeedFields", from = "SeedFields")]
pub enum Seed {
    /// It never ran: the host fills empty volumes.
    Fresh,
    /// It has run here: its volumes hold data. The host never fills them, and says so when they are gone.
    #[default]
    Existing,
    /// Its data comes from a backup.
    Backup(Uuid),
    /// Its data comes from its copy on this host; a job fetches it.
    Peer(HostName),
}

impl Seed {
    /// Whether the host may fill empty volumes with a new database.
    pub fn may_fill(&self) -> bool {
        *self == Self::Fresh
    }
}

/// How a [`Seed`] is stored. `activated` is what programs before it read and wrote; written on, so that one of those never
/// fills the volumes of a tenant that has data.
#[derive(Serialize, Deserialize)]
struct SeedFields {
    #[serde(default)]
    activated: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backup: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peer: Option<HostName>,
}

impl From<Seed> for SeedFields {
    fn from(seed: Seed) -> Self {
        let mut fields = Self {
            activated: !seed.may_fill(),
            backup: None,
            peer: None,
        };
        match seed {
            Seed::Fresh | Seed::Existing => {}
            Seed::Backup(id) => fields.backup = Some(id),
            Seed::Peer(host) => fields.peer = Some(host),
        }
        fields
    }
}

impl From<SeedFields> for Seed {
    fn from(fields: SeedFields) -> Self {
        match (fields.peer, fields.backup, fields.activated) {
            (Some(host), ..) => Self::Peer(host),
            (_, Some(id), _) => Self::Backup(id),
            (_, _, true) => Self::Existing,
            (_, _, false) => Self::Fresh,
        }
    }
}

/// What becomes of the data that a tenant had before a restore took its place; each names that restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Before {
    /// It is set aside when the restore begins, and kept.
    Keep(Uuid),
    /// It is the tenant's again; what was restored in its place goes.
    Return(Uuid),
    /// It goes.
    Remove(Uuid),
}

/// Leave for another host's agent to fetch a tenant's data from this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerGrant {
    /// The operation that needs it.
    pub operation: Uuid,
    /// The tenant whose data it is.
    pub tenant: TenantName,
    /// Uid of that tenant.
    pub uid: Uuid,
    /// The host that may fetch, as in its agent's certificate.
    pub peer: HostName,
    /// The end of the leave.
    pub expires_at: UnixMs,
    /// Its files may be read while it runs, too: whoever follows it brings what has changed again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub live: bool,
}

/// One tenant on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantPlan {
    /// The tenant's name.
    pub name: TenantName,
    /// Identity across re-creation of the name.
    pub uid: Uuid,
    /// Rises with each move between hosts; an agent never starts a tenant with an epoch below the highest it has seen.
    pub epoch: u64,
    /// Rises with each change to this plan.
    pub generation: u64,
    /// The state it must reach.
    pub desired: DesiredState,
    /// The operation whose steps the agent reports.
    pub operation: Option<Uuid>,
    /// Image of Odoo.
    pub odoo_image: ImageRef,
    /// Image of PostgreSQL.
    pub postgres_image: ImageRef,
    /// Limits of its containers, and workers.
    pub size: Size,
    /// The tenant's network.
    pub subnet: Ipv4Net,
    /// Port on the host that leads to Odoo's HTTP server, 8069.
    pub http_port: u16,
    /// Port on the host that leads to Odoo's gevent server, 8072.
    pub websocket_port: u16,
    /// Odoo's own URL, its parameter `web.base.url`.
    pub base_url: String,
    /// Language of the tenant's Odoo.
    pub language: Language,
    /// The company's country.
    pub country: Country,
    /// The administrator's time zone.
    pub time_zone: TimeZone,
    /// Modules in addition to `base`, sorted.
    pub modules: Vec<Module>,
    /// The administrator's login.
    pub admin_login: Login,
    /// The tenant's passwords.
    pub secrets: TenantSecrets,
    /// Number of restarts of Odoo requested so far.
    pub odoo_restarts: u64,
    /// Number of restarts of PostgreSQL requested so far.
    pub postgres_restarts: u64,
    /// How often its own settings were to be written anew, whatever the database says: it was brought from elsewhere.
    #[serde(default, skip_serializing_if = "is_default")]
    pub settings_asked: u64,
    /// When its images were last asked for anew.
    #[serde(default, skip_serializing_if = "ImagesAsked::is_never")]
    pub images_asked: ImagesAsked,
    /// Volumes are kept at least until then.
    pub quarantine_until: Option<UnixMs>,
    /// An operator asked to remove them before that.
    pub purge_now: bool,
    /// What is to be removed is one of the tenant's copies, which it has left or never taken up, and not the tenant: a
    /// host where it has lived since refuses that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leftover: bool,
    /// What becomes of the data of before a restore; `None`: nothing is said of any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Before>,
    /// Where its data comes from.
    #[serde(flatten)]
    pub seed: Seed,
    /// Largest upload that Odoo accepts, bytes; 0: Odoo's default.
    #[serde(default)]
    pub upload_limit_bytes: u64,
    /// Set where its write-ahead log is shipped; `None`: PostgreSQL archives nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_spool: Option<WalSpool>,
    /// Where its backups go; `None`: none are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupPlan>,
    /// Whether visitors may make accounts for themselves, when the database is made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub signup: bool,
    /// How its database sorts, which it does from when it is made; `None`: by bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collation: Option<Collation>,
    /// How its Odoo sends mail; `None`: nothing is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<Mail>,
    /// Settings of its Odoo that somebody has chosen.
    #[serde(default, skip_serializing_if = "OdooSettings::is_empty")]
    pub odoo: OdooSettings,
    /// With [`DesiredState::Standby`]: its PostgreSQL runs, and follows the copy that lives. Nothing else of it does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follows: bool,
    /// With [`DesiredState::Running`]: a copy that has followed takes over with what it has. Whom it has followed is lost. Of no meaning to
    /// one that has taken over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_it_is: bool,
    /// Another host may have taken it over while this one was off: after a boot of the machine it starts only when the coordinator has
    /// said that it lives here still.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks_first: bool,
    /// Another host may take it over when this one is not heard; `None`: only when it is told to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// What becomes of requests that still come here.
    #[serde(default, skip_serializing_if = "Callers::are_refused")]
    pub callers: Callers,
}

/// Whether a field is as it is where nothing was said: it is left out then, as records of versions before have it.
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// When the images of a tenant were last asked for anew, each time at another moment; 0: not since it was created. What a
/// reference means is settled once for each: for another one its host looks anew, for the one before it knows it still. (Times and
/// not generations, because those of a rebuilt coordinator may have been another's.)
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagesAsked {
    /// Odoo's.
    pub odoo: UnixMs,
    /// PostgreSQL's.
    pub postgres: UnixMs,
}

impl ImagesAsked {
    /// Not since the tenant was created.
    pub fn is_never(&self) -> bool {
        *self == Self::default()
    }

    /// Of one of them.
    pub fn of(&self, role: Role) -> UnixMs {
        match role {
            Role::Odoo => self.odoo,
            Role::Postgres => self.postgres,
        }
    }
}

/// How finished segments of a tenant's write-ahead log wait on its host to be shipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalSpool {
    /// What it may hold, bytes; 0: the host's own bound.
    pub limit_bytes: u64,
    /// A segment in which something was written is finished after so many seconds at the latest; 0: the host's own time.
    pub switch_s: u32,
}

/// What a spool may hold where the plan does not say.
const SPOOL_BYTES: u64 = 512 << 20;
/// As little as a spool, and a replication slot, are held to: a bulk load writes that in seconds.
const LEAST_LOG_BYTES: u64 = 64 << 20;
/// Part of the plan's disk that the spool, and a slot, may take.
const DISK_SHARE: u64 = 10;

/// What of a plan's disk its log may take in one place, at most and at least. A disk of 0 is not bounded.
#[must_use]
pub fn log_share(disk_bytes: u64, most: u64) -> u64 {
    let share = match disk_bytes {
        0 => most,
        disk => disk / DISK_SHARE,
    };
    share.min(most).max(LEAST_LOG_BYTES)
}

impl WalSpool {
    /// What it may hold on a disk of this size, bytes; then segments are let go.
    #[must_use]
    pub fn bound_bytes(self, disk_bytes: u64) -> u64 {
        match self.limit_bytes {
            0 => log_share(disk_bytes, SPOOL_BYTES),
            said => log_share(disk_bytes, said),
        }
    }
}

/// Text that `Debug` does not print.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// The text itself: for the configuration file and the wire, never for a log or an argument list.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Passwords of one tenant: `[A-Za-z0-9]` only, so they need no quoting anywhere; but for the mail server's, which somebody else has
/// made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct TenantSecrets {
    /// Password of role `odoo` in PostgreSQL.
    pub database_password: Secret,
    /// Password of Odoo's administrator.
    pub admin_password: Secret,
    /// Odoo's master password; written to odoo.conf as a hash.
    pub master_password: Secret,
    /// At its mail server, if that asks for one.
    #[serde(default, skip_serializing_if = "Secret::is_empty")]
    pub mail_password: Secret,
}

/// The role of a tenant's container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Odoo: `odoo_<tenant>`.
    Odoo,
    /// PostgreSQL: `postgres_<tenant>`.
    Postgres,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_reads_what_older_programs_wrote_and_they_read_it() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Plan {
            epoch: u64,
            #[serde(flatten)]
            seed: Seed,
        }
        let peer = Seed::Peer("h1".parse().unwrap());
        for (seed, text) in [
            (Seed::Fresh, r#"{"epoch":1,"activated":false}"#),
            (Seed::Existing, r#"{"epoch":1,"activated":true}"#),
            (
                Seed::Backup(Uuid::nil()),
                r#"{"epoch":1,"activated":true,"backup":"00000000-0000-0000-0000-000000000000"}"#,
            ),
            (peer, r#"{"epoch":1,"activated":true,"peer":"h1"}"#),
        ] {
            let plan = Plan { epoch: 1, seed };
            assert_eq!(serde_json::to_string(&plan).unwrap(), text);
            assert_eq!(serde_json::from_str::<Plan>(text).unwrap(), plan);
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        assert_eq!(format!("{:?}", Secret::new("x")), "[secret]");
    }
}
