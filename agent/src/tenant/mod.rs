//! One tenant at work: observes it, compares, has the difference carried out, and puts its status on the board.
//!
//! Not here: when (reconcile), what to do (diff), how (execute, database).

mod look;
mod show;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use isyone_proto::{
    ids::TenantName,
    plan::{DesiredState, Role, TenantPlan},
};
use isyone_telemetry::{
    child_span, span,
    tracing::{Instrument as _, Span},
};
use tokio::sync::watch;

use crate::{
    clock::now_ms,
    diff::{self, Blocked, Inputs, Observed},
    docker::DockerError,
    execute, fsutil,
    golden::blocking,
    host::Host,
    stack::Stack,
    state::{Database, TenantState},
    status::Progress,
    steps, tree,
};

/// Rounds of observing and acting in one go; a world that does not settle by then is looked at again later.
const MAX_ROUNDS: usize = 12;

/// What the plan in force says of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Its plan.
    pub plan: TenantPlan,
    /// A higher epoch was seen.
    pub stale: bool,
}

/// Why a try failed.
#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    /// The engine refuses or is away.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// A person must act.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// The host's disk.
    #[error("{what}: {error}")]
    Disk {
        /// What was being done.
        what: String,
        /// The system's words.
        error: std::io::Error,
    },
    /// A program in a container failed.
    #[error("{0}")]
    Program(String),
    /// Another plan came in the middle; not a failure.
    #[error("interrupted by a new plan")]
    Interrupted,
    /// See [`MAX_ROUNDS`].
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
                " — check the image's name and that this host reaches its registry"
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
            Self::Docker(DockerError::Refused(text)) if text.contains("overlaps") => {
                " — the tenant's subnet collides with a network of this host; choose another tenant range"
            }
            _ => "",
        }
    }
}

/// Short form.
pub type Result<T> = std::result::Result<T, TenantError>;

/// A tenant on this host, for one plan. Made anew for each look at it; what lasts is in [`TenantState`].
pub struct Tenant {
    /// The host.
    pub host: Arc<Host>,
    /// Its plan.
    pub plan: TenantPlan,
    stale: bool,
    /// `None` until the first look at a tenant without a state file.
    state: Mutex<Option<TenantState>>,
    /// Steps were shown that are not on disk yet.
    unsaved: AtomicBool,
    newest: watch::Receiver<Option<Desired>>,
}

/// Everything about a tenant after a look at it.
pub struct View {
    /// What is there.
    pub observed: Observed,
    /// What should be; `None` while an image is missing.
    pub stack: Option<Stack>,
}

impl Tenant {
    /// For a desired state; `newest` tells of later ones.
    pub fn new(
        host: Arc<Host>,
        desired: Desired,
        newest: watch::Receiver<Option<Desired>>,
    ) -> Self {
        let Desired { plan, stale } = desired;
        let state = TenantState::load(&host.directory(&plan), &plan);
        // A copy older than one seen here stays down even if the ledger was lost.
        let stale = stale || state.as_ref().is_some_and(|s| s.epoch > plan.epoch);
        Self {
            host,
            plan,
            stale,
            state: Mutex::new(state),
            unsaved: AtomicBool::new(false),
            newest,
        }
    }

    /// Its name.
    pub fn name(&self) -> &TenantName {
        &self.plan.name
    }

    /// Of its container in this role.
    pub fn container_name(&self, role: Role) -> String {
        match role {
            Role::Odoo => self.name().odoo_container(),
            Role::Postgres => self.name().postgres_container(),
        }
    }

    /// Its directory.
    pub fn directory(&self) -> PathBuf {
        self.host.directory(&self.plan)
    }

    fn lock(&self) -> MutexGuard<'_, Option<TenantState>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The remembered state, now.
    pub fn state(&self) -> TenantState {
        self.lock()
            .clone()
            .unwrap_or_else(|| TenantState::new(&self.plan))
    }

    /// Changes the remembered state and writes it. `durable` where a power loss must not undo it.
    pub fn remember(&self, durable: bool, change: impl FnOnce(&mut TenantState)) -> Result<()> {
        let mut guard = self.lock();
        let state = guard.get_or_insert_with(|| TenantState::new(&self.plan));
        change(state);
        self.unsaved.store(false, Ordering::Relaxed);
        let directory = self.directory();
        let saved = fsutil::private_dir(&directory).and_then(|()| state.save(&directory, durable));
        drop(guard);
        self.show_steps();
        saved.map_err(TenantError::disk("state.json cannot be written"))
    }

    /// Changes what is shown of the steps, without writing it: for progress that comes often.
    pub fn show_progress(&self, change: impl FnOnce(&mut TenantState)) {
        if let Some(state) = self.lock().as_mut() {
            change(state);
        }
        self.unsaved.store(true, Ordering::Relaxed);
        self.show_steps();
    }

    /// A newer plan asks for something else, so that going on would be in vain.
    pub fn is_interrupted(&self) -> bool {
        let newest = self.newest.borrow();
        newest
            .as_ref()
            .is_none_or(|d| d.plan.desired != self.plan.desired || d.plan.uid != self.plan.uid)
    }

    /// Completes when [`Self::is_interrupted`] is true.
    pub async fn interrupted(&self) {
        let mut newest = self.newest.clone();
        while !self.is_interrupted() {
            if newest.changed().await.is_err() {
                return;
            }
        }
    }

