//! What of a state documents are made of, and which tenants and hosts two states differ in: found by comparing persistent
//! maps, which skips what they share, so that it costs what has changed.
//!
//! Not here: what is rendered for them (content).

use std::{collections::BTreeSet, sync::Arc};

use imbl::{OrdMap, ordmap::DiffItem};
use isyone_fleet::{
    desired::{Host, Tenant, certificates::EdgeCertificate, domains::DomainTrouble},
    settings::Settings,
    state::State,
    views,
};
use isyone_proto::ids::{HostName, TenantName};

/// The state that was last looked at, as far as it matters.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    tenants: OrdMap<TenantName, Arc<Tenant>>,
    hosts: OrdMap<HostName, Arc<Host>>,
    domain_troubles: OrdMap<String, Arc<DomainTrouble>>,
    certificates: OrdMap<String, Arc<EdgeCertificate>>,
    /// Tenants whose route depends on what was observed, because they have not been active yet.
    settling: BTreeSet<TenantName>,
    /// Those of them that have a route already.
    early: BTreeSet<TenantName>,
}

/// Who must be looked at again. Not everybody here has really changed in a way that shows.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) tenants: BTreeSet<TenantName>,
    pub(super) hosts: BTreeSet<HostName>,
}

impl Inputs {
    /// Goes on to this state; answers how it differs from the last one.
    pub(super) fn follow(&mut self, state: &State, settings: &Settings) -> Dirty {
        let mut dirty = Dirty::default();
        for item in self.tenants.diff(&state.fleet.tenants) {
            let (name, tenant) = match item {
                DiffItem::Add(name, tenant)
                | DiffItem::Update {
                    new: (name, tenant),
                    ..
                } => (name, Some(tenant)),
                DiffItem::Remove(name, _) => (name, None),
            };
            dirty.tenants.insert(name.clone());
            if tenant.is_some_and(|t| t.activated_at.is_none() && t.reserves_compute()) {
                self.settling.insert(name.clone());
            } else {
                self.settling.remove(name);
            }
        }
        for item in self.hosts.diff(&state.fleet.hosts) {
            let name = match item {
                DiffItem::Add(name, _) | DiffItem::Remove(name, _) => name,
                DiffItem::Update {
                    old: (_, old),
                    new: (name, new),
                } if old.advertise != new.advertise => name,
                // Its plan's generation rose, or the like.
                DiffItem::Update { .. } => continue,
            };
            dirty.hosts.insert(name.clone());
            // Tenants that were placed there and are not any more have changed themselves.
            let placed = state
                .fleet
                .by_host
                .get(name)
                .map(|index| index.tenants.iter().cloned());
            dirty.tenants.extend(placed.into_iter().flatten());
        }
        for item in self.domain_troubles.diff(&state.fleet.domain_troubles) {
            // Whether its browsers are sent to its primary. The domain may have been another tenant's meanwhile.
            let concerned = match item {
                DiffItem::Add(_, trouble) | DiffItem::Remove(_, trouble) => vec![trouble],
                DiffItem::Update {
                    old: (_, old),
                    new: (_, new),
                } => vec![old, new],
            };
            dirty
                .tenants
                .extend(concerned.into_iter().map(|trouble| trouble.tenant.clone()));
        }
        for item in self.certificates.diff(&state.fleet.certificates) {
            // Likewise: there must be one that covers it.
            let concerned = match item {
                DiffItem::Add(_, certificate) | DiffItem::Remove(_, certificate) => {
                    vec![certificate]
                }
                DiffItem::Update {
                    old: (_, old),
                    new: (_, new),
                } => vec![old, new],
            };
            for hostname in concerned
                .into_iter()
                .flat_map(|certificate| &certificate.hostnames)
            {
                dirty.tenants.extend(owners(state, hostname));
            }
        }
        self.take_early(state, settings, &mut dirty);
        self.certificates = state.fleet.certificates.clone();
        self.tenants = state.fleet.tenants.clone();
        self.hosts = state.fleet.hosts.clone();
        self.domain_troubles = state.fleet.domain_troubles.clone();
        dirty
    }

    /// Tenants in their first start: few, and each is looked at each time, because reports come all the time.
    fn take_early(&mut self, state: &State, settings: &Settings, dirty: &mut Dirty) {
        let routed = |name: &&TenantName| {
            state
                .fleet
                .tenants
                .get(*name)
                .is_some_and(|t| views::route(state, settings, t).is_some())
        };
        let early: BTreeSet<TenantName> = self.settling.iter().filter(routed).cloned().collect();
        dirty
            .tenants
            .extend(early.symmetric_difference(&self.early).cloned());
        self.early = early;
    }
}

/// Whose domains a name in a certificate covers. Of a star's names there is no index, and there are few stars.
fn owners(state: &State, hostname: &str) -> Vec<TenantName> {
    let domains = &state.fleet.by_domain;
    match hostname.strip_prefix('*') {
        None => domains.get(hostname).into_iter().cloned().collect(),
        Some(base) => domains
            .iter()
            .filter(|(name, _)| name.ends_with(base))
            .map(|(_, owner)| owner.clone())
            .collect(),
    }
}
