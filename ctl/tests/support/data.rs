//! The canned fleet: three hosts, four tenants, at eight o'clock.

use std::collections::HashMap;

use isyone_proto::pb::v1::*;
use prost_types::Timestamp;

/// What `ISYCTL_NOW` is set to.
pub(crate) const NOW: &str = "2026-11-23T08:00:00Z";
const NOW_SECONDS: i64 = 1_795_420_800;

pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const MIB: u64 = 1 << 20;

/// That many seconds before (or, negative, after) now.
pub(crate) fn ago(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp {
        seconds: NOW_SECONDS - seconds,
        nanos: 0,
    })
}

/// Milliseconds after a point before now.
pub(crate) fn after(seconds_ago: i64, ms: i64) -> Option<Timestamp> {
    let total = (NOW_SECONDS - seconds_ago) * 1000 + ms;
    Some(Timestamp {
        seconds: total / 1000,
        nanos: (total % 1000 * 1_000_000) as i32,
    })
}

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

pub(crate) fn standard() -> Size {
    Size {
        memory_bytes: 2 * GIB,
        cpu_millis: 1500,
        disk_bytes: 10 * GIB,
        workers: 2,
    }
}

pub(crate) fn spec() -> TenantSpec {
    TenantSpec {
        plan: "standard".into(),
        domains: vec!["erp.example.com".into()],
        language: "pt_BR".into(),
        country: "BR".into(),
        time_zone: "America/Sao_Paulo".into(),
        modules: vec!["crm".into(), "sale_management".into()],
        edition: "18.0".into(),
        odoo_image: "odoo:18.0".into(),
        postgres_image: "postgres:15".into(),
        host: String::new(),
        host_labels: map(&[("zone", "eu")]),
        admin_login: "admin".into(),
    }
}

fn containers(name: &str) -> Vec<Container> {
    let container = |role: &str, digest: &str| Container {
        name: format!("{role}_{name}"),
        state: "running".into(),
        healthy: true,
        restarts: u32::from(role == "odoo"),
        oom_kills: 0,
        image_digest: format!("sha256:{}", digest.repeat(64)),
        exit_code: 0,
        start_time: ago(3 * 3600),
    };
    vec![container("odoo", "a"), container("postgres", "b")]
}

pub(crate) fn tenant(name: &str) -> Tenant {
    Tenant {
        name: name.into(),
        uid: "01935780-0000-7000-8000-00000000000a".into(),
        spec: Some(spec()),
        desired_state: DesiredState::Running.into(),
        phase: TenantPhase::Running.into(),
        message: String::new(),
        host: "h2".into(),
        epoch: 1,
        generation: 3,
        url: format!("http://{name}.isy.one"),
        http_port: 20_000,
        websocket_port: 20_001,
        subnet: "10.200.0.0/28".into(),
        containers: containers(name),
        usage: Some(Usage {
            cpu_millis: 42,
            memory_bytes: 612 * MIB,
            disk_bytes: 3 * GIB / 2,
        }),
        create_time: ago(3 * 86_400),
        report_time: ago(4),
        quarantine_expire_time: None,
        operation_id: op_id(1),
        size: Some(standard()),
        hostnames: vec![format!("{name}.isy.one"), "erp.example.com".into()],
        traffic: Some(Traffic {
            requests_per_minute: 192,
            errors_per_minute: 3,
            latency_p95_ms: 340,
            websockets: 3,
            active_users: 2,
            last_active_time: ago(1200),
        }),
        edge_shard: "a".into(),
        probe: Some(probe(Reach::Ok, 200, "")),
        access: None,
        domains: domains(name),
        asleep_time: None,
        last_active_time: ago(1200),
    }
}

/// The platform's, and one of its own.
pub(crate) fn domains(tenant: &str) -> Vec<Domain> {
    let platform = Domain {
        name: format!("{tenant}.isy.one"),
        unicode_name: format!("{tenant}.isy.one"),
        tenant: tenant.into(),
        platform: true,
        ..Domain::default()
    };
    let own = Domain {
        name: "erp.example.com".into(),
        unicode_name: "erp.example.com".into(),
        platform: false,
        primary: true,
        state: DomainState::Ok.into(),
        found: format!("CNAME → {tenant}.isy.one, A 192.0.2.80"),
        check_time: ago(240),
        ..platform.clone()
    };
    vec![platform, own]
}

