//! Proofs of backups over the wire.
//!
//! Not here: the restore that a proof begins with (the parent).

use super::{bounded, time, within};
use crate::{
    convert::{parse, shortened, timestamp, unix_ms},
    error::FieldError,
    pb::agent::v1 as agent,
    proof::{MAX_DAMAGE_BYTES, MAX_DAMAGES, MAX_LEFT_OUT, Proof, VerifyOrder},
};

impl From<&VerifyOrder> for agent::VerifyBackup {
    fn from(order: &VerifyOrder) -> Self {
        Self {
            restore: Some((&order.restore).into()),
            postgres_image: order.postgres_image.to_string(),
            memory_bytes: order.memory_bytes,
            disk_bytes: order.disk_bytes,
        }
    }
}

impl TryFrom<agent::VerifyBackup> for VerifyOrder {
    type Error = FieldError;
    fn try_from(wire: agent::VerifyBackup) -> Result<Self, FieldError> {
        let restore = wire.restore;
        let restore = restore.ok_or_else(|| FieldError::new("restore", "must be set"))?;
        Ok(Self {
            restore: within("restore", restore.try_into())?,
            postgres_image: parse("postgres_image", &wire.postgres_image)?,
            memory_bytes: wire.memory_bytes,
            disk_bytes: wire.disk_bytes,
        })
    }
}

impl From<&Proof> for agent::BackupProof {
    fn from(proof: &Proof) -> Self {
        Self {
            base: proof.base.to_string(),
            base_time: Some(timestamp(proof.base_at)),
            reached_time: proof.reached.map(timestamp),
            end_time: Some(timestamp(proof.ended_at)),
            damages: proof.damages.clone(),
            more_damages: proof.more,
            left_out: proof.left_out.clone(),
            relations: proof.relations,
            attachments: proof.attachments,
            bytes: proof.bytes,
            restorable: proof.is_restorable,
        }
    }
}

impl TryFrom<agent::BackupProof> for Proof {
    type Error = FieldError;
    fn try_from(wire: agent::BackupProof) -> Result<Self, FieldError> {
        bounded("damages", &wire.damages, MAX_DAMAGES)?;
        bounded("left_out", &wire.left_out, MAX_LEFT_OUT)?;
        let short = |texts: Vec<String>| {
            let short = texts
                .into_iter()
                .map(|text| shortened(text, MAX_DAMAGE_BYTES));
            short.collect()
        };
        Ok(Self {
            base: parse("base", &wire.base)?,
            base_at: time("base_time", wire.base_time.as_ref())?,
            reached: wire.reached_time.as_ref().map(unix_ms),
            ended_at: time("end_time", wire.end_time.as_ref())?,
            damages: short(wire.damages),
            more: wire.more_damages,
            left_out: short(wire.left_out),
            relations: wire.relations,
            attachments: wire.attachments,
            bytes: wire.bytes,
            is_restorable: wire.restorable,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backup::{Destination, Place, RepositoryKey, RestoreOrder, RestoreTo, SnapshotName},
        plan::{JobOrder, JobWork},
    };

    fn order() -> JobOrder {
        JobOrder {
            id: uuid::Uuid::from_u128(1),
            operation: uuid::Uuid::from_u128(1),
            tenant: "alfa".parse().unwrap(),
            uid: uuid::Uuid::from_u128(3),
            work: JobWork::Verify(Box::new(VerifyOrder {
                restore: RestoreOrder {
                    source: uuid::Uuid::from_u128(3),
                    key: RepositoryKey::from(&[7; 64]),
                    destination: Destination {
                        name: "own".parse().unwrap(),
                        at: Place::Coordinator,
                        required: true,
                        rate_bytes_per_s: 0,
                    },
                    base: SnapshotName([4; 32]),
                    to: RestoreTo::Latest,
                    rekey: false,
                    neutralise: false,
                },
                postgres_image: "postgres:15".parse().unwrap(),
                memory_bytes: 5,
                disk_bytes: 6,
            })),
            rate_bytes_per_s: 0,
        }
    }

    #[test]
    fn an_order_survives_the_wire_and_one_without_a_backup_is_refused_by_name() {
        let wire = agent::JobOrder::from(&order());
        assert_eq!(JobOrder::try_from(wire.clone()), Ok(order()));
        let mut odd = wire;
        if let Some(agent::job_order::Work::Verify(verify)) = &mut odd.work {
            verify.restore = None;
        }
        assert_eq!(JobOrder::try_from(odd).unwrap_err().field, "verify.restore");
    }

    #[test]
    fn what_a_host_has_found_is_bounded() {
        let wire = agent::BackupProof::from(&super::super::tests::proof());
        let mut long = wire.clone();
        long.damages = vec!["ä\u{1b}".repeat(MAX_DAMAGE_BYTES)];
        let read = Proof::try_from(long).unwrap();
        assert!(read.damages[0].len() <= MAX_DAMAGE_BYTES);
        assert!(!read.damages[0].contains('\u{1b}'));
        let mut many = wire;
        many.damages = vec!["x".to_owned(); MAX_DAMAGES + 1];
        assert_eq!(Proof::try_from(many).unwrap_err().field, "damages");
    }
}
