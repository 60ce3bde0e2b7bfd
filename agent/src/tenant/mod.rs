//! One tenant at work: `reconcile` says when, `rest` is its loop, `settle` observes (`look`), compares (plan::diff) and
//! has the difference carried out (`execute`, `images`, `data`, `aside`, `database`, `containers`, `installs`, `ready`), `show` puts its status on the
//! board, `turn` is its place among others, `vigil` looks after it while that takes long.
//! This file: the tenant and its memory.
//!
//! Not here: what to do (plan::diff), what tenants share (host).

mod aside;
mod containers;
pub mod copies;
mod data;
mod database;
mod execute;
mod images;
mod installs;
pub mod kept;
mod look;
mod psql;
mod ready;
pub mod reconcile;
mod rest;
mod settle;
mod show;
mod state_file;
pub mod takeover;
mod turn;
mod vigil;
mod visitors;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use isyone_proto::{
    disk::{Disk, DiskState},
    ids::TenantName,
    plan::{Role, TenantPlan},
};
use tokio::sync::watch;

use self::turn::Turn;
use crate::{
    docker::DockerError,
    host::Host,
    plan::{
        diff::{Blocked, Observed},
        lease::Hold,
        pins::Wanted,
        stack::Stack,
        state::TenantState,
    },
};

/// What the plan in force says of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    pub plan: TenantPlan,
    /// A higher epoch has been seen.
    pub stale: bool,
    /// It asks first, and has had no answer since the machine started.
    pub unasked: bool,
    /// Its lease holds it back.
    pub hold: Option<Hold>,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    /// The engine refuses or is unreachable.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// A person must act.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// The host's disk failed.
    #[error("{what}: {error}")]
    Disk {
        /// What was being done.
        what: String,
        error: std::io::Error,
    },
    /// A program in a container failed.
    #[error("{0}")]
    Program(String),
    /// A new plan arrived meanwhile; not a failure.
    #[error("interrupted by a new plan")]
    Interrupted,
    /// Still not as planned after the last round of looking and acting.
    #[error("the stack does not settle; the last thing to do was: {0}")]
    Unsettled(String),
}

impl TenantError {
    /// A disk error while doing `what`.
    pub fn disk(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| Self::Disk { what, error }
    }

    /// What an operator can do about it, for the end of the message.
    fn way_out(&self) -> &'static str {
        match self {
            Self::Docker(DockerError::Pull { .. }) => {
                " — check the image's name and that this host reaches its registry; it is tried again until `isyctl op cancel` ends that"
            }
            Self::Disk { error, .. } if error.kind() == std::io::ErrorKind::StorageFull => {
                " — make room on this host's disk"
            }
            Self::Docker(DockerError::Refused(text)) if text.contains("no space left") => {
                " — make room on this host's disk"
            }
            Self::Docker(DockerError::Refused(text))
                if text.contains("address already in use")
                    || text.contains("port is already allocated") =>
            {
                " — another program holds this tenant's port; stop it"
            }
            Self::Docker(DockerError::Refused(text))
                if text.contains("cannot assign requested address") =>
            {
                " — this host's address is not there; its tenants start within seconds of it"
            }
            Self::Docker(DockerError::Refused(text)) if text.contains("overlaps") => {
                " — the tenant's subnet collides with a network of this host; choose another tenant range"
            }
            _ => "",
        }
    }
}

pub type Result<T> = std::result::Result<T, TenantError>;

/// A tenant on this host, for one plan. Built anew for each pass of its loop; what lasts is in [`TenantState`].
pub struct Tenant {
    pub host: Arc<Host>,
    pub plan: TenantPlan,
    stale: bool,
    unasked: bool,
    hold: Option<Hold>,
    /// `None` until the first look at a tenant without a state file.
    state: Mutex<Option<TenantState>>,
    /// Steps have been shown that are not on disk yet.
    unsaved: AtomicBool,
    turn: Turn,
    /// How full its disk was when this pass began.
    began: DiskState,
    newest: watch::Receiver<Option<Desired>>,
}

/// Everything about a tenant after a look at it.
pub struct TenantView {
    /// What exists.
    pub observed: Observed,
    /// What should exist; `None` while an image is missing.
    pub stack: Option<Stack>,
}

impl Tenant {
    /// For one desired state; `newest` announces later ones.
    pub fn new(
        host: Arc<Host>,
        desired: Desired,
        newest: watch::Receiver<Option<Desired>>,
    ) -> Self {
        let Desired {
            plan,
            stale,
            unasked,
            hold,
        } = desired;
        let state = state_file::load(&host.directory(&plan), &plan);
        // A copy older than one seen here stays down even if the ledger was lost.
        let stale = stale || state.as_ref().is_some_and(|s| s.epoch > plan.epoch);
        let mut tenant = Self {
            host,
            plan,
            stale,
            unasked,
            hold,
            state: Mutex::new(state),
            unsaved: AtomicBool::new(false),
            turn: Turn::default(),
            began: DiskState::default(),
            newest,
        };
        tenant.began = tenant.disk_state();
        tenant
    }

