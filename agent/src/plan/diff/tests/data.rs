//! Where data lies, over the model: records come back, data moves when nothing runs on it, nothing is filled again.

use super::*;
use crate::{
    plan::{
        container::LABEL_SETTINGS,
        home::{DataFacts, HomeOwner, Lies},
        state::Database,
    },
    testing::world::{World, home},
};

fn lies(world: &World) -> [Lies; 2] {
    ROLES.map(|role| world.observed.lies(role))
}

fn actions(world: &World, plan: &TenantPlan) -> Vec<Action> {
    let steps = world.steps(plan, 0).unwrap();
    steps.into_iter().map(|s| s.action).collect()
}

fn lived() -> (TenantPlan, World) {
    let plan = tenant_plan("alfa");
    let mut world = World::with_home(&plan);
    assert!(world.converge(&plan, 0, usize::MAX));
    assert_eq!(lies(&world), [Lies::Home; 2]);
    assert_eq!(world.put_back, 0, "its volumes were new");
    (plan, world)
}

#[test]
fn what_a_prune_takes_of_a_stopped_tenant_is_put_back_once() {
    for desired in [DesiredState::Suspended, DesiredState::Quarantined] {
        let (mut plan, mut world) = lived();
        plan.desired = desired;
        assert!(world.converge(&plan, 0, usize::MAX));
        world.prune();
        assert_eq!(actions(&world, &plan), [Action::PutBackVolumes]);
        assert!(world.converge(&plan, 0, usize::MAX));
        assert_eq!((lies(&world), world.put_back), ([Lies::Home; 2], 1));
        assert_eq!(actions(&world, &plan), []);
    }
}

#[test]
fn data_moves_when_nothing_runs_on_it_and_not_before() {
    for desired in [DesiredState::Suspended, DesiredState::Quarantined] {
        let (mut plan, mut world) = lived();
        world.make_old();
        assert_eq!(lies(&world), [Lies::InDocker; 2]);
        assert_eq!(actions(&world, &plan), [], "it runs");
        plan.desired = desired;
        assert!(world.converge(&plan, 0, usize::MAX));
        assert_eq!((lies(&world), world.put_back), ([Lies::Home; 2], 0));
        plan.desired = DesiredState::Running;
        assert!(world.converge(&plan, 0, usize::MAX));
        assert!(world.observed.is_up(Role::Odoo));
    }
}

#[test]
fn a_restart_moves_both_only_with_the_database() {
    let (mut plan, mut world) = lived();
    world.make_old();
    plan.odoo_restarts += 1;
    assert!(world.converge(&plan, 0, usize::MAX));
    assert_eq!(lies(&world), [Lies::InDocker; 2]);
    (plan.odoo_restarts, plan.postgres_restarts) = (2, 1);
    assert!(world.converge(&plan, 0, usize::MAX));
    assert_eq!(lies(&world), [Lies::Home; 2]);
}

#[test]
fn a_container_made_anew_for_other_reasons_takes_its_data_along() {
    let (mut plan, mut world) = lived();
    world.make_old();
    plan.size.workers += 1;
    assert!(world.converge(&plan, 0, usize::MAX));
    assert_eq!(lies(&world), [Lies::InDocker, Lies::Home]);
}

#[test]
fn a_record_that_leads_nowhere_is_made_anew() {
    let (mut plan, mut world) = lived();
    plan.desired = DesiredState::Suspended;
    assert!(world.converge(&plan, 0, usize::MAX));
    // As a move leaves it that was interrupted after the rename.
    world.volume(Role::Postgres).as_mut().unwrap().device = None;
    world.observed.home.as_mut().unwrap().postgres.recorded = false;
    assert_eq!(lies(&world), [Lies::Misrecorded, Lies::Home]);
    plan.desired = DesiredState::Running;
    assert!(world.converge(&plan, 0, usize::MAX));
    assert_eq!((lies(&world), world.put_back), ([Lies::Home; 2], 0));
}

#[test]
fn another_tenants_home_and_one_that_is_gone_block() {
    let (plan, mut world) = lived();
    let mut gone = home();
    (gone.owner, gone.odoo) = (HomeOwner::This, DataFacts::default());
    world.observed.home = Some(gone);
    assert!(matches!(
        world.steps(&plan, 0),
        Err(Blocked::DirectoryGone(_))
    ));
    let mut new = World::with_home(&plan);
    new.observed.home.as_mut().unwrap().owner = HomeOwner::Other("x".to_owned());
    assert!(matches!(
        new.steps(&plan, 0),
        Err(Blocked::ForeignHome { .. })
    ));
    let purged = TenantPlan {
        desired: DesiredState::Purged,
        purge_now: true,
        ..plan
    };
    assert_eq!(actions(&new, &purged), []);
}

