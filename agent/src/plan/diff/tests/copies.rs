//! Copies that do not run here, and where their data may come from.
//!
//! Not here: tenants that are made here (the parent).

use isyone_proto::plan::{DesiredState, Role, Seed};
use uuid::Uuid;

use super::*;
use crate::plan::state::Database;

fn seeded(seed: Seed, desired: DesiredState) -> TenantPlan {
    TenantPlan {
        seed,
        desired,
        ..tenant_plan("alfa")
    }
}

fn peer() -> Seed {
    Seed::Peer("h1".parse().unwrap())
}

fn heeded(world: &mut World, plan: &TenantPlan) {
    heed(plan, false, &mut world.state);
}

#[test]
fn a_copy_that_is_to_come_gets_volumes_and_nothing_else_and_starts_only_when_complete() {
    let mut plan = seeded(peer(), DesiredState::Standby);
    let mut world = World::empty(&plan);
    world.observed.golden = true;
    heeded(&mut world, &plan);
    assert_eq!(world.state.database, Database::Incoming);
    assert!(world.converge(&plan, 0, usize::MAX));
    let observed = &world.observed;
    assert!(observed.postgres_volume.is_some() && observed.odoo_volume.is_some());
    assert!(observed.postgres.is_none() && observed.odoo.is_none() && observed.network.is_none());
    plan.desired = DesiredState::Running;
    heeded(&mut world, &plan);
    assert_eq!(world.steps(&plan, 0), Err(Blocked::HalfCopy));
    plan.seed = Seed::Existing;
    heeded(&mut world, &plan);
    assert_eq!(world.steps(&plan, 0), Err(Blocked::HalfCopy), "known half");
    world.state.database = Database::Ready { synced: true };
    for seed in [peer(), Seed::Existing] {
        plan.seed = seed;
        heeded(&mut world, &plan);
        assert!(world.converge(&plan, 0, usize::MAX));
    }
    assert!(world.observed.is_up(Role::Odoo));
}

#[test]
fn a_standby_takes_down_what_runs_and_misses_volumes_that_are_gone() {
    let mut plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    world.converge(&plan, 0, usize::MAX);
    (plan.desired, plan.seed) = (DesiredState::Standby, Seed::Existing);
    world.observed.odoo_volume = None;
    let steps = world.steps(&plan, 0).unwrap();
    assert!(
        steps
            .iter()
            .all(|s| !matches!(s.action, Action::CreateVolume(_)))
    );
    for step in steps {
        world.apply(&plan, step.action);
    }
    assert!(world.observed.odoo.is_none() && world.observed.network.is_none());
    assert!(matches!(world.steps(&plan, 0), Err(Blocked::VolumeGone(_))));
}

#[test]
fn a_fenced_copy_keeps_its_volumes_alone() {
    let mut plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    world.converge(&plan, 0, usize::MAX);
    plan.desired = DesiredState::Fenced;
    assert!(world.converge(&plan, 0, usize::MAX));
    let observed = &world.observed;
    assert!(observed.postgres.is_none() && observed.odoo.is_none() && observed.network.is_none());
    assert!(observed.postgres_volume.is_some() && observed.odoo_volume.is_some());
}

/// A tenant that moves back to where it has lived: only the fence, and then a higher epoch, open that copy.
#[test]
fn a_fenced_copy_comes_again_and_no_other_copy_is_ever_opened() {
    let mut plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    world.converge(&plan, 0, usize::MAX);
    let ready = Database::Ready { synced: true };
    let lived = world.state.clone();
    let come = |epoch| TenantPlan {
        epoch,
        ..seeded(peer(), DesiredState::Standby)
    };
    heeded(&mut world, &come(plan.epoch + 1));
    assert_eq!(world.state, lived, "it was never fenced");
    plan.desired = DesiredState::Fenced;
    plan.epoch += 1;
    assert!(!heed(&plan, true, &mut world.state), "a stale order");
    heeded(&mut world, &plan);
    assert_eq!(world.state.fenced_at, Some(plan.epoch));
    heeded(&mut world, &come(plan.epoch));
    assert_eq!(world.state.database, ready, "under the fence's own epoch");
    assert!(!heed(&come(plan.epoch + 1), true, &mut world.state));
    assert!(world.converge(&plan, 0, usize::MAX));
    world.state.home = Some("/r/tenants/alfa".into());
    world.state.wanted_generation = 7;
    let back = come(plan.epoch + 1);
    heeded(&mut world, &back);
    assert_eq!(world.state.database, Database::Incoming);
    assert_eq!(world.state.settings, "", "they are the copy's own");
    assert_eq!(world.state.wanted_generation, 0, "it is to live here anew");
    assert!(world.state.home.is_some() && world.state.fenced_at.is_none());
    assert!(world.converge(&back, 0, usize::MAX));
    assert!(world.observed.postgres_volume.is_some() && world.observed.odoo_volume.is_some());
    world.state.database = ready.clone(); // the job's end
    heeded(&mut world, &back);
    assert_eq!(world.state.database, ready, "once");
    // A fence that is lifted otherwise opens nothing later.
    plan.desired = DesiredState::Fenced;
    heeded(&mut world, &plan);
    plan.desired = DesiredState::Suspended;
    heeded(&mut world, &plan);
    heeded(&mut world, &come(plan.epoch + 5));
    assert_eq!(world.state.database, ready);
}

