//! Buckets in our metrics.
//!
//! Not here: destinations on this machine (the parent's collector).

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet},
    registry::Unit,
};

use super::Buckets;
use crate::base::{clock, metrics::Families};

/// Writes what is known at a scrape.
#[derive(Debug)]
pub struct BucketCollector(pub Arc<Buckets>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BucketLabel {
    bucket: String,
}

impl Collector for BucketCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        let now = clock::now_ms();
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let all = self.0.iter().map(|copies| {
            let bucket = copies.name.to_string();
            (BucketLabel { bucket }, copies.standing.seen())
        });
        let all: Vec<_> = all.collect();
        let looked_at =
            { all.iter() }.filter_map(|(label, seen)| Some((label.clone(), seen.is_up?)));
        families.gauges(
            "backup_bucket_up",
            "Whether a bucket with copies of backups answers and takes our key",
            None,
            looked_at.map(|(label, is_up)| (label, i64::from(is_up))),
        )?;
        families.gauges(
            "backup_bucket_behind",
            "For how long something of a destination has not been in the bucket that has a copy of it; 0: everything is",
            Some(&Unit::Seconds),
            { all.iter() }.map(|(label, seen)| (label.clone(), seen.behind_ms(now) / 1000)),
        )?;
        families.gauges(
            "backup_bucket_waiting",
            "Repositories of which something is still to be brought to the bucket",
            None,
            { all.iter() }.map(|(label, seen)| (label.clone(), number(seen.waiting.len() as u64))),
        )?;
        families.gauges(
            "backup_bucket_sent",
            "What was brought to the bucket since the coordinator started",
            Some(&Unit::Bytes),
            { all.iter() }.map(|(label, seen)| (label.clone(), number(seen.copied_bytes))),
        )?;
        families.gauges(
            "backup_bucket_only_there",
            "Snapshots that are to be kept and that only the bucket has: they were lost here",
            None,
            { all.iter() }.map(|(label, seen)| {
                let count: usize = seen.only_there.values().sum();
                (label.clone(), number(count as u64))
            }),
        )
    }
}
