//! What must hold of a fleet: at all times, and once all faults have ended and everything had time to settle.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use isyone_fleet::desired::Tenant;
use isyone_proto::{pb::v1, plan::Lifecycle};

use super::{
    Fleet,
    model::{Expected, Model, TENANTS},
    node::Agent,
};

/// Far above the time to settle: an agent's longest pause before it reconnects is 15 s.
const SETTLE: Duration = Duration::from_secs(60);
/// Prefix of a volume that the agent makes to find out whether volumes are local; left behind if its removal is
/// refused.
const PROBE_VOLUME: &str = "isyone_probe_";

/// Checks what must hold at any time, whatever has failed.
pub fn check_always(fleet: &Fleet) {
    let mut running: BTreeMap<String, &str> = BTreeMap::new();
    for agent in &fleet.agents {
        assert_eq!(
            agent.docker.violations(),
            Vec::<String>::new(),
            "on {}",
            agent.name
        );
        for container in agent.docker.running() {
            if let Some(other) = running.insert(container.clone(), &agent.name) {
                panic!("{container} runs on {other} and on {}", agent.name);
            }
        }
    }
    if !fleet.coordinator.is_up() {
        return;
    }
    let (mut ports, mut subnets) = (BTreeSet::new(), BTreeSet::new());
    for tenant in fleet.coordinator.snapshot().fleet.tenants.values() {
        let place = &tenant.placement;
        for port in [place.http_port, place.websocket_port] {
            assert!(
                ports.insert((place.host.clone(), port)),
                "port {port} twice on {}",
                place.host
            );
        }
        let network = (place.host.clone(), place.subnet);
        assert!(
            subnets.insert(network),
            "network {} twice on {}",
            place.subnet,
            place.host
        );
    }
}

