//! Whose backup is proven next and where: each tenant's once a week at each destination, spread over the week, one at a time on a host
//! and only where there is room.
//!
//! A tenant's place in the week is its own and stays the same. What is known to be damaged is looked at again as soon as there is a newer
//! backup, and at no other time: otherwise a damage that new backups share would be proven day and night.
//!
//! Not here: what a proof looks at (the agent's), what follows from what it finds (change/backups/proofs, protection).

use std::collections::{BTreeMap, BTreeSet};

use isyone_types::{
    backup::{RestoreTo, SnapshotName},
    ids::{HostName, ShortName},
    plan::UnixMs,
};
use uuid::Uuid;

use super::{
    policy::{DAY, HOUR, share},
    turns::Running,
};

/// Each repository is proven once in so long.
pub const EVERY_MS: i64 = 7 * DAY;
/// Without a proof for so long somebody is told: its place in the week has passed at least three days ago.
pub const LATE_MS: i64 = 10 * DAY;
/// The first pause after a proof that could not be carried out; it doubles.
pub const RETRY_MS: i64 = HOUR;
/// The longest pause after such failures.
pub const LONGEST_RETRY_MS: i64 = DAY;
/// Beyond what a backup holds: the log after it, and what PostgreSQL writes while it recovers.
const MORE_BYTES: u64 = 1 << 30;
/// What stays free on a host: this share of its disk, within these bounds. Agents keep the same.
const RESERVE_PART: u64 = 20;
const LEAST_RESERVE: u64 = 1 << 30;
const MOST_RESERVE: u64 = 20 << 30;

/// The backup that a proof begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provable {
    pub base: SnapshotName,
    pub base_at: UnixMs,
    pub to: RestoreTo,
    /// Bytes that were read of the tenant.
    pub bytes: u64,
}

impl Provable {
    /// Room that it takes, with the log that follows it.
    #[must_use]
    pub const fn needs_bytes(&self) -> u64 {
        self.bytes
            .saturating_add(self.bytes / 4)
            .saturating_add(MORE_BYTES)
    }
}

/// The last proof of a repository that was carried out. Of what its host has said there is only the verdict: a host that has not come
/// to the backup's own moment says none, and whoever says a wrong one would have its turn again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastProof {
    /// When it was ordered.
    pub begun_at: UnixMs,
    /// The backup that was ordered to be proven, and its moment.
    pub base: SnapshotName,
    pub base_at: UnixMs,
    pub is_restorable: bool,
}

/// What is known of one tenant's repository at one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofSubject {
    pub tenant: Uuid,
    /// Where the tenant lives.
    pub home: HostName,
    pub destination: ShortName,
    /// Nothing is there to prove yet: `None`.
    pub newest: Option<Provable>,
    /// Since when it could have been proven.
    pub since: Option<UnixMs>,
    pub last: Option<LastProof>,
    /// An operator wants one, at once.
    pub is_asked_for: bool,
    /// Nobody proves or removes it now.
    pub is_free: bool,
    /// Proofs that could not be carried out since one was, and the last of them.
    pub failures: u32,
    pub failed_at: Option<UnixMs>,
}

/// Why one is to be made now. The order is that of turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProofDue {
    /// Somebody waits for it.
    Asked,
    /// The last was of a damaged backup, and there is a newer one.
    Anew,
    /// Its place in the week has come, at this time.
    Weekly(UnixMs),
}

/// Whether a proof is due.
#[must_use]
pub fn proof_due(subject: &ProofSubject, now: UnixMs) -> Option<ProofDue> {
    let newest = subject.newest?;
    let due = wanted(subject, newest, now)?;
    let paused = subject.failed_at.is_some_and(|failed| {
        let doubled = RETRY_MS << subject.failures.saturating_sub(1).min(10);
        // A clock that was set back does not make anybody wait longer.
        subject.failures > 0 && failed <= now && now < failed + doubled.min(LONGEST_RETRY_MS)
    });
    (!paused).then_some(due)
}

fn wanted(subject: &ProofSubject, newest: Provable, now: UnixMs) -> Option<ProofDue> {
    if subject.is_asked_for {
        return Some(ProofDue::Asked);
    }
    if let Some(last) = subject.last.filter(|last| !last.is_restorable) {
        let is_newer = newest.base != last.base && newest.base_at > last.base_at;
        return is_newer.then_some(ProofDue::Anew);
    }
    let place = last_place(subject, now);
    let proven = subject.last.map(|last| last.begun_at);
    let waits_since = proven.or(subject.since)?;
    (waits_since < place).then_some(ProofDue::Weekly(place))
}

/// The last time that a repository's place in the week came.
fn last_place(subject: &ProofSubject, now: UnixMs) -> UnixMs {
    let what = format!("proof/{}", subject.destination);
    let place = share(subject.tenant, &what, EVERY_MS);
    now - (now - place).rem_euclid(EVERY_MS)
}

/// A host that can prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prover {
    pub host: HostName,
    /// Of the disk of tenants' data, as last reported.
    pub free_bytes: u64,
    pub total_bytes: u64,
    /// It is to get nothing new: it proves its own tenants' backups alone.
    pub is_cordoned: bool,
}

impl Prover {
    /// What a proof may take there.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        let reserve = (self.total_bytes / RESERVE_PART).clamp(LEAST_RESERVE, MOST_RESERVE);
        self.free_bytes.saturating_sub(reserve)
    }
}

