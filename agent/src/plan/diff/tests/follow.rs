//! Copies that are kept up with a tenant that runs elsewhere, and their taking over.
//!
//! Not here: copies of stopped tenants (copies).

use isyone_proto::plan::{Callers, DesiredState, Role, Seed};

use super::*;
use crate::plan::{container::Limits, lease::Wait, state::Database};

const FOLLOWS: Database = Database::Following { complete: false };
const COMPLETE: Database = Database::Following { complete: true };

fn standby() -> TenantPlan {
    TenantPlan {
        seed: Seed::Peer("h1".parse().unwrap()),
        desired: DesiredState::Standby,
        follows: true,
        ..tenant_plan("alfa")
    }
}

/// A copy whose base backup has come.
fn following() -> (TenantPlan, World) {
    let plan = standby();
    let mut world = World::empty(&plan);
    heed(&plan, false, &mut world.state);
    assert!(world.converge(&plan, 0, usize::MAX));
    assert!(world.observed.postgres.is_none(), "nothing has come yet");
    world.state.database = FOLLOWS;
    (plan, world)
}

#[test]
fn a_standby_runs_alone_and_all_that_odoo_needs_is_there() {
    let (plan, mut world) = following();
    assert!(world.converge(&plan, 0, usize::MAX));
    assert!(world.observed.is_up(Role::Postgres) && !world.observed.is_up(Role::Odoo));
    assert!(
        world.observed.odoo.is_some(),
        "to be started when it takes over"
    );
    heed(&plan, false, &mut world.state);
    assert_eq!(world.state.database, FOLLOWS);
    // Docker, or a person, has stopped it.
    world.set_state(Role::Postgres, "exited");
    assert!(world.converge(&plan, 0, usize::MAX));
    assert!(world.observed.is_up(Role::Postgres));
    world.set_state(Role::Odoo, "running");
    let steps = world.steps(&plan, 0).unwrap();
    assert_eq!(steps[0].action, Action::StopContainer(Role::Odoo));
}

#[test]
fn a_container_that_brings_a_copy_is_left_alone_until_it_has() {
    let plan = standby();
    let mut world = World::empty(&plan);
    heed(&plan, false, &mut world.state);
    assert!(world.converge(&plan, 0, usize::MAX));
    world.observed.init = Some(Container::default());
    assert_eq!(world.steps(&plan, 0).unwrap(), []);
    world.state.database = FOLLOWS;
    assert!(world.converge(&plan, 0, usize::MAX));
    assert!(world.observed.init.is_none());
}

#[test]
fn it_takes_over_only_when_it_has_everything_and_the_tenant_is_to_run_here() {
    let (mut plan, mut world) = following();
    assert!(world.converge(&plan, 0, usize::MAX));
    let lives = TenantPlan {
        desired: DesiredState::Running,
        seed: Seed::Existing,
        follows: false,
        generation: plan.generation + 1,
        ..plan.clone()
    };
    heed(&lives, false, &mut world.state);
    assert_eq!(world.steps(&lives, 0), Err(Blocked::HalfCopy));
    world.state.database = COMPLETE;
    // It lives here from now on, and is not to run yet: nothing stops for that.
    (plan.seed, plan.generation) = (Seed::Existing, lives.generation);
    heed(&plan, false, &mut world.state);
    assert_eq!(world.state.database, COMPLETE);
    assert_eq!(world.steps(&plan, 0).unwrap(), []);
    heed(&lives, false, &mut world.state);
    let actions: Vec<_> = world.steps(&lives, 0).unwrap();
    let actions: Vec<_> = actions.iter().map(|step| step.action).collect();
    assert_eq!(actions, [Action::AwaitPostgres, Action::Promote]);
    for action in actions {
        world.apply(&lives, action);
    }
    let made_anew = |step: &PlannedAction| {
        matches!(
            step.action,
            Action::CreateContainer(_) | Action::RemoveContainer(_) | Action::StopContainer(_)
        )
    };
    let steps = world.steps(&lives, 0).unwrap();
    assert!(!steps.iter().any(made_anew), "{steps:?}");
    assert!(world.converge(&lives, 0, usize::MAX));
    assert!(world.observed.is_up(Role::Odoo) && world.state.is_ready());
}

