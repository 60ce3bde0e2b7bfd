//! Observed + desired → what to do, each with its reason. Pure: no clock, no Docker, no files.
//!
//! Actions come in waves; within a wave the lanes run at the same time, within a lane one after the other. After each run
//! the world is observed and compared again, until nothing is left to do. Not here: doing it (execute).

mod action;

use isyone_proto::plan::{DesiredState, Role, TenantPlan, UnixMs};

pub use self::action::Action;
use crate::plan::{
    container::{Container, LABEL_CONFIG_HASH, LABEL_UID, Network, Volume},
    facts::ImageFacts,
    sql,
    stack::Stack,
    state::{Database, TenantState},
};

/// Odoo with a hundred modules on a slow disk needs minutes until it answers; after that silence is a finding.
pub const START_GRACE_MS: UnixMs = 180_000;

/// An action in its place, with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedAction {
    /// Waves run one after the other.
    pub wave: u8,
    /// Lanes of a wave run at the same time.
    pub lane: u8,
    /// What.
    pub action: Action,
    /// Why.
    pub reason: String,
}

/// What Docker and the disk say.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Odoo's image, when present.
    pub odoo_image: Option<ImageFacts>,
    /// PostgreSQL's image, when present.
    pub postgres_image: Option<ImageFacts>,
    /// The tenant's network.
    pub network: Option<Network>,
    /// PostgreSQL's volume.
    pub postgres_volume: Option<Volume>,
    /// Odoo's volume.
    pub odoo_volume: Option<Volume>,
    /// `postgres_<t>`.
    pub postgres: Option<Container>,
    /// `odoo_<t>`.
    pub odoo: Option<Container>,
    /// `odoo_<t>_init`.
    pub init: Option<Container>,
    /// A container of somebody else that has one of these names; it is in none of the fields above.
    pub foreign: Option<String>,
    /// The rendered files are on disk as they should be.
    pub files_current: bool,
    /// The tenant's directory exists.
    pub directory: bool,
    /// A golden snapshot fits, and its copies can be made.
    pub golden: bool,
    /// PostgreSQL's major version that the data is of; looked up when its container is to be made or started.
    pub data_major: Option<String>,
    /// PostgreSQL answered just now.
    pub postgres_ready: bool,
    /// `/web/health` took so many milliseconds just now, or why it did not answer.
    pub odoo_health: Option<Result<u32, String>>,
}

impl Observed {
    /// The container of a role.
    pub fn container(&self, role: Role) -> Option<&Container> {
        match role {
            Role::Odoo => self.odoo.as_ref(),
            Role::Postgres => self.postgres.as_ref(),
        }
    }
    /// The volume of a role.
    pub fn volume(&self, role: Role) -> Option<&Volume> {
        match role {
            Role::Odoo => self.odoo_volume.as_ref(),
            Role::Postgres => self.postgres_volume.as_ref(),
        }
    }
    /// Containers without our label are not ours to stop or remove, whatever their names: their data may be in volumes
    /// that go with them.
    pub fn set_foreign_aside(&mut self) {
        for slot in [&mut self.postgres, &mut self.odoo, &mut self.init] {
            if let Some(container) = slot.take_if(|c| c.label(LABEL_UID).is_empty()) {
                self.foreign = Some(container.name);
            }
        }
    }
    fn is_up(&self, role: Role) -> bool {
        self.container(role).is_some_and(Container::is_up)
    }
    /// Neither container, network nor volume.
    pub fn is_absent(&self) -> bool {
        self.odoo.is_none()
            && self.postgres.is_none()
            && self.init.is_none()
            && self.network.is_none()
            && self.odoo_volume.is_none()
            && self.postgres_volume.is_none()
    }
}

/// What is compared.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Desired.
    pub plan: &'a TenantPlan,
    /// Desired, rendered; `None` while an image is missing.
    pub stack: Option<&'a Stack>,
    /// Found.
    pub observed: &'a Observed,
    /// Remembered.
    pub state: &'a TenantState,
    /// A higher epoch was seen: this copy must not run.
    pub stale: bool,
    /// Why no new tenant may be started on this host, if so.
    pub no_new: Option<&'a str>,
    /// Now.
    pub now: UnixMs,
}

/// Going on would do harm or cannot work; a person must act. Tried again all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Blocked(pub String);

