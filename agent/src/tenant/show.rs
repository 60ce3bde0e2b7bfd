//! A tenant's status on the board.
//!
//! Not here: reporting it (link).

use isyone_proto::{
    disk::{Disk, DiskCause, DiskPlace},
    ids::TenantName,
    plan::DesiredState,
    report::TenantProgress,
};

use super::{Tenant, TenantError, TenantView};
use crate::{
    base::{beneath::MAX_OPEN, clock::now_ms},
    host::board::{ContainerStatus, TenantStatus},
    plan::{
        container::Container,
        diff::{self, Blocked, Observed},
        facts::ImageFacts,
        state::{StepRecord, StepState, TenantState},
    },
};

/// Why a tenant with a full disk is stopped, and what to do. Names its volumes, and nothing in them.
fn full(tenant: &TenantName, disk: &Disk) -> String {
    let so = match disk.state.stops_postgres() {
        true => "and it went on filling, so Odoo and PostgreSQL are stopped",
        false => "so Odoo is stopped and PostgreSQL runs",
    };
    let more = format!("give it more (`isyctl tenant resize {tenant} --plan PLAN`)");
    match disk.cause() {
        DiskCause::Bytes if disk.state.stops_postgres() => {
            let (used, limit) = (disk.used_bytes >> 20, disk.limit_bytes >> 20);
            format!(
                "its disk is full ({used} MiB used of {limit} MiB), {so}; {more}, or remove files of its filestore on its host: both \
                 start by themselves"
            )
        }
        DiskCause::Bytes => {
            let (used, limit) = (disk.used_bytes >> 20, disk.limit_bytes >> 20);
            format!(
                "its disk is full ({used} MiB used of {limit} MiB), {so}; remove data \
                 (`isyctl tenant psql {tenant}`) or {more}: it starts by itself"
            )
        }
        DiskCause::Inodes => format!(
            "its disk is full ({} files and directories of {}), {so}; remove files or {more}: it starts by itself",
            disk.used_inodes, disk.limit_inodes
        ),
        DiskCause::Depth(place) => {
            let place = match place {
                DiskPlace::Postgres => format!("in its volume {}", tenant.postgres_volume()),
                DiskPlace::Odoo => format!("in its volume {}", tenant.odoo_volume()),
                DiskPlace::Beside => "beside its volumes (such as in /tmp)".to_owned(),
            };
            format!(
                "its disk is full as far as can be known: directories are nested {MAX_OPEN} deep and more {place}, where nothing is counted, \
                 {so}; remove that nesting on its host (runbook TenantDiskFull says how; a larger plan does not help): it starts by itself"
            )
        }
    }
}

/// What a restored dump brings along, and what to do.
fn elsewhere(tenant: &TenantName) -> String {
    format!(
        "its database says that it is at another address, as one does that was restored from elsewhere: links in mails lead there, and its \
         administrator may be another. `isyctl tenant settings apply {tenant}` writes this tenant's own settings"
    )
}

impl Tenant {
    /// How the tenant is now that nothing is left to do. Where a step of its operation has not come to its end and it is not well, that
    /// operation has failed so far: this is said as long as it is so, because only the newest word reaches the coordinator.
    pub(super) fn verdict(
        &self,
        view: &TenantView,
        steps: &[StepRecord],
    ) -> (TenantProgress, String) {
        let is_open =
            |step: &StepRecord| matches!(step.state, StepState::Running | StepState::Retrying);
        match self.seen(view) {
            (TenantProgress::Unhealthy, message) if steps.iter().any(is_open) => {
                (TenantProgress::Failing, message)
            }
            seen => seen,
        }
    }

    fn seen(&self, view: &TenantView) -> (TenantProgress, String) {
        if self.stale {
            let why = "stopped: another host holds a newer copy of this tenant".to_owned();
            // What the plan wants is not so, and will not be; for a copy that is to go, it is.
            return match self.plan.desired {
                DesiredState::Running | DesiredState::Suspended => (TenantProgress::Failing, why),
                _ => (TenantProgress::Converged, why),
            };
        }
        match self.plan.desired {
            DesiredState::Running => {}
            DesiredState::Purged if !diff::may_purge(&self.plan, now_ms()) => {
                return (
                    TenantProgress::Working,
                    "volumes are kept until the quarantine's end".to_owned(),
                );
            }
            _ => return (TenantProgress::Converged, String::new()),
        }
        if let Some(disk) = self.disk().filter(|d| d.state.stops_odoo()) {
            return (TenantProgress::Unhealthy, full(self.name(), &disk));
        }
        let log = format!("see `isyctl tenant logs {}`", self.name());
        match &view.observed.odoo_health {
            Some(Ok(_)) if view.observed.postgres_ready => {
                let message = match view.observed.cut_off {
                    0 if view.observed.elsewhere => elsewhere(self.name()),
                    0 => String::new(),
                    modules => self.state().installs.words(modules, self.name().as_str()),
                };
                (TenantProgress::Converged, message)
            }
            Some(Ok(_)) => (
                TenantProgress::Unhealthy,
                format!("PostgreSQL does not answer; {log} --container postgres"),
            ),
            Some(Err(why)) => (
                TenantProgress::Unhealthy,
                format!("Odoo does not answer: {why}; {log}"),
            ),
            None => (
                TenantProgress::Unhealthy,
                format!("Odoo is not running; {log}"),
            ),
        }
    }

