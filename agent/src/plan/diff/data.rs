//! Data of tenants that exist: their volumes' records are put back when they are gone, and data that lies in Docker's own
//! directory is moved into the tenant's home when nothing runs on it.
//!
//! Not here: volumes of new tenants (run), doing it (tenant::data).

use isyone_proto::plan::Role;

use super::{
    Action, Blocked, Inputs, List, Observed, PlannedAction, ROLES, own_volume, volume_name,
};
use crate::plan::home::{Home, HomeOwner, Lies};

/// Records are made before data is moved, one after the other: both use the same mark in the tenant's state.
pub(super) const LANE: u8 = 1;

/// Whether nothing that is another's is where the tenant's own data is or would be.
pub(super) fn own_home(inputs: &Inputs<'_>) -> Result<(), Blocked> {
    let Inputs { plan, observed, .. } = *inputs;
    if let Some(home) = &observed.home
        && let HomeOwner::Other(owner) = &home.owner
    {
        return Err(Blocked::ForeignHome {
            directory: home.path.display().to_string(),
            owner: owner.clone(),
            tenant: plan.uid,
        });
    }
    Ok(())
}

/// Whether a tenant that should run finds its data, or nothing that is another's where its own would be.
pub(super) fn check(inputs: &Inputs<'_>) -> Result<(), Blocked> {
    let Inputs { plan, observed, .. } = *inputs;
    own_home(inputs)?;
    // A stand-in keeps no files, so its directory is always empty.
    let standin = inputs.stack.is_some_and(|stack| stack.standin);
    for role in ROLES {
        if let Some(volume) = observed.volume(role) {
            own_volume(plan, role, volume)?;
        }
        if let Some(home) = &observed.home
            && home.owner == HomeOwner::This
            && home.data(role).doubled
        {
            return Err(Blocked::TwoPlaces {
                ours: home.directory(role).display().to_string(),
                dockers: directory(observed, role),
            });
        }
        if !inputs.state.is_whole() {
            continue;
        }
        match observed.lies(role) {
            Lies::Nowhere => return Err(Blocked::VolumeGone(volume_name(plan, role))),
            Lies::Gone => {
                return Err(Blocked::DirectoryGone(directory(observed, role)));
            }
            _ if role == Role::Postgres && observed.pgdata_empty && !standin => {
                return Err(Blocked::DirectoryEmpty(directory(observed, role)));
            }
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn directory(observed: &Observed, role: Role) -> String {
    let volume = observed.volume(role);
    volume.map_or_else(String::new, |v| v.path().to_owned())
}

/// Whether a role's data is to be moved as soon as nothing runs on it. That of a tenant that is being created can wait.
pub(super) fn is_to_move(inputs: &Inputs<'_>, role: Role) -> bool {
    let volume = inputs.observed.volume(role);
    inputs.state.is_ready()
        && volume.is_some_and(|v| own_volume(inputs.plan, role, v).is_ok())
        && matches!(
            inputs.observed.lies(role),
            Lies::InDocker | Lies::Misrecorded
        )
}

/// Puts missing records back.
pub(super) fn put_back(list: &mut List, inputs: &Inputs<'_>, wave: u8) {
    let unrecorded = |role| inputs.observed.lies(role) == Lies::Unrecorded;
    if inputs.state.is_whole() && ROLES.into_iter().any(unrecorded) {
        let reason = "its volume's record is gone, its data is there";
        list.add(wave, LANE, Action::PutBackVolumes, reason);
    }
}

/// Moves a role's data, and removes its container, which must have been stopped. Only then: as long as the data lies in
/// Docker's own directory, a stopped container is what keeps a prune of volumes from taking it.
pub(super) fn bring_home(list: &mut List, inputs: &Inputs<'_>, role: Role, wave: u8) {
    let reason = match inputs.observed.lies(role) {
        Lies::InDocker => "its data lies in Docker's own directory",
        _ => "its volume's record leads nowhere, its data is there",
    };
    list.add(wave, LANE, Action::MoveData(role), reason);
}

/// Whether the data of a tenant that does not run is there: who finds out only when it is to run finds out too late.
pub(super) fn is_kept(inputs: &Inputs<'_>) -> Result<(), Blocked> {
    let gone = |role: &Role| match inputs.observed.lies(*role) {
        Lies::Nowhere => Some(Blocked::VolumeGone(volume_name(inputs.plan, *role))),
        Lies::Gone => Some(Blocked::DirectoryGone(directory(inputs.observed, *role))),
        _ => None,
    };
    let gone = ROLES.iter().find_map(gone);
    match gone.filter(|_| inputs.state.is_ready()) {
        Some(gone) => Err(gone),
        None => Ok(()),
    }
}

/// For a tenant that does not run: after `wave`, in which its containers are removed that must go.
pub(super) fn upkeep(list: &mut List, inputs: &Inputs<'_>, wave: u8) {
    let observed = inputs.observed;
    let foreign = |home: &Home| matches!(home.owner, HomeOwner::Other(_));
    if observed.home.as_ref().is_some_and(foreign) {
        return; // told when it is to run
    }
    put_back(list, inputs, wave + 1);
    for role in ROLES.into_iter().filter(|role| is_to_move(inputs, *role)) {
        list.0
            .retain(|planned| planned.action != Action::RemoveContainer(role));
        bring_home(list, inputs, role, wave + 1);
    }
    // A network goes after the containers in it, and these go with their data.
    if ROLES.into_iter().any(|role| is_to_move(inputs, role)) {
        let networks = |planned: &&mut PlannedAction| planned.action == Action::RemoveNetwork;
        for planned in list.0.iter_mut().filter(networks) {
            planned.wave = wave + 2;
        }
    }
}
