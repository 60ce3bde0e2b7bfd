//! The rules for the plan that a host holds: which plan it takes in its place, and which copies are stale. Pure.
//!
//! A lower generation is refused; the same generation with other content is a loud error; and for each tenant uid the
//! highest epoch ever seen is remembered, so that a copy that has moved away is never started here again. Not here: the
//! file (host::ledger).

use std::collections::BTreeMap;

use isyone_proto::{
    generation::Generation,
    plan::{HostPlan, PLAN_FORMAT, TenantPlan},
};
use serde::Serialize;
use uuid::Uuid;

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
    /// The highest epoch ever seen of each tenant.
    pub epochs: BTreeMap<Uuid, u64>,
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
        self.epochs
            .get(&tenant.uid)
            .is_some_and(|seen| *seen > tenant.epoch)
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
        let mut epochs = self.epochs.clone();
        for tenant in &plan.tenants {
            let seen = epochs.entry(tenant.uid).or_default();
            *seen = (*seen).max(tenant.epoch);
        }
        let taken = Self {
            plan: Some(plan),
            digest,
            epochs,
            format: PLAN_FORMAT,
        };
        Ok(Some((taken, news)))
    }
}