    fn containers(&self, observed: &Observed) -> Vec<ContainerStatus> {
        let describe = |name: String,
                        container: Option<&Container>,
                        image: Option<&ImageFacts>,
                        healthy: bool| match container {
            None => ContainerStatus {
                name,
                state: "absent".to_owned(),
                ..Default::default()
            },
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
                ip: c.ip,
                unnamed: c.unnamed.clone(),
            },
        };
        let healthy = observed
            .odoo_health
            .as_ref()
            .is_some_and(std::result::Result::is_ok);
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
    pub fn show(&self, view: &TenantView, progress: TenantProgress, message: &str) {
        let state = self.state();
        let latency = view
            .observed
            .odoo_health
            .as_ref()
            .and_then(|h| h.as_ref().ok())
            .copied();
        let absent = self.plan.desired == DesiredState::Purged
            && view.observed.is_absent()
            && !view.observed.directory;
        let volumes = [&view.observed.postgres_volume, &view.observed.odoo_volume];
        // First, because setting the status may send a report at once.
        self.host
            .board
            .set_latency(self.name(), latency.unwrap_or(0));
        self.host.board.set(
            self.name(),
            TenantStatus {
                containers: self.containers(&view.observed),
                absent,
                volumes: volumes
                    .into_iter()
                    .flatten()
                    .map(|v| v.path().to_owned())
                    .collect(),
                ..self.blank(&state, progress, message)
            },
        );
    }

    fn blank(&self, state: &TenantState, progress: TenantProgress, message: &str) -> TenantStatus {
        TenantStatus {
            uid: self.plan.uid,
            epoch: self.plan.epoch,
            generation: self.plan.generation,
            progress,
            message: message.to_owned(),
            blocked: false,
            unfit: false,
            containers: Vec::new(),
            operation: state
                .operation
                .filter(|_| state.operation == self.plan.operation),
            steps: state.steps.clone(),
            own_database: state.is_ready(),
            absent: false,
            volumes: Vec::new(),
            volume_repairs: state.volume_repairs,
            modules_cut_off: self.cut_off(),
            installs_finished: state.installs.finished,
        }
    }

    /// Shows a change of the steps alone.
    pub(super) fn show_steps(&self) {
        let state = self.state();
        let blank = self.blank(&state, TenantProgress::Working, "");
        let status = match self.host.board.get(self.name()) {
            Some(shown) if shown.uid == self.plan.uid => {
                // Progress made under an older plan says nothing about this one.
                let (progress, blocked, unfit) = if shown.is_about(&self.plan) {
                    (shown.progress, shown.blocked, shown.unfit)
                } else {
                    (TenantProgress::Working, false, false)
                };
                TenantStatus {
                    operation: blank.operation,
                    steps: blank.steps,
                    own_database: blank.own_database,
                    generation: blank.generation,
                    epoch: blank.epoch,
                    progress,
                    blocked,
                    unfit,
                    ..TenantStatus::clone(&shown)
                }
            }
            _ => blank,
        };
        self.host.board.set(self.name(), status);
    }

    pub(super) fn show_failure(&self, error: &TenantError) {
        let message = format!("{error}{}", error.way_out());
        tracing::warn!(tenant = %self.name(), "{message}");
        self.host.board.set_latency(self.name(), 0);
        let blank = TenantStatus {
            blocked: matches!(error, TenantError::Blocked(why) if why.is_for_good()),
            unfit: matches!(error, TenantError::Blocked(Blocked::Unfit(_))),
            ..self.blank(&self.state(), TenantProgress::Failing, &message)
        };
        let status = match self.host.board.get(self.name()) {
            Some(shown) if shown.uid == self.plan.uid => TenantStatus {
                containers: shown.containers.clone(),
                volumes: shown.volumes.clone(),
                ..blank
            },
            _ => blank,
        };
        self.host.board.set(self.name(), status);
    }
}
