//! How tenants go and come back: delete, purge, undelete.
//!
//! Not here: ending a quarantine (tick), and forgetting a tenant that its host has removed (report).

use isyone_types::{
    ids::TenantName,
    plan::{Lifecycle, Role},
    report::Which,
};

use super::{
    super::{Ask, ChangeError, Edit, Outcome},
    wrong_state,
};
use crate::{
    desired::Tenant,
    event::EventKind,
    observed::{CopyObserved, TenantObserved},
    operation::OperationKind,
    views,
};

impl Edit<'_> {
    pub(in crate::change) fn delete_tenant(
        &mut self,
        name: &TenantName,
        purge: bool,
        ask: Ask,
    ) -> Result<Outcome, ChangeError> {
        let kinds = [OperationKind::Delete, OperationKind::Purge];
        if let Some(operation) = self.repeated(&kinds, name, ask.request_id.as_deref())? {
            return Ok(Outcome::Operation(operation));
        }
        let mut tenant = (*self.tenant(name)?).clone();
        match (tenant.desired, purge) {
            // Whoever deletes it again has decided: its time begins anew. Nothing goes at once, whatever is known of it.
            (Lifecycle::Quarantined, false) if tenant.quarantine_held => {
                tenant.quarantine_held = false;
                tenant.quarantine_until =
                    Some(self.stamp.now.saturating_add(self.settings.quarantine_ms));
                self.finish(tenant, OperationKind::Delete, ask, EventKind::TenantDeleted)
            }
            (Lifecycle::Purged, _) | (Lifecycle::Quarantined, false) => {
                match self.state.fleet.operations.get(&tenant.operation).cloned() {
                    Some(operation) => {
                        let operation = self.answer_with(operation, ask.request_id);
                        Ok(Outcome::Operation(operation))
                    }
                    None => Err(wrong_state(name, "is deleted already".to_owned())),
                }
            }
            (Lifecycle::Quarantined, true) => {
                tenant.desired = Lifecycle::Purged;
                tenant.purge_now = true;
                tenant.quarantine_held = false;
                self.finish(
                    tenant,
                    OperationKind::Purge,
                    ask,
                    EventKind::TenantPurgeOrdered,
                )
            }
            (Lifecycle::Running | Lifecycle::Suspended, true) => Err(wrong_state(
                name,
                format!(
                    "is not deleted; `isyctl tenant delete {name}` first puts it into quarantine"
                ),
            )),
            (Lifecycle::Running | Lifecycle::Suspended, false) => {
                tenant.asleep_since = None;
                self.quarantine(&mut tenant);
                self.finish(tenant, OperationKind::Delete, ask, EventKind::TenantDeleted)
            }
        }
    }

    /// A tenant that nobody can have used has no data and is purged at once; any other goes into quarantine.
    pub(in crate::change) fn quarantine(&self, tenant: &mut Tenant) {
        if self.may_hold_data(tenant) {
            tenant.desired = Lifecycle::Quarantined;
            tenant.quarantine_held = false;
            tenant.quarantine_until =
                Some(self.stamp.now.saturating_add(self.settings.quarantine_ms));
        } else {
            tenant.desired = Lifecycle::Purged;
            tenant.purge_now = true;
        }
    }

    /// Whether visitors can have reached it: it has run, or its Odoo was started once, or nobody knows. Its route comes
    /// before it has converged.
    fn may_hold_data(&self, tenant: &Tenant) -> bool {
        let started = |seen: &TenantObserved| {
            let odoo = seen.report.containers.iter();
            odoo.filter(|c| c.which == Which::Its(Role::Odoo))
                .any(|c| c.state == *"running" || c.started_at.is_some())
        };
        tenant.activated_at.is_some()
            || match views::copy(self.state, tenant, &tenant.placement.host) {
                CopyObserved::Present(seen) => started(seen),
                // What was reported to an earlier process is forgotten, also if it had another clock.
                CopyObserved::Unknown => {
                    !(self.state.started_at..=self.stamp.now).contains(&tenant.created_at)
                }
                CopyObserved::Absent => false,
            }
    }

    pub(in crate::change) fn undelete_tenant(
        &mut self,
        name: &TenantName,
        request_id: Option<String>,
    ) -> Result<Outcome, ChangeError> {
        if let Some(operation) =
            self.repeated(&[OperationKind::Undelete], name, request_id.as_deref())?
        {
            return Ok(Outcome::Operation(operation));
        }
        let mut tenant = (*self.tenant(name)?).clone();
        match tenant.desired {
            Lifecycle::Quarantined => {}
            Lifecycle::Purged => return Err(ChangeError::BeingPurged(name.clone())),
            Lifecycle::Running | Lifecycle::Suspended => {
                return Err(wrong_state(name, "is not deleted".to_owned()));
            }
        }
        // A quarantined tenant has no memory or CPU reserved: its host must have room for it again.
        self.check_room(&tenant, tenant.size)?;
        tenant.desired = Lifecycle::Running;
        tenant.quarantine_until = None;
        tenant.quarantine_held = false;
        tenant.started_at = Some(self.stamp.now);
        self.finish(
            tenant,
            OperationKind::Undelete,
            request_id.into(),
            EventKind::TenantUndeleted,
        )
    }
}
