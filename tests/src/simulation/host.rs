//! A modelled host: the agent's real rules for plans and its real `diff`, over a modelled Docker, disk and data. It works
//! in small steps and can die between any two of them.
//!
//! Not here: messages (the parent), jobs (jobs).

use std::collections::{BTreeMap, VecDeque};

use isyone_agent::{
    plan::{
        diff::{self, Action},
        held::{Held, PlanRefused},
        state::Database,
    },
    testing::world::World,
};
use isyone_fleet::testing;
use isyone_proto::{
    generation::Generation,
    ids::{HostName, TenantName},
    plan::{DesiredState, HostPlan, Role, TenantPlan},
    report::{
        ContainerReport, HostReport, JobReport, Stuck, TenantProgress, TenantReport, Traffic,
        Usage, Which,
    },
};
use uuid::Uuid;

use super::jobs::SimJob;

/// What a tenant's volumes hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Data {
    /// The tenant that wrote it.
    pub uid: Uuid,
    /// Rises with each write that a user was told of.
    pub value: u64,
}

/// One tenant's copy on the host.
#[derive(Debug, Clone)]
pub struct Copy {
    pub world: World,
    pub data: Option<Data>,
    /// What was set aside for a restore.
    pub aside: Option<Data>,
    /// How often the database was initialised; more than once for one set of volumes means lost data.
    pub initialisations: u32,
}

impl Copy {
    /// Whether somebody could write into its database.
    pub fn runs(&self) -> bool {
        // Nobody writes into a standby.
        self.world.observed.is_up(Role::Postgres) && !self.world.state.follows()
    }

    /// Whether visitors are served.
    pub fn serves(&self) -> bool {
        self.runs() && self.world.observed.is_up(Role::Odoo)
    }

    pub fn has_volumes(&self) -> bool {
        self.world.observed.postgres_volume.is_some()
    }
}

/// What a step of a host did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Worked {
    /// Nothing was left to do.
    Nothing,
    Something,
    /// A user's write was acknowledged.
    Wrote(Data),
}

#[derive(Debug)]
pub struct SimHost {
    pub name: HostName,
    /// The plan on disk, by the agent's own rules.
    pub held: Held,
    /// Docker's objects and the tenants' files, which survive a crash.
    pub copies: BTreeMap<TenantName, Copy>,
    /// In memory: the plans that copies are known to match.
    done: BTreeMap<TenantName, TenantPlan>,
    /// In memory: what a copy's loop is about to do, with the wave of each action and the plan that it is for.
    pending: BTreeMap<TenantName, (TenantPlan, VecDeque<(u8, Action)>)>,
    /// In memory: why a copy cannot go on, and whether a person must act first.
    blocked: BTreeMap<TenantName, (String, bool)>,
    /// Records of jobs, on disk.
    pub jobs: BTreeMap<Uuid, SimJob>,
    /// It has no power: nothing of it runs.
    pub off: bool,
    /// Since it started, it was not told that its plan is the one that holds.
    unasked: bool,
    /// What ran when the power went.
    ran: Vec<(TenantName, Role)>,
    /// Removed volumes, each with whether the plan permitted it.
    pub removed: Vec<(TenantName, bool)>,
}

impl SimHost {
    pub fn new(name: HostName) -> Self {
        Self {
            name,
            held: Held::default(),
            copies: BTreeMap::new(),
            done: BTreeMap::new(),
            pending: BTreeMap::new(),
            blocked: BTreeMap::new(),
            jobs: BTreeMap::new(),
            off: false,
            unasked: false,
            ran: Vec::new(),
            removed: Vec::new(),
        }
    }

    /// Takes or refuses a plan; returns the answer for the coordinator.
    pub fn plan(&mut self, plan: HostPlan) -> (Generation, String) {
        let generation = plan.generation;
        match self.held.offered(plan) {
            Ok(Some((held, _))) => {
                let wanted = |name: &TenantName| {
                    let plan = held.plan.as_ref();
                    plan.is_some_and(|p| p.tenants.iter().any(|t| t.name == *name))
                };
                self.done.retain(|name, _| wanted(name));
                // The loop of a tenant that is not named any more ends.
                self.pending.retain(|name, _| wanted(name));
                self.blocked.clear();
                self.held = held;
                self.adopt_jobs();
                (generation, String::new())
            }
            Ok(None) => (generation, String::new()),
            Err(refused) => {
                let older = matches!(refused, PlanRefused::Older { .. });
                assert!(older, "{}: {refused}\n{:?}", self.name, self.held.plan);
                (generation, refused.to_string())
            }
        }
    }