/// The state without a `state.json`: volumes that are there with this uid hold data, and are taken as they are; also when
/// only one is left.
pub fn adopt(plan: &TenantPlan, observed: &Observed) -> TenantState {
    let mut state = TenantState::new(plan);
    let ours = |v: &Volume| {
        v.labels
            .get(LABEL_UID)
            .is_some_and(|uid| *uid == plan.uid.to_string())
    };
    if ROLES
        .into_iter()
        .filter_map(|role| observed.volume(role))
        .any(ours)
    {
        state.database = Database::Ready { synced: true };
    }
    state
}

/// Removal of volumes is allowed.
pub fn may_purge(plan: &TenantPlan, now: UnixMs) -> bool {
    plan.desired == DesiredState::Purged
        && (plan.purge_now || plan.quarantine_until.is_some_and(|until| until <= now))
}

#[derive(Default)]
struct List(Vec<PlannedAction>);

impl List {
    fn add(&mut self, wave: u8, lane: u8, action: Action, reason: impl Into<String>) {
        self.0.push(PlannedAction {
            wave,
            lane,
            action,
            reason: reason.into(),
        });
    }
}

const ROLES: [Role; 2] = [Role::Postgres, Role::Odoo];

/// Compares. An empty list: nothing to do.
pub fn diff(inputs: &Inputs<'_>) -> Result<Vec<PlannedAction>, Blocked> {
    if inputs.stale {
        return Ok(stop_all(
            inputs.observed,
            "another host holds a newer copy of this tenant",
        ));
    }
    match inputs.plan.desired {
        DesiredState::Running => run(inputs),
        DesiredState::Suspended => Ok(stop_all(inputs.observed, "suspended")),
        DesiredState::Quarantined => Ok(take_down(inputs.observed, "deleted, volumes kept")),
        DesiredState::Purged => purge(inputs),
    }
}

/// Odoo first: its requests end while PostgreSQL still answers.
fn stop_all(observed: &Observed, reason: &str) -> Vec<PlannedAction> {
    let mut list = List::default();
    if observed.init.is_some() {
        list.add(0, 1, Action::RemoveInit, reason);
    }
    for (wave, role) in [(0, Role::Odoo), (1, Role::Postgres)] {
        if observed.is_up(role) {
            list.add(wave, 0, Action::StopContainer(role), reason);
        }
    }
    list.0
}

fn take_down(observed: &Observed, reason: &str) -> Vec<PlannedAction> {
    let mut list = List(stop_all(observed, reason));
    for role in ROLES {
        if observed.container(role).is_some() {
            list.add(2, role as u8, Action::RemoveContainer(role), reason);
        }
    }
    if observed.network.is_some() {
        list.add(3, 0, Action::RemoveNetwork, reason);
    }
    list.0
}

fn purge(inputs: &Inputs<'_>) -> Result<Vec<PlannedAction>, Blocked> {
    let observed = inputs.observed;
    let mut list = List(take_down(observed, "deleted"));
    if inputs.plan.generation <= inputs.state.wanted_generation {
        return Err(Blocked(format!(
            "the order to purge has generation {}, but this tenant was wanted under generation {} since: was an old database of the coordinator restored? Its volumes are kept",
            inputs.plan.generation, inputs.state.wanted_generation
        )));
    }
    if !may_purge(inputs.plan, inputs.now) {
        return Ok(list.0);
    }
    for role in ROLES {
        if let Some(volume) = observed.volume(role) {
            own_volume(inputs.plan, role, volume)?;
            list.add(
                4,
                role as u8,
                Action::RemoveVolume(role),
                "the quarantine is over",
            );
        }
    }
    if observed.directory {
        list.add(5, 0, Action::RemoveDirectory, "the quarantine is over");
    }
    Ok(list.0)
}

fn volume_name(plan: &TenantPlan, role: Role) -> String {
    match role {
        Role::Odoo => plan.name.odoo_volume(),
        Role::Postgres => plan.name.postgres_volume(),
    }
}

fn own_volume(plan: &TenantPlan, role: Role, volume: &Volume) -> Result<(), Blocked> {
    let uid = volume
        .labels
        .get(LABEL_UID)
        .map_or("nobody", String::as_str);
    if uid == plan.uid.to_string() {
        return Ok(());
    }
    Err(Blocked(format!(
        "volume {} belongs to another tenant (label {LABEL_UID}={uid}, this tenant is {}); purge that one first, or move its volume away",
        volume_name(plan, role),
        plan.uid
    )))
}

