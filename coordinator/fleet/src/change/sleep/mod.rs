//! Cold tenants: which ones fall asleep because nobody uses them (plans with `sleep_after`), and how a visitor wakes
//! one.
//!
//! A sleeping tenant is a suspended one with a mark that lets any visitor resume it. When a user was last active is in
//! the tenant's own database, and its host reports it: so the coordinator writes nothing while a tenant is in use, and
//! misses nothing while it is down. A tenant stays awake unless its last activity is known for certain, now.
//! Not here: who counts as a visitor (the coordinator's ports/http/pages).

use std::{ops::Bound, time::Duration};

use isyone_types::{
    ids::TenantName,
    plan::{Lifecycle, UnixMs},
    report::TenantProgress,
};

use super::{Ask, ChangeError, Edit, Outcome};
use crate::{
    desired::Tenant, event::EventKind, liveness::HostState, operation::OperationKind,
    settings::Settings, state::State, views,
};

/// Tenants that one tick checks: a tick stays short, and 100,000 tenants take less than two minutes.
const LOOKED_AT: usize = 1_000;
/// Tenants that one tick puts to sleep: when a plan gets a sleep time and a thousand are due at once, they do not all
/// stop together.
const MAX_PER_TICK: usize = 10;
/// Odoo records once an hour that a session is in use.
const NOTED_EVERY_MS: i64 = 3_600_000;

/// A tenant that is due to fall asleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Idle {
    /// When a user was last active; `None`: never.
    last_active_at: Option<UnixMs>,
    /// For how long it has been unused.
    for_ms: i64,
}

impl Edit<'_> {
    /// Continues the round through all tenants.
    pub(super) fn put_to_sleep(&mut self) {
        if self.settings.sleep_after_ms.is_empty() {
            return;
        }
        let from = self
            .state
            .sleep_hand
            .take()
            .map_or(Bound::Unbounded, Bound::Excluded);
        let (mut due, mut looked_at, mut hand) = (Vec::new(), 0, None);
        for (name, tenant) in self.state.fleet.tenants.range((from, Bound::Unbounded)) {
            looked_at += 1;
            due.extend(
                idle(self.state, self.settings, tenant, self.stamp.now)
                    .map(|idle| (name.clone(), idle)),
            );
            if looked_at == LOOKED_AT || due.len() == MAX_PER_TICK {
                hand = Some(name.clone());
                break;
            }
        }
        self.state.sleep_hand = hand;
        for (name, idle) in due {
            self.falls_asleep(&name, idle);
        }
    }

    fn falls_asleep(&mut self, name: &TenantName, idle: Idle) {
        let Some(tenant) = self.state.fleet.tenants.get(name).cloned() else {
            return;
        };
        let stamp = self.stamp_of(&tenant);
        let mut tenant = (*tenant).clone();
        tenant.desired = Lifecycle::Suspended;
        tenant.asleep_since = Some(stamp.now);
        tenant.last_active_at = idle.last_active_at;
        let mut edit = Edit {
            state: self.state,
            settings: self.settings,
            stamp: &stamp,
            effects: self.effects,
            asked: None,
        };
        // It is idle, so nothing is under way; see `idle`.
        let Ok(operation) = edit.change(tenant, OperationKind::Suspend, Ask::default()) else {
            return;
        };
        let minutes = u64::try_from(idle.for_ms / 60_000).unwrap_or(0);
        let unused = humantime::format_duration(Duration::from_secs(minutes * 60));
        let message = format!("nobody has used it for {unused}; the next visitor wakes it");
        if let Ok(tenant) = edit.tenant(name) {
            edit.event(
                EventKind::TenantAsleep,
                Some(&tenant),
                None,
                Some(operation.id),
                message,
            );
        }
    }

    /// Called for each visitor, so calls after the first change nothing.
    pub(super) fn wake_tenant(&mut self, name: &TenantName) -> Result<Outcome, ChangeError> {
        let mut tenant = self.living(name)?;
        if tenant.asleep_since.take().is_none() {
            return Ok(Outcome::Done);
        }
        tenant.desired = Lifecycle::Running;
        tenant.started_at = Some(self.stamp.now);
        self.finish(
            tenant,
            OperationKind::Resume,
            Ask::default(),
            EventKind::TenantWoken,
        )
    }
}

/// Whether a tenant may sleep: its plan says so, it has converged according to a host that is not silent, and by its
/// own database nobody has used it for long enough; nor was it started in that time.
fn idle(state: &State, settings: &Settings, tenant: &Tenant, now: UnixMs) -> Option<Idle> {
    let after_ms = *settings.sleep_after_ms.get(&tenant.spec.plan)?;
    let activated_at = tenant.activated_at?;
    let busy = state
        .fleet
        .operations
        .get(&tenant.operation)
        .is_some_and(|o| !o.state.is_final());
    if tenant.desired != Lifecycle::Running
        || busy
        || views::host_state(state, settings, &tenant.placement.host, now).0 != HostState::Ready
    {
        return None;
    }
    let report = &views::observed(state, tenant)?.report;
    if report.generation != tenant.generation || report.progress != TenantProgress::Converged {
        return None;
    }
    let seen = report.traffic?.last_active_at?;
    let last_active_at = (seen > 0).then_some(seen);
    let used = last_active_at.map(|at| at.saturating_add(NOTED_EVERY_MS));
    let since = used.max(tenant.started_at).max(Some(activated_at))?;
    let for_ms = now.saturating_sub(since);
    (for_ms >= after_ms).then_some(Idle {
        last_active_at,
        for_ms,
    })
}

#[cfg(test)]
mod tests;
