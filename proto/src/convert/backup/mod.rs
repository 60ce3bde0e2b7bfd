//! Backups as they are ordered and reported: wire messages to checked types and back.
//!
//! Not here: proofs (proof), what calls of `BackupStore` are about (store).

mod proof;

use std::collections::BTreeSet;

use super::{MAX_MESSAGE, network::values, parse, parse_optional, shortened, timestamp, unix_ms};
use crate::{
    backup::{
        BackupMade, BackupPlan, BackupPurpose, BackupReport, BackupWork, Counts, Destination,
        DestinationReport, Fault, LEAST_SHIP_S, MAX_DESTINATIONS, MAX_LABELS, MAX_TROUBLE_BYTES,
        MOST_SHIP_S, MakeBackup, Place, RepositoryKey, RestoreOrder, RestoreTo, Segments, Trouble,
    },
    error::FieldError,
    pb::agent::v1::{self as agent, backup_destination::At, restore_backup},
    plan::UnixMs,
};

fn within<T, E: Into<FieldError>>(field: &str, result: Result<T, E>) -> Result<T, FieldError> {
    result.map_err(|e| e.into().within(field))
}

fn known<T>(field: &str, value: Option<T>) -> Result<T, FieldError> {
    value.ok_or_else(|| FieldError::new(field, "is unknown"))
}

fn bounded<T>(field: &str, list: &[T], most: usize) -> Result<(), FieldError> {
    if list.len() <= most {
        return Ok(());
    }
    Err(FieldError::new(field, format!("more than {most}")))
}

impl From<&Destination> for agent::BackupDestination {
    fn from(destination: &Destination) -> Self {
        Self {
            name: destination.name.to_string(),
            required: destination.required,
            rate_bytes_per_s: destination.rate_bytes_per_s,
            at: Some(match destination.at {
                Place::Coordinator => At::Coordinator(agent::CoordinatorPlace {}),
            }),
        }
    }
}

impl TryFrom<agent::BackupDestination> for Destination {
    type Error = FieldError;
    fn try_from(wire: agent::BackupDestination) -> Result<Self, FieldError> {
        Ok(Self {
            name: parse("name", &wire.name)?,
            at: match wire.at {
                Some(At::Coordinator(_)) => Place::Coordinator,
                None => return Err(FieldError::new("at", "must be set")),
            },
            required: wire.required,
            rate_bytes_per_s: wire.rate_bytes_per_s,
        })
    }
}

/// Not by `parse`, which repeats what is wrong.
fn key(wire: String) -> Result<RepositoryKey, FieldError> {
    RepositoryKey::try_from(wire).map_err(|e| FieldError::new("repository_key", e.to_string()))
}

impl From<&BackupPlan> for agent::BackupPlan {
    fn from(plan: &BackupPlan) -> Self {
        Self {
            repository_key: plan.key.expose().to_owned(),
            destinations: plan.destinations.iter().map(Into::into).collect(),
            ship_seconds: plan.ship_s,
        }
    }
}

impl TryFrom<agent::BackupPlan> for BackupPlan {
    type Error = FieldError;
    fn try_from(wire: agent::BackupPlan) -> Result<Self, FieldError> {
        let key = key(wire.repository_key)?;
        bounded("destinations", &wire.destinations, MAX_DESTINATIONS)?;
        let one = |(i, d): (usize, agent::BackupDestination)| {
            within(&format!("destinations[{i}]"), Destination::try_from(d))
        };
        let destinations = wire.destinations.into_iter().enumerate().map(one);
        let mut destinations = destinations.collect::<Result<Vec<_>, FieldError>>()?;
        destinations.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = destinations.windows(2).find(|p| p[0].name == p[1].name) {
            let problem = format!("`{}` is there twice", pair[0].name);
            return Err(FieldError::new("destinations", problem));
        }
        let ship_s = wire.ship_seconds;
        if ship_s != 0 && !(LEAST_SHIP_S..=MOST_SHIP_S).contains(&ship_s) {
            let problem = format!("{ship_s} is not between {LEAST_SHIP_S} and {MOST_SHIP_S}");
            return Err(FieldError::new("ship_seconds", problem));
        }
        Ok(Self {
            key,
            destinations,
            ship_s,
        })
    }
}

