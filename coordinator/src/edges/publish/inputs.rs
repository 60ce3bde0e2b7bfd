//! The parts of a state that documents depend on, and in which tenants and hosts two states differ: compares persistent
//! maps, which skips shared parts, so the cost is proportional to the change.
//!
//! Not here: what is rendered from them (content).

use std::{collections::BTreeSet, sync::Arc};

use imbl::{OrdMap, ordmap::DiffItem};
use isyone_fleet::{
    desired::{Host, Tenant, certificates::EdgeCertificate, domains::DomainTrouble},
    observed::SeenByEdges,
    state::State,
};
use isyone_proto::ids::{HostName, TenantName};

/// The relevant parts of the last state.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    tenants: OrdMap<TenantName, Arc<Tenant>>,
    hosts: OrdMap<HostName, Arc<Host>>,
    domain_troubles: OrdMap<String, Arc<DomainTrouble>>,
    certificates: OrdMap<String, Arc<EdgeCertificate>>,
    /// Whether a tenant in its first start has a route yet, and whether a tenant's uploads are refused.
    observed: OrdMap<(TenantName, HostName), SeenByEdges>,
}

/// The tenants and hosts to render again. Not every one of them has visibly changed.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) tenants: BTreeSet<TenantName>,
    pub(super) hosts: BTreeSet<HostName>,
}

impl Inputs {
    /// Follows this state; returns how it differs from the last one.
    pub(super) fn follow(&mut self, state: &State) -> Dirty {
        let mut dirty = Dirty::default();
        for item in self.tenants.diff(&state.fleet.tenants) {
            let (DiffItem::Add(name, _)
            | DiffItem::Remove(name, _)
            | DiffItem::Update { new: (name, _), .. }) = item;
            dirty.tenants.insert(name.clone());
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
        for item in self.observed.diff(state.observed.seen_by_edges()) {
            let (DiffItem::Add((name, _), _)
            | DiffItem::Remove((name, _), _)
            | DiffItem::Update {
                new: ((name, _), _),
                ..
            }) = item;
            dirty.tenants.insert(name.clone());
        }
        self.observed = state.observed.seen_by_edges().clone();
        self.certificates = state.fleet.certificates.clone();
        self.tenants = state.fleet.tenants.clone();
        self.hosts = state.fleet.hosts.clone();
        self.domain_troubles = state.fleet.domain_troubles.clone();
        dirty
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
