//! One tenant at work: observes it, compares, has the difference carried out, and puts its status on the board.
//!
//! Not here: when (reconcile), what to do (diff), how (execute, database).

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
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::{
    clock::now_ms,
    diff::{self, Blocked, Inputs, Observed},
    docker::{Container, DockerError},
    execute, fsutil,
    golden::blocking,
    host::Host,
    images::ImageFacts,
    sql,
    stack::{self, HostFacts, Images, Stack},
    state::{Database, MasterHash, TenantState},
    status::{ContainerStatus, Progress, Status},
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
                if text.contains("address already in use") || text.contains("port is already allocated") =>
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
    pub fn new(host: Arc<Host>, desired: Desired, newest: watch::Receiver<Option<Desired>>) -> Self {
        let Desired { plan, stale } = desired;
        let state = TenantState::load(&host.directory(&plan), &plan);
        // A copy older than one seen here stays down even if the ledger was lost.
        let stale = stale || state.as_ref().is_some_and(|s| s.epoch > plan.epoch);
        Self { host, plan, stale, state: Mutex::new(state), unsaved: AtomicBool::new(false), newest }
    }

    /// Its name.
    pub fn name(&self) -> &TenantName {
        &self.plan.name
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
        self.lock().clone().unwrap_or_else(|| TenantState::new(&self.plan))
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
        newest.as_ref().is_none_or(|d| d.plan.desired != self.plan.desired || d.plan.uid != self.plan.uid)
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
        let outcome = self.rounds().await;
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
        let mut light = self.host.light.acquire().await.ok();
        let mut heavy = None;
        for _ in 0..MAX_ROUNDS {
            let view = self.look().await?;
            self.host.board.set_docker_error("");
            let no_new = if self.state().is_ready() { None } else { self.host.gate().await };
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
            if heavy.is_none() && self.plan.desired == DesiredState::Running && !self.state().is_ready() {
                // Making a tenant takes long: it waits among its like, not in the way of quick looks at others.
                drop(light.take());
                heavy = self.host.heavy.acquire().await.ok();
            }
            last =
                todo.iter().map(|s| format!("{:?} ({})", s.action, s.reason)).collect::<Vec<_>>().join(", ");
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

    /// Asks Docker, the disk and the programs inside how things are.
    pub async fn look(&self) -> Result<View> {
        let facts = self.host.facts().await?;
        let (docker, plan) = (&self.host.docker, &self.plan);
        let names = (
            plan.name.project(),
            plan.name.postgres_container(),
            plan.name.odoo_container(),
            stack::init_name(&plan.name),
        );
        let volumes = (plan.name.postgres_volume(), plan.name.odoo_volume());
        let (network, postgres, odoo, init, postgres_volume, odoo_volume) = tokio::try_join!(
            docker.network(&names.0),
            docker.container(&names.1),
            docker.container(&names.2),
            docker.container(&names.3),
            docker.volume(&volumes.0),
            docker.volume(&volumes.1),
        )?;
        let (postgres_image, odoo_image) = tokio::try_join!(
            self.image(Role::Postgres, plan.postgres_image.as_str()),
            self.image(Role::Odoo, plan.odoo_image.as_str())
        )?;
        let directory = self.directory().is_dir();
        let mut observed = Observed {
            network,
            postgres,
            odoo,
            init,
            postgres_volume,
            odoo_volume,
            postgres_image,
            odoo_image,
            directory,
            ..Default::default()
        };
        self.lock().get_or_insert_with(|| diff::adopt(plan, &observed));
        let mut stack = None;
        if let (Some(odoo), Some(postgres)) = (&observed.odoo_image, &observed.postgres_image) {
            let images = Images { odoo: odoo.clone(), postgres: postgres.clone() };
            let rendered = self.render(&facts, images).await;
            observed.files_current = execute::files_are_current(&self.directory(), &rendered);
            observed.golden =
                self.host.volumes_are_local() && self.host.golden.find(&rendered.golden_key).is_some();
            stack = Some(rendered);
        }
        self.ask(&mut observed).await;
        Ok(View { observed, stack })
    }

    /// The image that this tenant runs: the one its reference meant at first, as long as that is there.
    async fn image(&self, role: Role, reference: &str) -> Result<Option<ImageFacts>> {
        let pinned = self.lock().as_ref().and_then(|s| s.pinned(role, reference).map(str::to_owned));
        if let Some(id) = pinned
            && let Some(facts) = self.host.images.facts(&id, role).await?
        {
            return Ok(Some(facts));
        }
        Ok(self.host.images.facts(reference, role).await?)
    }

    async fn render(&self, facts: &HostFacts, images: Images) -> Stack {
        let secret = self.plan.secrets.master_password.expose();
        let of = hex::encode(Sha256::digest(format!("{} {secret}", self.plan.uid)));
        let known = self.state().master_hash.filter(|known| known.of == of);
        let hash = match known {
            Some(known) => known.hash,
            None => {
                let (secret, uid) = (secret.to_owned(), self.plan.uid);
                // Slow on purpose, so not on the runtime's threads; cannot fail but by a panic.
                let hash = tokio::task::spawn_blocking(move || sql::password_hash(&secret, uid, "master"))
                    .await
                    .unwrap_or_default();
                if let Some(state) = self.lock().as_mut() {
                    state.master_hash = Some(MasterHash { of, hash: hash.clone() });
                }
                hash
            }
        };
        stack::stack(&self.plan, facts, &images, &hash)
    }

    /// Probes what is up.
    async fn ask(&self, observed: &mut Observed) {
        let probe = &self.host.probe;
        let postgres = async {
            match observed.postgres.as_ref().filter(|c| c.is_up()) {
                Some(container) => probe.postgres(container).await.is_ok(),
                None => false,
            }
        };
        let odoo = async {
            match observed.odoo.as_ref().filter(|c| c.is_up()) {
                Some(container) => Some(probe.odoo(container).await),
                None => None,
            }
        };
        let (postgres_ready, odoo_health) = tokio::join!(postgres, odoo);
        observed.postgres_ready = postgres_ready;
        observed.odoo_health = odoo_health;
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
        if steps::close(&mut state, now_ms()) || adopted || unsaved || state.epoch < self.plan.epoch {
            state.epoch = state.epoch.max(self.plan.epoch);
            self.remember(false, |s| *s = state)?;
        }
        let (progress, message) = self.verdict(view);
        self.show(view, progress, &message);
        Ok(())
    }

    /// The directory is gone, and with it the steps: those last shown stay.
    fn finish_absent(&self, view: &View) -> Result<()> {
        let shown = self.host.board.get(self.name());
        if shown.as_ref().is_none_or(|s| !s.absent || s.generation != self.plan.generation) {
            if let Some(state) = self.lock().as_mut() {
                steps::adopt_operation(state, &self.plan, now_ms());
                steps::close(state, now_ms());
            }
            self.show(view, Progress::Converged, "");
        }
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
        flushed.await.map_err(TenantError::disk("the volumes cannot be flushed"))?;
        self.remember(true, |s| s.database = Database::Ready { synced: true })
    }

    fn verdict(&self, view: &View) -> (Progress, String) {
        if self.stale {
            return (
                Progress::Converged,
                "stopped: another host holds a newer copy of this tenant".to_owned(),
            );
        }
        match self.plan.desired {
            DesiredState::Running => {}
            DesiredState::Purged if !diff::may_purge(&self.plan, now_ms()) => {
                return (Progress::Working, "volumes are kept until the quarantine's end".to_owned());
            }
            _ => return (Progress::Converged, String::new()),
        }
        let log = format!("see `isyctl tenant logs {}`", self.name());
        match &view.observed.odoo_health {
            Some(Ok(_)) if view.observed.postgres_ready => (Progress::Converged, String::new()),
            Some(Ok(_)) => {
                (Progress::Unhealthy, format!("PostgreSQL does not answer; {log} --container postgres"))
            }
            Some(Err(why)) => (Progress::Unhealthy, format!("Odoo does not answer: {why}; {log}")),
            None => (Progress::Unhealthy, format!("Odoo is not running; {log}")),
        }
    }

    fn containers(&self, observed: &Observed) -> Vec<ContainerStatus> {
        let describe = |name: String,
                        container: Option<&Container>,
                        image: Option<&ImageFacts>,
                        healthy: bool| match container {
            None => ContainerStatus { name, state: "absent".to_owned(), ..Default::default() },
            Some(c) => ContainerStatus {
                name,
                state: c.state.clone(),
                healthy,
                restarts: c.restarts,
                image_digest: image
                    .filter(|i| i.id == c.image_id)
                    .map_or(c.image_id.clone(), |i| i.digest.clone()),
                exit_code: c.exit_code,
                started_ms: c.started_ms,
                pid: c.pid,
                id: c.id.clone(),
            },
        };
        let healthy = observed.odoo_health.as_ref().is_some_and(std::result::Result::is_ok);
        vec![
            describe(
                self.name().odoo_container(),
                observed.odoo.as_ref(),
                observed.odoo_image.as_ref(),
                healthy,
            ),
            describe(
                self.name().postgres_container(),
                observed.postgres.as_ref(),
                observed.postgres_image.as_ref(),
                observed.postgres_ready,
            ),
        ]
    }

    /// Puts a status on the board.
    pub fn show(&self, view: &View, progress: Progress, message: &str) {
        let state = self.state();
        let latency = view.observed.odoo_health.as_ref().and_then(|h| h.as_ref().ok()).copied();
        let absent = self.plan.desired == DesiredState::Purged
            && view.observed.is_absent()
            && !view.observed.directory;
        let volumes = [&view.observed.postgres_volume, &view.observed.odoo_volume];
        self.host.board.set(
            self.name(),
            Status {
                containers: self.containers(&view.observed),
                health_latency_ms: latency.unwrap_or(0),
                absent,
                volumes: volumes.into_iter().flatten().map(|v| v.mountpoint.clone()).collect(),
                ..self.blank(&state, progress, message)
            },
        );
    }

    /// Only the last health check's time has changed.
    pub fn show_latency(&self, latency_ms: u32) {
        if let Some(shown) = self.host.board.get(self.name()) {
            self.host.board.set(self.name(), Status { health_latency_ms: latency_ms, ..shown });
        }
    }

    fn blank(&self, state: &TenantState, progress: Progress, message: &str) -> Status {
        Status {
            uid: self.plan.uid,
            epoch: self.plan.epoch,
            generation: self.plan.generation,
            progress,
            message: message.to_owned(),
            containers: Vec::new(),
            operation: state.operation.filter(|_| state.operation == self.plan.operation),
            steps: state.steps.clone(),
            absent: false,
            health_latency_ms: 0,
            volumes: Vec::new(),
        }
    }

    /// Only the steps have moved.
    fn show_steps(&self) {
        let state = self.state();
        let blank = self.blank(&state, Progress::Working, "");
        let status = match self.host.board.get(self.name()) {
            Some(shown) if shown.uid == self.plan.uid => {
                // What was true under an older plan says nothing about this one.
                let same = (shown.generation, shown.epoch) == (blank.generation, blank.epoch);
                let progress = if same { shown.progress } else { Progress::Working };
                Status {
                    operation: blank.operation,
                    steps: blank.steps,
                    generation: blank.generation,
                    epoch: blank.epoch,
                    progress,
                    ..shown
                }
            }
            _ => blank,
        };
        self.host.board.set(self.name(), status);
    }

    fn show_failure(&self, error: &TenantError) {
        let message = format!("{error}{}", error.way_out());
        tracing::warn!(tenant = %self.name(), "{message}");
        let blank = self.blank(&self.state(), Progress::Failing, &message);
        let status = match self.host.board.get(self.name()) {
            Some(shown) if shown.uid == self.plan.uid => {
                Status { containers: shown.containers, volumes: shown.volumes, ..blank }
            }
            _ => blank,
        };
        self.host.board.set(self.name(), status);
    }
}