#[test]
fn data_that_is_to_come_from_elsewhere_is_never_made_up() {
    for golden in [false, true] {
        let plan = seeded(peer(), DesiredState::Running);
        let mut world = World::empty(&plan);
        world.observed.golden = golden;
        heeded(&mut world, &plan);
        let host = "h1".parse().unwrap();
        assert_eq!(world.steps(&plan, 0), Err(Blocked::NotCopied(host)));
    }
    let plan = seeded(Seed::Backup(Uuid::nil()), DesiredState::Running);
    let mut world = World::empty(&plan);
    heeded(&mut world, &plan);
    let blocked = Err(Blocked::FromBackup(Uuid::nil()));
    assert_eq!(world.steps(&plan, 0), blocked);
}

#[test]
fn what_comes_from_a_backup_waits_for_it_and_gets_keys_before_odoo_starts() {
    let seed = || Seed::Backup(Uuid::from_u128(5));
    let standby = seeded(seed(), DesiredState::Standby);
    let mut world = World::empty(&standby);
    // A snapshot that would fit is not what was asked for.
    world.observed.golden = true;
    heeded(&mut world, &standby);
    assert!(world.converge(&standby, 0, usize::MAX));
    assert_eq!(world.state.database, Database::Incoming);
    let running = seeded(seed(), DesiredState::Running);
    heeded(&mut world, &running);
    assert_eq!(world.steps(&running, 0), Err(Blocked::HalfCopy));
    world.state.database = Database::Restored {
        source: "odoo_beta".to_owned(),
        neutralise: true,
    };
    world.observed.golden = false; // not looked for any more
    heeded(&mut world, &running);
    let steps = world.steps(&running, 0).unwrap();
    let at = |action: Action| steps.iter().find(|s| s.action == action).map(|s| s.wave);
    assert!(at(Action::Rekey).is_some());
    assert!(at(Action::Rekey) < at(Action::StartContainer(Role::Odoo)));
    assert_eq!(
        (at(Action::CopyGolden), at(Action::InitDatabase)),
        (None, None)
    );
    // Its volumes are as any tenant's: gone is gone.
    let mut lost = world.clone();
    lost.observed.postgres_volume = None;
    let volume = running.name.postgres_volume();
    assert_eq!(lost.steps(&running, 0), Err(Blocked::VolumeGone(volume)));
    assert!(world.converge(&running, 0, usize::MAX));
    assert_eq!(world.state.database, Database::Ready { synced: true });
}

#[test]
fn volumes_without_a_record_are_a_tenants_data_or_in_doubt() {
    let plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    world.converge(&plan, 0, usize::MAX);
    let ready = Database::Ready { synced: true };
    for (seed, found) in [
        (Seed::Existing, ready.clone()),
        (Seed::Fresh, ready.clone()),
        (peer(), Database::Doubtful),
    ] {
        let plan = seeded(seed, DesiredState::Running);
        assert_eq!(adopt(&plan, &world.observed).database, found);
    }
    world.state.database = Database::Doubtful;
    for desired in [DesiredState::Running, DesiredState::Standby] {
        let plan = seeded(peer(), desired);
        heeded(&mut world, &plan);
        assert_eq!(world.state.database, Database::Doubtful);
        if desired == DesiredState::Running {
            assert_eq!(world.steps(&plan, 0), Err(Blocked::DoubtfulCopy));
        }
    }
    heeded(&mut world, &seeded(Seed::Existing, DesiredState::Running));
    assert_eq!(
        world.state.database, ready,
        "the coordinator knows that it ran"
    );
}

/// An operator whose coordinator was rebuilt from an older state may order both for the host with the newest data.
#[test]
fn where_the_tenant_lives_nothing_is_fetched_over_its_data_and_it_is_no_leftover() {
    let mut plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    assert!(world.converge(&plan, 0, usize::MAX));
    world.state.wanted_generation = plan.generation;
    (plan.epoch, plan.generation) = (plan.epoch + 1, plan.generation + 1);
    (plan.desired, plan.seed) = (DesiredState::Standby, peer());
    heeded(&mut world, &plan);
    for step in world.steps(&plan, 0).unwrap() {
        world.apply(&plan, step.action); // it is stopped
    }
    let refused = world.steps(&plan, 0);
    assert!(
        matches!(refused, Err(Blocked::LivesHere { .. })),
        "{refused:?}"
    );
    (plan.desired, plan.seed) = (DesiredState::Purged, Seed::Existing);
    (plan.purge_now, plan.leftover) = (true, true);
    let refused = world.steps(&plan, 0);
    assert!(
        matches!(refused, Err(Blocked::LivesHere { .. })),
        "{refused:?}"
    );
    // Once it was fenced, it is one; and the tenant itself may be removed with all it has.
    let leftover = plan.clone();
    plan.leftover = false;
    assert!(!world.steps(&plan, 0).unwrap().is_empty());
    world.state.fenced_at = Some(plan.epoch - 1);
    assert!(!world.steps(&leftover, 0).unwrap().is_empty());
}

/// Otherwise the coordinator takes the place for made, stops the tenant where it lives, and waits a day for a job that never
/// begins ("the volumes for it are not made yet").
#[test]
fn a_copy_in_doubt_is_told_before_the_tenant_is_stopped_for_it() {
    let plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    world.converge(&plan, 0, usize::MAX);
    let plan = seeded(peer(), DesiredState::Standby);
    world.state = adopt(&plan, &world.observed); // its state.json is lost
    heeded(&mut world, &plan);
    assert_eq!(world.state.database, Database::Doubtful);
    for step in world.steps(&plan, 0).unwrap() {
        world.apply(&plan, step.action); // it is taken down
    }
    assert_eq!(world.steps(&plan, 0), Err(Blocked::DoubtfulCopy));
}
