//! A tenant whose disk is full, over the model: what is stopped, what is not, and that it comes back.
//!
//! Not here: when a disk is full (isyone-types' disk).

use isyone_proto::disk::DiskState;
use proptest::prelude::*;

use super::*;

const ALL: [DiskState; 5] = [
    DiskState::Free,
    DiskState::Warned,
    DiskState::UploadsRefused,
    DiskState::Stopped,
    DiskState::DatabaseStopped,
];

fn actions(world: &World, plan: &TenantPlan) -> Vec<Action> {
    let steps = world.steps(plan, 1).unwrap();
    steps.into_iter().map(|step| step.action).collect()
}

/// Odoo is stopped and nothing else is touched, whatever else changes; with room it is started again.
#[test]
fn a_full_disk_stops_odoo_and_keeps_postgres() {
    let plan = tenant_plan("alfa");
    for which in 0..8 {
        let mut world = World::empty(&plan);
        assert!(world.converge(&plan, 0, usize::MAX));
        world.disk = DiskState::Stopped;
        let both = [Action::StopOdooSoon, Action::EndSessions];
        assert_eq!(actions(&world, &plan), both);
        assert!(world.converge(&plan, 1, usize::MAX));
        assert!(!world.observed.is_up(Role::Odoo) && world.observed.is_up(Role::Postgres));
        assert_eq!(world.steps(&plan, 2).unwrap(), []);
        let next = changed(&plan, which);
        if next.desired == DesiredState::Running && next.uid == plan.uid {
            assert!(world.converge(&next, 3, usize::MAX), "{which}");
            assert!(!world.observed.is_up(Role::Odoo), "{which}");
        }
        world.disk = DiskState::Free;
        assert!(world.converge(&plan, 4, usize::MAX), "{which}");
        assert!(world.observed.is_up(Role::Odoo) && world.observed.is_up(Role::Postgres));
    }
}

/// Fails where only Odoo is stopped: what it has begun in PostgreSQL fills the disk on to its end.
#[test]
fn who_is_connected_to_a_full_tenants_postgres_is_cut_off_at_each_look() {
    let plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    assert!(world.converge(&plan, 0, usize::MAX));
    world.observed.strangers = 3;
    assert_eq!(actions(&world, &plan), [], "there is room");
    world.disk = DiskState::Stopped;
    let both = [Action::StopOdooSoon, Action::EndSessions];
    assert_eq!(actions(&world, &plan), both);
    assert!(world.converge(&plan, 1, usize::MAX));
    world.observed.strangers = 1;
    assert_eq!(actions(&world, &plan), [Action::EndSessions]);
    world.disk = DiskState::DatabaseStopped;
    let stop = [Action::StopContainer(Role::Postgres)];
    assert_eq!(actions(&world, &plan), stop);
}

#[test]
fn a_tenant_is_created_whatever_is_said_of_its_disk() {
    for disk in ALL {
        let plan = tenant_plan("alfa");
        let mut world = World::empty(&plan);
        world.disk = disk;
        world.converge(&plan, 0, usize::MAX);
        assert!(
            world.state.is_ready(),
            "there is nothing to remove before that"
        );
    }
}

proptest! {
    /// Whatever else changes, and wherever it crashes: what must not run does not, nothing is removed for it, and it all
    /// comes back with room.
    #[test]
    fn a_full_disk_decides_what_runs_and_nothing_else(
        homes in any::<bool>(),
        changes in proptest::collection::vec((0u8..11, 0usize..25, 0usize..ALL.len(), 0u32..3), 1..8),
    ) {
        let mut plan = tenant_plan("alfa");
        let mut world = if homes { World::with_home(&plan) } else { World::empty(&plan) };
        prop_assert!(world.converge(&plan, 0, usize::MAX));
        for (which, budget, disk, strangers) in changes {
            plan = changed(&plan, which);
            (world.disk, world.observed.strangers) = (ALL[disk], strangers);
            if plan.desired == DesiredState::Running && ALL[disk].stops_odoo() {
                let starts = actions(&world, &plan);
                prop_assert!(!starts.contains(&Action::StartContainer(Role::Odoo)), "{:?}", starts);
            }
            world.converge(&plan, 0, budget);
            plan.desired = DesiredState::Running;
            prop_assert!(world.converge(&plan, 0, usize::MAX));
            prop_assert_eq!(world.observed.is_up(Role::Odoo), !ALL[disk].stops_odoo());
            prop_assert_eq!(world.observed.is_up(Role::Postgres), !ALL[disk].stops_postgres());
            prop_assert!(!ALL[disk].stops_odoo() || world.observed.strangers == 0 || ALL[disk].stops_postgres());
            prop_assert_eq!(world.steps(&plan, 0).unwrap(), vec![]);
        }
        (world.disk, world.observed.strangers) = (DiskState::Free, 0);
        prop_assert!(world.converge(&plan, 0, usize::MAX));
        prop_assert!(world.observed.is_up(Role::Odoo) && world.observed.is_up(Role::Postgres) && world.state.is_ready());
    }
}

/// Fails where a restart takes a tenant that works down on a host whose disk is full, until there is room.
#[test]
fn on_a_hosts_full_disk_nothing_that_works_is_stopped_for_a_change() {
    let plan = tenant_plan("alfa");
    let mut world = World::empty(&plan);
    assert!(world.converge(&plan, 0, usize::MAX));
    world.observed.host_full = Some("the disk is full".to_owned());
    assert_eq!(actions(&world, &plan), []);
    let restart = TenantPlan {
        odoo_restarts: plan.odoo_restarts + 1,
        ..plan.clone()
    };
    assert_eq!(
        world.steps(&restart, 1),
        Err(Blocked::HostFull("the disk is full".to_owned()))
    );
    // What stops it for its own sake does; who is stopped may be started.
    world.disk = DiskState::Stopped;
    assert!(actions(&world, &plan).contains(&Action::StopOdooSoon));
    world.disk = DiskState::Free;
    let suspended = TenantPlan {
        desired: DesiredState::Suspended,
        ..plan.clone()
    };
    assert!(world.converge(&suspended, 2, usize::MAX));
    assert!(world.converge(&plan, 3, usize::MAX));
    assert!(world.observed.is_up(Role::Odoo));
}
