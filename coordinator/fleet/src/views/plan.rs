//! A host's plan: every copy of a tenant that has a place there, and the jobs and grants of operations under way.
//!
//! Two plans with the same generation are the same: nothing observed is in them.
//! Not here: sending it (the coordinator's agents/session).

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use isyone_types::{
    backup::RepositoryKey,
    ids::{HostName, ShortName, TenantName},
    mail::Mail,
    network::{MailRelay, NetworkPolicy},
    odoo::OdooSettings,
    plan::{
        Callers, DesiredState, Firewall, HostPlan, JobOrder, JobWork, Lifecycle, PeerGrant, Seed,
        TenantPlan, TenantSecrets, UnixMs,
    },
};
use uuid::Uuid;

use super::{
    backups,
    filling::filling_job,
    proofs,
    standby::{asks_first, follows, lease, standing},
};
#[cfg(feature = "planted")]
use crate::planted;
use crate::{
    desired::{CopyRole, Stragglers, Tenant, TenantPlacement, backups::BackupKey},
    operation::{MoveStage, Operation, Procedure, Relocation},
    settings::Settings,
    state::State,
};

/// Everything that a host must run; `None` for a host that is not there or that nobody has let in. `open` unseals a
/// tenant's passwords, `open_key` the key of its backups.
pub fn host_plan<E>(
    state: &State,
    settings: &Settings,
    host: &HostName,
    mut open: impl FnMut(&Tenant) -> Result<TenantSecrets, E>,
    mut open_key: impl FnMut(&BackupKey) -> Result<RepositoryKey, E>,
) -> Result<Option<HostPlan>, E> {
    let record = state.fleet.hosts.get(host);
    let Some(record) = record.filter(|record| !record.pending) else {
        return Ok(None);
    };
    let mut plan = HostPlan {
        generation: record.plan_generation,
        tenants: Vec::new(),
        firewall: firewall(settings),
        jobs: Vec::new(),
        grants: Vec::new(),
    };
    let index = state.fleet.by_host.get(host);
    let tenants = index.into_iter().flat_map(|index| &index.tenants);
    for tenant in tenants.filter_map(|name| state.fleet.tenants.get(name)) {
        let Some((place, role)) = tenant.copy_on(host) else {
            continue;
        };
        let secrets = open(tenant)?;
        let mut told_of = tenant_plan(tenant, place, role, settings, secrets);
        told_of.follows = follows(state, tenant, role);
        told_of.callers = callers(state, tenant, role, host);
        if role == Some(&CopyRole::Incoming)
            && let Some(operation) = restored(state, tenant)
        {
            told_of.seed = Seed::Backup(operation.id);
        }
        told_of.as_it_is = role.is_none() && place.as_it_is;
        told_of.lease = lease(tenant, place, role);
        told_of.asks_first = told_of.desired == DesiredState::Running && asks_first(state, tenant);
        // Of what lies elsewhere, nothing is backed up.
        if role.is_none()
            && let Some(told) = backups::told(state, settings, tenant, &mut open_key)?
        {
            told_of.backup = Some(told.plan);
            told_of.wal_spool = told.spool;
            plan.jobs.extend(told.job);
        }
        plan.tenants.push(told_of);
        plan.jobs
            .extend(filling_job((state, settings), tenant, host, &mut open_key)?);
        let (kept_up, let_read) = standing(tenant, host);
        plan.jobs.extend(kept_up);
        plan.grants.extend(let_read);
        if let Some((operation, relocation)) = copying(state, tenant) {
            if relocation.to == *host {
                plan.jobs.push(job(operation, relocation, tenant));
            } else if relocation.from == *host {
                plan.grants.push(grant(operation, relocation, tenant));
            }
        }
    }
    // What is proven here need not live here.
    plan.jobs
        .extend(proofs::proof_jobs(state, settings, host, &mut open_key)?);
    plan.jobs.sort_by_key(|job| job.id);
    plan.firewall.policies = policies(state, settings, &plan.tenants);
    plan.firewall.edges.extend(passing_on(state, host));
    Ok(Some(plan))
}