/// Everybody's, with two that have trouble.
pub(crate) fn all_domains() -> Vec<Domain> {
    let own = domains("alfa").remove(1);
    vec![
        own.clone(),
        Domain {
            name: "shop.beta.example".into(),
            unicode_name: "shop.beta.example".into(),
            tenant: "beta".into(),
            primary: false,
            state: DomainState::Doubtful.into(),
            found: "there is no such name in DNS".into(),
            since_time: ago(60),
            ..own.clone()
        },
        Domain {
            name: "xn--bcher-kva.example".into(),
            unicode_name: "bücher.example".into(),
            tenant: "gama".into(),
            state: DomainState::Unreachable.into(),
            found: "A 203.0.113.9; no edge has 203.0.113.9".into(),
            since_time: ago(7200),
            ..own
        },
    ]
}

pub(crate) fn probe(reach: Reach, http_status: u32, error: &str) -> Probe {
    Probe {
        reach: reach.into(),
        http_status,
        duration_ms: 34,
        certificate_expire_time: ago(-60 * 86_400),
        error: error.into(),
        edge: "192.0.2.80:443".into(),
        time: ago(12),
    }
}

/// All tenants, by name.
pub(crate) fn tenants() -> Vec<Tenant> {
    let mut beta = tenant("beta");
    beta.phase = TenantPhase::Failing.into();
    beta.message =
        "image odoo:99 cannot be pulled: not found; set another with `isyctl tenant create beta --force`"
            .into();
    beta.host = "h1".into();
    beta.usage = None;
    beta.containers.clear();
    beta.report_time = None;
    beta.traffic = None;
    beta.probe = Some(probe(Reach::TenantDown, 502, "answered 502"));
    beta.create_time = ago(90);
    let mut delta = tenant("delta");
    delta.desired_state = DesiredState::Quarantined.into();
    delta.phase = TenantPhase::Quarantined.into();
    delta.containers.clear();
    delta.usage = None;
    (delta.traffic, delta.probe) = (None, None);
    delta.quarantine_expire_time = ago(-7 * 86_400);
    let mut gama = tenant("gama");
    gama.phase = TenantPhase::Suspended.into();
    gama.access = Some(TenantAccess {
        networks: vec!["203.0.113.0/24".into(), "2001:db8::/48".into()],
        users: vec!["tester".into()],
        rate: Some(RequestRate {
            average: 5,
            burst: 10,
        }),
        own_rate: true,
    });
    gama.desired_state = DesiredState::Suspended.into();
    gama.containers[0].state = "exited".into();
    gama.containers[0].healthy = false;
    gama.containers[0].exit_code = 137;
    (gama.traffic, gama.probe) = (None, None);
    // It sleeps.
    gama.message = "asleep since 2026-11-01T08:00:00Z; the next visitor wakes it".into();
    (gama.asleep_time, gama.last_active_time) = (ago(2 * 86_400), ago(16 * 86_400));
    vec![tenant("alfa"), beta, delta, gama]
}

/// Tenants as a screen follows them: more than fit on it, one for each way of being in trouble.
pub(crate) fn followed() -> Vec<Tenant> {
    let mut all: Vec<Tenant> = tenants()
        .into_iter()
        .filter(|t| t.quarantine_expire_time.is_none())
        .collect();
    let mut dark = tenant("dark");
    dark.probe = Some(probe(
        Reach::EdgeDown,
        0,
        "no connection: connection refused",
    ));
    let mut lost = tenant("lost");
    (lost.host, lost.phase) = ("h3".into(), TenantPhase::Unknown.into());
    (lost.usage, lost.traffic) = (None, None);
    lost.probe = Some(probe(Reach::HostDown, 504, "answered 504"));
    let mut hungry = tenant("hungry-with-a-rather-long-name");
    hungry.usage = Some(Usage {
        cpu_millis: 1490,
        memory_bytes: 2000 * MIB,
        disk_bytes: 0,
    });
    all.extend([dark, lost, hungry]);
    all.extend((1..=30).map(|n| {
        let mut tenant = tenant(&format!("tenant-{n:02}"));
        tenant.usage = Some(Usage {
            cpu_millis: n,
            memory_bytes: u64::from(n) * MIB,
            disk_bytes: GIB,
        });
        tenant.traffic = Some(Traffic {
            requests_per_minute: 0,
            ..Traffic::default()
        });
        tenant.probe = None;
        tenant
    }));
    all
}

