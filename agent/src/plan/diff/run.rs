//! A tenant that should run: removes what is in the way, then creates, fills and starts what is missing.
//!
//! Not here: tenants that should not run (the parent), doing it (tenant).

use isyone_proto::plan::{Lease, Role, TenantPlan};

use super::{
    Action, Blocked, Inputs, List, Observed, PlannedAction, ROLES, START_GRACE_MS, data, full, seed,
};
use crate::plan::{
    container::{
        Container, ContainerSpec, LABEL_CONFIG_HASH, LABEL_IMAGE_ID, LABEL_SETTINGS, LABEL_UID,
        Limits,
    },
    home::Lies,
    lease::Standing,
    pins::Wanted,
    relay, sql,
    stack::Stack,
    state::{Database, TenantState},
};

pub(super) fn run(inputs: &Inputs<'_>) -> Result<Vec<PlannedAction>, Blocked> {
    let observed = inputs.observed;
    seed::check(inputs)?;
    // Whatever is here: it is not what the tenant has worked on since it was to take over.
    if let (Standing::Waits(wait), false) = (inputs.standing, inputs.state.is_ready()) {
        return Err(Blocked::Waits(wait.clone()));
    }
    let mut list = List::default();
    get_images(&mut list, inputs, 0, false);
    let Some(stack) = inputs.stack.filter(|_| list.0.is_empty()) else {
        return Ok(list.0);
    };
    if let Some(name) = &observed.foreign {
        return Err(Blocked::ForeignContainer(name.clone()));
    }
    data::check(inputs)?;
    check_major(observed)?;
    if let (Some(why), false) = (inputs.no_new, inputs.state.is_ready()) {
        return Err(Blocked::HostClosed(why.to_owned()));
    }
    let unfit = inputs.state.unfit.as_ref();
    if let (Some(unfit), false) = (
        unfit.filter(|unfit| unfit.key == stack.golden_key),
        inputs.state.is_ready(),
    ) {
        return Err(Blocked::Unfit(unfit.why.clone()));
    }
    let kept = clear_the_way(&mut list, inputs, stack);
    make(&mut list, inputs, stack, &kept);
    fill(&mut list, inputs, stack);
    start(&mut list, inputs, &kept);
    finish_install(&mut list, inputs, stack);
    if inputs.state.is_ready() {
        full::hold_back(&mut list, inputs);
        full::spare_what_serves(&list, inputs)?;
    }
    Ok(list.0)
}

/// Gets images that are not here, or of which it is to be found out which they are; `asked`: only where somebody has asked for that.
/// What does not run is upgraded, too, so that whoever asked learns whether it can be.
pub(super) fn get_images(list: &mut List, inputs: &Inputs<'_>, wave: u8, asked: bool) {
    for (lane, role) in ROLES.into_iter().enumerate() {
        let wanted = Wanted::of(inputs.plan, role);
        let anew = inputs.state.is_ready() && inputs.state.asks_anew(role, &wanted);
        if anew {
            list.add(
                wave,
                lane as u8,
                Action::PullImage(role),
                "it was asked for anew",
            );
        } else if !asked && inputs.observed.image(role).is_none() {
            let reason = "the image is not on this host";
            list.add(wave, lane as u8, Action::PullImage(role), reason);
        }
    }
}

/// Whether a container is of another image than is settled for it. One of an agent before has no label, and there the engine's word
/// counts only once another image was asked for.
fn is_of_another_image(inputs: &Inputs<'_>, role: Role, container: &Container) -> bool {
    let wanted = Wanted::of(inputs.plan, role);
    let counts = wanted.asked != 0 || !container.label(LABEL_IMAGE_ID).is_empty();
    let pin = inputs.state.pinned(role, &wanted).filter(|_| counts);
    pin.is_some_and(|pin| pin.id != container.made_of())
}

