//! The configuration: defaults, then `coordinator.toml`, then command line and environment.
//!
//! The structs below mirror the file field for field; an unknown key is an error. [`Config::settings`] is the part that
//! the pure core gets. Not here: defaults (defaults), checks across fields (check), the commented sample (sample).

mod backup;
mod buckets;
mod check;
mod defaults;
mod dns;
mod edge;
mod images;
mod mail;
mod network;
mod odoo;
mod plans;
mod probes;
mod sample;
mod settings;
mod tls;
mod units;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use ipnet::{IpNet, Ipv4Net};
use isyone_fleet::settings::Edition;
use isyone_proto::{
    ids::ShortName,
    network::MailRelay,
    odoo::OdooSettings,
    spec::{Country, Domain, Language, Login, TimeZone},
};
use serde::{Deserialize, Serialize};

pub use self::{
    backup::{Backup, PlanBackup},
    buckets::{Bucket, read as read_key},
    dns::Dns,
    edge::{Dashboard, FrameOptions},
    images::{ImagePattern, Images},
    mail::{Kind as MailKind, MailConfig},
    network::overlap,
    plans::Plan,
    probes::Probes,
    sample::sample,
    tls::{Acme, Tls, TlsMode},
    units::{Bytes, Cpus, Span},
};

/// Name of the file inside the data directory.
pub const FILE_NAME: &str = "coordinator.toml";

/// What is wrong with a configuration. `Display` names file, line and key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path} cannot be read")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A key is unknown, or a value is not valid.
    #[error("{place}: {problem}")]
    Invalid {
        /// `coordinator.toml line 7, network.first_port`.
        place: String,
        /// What is wrong, and what would be valid.
        problem: String,
    },
}

impl ConfigError {
    fn at(key: &str, problem: impl Into<String>) -> Self {
        Self::Invalid {
            place: key.to_owned(),
            problem: problem.into(),
        }
    }
}

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `isy.one` in `alfa.isy.one`.
    pub base_domain: Domain,
    /// Scheme of customers' URLs.
    pub url_scheme: UrlScheme,
    /// Port of customers' URLs if not the scheme's default.
    pub url_port: Option<u16>,
    /// Holds database, keys and certificates; default: the configuration file's directory.
    pub data_dir: PathBuf,
    /// Plan of a tenant that asks for none.
    pub default_plan: ShortName,
    /// Edition of a tenant that asks for none.
    pub default_edition: ShortName,
    /// Addresses that we listen on.
    pub listen: Listen,
    /// Names and addresses that agents and operators dial.
    pub advertise: Advertise,
    /// How hosts join.
    pub join: Join,
    /// Tenants' networks and ports.
    pub network: Network,
    /// The edges (Traefik): where they are and what they do.
    pub edge: Edge,
    /// HTTPS for tenants.
    pub tls: Tls,
    /// What Prometheus gets.
    pub monitoring: Monitoring,
    /// Probes of tenants through the edges.
    pub probes: Probes,
    /// Checks of tenants' own domains.
    pub dns: Dns,
    /// How tenants' Odoos send mail.
    pub mail: MailConfig,
    /// Settings of tenants' Odoos.
    #[serde(
        deserialize_with = "odoo::settings",
        skip_serializing_if = "OdooSettings::is_empty"
    )]
    pub odoo: OdooSettings,
    /// How much of a host tenants may take.
    pub placement: Placement,
    /// Settings of a new tenant that asks for none.
    pub defaults: Defaults,
    /// How long deleted data is kept.
    pub lifecycle: Lifecycle,
    /// Report interval, and when silence counts.
    pub liveness: Liveness,
    /// Tenants' backups.
    pub backup: Backup,
    /// How long certificates are valid.
    pub certificates: Certificates,
    /// What is logged, and how.
    pub log: Log,
    /// Tenants' sizes by name.
    pub plans: BTreeMap<ShortName, Plan>,
    /// Pairs of images (Odoo, PostgreSQL) by name.
    pub editions: BTreeMap<ShortName, Edition>,
    /// Whose images besides the editions' operators may name.
    pub images: Images,
}

/// `http` or `https`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UrlScheme {
    Http,
    Https,
}

/// `[listen]`: the ports' addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// gRPC, with client certificates.
    pub grpc: SocketAddr,
    /// Agents' enrolment.
    pub enroll: SocketAddr,
    /// Health, metrics, Traefik, Prometheus.
    pub http: SocketAddr,
    /// Traefik's configuration and our pages for edges on other machines, over TLS, with a token.
    pub edges: Option<SocketAddr>,
}

