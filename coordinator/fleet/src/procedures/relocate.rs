//! Moving a tenant to another host by stopping, copying and starting it: the plain way, for tenants that may be down
//! for as long as copying takes, and for those that are stopped anyway.
//!
//! At every moment at most one copy may run. Up to the point of no return that is the old one: it is only halted, and
//! going back starts it again. Then the old copy is fenced under a new epoch, and only when its host has recorded that may
//! the new one start: the old host refuses every plan of before, even one of a coordinator that was rebuilt from a state
//! in the midst of this move.
//! Not here: copying (the agents' jobs).

use std::net::SocketAddr;

use isyone_types::{
    ids::HostName,
    report::{JobReport, JobState},
};
use uuid::Uuid;

use super::{Advance, Effect, Scene, Waiting, live, restored, waiting};
#[cfg(feature = "planted")]
use crate::planted;
use crate::{
    operation::{MoveStage, Procedure, Relocation, deadline_ms},
    state::State,
    views,
};

/// Moves from or to a host that may have stopped their tenants at a time: as many as an agent copies at once.
pub const MOVES_AT_ONCE: usize = 2;
/// A job that has waited for less than this before it ran keeps its end, milliseconds: both hosts' plans would change for
/// nothing.
const WAITED_MS: i64 = 60_000;

pub(super) fn advance(scene: &Scene<'_>, relocation: &Relocation) -> Advance {
    let Relocation {
        from,
        to,
        generation,
        live,
        ..
    } = relocation;
    let converged = |host: &HostName| scene.converged(host, *generation).is_some();
    let next = |stage: MoveStage, effects: Vec<Effect>| advance_to(relocation, stage, effects, "");
    if relocation.backup.is_some() {
        return restored::advance(scene, relocation);
    }
    match (relocation.stage, live) {
        (MoveStage::Prepare, _) if converged(to) => match (queue(scene, relocation), live) {
            (Some(waiting), _) => Advance::Wait(waiting),
            (None, Some(_)) => live::begin(scene, relocation),
            (None, None) => next(MoveStage::Stop, vec![Effect::Halt]),
        },
        (MoveStage::Prepare, _) => {
            hopeless(scene, relocation).unwrap_or_else(|| scene.wait_for(to))
        }
        (MoveStage::Follow, Some(live)) => live::follow(scene, relocation, live),
        // No version has written that.
        (MoveStage::Follow, None) => next(MoveStage::Stop, vec![Effect::Halt]),
        (MoveStage::Stop, _) if converged(from) => {
            let stopped = scene.converged(from, *generation);
            begin_copying(scene, &live::held(scene, relocation, stopped))
        }
        (MoveStage::Stop, _) => {
            live::overdue(scene, relocation).unwrap_or_else(|| scene.wait_for(from))
        }
        (MoveStage::Copy, _) => copy(scene, relocation),
        // A host that is gone for good was removed, and what it kept with it.
        (MoveStage::Fence, _) if converged(from) || scene.tenant.copy_on(from).is_none() => {
            next(MoveStage::Start, vec![Effect::Release])
        }
        (MoveStage::Fence, _) => scene.wait_for(from),
        (MoveStage::Start, Some(live)) if converged(to) => live::pass_on(scene, relocation, live),
        (MoveStage::Start, None) if converged(to) => next(MoveStage::Route, Vec::new()),
        (MoveStage::Start, _) => scene.wait_for(to),
        (MoveStage::Route, _) => scene.route(),
        // The new host may be gone for good; its copy is removed whenever it comes back.
        (MoveStage::Back, _) if converged(from) => Advance::BackDone,
        (MoveStage::Back, _) => scene.wait_for(from),
    }
}

/// The next stage of a move.
pub(super) fn advance_to(
    relocation: &Relocation,
    stage: MoveStage,
    effects: Vec<Effect>,
    detail: &str,
) -> Advance {
    Advance::Next {
        procedure: Procedure::Move(Relocation {
            stage,
            ..relocation.clone()
        }),
        effects,
        detail: detail.to_owned(),
    }
}

/// Back, where the new host says that its copy can never come unless a person acts there: until then the tenant is better off
/// where it lives.
pub(super) fn hopeless(scene: &Scene<'_>, relocation: &Relocation) -> Option<Advance> {
    let Relocation { from, to, .. } = relocation;
    let why = scene.blocked(to)?;
    let name = &scene.tenant.name;
    Some(Advance::GoBack(format!(
        "host {to} cannot hold a copy of tenant {name}: {why}. The tenant stays on host {from}, and what host {to} has made for it \
         is removed; then move it again"
    )))
}

/// Why a tenant whose place is made is not stopped yet: it runs on until it is its turn, rather than wait for others' copies
/// while it is down. Nor is it stopped while one of its hosts is silent.
fn queue(scene: &Scene<'_>, relocation: &Relocation) -> Option<Waiting> {
    let hosts = [&relocation.to, &relocation.from];
    let is_known = |host: &HostName| {
        let seen = scene.state.observed.hosts.get(host);
        seen.is_some_and(|seen| seen.reported_at.is_some()) && !is_silent(scene, host)
    };
    if let Some(silent) = hosts.iter().find(|host| !is_known(host)) {
        return Some(waiting::for_host(scene, silent));
    }
    let is_full = |host: &&&HostName| {
        let there = scene.state.fleet.copying_at(host);
        let in_turn = there.filter(|id| takes_a_turn(scene, id, host));
        in_turn.take(MOVES_AT_ONCE).count() == MOVES_AT_ONCE
    };
    let full = hosts.iter().find(is_full)?;
    Some(Waiting::Queued((*full).clone()))
}

