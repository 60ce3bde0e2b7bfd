//! Sends a tenant to another host.
//!
//! Not here: the stages of that (the crate's procedures), and choosing where to (placement).

use isyone_types::ids::{HostName, TenantName};

use super::{
    super::{ChangeError, Edit, Outcome, done_step},
    wrong_state,
};
use crate::{
    desired::{CopyRole, MAX_COPIES, TenantCopy, TenantPlacement},
    event::EventKind,
    operation::{MoveStage, OperationKind, Procedure, Relocation},
    placement::{self, Request},
    views::utc,
};

impl Edit<'_> {
    pub(in crate::change) fn move_tenant(
        &mut self,
        name: &TenantName,
        to: &HostName,
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
        if let Some((_, role)) = tenant.copy_on(to) {
            let problem = match role {
                None => format!("is on host {to} already"),
                Some(CopyRole::Fenced { until: Some(until) }) => {
                    let until = utc(*until);
                    format!("still has an older copy on host {to}, which is kept until {until}")
                }
                Some(CopyRole::Fenced { until: None }) => format!(
                    "still has an older copy on host {to}, which is kept until the tenant is well in its new place"
                ),
                Some(CopyRole::Discarded | CopyRole::Incoming) => format!(
                    "still has an older copy on host {to}, which is being removed; try again in a moment"
                ),
            };
            return Err(wrong_state(name, problem));
        }
        if tenant.copies.len() >= MAX_COPIES {
            let problem = format!("has {MAX_COPIES} older copies that are kept for a while");
            return Err(wrong_state(name, problem));
        }
        for host in [&tenant.placement.host, to] {
            self.check_peer(&tenant.name, host)?;
        }
        let place = self.incoming_place(&tenant, to)?;
        let log = vec![done_step("place", place.reason.clone(), self.stamp.now)];
        let from = tenant.placement.host.clone();
        tenant.copies.push(TenantCopy {
            place,
            role: CopyRole::Incoming,
        });
        tenant.generation += 1;
        self.make_way(&tenant, OperationKind::Move);
        tenant.operation = self.stamp.id;
        let procedure = Procedure::Move(Relocation {
            from: from.clone(),
            to: to.clone(),
            generation: tenant.generation,
            stage: MoveStage::Prepare,
            source: None,
            leave_until: self.stamp.now,
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

    /// A place on that host, under an epoch above all that any copy of the tenant has had.
    fn incoming_place(
        &self,
        tenant: &crate::desired::Tenant,
        to: &HostName,
    ) -> Result<TenantPlacement, ChangeError> {
        let request = Request {
            size: tenant.size,
            host: Some(to),
            labels: &tenant.spec.host_labels,
        };
        let now = self.stamp.now;
        let decision = placement::choose(self.state.placement_inputs(self.settings), request, now);
        let (Some(host), Some(slot)) = (decision.host.clone(), decision.slot) else {
            return Err(ChangeError::NoHostFits {
                name: tenant.name.clone(),
                decision: Box::new(decision),
            });
        };
        let highest = tenant.places().map(|(place, _)| place.epoch).max();
        let epoch = highest.unwrap_or(0) + 1;
        Ok(TenantPlacement {
            host,
            epoch,
            subnet: slot.subnet,
            http_port: slot.http_port,
            websocket_port: slot.websocket_port,
            reason: decision.reason,
            at: now,
        })
    }
}
