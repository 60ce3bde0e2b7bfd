//! Tenants' disks against their plans: each is measured again the sooner, the fuller it may be by now, and what that says
//! goes on the board, where the tenant's loop (which stops and starts Odoo) and the link find it.
//!
//! Everything here is observed: after a start of the agent nothing is known of a disk until it was measured, and a tenant
//! that was stopped then runs until it is. Not here: what follows from a measurement (isyone-types' disk), measuring
//! (measure), CPU and memory (usage).

mod btrfs;
pub mod device;
mod measure;

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use isyone_proto::{
    disk::{Disk, DiskMeans, DiskState},
    ids::TenantName,
    plan::{DesiredState, HostPlan, TenantPlan},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::measure::make_directory;
use self::measure::{Measurement, Places, Room};
use crate::host::{
    Host,
    board::{BoardEntry, VolumeBytes},
    ledger::InForce,
    resources,
};

/// Between looks at how much room the file systems have: one call for each tenant.
const EVERY: Duration = Duration::from_secs(5);
/// Between measurements of a tenant that has room.
const AT_LEISURE: Duration = Duration::from_secs(900);
/// Between measurements of one that is warned or worse: it is to come back soon after room was made.
const WATCHED: Duration = Duration::from_secs(60);
/// Between measurements of one that may have reached its next state: as much has been written on its file system.
const HURRIED: Duration = Duration::from_secs(10);
/// So many times in a row it doubles for whoever was measured in such a hurry for nothing: others write on that file system, who may be
/// hundreds, and each of them would be measured for each of them.
const DOUBLED: u32 = 2;
/// Whoever hurries is measured before others who have waited for so much longer. Not before all others: so many may hurry, on a
/// disk that somebody writes to all the time, that nobody else would be measured.
const HEAD_START: Duration = Duration::from_secs(120);
/// Tenants that are measured at once.
const AT_ONCE: usize = 4;

/// How long it takes to measure a tenant, by the last time. Whoever has millions of directories must not keep the others from
/// their turn, nor may all together who have: the slower, the fewer are measured at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Speed {
    /// Nearly all tenants, and those of whom nothing is known.
    #[default]
    Quick,
    Slow,
    /// As long as it takes: there are no more directories than twice its plan's.
    Endless,
}

impl Speed {
    /// Longer than this and it is given up, to be measured anew among the slower ones.
    fn most_time(self) -> Option<Duration> {
        match self {
            Self::Quick => Some(Duration::from_secs(20)),
            Self::Slow => Some(Duration::from_secs(300)),
            Self::Endless => None,
        }
    }

    /// Tenants of this speed and slower ones that are measured at once.
    fn at_once(self) -> usize {
        match self {
            Self::Quick => AT_ONCE,
            Self::Slow => AT_ONCE - 1,
            Self::Endless => AT_ONCE - 2,
        }
    }

    fn slower(self) -> Self {
        match self {
            Self::Quick => Self::Slow,
            Self::Slow | Self::Endless => Self::Endless,
        }
    }

    fn of(took: Duration) -> Self {
        let fits = |speed: &Self| speed.most_time().is_none_or(|most| took <= most);
        let speeds = [Self::Quick, Self::Slow];
        speeds.into_iter().find(fits).unwrap_or(Self::Endless)
    }
}

/// What is known of one tenant's disk, and since when.
#[derive(Debug)]
struct Known {
    found: Measurement,
    at: Instant,
    /// What its file system had free when it was last looked at.
    free: Room,
    /// By how much that fell since the measurement began, rises left out: what one has written is not made up for by what others
    /// removed meanwhile.
    fallen: Room,
    /// What followed.
    disk: Disk,
    /// What its file system was told to hold it to, when it was measured.
    held_at: Option<u64>,
    /// Its plan says another limit by now: the file system learns of it at once, not with the next look.
    other_limit: bool,
    /// The measurement that has begun since then comes in a hurry.
    in_a_hurry: bool,
    /// Measurements in a hurry, in a row, that found no more than the one before.
    in_vain: u32,
}

