//! What the fleet would be like after a move: another state, of which placement's own arithmetic gives the loads.
//!
//! Not here: which move (search).

use std::sync::Arc;

use isyone_types::{
    ids::HostName,
    plan::{Lifecycle, UnixMs},
    report::Usage,
};

use crate::{
    desired::{CopyRole, Stragglers, Tenant, TenantCopy, TenantPlacement},
    observed::HostObserved,
    placement::Slot,
    settings::Settings,
    state::State,
    views,
};

/// What a tenant was last seen to use where it lives; `None`: it runs, and nobody knows.
pub(super) fn usage(state: &State, tenant: &Tenant) -> Option<Usage> {
    views::observed(state, tenant)?.report.usage
}

/// The state after a tenant's move. Its old copy stays, fenced: memory and CPU are free then, its disk is not.
pub(super) fn moved(
    state: &State,
    settings: &Settings,
    tenant: &Tenant,
    (to, slot): (&HostName, Slot),
    now: UnixMs,
) -> State {
    let mut after = state.clone();
    let from = tenant.placement.host.clone();
    let used = usage(state, tenant);
    let mut there = tenant.clone();
    let place = TenantPlacement {
        host: to.clone(),
        epoch: tenant.next_epoch(),
        subnet: slot.subnet,
        http_port: slot.http_port,
        websocket_port: slot.websocket_port,
        reason: "".into(),
        at: now,
        as_it_is: false,
        lease_over_ms: 0,
    };
    let left = std::mem::replace(&mut there.placement, place);
    there.copies.push(TenantCopy {
        place: left,
        role: CopyRole::Fenced { until: None },
        stragglers: Stragglers::Refused,
    });
    after.fleet.put_tenant(Arc::new(there));
    let (freed, taken) = shares(tenant, used);
    change(&mut after, &from, |seen| relieve(seen, freed));
    change(&mut after, to, |seen| burden(seen, taken));
    for host in [&from, to] {
        after.refresh(settings, host, now);
    }
    after
}

/// What its move takes off one host, and puts on the other. Where nothing is known of what it uses, nothing is counted on, and all
/// that it may use is counted in.
fn shares(tenant: &Tenant, used: Option<Usage>) -> (Usage, Usage) {
    let most = match tenant.desired {
        Lifecycle::Running => Usage {
            cpu_millis: tenant.size.cpu_millis,
            memory_bytes: tenant.size.memory_bytes,
            disk_bytes: tenant.size.disk_bytes,
        },
        _ => Usage {
            disk_bytes: tenant.size.disk_bytes,
            ..Usage::default()
        },
    };
    let Some(freed) = used else {
        return (Usage::default(), most);
    };
    let disk_bytes = match freed.disk_bytes {
        0 => most.disk_bytes, // not measured
        known => known,
    };
    let taken = Usage {
        disk_bytes,
        ..freed
    };
    (freed, taken)
}

fn change(state: &mut State, host: &HostName, edit: impl FnOnce(&mut HostObserved)) {
    if let Some(seen) = state.observed.hosts.get_mut(host) {
        edit(Arc::make_mut(seen));
    }
}

fn relieve(seen: &mut HostObserved, used: Usage) {
    let resources = &mut seen.resources;
    let free = resources
        .memory_available_bytes
        .saturating_add(used.memory_bytes);
    resources.memory_available_bytes = free.min(resources.memory_total_bytes);
    let share = share_of_cpus(used.cpu_millis, resources.cpus);
    seen.cpu_average_permille = seen.cpu_average_permille.saturating_sub(share);
}

fn burden(seen: &mut HostObserved, used: Usage) {
    let resources = &mut seen.resources;
    let (memory, disk) = (
        &mut resources.memory_available_bytes,
        &mut resources.disk_available_bytes,
    );
    *memory = memory.saturating_sub(used.memory_bytes);
    *disk = disk.saturating_sub(used.disk_bytes);
    let share = share_of_cpus(used.cpu_millis, resources.cpus);
    seen.cpu_average_permille = (seen.cpu_average_permille.saturating_add(share)).min(1_000);
}

/// Per mille of all CPUs.
fn share_of_cpus(millis: u32, cpus: u32) -> u32 {
    millis / cpus.max(1)
}
