//! What the passing of time changes: hosts' silence is reported, quarantines end, unused tenants fall asleep, tokens
//! expire.
//!
//! Not here: what counts as silence (liveness), which tenants are unused (sleep), and a clock that jumps (clock).

use std::iter::Peekable;

use imbl::OrdSet;
use isyone_types::{
    ids::{HostName, TenantName},
    plan::{Before, Lifecycle, UnixMs},
};
use uuid::Uuid;

use super::{Ask, ChangeError, Edit, Outcome, Stamp};
#[cfg(feature = "planted")]
use crate::planted;
use crate::{
    desired::{CopyRole, Tenant},
    event::{Event, EventKind},
    liveness::HostState,
    operation::OperationKind,
    written::{RecordKind, Write},
};

/// How many tenants' quarantines one tick ends, so that a tick stays short.
const MAX_PER_TICK: usize = 100;

impl Edit<'_> {
    pub(super) fn tick(&mut self) -> Result<Outcome, ChangeError> {
        self.watch_the_clock();
        self.state.last_tick = Some(self.stamp.now);
        self.judge_hosts();
        self.end_maintenances();
        if self.stamp.now >= self.state.quarantine_hold_until {
            self.end_quarantines();
            self.let_fenced_copies_go();
            self.delete_keys();
        }
        if self.stamp.now >= self.state.sleep_hold_until {
            self.put_to_sleep();
        }
        self.look_at_operations();
        self.look_at_standbys();
        self.take_over_what_lapsed();
        self.give_standbys();
        self.forget_tokens();
        self.tell_the_rest();
        Ok(Outcome::Done)
    }

    fn judge_hosts(&mut self) {
        let mut changed: Vec<(HostName, HostState, i64)> = Vec::new();
        let state = &*self.state;
        // All three are in the order of names: walked side by side, nothing is searched for, ten thousand times a second.
        let mut seen = state.observed.hosts.iter().peekable();
        let mut told = state.told.iter().peekable();
        for (name, host) in &state.fleet.hosts {
            let seen = at(&mut seen, name).map(AsRef::as_ref);
            let live = &self.settings.liveness;
            let (judged, silence) = state.judge(live, seen, Some(host), self.stamp.now);
            // Whoever has not been let in is nobody's trouble yet.
            if at(&mut told, name) != Some(&judged) && !host.pending {
                changed.push((name.clone(), judged, silence));
            }
        }
        for (name, state, silence) in changed {
            let before = self.state.told.insert(name.clone(), state);
            // A silent host stays out of the ranking until it reports again.
            self.state.refresh(self.settings, &name, self.stamp.now);
            // The first judgement after a start is news only if it is bad.
            if before.is_some()
                || matches!(
                    state,
                    HostState::Suspect | HostState::Lost | HostState::Degraded
                )
            {
                let message = match state {
                    HostState::Degraded => self
                        .state
                        .observed
                        .hosts
                        .get(&name)
                        .map(|h| h.docker_error.clone())
                        .unwrap_or_default(),
                    HostState::Suspect | HostState::Lost => {
                        format!("no report for {} s", silence / 1000)
                    }
                    HostState::Ready | HostState::Unknown => String::new(),
                };
                self.event(host_event(state), None, Some(&name), None, message);
            }
        }
    }

    /// Ends quarantines that are over: the host is told to remove the volumes.
    fn end_quarantines(&mut self) {
        let now = self.stamp.now;
        for name in due(&self.state.fleet.quarantines, now) {
            let Some(tenant) = self.state.fleet.tenants.get(&name) else {
                continue;
            };
            let mut tenant = (**tenant).clone();
            tenant.desired = Lifecycle::Purged;
            let stamp = self.stamp_of(&tenant);
            let mut edit = Edit {
                state: self.state,
                settings: self.settings,
                stamp: &stamp,
                effects: self.effects,
                asked: None,
            };
            // Nobody waits for a delete that its host has not carried out: it comes with the purge.
            let ask = Ask {
                request_id: None,
                cancel_running: true,
            };
            let Ok(operation) = edit.change(tenant, OperationKind::Purge, ask) else {
                continue;
            };
            let message = "the quarantine is over, its volumes are being removed".to_owned();
            if let Ok(tenant) = edit.tenant(&name) {
                edit.event(
                    EventKind::TenantQuarantineEnded,
                    Some(&tenant),
                    None,
                    Some(operation.id),
                    message,
                );
            }
        }
    }

    /// Removes fenced copies whose time is over, and what was set aside by a restore. Those of deleted tenants go with them, or stay when they are brought back.
    fn let_fenced_copies_go(&mut self) {
        let now = self.stamp.now;
        for name in self.due_copies() {
            let Some(tenant) = self.state.fleet.tenants.get(&name) else {
                continue;
            };
            let mut tenant = (**tenant).clone();
            for copy in &mut tenant.copies {
                if matches!(copy.role, CopyRole::Fenced { until: Some(until) } if until <= now) {
                    copy.role = CopyRole::Discarded;
                }
            }
            if let Some(before) = &mut tenant.before
                && let Before::Keep(restore) = before.wish
                && before.until.is_some_and(|until| until <= now)
            {
                before.wish = Before::Remove(restore);
            }
            tenant.generation += 1;
            self.put_tenant(tenant);
        }
    }

    /// Tenants with a fenced copy whose time is over.
    fn due_copies(&self) -> Vec<TenantName> {
        let fleet = &self.state.fleet;
        #[cfg(feature = "planted")]
        if planted::has(planted::Bug::ClockDecides) {
            let all = fleet.tenants.values();
            let over = all.filter(|t| t.lets_go_at().is_some_and(|until| until <= self.stamp.now));
            return over.map(|tenant| tenant.name.clone()).collect();
        }
        due(&fleet.fenced, self.stamp.now)
    }

    /// A command has only one fresh id, but a tick needs one per operation. They are derived from it, so that the tick
    /// stays pure.
    pub(in crate::change) fn stamp_of(&self, tenant: &Tenant) -> Stamp {
        let id = Uuid::from_u128(self.stamp.id.as_u128() ^ u128::from(tenant.uid.as_u64_pair().1));
        Stamp {
            id,
            ..self.stamp.clone()
        }
    }

    /// What a tick does for one tenant, with an id of its own.
    pub(in crate::change) fn for_one<T>(
        &mut self,
        tenant: &Tenant,
        change: impl FnOnce(&mut Edit<'_>) -> T,
    ) -> T {
        let stamp = self.stamp_of(tenant);
        change(&mut Edit {
            state: self.state,
            settings: self.settings,
            stamp: &stamp,
            effects: self.effects,
            asked: None,
        })
    }

    /// Tells in one event what came too often to be told at once.
    fn tell_the_rest(&mut self) {
        for rest in self.state.paces.tell(self.stamp.now) {
            let fleet = &self.state.fleet;
            let tenant = rest.tenant.as_ref();
            let host = rest.host.as_ref();
            // What is gone has had its last event.
            if tenant.is_none_or(|name| fleet.tenants.contains_key(name))
                && host.is_none_or(|name| fleet.hosts.contains_key(name))
            {
                self.record(Event {
                    actor: self.stamp.actor.clone(),
                    ..rest
                });
            }
        }
    }

    fn forget_tokens(&mut self) {
        let now = self.stamp.now;
        let expired: Vec<String> = self
            .state
            .fleet
            .tokens
            .values()
            .filter(|t| t.expires_at <= now)
            .map(|t| t.id.clone())
            .collect();
        for id in expired {
            self.state.fleet.tokens.remove(&id);
            self.effects
                .writes
                .push(Write::Delete(RecordKind::Token, id));
        }
    }
}

/// The value of `name` in a map that is walked in order, for names that are asked for in order.
fn at<'a, K: Ord + 'a, V: 'a>(
    sorted: &mut Peekable<impl Iterator<Item = (&'a K, &'a V)>>,
    name: &K,
) -> Option<&'a V> {
    while sorted.next_if(|(key, _)| *key < name).is_some() {}
    sorted
        .next_if(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

/// The first tenants whose time is over, as many as one tick ends.
fn due(times: &OrdSet<(UnixMs, TenantName)>, now: UnixMs) -> Vec<TenantName> {
    let over = times.iter().take_while(|(until, _)| *until <= now);
    let some = over.take(MAX_PER_TICK);
    some.map(|(_, name)| name.clone()).collect()
}

fn host_event(state: HostState) -> EventKind {
    match state {
        HostState::Unknown => EventKind::HostUnknown,
        HostState::Ready => EventKind::HostReady,
        HostState::Degraded => EventKind::HostDegraded,
        HostState::Suspect => EventKind::HostSuspect,
        HostState::Lost => EventKind::HostLost,
    }
}
