//! What the host has to report about each tenant and job, kept for the link to send: only the newest status is kept, so a long
//! silence costs nothing.
//!
//! Not here: the wire (link::report).

mod backups;
mod jobs;
mod strain;
mod troubles;

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use isyone_proto::{
    backup::BackupReport,
    disk::Disk,
    finding::Finding,
    ids::TenantName,
    plan::{TenantPlan, UnixMs},
    report::{JobReport, Strain, TenantProgress, Traffic},
};
use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

pub use self::strain::Work;
use crate::plan::{installs::Pending, state::StepRecord};

/// One container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerStatus {
    /// `odoo_alfa`.
    pub name: String,
    /// Docker's name for the state, or `absent`.
    pub state: String,
    pub healthy: bool,
    /// Restarts by the engine.
    pub restarts: u32,
    /// Digest of its image.
    pub image_digest: String,
    /// Exit code of the last run.
    pub exit_code: i32,
    /// Start of the current run.
    pub started_ms: Option<UnixMs>,
    /// Process 1 on the host, for measuring.
    pub pid: i32,
    /// Engine's id, for measuring.
    pub id: String,
    /// Its address, while it runs.
    pub ip: Option<Ipv4Addr>,
    /// Directories of its volumes without a name, for the disk walk.
    pub unnamed: Vec<String>,
}

/// What a tenant uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TenantUsage {
    /// Thousandths of a CPU.
    pub cpu_millis: u32,
    /// Without page cache.
    pub memory_bytes: u64,
    /// Memory of its limit, of the container that is closer to its own.
    pub memory_permille: u16,
    /// Share of scheduling periods in which a container had used up its CPU, of the one that was so more often.
    pub throttled_permille: u16,
    /// Both volumes.
    pub disk_bytes: u64,
    /// Each volume by itself, once measured.
    pub volumes: Option<VolumeBytes>,
}

/// What a tenant's volumes hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VolumeBytes {
    /// The database.
    pub postgres: u64,
    /// Filestore and sessions.
    pub odoo: u64,
}

/// The host's status of one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantStatus {
    pub uid: Uuid,
    /// Epoch that this status is about.
    pub epoch: u64,
    /// Plan generation that this status is about.
    pub generation: u64,
    pub progress: TenantProgress,
    /// What is wrong and what to do; empty when nothing is.
    pub message: String,
    /// No further attempt can mend what is wrong: a person must act first.
    pub blocked: bool,
    /// What was asked for at its creation cannot be had from its images.
    pub unfit: bool,
    /// Both containers.
    pub containers: Vec<ContainerStatus>,
    /// Operation that `steps` belong to.
    pub operation: Option<Uuid>,
    pub steps: Vec<StepRecord>,
    /// Its database is its own: nothing is copied from it for other tenants, now or later.
    pub own_database: bool,
    /// The tenant is purged; nothing of it is left.
    pub absent: bool,
    /// Directories of the volumes, for the disk walk.
    pub volumes: Vec<String>,
    /// How often records of its volumes were gone and have been put back.
    pub volume_repairs: u64,
    /// Modules that an installation which was cut off has left behind.
    pub modules_cut_off: u32,
    /// How many such installations have been finished.
    pub installs_finished: u64,
}

impl TenantStatus {
    /// Whether this status is about that plan: about this tenant, placement, generation and operation. Neither a name
    /// nor a generation identifies it: a tenant that is created anew counts generations from 1, and a coordinator that
    /// was rebuilt from an older state gives the same numbers to other plans, but never the same operation.
    pub fn is_about(&self, plan: &TenantPlan) -> bool {
        (self.uid, self.epoch, self.generation) == (plan.uid, plan.epoch, plan.generation)
            && (self.operation.is_none() || self.operation == plan.operation)
    }
}

/// A tenant's disk, and whose it is: a name may be given again.
#[derive(Debug, Clone, Copy)]
struct Measured {
    uid: Uuid,
    disk: Disk,
    volumes: Option<VolumeBytes>,
}

#[derive(Debug, Default)]
struct Inner {
    tenants: BTreeMap<TenantName, (u64, Arc<TenantStatus>)>,
    latency_ms: HashMap<TenantName, u32>,
    /// Since when callers are held for a move.
    held: HashMap<TenantName, Instant>,
    usage: HashMap<TenantName, TenantUsage>,
    traffic: HashMap<TenantName, Traffic>,
    work: HashMap<TenantName, Work>,
    pending: HashMap<TenantName, Pending>,
    disks: HashMap<TenantName, Measured>,
    backups: HashMap<TenantName, backups::Known>,
    /// Tenants of which a program must be stopped, or may start again, since they were last asked for.
    crossed: Vec<TenantName>,
    oom_kills: HashMap<String, u32>,
    revision: u64,
    docker_error: String,
    warnings: BTreeMap<&'static str, String>,
    /// What the doctor has found to be wrong.
    findings: Vec<Finding>,
    /// That the disk of tenants' data is full, in words.
    full: String,
    mended: BTreeMap<&'static str, (UnixMs, String)>,
    jobs: BTreeMap<Uuid, JobReport>,
    /// When it was seen how far the copies of jobs are behind.
    seen_behind: BTreeMap<Uuid, Instant>,
}

