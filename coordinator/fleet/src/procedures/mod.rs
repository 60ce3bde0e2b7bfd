//! What comes next: a pure function from the state and an operation to a decision. Wait, and for what; go on to the next
//! stage, with what that changes in the Fleet; go back; or be done.
//!
//! Whoever calls it, however often and after whatever crash, gets the same answer from the same state. Each procedure has
//! a file: `converge`, `relocate` (with `live`, where the tenant runs meanwhile), `restore`.
//! Not here: the record (operation), calling this and applying what it says (change/operations).

mod converge;
mod live;
mod relocate;
mod restore;
mod restored;
mod waiting;

use isyone_types::{
    ids::HostName,
    operation::{OperationState, Step},
    plan::UnixMs,
    report::Stuck,
};

pub use self::{
    relocate::{MOVES_AT_ONCE, peer_address},
    waiting::Waiting,
};
#[cfg(feature = "planted")]
use crate::planted;
use crate::{
    desired::Tenant,
    observed::{CopyObserved, TenantObserved},
    operation::{Operation, Procedure, Relocation},
    settings::Settings,
    state::State,
    views,
};

/// How long an operation waits for edges to say that they run its route, milliseconds. A slower one gets there without
/// anybody waiting, and the step says that it was not confirmed.
pub const ROUTE_PATIENCE_MS: i64 = 5_000;
/// The same while the old route serves, too: an edge that is slower than that is not to find it closed.
pub const PASSING_PATIENCE_MS: i64 = 30_000;
/// How long whoever was held may take to come to the new host, milliseconds: the old one sends them there some at a time, by connections
/// that the new one lets in only for as long as the move lasts. At least so long, and as long as they were held, for the more have come
/// meanwhile; no longer than that.
pub const LINGER_MS: i64 = 10_000;
const MOST_LINGER_MS: i64 = 60_000;
/// How long an upgrade waits for a tenant of which all is done and which does not answer, milliseconds: longer than its host awaits it (180 s)
/// before it says that it failed.
const UNHEALTHY_PATIENCE_MS: i64 = 240_000;

/// What a transition changes in the Fleet, beside the operation's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Stop the tenant where it lives, although it should run.
    Halt,
    /// Give the hosts of a move or a restore new plans: a job and a grant appear in them, or disappear.
    TouchHosts,
    /// The point of no return: the tenant lives in its incoming place from now on, and the old copy is fenced.
    TakeOver {
        /// What did not come along, in words; empty when everything did. The old copy has it for as long as it is kept.
        left_behind: String,
    },
    /// Stop it likewise, and hold its requests for so long at most.
    Hold { most_ms: u32 },
    /// What a halted tenant has is set aside on its host, for a restore that takes its place.
    SetAside,
    /// It is well with what was restored: what was set aside is kept for its time, and a new backup is made.
    KeepAside,
    /// Let a tenant that was halted run again.
    Release,
    /// Requests that are held at the copy that the tenant has left go on to its new place, and edges go there.
    PassOn,
}

/// What comes next for an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advance {
    Wait(Waiting),
    /// The next stage begins; `detail` says how the last one went, for people. Or the same one goes on under other terms.
    Next {
        procedure: Procedure,
        effects: Vec<Effect>,
        detail: String,
    },
    /// It cannot go on: back to what was before, for this reason.
    GoBack(String),
    /// It is over; `detail` says how the last stage went.
    Done {
        detail: String,
    },
    /// Its way back is over.
    BackDone,
}

/// What comes next for an operation that is under way.
pub fn advance(state: &State, settings: &Settings, operation: &Operation, now: UnixMs) -> Advance {
    let tenant = operation
        .tenant()
        .and_then(|name| state.fleet.tenants.get(name))
        .filter(|tenant| Some(tenant.uid) == operation.tenant_uid());
    let Some(tenant) = tenant else {
        // Nothing is left to work on: an order to purge has overtaken it.
        return Advance::Done {
            detail: String::new(),
        };
    };
    let scene = Scene {
        state,
        settings,
        operation,
        tenant,
        now,
    };
    match &operation.procedure {
        Procedure::Converge(converge) => converge::advance(&scene, converge),
        Procedure::Move(relocation) => relocate::advance(&scene, relocation),
        Procedure::Restore(restoration) => restore::advance(&scene, restoration),
    }
}

