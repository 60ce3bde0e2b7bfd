//! Jobs, grants, seeds and spools: orders to a host that go beyond one tenant's stack, and what the host reports of them.
//!
//! Not here: what a job does (the agent), and who orders one (isyone-fleet).

use uuid::Uuid;

use super::{MAX_MESSAGE, backup, parse, parse_optional, shortened, timestamp, unix_ms};
use crate::{
    error::FieldError,
    pb::agent::v1::{self as agent, before, job_order, seed},
    plan::{Before, JobOrder, JobWork, MAX_JOBS_PER_HOST, PeerGrant, Seed, WalSpool},
    report::{Behind, JobReport, JobState},
};

fn bounded<T>(field: &str, list: &[T]) -> Result<(), FieldError> {
    if list.len() > MAX_JOBS_PER_HOST {
        let problem = format!("more than {MAX_JOBS_PER_HOST}");
        return Err(FieldError::new(field, problem));
    }
    Ok(())
}

impl From<&JobOrder> for agent::JobOrder {
    fn from(order: &JobOrder) -> Self {
        let work = match &order.work {
            JobWork::Fetch { from, address } => job_order::Work::Fetch(agent::Fetch {
                from_host: from.to_string(),
                address: address.map(|a| a.to_string()).unwrap_or_default(),
            }),
            JobWork::Backup(make) => job_order::Work::Backup(make.into()),
            JobWork::Restore(restore) => job_order::Work::Restore((&**restore).into()),
            JobWork::Follow {
                from,
                address,
                last,
                standing,
            } => job_order::Work::Follow(agent::Follow {
                from_host: from.to_string(),
                address: address.map(|a| a.to_string()).unwrap_or_default(),
                last: *last,
                standing: *standing,
            }),
            JobWork::Verify(verify) => job_order::Work::Verify((&**verify).into()),
        };
        Self {
            id: order.id.to_string(),
            operation_id: order.operation.to_string(),
            tenant: order.tenant.to_string(),
            tenant_uid: order.uid.to_string(),
            rate_bytes_per_s: order.rate_bytes_per_s,
            work: Some(work),
        }
    }
}

impl TryFrom<agent::JobOrder> for JobOrder {
    type Error = FieldError;
    fn try_from(wire: agent::JobOrder) -> Result<Self, FieldError> {
        let work = match wire.work {
            Some(job_order::Work::Fetch(fetch)) => JobWork::Fetch {
                from: parse("fetch.from_host", &fetch.from_host)?,
                address: parse_optional("fetch.address", &fetch.address)?,
            },
            Some(job_order::Work::Backup(make)) => JobWork::Backup(
                make.try_into()
                    .map_err(|e: FieldError| e.within("backup"))?,
            ),
            Some(job_order::Work::Restore(restore)) => {
                let restore = restore.try_into();
                let restore = restore.map_err(|e: FieldError| e.within("restore"))?;
                JobWork::Restore(Box::new(restore))
            }
            Some(job_order::Work::Follow(follow)) => JobWork::Follow {
                from: parse("follow.from_host", &follow.from_host)?,
                address: parse_optional("follow.address", &follow.address)?,
                last: follow.last,
                standing: follow.standing,
            },
            Some(job_order::Work::Verify(verify)) => {
                let verify = verify.try_into();
                let verify = verify.map_err(|e: FieldError| e.within("verify"))?;
                JobWork::Verify(Box::new(verify))
            }
            None => return Err(FieldError::new("work", "must be set")),
        };
        Ok(Self {
            id: parse("id", &wire.id)?,
            operation: parse("operation_id", &wire.operation_id)?,
            tenant: parse("tenant", &wire.tenant)?,
            uid: parse("tenant_uid", &wire.tenant_uid)?,
            work,
            rate_bytes_per_s: wire.rate_bytes_per_s,
        })
    }
}

/// Parses a plan's jobs; sorted by id, each once.
pub(super) fn orders(wire: Vec<agent::JobOrder>) -> Result<Vec<JobOrder>, FieldError> {
    bounded("jobs", &wire)?;
    let mut orders = wire
        .into_iter()
        .enumerate()
        .map(|(i, o)| JobOrder::try_from(o).map_err(|e| e.within(&format!("jobs[{i}]"))))
        .collect::<Result<Vec<_>, _>>()?;
    orders.sort_by_key(|order| order.id);
    if let Some(pair) = orders.windows(2).find(|pair| pair[0].id == pair[1].id) {
        let problem = format!("{} is there twice", pair[0].id);
        return Err(FieldError::new("jobs", problem));
    }
    Ok(orders)
}

impl From<&PeerGrant> for agent::PeerGrant {
    fn from(grant: &PeerGrant) -> Self {
        Self {
            operation_id: grant.operation.to_string(),
            tenant: grant.tenant.to_string(),
            tenant_uid: grant.uid.to_string(),
            peer: grant.peer.to_string(),
            expire_time: Some(timestamp(grant.expires_at)),
            live: grant.live,
        }
    }
}

impl TryFrom<agent::PeerGrant> for PeerGrant {
    type Error = FieldError;
    fn try_from(wire: agent::PeerGrant) -> Result<Self, FieldError> {
        let expires = wire.expire_time.as_ref();
        Ok(Self {
            operation: parse("operation_id", &wire.operation_id)?,
            tenant: parse("tenant", &wire.tenant)?,
            uid: parse("tenant_uid", &wire.tenant_uid)?,
            peer: parse("peer", &wire.peer)?,
            expires_at: unix_ms(
                expires.ok_or_else(|| FieldError::new("expire_time", "must be set"))?,
            ),
            live: wire.live,
        })
    }
}

