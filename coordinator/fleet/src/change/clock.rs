//! What is waited for is waited for as long as ever, whatever becomes of the clock meanwhile.
//!
//! Deadlines are times of day, as what they are for outlives every process. When the clock is set, each moment from or to which an
//! operation under way or a host's silence is measured moves by as much: nothing is given up or waited for
//! for years, and a clock that is set right takes it back. What promises something by the calendar, as a quarantine does, stays as it
//! is, and is held for a while: a clock alone must not decide to delete data.
//!
//! A jump is rare, and all of it must be known before anything is decided by the new time, so it is one change. Its bound: a record
//! for each operation under way, of which a tenant has at most one, and for each order of a backup or a proof, of which a host has a
//! few; and a rank for each host.
//! Not here: how long anything is waited for (procedures, views, liveness).

use std::{collections::BTreeSet, sync::Arc};

use isyone_types::{ids::HostName, plan::UnixMs};
use uuid::Uuid;

use super::{Edit, Effects, Stamp};
use crate::{
    desired::backups::TenantBackups, liveness::is_to_come, settings::Settings, state::State,
};

/// Ticks come every second. A longer gap than this means that the machine was asleep, its clock was set, or nothing could be stored.
pub const CLOCK_JUMP_MS: i64 = 60_000;

/// Takes a jump of the clock into account, before a command is decided by the new time. It stands even if that is refused, which
/// changes nothing; so it is no part of [`super::apply`], and whoever calls that calls this first.
pub fn heed_the_clock(
    state: &mut State,
    settings: &Settings,
    stamp: &Stamp,
    effects: &mut Effects,
) {
    // Before the first tick nothing is known of the clock.
    if state.last_tick.is_some() {
        let mut edit = Edit {
            state,
            settings,
            stamp,
            effects,
            asked: None,
        };
        edit.watch_the_clock();
    }
}

/// By how much the clock is ahead of what it should be. What has gone by since the last tick counts as well: at most a second too much.
#[derive(Debug, Clone, Copy)]
enum Ahead {
    /// So much by a jump.
    By(i64),
    /// Nobody knows since a start. But nothing has begun in the future: what says so begins now.
    Unknown { now: UnixMs },
}

impl Ahead {
    /// By how much something moves that is counted from `since`.
    fn moves(self, since: UnixMs) -> Option<i64> {
        let by = match self {
            Self::By(ms) => ms,
            Self::Unknown { now } if is_to_come(since, now) => now - since,
            Self::Unknown { .. } => 0,
        };
        (by != 0).then_some(by)
    }
}

impl Edit<'_> {
    /// After a start or a jump; else nothing but that the clock was looked at.
    pub(super) fn watch_the_clock(&mut self) {
        let now = self.stamp.now;
        match self.state.last_tick {
            None => {
                self.hold();
                self.move_what_is_waited_for(Ahead::Unknown { now });
            }
            Some(before) if now.saturating_sub(before).saturating_abs() > CLOCK_JUMP_MS => {
                let by = now.saturating_sub(before);
                self.hold();
                // As after a start: who has never spoken is waited for anew.
                self.state.started_at = now;
                self.move_silence(by);
                self.move_what_is_waited_for(Ahead::By(by));
            }
            // A tick says that time goes on.
            Some(_) => return,
        }
        self.nothing_is_ordered_to_come();
        self.state.last_tick = Some(now);
    }

    /// After a start or a jump, the clock alone must not decide to delete data.
    fn hold(&mut self) {
        let now = self.stamp.now;
        self.state.quarantine_hold_until = now.saturating_add(self.settings.quarantine_hold_ms);
        // Nor to stop all idle tenants; but the hold need not exceed the shortest sleep time.
        let shortest = self
            .settings
            .sleep_after_ms
            .values()
            .min()
            .copied()
            .unwrap_or(0);
        self.state.sleep_hold_until =
            now.saturating_add(shortest.min(self.settings.quarantine_hold_ms));
    }

    /// A host has been silent for as long as before: neither lost at once nor there for years.
    fn move_silence(&mut self, by: i64) {
        let hosts: Vec<HostName> = self.state.observed.hosts.keys().cloned().collect();
        for host in hosts {
            let seen = self.state.observed.hosts.get_mut(&host);
            if let Some(seen) = seen
                && let Some(at) = seen.reported_at
            {
                Arc::make_mut(seen).reported_at = Some(at.saturating_add(by));
            }
        }
        // All of them, also who has never spoken.
        let hosts: Vec<HostName> = self.state.fleet.hosts.keys().cloned().collect();
        for host in hosts {
            self.state.refresh(self.settings, &host, self.stamp.now);
        }
    }

    fn move_what_is_waited_for(&mut self, ahead: Ahead) {
        let mut shown_to: BTreeSet<HostName> = BTreeSet::new();
        let running: Vec<Uuid> = self.state.fleet.running.iter().copied().collect();
        for id in running {
            let Some(operation) = self.state.fleet.operations.get(&id).cloned() else {
                continue;
            };
            if let Some(by) = ahead.moves(operation.counted_since()) {
                shown_to.extend(operation.shown_to().cloned());
                self.put_operation(operation.moved_by(by));
            }
        }
        for host in &shown_to {
            self.touch_host(host);
        }
    }

    /// What a host was ordered to back up or to prove began no later than now. How old it is counts from the start or the jump (views);
    /// when it was ordered stays as it is, because what a host has made since is told from what was there by that.
    fn nothing_is_ordered_to_come(&mut self) {
        let now = self.stamp.now;
        let ordered = self.state.fleet.backups.values();
        let ordered = ordered.filter(|of| of.order.is_some() || of.proving.is_some());
        let ordered: Vec<Arc<TenantBackups>> = ordered.cloned().collect();
        for of in ordered {
            let mut begun = (*of).clone();
            let since = begun.order.as_mut().map(|order| &mut order.since);
            let proof_since = begun.proving.as_mut().map(|order| &mut order.since);
            let all = since.into_iter().chain(proof_since);
            for since in all.filter(|since| is_to_come(**since, now)) {
                *since = now;
            }
            if begun != *of {
                self.put_backups(begun);
            }
        }
    }
}
