//! Restores in a tenant's place: what is set aside, when it comes back, and that it goes on order only.
//!
//! Not here: the directories (host::homes), what is remembered on the way (tenant::aside).

use isyone_proto::plan::{Before, DesiredState, Seed};
use uuid::Uuid;

use super::*;
use crate::plan::state::Aside;

const RESTORE: Uuid = Uuid::from_u128(9);

/// The plan of a tenant that runs, and the same while it is restored in its place.
fn plans() -> (TenantPlan, TenantPlan) {
    let runs = TenantPlan {
        seed: Seed::Existing,
        ..tenant_plan("alfa")
    };
    let restored = TenantPlan {
        seed: Seed::Backup(RESTORE),
        desired: DesiredState::Standby,
        before: Some(Before::Keep(RESTORE)),
        ..runs.clone()
    };
    (runs, restored)
}

/// It has lived here.
fn lived(plan: &TenantPlan) -> World {
    let mut world = World::empty(plan);
    world.state.database = Database::Empty;
    let fresh = TenantPlan {
        seed: Seed::Fresh,
        ..plan.clone()
    };
    assert!(world.converge(&fresh, 0, usize::MAX));
    world.state.wanted_generation = 1;
    world
}

fn actions(world: &World, plan: &TenantPlan) -> Vec<Action> {
    let steps = world.steps(plan, 0).unwrap();
    steps.into_iter().map(|step| step.action).collect()
}

/// Set aside, and what a job has restored is in its place.
fn restored(runs: &TenantPlan, plan: &TenantPlan) -> World {
    let mut world = lived(runs);
    heed(plan, false, &mut world.state);
    assert!(world.converge(plan, 0, usize::MAX));
    assert_eq!(world.state.database, Database::Incoming);
    assert!(world.observed.postgres.is_none() && world.observed.odoo.is_none());
    world.state.database = Database::Ready { synced: true };
    world.state.copied_by = Some(RESTORE);
    assert_eq!(actions(&world, plan), [], "until the next plan");
    world
}

#[test]
fn it_is_stopped_and_set_aside_and_goes_on_order_only_when_it_is_well() {
    let (runs, plan) = plans();
    let first = actions(&lived(&runs), &plan);
    assert_eq!(first.last(), Some(&Action::SetAside(RESTORE)));
    assert!(first.contains(&Action::StopContainer(Role::Postgres)));
    let mut world = restored(&runs, &plan);
    let mut next = TenantPlan {
        before: Some(Before::Keep(RESTORE)),
        ..runs.clone()
    };
    assert!(world.converge(&next, 0, usize::MAX));
    assert!(world.observed.is_up(Role::Odoo));
    let kept = Some(Aside {
        restore: RESTORE,
        moving: false,
    });
    assert_eq!(world.state.aside, kept);
    // Without a word about it, and for another restore, it stays.
    for before in [None, Some(Before::Remove(Uuid::nil()))] {
        next.before = before;
        assert!(world.converge(&next, 0, usize::MAX));
        assert_eq!(world.state.aside, kept);
    }
    next.before = Some(Before::Remove(RESTORE));
    // Not while it does not run, or is not well.
    next.desired = DesiredState::Suspended;
    assert!(world.converge(&next, 0, usize::MAX));
    assert_eq!(world.state.aside, kept);
    next.desired = DesiredState::Running;
    assert!(!actions(&world, &next).contains(&Action::RemoveAside(RESTORE)));
    assert!(world.converge(&next, 0, usize::MAX));
    assert_eq!(world.state.aside, None);
    assert!(world.observed.is_up(Role::Odoo));
}