pub(crate) fn hosts() -> Vec<Host> {
    let host = |name: &str, tenants: u32| Host {
        name: name.into(),
        uid: "01935780-0000-7000-8000-0000000000f1".into(),
        advertise_address: format!("192.0.2.{}", &name[1..]),
        labels: map(&[("zone", "eu"), ("disk", "nvme")]),
        cordoned: false,
        state: HostState::Ready.into(),
        message: String::new(),
        resources: Some(HostResources {
            cpus: 8,
            cpu_used_permille: 314,
            memory_total_bytes: 32 * GIB,
            memory_available_bytes: 20 * GIB,
            disk_total_bytes: 500 * GIB,
            disk_available_bytes: 400 * GIB,
            load1_milli: 2530,
            pressure: Some(Pressure {
                cpu_some_permille: 12,
                memory_some_permille: 0,
                io_some_permille: 31,
            }),
            agent_memory_bytes: 21 * MIB,
            agent_cpu_permille: 4,
        }),
        tenants,
        reserved_memory_bytes: u64::from(tenants) * 2 * GIB,
        reserved_cpu_millis: tenants * 1500,
        reserved_disk_bytes: u64::from(tenants) * 10 * GIB,
        join_time: ago(30 * 86_400),
        report_time: ago(3),
        agent_version: "0.1.0".into(),
        docker_version: "20.10.24".into(),
        plan_generation: 17,
        accepted_generation: 17,
        certificate_expire_time: ago(-20 * 3600),
    };
    let mut h2 = host("h2", 2);
    h2.cordoned = true;
    let mut h3 = host("h3", 0);
    h3.state = HostState::Lost.into();
    h3.message = "no report for 7 minutes".into();
    h3.report_time = ago(420);
    h3.resources = None;
    h3.accepted_generation = 16;
    vec![host("h1", 1), h2, h3]
}

pub(crate) fn placement(tenant: &str) -> Placement {
    let fits = |host: &str, rank, load| HostScore {
        host: host.into(),
        fits: true,
        reasons: Vec::new(),
        load_permille: load,
        memory_permille: load,
        cpu_permille: load / 2,
        disk_permille: 40,
        tenants: rank,
        rank,
    };
    Placement {
        tenant: tenant.into(),
        host: "h2".into(),
        reason: "h2: least loaded of 2 (31 % against 44 %)".into(),
        hosts: vec![
            fits("h2", 1, 312),
            fits("h1", 2, 440),
            no_fit("h3", &["no report for 7 minutes"]),
        ],
        considered: 3,
        fitting: 2,
        original_reason: String::new(),
    }
}

pub(crate) fn no_fit(host: &str, reasons: &[&str]) -> HostScore {
    HostScore {
        host: host.into(),
        reasons: reasons.iter().map(|r| (*r).to_owned()).collect(),
        tenants: 7,
        ..Default::default()
    }
}

pub(crate) fn nowhere(tenant: &str) -> Placement {
    Placement {
        tenant: tenant.into(),
        host: String::new(),
        reason: "no host fits".into(),
        hosts: vec![
            no_fit("h1", &["memory: 2 GiB asked, 1.2 GiB unreserved"]),
            no_fit("h2", &["cordoned", "label zone=us is missing"]),
            no_fit("h3", &["no report for 7 minutes"]),
        ],
        considered: 3,
        fitting: 0,
        original_reason: String::new(),
    }
}

/// Ids of operations: the last digit says which.
pub(crate) fn op_id(number: u32) -> String {
    format!("01935780-0000-7000-8000-0000000000{number:02}")
}

pub(crate) fn operator(name: &str, role: Role) -> Operator {
    Operator {
        name: name.into(),
        role: role.into(),
        create_time: ago(40 * 86_400),
        revoked: name == "eve",
        certificate_expire_time: ago(-325 * 86_400),
    }
}

pub(crate) fn events() -> Vec<Event> {
    let event =
        |sequence, kind: &str, tenant: &str, host: &str, actor: &str, message: &str| Event {
            sequence,
            time: ago(100 - sequence as i64),
            kind: kind.into(),
            tenant: tenant.into(),
            host: host.into(),
            actor: actor.into(),
            message: message.into(),
            operation_id: String::new(),
        };
    vec![
        event(
            7,
            "host.joined",
            "",
            "h3",
            "host/h3",
            "joined with a token of ana",
        ),
        event(8, "tenant.created", "alfa", "h2", "ana", "placed on h2"),
        event(
            9,
            "credentials.read",
            "alfa",
            "",
            "ana",
            "read \u{1b}[31mcredentials",
        ),
    ]
}

