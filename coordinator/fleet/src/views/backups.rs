//! Tenants' backups as others see them: who waits for a turn and who has one, what each tenant would lose now, and what its host is
//! told in its plan.
//!
//! What is stored and what its host has said since are one here: a point that was shipped stays shipped.
//! Not here: whose turn it is (backups), carrying it out (change/backups).

use std::{collections::BTreeMap, sync::Arc};

use isyone_types::{
    backup::{BackupPlan, Destination, DestinationReport, RepositoryKey},
    ids::{HostName, ShortName, TenantName},
    plan::{JobOrder, JobWork, Lifecycle, UnixMs, WalSpool},
};
use uuid::Uuid;

use super::{
    copy,
    filling::filling,
    orders::{is_dead, is_ready},
    proofs::is_proving,
};
use crate::{
    backups::{
        Candidate, Facts, Offer, Policy, Protection, Repository, Running, Subject, Wanted,
        is_believable,
    },
    desired::{
        Tenant,
        backups::{BackupKey, BackupOrder, Gone, Made, SnapshotMade, TenantBackups},
    },
    observed::CopyObserved,
    operation::{MoveStage, Procedure},
    settings::Settings,
    state::State,
};

/// Since when a tenant does not run by anybody's wish.
pub fn stopped_since(tenant: &Tenant) -> Option<UnixMs> {
    match tenant.desired {
        Lifecycle::Running => None,
        // Stopped by a version that did not note when: what was backed up since, was after it.
        Lifecycle::Suspended | Lifecycle::Quarantined | Lifecycle::Purged => {
            Some(tenant.rests_since.unwrap_or(tenant.created_at))
        }
    }
}

/// What there is to decide turns on.
#[derive(Debug, Default)]
pub struct Rota<'a> {
    /// One for each tenant and destination, with the plan that the policy is of (`None`: of all that are not named) and the policy.
    pub subjects: Vec<(Subject, Option<&'a ShortName>, &'a Policy)>,
    /// Orders that take up a host and a destination.
    pub running: Vec<Running>,
    /// Orders that nobody carries out: the tenant's uid, and theirs.
    pub dead: Vec<(Uuid, Uuid)>,
}

/// Everybody who may get a turn.
pub fn rota<'a>(state: &State, settings: &'a Settings, now: UnixMs) -> Rota<'a> {
    let mut rota = Rota::default();
    let mut hosts: BTreeMap<&HostName, bool> = BTreeMap::new();
    for of in state.fleet.backups.values() {
        let tenant = state.fleet.tenants.get(&of.name);
        let Some(tenant) = tenant.filter(|tenant| tenant.uid == of.tenant) else {
            continue;
        };
        let host = &tenant.placement.host;
        let ready = *hosts
            .entry(host)
            .or_insert_with(|| is_ready(state, settings, host, now));
        if let Some(order) = &of.order {
            let is_dead = is_dead(state, tenant, order, ready, now);
            if is_dead {
                rota.dead.push((of.tenant, order.id));
            } else if ready {
                // Those of a host that is away wait and hold nobody up.
                rota.running.push(Running {
                    tenant: of.tenant,
                    host: host.clone(),
                    destination: order.make.destination.clone(),
                });
            }
        }
        let Some((plan, policy)) = settings.backups.of(&tenant.spec.plan) else {
            continue;
        };
        let free = ready && of.order.is_none() && !tenant.halted && !is_being_copied(state, tenant);
        for destination in &policy.destinations {
            let subject = subject(tenant, of, destination, free);
            rota.subjects.push((subject, plan, policy));
        }
    }
    rota
}