/// `[advertise]`: how agents and operators reach us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Advertise {
    /// Names and addresses in the server certificate; agents dial the first.
    pub hosts: Vec<String>,
}

/// `[join]`: how hosts come in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Join {
    /// A host whose join token names no host is let in without `isyctl host approve`.
    pub auto_approve: bool,
}

/// `[network]`: where tenants' networks and ports come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// The range that tenants' networks are cut from.
    pub tenant_range: Ipv4Net,
    /// Prefix length of one tenant's network.
    pub subnet_prefix: u8,
    /// First published port.
    pub first_port: u16,
    /// Last published port.
    pub last_port: u16,
    /// Networks that are closed to tenants.
    #[serde(deserialize_with = "units::networks")]
    pub closed_networks: Vec<IpNet>,
    /// Mail servers that tenants may reach wherever they are.
    pub mail_relays: Vec<MailRelay>,
    /// Largest packet of tenants' networks; without it, as their hosts' own are.
    pub mtu: Option<u16>,
}

/// `[edge]`: where the edges are, and what all of them do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Edge {
    /// Addresses or networks that edges connect from.
    #[serde(deserialize_with = "units::networks")]
    pub addresses: Vec<IpNet>,
    /// Ports of an edge on a tenant's own host.
    pub ports: Vec<u16>,
    /// Further addresses that tenants must not reach, besides those in `advertise.hosts`.
    pub protected_addresses: Vec<IpAddr>,
    /// Where visitors reach the edges; empty: whatever the tenants' platform names resolve to.
    pub public_addresses: Vec<IpAddr>,
    /// Traefik's entry points for tenants.
    pub entry_points: Vec<String>,
    /// Where people reach the edge when DNS does not lead there (demos).
    pub url: Option<String>,
    /// Names of the edges that share the tenants; empty: each edge serves all of them.
    pub shards: Vec<ShortName>,
    /// Traefik's configuration also goes to this file.
    pub traefik_file: Option<PathBuf>,
    /// The same with shards: to `<shard>/isyone.yml` in this directory.
    pub traefik_dir: Option<PathBuf>,
    /// Where Traefik reaches our pages; default: `listen.edges` over HTTPS if set, otherwise `http://<listen.http>`.
    pub pages_url: Option<String>,
    /// Requests per second from one client address to one tenant.
    pub rate_average: u32,
    /// Requests above that rate that pass at once.
    pub rate_burst: u32,
    /// Concurrent requests from one client address to one tenant.
    pub in_flight: u32,
    /// Addresses or networks of proxies in front of the edges, whose forwarding headers we trust.
    #[serde(deserialize_with = "units::networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// Which pages may embed tenants' pages in a frame.
    pub frame_options: FrameOptions,
    /// Largest file that Odoo accepts.
    pub upload_limit: Bytes,
    /// Traefik's dashboard, for people on other machines.
    pub dashboard: Option<Dashboard>,
}

/// `[monitoring]`: what Prometheus gets, and how it reaches hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Monitoring {
    /// For `isyctl tenant verify`.
    pub prometheus_url: Option<String>,
    /// Where Prometheus reaches our HTTP port; default: `listen.http`.
    pub metrics_address: Option<String>,
    /// The agents' port for Prometheus, at the address that the host advertises.
    pub agent_port: u16,
    /// Edges' metrics (`host:port`), for Prometheus: edges do not register with us.
    pub edges: Vec<String>,
    /// Target groups also go to `<job>.json` in this directory; with shards, to `<shard>/<job>.json`.
    pub file_sd_dir: Option<PathBuf>,
    /// Holds the certificate that Prometheus scrapes hosts with: `ca.pem`, `prometheus.pem`, `prometheus.key`.
    pub certificate_dir: Option<PathBuf>,
    /// The operator (role monitor) that this certificate belongs to.
    pub certificate_operator: ShortName,
}

/// `[placement]`: how much of a host tenants may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// Reserved CPU may exceed the machine's by this factor.
    pub cpu_overcommit: Cpus,
    /// Memory on each host that tenants do not get.
    pub memory_reserve: Bytes,
    /// Disk on each host that tenants do not get.
    pub disk_reserve: Bytes,
}

/// `[defaults]`: settings of a new tenant that asks for none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// Odoo language.
    pub language: Language,
    /// Company's country.
    pub country: Country,
    /// Administrator's time zone.
    pub time_zone: TimeZone,
    /// Administrator's login.
    pub admin_login: Login,
}

