//! Backups in the public protocol.
//!
//! Not here: what is asked (the parent).

use isyone_backup as backup;
use isyone_fleet::{
    backups::{Protection, Standing},
    desired::{
        Tenant,
        backups::{Asked, Made, Proofs, SnapshotMade, TenantBackups},
    },
    state::State,
    views,
};
use isyone_proto::{
    backup::{BackupPurpose, BackupWork},
    convert::timestamp,
    ids::ShortName,
    pb::v1,
    plan::UnixMs,
};

use super::{
    super::{Api, now},
    proofs::{proof, proving},
};
use crate::repositories::upkeep::Verdict;

/// Snapshots that an answer names; what is beyond is counted.
const NAMED: usize = 1_000;

impl Api {
    pub(super) fn protection_of(&self, state: &State, tenant: &Tenant) -> v1::Protection {
        let (settings, now) = (self.parts.handle.settings(), now());
        let bare = v1::Protection {
            tenant: tenant.name.to_string(),
            tenant_uid: tenant.uid.to_string(),
            plan: tenant.spec.plan.to_string(),
            ..v1::Protection::default()
        };
        let policy = settings.backups.policy(&tenant.spec.plan);
        let protection = views::protection(state, settings, tenant, now);
        let of = state.fleet.backups.get(&tenant.uid);
        let none = views::none_made(state, settings, tenant);
        let (Some(policy), Some(protection), None) = (policy, protection, none) else {
            return v1::Protection {
                standing: v1::Standing::NoneMade.into(),
                summary: none.unwrap_or_default().to_owned(),
                ..bare
            };
        };
        let to = protection.to.as_ref();
        v1::Protection {
            standing: standing(protection.standing).into(),
            summary: protection.sentence(now),
            restorable_time: to.map(|(at, _)| timestamp(*at)),
            restorable_from: to.map(|(_, name)| name.to_string()).unwrap_or_default(),
            rpo_ms: policy.may_lose_ms,
            destinations: destinations(state, tenant, &protection, now),
            spool: spool(state, tenant),
            order: of.and_then(|of| order(state, of)),
            asked: of.and_then(|of| Some(asked(of.asked.as_ref()?))),
            proving: of.and_then(|of| proving(state, of)),
            proof_asked: of.and_then(|of| Some(asked(of.proof_asked.as_ref()?))),
            ..bare
        }
    }
}

fn asked(asked: &Asked) -> v1::BackupAsked {
    v1::BackupAsked {
        create_time: Some(timestamp(asked.at)),
        actor: asked.by.clone(),
        notes: texts(&asked.labels),
        destinations: texts(&asked.left),
    }
}

fn work(work: BackupWork) -> v1::BackupWork {
    match work {
        BackupWork::Base => v1::BackupWork::Base,
        BackupWork::Dump => v1::BackupWork::Dump,
        BackupWork::Stopped => v1::BackupWork::Stopped,
        // Never listed, never ordered.
        BackupWork::Ship => v1::BackupWork::Unspecified,
    }
}

fn purpose(purpose: BackupPurpose) -> v1::BackupPurpose {
    match purpose {
        BackupPurpose::Scheduled => v1::BackupPurpose::Scheduled,
        BackupPurpose::OnOrder => v1::BackupPurpose::OnOrder,
        BackupPurpose::OnStop => v1::BackupPurpose::OnStop,
        BackupPurpose::BeforeDelete => v1::BackupPurpose::BeforeDelete,
        BackupPurpose::BeforeUpgrade => v1::BackupPurpose::BeforeUpgrade,
        BackupPurpose::BeforeFailover => v1::BackupPurpose::BeforeFailover,
    }
}