    pub fn tenants(&self) -> &[TenantPlan] {
        self.held.plan.as_ref().map_or(&[], |plan| &plan.tenants)
    }

    /// Something of a tenant has changed: its loop looks again.
    pub(super) fn wake(&mut self, tenant: &TenantName) {
        self.done.remove(tenant);
        self.blocked.remove(tenant);
    }

    /// Loses its memory; disk and Docker stay.
    pub fn crash(&mut self) {
        self.done.clear();
        self.pending.clear();
        self.blocked.clear();
    }

    /// Loses its power: nothing runs, and disks stay.
    pub fn power_off(&mut self) {
        self.crash();
        (self.off, self.ran) = (true, Vec::new());
        for (name, copy) in &mut self.copies {
            for role in [Role::Postgres, Role::Odoo] {
                if copy.world.observed.is_up(role) {
                    copy.world.set_state(role, "exited");
                    self.ran.push((name.clone(), role));
                }
            }
        }
    }

    /// Has power again: Docker starts what it was told to, before the agent is there.
    pub fn power_on(&mut self) {
        if !std::mem::take(&mut self.off) {
            return;
        }
        self.unasked = true;
        for copy in self.copies.values_mut() {
            copy.world.unasked = true;
        }
        for (name, role) in std::mem::take(&mut self.ran) {
            let copy = self.copies.get_mut(&name);
            if let Some(copy) = copy.filter(|copy| !copy.world.state.stays_down) {
                copy.world.set_state(role, "running");
            }
        }
    }

    /// The coordinator says which generation its plan is to have.
    pub fn answered(&mut self, generation: Generation) {
        let holds = self.held.plan.is_some() && self.held.generation() >= generation;
        if holds && std::mem::take(&mut self.unasked) {
            for copy in self.copies.values_mut() {
                copy.world.unasked = false;
            }
            self.blocked.clear();
        }
    }

    /// One small step on one tenant.
    pub fn work(
        &mut self,
        now: i64,
        chance: usize,
        routed: impl Fn(&TenantName) -> bool,
    ) -> Worked {
        if self.off {
            return Worked::Nothing;
        }
        if self.stop_unnamed() {
            return Worked::Something;
        }
        let open: Vec<TenantPlan> = self
            .tenants()
            .iter()
            .filter(|t| self.done.get(&t.name) != Some(t) && !self.blocked.contains_key(&t.name))
            .cloned()
            .collect();
        if let Some(plan) = open.get(chance % open.len().max(1)) {
            if self.advance(plan, now) {
                self.done.insert(plan.name.clone(), plan.clone());
            }
            return Worked::Something;
        }
        self.write(chance, routed)
    }

    /// A user of one of the tenants that serve, and that edges lead to, writes something.
    fn write(&mut self, chance: usize, routed: impl Fn(&TenantName) -> bool) -> Worked {
        let serving: Vec<TenantName> = self
            .copies
            .iter()
            .filter(|(name, copy)| copy.serves() && routed(name))
            .map(|(name, _)| name.clone())
            .collect();
        let Some(name) = serving.get(chance % serving.len().max(1)) else {
            return Worked::Nothing;
        };
        match self.copies.get_mut(name).and_then(|c| c.data.as_mut()) {
            Some(data) if chance.is_multiple_of(3) => {
                data.value += 1;
                Worked::Wrote(*data)
            }
            _ => Worked::Nothing,
        }
    }

    /// A tenant that the plan does not name is stopped, not removed.
    fn stop_unnamed(&mut self) -> bool {
        if self.held.plan.is_none() {
            return false;
        }
        let named: Vec<TenantName> = self.tenants().iter().map(|t| t.name.clone()).collect();
        let unnamed = |(name, copy): &(&TenantName, &mut Copy)| {
            let observed = &copy.world.observed;
            let is_up = [Role::Postgres, Role::Odoo].map(|role| observed.is_up(role));
            !named.contains(name) && is_up != [false; 2]
        };
        let Some((_, copy)) = self.copies.iter_mut().find(unnamed) else {
            return false;
        };
        copy.world.set_state(Role::Odoo, "exited");
        copy.world.set_state(Role::Postgres, "exited");
        true
    }

