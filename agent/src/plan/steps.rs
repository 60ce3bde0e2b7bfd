//! Names and order of the steps that an operation shows, and the recorder that keeps their times. Pure.
//!
//! Not here: the coordinator's own steps, `place` before and `route` after.

use isyone_proto::plan::{DesiredState, TenantPlan, UnixMs};

use crate::plan::state::{StepRecord, StepState, TenantState};

/// All of them, in the order they are shown.
pub const ORDER: [&str; 10] = [
    "accept",
    "image-postgres",
    "image-odoo",
    "network",
    "volumes",
    "database",
    "postgres",
    "rekey",
    "odoo",
    "healthy",
];

/// Longest detail kept: a log's last lines fit, a runaway message does not.
const MAX_DETAIL_BYTES: usize = 2000;

fn position(name: &str) -> usize {
    ORDER.iter().position(|n| *n == name).unwrap_or(ORDER.len())
}

fn shorten(text: &str) -> String {
    let mut end = text.len().min(MAX_DETAIL_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Starts the list anew when the plan brings another operation. A create shows all steps from the beginning.
pub fn adopt_operation(state: &mut TenantState, plan: &TenantPlan, now: UnixMs) -> bool {
    if state.operation == plan.operation {
        return false;
    }
    state.operation = plan.operation;
    state.steps.clear();
    if plan.operation.is_none() {
        return true;
    }
    if plan.desired == DesiredState::Running && !state.is_ready() {
        state.steps = ORDER.iter().map(|name| record(name)).collect();
    }
    begin(state, "accept", now);
    succeed(state, "accept", "plan stored", now);
    true
}

fn record(name: &str) -> StepRecord {
    StepRecord {
        name: name.to_owned(),
        state: StepState::Pending,
        start_ms: None,
        end_ms: None,
        detail: String::new(),
        percent: 0,
    }
}

fn entry<'a>(state: &'a mut TenantState, name: &str) -> Option<&'a mut StepRecord> {
    state.operation?;
    if let Some(at) = state.steps.iter().position(|s| s.name == name) {
        return state.steps.get_mut(at);
    }
    let at = state
        .steps
        .iter()
        .position(|s| position(&s.name) > position(name))
        .unwrap_or(state.steps.len());
    state.steps.insert(at, record(name));
    state.steps.get_mut(at)
}

/// A step is under way. Of several tries the first start counts; a later, separate part of a step counts for itself.
pub fn begin(state: &mut TenantState, name: &str, now: UnixMs) {
    if let Some(step) = entry(state, name) {
        let again = matches!(step.state, StepState::Retrying | StepState::Running);
        step.start_ms = step.start_ms.filter(|_| again).or(Some(now));
        step.state = StepState::Running;
        step.end_ms = None;
    }
}

/// How far it is.
pub fn progress(state: &mut TenantState, name: &str, percent: u32, detail: &str) {
    if let Some(step) = entry(state, name) {
        step.percent = percent;
        step.detail = shorten(detail);
    }
}

/// It is done; an empty detail keeps what was said before.
pub fn succeed(state: &mut TenantState, name: &str, detail: &str, now: UnixMs) {
    if let Some(step) = entry(state, name) {
        step.state = StepState::Succeeded;
        step.end_ms = Some(now);
        step.percent = 0;
        if !detail.is_empty() {
            step.detail = shorten(detail);
        }
    }
}

/// It failed and will be tried again.
pub fn fail(state: &mut TenantState, name: &str, why: &str) {
    if let Some(step) = entry(state, name) {
        step.state = StepState::Retrying;
        step.percent = 0;
        step.detail = shorten(why);
    }
}

/// The stack is as it should be: what was not done was not needed.
pub fn close(state: &mut TenantState, now: UnixMs) -> bool {
    let mut changed = false;
    for step in &mut state.steps {
        match step.state {
            StepState::Pending => {
                step.state = StepState::Skipped;
                step.detail = "nothing to do".to_owned();
            }
            // Left by a life of the agent that ended in the middle; the state it worked for is reached.
            StepState::Running | StepState::Retrying => {
                step.state = StepState::Succeeded;
                step.end_ms = Some(now);
            }
            StepState::Succeeded | StepState::Skipped => continue,
        }
        changed = true;
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tenant_plan;

    #[test]
    fn a_create_shows_all_steps_and_others_only_theirs() {
        let plan = tenant_plan("alfa");
        let mut state = TenantState::new(&plan);
        assert!(adopt_operation(&mut state, &plan, 1));
        assert!(!adopt_operation(&mut state, &plan, 2));
        assert_eq!(state.steps.len(), ORDER.len());
        begin(&mut state, "database", 5);
        fail(&mut state, "database", "disk full");
        begin(&mut state, "database", 9);
        succeed(&mut state, "database", "copied", 11);
        assert_eq!(
            (state.steps[5].start_ms, state.steps[5].end_ms),
            (Some(5), Some(11))
        );
        assert!(close(&mut state, 12) && !close(&mut state, 13));
        assert_eq!(state.steps[1].state, StepState::Skipped);

        let mut restart = plan.clone();
        restart.operation = Some(uuid::Uuid::nil());
        state.database = crate::plan::state::Database::Ready { synced: true };
        adopt_operation(&mut state, &restart, 20);
        begin(&mut state, "healthy", 21);
        begin(&mut state, "odoo", 21);
        let names: Vec<_> = state.steps.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["accept", "odoo", "healthy"]);
    }
}