fn run(inputs: &Inputs<'_>) -> Result<Vec<PlannedAction>, Blocked> {
    let observed = inputs.observed;
    let mut list = List::default();
    for (lane, (role, image)) in [
        (Role::Postgres, &observed.postgres_image),
        (Role::Odoo, &observed.odoo_image),
    ]
    .into_iter()
    .enumerate()
    {
        if image.is_none() {
            list.add(
                0,
                lane as u8,
                Action::PullImage(role),
                "the image is not on this host",
            );
        }
    }
    let Some(stack) = inputs.stack.filter(|_| list.0.is_empty()) else {
        return Ok(list.0);
    };
    if let Some(name) = &observed.foreign {
        return Err(Blocked(format!(
            "container {name} is somebody else's (it has no label {LABEL_UID}) and is left alone; rename or remove it"
        )));
    }
    check_volumes(inputs)?;
    check_major(observed)?;
    if let (Some(why), false) = (inputs.no_new, inputs.state.is_ready()) {
        return Err(Blocked(why.to_owned()));
    }
    let kept = clear_the_way(&mut list, inputs, stack);
    make(&mut list, inputs, stack, &kept);
    fill(&mut list, inputs, stack);
    start(&mut list, inputs, &kept);
    Ok(list.0)
}

fn check_volumes(inputs: &Inputs<'_>) -> Result<(), Blocked> {
    for role in ROLES {
        match inputs.observed.volume(role) {
            Some(volume) => own_volume(inputs.plan, role, volume)?,
            None if inputs.state.is_ready() => {
                return Err(Blocked(format!(
                    "volume {} is gone, and with it this tenant's data; nothing new is put in its place. Restore it from a backup, or delete the tenant",
                    volume_name(inputs.plan, role)
                )));
            }
            None => {}
        }
    }
    Ok(())
}

/// PostgreSQL opens no other major version's data: it would end and be started again for ever.
fn check_major(observed: &Observed) -> Result<(), Blocked> {
    let image = observed
        .postgres_image
        .as_ref()
        .map_or("", |i| i.postgres_major.as_str());
    match &observed.data_major {
        Some(data) if !image.is_empty() && data != image => Err(Blocked(format!(
            "this tenant's data is PostgreSQL {data}'s, and the image is PostgreSQL {image}: it cannot open it. Go back to an image of \
             version {data}; to change the version, restore a dump into a new tenant"
        ))),
        _ => Ok(()),
    }
}

/// Which of the present things may stay.
#[derive(Debug, Default)]
struct Kept {
    network: bool,
    postgres: bool,
    odoo: bool,
}

impl Kept {
    fn container(&self, role: Role) -> bool {
        match role {
            Role::Odoo => self.odoo,
            Role::Postgres => self.postgres,
        }
    }
}

/// Wave 1 and 2: what is in the way goes.
fn clear_the_way(list: &mut List, inputs: &Inputs<'_>, stack: &Stack) -> Kept {
    let observed = inputs.observed;
    let network_fits = observed
        .network
        .as_ref()
        .is_none_or(|n| n.subnet == stack.subnet);
    if observed.init.is_some() {
        list.add(
            1,
            2,
            Action::RemoveInit,
            "an earlier initialisation was interrupted",
        );
    }
    let mut kept = Kept {
        network: observed.network.is_some() && network_fits,
        ..Kept::default()
    };
    for role in ROLES {
        let Some(container) = observed.container(role) else {
            continue;
        };
        let wanted = stack
            .container(role)
            .labels
            .get(LABEL_CONFIG_HASH)
            .map_or("", String::as_str);
        let reason = if !network_fits {
            "its network has another subnet"
        } else if container.label(LABEL_UID) != inputs.plan.uid.to_string() {
            "it was made for another tenant of this name"
        } else if container.label(LABEL_CONFIG_HASH) != wanted {
            "its configuration has changed"
        } else if matches!(container.state.as_str(), "dead" | "removing") {
            "Docker could not remove it"
        } else {
            match role {
                Role::Odoo => kept.odoo = true,
                Role::Postgres => kept.postgres = true,
            }
            if container.is_up()
                && !inputs.state.is_ready()
                && (role == Role::Odoo || observed.golden)
            {
                list.add(
                    1,
                    role as u8,
                    Action::StopContainer(role),
                    "its database is not ready",
                );
            }
            continue;
        };
        if container.is_up() {
            list.add(1, role as u8, Action::StopContainer(role), reason);
        }
        list.add(1, role as u8, Action::RemoveContainer(role), reason);
    }
    if !network_fits {
        list.add(2, 0, Action::RemoveNetwork, "it has another subnet");
    }
    kept
}

