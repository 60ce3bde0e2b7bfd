//! Views of a state: a host's plan (plan), routes, scrape targets, a tenant's phase. Pure functions of one snapshot.
//!
//! Not here: wire formats (the coordinator's operators/ and agents/), and documents for edges and Prometheus (its
//! edges/publish).

mod backups;
mod condition;
mod filling;
mod orders;
mod plan;
mod proofs;
mod standby;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use isyone_types::{
    disk::{Disk, DiskCause},
    identity::OperatorRole,
    ids::{HostName, TenantName},
    network::MAX_HOST_ADDRESSES,
    operation::OperationState,
    plan::{Lifecycle, UnixMs},
    report::{Behind, Stuck, TenantProgress},
    spec::Domain,
};
use uuid::Uuid;

#[cfg(test)]
pub(crate) use self::backups::is_being_copied;
use self::condition::with_full_disk;
pub use self::{
    backups::{
        Rota, gone, may_reach_repository, may_read_repository, no_backups, none_made, offers,
        offers_of_the_gone, protection, repository, rota, stopped_since,
    },
    condition::{disk_is_full, docker_is_away},
    plan::{Fetching, SettingSource, chosen, host_plan, is_fetching, mail, mail_relays},
    proofs::{
        ProofRota, Verdict, Verified, has_backup, no_proof, proof_rota, provers, verdict, verified,
    },
};
pub(crate) use self::{
    orders::is_given_up as is_order_given_up, proofs::is_given_up as is_proof_given_up,
};
use crate::{
    desired::{Tenant, VisitorAccess},
    liveness::HostState,
    observed::{CopyObserved, TenantObserved},
    operation::Operation,
    settings::Settings,
    state::State,
};

/// The step of a create after which its database is nobody else's source; hosts name it.
const FILLING: &str = "database";

/// One word for a tenant's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Stored; its host has not reported on it yet.
    Pending,
    /// Being created for the first time.
    Creating,
    /// It matches its desired state, and its Odoo answers.
    Running,
    /// It should run (or be suspended), but its host reports trouble.
    Failing,
    /// Stopped on request, or asleep.
    Suspended,
    /// Its containers or volumes are being removed.
    Deleting,
    /// Deleted; its volumes are kept.
    Quarantined,
    /// Its host is silent, or has not reported on it since the coordinator started, or its Docker does not answer.
    Unknown,
    /// A requested change is under way.
    Updating,
}

/// A tenant's phase, and a message that explains it.
pub fn phase(state: &State, settings: &Settings, tenant: &Tenant, now: UnixMs) -> (Phase, String) {
    let (phase, text) = observed_phase(state, settings, tenant, now);
    if !(phase == Phase::Quarantined && tenant.quarantine_held) {
        return (phase, text);
    }
    let name = &tenant.name;
    let held = format!(
        "it stays in quarantine until somebody decides, because the coordinator was rebuilt from an older database, which may \
         not know that it was brought back: `isyctl tenant undelete {name}` does so again, `isyctl tenant delete {name}` says \
         that it is to go"
    );
    match text.is_empty() {
        true => (phase, held),
        false => (phase, format!("{held}; {text}")),
    }
}

fn observed_phase(
    state: &State,
    settings: &Settings,
    tenant: &Tenant,
    now: UnixMs,
) -> (Phase, String) {
    let host = &tenant.placement.host;
    let (host_state, silence_ms) = host_state(state, settings, host, now);
    let quarantined = tenant.desired == Lifecycle::Quarantined;
    let observed = observed(state, tenant);
    if is_silent(host_state) {
        let text = format!(
            "host {host} is silent for {} s: nothing is known of this tenant",
            silence_ms / 1000
        );
        return (
            if quarantined {
                Phase::Quarantined
            } else {
                Phase::Unknown
            },
            text,
        );
    }
    if let Some(why) = refused_plan(state, tenant, host) {
        return (Phase::Failing, why);
    }
    if let Some(why) = docker_is_away(state, host) {
        let phase = match quarantined {
            true => Phase::Quarantined,
            false => Phase::Unknown,
        };
        return (phase, why);
    }
    let Some(report) = observed.map(|o| &o.report) else {
        let phase = match (tenant.desired, tenant.activated_at) {
            (Lifecycle::Quarantined, _) => Phase::Quarantined,
            (Lifecycle::Purged, _) => Phase::Deleting,
            (_, None) => Phase::Pending,
            (_, Some(_)) => Phase::Unknown,
        };
        return (phase, format!("waiting for a report of host {host}"));
    };
    let current = report.generation == tenant.generation;
    let bad = matches!(
        report.progress,
        TenantProgress::Failing | TenantProgress::Unhealthy
    );
    let phase = match (tenant.desired, report.progress) {
        (Lifecycle::Running | Lifecycle::Suspended, _) if bad => Phase::Failing,
        // Its data is gone, or another's is in its place: nobody could bring it back.
        (Lifecycle::Quarantined, _) if bad && report.stuck == Stuck::Blocked && current => {
            Phase::Failing
        }
        // An operation has stopped it for the time being.
        (Lifecycle::Running, _) if tenant.halted => Phase::Updating,
        (Lifecycle::Running, TenantProgress::Converged) if current => Phase::Running,
        (Lifecycle::Suspended, TenantProgress::Converged) if current => Phase::Suspended,
        (Lifecycle::Quarantined, TenantProgress::Converged) if current => Phase::Quarantined,
        (Lifecycle::Quarantined | Lifecycle::Purged, _) => Phase::Deleting,
        _ if tenant.activated_at.is_none() => Phase::Creating,
        _ => Phase::Updating,
    };
    if let (Phase::Suspended, Some(since)) = (phase, tenant.asleep_since) {
        return (
            phase,
            format!("asleep since {}; the next visitor wakes it", utc(since)),
        );
    }
    (phase, with_full_disk(state, host, phase, &report.message))
}