/// Hosts that pass requests on to this one: to it they are edges.
fn passing_on<'a>(state: &'a State, host: &'a HostName) -> impl Iterator<Item = IpNet> + 'a {
    let here = state.fleet.by_host.get(host).into_iter();
    let tenants = here.flat_map(|index| &index.tenants);
    let tenants = tenants.filter_map(|name| state.fleet.tenants.get(name));
    let coming = tenants.filter(|tenant| tenant.placement.host == *host);
    let copies = coming.flat_map(|tenant| &tenant.copies);
    let sending = copies.filter(|copy| copy.stragglers != Stragglers::Refused);
    let hosts: BTreeSet<&HostName> = sending.map(|copy| &copy.place.host).collect();
    let known = hosts
        .into_iter()
        .filter_map(|host| state.fleet.hosts.get(host));
    known.map(|host| IpNet::from(host.advertise))
}

/// What becomes of requests that come to a copy whose Odoo does not run.
fn callers(state: &State, tenant: &Tenant, role: Option<&CopyRole>, host: &HostName) -> Callers {
    if role.is_none() {
        let held = tenant.hold_ms.filter(|_| tenant.halted);
        return held.map_or(Callers::Refused, |most_ms| Callers::Held { most_ms });
    }
    let copy = tenant.copies.iter().find(|copy| copy.place.host == *host);
    let place = &tenant.placement;
    match copy.map(|copy| copy.stragglers).unwrap_or_default() {
        Stragglers::Refused => Callers::Refused,
        Stragglers::Held { most_ms } => Callers::Held { most_ms },
        Stragglers::PassedOn => match state.fleet.hosts.get(&place.host) {
            None => Callers::Refused,
            Some(to) => Callers::PassedOn {
                address: to.advertise,
                http_port: place.http_port,
                websocket_port: (tenant.size.workers > 0).then_some(place.websocket_port),
            },
        },
    }
}

/// What the networks of a host's tenants may do: one policy for each of their plans.
fn policies(state: &State, settings: &Settings, tenants: &[TenantPlan]) -> Vec<NetworkPolicy> {
    let mut by_plan: BTreeMap<&ShortName, Vec<TenantName>> = BTreeMap::new();
    for name in tenants.iter().map(|tenant| &tenant.name) {
        if let Some(tenant) = state.fleet.tenants.get(name) {
            by_plan
                .entry(&tenant.spec.plan)
                .or_default()
                .push(name.clone());
        }
    }
    let policy = |(plan, tenants)| NetworkPolicy {
        tenants,
        rules: settings
            .network_rules
            .get(plan)
            .cloned()
            .unwrap_or_default(),
    };
    by_plan.into_iter().map(policy).collect()
}

/// What a host fetches from another one: a tenant's data, for an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetching {
    pub operation: Uuid,
    pub tenant: TenantName,
    pub from: HostName,
    pub to: HostName,
}

/// Whether a host's plan has that job now, and the other's a live grant for it: the rule for data that goes through the
/// coordinator is the one for data that does not.
pub fn is_fetching(state: &State, asked: &Fetching, now: UnixMs) -> bool {
    let tenant = state.fleet.tenants.get(&asked.tenant);
    let stands = tenant
        .and_then(|tenant| tenant.standby())
        .is_some_and(|(place, standby)| {
            standby.job == asked.operation
                && standby.armed
                && standby.is_kept_up()
                && place.host == asked.to
        });
    if stands && tenant.is_some_and(|tenant| tenant.placement.host == asked.from) {
        return true;
    }
    let copying = tenant.and_then(|tenant| copying(state, tenant));
    copying.is_some_and(|(operation, relocation)| {
        let have_places = [&asked.from, &asked.to]
            .iter()
            .all(|host| tenant.is_some_and(|tenant| tenant.copy_on(host).is_some()));
        operation.id == asked.operation
            && (&relocation.from, &relocation.to) == (&asked.from, &asked.to)
            && have_places
            && now < relocation.leave_until
    })
}

/// The operation that copies a tenant's data at present.
fn copying<'a>(state: &'a State, tenant: &Tenant) -> Option<(&'a Operation, &'a Relocation)> {
    let operation = state.fleet.operations.get(&tenant.operation)?;
    match &operation.procedure {
        // What comes from a backup comes from no other host.
        Procedure::Move(relocation) if relocation.backup.is_some() => None,
        Procedure::Move(relocation) if !operation.is_over() => match relocation.stage {
            MoveStage::Copy | MoveStage::Follow => Some((operation, relocation)),
            // The copy is kept up while the tenant is being stopped.
            MoveStage::Stop => relocation.live.as_ref().map(|_| (&**operation, relocation)),
            _ => None,
        },
        _ => None,
    }
}

