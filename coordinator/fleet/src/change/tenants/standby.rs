//! A tenant's standby: where it is, and when it is made anew.
//!
//! There is no operation for it: the wish is stored, and what hosts report says how far it is. Not here: what it is told to do
//! (views::plan), taking over (a move to its host).

use std::sync::Arc;

use isyone_types::{
    ids::{HostName, TenantName},
    plan::Lifecycle,
    report::{JobState, TenantProgress},
    spec::LabelKey,
};

use super::{Edit, wrong_state};
use crate::{
    change::{ChangeError, Outcome},
    desired::{CopyRole, MAX_COPIES, Standby, Stragglers, Tenant, TenantCopy},
    event::EventKind,
    liveness,
    observed::CopyObserved,
    operation::{Live, Procedure},
    placement::{self, Request},
    procedures, views,
};

/// What is begun anew at least so long after it was begun last, milliseconds: each time reads all of the tenant.
const ANEW_MS: i64 = 10 * 60_000;
/// Standbys that are looked at in one tick; the others come with the next ones.
const MAX_PER_TICK: usize = 200;

impl Edit<'_> {
    /// Keeps a copy of a tenant up on another host: on that one, or on the one with most room, whose value of a label is another one.
    pub(in crate::change) fn add_standby(
        &mut self,
        name: &TenantName,
        on: Option<HostName>,
        apart: Option<&LabelKey>,
    ) -> Result<Outcome, ChangeError> {
        let mut tenant = self.living(name)?;
        if let Some((place, _)) = tenant.standby() {
            if on.as_ref().is_none_or(|on| *on == place.host) {
                return Ok(Outcome::Changed(Arc::new(tenant)));
            }
            let problem = format!(
                "has its standby on host {}; remove that first (`isyctl tenant standby remove {name}`)",
                place.host
            );
            return Err(wrong_state(name, problem));
        }
        self.check_standby_possible(&tenant)?;
        let on = match on {
            Some(on) => on,
            None => self.most_room_apart(&tenant, apart)?,
        };
        if tenant.place_on(&on).is_some() {
            let problem = format!(
                "has a copy on host {on} already; name another host, or wait until that copy is gone"
            );
            return Err(wrong_state(name, problem));
        }
        for host in [&tenant.placement.host, &on] {
            self.check_follows(name, host)?;
        }
        let place = self.incoming_place(&tenant, &on, None)?;
        tenant.last_epoch = place.epoch;
        tenant.copies.push(TenantCopy {
            place,
            role: self.standing(&tenant.placement.host, false),
            stragglers: Stragglers::Refused,
        });
        tenant.generation += 1;
        let tenant = self.put_tenant(tenant);
        let message = format!("is kept up on {on}");
        self.event(
            EventKind::TenantStandbyAdded,
            Some(&tenant),
            Some(&on),
            None,
            message,
        );
        Ok(Outcome::Changed(tenant))
    }

    pub(in crate::change) fn remove_standby(
        &mut self,
        name: &TenantName,
    ) -> Result<Outcome, ChangeError> {
        let mut tenant = (*self.tenant(name)?).clone();
        if !tenant.discard_standby() {
            return Ok(Outcome::Changed(Arc::new(tenant)));
        }
        tenant.generation += 1;
        let tenant = self.put_tenant(tenant);
        self.event(
            EventKind::TenantStandbyRemoved,
            Some(&tenant),
            None,
            None,
            String::new(),
        );
        Ok(Outcome::Changed(tenant))
    }

    /// What a copy is that is kept up with the one on that host, by a new job.
    pub(in crate::change) fn standing(&self, from: &HostName, armed: bool) -> CopyRole {
        CopyRole::Standby(Standby {
            job: self.stamp.id,
            source: procedures::peer_address(self.state, from),
            anew: false,
            armed,
        })
    }

    /// The standby becomes what a move is to take over to; `None`: it has none, and an error where it has one elsewhere.
    pub(super) fn switch_to(
        &self,
        tenant: &mut Tenant,
        to: &HostName,
        live: Option<&mut Live>,
    ) -> Result<Option<String>, ChangeError> {
        let Some((place, standby)) = tenant.standby() else {
            return Ok(None);
        };
        let (host, usable) = (place.host.clone(), !standby.anew);
        let Some(live) = live.filter(|_| host == *to && usable) else {
            let name = &tenant.name;
            let problem = format!(
                "has a standby on host {host}: move it there with `--max-pause`, or remove the standby first (`isyctl tenant standby \
                 remove {name}`)"
            );
            return Err(wrong_state(name, problem));
        };
        live.switches = true;
        let epoch = tenant.next_epoch();
        tenant.last_epoch = epoch;
        let reason = format!("{to}: its standby");
        for copy in tenant.copies.iter_mut().filter(|c| c.place.host == host) {
            copy.role = CopyRole::Incoming;
            (copy.place.epoch, copy.place.at) = (epoch, self.stamp.now);
            copy.place.reason = reason.as_str().into();
        }
        Ok(Some(reason))
    }

    fn check_standby_possible(&self, tenant: &Tenant) -> Result<(), ChangeError> {
        let problem = if tenant.activated_at.is_none() {
            "has never run: there is nothing to keep up with yet".to_owned()
        } else if tenant.copies.len() >= MAX_COPIES {
            format!("has {MAX_COPIES} older copies that are kept for a while")
        } else if self.is_moving(tenant) {
            "moves: its standby can begin when it is there".to_owned()
        } else {
            return Ok(());
        };
        Err(wrong_state(&tenant.name, problem))
    }

    pub(in crate::change) fn is_moving(&self, tenant: &Tenant) -> bool {
        let operation = self.state.fleet.operations.get(&tenant.operation);
        operation.is_some_and(|operation| {
            !operation.is_over() && matches!(operation.procedure, Procedure::Move(_))
        })
    }

    /// Refuses a host whose agent keeps no copies up.
    fn check_follows(&self, name: &TenantName, host: &HostName) -> Result<(), ChangeError> {
        self.host(host)?;
        let seen = self.state.observed.hosts.get(host);
        if seen.is_some_and(|seen| seen.hello.follows && seen.hello.peer_port.is_some()) {
            return Ok(());
        }
        let problem = format!(
            "can have no standby: the agent of host {host} keeps no copies up (it is silent, or of a version before)"
        );
        Err(wrong_state(name, problem))
    }

    /// The host with most room of those where the tenant has nothing yet, and whose label says something else than its own host's.
    fn most_room_apart(
        &self,
        tenant: &Tenant,
        apart: Option<&LabelKey>,
    ) -> Result<HostName, ChangeError> {
        let request = Request {
            size: tenant.size,
            host: None,
            labels: &tenant.spec.host_labels,
        };
        let inputs = self.state.placement_inputs(self.settings);
        let decision = placement::choose(inputs, request, self.stamp.now);
        let label = |host: &HostName| {
            let host = self.state.fleet.hosts.get(host)?;
            host.labels.get(apart?).cloned()
        };
        let own = label(&tenant.placement.host);
        // Who has no such label is nowhere in particular, and may be beside it.
        let is_apart = |host: &HostName| {
            apart.is_none() || label(host).is_some_and(|there| Some(there) != own)
        };
        let mut fitting = decision.hosts.iter().filter(|judged| judged.fits());
        let other = fitting
            .find(|judged| tenant.place_on(&judged.host).is_none() && is_apart(&judged.host));
        other
            .map(|judged| judged.host.clone())
            .ok_or_else(|| ChangeError::NoHostFits {
                name: tenant.name.clone(),
                decision: Box::new(decision),
            })
    }

    /// Standbys that cannot go on are made anew, and all know where the tenant's host is reached.
    pub(in crate::change) fn look_at_standbys(&mut self) {
        let all = &self.state.fleet.standbys;
        // From another one on each time, so that each has its turn.
        let skip = (self.stamp.now / 1000) as usize * MAX_PER_TICK % all.len().max(1);
        let some = all.iter().skip(skip).chain(all.iter().take(skip));
        let names: Vec<TenantName> = some.take(MAX_PER_TICK.min(all.len())).cloned().collect();
        for name in names {
            if let Some(tenant) = self.state.fleet.tenants.get(&name).cloned() {
                self.look_at_standby(&tenant);
            }
        }
    }

    fn look_at_standby(&mut self, tenant: &Tenant) {
        let Some((place, standby)) = tenant.standby() else {
            return;
        };
        let host = place.host.clone();
        let job = self.state.observed.job(&host, standby.job);
        let failed = job.filter(|job| job.state == JobState::Failed);
        let let_go = standby.anew && self.has_let_go(tenant, &host);
        // Only the plan of one that runs says that it asks first.
        let runs = tenant.desired == Lifecycle::Running && !tenant.halted;
        let armed = standby.armed || runs && self.is_seen_well(tenant);
        let source = procedures::peer_address(self.state, &tenant.placement.host);
        let is_due = self.stamp.now >= place.at.saturating_add(ANEW_MS)
            || liveness::is_to_come(place.at, self.stamp.now);
        let mut next = standby.clone();
        next.armed = armed;
        let mut why = String::new();
        if let Some(failed) = failed.filter(|_| is_due && !standby.anew) {
            next.anew = true;
            why.clone_from(&failed.message);
        } else if let_go {
            next.job = self.stamp_of(tenant).id;
            next.anew = false;
        } else if source.is_some() && source != standby.source {
            next.source = source;
        } else if next == *standby {
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
        changed.generation += 1;
        let changed = self.put_tenant(changed);
        if next.anew {
            let kind = EventKind::TenantStandbyLost;
            self.event(kind, Some(&changed), Some(&host), None, why);
        }
    }

    /// Whether its host has said that what it has of the copy never runs again.
    fn has_let_go(&self, tenant: &Tenant, host: &HostName) -> bool {
        matches!(views::copy(self.state, tenant, host), CopyObserved::Present(seen)
            if seen.report.generation == tenant.generation
                && seen.report.progress == TenantProgress::Converged)
    }
}

/// What follows a tenant that is deleted has nothing to follow.
pub(in crate::change) fn end_with(tenant: &mut Tenant) {
    if matches!(tenant.desired, Lifecycle::Quarantined | Lifecycle::Purged) {
        tenant.discard_standby();
    }
}
