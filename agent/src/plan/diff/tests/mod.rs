//! Properties of [`super::diff`], over a model of the world that obeys each action at once.
//!
//! Not here: the model (world).

mod aside;
mod copies;
mod data;
mod follow;
mod full;
mod images;

use isyone_proto::plan::{ImagesAsked, UnixMs};
use proptest::prelude::*;

use super::*;
use crate::testing::world::{World, render};
use crate::{
    plan::{
        container::{Container, LABEL_CONFIG_HASH, LABEL_IMAGE_ID},
        facts::ImageFacts,
        lease::Lapse,
        pins::Wanted,
    },
    testing::tenant_plan,
};

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

/// Fails if a restart, which helps an Odoo that holds its database's locks, waits for what such an Odoo keeps from being written.
#[test]
fn a_restart_comes_before_the_aliases_that_it_writes_again() {
    let mut plan = tenant_plan("alfa");
    let mut mail = isyone_proto::mail::Mail::by(isyone_proto::mail::Via::Catcher);
    mail.alias_domain = Some("in.isy.one".parse().unwrap());
    plan.mail = Some(mail);
    let mut world = World::empty(&plan);
    assert!(world.converge(&plan, 0, usize::MAX));
    let place = |world: &World, plan: &TenantPlan, wanted: Action| {
        let mut steps = world.steps(plan, 1).unwrap();
        steps.sort_by_key(|step| (step.wave, step.lane));
        steps.iter().position(|step| step.action == wanted)
    };
    let restart = Action::RestartContainer(Role::Odoo);
    let next = changed(&plan, 5);
    let places = [restart, Action::UpdateSettings].map(|a| place(&world, &next, a));
    assert!(places[0].is_some() && places[0] < places[1], "{places:?}");
    // What Odoo is to find when it starts comes before.
    let other = changed(&next, 7);
    let places = [Action::UpdateSettings, restart].map(|a| place(&world, &other, a));
    assert!(places[0].is_some() && places[0] < places[1], "{places:?}");
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
        unasked: false,
        standing: &Standing::Free,
        no_new: None,
        disk: DiskState::Free,
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
    let mut gone = world.clone();
    gone.observed.postgres_volume = None;
    assert!(matches!(gone.steps(&plan, 0), Err(Blocked::VolumeGone(_))));
    gone.observed.postgres_volume = Some(Volume::default());
    assert!(matches!(
        gone.steps(&plan, 0),
        Err(Blocked::ForeignVolume { .. })
    ));
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
    assert!(matches!(
        world.steps(&old, 0),
        Err(Blocked::OldOrder { .. })
    ));
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
    let left = World { state, ..world };
    assert!(matches!(left.steps(&plan, 0), Err(Blocked::VolumeGone(_))));
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
    assert_eq!(
        world.steps(&plan, 0),
        Err(Blocked::ForeignContainer("postgres_alfa".into()))
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
        unasked: false,
        standing: &Standing::Free,
        no_new: None,
        disk: DiskState::Free,
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
fn what_asks_first_is_not_started_by_the_engine_nor_before_it_is_answered() {
    let mut plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    world.converge(&plan, 0, usize::MAX);
    let actions = |world: &World, plan: &TenantPlan| {
        let steps = world.steps(plan, 0)?;
        Ok::<_, Blocked>(steps.into_iter().map(|s| s.action).collect::<Vec<_>>())
    };
    plan.asks_first = true;
    assert_eq!(actions(&world, &plan).unwrap(), [Action::UpdateRestarts]);
    assert!(world.converge(&plan, 0, usize::MAX) && world.state.stays_down);
    // The machine has started anew, and an engine of before has started it.
    world.unasked = true;
    let stops = [Role::Odoo, Role::Postgres].map(Action::StopContainer);
    assert_eq!(actions(&world, &plan).unwrap(), stops);
    world.set_state(Role::Odoo, "exited");
    world.set_state(Role::Postgres, "exited");
    assert_eq!(actions(&world, &plan), Err(Blocked::Unasked));
    assert!(!Blocked::Unasked.is_for_good());
    world.unasked = false;
    assert!(world.converge(&plan, 0, usize::MAX) && world.observed.is_up(Role::Odoo));
    // Whoever does not ask starts as ever.
    plan.asks_first = false;
    world.unasked = true;
    assert_eq!(actions(&world, &plan).unwrap(), [Action::UpdateRestarts]);
}

#[test]
fn what_has_no_lease_is_stopped_at_once_and_not_started_before_it_has() {
    let plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    let lapse = |was_granted| Lapse {
        renewer: "h2".parse().unwrap(),
        for_ms: 52_500,
        was_granted,
    };
    // Nothing is made of what has none yet.
    world.standing = Standing::Lapsed(lapse(false));
    let said = world.steps(&plan, 0).unwrap_err();
    assert_eq!(
        said.to_string(),
        "it has no lease on this host yet: it starts as soon as the coordinator or host h2 lets it"
    );
    world.standing = Standing::Free;
    assert!(world.converge(&plan, 0, usize::MAX));
    world.standing = Standing::Lapsed(lapse(true));
    // Both at the same time, without waiting for anything, and whatever else is to be done.
    world.observed.init = Some(Container::default());
    for plan in [plan.clone(), changed(&plan, 5)] {
        let mut steps = world.steps(&plan, 0).unwrap();
        steps.sort_by_key(|step| step.action);
        let found: Vec<_> = steps.iter().map(|step| (step.wave, step.action)).collect();
        let stops = [Role::Odoo, Role::Postgres].map(|role| (0, Action::StopNow(role)));
        let mut expected = [stops[0], stops[1], (0, Action::RemoveInit)];
        expected.sort_by_key(|(_, action)| *action);
        assert_eq!(found, expected);
        let lanes: std::collections::BTreeSet<_> = steps.iter().map(|step| step.lane).collect();
        assert_eq!(lanes.len(), 3);
    }
    world.observed.init = None;
    for role in [Role::Odoo, Role::Postgres] {
        world.set_state(role, "exited");
    }
    let said = world.steps(&plan, 0).unwrap_err();
    assert_eq!(
        said.to_string(),
        "its lease is over: neither the coordinator nor host h2 was reached for 52 s; it goes on when one of them is"
    );
    assert!(!said.is_for_good());
    world.standing = Standing::Free;
    assert!(world.converge(&plan, 0, usize::MAX) && world.observed.is_up(Role::Odoo));
    assert_eq!(world.steps(&plan, 0).unwrap(), []);
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
            unasked: false,
            standing: &Standing::Free,
            no_new: Some("no nft"),
            disk: DiskState::Free,
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
        10 => next.odoo_image = "odoo:20.0".parse().unwrap(),
        11 => next.images_asked.odoo = next_time(&next),
        12 => next.images_asked.postgres = next_time(&next),
        // An upgrade that is taken back.
        _ => next.images_asked = ImagesAsked::default(),
    }
    next
}

fn next_time(plan: &TenantPlan) -> UnixMs {
    plan.images_asked.odoo.max(plan.images_asked.postgres) + 1
}

proptest! {
    #[test]
    fn whatever_changes_and_wherever_it_crashes_it_ends_as_planned(
        homes in any::<bool>(),
        changes in proptest::collection::vec((0u8..14, 0usize..25, any::<[bool; 3]>()), 1..8),
    ) {
        let mut plan = tenant_plan("alfa");
        let mut world = if homes { World::with_home(&plan) } else { World::empty(&plan) };
        for (which, budget, [golden, old, prune]) in changes {
            plan = changed(&plan, which);
            world.observed.golden = golden;
            if homes && old && world.state.is_ready() {
                world.make_old();
            } else if homes && prune && world.state.is_ready() && world.is_safe() {
                world.prune();
            }
            world.converge(&plan, 0, budget);
        }
        plan.desired = DesiredState::Running;
        prop_assert!(world.converge(&plan, 0, usize::MAX));
        prop_assert!(world.observed.is_up(Role::Odoo) && world.observed.is_up(Role::Postgres) && world.state.is_ready());
        let stack = render(&plan);
        for role in ROLES {
            let container = world.observed.container(role).unwrap();
            prop_assert_eq!(container.label(LABEL_CONFIG_HASH), stack.container(role).labels[LABEL_CONFIG_HASH].as_str());
            // Two upgrades back, nobody knows any more.
            if let Some(pin) = world.state.pinned(role, &Wanted::of(&plan, role)) {
                prop_assert_eq!(container.label(LABEL_IMAGE_ID), pin.id.as_str());
            }
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
    let blocked = Blocked::OtherMajor {
        data: "15".into(),
        image: "16".into(),
    };
    assert_eq!(world.steps(&plan, 0), Err(blocked));
    world.observed.postgres_image = image("15");
    assert_eq!(world.steps(&plan, 0).unwrap(), []);
}