/// Whatever it dies at, it goes on from there.
#[test]
fn taking_over_is_gone_on_with_after_a_death_at_any_step() {
    for budget in 0..30 {
        let (plan, mut world) = following();
        world.converge(&plan, 0, budget);
        world.state.database = COMPLETE;
        let lives = TenantPlan {
            desired: DesiredState::Running,
            seed: Seed::Existing,
            follows: false,
            ..plan
        };
        heed(&lives, false, &mut world.state);
        world.converge(&lives, 0, budget);
        assert!(world.converge(&lives, 0, usize::MAX));
        assert!(world.observed.is_up(Role::Odoo));
    }
}

#[test]
fn a_standby_that_is_not_wanted_any_more_is_stopped_and_one_whose_data_is_gone_is_not_made_up() {
    let (plan, mut world) = following();
    assert!(world.converge(&plan, 0, usize::MAX));
    for desired in [DesiredState::Suspended, DesiredState::Fenced] {
        let mut world = world.clone();
        let other = TenantPlan {
            desired,
            follows: false,
            ..plan.clone()
        };
        assert!(world.converge(&other, 0, usize::MAX));
        assert!(!world.observed.is_up(Role::Postgres));
    }
    *world.volume(Role::Postgres) = None;
    assert!(matches!(world.steps(&plan, 0), Err(Blocked::VolumeGone(_))));
    world.state.database = COMPLETE;
    let lives = TenantPlan {
        desired: DesiredState::Running,
        seed: Seed::Existing,
        ..plan
    };
    assert!(matches!(
        world.steps(&lives, 0),
        Err(Blocked::VolumeGone(_))
    ));
}

/// Also when its host is told that the other one is lost.
#[test]
fn what_is_no_whole_copy_takes_over_from_nobody() {
    let (plan, mut world) = following();
    assert!(world.converge(&plan, 0, usize::MAX));
    let lives = TenantPlan {
        desired: DesiredState::Running,
        seed: Seed::Existing,
        follows: false,
        as_it_is: true,
        generation: plan.generation + 1,
        ..plan
    };
    heed(&lives, false, &mut world.state);
    assert_eq!(world.steps(&lives, 0), Err(Blocked::HalfCopy));
    world.state.copied_by = Some(uuid::Uuid::from_u128(1));
    assert!(world.converge(&lives, 0, usize::MAX));
    assert!(world.observed.is_up(Role::Odoo));
}

/// A host that was not heard may have it still: nothing of it is written here before that has stopped it.
#[test]
fn who_takes_over_is_ready_and_waits() {
    let (mut plan, mut world) = following();
    assert!(world.converge(&plan, 0, usize::MAX));
    (plan.desired, plan.follows, plan.as_it_is) = (DesiredState::Running, false, true);
    world.state.copied_by = Some(uuid::Uuid::nil());
    let wait = Wait {
        left_ms: 11_500,
        from: Some("h1".parse().unwrap()),
    };
    world.standing = Standing::Waits(wait.clone());
    let waits = Err(Blocked::Waits(wait));
    assert_eq!(world.steps(&plan, 0), waits);
    // A machine that has started anew has it ready meanwhile.
    world.set_state(Role::Postgres, "exited");
    let actions = world.steps(&plan, 0).unwrap();
    let actions: Vec<_> = actions.iter().map(|step| step.action).collect();
    assert_eq!(actions, [Action::StartContainer(Role::Postgres)]);
    world.set_state(Role::Postgres, "running");
    // Somebody has started it.
    world.set_state(Role::Odoo, "running");
    let first = world.steps(&plan, 0).unwrap()[0].action;
    assert_eq!(first, Action::StopContainer(Role::Odoo));
    world.set_state(Role::Odoo, "exited");
    let said = world.steps(&plan, 0).unwrap_err();
    assert_eq!(
        said.to_string(),
        "waits 12 s until host h1 must have stopped it"
    );
    assert!(!said.is_for_good());
    // Nor is it made of anything else.
    for database in [Database::Empty, Database::Incoming, Database::Doubtful] {
        let mut other = world.clone();
        other.state.database = database;
        assert!(other.steps(&plan, 0).is_err());
    }
    let mut other = world.clone();
    other.state.database = Database::Restored {
        source: "odoo_alfa".to_owned(),
        neutralise: false,
    };
    assert!(matches!(other.steps(&plan, 0), Err(Blocked::Waits(_))));
    world.standing = Standing::Free;
    assert!(world.converge(&plan, 0, usize::MAX) && world.observed.is_up(Role::Odoo));
    // Its own by now: an agent that begins anew stops nothing for what it has waited for already.
    world.standing = Standing::Waits(Wait {
        left_ms: 5_000,
        from: None,
    });
    assert_eq!(world.steps(&plan, 0).unwrap(), []);
}

