//! The rules for the plan that a host holds: which plan it takes in its place, and which copies are stale. Pure.
//!
//! A lower generation is refused; the same generation with other content is a loud error; and for each tenant uid the
//! highest epoch ever seen is remembered, so that a copy that has moved away is never started here again.
//!
//! That memory holds also for tenants that have left, even those whose removal the coordinator has acknowledged by naming them
//! no more. It may look as if nothing could bring those back: an older plan is refused for its generation. But a coordinator
//! that was rebuilt from an older state comes with a raised incarnation, which is newer than any; in its state the tenant may
//! live here and be new, so that this host would fill it, and run it beside the one that has lived elsewhere since. Only its
//! epoch tells. So those who leave are set apart, where they cost nothing with each plan, and many are kept of them.
//! Not here: the files (host::ledger, host::departed).

use std::{collections::BTreeMap, sync::Arc};

use isyone_proto::{
    generation::Generation,
    plan::{HostPlan, PLAN_FORMAT, TenantPlan},
};
use serde::Serialize;
use uuid::Uuid;

/// Tenants that have left of which the epoch is remembered: twenty a day for thirteen years. Beyond that the one that was
/// created first is forgotten: only a coordinator rebuilt from a backup of its time could name it.
pub const MAX_DEPARTED: usize = 100_000;

/// Why a plan is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanRefused {
    /// An older plan arrived.
    #[error("plan generation {offered} is older than {held}, which this host already has")]
    Older {
        /// Generation of the plan that arrived.
        offered: Generation,
        /// Generation that is held.
        held: Generation,
    },
    /// Two different plans with the same generation.
    #[error(
        "plan generation {generation} came with digest {offered}, but this host already has another plan under that number ({held}); start the coordinator on its newest database or, if that is lost, raise its incarnation"
    )]
    Conflict {
        /// Their common generation.
        generation: Generation,
        /// Digest of the plan that arrived.
        offered: String,
        /// Digest of the one that is held.
        held: String,
    },
}

/// The plan in force, and what must be remembered with it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Held {
    pub plan: Option<HostPlan>,
    /// Its digest, by the program that took it; empty when there is no plan.
    pub digest: String,
    /// The highest epoch ever seen of each tenant that the plan names. One that is read from a program of before has those of all.
    pub epochs: BTreeMap<Uuid, u64>,
    /// The highest epoch ever seen of tenants that an earlier plan has named, at most [`MAX_DEPARTED`].
    #[serde(skip)]
    pub departed: Arc<BTreeMap<Uuid, u64>>,
    /// [`PLAN_FORMAT`] of the program that took it.
    pub format: u32,
}

impl Held {
    /// Its generation; 0 when there is no plan.
    pub fn generation(&self) -> Generation {
        self.plan.as_ref().map(|p| p.generation).unwrap_or_default()
    }

    /// True when a higher epoch of the tenant has been seen: this copy must not run.
    pub fn is_stale(&self, tenant: &TenantPlan) -> bool {
        self.seen(&tenant.uid)
            .is_some_and(|seen| seen > tenant.epoch)
    }

    fn seen(&self, uid: &Uuid) -> Option<u64> {
        let (named, left) = (self.epochs.get(uid), self.departed.get(uid));
        named.max(left).copied()
    }

    /// Those that leave with the plan `next`, which was taken in place of this one, with their epochs: what must be on disk
    /// before it is.
    pub fn leavers(&self, next: &Self) -> Vec<(Uuid, u64)> {
        let is_new = |(uid, epoch): &(&Uuid, &u64)| {
            !next.epochs.contains_key(*uid) && self.departed.get(*uid) != Some(*epoch)
        };
        let left = self.epochs.iter().filter(is_new);
        left.map(|(uid, epoch)| (*uid, *epoch)).collect()
    }

    /// Sets apart those that the plan does not name any more.
    fn part(&mut self, before: &Self) {
        let leavers = before.leavers(self);
        if leavers.is_empty() {
            return; // as with nearly every plan
        }
        let departed = Arc::make_mut(&mut self.departed);
        for (uid, epoch) in leavers {
            let seen = departed.entry(uid).or_default();
            *seen = (*seen).max(epoch);
        }
        while departed.len() > MAX_DEPARTED {
            departed.pop_first(); // uids begin with the time
        }
    }

