//! Requests that come to where a tenant has just been: held there while it changes its place, then passed on until edges go to the new
//! one by themselves.
//!
//! Not here: when that begins and ends (the procedures of moves), and holding them (the old host's relay).

use serde::{Deserialize, Serialize};

use super::{Tenant, TenantPlacement};

/// What becomes of requests that come to a copy that the tenant has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stragglers {
    /// Edges have gone elsewhere, and nobody is expected.
    #[default]
    Refused,
    /// They wait for so long at most: the tenant does not run yet where it lives. Edges still go to the copy.
    Held { most_ms: u32 },
    /// They go on to where the tenant lives.
    PassedOn,
}

impl Stragglers {
    pub(super) fn are_refused(&self) -> bool {
        *self == Self::Refused
    }
}

impl Tenant {
    /// Where edges go: to where it lives, unless requests are held where it was.
    pub fn door(&self) -> &TenantPlacement {
        let held = |copy: &&super::TenantCopy| matches!(copy.stragglers, Stragglers::Held { .. });
        let copy = self.copies.iter().find(held);
        copy.map_or(&self.placement, |copy| &copy.place)
    }

    /// It has taken over from a copy that holds its requests: it must not stop again before it has run.
    pub fn has_taken_over(&self) -> bool {
        self.halted && self.door() != &self.placement
    }

    /// Requests that were held go on to where it lives.
    pub(crate) fn pass_on(&mut self) {
        for copy in &mut self.copies {
            if matches!(copy.stragglers, Stragglers::Held { .. }) {
                copy.stragglers = Stragglers::PassedOn;
            }
        }
    }

    /// Nobody is held or passed on any more; whether anybody was.
    pub(crate) fn let_go(&mut self) -> bool {
        let mut any = self.hold_ms.take().is_some();
        for copy in &mut self.copies {
            any |= !std::mem::take(&mut copy.stragglers).are_refused();
        }
        any
    }
}
