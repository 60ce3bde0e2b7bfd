//! Commands on existing tenants that stay: restart, suspend, resume, resize.
//!
//! Not here: falling asleep and waking (sleep), and what an agent does with a changed plan.

use std::sync::Arc;

use isyone_types::{
    ids::{ShortName, TenantName},
    plan::Lifecycle,
};

use super::{
    super::{Ask, ChangeError, Edit, Outcome},
    went_well, wrong_state,
};
use crate::{
    desired::Tenant,
    event::EventKind,
    operation::{Operation, OperationKind},
};

impl Edit<'_> {
    pub(in crate::change) fn restart_tenant(
        &mut self,
        name: &TenantName,
        database: bool,
        settings: bool,
        request_id: Option<String>,
    ) -> Result<Outcome, ChangeError> {
        if let Some(operation) =
            self.repeated(&[OperationKind::Restart], name, request_id.as_deref())?
        {
            return Ok(Outcome::Operation(operation));
        }
        let mut tenant = self.living(name)?;
        if tenant.desired == Lifecycle::Suspended {
            return Err(wrong_state(
                name,
                format!("is suspended; `isyctl tenant resume {name}` starts it"),
            ));
        }
        if settings {
            self.check_knows_settings(&tenant)?;
        }
        self.check_disk(&tenant)?;
        tenant.odoo_restarts += 1;
        tenant.postgres_restarts += u64::from(database);
        tenant.settings_asked += u64::from(settings);
        self.finish(
            tenant,
            OperationKind::Restart,
            request_id.into(),
            EventKind::TenantRestarted,
        )
    }

    /// An agent of a version before does not know the number in the plan that asks for settings: it would restart Odoo, write nothing,
    /// and say that all is done. Agents that know it are of the version that began to say `makes_backups`, or later; that is the
    /// one thing that tells the two apart, as no agent says which parts of a plan it knows.
    fn check_knows_settings(&self, tenant: &Tenant) -> Result<(), ChangeError> {
        let host = &tenant.placement.host;
        if self.host(host)?.makes_backups {
            return Ok(());
        }
        let problem = format!(
            "is on host {host}, whose agent is of a version before and would only restart it: update that agent, then apply its settings"
        );
        Err(wrong_state(&tenant.name, problem))
    }

    pub(in crate::change) fn suspend_tenant(
        &mut self,
        name: &TenantName,
        ask: Ask,
    ) -> Result<Outcome, ChangeError> {
        self.set_desired(
            name,
            Lifecycle::Suspended,
            OperationKind::Suspend,
            ask,
            EventKind::TenantSuspended,
        )
    }

    pub(in crate::change) fn resume_tenant(
        &mut self,
        name: &TenantName,
        request_id: Option<String>,
    ) -> Result<Outcome, ChangeError> {
        self.set_desired(
            name,
            Lifecycle::Running,
            OperationKind::Resume,
            request_id.into(),
            EventKind::TenantResumed,
        )
    }

    /// Suspends or resumes. A repeated request returns the operation that already did it.
    fn set_desired(
        &mut self,
        name: &TenantName,
        desired: Lifecycle,
        kind: OperationKind,
        ask: Ask,
        event: EventKind,
    ) -> Result<Outcome, ChangeError> {
        if let Some(operation) = self.repeated(&[kind], name, ask.request_id.as_deref())? {
            return Ok(Outcome::Operation(operation));
        }
        let mut tenant = self.living(name)?;
        // A sleeping tenant does not count as suspended by an operator: any visitor could resume it.
        if tenant.desired == desired
            && tenant.asleep_since.is_none()
            && let Some(operation) = self.that_did_it(&tenant, kind)
        {
            let operation = self.answer_with(operation, ask.request_id);
            return Ok(Outcome::Operation(operation));
        }
        tenant.desired = desired;
        tenant.asleep_since = None;
        if desired == Lifecycle::Running {
            tenant.started_at = Some(self.stamp.now);
        }
        self.finish(tenant, kind, ask, event)
    }

    /// The operation that made a tenant what it is, or is doing so: for whoever asks for what is so already. Not one that
    /// went back, nor one under way for something else.
    fn that_did_it(&self, tenant: &Tenant, kind: OperationKind) -> Option<Arc<Operation>> {
        let operation = self.state.fleet.operations.get(&tenant.operation)?;
        let under_way =
            !operation.is_over() && operation.kind == kind && !operation.stage().is_back();
        (under_way || went_well(operation)).then(|| operation.clone())
    }

    pub(in crate::change) fn resize_tenant(
        &mut self,
        name: &TenantName,
        plan: ShortName,
        request_id: Option<String>,
    ) -> Result<Outcome, ChangeError> {
        if let Some(operation) =
            self.repeated(&[OperationKind::Resize], name, request_id.as_deref())?
        {
            return Ok(Outcome::Operation(operation));
        }
        let size = *self
            .settings
            .plans
            .get(&plan)
            .ok_or_else(|| ChangeError::UnknownPlan(plan.clone()))?;
        let mut tenant = self.living(name)?;
        if tenant.spec.plan == plan
            && tenant.size == size
            && let Some(operation) = self.that_did_it(&tenant, OperationKind::Resize)
        {
            let operation = self.answer_with(operation, request_id);
            return Ok(Outcome::Operation(operation));
        }
        self.check_growth(&tenant, size)?;
        tenant.spec.plan = plan;
        tenant.size = size;
        self.finish(
            tenant,
            OperationKind::Resize,
            request_id.into(),
            EventKind::TenantResized,
        )
    }
}
