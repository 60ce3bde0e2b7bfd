//! How operations begin and give way, and cancelling them. `drive` takes them on, `back` takes them back and ends them.
//!
//! A tenant has at most one operation. A second one is refused, unless the first gives way: what the platform began
//! itself, what only waits for edges, what is being cancelled anyway, or what the caller asked to cancel.
//! Not here: what comes next (procedures), and the operators' commands (tenants/).

mod back;
mod drive;

use std::sync::Arc;

use isyone_types::{
    ids::TenantName,
    operation::{OperationState, Step},
};
use uuid::Uuid;

use super::{ChangeError, Edit, Outcome, done_step};
use crate::{
    desired::Tenant,
    event::EventKind,
    operation::{
        Answered, Converge, ConvergeStage, MAX_ANSWERED, MoveStage, Operation, OperationKind,
        Procedure, Stage, Subject, WayBack, deadline_ms,
    },
    written::{RecordKind, Write},
};

/// How an operation is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ask {
    /// Idempotency key.
    pub(crate) request_id: Option<String>,
    /// End the tenant's running operation for this one.
    pub(crate) cancel_running: bool,
}

impl From<Option<String>> for Ask {
    fn from(request_id: Option<String>) -> Self {
        Self {
            request_id,
            cancel_running: false,
        }
    }
}

