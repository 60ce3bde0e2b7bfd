//! Proofs of backups as others see them: what could be proven and where, which hosts prove now, what they are told, and whose backups
//! nobody has proven for too long.
//!
//! Not here: whose turn it is (backups/proofs), what follows from what was found (change/backups/proofs).

use isyone_types::{
    backup::{BackupWork, RepositoryKey, RestoreOrder, RestoreTo},
    ids::{HostName, ShortName},
    plan::{JobOrder, JobWork, Lifecycle, UnixMs},
    proof::VerifyOrder,
    report::JobState,
};
use uuid::Uuid;

use super::{
    backups::{destination, repository},
    host_state,
};
use crate::{
    backups::{
        LastProof, ProofSubject, Provable, Prover, Repository, Running, choose_prover, no_room,
        proofs::LATE_MS,
    },
    desired::{
        Tenant,
        backups::{BackupKey, Made, ProofOrder, TenantBackups},
    },
    liveness::HostState,
    settings::Settings,
    state::State,
};

/// An order of which its host does not speak for so long does not reach it, or was lost there; or the host is away.
const UNHEARD_MS: i64 = 15 * 60_000;
/// No proof lasts longer.
const LONGEST_ORDER_MS: i64 = 24 * 3_600_000;

/// What there is to decide proofs on.
#[derive(Debug, Default)]
pub struct ProofRota {
    /// One for each tenant and destination.
    pub subjects: Vec<ProofSubject>,
    pub provers: Vec<Prover>,
    /// Orders that take up a host and a destination.
    pub running: Vec<Running>,
    /// Orders that nobody carries out: the tenant's uid, and theirs.
    pub dead: Vec<(Uuid, Uuid)>,
    /// Repositories that can be proven from now on: the tenant's uid, and the destination.
    pub anew: Vec<(Uuid, ShortName)>,
}

/// Everything that may be proven.
pub fn proof_rota(state: &State, settings: &Settings, now: UnixMs) -> ProofRota {
    let mut rota = ProofRota {
        provers: provers(state, settings, now),
        ..ProofRota::default()
    };
    for of in state.fleet.backups.values() {
        if let Some(order) = &of.proving {
            match is_given_up(state, settings, of, order, now) {
                true => rota.dead.push((of.tenant, order.id)),
                false => rota.running.push(Running {
                    tenant: of.tenant,
                    host: order.host.clone(),
                    destination: order.destination.clone(),
                }),
            }
        }
        let tenant = state.fleet.tenants.get(&of.name);
        let Some(tenant) = tenant.filter(|tenant| is_provable(state, tenant, of)) else {
            continue;
        };
        let Some(policy) = settings.backups.policy(&tenant.spec.plan) else {
            continue;
        };
        for name in &policy.destinations {
            let subject = subject(state, tenant, of, name, now);
            if subject.newest.is_some() && subject.since.is_none() && !rota.provers.is_empty() {
                rota.anew.push((of.tenant, name.clone()));
            }
            rota.subjects.push(subject);
        }
    }
    rota
}

fn is_provable(state: &State, tenant: &Tenant, of: &TenantBackups) -> bool {
    tenant.uid == of.tenant
        && tenant.desired != Lifecycle::Purged
        && state.fleet.backup_keys.contains_key(&of.tenant)
}

/// Hosts that can prove, with their room.
pub fn provers(state: &State, settings: &Settings, now: UnixMs) -> Vec<Prover> {
    let hosts = state.fleet.hosts.values();
    let able = hosts.filter(|host| {
        host.proves_backups
            && !host.pending
            && host_state(state, settings, &host.name, now).0 == HostState::Ready
    });
    let prover = |host: &std::sync::Arc<crate::desired::Host>| {
        let seen = state.observed.hosts.get(&host.name)?;
        Some(Prover {
            host: host.name.clone(),
            free_bytes: seen.resources.disk_available_bytes,
            total_bytes: seen.resources.disk_total_bytes,
            is_cordoned: host.cordoned,
        })
    };
    able.filter_map(prover).collect()
}

