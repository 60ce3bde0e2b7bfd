//! Takes in hosts' reports: stores them in the observed state, activates tenants, takes operations on, and forgets what
//! is gone.
//!
//! Not here: what an operation does next (operations, the crate's procedures), what follows from silence (liveness), and the bounds of a report (isyone-proto's convert).

use std::sync::Arc;

use isyone_types::{
    disk::DiskState,
    ids::{HostName, TenantName},
    plan::{Before, Lifecycle, UnixMs},
    report::{HostCondition, HostReport, TenantProgress, TenantReport},
};

use super::{ChangeError, Edit, Outcome, generations};
use crate::{
    desired::{CopyRole, Tenant, TenantBefore, TenantCopy},
    event::EventKind,
    observed::{CopyObserved, DISK_KNOWN_MS, TenantObserved, Told},
    views,
};

impl Edit<'_> {
    pub(super) fn report(
        &mut self,
        host: &HostName,
        report: HostReport,
    ) -> Result<Outcome, ChangeError> {
        let record = self.host(host)?;
        let mut seen = self
            .state
            .observed
            .hosts
            .get(host)
            .map(|h| (**h).clone())
            .unwrap_or_default();
        if seen.reported_at.is_some() {
            self.tell_mended(host, &seen.condition, &report.condition);
        }
        seen.take_report(report.resources, &report.docker_error, self.stamp.now);
        seen.heard = Some(self.stamp.steady);
        seen.condition = report.condition;
        if let Some(networks) = seen.condition.networks.take() {
            seen.hello.networks = networks;
        }
        let jobs: Vec<_> = report.jobs.into_iter().map(Arc::new).collect();
        let reported = jobs.iter().map(|job| (job.id, job.clone()));
        let counts = generations::follows(&record, &seen);
        // A job of a plan that is not ours must not take an operation of ours past its point of no return.
        seen.jobs = reported.filter(|_| counts).collect();
        self.observe_host(host, seen);
        if !counts {
            return Ok(Outcome::Done);
        }
        // A job has its operation's id, or is a backup's.
        jobs.iter().for_each(|job| self.drive(job.id));
        self.backup_jobs(host, &jobs);
        self.proof_jobs(host, &jobs);
        for tenant in report.tenants {
            self.tenant_report(host, tenant);
        }
        Ok(Outcome::Done)
    }

    /// Records an event about each thing that the host has mended since its report before. Without one, nothing is news.
    fn tell_mended(&mut self, host: &HostName, then: &HostCondition, now: &HostCondition) {
        for mended in now.mended.iter().filter(|m| !then.mended.contains(m)) {
            let message = format!("{}: {}", mended.subject, mended.message);
            self.event(EventKind::HostMended, None, Some(host), None, message);
        }
    }

    /// Counts only if it is about the tenant's current uid, and the present epoch of its copy on that host.
    fn tenant_report(&mut self, host: &HostName, mut report: TenantReport) {
        let Some(tenant) = self.state.fleet.tenants.get(&report.name).cloned() else {
            return;
        };
        let ours = tenant.uid == report.uid
            && tenant
                .place_on(host)
                .is_some_and(|place| place.epoch == report.epoch);
        if !ours || report.generation > tenant.generation {
            return;
        }
        let before = self.state.observed.copy(&report.name, host).cloned();
        // Reports of one session arrive in order, but a late one from an ended session must not undo a newer one.
        if before.as_ref().is_some_and(|b| {
            b.report.uid == report.uid
                && b.report.epoch == report.epoch
                && b.report.generation > report.generation
        }) {
            return;
        }
        let told = self.tell_changes(&tenant, host, before.as_deref(), &report);
        let disk_at = self.take_disk(&tenant, host, before.as_deref(), &mut report);
        // The operation tells plans of equal generation apart, of which a rebuilt coordinator's host has seen several.
        let converged = report.progress == TenantProgress::Converged
            && report.generation == tenant.generation
            && report.operation == Some(tenant.operation);
        let absent = report.absent;
        // Equal, and there already: of ten thousand names, one text each is kept.
        report.name.clone_from(&tenant.name);
        if let Some(backup) = report
            .backup
            .as_deref()
            .filter(|_| tenant.placement.host == *host)
        {
            self.take_backups(&tenant, backup);
        }
        let seen = TenantObserved {
            host: host.clone(),
            at: self.stamp.now,
            report,
            told,
            disk_at,
        };
        let first_start = tenant.activated_at.is_none();
        self.state.observed.put_copy(seen, first_start);
        if converged && tenant.placement.host == *host {
            self.is_well(&tenant);
        }
        // Also when it has not converged: the operation may have waited for a host that was silent.
        self.drive(tenant.operation);
        if converged && absent {
            self.copy_is_gone(&tenant.name, host);
        }
    }

    /// Records events about what is new, and returns the trouble that is now on record. Trouble is recorded once, when
    /// it begins, not on each retry: messages differ by a time or a log line, and would push all other events out.
    fn tell_changes(
        &mut self,
        tenant: &Tenant,
        host: &HostName,
        before: Option<&TenantObserved>,
        report: &TenantReport,
    ) -> Option<Told> {
        let same = before.filter(|b| b.report.uid == report.uid);
        let mut told = same.and_then(|b| {
            let newer = b.report.generation != report.generation;
            b.told.map(|told| Told {
                before: told.before || newer,
                ..told
            })
        });
        let trouble = Some(Told {
            trouble: report.progress,
            before: false,
        });
        match report.progress {
            TenantProgress::Failing | TenantProgress::Unhealthy if told != trouble => {
                let kind = if report.progress == TenantProgress::Failing {
                    EventKind::TenantFailing
                } else {
                    EventKind::TenantUnhealthy
                };
                self.event(
                    kind,
                    Some(tenant),
                    Some(host),
                    report.operation,
                    report.message.to_string(),
                );
                told = trouble;
            }
            TenantProgress::Converged if told.take().is_some() => {
                self.event(
                    EventKind::TenantRecovered,
                    Some(tenant),
                    Some(host),
                    None,
                    String::new(),
                );
            }
            // Another attempt: neither over nor new.
            TenantProgress::Working
            | TenantProgress::Converged
            | TenantProgress::Failing
            | TenantProgress::Unhealthy => {}
        }
        if let Some(before) = before {
            self.tell_counts(tenant, host, before, report);
        }
        told
    }

    /// Records events about counters that have risen since the report before. Without one, nothing is news.
    fn tell_counts(
        &mut self,
        tenant: &Tenant,
        host: &HostName,
        before: &TenantObserved,
        report: &TenantReport,
    ) {
        let kills = |report: &TenantReport| -> u64 {
            let counts = report.containers.iter().map(|c| u64::from(c.oom_kills));
            counts.sum()
        };
        let (now, then) = (kills(report), kills(&before.report));
        if now > then {
            let message = format!("{} out-of-memory kills", now - then);
            self.event(
                EventKind::TenantOomKilled,
                Some(tenant),
                Some(host),
                None,
                message,
            );
        }
        // Another tenant of this name counts from the beginning.
        let same = before.report.uid == report.uid;
        if same && report.volume_repairs > before.report.volume_repairs {
            let message =
                "Docker had lost its volumes (a prune?): they were put back, its data is untouched";
            self.event(
                EventKind::TenantVolumesPutBack,
                Some(tenant),
                Some(host),
                None,
                message.to_owned(),
            );
        }
        if same {
            self.tell_installs(tenant, host, &before.report, report);
        }
    }

    /// An installation that was cut off, and that its host has finished.
    fn tell_installs(
        &mut self,
        tenant: &Tenant,
        host: &HostName,
        then: &TenantReport,
        now: &TenantReport,
    ) {
        let mut tell =
            |kind, message: String| self.event(kind, Some(tenant), Some(host), None, message);
        if now.modules_cut_off > 0 && then.modules_cut_off == 0 {
            let message = format!(
                "the installation of an app was cut off, {} modules wait: its host finishes it",
                now.modules_cut_off
            );
            tell(EventKind::TenantInstallCutOff, message);
        }
        if now.installs_finished > then.installs_finished {
            let message = "the installation that was cut off is finished";
            tell(EventKind::TenantInstallFinished, message.to_owned());
        }
    }

    /// Records an event when a tenant's disk has reached another state, puts what is known of it into a report that does not tell
    /// it, and returns when that was reported. The first word since the coordinator's start is no news.
    fn take_disk(
        &mut self,
        tenant: &Tenant,
        host: &HostName,
        before: Option<&TenantObserved>,
        report: &mut TenantReport,
    ) -> UnixMs {
        let before = before.filter(|b| b.report.uid == report.uid);
        let fresh = before.filter(|b| self.stamp.now - b.disk_at < DISK_KNOWN_MS);
        let known = fresh.and_then(|b| b.report.disk);
        let Some(disk) = report.disk else {
            report.disk = known;
            return fresh.map_or(0, |b| b.disk_at);
        };
        let was = known.map_or(DiskState::Free, |disk| disk.state);
        // What is left of it elsewhere, or on its way, stops nothing.
        let lives = tenant.placement.host == *host;
        if before.is_some() && lives && was != disk.state {
            let (kind, what) = match disk.state {
                DiskState::Stopped if was > DiskState::Stopped => (
                    EventKind::TenantDiskFreed,
                    "PostgreSQL may run again, Odoo is stopped",
                ),
                state if state < was => (EventKind::TenantDiskFreed, "there is room again"),
                DiskState::DatabaseStopped => (
                    EventKind::TenantDatabaseStopped,
                    "PostgreSQL is stopped as well, because it went on filling",
                ),
                DiskState::Stopped => (EventKind::TenantDiskFull, "Odoo is stopped"),
                DiskState::UploadsRefused => {
                    (EventKind::TenantUploadsRefused, "uploads are refused")
                }
                DiskState::Warned | DiskState::Free => (EventKind::TenantDiskFilling, "filling"),
            };
            let message = format!("{}: {what}", views::disk_in_words(&disk));
            self.event(kind, Some(tenant), Some(host), None, message);
        }
        self.stamp.now
    }

    /// A tenant is as it should be where it lives. Once it has run, its plan says so: a host that lost the data must not
    /// start an empty tenant. And the time begins of the copies that it has left, and of what it was before a restore.
    fn is_well(&mut self, tenant: &Tenant) {
        // Only what runs shows that the copies are not needed any more.
        let runs = tenant.desired == Lifecycle::Running && !tenant.halted;
        let left = CopyRole::Fenced { until: None };
        // One that is halted before it ever ran is being filled.
        let first = runs && tenant.activated_at.is_none();
        // What it was before a restore: its time begins, or it is what was asked for.
        let timeless = |before: &TenantBefore| before.until.is_none() && before.is_kept();
        let over =
            |before: &TenantBefore| !before.is_kept() && before.host == tenant.placement.host;
        let before = tenant.before.as_ref().filter(|_| runs);
        let begins = runs
            && tenant
                .copies
                .iter()
                .any(|copy| copy.role == left && self.is_fenced(tenant, copy))
            || before.is_some_and(|before| timeless(before) || over(before));
        if !(first || begins) {
            return; // as nearly every report says of nearly every tenant
        }
        let mut well = tenant.clone();
        if first {
            well.activated_at = Some(self.stamp.now);
        }
        let until = self.stamp.now.saturating_add(self.settings.quarantine_ms);
        for copy in &mut well.copies {
            if runs && copy.role == left && self.is_fenced(tenant, copy) {
                copy.role = CopyRole::Fenced { until: Some(until) };
            }
        }
        let mut returned = false;
        if let Some(before) = well.before.as_mut().filter(|_| runs) {
            if timeless(before) {
                before.until = Some(until);
            } else if over(before) {
                returned = matches!(before.wish, Before::Return(_));
                well.before = None;
            }
        }
        let well = self.put_tenant(well);
        if returned {
            self.back_up_soon(&well);
        }
    }

    /// Whether the host of a copy that is kept aside has been told so: one that was lost with what was written there last is to be looked
    /// at first, and nothing is removed from a host that does not know that the tenant has left it.
    pub(in crate::change) fn is_fenced(&self, tenant: &Tenant, copy: &TenantCopy) -> bool {
        let seen = views::copy(self.state, tenant, &copy.place.host);
        // In the very epoch in which it was told to let go, as `views::copy` has it, and nothing of it runs.
        matches!(seen, CopyObserved::Present(seen) if seen.report.progress == TenantProgress::Converged)
    }

    /// A host has removed its copy on order. With the last one the tenant is forgotten.
    fn copy_is_gone(&mut self, name: &TenantName, host: &HostName) {
        let Some(tenant) = self.state.fleet.tenants.get(name).cloned() else {
            return;
        };
        let purged = tenant.desired == Lifecycle::Purged;
        let mut left = (*tenant).clone();
        left.copies.retain(|copy| {
            copy.place.host != *host || !(purged || copy.role == CopyRole::Discarded)
        });
        if left.copies.len() != tenant.copies.len() {
            self.state.observed.forget_copy(name, host);
            self.put_tenant(left);
        }
        self.forget_if_gone(name);
    }

    /// Forgets a purged tenant of which no host has anything left, and ends its purge.
    pub(super) fn forget_if_gone(&mut self, name: &TenantName) {
        let Some(left) = self.state.fleet.tenants.get(name).cloned() else {
            return;
        };
        if left.desired == Lifecycle::Purged {
            self.drive(left.operation); // it has waited for this very copy
        }
        let purged = left.desired == Lifecycle::Purged;
        let lives_gone = self
            .state
            .observed
            .copy(name, &left.placement.host)
            .is_some_and(|seen| {
                seen.report.absent
                    && seen.report.uid == left.uid
                    && seen.report.generation == left.generation
            });
        if purged && left.copies.is_empty() && lives_gone {
            self.event(
                EventKind::TenantPurged,
                Some(&left),
                None,
                None,
                "nothing of it is left".to_owned(),
            );
            self.remove_tenant(&left);
        }
    }
}