fn texts(names: &[ShortName]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

pub(super) fn wire(
    state: &State,
    of: &TenantBackups,
    destination: &ShortName,
    made: &SnapshotMade,
) -> v1::Backup {
    let key = state.fleet.backup_keys.get(&of.tenant);
    v1::Backup {
        id: made.name.to_string(),
        tenant: of.name.to_string(),
        tenant_uid: of.tenant.to_string(),
        destination: destination.to_string(),
        work: work(made.work).into(),
        purpose: purpose(made.purpose).into(),
        time: Some(timestamp(made.at)),
        end_time: Some(timestamp(made.ended_at)),
        read_bytes: made.read_bytes,
        stored_bytes: made.stored_bytes,
        notes: texts(&made.labels),
        expire_time: key.and_then(|key| key.delete_at).map(timestamp),
    }
}

fn standing(standing: Standing) -> v1::Standing {
    match standing {
        Standing::NothingToLose => v1::Standing::NothingToLose,
        Standing::Protected => v1::Standing::Protected,
        Standing::Partly => v1::Standing::Partly,
        Standing::Unknown => v1::Standing::Unknown,
        Standing::NotProtected => v1::Standing::NotProtected,
    }
}

pub(super) fn is_bad(shown: &v1::Protection) -> bool {
    use v1::Standing::{NoneMade, NotProtected, Partly, Unknown};
    matches!(shown.standing(), Partly | NotProtected | Unknown | NoneMade)
}

pub(super) fn pruned(destination: &ShortName, verdict: &Verdict) -> v1::Pruned {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let forgotten = verdict.forgotten.iter().take(NAMED);
    v1::Pruned {
        destination: destination.to_string(),
        kept: count(verdict.kept),
        forgotten: forgotten
            .map(|snapshot| v1::ForgottenSnapshot {
                id: snapshot.name.to_string(),
                time: Some(timestamp(snapshot.time.as_millisecond())),
                purpose: snapshot.purpose.map_or("", backup::Purpose::tag).to_owned(),
            })
            .collect(),
        forgotten_count: count(verdict.forgotten.len()),
    }
}

fn destinations(
    state: &State,
    tenant: &Tenant,
    protection: &Protection,
    now: UnixMs,
) -> Vec<v1::DestinationProtection> {
    let stored = state.fleet.backups.get(&tenant.uid);
    let names = protection.each.iter().map(|(name, _)| name);
    let mut all: Vec<_> = names
        .map(|name| {
            let made = stored.and_then(|of| of.made.get(name));
            destination(state, tenant, name, made, now)
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn destination(
    state: &State,
    tenant: &Tenant,
    name: &ShortName,
    made: Option<&Made>,
    now: UnixMs,
) -> v1::DestinationProtection {
    let (seen, said) = views::repository(state, tenant, name, now);
    let seen = seen.unwrap_or_default();
    let trouble = said.and_then(|said| said.trouble.as_ref());
    let failure = trouble.map(|trouble| trouble.message.as_str());
    let failed = made.map(|made| &*made.failure);
    let none = Proofs::default();
    let proofs = made.map_or(&none, |made| &made.proofs);
    v1::DestinationProtection {
        name: name.to_string(),
        base_time: seen.base_at.map(timestamp),
        dump_time: made.and_then(|made| made.dump_at).map(timestamp),
        shipped_time: seen.shipped_to.map(timestamp),
        gap_time: seen.gap_since.map(timestamp),
        failures: made.map_or(0, |made| made.failures),
        failure: failure.or(failed).unwrap_or_default().to_owned(),
        failing_time: seen.failing_since.map(timestamp),
        backups: made.map_or(0, |made| {
            u32::try_from(made.snapshots.len()).unwrap_or(u32::MAX)
        }),
        prune_time: made.and_then(|made| made.pruned_at).map(timestamp),
        proof: made.and_then(proof),
        verify_time: proofs.good_at.map(timestamp),
        proof_failures: proofs.failures,
        proof_failure: proofs.failure.to_string(),
    }
}

fn spool(state: &State, tenant: &Tenant) -> Option<v1::BackupSpool> {
    let seen = views::observed(state, tenant)?;
    let said = seen.report.backup.as_deref()?;
    Some(v1::BackupSpool {
        bytes: said.spool_bytes,
        segments: said.spool_segments,
        oldest_time: said.spool_since.map(timestamp),
        trouble: said.archiver.clone(),
    })
}

fn order(state: &State, of: &TenantBackups) -> Option<v1::BackupOrder> {
    let order = of.order.as_ref()?;
    let job = state.observed.job(&order.host, order.id);
    Some(v1::BackupOrder {
        id: order.id.to_string(),
        destination: order.make.destination.to_string(),
        work: work(order.make.work).into(),
        create_time: Some(timestamp(order.since)),
        bytes_done: job.map_or(0, |job| job.bytes_done),
        bytes_total: job.map_or(0, |job| job.bytes_total),
        message: job.map(|job| job.message.clone()).unwrap_or_default(),
    })
}