/// It stops in a moment, or has just stopped: what begins now would fail. While a copy of one that runs is only prepared or kept up, which
/// may last a day, it is backed up as ever; what a stop then cuts off is made again.
pub(crate) fn is_being_copied(state: &State, tenant: &Tenant) -> bool {
    let operation = state.fleet.operations.get(&tenant.operation);
    let moves = |procedure: &Procedure| match procedure {
        Procedure::Move(moved) if moved.live.is_some() => {
            !matches!(moved.stage, MoveStage::Prepare | MoveStage::Follow)
        }
        Procedure::Move(_) | Procedure::Restore(_) => true,
        _ => false,
    };
    operation.is_some_and(|o| !o.is_over() && moves(&o.procedure))
}

fn subject(tenant: &Tenant, of: &TenantBackups, destination: &ShortName, free: bool) -> Subject {
    let made = of.made.get(destination);
    // What is being removed has had its last backup.
    let exists = tenant
        .activated_at
        .filter(|_| tenant.desired != Lifecycle::Purged);
    let asked = of.asked.as_ref();
    Subject {
        tenant: of.tenant,
        host: tenant.placement.host.clone(),
        destination: destination.clone(),
        host_is_ready: free,
        exists_since: exists,
        stopped_since: stopped_since(tenant),
        base_at: made.and_then(|made| made.repository.base_at),
        dump_at: made.and_then(|made| made.dump_at),
        is_asked_for: asked.is_some_and(|asked| asked.left.contains(destination)),
        failures: made.map_or(0, |made| made.failures),
        failed_at: made.and_then(|made| made.failed_at),
    }
}

/// Why no backups are made of a tenant; `None`: they are.
pub fn none_made(state: &State, settings: &Settings, tenant: &Tenant) -> Option<&'static str> {
    let host = state.fleet.hosts.get(&tenant.placement.host);
    if settings.backups.policy(&tenant.spec.plan).is_none() {
        return Some("none are made of tenants of its plan: see [backup]");
    }
    if host.is_none_or(|host| !host.makes_backups) {
        return Some("the agent of its host makes none: it is of a version before");
    }
    let fleet = &state.fleet;
    let begun =
        fleet.backup_keys.contains_key(&tenant.uid) && fleet.backups.contains_key(&tenant.uid);
    (!begun).then_some("its key is just being made: a few seconds")
}

/// Why a tenant cannot be backed up now; `None`: it can.
pub fn no_backups(state: &State, settings: &Settings, tenant: &Tenant) -> Option<&'static str> {
    none_made(state, settings, tenant).or(match tenant.activated_at {
        None => Some("it has not run yet: there is nothing to back up"),
        Some(_) => None,
    })
}

/// What is known of a tenant at a destination: as stored, and as its host has said since.
fn known(
    stored: Option<Repository>,
    said: Option<&DestinationReport>,
    now: UnixMs,
) -> Option<Repository> {
    let Some(said) = said else {
        return stored;
    };
    let stored = stored.unwrap_or_default();
    let believed = |at: Option<UnixMs>| at.filter(|at| is_believable(*at, now));
    Some(Repository {
        base_at: stored.base_at.max(believed(said.base_at)),
        shipped_to: stored.shipped_to.max(believed(said.shipped_to)),
        gap_since: said.gap_since,
        failing_since: said.trouble.as_ref().map(|trouble| trouble.since),
        proven: stored.proven,
    })
}

/// What is known of a tenant's repository at a destination, and what its host has said of it since the coordinator started.
pub fn repository<'a>(
    state: &'a State,
    tenant: &Tenant,
    destination: &ShortName,
    now: UnixMs,
) -> (Option<Repository>, Option<&'a DestinationReport>) {
    let stored = state.fleet.backups.get(&tenant.uid);
    let stored = stored
        .and_then(|of| of.made.get(destination))
        .map(|made| made.repository);
    let said = match copy(state, tenant, &tenant.placement.host) {
        CopyObserved::Present(seen) => seen.report.backup.as_deref(),
        CopyObserved::Unknown | CopyObserved::Absent => None,
    };
    let mut all = said.into_iter().flat_map(|said| &said.destinations);
    let said = all.find(|said| said.name == *destination);
    (known(stored, said, now), said)
}

