//! A plain host has no finding; each broken one has its own first, with a remedy.

use std::{collections::BTreeMap, path::PathBuf};

use isyone_proto::{
    finding::sorted,
    identity::{CertificateInfo, Identity},
};

use super::*;
use crate::{
    base::config::AgentConfig,
    doctor::facts::Joined,
    host::{firewall::Examined, space::Room},
    testing::{host_plan, tenant_plan},
};

const NOW: i64 = 1_800_000_000;

fn joined() -> Joined {
    Joined {
        config: AgentConfig {
            name: "h1".parse().unwrap(),
            host_uid: "u".into(),
            endpoint: "coordinator:7443".into(),
            advertise: "192.0.2.7".parse().unwrap(),
            labels: BTreeMap::new(),
        },
        certificate: Ok(CertificateInfo {
            identity: Identity::Agent("h1".parse().unwrap()),
            serial: vec![1],
            sha256: [0; 32],
            not_before: NOW - 1_000,
            not_after: NOW + 80_000,
            serves: true,
        }),
        has_address: true,
        coordinator: Ok(()),
        is_private: true,
    }
}

/// A Debian machine with its own Docker, and a few tenants.
fn well() -> Facts {
    let room = Room {
        free: 50 << 30,
        total: 100 << 30,
    };
    Facts {
        now_s: NOW,
        root: true,
        docker: Ok(EngineInfo {
            version: "20.10.24+dfsg1".into(),
            root_dir: "/var/lib/docker".into(),
            cpus: 4,
            driver: "overlay2".into(),
            mtu: Some(1500),
            ..EngineInfo::default()
        }),
        filter: Examined {
            isolation: Ok(()),
            limits: Ok(()),
            dockers: Some(true),
        },
        kernel: Kernel {
            ip_forward: Some(1),
            gc_thresh3: Some(1_024),
            inotify_instances: Some(128),
            pid_max: Some(32_768),
            conntrack_max: Some(65_536),
            conntrack_count: Some(300),
            memory_available: Some(2 << 30),
            memory_total: Some(8 << 30),
        },
        controllers: Some("cpuset cpu io memory hugetlb pids rdma".into()),
        disk: Some((PathBuf::from("/var/lib/docker"), room, Space::of(room))),
        file_system: Some("ext4".into()),
        inodes_free_permille: Some(900),
        synchronised: Some(true),
        flushes: false,
        uplink_mtu: Some(1500),
        opens_safely: true,
        joined: Ok(joined()),
        plan: Some(host_plan(1, vec![tenant_plan("alfa"), tenant_plan("beta")])),
        in_range: Vec::new(),
    }
}

fn worst(facts: &Facts) -> Finding {
    sorted(all(facts)).remove(0)
}

#[test]
fn a_host_that_is_well_has_no_finding_nor_has_one_that_has_not_joined() {
    let mut facts = well();
    for finding in all(&facts) {
        assert_eq!(finding.level, Level::Good, "{finding:?}");
    }
    facts.joined = Err(ConfigError::NotJoined(
        "/var/lib/isyone-agent/agent.toml".into(),
    ));
    (facts.plan, facts.filter.dockers) = (None, None);
    for finding in all(&facts) {
        assert_eq!(finding.level, Level::Good, "{finding:?}");
    }
}

#[test]
fn what_is_broken_comes_first_and_says_what_to_do() {
    type Break = fn(&mut Facts);
    let broken: [(&str, Break); 17] = [
        ("docker", |f| f.docker = Err("connection refused".into())),
        ("docker's set-up", |f| {
            f.docker.as_mut().unwrap().maps_users = true;
        }),
        ("storage driver", |f| {
            f.docker.as_mut().unwrap().driver = "vfs".into();
        }),
        ("packet filter", |f| {
            f.filter.isolation = Err(FirewallError::Refused("no".into()));
        }),
        ("connection limits", |f| {
            f.filter.limits = Err(FirewallError::Refused("no".into()));
        }),
        ("docker's rules", |f| f.filter.dockers = Some(false)),
        ("nftables service", |f| f.flushes = true),
        ("disk", |f| {
            let room = Room {
                free: 1 << 20,
                total: 100 << 30,
            };
            f.disk = Some(("/d".into(), room, Space::of(room)));
        }),
        ("file system", |f| f.file_system = Some("nfs4".into())),
        ("inodes", |f| f.inodes_free_permille = Some(3)),
        ("control groups", |f| {
            f.controllers = Some("cpu pids".into())
        }),
        ("neighbour table", |f| f.kernel.gc_thresh3 = Some(200)),
        ("connections now", |f| {
            f.kernel.conntrack_count = Some(65_000)
        }),
        ("clock", |f| f.synchronised = Some(false)),
        ("forwarding", |f| f.kernel.ip_forward = Some(0)),
        ("address", |f| {
            f.joined.as_mut().unwrap().has_address = false
        }),
        ("certificate", |f| f.now_s += 90_000),
    ];
    for (check, breaks) in broken {
        let mut facts = well();
        breaks(&mut facts);
        let first = worst(&facts);
        assert_eq!(&*first.check, check, "{first:?}");
        assert!(first.is_trouble(), "{first:?}");
        assert!(
            !first.why.is_empty() && !first.remedy.is_empty(),
            "{first:?}"
        );
    }
}
