//! What a host's plan says of standbys: that one is kept up, that it may be, and on what terms the tenant runs that it belongs to.
//!
//! Not here: all else in a plan (plan), and when there is a standby (change::tenants::standby).

use isyone_types::{
    ids::HostName,
    lease::{Lease, held_for_ms},
    plan::{JobOrder, JobWork, Lifecycle, PeerGrant, UnixMs},
};

#[cfg(feature = "planted")]
use crate::planted;
use crate::{
    desired::{CopyRole, Tenant, TenantPlacement},
    operation::{MoveStage, Operation, Procedure},
    state::State,
};

/// Whether a copy that does not live runs its PostgreSQL, to follow the one that does; also when it has just taken over from that,
/// and must not stop for the moment until it runs.
pub(super) fn follows(state: &State, tenant: &Tenant, role: Option<&CopyRole>) -> bool {
    match role {
        None => tenant.has_taken_over(),
        Some(CopyRole::Incoming) => {
            let operation = state.fleet.operations.get(&tenant.operation);
            operation.is_some_and(|operation| {
                matches!(&operation.procedure, Procedure::Move(to) if to.live.is_some())
            })
        }
        Some(CopyRole::Standby(standby)) => !standby.anew,
        Some(CopyRole::Fenced { .. } | CopyRole::Discarded) => false,
    }
}

/// Whether a tenant may have been taken over while its host was off.
pub(super) fn asks_first(state: &State, tenant: &Tenant) -> bool {
    #[cfg(feature = "planted")]
    if planted::has(planted::Bug::StartsUnasked) {
        return false;
    }
    // What goes over to its standby has one again if that is taken back.
    let switches = |operation: &Operation| match &operation.procedure {
        Procedure::Move(to) => {
            !operation.is_over()
                && to.stage < MoveStage::Fence
                && to.live.as_ref().is_some_and(|live| live.switches)
        }
        _ => false,
    };
    let operation = state.fleet.operations.get(&tenant.operation);
    tenant.standby().is_some() || operation.is_some_and(|operation| switches(operation))
}

/// Who may have it go on, where a copy of it takes over by itself.
pub(super) fn lease(
    tenant: &Tenant,
    place: &TenantPlacement,
    role: Option<&CopyRole>,
) -> Option<Lease> {
    #[cfg(feature = "planted")]
    if role.is_none() && place.lease_over_ms > 0 && planted::has(planted::Bug::LeaseNotAwaited) {
        return None;
    }
    let standby = tenant.standby();
    let after = standby.and_then(|(_, standby)| standby.takes_over_after_ms);
    match (role, standby, after) {
        (None, Some((there, standby)), Some(after)) if tenant.desired == Lifecycle::Running => {
            Some(Lease::Needed {
                for_ms: held_for_ms(after),
                renewer: there.host.clone(),
                address: standby.at,
            })
        }
        (Some(CopyRole::Standby(_)), _, Some(_)) => Some(Lease::Granted {
            to: tenant.placement.host.clone(),
        }),
        (None, ..) if place.lease_over_ms > 0 => Some(Lease::Over {
            after_ms: place.lease_over_ms,
        }),
        _ => None,
    }
}

/// What a tenant's standby has a host do: keep it up, or let it be kept up.
pub(super) fn standing(tenant: &Tenant, host: &HostName) -> (Option<JobOrder>, Option<PeerGrant>) {
    let Some((place, standby)) = tenant.standby().filter(|(_, standby)| standby.is_kept_up())
    else {
        return (None, None);
    };
    let job = JobOrder {
        id: standby.job,
        operation: standby.job,
        tenant: tenant.name.clone(),
        uid: tenant.uid,
        work: JobWork::Follow {
            from: tenant.placement.host.clone(),
            address: standby.source,
            last: false,
            standing: true,
        },
        rate_bytes_per_s: 0,
    };
    let grant = PeerGrant {
        operation: standby.job,
        tenant: tenant.name.clone(),
        uid: tenant.uid,
        peer: place.host.clone(),
        // For as long as the plan names it.
        expires_at: UnixMs::MAX,
        live: true,
    };
    (
        Some(job).filter(|_| place.host == *host),
        Some(grant).filter(|_| standby.armed && tenant.placement.host == *host),
    )
}
