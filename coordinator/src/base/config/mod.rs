//! The configuration: defaults, `coordinator.toml`, then command line and environment on top.
//!
//! The file's shape is the structs below, field for field; a key that is not here is an error. [`Config::settings`] is
//! the part that the pure core gets. Not here: defaults (defaults), checks across fields (check) and the commented sample (sample).

mod check;
mod defaults;
mod dns;
mod edge;
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
    spec::{Country, Domain, Language, Login, TimeZone},
};
use serde::{Deserialize, Serialize};

pub use self::{
    dns::Dns,
    edge::{Dashboard, FrameOptions},
    probes::Probes,
    sample::sample,
    tls::{Acme, Tls, TlsMode},
    units::{Bytes, Cpus, Span},
};

/// Name of the file inside the data directory.
pub const FILE_NAME: &str = "coordinator.toml";

/// What is wrong with a configuration. `Display` names the file, the line and the key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path} cannot be read")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A key or value that does not fit.
    #[error("{place}: {problem}")]
    Invalid {
        /// `coordinator.toml line 7, network.first_port`.
        place: String,
        /// What is wrong and what would be right.
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

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `isy.one` in `alfa.isy.one`.
    pub base_domain: Domain,
    /// Scheme in customers' URLs.
    pub url_scheme: UrlScheme,
    /// Port in customers' URLs when it is not the scheme's own.
    pub url_port: Option<u16>,
    /// Database, keys and certificates; the configuration file's own directory when not set.
    pub data_dir: PathBuf,
    /// Size of a tenant that asks for none.
    pub default_plan: ShortName,
    /// Images of a tenant that asks for none.
    pub default_edition: ShortName,
    /// Where we listen.
    pub listen: Listen,
    /// How agents and operators reach us.
    pub advertise: Advertise,
    /// Tenants' networks and ports.
    pub network: Network,
    /// What the edges (Traefik) are and do.
    pub edge: Edge,
    /// HTTPS for tenants.
    pub tls: Tls,
    /// What Prometheus is told.
    pub monitoring: Monitoring,
    /// Looking at tenants through the edges.
    pub probes: Probes,
    /// Looking at tenants' own domains.
    pub dns: Dns,
    /// How hosts are chosen.
    pub placement: Placement,
    /// How a new tenant is set up.
    pub defaults: Defaults,
    /// How long things are kept.
    pub lifecycle: Lifecycle,
    /// When silence becomes suspicious.
    pub liveness: Liveness,
    /// How long certificates are valid.
    pub certificates: Certificates,
    /// What is logged, and how.
    pub log: Log,
    /// Sizes by name.
    pub plans: BTreeMap<ShortName, Plan>,
    /// Pairs of images by name.
    pub editions: BTreeMap<ShortName, Edition>,
}

/// `http` or `https`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UrlScheme {
    Http,
    Https,
}

/// `[listen]`: the addresses of the ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// gRPC with client certificates.
    pub grpc: SocketAddr,
    /// Enrolment of agents.
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
    /// Names and addresses for the server certificate; agents dial the first.
    pub hosts: Vec<String>,
}

/// `[network]`: where tenants' networks and ports are taken from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// Range that tenants' networks are cut from.
    pub tenant_range: Ipv4Net,
    /// Prefix length of one tenant's network.
    pub subnet_prefix: u8,
    /// First published port.
    pub first_port: u16,
    /// Last published port.
    pub last_port: u16,
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
    /// Where visitors reach the edges; what the tenants' platform names resolve to when there is none.
    pub public_addresses: Vec<IpAddr>,
    /// Traefik's entry points for tenants.
    pub entry_points: Vec<String>,
    /// Where people reach the edge when DNS does not say so (demos).
    pub url: Option<String>,
    /// Names of the edges that share the tenants; none when one has them all.
    pub shards: Vec<ShortName>,
    /// File form of Traefik's configuration.
    pub traefik_file: Option<PathBuf>,
    /// File form for shards: `<shard>/isyone.yml` in here.
    pub traefik_dir: Option<PathBuf>,
    /// Where Traefik reaches our pages; `http://<listen.http>` when not set.
    pub pages_url: Option<String>,
    /// Requests per second from one client address to one tenant.
    pub rate_average: u32,
    /// Requests above that rate that are let through at once.
    pub rate_burst: u32,
    /// Requests from one client address to one tenant that are answered at the same time.
    pub in_flight: u32,
    /// Addresses or networks of proxies before the edges, which say for whom they ask.
    #[serde(deserialize_with = "units::networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// Who may show tenants' pages in a frame.
    pub frame_options: FrameOptions,
    /// Largest file that Odoo takes.
    pub upload_limit: Bytes,
    /// Traefik's dashboard, for people elsewhere.
    pub dashboard: Option<Dashboard>,
}

