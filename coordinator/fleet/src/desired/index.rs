//! Indexes computed from the Fleet's records and updated with each change of them: what is placed on each host, who
//! owns a domain, when quarantines end, which operations have ended, what each host proves.
//!
//! The same records always give the same indexes, in whatever order they came
//! (test: `indexes_are_what_records_make_them`).
//! Indexes are not stored.
//! Not here: the ranking of hosts by load (placement).

use std::sync::Arc;

use imbl::OrdSet;
use isyone_types::{
    ids::{HostName, TenantName},
    plan::{Lifecycle, UnixMs},
};
use uuid::Uuid;

use super::{
    CopyRole, Fleet, Tenant, TenantPlacement,
    backups::{BackupKey, TenantBackups},
};
use crate::operation::Operation;

/// What is placed on a host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostIndex {
    /// Every tenant placed there, including quarantined ones: they hold disk, ports and a network.
    pub tenants: OrdSet<TenantName>,
    /// Tenants that have never been reported running: their resources are promised, but do not show in the host's
    /// figures yet.
    pub settling: OrdSet<TenantName>,
    /// Memory of the settling tenants.
    pub settling_memory_bytes: u64,
    /// Disk of the settling tenants.
    pub settling_disk_bytes: u64,
    /// Memory reserved by running and suspended tenants.
    pub memory_bytes: u64,
    /// CPU reserved by running and suspended tenants.
    pub cpu_millis: u64,
    /// Disk of all tenants placed there.
    pub disk_bytes: u64,
    /// Published ports in use (two for each tenant).
    pub ports: OrdSet<u16>,
    /// Networks in use, by their first address.
    pub subnets: OrdSet<u32>,
}

impl HostIndex {
    /// Marks a tenant's name, network and ports as taken.
    fn hold(&mut self, name: &TenantName, place: &TenantPlacement) {
        self.tenants.insert(name.clone());
        self.ports.insert(place.http_port);
        self.ports.insert(place.websocket_port);
        self.subnets.insert(place.subnet.network().to_bits());
    }

    fn release(&mut self, name: &TenantName, place: &TenantPlacement) {
        self.tenants.remove(name);
        self.ports.remove(&place.http_port);
        self.ports.remove(&place.websocket_port);
        self.subnets.remove(&place.subnet.network().to_bits());
    }

    /// Adds the share of a tenant's copy to the sums.
    fn add(&mut self, tenant: &Tenant, role: Option<&CopyRole>) {
        let size = tenant.size;
        self.disk_bytes = self.disk_bytes.saturating_add(size.disk_bytes);
        if !tenant.reserves_compute_as(role) {
            return;
        }
        self.memory_bytes = self.memory_bytes.saturating_add(size.memory_bytes);
        self.cpu_millis = self.cpu_millis.saturating_add(u64::from(size.cpu_millis));
        if tenant.is_settling_as(role) {
            self.settling.insert(tenant.name.clone());
            self.settling_memory_bytes =
                self.settling_memory_bytes.saturating_add(size.memory_bytes);
            self.settling_disk_bytes = self.settling_disk_bytes.saturating_add(size.disk_bytes);
        }
    }

    fn subtract(&mut self, tenant: &Tenant, role: Option<&CopyRole>) {
        let size = tenant.size;
        self.disk_bytes = self.disk_bytes.saturating_sub(size.disk_bytes);
        if !tenant.reserves_compute_as(role) {
            return;
        }
        self.memory_bytes = self.memory_bytes.saturating_sub(size.memory_bytes);
        self.cpu_millis = self.cpu_millis.saturating_sub(u64::from(size.cpu_millis));
        if tenant.is_settling_as(role) {
            self.settling.remove(&tenant.name);
            self.settling_memory_bytes =
                self.settling_memory_bytes.saturating_sub(size.memory_bytes);
            self.settling_disk_bytes = self.settling_disk_bytes.saturating_sub(size.disk_bytes);
        }
    }
}

/// An operation's entry in [`Fleet::ended`], once it is over.
fn ended(operation: &Operation) -> Option<(UnixMs, Uuid)> {
    let at = operation.ended_at.unwrap_or(operation.created_at);
    operation.is_over().then_some((at, operation.id))
}

