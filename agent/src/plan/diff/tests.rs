//! Properties of [`super::diff`], over a model of the world that obeys each action at once.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::{
    plan::{
        container::LABEL_CONFIG_HASH,
        facts::{HostFacts, Images},
        stack::stack,
    },
    testing::tenant_plan,
};

fn host() -> HostFacts {
    HostFacts {
        advertise: "192.0.2.7".parse().unwrap(),
        cpus: 4,
        tenants_dir: "/t".into(),
        addons_dir: "/a".into(),
    }
}

fn render(plan: &TenantPlan) -> Stack {
    let images = Images {
        odoo: ImageFacts::default(),
        postgres: ImageFacts::default(),
    };
    stack(plan, &host(), &images, "hash")
}

/// A world in which everything an action promises happens.
struct World {
    observed: Observed,
    state: TenantState,
    /// Nobody enters the database as Odoo.
    closed: bool,
}

impl World {
    fn empty(plan: &TenantPlan) -> Self {
        let observed = Observed {
            odoo_image: Some(ImageFacts::default()),
            postgres_image: Some(ImageFacts::default()),
            ..Default::default()
        };
        Self {
            observed,
            state: TenantState::new(plan),
            closed: false,
        }
    }

    fn steps(&self, plan: &TenantPlan, now: UnixMs) -> Result<Vec<PlannedAction>, Blocked> {
        let stack = render(plan);
        let inputs = Inputs {
            plan,
            stack: Some(&stack),
            observed: &self.observed,
            state: &self.state,
            stale: false,
            no_new: None,
            now,
        };
        diff(&inputs)
    }

    fn slot(&mut self, role: Role) -> &mut Option<Container> {
        match role {
            Role::Odoo => &mut self.observed.odoo,
            Role::Postgres => &mut self.observed.postgres,
        }
    }

    fn set_state(&mut self, role: Role, state: &str) {
        if let Some(container) = self.slot(role) {
            container.state = state.to_owned();
        }
    }

