//! Where a tenant's data comes from: whether its volumes may be filled here, must be found, or wait for a copy.
//!
//! Not here: filling (tenant::database) and copying (jobs).

use isyone_proto::plan::{DesiredState, Role, Seed, TenantPlan};

use super::{Blocked, Inputs, Observed, ROLES, data, own_volume, volume_name};
use crate::plan::{
    container::{Container, LABEL_UID, Volume},
    home::{Home, Lies},
    pins::Wanted,
    state::{Aside, Database, TenantState},
};

/// The state when there is no `state.json`: existing volumes with this uid, even just one, or a home that is this
/// tenant's hold data and are adopted as they are. Where a copy was to come, it could be half of one, so nothing is done with it.
pub fn adopt(plan: &TenantPlan, observed: &Observed) -> TenantState {
    let mut state = TenantState::new(plan);
    // Whether it was on its way is not known: it stays where it is until somebody says what becomes of it.
    let aside = observed.home.as_ref().and_then(|home| home.aside);
    state.aside = aside.map(|restore| Aside {
        restore,
        moving: false,
    });
    let ours = |v: &Volume| {
        v.labels
            .get(LABEL_UID)
            .is_some_and(|uid| *uid == plan.uid.to_string())
    };
    if ROLES
        .into_iter()
        .filter_map(|role| observed.volume(role))
        .any(ours)
        || observed.home.as_ref().is_some_and(Home::holds_data)
    {
        state.database = match plan.seed {
            Seed::Fresh | Seed::Existing => Database::Ready { synced: true },
            Seed::Backup(_) | Seed::Peer(_) => Database::Doubtful,
        };
    }
    if state.is_ready() {
        // Or the tenant would go on with whatever its image's name means by now, which may be another version of Odoo.
        for role in ROLES {
            if let Some(container) = observed.container(role).filter(|c| is_of(c, plan)) {
                state.adopt_pin(role, &Wanted::of(plan, role), container);
            }
        }
    }
    state
}

fn is_of(container: &Container, plan: &TenantPlan) -> bool {
    container.label(LABEL_UID) == plan.uid.to_string()
}

/// Heeds what the plan says of a copy beyond what is remembered; whether that was anything new. `stale`: a newer copy is
/// elsewhere, and this plan does not decide.
pub fn heed(plan: &TenantPlan, stale: bool, state: &mut TenantState) -> bool {
    // What is to be removed is not filled. A record of it, written when the rest is gone, would be taken for one of data
    // when the tenant comes to this host again.
    if plan.desired == DesiredState::Purged {
        return false;
    }
    let mut news = !stale && heed_role(plan, state);
    if let Some(database) = heed_seed(plan, &state.database) {
        state.database = database;
        news = true;
    }
    news
}

/// A copy that has lived is only overwritten on this order, and only once it was fenced: it is to come again from where
/// the tenant lives now, under an epoch above that of its fence.
fn heed_role(plan: &TenantPlan, state: &mut TenantState) -> bool {
    let fenced_at = match plan.desired {
        DesiredState::Fenced => Some(plan.epoch),
        DesiredState::Running | DesiredState::Suspended => None,
        DesiredState::Standby
            if matches!(plan.seed, Seed::Peer(_))
                && state.fenced_at.is_some_and(|at| at < plan.epoch) =>
        {
            state.come_again(plan);
            return true;
        }
        DesiredState::Standby | DesiredState::Quarantined | DesiredState::Purged => return false,
    };
    std::mem::replace(&mut state.fenced_at, fenced_at) != fenced_at
}

fn heed_seed(plan: &TenantPlan, now: &Database) -> Option<Database> {
    match (&plan.seed, now) {
        // One that follows becomes the tenant's own by being promoted, and by nothing else.
        (
            _,
            Database::Ready { .. }
            | Database::Restored { .. }
            | Database::Incoming
            | Database::Following { .. },
        ) => None,
        // It has run here: whatever is or is not in its volumes, never fill them.
        (Seed::Existing, _) => Some(Database::Ready { synced: true }),
        // What an interrupted filling left is scrap; the copy replaces it.
        (
            Seed::Peer(_) | Seed::Backup(_),
            Database::Empty | Database::Filling | Database::Filled { .. },
        ) if plan.desired == DesiredState::Standby => Some(Database::Incoming),
        (Seed::Fresh | Seed::Backup(_) | Seed::Peer(_), _) => None,
    }
}

/// Whether a tenant may start on what its volumes hold, or fill them.
pub(super) fn check(inputs: &Inputs<'_>) -> Result<(), Blocked> {
    match (&inputs.plan.seed, &inputs.state.database) {
        (_, Database::Ready { .. } | Database::Restored { .. }) => Ok(()),
        (_, Database::Incoming | Database::Following { .. }) => Err(Blocked::HalfCopy),
        (_, Database::Doubtful) => Err(Blocked::DoubtfulCopy),
        (Seed::Fresh | Seed::Existing, _) => Ok(()),
        (Seed::Peer(host), _) => Err(Blocked::NotCopied(host.clone())),
        (Seed::Backup(id), _) => Err(Blocked::FromBackup(*id)),
    }
}

/// The volumes that are to be made for a copy that is not running.
pub(super) fn missing(inputs: &Inputs<'_>) -> Result<Vec<Role>, Blocked> {
    let mut missing = Vec::new();
    for role in ROLES {
        match inputs.observed.volume(role) {
            Some(volume) => {
                own_volume(inputs.plan, role, volume)?;
                // Found out before the tenant is stopped for it where it lives.
                if inputs.observed.lies(role) == Lies::Gone {
                    return Err(Blocked::DirectoryGone(data::directory(
                        inputs.observed,
                        role,
                    )));
                }
            }
            None => missing.push(role),
        }
    }
    match (&inputs.plan.seed, &inputs.state.database) {
        (Seed::Peer(host), Database::Ready { .. }) if inputs.state.lives_here() => {
            Err(Blocked::LivesHere {
                instead: format!("be fetched from host {host}"),
            })
        }
        // In its place: it is restored, and starts with the next plan.
        (Seed::Backup(id), Database::Ready { .. })
            if inputs.state.lives_here() && inputs.state.copied_by != Some(*id) =>
        {
            Err(Blocked::LivesHere {
                instead: "be filled from a backup".to_owned(),
            })
        }
        // Told before the tenant is stopped for it where it lives: no job ever writes into this copy.
        (_, Database::Doubtful) => Err(Blocked::DoubtfulCopy),
        // A record alone that is gone is put back elsewhere.
        (_, Database::Ready { .. } | Database::Restored { .. }) => {
            let gone = |role: &&Role| inputs.observed.lies(**role) == Lies::Nowhere;
            match missing.iter().find(gone) {
                Some(role) => Err(Blocked::VolumeGone(volume_name(inputs.plan, *role))),
                None => Ok(Vec::new()),
            }
        }
        (Seed::Existing, _) => check(inputs).map(|()| missing),
        (Seed::Fresh, _) => Ok(Vec::new()), // there is nothing to keep yet
        (Seed::Peer(_) | Seed::Backup(_), _) => Ok(missing),
    }
}
