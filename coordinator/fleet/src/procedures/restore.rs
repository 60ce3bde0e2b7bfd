//! Restoring a backup: as a new tenant, or in the place of what the tenant has. Room is made for it, its host fills it, then it starts.
//!
//! A new tenant that has not started nobody can have used: going back removes it as if it had never been, and the tenant that was
//! backed up is not touched. In its place the tenant is stopped, and what it has is set aside by renaming: going back puts that there
//! again, until the tenant is well with what was restored, and for some time after that for whoever asks for it. Nothing of it is removed before that time is over.
//! Not here: from which backup (backups/restore), filling (the agent's job).

use isyone_types::{plan::Lifecycle, report::JobState};

use super::{Advance, Effect, Scene, UNHEALTHY_PATIENCE_MS, waiting};
use crate::operation::{Procedure, Restoration, RestoreStage};

pub(super) fn advance(scene: &Scene<'_>, restoration: &Restoration) -> Advance {
    let host = &restoration.host;
    let seen = scene.converged(host, restoration.generation);
    let next = |stage: RestoreStage, effects: Vec<Effect>, detail: String| Advance::Next {
        procedure: Procedure::Restore(Box::new(Restoration {
            stage,
            ..restoration.clone()
        })),
        effects,
        detail,
    };
    let (fleet, destinations) = (&scene.state.fleet, &scene.settings.backups.destinations);
    match restoration.stage {
        RestoreStage::Stop if seen.is_some() => {
            next(RestoreStage::Prepare, vec![Effect::SetAside], String::new())
        }
        RestoreStage::Stop => hopeless(scene, restoration).unwrap_or_else(|| scene.wait_for(host)),
        RestoreStage::Prepare if seen.is_some() => {
            next(RestoreStage::Fetch, vec![Effect::TouchHosts], String::new())
        }
        RestoreStage::Prepare => {
            hopeless(scene, restoration).unwrap_or_else(|| scene.wait_for(host))
        }
        RestoreStage::Fetch if !fleet.backup_keys.contains_key(&restoration.source_uid) => {
            Advance::GoBack(format!(
                "the key of the backups of `{}` is gone: nobody can read them any more",
                restoration.source
            ))
        }
        RestoreStage::Fetch if !destinations.contains_key(&restoration.point.destination) => {
            Advance::GoBack(format!(
                "the destination {} is not configured any more",
                restoration.point.destination
            ))
        }
        RestoreStage::Fetch => {
            let job = scene.state.observed.job(host, scene.operation.id);
            match job {
                Some(job) if job.state == JobState::Done => next(
                    RestoreStage::Start,
                    vec![Effect::Release],
                    format!("{} MiB; {}", job.bytes_done >> 20, job.message),
                ),
                Some(job) if job.state == JobState::Failed => {
                    Advance::GoBack(format!("restoring failed: {}", job.message))
                }
                job => hopeless(scene, restoration)
                    .unwrap_or_else(|| Advance::Wait(waiting::for_job(scene, host, job))),
            }
        }
        RestoreStage::Start if seen.is_some() => {
            let kept = restoration.in_place.then_some(Effect::KeepAside);
            next(
                RestoreStage::Route,
                kept.into_iter().collect(),
                String::new(),
            )
        }
        RestoreStage::Start => scene.wait_for(host),
        RestoreStage::Route => scene.route(),
        RestoreStage::Back if is_back(scene, restoration) => Advance::BackDone,
        RestoreStage::Back => scene.wait_for(host),
    }
}

fn is_back(scene: &Scene<'_>, restoration: &Restoration) -> bool {
    let host = &restoration.host;
    let seen = scene.converged(host, restoration.generation);
    // One that is purged is gone only when nothing of it is left.
    let is_purged = scene.tenant.desired == Lifecycle::Purged;
    // It is what it was, which was not well: that may be why it was to be restored.
    let since = scene.operation.stage_since.max(scene.state.started_at);
    let has_tried = scene.now.saturating_sub(since) >= UNHEALTHY_PATIENCE_MS;
    let is_as_bad = scene.blocked(host).is_some() || has_tried && scene.failing(host).is_some();
    seen.is_some_and(|seen| !is_purged || seen.report.absent) || restoration.in_place && is_as_bad
}

/// Back, where the host says that what it was asked to make can never be unless a person acts there.
fn hopeless(scene: &Scene<'_>, restoration: &Restoration) -> Option<Advance> {
    let host = &restoration.host;
    let why = scene.blocked(host)?;
    let then = match restoration.in_place {
        true => "It is what it was".to_owned(),
        false => format!("What host {host} has made for it is removed; then restore it again"),
    };
    Some(Advance::GoBack(format!(
        "host {host} cannot hold it: {why}. {then}"
    )))
}