impl Edit<'_> {
    /// The operation under way on a tenant.
    pub(crate) fn running(&self, tenant: &Tenant) -> Option<Arc<Operation>> {
        let operation = self.state.fleet.operations.get(&tenant.operation)?;
        (!operation.is_over()).then(|| operation.clone())
    }

    /// Refuses while an operation is under way that does not give way.
    pub(crate) fn check_idle(
        &self,
        tenant: &Tenant,
        cancel_running: bool,
    ) -> Result<(), ChangeError> {
        let Some(running) = self.running(tenant) else {
            return Ok(());
        };
        let gives_way = running.is_the_platforms() && running.kind != OperationKind::Purge;
        let stage = running.stage();
        // Whatever came in between, the old host must have let go before the new one may start.
        // And what is half filled is of use to nobody: it is cancelled by its id, and gone.
        let must_end = matches!(stage, Stage::Move(MoveStage::Fence) | Stage::Restore(_));
        if gives_way || stage.is_route() || stage.is_back() || cancel_running && !must_end {
            return Ok(());
        }
        Err(ChangeError::Busy {
            name: tenant.name.clone(),
            operation: running.id,
            kind: running.kind,
            stage: stage.word(),
            can_go_back: running.procedure.can_go_back(),
            for_s: (self.stamp.now - running.stage_since).max(0) / 1000,
        })
    }

    /// Ends the operation under way on a tenant for the sake of another; see [`Self::check_idle`].
    pub(crate) fn make_way(&mut self, tenant: &Tenant, kind: OperationKind) {
        let Some(running) = self.running(tenant) else {
            return;
        };
        let by = format!(
            "operation {} ({}, asked for by {})",
            self.stamp.id,
            kind.word(),
            self.stamp.actor
        );
        if running.stage().is_route() {
            self.finish_operation(
                &running,
                &format!("published; {by} began before all edges had said that they run it"),
            );
            return;
        }
        match &running.procedure {
            Procedure::Move(relocation) if relocation.stage == MoveStage::Start => {
                let to = &relocation.to;
                let detail =
                    format!("the tenant lives on {to}; {by} began before it had started there");
                return self.finish_operation(&running, &detail);
            }
            Procedure::Move(relocation) if relocation.stage < MoveStage::Fence => {
                self.abandon(tenant, relocation.live.as_ref());
            }
            Procedure::Move(_) | Procedure::Converge(_) | Procedure::Restore(_) => {}
        }
        self.end(
            &running,
            OperationState::Cancelled,
            format!("it gave way to {by}"),
        );
    }

    /// What a cancelled operation has asked for does not come: spec, images and size are again what they were, if the host still
    /// has room for that.
    fn take_back(&self, tenant: &mut Tenant) -> bool {
        let Some(running) = self.running(tenant).filter(|o| !o.stage().is_route()) else {
            return false;
        };
        let Procedure::Converge(Converge {
            back: WayBack::Wishes(wishes),
            ..
        }) = &running.procedure
        else {
            return false;
        };
        if self.check_growth(tenant, wishes.size).is_err() {
            return false;
        }
        tenant.size = wishes.size;
        tenant.images_asked = wishes.images_asked;
        let domains = std::mem::take(&mut tenant.spec.domains);
        tenant.spec = wishes.spec.clone();
        tenant.spec.domains = domains;
        let primary = wishes.primary.clone();
        tenant.primary = primary.filter(|domain| tenant.spec.domains.contains(domain));
        true
    }

    /// Stores a changed tenant under a new generation, with the operation that carries the change out.
    pub(crate) fn change(
        &mut self,
        mut tenant: Tenant,
        kind: OperationKind,
        ask: Ask,
    ) -> Result<Arc<Operation>, ChangeError> {
        let before = self.tenant(&tenant.name)?;
        self.check_idle(&before, ask.cancel_running)?;
        let mut base = (*before).clone();
        if ask.cancel_running && self.take_back(&mut base) {
            // What cancels another operation changes neither of these itself.
            tenant.spec.clone_from(&base.spec);
            tenant.primary.clone_from(&base.primary);
            tenant.size = base.size;
            tenant.images_asked = base.images_asked;
        }
        self.make_way(&before, kind);
        // Giving way may have changed these, and only operations do.
        let current = self.tenant(&tenant.name)?;
        tenant.copies.clone_from(&current.copies);
        if before.is_deleted() && !tenant.is_deleted() {
            tenant.keep_copies_until_well();
        }
        self.end_standby_with(&mut tenant);
        (tenant.halted, tenant.hold_ms) = (current.halted, current.hold_ms);
        tenant.generation = current.generation + 1;
        tenant.operation = self.stamp.id;
        let procedure = Procedure::Converge(Converge {
            host: tenant.placement.host.clone(),
            generation: tenant.generation,
            stage: ConvergeStage::Host,
            back: back::way_back(kind, &base, &tenant),
        });
        let operation = self.begin(kind, &tenant, procedure, ask.request_id, Vec::new());
        self.put_tenant(tenant);
        Ok(operation)
    }

    /// Stores a new operation on a tenant that has none under way.
    pub(crate) fn begin(
        &mut self,
        kind: OperationKind,
        tenant: &Tenant,
        procedure: Procedure,
        request_id: Option<String>,
        log: Vec<Step>,
    ) -> Arc<Operation> {
        self.forget_old_operations();
        self.put_operation(Operation {
            id: self.stamp.id,
            kind,
            subject: Subject::Tenant {
                name: tenant.name.clone(),
                uid: tenant.uid,
            },
            parent: None,
            procedure,
            stage_since: self.stamp.now,
            state: OperationState::Running,
            ending: None,
            log,
            created_at: self.stamp.now,
            deadline: self.stamp.now.saturating_add(deadline_ms(kind)),
            ended_at: None,
            error: String::new(),
            actor: self.stamp.actor.clone(),
            // Without a key nobody asks again.
            request_digest: request_id.as_ref().and(self.asked.clone()),
            request_id,
            answered: Vec::new(),
        })
    }

    /// Answers a request that has nothing to begin with the operation that made it so. Its key is remembered with that: if the
    /// answer is lost, the request comes again, and somebody may have decided otherwise since.
    pub(crate) fn answer_with(
        &mut self,
        operation: Arc<Operation>,
        request_id: Option<String>,
    ) -> Arc<Operation> {
        let (Some(request_id), Some(digest)) = (request_id, self.asked.clone()) else {
            return operation;
        };
        let mut remembers = (*operation).clone();
        if remembers.answered.len() >= MAX_ANSWERED {
            remembers.answered.remove(0);
        }
        remembers.answered.push(Answered { request_id, digest });
        self.put_operation(remembers)
    }

    fn forget_old_operations(&mut self) {
        while self.state.fleet.ended.len() >= crate::desired::MAX_OPERATIONS {
            // Unfinished ones are kept; there is at most one for each tenant.
            // By their end: whoever waits for one that took long must still be able to learn how it ended.
            let Some((_, id)) = self.state.fleet.ended.get_min().copied() else {
                return;
            };
            self.state.fleet.remove_operation(&id);
            self.effects
                .writes
                .push(Write::Delete(RecordKind::Operation, id.to_string()));
        }
    }

    /// The operation that this idempotency key started, if any; an error when it belongs to another request.
    pub(crate) fn repeated(
        &self,
        kinds: &[OperationKind],
        tenant: &TenantName,
        request_id: Option<&str>,
    ) -> Result<Option<Arc<Operation>>, ChangeError> {
        let Some((key, id)) = request_id.and_then(|key| {
            let fleet = &self.state.fleet;
            fleet.by_request.get(key).map(|id| (key, id))
        }) else {
            return Ok(None);
        };
        let Some(operation) = self.state.fleet.operations.get(id) else {
            return Ok(None);
        };
        let mut answered = operation.answered.iter();
        let same = match answered.find(|answered| answered.request_id == key) {
            Some(answered) => Some(&answered.digest) == self.asked.as_ref(),
            None => {
                // Records of versions before have no digest: kind and tenant must do.
                let digest = &operation.request_digest;
                (digest.is_none() || *digest == self.asked) && kinds.contains(&operation.kind)
            }
        };
        if same && operation.tenant() == Some(tenant) {
            Ok(Some(operation.clone()))
        } else {
            Err(ChangeError::RequestIdReused(*id))
        }
    }

    /// Cancels an operation: it goes back, and ends when the tenant is as it was.
    pub(in crate::change) fn cancel_operation(&mut self, id: Uuid) -> Result<Outcome, ChangeError> {
        let operation = self
            .state
            .fleet
            .operations
            .get(&id)
            .cloned()
            .ok_or(ChangeError::OperationNotFound(id))?;
        if operation.is_over() {
            return Err(ChangeError::NotCancellable {
                id,
                problem: "has ended already",
            });
        }
        if operation.stage().is_back() {
            return Ok(Outcome::Operation(operation));
        }
        let why = format!("cancelled by {}", self.stamp.actor);
        let cancelled = self.go_back(&operation, OperationState::Cancelled, why)?;
        if operation.kind == OperationKind::Create {
            let tenant = self.subject(&operation);
            let message = "what was made of it is being removed".to_owned();
            self.event(
                EventKind::TenantCreateCancelled,
                tenant.as_deref(),
                None,
                Some(id),
                message,
            );
        }
        Ok(Outcome::Operation(cancelled))
    }
}
