//! Converging: a tenant's host works until the tenant is as wanted, then the edges take up its route.
//!
//! Not here: what is wanted (change), and what the host does (the agent).

use isyone_types::{ids::HostName, plan::Lifecycle};

use super::{Advance, Scene};
use crate::operation::{Converge, ConvergeStage, OperationKind, Procedure};
#[cfg(feature = "planted")]
use crate::planted;

/// Whether the edges have something to take up: a route that appears, changes or goes.
fn changes_the_route(kind: OperationKind) -> bool {
    match kind {
        OperationKind::Create
        | OperationKind::Update
        | OperationKind::Suspend
        | OperationKind::Resume
        | OperationKind::Resize
        | OperationKind::Delete
        | OperationKind::Undelete
        | OperationKind::Move
        | OperationKind::Restore
        | OperationKind::Upgrade => true,
        OperationKind::Restart | OperationKind::Purge => false,
    }
}

pub(super) fn advance(scene: &Scene<'_>, converge: &Converge) -> Advance {
    if let Some(why) = refused(scene, converge) {
        return Advance::GoBack(why);
    }
    match converge.stage {
        ConvergeStage::Host if !has_converged(scene, converge) => failed_upgrade(scene, converge)
            .or_else(|| hopeless(scene, converge))
            .unwrap_or_else(|| scene.wait_for(who_is_missing(scene, converge))),
        ConvergeStage::Host if changes_the_route(scene.operation.kind) && !is_going(scene) => {
            Advance::Next {
                procedure: Procedure::Converge(Converge {
                    stage: ConvergeStage::Route,
                    ..converge.clone()
                }),
                effects: Vec::new(),
                detail: String::new(),
            }
        }
        ConvergeStage::Host => Advance::Done {
            detail: String::new(),
        },
        ConvergeStage::Route => scene.route(),
        #[cfg(feature = "planted")]
        ConvergeStage::Back if planted::has(planted::Bug::NeverEnds) => {
            scene.wait_for(&converge.host)
        }
        ConvergeStage::Back if has_converged(scene, converge) => Advance::BackDone,
        // Whoever could not be started stays stopped, and has nothing more to come to.
        ConvergeStage::Back if hopeless(scene, converge).is_some() => Advance::BackDone,
        // Who was not well before an upgrade is not well after it, either.
        ConvergeStage::Back if given_up(scene, converge).is_some() => Advance::BackDone,
        ConvergeStage::Back => scene.wait_for(who_is_missing(scene, converge)),
    }
}

/// Why a create cannot go on, where its host says that another one is needed: the half-made tenant goes, nothing was in it, and
/// its name is free again.
fn refused(scene: &Scene<'_>, converge: &Converge) -> Option<String> {
    let creates = scene.operation.kind == OperationKind::Create;
    if !creates || converge.stage != ConvergeStage::Host || has_converged(scene, converge) {
        return None;
    }
    scene.unfit(&converge.host).map(str::to_owned)
}

/// The end, where the host says that only a person can help, such as when the data is gone: who waits for it waits for ever.
fn hopeless(scene: &Scene<'_>, converge: &Converge) -> Option<Advance> {
    let why = scene.blocked(&converge.host)?;
    match scene.operation.kind {
        OperationKind::Resume
        | OperationKind::Undelete
        | OperationKind::Restart
        | OperationKind::Restore => Some(Advance::GoBack(why.to_owned())),
        // It is stopped all the same: hosts say what is missing of a tenant that does not run once all else is done.
        OperationKind::Suspend | OperationKind::Delete => Some(Advance::Done {
            detail: why.to_owned(),
        }),
        OperationKind::Create
        | OperationKind::Update
        | OperationKind::Resize
        | OperationKind::Move
        | OperationKind::Purge
        | OperationKind::Upgrade => None,
    }
}

/// Back, where the host says that it cannot have the new images, that they do not fit, or that the tenant does not come up with them:
/// those that it had are there, and it worked with them.
fn failed_upgrade(scene: &Scene<'_>, converge: &Converge) -> Option<Advance> {
    let why = given_up(scene, converge)?;
    Some(Advance::GoBack(format!(
        "{why}. The tenant keeps the images that it had"
    )))
}

/// Why an upgrade, or its way back, is waited for no longer. Other operations are retried.
fn given_up<'a>(scene: &'a Scene<'_>, converge: &Converge) -> Option<&'a str> {
    let is_upgrade = scene.operation.kind == OperationKind::Upgrade;
    scene.failing(&converge.host).filter(|_| is_upgrade)
}

/// The tenant is about to be forgotten: nobody could follow its route any more.
fn is_going(scene: &Scene<'_>) -> bool {
    scene.tenant.desired == Lifecycle::Purged
}

fn has_converged(scene: &Scene<'_>, converge: &Converge) -> bool {
    // A purge is over only when nothing is left, on no host.
    lives_as_wanted(scene, converge) && (!is_going(scene) || scene.tenant.copies.is_empty())
}

fn lives_as_wanted(scene: &Scene<'_>, converge: &Converge) -> bool {
    let seen = scene.converged(&converge.host, converge.generation);
    seen.is_some_and(|seen| !is_going(scene) || seen.report.absent)
}

/// The host whose word is waited for: where the tenant lives, then whoever still has a copy of one that is purged.
fn who_is_missing<'a>(scene: &Scene<'a>, converge: &'a Converge) -> &'a HostName {
    let copy = scene.tenant.copies.first();
    match copy.filter(|_| is_going(scene) && lives_as_wanted(scene, converge)) {
        Some(copy) => &copy.place.host,
        None => &converge.host,
    }
}