pub(crate) fn info() -> Info {
    let size = |memory: u64, cpu_millis, workers| Size {
        memory_bytes: memory * GIB,
        cpu_millis,
        disk_bytes: 10 * GIB,
        workers,
    };
    Info {
        version: "0.1.0".into(),
        base_domain: "isy.one".into(),
        plans: [
            ("small".to_owned(), size(1, 500, 0)),
            ("standard".to_owned(), standard()),
            ("large".to_owned(), size(8, 4000, 6)),
        ]
        .into(),
        default_plan: "standard".into(),
        caller_name: "ana".into(),
        caller_role: Role::Admin.into(),
        edge_url: String::new(),
        prometheus_url: String::new(),
        editions: map(&[("18.0", "odoo:18.0"), ("17.0", "odoo:17.0")]),
        start_time: ago(2 * 86_400),
    }
}

pub(crate) fn credentials(name: &str) -> Credentials {
    Credentials {
        url: format!("http://{name}.isy.one"),
        login: "admin".into(),
        password: "correct-horse-battery".into(),
        master_password: "master-of-all".into(),
        database: format!("odoo_{name}"),
        database_user: "odoo".into(),
        database_password: "database-secret".into(),
    }
}

/// An uploaded one, an ordered one, and a name without.
pub(crate) fn certificates() -> Vec<Certificate> {
    let day = 86_400;
    let certificate =
        |name: &str, origin: CertificateOrigin, state: CertificateState| Certificate {
            name: name.into(),
            origin: origin.into(),
            state: state.into(),
            hostnames: vec![name.into()],
            not_before: ago(30 * day),
            not_after: ago(-60 * day),
            issuer: "CN=R11, O=Let's Encrypt, C=US".into(),
            serial: "0345".into(),
            ..Certificate::default()
        };
    let own = certificate("own", CertificateOrigin::Uploaded, CertificateState::Valid);
    vec![
        certificate(
            "alfa.isy.one",
            CertificateOrigin::Acme,
            CertificateState::Valid,
        ),
        Certificate {
            name: "erp.alfa.example".into(),
            origin: CertificateOrigin::Acme.into(),
            state: CertificateState::Failing.into(),
            failures: 3,
            error: "no valid A records found for erp.alfa.example".into(),
            retry_time: ago(-1200),
            ..Certificate::default()
        },
        Certificate {
            hostnames: vec!["*.own.example".into(), "own.example".into()],
            ..own
        },
    ]
}

/// One in each state.
pub(crate) fn edges() -> Vec<Edge> {
    let versions = [
        "5d41402abc4b2a76b9719d911017c592",
        "7d793037a0760186574b0282f2f435e7",
    ];
    let edge = |last: u8, shard: &str, state: EdgeState, runs: &str| Edge {
        name: format!("192.0.2.{last}/{shard}"),
        address: format!("192.0.2.{last}"),
        shard: shard.into(),
        state: state.into(),
        poll_time: ago(2),
        given_version: versions[1].into(),
        running_version: runs.into(),
        newest_version: versions[1].into(),
        tenants: 812,
        ..Edge::default()
    };
    vec![
        Edge {
            rejected_routes: 2,
            ..edge(11, "edge-1", EdgeState::Current, versions[1])
        },
        Edge {
            behind_time: ago(320),
            ..edge(12, "edge-2", EdgeState::Stuck, versions[0])
        },
        edge(13, "edge-3", EdgeState::Unknown, ""),
        Edge {
            name: "192.0.2.14".into(),
            poll_time: ago(900),
            ..edge(14, "", EdgeState::Silent, versions[1])
        },
    ]
}

/// A contested domain, and a tenant without any route.
pub(crate) fn rejected_routes() -> Vec<RejectedRoute> {
    let route = |tenant: &str, hostname: &str, reason: &str| RejectedRoute {
        tenant: tenant.into(),
        hostname: hostname.into(),
        reason: reason.into(),
    };
    vec![
        route("beta", "erp.alfa.example", "already leads to `alfa`"),
        route(
            "gama",
            "",
            "a user for its password prompt is not `name:hash`",
        ),
    ]
}
