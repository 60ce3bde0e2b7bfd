//! What must hold of placement in any fleet.
//!
//! Not here: what creating a tenant does with a decision (change/tests).

use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use isyone_types::report::HostResources;
use proptest::prelude::*;

use super::*;
use crate::{
    desired::HostIndex,
    settings::Network,
    testing::{Bench, GIB, name, resources},
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is created in whatever fleet: no host is over-filled, no port or network is used twice on a host, each
    /// network lies in the range, and the same request gets the same answer.
    #[test]
    fn never_overfills_and_is_deterministic(
        hosts in prop::collection::vec((1u32..16, 1u64..64, 5u64..200), 1..8),
        plans in prop::collection::vec(0usize..3, 1..60),
    ) {
        let mut bench = Bench::default();
        for (i, (cpus, memory, disk)) in hosts.iter().enumerate() {
            bench.host(&format!("h{i}"), resources(*cpus, *memory, *disk));
        }
        for (i, plan) in plans.iter().enumerate() {
            let plan = ["small", "standard", "large"][*plan];
            let mut dry = bench.creation(&format!("t{i}"), plan);
            dry.dry_run = true;
            let dry = bench.apply(crate::change::Command::CreateTenant(Box::new(dry)));
            let wet = bench.create(&format!("t{i}"), plan);
            match (dry, wet) {
                (Ok(crate::change::Outcome::Tenant { tenant: a, .. }), Ok(crate::change::Outcome::Tenant { tenant: b, .. })) => {
                    prop_assert_eq!(&a.placement.host, &b.placement.host);
                    prop_assert_eq!(a.placement.subnet, b.placement.subnet);
                }
                (Ok(crate::change::Outcome::NoHost(_)), Err(_)) => {}
                (a, b) => prop_assert!(false, "{a:?} {b:?}"),
            }
        }
        for (host, index) in &bench.state.fleet.by_host {
            let has = bench.state.observed.hosts[host].resources;
            let settings = &bench.settings.placement;
            prop_assert!(index.memory_bytes + settings.memory_reserve_bytes <= has.memory_total_bytes);
            prop_assert!(index.disk_bytes + settings.disk_reserve_bytes <= has.disk_total_bytes);
            prop_assert!(index.cpu_millis <= u64::from(has.cpus) * u64::from(settings.cpu_overcommit_permille));
            prop_assert_eq!(index.ports.len(), 2 * index.tenants.len());
            prop_assert_eq!(index.subnets.len(), index.tenants.len());
            for subnet in &index.subnets {
                prop_assert!(bench.settings.network.tenant_range.contains(&std::net::Ipv4Addr::from_bits(*subnet)));
            }
        }
    }

    /// The short way (the ranking) and the long way (all hosts) choose the same host in fleets of up to CANDIDATES
    /// hosts.
    #[test]
    fn choosing_agrees_with_explaining(loads in prop::collection::vec((0u64..31, 0u32..1000), 1..CANDIDATES)) {
        let mut bench = Bench::default();
        for (i, (used, cpu)) in loads.iter().enumerate() {
            let busy = HostResources {
                memory_available_bytes: (32 - used) * GIB,
                cpu_used_permille: *cpu,
                load1_milli: 8 * cpu,
                ..resources(8, 32, 100)
            };
            bench.host(&format!("h{i}"), busy);
        }
        let size = bench.settings.plans[&name::<isyone_types::ids::ShortName>("small")];
        let labels = BTreeMap::new();
        let request = Request { size, host: None, labels: &labels };
        let view = bench.state.placement_inputs(&bench.settings);
        prop_assert_eq!(choose(view, request, bench.now).host, explain(view, request, bench.now).host);
    }

    /// A slot is found as long as one is free, and never one that overlaps the host's own networks.
    #[test]
    fn networks_avoid_the_hosts_own(avoid in 0u32..16, taken in prop::collection::btree_set(0u32..16, 0..16)) {
        let network = Network { tenant_range: name("10.200.0.0/24"), subnet_prefix: 28, first_port: 20_000, last_port: 20_031, closed: Vec::new(), mail_relays: Vec::new(), mtu: None };
        let base = u32::from(std::net::Ipv4Addr::new(10, 200, 0, 0));
        let avoided = Ipv4Net::new(std::net::Ipv4Addr::from(base + avoid * 16), 28).unwrap();
        let mut index = HostIndex::default();
        for slot in &taken {
            index.subnets.insert(base + slot * 16);
            index.ports.insert(u16::try_from(20_000 + 2 * slot).unwrap());
        }
        match allocate(&index, &network, &[avoided]) {
            Some(Slot { subnet, http_port, websocket_port }) => {
                prop_assert!(!avoided.contains(&subnet) && !index.subnets.contains(&subnet.network().to_bits()));
                prop_assert!(!index.ports.contains(&http_port) && websocket_port == http_port + 1);
            }
            None => prop_assert!((0..16).all(|slot| taken.contains(&slot) || slot == avoid)),
        }
    }
}

