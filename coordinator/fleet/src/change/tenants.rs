//! Commands on tenants: create, restart, suspend, resume, resize, delete, restore, cancel.

use std::sync::Arc;

use isyone_types::{
    ids::{HostName, ShortName, TenantName},
    plan::DesiredState,
    spec::Size,
};
use uuid::Uuid;

use super::spec_change::{self, SpecField};
use super::{ChangeError, CreateTenant, Edit, Outcome, done_step};
use crate::{
    desired::{Access, Tenant, TenantPlacement},
    event::EventKind,
    operation::OperationKind,
    placement::{self, Decision, Request},
};
use isyone_types::operation::OperationState;

impl Edit<'_> {
    pub(super) fn create_tenant(&mut self, create: CreateTenant) -> Result<Outcome, ChangeError> {
        let kinds = [OperationKind::Create, OperationKind::Update];
        if let Some(operation) =
            self.repeated(&kinds, &create.name, create.request_id.as_deref())?
        {
            // Deleted since: a late repetition must not bring it back to life.
            let tenant = self
                .state
                .fleet
                .tenants
                .get(&create.name)
                .filter(|t| t.uid == operation.tenant_uid)
                .cloned();
            return tenant
                .map(|t| found(t, Some(operation.clone())))
                .ok_or(ChangeError::RequestIdReused(operation.id));
        }
        self.check_domains(&create.name, &create.spec)?;
        match self.state.fleet.tenants.get(&create.name).cloned() {
            Some(tenant) => self.create_existing(&tenant, create),
            None => self.create_new(create),
        }
    }

    /// The name is there: the same spec succeeds, another one only by force.
    fn create_existing(
        &mut self,
        tenant: &Arc<Tenant>,
        create: CreateTenant,
    ) -> Result<Outcome, ChangeError> {
        match tenant.desired {
            DesiredState::Purged => return Err(ChangeError::BeingPurged(tenant.name.clone())),
            DesiredState::Quarantined => {
                return Err(ChangeError::Quarantined {
                    name: tenant.name.clone(),
                    until: tenant.quarantine_until.unwrap_or(0),
                });
            }
            DesiredState::Running | DesiredState::Suspended => {}
        }
        let mut create = create;
        if create.spec.domains.is_empty() {
            // Domains have verbs of their own: who names none means those that are there.
            create.spec.domains = tenant.spec.domains.clone();
        }
        let changes = spec_change::between(&tenant.spec, &create.spec);
        if changes.is_empty() {
            return Ok(found(
                tenant.clone(),
                self.state.fleet.operations.get(&tenant.operation).cloned(),
            ));
        }
        if !create.force {
            return Err(ChangeError::TenantExists {
                name: tenant.name.clone(),
                changes,
            });
        }
        let same_host = |host: &HostName| *host == tenant.placement.host;
        let stays = create.spec.host.as_ref().is_none_or(same_host);
        let fixed = changes
            .iter()
            .map(|change| change.field)
            .find(|field| field.is_fixed() && !(*field == SpecField::Host && stays));
        if let Some(field) = fixed {
            return Err(ChangeError::Immutable {
                name: tenant.name.clone(),
                field,
            });
        }
        self.check_growth(tenant, create.size)?;
        let mut updated = (**tenant).clone();
        updated.spec = create.spec;
        updated.size = create.size;
        updated.primary = updated
            .primary
            .filter(|primary| updated.spec.domains.contains(primary));
        if create.dry_run {
            return Ok(Outcome::Tenant {
                tenant: Arc::new(updated),
                operation: None,
                decision: Box::new(stayed(tenant)),
                existed: true,
            });
        }
        let operation = self.change(updated, OperationKind::Update, create.request_id);
        let tenant = self.tenant(&create.name)?;
        self.event(
            EventKind::TenantUpdated,
            Some(&tenant),
            None,
            Some(operation.id),
            format!("new spec: {}", spec_change::listed(&changes, ", ")),
        );
        let decision = Box::new(stayed(&tenant));
        Ok(Outcome::Tenant {
            tenant,
            operation: Some(operation),
            decision,
            existed: true,
        })
    }

    fn create_new(&mut self, create: CreateTenant) -> Result<Outcome, ChangeError> {
        let request = Request {
            size: create.size,
            host: create.spec.host.as_ref(),
            labels: &create.spec.host_labels,
        };
        let now = self.stamp.now;
        let view = self.state.view(self.settings);
        let decision = if create.dry_run {
            placement::explain(view, request, now)
        } else {
            placement::choose(view, request, now)
        };
        // A host without a free network or ports does not fit.
        let (Some(host), Some(slot)) = (decision.host.clone(), decision.slot) else {
            let decision = Box::new(decision);
            return if create.dry_run {
                Ok(Outcome::NoHost(decision))
            } else {
                Err(ChangeError::NoHostFits {
                    name: create.name,
                    decision,
                })
            };
        };
        let reason = decision.reason.clone();
        let placement = TenantPlacement {
            host,
            epoch: 1,
            subnet: slot.subnet,
            http_port: slot.http_port,
            websocket_port: slot.websocket_port,
            reason: reason.clone(),
            at: now,
        };
        let (dry_run, request_id) = (create.dry_run, create.request_id.clone());
        let tenant = self.fresh(create, placement);
        if dry_run {
            return Ok(Outcome::Tenant {
                tenant: Arc::new(tenant),
                operation: None,
                decision: Box::new(decision),
                existed: false,
            });
        }
        let operation = self.begin(
            OperationKind::Create,
            &tenant,
            request_id,
            vec![done_step("place", reason.clone(), now)],
        );
        let tenant = self.put_tenant(tenant);
        self.event(
            EventKind::TenantCreated,
            Some(&tenant),
            None,
            Some(operation.id),
            format!("placed: {reason}"),
        );
        Ok(Outcome::Tenant {
            tenant,
            operation: Some(operation),
            decision: Box::new(decision),
            existed: false,
        })
    }

    /// A tenant that shall run, and that no host has heard of.
    fn fresh(&self, create: CreateTenant, placement: TenantPlacement) -> Tenant {
        Tenant {
            name: create.name,
            uid: create.uid,
            spec: create.spec,
            size: create.size,
            desired: DesiredState::Running,
            generation: 1,
            placement,
            activated_at: None,
            odoo_restarts: 0,
            postgres_restarts: 0,
            secrets: create.secrets,
            created_at: self.stamp.now,
            operation: self.stamp.id,
            quarantine_until: None,
            purge_now: false,
            primary: None,
            access: Access::default(),
            asleep_since: None,
            last_active_at: None,
            started_at: None,
        }
    }

    pub(super) fn restart_tenant(
        &mut self,
        name: &TenantName,
        database: bool,
        request_id: Option<String>,
    ) -> Result<Outcome, ChangeError> {
        if let Some(operation) =
            self.repeated(&[OperationKind::Restart], name, request_id.as_deref())?
        {
            return Ok(Outcome::Operation(operation));
        }
        let mut tenant = self.living(name)?;
        if tenant.desired == DesiredState::Suspended {
            return Err(wrong_state(
                name,
                format!("is suspended; `isyctl tenant resume {name}` starts it"),
            ));
        }
        tenant.odoo_restarts += 1;
        tenant.postgres_restarts += u64::from(database);
        self.finish(
            tenant,
            OperationKind::Restart,
            request_id,
            EventKind::TenantRestarted,
        )
    }

    pub(super) fn suspend_tenant(
        &mut self,
        name: &TenantName,
        request_id: Option<String>,
    ) -> Result<Outcome, ChangeError> {
        self.set_desired(
            name,
            DesiredState::Suspended,
            OperationKind::Suspend,
            request_id,
            EventKind::TenantSuspended,
        )
    }

    pub(super) fn resume_tenant(
        &mut self,
        name: &TenantName,
        request_id: Option<String>,
    ) -> Result<Outcome, ChangeError> {
        self.set_desired(
            name,
            DesiredState::Running,
            OperationKind::Resume,
            request_id,
            EventKind::TenantResumed,
        )
    }

    /// Suspend and resume: asked a second time, they answer the operation that did it.
    fn set_desired(
        &mut self,
        name: &TenantName,
        desired: DesiredState,
        kind: OperationKind,
        request_id: Option<String>,
        event: EventKind,
    ) -> Result<Outcome, ChangeError> {
        if let Some(operation) = self.repeated(&[kind], name, request_id.as_deref())? {
            return Ok(Outcome::Operation(operation));
        }
        let mut tenant = self.living(name)?;
        // One that sleeps is not what an operator calls suspended: nobody but an operator resumes that.
        if tenant.desired == desired
            && tenant.asleep_since.is_none()
            && let Some(operation) = self.state.fleet.operations.get(&tenant.operation)
        {
            return Ok(Outcome::Operation(operation.clone()));
        }
        tenant.desired = desired;
        tenant.asleep_since = None;
        if desired == DesiredState::Running {
            tenant.started_at = Some(self.stamp.now);
        }
        self.finish(tenant, kind, request_id, event)
    }

    pub(super) fn resize_tenant(
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
            && let Some(operation) = self.state.fleet.operations.get(&tenant.operation)
        {
            return Ok(Outcome::Operation(operation.clone()));
        }
        self.check_growth(&tenant, size)?;
        tenant.spec.plan = plan;
        tenant.size = size;
        self.finish(
            tenant,
            OperationKind::Resize,
            request_id,
            EventKind::TenantResized,
        )
    }

    pub(super) fn delete_tenant(
        &mut self,
        name: &TenantName,
        purge: bool,
        request_id: Option<String>,
    ) -> Result<Outcome, ChangeError> {
        let kinds = [OperationKind::Delete, OperationKind::Purge];
        if let Some(operation) = self.repeated(&kinds, name, request_id.as_deref())? {
            return Ok(Outcome::Operation(operation));
        }
        let mut tenant = (*self.tenant(name)?).clone();
        match (tenant.desired, purge) {
            (DesiredState::Purged, _) | (DesiredState::Quarantined, false) => {
                match self.state.fleet.operations.get(&tenant.operation) {
                    Some(operation) => Ok(Outcome::Operation(operation.clone())),
                    None => Err(wrong_state(name, "is deleted already".to_owned())),
                }
            }
            (DesiredState::Quarantined, true) => {
                tenant.desired = DesiredState::Purged;
                tenant.purge_now = true;
                self.finish(
                    tenant,
                    OperationKind::Purge,
                    request_id,
                    EventKind::TenantPurgeOrdered,
                )
            }
            (DesiredState::Running | DesiredState::Suspended, true) => Err(wrong_state(
                name,
                format!(
                    "is not deleted; `isyctl tenant delete {name}` first puts it into quarantine"
                ),
            )),
            (DesiredState::Running | DesiredState::Suspended, false) => {
                tenant.asleep_since = None;
                self.quarantine(&mut tenant);
                self.finish(
                    tenant,
                    OperationKind::Delete,
                    request_id,
                    EventKind::TenantDeleted,
                )
            }
        }
    }

    /// A tenant that never ran holds nobody's data and is purged at once; any other goes into quarantine.
    fn quarantine(&self, tenant: &mut Tenant) {
        if tenant.activated_at.is_some() {
            tenant.desired = DesiredState::Quarantined;
            tenant.quarantine_until =
                Some(self.stamp.now.saturating_add(self.settings.quarantine_ms));
        } else {
            tenant.desired = DesiredState::Purged;
            tenant.purge_now = true;
        }
    }

    pub(super) fn restore_tenant(
        &mut self,
        name: &TenantName,
        request_id: Option<String>,
    ) -> Result<Outcome, ChangeError> {
        if let Some(operation) =
            self.repeated(&[OperationKind::Restore], name, request_id.as_deref())?
        {
            return Ok(Outcome::Operation(operation));
        }
        let mut tenant = (*self.tenant(name)?).clone();
        match tenant.desired {
            DesiredState::Quarantined => {}
            DesiredState::Purged => return Err(ChangeError::BeingPurged(name.clone())),
            DesiredState::Running | DesiredState::Suspended => {
                return Err(wrong_state(name, "is not deleted".to_owned()));
            }
        }
        // A quarantined tenant keeps no memory or CPU: there must be room for it on its host again.
        self.check_room(&tenant, tenant.size)?;
        tenant.desired = DesiredState::Running;
        tenant.quarantine_until = None;
        tenant.started_at = Some(self.stamp.now);
        self.finish(
            tenant,
            OperationKind::Restore,
            request_id,
            EventKind::TenantRestored,
        )
    }

    pub(super) fn cancel_operation(&mut self, id: Uuid) -> Result<Outcome, ChangeError> {
        let operation = self
            .state
            .fleet
            .operations
            .get(&id)
            .cloned()
            .ok_or(ChangeError::OperationNotFound(id))?;
        if operation.state.is_final() {
            return Err(ChangeError::NotCancellable {
                id,
                problem: "has ended already",
            });
        }
        if operation.kind != OperationKind::Create {
            return Err(ChangeError::NotCancellable {
                id,
                problem: "cannot be cancelled: only the creation of a tenant can",
            });
        }
        let mut tenant = (*self.tenant(&operation.tenant)?).clone();
        self.quarantine(&mut tenant);
        let name = tenant.name.clone();
        self.finish(
            tenant,
            OperationKind::Delete,
            None,
            EventKind::TenantCreateCancelled,
        )?;
        // `begin` marked it overtaken; say who did that.
        let mut cancelled = (*operation).clone();
        cancelled.state = OperationState::Cancelled;
        cancelled.ended_at = Some(self.stamp.now);
        cancelled.error = format!(
            "cancelled by {}; what was made of `{name}` is being removed",
            self.stamp.actor
        );
        Ok(Outcome::Operation(self.put_operation(cancelled)))
    }

    /// Stores a changed tenant with a new operation.
    pub(super) fn finish(
        &mut self,
        tenant: Tenant,
        kind: OperationKind,
        request_id: Option<String>,
        event: EventKind,
    ) -> Result<Outcome, ChangeError> {
        let name = tenant.name.clone();
        let operation = self.change(tenant, kind, request_id);
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

    pub(super) fn change(
        &mut self,
        mut tenant: Tenant,
        kind: OperationKind,
        request_id: Option<String>,
    ) -> Arc<crate::operation::Operation> {
        tenant.generation += 1;
        let operation = self.begin(kind, &tenant, request_id, Vec::new());
        tenant.operation = operation.id;
        self.put_tenant(tenant);
        operation
    }

    /// A copy of a tenant that is not deleted.
    pub(super) fn living(&self, name: &TenantName) -> Result<Tenant, ChangeError> {
        let tenant = self.tenant(name)?;
        match tenant.desired {
            DesiredState::Running | DesiredState::Suspended => Ok((*tenant).clone()),
            DesiredState::Quarantined => Err(ChangeError::Quarantined {
                name: name.clone(),
                until: tenant.quarantine_until.unwrap_or(0),
            }),
            DesiredState::Purged => Err(ChangeError::BeingPurged(name.clone())),
        }
    }

    /// Whether the tenant's host has room for what it would need more.
    fn check_growth(&self, tenant: &Tenant, size: Size) -> Result<(), ChangeError> {
        let more = Size {
            memory_bytes: size.memory_bytes.saturating_sub(tenant.size.memory_bytes),
            cpu_millis: size.cpu_millis.saturating_sub(tenant.size.cpu_millis),
            disk_bytes: size.disk_bytes.saturating_sub(tenant.size.disk_bytes),
            workers: 0,
        };
        if more.memory_bytes == 0 && more.cpu_millis == 0 && more.disk_bytes == 0 {
            Ok(())
        } else {
            self.check_room(tenant, more)
        }
    }

    fn check_room(&self, tenant: &Tenant, more: Size) -> Result<(), ChangeError> {
        let labels = std::collections::BTreeMap::new();
        let request = Request {
            size: more,
            host: Some(&tenant.placement.host),
            labels: &labels,
        };
        let mut decision =
            placement::choose(self.state.view(self.settings), request, self.stamp.now);
        // It already has its network, and a cordon closes a host to new tenants only.
        for judgement in &mut decision.hosts {
            judgement.rejections.retain(|r| {
                !matches!(
                    r,
                    placement::Rejection::Cordoned | placement::Rejection::NoNetwork
                )
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

fn wrong_state(name: &TenantName, problem: String) -> ChangeError {
    ChangeError::WrongState {
        name: name.clone(),
        problem,
    }
}

fn found(tenant: Arc<Tenant>, operation: Option<Arc<crate::operation::Operation>>) -> Outcome {
    let decision = Box::new(stayed(&tenant));
    Outcome::Tenant {
        tenant,
        operation,
        decision,
        existed: true,
    }
}

/// The decision of a tenant that stays where it is.
fn stayed(tenant: &Tenant) -> Decision {
    Decision {
        host: Some(tenant.placement.host.clone()),
        slot: None,
        reason: tenant.placement.reason.clone(),
        hosts: Vec::new(),
        considered: 0,
        fitting: 0,
    }
}