#[test]
fn one_that_takes_over_is_started_with_the_whole_cpu_and_beside_its_settings() {
    let (plan, mut world) = following();
    assert!(world.converge(&plan, 0, usize::MAX));
    let lives = TenantPlan {
        desired: DesiredState::Running,
        seed: Seed::Existing,
        follows: false,
        ..plan
    };
    world.state.database = COMPLETE;
    heed(&lives, false, &mut world.state);
    world.apply(&lives, Action::AwaitPostgres);
    world.apply(&lives, Action::Promote);
    let own = world.observed.odoo.as_ref().unwrap().limits;
    let boosted = Limits {
        nano_cpus: own.nano_cpus * 2,
        ..own
    };
    let limit = |world: &mut World, limits, state: &str| {
        let odoo = world.observed.odoo.as_mut().unwrap();
        (odoo.limits, odoo.state) = (limits, state.to_owned());
        let steps = world.steps(&lives, 0).unwrap();
        let found = |action| steps.iter().find(|step| step.action == action);
        let at = |action| found(action).map(|step| (step.wave, step.lane));
        (
            at(Action::UpdateLimits(Role::Odoo)),
            at(Action::StartContainer(Role::Odoo)),
            at(Action::UpdateSettings),
        )
    };
    let (limits, starts, settings) = limit(&mut world, boosted, "created");
    assert_eq!(limits, None, "its limit applies once it answers");
    assert_eq!((starts, settings), (Some((8, 0)), Some((8, 1))));
    // Memory is limited at once, and so is one that runs already.
    let more = Limits {
        memory_bytes: own.memory_bytes * 2,
        ..boosted
    };
    assert!(limit(&mut world, more, "created").0.is_some());
    assert!(limit(&mut world, boosted, "running").0.is_some());
}

#[test]
fn who_waits_for_the_old_copy_to_be_fenced_does_not_wait_for_its_containers_to_go() {
    let running = tenant_plan("alfa");
    let mut world = World::empty(&running);
    assert!(world.converge(&running, 0, usize::MAX));
    let fenced = |callers| TenantPlan {
        desired: DesiredState::Fenced,
        callers,
        ..running.clone()
    };
    let held = fenced(Callers::Held { most_ms: 1_000 });
    assert!(world.converge(&held, 0, usize::MAX));
    assert!(!world.observed.is_up(Role::Odoo) && !world.observed.is_up(Role::Postgres));
    assert!(world.observed.odoo.is_some() && world.state.stays_down);
    assert_eq!(world.steps(&held, 0).unwrap(), []);
    let actions = |world: &World, plan: &TenantPlan| -> Vec<Action> {
        let steps = world.steps(plan, 0).unwrap();
        steps.iter().map(|step| step.action).collect()
    };
    world.set_state(Role::Odoo, "running");
    let stop = Action::StopContainer(Role::Odoo);
    assert_eq!(actions(&world, &held), [stop]);
    assert!(world.converge(&fenced(Callers::Refused), 0, usize::MAX));
    assert!(world.observed.odoo.is_none() && world.observed.network.is_none());
}
