//! The part of the configuration that the pure core needs, checked: plans, ranges, factors, times.
//!
//! Not here: where it comes from (the coordinator's base/config), and anything that only the acting parts use
//! (addresses, files, certificates).

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::{IpNet, Ipv4Net};
use isyone_types::{
    backup::Place,
    ids::ShortName,
    mail::Mail,
    network::{DnsName, MailRelay, NetworkRules},
    odoo::OdooSettings,
    plan::PLAN_FORMAT,
    spec::{Country, ImageRef, LabelKey, Language, Login, Size, TimeZone},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{backups::Policy, shards::Shards};

/// An Odoo image and a PostgreSQL image that belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edition {
    pub odoo: ImageRef,
    pub postgres: ImageRef,
}

/// Networks and ports that tenants get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Tenants' networks are cut out of this range; every host uses all of it.
    pub tenant_range: Ipv4Net,
    /// Prefix length of one tenant's network; 28 has room for 13 containers.
    pub subnet_prefix: u8,
    /// First published port.
    pub first_port: u16,
    /// Last published port.
    pub last_port: u16,
    /// Networks that are closed to tenants.
    pub closed: Vec<IpNet>,
    /// Mail servers that tenants may reach wherever they are.
    pub mail_relays: Vec<MailRelay>,
    /// Largest packet of tenants' networks; `None`: as their hosts' own are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

/// Who reaches tenants, and what tenants must not reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// Networks that edges connect from.
    pub addresses: Vec<IpNet>,
    /// Ports of an edge on a tenant's own host, which tenants may reach.
    pub ports: Vec<u16>,
    /// Control plane addresses, closed to tenants.
    pub protected_addresses: Vec<IpAddr>,
    /// Control plane names, whose addresses are closed to tenants.
    pub protected_names: Vec<DnsName>,
    /// Where visitors reach the edges.
    pub public_addresses: Vec<IpAddr>,
    /// Largest upload that Odoo accepts, bytes.
    pub upload_limit_bytes: u64,
}

/// How placement weighs what hosts have against what tenants need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementSettings {
    /// How far reserved CPU may exceed the machine's, in thousandths (4000 = four times).
    pub cpu_overcommit_permille: u32,
    /// Memory that placement leaves free on each host, bytes.
    pub memory_reserve_bytes: u64,
    /// Disk space that placement leaves free on each host, bytes.
    pub disk_reserve_bytes: u64,
}

/// When an agent's silence matters, milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Liveness {
    /// How often agents report.
    pub report_interval_ms: u32,
    /// Silence after which a host gets no new tenants.
    pub suspect_ms: i64,
    /// Silence after which a host counts as lost.
    pub lost_ms: i64,
}

/// Values for what a request's spec leaves out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Defaults {
    pub plan: ShortName,
    pub edition: ShortName,
    pub language: Language,
    /// The company's country.
    pub country: Country,
    /// The administrator's time zone.
    pub time_zone: TimeZone,
    /// The administrator's login.
    pub admin_login: Login,
}

/// How tenants' Odoos send mail, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MailRules {
    /// Of all tenants; `None`: nothing is set.
    pub fleet: Option<ConfiguredMail>,
    /// Of a plan's, in place of that.
    pub plans: BTreeMap<ShortName, ConfiguredMail>,
}

/// Settings of mail that have a password, perhaps, which is not among them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfiguredMail {
    pub mail: Mail,
    /// Another one for another password; it tells nothing about it. Empty without one.
    pub password_mark: String,
}

/// Settings of tenants' Odoos, as they are configured.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OdooRules {
    /// Of all tenants.
    pub fleet: OdooSettings,
    /// Of a plan's; where it says nothing, the fleet's count.
    pub plans: BTreeMap<ShortName, OdooSettings>,
}

/// What a plan says of its tenants' standbys.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StandbyRules {
    /// On a host that has another value of this label than the tenant's own.
    pub apart: Option<LabelKey>,
    /// They take over by themselves when the tenant's host was not heard for so long, milliseconds. `None`: on order only.
    pub takes_over_after_ms: Option<u32>,
}

/// How a destination of backups is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupDestination {
    pub at: Place,
    /// Most bytes per second from each host; 0: the host's own limit.
    pub rate_bytes_per_s: u64,
}

/// Tenants' backups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backups {
    pub destinations: BTreeMap<ShortName, BackupDestination>,
    /// By plan; `None`: of its tenants none are made.
    pub policies: BTreeMap<ShortName, Option<Policy>>,
    /// For tenants of plans that are no longer there; `None`: no backups are made at all.
    pub standard: Option<Policy>,
}

/// What a policy that is in no plan any more would have kept.
const KEPT_AFTER_DELETE_MS: i64 = 30 * 86_400_000;

