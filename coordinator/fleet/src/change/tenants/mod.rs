//! Commands on tenants, and what these share: an editable copy, room on the host, a new generation with its operation.
//!
//! Not here: who gets in (access), domains, and unused tenants (sleep).

mod create;
mod delete;
mod elsewhere;
pub(super) mod failover;
mod lifecycle;
mod mail;
mod odoo;
mod relocate;
mod restore;
pub(super) mod standby;
mod upgrade;

use std::collections::BTreeMap;

use isyone_types::{
    ids::TenantName,
    operation::OperationState,
    plan::Lifecycle,
    spec::{Bounds, Size},
};

pub use self::{mail::SetMail, odoo::SetOdoo, standby::FILLED_AT_ONCE};
use super::{Ask, ChangeError, Edit, Outcome};
use crate::{
    desired::Tenant,
    event::EventKind,
    observed::Hello,
    operation::{Operation, OperationKind},
    placement::{self, Request},
    views,
};

impl Edit<'_> {
    /// Stores a changed tenant with a new operation and an event.
    pub(super) fn finish(
        &mut self,
        tenant: Tenant,
        kind: OperationKind,
        ask: Ask,
        event: EventKind,
    ) -> Result<Outcome, ChangeError> {
        let name = tenant.name.clone();
        let operation = self.change(tenant, kind, ask)?;
        let tenant = self.tenant(&name)?;
        self.event(
            event,
            Some(&tenant),
            None,
            Some(operation.id),
            String::new(),
        );
        Ok(Outcome::Operation(operation))
    }

    /// A copy of a tenant that is not deleted.
    pub(super) fn living(&self, name: &TenantName) -> Result<Tenant, ChangeError> {
        let tenant = self.tenant(name)?;
        match tenant.desired {
            Lifecycle::Running | Lifecycle::Suspended => Ok((*tenant).clone()),
            Lifecycle::Quarantined => Err(ChangeError::Quarantined {
                name: name.clone(),
                until: tenant.quarantine_until.unwrap_or(0),
            }),
            Lifecycle::Purged => Err(ChangeError::BeingPurged(name.clone())),
        }
    }

    /// Refuses settings of mail and of Odoo where they would be agreed to and nothing done: its host's agent is of before them. One that
    /// has not said hello since the coordinator started is believed.
    pub(super) fn check_sets_mail(&self, tenant: &Tenant) -> Result<(), ChangeError> {
        self.check_able(tenant, |hello| hello.sets_mail)
    }

    /// The same of an order that a database is to sort in: it would sort by bytes, for good.
    pub(super) fn check_sorts(&self, tenant: &Tenant) -> Result<(), ChangeError> {
        self.check_able(tenant, |hello| hello.sorts)
    }

    fn check_able(
        &self,
        tenant: &Tenant,
        able: impl Fn(&Hello) -> bool,
    ) -> Result<(), ChangeError> {
        let host = &tenant.placement.host;
        let Some(seen) = self.state.observed.hosts.get(host) else {
            return Ok(());
        };
        let (version, able) = (&seen.hello.agent_version, able(&seen.hello));
        if able || version.is_empty() {
            return Ok(());
        }
        let problem = format!(
            "is on host {host}, whose agent is of version {version}, which does nothing of that: upgrade isy-agent there, then set it"
        );
        Err(wrong_state(&tenant.name, problem))
    }

    /// Refuses a larger size unless the tenant's host has room for the difference.
    pub(super) fn check_growth(&self, tenant: &Tenant, size: Size) -> Result<(), ChangeError> {
        let more = Size {
            memory_bytes: size.memory_bytes.saturating_sub(tenant.size.memory_bytes),
            cpu_millis: size.cpu_millis.saturating_sub(tenant.size.cpu_millis),
            disk_bytes: size.disk_bytes.saturating_sub(tenant.size.disk_bytes),
            workers: 0,
            bounds: Bounds::default(),
        };
        if more.memory_bytes == 0 && more.cpu_millis == 0 && more.disk_bytes == 0 {
            Ok(())
        } else {
            self.check_room(tenant, more)
        }
    }

    /// Refuses what would stop a tenant that works and start it again on a full disk, where it might not come up.
    fn check_disk(&self, tenant: &Tenant) -> Result<(), ChangeError> {
        let full = views::disk_is_full(self.state, &tenant.placement.host);
        match full.filter(|_| tenant.desired == Lifecycle::Running) {
            None => Ok(()),
            Some(full) => Err(wrong_state(
                &tenant.name,
                format!(
                    "is not stopped now, because it might not start again: {full}. Make room there first (runbook HostDiskFull)"
                ),
            )),
        }
    }

    pub(super) fn check_room(&self, tenant: &Tenant, more: Size) -> Result<(), ChangeError> {
        let labels = BTreeMap::new();
        let request = Request {
            size: more,
            host: Some(&tenant.placement.host),
            labels: &labels,
        };
        let mut decision = placement::choose(
            self.state.placement_inputs(self.settings),
            request,
            self.stamp.now,
        );
        // The tenant lives there already, whatever keeps new ones away; only what it takes more than it has counts, as far
        // as that is known.
        for judgement in &mut decision.hosts {
            let unknown = judgement
                .rejections
                .contains(&placement::Rejection::NeverReported);
            judgement.rejections.retain(|r| {
                let room = matches!(
                    r,
                    placement::Rejection::Memory(..)
                        | placement::Rejection::Cpu(..)
                        | placement::Rejection::Disk(..)
                );
                room && !unknown
            });
        }
        if decision.hosts.iter().any(placement::Judgement::fits) {
            Ok(())
        } else {
            Err(ChangeError::NoHostFits {
                name: tenant.name.clone(),
                decision: Box::new(decision),
            })
        }
    }
}

/// Whether an operation ended with what it was for.
pub(super) fn went_well(operation: &Operation) -> bool {
    operation.state == OperationState::Succeeded
}

fn wrong_state(name: &TenantName, problem: String) -> ChangeError {
    ChangeError::WrongState {
        name: name.clone(),
        problem,
    }
}
