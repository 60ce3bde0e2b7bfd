//! Takes in hosts' reports: stores them in the observed state, and ends operations whose generation has converged.
//!
//! Not here: what follows from silence (liveness), and the bounds of a report (isyone-proto's convert).

use std::sync::Arc;

use isyone_types::{
    ids::HostName,
    operation::OperationState,
    plan::Lifecycle,
    report::{HostReport, TenantProgress, TenantReport},
};

use super::{ChangeError, Edit, Outcome, done_step, generations};
use crate::{
    desired::Tenant, event::EventKind, observed::TenantObserved, operation::OperationKind,
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
        seen.take_report(report.resources, &report.docker_error, self.stamp.now);
        let counts = generations::follows(&record, &seen);
        self.observe_host(host, seen);
        for tenant in report.tenants.into_iter().filter(|_| counts) {
            self.tenant_report(host, tenant);
        }
        Ok(Outcome::Done)
    }

    /// Counts only if it is about the tenant's current uid and epoch, from the host that it is placed on.
    fn tenant_report(&mut self, host: &HostName, report: TenantReport) {
        let Some(tenant) = self.state.fleet.tenants.get(&report.name).cloned() else {
            return;
        };
        let ours = tenant.uid == report.uid
            && tenant.placement.host == *host
            && tenant.placement.epoch == report.epoch;
        if !ours || report.generation > tenant.generation {
            return;
        }
        let before = self.state.observed.tenants.get(&report.name).cloned();
        // Reports of one session arrive in order, but a late one from an ended session must not undo a newer one.
        if before.as_ref().is_some_and(|b| {
            b.host == *host && b.report.uid == report.uid && b.report.generation > report.generation
        }) {
            return;
        }
        let told = self.tell_changes(&tenant, before.as_deref(), &report);
        // The operation tells plans of equal generation apart, of which a rebuilt coordinator's host has seen several.
        let converged = report.progress == TenantProgress::Converged
            && report.generation == tenant.generation
            && report.operation == Some(tenant.operation);
        let absent = report.absent;
        let observed = TenantObserved {
            host: host.clone(),
            at: self.stamp.now,
            report,
            told,
        };
        self.state
            .observed
            .tenants
            .insert(tenant.name.clone(), Arc::new(observed));
        if converged {
            self.converged(&tenant, absent);
        }
    }

    /// Records events about what is new, and returns the trouble that is now on record. Trouble is recorded once, when
    /// it begins, not on each retry: messages differ by a time or a log line, and would push all other events out.
    fn tell_changes(
        &mut self,
        tenant: &Tenant,
        before: Option<&TenantObserved>,
        report: &TenantReport,
    ) -> Option<(TenantProgress, u64)> {
        let mut told = before
            .filter(|b| b.report.uid == report.uid)
            .and_then(|b| b.told);
        let trouble = Some((report.progress, report.generation));
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
                    None,
                    report.operation,
                    report.message.clone(),
                );
                told = trouble;
            }
            TenantProgress::Converged if told.take().is_some() => {
                self.event(
                    EventKind::TenantRecovered,
                    Some(tenant),
                    None,
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
        let kills = |containers: &[isyone_types::report::ContainerReport]| {
            containers
                .iter()
                .map(|c| u64::from(c.oom_kills))
                .sum::<u64>()
        };
        let (now, then) = (
            kills(&report.containers),
            before.map_or(0, |b| kills(&b.report.containers)),
        );
        if now > then && before.is_some() {
            self.event(
                EventKind::TenantOomKilled,
                Some(tenant),
                None,
                None,
                format!("{} out-of-memory kills", now - then),
            );
        }
        told
    }

    /// The host has converged to the tenant's current generation.
    fn converged(&mut self, tenant: &Arc<Tenant>, absent: bool) {
        let now = self.stamp.now;
        let operation = self
            .state
            .fleet
            .operations
            .get(&tenant.operation)
            .filter(|o| !o.state.is_final())
            .cloned();
        let purging = tenant.desired == Lifecycle::Purged;
        if purging && !absent {
            return;
        }
        if let Some(operation) = &operation {
            let mut ended = self.end(operation, OperationState::Succeeded, String::new());
            if matches!(
                operation.kind,
                OperationKind::Create | OperationKind::Resume | OperationKind::Restore
            ) {
                let mut with_route = (*ended).clone();
                with_route
                    .steps
                    .push(done_step("route", "published to the edges".to_owned(), now));
                ended = self.put_operation(with_route);
            }
            let took = format!(
                "{:?} took {:.1} s",
                ended.kind,
                (now - ended.created_at).max(0) as f64 / 1000.0
            );
            self.event(
                EventKind::OperationSucceeded,
                Some(tenant),
                None,
                Some(ended.id),
                took.to_lowercase(),
            );
        }
        if purging {
            self.event(
                EventKind::TenantPurged,
                Some(tenant),
                None,
                None,
                "nothing of it is left".to_owned(),
            );
            self.remove_tenant(tenant);
        } else if tenant.desired == Lifecycle::Running && tenant.activated_at.is_none() {
            let mut activated = (**tenant).clone();
            activated.activated_at = Some(now);
            // From now on the plan says so: a host that lost the data must not start an empty tenant.
            self.put_tenant(activated);
        }
    }
}
