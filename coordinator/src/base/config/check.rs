//! Constraints between keys, and between a key and the outside world.
//!
//! Not here: sections with a file of their own (backup, edge, dns, plans, probes, tls), and parsing.

use isyone_proto::{ids::ShortName, known, spec::ValueError};

use super::{Config, ConfigError, Images, Network, Span, backup, edge, mail, network, plans, tls};

/// With a shorter interval, reports rather than tenants would be a host's load.
const MIN_REPORT_INTERVAL: Span = Span::seconds(1);
/// Below this, clock differences between machines matter.
const MIN_CERTIFICATE_TTL: Span = Span::seconds(3600);
/// What browsers' trust stores would accept, with slack; also keeps dates far from overflow.
const MAX_CERTIFICATE_TTL: Span = Span::days(5 * 366);

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
    known_values(config)?;
    ranges(&config.network)?;
    network::check(config)?;
    addresses(config)?;
    urls(config)?;
    scraped(config)?;
    times(config)?;
    edge::check(config)?;
    tls::check(config)?;
    config.probes.check(&config.edge)?;
    config.dns.check(&config.edge)?;
    Images::check(config)?;
    mail::check(config)?;
    backup::check(config)?;
    for (name, plan) in &config.plans {
        plans::check(name, plan)?;
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

/// What new tenants get unasked must be as right as what they ask for.
fn known_values(config: &Config) -> Result<(), ConfigError> {
    fn judge<T>(key: &str, judged: Result<T, ValueError>) -> Result<(), ConfigError> {
        judged
            .map(drop)
            .map_err(|e| ConfigError::at(key, e.to_string()))
    }
    let defaults = &config.defaults;
    judge(
        "defaults.language",
        known::language(defaults.language.as_str()),
    )?;
    judge(
        "defaults.country",
        known::country(defaults.country.as_str()),
    )?;
    judge(
        "defaults.time_zone",
        known::time_zone(defaults.time_zone.as_str()),
    )?;
    judge(
        "defaults.admin_login",
        known::login(defaults.admin_login.as_str()),
    )?;
    for (name, edition) in &config.editions {
        judge(
            &format!("editions.{name}.odoo"),
            known::image(edition.odoo.as_str()),
        )?;
        judge(
            &format!("editions.{name}.postgres"),
            known::image(edition.postgres.as_str()),
        )?;
    }
    Ok(())
}

fn ranges(network: &Network) -> Result<(), ConfigError> {
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

fn urls(config: &Config) -> Result<(), ConfigError> {
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
    Ok(())
}

/// Checks the addresses that we give Prometheus.
fn scraped(config: &Config) -> Result<(), ConfigError> {
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
    Ok(())
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
    )?;
    let hold = config.lifecycle.clock_hold;
    ensure(
        (Span::seconds(1)..=Span::days(7)).contains(&hold),
        "lifecycle.clock_hold",
        || "must be between 1s and 7d".to_owned(),
    )
}