    fn apply(&mut self, plan: &TenantPlan, action: Action) {
        let stack = render(plan);
        let labels = |l: &std::collections::BTreeMap<String, String>| {
            l.clone().into_iter().collect::<HashMap<_, _>>()
        };
        match action {
            Action::PullImage(_) => unreachable!("images are there"),
            Action::StopContainer(role) => self.set_state(role, "exited"),
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
            Action::RemoveDirectory => {
                (self.observed.directory, self.observed.files_current) = (false, false)
            }
            Action::WriteFiles => {
                (self.observed.directory, self.observed.files_current) = (true, true)
            }
            Action::CreateVolume(role) => {
                let volume = Some(Volume {
                    mountpoint: String::new(),
                    labels: labels(&stack.volume(role).labels),
                });
                match role {
                    Role::Odoo => self.observed.odoo_volume = volume,
                    Role::Postgres => self.observed.postgres_volume = volume,
                }
            }
            Action::CreateNetwork => {
                self.observed.network = Some(Network {
                    subnet: stack.subnet.clone(),
                    labels: labels(&stack.network.labels),
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
                *self.slot(role) = Some(Container {
                    state: "created".into(),
                    labels: labels(&spec.labels),
                    limits: spec.limits,
                    ..Default::default()
                });
            }
            Action::UpdateLimits(role) => {
                let limits = stack.container(role).limits;
                if let Some(container) = self.slot(role) {
                    container.limits = limits;
                }
            }
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
                    "Odoo before its keys"
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
            Action::UpdateSettings => self.state.settings = sql::settings_digest(plan),
            Action::AwaitOdoo => {
                assert!(self.observed.is_up(Role::Odoo));
                self.observed.odoo_health = Some(Ok(1));
            }
        }
    }

    /// Runs until nothing is left; stops after `budget` actions, as a crash would.
    fn converge(&mut self, plan: &TenantPlan, now: UnixMs, budget: usize) -> bool {
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

#[test]
fn a_create_converges_in_one_go_and_then_nothing_is_touched() {
    for golden in [false, true] {
        let plan = tenant_plan("alfa");
        let mut world = World::empty(&plan);
        world.observed.golden = golden;
        assert!(world.converge(&plan, 0, usize::MAX));
        assert!(world.observed.is_up(Role::Odoo) && world.state.is_ready());
        assert_eq!(world.steps(&plan, 1).unwrap(), []);
    }
}

#[test]
fn another_address_is_written_and_restarts_nothing() {
    let plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    assert!(world.converge(&plan, 0, usize::MAX));
    let next = changed(&plan, 7);
    let actions: Vec<_> = world
        .steps(&next, 1)
        .unwrap()
        .into_iter()
        .map(|step| step.action)
        .collect();
    assert!(actions.contains(&Action::UpdateSettings), "{actions:?}");
    let touches = |action: &Action| {
        matches!(
            action,
            Action::StartContainer(_) | Action::RestartContainer(_) | Action::StopContainer(_)
        )
    };
    assert!(!actions.iter().any(touches), "{actions:?}");
    assert!(world.converge(&next, 1, usize::MAX));
    assert_eq!(world.steps(&next, 2).unwrap(), []);
}

#[test]
fn images_come_first_and_alone() {
    let plan = tenant_plan("alfa");
    let world = World::empty(&plan);
    let observed = Observed {
        odoo_image: None,
        ..world.observed.clone()
    };
    let inputs = Inputs {
        plan: &plan,
        stack: None,
        observed: &observed,
        state: &world.state,
        stale: false,
        no_new: None,
        now: 0,
    };
    let actions: Vec<_> = diff(&inputs)
        .unwrap()
        .into_iter()
        .map(|s| s.action)
        .collect();
    assert_eq!(actions, [Action::PullImage(Role::Odoo)]);
}

#[test]
fn volumes_go_only_after_the_quarantine() {
    let mut plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    world.converge(&plan, 0, usize::MAX);
    plan.desired = DesiredState::Quarantined;
    plan.quarantine_until = Some(1000);
    assert!(world.converge(&plan, 0, usize::MAX));
    assert!(
        world.observed.postgres.is_none()
            && world.observed.network.is_none()
            && world.observed.postgres_volume.is_some()
    );
    plan.desired = DesiredState::Purged;
    assert_eq!(world.steps(&plan, 999).unwrap(), []);
    assert!(world.converge(&plan, 1000, usize::MAX));
    assert!(world.observed.is_absent());
}

#[test]
fn a_restored_tenant_keeps_its_data() {
    let mut plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    world.converge(&plan, 0, usize::MAX);
    plan.desired = DesiredState::Quarantined;
    world.converge(&plan, 0, usize::MAX);
    plan.desired = DesiredState::Running;
    world.observed.golden = true;
    let steps = world.steps(&plan, 0).unwrap();
    assert!(!steps.iter().any(|s| matches!(
        s.action,
        Action::CopyGolden | Action::InitDatabase | Action::Rekey
    )));
}

#[test]
fn foreign_or_missing_volumes_block() {
    let plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    world.converge(&plan, 0, usize::MAX);
    let mut gone = World {
        observed: Observed {
            postgres_volume: None,
            ..world.observed.clone()
        },
        state: world.state.clone(),
        closed: false,
    };
    assert!(gone.steps(&plan, 0).unwrap_err().0.contains("is gone"));
    gone.observed.postgres_volume = Some(Volume::default());
    assert!(
        gone.steps(&plan, 0)
            .unwrap_err()
            .0
            .contains("another tenant")
    );
    let purged = TenantPlan {
        desired: DesiredState::Purged,
        purge_now: true,
        ..plan
    };
    assert!(
        gone.steps(&purged, 0).is_err(),
        "a foreign volume is not purged"
    );
}

#[test]
fn an_order_to_purge_from_a_set_back_coordinator_is_refused() {
    let plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    world.converge(&plan, 0, usize::MAX);
    world.state.wanted_generation = plan.generation;
    let old = TenantPlan {
        desired: DesiredState::Purged,
        purge_now: true,
        ..plan
    };
    assert!(
        world
            .steps(&old, 0)
            .unwrap_err()
            .0
            .contains("old database of the coordinator")
    );
    let newer = TenantPlan {
        generation: old.generation + 1,
        ..old
    };
    assert!(world.steps(&newer, 0).is_ok());
}

#[test]
fn one_volume_that_is_left_is_not_filled_anew() {
    let plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    world.converge(&plan, 0, usize::MAX);
    world.observed.postgres_volume = None;
    let state = adopt(&plan, &world.observed);
    assert!(state.is_ready(), "the files in it are a tenant's");
    let left = World {
        observed: world.observed,
        state,
        closed: false,
    };
    assert!(left.steps(&plan, 0).unwrap_err().0.contains("is gone"));
}

#[test]
fn a_container_of_somebody_else_is_left_alone() {
    let mut plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    let theirs = Container {
        name: "postgres_alfa".into(),
        state: "running".into(),
        ..Default::default()
    };
    world.observed.postgres = Some(theirs);
    world.observed.set_foreign_aside();
    assert!(
        world
            .steps(&plan, 0)
            .unwrap_err()
            .0
            .contains("postgres_alfa is somebody else's")
    );
    for desired in [
        DesiredState::Suspended,
        DesiredState::Quarantined,
        DesiredState::Purged,
    ] {
        (plan.desired, plan.purge_now) = (desired, true);
        assert_eq!(world.steps(&plan, 0).unwrap(), []);
    }
    plan.desired = DesiredState::Running;
    let mut world = World::empty(&plan);
    assert!(world.converge(&plan, 0, usize::MAX));
    world.observed.set_foreign_aside();
    assert!(world.observed.foreign.is_none() && world.observed.postgres.is_some());
}

#[test]
fn a_stale_copy_is_stopped_and_kept() {
    let plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    world.converge(&plan, 0, usize::MAX);
    let stack = render(&plan);
    let inputs = Inputs {
        plan: &plan,
        stack: Some(&stack),
        observed: &world.observed,
        state: &world.state,
        stale: true,
        no_new: None,
        now: 0,
    };
    let actions: Vec<_> = diff(&inputs)
        .unwrap()
        .into_iter()
        .map(|s| s.action)
        .collect();
    assert_eq!(
        actions,
        [
            Action::StopContainer(Role::Odoo),
            Action::StopContainer(Role::Postgres)
        ]
    );
}

#[test]
fn without_a_packet_filter_only_new_tenants_wait() {
    let plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    let stack = render(&plan);
    let blocked = |w: &World| {
        diff(&Inputs {
            plan: &plan,
            stack: Some(&stack),
            observed: &w.observed,
            state: &w.state,
            stale: false,
            no_new: Some("no nft"),
            now: 0,
        })
    };
    assert!(blocked(&world).is_err());
    world.converge(&plan, 0, usize::MAX);
    assert_eq!(blocked(&world).unwrap(), []);
}

fn changed(plan: &TenantPlan, which: u8) -> TenantPlan {
    let mut next = plan.clone();
    match which {
        0 => next.desired = DesiredState::Suspended,
        1 => next.desired = DesiredState::Quarantined,
        2 => next.desired = DesiredState::Running,
        3 => next.size.workers += 1,
        4 => next.size.memory_bytes *= 2,
        5 => next.odoo_restarts += 1,
        6 => next.postgres_restarts += 1,
        7 => next.base_url.push('x'),
        8 => next.subnet = "10.250.0.0/28".parse().unwrap(),
        9 => next.upload_limit_bytes *= 2,
        _ => next.odoo_image = "odoo:20.0".parse().unwrap(),
    }
    next
}

proptest! {
    #[test]
    fn whatever_changes_and_wherever_it_crashes_it_ends_as_planned(
        changes in proptest::collection::vec((0u8..11, 0usize..25, any::<bool>()), 1..8),
    ) {
        let mut plan = tenant_plan("alfa");
        let mut world = World::empty(&plan);
        for (which, budget, golden) in changes {
            plan = changed(&plan, which);
            world.observed.golden = golden;
            world.converge(&plan, 0, budget);
        }
        plan.desired = DesiredState::Running;
        prop_assert!(world.converge(&plan, 0, usize::MAX));
        prop_assert!(world.observed.is_up(Role::Odoo) && world.observed.is_up(Role::Postgres) && world.state.is_ready());
        let stack = render(&plan);
        for role in ROLES {
            let container = world.observed.container(role).unwrap();
            prop_assert_eq!(container.label(LABEL_CONFIG_HASH), stack.container(role).labels[LABEL_CONFIG_HASH].as_str());
        }
        prop_assert_eq!(world.steps(&plan, 0).unwrap(), vec![]);
    }
}

#[test]
fn another_major_version_blocks_before_anything_is_taken_down() {
    let plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    world.converge(&plan, 0, usize::MAX);
    let image = |major: &str| {
        Some(ImageFacts {
            postgres_major: major.into(),
            ..Default::default()
        })
    };
    (world.observed.postgres_image, world.observed.data_major) = (image("16"), Some("15".into()));
    let blocked = world.steps(&plan, 0).unwrap_err().0;
    assert!(
        blocked.contains("PostgreSQL 15's") && blocked.contains("PostgreSQL 16:"),
        "{blocked}"
    );
    world.observed.postgres_image = image("15");
    assert_eq!(world.steps(&plan, 0).unwrap(), []);
}
