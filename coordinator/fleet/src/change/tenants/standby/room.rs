//! Which hosts can have a tenant's standby.
//!
//! Not here: room for tenants (placement).

use std::fmt;

use isyone_types::{
    ids::{HostName, TenantName},
    jobs::MAX_STANDBYS_PER_HOST,
    spec::LabelKey,
};

use super::{Edit, wrong_state};
use crate::{
    change::ChangeError,
    desired::{CopyRole, Tenant},
};

/// Hosts that an answer names with the reason against each: of a large fleet they say what is wrong with all.
const NAMED: usize = 5;

/// What a host is to a standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// It keeps the standby up.
    Standing,
    /// The tenant lives there.
    Followed,
}

/// Why a host can have none.
enum Unfit {
    Agent,
    Full(Side),
    NotApart(LabelKey),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = MAX_STANDBYS_PER_HOST;
        match self {
            Self::Agent => f.write_str(
                "its agent holds no standbys (it is silent, of a version before, or does not move what runs)",
            ),
            Self::Full(Side::Standing) => write!(f, "it has {MOST} standbys, and has no more than that"),
            Self::Full(Side::Followed) => {
                write!(f, "{MOST} of its tenants have a standby, and no more than that can")
            }
            Self::NotApart(label) => {
                write!(f, "its label `{label}` does not say something else than that of the tenant's host")
            }
        }
    }
}

impl Edit<'_> {
    /// Refuses a host whose agent holds no standbys, and one that has as many as it may.
    pub(super) fn check_stands(
        &self,
        name: &TenantName,
        host: &HostName,
        side: Side,
    ) -> Result<(), ChangeError> {
        self.host(host)?;
        match self.unfit(host, side) {
            None => Ok(()),
            Some(why) => {
                let problem = format!("can have no standby with host {host}: {why}");
                Err(wrong_state(name, problem))
            }
        }
    }

    fn unfit(&self, host: &HostName, side: Side) -> Option<Unfit> {
        let seen = self.state.observed.hosts.get(host);
        if !seen.is_some_and(|seen| seen.hello.stands && seen.hello.peer_port.is_some()) {
            return Some(Unfit::Agent);
        }
        (self.standbys(host, side) >= MAX_STANDBYS_PER_HOST).then_some(Unfit::Full(side))
    }

    /// How many standbys have a host on that side.
    fn standbys(&self, host: &HostName, side: Side) -> usize {
        let index = self.state.fleet.by_host.get(host);
        let names = index.into_iter().flat_map(|index| &index.tenants);
        let tenants = names.filter_map(|name| self.state.fleet.tenants.get(name));
        let has = |tenant: &&std::sync::Arc<Tenant>| match side {
            Side::Standing => matches!(tenant.copy_on(host), Some((_, Some(CopyRole::Standby(_))))),
            Side::Followed => tenant.placement.host == *host && tenant.standby().is_some(),
        };
        tenants.filter(has).count()
    }

    /// Whether a host's label says something else than that of the tenant's own host.
    pub(super) fn is_apart(
        &self,
        tenant: &Tenant,
        host: &HostName,
        apart: Option<&LabelKey>,
    ) -> bool {
        let label = |host: &HostName| {
            let host = self.state.fleet.hosts.get(host)?;
            host.labels.get(apart?).cloned()
        };
        // Who has no such label is nowhere in particular, and may be beside it.
        apart.is_none()
            || label(host).is_some_and(|there| Some(there) != label(&tenant.placement.host))
    }

    /// The host with most room of those that hold standbys, where the tenant has nothing yet, and whose label says something else than its
    /// own host's.
    pub(super) fn most_room_apart(
        &self,
        tenant: &Tenant,
        apart: Option<&LabelKey>,
    ) -> Result<HostName, ChangeError> {
        let decision = self.anywhere(tenant);
        let mut unfit = Vec::new();
        let fitting = decision.hosts.iter().filter(|judged| judged.fits());
        for judged in fitting.filter(|judged| tenant.place_on(&judged.host).is_none()) {
            let host = &judged.host;
            let label = apart.filter(|_| !self.is_apart(tenant, host, apart));
            let why = label.map(|label| Unfit::NotApart(label.clone()));
            match why.or_else(|| self.unfit(host, Side::Standing)) {
                None => return Ok(host.clone()),
                Some(why) => unfit.push(format!("{host}: {why}")),
            }
        }
        if unfit.is_empty() {
            return Err(ChangeError::NoHostFits {
                name: tenant.name.clone(),
                decision: Box::new(decision),
            });
        }
        let more = unfit.len().saturating_sub(NAMED);
        unfit.truncate(NAMED);
        let mut problem = format!(
            "can have no standby on any host with room for it: {}",
            unfit.join("; ")
        );
        if more > 0 {
            problem.push_str(&format!("; and {more} more"));
        }
        Err(wrong_state(&tenant.name, problem))
    }
}
