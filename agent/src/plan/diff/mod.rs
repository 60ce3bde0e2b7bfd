//! Compares observed and desired state: what to do, each with its reason. Pure: no clock, no Docker, no files.
//!
//! Actions come in waves; the lanes of a wave run at the same time, the actions of a lane one after the other. After
//! each run the world is observed and compared again, until nothing is left to do. Not here: doing it
//! (tenant::execute).

mod action;
mod aside;
mod blocked;
mod data;
mod follow;
mod full;
mod observed;
mod run;
mod seed;

use isyone_proto::{
    disk::DiskState,
    plan::{Callers, DesiredState, Role, TenantPlan, UnixMs},
};

pub use self::{
    action::Action,
    blocked::Blocked,
    observed::Observed,
    seed::{adopt, heed},
};
use crate::plan::{
    container::{LABEL_UID, Volume},
    lease::Standing,
    stack::Stack,
    state::{Database, TenantState},
};

/// Odoo with a hundred modules on a slow disk needs minutes to answer; after this long, no answer is a finding.
pub const START_GRACE_MS: UnixMs = 180_000;

/// An action with its place in the order and its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedAction {
    /// Waves run one after the other.
    pub wave: u8,
    /// Lanes of a wave run at the same time.
    pub lane: u8,
    pub action: Action,
    pub reason: String,
}

/// What [`diff`] compares.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub plan: &'a TenantPlan,
    /// Desired state, rendered; `None` while an image is missing.
    pub stack: Option<&'a Stack>,
    pub observed: &'a Observed,
    /// What the agent remembers of the tenant.
    pub state: &'a TenantState,
    /// A higher epoch has been seen: this copy must not run.
    pub stale: bool,
    /// The machine has started anew, and nobody has said yet that this copy, which asks first, may run.
    pub unasked: bool,
    /// What its lease lets it do.
    pub standing: &'a Standing,
    /// Why no new tenant may start on this host, if that is so.
    pub no_new: Option<&'a str>,
    /// What follows from how full the tenant's disk is: its Odoo, or PostgreSQL as well, does not run.
    pub disk: DiskState,
    pub now: UnixMs,
}

/// Whether volumes may be removed.
pub fn may_purge(plan: &TenantPlan, now: UnixMs) -> bool {
    plan.desired == DesiredState::Purged
        && (plan.purge_now || plan.quarantine_until.is_some_and(|until| until <= now))
}

#[derive(Default)]
struct List(Vec<PlannedAction>);

impl List {
    fn add(&mut self, wave: u8, lane: u8, action: Action, reason: impl Into<String>) {
        self.0.push(PlannedAction {
            wave,
            lane,
            action,
            reason: reason.into(),
        });
    }
}

const ROLES: [Role; 2] = [Role::Postgres, Role::Odoo];

/// Compares; an empty list means nothing to do.
pub fn diff(inputs: &Inputs<'_>) -> Result<Vec<PlannedAction>, Blocked> {
    if inputs.stale {
        return Ok(stop_all(
            inputs.observed,
            "another host holds a newer copy of this tenant",
        ));
    }
    if inputs.unasked {
        let stopped = stop_all(inputs.observed, "another host may have taken it over");
        return match stopped.is_empty() {
            true => Err(Blocked::Unasked),
            false => Ok(stopped),
        };
    }
    if let Standing::Lapsed(lapse) = inputs.standing {
        let stopped = stop_now(inputs.observed, "its lease is over");
        return match stopped.is_empty() {
            true => Err(Blocked::Lapsed(lapse.clone())),
            false => Ok(stopped),
        };
    }
    if let Some(first) = aside::first(inputs) {
        return first;
    }
    let mut list = as_desired(inputs)?;
    aside::last(inputs, &mut list);
    Ok(list)
}

fn as_desired(inputs: &Inputs<'_>) -> Result<Vec<PlannedAction>, Blocked> {
    match inputs.plan.desired {
        DesiredState::Running if inputs.state.follows() => follow::take_over(inputs),
        DesiredState::Running => run::run(inputs),
        DesiredState::Suspended => {
            let mut list = List(stop_all(inputs.observed, "suspended"));
            run::get_images(&mut list, inputs, 2, true);
            data::upkeep(&mut list, inputs, 2);
            rests(list, inputs)
        }
        DesiredState::Standby if inputs.plan.follows && inputs.state.follows() => {
            follow::keep_up(inputs)
        }
        DesiredState::Standby => standby(inputs),
        DesiredState::Fenced if is_waited_for(inputs) => Ok(keep_down(inputs)),
        DesiredState::Fenced => {
            let reason = "this copy's time is over, its volumes are kept";
            let mut list = List(take_down(inputs.observed, reason));
            data::upkeep(&mut list, inputs, 3);
            Ok(list.0)
        }
        DesiredState::Quarantined => {
            let mut list = List(take_down(inputs.observed, "deleted, volumes kept"));
            data::upkeep(&mut list, inputs, 3);
            rests(list, inputs)
        }
        DesiredState::Purged => purge(inputs),
    }
}

