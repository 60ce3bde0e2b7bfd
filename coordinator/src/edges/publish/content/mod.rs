//! All fragments of all documents, kept up to date: a new state re-renders only the fragments that its difference from
//! the last one affects. Grouped by shard; without shards there is one group with everything.
//!
//! Pure. Not here: the documents made from them (document) and when they are published (publish).

use std::{collections::BTreeSet, fmt::Write as _, net::IpAddr, sync::Arc};

use bytes::Bytes;
use imbl::{OrdMap, ordmap::DiffItem};
use isyone_fleet::{
    desired::certificates::EdgeCertificate, settings::Settings, shards::Shards, state::State, views,
};
use isyone_monitoring as monitoring;
use isyone_proto::ids::{HostName, TenantName};
use isyone_traefik as traefik;
use zeroize::Zeroizing;

use super::{
    inputs::Inputs,
    pages::{Edits, PARTS, Pages, Parts},
};
use crate::edges::running::LeftOut;

/// The kinds of documents that consist of fragments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DocumentKind {
    /// Routers and services of tenants.
    Traefik,
    /// Target groups of tenants' Odoo.
    Odoo,
    /// Target groups of tenants' PostgreSQL.
    Postgres,
    /// Target groups of hosts.
    Host,
    /// Target groups of hosts' containers.
    Containers,
    /// Tenants' host names with their shard.
    Hostnames,
}

const KINDS: usize = 6;

/// The fragments of one shard, by kind.
type Share = [Pages; KINDS];

/// The fragments of all documents, by shard and kind, and the inputs that they were rendered from.
pub(super) struct Content {
    inputs: Inputs,
    routes: traefik::Routes,
    /// The routes left out, by tenant; has no empty lists.
    rejected: LeftOut,
    /// The agents' port for Prometheus, at the hosts' own addresses.
    agent_port: u16,
    shards: Shards,
    shares: Vec<Share>,
    /// Certificates of platform names by shard, then one group for all others: a customer's domain may change shards,
    /// and with a common group we need not know its shard.
    certificates: Vec<Pages>,
    known_certificates: OrdMap<String, Arc<EdgeCertificate>>,
}

/// The effect of a new state.
#[derive(Debug, Default)]
pub(super) struct Update {
    /// Whether any fragment differs.
    pub(super) changed: bool,
    /// Routes that are newly left out.
    pub(super) rejected: Vec<traefik::Rejected>,
}

/// Edits for all shares and kinds.
struct Batch(Vec<[Edits; KINDS]>);

impl Batch {
    fn put(
        &mut self,
        share: usize,
        kind: DocumentKind,
        name: &str,
        fragment: Option<[String; PARTS]>,
    ) {
        let parts: Option<Parts> = fragment.map(|parts| parts.map(Bytes::from));
        self.0[share][kind as usize].insert(name.to_owned(), parts);
    }
}

/// A fragment with one part only.
fn single(text: String) -> [String; PARTS] {
    [text, String::new(), String::new()]
}

impl Content {
    pub(super) fn new(options: traefik::Options, agent_port: u16, shards: Shards) -> Self {
        Self {
            inputs: Inputs::default(),
            routes: traefik::Routes::new(options),
            rejected: LeftOut::new(),
            agent_port,
            shares: vec![Share::default(); shards.names().len().max(1)],
            certificates: vec![Pages::default(); shards.names().len().max(1) + 1],
            known_certificates: OrdMap::new(),
            shards,
        }
    }

    /// The name of a scope's shard; empty for everything.
    pub(super) fn shard(&self, scope: usize) -> &str {
        self.shards.scope_name(scope)
    }

    /// The fragments of one kind in a scope: every shard's in scope 0, otherwise those of shard `scope - 1`.
    pub(super) fn shares(&self, kind: DocumentKind, scope: usize) -> Vec<Pages> {
        let shares = match scope.checked_sub(1) {
            None => self.shares.as_slice(),
            Some(place) => self.shares.get(place..=place).unwrap_or_default(),
        };
        shares
            .iter()
            .map(|share| share[kind as usize].clone())
            .collect()
    }

    /// The certificates of a scope.
    pub(super) fn certificates(&self, scope: usize) -> Vec<Pages> {
        let own = match scope.checked_sub(1) {
            None => self.certificates.as_slice(),
            Some(place) => self.certificates.get(place..=place).unwrap_or_default(),
        };
        let common = self.certificates.last().filter(|_| scope > 0);
        own.iter().chain(common).cloned().collect()
    }

    /// Follows a state's certificates; returns whether any differ. `key` opens a private key; if it does not open, only
    /// that certificate is left out.
    pub(super) fn update_certificates(
        &mut self,
        state: &State,
        settings: &Settings,
        key: impl Fn(&EdgeCertificate) -> Option<Zeroizing<String>>,
    ) -> bool {
        let mut batch = vec![Edits::new(); self.certificates.len()];
        for item in self.known_certificates.diff(&state.fleet.certificates) {
            let (name, certificate) = match item {
                DiffItem::Add(name, certificate)
                | DiffItem::Update {
                    new: (name, certificate),
                    ..
                } => (name, Some(certificate)),
                DiffItem::Remove(name, _) => (name, None),
            };
            let fragment = certificate.and_then(|certificate| {
                let text = traefik::certificate(&certificate.chain_pem, &key(certificate)?);
                Some(single(text).map(Bytes::from))
            });
            batch[self.certificate_share(name, settings)].insert(name.clone(), fragment);
        }
        self.known_certificates = state.fleet.certificates.clone();
        let mut changed = false;
        for (pages, edits) in self.certificates.iter_mut().zip(batch) {
            changed |= pages.apply(edits);
        }
        changed
    }

