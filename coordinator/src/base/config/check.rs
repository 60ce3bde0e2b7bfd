//! What must hold between keys, and the defaults that do.

use std::{collections::BTreeMap, path::PathBuf};

use isyone_proto::{ids::ShortName, spec};

use super::{
    Advertise, Bytes, Certificates, Config, ConfigError, Cpus, Defaults, Dns, Edge, FrameOptions,
    Lifecycle, Listen, Liveness, Log, LogFormat, Monitoring, Network, Placement, Plan, Probes,
    Span, Tls, UrlScheme, edge, tls,
};
use isyone_fleet::settings::Edition;

/// A shorter interval would make reports, not tenants, the load of a host.
const MIN_REPORT_INTERVAL: Span = Span::seconds(1);
/// Below this, clock differences between machines matter.
const MIN_CERTIFICATE_TTL: Span = Span::seconds(3600);
/// What browsers' trust stores would take, with slack; also keeps dates far from overflow.
const MAX_CERTIFICATE_TTL: Span = Span::days(5 * 366);
/// Whoever has just been woken must have the time to log in.
const MIN_SLEEP_AFTER: Span = Span::seconds(60);
/// Odoo and PostgreSQL do not start in less.
const MIN_PLAN_MEMORY: Bytes = Bytes::new(64 << 20);

pub(super) fn ensure(
    condition: bool,
    key: &str,
    problem: impl FnOnce() -> String,
) -> Result<(), ConfigError> {
    if condition {
        Ok(())
    } else {
        Err(ConfigError::at(key, problem()))
    }
}

pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    names(config)?;
    network(&config.network)?;
    addresses(config)?;
    times(config)?;
    edge::check(config)?;
    tls::check(config)?;
    config.probes.check(&config.edge)?;
    config.dns.check(&config.edge)?;
    for (name, plan) in &config.plans {
        let key = format!("plans.{name}.memory");
        ensure(plan.memory >= MIN_PLAN_MEMORY, &key, || {
            "is too small: at least \"64MiB\"".to_owned()
        })?;
        let slept = plan
            .sleep_after
            .is_none_or(|after| after >= MIN_SLEEP_AFTER);
        ensure(slept, &format!("plans.{name}.sleep_after"), || {
            "must be at least \"1m\"".to_owned()
        })?;
        ensure(
            plan.workers <= 256,
            &format!("plans.{name}.workers"),
            || "must be at most 256".to_owned(),
        )?;
    }
    let overcommit = config.placement.cpu_overcommit.millis();
    ensure(
        (1000..=100_000).contains(&overcommit),
        "placement.cpu_overcommit",
        || "must be 1.0 to 100.0".to_owned(),
    )?;
    tracing_subscriber::EnvFilter::try_new(&config.log.filter)
        .map_err(|e| ConfigError::at("log.filter", e.to_string()))?;
    Ok(())
}

