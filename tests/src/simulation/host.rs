//! A modelled host: a plan on disk, a Docker Engine with containers and volumes, and an agent that works in small steps
//! and can die between any two of them.

use std::collections::BTreeMap;

use isyone_fleet::testing;
use isyone_proto::report::{
    ContainerReport, HostReport, TenantProgress, TenantReport, Traffic, Usage,
};
use isyone_proto::{
    generation::Generation,
    ids::{HostName, TenantName},
    plan::{DesiredState, HostPlan, Role, TenantPlan},
};
use uuid::Uuid;

/// Docker's objects for one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stack {
    /// The tenant whose data is in the volumes; `None` if there are no volumes.
    pub volumes: Option<Uuid>,
    pub initialised: bool,
    pub postgres: bool,
    /// The port that Odoo's container publishes, running or stopped; `None` if there is no container.
    pub odoo_port: Option<u16>,
    pub odoo: bool,
    /// Memory size that the containers were made with.
    pub memory_bytes: u64,
    pub restarts: u64,
    /// How often the database was initialised; more than once for one set of volumes means lost data.
    pub initialisations: u32,
}

#[derive(Debug)]
pub struct SimHost {
    pub name: HostName,
    /// The plan on disk.
    plan: Option<HostPlan>,
    /// Docker's objects, which survive a crash.
    pub docker: BTreeMap<TenantName, Stack>,
    /// In memory: the tenant incarnations known to be as planned, with the generation. By uid and not by name, because
    /// a re-created tenant starts again at generation 1.
    done: BTreeMap<Uuid, u64>,
    /// Removed volumes, each with whether the plan permitted it.
    pub removed: Vec<(TenantName, bool)>,
}

impl SimHost {
    pub fn new(name: HostName) -> Self {
        Self {
            name,
            plan: None,
            docker: BTreeMap::new(),
            done: BTreeMap::new(),
            removed: Vec::new(),
        }
    }

    /// The generation of the plan on disk.
    pub fn generation(&self) -> Generation {
        self.plan.as_ref().map(|p| p.generation).unwrap_or_default()
    }

    /// The plan in force.
    pub fn plan_in_force(&self) -> Option<&HostPlan> {
        self.plan.as_ref()
    }

    /// Accepts a plan by the ledger's rule; returns the answer for the coordinator.
    pub fn plan(&mut self, plan: HostPlan) -> Option<(Generation, String)> {
        let generation = plan.generation;
        match &self.plan {
            Some(held) if held.generation > generation => {
                return Some((generation, "older".to_owned()));
            }
            Some(held) if held.generation == generation && held.digest() != plan.digest() => {
                panic!("{}: two plans with generation {generation}", self.name)
            }
            Some(held) if held.generation == generation => {
                return Some((generation, String::new()));
            }
            _ => {}
        }
        self.done.retain(|uid, done| {
            plan.tenants
                .iter()
                .any(|t| t.uid == *uid && t.generation == *done)
        });
        self.plan = Some(plan);
        Some((generation, String::new()))
    }

    /// Loses its memory; disk and Docker stay.
    pub fn crash(&mut self) {
        self.done.clear();
    }

    /// One small step on one tenant. False if there is nothing to do.
    pub fn work(&mut self, now: i64) -> bool {
        let Some(plan) = &self.plan else { return false };
        let Some(tenant) = plan
            .tenants
            .iter()
            .find(|t| self.done.get(&t.uid) != Some(&t.generation))
            .cloned()
        else {
            return false;
        };
        if self.advance(&tenant, now) {
            self.done.insert(tenant.uid, tenant.generation);
        }
        true
    }

