//! Orders of backups: who carries one out, and when nobody does any more.
//!
//! Not here: what is ordered when (backups), and proofs.

use isyone_types::{ids::HostName, plan::UnixMs, report::JobState};

use super::{docker_is_away, host_state};
use crate::{
    desired::{
        Tenant,
        backups::{BackupOrder, TenantBackups},
    },
    liveness::HostState,
    settings::Settings,
    state::State,
};

/// An order of which its host does not speak for so long does not reach it, or was lost there.
const UNHEARD_MS: i64 = 15 * 60_000;
/// No order lasts longer: whatever it is by then, it was given for another night.
const LONGEST_ORDER_MS: i64 = 24 * 3_600_000;

/// Whether a host makes backups now.
pub(super) fn is_ready(state: &State, settings: &Settings, host: &HostName, now: UnixMs) -> bool {
    let able = state
        .fleet
        .hosts
        .get(host)
        .is_some_and(|h| h.makes_backups && !h.pending);
    // A degraded one backs up: what it has a trouble with is seldom that, and then a backup is wanted most.
    let at_work = matches!(
        host_state(state, settings, host, now).0,
        HostState::Ready | HostState::Degraded
    );
    able && at_work && docker_is_away(state, host).is_none()
}

/// Whether nobody carries out a tenant's order any more.
pub(crate) fn is_given_up(
    state: &State,
    settings: &Settings,
    of: &TenantBackups,
    order: &BackupOrder,
    now: UnixMs,
) -> bool {
    let tenant = state.fleet.tenants.get(&of.name);
    let tenant = tenant.filter(|tenant| tenant.uid == of.tenant);
    tenant.is_none_or(|tenant| {
        let ready = is_ready(state, settings, &tenant.placement.host, now);
        is_dead(state, tenant, order, ready, now)
    })
}

/// Likewise, for who knows whether its host is ready.
pub(super) fn is_dead(
    state: &State,
    tenant: &Tenant,
    order: &BackupOrder,
    ready: bool,
    now: UnixMs,
) -> bool {
    // No clock of before is believed, nor does a host speak before it is heard.
    let age = now - order.since.max(state.started_at);
    let job = state.observed.job(&order.host, order.id);
    let unheard = ready && job.is_none() && age > UNHEARD_MS;
    let works = job.is_some_and(|job| job.state == JobState::Running);
    tenant.placement.host != order.host || unheard || age > LONGEST_ORDER_MS && !(ready && works)
}
