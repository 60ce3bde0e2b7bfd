//! Invariants that hold after each step of a simulation, whatever messages were lost and programs crashed.

use std::collections::{BTreeMap, BTreeSet};

use isyone_fleet::{
    desired::{CopyRole, Fleet},
    operation::{MoveStage, OperationKind, Procedure},
    procedures, views,
    written::{RecordValue, Write},
};
use isyone_proto::{operation::OperationState, plan::Lifecycle};

use uuid::Uuid;

use super::{Simulation, standbys};

/// Checks the invariants that hold after each step.
pub fn check(sim: &Simulation) {
    one_placement_and_nothing_twice(sim);
    one_writer(sim);
    one_operation(sim);
    moves_take_turns(sim);
    indexes_are_what_they_index(sim);
    hosts_hold_what_they_may(sim);
    nothing_goes_unasked(sim);
    // A coordinator that knows an older state only can keep no promise made since.
    if !sim.shape.rebuilds {
        nothing_written_is_lost(sim);
        nothing_lost(sim);
        no_route_to_nowhere(sim);
    }
}

fn one_placement_and_nothing_twice(sim: &Simulation) {
    let (mut ports, mut subnets) = (BTreeSet::new(), BTreeSet::new());
    for tenant in sim.state.fleet.tenants.values() {
        let mut hosts = BTreeSet::new();
        for (place, _) in tenant.places() {
            assert!(
                sim.state.fleet.hosts.contains_key(&place.host),
                "{} is placed on a host that is not there",
                tenant.name
            );
            assert!(
                hosts.insert(place.host.clone()),
                "{} is placed twice on {}",
                tenant.name,
                place.host
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
    }
}

/// Nobody but one copy of a tenant could write, whatever the coordinator knows.
fn one_writer(sim: &Simulation) {
    let mut running: BTreeMap<_, &_> = BTreeMap::new();
    for host in sim.hosts.values() {
        for (tenant, copy) in host.copies.iter().filter(|(_, copy)| copy.runs()) {
            // By whose data it is: a container of an earlier tenant of the name may still be up.
            let owner = copy.data.map_or(copy.world.state.uid, |data| data.uid);
            if let Some(other) = running.insert(owner, &host.name) {
                panic!(
                    "{tenant} runs on {other} and on {}\n{}",
                    host.name,
                    story(sim, tenant)
                );
            }
        }
    }
}

/// What users were told is written is on the host where the tenant lives.
fn nothing_written_is_lost(sim: &Simulation) {
    for tenant in sim.state.fleet.tenants.values() {
        let Some(written) = sim.written.get(&tenant.uid) else {
            continue;
        };
        let copy = sim.hosts[&tenant.placement.host].copies.get(&tenant.name);
        let held = copy.and_then(|copy| copy.data);
        let purged = tenant.desired == Lifecycle::Purged;
        assert!(
            purged || held.is_some_and(|data| data.uid == tenant.uid && data.value == *written),
            "{}: {written} was written, {held:?} is held by {}\n{}",
            tenant.name,
            tenant.placement.host,
            story(sim, &tenant.name)
        );
    }
}

/// What users were told is written is somewhere, unless an operator has deleted its tenant: whatever the coordinator knows,
/// and whatever time it is.
fn nothing_goes_unasked(sim: &Simulation) {
    for uid in &sim.wanted {
        assert!(
            is_held(sim, uid),
            "{uid}: {:?} was written, and nobody has it any more\n{}",
            sim.written.get(uid),
            story_of(sim, uid)
        );
    }
}

/// Whether some host has all that users were told is written.
pub fn is_held(sim: &Simulation, uid: &Uuid) -> bool {
    let mut held = sim.hosts.values().flat_map(|host| host.copies.values());
    let written = sim.written.get(uid);
    written.is_none_or(|written| {
        held.any(|copy| {
            let data = copy.data;
            data.is_some_and(|data| data.uid == *uid && data.value == *written)
        })
    })
}

/// A purge that has ended well has left nothing, on no host.
pub fn check_purged(sim: &Simulation, writes: &[Write]) {
    for write in writes {
        let Write::Put(RecordValue::Operation(operation)) = write else {
            continue;
        };
        let kind = operation.kind == OperationKind::Purge;
        let done = kind && operation.state == OperationState::Succeeded;
        // A coordinator of an older state does not know where copies have gone since.
        let Some(uid) = operation
            .tenant_uid()
            .filter(|_| done && !sim.shape.rebuilds)
        else {
            continue;
        };
        for host in sim.hosts.values() {
            let left = host.copies.iter();
            let mut left = left.filter(|(_, copy)| copy.data.is_some_and(|data| data.uid == uid));
            if let Some((tenant, _)) = left.next() {
                panic!(
                    "the purge of {tenant} is over, and {} has its data\n{}",
                    host.name,
                    story(sim, tenant)
                );
            }
        }
    }
}

/// A tenant has at most one operation under way, and it knows which.
fn one_operation(sim: &Simulation) {
    let fleet = &sim.state.fleet;
    for id in &fleet.running {
        let operation = &fleet.operations[id];
        let tenant = operation.tenant().and_then(|name| fleet.tenants.get(name));
        assert!(
            tenant.is_some_and(|tenant| tenant.operation == *id),
            "operation {id} ({}) runs beside another",
            operation.kind.word()
        );
    }
    for tenant in fleet.tenants.values() {
        let running = fleet.running.contains(&tenant.operation);
        assert!(
            running || !tenant.halted,
            "{} is halted by nobody\n{}",
            tenant.name,
            story(sim, &tenant.name)
        );
    }
}

/// However many are to be moved, only as many are stopped at a time for the way between two hosts as these copy at a time.
fn moves_take_turns(sim: &Simulation) {
    let mut stopped: BTreeMap<_, usize> = BTreeMap::new();
    for operation in sim.state.fleet.operations.values() {
        let Procedure::Move(relocation) = &operation.procedure else {
            continue;
        };
        if operation.is_over() || !matches!(relocation.stage, MoveStage::Stop | MoveStage::Copy) {
            continue;
        }
        let way = (&relocation.from, &relocation.to);
        let count = stopped.entry(way).or_default();
        *count += 1;
        assert!(
            *count <= procedures::MOVES_AT_ONCE,
            "{count} tenants are stopped for their way from {} to {}",
            way.0,
            way.1
        );
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
        assert!(
            !record.is_deleted(),
            "{tenant} was deleted by nobody\n{}",
            story(sim, tenant)
        );
    }
}

fn no_route_to_nowhere(sim: &Simulation) {
    let mut hostnames = BTreeSet::new();
    for route in views::routes(&sim.state, &sim.settings) {
        let tenant = &sim.state.fleet.tenants[&route.tenant];
        let host = &sim.hosts[&tenant.door().host];
        let copy = host.copies.get(&route.tenant);
        let there = copy.is_some_and(|copy| copy.world.observed.odoo.is_some());
        // After an undelete, a move or another size the containers come (back) on the same port.
        let on_its_way = copy.is_some_and(|copy| copy.data.is_some_and(|d| d.uid == tenant.uid));
        assert!(
            there || on_its_way,
            "route of {} leads to {copy:?}\n{}",
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
    for operation in sim.state.fleet.operations.values() {
        fresh.put_operation(operation.clone());
    }
    assert_eq!(fresh.copying, sim.state.fleet.copying);
    assert_eq!(fresh.ended, sim.state.fleet.ended);
    assert_eq!(fresh.by_host, sim.state.fleet.by_host);
    assert_eq!(fresh.by_domain, sim.state.fleet.by_domain);
    assert_eq!(fresh.fenced, sim.state.fleet.fenced);
    assert_eq!(fresh.standbys, sim.state.fleet.standbys);
}

fn hosts_hold_what_they_may(sim: &Simulation) {
    for host in sim.hosts.values() {
        assert!(
            host.removed.iter().all(|(_, allowed)| *allowed),
            "{} removed volumes without permission",
            host.name
        );
        for (tenant, copy) in &host.copies {
            assert!(
                copy.initialisations <= 1,
                "{tenant} was initialised twice on the same volumes"
            );
        }
    }
}

/// Checks the end state after healing: everything is as desired, and no operation is left open.
pub fn check_quiet(sim: &Simulation) {
    for operation in sim.state.fleet.operations.values() {
        assert!(
            operation.is_over(),
            "operation left open: {operation:?}\n{}",
            operation
                .tenant()
                .map(|tenant| story(sim, tenant))
                .unwrap_or_default()
        );
    }
    for tenant in sim.state.fleet.tenants.values() {
        let host = &sim.hosts[&tenant.placement.host];
        let copy = host.copies.get(&tenant.name);
        let (serves, runs) = copy.map_or((false, false), |c| (c.serves(), c.runs()));
        let story = || story(sim, &tenant.name);
        match tenant.desired {
            Lifecycle::Running => assert!(serves, "{} does not run\n{}", tenant.name, story()),
            Lifecycle::Suspended => assert!(!runs, "{} still runs\n{}", tenant.name, story()),
            Lifecycle::Quarantined => {
                let kept = copy.is_some_and(|c| c.has_volumes() && c.world.observed.odoo.is_none());
                assert!(kept || tenant.activated_at.is_none(), "{}", story());
            }
            Lifecycle::Purged => panic!("{} is still being purged\n{}", tenant.name, story()),
        }
        for copy in &tenant.copies {
            if let CopyRole::Standby(standby) = &copy.role {
                standbys::check_quiet(sim, tenant, &copy.place.host, standby.job);
                continue;
            }
            assert!(
                matches!(copy.role, CopyRole::Fenced { .. }),
                "{copy:?} is left\n{}",
                story()
            );
        }
    }
    for (name, host) in &sim.hosts {
        for tenant in host.copies.keys() {
            let record = sim.state.fleet.tenants.get(tenant);
            assert!(
                record.is_some_and(|record| record.place_on(name).is_some()),
                "{name} holds {tenant}, of which nobody knows\n{}",
                story(sim, tenant)
            );
        }
    }
}

/// The same, of whom only the uid is known.
pub fn story_of(sim: &Simulation, uid: &Uuid) -> String {
    let tenants = sim.state.fleet.tenants.values();
    let of_it = tenants.filter(|tenant| tenant.uid == *uid);
    of_it.map(|tenant| story(sim, &tenant.name)).collect()
}

/// The history of a tenant, for failure messages.
pub fn story(sim: &Simulation, tenant: &isyone_proto::ids::TenantName) -> String {
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
    let operations = sim.state.fleet.operations.values();
    let of_it = operations.filter(|o| o.tenant() == Some(tenant));
    text.extend(of_it.map(|operation| format!("{operation:?}")));
    for (name, host) in &sim.hosts {
        let plan = host.tenants().iter().find(|t| t.name == *tenant);
        let plan = plan.map(|t| (t.desired, t.epoch, t.generation, &t.seed));
        let copy = host.copies.get(tenant);
        let copy = copy.map(|c| (c.data, c.runs(), &c.world.state.database));
        let seen = sim.state.observed.copy(tenant, name);
        let seen = seen.map(|s| (s.report.generation, s.report.progress, &s.report.message));
        text.push(format!(
            "{name}: plan {plan:?}, holds {copy:?}, seen {seen:?}"
        ));
    }
    text.join("\n")
}