fn work_to_wire(work: BackupWork) -> i32 {
    match work {
        BackupWork::Base => agent::BackupWork::Base,
        BackupWork::Dump => agent::BackupWork::Dump,
        BackupWork::Ship => agent::BackupWork::Ship,
        BackupWork::Stopped => agent::BackupWork::Stopped,
    }
    .into()
}

fn work(wire: i32) -> Option<BackupWork> {
    match agent::BackupWork::try_from(wire).ok()? {
        agent::BackupWork::Base => Some(BackupWork::Base),
        agent::BackupWork::Dump => Some(BackupWork::Dump),
        agent::BackupWork::Ship => Some(BackupWork::Ship),
        agent::BackupWork::Stopped => Some(BackupWork::Stopped),
        agent::BackupWork::Unspecified => None,
    }
}

fn purpose_to_wire(purpose: BackupPurpose) -> i32 {
    match purpose {
        BackupPurpose::Scheduled => agent::BackupPurpose::Scheduled,
        BackupPurpose::OnOrder => agent::BackupPurpose::OnOrder,
        BackupPurpose::OnStop => agent::BackupPurpose::OnStop,
        BackupPurpose::BeforeDelete => agent::BackupPurpose::BeforeDelete,
        BackupPurpose::BeforeUpgrade => agent::BackupPurpose::BeforeUpgrade,
        BackupPurpose::BeforeFailover => agent::BackupPurpose::BeforeFailover,
    }
    .into()
}

fn purpose(wire: i32) -> Option<BackupPurpose> {
    match agent::BackupPurpose::try_from(wire).ok()? {
        agent::BackupPurpose::Scheduled => Some(BackupPurpose::Scheduled),
        agent::BackupPurpose::OnOrder => Some(BackupPurpose::OnOrder),
        agent::BackupPurpose::OnStop => Some(BackupPurpose::OnStop),
        agent::BackupPurpose::BeforeDelete => Some(BackupPurpose::BeforeDelete),
        agent::BackupPurpose::BeforeUpgrade => Some(BackupPurpose::BeforeUpgrade),
        agent::BackupPurpose::BeforeFailover => Some(BackupPurpose::BeforeFailover),
        agent::BackupPurpose::Unspecified => None,
    }
}

impl From<&RestoreOrder> for agent::RestoreBackup {
    fn from(order: &RestoreOrder) -> Self {
        let moment = restore_backup::Moment {};
        Self {
            source_uid: order.source.to_string(),
            repository_key: order.key.expose().to_owned(),
            destination: Some((&order.destination).into()),
            base: order.base.to_string(),
            to: Some(match order.to {
                RestoreTo::Backup => restore_backup::To::Backup(moment),
                RestoreTo::Time(at) => restore_backup::To::Time(timestamp(at)),
                RestoreTo::Latest => restore_backup::To::Latest(moment),
            }),
            rekey: order.rekey,
            neutralise: order.neutralise,
        }
    }
}

impl TryFrom<agent::RestoreBackup> for RestoreOrder {
    type Error = FieldError;
    fn try_from(wire: agent::RestoreBackup) -> Result<Self, FieldError> {
        let destination = wire.destination;
        let destination =
            destination.ok_or_else(|| FieldError::new("destination", "must be set"))?;
        Ok(Self {
            source: parse("source_uid", &wire.source_uid)?,
            key: key(wire.repository_key)?,
            destination: within("destination", Destination::try_from(destination))?,
            base: parse("base", &wire.base)?,
            to: match wire.to {
                Some(restore_backup::To::Backup(_)) => RestoreTo::Backup,
                Some(restore_backup::To::Time(at)) => RestoreTo::Time(unix_ms(&at)),
                Some(restore_backup::To::Latest(_)) => RestoreTo::Latest,
                None => return Err(FieldError::new("to", "must be set")),
            },
            rekey: wire.rekey,
            neutralise: wire.neutralise,
        })
    }
}

