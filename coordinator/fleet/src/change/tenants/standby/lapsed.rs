//! Standbys that take over by themselves, when the tenant's host was not heard for as long as the tenant's plan says.
//!
//! Silence alone proves nothing: that host may run the tenant, and be cut off. But it runs it only while its lease lasts, which is begun anew
//! by each of its reports that the coordinator takes in, and by the host that keeps the standby. When neither has happened for longer than a
//! lease lasts, it has stopped it. Both count by clocks that nobody sets; a coordinator that has just started has let everybody go on until
//! then, for all that it knows. Not here: the terms (look), what becomes of the copies (failover), and stopping (the agents).

use isyone_types::{ids::TenantName, report::JobReport};

use super::Edit;
#[cfg(feature = "planted")]
use crate::planted;
use crate::{
    change::tenants::failover::Proof,
    desired::{Standby, Tenant, TenantPlacement},
    liveness::HostState,
    views,
};

/// Tenants that go on elsewhere by one tick; the others do by the next ones.
const MAX_PER_TICK: usize = 20;

impl Edit<'_> {
    /// Whoever's lease is over goes on where its standby is.
    pub(in crate::change) fn take_over_what_lapsed(&mut self) {
        let fleet = &self.state.fleet;
        let tenants = fleet.standbys.iter().filter_map(|n| fleet.tenants.get(n));
        let due = tenants.filter(|tenant| {
            let host = fleet.hosts.get(&tenant.placement.host);
            // Whoever has announced work there says what becomes of them.
            let is_expected = host.is_some_and(|host| host.maintenance.is_some());
            !is_expected && self.lease_is_over(tenant)
        });
        let due: Vec<TenantName> = due.take(MAX_PER_TICK).map(|t| t.name.clone()).collect();
        for name in due {
            let Some(tenant) = self.state.fleet.tenants.get(&name).cloned() else {
                continue;
            };
            // What keeps it from that is shown by whoever asks for it; and may be over with the next tick.
            let _ = self.for_one(&tenant, |edit| {
                edit.fail_over(&name, (Proof::Lease, false), None)
            });
        }
    }

    /// Whether a tenant cannot run where it lives, because nobody has let it go on for longer than its lease lasts.
    pub(in crate::change) fn lease_is_over(&self, tenant: &Tenant) -> bool {
        let Some((place, standby)) = tenant.standby() else {
            return false;
        };
        let Some(after) = standby.takes_over_after_ms.filter(|_| standby.leased) else {
            return false;
        };
        let silent = self.let_go_on_ms(tenant);
        let unasked = self.renewed_ms(place, standby);
        silent >= i64::from(after) && unasked.is_some_and(|ms| ms >= i64::from(after))
    }

    /// So long ago the coordinator last let the tenant go on, milliseconds.
    fn let_go_on_ms(&self, tenant: &Tenant) -> i64 {
        let seen = self.state.observed.hosts.get(&tenant.placement.host);
        #[cfg(feature = "planted")]
        if planted::has(planted::Bug::LeaseByWallClock) {
            let since = seen.and_then(|seen| seen.reported_at);
            return self.stamp.now - since.unwrap_or(self.state.started_at);
        }
        let heard = seen.and_then(|seen| seen.heard);
        let since = heard.or(self.state.steady_from);
        self.stamp.steady - since.unwrap_or(self.stamp.steady)
    }

    /// So long ago the standby's host last did; `None`: that is not known.
    fn renewed_ms(&self, place: &TenantPlacement, standby: &Standby) -> Option<i64> {
        let (judged, _) = views::host_state(self.state, self.settings, &place.host, self.stamp.now);
        if !matches!(judged, HostState::Ready | HostState::Degraded) {
            return None;
        }
        let said = self.state.observed.hosts.get(&place.host)?.heard?;
        let job: &JobReport = self.state.observed.job(&place.host, standby.job)?;
        let then = i64::try_from(job.granted_ms?).unwrap_or(i64::MAX);
        Some(then.saturating_add((self.stamp.steady - said).max(0)))
    }
}
