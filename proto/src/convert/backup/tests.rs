//! Orders and reports of backups over the wire.

use super::*;
use crate::{
    backup::{Segment, SnapshotName},
    plan::{JobOrder, JobWork},
    report::{Behind, JobReport, JobState},
};

/// A plan in which every field says something.
pub(in crate::convert) fn sample() -> BackupPlan {
    let destination = |name: &str, required| Destination {
        name: name.parse().unwrap(),
        at: Place::Coordinator,
        required,
        rate_bytes_per_s: 1 << 20,
    };
    BackupPlan {
        key: RepositoryKey::from(&[7; 64]),
        destinations: vec![destination("far", false), destination("own", true)],
        ship_s: 300,
    }
}

fn made() -> BackupMade {
    BackupMade {
        snapshot: SnapshotName([1; 32]),
        work: BackupWork::Base,
        at: 1_000,
        ended_at: 2_000,
        read_bytes: 3,
        stored_bytes: 4,
        files: 5,
        left_out: 6,
        segments: Some(range(7, 9)),
        counts: Counts {
            database_bytes: 1,
            relations: 2,
            attachments: 3,
        },
    }
}

/// What a proof has found that has found everything.
pub(super) fn proof() -> crate::proof::Proof {
    crate::proof::Proof {
        base: SnapshotName([1; 32]),
        base_at: 1,
        reached: Some(2),
        ended_at: 3,
        is_restorable: true,
        damages: vec!["file ab/abcd is missing".to_owned()],
        more: 4,
        left_out: vec!["its pages carry no checksums".to_owned()],
        relations: 5,
        attachments: 6,
        bytes: 7,
    }
}

fn range(first: u32, last: u32) -> Segments {
    let segment = |number| Segment {
        timeline: 1,
        log: 0,
        number,
    };
    Segments {
        first: segment(first),
        last: segment(last),
    }
}

fn status() -> BackupReport {
    BackupReport {
        spool_bytes: 1,
        spool_segments: 2,
        spool_since: Some(3),
        gap: Some(range(1, 2)),
        archiver: "full".to_owned(),
        destinations: vec![DestinationReport {
            name: "own".parse().unwrap(),
            base_at: Some(1),
            shipped: Some(range(3, 3).last),
            shipped_lsn: 4,
            shipped_to: Some(5),
            gap_since: Some(6),
            trouble: Some(Trouble {
                fault: Fault::Full,
                message: "the destination is full".to_owned(),
                since: 7,
                failures: 8,
            }),
            newest: Some(made()),
            snapshots: 9,
            stored_bytes: 10,
        }],
    }
}

#[test]
fn orders_survive_the_wire() {
    let works = [
        BackupWork::Base,
        BackupWork::Dump,
        BackupWork::Ship,
        BackupWork::Stopped,
    ];
    let purposes = [
        BackupPurpose::Scheduled,
        BackupPurpose::OnOrder,
        BackupPurpose::OnStop,
        BackupPurpose::BeforeDelete,
        BackupPurpose::BeforeUpgrade,
        BackupPurpose::BeforeFailover,
    ];
    for (work, purpose) in works.into_iter().cycle().zip(purposes) {
        let order = JobOrder {
            id: uuid::Uuid::from_u128(1),
            operation: uuid::Uuid::from_u128(2),
            tenant: "alfa".parse().unwrap(),
            uid: uuid::Uuid::from_u128(3),
            work: JobWork::Backup(MakeBackup {
                work,
                purpose,
                destination: "own".parse().unwrap(),
                labels: vec!["before-18.0".parse().unwrap()],
            }),
            rate_bytes_per_s: 0,
        };
        let wire = agent::JobOrder::from(&order);
        assert_eq!(JobOrder::try_from(wire).unwrap(), order);
    }
}

#[test]
fn a_plan_that_cannot_be_meant_is_refused_by_name_and_its_key_is_not_repeated() {
    let wire = agent::BackupPlan::from(&sample());
    let refused = |change: fn(&mut agent::BackupPlan)| {
        let mut odd = wire.clone();
        change(&mut odd);
        BackupPlan::try_from(odd).unwrap_err()
    };
    let key = refused(|plan| plan.repository_key = "hunter2".to_owned());
    assert_eq!(key.field, "repository_key");
    assert!(!key.to_string().contains("hunter2"), "{key}");
    assert_eq!(refused(|plan| plan.ship_seconds = 1).field, "ship_seconds");
    let place = refused(|plan| plan.destinations[1].at = None);
    assert_eq!(place.field, "destinations[1].at");
    let twice = refused(|plan| plan.destinations[1].name = "far".to_owned());
    assert_eq!(twice.field, "destinations");
    let many = refused(|plan| plan.destinations = vec![plan.destinations[0].clone(); 5]);
    assert_eq!(many.field, "destinations");
}

#[test]
fn reports_survive_the_wire() {
    let wire = agent::BackupStatus::from(&status());
    assert_eq!(report(wire, 1_000_000).unwrap(), status());
    let job = JobReport {
        id: uuid::Uuid::from_u128(1),
        state: JobState::Done,
        bytes_done: 1,
        bytes_total: 2,
        message: String::new(),
        backup: Some(Box::new(made())),
        fault: Some(Fault::WrongKey),
        pause_ms: Some(7),
        filled: true,
        granted_ms: Some(4),
        behind: Some(Behind {
            bytes: 1,
            ms: 2,
            files_ms: 3,
            unlogged: 4,
        }),
        proof: Some(Box::new(proof())),
    };
    let wire = vec![agent::JobStatus::from(&job)];
    assert_eq!(crate::convert::jobs::reports(wire).unwrap(), [job]);
}

#[test]
fn nothing_is_safe_in_the_future_and_texts_are_short() {
    let mut wire = agent::BackupStatus::from(&status());
    let own = &mut wire.destinations[0];
    own.shipped_to = Some(timestamp(9_000));
    if let Some(trouble) = &mut own.trouble {
        trouble.message = "ä\u{1b}".repeat(MAX_TROUBLE_BYTES);
        trouble.fault = 99;
    }
    let own = report(wire.clone(), 1_000).unwrap().destinations.remove(0);
    assert_eq!(own.shipped_to, Some(1_000));
    let trouble = own.trouble.unwrap();
    assert_eq!(trouble.fault, Fault::Other, "a newer agent's");
    assert!(trouble.message.len() <= MAX_TROUBLE_BYTES && !trouble.message.contains('\u{1b}'));
    wire.destinations.push(wire.destinations[0].clone());
    assert_eq!(report(wire, 1_000).unwrap_err().field, "destinations[1]");
    let mut turned = agent::BackupStatus::from(&status());
    turned.gap = Some(segments_to_wire(range(2, 1)));
    assert_eq!(report(turned, 1_000).unwrap_err().field, "gap.last");
}
