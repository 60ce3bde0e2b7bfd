//! Standbys with each tick: when it is one's turn to be filled, and when one that cannot go on is made anew.
//!
//! A standby may be the only good copy: while its tenant's host is not heard, nothing here touches it. Not here: orders (the parent).

use std::collections::BTreeMap;

use isyone_types::{
    ids::{HostName, TenantName},
    plan::Lifecycle,
    report::{JobReport, JobState, TenantProgress},
};

use super::{Edit, wrong_state};
use crate::{
    change::ChangeError,
    desired::{CopyRole, Standby, Tenant},
    event::EventKind,
    liveness::{self, HostState},
    observed::CopyObserved,
    operation::OperationKind,
    procedures::{self, MOVES_AT_ONCE},
    views,
};

/// What is begun anew at least so long after it was begun last, milliseconds: each time reads all of the tenant. Twice as long for each
/// time that was in vain, and at most so long.
const ANEW_MS: (i64, i64) = (10 * 60_000, 24 * 3_600_000);
/// From here on waiting twice as long is longer than a day.
const MOST_IN_VAIN: u8 = 8;
/// Standbys that are looked at in one tick; the others come with the next ones.
const MAX_PER_TICK: usize = 200;
/// Standbys that are filled at a time from or to a host: as many as there are moves, since each reads and writes all of a tenant. After an
/// outage the others wait for their turn.
pub const FILLED_AT_ONCE: usize = MOVES_AT_ONCE;

/// How many standbys are being filled, by host: counted when the first asks.
#[derive(Default)]
struct Turns(Option<BTreeMap<HostName, usize>>);

impl Edit<'_> {
    /// Standbys are filled in turn, those that cannot go on are made anew, and all know where the tenant's host is reached.
    pub(in crate::change) fn look_at_standbys(&mut self) {
        let all = &self.state.fleet.standbys;
        // From another one on each time, so that each has its turn.
        let skip = (self.stamp.now / 1000) as usize * MAX_PER_TICK % all.len().max(1);
        let some = all.iter().skip(skip).chain(all.iter().take(skip));
        let names: Vec<TenantName> = some.take(MAX_PER_TICK.min(all.len())).cloned().collect();
        let mut turns = Turns::default();
        for name in names {
            if let Some(tenant) = self.state.fleet.tenants.get(&name).cloned() {
                self.look_at_standby(&tenant, &mut turns);
            }
        }
    }

    fn look_at_standby(&mut self, tenant: &Tenant, turns: &mut Turns) {
        let Some((place, standby)) = tenant.standby() else {
            return;
        };
        // It may be the tenant's only good copy.
        if !self.is_heard(&tenant.placement.host) {
            return;
        }
        let host = place.host.clone();
        let (next, why) = self.next_of(tenant, (&host, place.at), standby, turns);
        let is_over = tenant.is_deleted();
        let let_go = standby.anew && !next.anew;
        if next == *standby && !is_over {
            return;
        }
        let mut changed = tenant.clone();
        let epoch = tenant.next_epoch();
        for copy in changed.copies.iter_mut().filter(|c| c.place.host == host) {
            if let_go {
                changed.last_epoch = epoch;
                (copy.place.epoch, copy.place.at) = (epoch, self.stamp.now);
            }
            copy.role = CopyRole::Standby(next.clone());
        }
        if is_over {
            changed.discard_standby();
        }
        changed.generation += 1;
        let changed = self.put_tenant(changed);
        if let Some(why) = why {
            let kind = EventKind::TenantStandbyLost;
            self.event(kind, Some(&changed), Some(&host), None, why);
        }
    }

    /// What becomes of it now; and why, where it cannot go on.
    fn next_of(
        &self,
        tenant: &Tenant,
        (host, since): (&HostName, i64),
        standby: &Standby,
        turns: &mut Turns,
    ) -> (Standby, Option<String>) {
        let mut next = standby.clone();
        let job = self.state.observed.job(host, standby.job);
        let failed = job.filter(|job| job.state == JobState::Failed);
        // Only the plan of one that runs says that it asks first.
        let runs = tenant.desired == Lifecycle::Running && !tenant.halted;
        next.armed = standby.armed || runs && self.is_seen_well(tenant);
        let source = procedures::peer_address(self.state, &tenant.placement.host);
        let is_due = self.stamp.now >= since.saturating_add(pause_ms(standby.in_vain))
            || liveness::is_to_come(since, self.stamp.now);
        if let Some(failed) = failed.filter(|_| is_due && standby.is_kept_up()) {
            next.anew = true;
            next.in_vain = match failed.filled {
                true => 0,
                false => (standby.in_vain + 1).min(MOST_IN_VAIN),
            };
            return (next, Some(failed.message.clone()));
        }
        if standby.anew {
            // Nobody may take over: so the tenant needs nobody's leave.
            (next.takes_over_after_ms, next.leased) = (None, false);
            if runs && !self.is_restored_now(tenant) && self.has_let_go(tenant, host) {
                next = Standby {
                    waits: true,
                    armed: next.armed,
                    in_vain: standby.in_vain,
                    apart: standby.apart.clone(),
                    ..self.standing(tenant)
                };
            }
            return (next, None);
        }
        if source.is_some() {
            next.source = source;
        }
        self.lease_of(tenant, host, job, &mut next);
        if standby.waits && next.armed && turns.take(self, &tenant.placement.host, host) {
            next.waits = false;
        }
        (next, None)
    }

    /// On what terms the tenant runs while it may be taken over. What has changed is heeded only when the tenant's host has said so.
    fn lease_of(
        &self,
        tenant: &Tenant,
        host: &HostName,
        job: Option<&JobReport>,
        next: &mut Standby,
    ) {
        let (before, at) = (next.takes_over_after_ms, next.at);
        next.at = procedures::peer_address(self.state, host).or(at);
        let rules = self.settings.standbys.get(&tenant.spec.plan);
        let asked = rules.and_then(|rules| rules.takes_over_after_ms);
        let heed = |host: &HostName| {
            let seen = self.state.observed.hosts.get(host);
            seen.map(|seen| seen.hello.leases)
        };
        // Of an agent that was not heard since our start nothing is known, and what was agreed stands.
        let (here, there) = (heed(&tenant.placement.host), heed(host));
        let none_refuses = here != Some(false) && there != Some(false);
        let begins = here.is_some()
            && there.is_some()
            && next.armed
            && job.is_some_and(|job| job.filled && job.state != JobState::Failed);
        next.takes_over_after_ms = asked.filter(|_| none_refuses && (before.is_some() || begins));
        let terms = (before, at) == (next.takes_over_after_ms, next.at);
        next.leased = next.takes_over_after_ms.is_some()
            && terms
            && (next.leased || self.is_seen_well(tenant));
    }

    /// What follows it now would follow what is about to be another database.
    fn is_restored_now(&self, tenant: &Tenant) -> bool {
        let running = self.running(tenant);
        running.is_some_and(|operation| operation.kind == OperationKind::Restore)
    }

    /// Whether its host has said that what it has of the copy never runs again: in the very generation, and as `views::copy` has it in the
    /// very epoch, in which it was told so.
    fn has_let_go(&self, tenant: &Tenant, host: &HostName) -> bool {
        matches!(views::copy(self.state, tenant, host), CopyObserved::Present(seen)
            if seen.report.generation == tenant.generation
                && seen.report.progress == TenantProgress::Converged)
    }

    fn is_heard(&self, host: &HostName) -> bool {
        let (judged, _) = views::host_state(self.state, self.settings, host, self.stamp.now);
        matches!(judged, HostState::Ready | HostState::Degraded)
    }

    /// Refuses what a standby ends with that was not asked for it, while it may be the tenant's only good copy.
    pub(in crate::change) fn check_standby_may_go(
        &self,
        tenant: &Tenant,
    ) -> Result<(), ChangeError> {
        let host = &tenant.placement.host;
        let Some((place, _)) = tenant.standby().filter(|_| !self.is_heard(host)) else {
            return Ok(());
        };
        let problem = format!(
            "is on host {host}, which is not heard: its standby on host {} may be its only good copy, and stays. Have it go on from there \
             (`isyctl tenant failover {name}`), or remove that (`isyctl tenant standby remove {name}`)",
            place.host,
            name = tenant.name
        );
        Err(wrong_state(&tenant.name, problem))
    }

    /// What follows a tenant that is deleted has nothing to follow. While the tenant's host is not heard it stays all the same, so that the
    /// tenant can be had back: it goes when that is heard again, or with the tenant.
    pub(in crate::change) fn end_standby_with(&self, tenant: &mut Tenant) {
        let ends = match tenant.desired {
            Lifecycle::Purged => true,
            Lifecycle::Quarantined => self.is_heard(&tenant.placement.host),
            Lifecycle::Running | Lifecycle::Suspended => false,
        };
        if ends {
            tenant.discard_standby();
        }
    }
}

