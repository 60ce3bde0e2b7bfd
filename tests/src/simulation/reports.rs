//! What a modelled host reports.
//!
//! Not here: what it does (host), and how reports travel (messages).

use isyone_fleet::testing;
use isyone_proto::{
    plan::{DesiredState, Role, TenantPlan},
    report::{
        ContainerReport, HostReport, JobReport, Stuck, TenantProgress, TenantReport, Traffic,
        Usage, Which,
    },
};

use super::{host::SimHost, jobs::SimJob};

impl SimHost {
    /// The agent's report on its tenants and jobs.
    pub fn report(&self) -> HostReport {
        HostReport {
            resources: testing::resources(8, 16, 100),
            docker_error: String::new(),
            tenants: self
                .tenants()
                .iter()
                .map(|plan| self.tenant_report(plan))
                .collect(),
            complete: true,
            jobs: self.jobs.values().map(|job| self.job_report(job)).collect(),
            condition: Default::default(),
        }
    }

    fn job_report(&self, job: &SimJob) -> JobReport {
        let plan = self.tenants().iter().find(|t| t.uid == job.order.uid);
        JobReport {
            granted_ms: plan.and_then(|plan| self.leases.granted_ms(plan)),
            ..JobReport::from(job)
        }
    }

    fn tenant_report(&self, plan: &TenantPlan) -> TenantReport {
        let copy = self.copies.get(&plan.name);
        let done = self.done.get(&plan.name) == Some(plan);
        let up = copy.is_some_and(|copy| copy.world.observed.is_up(Role::Odoo));
        let odoo = copy.and_then(|copy| copy.world.observed.odoo.as_ref());
        let (made, started) = (odoo.is_some(), odoo.is_some_and(|c| c.state != "created"));
        let odoo = ContainerReport {
            which: Which::Its(Role::Odoo),
            state: if up { "running" } else { "exited" }.into(),
            healthy: up,
            restarts: 0,
            oom_kills: 0,
            image_digest: None,
            exit_code: 0,
            started_at: started.then_some(0),
        };
        let database = copy.and_then(|copy| copy.world.observed.postgres.as_ref());
        let database = database.map(|c| ContainerReport {
            which: Which::Its(Role::Postgres),
            state: c.state.as_str().into(),
            ..odoo.clone()
        });
        let blocked = self.blocked.get(&plan.name);
        TenantReport {
            name: plan.name.clone(),
            uid: plan.uid,
            epoch: plan.epoch,
            generation: plan.generation,
            progress: match (done, blocked) {
                (true, _) => TenantProgress::Converged,
                (false, Some(_)) => TenantProgress::Failing,
                (false, None) => TenantProgress::Working,
            },
            message: blocked
                .map(|(why, _)| why.as_str().into())
                .unwrap_or_default(),
            stuck: match blocked {
                Some((_, true)) if !done => Stuck::Blocked,
                _ => Stuck::No,
            },
            containers: made.then_some(odoo).into_iter().chain(database).collect(),
            usage: Some(Usage::default()),
            // There has never been a visitor.
            traffic: up.then(|| Traffic {
                last_active_at: Some(0),
                ..Traffic::default()
            }),
            strain: None,
            operation: plan.operation,
            steps: [].into(),
            absent: done && plan.desired == DesiredState::Purged,
            health_latency_ms: 1,
            volume_repairs: 0,
            modules_cut_off: 0,
            installs_finished: 0,
            held_ms: 0,
            disk: None,
            backup: None,
        }
    }
}