/// What a tenant would lose if its host died now; `None` where no backups are made.
pub fn protection(
    state: &State,
    settings: &Settings,
    tenant: &Tenant,
    now: UnixMs,
) -> Option<Protection> {
    let policy = settings.backups.policy(&tenant.spec.plan)?;
    let of = |name: &ShortName| Some((name.clone(), repository(state, tenant, name, now).0?));
    let repositories = policy.destinations.iter().filter_map(of).collect();
    let facts = Facts {
        policy,
        repositories: &repositories,
        exists_since: tenant.activated_at,
        stopped_since: stopped_since(tenant),
    };
    Some(Protection::of(facts, now))
}

/// Whether the host of a tenant may reach the tenant's repository at a destination: it is there that the tenant lives, or is
/// about to.
pub fn may_reach_repository(
    state: &State,
    settings: &Settings,
    host: &HostName,
    tenant: Uuid,
    destination: &ShortName,
) -> bool {
    use crate::desired::CopyRole::{Discarded, Fenced, Incoming, Standby};
    let fleet = &state.fleet;
    let of = fleet
        .backups
        .get(&tenant)
        .filter(|_| fleet.backup_keys.contains_key(&tenant));
    let record = of.and_then(|of| fleet.tenants.get(&of.name));
    let Some(record) = record.filter(|record| record.uid == tenant) else {
        return false;
    };
    let has_place = match record.copy_on(host) {
        Some((_, None | Some(Incoming))) => true,
        Some((_, Some(Fenced { .. } | Discarded | Standby(_)))) | None => false,
    };
    let is_in = fleet.hosts.get(host).is_some_and(|host| !host.pending);
    let policy = settings.backups.policy(&record.spec.plan);
    has_place && is_in && policy.is_some_and(|policy| policy.destinations.contains(destination))
}

/// Whether a host may read a repository: its own tenants', and one from which it restores, or which it proves, just now.
pub fn may_read_repository(
    state: &State,
    settings: &Settings,
    host: &HostName,
    of: Uuid,
    destination: &ShortName,
) -> bool {
    let fleet = &state.fleet;
    let reads = |name: &TenantName| {
        let tenant = fleet.tenants.get(name);
        let filling = tenant.and_then(|tenant| filling(state, tenant));
        filling.is_some_and(|(_, from)| {
            *from.host == *host && from.source == of && from.point.destination == *destination
        })
    };
    let placed = fleet.by_host.get(host);
    let mut placed = placed.into_iter().flat_map(|index| &index.tenants);
    let is_in = fleet.hosts.get(host).is_some_and(|host| !host.pending);
    may_reach_repository(state, settings, host, of, destination)
        || is_in
            && fleet.backup_keys.contains_key(&of)
            && (is_proving(state, host, of, destination) || placed.any(reads))
}

fn candidate(made: &SnapshotMade) -> Candidate {
    Candidate {
        name: made.name,
        work: made.work,
        at: made.at,
        ended_at: made.ended_at,
    }
}

/// What is known of all that a tenant can be restored from, by destination.
pub fn offers(
    state: &State,
    settings: &Settings,
    tenant: &Tenant,
    now: UnixMs,
) -> BTreeMap<ShortName, Offer> {
    let of = state.fleet.backups.get(&tenant.uid);
    let made = of.into_iter().flat_map(|of| &of.made);
    let known = made.filter(|(name, _)| settings.backups.destinations.contains_key(*name));
    let offer = |(name, made): (&ShortName, &Made)| {
        let repository = repository(state, tenant, name, now).0;
        let offer = Offer {
            repository: repository.unwrap_or(made.repository),
            backups: made.snapshots.iter().map(candidate).collect(),
            stopped_since: stopped_since(tenant),
        };
        (name.clone(), offer)
    };
    known.map(offer).collect()
}

