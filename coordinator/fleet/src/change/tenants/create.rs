//! Creates tenants, and decides what a create means for a name that already exists.
//!
//! Not here: which host is chosen (placement), and in which fields specs differ (`spec_change`).

use std::sync::Arc;

use isyone_types::{
    ids::HostName,
    plan::{ImagesAsked, Lifecycle},
};

use super::super::{
    ChangeError, CreateTenant, Edit, Outcome, done_step,
    spec_change::{self, SpecField},
    tenants::went_well,
};
use crate::{
    desired::{Tenant, TenantPlacement, VisitorAccess},
    event::EventKind,
    operation::{Converge, ConvergeStage, Operation, OperationKind, Procedure, WayBack},
    placement::{self, Decision, Request},
};

impl Edit<'_> {
    pub(in crate::change) fn create_tenant(
        &mut self,
        create: CreateTenant,
    ) -> Result<Outcome, ChangeError> {
        let kinds = [OperationKind::Create, OperationKind::Update];
        if let Some(operation) =
            self.repeated(&kinds, &create.name, create.request_id.as_deref())?
        {
            // If it was deleted since, a late repetition must not bring it back.
            let tenant = self
                .state
                .fleet
                .tenants
                .get(&create.name)
                .filter(|t| Some(t.uid) == operation.tenant_uid())
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

    /// The tenant is as asked, whatever became of an operation that wanted something else.
    fn as_it_is(&mut self, tenant: &Arc<Tenant>, key: Option<String>) -> Outcome {
        let operation = self.state.fleet.operations.get(&tenant.operation);
        let operation = operation.filter(|o| !o.is_over() || went_well(o)).cloned();
        let operation = operation.map(|operation| self.answer_with(operation, key));
        found(tenant.clone(), operation)
    }

    /// The name exists: the same spec succeeds, another one needs force.
    fn create_existing(
        &mut self,
        tenant: &Arc<Tenant>,
        create: CreateTenant,
    ) -> Result<Outcome, ChangeError> {
        match tenant.desired {
            Lifecycle::Purged => return Err(ChangeError::BeingPurged(tenant.name.clone())),
            Lifecycle::Quarantined => {
                return Err(ChangeError::Quarantined {
                    name: tenant.name.clone(),
                    until: tenant.quarantine_until.unwrap_or(0),
                });
            }
            Lifecycle::Running | Lifecycle::Suspended => {}
        }
        let mut create = create;
        if create.spec.domains.is_empty() {
            // Domains have commands of their own: a request without any keeps the existing ones.
            create.spec.domains = tenant.spec.domains.clone();
        }
        let changes = spec_change::between(&tenant.spec, &create.spec);
        if changes.is_empty() {
            let key = create.request_id.filter(|_| !create.dry_run);
            return Ok(self.as_it_is(tenant, key));
        }
        let same_host = |host: &HostName| *host == tenant.placement.host;
        let stays = create.spec.host.as_ref().is_none_or(same_host);
        let changed = |field: SpecField| changes.iter().any(|change| change.field == field);
        let fixed: Vec<SpecField> = SpecField::FIXED
            .into_iter()
            .filter(|field| changed(*field) && !(*field == SpecField::Host && stays))
            .collect();
        let name = tenant.name.clone();
        if !create.force {
            return Err(ChangeError::TenantExists {
                name,
                changes,
                fixed,
            });
        }
        if !fixed.is_empty() {
            let fields = fixed;
            return Err(ChangeError::Immutable { name, fields });
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
        let operation = self.change(updated, OperationKind::Update, create.request_id.into())?;
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
        let view = self.state.placement_inputs(self.settings);
        let decision = if create.dry_run {
            placement::explain(view, request, now)
        } else {
            placement::choose(view, request, now)
        };
        // A host without a free network or ports does not fit.
        let (Some(host), Some(slot)) = (decision.host.clone(), decision.slot) else {
            let decision = Box::new(decision);
            return match create.dry_run {
                true => Ok(Outcome::NoHost(decision)),
                false => Err(ChangeError::NoHostFits {
                    name: create.name,
                    decision,
                }),
            };
        };
        let reason = decision.reason.clone();
        let placement = slot.place(host, 1, &reason, now);
        let (dry_run, request_id) = (create.dry_run, create.request_id.clone());
        let tenant = self.sorted_there(self.fresh(create, placement))?;
        if dry_run {
            return Ok(Outcome::Tenant {
                tenant: Arc::new(tenant),
                operation: None,
                decision: Box::new(decision),
                existed: false,
            });
        }
        let procedure = Procedure::Converge(Converge {
            host: tenant.placement.host.clone(),
            generation: tenant.generation,
            stage: ConvergeStage::Host,
            back: WayBack::Remove,
        });
        let operation = self.begin(
            OperationKind::Create,
            &tenant,
            procedure,
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

    /// Refused where its host would make a database that sorts otherwise.
    fn sorted_there(&self, tenant: Tenant) -> Result<Tenant, ChangeError> {
        if tenant.spec.collation.is_some() {
            self.check_sorts(&tenant)?;
        }
        Ok(tenant)
    }

    /// A new tenant that should run, and that no host knows of yet.
    pub(super) fn fresh(&self, create: CreateTenant, placement: TenantPlacement) -> Tenant {
        Tenant {
            name: create.name,
            uid: create.uid,
            spec: create.spec,
            size: create.size,
            desired: Lifecycle::Running,
            generation: 1,
            placement,
            activated_at: None,
            odoo_restarts: 0,
            postgres_restarts: 0,
            settings_asked: 0,
            mail: None,
            odoo: Default::default(),
            images_asked: ImagesAsked::default(),
            secrets: create.secrets,
            created_at: self.stamp.now,
            operation: self.stamp.id,
            quarantine_until: None,
            quarantine_held: false,
            purge_now: false,
            primary: None,
            access: VisitorAccess::default(),
            asleep_since: None,
            last_active_at: None,
            started_at: None,
            copies: Vec::new(),
            halted: false,
            hold_ms: None,
            last_epoch: 0,
            from_backup: None,
            before: None,
            rests_since: None,
        }
    }
}

fn found(tenant: Arc<Tenant>, operation: Option<Arc<Operation>>) -> Outcome {
    let decision = Box::new(stayed(&tenant));
    Outcome::Tenant {
        tenant,
        operation,
        decision,
        existed: true,
    }
}

/// The decision for a tenant that stays where it is.
fn stayed(tenant: &Tenant) -> Decision {
    Decision {
        host: Some(tenant.placement.host.clone()),
        slot: None,
        reason: tenant.placement.reason.to_string(),
        hosts: Vec::new(),
        considered: 0,
        fitting: 0,
    }
}
