//! Restoring in the tenant's place: what it has is renamed aside in its home, and back when the restore is given up or somebody returns
//! to it. Whatever was cut off on the way leads back, unless the plan still wants what was begun.
//!
//! Not here: what is restored meanwhile (seed, jobs), the directories (host::homes).

use isyone_proto::plan::{Before, DesiredState, Role, Seed, TenantPlan};
use uuid::Uuid;

use super::{Action, Blocked, Inputs, List, PlannedAction, ROLES, data, take_down};
use crate::plan::{home::Lies, state::Database};

/// The restore for which the plan wants what is here set aside.
fn wanted_aside(plan: &TenantPlan) -> Option<Uuid> {
    match (&plan.seed, plan.before) {
        (Seed::Backup(id), Some(Before::Keep(kept)))
            if *id == kept && plan.desired == DesiredState::Standby =>
        {
            Some(kept)
        }
        _ => None,
    }
}

/// What comes before anything else; `None`: nothing does.
pub(super) fn first(inputs: &Inputs<'_>) -> Option<Result<Vec<PlannedAction>, Blocked>> {
    let Inputs { plan, state, .. } = *inputs;
    if plan.desired == DesiredState::Purged {
        return None; // all of it goes
    }
    let wanted = wanted_aside(plan);
    let half = state
        .aside
        .filter(|aside| aside.moving)
        .map(|aside| aside.restore);
    let returns = match (plan.before, state.aside) {
        (Some(Before::Return(id)), Some(aside)) if aside.restore == id => Some(id),
        // What came in its place was never whole, and nobody fills it any more: a coordinator that was rebuilt does not know of it.
        (_, Some(aside)) if plan.seed == Seed::Existing && state.database == Database::Incoming => {
            Some(aside.restore)
        }
        _ => half.filter(|half| wanted != Some(*half)),
    };
    if let Some(id) = returns {
        // Said before anything stops for it.
        if half.is_none() && !is_there(inputs, id) {
            return Some(Err(Blocked::AsideGone(id)));
        }
        let reason = "what it was before a restore takes its place again";
        return Some(Ok(alone(inputs, Action::BringBack(id), reason)));
    }
    let id = wanted?;
    let begun = half == Some(id);
    if !begun && (!state.is_ready() || state.copied_by == Some(id)) {
        return None;
    }
    // Nothing that is kept goes for it: only an order to remove that very thing does so.
    let other = state.aside.filter(|aside| aside.restore != id);
    if let Some(other) = other.filter(|other| is_there(inputs, other.restore)) {
        return Some(Err(Blocked::KeepsAnother(other.restore)));
    }
    let reason = "a restore takes its place";
    Some(
        match begun || ROLES.into_iter().all(|role| at_home(inputs, role)) {
            true => Ok(alone(inputs, Action::SetAside(id), reason)),
            false => Err(Blocked::NotAtHome),
        },
    )
}

/// Whether something is set aside for a restore, as far as this machine sees the home.
fn is_there(inputs: &Inputs<'_>, restore: Uuid) -> bool {
    let home = inputs.observed.home.as_ref();
    home.is_none_or(|home| home.aside == Some(restore))
}

/// Where this machine does not see Docker's volumes, setting aside says so itself.
fn at_home(inputs: &Inputs<'_>, role: Role) -> bool {
    let seen = inputs.observed.home.is_some();
    data::own_home(inputs).is_ok() && (!seen || inputs.observed.lies(role) == Lies::Home)
}

/// Nothing of it runs, then this.
fn alone(inputs: &Inputs<'_>, action: Action, reason: &str) -> Vec<PlannedAction> {
    let mut list = List(take_down(inputs.observed, reason));
    list.add(4, data::LANE, action, reason);
    list.0
}

/// What was set aside goes, when all else is as planned.
pub(super) fn last(inputs: &Inputs<'_>, list: &mut Vec<PlannedAction>) {
    let aside = inputs.state.aside.map(|aside| aside.restore);
    let Some(Before::Remove(id)) = inputs.plan.before else {
        return;
    };
    // A tenant that does not run, or is not itself, may need it yet.
    let is_well = inputs.plan.desired == DesiredState::Running && inputs.state.is_ready();
    if aside == Some(id) && list.is_empty() && is_well {
        let mut only = List::default();
        only.add(0, data::LANE, Action::RemoveAside(id), "its time is over");
        *list = only.0;
    }
}