fn subject(
    state: &State,
    tenant: &Tenant,
    of: &TenantBackups,
    name: &ShortName,
    now: UnixMs,
) -> ProofSubject {
    let made = of.made.get(name);
    let proofs = made.map(|made| &made.proofs);
    let last = proofs.and_then(|proofs| proofs.last.as_ref());
    let asked = of.proof_asked.as_ref();
    ProofSubject {
        tenant: of.tenant,
        home: tenant.placement.host.clone(),
        destination: name.clone(),
        newest: made.and_then(|made| newest(made, repository(state, tenant, name, now).0)),
        since: proofs.and_then(|proofs| proofs.since),
        last: last.map(|last| LastProof {
            begun_at: last.begun_at,
            base: last.found.base,
            base_at: last.base_at,
            is_restorable: last.found.is_restorable,
        }),
        is_asked_for: asked.is_some_and(|asked| asked.left.contains(name)),
        is_free: of.proving.is_none(),
        failures: proofs.map_or(0, |proofs| proofs.failures),
        failed_at: proofs.and_then(|proofs| proofs.failed_at),
    }
}

/// The newest backup with all of the log that follows it; where that has a gap, the backup alone.
fn newest(made: &Made, seen: Option<Repository>) -> Option<Provable> {
    let newest_first = made.snapshots.iter().rev();
    let mut bases =
        newest_first.filter(|s| matches!(s.work, BackupWork::Base | BackupWork::Stopped));
    let base = bases.next()?;
    let gap = seen.and_then(|seen| seen.gap_since);
    let leads_on = base.work == BackupWork::Base && gap.is_none_or(|since| since <= base.at);
    Some(Provable {
        base: base.name,
        base_at: base.at,
        to: match leads_on {
            true => RestoreTo::Latest,
            false => RestoreTo::Backup,
        },
        bytes: base.read_bytes,
    })
}

/// Whether nobody carries out a proof any more.
pub(crate) fn is_given_up(
    state: &State,
    settings: &Settings,
    of: &TenantBackups,
    order: &ProofOrder,
    now: UnixMs,
) -> bool {
    // No clock of before is believed, nor does a host speak before it is heard.
    let age = now - order.since.max(state.started_at);
    let host = state.fleet.hosts.get(&order.host);
    let able = host.is_some_and(|host| host.proves_backups && !host.pending);
    let ready = able && host_state(state, settings, &order.host, now).0 == HostState::Ready;
    let job = state.observed.job(&order.host, order.id);
    let works = ready && job.is_some_and(|job| job.state == JobState::Running);
    let is_told = able
        && state.fleet.backup_keys.contains_key(&of.tenant)
        && settings
            .backups
            .destinations
            .contains_key(&order.destination);
    !is_told || !works && age > UNHEARD_MS && (job.is_none() || !ready) || age > LONGEST_ORDER_MS
}

/// Why no backup of a tenant can be proven now by these; `None`: one can, or will be when a host is free.
pub fn no_proof(
    state: &State,
    settings: &Settings,
    tenant: &Tenant,
    provers: &[Prover],
    now: UnixMs,
) -> Option<String> {
    if let Some(why) = super::backups::no_backups(state, settings, tenant) {
        return Some(why.to_owned());
    }
    let of = state.fleet.backups.get(&tenant.uid)?;
    let policy = settings.backups.policy(&tenant.spec.plan)?;
    let mut is_there = false;
    for name in &policy.destinations {
        let subject = subject(state, tenant, of, name, now);
        let Some(newest) = subject.newest else {
            continue;
        };
        is_there = true;
        let chosen = choose_prover(&subject, newest.needs_bytes(), provers, &Default::default());
        if let Some(why) = chosen.err().and_then(no_room) {
            return Some(why);
        }
    }
    let none = "there is no backup yet: `isyctl backup create` makes one";
    (!is_there).then(|| none.to_owned())
}

/// Whether a host proves this repository just now.
pub(super) fn is_proving(
    state: &State,
    host: &HostName,
    of: Uuid,
    destination: &ShortName,
) -> bool {
    let of = state.fleet.backups.get(&of);
    let order = of.and_then(|of| of.proving.as_ref());
    order.is_some_and(|order| order.host == *host && order.destination == *destination)
}

