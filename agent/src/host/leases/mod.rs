//! The keeper of leases: who of this host's tenants may run, and who of others' is let go on from here, under the plan in force; what the
//! relay is told of it, what is written down, and what is stopped in time.
//!
//! One lock is held while it is decided and recorded, so that nothing is granted once a plan without it is in force. Not here: what follows
//! from which moment (plan::lease), asking (peer), what a tenant's loop does (tenant).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use isyone_proto::{
    ids::{HostName, TenantName},
    report::JobReport,
};
use isyone_relay::lease::Lease as RouteLease;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{Host, ledger::InForce};
use crate::{
    base::{
        clock,
        fsutil::{self, blocking},
        kernel,
    },
    docker::DockerError,
    plan::{
        container::{Container, LABEL_UID},
        lease::{Book, Hold, Question, Renewer, Standing},
        stack::{self, LAPSED_STOP_S},
    },
};

/// The largest file: a number for each of more tenants than a host has.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Between looks at the clock while a lease goes on: timers do not while the machine is suspended.
const LOOK: Duration = Duration::from_millis(500);
/// Between attempts to stop what must not run.
const AGAIN: Duration = Duration::from_secs(1);
/// How long an attempt may take: the engine may hang.
const ATTEMPT: Duration = Duration::from_secs(20);

/// Milliseconds since the machine started.
pub type BootClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What is kept for a restart of the agent.
#[derive(Debug, Default, Serialize, Deserialize)]
struct File {
    boot_id: String,
    granted_at_boot_ms: BTreeMap<Uuid, u64>,
}

/// All leases of this host.
pub struct Leases {
    file: PathBuf,
    boot: String,
    clock: BootClock,
    inner: Mutex<Inner>,
    /// Counts up with whatever somebody may have to act on.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    book: Book,
    /// A plan is in force.
    is_adapted: bool,
    /// The relay is to be told anew.
    is_untold: bool,
    holds: BTreeMap<Uuid, Hold>,
}

impl Leases {
    /// Goes on with what the file says, where that is of this boot, by the machine's own clock.
    pub fn open(file: PathBuf) -> Self {
        Self::open_at(file, kernel::boot_id(), Arc::new(clock::boot_ms))
    }

