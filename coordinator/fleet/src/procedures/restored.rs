//! A tenant whose host is lost comes back from its newest backup on another host.
//!
//! Until all of it is there nothing has changed for the tenant: should its host be heard again, it goes on where it was, with what it has.
//! From then on it is a move like any other from a host that is lost. Not here: from which backup, and that the host is down (change).

use isyone_types::report::JobState;

use super::{
    Advance, Effect, Scene,
    relocate::{advance_to, hopeless, is_silent},
    waiting,
};
use crate::operation::{MoveStage, Relocation, deadline_ms};

pub(super) fn advance(scene: &Scene<'_>, relocation: &Relocation) -> Advance {
    let Relocation {
        from,
        to,
        generation,
        ..
    } = relocation;
    let is_ready = scene.converged(to, *generation).is_some();
    let is_back = relocation.stage < MoveStage::Fence && !is_silent(scene, from);
    match relocation.stage {
        MoveStage::Back => Advance::BackDone,
        _ if is_back => Advance::GoBack(format!(
            "host {from} is heard again: the tenant goes on there, with all that it has"
        )),
        MoveStage::Prepare if is_ready => {
            let begun = Relocation {
                leave_until: scene.now.saturating_add(deadline_ms(scene.operation.kind)),
                ..relocation.clone()
            };
            advance_to(&begun, MoveStage::Copy, vec![Effect::TouchHosts], "")
        }
        MoveStage::Prepare => hopeless(scene, relocation).unwrap_or_else(|| scene.wait_for(to)),
        MoveStage::Follow | MoveStage::Stop | MoveStage::Copy => fetch(scene, relocation),
        MoveStage::Fence => advance_to(relocation, MoveStage::Start, vec![Effect::Release], ""),
        MoveStage::Start if is_ready => advance_to(relocation, MoveStage::Route, Vec::new(), ""),
        MoveStage::Start => scene.wait_for(to),
        MoveStage::Route => scene.route(),
    }
}

fn fetch(scene: &Scene<'_>, relocation: &Relocation) -> Advance {
    let job = scene.state.observed.job(&relocation.to, scene.operation.id);
    match job {
        Some(job) if job.state == JobState::Done => {
            let detail = format!("{} MiB; {}", job.bytes_done >> 20, job.message);
            let left_behind = String::new();
            let effects = vec![Effect::TakeOver { left_behind }, Effect::Release];
            advance_to(relocation, MoveStage::Start, effects, &detail)
        }
        Some(job) if job.state == JobState::Failed => {
            Advance::GoBack(format!("restoring failed: {}", job.message))
        }
        _ if scene.now >= relocation.leave_until => {
            Advance::GoBack("restoring took longer than a day".to_owned())
        }
        job => {
            let waiting = || Advance::Wait(waiting::for_job(scene, &relocation.to, job));
            hopeless(scene, relocation).unwrap_or_else(waiting)
        }
    }
}