/// What a host is told to prove. Nothing to one whose agent is of a version before.
pub(super) fn proof_jobs<E>(
    state: &State,
    settings: &Settings,
    host: &HostName,
    mut open: impl FnMut(&BackupKey) -> Result<RepositoryKey, E>,
) -> Result<Vec<JobOrder>, E> {
    let fleet = &state.fleet;
    let able = { fleet.hosts.get(host) }.is_some_and(|host| host.proves_backups);
    let mut jobs = Vec::new();
    for uid in fleet.proving_at(host).filter(|_| able) {
        let of = fleet.backups.get(uid);
        let tenant = of.and_then(|of| fleet.tenants.get(&of.name));
        let (Some(of), Some(key), Some(tenant)) = (of, fleet.backup_keys.get(uid), tenant) else {
            continue;
        };
        let order = of.proving.as_ref().filter(|_| tenant.uid == *uid);
        let Some(order) = order else { continue };
        let Some(destination) = destination(settings, &order.destination) else {
            continue;
        };
        let restore = RestoreOrder {
            source: *uid,
            key: open(key)?,
            destination,
            base: order.base,
            to: order.to,
            rekey: false,
            neutralise: false,
        };
        jobs.push(job(order, tenant, restore));
    }
    Ok(jobs)
}

fn job(order: &ProofOrder, tenant: &Tenant, restore: RestoreOrder) -> JobOrder {
    let verify = VerifyOrder {
        restore,
        postgres_image: tenant.spec.postgres_image.clone(),
        memory_bytes: tenant.size.memory_bytes,
        disk_bytes: tenant.size.disk_bytes,
    };
    JobOrder {
        id: order.id,
        // It belongs to none: it is its own.
        operation: order.id,
        tenant: tenant.name.clone(),
        uid: tenant.uid,
        work: JobWork::Verify(Box::new(verify)),
        rate_bytes_per_s: 0,
    }
}

/// What the last proof of a repository says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Proven,
    /// There was none yet.
    None,
    /// The database comes back; files of attachments, or other numbers, are not as they should be.
    Incomplete,
    /// What is there cannot be restored as it was.
    Damaged,
}

/// How a repository stands with proofs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    pub verdict: Verdict,
    /// When a proof last found it restorable.
    pub good_at: Option<UnixMs>,
    /// Nobody has proven it for too long.
    pub is_late: bool,
    /// Proofs that could not be carried out since one was.
    pub failures: u32,
}

/// How each of a tenant's repositories stands; nothing where no backups are made.
pub fn verified<'a>(
    state: &'a State,
    settings: &'a Settings,
    tenant: &'a Tenant,
    now: UnixMs,
) -> Vec<(&'a ShortName, Verified)> {
    let fleet = &state.fleet;
    let policy = settings.backups.policy(&tenant.spec.plan);
    let of = fleet.backups.get(&tenant.uid);
    let (Some(policy), Some(of)) = (policy, of) else {
        return Vec::new();
    };
    let one = |name: &'a ShortName| {
        let proofs = of.made.get(name).map(|made| &made.proofs);
        let good_at = proofs.and_then(|proofs| proofs.good_at);
        let since = proofs.and_then(|proofs| proofs.since);
        let waits = good_at.max(since).filter(|_| tenant.activated_at.is_some());
        let verified = Verified {
            verdict: verdict(of.made.get(name)),
            good_at,
            is_late: waits.is_some_and(|since| now - since > LATE_MS),
            failures: proofs.map_or(0, |proofs| proofs.failures),
        };
        (name, verified)
    };
    policy.destinations.iter().map(one).collect()
}

/// What the last proof at a destination says.
pub fn verdict(made: Option<&Made>) -> Verdict {
    let last = made.and_then(|made| made.proofs.last.as_ref());
    match last.map(|last| &last.found) {
        None => Verdict::None,
        Some(found) if found.is_good() => Verdict::Proven,
        Some(found) if found.is_restorable => Verdict::Incomplete,
        Some(_) => Verdict::Damaged,
    }
}

/// Whether a backup of a tenant is known at a destination.
pub fn has_backup(state: &State, tenant: &Tenant, destination: &ShortName) -> bool {
    let of = state.fleet.backups.get(&tenant.uid);
    let made = of.and_then(|of| of.made.get(destination));
    made.is_some_and(|made| newest(made, None).is_some())
}