/// Whether another move that has stopped its tenant takes a turn of this host. One that is held up by the host at its other
/// end keeps nobody waiting here; whoever goes the same way waits for it there. Nor does one that waits for a quieter moment.
fn takes_a_turn(scene: &Scene<'_>, id: &Uuid, host: &HostName) -> bool {
    let other = scene.state.fleet.operations.get(id);
    let Some(Procedure::Move(other)) = other.map(|other| &other.procedure) else {
        return false;
    };
    let job = scene.state.observed.job(&other.to, *id);
    if job.is_some_and(|job| live::is_too_far(other, job)) {
        return false;
    }
    if other.from == *host {
        return !is_silent(scene, &other.to);
    }
    let held_up = job.is_some_and(|job| job.state == JobState::Retrying);
    !held_up && !is_silent(scene, &other.from)
}

pub(super) fn is_silent(scene: &Scene<'_>, host: &HostName) -> bool {
    let (judged, _) = views::host_state(scene.state, scene.settings, host, scene.now);
    views::is_silent(judged)
}

/// The address and the end of the leave are recorded, because both hosts' plans show them.
fn begin_copying(scene: &Scene<'_>, relocation: &Relocation) -> Advance {
    Advance::Next {
        procedure: Procedure::Move(Relocation {
            stage: MoveStage::Copy,
            source: peer_address(scene.state, &relocation.from),
            leave_until: scene.now.saturating_add(deadline_ms(scene.operation.kind)),
            ..relocation.clone()
        }),
        effects: vec![Effect::TouchHosts],
        detail: String::new(),
    }
}

/// Where other hosts' agents reach a host's.
pub fn peer_address(state: &State, host: &HostName) -> Option<SocketAddr> {
    let address = state.fleet.hosts.get(host)?.advertise;
    let port = state.observed.hosts.get(host)?.hello.peer_port?;
    Some(SocketAddr::new(address, port))
}

fn copy(scene: &Scene<'_>, relocation: &Relocation) -> Advance {
    let job = scene.state.observed.job(&relocation.to, scene.operation.id);
    #[cfg(feature = "planted")]
    if planted::has(planted::Bug::NotCompared) && relocation.live.is_some() {
        return job.map_or_else(
            || scene.wait_for(&relocation.to),
            |job| has_all(relocation, job),
        );
    }
    match job {
        Some(job) if job.state == JobState::Done => has_all(relocation, job),
        Some(job) if job.state == JobState::Failed => {
            Advance::GoBack(format!("copying failed: {}", job.message))
        }
        job if relocation.live.is_some() => {
            let waiting = || Advance::Wait(waiting::for_job(scene, &relocation.to, job));
            live::overdue(scene, relocation).unwrap_or_else(waiting)
        }
        Some(job) if job.state == JobState::Running && relocation.copying_since.is_none() => {
            count_from_now(scene, relocation)
        }
        Some(job) if job.state == JobState::Waiting && scene.now >= relocation.leave_until => {
            Advance::GoBack(format!(
                "it has waited for a day for its turn on host {}; move fewer tenants there at a time",
                relocation.to
            ))
        }
        Some(job) if job.state == JobState::Retrying && scene.now >= relocation.leave_until => {
            Advance::GoBack(format!(
                "copying took longer than a day; at last host {} said: {}",
                relocation.to, job.message
            ))
        }
        _ if scene.now >= relocation.leave_until => Advance::GoBack(
            "copying took longer than a day; look at the network between the two hosts".to_owned(),
        ),
        job => {
            let waiting = || Advance::Wait(waiting::for_job(scene, &relocation.to, job));
            hopeless(scene, relocation).unwrap_or_else(waiting)
        }
    }
}

/// The copy has all that the tenant had when it was stopped: it may take over.
fn has_all(relocation: &Relocation, job: &JobReport) -> Advance {
    let detail = match job.message.as_str() {
        "" => format!("{} MiB", job.bytes_done >> 20),
        left => format!("{} MiB; {left}", job.bytes_done >> 20),
    };
    let effects = vec![Effect::TakeOver {
        left_behind: job.message.clone(),
    }];
    advance_to(relocation, MoveStage::Fence, effects, &detail)
}

/// A day for copying is one from the moment at which the host has begun, however long others came first.
fn count_from_now(scene: &Scene<'_>, relocation: &Relocation) -> Advance {
    let whole = scene.now.saturating_add(deadline_ms(scene.operation.kind));
    let has_waited = whole - relocation.leave_until > WAITED_MS;
    Advance::Next {
        procedure: Procedure::Move(Relocation {
            copying_since: Some(scene.now),
            leave_until: if has_waited {
                whole
            } else {
                relocation.leave_until
            },
            ..relocation.clone()
        }),
        effects: if has_waited {
            vec![Effect::TouchHosts]
        } else {
            Vec::new()
        },
        detail: String::new(),
    }
}