/// How many at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProofLimits {
    /// Each reads a whole tenant from there, beside the backups that are made.
    pub per_destination: usize,
}

impl ProofLimits {
    /// The most at a destination of a small fleet, and the hosts of a larger one for which there is one more place: a week has room for
    /// all of a fleet's tenants only if it grows with the fleet.
    const FEW: usize = 4;
    const HOSTS_EACH: usize = 8;

    /// With so many hosts that can prove.
    #[must_use]
    pub fn of(provers: usize) -> Self {
        Self {
            per_destination: Self::FEW.max(provers / Self::HOSTS_EACH),
        }
    }
}

/// A proof that begins now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofTurn {
    pub tenant: Uuid,
    pub host: HostName,
    pub destination: ShortName,
    pub of: Provable,
}

/// Why one that is due does not begin now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofWait {
    /// It is being proven or removed.
    Tenant,
    /// Each host that has room is busy.
    Hosts,
    Destination,
    /// No host has so much room; most has the one that has this.
    Room {
        needs: u64,
        most: u64,
    },
    /// No host can prove.
    NoHost,
}

/// The host on which a backup is proven. Where the tenant lives, if there is room: no other host learns the key of its backups then, and
/// its image is there; it is waited for. Else, and after each first failure there, on the one with most room. `Err`: why on none.
pub fn choose_prover(
    subject: &ProofSubject,
    needs: u64,
    provers: &[Prover],
    busy: &BTreeSet<HostName>,
) -> Result<HostName, ProofWait> {
    let takes = |prover: &&Prover| !prover.is_cordoned || prover.host == subject.home;
    let most = { provers.iter().filter(takes) }
        .map(Prover::room_bytes)
        .max();
    let most = most.ok_or(ProofWait::NoHost)?;
    if most < needs {
        return Err(ProofWait::Room { needs, most });
    }
    let fits = || { provers.iter().filter(takes) }.filter(|p| p.room_bytes() >= needs);
    let is_free = |prover: &&Prover| !busy.contains(&prover.host);
    let home = fits().find(|p| p.host == subject.home);
    let others = || fits().filter(|p| p.host != subject.home);
    let is_homes_turn = subject.failures.is_multiple_of(2) || others().next().is_none();
    let best = match home {
        Some(home) if is_homes_turn => Some(home).filter(is_free),
        _ => others().filter(is_free).min_by_key(|prover| {
            let room = std::cmp::Reverse(prover.room_bytes());
            (room, prover.host.clone())
        }),
    };
    best.map(|prover| prover.host.clone())
        .ok_or(ProofWait::Hosts)
}

/// Begins what is due, as far as there are hosts, and says of the rest that is due why it waits.
#[must_use]
pub fn proof_turns<'a>(
    subjects: impl Iterator<Item = &'a ProofSubject>,
    provers: &[Prover],
    running: &[Running],
    limits: ProofLimits,
    now: UnixMs,
) -> (Vec<ProofTurn>, Vec<(&'a ProofSubject, ProofWait)>) {
    let mut hosts: BTreeSet<HostName> = running.iter().map(|job| job.host.clone()).collect();
    let mut tenants: BTreeSet<Uuid> = running.iter().map(|job| job.tenant).collect();
    let mut destinations: BTreeMap<ShortName, usize> = BTreeMap::new();
    for job in running {
        *destinations.entry(job.destination.clone()).or_default() += 1;
    }
    let due = |subject: &'a ProofSubject| Some((proof_due(subject, now)?, subject));
    let mut due: Vec<(ProofDue, &ProofSubject)> = subjects.filter_map(due).collect();
    due.sort_by(|(a, x), (b, y)| {
        let key = |s: &'a ProofSubject| (s.tenant, &s.destination);
        a.cmp(b).then_with(|| key(x).cmp(&key(y)))
    });
    let (mut begun, mut waiting) = (Vec::new(), Vec::new());
    for (_, subject) in due {
        let Some(of) = subject.newest else { continue };
        let used = destinations.get(&subject.destination).copied();
        let chosen = match (subject.is_free && !tenants.contains(&subject.tenant), used) {
            (false, _) => Err(ProofWait::Tenant),
            (_, Some(used)) if used >= limits.per_destination => Err(ProofWait::Destination),
            _ => choose_prover(subject, of.needs_bytes(), provers, &hosts),
        };
        match chosen {
            Err(wait) => waiting.push((subject, wait)),
            Ok(host) => {
                hosts.insert(host.clone());
                tenants.insert(subject.tenant);
                *destinations.entry(subject.destination.clone()).or_default() += 1;
                begun.push(ProofTurn {
                    tenant: subject.tenant,
                    host,
                    destination: subject.destination.clone(),
                    of,
                });
            }
        }
    }
    (begun, waiting)
}

/// Why no host proves it, in numbers; for people.
#[must_use]
pub fn no_room(wait: ProofWait) -> Option<String> {
    let mb = |bytes: u64| bytes.div_ceil(1_000_000);
    match wait {
        ProofWait::NoHost => Some(
            "no host can prove backups now: none reports, agents are of a version before, or hosts are cordoned"
                .to_owned(),
        ),
        ProofWait::Room { needs, most } => Some(format!(
            "no host has room for it: it needs {} MB, and {} MB may be taken on the one that has most; what stays free is not counted",
            mb(needs),
            mb(most)
        )),
        ProofWait::Tenant | ProofWait::Hosts | ProofWait::Destination => None,
    }
}