/// The operation by which a tenant whose host is lost comes back from a backup.
fn restored<'a>(state: &'a State, tenant: &Tenant) -> Option<&'a Operation> {
    let operation = state.fleet.operations.get(&tenant.operation)?;
    match &operation.procedure {
        Procedure::Move(relocation) if !operation.is_over() => {
            relocation.backup.as_ref().map(|_| &**operation)
        }
        _ => None,
    }
}

/// The job has the operation's id: there is one for each.
fn job(operation: &Operation, relocation: &Relocation, tenant: &Tenant) -> JobOrder {
    let (from, address) = (relocation.from.clone(), relocation.source);
    JobOrder {
        id: operation.id,
        operation: operation.id,
        tenant: tenant.name.clone(),
        uid: tenant.uid,
        work: match &relocation.live {
            None => JobWork::Fetch { from, address },
            Some(_) => JobWork::Follow {
                from,
                address,
                last: relocation.stage == MoveStage::Copy,
                standing: false,
            },
        },
        rate_bytes_per_s: 0,
    }
}

fn grant(operation: &Operation, relocation: &Relocation, tenant: &Tenant) -> PeerGrant {
    PeerGrant {
        operation: operation.id,
        tenant: tenant.name.clone(),
        uid: tenant.uid,
        peer: relocation.to.clone(),
        expires_at: relocation.leave_until,
        live: relocation.live.is_some(),
    }
}

/// What a copy must be: the tenant's wish where it lives, and what its role says elsewhere.
fn desired(tenant: &Tenant, role: Option<&CopyRole>) -> DesiredState {
    match (role, tenant.desired) {
        (None, Lifecycle::Running) if tenant.is_being_filled() => DesiredState::Standby,
        (None, Lifecycle::Running) if tenant.has_taken_over() => DesiredState::Standby,
        (None, Lifecycle::Running) if tenant.halted => DesiredState::Suspended,
        (None, wanted) => wanted.into(),
        (Some(CopyRole::Discarded), _) | (Some(_), Lifecycle::Purged) => DesiredState::Purged,
        #[cfg(feature = "planted")]
        (Some(CopyRole::Incoming), wanted)
            if tenant.hold_ms.is_some() && planted::has(planted::Bug::ReleasedEarly) =>
        {
            wanted.into()
        }
        (Some(CopyRole::Standby(standby)), _) if standby.anew => DesiredState::Fenced,
        (Some(CopyRole::Incoming | CopyRole::Standby(_)), _) => DesiredState::Standby,
        #[cfg(feature = "planted")]
        (Some(CopyRole::Fenced { .. }), wanted) if planted::has(planted::Bug::TwoWriters) => {
            wanted.into()
        }
        (Some(CopyRole::Fenced { .. }), _) => DesiredState::Fenced,
    }
}

fn seed(tenant: &Tenant, role: Option<&CopyRole>) -> Seed {
    match role {
        Some(CopyRole::Incoming | CopyRole::Standby(_)) => {
            Seed::Peer(tenant.placement.host.clone())
        }
        _ if tenant.activated_at.is_some() && !tenant.is_being_filled() => Seed::Existing,
        _ => tenant.from_backup.map_or(Seed::Fresh, Seed::Backup),
    }
}

fn tenant_plan(
    tenant: &Tenant,
    place: &TenantPlacement,
    role: Option<&CopyRole>,
    settings: &Settings,
    secrets: TenantSecrets,
) -> TenantPlan {
    let spec = &tenant.spec;
    TenantPlan {
        name: tenant.name.clone(),
        uid: tenant.uid,
        epoch: place.epoch,
        generation: tenant.generation,
        desired: desired(tenant, role),
        operation: Some(tenant.operation),
        odoo_image: spec.odoo_image.clone(),
        postgres_image: spec.postgres_image.clone(),
        size: tenant.size,
        subnet: place.subnet,
        http_port: place.http_port,
        websocket_port: place.websocket_port,
        base_url: settings.url(&tenant.primary_name(&settings.base_domain)),
        language: spec.language.clone(),
        country: spec.country.clone(),
        time_zone: spec.time_zone.clone(),
        modules: spec.modules.clone(),
        admin_login: spec.admin_login.clone(),
        secrets,
        odoo_restarts: tenant.odoo_restarts,
        postgres_restarts: tenant.postgres_restarts,
        settings_asked: tenant.settings_asked,
        images_asked: tenant.images_asked,
        quarantine_until: tenant.quarantine_until,
        // A discarded copy is one of several: nothing is lost with it.
        purge_now: tenant.purge_now || role == Some(&CopyRole::Discarded),
        leftover: role == Some(&CopyRole::Discarded),
        // It lies where the tenant lived then, whatever its role there.
        before: { tenant.before.as_ref() }
            .filter(|before| before.host == place.host)
            .map(|before| before.wish),
        seed: seed(tenant, role),
        upload_limit_bytes: settings.edge.upload_limit_bytes,
        wal_spool: None,
        backup: None,
        signup: spec.signup,
        collation: spec.collation.clone(),
        mail: mail(settings, tenant).map(|(mail, _)| mail.clone()),
        odoo: odoo_settings(settings, tenant),
        follows: false,
        as_it_is: false,
        asks_first: false,
        lease: None,
        callers: Callers::Refused,
    }
}

