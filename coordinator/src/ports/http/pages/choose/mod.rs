//! Chooses the page for a visitor of a host name. Pure: depends on a snapshot, a name and the time.
//!
//! The edge asks when a tenant did not answer, or when it has no route to it (yet): so there is no page that says
//! "running". Not here: what a page says.

use isyone_fleet::{
    desired::Tenant,
    operation::OperationKind,
    settings::Settings,
    state::State,
    views::{self, Phase},
};
use isyone_proto::{
    ids::TenantName,
    plan::{Lifecycle, UnixMs},
};

/// What a visitor is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Page {
    /// Nobody has this name. Deleted tenants look the same.
    Unknown,
    /// Stopped by an operator.
    Suspended,
    /// Stopped because nobody used it: a visit wakes it.
    Asleep,
    /// On its way up.
    Starting,
    /// Odoo is restarting.
    Restarting,
    /// An update, a resize or an upgrade is in progress.
    Updating,
    /// Its host is silent.
    HostLost,
    /// It should run and does not.
    Failing,
    /// Its Odoo is stopped, because its disk is full.
    DiskFull,
    /// It runs, but takes no uploads: its disk is nearly full.
    NoUploads,
    /// It seems to run; the edge will soon reach it again, or for the first time.
    Away,
    /// Its host is being worked on, as was announced, until then.
    Maintenance(UnixMs),
}

impl Page {
    #[cfg(test)]
    pub(super) const ALL: [Self; 12] = [
        Self::Unknown,
        Self::Suspended,
        Self::Asleep,
        Self::Starting,
        Self::Restarting,
        Self::Updating,
        Self::HostLost,
        Self::Failing,
        Self::DiskFull,
        Self::NoUploads,
        Self::Away,
        Self::Maintenance(1_796_000_000_000),
    ];

    /// A stable identifier, for metrics and programs.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Suspended => "suspended",
            Self::Asleep => "asleep",
            Self::Starting => "starting",
            Self::Restarting => "restarting",
            Self::Updating => "updating",
            Self::HostLost => "host_lost",
            Self::Failing => "failing",
            Self::DiskFull => "disk_full",
            Self::NoUploads => "no_uploads",
            Self::Away => "away",
            Self::Maintenance(_) => "maintenance",
        }
    }

    /// When to try again, in seconds; `None`: never.
    pub(super) fn retry_after_s(self) -> Option<u32> {
        match self {
            Self::Unknown => None,
            // It takes a person to resume it.
            Self::Suspended => Some(3600),
            // Odoo starts in 5 to 20 s.
            Self::Asleep | Self::Starting | Self::Restarting | Self::Away => Some(5),
            Self::Updating => Some(10),
            // Somebody has to act first.
            Self::HostLost | Self::Failing => Some(30),
            Self::DiskFull => Some(60),
            // It may be over before its time.
            Self::Maintenance(_) => Some(60),
            // Whether there is room by then, nobody knows; a page that was asked for by an upload cannot be loaded again.
            Self::NoUploads => None,
        }
    }

    /// Whether browsers reload the page by themselves.
    pub(super) fn reloads(self) -> bool {
        !matches!(self, Self::Unknown | Self::Suspended | Self::NoUploads)
    }
}

/// The page for a host name, and the name's tenant. A visitor who was not `admitted` by a tenant's router learns
/// nothing of a tenant with restricted access.
pub(super) fn page<'a>(
    state: &'a State,
    settings: &Settings,
    host: Option<&str>,
    admitted: bool,
    now: UnixMs,
) -> (Page, Option<&'a Tenant>) {
    let tenant = host.and_then(|host| tenant(state, settings, host));
    match tenant.filter(|tenant| admitted || tenant.access.is_open()) {
        Some(tenant) => {
            let page = of_tenant(state, settings, tenant, now);
            (worked_on(state, tenant, page, now), Some(tenant))
        }
        None => (Page::Unknown, None),
    }
}

/// What nobody has ordered and nobody is at follows from announced work on the host, while there is some.
fn worked_on(state: &State, tenant: &Tenant, page: Page, now: UnixMs) -> Page {
    let host = state.fleet.hosts.get(&tenant.placement.host);
    let work = host.and_then(|host| host.maintenance.as_ref());
    match (page, work.filter(|work| work.until > now)) {
        (Page::HostLost | Page::Failing | Page::Away | Page::Restarting, Some(work)) => {
            Page::Maintenance(work.until)
        }
        (page, _) => page,
    }
}

/// The page for an upload that an edge has refused. Like any other it says nothing to who was not admitted by the router
/// of the tenant, and the edge is right whatever is known here by now.
pub(super) fn no_uploads<'a>(
    state: &'a State,
    settings: &Settings,
    host: Option<&str>,
    admitted: bool,
) -> (Page, Option<&'a Tenant>) {
    let tenant = host.and_then(|host| tenant(state, settings, host));
    match tenant.filter(|tenant| admitted || tenant.access.is_open()) {
        Some(tenant) => (Page::NoUploads, Some(tenant)),
        None => (Page::Unknown, None),
    }
}

/// The tenant with this host name, unless deleted.
fn tenant<'a>(state: &'a State, settings: &Settings, host: &str) -> Option<&'a Tenant> {
    let label = host
        .strip_suffix(settings.base_domain.as_str())
        .and_then(|rest| rest.strip_suffix('.'));
    let tenant = match label {
        Some(label) => state.fleet.tenants.get(&label.parse::<TenantName>().ok()?),
        None => state.fleet.tenants.get(state.fleet.by_domain.get(host)?),
    };
    tenant
        .map(AsRef::as_ref)
        .filter(|tenant| !tenant.is_deleted())
}

fn of_tenant(state: &State, settings: &Settings, tenant: &Tenant, now: UnixMs) -> Page {
    if tenant.desired == Lifecycle::Suspended {
        return if tenant.asleep_since.is_some() {
            Page::Asleep
        } else {
            Page::Suspended
        };
    }
    if views::is_silent(views::host_state(state, settings, &tenant.placement.host, now).0) {
        return Page::HostLost;
    }
    match views::phase(state, settings, tenant, now).0 {
        Phase::Pending | Phase::Creating => Page::Starting,
        Phase::Failing if views::is_stopped_by_disk(state, tenant) => Page::DiskFull,
        Phase::Failing => Page::Failing,
        Phase::Updating => under_way(state, tenant),
        // A coordinator that has just started does not know better either.
        Phase::Running | Phase::Unknown => Page::Away,
        // Cannot happen to a tenant that should run.
        Phase::Suspended | Phase::Deleting | Phase::Quarantined => Page::Away,
    }
}

fn under_way(state: &State, tenant: &Tenant) -> Page {
    let operation = state
        .fleet
        .operations
        .get(&tenant.operation)
        .filter(|o| !o.state.is_final());
    match operation.map(|o| o.kind) {
        Some(
            OperationKind::Create
            | OperationKind::Resume
            | OperationKind::Undelete
            | OperationKind::Restore,
        ) => Page::Starting,
        Some(
            OperationKind::Update
            | OperationKind::Resize
            | OperationKind::Move
            | OperationKind::Upgrade,
        ) => Page::Updating,
        // Without an operation, its host restarts on its own what has exited.
        Some(
            OperationKind::Restart
            | OperationKind::Suspend
            | OperationKind::Delete
            | OperationKind::Purge,
        )
        | None => Page::Restarting,
    }
}

#[cfg(test)]
mod tests;