/// What is to be done comes first; a tenant that has come to rest must still have its data.
fn rests(list: List, inputs: &Inputs<'_>) -> Result<Vec<PlannedAction>, Blocked> {
    if list.0.is_empty() {
        data::is_kept(inputs)?;
    }
    Ok(list.0)
}

/// Odoo first: its requests end while PostgreSQL still answers.
fn stop_all(observed: &Observed, reason: &str) -> Vec<PlannedAction> {
    let mut list = List::default();
    if observed.init.is_some() {
        list.add(0, 1, Action::RemoveInit, reason);
    }
    for (wave, role) in [(0, Role::Odoo), (1, Role::Postgres)] {
        if observed.is_up(role) {
            list.add(wave, 0, Action::StopContainer(role), reason);
        }
    }
    list.0
}

/// Both at the same time.
fn stop_now(observed: &Observed, reason: &str) -> Vec<PlannedAction> {
    let mut list = List::default();
    for role in ROLES {
        if observed.is_up(role) {
            list.add(0, role as u8, Action::StopNow(role), reason);
        }
    }
    if observed.init.is_some() {
        list.add(0, 2, Action::RemoveInit, reason);
    }
    list.0
}

/// Whether visitors wait until it is certain that this copy never runs again: removing its containers would keep them waiting.
fn is_waited_for(inputs: &Inputs<'_>) -> bool {
    let are_there = ROLES.map(|role| inputs.observed.container(role).is_some());
    matches!(inputs.plan.callers, Callers::Held { .. }) && are_there == [true, true]
}

/// It does not run, and nobody but the agent starts it, which does not; its containers go when nobody waits any more.
fn keep_down(inputs: &Inputs<'_>) -> Vec<PlannedAction> {
    let reason = "this copy's time is over";
    let mut list = List(stop_all(inputs.observed, reason));
    if !inputs.state.stays_down {
        list.add(2, 0, Action::UpdateRestarts, reason);
    }
    list.0
}

fn take_down(observed: &Observed, reason: &str) -> Vec<PlannedAction> {
    let mut list = List(stop_all(observed, reason));
    for role in ROLES {
        if observed.container(role).is_some() {
            list.add(2, role as u8, Action::RemoveContainer(role), reason);
        }
    }
    if observed.network.is_some() {
        list.add(3, 0, Action::RemoveNetwork, reason);
    }
    list.0
}

/// Nothing of it runs; its volumes are there, to be filled by a job where its data comes from another host.
fn standby(inputs: &Inputs<'_>) -> Result<Vec<PlannedAction>, Blocked> {
    let reason = "a copy that is being filled or kept";
    let mut list = List(take_down(inputs.observed, reason));
    if inputs.plan.follows && inputs.state.database == Database::Incoming {
        // A container that brings it is its job's; that it runs is what is wanted.
        list.0
            .retain(|planned| planned.action != Action::RemoveInit);
    }
    if !list.0.is_empty() {
        return Ok(list.0); // what must not run goes first, whatever is wrong with the volumes
    }
    data::own_home(inputs)?;
    for role in seed::missing(inputs)? {
        list.add(4, 0, Action::CreateVolume(role), "a copy is to come");
    }
    data::put_back(&mut list, inputs, 4);
    Ok(list.0)
}

fn purge(inputs: &Inputs<'_>) -> Result<Vec<PlannedAction>, Blocked> {
    let observed = inputs.observed;
    let mut list = List(take_down(observed, "deleted"));
    if inputs.plan.generation <= inputs.state.wanted_generation {
        return Err(Blocked::OldOrder {
            ordered: inputs.plan.generation,
            wanted: inputs.state.wanted_generation,
        });
    }
    if !may_purge(inputs.plan, inputs.now) {
        return Ok(list.0);
    }
    let is_ready = matches!(inputs.state.database, Database::Ready { .. });
    if inputs.plan.leftover && is_ready && inputs.state.lives_here() {
        return Err(Blocked::LivesHere {
            instead: "be removed as a copy that the tenant has left".to_owned(),
        });
    }
    for role in ROLES {
        if let Some(volume) = observed.volume(role) {
            own_volume(inputs.plan, role, volume)?;
            list.add(
                4,
                role as u8,
                Action::RemoveVolume(role),
                "the quarantine is over",
            );
        }
    }
    if observed.has_home() {
        list.add(5, 0, Action::RemoveHome, "the quarantine is over");
    }
    if observed.directory {
        list.add(6, 0, Action::RemoveDirectory, "the quarantine is over");
    }
    Ok(list.0)
}

fn volume_name(plan: &TenantPlan, role: Role) -> String {
    match role {
        Role::Odoo => plan.name.odoo_volume(),
        Role::Postgres => plan.name.postgres_volume(),
    }
}

fn own_volume(plan: &TenantPlan, role: Role, volume: &Volume) -> Result<(), Blocked> {
    let uid = volume
        .labels
        .get(LABEL_UID)
        .map_or("nobody", String::as_str);
    if uid == plan.uid.to_string() {
        return Ok(());
    }
    Err(Blocked::ForeignVolume {
        volume: volume_name(plan, role),
        owner: uid.to_owned(),
        tenant: plan.uid,
    })
}

#[cfg(test)]
mod tests;
