//! Invariants that hold after each step of a simulation, whatever messages were lost and programs crashed.

use std::collections::{BTreeMap, BTreeSet};

use isyone_fleet::{desired::Fleet, views};
use isyone_proto::plan::Lifecycle;

use super::Simulation;

/// Checks the invariants that hold after each step.
pub fn check(sim: &Simulation) {
    one_placement_and_nothing_twice(sim);
    nothing_lost(sim);
    no_route_to_nowhere(sim);
    indexes_are_what_they_index(sim);
    hosts_hold_what_they_may(sim);
}

fn one_placement_and_nothing_twice(sim: &Simulation) {
    let (mut ports, mut subnets) = (BTreeSet::new(), BTreeSet::new());
    for tenant in sim.state.fleet.tenants.values() {
        let place = &tenant.placement;
        assert!(
            sim.state.fleet.hosts.contains_key(&place.host),
            "{} is placed on a host that is not there",
            tenant.name
        );
        for port in [place.http_port, place.websocket_port] {
            assert!(
                ports.insert((place.host.clone(), port)),
                "port {port} twice on {}",
                place.host
            );
        }
        assert!(
            subnets.insert((place.host.clone(), place.subnet)),
            "network {} twice on {}",
            place.subnet,
            place.host
        );
    }
    let mut running: BTreeMap<_, &_> = BTreeMap::new();
    for host in sim.hosts.values() {
        for (tenant, stack) in host.docker.iter().filter(|(_, s)| s.odoo) {
            if let Some(other) = running.insert(tenant.clone(), &host.name) {
                panic!("{tenant} runs on {other} and on {}: {stack:?}", host.name);
            }
        }
    }
}

fn nothing_lost(sim: &Simulation) {
    for (tenant, uid) in &sim.promised {
        let record = sim
            .state
            .fleet
            .tenants
            .get(tenant)
            .unwrap_or_else(|| panic!("{tenant} was promised and is gone"));
        assert_eq!(record.uid, *uid, "{tenant} was replaced");
        assert!(!record.is_deleted(), "{tenant} was deleted by nobody");
    }
}

fn no_route_to_nowhere(sim: &Simulation) {
    let mut hostnames = BTreeSet::new();
    for route in views::routes(&sim.state, &sim.settings) {
        let tenant = &sim.state.fleet.tenants[&route.tenant];
        let host = &sim.hosts[&tenant.placement.host];
        let stack = host.docker.get(&route.tenant);
        let there = stack.is_some_and(|s| s.odoo_port == Some(route.http_port));
        // After a restore the containers will come back on the same port.
        let on_its_way =
            stack.is_some_and(|s| s.volumes == Some(tenant.uid)) && tenant.activated_at.is_some();
        assert!(
            there || on_its_way,
            "route of {} leads to {stack:?}\n{}",
            route.tenant,
            story(sim, &route.tenant)
        );
        for name in route.hostnames {
            assert!(hostnames.insert(name.clone()), "{name} is routed twice");
        }
    }
}

fn indexes_are_what_they_index(sim: &Simulation) {
    let mut fresh = Fleet::default();
    for tenant in sim.state.fleet.tenants.values() {
        fresh.put_tenant(tenant.clone());
    }
    assert_eq!(fresh.by_host, sim.state.fleet.by_host);
    assert_eq!(fresh.by_domain, sim.state.fleet.by_domain);
}

fn hosts_hold_what_they_may(sim: &Simulation) {
    for host in sim.hosts.values() {
        assert!(
            host.removed.iter().all(|(_, allowed)| *allowed),
            "{} removed volumes without permission",
            host.name
        );
        for (tenant, stack) in &host.docker {
            assert!(
                stack.initialisations <= 1,
                "{tenant} was initialised twice on the same volumes"
            );
        }
    }
}

/// Checks the end state after healing: everything is as desired, and no operation is left open.
pub fn check_quiet(sim: &Simulation) {
    for tenant in sim.state.fleet.tenants.values() {
        let stack = sim.hosts[&tenant.placement.host]
            .docker
            .get(&tenant.name)
            .cloned()
            .unwrap_or_default();
        match tenant.desired {
            Lifecycle::Running => {
                assert!(
                    stack.odoo && stack.postgres,
                    "{} does not run: {stack:?}",
                    tenant.name
                )
            }
            Lifecycle::Suspended => {
                assert!(!stack.odoo && !stack.postgres, "{} still runs", tenant.name)
            }
            Lifecycle::Quarantined => {
                assert!(
                    stack.odoo_port.is_none() && stack.volumes.is_some()
                        || tenant.activated_at.is_none()
                )
            }
            Lifecycle::Purged => panic!("{} is still being purged", tenant.name),
        }
    }
    for operation in sim.state.fleet.operations.values() {
        assert!(
            operation.state.is_final(),
            "operation left open: {operation:?}"
        );
    }
    for (name, host) in &sim.hosts {
        for tenant in host.docker.keys() {
            assert!(
                sim.state.fleet.tenants.contains_key(tenant),
                "{name} holds {tenant}, which nobody knows"
            );
        }
    }
}

/// The history of a tenant, for failure messages.
fn story(sim: &Simulation, tenant: &isyone_proto::ids::TenantName) -> String {
    let told = sim
        .state
        .fleet
        .events
        .iter()
        .filter(|e| e.tenant.as_ref() == Some(tenant));
    let mut text: Vec<String> = told
        .map(|e| format!("{} {} {}", e.at, e.kind, e.message))
        .collect();
    text.push(format!("{:?}", sim.state.fleet.tenants.get(tenant)));
    for host in sim.hosts.keys() {
        text.push(format!("{:?}", sim.state.observed.copy(tenant, host)));
    }
    text.join("\n")
}
