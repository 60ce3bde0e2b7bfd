//! Sends a tenant to another host.
//!
//! Not here: the stages of that (the crate's procedures), and choosing where to (placement).

use isyone_types::{
    ids::{HostName, TenantName},
    plan::Lifecycle,
    report::TenantProgress,
};

use super::{
    super::{ChangeError, Edit, Outcome, done_step},
    wrong_state,
};
use crate::{
    change::Whither,
    desired::{CopyRole, MAX_COPIES, Stragglers, Tenant, TenantCopy, TenantPlacement},
    event::EventKind,
    observed::CopyObserved,
    operation::{Live, MoveStage, OperationKind, Procedure, Relocation},
    placement::{self, Decision, Judgement, Rejection, Request},
    views,
};

impl Edit<'_> {
    pub(in crate::change) fn move_tenant(
        &mut self,
        name: &TenantName,
        to: Whither,
        max_pause_ms: Option<u32>,
        request_id: Option<String>,
    ) -> Result<Outcome, ChangeError> {
        if let Some(operation) =
            self.repeated(&[OperationKind::Move], name, request_id.as_deref())?
        {
            return Ok(Outcome::Operation(operation));
        }
        let mut tenant = self.living(name)?;
        self.check_idle(&tenant, false)?;
        if tenant.activated_at.is_none() {
            let problem = "has never run: there is nothing to move yet";
            return Err(wrong_state(name, problem.to_owned()));
        }
        let to = &self.destination(&tenant, to, max_pause_ms.is_some())?;
        for host in [&tenant.placement.host, to] {
            self.check_peer(&tenant.name, host)?;
        }
        let mut live = self.live(&tenant, to, max_pause_ms)?;
        let reason = match self.switch_to(&mut tenant, to, live.as_mut())? {
            Some(reason) => reason,
            None => self.make_incoming(&mut tenant, to)?,
        };
        let log = vec![done_step("place", reason, self.stamp.now)];
        let from = tenant.placement.host.clone();
        tenant.generation += 1;
        self.make_way(&tenant, OperationKind::Move);
        tenant.let_go(); // as who gave way has, by now
        tenant.operation = self.stamp.id;
        let procedure = Procedure::Move(Relocation {
            from: from.clone(),
            to: to.clone(),
            generation: tenant.generation,
            stage: MoveStage::Prepare,
            source: None,
            leave_until: self.stamp.now,
            copying_since: None,
            live,
            lost: false,
            backup: None,
        });
        let operation = self.begin(OperationKind::Move, &tenant, procedure, request_id, log);
        let tenant = self.put_tenant(tenant);
        self.event(
            EventKind::TenantMoveOrdered,
            Some(&tenant),
            None,
            Some(operation.id),
            format!("from {from} to {to}"),
        );
        Ok(Outcome::Operation(operation))
    }

    /// Deletes a copy that was kept aside on that host. What the tenant may have to fall back on stays.
    pub(in crate::change) fn discard_copy(
        &mut self,
        name: &TenantName,
        host: &HostName,
    ) -> Result<Outcome, ChangeError> {
        let mut tenant = self.living(name)?;
        let of_host = |copy: &&TenantCopy| copy.place.host == *host;
        // Its time may begin with the next report only: what begins it counts at once.
        let runs = tenant.desired == Lifecycle::Running && !tenant.halted;
        let found = tenant.copies.iter().find(of_host);
        let Some((copy, CopyRole::Fenced { until })) = found.map(|copy| (copy, &copy.role)) else {
            let problem = format!("has no copy on host {host} that is kept aside");
            return Err(wrong_state(name, problem));
        };
        let may_go = until.is_some() || runs && self.is_fenced(&tenant, copy);
        if !may_go || !self.is_seen_well(&tenant) {
            let problem = format!(
                "has its copy on host {host} to fall back on until it is well on host {}",
                tenant.placement.host
            );
            return Err(wrong_state(name, problem));
        }
        for copy in tenant.copies.iter_mut().filter(|c| c.place.host == *host) {
            copy.role = CopyRole::Discarded;
        }
        tenant.generation += 1;
        let tenant = self.put_tenant(tenant);
        let kind = EventKind::TenantCopyDiscarded;
        self.event(kind, Some(&tenant), Some(host), None, String::new());
        Ok(Outcome::Changed(tenant))
    }

    /// Makes the place of a copy that is to come; returns why it is there.
    fn make_incoming(&self, tenant: &mut Tenant, to: &HostName) -> Result<String, ChangeError> {
        let kept = self.kept_place(tenant, to)?;
        if kept.is_none() && tenant.copies.len() >= MAX_COPIES {
            let problem = format!("has {MAX_COPIES} older copies that are kept for a while");
            return Err(wrong_state(&tenant.name, problem));
        }
        let place = self.incoming_place(tenant, to, kept.as_ref())?;
        let reason = place.reason.to_string();
        tenant.last_epoch = place.epoch;
        tenant.copies.retain(|copy| copy.place.host != *to);
        tenant.copies.push(TenantCopy {
            place,
            role: CopyRole::Incoming,
            stragglers: Stragglers::Refused,
        });
        Ok(reason)
    }

    /// The host that it is to move to.
    fn destination(
        &self,
        tenant: &Tenant,
        to: Whither,
        is_live: bool,
    ) -> Result<HostName, ChangeError> {
        let from = match to {
            Whither::Host(host) => return Ok(host),
            Whither::AwayFrom(host) => host,
        };
        let name = &tenant.name;
        if tenant.placement.host != from {
            let problem = format!(
                "is on host {}, so it need not move away from host {from}",
                tenant.placement.host
            );
            return Err(wrong_state(name, problem));
        }
        // What is there already is not copied again, and a move elsewhere would be refused.
        let runs = tenant.desired == Lifecycle::Running;
        if let Some((place, _)) = tenant.standby().filter(|_| is_live && runs) {
            return Ok(place.host.clone());
        }
        let decision = self.anywhere(tenant);
        // Best first; where an older copy lies, only who names that host writes over it.
        let mut fitting = decision.hosts.iter().filter(|judged| judged.fits());
        let other = fitting.find(|judged| tenant.place_on(&judged.host).is_none());
        match other {
            Some(judged) => Ok(judged.host.clone()),
            None => Err(ChangeError::NoHostFits {
                name: name.clone(),
                decision: Box::new(decision),
            }),
        }
    }

    /// How all hosts would be for a tenant, the best first.
    pub(super) fn anywhere(&self, tenant: &Tenant) -> Decision {
        let request = Request {
            size: tenant.size,
            host: None,
            labels: &tenant.spec.host_labels,
        };
        let inputs = self.state.placement_inputs(self.settings);
        placement::choose(inputs, request, self.stamp.now)
    }

    /// How it moves while it runs; `None`: it does not run, or is to be stopped for it.
    fn live(
        &self,
        tenant: &Tenant,
        to: &HostName,
        max_pause_ms: Option<u32>,
    ) -> Result<Option<Live>, ChangeError> {
        let Some(max_pause_ms) = max_pause_ms.filter(|_| tenant.desired == Lifecycle::Running)
        else {
            return Ok(None);
        };
        for host in [&tenant.placement.host, to] {
            let seen = self.state.observed.hosts.get(host);
            if !seen.is_some_and(|seen| seen.hello.follows) {
                let problem = format!(
                    "cannot be moved while it runs: the agent of host {host} keeps no copies up (it is silent, or of a version \
                     before). Without `--max-pause` it is moved all the same, and is stopped while its data is copied"
                );
                return Err(wrong_state(&tenant.name, problem));
            }
        }
        Ok(Some(Live {
            max_pause_ms,
            held_at: None,
            switches: false,
            apart: None,
        }))
    }

    /// The place of an older copy on that host, which is overwritten by the one that comes: then it is no more a copy to
    /// fall back on, so the tenant must be well where it lives. An error where another copy is in the way.
    fn kept_place(
        &self,
        tenant: &Tenant,
        to: &HostName,
    ) -> Result<Option<TenantPlacement>, ChangeError> {
        let Some((place, role)) = tenant.copy_on(to) else {
            return Ok(None);
        };
        let problem = match role {
            None => format!("is on host {to} already"),
            Some(CopyRole::Fenced { until: Some(_) }) if self.is_seen_well(tenant) => {
                return Ok(Some(place.clone()));
            }
            // Suspended, it has not shown that it runs from what it has here, and the older copy would be lost to the move.
            Some(CopyRole::Fenced { until: None }) if tenant.desired == Lifecycle::Suspended => {
                format!(
                    "has an older copy on host {to}, to fall back on until it has run on host {}; run it there once \
                     (`isyctl tenant resume {}`), then it can be moved back",
                    tenant.placement.host, tenant.name
                )
            }
            Some(CopyRole::Fenced { .. }) => format!(
                "still has an older copy on host {to}, which is kept until the tenant is well on host {}",
                tenant.placement.host
            ),
            Some(CopyRole::Standby(_)) => format!(
                "has its standby on host {to}; remove it first (`isyctl tenant standby remove {}`)",
                tenant.name
            ),
            Some(CopyRole::Discarded | CopyRole::Incoming) => format!(
                "still has an older copy on host {to}, which is being removed; try again in a moment"
            ),
        };
        Err(wrong_state(&tenant.name, problem))
    }

    /// Whether the host where the tenant lives has said that it is as the present plan wants it.
    pub(super) fn is_seen_well(&self, tenant: &Tenant) -> bool {
        let seen = views::copy(self.state, tenant, &tenant.placement.host);
        matches!(seen, CopyObserved::Present(seen)
            if seen.report.generation == tenant.generation
                && seen.report.progress == TenantProgress::Converged)
    }

    /// Refuses a host whose agent does not exchange data with others: it would be found only when the tenant is stopped,
    /// and an agent of a version before would refuse its whole plan.
    fn check_peer(&self, name: &TenantName, host: &HostName) -> Result<(), ChangeError> {
        self.host(host)?;
        let seen = self.state.observed.hosts.get(host);
        if seen.is_some_and(|seen| seen.hello.peer_port.is_some()) {
            return Ok(());
        }
        let problem = format!(
            "cannot move: the agent of host {host} serves no other agents (it is silent, of a version before, or runs \
             with `--peer off`)"
        );
        Err(wrong_state(name, problem))
    }

    /// A place on that host, under an epoch above all that any copy of the tenant has had. An older copy has its network,
    /// ports and disk there already.
    pub(super) fn incoming_place(
        &self,
        tenant: &Tenant,
        to: &HostName,
        kept: Option<&TenantPlacement>,
    ) -> Result<TenantPlacement, ChangeError> {
        let mut size = tenant.size;
        if kept.is_some() {
            size.disk_bytes = 0;
        }
        let request = Request {
            size,
            host: Some(to),
            labels: &tenant.spec.host_labels,
        };
        let now = self.stamp.now;
        let decision = placement::choose(self.state.placement_inputs(self.settings), request, now);
        let epoch = tenant.next_epoch();
        let fits_but_for_network = |judged: &Judgement| {
            let mut lacks = judged.rejections.iter();
            lacks.all(|lack| *lack == Rejection::NoNetwork)
        };
        match (kept, decision.slot) {
            (Some(kept), _) if decision.hosts.iter().any(fits_but_for_network) => {
                Ok(TenantPlacement {
                    as_it_is: false,
                    lease_over_ms: 0,
                    epoch,
                    reason: format!("{to}: in the place of its older copy").into(),
                    at: now,
                    ..kept.clone()
                })
            }
            (None, Some(slot)) if decision.host.is_some() => {
                let reason = &decision.reason;
                Ok(slot.place(to.clone(), epoch, reason, now))
            }
            _ => Err(ChangeError::NoHostFits {
                name: tenant.name.clone(),
                decision: Box::new(decision),
            }),
        }
    }
}