/// Where a tenant's settings are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingSource {
    Fleet,
    Plan,
    Tenant,
}

/// How a tenant's Odoo sends mail: as it says itself, else its plan, else the fleet.
pub fn mail<'a>(settings: &'a Settings, tenant: &'a Tenant) -> Option<(&'a Mail, SettingSource)> {
    if let Some(own) = tenant.mail.as_deref() {
        return Some((own, SettingSource::Tenant));
    }
    let rules = &settings.mail;
    if let Some(plans) = rules.plans.get(&tenant.spec.plan) {
        return Some((&plans.mail, SettingSource::Plan));
    }
    let fleets = rules.fleet.as_ref()?;
    Some((&fleets.mail, SettingSource::Fleet))
}

fn layers<'a>(
    settings: &'a Settings,
    tenant: &'a Tenant,
) -> [(&'a OdooSettings, SettingSource); 3] {
    static NONE: OdooSettings = OdooSettings::none();
    let plans = settings.odoo.plans.get(&tenant.spec.plan);
    [
        (&settings.odoo.fleet, SettingSource::Fleet),
        (plans.unwrap_or(&NONE), SettingSource::Plan),
        (&tenant.odoo, SettingSource::Tenant),
    ]
}

/// The settings of a tenant's Odoo that somebody has chosen.
fn odoo_settings(settings: &Settings, tenant: &Tenant) -> OdooSettings {
    let layers = layers(settings, tenant).into_iter();
    layers.fold(OdooSettings::none(), |all, (layer, _)| all.under(layer))
}

/// The same with whose choice each is, sorted by name.
pub fn chosen<'a>(
    settings: &'a Settings,
    tenant: &'a Tenant,
) -> Vec<(&'static str, &'a str, SettingSource)> {
    let mut all: BTreeMap<&'static str, (&'a str, SettingSource)> = BTreeMap::new();
    for (layer, source) in layers(settings, tenant) {
        all.extend(
            layer
                .iter()
                .map(|(name, value)| (name.as_str(), (value, source))),
        );
    }
    let rows = all.into_iter();
    rows.map(|(name, (value, source))| (name, value, source))
        .collect()
}

/// Mail servers that tenants may reach wherever they are: those that are declared, and those that tenants are to send by.
pub fn mail_relays(settings: &Settings) -> Vec<MailRelay> {
    let rules = &settings.mail;
    let configured = rules.fleet.iter().chain(rules.plans.values());
    let places = configured.filter_map(|configured| configured.mail.relay()?.place());
    let declared = settings.network.mail_relays.iter().copied();
    let mut all: Vec<MailRelay> = declared.collect();
    for place in places {
        if !all.contains(&place) {
            all.push(place);
        }
    }
    all
}

fn firewall(settings: &Settings) -> Firewall {
    Firewall {
        tenant_range: settings.network.tenant_range,
        first_port: settings.network.first_port,
        last_port: settings.network.last_port,
        edges: settings.edge.addresses.clone(),
        edge_ports: settings.edge.ports.clone(),
        protected_addresses: settings.edge.protected_addresses.clone(),
        protected_names: settings.edge.protected_names.clone(),
        public_addresses: settings.edge.public_addresses.clone(),
        closed: settings.network.closed.clone(),
        mail_relays: mail_relays(settings),
        policies: Vec::new(),
        mtu: settings.network.mtu,
    }
}
