//! Moves back to where an older copy is kept.
//!
//! Not here: the way there (moves), and what is removed (purge, rebuilt).

use isyone_types::{plan::DesiredState, report::JobState};

use super::{
    moves::{desired_on, job, moved, order, plan_of},
    operations::{ended, settled, start},
    *,
};
use crate::desired::CopyRole;

#[test]
fn a_move_back_takes_the_place_of_the_copy_that_is_kept_there() {
    let (mut bench, h1, h2, alfa) = moved();
    let left = bench.state.fleet.tenants[&alfa].copies[0].place.clone();
    assert_eq!(left.host, h1);
    let id = start(&mut bench, order(&h1));
    let tenant = bench.state.fleet.tenants[&alfa].clone();
    let [copy] = &tenant.copies[..] else {
        panic!("{:?}", tenant.copies)
    };
    assert_eq!((&copy.role, copy.place.epoch), (&CopyRole::Incoming, 3));
    assert_eq!(copy.place.subnet, left.subnet);
    assert_eq!(copy.place.http_port, left.http_port);
    assert_eq!(copy.place.websocket_port, left.websocket_port);
    let coming = plan_of(&bench, &h1).tenants[0].clone();
    assert_eq!((coming.desired, coming.epoch), (DesiredState::Standby, 3));
    assert_eq!(coming.seed, isyone_types::plan::Seed::Peer(h2.clone()));
    bench.settle();
    bench.settle();
    job(&mut bench, &h1, id, JobState::Done);
    assert_eq!(desired_on(&bench, &h2), Some((DesiredState::Fenced, 3)));
    bench.settle();
    bench.settle();
    assert_eq!(ended(&bench, id).0, OperationState::Succeeded);
    assert_eq!(desired_on(&bench, &h1), Some((DesiredState::Running, 3)));
    // And there again, as often as anybody likes.
    start(&mut bench, order(&h2));
    assert_eq!(desired_on(&bench, &h2), Some((DesiredState::Standby, 4)));
}

#[test]
fn a_move_back_that_is_cancelled_leaves_no_half_copy() {
    let (mut bench, h1, h2, alfa) = moved();
    let id = start(&mut bench, order(&h1));
    bench.settle();
    bench.settle();
    start(&mut bench, Command::CancelOperation { id });
    assert_eq!(desired_on(&bench, &h1), Some((DesiredState::Purged, 3)));
    assert_eq!(desired_on(&bench, &h2), Some((DesiredState::Running, 2)));
    let refused = bench.apply(order(&h1)).unwrap_err().to_string();
    assert!(refused.contains("is being removed"), "{refused}");
    bench.settle();
    assert!(bench.state.fleet.tenants[&alfa].copies.is_empty());
    start(&mut bench, order(&h1));
}

#[test]
fn a_move_back_needs_room_for_what_the_kept_copy_does_not_hold() {
    let (mut bench, h1, ..) = moved();
    bench
        .apply(Command::CordonHost {
            host: h1.clone(),
            cordoned: true,
        })
        .unwrap();
    assert!(matches!(
        bench.apply(order(&h1)),
        Err(ChangeError::NoHostFits { .. })
    ));
    bench
        .apply(Command::CordonHost {
            host: h1.clone(),
            cordoned: false,
        })
        .unwrap();
    // Its disk holds this tenant's copy, and not one more; all networks are taken.
    let size = bench.state.fleet.tenants[&name::<TenantName>("alfa")].size;
    let mut full = resources(8, 32, 100);
    full.disk_available_bytes = bench.settings.placement.disk_reserve_bytes + size.disk_bytes / 2;
    bench.report(&h1, full, Vec::new());
    bench.settings.network.last_port = bench.settings.network.first_port + 1;
    let settings = bench.settings.clone();
    bench.state.refresh(&settings, &h1, bench.now);
    start(&mut bench, order(&h1));
}

/// Suspended, it has not shown that it runs from its copy there: the older one is not written over before it has.
#[test]
fn a_suspended_tenant_runs_once_before_it_is_moved_back_and_the_refusal_says_so() {
    let (mut bench, h1, alfa) = settled();
    let h2 = bench.host("h2", resources(8, 32, 100));
    let suspended = |bench: &mut Bench| {
        start(bench, super::operations::suspend(&alfa, false));
        bench.settle();
        bench.settle();
    };
    suspended(&mut bench);
    let id = start(&mut bench, order(&h2));
    bench.settle();
    bench.settle();
    job(&mut bench, &h2, id, JobState::Done);
    bench.settle();
    bench.settle();
    assert_eq!(ended(&bench, id).0, OperationState::Succeeded);
    let refused = bench.apply(order(&h1)).unwrap_err().to_string();
    assert!(refused.contains("`isyctl tenant resume alfa`"), "{refused}");
    let resume = Command::ResumeTenant {
        name: alfa.clone(),
        request_id: None,
    };
    start(&mut bench, resume);
    bench.settle();
    bench.settle();
    suspended(&mut bench);
    start(&mut bench, order(&h1));
}