/// What an operation under way waits for.
pub fn waiting(
    state: &State,
    settings: &Settings,
    operation: &Operation,
    now: UnixMs,
) -> Option<Waiting> {
    match advance(state, settings, operation, now) {
        Advance::Wait(waiting) if !operation.is_over() => Some(waiting),
        _ => None,
    }
}

/// An operation's state and error as people see them: a running one counts as retrying while a host reports a failure or
/// refuses its plan.
pub fn progress(operation: &Operation, waiting: Option<&Waiting>) -> (OperationState, String) {
    if operation.is_over() {
        return (operation.state, operation.error.clone());
    }
    let going_back = operation.ending.as_ref().map(|ending| &ending.why);
    match waiting.and_then(Waiting::trouble) {
        Some(trouble) => {
            // Why it is taken back, first: people look for what they did.
            let why = going_back.map(|why| format!("{why}; taking it back: {trouble}"));
            let why = why.unwrap_or_else(|| trouble.to_owned());
            (OperationState::Retrying, why)
        }
        None => (operation.state, going_back.cloned().unwrap_or_default()),
    }
}

/// An operation's steps: those that are over, then those of the stage under way.
pub fn steps(state: &State, operation: &Operation, waiting: Option<&Waiting>) -> Vec<Step> {
    let mut steps = operation.log.clone();
    if operation.is_over() {
        return steps;
    }
    let stage = operation.stage();
    let hosts = match &operation.procedure {
        Procedure::Converge(converge) if !stage.is_route() => {
            steps.extend(host_steps(state, operation, &converge.host));
            true
        }
        Procedure::Converge(_) | Procedure::Move(_) | Procedure::Restore(_) => false,
    };
    // What a host does, it tells in steps of its own.
    if !hosts || stage.is_back() {
        steps.push(Step {
            name: stage.word().to_owned(),
            state: OperationState::Running,
            started_at: Some(operation.stage_since),
            ended_at: None,
            detail: waiting.map(ToString::to_string).unwrap_or_default(),
            progress_percent: waiting.map_or(0, Waiting::percent),
        });
    }
    steps
}

/// The steps that a host has reported for an operation.
pub fn host_steps(state: &State, operation: &Operation, host: &HostName) -> Vec<Step> {
    let seen = operation
        .tenant()
        .and_then(|name| state.observed.copy(name, host));
    seen.map(|seen| &seen.report)
        .filter(|report| report.operation == Some(operation.id))
        .map(|report| report.steps.to_vec())
        .unwrap_or_default()
}

/// Whether an operation has waited for edges long enough to end without their word.
pub fn is_out_of_patience(state: &State, operation: &Operation, now: UnixMs) -> bool {
    let since = operation.stage_since.max(state.started_at);
    now.saturating_sub(since) >= patience_ms(operation)
}

fn patience_ms(operation: &Operation) -> i64 {
    match passes_on(operation) {
        true => PASSING_PATIENCE_MS,
        false => ROUTE_PATIENCE_MS,
    }
}

/// Whether somebody who was held may be on the way to the new host.
pub fn lingers(operation: &Operation, now: UnixMs) -> bool {
    let Procedure::Move(Relocation {
        live: Some(live), ..
    }) = &operation.procedure
    else {
        return false;
    };
    let since = operation.stage_since;
    now.saturating_sub(since) < linger_ms(live.held_at.map_or(0, |at| since.saturating_sub(at)))
}

/// How long it is waited for those who were held for so long.
fn linger_ms(held_ms: i64) -> i64 {
    held_ms.clamp(LINGER_MS, MOST_LINGER_MS)
}

/// Whether visitors who come by the old route are served all the same, while it waits for edges.
pub fn passes_on(operation: &Operation) -> bool {
    matches!(&operation.procedure, Procedure::Move(to) if to.live.is_some())
}

/// What a procedure decides on.
struct Scene<'a> {
    state: &'a State,
    settings: &'a Settings,
    operation: &'a Operation,
    tenant: &'a Tenant,
    now: UnixMs,
}