#[test]
fn a_purge_takes_records_first_and_then_the_home() {
    let (mut plan, mut world) = lived();
    (plan.desired, plan.purge_now) = (DesiredState::Purged, true);
    plan.generation += 1;
    assert!(world.converge(&plan, 0, usize::MAX));
    assert!(world.observed.is_absent());
}

/// PostgreSQL's image would begin a new cluster in it, and the tenant would have lost its data without a word.
#[test]
fn an_empty_directory_of_a_tenant_that_had_data_blocks() {
    let (plan, mut world) = lived();
    world.observed.pgdata_empty = true;
    let empty = world.steps(&plan, 0);
    assert!(matches!(empty, Err(Blocked::DirectoryEmpty(_))));
    world.state.database = Database::Empty;
    assert!(world.steps(&plan, 0).is_ok(), "a new tenant's is empty");
}

#[test]
fn files_in_two_places_block_until_a_person_has_looked() {
    let (plan, mut world) = lived();
    world.make_old();
    let home = world.observed.home.as_mut().unwrap();
    home.owner = HomeOwner::This;
    (home.odoo.kept, home.odoo.doubled) = (true, true);
    let blocked = world.steps(&plan, 0).unwrap_err();
    let text = blocked.to_string();
    assert!(text.starts_with("both /r/tenants/alfa/odoo and"), "{text}");
}

/// Until its data is in the home, a stopped container is what keeps a prune of volumes from taking it.
#[test]
fn no_container_goes_before_its_data_has_moved() {
    let stops = [
        DesiredState::Suspended,
        DesiredState::Quarantined,
        DesiredState::Running,
    ];
    for desired in stops {
        let (mut plan, mut world) = lived();
        world.make_old();
        plan.desired = desired;
        plan.postgres_restarts += 1;
        let mut steps = world.steps(&plan, 0).unwrap();
        steps.sort_by_key(|s| (s.wave, s.lane));
        let planned: Vec<_> = steps.iter().map(|s| s.action).collect();
        for role in ROLES {
            assert!(planned.contains(&Action::MoveData(role)), "{planned:?}");
            assert!(!planned.contains(&Action::RemoveContainer(role)));
        }
        let at = |wanted| planned.iter().position(|action| *action == wanted);
        if let Some(network) = at(Action::RemoveNetwork) {
            assert!(Some(network) > at(Action::MoveData(Role::Odoo)));
        }
        assert!(world.converge(&plan, 0, usize::MAX));
        assert_eq!(lies(&world), [Lies::Home; 2]);
    }
}

/// As an agent of before made it.
fn forget_settings(world: &mut World) {
    let container = world.observed.postgres.as_mut().unwrap();
    container.labels.remove(LABEL_SETTINGS).unwrap();
}

/// Fails if an upgrade of the agent stops PostgreSQL, or if it never gets its new settings.
#[test]
fn settings_in_files_come_with_the_next_stop() {
    let anew = |planned: &[Action]| {
        planned.contains(&Action::RemoveContainer(Role::Postgres))
            && planned.contains(&Action::CreateContainer(Role::Postgres))
            && !planned.contains(&Action::RemoveContainer(Role::Odoo))
    };
    let (mut plan, mut world) = lived();
    forget_settings(&mut world);
    assert_eq!(actions(&world, &plan), []);
    plan.odoo_restarts += 1;
    assert!(!anew(&actions(&world, &plan)));
    assert!(world.converge(&plan, 0, usize::MAX));
    plan.postgres_restarts += 1;
    assert!(anew(&actions(&world, &plan)));
    assert!(world.converge(&plan, 0, usize::MAX));
    assert_eq!(actions(&world, &plan), []);
    forget_settings(&mut world);
    plan.desired = DesiredState::Suspended;
    assert!(world.converge(&plan, 0, usize::MAX));
    plan.desired = DesiredState::Running;
    assert!(anew(&actions(&world, &plan)));
}

/// A cluster of an agent before would get into the snapshot from which all later tenants are made.
#[test]
fn a_database_that_is_being_made_begins_anew_with_settings_in_files() {
    let plan = tenant_plan("alfa");
    let mut world = World::with_home(&plan);
    assert!(!world.converge(&plan, 0, 6));
    assert!(world.observed.postgres.is_some() && !world.state.is_ready());
    forget_settings(&mut world);
    let planned = actions(&world, &plan);
    assert!(
        planned.contains(&Action::RemoveContainer(Role::Postgres)),
        "{planned:?}"
    );
}
