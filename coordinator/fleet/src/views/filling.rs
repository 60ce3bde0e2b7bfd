//! Tenants that are filled from a backup at present: by which operation, on which host, and what that is told to do.
//!
//! Not here: which backup that is, and when (procedures).

use isyone_types::{
    backup::{RepositoryKey, RestoreOrder},
    ids::HostName,
    plan::{JobOrder, JobWork},
};
use uuid::Uuid;

use super::backups::destination;
use crate::{
    backups::RestorePoint,
    desired::{Tenant, backups::BackupKey},
    operation::{MoveStage, Operation, Procedure, RestoreStage},
    settings::Settings,
    state::State,
};

/// What a tenant is filled from, and where.
pub(super) struct From<'a> {
    pub(super) host: &'a HostName,
    /// Whose backup it is.
    pub(super) source: Uuid,
    pub(super) point: &'a RestorePoint,
    /// It becomes another tenant.
    rekey: bool,
    neutralise: bool,
}

/// The operation that fills a tenant at present.
pub(super) fn filling<'a>(state: &'a State, tenant: &Tenant) -> Option<(&'a Operation, From<'a>)> {
    let operation = state.fleet.operations.get(&tenant.operation)?;
    if operation.is_over() {
        return None;
    }
    let from = match &operation.procedure {
        Procedure::Restore(restoration) if restoration.stage == RestoreStage::Fetch => From {
            host: &restoration.host,
            source: restoration.source_uid,
            point: &restoration.point,
            rekey: restoration.rekey,
            neutralise: restoration.neutralise,
        },
        Procedure::Move(relocation) if relocation.stage == MoveStage::Copy => From {
            host: &relocation.to,
            source: tenant.uid,
            point: relocation.backup.as_deref()?,
            rekey: false,
            neutralise: false,
        },
        _ => return None,
    };
    Some((operation, from))
}

/// The job by which a host fills it now, with its operation's id; `None`: it has none to do. `open` unseals the key.
pub(super) fn filling_job<E>(
    (state, settings): (&State, &Settings),
    tenant: &Tenant,
    host: &HostName,
    open: impl FnOnce(&BackupKey) -> Result<RepositoryKey, E>,
) -> Result<Option<JobOrder>, E> {
    let Some((operation, from)) = filling(state, tenant).filter(|(_, from)| from.host == host)
    else {
        return Ok(None);
    };
    // An agent that was put back to a version before would refuse its whole plan.
    let record = state.fleet.hosts.get(host);
    if record.is_none_or(|record| !record.makes_backups) {
        return Ok(None);
    }
    let key = state.fleet.backup_keys.get(&from.source);
    let destination = destination(settings, &from.point.destination);
    let (Some(key), Some(destination)) = (key, destination) else {
        return Ok(None);
    };
    let order = RestoreOrder {
        source: from.source,
        key: open(key)?,
        destination,
        base: from.point.base,
        to: from.point.to,
        rekey: from.rekey,
        neutralise: from.neutralise,
    };
    Ok(Some(JobOrder {
        id: operation.id,
        operation: operation.id,
        tenant: tenant.name.clone(),
        uid: tenant.uid,
        work: JobWork::Restore(Box::new(order)),
        rate_bytes_per_s: 0,
    }))
}
