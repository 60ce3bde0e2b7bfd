//! The way back of operations, and their end.
//!
//! Not here: when an operation goes back by itself (procedures), and who may cancel one (mod).

use std::sync::Arc;

use isyone_types::{
    operation::{OperationState, Step},
    plan::{Before, Lifecycle},
    spec::MAX_DOMAINS,
};
use uuid::Uuid;

use super::{super::domain_refused, ChangeError, Edit, drive::set_generation};
use crate::{
    desired::{CopyRole, Tenant},
    event::EventKind,
    operation::{
        ConvergeStage, Ending, Live, MoveStage, Operation, OperationKind, Procedure, RestoreStage,
        TenantWishes, WayBack,
    },
};

impl Edit<'_> {
    /// The incoming copy is removed, or kept up as it was before, and the tenant is no longer halted.
    pub(super) fn abandon(&mut self, tenant: &Tenant, live: Option<&Live>) {
        let mut kept = tenant.clone();
        for copy in &mut kept.copies {
            if copy.role == CopyRole::Incoming {
                copy.role = match live.is_some_and(|live| live.switches) {
                    true => self.standing_again(tenant, live),
                    false => CopyRole::Discarded,
                };
            }
        }
        kept.halted = false;
        kept.hold_ms = None;
        kept.generation += 1;
        self.put_tenant(kept);
    }

    /// Nobody is held or passed on for an operation that is over.
    fn let_stragglers_go(&mut self, operation: &Operation) {
        let Some(tenant) = self.subject(operation) else {
            return;
        };
        let mut left = (*tenant).clone();
        if left.let_go() {
            self.put_tenant(left);
        }
    }

    /// Begins the way back; an error when there is none.
    pub(crate) fn go_back(
        &mut self,
        operation: &Operation,
        state: OperationState,
        why: String,
    ) -> Result<Arc<Operation>, ChangeError> {
        let impossible = |problem| ChangeError::NotCancellable {
            id: operation.id,
            problem,
        };
        let tenant = self
            .subject(operation)
            .ok_or_else(|| impossible("works on a tenant that is gone"))?;
        let mut next = operation.clone();
        match &mut next.procedure {
            Procedure::Converge(converge) => {
                let back = converge.back.clone();
                match back {
                    // There is nothing to return to, and so nothing was done: it goes on as it is.
                    WayBack::None
                        if operation.kind == OperationKind::Restore
                            && state == OperationState::Failed =>
                    {
                        let mut kept = (*tenant).clone();
                        kept.before = None;
                        kept.generation += 1;
                        self.put_tenant(kept);
                        return Ok(self.end(operation, state, why));
                    }
                    WayBack::None => {
                        return Err(impossible("cannot be taken back any more"));
                    }
                    WayBack::Stay => {
                        return Ok(self.end(operation, state, why));
                    }
                    WayBack::Remove => {
                        let mut removed = (*tenant).clone();
                        self.quarantine(&mut removed);
                        removed.generation += 1;
                        self.put_tenant(removed);
                    }
                    WayBack::Wishes(wishes) => self.wish_again(&tenant, *wishes)?,
                }
                converge.stage = ConvergeStage::Back;
            }
            Procedure::Move(relocation) if relocation.stage < MoveStage::Fence => {
                self.abandon(&tenant, relocation.live.as_ref());
                relocation.stage = MoveStage::Back;
            }
            Procedure::Restore(restoration) => {
                match restoration.in_place {
                    true => self.put_before_back(&tenant, operation.id),
                    false => self.remove_what_was_filled(&tenant),
                }
                restoration.stage = RestoreStage::Back;
            }
            Procedure::Move(_) => {
                return Err(impossible(
                    "is past its point of no return: the tenant lives on its new host",
                ));
            }
        }
        next.log.extend(self.closing_back(operation));
        if let Some(tenant) = self.subject(operation) {
            set_generation(&mut next.procedure, tenant.generation);
        }
        next.stage_since = self.stamp.now;
        next.ending = Some(Ending { state, why });
        self.state.routes_due.remove(&operation.id);
        Ok(self.put_operation(next))
    }

    /// What a restore has set aside is the tenant's again; where it has not come to that, nothing has changed.
    fn put_before_back(&mut self, tenant: &Tenant, restore: Uuid) {
        let mut back = tenant.clone();
        if let Some(before) = &mut back.before
            && before.wish == Before::Keep(restore)
        {
            before.wish = Before::Return(restore);
        }
        back.from_backup = None;
        back.halted = false;
        back.generation += 1;
        self.put_tenant(back);
    }

    /// A tenant that a restore has made goes again; into quarantine where somebody may have used it.
    pub(super) fn remove_what_was_filled(&mut self, tenant: &Tenant) {
        let mut removed = tenant.clone();
        self.quarantine(&mut removed);
        removed.halted = false;
        removed.generation += 1;
        self.put_tenant(removed);
    }

    /// The step of a stage that is given up. A host's steps stay in its reports: it goes on with the same operation.
    pub(super) fn closing_back(&self, operation: &Operation) -> Vec<Step> {
        if !operation.stage().is_route() && matches!(operation.procedure, Procedure::Converge(_)) {
            return Vec::new();
        }
        let given_up = |step: Step| Step {
            state: OperationState::Cancelled,
            ..step
        };
        let steps = self.closing(operation, "").into_iter();
        steps.map(given_up).collect()
    }

    /// The tenant becomes again what it was.
    pub(super) fn wish_again(
        &mut self,
        tenant: &Tenant,
        wishes: TenantWishes,
    ) -> Result<(), ChangeError> {
        let mut back = tenant.clone();
        let reserves = matches!(wishes.desired, Lifecycle::Running | Lifecycle::Suspended);
        if reserves && !tenant.reserves_compute() {
            self.check_room(tenant, wishes.size)?;
        } else if reserves {
            self.check_growth(tenant, wishes.size)?;
        }
        let TenantWishes {
            desired,
            spec,
            size,
            primary,
            asleep_since,
            started_at,
            quarantine_until,
            quarantine_held,
            images_asked,
        } = wishes;
        // Domains have commands of their own, which need no operation: what they did meanwhile stays, and those come back
        // that nobody has taken since.
        let mut domains = std::mem::take(&mut back.spec.domains);
        let (fleet, settings) = (&self.state.fleet, self.settings);
        for domain in &spec.domains {
            if !domains.contains(domain)
                && domains.len() < MAX_DOMAINS
                && domain_refused(fleet, settings, &tenant.name, domain).is_none()
            {
                domains.push(domain.clone());
            }
        }
        back.spec = spec;
        back.spec.domains = domains;
        back.primary = primary.filter(|domain| back.spec.domains.contains(domain));
        (back.desired, back.size) = (desired, size);
        (back.asleep_since, back.started_at) = (asleep_since, started_at);
        // A quarantine that has run out meanwhile begins anew: nothing that is cancelled leads to a removal.
        let anew = self.stamp.now.saturating_add(self.settings.quarantine_ms);
        back.quarantine_until = quarantine_until.map(|until| until.max(anew));
        back.quarantine_held = quarantine_held;
        back.images_asked = images_asked;
        if tenant.is_deleted() && !back.is_deleted() {
            back.keep_copies_until_well();
        }
        back.generation += 1;
        self.put_tenant(back);
        Ok(())
    }

    pub(super) fn back_is_done(&mut self, operation: &Operation) {
        let ending = operation.ending.clone().unwrap_or(Ending {
            state: OperationState::Cancelled,
            why: String::new(),
        });
        let ended = self.end(operation, ending.state, ending.why);
        let tenant = self.subject(&ended);
        let kind = match ended.state {
            OperationState::Failed => EventKind::OperationFailed,
            _ => EventKind::OperationCancelled,
        };
        let message = format!("{}: {}", ended.kind.word(), ended.error);
        self.event(kind, tenant.as_deref(), None, Some(ended.id), message);
    }

    /// Ends an operation where it stands, with what its host has reported so far.
    pub(crate) fn end(
        &mut self,
        operation: &Operation,
        state: OperationState,
        error: String,
    ) -> Arc<Operation> {
        let mut ended = operation.clone();
        ended.log.extend(self.closing(operation, ""));
        self.put_ended(ended, state, error)
    }

    pub(super) fn put_ended(
        &mut self,
        mut ended: Operation,
        state: OperationState,
        error: String,
    ) -> Arc<Operation> {
        ended.state = state;
        ended.error = error;
        ended.ended_at = Some(self.stamp.now);
        ended.ending = None;
        if let Procedure::Converge(converge) = &mut ended.procedure {
            // Nobody goes back from here: the record need not keep what the tenant was.
            converge.back = WayBack::None;
        }
        if matches!(ended.procedure, Procedure::Move(_)) {
            self.let_stragglers_go(&ended);
        }
        self.state.routes_due.remove(&ended.id);
        self.state.told_overdue.remove(&ended.id);
        self.put_operation(ended)
    }
}

/// Where cancelling leads from a change of `before` to `after`.
pub(super) fn way_back(kind: OperationKind, before: &Tenant, after: &Tenant) -> WayBack {
    if after.desired == Lifecycle::Purged {
        return WayBack::None;
    }
    match kind {
        OperationKind::Create => WayBack::Remove,
        // To what it was before a restore: what came since is being removed.
        OperationKind::Restore => WayBack::None,
        OperationKind::Restart => WayBack::Stay,
        OperationKind::Update
        | OperationKind::Suspend
        | OperationKind::Resume
        | OperationKind::Resize
        | OperationKind::Delete
        | OperationKind::Undelete
        | OperationKind::Purge
        | OperationKind::Move
        | OperationKind::Upgrade => WayBack::Wishes(Box::new(TenantWishes {
            desired: before.desired,
            spec: before.spec.clone(),
            size: before.size,
            primary: before.primary.clone(),
            asleep_since: before.asleep_since,
            started_at: before.started_at,
            quarantine_until: before.quarantine_until,
            quarantine_held: before.quarantine_held,
            images_asked: before.images_asked,
        })),
    }
}
