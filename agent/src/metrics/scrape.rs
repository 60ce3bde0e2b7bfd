//! Makes the pages. Keeps each page for a moment, so that two Prometheus servers do not double the work, and never
//! makes the same page twice at the same time.
//!
//! Not here: who may have them (server), their contents (node, containers, relay, postgres).

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use isyone_proto::{
    ids::TenantName,
    plan::{DesiredState, Role, TenantPlan},
};
use tokio::{
    sync::{Mutex as Turn, watch},
    time::Instant,
};

use super::{
    containers::{self, Reader, Subject},
    node,
    own::{self, ScrapeCounts},
    pg_text,
    postgres::{MonitorLogin, Pool},
    relay::{self, Kept, RelayError},
    target::Target,
    traffic,
    traffic_samples::TrafficSamples,
    visitors,
};
use crate::{
    base::clock::now_ms,
    host::{Host, board::ContainerStatus, ledger::InForce},
    plan::{
        installs::{self, Pending},
        relay::places,
        sql,
    },
};

/// How long a page may be reused for a second scraper. Shorter than any sensible scrape interval.
const FRESH: Duration = Duration::from_secs(4);

/// Whether a sample by this name is read here.
fn is_figure(name: &str) -> bool {
    traffic::NAMES.contains(&name) || installs::NAMES.contains(&name)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub status: u16,
    /// The metrics, or a reason in one line.
    pub body: Bytes,
}

impl Page {
    fn ok(body: impl Into<Bytes>) -> Self {
        Self {
            status: 200,
            body: body.into(),
        }
    }
    fn reason(status: u16, why: &str) -> Self {
        Self {
            status,
            body: format!("{why}\n").into(),
        }
    }
}

type Slot = Arc<Turn<Option<(Instant, Page)>>>;

pub struct Scraper {
    host: Arc<Host>,
    plans: watch::Receiver<InForce>,
    connected: watch::Receiver<bool>,
    reader: Arc<Mutex<Reader>>,
    pool: Pool,
    counts: ScrapeCounts,
    pages: Mutex<HashMap<Target, Slot>>,
    /// Odoo's figures over time.
    pub samples: TrafficSamples,
}

impl Scraper {
    /// Serves pages for a host and the plan in force.
    pub fn new(
        host: Arc<Host>,
        plans: watch::Receiver<InForce>,
        connected: watch::Receiver<bool>,
    ) -> Self {
        Self {
            host,
            plans,
            connected,
            reader: Arc::default(),
            pool: Pool::default(),
            counts: ScrapeCounts::default(),
            pages: Mutex::default(),
            samples: TrafficSamples::default(),
        }
    }

    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Tenants that should run here.
    pub fn running(&self) -> Vec<TenantName> {
        let in_force = self.plans.borrow();
        let tenants = in_force.plan.iter().flat_map(|p| &p.tenants);
        tenants
            .filter(|t| t.desired == DesiredState::Running)
            .map(|t| t.name.clone())
            .collect()
    }

