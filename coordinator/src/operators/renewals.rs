//! How often operators' certificates may be renewed: a token bucket for each operator and each whose certificate it renews, in
//! bounded memory. Every renewal is a signature, a record of the fleet and an audit record, and the lowest role may ask for
//! one of its own.
//!
//! An admin's renewals have buckets of their own: a thief that renews without end does not keep an admin from ending that.
//! Not here: who may renew whose (accounts, the core), how many calls may be in progress (gate).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use isyone_proto::ids::ShortName;
use tokio::time::Instant;
use tonic::Status;

use crate::{
    base::rate::{Bucket, Rate},
    wire::status,
};

/// Ten at once, for who tries again; then ten an hour. One a year is needed.
const RENEWALS: Rate = Rate {
    burst: 10.0,
    per_second: 10.0 / 3600.0,
};
/// From so many buckets on, those are forgotten that are full again.
const TIDY_FROM: usize = 1_000;

/// Who renews, and whose certificate.
type Pair = (ShortName, ShortName);

/// What operators may still renew.
#[derive(Debug, Default)]
pub(super) struct Renewals(Mutex<Buckets>);

#[derive(Debug)]
struct Buckets {
    of: HashMap<Pair, Bucket>,
    /// How many there may be before we look which to forget.
    tidy_at: usize,
}

impl Default for Buckets {
    fn default() -> Self {
        Self {
            of: HashMap::new(),
            tidy_at: TIDY_FROM,
        }
    }
}

impl Renewals {
    /// Whether `who` may renew the certificate of `name` at `now`; otherwise, after which time.
    fn take(&self, who: &ShortName, name: &ShortName, now: Instant) -> Result<(), Duration> {
        // Nothing panics while holding it; the map is consistent in any case.
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.of.len() >= buckets.tidy_at {
            buckets
                .of
                .retain(|_, bucket| !bucket.is_full(RENEWALS, now));
            // Only operators of the fleet come this far, so there are never many more.
            buckets.tidy_at = TIDY_FROM.max(2 * buckets.of.len());
        }
        let pair = (who.clone(), name.clone());
        let bucket = buckets.of.entry(pair);
        let bucket = bucket.or_insert_with(|| Bucket::full(RENEWALS, now));
        bucket.take(RENEWALS, now)
    }

    /// Admits a renewal, or says when to come back. `name` must be an operator of the fleet.
    pub(super) fn admit(&self, who: &ShortName, name: &ShortName) -> Result<(), Status> {
        self.take(who, name, Instant::now()).map_err(|wait| {
            tracing::warn!(%who, %name, "a certificate is renewed too often: refused");
            let (whose, or) = match who == name {
                true => (
                    "its own certificate".to_owned(),
                    format!(", or let an admin renew it (`isyctl operator renew {name}`)"),
                ),
                false => (format!("the certificate of `{name}`"), String::new()),
            };
            let message = format!(
                "operator `{who}` renews {whose} too often (ten times an hour); come back in {} s{or}",
                wait.as_secs() + 1
            );
            status::overloaded(message, wait)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ShortName {
        text.parse().unwrap()
    }

    #[test]
    fn who_renews_without_end_is_told_when_to_come_back_and_an_admin_is_not_kept_out() {
        let (renewals, start) = (Renewals::default(), Instant::now());
        let (ana, root) = (name("ana"), name("root"));
        let made = (0..50).filter(|_| renewals.take(&ana, &ana, start).is_ok());
        assert_eq!(made.count(), 10);
        let wait = renewals.take(&ana, &ana, start).unwrap_err();
        assert!(wait > Duration::from_secs(350) && wait <= Duration::from_secs(360));
        assert!(renewals.take(&ana, &ana, start + wait).is_ok());
        renewals.take(&root, &ana, start).unwrap();
        let made = (0..50).filter(|_| renewals.take(&root, &ana, start).is_ok());
        assert_eq!(made.count(), 9, "an admin's have a bound, too");
        renewals.take(&root, &name("otto"), start).unwrap();
        let refused = renewals.admit(&ana, &ana).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(isyone_proto::error::retry_after(&refused).is_some());
        assert!(
            refused.message().contains("`isyctl operator renew ana`"),
            "{refused}"
        );
    }

    #[test]
    fn full_buckets_are_forgotten() {
        let (renewals, start) = (Renewals::default(), Instant::now());
        let ana = name("ana");
        while renewals.take(&ana, &ana, start).is_ok() {}
        for n in 1..TIDY_FROM {
            let other = name(&format!("o{n}"));
            renewals.take(&other, &other, start).unwrap();
        }
        let later = start + Duration::from_secs(3_000);
        let otto = name("otto");
        renewals.take(&otto, &otto, later).unwrap();
        assert!(renewals.0.lock().unwrap().of.len() <= 2);
    }
}