/// `[lifecycle]`: how long deleted data is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lifecycle {
    /// How long the volumes of a deleted tenant are kept.
    pub quarantine: Span,
    /// For so long after a start or a jump of the clock nothing is removed because its time is over.
    pub clock_hold: Span,
}

/// `[liveness]`: how often agents report, and when their silence counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Liveness {
    /// How often agents report.
    pub report_interval: Span,
    /// A host that has been silent this long gets no new tenants.
    pub suspect: Span,
    /// A host that has been silent this long counts as lost.
    pub lost: Span,
}

/// `[certificates]`: how long those that our own authority signs are valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Certificates {
    /// Agents' certificates, which agents renew at half of it.
    pub agent_ttl: Span,
    /// Operators' certificates, which operators have to replace in time.
    pub operator_ttl: Span,
    /// The coordinator's own certificate, renewed at half of it.
    pub server_ttl: Span,
}

/// `[log]`: what is logged, and in what form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// For people or for programs.
    pub format: LogFormat,
    /// Which spans and events, in the syntax of `RUST_LOG`.
    pub filter: String,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Human,
    /// One object a line.
    Json,
}

impl Config {
    /// Reads and checks a file; `data_dir` defaults to the file's directory.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Io {
            path: path.to_owned(),
            source,
        })?;
        let file = path.file_name().map_or_else(
            || FILE_NAME.to_owned(),
            |n| n.to_string_lossy().into_owned(),
        );
        let mut config = Self::parse(&file, &text)?;
        if config.data_dir.as_os_str().is_empty() {
            config.data_dir = path.parent().unwrap_or(Path::new(".")).to_owned();
        }
        Ok(config)
    }

    /// Parses TOML without checking across fields.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let place = |span: Option<std::ops::Range<usize>>, key: &str| {
            let line = span
                .and_then(|s| text.get(..s.start))
                .map(|before| before.matches('\n').count() + 1);
            let line = line.map(|l| format!(" line {l}")).unwrap_or_default();
            if key.is_empty() || key == "." {
                format!("{file}{line}")
            } else {
                format!("{file}{line}, {key}")
            }
        };
        let document = toml::Deserializer::parse(text).map_err(|e| ConfigError::Invalid {
            place: place(e.span(), ""),
            problem: e.message().to_owned(),
        })?;
        serde_path_to_error::deserialize(document).map_err(|e| ConfigError::Invalid {
            place: place(e.inner().span(), &e.path().to_string()),
            problem: e.inner().message().to_owned(),
        })
    }

    /// Checks across fields and against the outside world. Reads nothing.
    pub fn check(&self) -> Result<(), ConfigError> {
        check::check(self)
    }

    /// Where Traefik reaches our pages.
    pub fn pages_url(&self) -> String {
        let plain = || format!("http://{}", reachable(self.listen.http));
        let own = || {
            self.listen
                .edges
                .map_or_else(plain, |edges| format!("https://{}", self.reached_at(edges)))
        };
        self.edge.pages_url.clone().unwrap_or_else(own)
    }

    /// Whether edges reach our pages at [`Listen::edges`].
    pub fn pages_over_tls(&self) -> bool {
        self.edge.pages_url.is_none() && self.listen.edges.is_some()
    }

    /// `host:port` of a listening address as others see it; an IPv6 address gets brackets.
    pub fn reached_at(&self, bound: SocketAddr) -> String {
        let host = self
            .advertise
            .hosts
            .first()
            .map_or("127.0.0.1", String::as_str);
        match host.parse::<std::net::Ipv6Addr>() {
            Ok(ip) => format!("[{ip}]:{}", bound.port()),
            Err(_) => format!("{host}:{}", bound.port()),
        }
    }

    /// Where Prometheus reaches our HTTP port.
    pub fn metrics_address(&self) -> String {
        self.monitoring
            .metrics_address
            .clone()
            .unwrap_or_else(|| reachable(self.listen.http).to_string())
    }

    /// The whole configuration as TOML. It has no secrets: they live in files of their own.
    pub fn to_toml(&self) -> String {
        // Serialising plain data with string keys cannot fail.
        toml::to_string_pretty(self).unwrap_or_default()
    }
}

/// Replaces an unspecified address ("any"), which nobody can connect to, with loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

impl UrlScheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

#[cfg(test)]
mod tests;
