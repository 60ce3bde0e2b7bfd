//! Names and order of the steps that an operation shows, and functions that record them with their times. Pure.
//!
//! Not here: the coordinator's own steps, `place` before these and `route` after.

use isyone_proto::plan::{DesiredState, Role, TenantPlan, UnixMs};

use crate::plan::state::{StepRecord, StepState, TenantState};

/// A step of an operation, in display order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StepName {
    /// The plan has been stored.
    Accept,
    /// PostgreSQL's image is on this host.
    ImagePostgres,
    /// Odoo's image is on this host.
    ImageOdoo,
    /// Network and containers exist.
    Network,
    /// Volumes and files exist.
    Volumes,
    /// The database is filled.
    Database,
    /// PostgreSQL runs.
    Postgres,
    /// The database has this tenant's keys and settings.
    Rekey,
    /// Odoo runs.
    Odoo,
    /// Odoo answers.
    Healthy,
}

impl StepName {
    /// All steps, in order.
    pub const ALL: [Self; 10] = [
        Self::Accept,
        Self::ImagePostgres,
        Self::ImageOdoo,
        Self::Network,
        Self::Volumes,
        Self::Database,
        Self::Postgres,
        Self::Rekey,
        Self::Odoo,
        Self::Healthy,
    ];

    /// The step of a role's image.
    pub fn image(role: Role) -> Self {
        match role {
            Role::Odoo => Self::ImageOdoo,
            Role::Postgres => Self::ImagePostgres,
        }
    }

    /// Its name in reports, `state.json` and the tests' crash points.
    pub fn text(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::ImagePostgres => "image-postgres",
            Self::ImageOdoo => "image-odoo",
            Self::Network => "network",
            Self::Volumes => "volumes",
            Self::Database => "database",
            Self::Postgres => "postgres",
            Self::Rekey => "rekey",
            Self::Odoo => "odoo",
            Self::Healthy => "healthy",
        }
    }
}

/// Longest detail kept: a log's last lines fit, a runaway message does not.
const MAX_DETAIL_BYTES: usize = 2000;

/// Position of a recorded step; steps written by another version of the agent go to the end.
fn position(record: &StepRecord) -> usize {
    let all = StepName::ALL;
    let known = all.iter().position(|n| n.text() == record.name);
    known.unwrap_or(all.len())
}