/// All tenants' disks.
#[derive(Debug, Default)]
struct Disks {
    known: HashMap<TenantName, Known>,
    under_way: HashMap<TenantName, Speed>,
    /// Of all that were measured, or tried to be.
    speeds: HashMap<TenantName, Speed>,
    /// Those whose measurement was given up: it is to be made up for, whatever is known of before.
    given_up: HashSet<TenantName>,
    /// Where containers keep what they write beside their volumes, by id: told only while they run.
    layers: HashMap<String, PathBuf>,
}

/// The tenants that are here and in the plan, as of the last look.
#[derive(Default)]
struct Looked {
    plan: Option<Arc<HostPlan>>,
    entries: Vec<BoardEntry>,
    /// Of each entry, its tenant's place in the plan.
    places: Vec<usize>,
}

impl Looked {
    fn at(host: &Host, plan: Option<Arc<HostPlan>>) -> Self {
        let tenants = plan.iter().flat_map(|plan| &plan.tenants);
        let planned: HashMap<(&TenantName, Uuid), usize> = tenants
            .enumerate()
            .map(|(at, tenant)| ((&tenant.name, tenant.uid), at))
            .collect();
        let entries = host.board.entries().into_iter();
        let (entries, places) = entries
            .filter_map(|entry| {
                let at = *planned.get(&(&entry.name, entry.status.uid))?;
                Some((entry, at))
            })
            .unzip();
        Self {
            plan,
            entries,
            places,
        }
    }

    fn all(&self) -> impl Iterator<Item = (&BoardEntry, &TenantPlan)> {
        let plan = self.plan.as_ref();
        let both = self.entries.iter().zip(&self.places);
        both.filter_map(move |(entry, at)| Some((entry, plan?.tenants.get(*at)?)))
    }

    fn of(&self, name: &TenantName) -> Option<(&BoardEntry, &TenantPlan)> {
        self.all().find(|(entry, _)| entry.name == *name)
    }
}

/// Runs until `stop`. All are looked at every few seconds, and whoever was measured at once: not all whenever one was, or hundreds that
/// hurry would have all looked at all the time.
pub async fn run(host: Arc<Host>, plans: watch::Receiver<InForce>, stop: CancellationToken) {
    let mut disks = Disks::default();
    let mut looked = Looked::default();
    let mut walks: JoinSet<(TenantName, Option<u64>, Measurement)> = JoinSet::new();
    let mut look = interval(EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = look.tick() => {
                looked = Looked::at(&host, plans.borrow().plan.clone());
                disks.forget(&looked.entries);
                disks.look(&looked.entries, &room_of);
                for (entry, plan) in looked.all() {
                    disks.conclude(&host, entry, plan);
                }
            }
            Some(done) = walks.join_next() => {
                if let Ok((name, held_at, found)) = done {
                    disks.end(name.clone(), held_at, found, Instant::now());
                    if let Some((entry, plan)) = looked.of(&name) {
                        disks.conclude(&host, entry, plan);
                    }
                }
            }
        }
        if walks.is_empty() {
            disks.under_way.clear(); // also of a walk that has panicked
        }
        while walks.len() < AT_ONCE {
            let due = disks.due(&looked.entries, Instant::now());
            let Some((entry, plan)) = due.and_then(|entry| looked.of(&entry.name)) else {
                break;
            };
            disks.begin(&entry.name);
            let places = disks.places(entry, Some(plan));
            let name = entry.name.clone();
            walks.spawn_blocking(move || (name, places.hold_at, measure::measure(&places)));
        }
    }
}

/// Room of the file system that a tenant's data is on; `None`: it has none, or that is not known.
fn room_of(entry: &BoardEntry) -> Option<Room> {
    Room::at(Path::new(entry.status.volumes.last()?))
}

