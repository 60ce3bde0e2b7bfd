//! Takes operations as far as they go at present: applies what `procedures` decides, after each report, edge fact and tick.
//!
//! Not here: what comes next (procedures), and going back (back).

use std::{ops::Bound, sync::Arc};

use isyone_types::{
    operation::{OperationState, Step},
    plan::{Before, UnixMs},
};
use uuid::Uuid;

use super::{ChangeError, Edit, Outcome, done_step};
#[cfg(feature = "planted")]
use crate::planted;
use crate::{
    desired::{CopyRole, Stragglers, Tenant, TenantBefore, TenantCopy, TenantPlacement},
    event::EventKind,
    operation::{Operation, Procedure, Relocation, Stage},
    procedures::{self, Advance, Effect},
    views,
};

/// Transitions that one call makes at most: more than any procedure has stages.
const MAX_TRANSITIONS: usize = Stage::ALL.len();
/// Running operations whose deadline one tick looks at: some tenths of a millisecond.
const LOOKED_AT: usize = 250;
/// Operations that end in one tick because edges say nothing. All of them are written at once, while everybody else waits.
const IMPATIENT: usize = 1_000;
/// Operations that one word of an edge takes on.
const ROUTES_LOOKED_AT: usize = 10_000;

impl Edit<'_> {
    /// Takes an operation as far as it goes at present.
    pub(crate) fn drive(&mut self, id: Uuid) {
        for _ in 0..MAX_TRANSITIONS {
            let fleet = &self.state.fleet;
            // Those under way are few, so for nearly every report of a tenant this is all.
            let running = fleet
                .running
                .get(&id)
                .and_then(|id| fleet.operations.get(id));
            let Some(operation) = running.cloned() else {
                self.state.routes_due.remove(&id);
                return;
            };
            let now = self.stamp.now;
            match procedures::advance(self.state, self.settings, &operation, now) {
                Advance::Wait(_) => return self.remember_route(&operation),
                Advance::Next {
                    procedure,
                    effects,
                    detail,
                } => self.transition(&operation, procedure, &effects, &detail),
                Advance::GoBack(why) => {
                    if self
                        .go_back(&operation, OperationState::Failed, why)
                        .is_err()
                    {
                        return;
                    }
                }
                Advance::Done { detail } => self.finish_operation(&operation, &detail),
                Advance::BackDone => self.back_is_done(&operation),
            }
        }
    }

    /// Edges must run the snapshot that this change is part of: the next one to be published. After a start, that is the
    /// first one.
    pub(super) fn remember_route(&mut self, operation: &Operation) {
        if operation.stage().is_route() {
            let due = self.state.version + 1;
            self.state.routes_due.wait(operation.id, due);
        }
    }

    pub(in crate::change) fn transition(
        &mut self,
        operation: &Operation,
        procedure: Procedure,
        effects: &[Effect],
        detail: &str,
    ) {
        let mut next = operation.clone();
        let is_over = procedure.stage() != operation.stage();
        if is_over {
            next.log.extend(self.closing(operation, detail));
            next.stage_since = self.stamp.now;
        }
        for effect in effects {
            self.apply_effect(operation, effect);
        }
        next.procedure = procedure;
        if let Some(tenant) = self.subject(operation) {
            set_generation(&mut next.procedure, tenant.generation);
        }
        #[cfg(feature = "planted")]
        if planted::has(planted::Bug::LostStage) {
            self.state.fleet.put_operation(Arc::new(next));
            return;
        }
        let next = self.put_operation(next);
        self.remember_route(&next);
    }

    /// The steps that a stage leaves behind when it is over.
    pub(super) fn closing(&self, operation: &Operation, detail: &str) -> Vec<Step> {
        let own = |name: &str| Step {
            started_at: Some(operation.stage_since),
            ..done_step(name, detail.to_owned(), self.stamp.now)
        };
        match (&operation.procedure, operation.stage()) {
            (Procedure::Converge(converge), stage) if !stage.is_route() => {
                let mut steps = procedures::host_steps(self.state, operation, &converge.host);
                if let Some(ending) = &operation.ending {
                    steps.push(Step {
                        detail: ending.why.clone(),
                        ..own(stage.word())
                    });
                }
                steps
            }
            (_, stage) => vec![own(stage.word())],
        }
    }

    pub(crate) fn subject(&self, operation: &Operation) -> Option<Arc<Tenant>> {
        let tenant = self.state.fleet.tenants.get(operation.tenant()?)?;
        (Some(tenant.uid) == operation.tenant_uid()).then(|| tenant.clone())
    }

    pub(super) fn apply_effect(&mut self, operation: &Operation, effect: &Effect) {
        let Some(tenant) = self.subject(operation) else {
            return;
        };
        match (effect, &operation.procedure) {
            (Effect::Halt | Effect::Hold { .. }, _) => {
                let mut halted = (*tenant).clone();
                halted.halted = true;
                halted.hold_ms = match effect {
                    Effect::Hold { most_ms } => Some(*most_ms),
                    _ => None,
                };
                halted.generation += 1;
                self.put_tenant(halted);
            }
            (Effect::PassOn, _) => {
                // Neither copy has anything to become by it, so no generation is waited for.
                let mut passing = (*tenant).clone();
                passing.pass_on();
                self.put_tenant(passing);
            }
            (Effect::TakeOver { left_behind }, Procedure::Move(relocation)) => {
                self.take_over(&tenant, relocation, left_behind);
            }
            (Effect::TouchHosts, Procedure::Move(relocation)) => {
                self.touch_host(&relocation.from);
                self.touch_host(&relocation.to);
            }
            (Effect::TouchHosts, Procedure::Restore(restoration)) => {
                self.touch_host(&restoration.host);
            }
            (Effect::SetAside, _) => {
                let mut aside = (*tenant).clone();
                aside.from_backup = Some(operation.id);
                aside.before = Some(TenantBefore {
                    host: aside.placement.host.clone(),
                    wish: Before::Keep(operation.id),
                    until: None,
                });
                aside.generation += 1;
                self.put_tenant(aside);
            }
            (Effect::KeepAside, _) => {
                let mut kept = (*tenant).clone();
                let until = self.stamp.now.saturating_add(self.settings.quarantine_ms);
                if let Some(before) = &mut kept.before {
                    before.until = Some(until);
                }
                kept.from_backup = None;
                // What its host must do is the same.
                let kept = self.store_tenant(kept);
                self.back_up_soon(&kept);
            }
            (Effect::Release, _) => {
                let mut released = (*tenant).clone();
                released.halted = false;
                released.generation += 1;
                self.put_tenant(released);
            }
            (Effect::TakeOver { .. }, Procedure::Converge(_) | Procedure::Restore(_))
            | (Effect::TouchHosts, Procedure::Converge(_)) => {}
        }
    }

    /// The incoming place becomes the one where the tenant lives, halted still. The old copy gets the new epoch, too: its
    /// host then refuses everything that an older plan says.
    pub(in crate::change) fn take_over(
        &mut self,
        tenant: &Tenant,
        relocation: &Relocation,
        left_behind: &str,
    ) {
        let mut moved = tenant.clone();
        let Some(at) = moved
            .copies
            .iter()
            .position(|copy| copy.place.host == relocation.to && copy.role == CopyRole::Incoming)
        else {
            return;
        };
        let incoming = moved.copies.remove(at).place;
        let mut left = std::mem::replace(&mut moved.placement, incoming);
        raise_epoch(&mut left, moved.placement.epoch);
        moved.copies.push(TenantCopy {
            place: left,
            role: CopyRole::Fenced { until: None },
            stragglers: match moved.hold_ms.take() {
                Some(most_ms) => Stragglers::Held { most_ms },
                None => Stragglers::Refused,
            },
        });
        // Whoever pinned it has moved it since: the newer wish counts.
        if let Some(pinned) = &mut moved.spec.host {
            pinned.clone_from(&relocation.to);
        }
        moved.generation += 1;
        let moved = self.put_tenant(moved);
        if views::stopped_since(&moved).is_none() {
            self.back_up_soon(&moved);
        }
        let left_behind = match left_behind {
            "" => String::new(),
            what => format!(", and has what did not come along: {what}"),
        };
        let message = format!(
            "lives on {} from now on; its copy on {} is kept, fenced{left_behind}",
            relocation.to, relocation.from
        );
        let operation = moved.operation;
        self.event(
            EventKind::TenantMoved,
            Some(&moved),
            None,
            Some(operation),
            message,
        );
    }

    /// Ends an operation well.
    pub(super) fn finish_operation(&mut self, operation: &Operation, detail: &str) {
        let mut done = operation.clone();
        done.log.extend(self.closing(operation, detail));
        let done = self.put_ended(done, OperationState::Succeeded, String::new());
        let took = (self.stamp.now - done.created_at).max(0) as f64 / 1000.0;
        let tenant = self.subject(&done);
        self.event(
            EventKind::OperationSucceeded,
            tenant.as_deref(),
            None,
            Some(done.id),
            format!("{} took {took:.1} s", done.kind.word()),
        );
    }

    /// The edges of these scopes run these snapshots.
    pub(in crate::change) fn edges_run(
        &mut self,
        scopes: Vec<(usize, u64)>,
    ) -> Result<Outcome, ChangeError> {
        for (scope, version) in scopes {
            let known = self.state.observed.edges_run.entry(scope).or_default();
            *known = (*known).max(version);
        }
        let runs = self.state.observed.edges_run.values().max().copied();
        let waiting = self.state.routes_due.oldest_first();
        let may_end = waiting.take_while(|(due, _)| runs.is_some_and(|runs| *due <= runs));
        let may_end: Vec<Uuid> = may_end.take(ROUTES_LOOKED_AT).map(|(_, id)| id).collect();
        for id in may_end {
            self.drive(id);
        }
        Ok(Outcome::Done)
    }

    /// Ends operations whose edges have said nothing for long enough.
    fn end_impatient(&mut self) {
        let state = &*self.state;
        let waits_no_longer = |(_, id): &(u64, Uuid)| {
            let operation = state.fleet.operations.get(id);
            operation.is_none_or(|o| match procedures::passes_on(o) {
                true => !procedures::lingers(o, self.stamp.now),
                false => procedures::is_out_of_patience(state, o, self.stamp.now),
            })
        };
        // Some wait for longer than others, and keep nobody.
        let is_patient = |(_, id): &(u64, Uuid)| {
            let operation = state.fleet.operations.get(id);
            operation.is_some_and(|o| procedures::passes_on(o))
        };
        let over = (state.routes_due.oldest_first())
            .take_while(|due| is_patient(due) || waits_no_longer(due))
            .filter(|due| waits_no_longer(due));
        let over: Vec<Uuid> = over.take(IMPATIENT).map(|(_, id)| id).collect();
        for id in over {
            self.drive(id);
        }
    }

    /// Looks at operations that wait for edges, and at a share of all others: at their deadlines, and at what they wait
    /// for (after a start, nothing else may ever wake one whose host has nothing to report).
    pub(in crate::change) fn look_at_operations(&mut self) {
        self.end_impatient();
        let from = self
            .state
            .operation_hand
            .take()
            .map_or(Bound::Unbounded, Bound::Excluded);
        let some: Vec<Uuid> = self
            .state
            .fleet
            .running
            .range((from, Bound::Unbounded))
            .take(LOOKED_AT)
            .copied()
            .collect();
        self.state.operation_hand = some.last().copied().filter(|_| some.len() == LOOKED_AT);
        for id in some {
            self.drive(id);
            self.tell_overdue(id);
        }
    }

    pub(super) fn tell_overdue(&mut self, id: Uuid) {
        let now: UnixMs = self.stamp.now;
        let late = |o: &&Arc<Operation>| !o.is_over() && now >= o.deadline;
        let Some(operation) = self.state.fleet.operations.get(&id).filter(late).cloned() else {
            return;
        };
        let told = self.state.told_overdue.insert(id).is_some();
        // A start is no news: what was late before has been told.
        if told || operation.deadline < self.state.started_at {
            return;
        }
        let waiting = procedures::waiting(self.state, self.settings, &operation, now);
        let message = format!(
            "{} is not over after {} min; it waits for {}",
            operation.kind.word(),
            (now - operation.created_at) / 60_000,
            waiting.map(|w| w.to_string()).unwrap_or_default()
        );
        let tenant = self.subject(&operation);
        self.event(
            EventKind::OperationOverdue,
            tenant.as_deref(),
            None,
            Some(id),
            message,
        );
    }
}

/// The host that the tenant leaves must know, before another may run it, that every older plan is stale: whatever becomes
/// of the coordinator, it never starts the tenant under one again.
fn raise_epoch(left: &mut TenantPlacement, to: u64) {
    #[cfg(feature = "planted")]
    if planted::has(planted::Bug::EpochIgnored) {
        return;
    }
    left.epoch = to;
}

pub(super) fn set_generation(procedure: &mut Procedure, to: u64) {
    match procedure {
        Procedure::Converge(converge) => converge.generation = to,
        Procedure::Move(relocation) => relocation.generation = to,
        Procedure::Restore(restoration) => restoration.generation = to,
    }
}