impl<'a> Scene<'a> {
    /// The report on the tenant's copy on a host, if the host has converged to this generation of it or, where the tenant
    /// has changed since in a way that needs no operation, to the present one.
    fn converged(&self, host: &HostName, generation: u64) -> Option<&'a TenantObserved> {
        use isyone_types::report::TenantProgress::Converged;
        match views::copy(self.state, self.tenant, host) {
            CopyObserved::Present(seen)
                if seen.report.generation == self.tenant.generation
                    && self.tenant.generation >= generation
                    && seen.report.operation == Some(self.tenant.operation)
                    && seen.report.progress == Converged =>
            {
                Some(seen)
            }
            _ => None,
        }
    }

    /// What keeps a host's copy from ever being what this generation of the tenant asks for, unless a person acts.
    fn blocked(&self, host: &HostName) -> Option<&'a str> {
        match views::copy(self.state, self.tenant, host) {
            CopyObserved::Present(seen)
                if seen.report.stuck != Stuck::No
                    && seen.report.generation == self.tenant.generation
                    // Whoever is kept from beginning names none.
                    && seen.report.operation.is_none_or(|id| id == self.tenant.operation) =>
            {
                Some(&seen.report.message)
            }
            _ => None,
        }
    }

    /// Why what was asked for when this tenant was created cannot be had on a host; `None` too once the tenant has run.
    fn unfit(&self, host: &HostName) -> Option<&'a str> {
        let CopyObserved::Present(seen) = views::copy(self.state, self.tenant, host) else {
            return None;
        };
        let is_about_this = seen.report.generation == self.tenant.generation
            && seen.report.operation == Some(self.tenant.operation);
        let never_ran = self.tenant.activated_at.is_none();
        (seen.report.stuck == Stuck::Unfit && is_about_this && never_ran)
            .then_some(&*seen.report.message)
    }

    /// Why this generation of the tenant is given up: a host's last attempt at it failed, or all is done and it does not answer. Only
    /// the newest word of a host is known, so a failure may have been missed.
    fn failing(&self, host: &HostName) -> Option<&str> {
        use isyone_types::report::TenantProgress::{Failing, Unhealthy};
        let since = self.operation.stage_since.max(self.state.started_at);
        let waited = self.now.saturating_sub(since);
        match views::copy(self.state, self.tenant, host) {
            CopyObserved::Present(seen)
                if (seen.report.progress == Failing
                    || seen.report.progress == Unhealthy && waited >= UNHEALTHY_PATIENCE_MS)
                    && seen.report.generation == self.tenant.generation
                    // As with what is blocked.
                    && seen.report.operation.is_none_or(|id| id == self.tenant.operation) =>
            {
                Some(&seen.report.message)
            }
            _ => None,
        }
    }

    fn wait_for(&self, host: &HostName) -> Advance {
        Advance::Wait(waiting::for_host(self, host))
    }

    /// Waits until the edges that serve the tenant run the snapshot in which this stage began.
    fn route(&self) -> Advance {
        #[cfg(feature = "planted")]
        if planted::has(planted::Bug::RouteBeforeEdge) {
            return Advance::Done {
                detail: "the edges run it".to_owned(),
            };
        }
        if lingers(self.operation, self.now) {
            return Advance::Wait(Waiting::Callers);
        }
        let own = self.settings.shards.of(self.tenant.name.as_str());
        let own = own.map_or(0, |shard| shard + 1);
        let run = |scope: usize, due: u64| {
            let version = self.state.observed.edges_run.get(&scope);
            version.is_some_and(|version| *version >= due)
        };
        let due = self.state.routes_due.get(&self.operation.id);
        // Edges that take everything serve the tenant, too.
        if due.is_some_and(|due| run(own, due) && run(0, due)) {
            return Advance::Done {
                detail: "the edges run it".to_owned(),
            };
        }
        if is_out_of_patience(self.state, self.operation, self.now) {
            return Advance::Done {
                detail: format!(
                    "published; not every edge has said within {} s that it runs it",
                    patience_ms(self.operation) / 1000
                ),
            };
        }
        Advance::Wait(Waiting::Edges)
    }
}

#[cfg(test)]
mod tests {
    use super::linger_ms;

    #[test]
    fn who_was_held_for_long_has_long_to_come() {
        let lingers = [-5, 0, 2_000, 30_000, 600_000].map(linger_ms);
        assert_eq!(lingers, [10_000, 10_000, 10_000, 30_000, 60_000]);
    }
}
