//! The host's relay, as the agent sees it: the routes that it is told, and the way to tell it. A tenant's loop says what becomes of its
//! own route; here they are put together, written down, and the relay is told.
//!
//! What the file says counts until it is known better: after a start of the agent every route stays as it is until its tenant was
//! looked at, because visitors are served meanwhile. Where no file says any, none is written before that is known (first). Not here: a
//! route's content (plan::relay), keeping a relay running (keep), the program (the room `relay`).

mod admin;
mod first;
mod keep;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ipnet::IpNet;
use isyone_proto::{
    disk::DiskState,
    ids::TenantName,
    plan::{HostPlan, TenantPlan},
};
use isyone_relay::{
    Settings,
    limits::HostLimits,
    routes::{Ends, Route, Routes, State},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use self::first::First;
pub use self::{
    admin::Admin,
    keep::{Keeper, Program},
};
use super::{Host, leases::Leases, ledger::InForce};
use crate::{
    base::{
        config::DataDir,
        fsutil::{self, blocking},
    },
    plan::relay,
};

/// This process's program, also when another one lies at its path by now.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// The file of routes, in the relay's directory.
const ROUTES: &str = "routes.json";
/// How long it may take until the relay follows new routes. It looks at once when it is told, and each second by itself.
const FOLLOWS: Duration = Duration::from_secs(3);
/// First and longest pause between looks at whether it does.
const LOOKS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));
/// Between looks at tenants' disks, and tries to write what could not be written.
const EVERY: Duration = Duration::from_secs(5);
/// Subject of our warning on the host's board.
const WARNING: &str = "relay routes";

/// Where a relay of this data directory has its files.
pub fn settings(data: &DataDir) -> Settings {
    let directory = data.relay();
    Settings {
        routes: directory.join(ROUTES),
        spool: directory.join("spool"),
        admin: Admin::new(data).path().clone(),
        handover: directory.join("handover.sock"),
        version: version(),
    }
}

/// Which program this is, as its relays say it: the version, and what tells builds of one version apart.
pub fn version() -> String {
    version_of(Path::new(OWN_PROGRAM))
}

/// The same of the program at a path.
pub fn version_of(program: &Path) -> String {
    let version = env!("CARGO_PKG_VERSION");
    fsutil::stamp(program).map_or_else(
        |_| version.to_owned(),
        |(bytes, changed)| format!("{version}+{bytes:x}.{changed:x}"),
    )
}

/// The routes of the host's relay.
pub struct RelayRoutes {
    /// Whether there is a relay; without one nothing is written and nobody told.
    is_on: bool,
    file: PathBuf,
    admin: Admin,
    /// Until when each may be answered for.
    leases: Arc<Leases>,
    inner: Mutex<Inner>,
    /// Held while the file is written: later ones must not be overtaken.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Inner {
    edges: Vec<IpNet>,
    tenants: BTreeMap<TenantName, Route>,
    /// Tenants whose uploads are refused for want of disk.
    full: BTreeSet<TenantName>,
    /// What the file holds; `None`: that is not known.
    written: Option<Routes>,
    /// While there is no file.
    first: Option<First>,
    revision: u64,
    /// The highest number that the relay was seen to follow. One that is started later reads the file by itself.
    followed: u64,
}

impl Inner {
    /// The routes as they should be, with the number of those that are written: only the rest is compared.
    fn wanted(&self, leases: &Leases) -> (Vec<IpNet>, Vec<Route>) {
        let route = |(name, route): (&TenantName, &Route)| {
            let mut route = route.clone();
            route.lease = leases.of_route(name, route.lease);
            if route.state == State::Serving && self.full.contains(name) {
                route.state = State::UploadsRefused;
            }
            route
        };
        (self.edges.clone(), self.tenants.iter().map(route).collect())
    }

    /// It is known how a tenant is served, now.
    fn know(&mut self, name: &TenantName) {
        if let Some(first) = &mut self.first {
            first.know(name, Instant::now());
        }
    }

    fn wrote(&mut self, routes: Option<Routes>) {
        if routes.is_some() {
            self.first = None;
        }
        self.written = routes;
    }

    /// The next routes to write; `None`: the file says that already.
    fn next(&mut self, leases: &Leases) -> Option<Result<Routes, String>> {
        let (edges, tenants) = self.wanted(leases);
        let is_written = self.written.as_ref().is_some_and(|written| {
            written.edges() == edges.as_slice() && written.tenants() == tenants.as_slice()
        });
        if is_written {
            return None;
        }
        self.revision += 1;
        let routes = Routes::new(self.revision, edges, HostLimits::default(), tenants);
        Some(routes.map_err(|e| e.to_string()))
    }
}