#[test]
fn every_rejection_says_why() {
    let mut bench = Bench::default();
    let host = bench.host("h1", resources(1, 1, 2));
    bench
        .apply(crate::change::Command::CordonHost {
            host: host.clone(),
            cordoned: true,
        })
        .unwrap();
    let labels = BTreeMap::from([(name("disk"), name("ssd"))]);
    let other = name("h2");
    let size = bench.settings.plans[&name::<isyone_types::ids::ShortName>("large")];
    let size = Size {
        cpu_millis: 9_000,
        disk_bytes: 3 * GIB,
        ..size
    };
    let view = bench.state.placement_inputs(&bench.settings);
    let decision = explain(
        view,
        Request {
            size,
            host: Some(&other),
            labels: &labels,
        },
        1_000,
    );
    let said: Vec<String> = decision
        .hosts
        .iter()
        .flat_map(|j| j.rejections.iter().map(|r| format!("{}: {r}", j.host)))
        .collect();
    assert_eq!(
        said,
        [
            "h1: only h2 was asked for",
            "h1: cordoned",
            "h1: label disk=ssd missing",
            "h1: memory: needs 4096 MiB, 512 MiB unreserved",
            "h1: CPU: needs 9000 m, 4000 m unreserved",
            "h1: disk: needs 3072 MiB, 1024 MiB free",
            "h2: no such host",
        ]
    );
    assert_eq!(
        decision.reason,
        "none of 2 hosts fits (CPU 1, cordoned 1, disk 1, label 1, memory 1, no such host 1, not asked for 1)"
    );
}

#[test]
fn the_reason_is_a_sentence() {
    let mut bench = Bench::default();
    bench.host(
        "h1",
        HostResources {
            memory_available_bytes: 16 * GIB,
            ..resources(8, 32, 100)
        },
    );
    bench.host("h2", resources(8, 32, 100));
    let crate::change::Outcome::Tenant { decision, .. } = bench.create("alfa", "small").unwrap()
    else {
        panic!()
    };
    assert_eq!(
        decision.reason,
        "h2: least loaded of 2 hosts that fit out of 2 (4 %, 0 tenants; next h1 with 54 %, 0 tenants)"
    );
}

#[test]
fn noise_at_a_steps_edge_does_not_decide() {
    let mut bench = Bench::default();
    // 19.9 % and 20.1 % of memory in use count as equal, so tenants spread evenly.
    for (host, used) in [("h1", 199), ("h2", 201), ("h3", 198)] {
        let available = 32 * GIB - 32 * GIB / 1000 * used;
        bench.host(
            host,
            HostResources {
                memory_available_bytes: available,
                ..resources(8, 32, 100)
            },
        );
    }
    for i in 0..6 {
        bench.create(&format!("t{i}"), "small").unwrap();
    }
    assert!(
        bench
            .state
            .fleet
            .by_host
            .values()
            .all(|index| index.tenants.len() == 2)
    );
}