    /// True if the tenant is as its plan says.
    fn advance(&mut self, tenant: &TenantPlan, now: i64) -> bool {
        let stack = self.docker.entry(tenant.name.clone()).or_default();
        match tenant.desired {
            DesiredState::Running => return run(stack, tenant),
            DesiredState::Suspended if stack.odoo => stack.odoo = false,
            DesiredState::Suspended if stack.postgres => stack.postgres = false,
            DesiredState::Suspended => return true,
            DesiredState::Quarantined
            | DesiredState::Purged
            | DesiredState::Standby
            | DesiredState::Fenced
                if stack.odoo_port.is_some() =>
            {
                stack.odoo = false;
                stack.odoo_port = None;
            }
            DesiredState::Quarantined
            | DesiredState::Purged
            | DesiredState::Standby
            | DesiredState::Fenced
                if stack.postgres =>
            {
                stack.postgres = false
            }
            DesiredState::Quarantined | DesiredState::Standby | DesiredState::Fenced => {
                return true;
            }
            DesiredState::Purged => {
                let allowed =
                    tenant.purge_now || tenant.quarantine_until.is_some_and(|until| until <= now);
                assert!(
                    allowed,
                    "{}: purge of {} ordered before its time",
                    self.name, tenant.name
                );
                self.docker.remove(&tenant.name);
                self.removed.push((tenant.name.clone(), allowed));
                return true;
            }
        }
        false
    }

    /// The agent's report on its tenants.
    pub fn report(&self) -> HostReport {
        let tenants = self
            .plan
            .iter()
            .flat_map(|p| &p.tenants)
            .map(|t| self.tenant_report(t))
            .collect();
        HostReport {
            resources: testing::resources(8, 16, 100),
            docker_error: String::new(),
            tenants,
            complete: true,
            jobs: Vec::new(),
        }
    }

    fn tenant_report(&self, tenant: &TenantPlan) -> TenantReport {
        let stack = self.docker.get(&tenant.name).cloned().unwrap_or_default();
        let done = self.done.get(&tenant.uid) == Some(&tenant.generation);
        let odoo = ContainerReport {
            name: tenant.name.odoo_container(),
            role: Some(Role::Odoo),
            state: if stack.odoo { "running" } else { "exited" }.into(),
            healthy: stack.odoo,
            restarts: 0,
            oom_kills: 0,
            image_digest: None,
            exit_code: 0,
            started_at: None,
        };
        TenantReport {
            name: tenant.name.clone(),
            uid: tenant.uid,
            epoch: tenant.epoch,
            generation: tenant.generation,
            progress: if done {
                TenantProgress::Converged
            } else {
                TenantProgress::Working
            },
            message: String::new(),
            containers: if stack.odoo_port.is_some() {
                vec![odoo]
            } else {
                Vec::new()
            },
            usage: Some(Usage::default()),
            // There has never been a visitor.
            traffic: stack.odoo.then(|| Traffic {
                last_active_at: Some(0),
                ..Traffic::default()
            }),
            operation: tenant.operation,
            steps: Vec::new(),
            absent: done && tenant.desired == DesiredState::Purged,
            health_latency_ms: 1,
        }
    }
}

/// One step towards running.
fn run(stack: &mut Stack, tenant: &TenantPlan) -> bool {
    if stack.volumes.is_none() {
        stack.volumes = Some(tenant.uid);
    } else if stack.volumes != Some(tenant.uid) {
        panic!(
            "{}: volumes of {:?} found where those of {} should be",
            tenant.name, stack.volumes, tenant.uid
        );
    } else if !stack.postgres {
        stack.postgres = true;
    } else if !stack.initialised {
        stack.initialised = true;
        stack.initialisations += 1;
    } else if stack.odoo_port != Some(tenant.http_port)
        || stack.memory_bytes != tenant.size.memory_bytes
    {
        stack.odoo_port = Some(tenant.http_port);
        stack.memory_bytes = tenant.size.memory_bytes;
        stack.odoo = false;
    } else if !stack.odoo {
        stack.odoo = true;
    } else if stack.restarts < tenant.odoo_restarts {
        stack.restarts = tenant.odoo_restarts;
    } else {
        return true;
    }
    false
}