fn names(config: &Config) -> Result<(), ConfigError> {
    let known = |map: Vec<&ShortName>| {
        map.iter()
            .map(|n| n.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    ensure(
        config.plans.contains_key(&config.default_plan),
        "default_plan",
        || {
            format!(
                "`{}` is not one of [plans]: {}",
                config.default_plan,
                known(config.plans.keys().collect())
            )
        },
    )?;
    ensure(
        config.editions.contains_key(&config.default_edition),
        "default_edition",
        || {
            let editions = known(config.editions.keys().collect());
            format!(
                "`{}` is not one of [editions]: {editions}",
                config.default_edition
            )
        },
    )
}

fn network(network: &Network) -> Result<(), ConfigError> {
    let range = network.tenant_range;
    ensure(
        (range.prefix_len()..=29).contains(&network.subnet_prefix),
        "network.subnet_prefix",
        || {
            format!(
                "{} must be between tenant_range's {} and 29",
                network.subnet_prefix,
                range.prefix_len()
            )
        },
    )?;
    ensure(range.prefix_len() >= 8, "network.tenant_range", || {
        format!("{range} is too large: at most a /8")
    })?;
    ensure(range == range.trunc(), "network.tenant_range", || {
        format!(
            "{range} has bits behind the prefix: did you mean {}?",
            range.trunc()
        )
    })?;
    ensure(network.first_port >= 1024, "network.first_port", || {
        "must be at least 1024".to_owned()
    })?;
    ensure(
        network.first_port < network.last_port,
        "network.last_port",
        || {
            format!(
                "{} must be above first_port {}",
                network.last_port, network.first_port
            )
        },
    )
}

fn addresses(config: &Config) -> Result<(), ConfigError> {
    let ports = &config.network;
    for (key, address) in [
        ("listen.grpc", config.listen.grpc),
        ("listen.enroll", config.listen.enroll),
        ("listen.http", config.listen.http),
        (
            "listen.edges",
            config.listen.edges.unwrap_or(config.listen.http),
        ),
    ] {
        ensure(
            !(ports.first_port..=ports.last_port).contains(&address.port()),
            key,
            || {
                format!(
                    "port {} is in the tenants' range {}-{}",
                    address.port(),
                    ports.first_port,
                    ports.last_port
                )
            },
        )?;
    }
    ensure(
        !config.advertise.hosts.is_empty(),
        "advertise.hosts",
        || "must name at least one host".to_owned(),
    )?;
    for host in &config.advertise.hosts {
        let fits = host.parse::<std::net::IpAddr>().is_ok()
            || rustls_pki_types::DnsName::try_from(host.as_str()).is_ok();
        ensure(fits, "advertise.hosts", || {
            format!("{host:?} is no host name or IP address (no port, no scheme)")
        })?;
    }
    for (key, url) in [
        ("edge.url", &config.edge.url),
        ("edge.pages_url", &config.edge.pages_url),
        (
            "monitoring.prometheus_url",
            &config.monitoring.prometheus_url,
        ),
    ] {
        if let Some(url) = url {
            let parsed = url.parse::<http::Uri>().ok();
            let fits = parsed.is_some_and(|u| {
                matches!(u.scheme_str(), Some("http" | "https")) && u.host().is_some()
            });
            ensure(fits && !url.ends_with('/'), key, || {
                format!("{url:?} is no URL such as \"http://192.0.2.1:7480\" (no slash at the end)")
            })?;
        }
    }
    for address in config
        .monitoring
        .edges
        .iter()
        .chain(&config.monitoring.metrics_address)
    {
        let parsed = address.parse::<http::uri::Authority>().ok();
        let fits = parsed.is_some_and(|a| {
            !a.host().is_empty() && a.port_u16().is_some() && !address.contains('@')
        });
        ensure(fits, "monitoring.edges, monitoring.metrics_address", || {
            format!("{address:?} is no address and port such as \"192.0.2.1:8082\"")
        })?;
    }
    ensure(
        config.monitoring.agent_port != 0,
        "monitoring.agent_port",
        || "must not be 0".to_owned(),
    )?;
    ensure(
        !config.edge.entry_points.is_empty(),
        "edge.entry_points",
        || "must name at least one".to_owned(),
    )
}

fn times(config: &Config) -> Result<(), ConfigError> {
    let live = &config.liveness;
    ensure(
        live.report_interval >= MIN_REPORT_INTERVAL,
        "liveness.report_interval",
        || "must be at least 1s".to_owned(),
    )?;
    ensure(
        live.report_interval < live.suspect,
        "liveness.suspect",
        || "must be above report_interval".to_owned(),
    )?;
    ensure(live.suspect < live.lost, "liveness.lost", || {
        "must be above suspect".to_owned()
    })?;
    let ttl = &config.certificates;
    for (key, span) in [
        ("agent_ttl", ttl.agent_ttl),
        ("operator_ttl", ttl.operator_ttl),
        ("server_ttl", ttl.server_ttl),
    ] {
        ensure(
            (MIN_CERTIFICATE_TTL..=MAX_CERTIFICATE_TTL).contains(&span),
            &format!("certificates.{key}"),
            || "must be between 1h and 5 years".to_owned(),
        )?;
    }
    ensure(
        config.lifecycle.quarantine <= Span::days(3660),
        "lifecycle.quarantine",
        || "must be at most 10 years".to_owned(),
    )
}

/// Parses one of our own literals below. A unit test goes through all of them.
fn literal<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("a literal of this file")
}

impl Default for Config {
    fn default() -> Self {
        let plan = |memory, cpu, disk, workers| Plan {
            memory: Bytes::gib(memory),
            cpu: Cpus::from_millis(cpu),
            disk: Bytes::gib(disk),
            workers,
            sleep_after: None,
        };
        let edition = Edition {
            odoo: literal("odoo:18.0"),
            postgres: literal("postgres:15"),
        };
        Self {
            base_domain: literal("isy.one"),
            url_scheme: UrlScheme::Http,
            url_port: None,
            data_dir: PathBuf::new(),
            default_plan: literal("small"),
            default_edition: literal("18.0"),
            listen: Listen::default(),
            advertise: Advertise::default(),
            network: Network::default(),
            edge: Edge::default(),
            tls: Tls::default(),
            monitoring: Monitoring::default(),
            probes: Probes::default(),
            dns: Dns::default(),
            placement: Placement::default(),
            defaults: Defaults::default(),
            lifecycle: Lifecycle::default(),
            liveness: Liveness::default(),
            certificates: Certificates::default(),
            log: Log::default(),
            plans: BTreeMap::from([
                (literal("small"), plan(1, 500, 10, 0)),
                (literal("standard"), plan(2, 1000, 20, 2)),
                (literal("large"), plan(4, 2000, 50, 4)),
            ]),
            editions: BTreeMap::from([(literal("18.0"), edition)]),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            grpc: ([0, 0, 0, 0], 7443).into(),
            enroll: ([0, 0, 0, 0], 7444).into(),
            http: ([127, 0, 0, 1], 7480).into(),
            edges: None,
        }
    }
}

impl Default for Advertise {
    fn default() -> Self {
        Self {
            hosts: vec!["127.0.0.1".to_owned(), "localhost".to_owned()],
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self {
            tenant_range: literal("10.200.0.0/14"),
            subnet_prefix: 28,
            first_port: 20_000,
            last_port: 29_999,
        }
    }
}

impl Default for Edge {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            ports: vec![80, 443],
            protected_addresses: Vec::new(),
            public_addresses: Vec::new(),
            entry_points: vec!["web".to_owned()],
            url: None,
            shards: Vec::new(),
            traefik_file: None,
            traefik_dir: None,
            pages_url: None,
            rate_average: 100,
            rate_burst: 300,
            in_flight: 100,
            trusted_proxies: Vec::new(),
            frame_options: FrameOptions::SameOrigin,
            upload_limit: Bytes::gib(1),
            dashboard: None,
        }
    }
}