#[test]
fn it_comes_back_when_the_restore_is_given_up_or_somebody_returns_to_it() {
    let (runs, plan) = plans();
    let back = TenantPlan {
        before: Some(Before::Return(RESTORE)),
        ..runs.clone()
    };
    // Not begun: nothing is changed. Half: nothing else is done first. Whole: all of it goes down first.
    let mut not_begun = lived(&runs);
    assert_eq!(actions(&not_begun, &back), []);
    let mut half = restored(&runs, &plan);
    half.state.database = Database::Incoming;
    assert_eq!(actions(&half, &back), [Action::BringBack(RESTORE)]);
    let mut whole = restored(&runs, &plan);
    let kept = TenantPlan {
        before: Some(Before::Keep(RESTORE)),
        ..runs.clone()
    };
    assert!(whole.converge(&kept, 0, usize::MAX));
    let steps = actions(&whole, &back);
    assert_eq!(steps.last(), Some(&Action::BringBack(RESTORE)));
    assert!(steps.contains(&Action::StopContainer(Role::Postgres)));
    for world in [&mut not_begun, &mut half, &mut whole] {
        heed(&back, false, &mut world.state);
        assert!(world.converge(&back, 0, usize::MAX));
        assert_eq!((world.state.aside, world.state.copied_by), (None, None));
        assert!(world.observed.is_up(Role::Odoo) && world.state.is_ready());
    }
    // A coordinator that was rebuilt knows of none: what was never whole cannot be all that there is.
    let mut half = restored(&runs, &plan);
    half.state.database = Database::Incoming;
    assert_eq!(actions(&half, &runs), [Action::BringBack(RESTORE)]);
    half.state.database = Database::Ready { synced: true };
    assert!(!actions(&half, &runs).contains(&Action::BringBack(RESTORE)));
}

#[test]
fn what_was_cut_off_goes_on_where_it_is_wanted_and_comes_back_where_it_is_not() {
    let (runs, plan) = plans();
    let mut world = lived(&runs);
    world.state.aside = Some(Aside {
        restore: RESTORE,
        moving: true,
    });
    assert_eq!(
        actions(&world, &plan).last(),
        Some(&Action::SetAside(RESTORE))
    );
    for desired in [
        DesiredState::Running,
        DesiredState::Suspended,
        DesiredState::Fenced,
        DesiredState::Quarantined,
    ] {
        let other = TenantPlan {
            desired,
            ..runs.clone()
        };
        assert_eq!(
            actions(&world, &other).last(),
            Some(&Action::BringBack(RESTORE))
        );
    }
    // A copy that is to come again has its own data elsewhere: nothing comes back over that by itself.
    world.state.come_again(&plan);
    let kept = world.state.aside.unwrap();
    assert!(kept.restore == RESTORE && !kept.moving);
}

#[test]
fn nothing_that_is_kept_goes_for_another_restore() {
    let (runs, mut plan) = plans();
    let mut world = restored(&runs, &plan);
    let other = Uuid::from_u128(10);
    (plan.seed, plan.before) = (Seed::Backup(other), Some(Before::Keep(other)));
    assert_eq!(world.steps(&plan, 0), Err(Blocked::KeepsAnother(RESTORE)));
    // Also when its state.json is lost: the directory says it.
    world.observed.home = Some(crate::plan::home::Home {
        aside: Some(RESTORE),
        ..crate::testing::world::home()
    });
    let found = adopt(&runs, &world.observed).aside.unwrap();
    assert!(found.restore == RESTORE && !found.moving);
}

/// Fails if a tenant is stopped for what is not there, or if what is not there keeps it from being restored again.
#[test]
fn what_somebody_has_removed_is_not_returned_to_and_keeps_nothing_from_being_set_aside() {
    let (runs, plan) = plans();
    let mut world = restored(&runs, &plan);
    let kept = TenantPlan {
        before: Some(Before::Keep(RESTORE)),
        ..runs.clone()
    };
    assert!(world.converge(&kept, 0, usize::MAX));
    let home = world.observed.home.get_or_insert_default();
    home.aside = None;
    let back = TenantPlan {
        before: Some(Before::Return(RESTORE)),
        ..runs.clone()
    };
    let refused = world.steps(&back, 0).unwrap_err();
    assert_eq!(refused, Blocked::AsideGone(RESTORE));
    assert!(refused.is_for_good());
    let next = Uuid::from_u128(77);
    let again = TenantPlan {
        seed: Seed::Backup(next),
        before: Some(Before::Keep(next)),
        ..plan.clone()
    };
    let steps = world.steps(&again, 0);
    assert_ne!(steps, Err(Blocked::KeepsAnother(RESTORE)));
}