/// Parses a plan's grants, in their order.
pub(super) fn grants(wire: Vec<agent::PeerGrant>) -> Result<Vec<PeerGrant>, FieldError> {
    bounded("grants", &wire)?;
    let parsed = wire
        .into_iter()
        .enumerate()
        .map(|(i, g)| PeerGrant::try_from(g).map_err(|e| e.within(&format!("grants[{i}]"))));
    parsed.collect()
}

/// A seed for the wire; `None` where `activated` says it all.
pub(super) fn seed_to_wire(seed: &Seed) -> Option<agent::Seed> {
    let from = match seed {
        Seed::Fresh | Seed::Existing => return None,
        Seed::Backup(id) => seed::From::BackupId(id.to_string()),
        Seed::Peer(host) => seed::From::Peer(host.to_string()),
    };
    Some(agent::Seed { from: Some(from) })
}

/// Parses a seed; `activated` decides where there is none.
pub(super) fn seed(wire: Option<agent::Seed>, activated: bool) -> Result<Seed, FieldError> {
    Ok(match wire.and_then(|wire| wire.from) {
        Some(seed::From::BackupId(id)) => Seed::Backup(parse::<Uuid>("seed.backup_id", &id)?),
        Some(seed::From::Peer(host)) => Seed::Peer(parse("seed.peer", &host)?),
        None if activated => Seed::Existing,
        None => Seed::Fresh,
    })
}

pub(super) fn spool_to_wire(spool: WalSpool) -> agent::WalSpool {
    agent::WalSpool {
        limit_bytes: spool.limit_bytes,
        switch_seconds: spool.switch_s,
    }
}

/// Any number is fine: the host keeps them within its own bounds.
pub(super) fn spool(wire: agent::WalSpool) -> WalSpool {
    WalSpool {
        limit_bytes: wire.limit_bytes,
        switch_s: wire.switch_seconds,
    }
}

impl From<&JobReport> for agent::JobStatus {
    fn from(job: &JobReport) -> Self {
        let state = match job.state {
            JobState::Waiting => agent::JobState::Waiting,
            JobState::Running => agent::JobState::Running,
            JobState::Retrying => agent::JobState::Retrying,
            JobState::Done => agent::JobState::Done,
            JobState::Failed => agent::JobState::Failed,
        };
        Self {
            id: job.id.to_string(),
            state: state.into(),
            bytes_done: job.bytes_done,
            bytes_total: job.bytes_total,
            message: job.message.clone(),
            backup: job.backup.as_deref().map(Into::into),
            backup_fault: backup::fault_to_wire(job.fault),
            pause_ms: job.pause_ms,
            behind: job.behind.map(|behind| agent::Behind {
                bytes: behind.bytes,
                ms: behind.ms,
                files_ms: behind.files_ms,
                unlogged: behind.unlogged,
            }),
            filled: job.filled,
            granted_ms: job.granted_ms,
            proof: job.proof.as_deref().map(Into::into),
        }
    }
}

/// Parses what a host reports of its jobs.
pub(super) fn reports(wire: Vec<agent::JobStatus>) -> Result<Vec<JobReport>, FieldError> {
    bounded("jobs", &wire)?;
    let parse_one = |(i, job): (usize, agent::JobStatus)| {
        let at = |field: &str| format!("jobs[{i}].{field}");
        let state = match job.state() {
            agent::JobState::Waiting => JobState::Waiting,
            agent::JobState::Running => JobState::Running,
            agent::JobState::Retrying => JobState::Retrying,
            agent::JobState::Done => JobState::Done,
            agent::JobState::Failed => JobState::Failed,
            agent::JobState::Unspecified => {
                return Err(FieldError::new(at("state"), "is unknown"));
            }
        };
        Ok(JobReport {
            id: parse(&at("id"), &job.id)?,
            state,
            bytes_done: job.bytes_done,
            bytes_total: job.bytes_total,
            message: shortened(job.message, MAX_MESSAGE),
            fault: backup::fault(job.backup_fault),
            backup: match job.backup {
                Some(made) => {
                    let made = made
                        .try_into()
                        .map_err(|e: FieldError| e.within(&at("backup")))?;
                    Some(Box::new(made))
                }
                None => None,
            },
            pause_ms: job.pause_ms,
            behind: job.behind.map(|behind| Behind {
                bytes: behind.bytes,
                ms: behind.ms,
                files_ms: behind.files_ms,
                unlogged: behind.unlogged,
            }),
            filled: job.filled,
            granted_ms: job.granted_ms,
            proof: match job.proof {
                Some(proof) => {
                    let proof = proof
                        .try_into()
                        .map_err(|e: FieldError| e.within(&at("proof")))?;
                    Some(Box::new(proof))
                }
                None => None,
            },
        })
    };
    wire.into_iter().enumerate().map(parse_one).collect()
}

pub(super) fn before_to_wire(before: Before) -> agent::Before {
    let wish = match before {
        Before::Keep(id) => before::Wish::Keep(id.to_string()),
        Before::Return(id) => before::Wish::ReturnTo(id.to_string()),
        Before::Remove(id) => before::Wish::Remove(id.to_string()),
    };
    agent::Before { wish: Some(wish) }
}

pub(super) fn before(wire: agent::Before) -> Result<Before, FieldError> {
    Ok(match wire.wish {
        Some(before::Wish::Keep(id)) => Before::Keep(parse("before.keep", &id)?),
        Some(before::Wish::ReturnTo(id)) => Before::Return(parse("before.return_to", &id)?),
        Some(before::Wish::Remove(id)) => Before::Remove(parse("before.remove", &id)?),
        None => return Err(FieldError::new("before.wish", "must be set")),
    })
}