impl Default for Monitoring {
    fn default() -> Self {
        Self {
            prometheus_url: None,
            metrics_address: None,
            agent_port: 7482,
            edges: vec!["127.0.0.1:8082".to_owned()],
            file_sd_dir: None,
            certificate_dir: None,
            certificate_operator: literal("prometheus"),
        }
    }
}

impl Default for Placement {
    fn default() -> Self {
        Self {
            cpu_overcommit: Cpus::from_millis(4000),
            memory_reserve: Bytes::new(512 << 20),
            disk_reserve: Bytes::gib(2),
        }
    }
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            language: literal("en_US"),
            country: literal::<spec::Country>("BR"),
            time_zone: literal("UTC"),
            admin_login: literal("admin"),
        }
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            quarantine: Span::days(7),
        }
    }
}

impl Default for Liveness {
    fn default() -> Self {
        Self {
            report_interval: Span::seconds(5),
            suspect: Span::seconds(20),
            lost: Span::seconds(60),
        }
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self {
            agent_ttl: Span::days(1),
            operator_ttl: Span::days(365),
            server_ttl: Span::days(90),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Human,
            filter: "info".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::config::sample;

    #[test]
    fn the_defaults_are_valid_and_survive_toml() {
        let config = Config::default();
        config.check().unwrap();
        assert_eq!(Config::parse("x", &config.to_toml()).unwrap(), config);
    }

    #[test]
    fn the_sample_shows_every_default_as_it_is() {
        let text = sample(&Config::default());
        assert_eq!(Config::parse("sample", &text).unwrap(), Config::default());
        let uncommented: String = text
            .lines()
            .map(|line| line.strip_prefix("#= ").unwrap_or(line).to_owned() + "\n")
            .collect();
        assert_eq!(
            Config::parse("sample", &uncommented).unwrap(),
            Config::default()
        );
    }

    #[test]
    fn the_sample_keeps_what_init_was_told() {
        let mut config = Config::default();
        config.listen.http = ([127, 0, 0, 1], 17_480).into();
        config.advertise.hosts = vec!["192.0.2.1".to_owned()];
        assert_eq!(Config::parse("sample", &sample(&config)).unwrap(), config);
    }

    #[test]
    fn errors_name_line_and_key() {
        for (text, place) in [
            ("a = 1", "f line 1, a"),
            (
                "base_domain = \"isy.one\"\n[network]\nfirst_prot = 5\n",
                "f line 3, network.first_prot",
            ),
            (
                "[network]\nfirst_port = \"x\"\n",
                "f line 2, network.first_port",
            ),
            (
                "[plans.small]\nmemory = \"lots\"\ncpu = 1\ndisk = 1",
                "f line 2, plans.small.memory",
            ),
            ("[listen]\ngrpc = \"nowhere\"", "f line 2, listen.grpc"),
            ("[edge]\nshards = [\"A b\"]", "f line 2, edge.shards[0]"),
            ("x", "f line 1"),
        ] {
            let error = Config::parse("f", text).unwrap_err().to_string();
            assert!(error.starts_with(place), "{error}");
        }
    }

    #[test]
    fn contradictions_are_found() {
        for (text, key) in [
            ("default_plan = \"huge\"", "default_plan"),
            ("[network]\nfirst_port = 30000", "network.last_port"),
            ("[network]\nsubnet_prefix = 30", "network.subnet_prefix"),
            (
                "[network]\ntenant_range = \"10.200.0.1/14\"",
                "network.tenant_range",
            ),
            ("[listen]\nhttp = \"127.0.0.1:20000\"", "listen.http"),
            ("[advertise]\nhosts = []", "advertise.hosts"),
            ("[advertise]\nhosts = [\"http://x\"]", "advertise.hosts"),
            ("[liveness]\nsuspect = \"2m\"", "liveness.lost"),
            (
                "[certificates]\nagent_ttl = \"1s\"",
                "certificates.agent_ttl",
            ),
            ("[edge]\npages_url = \"nonsense\"", "edge.pages_url"),
            ("[edge]\nshards = [\"a\", \"b\", \"a\"]", "edge.shards"),
            ("[edge]\ntraefik_dir = \"x\"", "edge.traefik_dir"),
            ("[edge]\nin_flight = 0", "edge.in_flight"),
            (
                "[edge]\ntrusted_proxies = [\"0.0.0.0/0\"]",
                "edge.trusted_proxies",
            ),
            ("[edge]\nupload_limit = \"1MiB\"", "edge.upload_limit"),
            (
                "[edge.dashboard]\nusers_file = \"x\"\nhostname = \"alfa.isy.one\"",
                "edge.dashboard.hostname",
            ),
            (
                "[placement]\ncpu_overcommit = 0.5",
                "placement.cpu_overcommit",
            ),
            ("[log]\nfilter = \"a=b=c\"", "log.filter"),
            ("[tls]\nmode = \"traefik\"", "url_scheme"),
            ("[tls]\nentry_point = \"a b\"", "tls.entry_point"),
            (
                "url_scheme = \"https\"\n[tls]\nmode = \"traefik\"\nentry_point = \"web\"",
                "edge.entry_points",
            ),
            (
                "[edge]\nshards = [\"a\"]\npublic_addresses = [\"192.0.2.1\"]",
                "edge.public_addresses",
            ),
            ("[dns]\nservers = [\"192.0.2.1:0\"]", "dns.servers"),
            ("[dns]\ninterval = \"10ms\"", "dns.interval"),
            ("[dns]\nretry = \"0s\"", "dns.retry"),
            ("[dns]\nretry = \"2h\"", "dns.retry"),
            ("[probes]\ninterval = \"100ms\"", "probes.interval"),
            ("[probes]\ntimeout = \"2m\"", "probes.timeout"),
            ("[probes]\nconcurrency = 0", "probes.concurrency"),
            ("[probes]\nedges = [\"192.0.2.1\"]", "probes.edges"),
            (
                "[probes.shard_edges]\na = [\"192.0.2.1:443\"]",
                "probes.shard_edges",
            ),
            (
                "[edge]\nshards = [\"a\"]\n[probes]\nedges = [\"192.0.2.1:443\"]",
                "probes.edges",
            ),
        ] {
            let error = Config::parse("f", text)
                .unwrap()
                .check()
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(key), "{text}: {error}");
        }
    }
}
