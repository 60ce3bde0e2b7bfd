//! The rounds of looking, comparing and acting until a tenant is as planned, and what follows when it is.
//!
//! Not here: what to do (plan::diff), how (execute).

use std::{path::PathBuf, sync::atomic::Ordering};

use isyone_proto::plan::{Callers, DesiredState};
use isyone_proto::report::TenantProgress;
use isyone_telemetry::{
    child_span, span,
    tracing::{Instrument as _, Span},
};

use super::{Result, Tenant, TenantError, TenantView, execute, visitors};
use crate::{
    base::{
        clock::now_ms,
        fsutil::{self, blocking},
        tree,
    },
    docker::DockerError,
    plan::{
        diff::{self, Action, Blocked, Inputs},
        state::{Database, TenantState},
        steps,
    },
};

/// Rounds of observing and acting in one pass; a tenant that has not settled by then is looked at again later.
const MAX_ROUNDS: usize = 12;

impl Tenant {
    /// Looks, compares and acts until nothing is left to do, and puts the status on the board.
    pub async fn settle(&self) -> Result<TenantView> {
        let operation = self.plan.operation;
        let span = self
            .host
            .traces
            .within(operation, || span!("reconcile", tenant = %self.name()));
        let outcome = self.rounds().instrument(span).await;
        self.turn.end();
        if self.unsaved.load(Ordering::Relaxed) && fsutil::is_directory(&self.directory()) {
            // At worst the steps start over after a restart of the agent: not worth failing for.
            let _ = self.remember(false, |_| ());
        }
        match &outcome {
            Err(TenantError::Interrupted) => {}
            Err(TenantError::Docker(DockerError::Unreachable(why))) => {
                self.host.forget_engine();
                self.host.board.set_docker_error(why);
            }
            Err(error) => {
                self.show_failure(error);
                visitors::follow_what_is(self).await;
            }
            Ok(_) => {}
        }
        outcome
    }

    async fn rounds(&self) -> Result<TenantView> {
        let mut last = String::new();
        let here = Span::current();
        if let Some(why) = self.host.engine().await?.unfit() {
            return Err(Blocked::HostClosed(why.to_owned()).into());
        }
        let visitor = self.host.surveys.enter();
        self.take_turn().await;
        let mut survey = visitor.survey(&*self.host.docker).await?;
        drop(visitor);
        for _ in 0..MAX_ROUNDS {
            self.take_turn().await;
            // Only for the first look: later ones must see what was done meanwhile.
            let view = self
                .look(survey.take())
                .instrument(child_span!(&here, "look"))
                .await?;
            self.host.board.set_docker_error("");
            visitors::first_look(self, view.observed.odoo.as_ref()).await;
            visitors::let_go(self, view.observed.odoo.as_ref()).await;
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
            let state = self.state();
            if self.plan.desired == DesiredState::Running && !state.is_ready() && !state.follows() {
                self.take_turn_to_create().await;
            }
            last = todo
                .iter()
                .map(|s| format!("{:?} ({})", s.action, s.reason))
                .collect::<Vec<_>>()
                .join(", ");
            tracing::debug!(tenant = %self.name(), "to do: {last}");
            self.show(&view, TenantProgress::Working, "");
            let fetches = todo
                .iter()
                .any(|s| matches!(s.action, Action::PullImage(_)));
            execute::run(self, &view, todo).await?;
            // Nothing was stopped yet, and fetching may have taken long.
            if self.is_interrupted() || fetches && self.is_outdated() {
                return Err(TenantError::Interrupted);
            }
        }
        Err(TenantError::Unsettled(last))
    }

    fn compare(&self, view: &TenantView, no_new: Option<&str>) -> Result<Vec<diff::PlannedAction>> {
        let state = self.state();
        let standing = self.host.leases.standing(&self.plan.uid);
        let inputs = Inputs {
            plan: &self.plan,
            stack: view.stack.as_ref(),
            observed: &view.observed,
            state: &state,
            stale: self.stale,
            unasked: self.unasked,
            standing: &standing,
            no_new,
            disk: self.disk_state(),
            now: now_ms(),
        };
        Ok(diff::diff(&inputs)?)
    }

    /// Nothing is left to do: closes the steps and shows how the tenant is.
    async fn finish(&self, view: &TenantView) -> Result<()> {
        visitors::follow(self, view.observed.odoo.as_ref()).await;
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
        let (progress, message) = self.verdict(view, &state.steps);
        let proven = progress == TenantProgress::Converged && state.prove(&self.plan);
        let closed = progress != TenantProgress::Failing && steps::close(&mut state, now_ms());
        if closed || adopted || proven || unsaved || state.epoch < self.plan.epoch {
            state.epoch = state.epoch.max(self.plan.epoch);
            self.remember(false, |s| *s = state)?;
        }
        self.show(view, progress, &message);
        if closed || self.plan.callers != Callers::Refused {
            // Somebody waits for the operation, or for its next stage.
            self.host.board.hurry();
        }
        self.host.traces.done(self.plan.operation);
        Ok(())
    }

    /// The directory is gone, and the recorded steps with it: keep those shown last. The operation is named also by a pass
    /// that began without a record: the coordinator believes the end of an order only with it.
    fn finish_absent(&self, view: &TenantView) -> Result<()> {
        let shown = self.host.board.get(self.name());
        if shown
            .as_ref()
            .is_none_or(|s| !s.absent || !s.is_about(&self.plan))
        {
            {
                let mut known = self.lock();
                let state = known.get_or_insert_with(|| TenantState::new(&self.plan));
                steps::adopt_operation(state, &self.plan, now_ms());
                steps::close_gone(state, now_ms());
            }
            self.show(view, TenantProgress::Converged, "");
        }
        self.host.traces.done(self.plan.operation);
        Ok(())
    }

    /// Flushes copied files to disk before anybody is told that the tenant is there.
    async fn flush(&self, view: &TenantView) -> Result<()> {
        let places: Vec<_> = [&view.observed.postgres_volume, &view.observed.odoo_volume]
            .into_iter()
            .flatten()
            .map(|v| PathBuf::from(v.path()))
            .collect();
        let homes = self.host.homes().await?;
        let home = view.observed.home.clone().filter(|h| h.holds_data());
        let flushed = blocking(move || {
            places.iter().try_for_each(|place| tree::sync(place))?;
            home.map_or(Ok(()), |home| homes.sync_home(&home.path))
        });
        flushed
            .await
            .map_err(TenantError::disk("the volumes cannot be flushed"))?;
        self.remember(true, |s| s.database = Database::Ready { synced: true })
    }
}