impl Tenant {
    /// Whether a copy in this role has memory and CPU reserved: the one that lives while the tenant may run, and one that
    /// may take over.
    fn reserves_compute_as(&self, role: Option<&CopyRole>) -> bool {
        match role {
            None | Some(CopyRole::Incoming | CopyRole::Standby(_)) => self.reserves_compute(),
            Some(CopyRole::Fenced { .. } | CopyRole::Discarded) => false,
        }
    }

    /// Whether memory and CPU are reserved for a copy that has never been seen running there.
    fn is_settling_as(&self, role: Option<&CopyRole>) -> bool {
        let never_seen = self.activated_at.is_none() || role == Some(&CopyRole::Incoming);
        self.reserves_compute_as(role) && never_seen
    }

    /// Its entry in [`Fleet::fenced`].
    fn fenced(&self) -> Option<(UnixMs, TenantName)> {
        let until = self.lets_go_at().filter(|_| !self.is_deleted())?;
        Some((until, self.name.clone()))
    }

    /// Its entry in [`Fleet::quarantines`].
    fn quarantine(&self) -> Option<(UnixMs, TenantName)> {
        let until = self
            .quarantine_until
            .filter(|_| self.desired == Lifecycle::Quarantined && !self.quarantine_held)?;
        Some((until, self.name.clone()))
    }

    /// Whether both hold the same host, network, ports and domains.
    fn holds_the_same(&self, other: &Self) -> bool {
        let (a, b) = (&self.placement, &other.placement);
        a.host == b.host
            && a.subnet == b.subnet
            && (a.http_port, a.websocket_port) == (b.http_port, b.websocket_port)
            && self.copies == other.copies
            && self.spec.domains == other.spec.domains
    }
}

impl Fleet {
    /// Inserts or replaces a tenant and updates the indexes.
    pub fn put_tenant(&mut self, tenant: Arc<Tenant>) {
        let old = self.tenants.insert(tenant.name.clone(), tenant.clone());
        match &old {
            // Most changes leave a tenant in its place and only change its share in the sums.
            Some(old) if old.holds_the_same(&tenant) => {
                for (place, role) in tenant.places() {
                    if let Some(index) = self.by_host.get_mut(&place.host) {
                        index.subtract(old, role);
                        index.add(&tenant, role);
                    }
                }
            }
            Some(old) => {
                self.unindex(old);
                self.index(&tenant);
            }
            None => self.index(&tenant),
        }
        if let Some(old) = old {
            self.forget_times(&old);
        }
        self.quarantines.extend(tenant.quarantine());
        self.fenced.extend(tenant.fenced());
        if tenant.standby().is_some() {
            self.standbys.insert(tenant.name.clone());
        }
    }

    /// Removes a tenant and its index entries.
    pub fn remove_tenant(&mut self, name: &TenantName) {
        if let Some(old) = self.tenants.remove(name) {
            self.unindex(&old);
            self.forget_times(&old);
        }
    }

    fn forget_times(&mut self, tenant: &Tenant) {
        self.standbys.remove(&tenant.name);
        if let Some(entry) = tenant.quarantine() {
            self.quarantines.remove(&entry);
        }
        if let Some(entry) = tenant.fenced() {
            self.fenced.remove(&entry);
        }
    }

    /// Inserts or replaces the key of a tenant's backups and updates the index.
    pub fn put_backup_key(&mut self, key: Arc<BackupKey>) {
        let end = key.delete_at.map(|at| (at, key.tenant));
        if let Some(old) = self.backup_keys.insert(key.tenant, key) {
            self.forget_end(&old);
        }
        self.key_ends.extend(end);
    }

    /// Removes the key of a tenant's backups and its index entry.
    pub fn remove_backup_key(&mut self, tenant: Uuid) {
        if let Some(old) = self.backup_keys.remove(&tenant) {
            self.forget_end(&old);
        }
    }

    /// Inserts or replaces what was backed up of a tenant and updates the index.
    pub fn put_backups(&mut self, of: Arc<TenantBackups>) {
        let proving = of
            .proving
            .as_ref()
            .map(|order| (order.host.clone(), of.tenant));
        if let Some(old) = self.backups.insert(of.tenant, of) {
            self.forget_proving(&old);
        }
        self.proving.extend(proving);
    }