/// Why no command can be run in a tenant's containers, and what to do next; none: they should be running.
pub fn not_at_work(state: &State, tenant: &Tenant) -> Option<String> {
    let name = &tenant.name;
    Some(match tenant.desired {
        Lifecycle::Purged => "is being purged; nothing runs any more".to_owned(),
        Lifecycle::Quarantined => format!(
            "was deleted and is in quarantine; `isyctl tenant undelete {name}` brings it back"
        ),
        Lifecycle::Suspended if tenant.asleep_since.is_some() => {
            format!("is asleep; its next visitor wakes it, or `isyctl tenant resume {name}`")
        }
        Lifecycle::Suspended => format!("is suspended; `isyctl tenant resume {name}` starts it"),
        Lifecycle::Running if is_being_filled(state, tenant) => format!(
            "is being created, and no command runs in it until its database is filled; `isyctl tenant show {name}` says how far it is"
        ),
        Lifecycle::Running => {
            let operation = state.fleet.operations.get(&tenant.operation)?;
            if !tenant.halted || operation.is_over() {
                return None;
            }
            let (kind, stage, id) = (operation.kind, operation.stage(), operation.id);
            format!(
                "is stopped for its {} (stage `{}`); `isyctl op watch {id}` waits for the end",
                kind.word(),
                stage.word()
            )
        }
    })
}

/// Whether its database may still be in the making: its host may take a snapshot of that for other tenants. The host knows when it is
/// its own, and refuses until then; this is what is known of that here, also of a host that does not.
fn is_being_filled(state: &State, tenant: &Tenant) -> bool {
    use OperationState::{Skipped, Succeeded};
    let Some(seen) = observed(state, tenant).filter(|_| tenant.activated_at.is_none()) else {
        return tenant.activated_at.is_none();
    };
    let filling = seen.report.steps.iter().find(|step| step.name == FILLING);
    filling.is_some_and(|step| !matches!(step.state, Succeeded | Skipped))
}

/// A tenant's disk where it lives, as far as it is known.
fn disk(state: &State, tenant: &Tenant) -> Option<Disk> {
    observed(state, tenant)?.report.disk
}

/// Whether its host has stopped its Odoo because its disk is full.
pub fn is_stopped_by_disk(state: &State, tenant: &Tenant) -> bool {
    let full = disk(state, tenant).is_some_and(|disk| disk.state.stops_odoo());
    full && tenant.desired == Lifecycle::Running && !odoo_runs(state, tenant)
}

/// Whether its host has stopped its PostgreSQL as well, because its disk went on filling.
pub fn is_database_stopped_by_disk(state: &State, tenant: &Tenant) -> bool {
    let beyond = disk(state, tenant).is_some_and(|disk| disk.state.stops_postgres());
    beyond && is_stopped_by_disk(state, tenant)
}

/// `9728 MiB of 10240 MiB used (95 %)`, or of files and directories where those are nearer to their limit.
pub fn disk_in_words(disk: &Disk) -> String {
    let mib = |bytes: u64| bytes >> 20;
    match disk.cause() {
        DiskCause::Bytes => format!(
            "{} MiB of {} MiB used ({} %)",
            mib(disk.used_bytes),
            mib(disk.limit_bytes),
            disk.percent()
        ),
        DiskCause::Inodes => format!(
            "{} of {} files and directories ({} %)",
            disk.used_inodes,
            disk.limit_inodes,
            disk.inodes_percent()
        ),
        DiskCause::Depth(_) => "directories are nested too deep to be counted".to_owned(),
    }
}

