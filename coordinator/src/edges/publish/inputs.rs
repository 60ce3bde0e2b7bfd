//! The parts of a state that documents depend on, and in which tenants and hosts two states differ: compares persistent
//! maps, which skips shared parts, so the cost is proportional to the change.
//!
//! Not here: what is rendered from them (content).

use std::{collections::BTreeSet, sync::Arc};

use imbl::{OrdMap, ordmap::DiffItem};
use isyone_fleet::{
    desired::{Host, Tenant, certificates::EdgeCertificate, domains::DomainTrouble},
    settings::Settings,
    state::State,
    views,
};
use isyone_proto::ids::{HostName, TenantName};
use uuid::Uuid;

/// The relevant parts of the last state.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    tenants: OrdMap<TenantName, Arc<Tenant>>,
    hosts: OrdMap<HostName, Arc<Host>>,
    domain_troubles: OrdMap<String, Arc<DomainTrouble>>,
    certificates: OrdMap<String, Arc<EdgeCertificate>>,
    /// Tenants whose disk is nearly full, which decides whether their uploads are refused.
    full: OrdMap<(TenantName, HostName), (Uuid, u64)>,
    /// Tenants whose route depends on observed state, because they have not been active yet.
    settling: BTreeSet<TenantName>,
    /// The settling tenants that have a route already.
    early: BTreeSet<TenantName>,
}

/// The tenants and hosts to render again. Not every one of them has visibly changed.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) tenants: BTreeSet<TenantName>,
    pub(super) hosts: BTreeSet<HostName>,
}

impl Inputs {
    /// Follows this state; returns how it differs from the last one.
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
                } if (old.advertise, old.pending) != (new.advertise, new.pending) => name,
                // An irrelevant change, such as the plan's generation.
                DiffItem::Update { .. } => continue,
            };
            dirty.hosts.insert(name.clone());
            // Tenants that have left this host have changed themselves.
            let placed = state
                .fleet
                .by_host
                .get(name)
                .map(|index| index.tenants.iter().cloned());
            dirty.tenants.extend(placed.into_iter().flatten());
        }
        for item in self.domain_troubles.diff(&state.fleet.domain_troubles) {
            // Decides whether browsers are redirected to the primary. Meanwhile the domain may have belonged to another
            // tenant.
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
            // The redirect also needs a certificate that covers the domain.
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
        self.take_full(state, &mut dirty);
        self.take_early(state, settings, &mut dirty);
        self.certificates = state.fleet.certificates.clone();
        self.tenants = state.fleet.tenants.clone();
        self.hosts = state.fleet.hosts.clone();
        self.domain_troubles = state.fleet.domain_troubles.clone();
        dirty
    }

    /// Tenants whose uploads are refused, or no longer.
    fn take_full(&mut self, state: &State, dirty: &mut Dirty) {
        for item in self.full.diff(state.observed.full()) {
            let (DiffItem::Add((name, _), _)
            | DiffItem::Remove((name, _), _)
            | DiffItem::Update {
                new: ((name, _), _),
                ..
            }) = item;
            dirty.tenants.insert(name.clone());
        }
        self.full = state.observed.full().clone();
    }

    /// Tenants in their first start: few, so all are checked each time; reports arrive all the time.
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

/// The tenants whose domains a name in a certificate covers. There is no index for wildcards, but there are few of
/// them.
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