/// `[monitoring]`: what Prometheus is told, and how it reaches hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Monitoring {
    /// Told to `isyctl tenant verify`.
    pub prometheus_url: Option<String>,
    /// Where Prometheus reaches our HTTP port; `listen.http` when not set.
    pub metrics_address: Option<String>,
    /// Where agents answer Prometheus, at the address that their host advertises.
    pub agent_port: u16,
    /// Edges' metrics (`host:port`), for Prometheus: they do not introduce themselves.
    pub edges: Vec<String>,
    /// File form of the targets: `<job>.json` in here; with shards, `<shard>/<job>.json`.
    pub file_sd_dir: Option<PathBuf>,
    /// Where Prometheus finds the certificate that it scrapes hosts with: `ca.pem`, `prometheus.pem`, `prometheus.key`.
    pub certificate_dir: Option<PathBuf>,
    /// Whose certificate that is: an operator with the role monitor.
    pub certificate_operator: ShortName,
}

/// `[placement]`: how much of a host may be given away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// Reserved CPU may exceed the machine's by this factor.
    pub cpu_overcommit: Cpus,
    /// Memory on each host that no tenant gets.
    pub memory_reserve: Bytes,
    /// Disk on each host that no tenant gets.
    pub disk_reserve: Bytes,
}

/// `[defaults]`: what a new tenant gets that asks for nothing else.
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

/// `[lifecycle]`: how long what is deleted is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lifecycle {
    /// For how long the volumes of a deleted tenant are kept.
    pub quarantine: Span,
}

/// `[liveness]`: how often agents report, and when their silence means something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Liveness {
    /// How often agents report.
    pub report_interval: Span,
    /// A host that has been silent for so long gets no new tenants.
    pub suspect: Span,
    /// One that has been silent for so long counts as lost.
    pub lost: Span,
}

/// `[certificates]`: for how long those that our own authority signs are valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Certificates {
    /// Certificates of agents, which renew them at half of it.
    pub agent_ttl: Span,
    /// Certificates of operators, who have to get another one in time.
    pub operator_ttl: Span,
    /// The coordinator's own, renewed at half of it.
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

/// A size of tenant, under its name in `[plans]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Memory of both containers together.
    pub memory: Bytes,
    /// CPU of both containers together.
    pub cpu: Cpus,
    /// Disk that placement counts on.
    pub disk: Bytes,
    /// Odoo's HTTP workers; 0: one threaded process.
    #[serde(default)]
    pub workers: u32,
    /// A tenant that nobody has used for so long is stopped until somebody comes; none: never.
    #[serde(default)]
    pub sleep_after: Option<Span>,
}

impl Config {
    /// Reads a file; `data_dir` defaults to the file's directory. The result is checked.
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

    /// Checks across fields and against the world's rules. Reads nothing.
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

    /// Whether edges reach them at [`Listen::edges`].
    pub fn pages_over_tls(&self) -> bool {
        self.edge.pages_url.is_none() && self.listen.edges.is_some()
    }

    /// `host:port` of a listening address as others see it, with brackets around an IPv6 address.
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

    /// The whole configuration as TOML. It has no secrets: those are in files of their own.
    pub fn to_toml(&self) -> String {
        // Plain data with string keys: serialising it cannot fail.
        toml::to_string_pretty(self).unwrap_or_default()
    }
}

/// "Any address" is nowhere to connect to: then it is the loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

impl UrlScheme {
    /// The scheme as it stands in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

#[cfg(test)]
mod tests;