/// All statuses of the host.
#[derive(Debug, Default)]
pub struct StatusBoard {
    inner: Mutex<Inner>,
    changed: Notify,
    crossed: Notify,
    /// Somebody waits for what has changed.
    is_urgent: AtomicBool,
}

/// A tenant's entry on the board.
#[derive(Debug, Clone)]
pub struct BoardEntry {
    pub name: TenantName,
    /// Rises with each change of the status.
    pub revision: u64,
    pub status: Arc<TenantStatus>,
    /// Milliseconds of its last health check, 0 when it failed or there was none.
    pub latency_ms: u32,
    /// For how long its callers have been held for a move.
    pub held_ms: u32,
    pub usage: TenantUsage,
    /// Whether `usage` was measured; until then nothing is known.
    pub measured: bool,
    /// What its visitors do, when known.
    pub traffic: Option<Traffic>,
    /// What it is short of, once measured.
    pub strain: Option<Strain>,
    /// Its disk, once measured.
    pub disk: Option<Disk>,
    /// Its backups, once looked at.
    pub backup: Option<Box<BackupReport>>,
    /// Out-of-memory kills of its containers, in their order.
    pub oom_kills: Vec<u32>,
}

impl Inner {
    fn disk(&self, name: &TenantName, uid: Uuid) -> Option<Disk> {
        let measured = self.disks.get(name).filter(|m| m.uid == uid)?;
        Some(measured.disk)
    }
}

impl StatusBoard {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a status. Wakes the link if something changed.
    pub fn set(&self, name: &TenantName, status: TenantStatus) {
        let mut inner = self.lock();
        if inner
            .tenants
            .get(name)
            .is_some_and(|(_, old)| **old == status)
        {
            return;
        }
        inner.revision += 1;
        let revision = inner.revision;
        inner
            .tenants
            .insert(name.clone(), (revision, Arc::new(status)));
        drop(inner);
        self.changed.notify_one();
    }

    /// How long the last health check took, 0 when it failed. Does not wake the link: it changes each time, and is sent
    /// along with other changes.
    pub fn set_latency(&self, name: &TenantName, latency_ms: u32) {
        let mut inner = self.lock();
        if inner.tenants.contains_key(name) {
            inner.latency_ms.insert(name.clone(), latency_ms);
        }
    }

    /// Removes a tenant that this host is no longer responsible for.
    pub fn remove(&self, name: &TenantName) {
        let mut inner = self.lock();
        inner.usage.remove(name);
        inner.disks.remove(name);
        inner.backups.remove(name);
        inner.traffic.remove(name);
        inner.work.remove(name);
        inner.pending.remove(name);
        inner.latency_ms.remove(name);
        if let Some((_, status)) = inner.tenants.remove(name) {
            inner
                .oom_kills
                .retain(|container, _| status.containers.iter().all(|c| c.name != *container));
        }
    }

    /// The newest status of a tenant.
    pub fn get(&self, name: &TenantName) -> Option<Arc<TenantStatus>> {
        self.lock()
            .tenants
            .get(name)
            .map(|(_, status)| status.clone())
    }

    /// Whether somebody may run commands in containers of the tenant with this uid; if not, why and what to do. Not while its database
    /// is filled: a snapshot of that becomes other tenants' databases, with whatever was done in it, so nobody but the agent gets in.
    /// Nor while nothing is known of it. A tenant that may be entered may be from then on.
    pub fn may_enter(&self, name: &TenantName, uid: Uuid) -> Result<(), String> {
        let known = self.get(name).filter(|status| status.uid == uid);
        match known.map(|status| status.own_database) {
            Some(true) => Ok(()),
            Some(false) => Err(format!(
                "tenant {name} is being created, and no command runs in it until its database is its own; try again when it runs \
                 (`isyctl tenant show {name}` says how far it is)"
            )),
            None => Err(format!(
                "this host has not looked at tenant {name} yet; try again in a moment"
            )),
        }
    }

    pub fn entries(&self) -> Vec<BoardEntry> {
        let inner = self.lock();
        let entry =
            |(name, (revision, status)): (&TenantName, &(u64, Arc<TenantStatus>))| BoardEntry {
                name: name.clone(),
                revision: *revision,
                usage: inner.usage.get(name).copied().unwrap_or_default(),
                measured: inner.usage.contains_key(name),
                traffic: inner.traffic.get(name).copied(),
                strain: inner
                    .usage
                    .get(name)
                    .map(|usage| strain::strain(usage, inner.work.get(name))),
                disk: inner.disk(name, status.uid),
                backup: inner.backup(name, status.uid),
                latency_ms: inner.latency_ms.get(name).copied().unwrap_or(0),
                held_ms: inner.held.get(name).map_or(0, |since| {
                    u32::try_from(since.elapsed().as_millis()).unwrap_or(u32::MAX)
                }),
                oom_kills: status
                    .containers
                    .iter()
                    .map(|c| inner.oom_kills.get(&c.name).copied().unwrap_or(0))
                    .collect(),
                status: status.clone(),
            };
        inner.tenants.iter().map(entry).collect()
    }

