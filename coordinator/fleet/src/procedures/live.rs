//! Moving a tenant that runs: the new host brings a copy and keeps it up (PostgreSQL by streaming, files in passes) until so little is
//! missing that the tenant's pause fits what was allowed. Only then is it stopped, with its requests held at the old host's relay; the
//! rest comes, both ends are compared, and from the fence on it is a move like any other, but that the held requests go on to the new
//! host when it answers.
//!
//! The way back is cheap until the fence: the old host has everything, and starts what it has. So a pause that gets too long is ended
//! that way, rather than borne. Not here: the stages that all moves have (relocate), how a copy is kept up (the agents' jobs).

use isyone_types::report::{JobReport, JobState};

use super::{
    Advance, Effect, Scene, Waiting,
    relocate::{advance_to, hopeless, is_silent, peer_address},
    waiting,
};
use crate::{
    observed::TenantObserved,
    operation::{Live, MoveStage, Relocation, deadline_ms},
};

/// How long requests under way are waited for before the tenant is stopped, milliseconds. Its host lets new ones in again between
/// attempts, so this is no pause; but who never comes to an end keeps a move of that host waiting.
const QUIET_MS: i64 = 15 * 60_000;
/// What the rest of a copy may take beyond the pause that was allowed before the tenant goes on where it was, milliseconds: an
/// exchange of messages, on a busy machine.
const SLACK_MS: i64 = 3_000;
/// How long requests are held at most beyond the pause that was allowed, milliseconds: also while the new host starts more slowly than
/// was expected, as who waits is served in the end, and who is sent away is not.
const HOLD_MS: u32 = 30_000;

/// The new host has made room: it may begin.
pub(super) fn begin(scene: &Scene<'_>, relocation: &Relocation) -> Advance {
    let begun = Relocation {
        source: peer_address(scene.state, &relocation.from),
        leave_until: scene.now.saturating_add(deadline_ms(scene.operation.kind)),
        ..relocation.clone()
    };
    advance_to(&begun, MoveStage::Follow, vec![Effect::TouchHosts], "")
}

/// The tenant runs, and its copy is brought and kept up.
pub(super) fn follow(scene: &Scene<'_>, relocation: &Relocation, live: &Live) -> Advance {
    let Relocation { from, to, .. } = relocation;
    let job = scene.state.observed.job(to, scene.operation.id);
    if let Some(failed) = job.filter(|job| job.state == JobState::Failed) {
        return Advance::GoBack(format!("copying failed: {}", failed.message));
    }
    if scene.now >= relocation.leave_until {
        return Advance::GoBack(too_long(job, live));
    }
    let Some(estimate) = job.and_then(estimate) else {
        let waiting = || Advance::Wait(waiting::for_job(scene, to, job));
        return hopeless(scene, relocation).unwrap_or_else(waiting);
    };
    // While one of them is not heard, nothing is stopped for the other.
    for host in [from, to] {
        if is_silent(scene, host) {
            return scene.wait_for(host);
        }
    }
    if estimate > live.max_pause_ms {
        return Advance::Wait(Waiting::Pause {
            host: to.clone(),
            estimate_ms: estimate,
            allowed_ms: live.max_pause_ms,
        });
    }
    let held = Relocation {
        live: Some(Live {
            held_at: Some(scene.now),
            ..live.clone()
        }),
        ..relocation.clone()
    };
    let most_ms = live.max_pause_ms.saturating_add(HOLD_MS);
    let detail = format!("a pause of {} is expected", seconds(i64::from(estimate)));
    let effects = vec![Effect::Hold { most_ms }];
    advance_to(&held, MoveStage::Stop, effects, &detail)
}

/// How long the tenant would pause now, if its copy is that far.
fn estimate(job: &JobReport) -> Option<u32> {
    job.pause_ms.filter(|_| job.state == JobState::Running)
}

/// Whether a move waits until less is missing of its copy than its pause allows.
pub(super) fn is_too_far(relocation: &Relocation, job: &JobReport) -> bool {
    let live = relocation.live.as_ref();
    let live = live.filter(|_| relocation.stage == MoveStage::Follow);
    live.is_some_and(|live| estimate(job).is_some_and(|ms| ms > live.max_pause_ms))
}

fn too_long(job: Option<&JobReport>, live: &Live) -> String {
    let allowed = seconds(i64::from(live.max_pause_ms));
    match job.and_then(estimate) {
        Some(ms) => format!(
            "for a day the pause would have been longer than the {allowed} that were allowed (at last {}): allow more with \
             `--max-pause`, or choose a quieter hour",
            seconds(i64::from(ms))
        ),
        None => {
            "copying took longer than a day; look at the network between the two hosts".to_owned()
        }
    }
}

/// Why a tenant that is stopped, or about to be, goes on where it was; `None`: it may take as long yet.
pub(super) fn overdue(scene: &Scene<'_>, relocation: &Relocation) -> Option<Advance> {
    let live = relocation.live.as_ref()?;
    let since = scene.now - scene.operation.stage_since;
    let from = &relocation.from;
    match relocation.stage {
        MoveStage::Stop if since >= QUIET_MS => Some(Advance::GoBack(format!(
            "requests that were under way on host {from} did not end within {} min",
            QUIET_MS / 60_000
        ))),
        MoveStage::Copy if since >= i64::from(live.max_pause_ms) + SLACK_MS => {
            Some(Advance::GoBack(format!(
                "the rest of the copy did not come within {}; the tenant goes on where it was",
                seconds(i64::from(live.max_pause_ms) + SLACK_MS)
            )))
        }
        _ => None,
    }
}

/// The old host has stopped it, and says since when it holds those who come: while it waited for requests under way it served others
/// in between.
pub(super) fn held(
    scene: &Scene<'_>,
    relocation: &Relocation,
    stopped: Option<&TenantObserved>,
) -> Relocation {
    let held_ms = stopped.map_or(0, |seen| seen.report.held_ms);
    let live = relocation.live.as_ref().filter(|_| held_ms > 0);
    let Some(live) = live else {
        return relocation.clone();
    };
    let since = scene.now - i64::from(held_ms);
    Relocation {
        live: Some(Live {
            held_at: live.held_at.map(|decided| decided.max(since)),
            ..live.clone()
        }),
        ..relocation.clone()
    }
}

/// The new host answers: who was held goes on to it.
pub(super) fn pass_on(scene: &Scene<'_>, relocation: &Relocation, live: &Live) -> Advance {
    let began = live.held_at.unwrap_or(scene.now);
    let paused = seconds((scene.now - began).max(0));
    let detail = format!("paused for {paused} at most");
    advance_to(relocation, MoveStage::Route, vec![Effect::PassOn], &detail)
}

/// To a tenth of a second.
pub(super) fn seconds(ms: i64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_in_words() {
        assert_eq!(seconds(0), "0.0 s");
        assert_eq!(seconds(1_990), "1.9 s");
        assert_eq!(seconds(61_000), "61.0 s");
    }
}