/// RFC 3339, to the second.
pub fn utc(at: UnixMs) -> String {
    let since = Duration::from_millis(u64::try_from(at).unwrap_or(0));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

/// State of a host, and for how many milliseconds it has been silent.
pub fn host_state(
    state: &State,
    settings: &Settings,
    host: &HostName,
    now: UnixMs,
) -> (HostState, i64) {
    state.host_state(&settings.liveness, host, now)
}

/// Whether nothing is known of the tenants on such a host.
pub fn is_silent(host: HostState) -> bool {
    matches!(host, HostState::Suspect | HostState::Lost)
}

/// Why this host refused the plan with the tenant's current generation, if it did. The plan is offered again every few
/// seconds.
pub fn refused_plan(state: &State, tenant: &Tenant, host: &HostName) -> Option<String> {
    let why = state
        .observed
        .hosts
        .get(host)
        .map(|h| h.plan_error.as_str())
        .filter(|why| !why.is_empty())?;
    let current = matches!(copy(state, tenant, host), CopyObserved::Present(seen)
        if seen.report.generation == tenant.generation);
    (!current).then(|| format!("host {host} cannot take its plan: {why}"))
}

/// The host's last report on this tenant, if it is about this uid and placement.
pub fn observed<'a>(state: &'a State, tenant: &Tenant) -> Option<&'a TenantObserved> {
    match copy(state, tenant, &tenant.placement.host) {
        CopyObserved::Present(seen) => Some(seen),
        CopyObserved::Unknown | CopyObserved::Absent => None,
    }
}

/// What is known of a tenant's copy on one of its hosts, from reports about this uid and the copy's present epoch.
pub fn copy<'a>(state: &'a State, tenant: &Tenant, host: &HostName) -> CopyObserved<'a> {
    let Some(place) = tenant.place_on(host) else {
        return CopyObserved::Absent;
    };
    match state.observed.copy(&tenant.name, host) {
        Some(seen) if seen.report.uid == tenant.uid && seen.report.epoch == place.epoch => {
            CopyObserved::Present(seen)
        }
        _ => CopyObserved::Unknown,
    }
}

/// How far a copy that is kept up by that job on a host is behind, by what the host said last, and as old as that is by now.
pub fn behind(state: &State, host: &HostName, job: Uuid, now: UnixMs) -> Option<Behind> {
    let told = state.observed.hosts.get(host)?.reported_at?;
    let behind = state.observed.job(host, job)?.behind?;
    Some(behind.later(u64::try_from(now - told).unwrap_or(0)))
}

/// When a user was last active in a tenant, as far as is known. `seen`: what is [`observed`] of it.
pub fn last_active(seen: Option<&TenantObserved>, tenant: &Tenant) -> Option<UnixMs> {
    let told = seen.and_then(|seen| seen.report.traffic?.last_active_at);
    tenant.last_active_at.max(told).filter(|at| *at > 0)
}

/// How visitors reach a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub tenant: TenantName,
    /// All host names, the platform name first.
    pub hostnames: Vec<String>,
    /// The host name that browsers are redirected to.
    pub primary: Option<String>,
    pub access: VisitorAccess,
    /// Its host's advertised address.
    pub address: IpAddr,
    /// Published port of Odoo's HTTP server.
    pub http_port: u16,
    /// Published port of Odoo's gevent process, when it has one.
    pub websocket_port: Option<u16>,
    /// Visitors get a page that says the tenant is suspended.
    pub suspended: bool,
    /// Its disk is nearly full: uploads are refused.
    pub full: bool,
}

/// Routes of all tenants that visitors may reach, by name. A tenant gets its route once its Odoo container was reported
/// running, and keeps it until it is deleted: silence never removes one.
pub fn routes<'a>(state: &'a State, settings: &'a Settings) -> impl Iterator<Item = Route> + 'a {
    state
        .fleet
        .tenants
        .values()
        .filter_map(|tenant| route(state, settings, tenant))
}

/// One tenant's route, if it has one; see [`routes`].
pub fn route(state: &State, settings: &Settings, tenant: &Tenant) -> Option<Route> {
    let suspended = match tenant.desired {
        Lifecycle::Running => false,
        Lifecycle::Suspended => true,
        Lifecycle::Quarantined | Lifecycle::Purged => return None,
    };
    if tenant.activated_at.is_none() && !odoo_runs(state, tenant) {
        return None;
    }
    let door = tenant.door();
    let host = state.fleet.hosts.get(&door.host)?;
    Some(Route {
        tenant: tenant.name.clone(),
        hostnames: tenant.hostnames(&settings.base_domain),
        primary: primary(state, settings, tenant).map(ToString::to_string),
        access: tenant.access.clone(),
        address: host.advertise,
        http_port: door.http_port,
        websocket_port: (tenant.size.workers > 0).then_some(door.websocket_port),
        suspended,
        full: observed(state, tenant).is_some_and(|seen| seen.refuses_uploads()),
    })
}