impl Backups {
    /// The policy of a plan, and the plan under which it is known; `None`: nothing is made.
    pub fn of<'a>(&'a self, plan: &ShortName) -> Option<(Option<&'a ShortName>, &'a Policy)> {
        match self.policies.get_key_value(plan) {
            Some((name, policy)) => policy.as_ref().map(|policy| (Some(name), policy)),
            None => self.standard.as_ref().map(|policy| (None, policy)),
        }
    }

    /// The policy of a plan; `None`: nothing is made.
    pub fn policy(&self, plan: &ShortName) -> Option<&Policy> {
        self.of(plan).map(|(_, policy)| policy)
    }

    /// For how long the key of a deleted tenant of a plan is kept, milliseconds. Also where no backups are made any more: they
    /// were, or there would be no key.
    pub fn kept_after_delete_ms(&self, plan: &ShortName) -> i64 {
        let policy = self.policy(plan);
        policy.map_or(KEPT_AFTER_DELETE_MS, |policy| policy.keep.on_purpose_ms)
    }

    /// What hosts' plans have of it: where each plan's tenants' log goes, and how often.
    fn in_plans(&self) -> (&BTreeMap<ShortName, BackupDestination>, Vec<Shipped<'_>>) {
        fn shipped(policy: Option<&Policy>) -> Option<(&[ShortName], i64)> {
            policy.map(|policy| (&policy.destinations[..], policy.ship_every_ms()))
        }
        let policies = self.policies.iter();
        let of_plans = policies.map(|(plan, policy)| (Some(plan), shipped(policy.as_ref())));
        let others = (None, shipped(self.standard.as_ref()));
        (&self.destinations, of_plans.chain([others]).collect())
    }
}

/// A plan, or all that are not named; and where and how often the log of its tenants goes.
type Shipped<'a> = (Option<&'a ShortName>, Option<(&'a [ShortName], i64)>);

/// All settings of the core.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The domain above tenants' platform names, such as `isy.one`.
    pub base_domain: String,
    /// `http` or `https`, as customers see it.
    pub url_scheme: String,
    /// Port in customers' URLs, if it is not the scheme's default.
    pub url_port: Option<u16>,
    /// Sizes by name.
    pub plans: BTreeMap<ShortName, Size>,
    /// Idle time after which a tenant is put to sleep, by plan, milliseconds. Tenants of other plans never sleep.
    pub sleep_after_ms: BTreeMap<ShortName, i64>,
    /// Plans whose tenants have a standby each.
    pub standbys: BTreeMap<ShortName, StandbyRules>,
    /// What tenants' networks may do, by plan. Tenants of plans that are no longer there have the defaults.
    pub network_rules: BTreeMap<ShortName, NetworkRules>,
    /// How tenants' Odoos send mail.
    pub mail: MailRules,
    /// Settings of tenants' Odoos.
    pub odoo: OdooRules,
    /// Images by edition.
    pub editions: BTreeMap<ShortName, Edition>,
    pub defaults: Defaults,
    pub network: Network,
    pub edge: Edge,
    /// How tenants are divided among edges.
    pub shards: Shards,
    pub placement: PlacementSettings,
    pub liveness: Liveness,
    /// How long a deleted tenant's volumes are kept, milliseconds.
    pub quarantine_ms: i64,
    /// For how long no quarantine ends after a start of the coordinator or a jump of its clock, milliseconds: a wrong
    /// clock must not delete data before somebody can notice.
    pub quarantine_hold_ms: i64,
    /// Edges terminate TLS only with certificates that the coordinator gives them.
    pub edges_have_our_certificates: bool,
    /// Host name of Traefik's dashboard, which no tenant may have as its domain.
    pub dashboard_hostname: Option<String>,
    /// Tenants' domains are checked regularly.
    pub domains_are_watched: bool,
    /// Hosts that join by a token for any name need nobody's approval.
    pub auto_approve: bool,
    pub backups: Backups,
}

impl Settings {
    /// Digest of everything that ends up in hosts' plans without being stored with a tenant. When it changes, all plans
    /// get a new generation, so that no generation ever has two contents.
    pub fn plan_digest(&self) -> String {
        let relevant = (
            PLAN_FORMAT,
            &self.base_domain,
            &self.url_scheme,
            self.url_port,
            &self.network,
            &self.edge,
            &self.network_rules,
            &self.mail,
            &self.odoo,
            self.backups.in_plans(),
        );
        // Plain data: serialising it cannot fail.
        hex::encode(Sha256::digest(
            serde_json::to_vec(&relevant).unwrap_or_default(),
        ))
    }

    /// The URL of a host name, as customers type it.
    pub fn url(&self, hostname: &str) -> String {
        let port = self.url_port.map(|p| format!(":{p}")).unwrap_or_default();
        format!("{}://{hostname}{port}", self.url_scheme)
    }
}