fn shorten(text: &str) -> String {
    let mut end = text.len().min(MAX_DETAIL_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Starts a new list when the plan brings another operation. A create shows all steps from the beginning.
pub fn adopt_operation(state: &mut TenantState, plan: &TenantPlan, now: UnixMs) -> bool {
    if state.operation == plan.operation {
        return false;
    }
    state.operation = plan.operation;
    state.steps.clear();
    if plan.operation.is_none() {
        return true;
    }
    if plan.desired == DesiredState::Running && !state.is_ready() && !state.follows() {
        state.steps = StepName::ALL.map(record).to_vec();
    }
    begin(state, StepName::Accept, now);
    succeed(state, StepName::Accept, "plan stored", now);
    true
}

fn record(name: StepName) -> StepRecord {
    StepRecord {
        name: name.text().to_owned(),
        state: StepState::Pending,
        start_ms: None,
        end_ms: None,
        detail: String::new(),
        percent: 0,
    }
}

fn entry(state: &mut TenantState, name: StepName) -> Option<&mut StepRecord> {
    state.operation?;
    if let Some(at) = state.steps.iter().position(|s| s.name == name.text()) {
        return state.steps.get_mut(at);
    }
    let at = state
        .steps
        .iter()
        .position(|s| position(s) > name as usize)
        .unwrap_or(state.steps.len());
    state.steps.insert(at, record(name));
    state.steps.get_mut(at)
}

/// Marks a step as running. Retries keep the first start time; a later, separate part of the step gets its own.
pub fn begin(state: &mut TenantState, name: StepName, now: UnixMs) {
    if let Some(step) = entry(state, name) {
        let again = matches!(step.state, StepState::Retrying | StepState::Running);
        step.start_ms = step.start_ms.filter(|_| again).or(Some(now));
        step.state = StepState::Running;
        step.end_ms = None;
    }
}

/// Records how far a step is.
pub fn progress(state: &mut TenantState, name: StepName, percent: u32, detail: &str) {
    if let Some(step) = entry(state, name) {
        step.percent = percent;
        step.detail = shorten(detail);
    }
}

/// Marks a step as one that turned out not to be needed.
pub fn skip(state: &mut TenantState, name: StepName, detail: &str, now: UnixMs) {
    succeed(state, name, detail, now);
    if let Some(step) = entry(state, name) {
        step.state = StepState::Skipped;
    }
}

/// Marks a step as done, unless it was not needed; an empty detail keeps the previous one.
pub fn succeed(state: &mut TenantState, name: StepName, detail: &str, now: UnixMs) {
    if let Some(step) = entry(state, name)
        && step.state != StepState::Skipped
    {
        step.state = StepState::Succeeded;
        step.end_ms = Some(now);
        step.percent = 0;
        if !detail.is_empty() {
            step.detail = shorten(detail);
        }
    }
}

/// Marks a step as failed, to be tried again.
pub fn fail(state: &mut TenantState, name: StepName, why: &str) {
    if let Some(step) = entry(state, name) {
        step.state = StepState::Retrying;
        step.percent = 0;
        step.detail = shorten(why);
    }
}

/// Closes the list once the stack is as planned: steps that were not done were not needed. An image that could not be had is not
/// one that was: the plan has changed since.
pub fn close(state: &mut TenantState, now: UnixMs) -> bool {
    close_without(&[StepName::ImagePostgres, StepName::ImageOdoo], state, now)
}

/// Closes the list of a tenant that is gone: what had failed of its making is not made by its end.
pub fn close_gone(state: &mut TenantState, now: UnixMs) -> bool {
    let making = [
        StepName::ImagePostgres,
        StepName::ImageOdoo,
        StepName::Database,
        StepName::Rekey,
        StepName::Healthy,
    ];
    close_without(&making, state, now)
}

/// `unmade`: steps whose failure says that what they were for is not there.
fn close_without(unmade: &[StepName], state: &mut TenantState, now: UnixMs) -> bool {
    let is_unmade = |name: &str| unmade.iter().any(|step| step.text() == name);
    let mut changed = false;
    for step in &mut state.steps {
        match step.state {
            StepState::Pending => {
                step.state = StepState::Skipped;
                step.detail = "nothing to do".to_owned();
            }
            StepState::Retrying if is_unmade(&step.name) => {
                step.state = StepState::Skipped;
                step.end_ms = Some(now);
            }
            // Left by a run of the agent that ended in the middle; the state that it worked towards has been reached.
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
        assert_eq!(state.steps.len(), StepName::ALL.len());
        begin(&mut state, StepName::Database, 5);
        fail(&mut state, StepName::Database, "disk full");
        begin(&mut state, StepName::Database, 9);
        succeed(&mut state, StepName::Database, "copied", 11);
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
        begin(&mut state, StepName::Healthy, 21);
        begin(&mut state, StepName::Odoo, 21);
        let names: Vec<_> = state.steps.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["accept", "odoo", "healthy"]);
    }

    /// Fails where a create that was given up shows its database as made.
    #[test]
    fn what_failed_is_not_done_because_the_tenant_is_gone() {
        let mut plan = tenant_plan("alfa");
        let mut state = TenantState::new(&plan);
        plan.operation = Some(uuid::Uuid::nil());
        adopt_operation(&mut state, &plan, 1);
        fail(&mut state, StepName::Database, "there is no module `x`");
        fail(&mut state, StepName::Volumes, "busy"); // of its end
        assert!(close_gone(&mut state, 2) && !close_gone(&mut state, 3));
        let ended = |state: &mut TenantState, name| entry(state, name).unwrap().state;
        assert_eq!(ended(&mut state, StepName::Database), StepState::Skipped);
        assert_eq!(ended(&mut state, StepName::Volumes), StepState::Succeeded);
        let why = &entry(&mut state, StepName::Database).unwrap().detail;
        assert_eq!(why, "there is no module `x`");
    }

    #[test]
    fn an_image_that_could_not_be_had_did_not_succeed() {
        let mut plan = tenant_plan("alfa");
        let mut state = TenantState::new(&plan);
        plan.operation = Some(uuid::Uuid::nil());
        adopt_operation(&mut state, &plan, 1);
        for name in [StepName::ImageOdoo, StepName::Healthy] {
            begin(&mut state, name, 2);
            fail(&mut state, name, "why");
        }
        assert!(close(&mut state, 3));
        let ended = |name: StepName| {
            let step = state.steps.iter().find(|s| s.name == name.text()).unwrap();
            (step.state, step.detail.as_str())
        };
        assert_eq!(ended(StepName::ImageOdoo), (StepState::Skipped, "why"));
        assert_eq!(ended(StepName::Healthy).0, StepState::Succeeded);
    }

    #[test]
    fn what_turned_out_not_to_be_needed_stays_so() {
        let plan = tenant_plan("alfa");
        let mut state = TenantState::new(&plan);
        adopt_operation(&mut state, &plan, 1);
        let name = StepName::ImageOdoo;
        begin(&mut state, name, 2);
        skip(&mut state, name, "still the same", 3);
        succeed(&mut state, name, "done", 4);
        let step = entry(&mut state, name).unwrap().clone();
        assert_eq!(
            (step.state, step.detail.as_str(), step.end_ms),
            (StepState::Skipped, "still the same", Some(3))
        );
        begin(&mut state, name, 5);
        succeed(&mut state, name, "done", 6);
        assert_eq!(entry(&mut state, name).unwrap().state, StepState::Succeeded);
    }

    #[test]
    fn the_order_of_the_names_is_the_one_shown() {
        assert!(
            StepName::ALL
                .iter()
                .enumerate()
                .all(|(at, n)| *n as usize == at)
        );
    }
}
