//! Hosts, and placement decisions about them.

use isyone_proto::pb::v1::*;

use super::{GIB, MIB, ago, map};

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
        maintenance: None,
        findings: vec![],
    };
    let mut h2 = host("h2", 2);
    h2.cordoned = true;
    h2.maintenance = Some(Maintenance {
        until: ago(-2 * 3600),
        reason: "a new disk".into(),
        leaves_tenants: true,
    });
    let mut h3 = host("h3", 0);
    h3.state = HostState::Lost.into();
    h3.message = "no report for 7 minutes".into();
    h3.report_time = ago(420);
    h3.resources = None;
    h3.accepted_generation = 16;
    vec![host("h1", 1), h2, h3]
}

/// Likewise, and one that nobody has let in yet.
pub(crate) fn all_hosts() -> Vec<Host> {
    let mut all = hosts();
    all.push(Host {
        name: "h4".into(),
        advertise_address: "192.0.2.4".into(),
        state: HostState::Pending.into(),
        message: "it joined by a token for any name: `isyctl host approve h4` lets it in, `isyctl host remove h4` forgets it".into(),
        join_time: ago(60),
        report_time: ago(3),
        plan_generation: 1,
        certificate_expire_time: ago(-86_400),
        ..Host::default()
    });
    all
}

pub(crate) fn join_tokens() -> Vec<JoinToken> {
    let token = |id: &str| JoinToken {
        id: id.repeat(4),
        create_time: ago(600),
        creator: "ana".into(),
        expire_time: ago(-3000),
        ..JoinToken::default()
    };
    vec![
        JoinToken {
            host: "h5".into(),
            labels: map(&[("zone", "eu")]),
            from_networks: vec!["192.0.2.0/24".into(), "2001:db8::/32".into()],
            ..token("0a1b")
        },
        JoinToken {
            host: "h1".into(),
            same_machine: true,
            used_by: "h1".into(),
            ..token("2c3d")
        },
        token("4e5f"),
    ]
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