impl Disks {
    /// A measurement has ended.
    fn end(&mut self, name: TenantName, held_at: Option<u64>, found: Measurement, now: Instant) {
        let speed = self.under_way.remove(&name).unwrap_or_default();
        if found.given_up {
            tracing::debug!(tenant = %name, "its directories take longer to count than others'");
            self.speeds.insert(name.clone(), speed.slower());
            self.given_up.insert(name);
            return;
        }
        self.speeds.insert(name.clone(), Speed::of(found.took));
        self.given_up.remove(&name);
        self.learn(name, held_at, found, now);
    }

    fn learn(&mut self, name: TenantName, held_at: Option<u64>, found: Measurement, now: Instant) {
        let before = self.known.get(&name);
        let disk = before.map_or_else(Disk::default, |known| known.disk);
        let free = before.map_or(found.free, |known| known.free);
        let fallen = before.map_or(Room::default(), |known| known.fallen);
        let in_vain = before.filter(|before| has_no_more(before, &found));
        let in_vain = in_vain.map_or(0, |before| before.in_vain.saturating_add(1));
        let known = Known {
            found,
            at: now,
            free,
            fallen,
            disk,
            held_at,
            other_limit: false,
            in_a_hurry: false,
            in_vain,
        };
        self.known.insert(name, known);
    }

    /// Looks at how much room there is, by file systems.
    fn look(&mut self, entries: &[BoardEntry], room_of: &dyn Fn(&BoardEntry) -> Option<Room>) {
        for entry in entries {
            let Some(known) = self.known.get_mut(&entry.name) else {
                continue;
            };
            if let Some(room) = room_of(entry) {
                let gone = |before: u64, now: u64, fallen: u64| {
                    fallen.saturating_add(before.saturating_sub(now))
                };
                known.fallen = Room {
                    bytes: gone(known.free.bytes, room.bytes, known.fallen.bytes),
                    inodes: gone(known.free.inodes, room.inodes, known.fallen.inodes),
                };
                known.free = room;
            }
        }
    }

    /// A measurement begins: what is written from now on it may not see.
    fn begin(&mut self, name: &TenantName) {
        self.under_way.insert(name.clone(), self.speed(name));
        if let Some(known) = self.known.get_mut(name) {
            known.in_a_hurry = hurries(known);
            known.fallen = Room::default();
        }
    }

    /// What follows from the last measurement under the plan in force.
    fn conclude(&mut self, host: &Host, entry: &BoardEntry, plan: &TenantPlan) {
        let limit_bytes = plan.size.disk_bytes;
        let Some(known) = self.known.get_mut(&entry.name) else {
            return;
        };
        let found = &known.found;
        known.other_limit = found.means == DiskMeans::Quota
            && hold_at(plan).is_some_and(|at| known.held_at != Some(at));
        let shown = host.board.disk(&entry.name, entry.status.uid);
        known.disk = Disk::after(shown.as_ref(), found.used, limit_bytes, found.means);
        if shown.map(|disk| disk.state) != Some(known.disk.state)
            && known.disk.state > DiskState::Free
        {
            tracing::warn!(
                tenant = %entry.name, used = known.disk.used_bytes, limit = limit_bytes, files = known.disk.used_inodes,
                state = ?known.disk.state, cause = ?known.disk.cause(), "its disk is filling"
            );
        }
        let volumes = volumes(&found.volumes);
        host.board
            .set_disk(&entry.name, entry.status.uid, known.disk, volumes);
    }

    fn speed(&self, name: &TenantName) -> Speed {
        self.speeds.get(name).copied().unwrap_or_default()
    }

    /// Whether one more of this speed may be measured now.
    fn has_room(&self, speed: Speed) -> bool {
        let slower = self.under_way.values().filter(|other| **other >= speed);
        slower.count() < speed.at_once()
    }