    /// One action of what the tenant's loop has decided to do, or a new look. True if its copy is as its plan says.
    fn advance(&mut self, plan: &TenantPlan, now: i64) -> bool {
        if let Some((of, mut actions)) = self.pending.remove(&plan.name) {
            // As in the agent: a wave that has begun is ended, then another desired state interrupts.
            let interrupted = of.desired != plan.desired || of.uid != plan.uid;
            if let Some((wave, action)) = actions.pop_front() {
                if !self.carry_out(&of, action, now) {
                    return false; // it failed: the next look finds why
                }
                let next = actions
                    .front()
                    .is_some_and(|next| next.0 == wave || !interrupted);
                if next {
                    self.pending.insert(of.name.clone(), (of, actions));
                }
                return false;
            }
        }
        let stale = self.held.is_stale(plan);
        let copy = self
            .copies
            .entry(plan.name.clone())
            .or_insert_with(|| Copy {
                world: World::empty(plan),
                data: None,
                aside: None,
                initialisations: 0,
            });
        heed(copy, plan, stale);
        let mut steps = match copy.world.steps_of(plan, stale, now) {
            Ok(steps) => steps,
            Err(why) => {
                let why = (why.to_string(), why.is_for_good());
                self.blocked.insert(plan.name.clone(), why);
                return false;
            }
        };
        steps.sort_by_key(|step| (step.wave, step.lane));
        if steps.is_empty() {
            if plan.desired == DesiredState::Purged && copy.world.observed.is_absent() {
                self.copies.remove(&plan.name);
            }
            if stale {
                // It is stopped and stays so; that is not what the plan says.
                let why = "a newer copy of it is elsewhere".to_owned();
                self.blocked.insert(plan.name.clone(), (why, false));
            }
            return !stale;
        }
        let actions = steps.iter().map(|step| (step.wave, step.action)).collect();
        self.pending
            .insert(plan.name.clone(), (plan.clone(), actions));
        false
    }

    /// False when the action cannot work.
    fn carry_out(&mut self, plan: &TenantPlan, action: Action, now: i64) -> bool {
        if let Action::RemoveVolume(_) = action {
            let allowed = diff::may_purge(plan, now);
            self.removed.push((plan.name.clone(), allowed));
        }
        let Some(copy) = self.copies.get_mut(&plan.name) else {
            return false;
        };
        let awaited = match action {
            Action::AwaitPostgres => Some(Role::Postgres),
            Action::AwaitOdoo => Some(Role::Odoo),
            _ => None,
        };
        let works = awaited.is_none_or(|role| copy.world.observed.is_up(role));
        if works {
            carry_out(copy, plan, action);
        }
        works
    }

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
            jobs: self.jobs.values().map(JobReport::from).collect(),
            condition: Default::default(),
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

/// What the agent does before it compares: the state of another tenant of the name does not count, and the plan says
/// where the data comes from.
fn heed(copy: &mut Copy, plan: &TenantPlan, stale: bool) {
    if copy.world.state.uid != plan.uid {
        copy.world.state = diff::adopt(plan, &copy.world.observed);
    }
    diff::heed(plan, stale, &mut copy.world.state);
    let wanted = matches!(
        plan.desired,
        DesiredState::Running | DesiredState::Suspended
    );
    if wanted {
        let known = &mut copy.world.state.wanted_generation;
        *known = (*known).max(plan.generation);
    }
}

fn carry_out(copy: &mut Copy, plan: &TenantPlan, action: Action) {
    match action {
        Action::CopyGolden | Action::InitDatabase => {
            assert!(
                copy.data
                    .is_none_or(|data| data.uid != plan.uid || data.value == 0),
                "{}: a database with data is filled anew",
                plan.name
            );
            copy.initialisations += 1;
            copy.data = Some(Data {
                uid: plan.uid,
                value: 0,
            });
        }
        Action::SetAside(_) => copy.aside = copy.data.take(),
        Action::BringBack(_) => copy.data = copy.aside.take(),
        Action::RemoveAside(_) => copy.aside = None,
        Action::RemoveVolume(Role::Postgres) => {
            copy.data = None;
            copy.initialisations = 0;
        }
        Action::StartContainer(_) => assert!(
            copy.world.state.database != Database::Incoming,
            "{}: starts on half a copy",
            plan.name
        ),
        Action::Promote => assert!(
            plan.desired == DesiredState::Running,
            "{}: takes over unasked",
            plan.name
        ),
        _ => {}
    }
    copy.world.apply(plan, action);
    if action == Action::StartContainer(Role::Odoo) {
        // Two programs must never run on what belongs to another tenant.
        let owner = copy.data.map(|data| data.uid);
        assert!(
            owner.is_none_or(|uid| uid == plan.uid),
            "{}: runs on data of {owner:?}",
            plan.name
        );
    }
}