    /// Depends on the name only, so that we find the certificate again when it goes.
    fn certificate_share(&self, name: &str, settings: &Settings) -> usize {
        let label = name
            .strip_suffix(&settings.base_domain)
            .and_then(|label| label.strip_suffix('.'));
        let platform = label.and_then(|label| label.parse::<TenantName>().ok());
        platform.map_or(self.certificates.len() - 1, |tenant| {
            self.share_of(tenant.as_str())
        })
    }

    /// The routes currently left out, by tenant.
    pub(super) fn left_out(&self) -> &LeftOut {
        &self.rejected
    }

    /// Follows this state: renders whatever differs from the last one.
    pub(super) fn update(&mut self, state: &State, settings: &Settings) -> Update {
        let dirty = self.inputs.follow(state);
        let mut batch = Batch(vec![<[Edits; KINDS]>::default(); self.shares.len()]);
        let mut concerned = BTreeSet::new();
        for name in &dirty.tenants {
            self.tenant(state, settings, name, &mut batch);
            let tenant = state.fleet.tenants.get(name);
            let route = tenant
                .and_then(|tenant| views::route(state, settings, tenant))
                .map(route);
            concerned.extend(self.routes.set(name.as_str(), route));
        }
        for name in &dirty.hosts {
            let known = state
                .fleet
                .hosts
                .get(name)
                // Prometheus' certificate is shown to nobody whom no admin knows.
                .filter(|host| !host.pending)
                .map(|host| self.agent(name, host.advertise));
            let group = |render: fn(&monitoring::Host) -> String| {
                known.as_ref().map(|host| single(render(host)))
            };
            let share = self.share_of(name.as_str());
            batch.put(
                share,
                DocumentKind::Host,
                name.as_str(),
                group(monitoring::host),
            );
            batch.put(
                share,
                DocumentKind::Containers,
                name.as_str(),
                group(monitoring::containers),
            );
        }
        let mut update = Update::default();
        for name in &concerned {
            let (fragment, rejected) = self.routes.judge(name);
            let fragment = fragment.map(|f| [f.routers, f.services, f.middlewares]);
            batch.put(self.share_of(name), DocumentKind::Traefik, name, fragment);
            update.rejected.extend(self.reject(name, rejected));
        }
        for (share, edits) in self.shares.iter_mut().zip(batch.0) {
            for (pages, edits) in share.iter_mut().zip(edits) {
                update.changed |= pages.apply(edits);
            }
        }
        update
    }

    /// Where a host's agent answers Prometheus.
    fn agent(&self, host: &HostName, address: IpAddr) -> monitoring::Host {
        monitoring::Host {
            name: host.to_string(),
            address,
            port: self.agent_port,
        }
    }

    fn share_of(&self, name: &str) -> usize {
        self.shards.of(name).unwrap_or(0)
    }

    /// Renders a tenant's targets and host names.
    fn tenant(&self, state: &State, settings: &Settings, name: &TenantName, batch: &mut Batch) {
        let share = self.share_of(name.as_str());
        let tenant = state.fleet.tenants.get(name);
        let target = tenant
            .and_then(|tenant| views::target(state, tenant))
            .map(|target| monitoring::Tenant {
                name: target.tenant.to_string(),
                host: self.agent(&target.host, target.address),
                plan: target.plan,
            });
        let group =
            |render: fn(&monitoring::Tenant) -> String| target.as_ref().map(|t| single(render(t)));
        batch.put(
            share,
            DocumentKind::Odoo,
            name.as_str(),
            group(monitoring::odoo),
        );
        batch.put(
            share,
            DocumentKind::Postgres,
            name.as_str(),
            group(monitoring::postgres),
        );
        if let Some(shard) = self.shards.names().get(share) {
            // Even before it has a route: by then its host names must be in DNS.
            let lines = tenant.filter(|t| !t.is_deleted()).map(|tenant| {
                tenant.hostnames(&settings.base_domain).iter().fold(
                    String::new(),
                    |mut lines, hostname| {
                        // Writing to a `String` cannot fail; neither name has a character that JSON escapes.
                        let _ = write!(lines, ",\n\"{hostname}\":\"{shard}\"");
                        lines
                    },
                )
            });
            batch.put(
                share,
                DocumentKind::Hostnames,
                name.as_str(),
                lines.map(single),
            );
        }
    }

    /// Records what is left out of a tenant; returns what is newly left out.
    fn reject(&mut self, tenant: &str, rejected: Vec<traefik::Rejected>) -> Vec<traefik::Rejected> {
        let before = self.rejected.remove(tenant).unwrap_or_default();
        let new = rejected
            .iter()
            .filter(|r| !before.contains(r))
            .cloned()
            .collect();
        if !rejected.is_empty() {
            self.rejected.insert(tenant.to_owned(), rejected);
        }
        new
    }
}

fn route(route: views::Route) -> traefik::Route {
    traefik::Route {
        tenant: route.tenant.to_string(),
        hostnames: route.hostnames,
        primary: route.primary,
        access: traefik::RouteAccess {
            addresses: route.access.addresses.into(),
            users: route.access.users,
            rate: route.access.rate.map(|rate| traefik::Rate {
                average: rate.average,
                burst: rate.burst,
            }),
        },
        target: if route.suspended {
            traefik::Target::Page
        } else {
            traefik::Target::Running {
                address: route.address,
                http_port: route.http_port,
                websocket_port: route.websocket_port,
            }
        },
        full: route.full,
    }
}

#[cfg(test)]
mod tests;