impl From<&MakeBackup> for agent::MakeBackup {
    fn from(make: &MakeBackup) -> Self {
        Self {
            work: work_to_wire(make.work),
            purpose: purpose_to_wire(make.purpose),
            destination: make.destination.to_string(),
            labels: make.labels.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<agent::MakeBackup> for MakeBackup {
    type Error = FieldError;
    fn try_from(wire: agent::MakeBackup) -> Result<Self, FieldError> {
        bounded("labels", &wire.labels, MAX_LABELS)?;
        Ok(Self {
            work: known("work", work(wire.work))?,
            purpose: known("purpose", purpose(wire.purpose))?,
            destination: parse("destination", &wire.destination)?,
            labels: values("labels", &wire.labels)?,
        })
    }
}

pub(super) fn fault_to_wire(fault: Option<Fault>) -> i32 {
    let Some(fault) = fault else {
        return agent::BackupFault::Unspecified.into();
    };
    match fault {
        Fault::Unreachable => agent::BackupFault::Unreachable,
        Fault::Full => agent::BackupFault::Full,
        Fault::Denied => agent::BackupFault::Denied,
        Fault::WrongKey => agent::BackupFault::WrongKey,
        Fault::Damaged => agent::BackupFault::Damaged,
        Fault::Source => agent::BackupFault::Source,
        Fault::NotNow => agent::BackupFault::NotNow,
        Fault::Other => agent::BackupFault::Other,
    }
    .into()
}

/// A fault that only a newer agent knows is another one.
pub(super) fn fault(wire: i32) -> Option<Fault> {
    Some(match agent::BackupFault::try_from(wire) {
        Ok(agent::BackupFault::Unspecified) => return None,
        Ok(agent::BackupFault::Unreachable) => Fault::Unreachable,
        Ok(agent::BackupFault::Full) => Fault::Full,
        Ok(agent::BackupFault::Denied) => Fault::Denied,
        Ok(agent::BackupFault::WrongKey) => Fault::WrongKey,
        Ok(agent::BackupFault::Damaged) => Fault::Damaged,
        Ok(agent::BackupFault::Source) => Fault::Source,
        Ok(agent::BackupFault::NotNow) => Fault::NotNow,
        Ok(agent::BackupFault::Other) | Err(_) => Fault::Other,
    })
}

fn segments_to_wire(segments: Segments) -> agent::WalSegments {
    agent::WalSegments {
        first: segments.first.to_string(),
        last: segments.last.to_string(),
    }
}

fn segments(wire: &agent::WalSegments) -> Result<Segments, FieldError> {
    let Segments { first, last } = Segments {
        first: parse("first", &wire.first)?,
        last: parse("last", &wire.last)?,
    };
    if first.timeline != last.timeline || first > last {
        return Err(FieldError::new("last", "does not follow `first`"));
    }
    Ok(Segments { first, last })
}

impl From<&BackupMade> for agent::BackupMade {
    fn from(made: &BackupMade) -> Self {
        Self {
            snapshot: made.snapshot.to_string(),
            work: work_to_wire(made.work),
            time: Some(timestamp(made.at)),
            end_time: Some(timestamp(made.ended_at)),
            read_bytes: made.read_bytes,
            stored_bytes: made.stored_bytes,
            files: made.files,
            left_out: made.left_out,
            segments: made.segments.map(segments_to_wire),
            counts: Some(agent::BackupCounts {
                database_bytes: made.counts.database_bytes,
                relations: made.counts.relations,
                attachments: made.counts.attachments,
            }),
        }
    }
}

fn time(field: &str, wire: Option<&prost_types::Timestamp>) -> Result<UnixMs, FieldError> {
    let wire = wire.ok_or_else(|| FieldError::new(field, "must be set"))?;
    Ok(unix_ms(wire))
}

impl TryFrom<agent::BackupMade> for BackupMade {
    type Error = FieldError;
    fn try_from(wire: agent::BackupMade) -> Result<Self, FieldError> {
        let parsed = wire.segments.as_ref().map(segments).transpose();
        let counts = wire.counts.unwrap_or_default();
        Ok(Self {
            snapshot: parse("snapshot", &wire.snapshot)?,
            work: known("work", work(wire.work))?,
            at: time("time", wire.time.as_ref())?,
            ended_at: time("end_time", wire.end_time.as_ref())?,
            read_bytes: wire.read_bytes,
            stored_bytes: wire.stored_bytes,
            files: wire.files,
            left_out: wire.left_out,
            segments: within("segments", parsed)?,
            counts: Counts {
                database_bytes: counts.database_bytes,
                relations: counts.relations,
                attachments: counts.attachments,
            },
        })
    }
}

impl From<&BackupReport> for agent::BackupStatus {
    fn from(report: &BackupReport) -> Self {
        Self {
            spool_bytes: report.spool_bytes,
            spool_segments: report.spool_segments,
            spool_since: report.spool_since.map(timestamp),
            gap: report.gap.map(segments_to_wire),
            archiver: report.archiver.clone(),
            destinations: report.destinations.iter().map(Into::into).collect(),
        }
    }
}

impl From<&DestinationReport> for agent::BackupDestinationStatus {
    fn from(report: &DestinationReport) -> Self {
        let trouble = |trouble: &Trouble| agent::BackupTrouble {
            fault: fault_to_wire(Some(trouble.fault)),
            message: shortened(trouble.message.clone(), MAX_TROUBLE_BYTES),
            since: Some(timestamp(trouble.since)),
            failures: trouble.failures,
        };
        Self {
            name: report.name.to_string(),
            base_time: report.base_at.map(timestamp),
            shipped_segment: report.shipped.map(|s| s.to_string()).unwrap_or_default(),
            shipped_lsn: report.shipped_lsn,
            shipped_to: report.shipped_to.map(timestamp),
            gap_since: report.gap_since.map(timestamp),
            trouble: report.trouble.as_ref().map(trouble),
            newest: report.newest.as_ref().map(Into::into),
            snapshots: report.snapshots,
            stored_bytes: report.stored_bytes,
        }
    }
}

/// Parses what a host reports of a tenant's backups, received at `now`. Nothing is safe up to a time that has not come: where the host's
/// clock is ahead, that counts as now.
pub(super) fn report(wire: agent::BackupStatus, now: UnixMs) -> Result<BackupReport, FieldError> {
    bounded("destinations", &wire.destinations, MAX_DESTINATIONS)?;
    let mut names = BTreeSet::new();
    let mut destinations = Vec::with_capacity(wire.destinations.len());
    for (i, status) in wire.destinations.into_iter().enumerate() {
        let at = format!("destinations[{i}]");
        let parsed = within(&at, destination(status, now))?;
        if !names.insert(parsed.name.clone()) {
            return Err(FieldError::new(at, "is there twice"));
        }
        destinations.push(parsed);
    }
    destinations.sort_by(|a, b| a.name.cmp(&b.name));
    let gap = wire.gap.as_ref().map(segments).transpose();
    Ok(BackupReport {
        spool_bytes: wire.spool_bytes,
        spool_segments: wire.spool_segments,
        spool_since: wire.spool_since.as_ref().map(unix_ms),
        gap: within("gap", gap)?,
        archiver: shortened(wire.archiver, MAX_TROUBLE_BYTES),
        destinations,
    })
}

fn destination(
    wire: agent::BackupDestinationStatus,
    now: UnixMs,
) -> Result<DestinationReport, FieldError> {
    let past = |time: &prost_types::Timestamp| unix_ms(time).min(now);
    let newest = wire.newest.map(BackupMade::try_from).transpose();
    Ok(DestinationReport {
        name: parse("name", &wire.name)?,
        base_at: wire.base_time.as_ref().map(past),
        shipped: parse_optional("shipped_segment", &wire.shipped_segment)?,
        shipped_lsn: wire.shipped_lsn,
        shipped_to: wire.shipped_to.as_ref().map(past),
        gap_since: wire.gap_since.as_ref().map(past),
        trouble: wire.trouble.map(|trouble| Trouble {
            fault: fault(trouble.fault).unwrap_or(Fault::Other),
            message: shortened(trouble.message, MAX_TROUBLE_BYTES.min(MAX_MESSAGE)),
            since: trouble.since.as_ref().map_or(now, past),
            failures: trouble.failures,
        }),
        newest: within("newest", newest)?,
        snapshots: wire.snapshots,
        stored_bytes: wire.stored_bytes,
    })
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::sample;