    /// Number of tenants per progress.
    pub fn counts(&self) -> HashMap<TenantProgress, usize> {
        let mut counts = HashMap::new();
        for (_, status) in self.lock().tenants.values() {
            *counts.entry(status.progress).or_default() += 1;
        }
        counts
    }

    /// Its callers are held for a move from now on, or are not any more. Does not wake the link: it is sent along with what follows.
    pub fn set_held(&self, name: &TenantName, held: bool) {
        let mut inner = self.lock();
        match held {
            true => inner.held.insert(name.clone(), Instant::now()),
            false => inner.held.remove(name),
        };
    }

    /// Visitors wait until the coordinator has what has just changed: it is not kept to be sent along with more.
    pub fn hurry(&self) {
        self.is_urgent.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Whether somebody has been waiting since this was last asked.
    pub fn take_urgency(&self) -> bool {
        self.is_urgent.swap(false, Ordering::Relaxed)
    }

    /// Completes when a status has changed since the last call.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    pub fn set_usage(&self, name: &TenantName, usage: TenantUsage) {
        self.lock().usage.insert(name.clone(), usage);
    }

    pub fn usage(&self, name: &TenantName) -> TenantUsage {
        self.lock().usage.get(name).copied().unwrap_or_default()
    }

    /// A tenant's disk. Wakes the link when more than its bytes have changed, and whoever waits for [`Self::crossed`] when
    /// its Odoo or PostgreSQL must be stopped or may start again.
    pub fn set_disk(&self, name: &TenantName, uid: Uuid, disk: Disk, volumes: Option<VolumeBytes>) {
        let mut inner = self.lock();
        let before = inner.disk(name, uid);
        let measured = Measured { uid, disk, volumes };
        inner.disks.insert(name.clone(), measured);
        let told = |d: &Disk| (d.state, d.limit_bytes, d.means, d.too_deep);
        let same = |b: &Disk| told(b) == told(&disk);
        if before.as_ref().is_some_and(same) {
            return;
        }
        inner.revision += 1;
        let revision = inner.revision;
        if let Some((told, _)) = inner.tenants.get_mut(name) {
            *told = revision;
        }
        let stops = |disk: Disk| (disk.state.stops_odoo(), disk.state.stops_postgres());
        let crosses = stops(disk) != before.map(stops).unwrap_or_default();
        if crosses {
            inner.crossed.push(name.clone());
        }
        drop(inner);
        self.changed.notify_one();
        if crosses {
            self.crossed.notify_one();
        }
    }

    /// A tenant's disk, once measured.
    pub fn disk(&self, name: &TenantName, uid: Uuid) -> Option<Disk> {
        self.lock().disk(name, uid)
    }

    /// What each of a tenant's volumes holds, once measured.
    pub fn volumes(&self, name: &TenantName) -> Option<VolumeBytes> {
        self.lock().disks.get(name)?.volumes
    }

    /// Completes when there are tenants of which a program must be stopped or may start again because of their disk: these.
    pub async fn crossed(&self) -> Vec<TenantName> {
        loop {
            let crossed = std::mem::take(&mut self.lock().crossed);
            if !crossed.is_empty() {
                return crossed;
            }
            self.crossed.notified().await;
        }
    }

    /// What a tenant's visitors do; `None`: not known, or not any more.
    pub fn set_traffic(&self, name: &TenantName, traffic: Option<Traffic>) {
        let mut inner = self.lock();
        match traffic {
            Some(traffic) if inner.tenants.contains_key(name) => {
                inner.traffic.insert(name.clone(), traffic)
            }
            _ => inner.traffic.remove(name),
        };
    }

    /// How busy its Odoo is; `None`: not known, or not any more.
    pub fn set_work(&self, name: &TenantName, work: Option<Work>) {
        let mut inner = self.lock();
        match work {
            Some(work) if inner.tenants.contains_key(name) => inner.work.insert(name.clone(), work),
            _ => inner.work.remove(name),
        };
    }

    /// What Odoo says of its modules; `None`: not known, or not any more.
    pub fn set_pending(&self, name: &TenantName, pending: Option<Pending>) {
        let mut inner = self.lock();
        match pending {
            Some(mut pending) if inner.tenants.contains_key(name) => {
                pending.address_before = inner.pending.get(name).and_then(|before| before.address);
                inner.pending.insert(name.clone(), pending)
            }
            _ => inner.pending.remove(name),
        };
    }

    /// What Odoo said of its modules lately.
    pub fn pending(&self, name: &TenantName) -> Option<Pending> {
        self.lock().pending.get(name).copied()
    }

    /// Counts a process that the kernel killed because the container was out of memory.
    pub fn count_oom(&self, container: &str) {
        *self
            .lock()
            .oom_kills
            .entry(container.to_owned())
            .or_default() += 1;
    }
}

#[cfg(test)]
mod tests;