/// PostgreSQL cannot open data of another major version: it would exit and be restarted for ever.
fn check_major(observed: &Observed) -> Result<(), Blocked> {
    let image = observed
        .postgres_image
        .as_ref()
        .map_or("", |i| i.postgres_major.as_str());
    match &observed.data_major {
        Some(data) if !image.is_empty() && data != image => Err(Blocked::OtherMajor {
            data: data.clone(),
            image: image.to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Which of the existing things may stay.
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

/// How it has its settings; Odoo has none of these.
fn settings_of(spec: &ContainerSpec) -> &str {
    spec.labels.get(LABEL_SETTINGS).map_or("", String::as_str)
}

/// Why a container must go; `None`: it may stay.
fn why_not_kept(
    inputs: &Inputs<'_>,
    stack: &Stack,
    network_fits: bool,
    role: Role,
    container: &Container,
) -> Option<&'static str> {
    let wanted = stack
        .container(role)
        .labels
        .get(LABEL_CONFIG_HASH)
        .map_or("", String::as_str);
    // Whoever orders a restart of the database stops both.
    let stops =
        !container.is_up() || inputs.plan.postgres_restarts > inputs.state.postgres_restarts;
    if !network_fits {
        Some("its network has another subnet or packet size")
    } else if container.label(LABEL_UID) != inputs.plan.uid.to_string() {
        Some("it was made for another tenant of this name")
    } else if container.label(LABEL_CONFIG_HASH) != wanted {
        Some("its configuration has changed")
    } else if is_of_another_image(inputs, role, container) {
        Some("its image is another one now")
    } else if relay::is_relayed(container) && !stack.container(role).ports.is_empty() {
        // The other way round it stays: its ports are Docker's until it is made anew for another reason.
        Some("its ports were the relay's, and are Docker's now")
    } else if role == Role::Odoo && goes_past_relay(inputs, stack, container) {
        Some("its lease ends with the relay, and its ports are Docker's still")
    } else if matches!(container.state.as_str(), "dead" | "removing") {
        Some("Docker could not remove it")
    } else if !container.is_up() && inputs.observed.stuck.contains(&role) {
        Some("starting it fails in the same way again and again")
    } else if stops && data::is_to_move(inputs, role) {
        Some("its data moves to the tenant's own directory")
    } else if (stops || !inputs.state.is_ready())
        && container.label(LABEL_SETTINGS) != settings_of(stack.container(role))
    {
        // A cluster of an agent before would go into a snapshot.
        Some("its settings are in files now")
    } else {
        None
    }
}

/// Whether visitors of a tenant that needs a lease reach it without the relay, which alone heeds leases when there is no agent.
fn goes_past_relay(inputs: &Inputs<'_>, stack: &Stack, odoo: &Container) -> bool {
    let needs = matches!(inputs.plan.lease, Some(Lease::Needed { .. }));
    needs && stack.odoo.ports.is_empty() && !relay::is_relayed(odoo)
}

/// Whether the network is as it should be. Another packet size alone stops nobody: it is changed when the tenant is stopped anyway.
/// Where none is asked for, Docker's choice is right: it may be told one for all networks (`default-network-opts`).
fn fits(observed: &Observed, stack: &Stack) -> bool {
    let Some(network) = &observed.network else {
        return true;
    };
    let serves = ROLES.into_iter().any(|role| observed.is_up(role));
    let size_fits = stack.mtu.is_none() || network.mtu == stack.mtu;
    network.subnet == stack.subnet && (size_fits || serves)
}

/// Waves 1 and 2: removes what is in the way, then moves data that nothing runs on any more.
fn clear_the_way(list: &mut List, inputs: &Inputs<'_>, stack: &Stack) -> Kept {
    let observed = inputs.observed;
    let network_fits = fits(observed, stack);
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
        if let Some(reason) = why_not_kept(inputs, stack, network_fits, role, container) {
            if container.is_up() {
                list.add(1, role as u8, Action::StopContainer(role), reason);
            }
            if !data::is_to_move(inputs, role) {
                list.add(1, role as u8, Action::RemoveContainer(role), reason);
            }
            continue;
        }
        match role {
            Role::Odoo => kept.odoo = true,
            Role::Postgres => kept.postgres = true,
        }
        let fills = role == Role::Odoo || observed.golden;
        if container.is_up() && !inputs.state.is_ready() && fills {
            let reason = "its database is not ready";
            list.add(1, role as u8, Action::StopContainer(role), reason);
        }
    }
    data::put_back(list, inputs, 2);
    for role in ROLES {
        if !kept.container(role) && data::is_to_move(inputs, role) {
            data::bring_home(list, inputs, role, 2);
        }
    }
    if !network_fits {
        // After the containers that go with their data.
        list.add(
            2,
            data::LANE,
            Action::RemoveNetwork,
            "it has another subnet or packet size",
        );
    }
    kept
}

/// While a tenant is being created, it has more CPU than its limit; so has the Odoo of one that takes over from another host, until it
/// answers.
fn is_to_be_limited(container: &Container, limits: &Limits) -> bool {
    let more = |c: &Limits| c.nano_cpus > limits.nano_cpus;
    let but_cpu = Limits {
        nano_cpus: limits.nano_cpus,
        ..container.limits
    };
    let is_boosted = !container.is_up() && more(&container.limits) && but_cpu == *limits;
    container.limits != *limits && !is_boosted
}

/// Waves 3 and 4: files, volumes and network, then PostgreSQL's container; wave 6: Odoo's, while PostgreSQL starts.
fn make(list: &mut List, inputs: &Inputs<'_>, stack: &Stack, kept: &Kept) {
    let observed = inputs.observed;
    if !observed.files_current {
        list.add(3, 0, Action::WriteFiles, "files differ from the plan");
    }
    for role in ROLES {
        // Of a tenant that has data, nothing is made that could stand in its place (data).
        let new = !inputs.state.is_whole()
            && matches!(
                observed.lies(role),
                Lies::Nowhere | Lies::Unrecorded | Lies::Gone
            );
        if new {
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
        let limits = &stack.container(role).limits;
        let container = observed.container(role);
        if inputs.state.is_ready() && container.is_some_and(|c| is_to_be_limited(c, limits)) {
            list.add(4, 0, Action::UpdateLimits(role), "the size has changed");
        }
    }
    if inputs.state.is_ready()
        && kept.postgres
        && kept.odoo
        && inputs.plan.asks_first != inputs.state.stays_down
    {
        let reason = "who starts it when the machine does has changed";
        list.add(4, 0, Action::UpdateRestarts, reason);
    }
}

/// Waves 4 to 5: the database's content. The golden copy needs only the volumes, so it runs while a container is
/// created.
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

/// Whether the database is to be filled now by copying a snapshot.
fn copies(inputs: &Inputs<'_>) -> bool {
    inputs.observed.golden && matches!(inputs.state.database, Database::Empty | Database::Filling)
}

/// It exists, is up, and need not stop for the sake of its database.
fn is_untouched(inputs: &Inputs<'_>, kept: &Kept, role: Role) -> bool {
    let Inputs {
        observed, state, ..
    } = *inputs;
    kept.container(role)
        && observed.is_up(role)
        && (state.is_ready() || (role == Role::Postgres && !observed.golden))
}

/// Starts or restarts a role's container where necessary; returns whether it stays as it is.
fn start_role(
    list: &mut List,
    inputs: &Inputs<'_>,
    kept: &Kept,
    role: Role,
    (wave, lane): (u8, u8),
) -> bool {
    let Inputs { plan, state, .. } = *inputs;
    let (asked, done) = match role {
        Role::Odoo => (plan.odoo_restarts, state.odoo_restarts),
        Role::Postgres => (plan.postgres_restarts, state.postgres_restarts),
    };
    if !is_untouched(inputs, kept, role) {
        list.add(wave, lane, Action::StartContainer(role), "it should run");
        return false;
    }
    if asked > done {
        let reason = "a restart was asked for";
        list.add(wave, lane, Action::RestartContainer(role), reason);
        return false;
    }
    true
}

/// Waves 6 to 9: PostgreSQL, keys, Odoo, health.
fn start(list: &mut List, inputs: &Inputs<'_>, kept: &Kept) {
    let Inputs {
        observed, state, ..
    } = *inputs;
    let standin = inputs.stack.is_some_and(|s| s.standin);
    let postgres_stays = start_role(list, inputs, kept, Role::Postgres, (6, 0));
    if !postgres_stays || !observed.postgres_ready || !state.is_ready() {
        list.add(6, 0, Action::AwaitPostgres, "Odoo needs it");
    }
    settle_database(list, inputs, standin);
    // A stand-in does not query its database. And nobody can log in to a copied database as Odoo before it has its
    // keys, so the second that Odoo takes to load can overlap with that.
    let at_once = standin || copies(inputs);
    let place = if at_once { (6, 1) } else { (8, 0) };
    // A new address does not restart Odoo: it learns of it through the database (`sql::update`). A new password changes
    // its configuration file, and therefore its container.
    let odoo_stays = start_role(list, inputs, kept, Role::Odoo, place);
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

/// Wave 10, when all else is as planned: Odoo and PostgreSQL work, and go on working beside it.
fn finish_install(list: &mut List, inputs: &Inputs<'_>, stack: &Stack) {
    let Inputs {
        observed, state, ..
    } = *inputs;
    let well = matches!(observed.odoo_health, Some(Ok(_))) && observed.postgres_ready;
    let may = state.is_ready() && !stack.standin && !inputs.disk.stops_odoo();
    if list.0.is_empty() && observed.cut_off > 0 && well && may && state.installs.is_due(inputs.now)
    {
        let reason = "the installation of an app was cut off";
        list.add(10, 0, Action::FinishInstall, reason);
    }
}

/// Whether settings differ by nothing but a restart that is still to come. It comes first, and whatever the database says: a restart is
/// what helps an Odoo that holds its locks.
fn after_restart(plan: &TenantPlan, state: &TenantState) -> bool {
    let before = TenantPlan {
        odoo_restarts: state.odoo_restarts,
        ..plan.clone()
    };
    state.settings == sql::settings_digest(&before)
}

/// Keys for a new database, or settings that have changed since.
fn settle_database(list: &mut List, inputs: &Inputs<'_>, standin: bool) {
    let Inputs { plan, state, .. } = *inputs;
    if !state.is_ready() {
        let (action, reason) = if standin {
            (Action::SkipDatabase, "stand-in image")
        } else if state.is_whole() {
            (Action::Rekey, "the database is another tenant's still")
        } else {
            (Action::Rekey, "the database is new")
        };
        list.add(6, 0, action, reason);
    } else if state.settings != sql::settings_digest(plan) && !standin {
        if after_restart(plan, state) {
            let reason = "an app may have come since they were written";
            return list.add(10, 0, Action::UpdateSettings, reason);
        }
        let (wave, lane) = if state.settings_can_wait {
            (8, 1)
        } else {
            (6, 0)
        };
        list.add(
            wave,
            lane,
            Action::UpdateSettings,
            match plan.settings_asked > state.settings_asked {
                true => "they are to be written anew, whatever the database says",
                false => "address, upload limit or database password have changed",
            },
        );
    }
}