    /// The tenant that is measured next: of those whose time has come, and of whose speed not too many are being measured, the one
    /// that has waited longest beyond it, never measured ones first; so the last of 120 names gets its turn although one round
    /// takes longer than [`AT_LEISURE`].
    fn due<'a>(&self, entries: &'a [BoardEntry], now: Instant) -> Option<&'a BoardEntry> {
        let idle = entries.iter().filter(|e| {
            !self.under_way.contains_key(&e.name)
                && !e.status.volumes.is_empty()
                && self.has_room(self.speed(&e.name))
        });
        let due = idle.filter_map(|e| Some((self.has_waited(&e.name, now)?, e)));
        due.min_by_key(|(waited, _)| Reverse(*waited))
            .map(|(_, entry)| entry)
    }

    /// For how long a tenant's time has come; `None`: it has not.
    fn has_waited(&self, name: &TenantName, now: Instant) -> Option<Duration> {
        let known = self.known.get(name);
        let Some(known) = known.filter(|_| !self.given_up.contains(name)) else {
            return Some(Duration::MAX);
        };
        let pace = pace(known);
        let waited = now.checked_duration_since(known.at + pace)?;
        Some(match hurries(known) {
            true => waited + HEAD_START,
            false => waited,
        })
    }

    /// Where a tenant's data is.
    fn places(&mut self, entry: &BoardEntry, plan: Option<&TenantPlan>) -> Places {
        let mut beside = Vec::new();
        for container in &entry.status.containers {
            let told = resources::groups_of(container.pid, &container.id)
                .and_then(|_| measure::layer(container.pid));
            if let Some(place) = told {
                self.layers.insert(container.id.clone(), place);
            }
            beside.extend(self.layers.get(&container.id).cloned());
            beside.extend(container.unnamed.iter().map(PathBuf::from));
        }
        Places {
            volumes: entry.status.volumes.iter().map(PathBuf::from).collect(),
            beside,
            hold_at: plan.and_then(hold_at),
            limit_bytes: plan.map_or(0, |plan| plan.size.disk_bytes),
            most_time: self.speed(&entry.name).most_time(),
        }
    }

    fn forget(&mut self, entries: &[BoardEntry]) {
        let there: HashSet<&TenantName> = entries.iter().map(|e| &e.name).collect();
        self.known.retain(|name, _| there.contains(name));
        self.speeds.retain(|name, _| there.contains(name));
        self.given_up.retain(|name| there.contains(name));
        let containers = entries.iter().flat_map(|e| &e.status.containers);
        let alive: HashSet<&str> = containers.map(|c| c.id.as_str()).collect();
        self.layers.retain(|id, _| alive.contains(id.as_str()));
    }
}

/// What the file system holds a tenant to. A copy that is on its way, or one that is kept, is as large as it is.
fn hold_at(plan: &TenantPlan) -> Option<u64> {
    let running = plan.desired == DesiredState::Running;
    running.then_some(plan.size.disk_bytes).filter(|b| *b > 0)
}

/// Whether a measurement found no more than the one before, which made it come in a hurry.
fn has_no_more(before: &Known, found: &Measurement) -> bool {
    let (then, now) = (&before.found.used, &found.used);
    before.in_a_hurry && now.bytes <= then.bytes && now.inodes <= then.inodes
}

/// Whether a tenant may have reached its next state since it was measured.
fn hurries(known: &Known) -> bool {
    // Who has written since then nobody knows: at worst a walk is made for nothing.
    let reaches = |gone: u64, next: Option<u64>| next.is_some_and(|n| gone > 0 && gone >= n);
    known.other_limit
        || reaches(known.fallen.bytes, known.disk.until_next())
        || reaches(known.fallen.inodes, known.disk.until_next_inodes())
}

/// How long a measurement is good for.
fn pace(known: &Known) -> Duration {
    if known.other_limit {
        HURRIED
    } else if hurries(known) {
        HURRIED * (1 << known.in_vain.min(DOUBLED))
    } else if known.disk.state > DiskState::Free || known.found.cut {
        WATCHED
    } else {
        AT_LEISURE
    }
}

/// In the order in which a status lists them, if both are there.
fn volumes(bytes: &[u64]) -> Option<VolumeBytes> {
    match *bytes {
        [postgres, odoo] => Some(VolumeBytes { postgres, odoo }),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
