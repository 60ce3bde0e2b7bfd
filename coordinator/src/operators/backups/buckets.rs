//! Buckets with copies of backups, as operators see them.
//!
//! Not here: copying (repositories::buckets).

use isyone_proto::{convert::timestamp, pb::v1};

use super::super::{Api, now};
use crate::repositories::buckets::Copies;

impl Api {
    pub(super) fn buckets(&self) -> Vec<v1::BackupBucket> {
        let all = self.parts.upkeep.buckets.iter();
        all.map(|copies| bucket(copies, now())).collect()
    }
}

fn bucket(copies: &Copies, now: i64) -> v1::BackupBucket {
    let seen = copies.standing.seen();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let state = match seen.is_up {
        None => v1::BucketState::Unspecified,
        Some(true) => v1::BucketState::Up,
        Some(false) => v1::BucketState::Down,
    };
    let failure = seen.failure.as_ref();
    v1::BackupBucket {
        name: copies.name.to_string(),
        destination: copies.of.to_string(),
        place: copies.bucket.place().to_owned(),
        state: state.into(),
        behind_ms: seen.behind_ms(now),
        waiting: count(seen.waiting.len()),
        failure: failure.map(|f| f.message.clone()).unwrap_or_default(),
        failure_time: failure.map(|f| timestamp(f.at)),
        sent_bytes: seen.copied_bytes,
        sent_time: seen.copied_at.map(timestamp),
        keeps_all: seen.keeps_all,
        only_there: count(seen.only_there.values().sum()),
    }
}