    /// Returns a page, made now or a moment ago.
    pub async fn page(&self, target: &Target) -> Page {
        if let Target::Odoo(tenant) | Target::Postgres(tenant) = target
            && self.of_plan(tenant, |_| ()).is_none()
        {
            return Page::reason(404, &format!("no tenant {tenant} on this host"));
        }
        let begin = Instant::now();
        let slot = self.slot(target);
        let mut slot = slot.lock().await;
        if let Some((_, page)) = slot.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            self.counts.add(target.kind(), "shared", begin.elapsed());
            return page.clone();
        }
        let page = self.make(target).await;
        let outcome = if page.status == 200 { "ok" } else { "failed" };
        self.counts.add(target.kind(), outcome, begin.elapsed());
        *slot = Some((Instant::now(), page.clone()));
        page
    }

    /// Asks a tenant's Odoo for the figures that are reported, unless somebody has just had its page. No page is made of the answer: most
    /// of it would be for nobody.
    pub async fn sample(&self, tenant: TenantName) {
        let target = Target::Odoo(tenant);
        let slot = self.slot(&target);
        let slot = slot.lock().await;
        let is_fresh = slot.as_ref().is_some_and(|(at, _)| at.elapsed() < FRESH);
        if let (false, Target::Odoo(tenant)) = (is_fresh, &target) {
            self.odoo(tenant, Kept::Samples(is_figure)).await;
        }
    }

    fn slot(&self, target: &Target) -> Slot {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.entry(target.clone()).or_default().clone()
    }

    /// Drops pages that are no longer fresh, and tenants that have gone.
    pub fn tidy(&self) {
        let old = |slot: &Slot| {
            slot.try_lock()
                .is_ok_and(|page| page.as_ref().is_none_or(|(at, _)| at.elapsed() >= FRESH))
        };
        self.pages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, slot| !old(slot));
        let running: HashSet<TenantName> = self.running().into_iter().collect();
        self.pool.tidy(&|tenant| running.contains(tenant));
        self.samples.tidy(&|tenant| running.contains(tenant));
    }

    /// The agent's own metrics.
    pub fn own(&self) -> String {
        own::render(&self.host, *self.connected.borrow(), &self.counts).finish()
    }

    /// Something of a tenant's plan, which is not copied for it. Plans are sorted by name.
    fn of_plan<T>(&self, tenant: &TenantName, read: impl FnOnce(&TenantPlan) -> T) -> Option<T> {
        let in_force = self.plans.borrow();
        let tenants = &in_force.plan.as_ref()?.tenants;
        let at = tenants.binary_search_by(|t| t.name.cmp(tenant)).ok()?;
        tenants.get(at).map(read)
    }

    async fn make(&self, target: &Target) -> Page {
        match target {
            Target::Node => self.node().await,
            Target::Containers => self.containers().await,
            Target::Odoo(tenant) => self.odoo(tenant, Kept::Page).await,
            Target::Postgres(tenant) => self.postgres(tenant).await,
        }
    }

    async fn node(&self) -> Page {
        let root = self.host.data_root();
        let read = tokio::task::spawn_blocking(move || node::read(root.as_deref())).await;
        let Ok(mut page) = read else {
            return Page::reason(500, "the host could not be read");
        };
        page.append(own::render(
            &self.host,
            *self.connected.borrow(),
            &self.counts,
        ));
        let mut page = page.finish();
        if self.host.relay.is_on() {
            page += &visitors::page(self.host.relay.admin()).await;
        }
        Page::ok(page)
    }

    async fn containers(&self) -> Page {
        let (reader, subjects) = (self.reader.clone(), self.subjects());
        let read = tokio::task::spawn_blocking(move || {
            let measured = reader
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .measure(subjects);
            containers::render(&measured, now_ms())
        });
        read.await.map_or_else(
            |_| Page::reason(500, "the containers could not be read"),
            Page::ok,
        )
    }

    /// The running containers of all tenants.
    fn subjects(&self) -> Vec<Subject> {
        let mut subjects = Vec::new();
        for entry in self.host.board.entries() {
            let images = self.of_plan(&entry.name, |plan| {
                (plan.odoo_image.to_string(), plan.postgres_image.to_string())
            });
            let Some((odoo, postgres)) = images else {
                continue;
            };
            for (at, c) in entry
                .status
                .containers
                .iter()
                .enumerate()
                .filter(|(_, c)| c.state == "running")
            {
                let role = if c.name == entry.name.odoo_container() {
                    Role::Odoo
                } else {
                    Role::Postgres
                };
                let image = match role {
                    Role::Odoo => odoo.clone(),
                    Role::Postgres => postgres.clone(),
                };
                let volumes = &entry.usage.volumes;
                subjects.push(Subject {
                    name: c.name.clone(),
                    tenant: entry.name.to_string(),
                    image,
                    id: c.id.clone(),
                    pid: c.pid,
                    started_ms: c.started_ms,
                    oom_events: entry.oom_kills.get(at).copied().unwrap_or(0),
                    volume_bytes: volumes.map(|v| {
                        if role == Role::Odoo {
                            v.odoo
                        } else {
                            v.postgres
                        }
                    }),
                });
            }
        }
        subjects
    }

    /// The address of a tenant's container, while it runs.
    fn address(&self, tenant: &TenantName, container: &str) -> Result<Ipv4Addr, String> {
        let status = self.host.board.get(tenant);
        let known = status
            .as_ref()
            .and_then(|s| s.containers.iter().find(|c| c.name == container));
        match known {
            Some(ContainerStatus {
                ip: Some(ip),
                state,
                ..
            }) if state == "running" => Ok(*ip),
            Some(c) => Err(format!("{container} is {}", c.state)),
            None => Err(format!("{container} is not known yet")),
        }
    }

    async fn odoo(&self, tenant: &TenantName, kept: Kept) -> Page {
        let planned = self.of_plan(tenant, |plan| (sql::metrics_token(plan), places(plan)));
        let Some((token, places)) = planned else {
            return Page::reason(404, "no such tenant");
        };
        let answer = match self.address(tenant, &tenant.odoo_container()) {
            Ok(address) => relay::odoo(address, &token, kept).await,
            Err(why) => Err(RelayError::Unreachable(why)),
        };
        let (page, text) = match answer {
            Ok(body) => (Page::ok(body.clone()), Some(body)),
            Err(e @ RelayError::Timeout) => (Page::reason(504, &e.to_string()), None),
            Err(e) => (Page::reason(502, &e.to_string()), None),
        };
        let text = text.as_deref().and_then(|b| std::str::from_utf8(b).ok());
        self.host
            .board
            .set_pending(tenant, text.and_then(Pending::parse));
        let figures = self.samples.heard(tenant, text);
        let board = &self.host.board;
        board.set_traffic(tenant, figures.map(|figures| figures.traffic));
        board.set_work(tenant, figures.map(|f| f.work(places)));
        page
    }

    async fn postgres(&self, tenant: &TenantName) -> Page {
        let Some(password) = self.of_plan(tenant, sql::monitor_password) else {
            return Page::reason(404, "no such tenant");
        };
        let answer = match self.address(tenant, &tenant.postgres_container()) {
            Ok(address) => {
                let access = MonitorLogin::of(address, password);
                self.pool.scrape(tenant, &access).await
            }
            Err(why) => Err(why),
        };
        // Like postgres_exporter: the page answers, and `pg_up` says that PostgreSQL does not.
        answer.map_or_else(
            |why| {
                let reason = why.replace(['\n', '\r'], " ");
                Page::ok(format!(
                    "# PostgreSQL does not answer: {reason}\n{}",
                    pg_text::down()
                ))
            },
            Page::ok,
        )
    }
}
