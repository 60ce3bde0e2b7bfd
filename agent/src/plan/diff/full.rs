//! A tenant whose disk is full: everything is as planned, but for what would go on filling it.
//!
//! Odoo does not run, and nobody is connected to PostgreSQL over the network: a statement that was begun goes on to its end,
//! whatever becomes of its client. PostgreSQL runs, because whoever makes room needs it, until the disk has gone on filling
//! all the same. Not here: when a disk is full (isyone-types' disk), whose connections are ended (sql).

use isyone_proto::plan::Role;

use super::{Action, Blocked, Inputs, List, Observed};

/// Takes out of a list what would start what must not run, and stops what does.
pub(super) fn hold_back(list: &mut List, inputs: &Inputs<'_>) {
    let Inputs { observed, disk, .. } = *inputs;
    if !disk.stops_odoo() {
        return;
    }
    list.0
        .retain(|planned| !needs(planned.action, disk.stops_postgres()));
    if disk.stops_postgres() {
        let reason = "its disk is full and went on filling";
        stop(list, observed, Role::Odoo, Action::StopOdooSoon, reason);
        let action = Action::StopContainer(Role::Postgres);
        stop(list, observed, Role::Postgres, action, reason);
        return;
    }
    let reason = "its disk is full";
    stop(list, observed, Role::Odoo, Action::StopOdooSoon, reason);
    // Beside the stop, so that neither waits for the other: Odoo's requests fail, and whatever SQL does, Odoo is stopped. What
    // it has begun anew meanwhile is found by the next look.
    let asked = observed.is_up(Role::Odoo) || observed.strangers > 0;
    let has_database = inputs.stack.is_some_and(|stack| !stack.standin);
    if asked && has_database && observed.is_up(Role::Postgres) && observed.postgres_ready {
        list.add(0, 1, Action::EndSessions, reason);
    }
}

/// Refuses what would stop a program of a tenant that works, on a host whose disk is full: it might not start again before there is
/// room.
pub(super) fn spare_what_serves(list: &List, inputs: &Inputs<'_>) -> Result<(), Blocked> {
    let Inputs { observed, disk, .. } = *inputs;
    let Some(why) = observed.host_full.as_ref().filter(|_| !disk.stops_odoo()) else {
        return Ok(());
    };
    let stops = |action: Action| match action {
        Action::RestartContainer(role)
        | Action::StopContainer(role)
        | Action::RemoveContainer(role) => observed.is_up(role),
        _ => false,
    };
    match list.0.iter().any(|planned| stops(planned.action)) {
        true => Err(Blocked::HostFull(why.clone())),
        false => Ok(()),
    }
}

/// Whether an action starts, or needs, a program that must not run.
fn needs(action: Action, neither: bool) -> bool {
    match action {
        Action::StartContainer(role) | Action::RestartContainer(role) => {
            neither || role == Role::Odoo
        }
        Action::AwaitOdoo => true,
        Action::AwaitPostgres | Action::UpdateSettings => neither,
        _ => false,
    }
}

/// Stops a role's container at once, each in a lane of its own; also where it goes anyway, but later.
fn stop(list: &mut List, observed: &Observed, role: Role, action: Action, reason: &str) {
    if observed.is_up(role) {
        list.add(0, u8::from(role == Role::Postgres), action, reason);
    }
}
