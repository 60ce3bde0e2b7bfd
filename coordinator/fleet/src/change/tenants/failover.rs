//! A tenant whose host is lost goes on where its standby is, on an operator's word that the lost host runs it no more.
//!
//! What the standby lacks is lost with the host, so long as that is; it is said before. The copy on the lost host is fenced by a higher
//! epoch: when the host comes back, it lets go and keeps the data aside. Not here: hosts that are lost (liveness), and planned moves.

use std::sync::Arc;

use isyone_types::{
    ids::{HostName, TenantName},
    plan::{Lifecycle, Role},
    report::{Behind, JobReport, JobState, Which},
};
use uuid::Uuid;

use super::{Edit, wrong_state};
use crate::{
    change::{ChangeError, Outcome, done_step},
    desired::{CopyRole, Standby, Tenant},
    liveness::HostState,
    observed::CopyObserved,
    operation::{MoveStage, Operation, OperationKind, Procedure, Relocation},
    procedures::Effect,
    views,
};

/// That the host where a tenant lives runs it no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::change) enum Proof {
    /// Whoever asks has made sure of it.
    Word,
    /// The tenant's lease is over there.
    Lease,
    /// There is none: it is refused, and said what would be lost.
    None,
}

impl Edit<'_> {
    /// Ends what is under way, and changes nothing where it is refused. `how`: also whether what has no standby is restored from a backup.
    pub(in crate::change) fn fail_over(
        &mut self,
        name: &TenantName,
        how: (Proof, bool),
        request_id: Option<String>,
    ) -> Result<Outcome, ChangeError> {
        self.all_or_nothing(|edit| edit.go_on_elsewhere(name, how, request_id))
    }

    fn go_on_elsewhere(
        &mut self,
        name: &TenantName,
        (proof, from_backup): (Proof, bool),
        request_id: Option<String>,
    ) -> Result<Outcome, ChangeError> {
        if let Some(operation) =
            self.repeated(&[OperationKind::Move], name, request_id.as_deref())?
        {
            return Ok(Outcome::Operation(operation));
        }
        let tenant = self.living(name)?;
        let running = self.running(&tenant);
        if let Some(running) = &running {
            match &running.procedure {
                Procedure::Move(way) if way.stage == MoveStage::Fence => {
                    return self.go_on_unfenced(name, running, way, proof);
                }
                // It comes back from a backup already.
                Procedure::Move(way) if way.backup.is_some() => {
                    return Ok(Outcome::Operation(running.clone()));
                }
                Procedure::Restore(_) => {
                    let problem = format!(
                        "is being restored (operation {}): what follows it lacks that",
                        running.id
                    );
                    return Err(wrong_state(name, problem));
                }
                Procedure::Move(_) | Procedure::Converge(_) => {}
            }
        }
        self.make_way(&tenant, OperationKind::Move);
        let tenant = self.living(name)?;
        let silent_ms = self.check_lost(&tenant)?;
        let job = running.map(|running| running.id);
        match tenant.standby() {
            Some(_) => self.go_on_from_standby(tenant, (silent_ms, job), proof, request_id),
            None if from_backup => self.restore_elsewhere(tenant, silent_ms, proof, request_id),
            None => {
                let instead = instead(&tenant, &tenant.placement.host);
                Err(wrong_state(name, format!("has no standby. {instead}")))
            }
        }
    }

    /// `job`: of an operation that was going over to it until now.
    fn go_on_from_standby(
        &mut self,
        mut tenant: Tenant,
        (silent_ms, job): (i64, Option<Uuid>),
        proof: Proof,
        request_id: Option<String>,
    ) -> Result<Outcome, ChangeError> {
        let name = &tenant.name.clone();
        let from = tenant.placement.host.clone();
        let is_over = self.lease_is_over(&tenant);
        let Some((place, standby)) = tenant.standby() else {
            let problem = format!("has no standby. {}", instead(&tenant, &from));
            return Err(wrong_state(name, problem));
        };
        let to = place.host.clone();
        // What was going over to its standby was kept up by the move's own job until now.
        let jobs = [Some(standby.job), job];
        let known = |id: Uuid| self.state.observed.job(&to, id).is_some();
        let id = jobs.into_iter().flatten().find(|id| known(*id));
        let of = Of {
            host: &to,
            standby,
            job: id.and_then(|id| self.state.observed.job(&to, id)),
            behind: id.and_then(|id| views::behind(self.state, &to, id, self.stamp.now)),
        };
        self.check_usable(&tenant, &of)?;
        let mut lost = lost(&from, silent_ms, &of);
        if is_over {
            lost.push_str(&format!(
                ". Host {from} runs it no more: nobody has let it go on for as long as its lease lasts"
            ));
        }
        let is_proven = proof == Proof::Word || proof == Proof::Lease && is_over;
        if !is_proven && !is_planted() {
            let problem = format!(
                "goes on from host {to} only if host {from} runs it no more, which nobody here can know: switch that machine off, or \
                 cut it off, and say so (`--is-down`). {lost}"
            );
            return Err(wrong_state(name, problem));
        }
        let log = vec![done_step("place", lost, self.stamp.now)];
        // Its host may have let it go on since it last said when it did. Where somebody vouches for it, that is of no meaning.
        let lease = of.standby.takes_over_after_ms;
        let lease = lease.filter(|_| proof == Proof::Lease);
        self.goes_on_from(&mut tenant, &to, lease.unwrap_or(0));
        tenant.operation = self.stamp.id;
        let relocation = Relocation {
            from,
            to,
            generation: tenant.generation,
            stage: MoveStage::Start,
            source: None,
            leave_until: self.stamp.now,
            copying_since: None,
            live: None,
            lost: true,
            backup: None,
        };
        let procedure = Procedure::Move(relocation.clone());
        let operation = self.begin(OperationKind::Move, &tenant, procedure, request_id, log);
        self.take_over(&tenant, &relocation, "");
        self.drive(operation.id);
        let driven = self.state.fleet.operations.get(&operation.id).cloned();
        Ok(Outcome::Operation(driven.unwrap_or(operation)))
    }

    /// The standby on host `to` is the copy that is to run, in an epoch that no copy has had.
    fn goes_on_from(&self, tenant: &mut Tenant, to: &HostName, lease_over_ms: u32) {
        let epoch = tenant.next_epoch();
        tenant.last_epoch = epoch;
        let from = tenant.placement.host.clone();
        for copy in tenant.copies.iter_mut().filter(|c| c.place.host == *to) {
            copy.role = CopyRole::Incoming;
            (copy.place.epoch, copy.place.at) = (epoch, self.stamp.now);
            (copy.place.as_it_is, copy.place.lease_over_ms) = (true, lease_over_ms);
            copy.place.reason = format!("{to}: its standby took over from {from}").into();
        }
        (tenant.halted, tenant.hold_ms) = (false, None);
        tenant.generation += 1;
        tenant.let_go();
    }

    /// A tenant that has left the lost host, but for a last word from there. It was stopped there, and that is in that host's ledger: only
    /// a coordinator of before the move could have it start there.
    fn go_on_unfenced(
        &mut self,
        name: &TenantName,
        running: &Arc<Operation>,
        way: &Relocation,
        proof: Proof,
    ) -> Result<Outcome, ChangeError> {
        let from = &way.from;
        let (judged, _) = views::host_state(self.state, self.settings, from, self.stamp.now);
        if judged != HostState::Lost {
            return Err(wrong_state(
                name,
                format!(
                    "moves to host {}, and host {from}, which is not lost, has yet to let go",
                    way.to
                ),
            ));
        }
        if proof != Proof::Word {
            return Err(wrong_state(
                name,
                format!(
                    "was stopped on host {from}, which has yet to say that it lets go, and is complete on host {}: nothing would be lost. \
                     Switch that machine off, or cut it off, and say so (`--is-down`)",
                    way.to
                ),
            ));
        }
        let next = Procedure::Move(Relocation {
            stage: MoveStage::Start,
            ..way.clone()
        });
        let detail = format!("host {from} is lost");
        self.transition(running, next, &[Effect::Release], &detail);
        self.drive(running.id);
        let driven = self.state.fleet.operations.get(&running.id).cloned();
        Ok(Outcome::Operation(
            driven.unwrap_or_else(|| running.clone()),
        ))
    }

    /// For how long its host was not heard, milliseconds; an error where that is not lost.
    fn check_lost(&self, tenant: &Tenant) -> Result<i64, ChangeError> {
        let host = &tenant.placement.host;
        let (judged, silent_ms) =
            views::host_state(self.state, self.settings, host, self.stamp.now);
        if tenant.desired != Lifecycle::Running {
            let problem = "does not run: resume it where it is when its host is back";
            return Err(wrong_state(&tenant.name, problem.to_owned()));
        }
        if judged != HostState::Lost && !self.lease_is_over(tenant) && !is_planted() {
            let problem = format!(
                "is on host {host}, which is not lost: `isyctl tenant move {} --to HOST --max-pause 5s` goes over to a standby without a \
                 loss",
                tenant.name
            );
            return Err(wrong_state(&tenant.name, problem));
        }
        Ok(silent_ms)
    }

    /// Refuses a standby that is not whole, or does not run. One that is not kept up any more may take over with what it has: that is
    /// more than nothing, and how old it is, is said.
    fn check_usable(&self, tenant: &Tenant, of: &Of<'_>) -> Result<(), ChangeError> {
        let (from, to) = (&tenant.placement.host, of.host);
        let (judged, _) = views::host_state(self.state, self.settings, to, self.stamp.now);
        let is_up = matches!(views::copy(self.state, tenant, to), CopyObserved::Present(seen)
            if seen.report.containers.iter().any(|c| c.which == Which::Its(Role::Postgres) && c.state == *"running"));
        let problem = if views::is_silent(judged) {
            format!("has its standby on host {to}, which is silent, too")
        } else if of.standby.anew {
            format!(
                "has a standby on host {to} that could not go on, and was let go to be made anew. {}",
                instead(tenant, from)
            )
        } else if !of.job.is_some_and(|job| job.filled) {
            format!(
                "has a standby on host {to} that is not filled yet: what is there is no whole copy. {}",
                instead(tenant, from)
            )
        } else if !is_up {
            format!(
                "has a standby on host {to} whose PostgreSQL does not run: look there (`isyctl tenant show {}`)",
                tenant.name
            )
        } else {
            return Ok(());
        };
        Err(wrong_state(&tenant.name, problem))
    }
}

