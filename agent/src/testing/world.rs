//! A model of what one tenant has on a host, in which each action of `plan::diff` takes effect at once.
//!
//! Not here: what is tested with it (plan::diff's properties, the workspace's simulation).

use std::{
    borrow::Cow,
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use isyone_proto::{
    disk::DiskState,
    plan::{Role, TenantPlan, UnixMs},
};

use uuid::Uuid;

use crate::plan::{
    container::{Container, LABEL_IMAGE_ID, Network, Volume},
    design::stack,
    diff::{Action, Blocked, Inputs, Observed, PlannedAction, diff},
    facts::{HostFacts, ImageFacts, Images},
    home::{DataFacts, Home, HomeOwner, Lies},
    lease::Standing,
    pins::Wanted,
    sql,
    stack::{Stack, stays_down},
    state::{Aside, Database, TenantState},
};

/// A host of four CPUs.
pub fn host() -> HostFacts {
    HostFacts {
        advertise: "192.0.2.7".parse().unwrap(),
        cpus: 4,
        tenants_dir: "/t".into(),
        addons_dir: "/a".into(),
        data_device: None,
        mtu: None,
        relays: false,
        home: Some("/r/tenants/alfa".into()),
    }
}

/// The stack of a plan on [`host`].
pub fn render(plan: &TenantPlan) -> Stack {
    let images = Images {
        odoo: ImageFacts::default(),
        postgres: ImageFacts::default(),
    };
    stack(plan, &host(), &images, "hash")
}

/// A home that nobody has.
pub fn home() -> Home {
    Home {
        path: "/r/tenants/alfa".into(),
        ..Home::default()
    }
}

/// A world in which each action does at once what it promises.
#[derive(Debug, Clone)]
pub struct World {
    /// What Docker and the disk hold.
    pub observed: Observed,
    /// What `state.json` holds.
    pub state: TenantState,
    /// Nobody can log in to the database as Odoo.
    pub closed: bool,
    /// How full its disk is.
    pub disk: DiskState,
    /// The machine has started anew since, and nobody has said that it may run.
    pub unasked: bool,
    /// What its lease lets it do.
    pub standing: Standing,
    /// How often volumes have been put back.
    pub put_back: u32,
    /// The stack of the plan that was looked at last: rendering is slow.
    pub rendered: RefCell<Option<(TenantPlan, Arc<Stack>)>>,
}

impl World {
    /// Nothing of the tenant exists; images are there.
    pub fn empty(plan: &TenantPlan) -> Self {
        let observed = Observed {
            odoo_image: Some(ImageFacts::default()),
            postgres_image: Some(ImageFacts::default()),
            ..Default::default()
        };
        Self {
            observed,
            state: TenantState::new(plan),
            closed: false,
            disk: DiskState::Free,
            unasked: false,
            standing: Standing::Free,
            put_back: 0,
            rendered: RefCell::default(),
        }
    }

    /// In a world where this machine sees Docker's volumes.
    pub fn with_home(plan: &TenantPlan) -> Self {
        let mut world = Self::empty(plan);
        world.observed.home = Some(home());
        world
    }

    fn stack(&self, plan: &TenantPlan) -> Arc<Stack> {
        let mut rendered = self.rendered.borrow_mut();
        match &*rendered {
            Some((of, stack)) if of == plan => stack.clone(),
            _ => {
                let stack = Arc::new(render(plan));
                *rendered = Some((plan.clone(), stack.clone()));
                stack
            }
        }
    }

    /// What is to be done.
    pub fn steps(&self, plan: &TenantPlan, now: UnixMs) -> Result<Vec<PlannedAction>, Blocked> {
        self.steps_of(plan, false, now)
    }

    /// Like [`Self::steps`], for a copy that may be `stale`.
    pub fn steps_of(
        &self,
        plan: &TenantPlan,
        stale: bool,
        now: UnixMs,
    ) -> Result<Vec<PlannedAction>, Blocked> {
        let stack = self.stack(plan);
        let observed = self.with_images(plan);
        let images = [&observed.postgres_image, &observed.odoo_image];
        let inputs = Inputs {
            plan,
            stack: images.iter().all(|i| i.is_some()).then_some(&*stack),
            observed: &observed,
            state: &self.state,
            stale,
            unasked: self.unasked && plan.asks_first,
            standing: &self.standing,
            no_new: None,
            disk: self.disk,
            now,
        };
        diff(&inputs)
    }

    /// Without the images that are asked for anew.
    fn with_images(&self, plan: &TenantPlan) -> Cow<'_, Observed> {
        let mut observed = Cow::Borrowed(&self.observed);
        for role in [Role::Postgres, Role::Odoo] {
            if !self.state.asks_anew(role, &Wanted::of(plan, role)) {
                continue;
            }
            match role {
                Role::Odoo => observed.to_mut().odoo_image = None,
                Role::Postgres => observed.to_mut().postgres_image = None,
            }
        }
        observed
    }

    /// What a reference means is another image each time that somebody asks.
    fn settle_image(&mut self, plan: &TenantPlan, role: Role) {
        let wanted = Wanted::of(plan, role);
        let id = format!("{} {}", wanted.reference, wanted.asked);
        let image = ImageFacts {
            id,
            ..ImageFacts::default()
        };
        self.state.pin(role, &wanted, &image);
    }

    /// The place of a role's container.
    pub fn slot(&mut self, role: Role) -> &mut Option<Container> {
        match role {
            Role::Odoo => &mut self.observed.odoo,
            Role::Postgres => &mut self.observed.postgres,
        }
    }

    /// Sets the state of a role's container, if it has one.
    pub fn set_state(&mut self, role: Role, state: &str) {
        if let Some(container) = self.slot(role) {
            container.state = state.to_owned();
        }
    }

    /// Carries one action out.
    pub fn apply(&mut self, plan: &TenantPlan, action: Action) {
        match action {
            Action::PullImage(role) => {
                if self.state.asks_anew(role, &Wanted::of(plan, role)) {
                    self.settle_image(plan, role);
                }
            }
            Action::StopContainer(role) | Action::StopNow(role) => self.set_state(role, "exited"),
            Action::StopOdooSoon => self.set_state(Role::Odoo, "exited"),
            Action::EndSessions => {
                assert!(self.observed.is_up(Role::Postgres));
                self.observed.strangers = 0;
            }
            Action::RemoveContainer(role) => *self.slot(role) = None,
            Action::RemoveInit => self.observed.init = None,
            Action::RemoveNetwork => {
                assert!(
                    self.observed.odoo.is_none() && self.observed.postgres.is_none(),
                    "network in use"
                );
                self.observed.network = None;
            }
            Action::RemoveVolume(role) => {
                assert!(self.observed.container(role).is_none(), "volume in use");
                match role {
                    Role::Odoo => self.observed.odoo_volume = None,
                    Role::Postgres => self.observed.postgres_volume = None,
                }
            }
            Action::SetAside(restore) => {
                assert!(self.observed.postgres.is_none(), "data in use");
                self.state.database = Database::Incoming;
                self.state.copied_by = None;
                self.state.aside = Some(Aside {
                    restore,
                    moving: false,
                });
                self.keeps_aside(Some(restore));
            }
            Action::BringBack(_) => {
                assert!(self.observed.postgres.is_none(), "data in use");
                self.state.database = Database::Ready { synced: true };
                self.state.copied_by = None;
                self.state.aside = None;
                self.keeps_aside(None);
            }
            Action::RemoveAside(_) => {
                self.state.aside = None;
                self.keeps_aside(None);
            }
            Action::RemoveDirectory => {
                (self.observed.directory, self.observed.files_current) = (false, false)
            }
            Action::WriteFiles => {
                (self.observed.directory, self.observed.files_current) = (true, true)
            }
            _ => self.make(plan, action),
        }
    }

    pub fn volume(&mut self, role: Role) -> &mut Option<Volume> {
        match role {
            Role::Odoo => &mut self.observed.odoo_volume,
            Role::Postgres => &mut self.observed.postgres_volume,
        }
    }

    fn keeps_aside(&mut self, restore: Option<Uuid>) {
        if let Some(home) = &mut self.observed.home {
            home.aside = restore;
        }
    }

    /// Makes a volume: a record of a directory in the home, if this world has homes.
    fn record(&mut self, role: Role, labels: HashMap<String, String>) {
        let mut device = None;
        if let Some(home) = &mut self.observed.home {
            home.owner = HomeOwner::This;
            let facts = match role {
                Role::Odoo => &mut home.odoo,
                Role::Postgres => &mut home.postgres,
            };
            (facts.kept, facts.recorded, facts.movable) = (true, true, false);
            device = Some(home.directory(role).display().to_string());
        }
        *self.volume(role) = Some(Volume {
            device,
            labels,
            ..Volume::default()
        });
    }

    /// No data lies in Docker's own directory, where a prune would take it.
    pub fn is_safe(&self) -> bool {
        [Role::Postgres, Role::Odoo]
            .iter()
            .all(|role| self.observed.lies(*role) != Lies::InDocker)
    }

    /// A prune takes what no container uses, with data that lies in Docker's own directory.
    pub fn prune(&mut self) {
        for role in [Role::Postgres, Role::Odoo] {
            if !self.observed.is_up(role) {
                *self.slot(role) = None;
                *self.volume(role) = None;
            }
        }
        if self.observed.odoo.is_none() && self.observed.postgres.is_none() {
            self.observed.network = None;
        }
    }

    /// Makes its volumes what earlier versions made.
    pub fn make_old(&mut self) {
        if [Role::Postgres, Role::Odoo].map(|role| self.observed.lies(role)) != [Lies::Home; 2] {
            return;
        }
        self.observed.home = Some(home());
        for role in [Role::Postgres, Role::Odoo] {
            if let Some(volume) = self.volume(role) {
                volume.device = None;
                let facts = DataFacts {
                    kept: false,
                    recorded: true,
                    dockers: true,
                    movable: true,
                    doubled: false,
                };
                let home = self.observed.home.get_or_insert_with(home);
                match role {
                    Role::Odoo => home.odoo = facts,
                    Role::Postgres => home.postgres = facts,
                }
            }
        }
    }

    fn make(&mut self, plan: &TenantPlan, action: Action) {
        let stack = self.stack(plan);
        let labels =
            |l: &BTreeMap<String, String>| l.clone().into_iter().collect::<HashMap<_, _>>();
        match action {
            Action::CreateVolume(role) => {
                let labels = labels(&stack.volume(role).labels);
                self.record(role, labels);
            }
            Action::PutBackVolumes => {
                for role in [Role::Postgres, Role::Odoo] {
                    if self.observed.lies(role) == Lies::Unrecorded {
                        self.record(role, labels(&stack.volume(role).labels));
                    }
                }
                self.put_back += 1;
            }
            Action::MoveData(role) => {
                assert!(!self.observed.is_up(role), "volume in use");
                *self.slot(role) = None;
                self.record(role, labels(&stack.volume(role).labels));
            }
            Action::RemoveHome => {
                assert!(self.observed.postgres_volume.is_none());
                assert!(self.observed.odoo_volume.is_none());
                self.observed.home = Some(home());
            }
            Action::CreateNetwork => {
                self.observed.network = Some(Network {
                    id: String::new(),
                    subnet: stack.subnet.clone(),
                    labels: labels(&stack.network.labels),
                    mtu: stack.mtu,
                });
            }
            Action::CreateContainer(role) => {
                assert!(
                    self.observed.network.is_some()
                        && self.observed.volume(role).is_some()
                        && self.observed.files_current
                );
                assert!(self.slot(role).is_none(), "name is taken");
                let spec = stack.container(role);
                let wanted = Wanted::of(plan, role);
                if self.state.pinned(role, &wanted).is_none() {
                    self.settle_image(plan, role);
                }
                let mut labels = labels(&spec.labels);
                let pin = self.state.pinned(role, &wanted).expect("it is settled");
                labels.insert(LABEL_IMAGE_ID.to_owned(), pin.id.clone());
                *self.slot(role) = Some(Container {
                    state: "created".into(),
                    labels,
                    limits: spec.limits,
                    ..Default::default()
                });
            }
            Action::UpdateRestarts => self.state.stays_down = stays_down(plan),
            Action::UpdateLimits(role) => {
                let limits = stack.container(role).limits;
                if let Some(container) = self.slot(role) {
                    container.limits = limits;
                }
            }
            _ => self.fill_and_start(plan, action),
        }
    }

    fn fill_and_start(&mut self, plan: &TenantPlan, action: Action) {
        match action {
            Action::CopyGolden | Action::InitDatabase => {
                assert!(!self.state.is_ready(), "a ready database is never filled");
                assert!(!self.observed.is_up(Role::Odoo));
                assert!(
                    action == Action::InitDatabase || !self.observed.is_up(Role::Postgres),
                    "copied under a running server"
                );
                self.closed = action == Action::CopyGolden;
                self.state.database = Database::Filled {
                    source: "odoo_x".into(),
                };
            }
            Action::StartContainer(role) | Action::RestartContainer(role) => {
                assert!(
                    role == Role::Postgres || self.closed || self.state.is_ready(),
                    "Odoo before its keys, or on a standby"
                );
                self.set_state(role, "running");
                match role {
                    Role::Odoo => self.state.odoo_restarts = plan.odoo_restarts,
                    Role::Postgres => self.state.postgres_restarts = plan.postgres_restarts,
                }
            }
            Action::AwaitPostgres => {
                assert!(self.observed.is_up(Role::Postgres));
                self.observed.postgres_ready = true;
            }
            Action::Rekey | Action::SkipDatabase => {
                self.closed = false;
                self.state.database = Database::Ready { synced: true };
                self.state.settings = sql::settings_digest(plan);
            }
            Action::Promote => {
                let is_whole = self.state.database == Database::Following { complete: true };
                assert!(is_whole || plan.as_it_is && self.state.is_filled());
                assert!(self.observed.is_up(Role::Postgres) && !self.observed.is_up(Role::Odoo));
                self.state.database = Database::Ready { synced: true };
                self.state.settings_can_wait = true;
            }
            Action::UpdateSettings => {
                self.state.settings = sql::settings_digest(plan);
                self.state.settings_asked = plan.settings_asked;
                self.state.settings_can_wait = false;
            }
            Action::AwaitOdoo => {
                assert!(self.observed.is_up(Role::Odoo));
                self.observed.odoo_health = Some(Ok(1));
            }
            _ => unreachable!("handled above"),
        }
    }

    /// Runs until nothing is left to do; stops after `budget` actions, like a crash.
    pub fn converge(&mut self, plan: &TenantPlan, now: UnixMs, budget: usize) -> bool {
        let mut left = budget;
        for _ in 0..10 {
            let mut steps = self.steps(plan, now).expect("not blocked");
            if steps.is_empty() {
                return true;
            }
            steps.sort_by_key(|s| (s.wave, s.lane));
            for step in steps {
                if left == 0 {
                    return false;
                }
                left -= 1;
                self.apply(plan, step.action);
            }
        }
        panic!("does not converge");
    }
}
