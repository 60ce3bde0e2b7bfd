//! Which tenants a proposal leaves where they are, whatever their hosts' load, and why; and which hosts it cannot judge.
//!
//! Not here: whether a host fits (placement).

use std::collections::BTreeMap;

use isyone_types::{
    ids::{HostName, TenantName},
    plan::{Lifecycle, UnixMs},
    report::TenantProgress,
};
use uuid::Uuid;

use super::{MOVED_LATELY_MS, SETTLE_MS};
use crate::{
    desired::{MAX_COPIES, Tenant},
    liveness::HostState,
    operation::{OperationKind, Procedure},
    settings::Settings,
    state::State,
    views,
};

/// Most tenants that are named for each reason; the others are counted.
const MAX_NAMED: usize = 3;

/// Why tenants of a host stay, with those for whom it holds.
#[derive(Debug, Default)]
pub(super) struct Reasons(BTreeMap<String, Vec<TenantName>>);

impl Reasons {
    pub(super) fn add(&mut self, why: String, tenant: &TenantName) {
        self.0.entry(why).or_default().push(tenant.clone());
    }

    /// `2 have a standby (alfa, beta), 1 is pinned …`: what most have in common first.
    pub(super) fn words(&self) -> String {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by_key(|(why, tenants)| (std::cmp::Reverse(tenants.len()), *why));
        let part = |(why, tenants): &(&String, &Vec<TenantName>)| {
            let named: Vec<&str> = tenants
                .iter()
                .take(MAX_NAMED)
                .map(TenantName::as_str)
                .collect();
            let more = match tenants.len().saturating_sub(MAX_NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("{} {why} ({}{more})", tenants.len(), named.join(", "))
        };
        all.iter().map(part).collect::<Vec<_>>().join(", ")
    }
}

/// Why a tenant stays, in words that go with any number of tenants; `None`: it may move.
pub(super) fn why(state: &State, tenant: &Tenant, now: UnixMs) -> Option<String> {
    let said = |text: &str| Some(text.to_owned());
    if tenant.is_deleted() {
        return said("deleted, and kept for a while");
    }
    let busy = state.fleet.operations.get(&tenant.operation);
    if let Some(busy) = busy.filter(|operation| !operation.is_over()) {
        return Some(format!("busy with {}", busy.kind.word()));
    }
    if tenant.activated_at.is_none() {
        return said("never ran yet");
    }
    if tenant.spec.host.is_some() {
        return said("pinned there with --host");
    }
    // It would be made anew, and until then nothing could take over; a switch-over costs nothing of that.
    if tenant.standby().is_some() {
        return said("with a standby, which has a command of its own (`isyctl tenant switchover`)");
    }
    let has_moved = tenant.placement.epoch > 1;
    if has_moved && now - tenant.placement.at < MOVED_LATELY_MS {
        return said("moved less than a day ago: a day's load is to be seen first");
    }
    if tenant.copies.len() >= MAX_COPIES {
        return said("with too many older copies that are kept for a while");
    }
    let well = views::observed(state, tenant).is_some_and(|seen| {
        seen.report.generation == tenant.generation
            && seen.report.progress == TenantProgress::Converged
    });
    let runs = tenant.desired == Lifecycle::Running;
    match well {
        true => None,
        false if runs => said("not well where it is, or not heard of"),
        false => said("not heard of where it is"),
    }
}

/// Why a host's load cannot be judged, or lessened; `None`: it can.
pub(super) fn why_not_from(
    state: &State,
    settings: &Settings,
    host: &HostName,
    now: UnixMs,
) -> Option<String> {
    match views::host_state(state, settings, host, now) {
        (HostState::Ready, _) => {}
        (judged, _) => return Some(format!("it is {}", judged.word())),
    }
    let seen = state.observed.hosts.get(host)?;
    if !seen.plan_error.is_empty() {
        return Some("its agent refused its plan".to_owned());
    }
    if seen.hello.peer_port.is_none() {
        return Some(NO_PEER.to_owned());
    }
    None
}

/// A move is refused then.
pub(super) const NO_PEER: &str = "its agent serves no other agents";

/// Until when the measured CPU of hosts follows moves that have ended; only hosts where that is what counts.
pub(super) fn settling(
    state: &State,
    settings: &Settings,
    now: UnixMs,
) -> BTreeMap<HostName, UnixMs> {
    let since = (now - SETTLE_MS, Uuid::nil());
    let mut until = BTreeMap::new();
    for (at, id) in state.fleet.ended.range(since..) {
        let operation = state.fleet.operations.get(id);
        let moved = operation.filter(|operation| operation.kind == OperationKind::Move);
        if let Some(Procedure::Move(relocation)) = moved.map(|operation| &operation.procedure) {
            for host in [&relocation.from, &relocation.to] {
                if is_measured(state, settings, host) {
                    until.insert(host.clone(), at + SETTLE_MS);
                }
            }
        }
    }
    until
}

/// Whether the host's CPU load is what was measured, not what is reserved.
fn is_measured(state: &State, settings: &Settings, host: &HostName) -> bool {
    let Some(seen) = state.observed.hosts.get(host) else {
        return false;
    };
    let reserved = (state.fleet.by_host.get(host)).map_or(0, |index| index.cpu_millis);
    let weighed = reserved.saturating_mul(1000)
        / u64::from(settings.placement.cpu_overcommit_permille.max(1));
    u64::from(seen.cpu_average_permille) * u64::from(seen.resources.cpus) > weighed
}