    pub fn name(&self) -> &TenantName {
        &self.plan.name
    }

    pub fn container_name(&self, role: Role) -> String {
        match role {
            Role::Odoo => self.name().odoo_container(),
            Role::Postgres => self.name().postgres_container(),
        }
    }

    pub fn directory(&self) -> PathBuf {
        self.host.directory(&self.plan)
    }

    fn lock(&self) -> MutexGuard<'_, Option<TenantState>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of the remembered state.
    pub fn state(&self) -> TenantState {
        self.lock()
            .clone()
            .unwrap_or_else(|| TenantState::new(&self.plan))
    }

    /// Changes the remembered state and saves it; `durable` if a power loss must not undo that.
    pub fn remember(&self, durable: bool, change: impl FnOnce(&mut TenantState)) -> Result<()> {
        let mut guard = self.lock();
        let state = guard.get_or_insert_with(|| TenantState::new(&self.plan));
        self.unsaved.store(false, Ordering::Relaxed);
        let saved = copies::save(&self.host, state, &self.plan, durable, change);
        drop(guard);
        self.show_steps();
        saved.map_err(TenantError::disk("state.json cannot be written"))
    }

    /// Changes the steps that are shown, without saving them: for frequent progress.
    pub fn show_progress(&self, change: impl FnOnce(&mut TenantState)) {
        if let Some(state) = self.lock().as_mut() {
            change(state);
        }
        self.unsaved.store(true, Ordering::Relaxed);
        self.show_steps();
    }

    /// What follows from how full its disk is: by the last measurement, under this plan. [`DiskState::Free`] as long as there
    /// is none.
    pub fn disk_state(&self) -> DiskState {
        self.disk().map(|disk| disk.state).unwrap_or_default()
    }

    /// Its disk, once measured.
    fn disk(&self) -> Option<Disk> {
        let known = self.host.board.disk(self.name(), self.plan.uid)?;
        let limit = self.plan.size.disk_bytes;
        Some(Disk::after(Some(&known), known.used(), limit, known.means))
    }

    /// Its lease is over, at this moment.
    fn is_lapsed(&self) -> bool {
        let standing = self.host.leases.standing(&self.plan.uid);
        standing.hold() == Some(Hold::Lapsed)
    }

    /// Before a program of it is started, or its copy promoted: nothing may hold it back by now.
    fn may_go_on(&self, but: Option<Hold>) -> Result<()> {
        match self.host.leases.standing(&self.plan.uid).hold() {
            Some(hold) if but != Some(hold) => Err(TenantError::Interrupted),
            _ => Ok(()),
        }
    }

    /// A newer plan wants something else, or a program is to be stopped because its disk has become full: going on is pointless.
    pub fn is_interrupted(&self) -> bool {
        let stops = |disk: DiskState| (disk.stops_odoo(), disk.stops_postgres());
        let ready = self.lock().as_ref().is_some_and(TenantState::is_ready);
        if ready && stops(self.disk_state()) > stops(self.began) {
            return true;
        }
        let others = |newest: &TenantPlan| {
            let wants = |role| Wanted::of(newest, role) != Wanted::of(&self.plan, role);
            wants(Role::Odoo) || wants(Role::Postgres)
        };
        let newest = self.newest.borrow();
        newest.as_ref().is_none_or(|d| {
            let is_other = d.plan.desired != self.plan.desired || d.plan.uid != self.plan.uid;
            is_other || d.hold != self.hold || others(&d.plan)
        })
    }

    /// Its plan has changed, in whatever way.
    pub fn is_outdated(&self) -> bool {
        let newest = self.newest.borrow();
        newest.as_ref().is_none_or(|d| d.plan != self.plan)
    }

    /// Completes when [`Self::is_interrupted`] is true.
    pub async fn interrupted(&self) {
        self.changed_so(Self::is_interrupted).await;
    }

    /// Completes when [`Self::is_outdated`] is true.
    async fn outdated(&self) {
        self.changed_so(Self::is_outdated).await;
    }

    /// Completes when this is so, looking whenever there is another plan.
    async fn changed_so(&self, is_so: impl Fn(&Self) -> bool) {
        let mut newest = self.newest.clone();
        while !is_so(self) {
            if newest.changed().await.is_err() {
                return;
            }
        }
    }
}
