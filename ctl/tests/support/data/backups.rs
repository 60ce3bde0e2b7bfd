//! Backups, and how tenants stand.

use isyone_proto::pb::v1::*;

use super::{MIB, after, ago};

/// Of `alfa` two, of a tenant that is deleted one.
pub(crate) fn backups() -> Vec<Backup> {
    let backup = |digits: &str, tenant: &str, work: BackupWork, purpose, hours: i64| Backup {
        id: digits.repeat(8),
        tenant: tenant.into(),
        tenant_uid: "01935780-0000-7000-8000-000000000001".into(),
        destination: "coordinator".into(),
        work: work.into(),
        purpose: i32::from(purpose),
        time: ago(hours * 3600),
        end_time: after(hours * 3600, 4_200),
        read_bytes: 482 * MIB,
        stored_bytes: 17 * MIB + MIB / 2,
        ..Backup::default()
    };
    let ordered = backup(
        "3f2a9c01",
        "alfa",
        BackupWork::Base,
        BackupPurpose::OnOrder,
        2,
    );
    let deleted = backup(
        "5e5e5e5e",
        "gone",
        BackupWork::Stopped,
        BackupPurpose::BeforeDelete,
        50,
    );
    vec![
        Backup {
            notes: vec!["before-import".into()],
            ..ordered
        },
        backup(
            "7b00c0de",
            "alfa",
            BackupWork::Dump,
            BackupPurpose::Scheduled,
            30,
        ),
        Backup {
            expire_time: ago(-28 * 86_400),
            ..deleted
        },
    ]
}

/// One that found nothing.
fn proof() -> BackupProof {
    BackupProof {
        verdict: ProofVerdict::Proven.into(),
        backup_id: "3f2a9c01".repeat(8),
        backup_time: ago(2 * 86_400 + 3600),
        reached_time: ago(2 * 86_400 + 60),
        begin_time: ago(2 * 86_400),
        end_time: after(2 * 86_400, 41_000),
        host: "h2".into(),
        relations: 871,
        attachments: 2_000,
        bytes: 1_482 * MIB,
        ..BackupProof::default()
    }
}

/// One that is well, one that is not, one that never ran, and one of which none are made.
#[expect(
    clippy::too_many_lines,
    reason = "a table of what is shown, without a decision"
)]
pub(crate) fn protections() -> Vec<Protection> {
    let shown = |tenant: &str, standing: Standing, summary: &str| Protection {
        tenant: tenant.into(),
        tenant_uid: "01935780-0000-7000-8000-000000000001".into(),
        plan: "small".into(),
        standing: standing.into(),
        summary: summary.into(),
        rpo_ms: 660_000,
        ..Protection::default()
    };
    let place = DestinationProtection {
        name: "coordinator".into(),
        base_time: ago(7 * 3600),
        dump_time: ago(80 * 3600),
        shipped_time: ago(190),
        backups: 21,
        prune_time: ago(5 * 3600),
        proof: Some(proof()),
        verify_time: ago(2 * 86_400),
        ..DestinationProtection::default()
    };
    let alfa = Protection {
        restorable_time: ago(190),
        restorable_from: "coordinator".into(),
        destinations: vec![place.clone()],
        spool: Some(BackupSpool {
            bytes: 3 * MIB,
            segments: 3,
            oldest_time: ago(110),
            trouble: String::new(),
        }),
        ..shown(
            "alfa",
            Standing::Protected,
            "would lose 3 min (by coordinator)",
        )
    };
    let behind = DestinationProtection {
        shipped_time: ago(9 * 3600),
        failing_time: ago(9 * 3600),
        failures: 4,
        failure: "the destination is full".into(),
        proof: Some(BackupProof {
            verdict: ProofVerdict::Damaged.into(),
            damages: vec![
                "table public.res_partner, block 7".into(),
                "file ab/abcd is missing".into(),
            ],
            more_damages: 3,
            left_out: vec!["tables and indexes: amcheck did not end well".into()],
            ..proof()
        }),
        ..place
    };
    let beta = Protection {
        restorable_time: ago(9 * 3600),
        restorable_from: "coordinator".into(),
        destinations: vec![behind],
        asked: Some(BackupAsked {
            create_time: ago(60),
            actor: "ana".into(),
            notes: Vec::new(),
            destinations: vec!["coordinator".into()],
        }),
        ..shown(
            "beta",
            Standing::NotProtected,
            "not protected: coordinator: shipping has failed for 9 h; would lose 9 h (by coordinator)",
        )
    };
    let gama = Protection {
        order: Some(BackupOrder {
            id: "01935780-0000-7000-8000-000000000009".into(),
            destination: "coordinator".into(),
            work: BackupWork::Base.into(),
            create_time: ago(20),
            bytes_done: 120 * MIB,
            bytes_total: 480 * MIB,
            message: String::new(),
        }),
        ..shown(
            "gama",
            Standing::NotProtected,
            "not protected: coordinator: no base backup; would lose everything",
        )
    };
    let delta = Protection {
        rpo_ms: 0,
        ..shown(
            "delta",
            Standing::NoneMade,
            "the agent of its host makes none: it is of a version before",
        )
    };
    vec![
        alfa,
        beta,
        delta,
        gama,
        shown("new", Standing::NothingToLose, "nothing to lose yet"),
    ]
}
