//! Buckets with copies of backups, judged. Pure.
//!
//! Not here: asking (the parent).

use isyone_proto::{
    finding::{Finding, Level},
    pb::v1::{BackupBucket, BucketState},
};

/// A bucket that is only a little behind is at work.
const BUCKET_BEHIND_MS: i64 = 30 * 60_000;

pub(super) fn judge(all: &mut Vec<Finding>, buckets: &[BackupBucket]) {
    for bucket in buckets {
        let (name, behind) = (&bucket.name, bucket.behind_ms > BUCKET_BEHIND_MS);
        let minutes = bucket.behind_ms / 60_000;
        let found = match bucket.state() {
            BucketState::Down => format!("the bucket {name} does not answer: {}", bucket.failure),
            _ if behind => format!(
                "the bucket {name} is {minutes} minutes behind: {}",
                bucket.failure
            ),
            _ if bucket.only_there > 0 => {
                format!(
                    "{} snapshots are in the bucket {name} and were lost here",
                    bucket.only_there
                )
            }
            _ => {
                let kept = match bucket.keeps_all {
                    true => {
                        "; it lets nobody remove anything, and grows until you remove what is old with another key (docs/operations.md#copies-in-buckets)"
                    }
                    false => "",
                };
                all.push(Finding::good(
                    "buckets",
                    format!("{name} has what it should have{kept}"),
                ));
                continue;
            }
        };
        all.push(Finding::new(
            Level::Warning,
            "buckets",
            found,
            "what is not there is lost with the coordinator's disk",
            "`isyctl backup status`; docs/runbooks/BackupBucketBehind.md",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_that_is_away_or_far_behind_is_a_trouble() {
        let bucket = |state: BucketState, behind_ms| BackupBucket {
            name: "far".into(),
            state: state.into(),
            behind_ms,
            ..BackupBucket::default()
        };
        let all = [
            bucket(BucketState::Up, 60_000),
            bucket(BucketState::Down, 0),
            bucket(BucketState::Up, 3_600_000),
        ];
        let mut found = Vec::new();
        judge(&mut found, &all);
        let levels: Vec<_> = found.iter().map(|f| f.level).collect();
        assert_eq!(levels, [Level::Good, Level::Warning, Level::Warning]);
    }

    /// Somebody may have meant it so: it is said, and is no trouble.
    #[test]
    fn a_bucket_that_lets_nobody_remove_is_said() {
        let bucket = |keeps_all| BackupBucket {
            name: "far".into(),
            state: BucketState::Up.into(),
            keeps_all,
            ..BackupBucket::default()
        };
        let mut found = Vec::new();
        judge(&mut found, &[bucket(false), bucket(true)]);
        assert!(found.iter().all(|f| f.level == Level::Good));
        let says = |f: &Finding| f.found.contains("lets nobody remove");
        assert_eq!(found.iter().map(says).collect::<Vec<_>>(), [false, true]);
    }
}
