//! Default values of the configuration.
//!
//! Not here: defaults of the sections with a file of their own (backup, dns, probes, tls), and the sample that shows all of
//! them.

use std::{collections::BTreeMap, path::PathBuf};

use isyone_fleet::settings::Edition;
use isyone_proto::{network, spec};

use super::{
    Advertise, Backup, Bytes, Certificates, Config, Cpus, Defaults, Dns, Edge, FrameOptions,
    Images, Join, Lifecycle, Listen, Liveness, Log, LogFormat, MailConfig, Monitoring, Network,
    Placement, Plan, Probes, Span, Tls, UrlScheme,
};

/// Parses one of the literals below; a unit test covers all of them.
fn literal<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("a literal of this file")
}

/// Where public addresses are not: private networks (RFC 1918), those behind a carrier's NAT (RFC 6598), and what is kept
/// for protocols and measurements.
const CLOSED_NETWORKS: [&str; 6] = [
    "10.0.0.0/8",
    "100.64.0.0/10",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
];

impl Default for Config {
    fn default() -> Self {
        let plan = |memory, cpu, disk, workers| Plan {
            memory: Bytes::gib(memory),
            cpu: Cpus::from_millis(cpu),
            disk: Bytes::gib(disk),
            workers,
            sleep_after: None,
            standby: None,
            pids: None,
            nofile: None,
            device_read_bps: None,
            device_write_bps: None,
            device_read_iops: None,
            device_write_iops: None,
            connections: None,
            connections_per_second: None,
            egress: network::Egress::Open,
            egress_allow: Vec::new(),
            egress_smtp: false,
            backup: None,
            mail: None,
            odoo: Default::default(),
        };
        let edition = |odoo, postgres| Edition {
            odoo: literal(odoo),
            postgres: literal(postgres),
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
            join: Join::default(),
            network: Network::default(),
            edge: Edge::default(),
            tls: Tls::default(),
            monitoring: Monitoring::default(),
            probes: Probes::default(),
            dns: Dns::default(),
            mail: MailConfig::default(),
            odoo: Default::default(),
            placement: Placement::default(),
            defaults: Defaults::default(),
            lifecycle: Lifecycle::default(),
            backup: Backup::default(),
            liveness: Liveness::default(),
            certificates: Certificates::default(),
            log: Log::default(),
            plans: BTreeMap::from([
                (literal("small"), plan(1, 500, 10, 0)),
                (literal("standard"), plan(2, 1000, 20, 2)),
                (literal("large"), plan(4, 2000, 50, 4)),
            ]),
            editions: BTreeMap::from([
                (literal("18.0"), edition("odoo:18.0", "postgres:15")),
                (literal("19.0"), edition("odoo:19.0", "postgres:17")),
            ]),
            images: Images::default(),
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
            closed_networks: CLOSED_NETWORKS.into_iter().map(literal).collect(),
            mail_relays: Vec::new(),
            mtu: None,
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
            // Long enough to notice a wrong clock, and negligible beside a quarantine of days.
            clock_hold: Span::seconds(3_600),
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
            filter: "info,rustic_core=warn".to_owned(),
        }
    }
}