impl RelayRoutes {
    /// Goes on with what the file says, if there is to be a relay.
    pub fn open(data: &DataDir, is_on: bool, leases: Arc<Leases>) -> Self {
        let file = data.relay().join(ROUTES);
        let written = fsutil::read(&file)
            .ok()
            .filter(|_| is_on)
            .and_then(|text| Routes::read(&text).ok());
        let mut inner = Inner::default();
        if let Some(written) = &written {
            let all = written.tenants().iter().cloned();
            inner.tenants = all.map(|route| (route.name.clone(), route)).collect();
            inner.edges = written.edges().to_vec();
            inner.revision = written.revision();
            let full = |route: &&mut Route| route.state == State::UploadsRefused;
            for route in inner.tenants.values_mut().filter(full) {
                inner.full.insert(route.name.clone());
                route.state = State::Serving;
            }
        }
        inner.first = written.is_none().then(First::default);
        inner.written = written;
        Self {
            is_on,
            file,
            admin: Admin::new(data),
            leases,
            inner: Mutex::new(inner),
            writing: tokio::sync::Mutex::default(),
        }
    }

    /// Whether tenants' ports are a relay's.
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// The way to the relay.
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// Whether a relay that starts finds routes: without a plan there may be none, and one of before that serves visitors.
    pub fn has_begun(&self) -> bool {
        self.lock().first.is_none()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tenant is served by this route from now on. In force after [`Self::publish`], like all that follows.
    pub fn serve(&self, route: Route) {
        let mut inner = self.lock();
        inner.know(&route.name);
        inner.tenants.insert(route.name.clone(), route);
    }

    /// A tenant that has no route will be served: until then, by this one, its requests are held.
    pub fn expect(&self, route: Route) {
        let mut inner = self.lock();
        inner.know(&route.name);
        inner.tenants.entry(route.name.clone()).or_insert(route);
    }

    /// A tenant's requests are held from `now_ms` on, until then at most (milliseconds since 1970). `false`: it has no route. One that
    /// is held already stays so no longer.
    pub fn hold(&self, name: &TenantName, now_ms: u64, until_ms: u64) -> bool {
        let mut inner = self.lock();
        let Some(route) = inner.tenants.get_mut(name) else {
            return false;
        };
        match route.state {
            State::Holding { until_ms } if until_ms > now_ms => {}
            _ => route.state = State::Holding { until_ms },
        }
        true
    }

    /// A tenant that was held is served again, where it was.
    pub fn serve_again(&self, name: &TenantName) {
        if let Some(route) = self.lock().tenants.get_mut(name) {
            route.state = State::Serving;
        }
    }

    /// Whoever still comes here for a tenant goes on to another host; `false`: nobody can, as it has no route.
    pub fn pass_on(&self, name: &TenantName, to: Ends) -> bool {
        let mut inner = self.lock();
        let Some(route) = inner.tenants.get_mut(name) else {
            return false;
        };
        (route.upstream, route.state) = (to, State::Serving);
        true
    }

    /// A tenant has no route any more: edges are refused, and show what the coordinator says of it.
    pub fn remove(&self, name: &TenantName) {
        let mut inner = self.lock();
        inner.know(name);
        inner.tenants.remove(name);
    }

    /// What the plan in force says of all: who is an edge, and who has no place here any more.
    pub fn adapt(&self, plan: &HostPlan, advertise: std::net::IpAddr) {
        let mut inner = self.lock();
        inner.edges = relay::edges(&plan.firewall.edges, advertise);
        if let Some(first) = &mut inner.first {
            first.plan(plan.tenants.iter().map(|tenant| &tenant.name));
        }
        let named: BTreeSet<&TenantName> = plan.tenants.iter().map(|t| &t.name).collect();
        inner.tenants.retain(|name, _| named.contains(name));
        inner.full.retain(|name| named.contains(name));
    }

    /// Whether uploads to a tenant are refused for want of disk; of those that are not named, it stays as it was.
    fn set_full(&self, known: Vec<(TenantName, bool)>) {
        let mut inner = self.lock();
        for (name, is_full) in known {
            match is_full {
                true => inner.full.insert(name),
                false => inner.full.remove(&name),
            };
        }
    }

    /// Writes the routes where they differ from the file's, and waits until the relay follows them. `Ok(false)`: none does yet; it
    /// will when it runs, or when it is known what the first ones are.
    pub async fn publish(&self) -> io::Result<bool> {
        if !self.is_on {
            return Ok(false);
        }
        let turn = self.writing.lock().await;
        let next = {
            let mut inner = self.lock();
            let waits = |first: &First| !first.is_enough(Instant::now());
            if inner.first.as_ref().is_some_and(waits) {
                return Ok(false);
            }
            inner.next(&self.leases)
        };
        if let Some(next) = next {
            let routes = next.map_err(io::Error::other)?;
            let (file, text) = (self.file.clone(), routes.text());
            let written =
                blocking(move || fsutil::write_atomic(&file, text.as_bytes(), 0o600, false)).await;
            self.lock().wrote(written.is_ok().then_some(routes));
            written?;
        }
        let (revision, followed) = {
            let inner = self.lock();
            (inner.revision, inner.followed)
        };
        drop(turn);
        let follows = followed >= revision || self.follows(revision).await;
        if follows {
            let mut inner = self.lock();
            inner.followed = inner.followed.max(revision);
        }
        Ok(follows)
    }

    /// Tells the relay, and waits until it follows at least these routes.
    async fn follows(&self, revision: u64) -> bool {
        let end = Instant::now() + FOLLOWS;
        let (mut pause, longest) = LOOKS;
        let mut answer = self.admin.reload().await;
        loop {
            match answer {
                Ok(health) if health.revision >= revision => return true,
                Err(_) => return false,
                Ok(_) if Instant::now() >= end => return false,
                Ok(_) => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(longest);
            answer = self.admin.health().await;
        }
    }

    /// Requests of a tenant that its Odoo is at work on; `None`: that is not known.
    pub async fn in_flight(&self, name: &TenantName) -> Option<u64> {
        let found = self.admin.of_tenant(name).await.ok()??;
        Some(found.now.in_flight)
    }
}

/// Follows the plan and tenants' disks until `stop`; the relay then goes on with what it was told last.
pub async fn run(host: Arc<Host>, mut plans: watch::Receiver<InForce>, stop: CancellationToken) {
    loop {
        let plan = plans.borrow_and_update().plan.clone();
        if let Some(plan) = plan {
            host.relay.adapt(&plan, host.advertise());
            host.relay.set_full(measured(&host, &plan));
        }
        let published = host.relay.publish().await;
        let warning = published.map_or_else(
            |e| format!("the relay's routes cannot be written, so it keeps those of before: {e}"),
            |_| String::new(),
        );
        host.board.set_warning(WARNING, &warning);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = plans.changed() => if changed.is_err() { return },
            () = sleep(EVERY) => {}
        }
    }
}

/// Where there is to be no relay, and one has served: its ports are Docker's from now on. It goes on without tenants.
pub async fn give_up(data: DataDir) {
    let file = data.relay().join(ROUTES);
    let read = fsutil::read(&file).ok();
    let Some(before) = read.and_then(|text| Routes::read(&text).ok()) else {
        return;
    };
    if before.tenants().is_empty() {
        return;
    }
    let revision = before.revision() + 1;
    let Ok(none) = Routes::new(revision, Vec::new(), HostLimits::default(), Vec::new()) else {
        return;
    };
    let text = none.text();
    let written =
        blocking(move || fsutil::write_atomic(&file, text.as_bytes(), 0o600, false)).await;
    match written {
        Ok(()) => tracing::warn!(
            "tenants' ports are Docker's again: each tenant stops and starts once. End the relay with `isy-agent relay --stop`"
        ),
        Err(e) => tracing::error!(
            "the relay keeps tenants' ports, because its routes cannot be written: {e}"
        ),
    }
    // None may run.
    let _ = Admin::new(&data).reload().await;
}

/// Tenants whose disk was measured since the agent's start, and whether it is so full that uploads are refused.
fn measured(host: &Host, plan: &HostPlan) -> Vec<(TenantName, bool)> {
    let of = |tenant: &TenantPlan| {
        let disk = host.board.disk(&tenant.name, tenant.uid)?;
        let is_full = disk.state >= DiskState::UploadsRefused;
        Some((tenant.name.clone(), is_full))
    };
    plan.tenants.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests;
