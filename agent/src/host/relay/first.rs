//! The first routes of a host whose file of them is not there: when enough is known to write one.
//!
//! A new host has none, and one whose data directory was lost has none any more; there a relay of before may be serving visitors, and
//! it follows what is written. So nothing is written on the strength of what is not known. Pure. Not here: what is written (the parent).

use std::{collections::BTreeSet, time::Duration};

use isyone_proto::ids::TenantName;
use tokio::time::Instant;

/// How long the first tenants that were looked at wait for the others: of one of these Docker may say nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is known so far.
#[derive(Debug, Default)]
pub(super) struct First {
    /// Whom the plan in force names; `None`: there is none.
    named: Option<BTreeSet<TenantName>>,
    /// Tenants that were looked at, or are about to be started.
    known: BTreeSet<TenantName>,
    /// Since when there is one.
    since: Option<Instant>,
}

impl First {
    /// There is a plan, which names these.
    pub(super) fn plan<'a>(&mut self, names: impl Iterator<Item = &'a TenantName>) {
        self.named = Some(names.cloned().collect());
    }

    /// It is known where a tenant is served, or that it is not.
    pub(super) fn know(&mut self, name: &TenantName, now: Instant) {
        self.known.insert(name.clone());
        self.since.get_or_insert(now);
    }

    /// Whether routes can be written that end nobody's.
    pub(super) fn is_enough(&self, now: Instant) -> bool {
        let Some(named) = &self.named else {
            return false;
        };
        let is_late = |since: Instant| now.saturating_duration_since(since) >= PATIENCE;
        named.is_subset(&self.known) || self.since.is_some_and(is_late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_enough_without_a_plan_and_all_tenants_are_waited_for_but_not_for_ever() {
        let [alfa, beta] = ["alfa", "beta"].map(|name| name.parse::<TenantName>().unwrap());
        let now = Instant::now();
        let mut first = First::default();
        first.know(&alfa, now);
        assert!(!first.is_enough(now + PATIENCE), "there is no plan");
        first.plan([&alfa, &beta].into_iter());
        assert!(!first.is_enough(now), "beta was not looked at");
        assert!(first.is_enough(now + PATIENCE));
        first.know(&beta, now);
        assert!(first.is_enough(now));
        let mut first = First::default();
        first.plan([&alfa].into_iter());
        assert!(!first.is_enough(now + PATIENCE), "nobody was looked at");
        first.plan([].into_iter());
        assert!(first.is_enough(now), "there is nobody");
    }
}
