//! A copy that is kept up with one that runs elsewhere: its PostgreSQL runs as a standby, its Odoo is ready to be started, and nothing else
//! of it runs. When the tenant is to run here, the standby is promoted first; from then on it is a tenant like any other.
//!
//! Not here: bringing the copy and deciding that it is complete (jobs), and who may run (the coordinator).

use isyone_proto::plan::Role;

use super::{
    Action, Blocked, Inputs, List, Observed, PlannedAction, ROLES, data, own_volume, run,
    volume_name,
};
use crate::plan::{
    container::{LABEL_CONFIG_HASH, LABEL_UID},
    home::Lies,
    lease::Standing,
    stack::Stack,
    state::Database,
};

/// The standby runs, and what Odoo needs to start is there.
pub(super) fn keep_up(inputs: &Inputs<'_>) -> Result<Vec<PlannedAction>, Blocked> {
    let mut list = List::default();
    if inputs.observed.is_up(Role::Odoo) {
        let reason = "it does not live here";
        list.add(0, 0, Action::StopContainer(Role::Odoo), reason);
        return Ok(list.0); // whatever else is wrong
    }
    make(&mut list, inputs)?;
    Ok(list.0)
}

/// The standby becomes the tenant's own database. What is missing beside it is made by the next look, as for any other.
pub(super) fn take_over(inputs: &Inputs<'_>) -> Result<Vec<PlannedAction>, Blocked> {
    let is_complete = inputs.state.database == (Database::Following { complete: true });
    // What lacks some of its files, or has not begun to follow, is no whole copy, whoever is lost.
    let is_whole = is_complete || inputs.plan.as_it_is && inputs.state.is_filled();
    if !is_whole {
        return Err(Blocked::HalfCopy);
    }
    if let Standing::Waits(wait) = inputs.standing {
        let ready = keep_up(inputs)?;
        return match ready.is_empty() {
            true => Err(Blocked::Waits(wait.clone())),
            false => Ok(ready),
        };
    }
    let mut list = List::default();
    let is_there = make(&mut list, inputs)?;
    if is_there {
        list.add(7, 0, Action::AwaitPostgres, "it is to take over");
        list.add(7, 0, Action::Promote, "the tenant lives here now");
    }
    Ok(list.0)
}

/// What both need; whether PostgreSQL's container is there, or made by this list.
fn make(list: &mut List, inputs: &Inputs<'_>) -> Result<bool, Blocked> {
    let observed = inputs.observed;
    // Nothing is made in the place of what is gone: an empty volume would become a new database.
    for role in ROLES {
        match observed.volume(role) {
            Some(volume) => own_volume(inputs.plan, role, volume)?,
            None => return Err(Blocked::VolumeGone(volume_name(inputs.plan, role))),
        }
        if observed.lies(role) == Lies::Gone {
            return Err(Blocked::DirectoryGone(data::directory(observed, role)));
        }
    }
    if let Some(name) = &observed.foreign {
        return Err(Blocked::ForeignContainer(name.clone()));
    }
    run::get_images(list, inputs, 0, false);
    let Some(stack) = inputs.stack.filter(|_| list.0.is_empty()) else {
        return Ok(false);
    };
    if observed.init.is_some() {
        let reason = "the copy that it brought is there";
        list.add(1, 0, Action::RemoveInit, reason);
    }
    let network = observed.network.as_ref();
    let fits = network.is_none_or(|network| network.subnet == stack.subnet);
    for role in ROLES {
        clear(list, inputs, stack, role, fits);
    }
    if !fits {
        list.add(2, 0, Action::RemoveNetwork, "it has another subnet");
    }
    if !observed.files_current {
        list.add(3, 0, Action::WriteFiles, "files differ from the plan");
    }
    if network.is_none() || !fits {
        list.add(3, 1, Action::CreateNetwork, "it is not there");
    }
    let stays = |role| is_kept(inputs, stack, role, fits);
    for role in ROLES.into_iter().filter(|role| !stays(*role)) {
        // As they will be when it runs: starting is then all that is left to do.
        list.add(
            4,
            role as u8,
            Action::CreateContainer(role),
            "it is not there",
        );
    }
    if !stays(Role::Postgres) || !observed.is_up(Role::Postgres) {
        let reason = "it follows the copy that lives";
        list.add(5, 0, Action::StartContainer(Role::Postgres), reason);
    }
    Ok(true)
}

/// Whether a role's container may stay.
fn is_kept(inputs: &Inputs<'_>, stack: &Stack, role: Role, network_fits: bool) -> bool {
    let hash = stack.container(role).labels.get(LABEL_CONFIG_HASH);
    let wanted = hash.map_or("", String::as_str);
    container_is(inputs.observed, role, |container| {
        network_fits
            && container.label(LABEL_UID) == inputs.plan.uid.to_string()
            && container.label(LABEL_CONFIG_HASH) == wanted
    })
}

fn container_is(
    observed: &Observed,
    role: Role,
    is: impl FnOnce(&crate::plan::container::Container) -> bool,
) -> bool {
    observed.container(role).is_some_and(is)
}

/// Removes a container that may not stay.
fn clear(list: &mut List, inputs: &Inputs<'_>, stack: &Stack, role: Role, network_fits: bool) {
    let observed = inputs.observed;
    if observed.container(role).is_none() || is_kept(inputs, stack, role, network_fits) {
        return;
    }
    let (reason, lane) = ("it is not as planned", role as u8);
    if observed.is_up(role) {
        list.add(1, lane, Action::StopContainer(role), reason);
    }
    list.add(1, lane, Action::RemoveContainer(role), reason);
}
