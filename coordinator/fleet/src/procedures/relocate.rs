//! Moving a tenant to another host by stopping, copying and starting it: the plain way, for tenants that may be down
//! for as long as copying takes, and for those that are stopped anyway.
//!
//! At every moment at most one copy may run. Up to the point of no return that is the old one: it is only halted, and
//! going back starts it again. Then the old copy is fenced under a new epoch, and only when its host has recorded that may
//! the new one start: the old host refuses every plan of before, even one of a coordinator that was rebuilt from a state
//! in the midst of this move.
//! Not here: copying (the agents' jobs).

use std::net::SocketAddr;

use isyone_types::{ids::HostName, report::JobState};

use super::{Advance, Effect, Scene, waiting};
use crate::operation::{MoveStage, Procedure, Relocation, deadline_ms};

pub(super) fn advance(scene: &Scene<'_>, relocation: &Relocation) -> Advance {
    let Relocation {
        from,
        to,
        generation,
        ..
    } = relocation;
    let converged = |host: &HostName| scene.converged(host, *generation).is_some();
    let next = |stage: MoveStage, effects: Vec<Effect>| Advance::Next {
        procedure: Procedure::Move(Relocation {
            stage,
            ..relocation.clone()
        }),
        effects,
        detail: String::new(),
    };
    match relocation.stage {
        MoveStage::Prepare if converged(to) => next(MoveStage::Stop, vec![Effect::Halt]),
        MoveStage::Prepare => scene.wait_for(to),
        MoveStage::Stop if converged(from) => begin_copying(scene, relocation),
        MoveStage::Stop => scene.wait_for(from),
        MoveStage::Copy => copy(scene, relocation),
        // A host that is gone for good was removed, and what it kept with it.
        MoveStage::Fence if converged(from) || scene.tenant.copy_on(from).is_none() => {
            next(MoveStage::Start, vec![Effect::Release])
        }
        MoveStage::Fence => scene.wait_for(from),
        MoveStage::Start if converged(to) => next(MoveStage::Route, Vec::new()),
        MoveStage::Start => scene.wait_for(to),
        MoveStage::Route => scene.route(),
        // The new host may be gone for good; its copy is removed whenever it comes back.
        MoveStage::Back if converged(from) => Advance::BackDone,
        MoveStage::Back => scene.wait_for(from),
    }
}

/// The address and the end of the leave are recorded, because both hosts' plans show them.
fn begin_copying(scene: &Scene<'_>, relocation: &Relocation) -> Advance {
    Advance::Next {
        procedure: Procedure::Move(Relocation {
            stage: MoveStage::Copy,
            source: peer_address(scene, &relocation.from),
            leave_until: scene.now.saturating_add(deadline_ms(scene.operation.kind)),
            ..relocation.clone()
        }),
        effects: vec![Effect::TouchHosts],
        detail: String::new(),
    }
}

fn peer_address(scene: &Scene<'_>, host: &HostName) -> Option<SocketAddr> {
    let address = scene.state.fleet.hosts.get(host)?.advertise;
    let port = scene.state.observed.hosts.get(host)?.hello.peer_port?;
    Some(SocketAddr::new(address, port))
}

fn copy(scene: &Scene<'_>, relocation: &Relocation) -> Advance {
    let job = scene.state.observed.job(&relocation.to, scene.operation.id);
    match job {
        Some(job) if job.state == JobState::Done => Advance::Next {
            procedure: Procedure::Move(Relocation {
                stage: MoveStage::Fence,
                ..relocation.clone()
            }),
            effects: vec![Effect::TakeOver {
                left_behind: job.message.clone(),
            }],
            detail: match job.message.as_str() {
                "" => format!("{} MiB", job.bytes_done >> 20),
                left => format!("{} MiB; {left}", job.bytes_done >> 20),
            },
        },
        Some(job) if job.state == JobState::Failed => {
            Advance::GoBack(format!("copying failed: {}", job.message))
        }
        _ if scene.now >= relocation.leave_until => Advance::GoBack(
            "copying took longer than a day; look at the network between the two hosts".to_owned(),
        ),
        job => Advance::Wait(waiting::for_job(scene, &relocation.to, job)),
    }
}