    /// Looks, compares and acts until nothing is left to do; the status ends on the board.
    pub async fn settle(&self) -> Result<View> {
        let operation = self.plan.operation;
        let span = self
            .host
            .traces
            .within(operation, || span!("reconcile", tenant = %self.name()));
        let outcome = self.rounds().instrument(span).await;
        if self.unsaved.load(Ordering::Relaxed) && self.directory().is_dir() {
            // The steps would only begin anew after a restart of the agent: not worth failing for.
            let _ = self.remember(false, |_| ());
        }
        match &outcome {
            Err(TenantError::Interrupted) => {}
            Err(TenantError::Docker(DockerError::Unreachable(why))) => {
                self.host.forget_engine();
                self.host.board.set_docker_error(why);
            }
            Err(error) => self.show_failure(error),
            Ok(_) => {}
        }
        outcome
    }

    async fn rounds(&self) -> Result<View> {
        let mut last = String::new();
        // Semaphores are never closed: `ok` only drops an error that cannot be.
        let here = Span::current();
        let visitor = self.host.surveys.enter();
        let mut light = self
            .host
            .light
            .acquire()
            .instrument(child_span!(&here, "wait"))
            .await
            .ok();
        let mut heavy = None;
        let mut survey = visitor.survey(&*self.host.docker).await?;
        drop(visitor);
        for _ in 0..MAX_ROUNDS {
            // Only the first look: later ones must see what was done meanwhile.
            let view = self
                .look(survey.take())
                .instrument(child_span!(&here, "look"))
                .await?;
            self.host.board.set_docker_error("");
            let no_new = if self.state().is_ready() {
                None
            } else {
                self.host.gate().await
            };
            let todo = self.compare(&view, no_new.as_deref())?;
            if todo.is_empty() {
                self.finish(&view).await?;
                return Ok(view);
            }
            let mut state = self.state();
            if steps::adopt_operation(&mut state, &self.plan, now_ms()) {
                state.epoch = state.epoch.max(self.plan.epoch);
                self.remember(false, |s| *s = state)?;
            }
            if heavy.is_none()
                && self.plan.desired == DesiredState::Running
                && !self.state().is_ready()
            {
                // Making a tenant takes long: it waits among its like, not in the way of quick looks at others.
                drop(light.take());
                let turn = self.host.heavy.acquire();
                heavy = turn
                    .instrument(child_span!(&here, "wait for a turn"))
                    .await
                    .ok();
            }
            last = todo
                .iter()
                .map(|s| format!("{:?} ({})", s.action, s.reason))
                .collect::<Vec<_>>()
                .join(", ");
            tracing::debug!(tenant = %self.name(), "to do: {last}");
            self.show(&view, Progress::Working, "");
            execute::run(self, &view, todo).await?;
            if self.is_interrupted() {
                return Err(TenantError::Interrupted);
            }
        }
        Err(TenantError::Unsettled(last))
    }

    fn compare(&self, view: &View, no_new: Option<&str>) -> Result<Vec<diff::Step>> {
        let state = self.state();
        let inputs = Inputs {
            plan: &self.plan,
            stack: view.stack.as_ref(),
            observed: &view.observed,
            state: &state,
            stale: self.stale,
            no_new,
            now: now_ms(),
        };
        Ok(diff::diff(&inputs)?)
    }

    /// Nothing is left to do: closes the steps and says how the tenant is.
    async fn finish(&self, view: &View) -> Result<()> {
        let absent = self.plan.desired == DesiredState::Purged
            && view.observed.is_absent()
            && !view.observed.directory;
        if absent {
            return self.finish_absent(view);
        }
        if self.plan.desired == DesiredState::Running
            && self.state().database == (Database::Ready { synced: false })
        {
            self.flush(view).await?;
        }
        let mut state = self.state();
        let adopted = steps::adopt_operation(&mut state, &self.plan, now_ms());
        let unsaved = self.unsaved.load(Ordering::Relaxed);
        if steps::close(&mut state, now_ms()) || adopted || unsaved || state.epoch < self.plan.epoch
        {
            state.epoch = state.epoch.max(self.plan.epoch);
            self.remember(false, |s| *s = state)?;
        }
        let (progress, message) = self.verdict(view);
        self.show(view, progress, &message);
        self.host.traces.done(self.plan.operation);
        Ok(())
    }

    /// The directory is gone, and with it the steps: those last shown stay.
    fn finish_absent(&self, view: &View) -> Result<()> {
        let shown = self.host.board.get(self.name());
        if shown
            .as_ref()
            .is_none_or(|s| !s.absent || !s.is_about(&self.plan))
        {
            if let Some(state) = self.lock().as_mut() {
                steps::adopt_operation(state, &self.plan, now_ms());
                steps::close(state, now_ms());
            }
            self.show(view, Progress::Converged, "");
        }
        self.host.traces.done(self.plan.operation);
        Ok(())
    }

    /// Copied files go to the disk before anybody is told that the tenant is there.
    async fn flush(&self, view: &View) -> Result<()> {
        let places: Vec<_> = [&view.observed.postgres_volume, &view.observed.odoo_volume]
            .into_iter()
            .flatten()
            .map(|v| PathBuf::from(&v.mountpoint))
            .collect();
        let flushed = blocking(move || places.iter().try_for_each(|place| tree::sync(place)));
        flushed
            .await
            .map_err(TenantError::disk("the volumes cannot be flushed"))?;
        self.remember(true, |s| s.database = Database::Ready { synced: true })
    }
}