/// How long after it was begun one that has failed is begun anew.
fn pause_ms(in_vain: u8) -> i64 {
    let pause = ANEW_MS.0 << in_vain.min(MOST_IN_VAIN);
    pause.min(ANEW_MS.1)
}

impl Turns {
    /// Takes a turn at both hosts, where both have one left.
    fn take(&mut self, edit: &Edit<'_>, from: &HostName, to: &HostName) -> bool {
        let busy = self.0.get_or_insert_with(|| filling(edit));
        let free = |host| busy.get(host).is_none_or(|count| *count < FILLED_AT_ONCE);
        let both = free(from) && free(to);
        if both {
            for host in [from, to] {
                *busy.entry(host.clone()).or_default() += 1;
            }
        }
        both
    }
}

/// Of each host, how many standbys are being filled from or to it. One that is held up by a silent host at its other end keeps nobody
/// waiting here.
fn filling(edit: &Edit<'_>) -> BTreeMap<HostName, usize> {
    let mut busy = BTreeMap::new();
    let fleet = &edit.state.fleet;
    let tenants = fleet
        .standbys
        .iter()
        .filter_map(|name| fleet.tenants.get(name));
    for tenant in tenants {
        let Some((place, standby)) = tenant.standby().filter(|(_, s)| s.is_kept_up()) else {
            continue;
        };
        let job = edit.state.observed.job(&place.host, standby.job);
        let is_over = |job: &JobReport| job.filled || job.state == JobState::Failed;
        if job.is_some_and(is_over) {
            continue;
        }
        let ends = [&tenant.placement.host, &place.host];
        for (host, other) in [(ends[0], ends[1]), (ends[1], ends[0])] {
            let (judged, _) = views::host_state(edit.state, edit.settings, other, edit.stamp.now);
            if !views::is_silent(judged) {
                *busy.entry(host.clone()).or_default() += 1;
            }
        }
    }
    busy
}