/// Of the tenants that were called so and are gone, as long as its key is kept: the one that the backup which is wanted is of; else the
/// newest with backups.
pub fn gone<'a>(
    state: &'a State,
    name: &TenantName,
    wanted: Option<&Wanted>,
) -> Option<(&'a TenantBackups, &'a Gone)> {
    let fleet = &state.fleet;
    let kept = |of: &&Arc<TenantBackups>| {
        of.name == *name && of.shredded_at.is_none() && fleet.backup_keys.contains_key(&of.tenant)
    };
    // Uids are in the order in which they were made.
    let rank = |of: &&Arc<TenantBackups>| {
        let mut all = of.made.values().flat_map(|made| &made.snapshots);
        let has = match wanted {
            Some(Wanted::Backup(wanted)) => all.any(|snapshot| snapshot.name == *wanted),
            _ => all.next().is_some(),
        };
        (has, of.tenant)
    };
    let meant = fleet.backups.values().filter(kept).max_by_key(rank)?;
    Some((meant, meant.gone.as_deref()?))
}

/// What one that is gone can be restored from.
pub fn offers_of_the_gone(
    settings: &Settings,
    of: &TenantBackups,
    gone: &Gone,
) -> BTreeMap<ShortName, Offer> {
    let known = of.made.iter();
    let known = known.filter(|(name, _)| settings.backups.destinations.contains_key(*name));
    let offer = |(name, made): (&ShortName, &Made)| {
        let offer = Offer {
            repository: made.repository,
            backups: made.snapshots.iter().map(candidate).collect(),
            stopped_since: Some(gone.stopped_since),
        };
        (name.clone(), offer)
    };
    known.map(offer).collect()
}

/// What a tenant's host is told of its backups: where its log goes, and what it is to make now. Nothing to a host that makes none.
pub(super) struct Told {
    pub(super) plan: BackupPlan,
    pub(super) spool: Option<WalSpool>,
    pub(super) job: Option<JobOrder>,
}

/// `open` unseals a key. `None`: nothing is made of it there.
pub(super) fn told<E>(
    state: &State,
    settings: &Settings,
    tenant: &Tenant,
    open: impl FnOnce(&BackupKey) -> Result<RepositoryKey, E>,
) -> Result<Option<Told>, E> {
    let fleet = &state.fleet;
    let able = fleet
        .hosts
        .get(&tenant.placement.host)
        .is_some_and(|host| host.makes_backups);
    let (Some(policy), Some(key), true) = (
        settings.backups.policy(&tenant.spec.plan),
        fleet.backup_keys.get(&tenant.uid),
        able && tenant.desired != Lifecycle::Purged,
    ) else {
        return Ok(None);
    };
    let order = fleet
        .backups
        .get(&tenant.uid)
        .and_then(|of| of.order.as_ref());
    let order = order.filter(|order| order.host == tenant.placement.host);
    Ok(Some(Told {
        plan: BackupPlan {
            key: open(key)?,
            destinations: destinations(settings, policy),
            ship_s: u32::try_from(policy.ship_every_ms() / 1000).unwrap_or(u32::MAX),
        },
        spool: Some(WalSpool::default()),
        job: order.map(|order| job(order, tenant)),
    }))
}

fn destinations(settings: &Settings, policy: &Policy) -> Vec<Destination> {
    let of = |name: &ShortName| destination(settings, name);
    let mut all: Vec<_> = policy.destinations.iter().filter_map(of).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

pub(super) fn destination(settings: &Settings, name: &ShortName) -> Option<Destination> {
    let reached = settings.backups.destinations.get(name)?;
    Some(Destination {
        name: name.clone(),
        at: reached.at.clone(),
        required: true,
        rate_bytes_per_s: reached.rate_bytes_per_s,
    })
}

fn job(order: &BackupOrder, tenant: &Tenant) -> JobOrder {
    JobOrder {
        id: order.id,
        // It belongs to none: it is its own.
        operation: order.id,
        tenant: tenant.name.clone(),
        uid: tenant.uid,
        work: JobWork::Backup(order.make.clone()),
        rate_bytes_per_s: 0,
    }
}