    /// Removes what was backed up of a tenant, and its index entry.
    pub fn remove_backups(&mut self, tenant: Uuid) {
        if let Some(old) = self.backups.remove(&tenant) {
            self.forget_proving(&old);
        }
    }

    fn forget_proving(&mut self, of: &TenantBackups) {
        if let Some(order) = &of.proving {
            self.proving.remove(&(order.host.clone(), of.tenant));
        }
    }

    /// Tenants of which a host proves a backup now, by uid.
    pub fn proving_at(&self, host: &HostName) -> impl Iterator<Item = &Uuid> {
        let from = (host.clone(), Uuid::nil());
        let there = self
            .proving
            .range(from..)
            .take_while(move |(at, _)| at == host);
        there.map(|(_, tenant)| tenant)
    }

    fn forget_end(&mut self, key: &BackupKey) {
        if let Some(at) = key.delete_at {
            self.key_ends.remove(&(at, key.tenant));
        }
    }

    /// Inserts or replaces an operation and updates the indexes.
    pub fn put_operation(&mut self, operation: Arc<Operation>) {
        let old = self.operations.insert(operation.id, operation.clone());
        if let Some(old) = old {
            self.forget_place(&old);
            self.forget_copying(&old);
            self.forget_keys(
                old.keys()
                    .filter(|key| !operation.keys().any(|k| k == *key)),
                &old,
            );
        }
        match ended(&operation) {
            Some(entry) => drop(self.ended.insert(entry)),
            None => drop(self.running.insert(operation.id)),
        }
        for key in operation.keys() {
            self.by_request.insert(key.clone(), operation.id);
        }
        for host in operation.copies_between().into_iter().flatten() {
            self.copying.insert((host.clone(), operation.id));
        }
    }

    fn forget_place(&mut self, operation: &Operation) {
        match ended(operation) {
            Some(entry) => drop(self.ended.remove(&entry)),
            None => drop(self.running.remove(&operation.id)),
        }
    }

    fn forget_keys<'a>(&mut self, keys: impl Iterator<Item = &'a String>, of: &Operation) {
        for key in keys {
            if self.by_request.get(key) == Some(&of.id) {
                self.by_request.remove(key);
            }
        }
    }

    fn forget_copying(&mut self, operation: &Operation) {
        for host in operation.copies_between().into_iter().flatten() {
            self.copying.remove(&(host.clone(), operation.id));
        }
    }

    /// Moves that keep their tenants stopped in order to copy them from or to this host.
    pub fn copying_at(&self, host: &HostName) -> impl Iterator<Item = &Uuid> {
        let from = (host.clone(), Uuid::nil());
        let there = self
            .copying
            .range(from..)
            .take_while(move |(at, _)| at == host);
        there.map(|(_, id)| id)
    }

    /// Removes an operation and its index entries.
    pub fn remove_operation(&mut self, id: &Uuid) {
        let Some(old) = self.operations.remove(id) else {
            return;
        };
        self.forget_place(&old);
        self.forget_copying(&old);
        self.forget_keys(old.keys(), &old);
    }

    fn index(&mut self, tenant: &Tenant) {
        for (place, role) in tenant.places() {
            let index = self.by_host.entry(place.host.clone()).or_default();
            index.hold(&tenant.name, place);
            index.add(tenant, role);
        }
        for domain in &tenant.spec.domains {
            self.by_domain
                .insert(domain.as_str().to_owned(), tenant.name.clone());
        }
    }

    fn unindex(&mut self, tenant: &Tenant) {
        for (place, role) in tenant.places() {
            if let Some(index) = self.by_host.get_mut(&place.host) {
                index.release(&tenant.name, place);
                index.subtract(tenant, role);
                if index.tenants.is_empty() {
                    self.by_host.remove(&place.host);
                }
            }
        }
        for domain in &tenant.spec.domains {
            if self.by_domain.get(domain.as_str()) == Some(&tenant.name) {
                self.by_domain.remove(domain.as_str());
            }
        }
    }
}
