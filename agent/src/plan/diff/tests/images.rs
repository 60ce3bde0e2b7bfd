//! Images that are asked for anew.
//!
//! Not here: what is settled, and what fits (pins).

use super::*;

#[test]
fn an_image_that_is_asked_for_anew_is_had_before_anything_stops_and_the_one_before_comes_back() {
    let plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    world.converge(&plan, 0, usize::MAX);
    let made_of = |world: &World, role| {
        let container = world.observed.container(role).unwrap();
        container.label(LABEL_IMAGE_ID).to_owned()
    };
    let [odoo, postgres] = [Role::Odoo, Role::Postgres].map(|role| made_of(&world, role));
    let mut next = plan.clone();
    next.images_asked.odoo = 5;
    let asked: Vec<_> = world.steps(&next, 0).unwrap();
    let actions: Vec<_> = asked.iter().map(|s| s.action).collect();
    assert_eq!(actions, [Action::PullImage(Role::Odoo)]);
    assert!(world.converge(&next, 0, usize::MAX));
    assert_ne!(made_of(&world, Role::Odoo), odoo);
    assert_eq!(made_of(&world, Role::Postgres), postgres, "not asked for");
    assert_eq!(world.steps(&next, 0).unwrap(), []);
    let back = world.steps(&plan, 0).unwrap();
    assert!(
        !back
            .iter()
            .any(|s| matches!(s.action, Action::PullImage(_)))
    );
    assert!(world.converge(&plan, 0, usize::MAX));
    assert_eq!(made_of(&world, Role::Odoo), odoo);
}

#[test]
fn what_is_suspended_gets_the_image_that_was_asked_for_and_no_other() {
    let mut plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    world.converge(&plan, 0, usize::MAX);
    plan.desired = DesiredState::Suspended;
    world.converge(&plan, 0, usize::MAX);
    (world.observed.odoo_image, world.observed.postgres_image) = (None, None);
    assert_eq!(world.steps(&plan, 0).unwrap(), []);
    plan.images_asked.postgres = 3;
    let asked: Vec<_> = world.steps(&plan, 0).unwrap();
    let actions: Vec<_> = asked.iter().map(|s| s.action).collect();
    assert_eq!(actions, [Action::PullImage(Role::Postgres)]);
    assert!(world.converge(&plan, 0, usize::MAX));
    assert!(!world.observed.is_up(Role::Postgres));
}

#[test]
fn a_container_of_an_agent_before_is_made_anew_once_another_image_was_asked_for() {
    let plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    world.converge(&plan, 0, usize::MAX);
    let id = world.state.held(Role::Odoo, None).unwrap().id.clone();
    let odoo = world.observed.odoo.as_mut().unwrap();
    odoo.labels.remove(LABEL_IMAGE_ID);
    odoo.image_id = format!("{id} in other words");
    assert_eq!(world.steps(&plan, 0).unwrap(), []);
    let mut next = plan.clone();
    next.images_asked.odoo = 5;
    assert!(world.converge(&next, 0, usize::MAX));
    let odoo = world.observed.odoo.as_ref().unwrap();
    assert_ne!(odoo.label(LABEL_IMAGE_ID), "");
}