/// Waves 3 and 4: files, volumes and network, then PostgreSQL's container; wave 6: Odoo's, while PostgreSQL starts.
fn make(list: &mut List, inputs: &Inputs<'_>, stack: &Stack, kept: &Kept) {
    let observed = inputs.observed;
    if !observed.files_current {
        list.add(3, 0, Action::WriteFiles, "files differ from the plan");
    }
    for role in ROLES {
        if observed.volume(role).is_none() {
            list.add(3, 1, Action::CreateVolume(role), "it is not there");
        }
    }
    if !kept.network {
        list.add(3, 2, Action::CreateNetwork, "it is not there");
    }
    for (role, wave, lane) in [(Role::Postgres, 4, 0), (Role::Odoo, 6, 1)] {
        if !kept.container(role) {
            list.add(wave, lane, Action::CreateContainer(role), "it is not there");
            continue;
        }
        // While it is being made a tenant has more CPU than its due.
        if inputs.state.is_ready()
            && observed
                .container(role)
                .is_some_and(|c| c.limits != stack.container(role).limits)
        {
            list.add(4, 0, Action::UpdateLimits(role), "the size has changed");
        }
    }
}

/// Waves 4 to 5: the database's content. The golden copy needs only the volumes, so it runs beside making a container.
fn fill(list: &mut List, inputs: &Inputs<'_>, stack: &Stack) {
    if stack.standin {
        return;
    }
    if copies(inputs) {
        list.add(4, 1, Action::CopyGolden, "a golden snapshot fits");
    } else if let Database::Empty | Database::Filling = inputs.state.database {
        list.add(
            5,
            0,
            Action::InitDatabase,
            "there is no golden snapshot yet",
        );
    }
}

/// The database is filled by copying a snapshot, now.
fn copies(inputs: &Inputs<'_>) -> bool {
    inputs.observed.golden && matches!(inputs.state.database, Database::Empty | Database::Filling)
}

/// Waves 6 to 9: PostgreSQL, keys, Odoo, healthy.
fn start(list: &mut List, inputs: &Inputs<'_>, kept: &Kept) {
    let Inputs {
        plan,
        observed,
        state,
        ..
    } = *inputs;
    let standin = inputs.stack.is_some_and(|s| s.standin);
    let untouched = |role| {
        kept.container(role)
            && observed.is_up(role)
            && (state.is_ready() || (role == Role::Postgres && !observed.golden))
    };
    let postgres_stays =
        untouched(Role::Postgres) && plan.postgres_restarts <= state.postgres_restarts;
    if !untouched(Role::Postgres) {
        list.add(
            6,
            0,
            Action::StartContainer(Role::Postgres),
            "it should run",
        );
    } else if !postgres_stays {
        list.add(
            6,
            0,
            Action::RestartContainer(Role::Postgres),
            "a restart was asked for",
        );
    }
    if !postgres_stays || !observed.postgres_ready || !state.is_ready() {
        list.add(6, 0, Action::AwaitPostgres, "Odoo needs it");
    }
    let settings_changed =
        state.is_ready() && state.settings != sql::settings_digest(plan) && !standin;
    if !state.is_ready() {
        let (action, reason) = if standin {
            (Action::SkipDatabase, "stand-in image")
        } else {
            (Action::Rekey, "the database is new")
        };
        list.add(6, 0, action, reason);
    } else if settings_changed {
        list.add(
            6,
            0,
            Action::UpdateSettings,
            "address, upload limit or database password have changed",
        );
    }
    // A new address does not restart it: Odoo is told through the database (`sql::update`). With another password its
    // configuration file is another, and so is the container.
    let odoo_stays = untouched(Role::Odoo) && plan.odoo_restarts <= state.odoo_restarts;
    // A stand-in does not ask its database anything. And nobody enters a copied database as Odoo before it has its keys, so
    // the second that Odoo takes to load can pass meanwhile.
    let at_once = standin || copies(inputs);
    let (wave, lane) = if at_once { (6, 1) } else { (8, 0) };
    if !untouched(Role::Odoo) {
        list.add(
            wave,
            lane,
            Action::StartContainer(Role::Odoo),
            "it should run",
        );
    } else if !odoo_stays {
        list.add(
            wave,
            lane,
            Action::RestartContainer(Role::Odoo),
            "a restart was asked for",
        );
    }
    let healthy = observed.odoo_health.as_ref().is_some_and(Result::is_ok);
    let young = observed
        .odoo
        .as_ref()
        .and_then(|c| c.started_ms)
        .is_some_and(|at| inputs.now - at < START_GRACE_MS);
    if !odoo_stays || (!healthy && young) {
        list.add(9, 0, Action::AwaitOdoo, "it has just started");
    }
}

#[cfg(test)]
mod tests;