/// Waits until there is nothing left to complain about; returns how long that took.
pub fn settles(fleet: &Fleet, model: &Model) -> Duration {
    let begin = Instant::now();
    loop {
        check_always(fleet);
        let wrong = complaints(fleet, model);
        if wrong.is_empty() {
            return begin.elapsed();
        }
        assert!(
            begin.elapsed() < SETTLE,
            "not settled after {SETTLE:?}:\n{}",
            wrong.join("\n")
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn complaints(fleet: &Fleet, model: &Model) -> Vec<String> {
    let seen = fleet.client.block_on(async {
        (
            fleet.admin.list().await,
            fleet.admin.open_operations().await,
        )
    });
    let (listed, open) = match seen {
        (Ok(listed), Ok(open)) => (listed, open),
        (Err(status), _) | (_, Err(status)) => return vec![format!("the API says {status:?}")],
    };
    let mut wrong: Vec<String> = open
        .iter()
        .map(|o| format!("an operation is left open: {o:?}"))
        .collect();
    for name in TENANTS {
        wrong.extend(tenant(
            fleet,
            model,
            name,
            listed.iter().find(|t| t.name == name),
        ));
    }
    for unknown in listed
        .iter()
        .filter(|t| !TENANTS.contains(&t.name.as_str()))
    {
        wrong.push(format!("nobody asked for {}", unknown.name));
    }
    wrong.extend(routes(fleet));
    for agent in &fleet.agents {
        let troubles = agent.agent().host.board.troubles();
        if !troubles.is_empty() {
            wrong.push(format!("{} complains: {troubles}", agent.name));
        }
    }
    wrong
}

/// Everything that is wrong with one tenant name.
fn tenant(fleet: &Fleet, model: &Model, name: &str, listed: Option<&v1::Tenant>) -> Vec<String> {
    let known = model.tenants.get(name);
    let mut wrong = Vec::new();
    let Some(listed) = listed else {
        if known.is_some_and(|k| matches!(k.expected, Expected::Running | Expected::Suspended)) {
            wrong.push(format!("{name} was acknowledged and is gone"));
        }
        wrong.extend(fleet.agents.iter().filter_map(|agent| left(agent, name)));
        return wrong;
    };
    let Some(known) = known else {
        return vec![format!("nobody asked for {name}")];
    };
    let state = fleet.coordinator.snapshot();
    let Some(record) = state.fleet.tenants.get(name) else {
        return vec![format!("{name} is half gone")];
    };
    let (desired, phase, runs) = match known.expected {
        Expected::Running => (Lifecycle::Running, v1::TenantPhase::Running, true),
        Expected::Suspended => (Lifecycle::Suspended, v1::TenantPhase::Suspended, false),
        Expected::Deleted => (Lifecycle::Quarantined, v1::TenantPhase::Quarantined, false),
        Expected::Purged => {
            return vec![format!("{name} was purged and is still there: {record:?}")];
        }
    };
    if (&listed.uid, record.desired, listed.phase()) != (&known.uid, desired, phase) {
        wrong.push(format!("{name} should be {known:?} and is {listed:?}"));
    }
    for agent in &fleet.agents {
        if agent.name == record.placement.host.as_str() {
            wrong.extend(stack(agent, record, runs));
        } else {
            wrong.extend(left(agent, name));
        }
    }
    wrong
}

/// What is wrong with a tenant's stack on its host, if anything.
fn stack(agent: &Agent, record: &Tenant, runs: bool) -> Option<String> {
    let name = record.name.as_str();
    let wanted = [format!("odoo_{name}"), format!("postgres_{name}")];
    let running: Vec<String> = agent
        .docker
        .running()
        .into_iter()
        .filter(|c| wanted.contains(c))
        .collect();
    let (containers, _, volumes) = agent.docker.things();
    let kept = [format!("odoo_data_{name}"), format!("pgdata_{name}")]
        .iter()
        .all(|v| volumes.contains(v));
    let absent = !containers.iter().any(|c| wanted.contains(c));
    let good = kept
        && match record.desired {
            Lifecycle::Quarantined => absent,
            _ => running.len() == if runs { 2 } else { 0 },
        };
    let keyed = agent
        .docker
        .database_keys(name)
        .is_some_and(|keys| keys != "default");
    // Deleted while nobody knew whether it had ever run: kept as it is.
    if record.activated_at.is_none() && record.desired == Lifecycle::Quarantined {
        return (!absent).then(|| format!("{name} was deleted before it ran, and is there"));
    }
    if record.activated_at.is_none() && record.desired == Lifecycle::Suspended {
        return (!running.is_empty())
            .then(|| format!("{name} was suspended before it ran, and runs"));
    }
    (!good || !keyed).then(|| {
        format!(
            "{name} on {}: running {running:?}, volumes kept: {kept}, own keys: {keyed}",
            agent.name
        )
    })
}

/// What a host still has of a tenant that should not be there.
fn left(agent: &Agent, name: &str) -> Option<String> {
    let (containers, networks, volumes) = agent.docker.things();
    let own = |thing: &&String| {
        !thing.starts_with(PROBE_VOLUME) && thing.split('_').any(|part| part == name)
    };
    let left: Vec<_> = containers
        .iter()
        .chain(&networks)
        .chain(&volumes)
        .filter(own)
        .collect();
    let home = agent.docker.homes().join(name);
    if home.exists() {
        return Some(format!("{} still has {}", agent.name, home.display()));
    }
    (!left.is_empty()).then(|| format!("{} still has {left:?}", agent.name))
}

/// Published routes lead to all running tenants and nowhere else; suspended ones get a page.
fn routes(fleet: &Fleet) -> Vec<String> {
    let state = fleet.coordinator.snapshot();
    let published = fleet.http("/traefik/config");
    let targets: BTreeSet<String> = published
        .split('"')
        .filter(|text| text.starts_with("http://192.0.2."))
        .map(|text| text.trim_end_matches('/').to_owned())
        .collect();
    let mut wrong = Vec::new();
    let mut wanted = BTreeSet::new();
    for tenant in state.fleet.tenants.values() {
        let routed = published.contains(&format!("Host(`{}.isy.one`)", tenant.name));
        // A tenant that was suspended before it ever ran has no route yet.
        if routed == (tenant.is_deleted() || tenant.activated_at.is_none()) {
            wrong.push(format!(
                "{} is {:?}, routed: {routed}",
                tenant.name, tenant.desired
            ));
        }
        if tenant.desired == Lifecycle::Running
            && let Some(host) = state.fleet.hosts.get(&tenant.placement.host)
        {
            wanted.insert(format!(
                "http://{}:{}",
                host.advertise, tenant.placement.http_port
            ));
        }
    }
    if targets != wanted {
        wrong.push(format!(
            "routes lead to {targets:?} and should lead to {wanted:?}"
        ));
    }
    wrong
}
