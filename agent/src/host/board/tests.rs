//! Tests of the status board.

use super::*;
use crate::testing::{tenant_plan, tenant_status};

#[tokio::test]
async fn a_full_disk_is_told_once_and_only_of_this_tenant() {
    use isyone_proto::disk::{DiskMeans, DiskUse};

    let (board, plan) = (StatusBoard::default(), tenant_plan("alfa"));
    let disk = |used| Disk::after(None, DiskUse::of_bytes(used), 1000, DiskMeans::Counted);
    for used in [10, 900, 990] {
        board.set_disk(&plan.name, plan.uid, disk(used), None);
    }
    assert!(board.lock().crossed.is_empty());
    for used in [1000, 1001, 1100, 1101, 999, 1000] {
        board.set_disk(&plan.name, plan.uid, disk(used), None);
    }
    assert_eq!(board.crossed().await, vec![plan.name.clone(); 4]);
    assert_eq!(board.disk(&plan.name, plan.uid), Some(disk(1000)));
    assert_eq!(board.disk(&plan.name, Uuid::nil()), None, "another's");
}

#[test]
fn equal_numbers_of_a_rebuilt_coordinator_are_another_plan() {
    let mut plan = tenant_plan("alfa");
    plan.operation = Some(Uuid::from_u128(1));
    let mut status = tenant_status(&plan);
    assert!(status.is_about(&plan));
    plan.operation = Some(Uuid::from_u128(2));
    assert!(!status.is_about(&plan));
    status.operation = None;
    assert!(status.is_about(&plan), "it names none: nothing contradicts");
}

#[test]
fn who_is_not_known_or_is_being_filled_is_not_entered() {
    let (board, plan) = (StatusBoard::default(), tenant_plan("alfa"));
    let said = |uid| board.may_enter(&plan.name, uid).unwrap_err();
    assert!(said(plan.uid).contains("not looked at tenant alfa yet"));
    let set = |own_database| {
        let status = tenant_status(&plan);
        board.set(
            &plan.name,
            TenantStatus {
                own_database,
                ..status
            },
        );
    };
    set(false);
    assert!(said(plan.uid).contains("is being created"));
    set(true);
    assert_eq!(board.may_enter(&plan.name, plan.uid), Ok(()));
    assert!(
        said(Uuid::nil()).contains("not looked at"),
        "another's of this name"
    );
}

/// How far a copy is behind grows while nobody can look, also when its job says that it is tried again.
#[tokio::test(start_paused = true)]
async fn how_far_a_copy_is_behind_is_as_old_as_it_is() {
    use isyone_proto::report::{Behind, JobState};

    let (board, id) = (StatusBoard::default(), Uuid::from_u128(1));
    let job = |state| JobReport::new(id, state);
    board.set_job(job(JobState::Running));
    let seen = Behind {
        bytes: 7,
        ms: 1_000,
        files_ms: 2_000,
        unlogged: 0,
    };
    board.set_job_behind(id, Some(seen));
    board.set_job_filled(id, true);
    assert_eq!(board.jobs()[0].behind, Some(seen));
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    board.set_job(job(JobState::Retrying));
    let told = board.jobs().remove(0);
    assert_eq!(told.behind, Some(seen.later(60_000)));
    assert!(told.filled, "it is whole all the same");
    board.set_job_behind(id, None);
    assert_eq!(board.jobs()[0].behind, None);
}