    /// What is held once this plan is taken, and whether it says anything new; `None`: it is held already.
    pub fn offered(&self, plan: HostPlan) -> Result<Option<(Self, bool)>, PlanRefused> {
        let digest = plan.digest();
        let mut news = true;
        if let Some(held) = &self.plan {
            if plan.generation < held.generation {
                return Err(PlanRefused::Older {
                    offered: plan.generation,
                    held: held.generation,
                });
            }
            if plan.generation == held.generation {
                news = digest != self.digest;
                if self.format == PLAN_FORMAT {
                    if !news {
                        return Ok(None);
                    }
                    return Err(PlanRefused::Conflict {
                        generation: plan.generation,
                        offered: digest,
                        held: self.digest.clone(),
                    });
                }
                // An older agent may have dropped fields of this very plan that it did not know: accept it once as it
                // comes.
            }
        }
        let mut epochs = BTreeMap::new();
        for tenant in &plan.tenants {
            let seen = epochs
                .entry(tenant.uid)
                .or_insert_with(|| self.seen(&tenant.uid).unwrap_or_default());
            *seen = (*seen).max(tenant.epoch);
        }
        let mut taken = Self {
            plan: Some(plan),
            digest,
            epochs,
            departed: self.departed.clone(),
            format: PLAN_FORMAT,
        };
        taken.part(self);
        Ok(Some((taken, news)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{host_plan, tenant_plan};

    fn plan(generation: Generation, tenants: &[(u8, u64)]) -> HostPlan {
        let tenants = tenants.iter().map(|(id, epoch)| TenantPlan {
            uid: Uuid::from_u128(u128::from(*id)),
            epoch: *epoch,
            ..tenant_plan(&format!("t{id}"))
        });
        host_plan(generation.get(), tenants.collect())
    }

    fn took(held: &Held, plan: HostPlan) -> Held {
        held.offered(plan).unwrap().unwrap().0
    }

    /// It is rewritten, and flushed, with each plan.
    #[test]
    fn what_is_written_with_each_plan_does_not_grow_with_tenants_that_have_left() {
        let mut held = Held::default();
        for id in 0..200 {
            held = took(
                &held,
                plan(Generation::new(0, u64::from(id) + 1), &[(id, 1)]),
            );
        }
        let written = serde_json::to_value(&held).unwrap();
        assert_eq!(written["epochs"].as_object().unwrap().len(), 1);
    }

    /// Its plan is newer than any, and would fill anew what lives elsewhere, or has been removed on order.
    #[test]
    fn a_coordinator_that_was_rebuilt_brings_back_no_copy_that_has_left() {
        let mut held = took(&Held::default(), plan(Generation::new(0, 5), &[(1, 3)]));
        held = took(&held, plan(Generation::new(0, 6), &[]));
        let late = held.offered(plan(Generation::new(0, 5), &[(1, 3)]));
        assert!(matches!(late, Err(PlanRefused::Older { .. })));
        let rebuilt = plan(Generation::new(1, 2), &[(1, 1)]);
        let held = took(&held, rebuilt.clone());
        assert!(held.is_stale(&rebuilt.tenants[0]));
    }

    proptest! {
        /// Compared with a memory that keeps everything.
        #[test]
        fn an_epoch_is_never_forgotten_and_no_more_is_written_than_the_plan_names(
            story in proptest::collection::vec(
                (proptest::collection::btree_map(0u8..6, 0u64..5, 0..4), any::<bool>()),
                1..30,
            ),
        ) {
            let mut held = Held::default();
            let mut all = BTreeMap::<u8, u64>::new();
            for (number, (tenants, rebuilt)) in (1u64..).zip(story) {
                let incarnation = held.generation().incarnation() + u16::from(rebuilt);
                let tenants: Vec<(u8, u64)> = tenants.into_iter().collect();
                let offer = plan(Generation::new(incarnation, number), &tenants);
                held = took(&held, offer);
                for (id, epoch) in &tenants {
                    let seen = all.entry(*id).or_default();
                    *seen = (*seen).max(*epoch);
                }
                prop_assert_eq!(held.epochs.len(), tenants.len());
                for (id, epoch) in (0u8..6).flat_map(|id| (0u64..6).map(move |epoch| (id, epoch))) {
                    let asked = &plan(Generation::default(), &[(id, epoch)]).tenants[0];
                    let known = all.get(&id).is_some_and(|seen| *seen > epoch);
                    prop_assert_eq!(held.is_stale(asked), known);
                }
            }
        }
    }
}