/// A standby, and what its host last said of it.
struct Of<'a> {
    host: &'a HostName,
    standby: &'a Standby,
    job: Option<&'a JobReport>,
    behind: Option<Behind>,
}

/// What is done where there is nothing to take over.
fn instead(tenant: &Tenant, from: &HostName) -> String {
    format!(
        "Its data is on host {from}: repair that, or restore its newest backup as another tenant (`isyctl tenant restore {} --as NAME`)",
        tenant.name
    )
}

/// Whether it is tried if tests find what takes over without a proof.
fn is_planted() -> bool {
    #[cfg(feature = "planted")]
    return crate::planted::has(crate::planted::Bug::PromotedUnfenced);
    #[cfg(not(feature = "planted"))]
    false
}

/// What is lost, in words.
fn lost(from: &HostName, silent_ms: i64, of: &Of<'_>) -> String {
    let silent = silent_ms / 1000;
    let mut said = match of.behind {
        None => format!(
            "Host {from} was last heard {silent} s ago; how far the standby was behind it is not known any more"
        ),
        Some(behind) => format!(
            "Host {from} was last heard {silent} s ago. Its standby has all of the log of {}.{} s ago ({} bytes more were known to be \
             written), and files of {} s ago; what was written later is lost",
            behind.ms / 1000,
            behind.ms % 1000 / 100,
            behind.bytes,
            behind.files_ms / 1000
        ),
    };
    if let Some(unlogged) = of.behind.map(|b| b.unlogged).filter(|count| *count > 0) {
        said.push_str(&format!(
            ", and so is what was in {unlogged} of its tables, which are UNLOGGED"
        ));
    }
    if let Some(failed) = of.job.filter(|job| job.state == JobState::Failed) {
        said.push_str(&format!(". It is not kept up any more: {}", failed.message));
    }
    said
}