    /// The same in another boot, by another clock.
    pub fn open_at(file: PathBuf, boot: String, clock: BootClock) -> Self {
        let kept = read(&file);
        let is_of_now = !boot.is_empty() && kept.boot_id == boot;
        let granted = match is_of_now {
            true => kept.granted_at_boot_ms,
            false => BTreeMap::new(),
        };
        let book = Book::new(clock(), granted);
        Self {
            file,
            boot,
            clock,
            inner: Mutex::new(Inner {
                book,
                ..Inner::default()
            }),
            changes: watch::Sender::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now.
    pub fn now_ms(&self) -> u64 {
        (self.clock)()
    }

    /// Rings with each plan, with each change of what holds a tenant back, and when the relay is to be told anew.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Another plan is in force: to be called before anybody acts on it, and in the order in which plans come.
    pub fn adapt(&self, in_force: &InForce) {
        let Some(plan) = &in_force.plan else { return };
        self.change(true, |inner, now| {
            let InForce { stale, unasked, .. } = in_force;
            inner.book.adapt(plan, stale, *unasked, now);
            inner.is_adapted = true;
        });
    }

    /// The coordinator has acknowledged, under the plan in force, a report that was begun at that moment.
    pub fn acknowledged(&self, asked_ms: u64) {
        self.change(false, |inner, _| inner.book.acknowledged(asked_ms));
    }

    /// A host that was asked at that moment lets these tenants go on.
    pub fn renewed(&self, by: &HostName, tenants: &[Uuid], asked_ms: u64) {
        self.change(false, |inner, _| inner.book.renewed(by, tenants, asked_ms));
    }

    /// Time has passed.
    fn look(&self) {
        self.change(false, |_, _| ());
    }

    fn change(&self, is_news: bool, change: impl FnOnce(&mut Inner, u64)) {
        let mut inner = self.lock();
        let now = self.now_ms();
        change(&mut inner, now);
        let is_untold = inner.book.tell(now);
        inner.is_untold |= is_untold;
        let holds = inner.book.holds(now);
        let is_other = holds != inner.holds;
        inner.holds = holds;
        drop(inner);
        if is_news || is_untold || is_other {
            self.changes.send_modify(|n| *n = n.wrapping_add(1));
        }
    }

    /// What a tenant may do now.
    pub fn standing(&self, uid: &Uuid) -> Standing {
        let inner = self.lock();
        inner.book.standing(uid, self.now_ms())
    }

    /// How many leases are over.
    pub fn lapsed(&self) -> usize {
        self.lapsed_tenants().len()
    }

    /// Another host asks for tenants of its own: those that are let go on, from the moment in which that was decided.
    pub fn gives(&self, to: &HostName, asked: &[(TenantName, Uuid)]) -> Vec<Uuid> {
        let mut inner = self.lock();
        // Under the lock: a plan that takes a grant away comes wholly before or after.
        let now = self.now_ms();
        let given = asked
            .iter()
            .filter(|(name, uid)| inner.book.gives(to, name, *uid, now));
        given.map(|(_, uid)| *uid).collect()
    }

    /// Jobs, with how long ago the tenants that they keep up were let go on.
    pub fn with_ages(&self, jobs: Vec<JobReport>) -> Vec<JobReport> {
        let inner = self.lock();
        let now = self.now_ms();
        let aged = |job: JobReport| JobReport {
            granted_ms: inner.book.given_ms(&job.id, now),
            ..job
        };
        jobs.into_iter().map(aged).collect()
    }

    /// Which hosts are asked to renew which leases.
    pub fn questions(&self) -> BTreeMap<Renewer, Question> {
        self.lock().book.questions()
    }

    /// Until when the relay is told that a tenant may be answered for. Before there is a plan, what it was told stays.
    pub fn of_route(&self, name: &TenantName, kept: Option<RouteLease>) -> Option<RouteLease> {
        let inner = self.lock();
        if !inner.is_adapted {
            return kept;
        }
        let until_boot_ms = inner.book.told(name)?;
        Some(RouteLease {
            boot: self.boot.clone(),
            until_boot_ms,
        })
    }

    /// What is to be written down, once, where the relay is to be told anew.
    fn untold(&self) -> Option<File> {
        let mut inner = self.lock();
        std::mem::take(&mut inner.is_untold).then(|| File {
            boot_id: self.boot.clone(),
            granted_at_boot_ms: inner.book.granted().clone(),
        })
    }

    /// How long nothing changes by itself, as far as timers go on; `None`: nothing does.
    fn pause(&self) -> Option<Duration> {
        let inner = self.lock();
        let now = self.now_ms();
        let next = inner.book.next_change(now)?;
        Some(Duration::from_millis(next.saturating_sub(now)).min(LOOK))
    }

    fn lapsed_tenants(&self) -> BTreeMap<Uuid, TenantName> {
        self.lock().book.lapsed(self.now_ms())
    }
}

/// What was written down; nothing where that cannot be read.
fn read(file: &Path) -> File {
    let text = fsutil::read_small(file, MAX_FILE_BYTES).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Heeds leases until `stop`.
pub async fn run(host: Arc<Host>, stop: CancellationToken) {
    let both = async { tokio::join!(tell(&host), heed(&host, &stop)) };
    stop.run_until_cancelled(both).await;
}

/// Writes down and tells the relay what has been granted.
async fn tell(host: &Host) {
    let mut changes = host.leases.changes();
    loop {
        changes.mark_unchanged();
        if let Some(kept) = host.leases.untold() {
            let path = host.leases.file.clone();
            // Plain data: serialising cannot fail, and an empty file grants nothing.
            let text = serde_json::to_vec(&kept).unwrap_or_default();
            // Not flushed: after a power loss the boot is another one.
            let written = blocking(move || fsutil::write_atomic(&path, &text, 0o600, false)).await;
            if let Err(e) = written {
                tracing::warn!("leases cannot be written down: {e}");
            }
            // What goes wrong is told by who follows the plan, and tried again there.
            let _ = host.relay.publish().await;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Looks at the clock, and stops whatever must not run any more.
async fn heed(host: &Arc<Host>, stop: &CancellationToken) {
    let tasks = TaskTracker::new();
    let mut changes = host.leases.changes();
    let mut known = BTreeMap::new();
    loop {
        changes.mark_unchanged();
        host.leases.look();
        let lapsed = host.leases.lapsed_tenants();
        for (uid, name) in lapsed.iter().filter(|(uid, _)| !known.contains_key(*uid)) {
            tracing::warn!(tenant = %name, "its lease is over");
            let end = end(host.clone(), *uid, name.clone());
            tasks.spawn(stop.clone().run_until_cancelled_owned(end));
        }
        known = lapsed;
        let pause = host.leases.pause();
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = sleep(pause.unwrap_or_default()), if pause.is_some() => {}
        }
    }
}

/// Stops a tenant at once. Its own loop does so, too, but may be in the middle of something that takes minutes.
async fn end(host: Arc<Host>, uid: Uuid, name: TenantName) {
    while host.leases.standing(&uid).hold() == Some(Hold::Lapsed) {
        let all = async {
            tokio::try_join!(
                stop(&host, uid, name.odoo_container()),
                stop(&host, uid, name.postgres_container()),
                stop(&host, uid, stack::init_name(&name)),
            )
        };
        match timeout(ATTEMPT, all).await {
            Ok(Ok(_)) => return,
            Ok(Err(e)) => tracing::warn!(tenant = %name, "it cannot be stopped: {e}"),
            Err(_) => tracing::warn!(tenant = %name, "the engine does not stop it in time"),
        }
        sleep(AGAIN).await;
    }
}

/// Stops a container if it is the tenant's, and runs.
async fn stop(host: &Host, uid: Uuid, container: String) -> Result<(), DockerError> {
    let found = host.docker.container(&container).await?;
    let is_ours = |c: &Container| c.label(LABEL_UID) == uid.to_string() && c.is_up();
    match found.is_some_and(|c| is_ours(&c)) {
        true => host.docker.stop(&container, LAPSED_STOP_S).await,
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