/// The domain that its browsers are redirected to: never one that is known not to lead here, nor one that edges need a
/// certificate of ours for and have none.
pub fn primary<'a>(state: &State, settings: &Settings, tenant: &'a Tenant) -> Option<&'a Domain> {
    let shown = |domain: &Domain| {
        let held = &state.fleet.certificates;
        !settings.edges_have_our_certificates
            // Usually there is one under this name; uploaded ones have other names.
            || held.contains_key(domain.as_str())
            || held.values().any(|certificate| certificate.covers(domain.as_str()))
    };
    let astray = |domain: &Domain| {
        state
            .fleet
            .domain_troubles
            .get(domain.as_str())
            .is_some_and(|trouble| trouble.tenant == tenant.name)
    };
    tenant
        .primary
        .as_ref()
        .filter(|primary| !astray(primary) && shown(primary))
}

/// The tenant that has the host name of Traefik's dashboard as its domain, if any: edges cannot serve both.
pub fn in_the_dashboards_place<'a>(
    state: &'a State,
    settings: &Settings,
) -> Option<(&'a str, &'a TenantName)> {
    let (name, owner) = state
        .fleet
        .by_domain
        .get_key_value(settings.dashboard_hostname.as_deref()?)?;
    Some((name.as_str(), owner))
}

/// The URL where people reach it.
pub fn address(state: &State, settings: &Settings, tenant: &Tenant) -> String {
    let platform = || tenant.platform_name(&settings.base_domain);
    settings.url(&primary(state, settings, tenant).map_or_else(platform, ToString::to_string))
}

fn odoo_runs(state: &State, tenant: &Tenant) -> bool {
    observed(state, tenant).is_some_and(TenantObserved::runs_odoo)
}

/// A tenant that Prometheus probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub tenant: TenantName,
    pub host: HostName,
    /// The host's address to probe.
    pub address: IpAddr,
    /// Name of its plan, used as a label.
    pub plan: String,
}

/// Whether a tenant is monitored: it should run, no operation has stopped it, and it has converged before.
pub fn monitored(tenant: &Tenant) -> bool {
    tenant.desired == Lifecycle::Running && tenant.activated_at.is_some() && !tenant.halted
}

/// A tenant's target, if it is monitored and its host is known.
pub fn target(state: &State, tenant: &Tenant) -> Option<Target> {
    let host = state.fleet.hosts.get(&tenant.placement.host)?;
    monitored(tenant).then(|| Target {
        tenant: tenant.name.clone(),
        host: host.name.clone(),
        address: host.advertise,
        plan: tenant.spec.plan.to_string(),
    })
}

/// Limit of the list of scrapers that a host is sent; documented in the protocol.
pub const MAX_MONITORS: usize = 64;

/// Serial number and fingerprint of each accepted certificate of operators with the role monitor: who may scrape hosts.
/// Sorted; when there are too many, those that expire last. Of a certificate that a version before issued, and whose
/// owner has not connected since, the fingerprint is not known (empty).
pub fn monitors(state: &State) -> Vec<(String, String)> {
    let operators = state.fleet.operators.values();
    let mut accepted: Vec<_> = operators
        .filter(|o| !o.revoked && o.role == OperatorRole::Monitor)
        .flat_map(|o| &o.certificates)
        .map(|c| {
            let shown = (c.serial.clone(), c.sha256.clone());
            (std::cmp::Reverse(c.not_after), shown)
        })
        .collect();
    accepted.sort();
    accepted.truncate(MAX_MONITORS);
    let mut shown: Vec<_> = accepted.into_iter().map(|(_, shown)| shown).collect();
    shown.sort();
    shown
}

/// Where the fleet's hosts are: what their tenants must not reach.
pub fn host_addresses(state: &State) -> BTreeSet<IpAddr> {
    // Whom nobody has let in does not close an address to everybody's tenants by advertising it.
    let hosts = state.fleet.hosts.values().filter(|host| !host.pending);
    let all: BTreeSet<IpAddr> = hosts.map(|host| host.advertise).collect();
    all.into_iter().take(MAX_HOST_ADDRESSES).collect()
}

/// Operations on one tenant, or on all; newest first.
pub fn operations<'a>(
    state: &'a State,
    tenant: Option<&'a TenantName>,
    before: Option<Uuid>,
) -> impl Iterator<Item = &'a Arc<Operation>> {
    let range = match before {
        Some(id) => state.fleet.operations.range(..id),
        None => state
            .fleet
            .operations
            .range::<std::ops::RangeFull, Uuid>(..),
    };
    range
        .rev()
        .map(|(_, operation)| operation)
        .filter(move |o| tenant.is_none_or(|name| o.tenant() == Some(name)))
}
