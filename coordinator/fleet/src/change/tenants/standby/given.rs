//! Standbys that plans give their tenants: whoever has none gets one, by and by.
//!
//! Not here: where it comes to lie (room), and that one which has failed is made anew (look).

use std::ops::Bound;

use isyone_types::{ids::TenantName, plan::Lifecycle};

use super::Edit;
use crate::desired::Tenant;

/// Tenants that one tick looks at.
const LOOKED_AT: usize = 500;
/// Those among them for which a place is looked for: that is a look at every host.
const MAX_PER_TICK: usize = 2;

impl Edit<'_> {
    /// Continues the round through all tenants.
    pub(in crate::change) fn give_standbys(&mut self) {
        if self.settings.standbys.is_empty() {
            return;
        }
        let from = { self.state.standby_hand.take() }.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut looked_at, mut due) = (0, Vec::new());
        for (name, tenant) in self.state.fleet.tenants.range((from, Bound::Unbounded)) {
            looked_at += 1;
            if self.lacks_its_standby(tenant) {
                due.push(name.clone());
            }
            if looked_at == LOOKED_AT || due.len() == MAX_PER_TICK {
                self.state.standby_hand = Some(name.clone());
                break;
            }
        }
        for name in due {
            self.give_standby(&name);
        }
    }

    /// Whether its plan gives it one, it has none, and one can begin now.
    fn lacks_its_standby(&self, tenant: &Tenant) -> bool {
        let operation = self.state.fleet.operations.get(&tenant.operation);
        self.settings.standbys.contains_key(&tenant.spec.plan)
            && tenant.standby().is_none()
            && tenant.activated_at.is_some()
            && tenant.desired == Lifecycle::Running
            && operation.is_none_or(|operation| operation.is_over())
    }

    /// Where no host has room for it, the next round asks again; who looks at the tenant sees that it has none.
    fn give_standby(&mut self, name: &TenantName) {
        let Some(tenant) = self.state.fleet.tenants.get(name).cloned() else {
            return;
        };
        let rules = self.settings.standbys.get(&tenant.spec.plan);
        let apart = rules.and_then(|rules| rules.apart.clone());
        let _ = self.for_one(&tenant, |edit| {
            edit.all_or_nothing(|edit| edit.add_standby(name, None, apart.as_ref()))
        });
    }
}
