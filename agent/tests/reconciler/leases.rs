//! Leases and visitors: a real relay before an Odoo of a few lines, with an agent that keeps its routes or has gone.
//!
//! Not here: what a relay does with requests (its crate's tests), other hosts (the tests of peers).

use std::{sync::Arc, time::Duration};

use isyone_agent::testing::{fake_docker::FakeDocker, tenant_plan};
use isyone_proto::plan::{Lease, TenantPlan};
use isyone_relay::routes::Routes;
use tokio::time::{Instant, sleep};

use crate::{
    life::Life,
    relay::{Odoo, data, get, here, place, relayed, until},
};

const FOR_MS: u32 = 1_200;
const FOR: Duration = Duration::from_millis(FOR_MS as u64);

struct Site {
    dir: tempfile::TempDir,
    fake: Arc<FakeDocker>,
    plan: TenantPlan,
    _odoo: Odoo,
    _relay: isyone_relay::Relay,
}

impl Site {
    async fn new(n: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeDocker::new(dir.path(), u64::from(n));
        let mut plan = tenant_plan("alfa");
        let at = place(n, &mut plan);
        fake.put_at("odoo_alfa", at);
        plan.lease = Some(Lease::Needed {
            for_ms: FOR_MS,
            renewer: "h2".parse().unwrap(),
            address: None,
        });
        Self {
            _odoo: Odoo::start(at).await,
            _relay: here(dir.path()).await,
            dir,
            fake,
            plan,
        }
    }

    async fn begin(&self) -> Life {
        let life = Life::begin_on(
            relayed(&self.fake, self.dir.path()),
            std::slice::from_ref(&self.plan),
        );
        granted(&life);
        life.converged(&self.plan).await;
        life
    }

    async fn status(&self) -> String {
        get(self.plan.http_port, "/").await.unwrap_or_default()
    }

    fn routes(&self) -> Routes {
        let file = data(self.dir.path()).relay().join("routes.json");
        Routes::read(&std::fs::read(file).unwrap()).unwrap()
    }
}

fn granted(life: &Life) {
    life.host.leases.acknowledged(life.host.leases.now_ms());
}

const OK: &str = "HTTP/1.1 200 OK";
const AWAY: &str = "HTTP/1.1 503 Service Unavailable";

#[tokio::test(flavor = "multi_thread")]
async fn visitors_of_a_host_whose_agent_has_gone_are_sent_away_in_time() {
    let site = Site::new(101).await;
    let life = site.begin().await;
    assert_eq!(site.status().await, OK);
    // As after a kill: nothing of it goes on.
    let begun = Instant::now();
    life.end().await;
    until("the end of its lease", async || site.status().await == AWAY).await;
    assert!(begun.elapsed() <= FOR + Duration::from_millis(200));
    assert_eq!(site.fake.running().len(), 2, "nobody is left to stop it");
    for _ in 0..5 {
        assert_eq!(site.status().await, AWAY);
        sleep(FOR / 10).await;
    }
    // The next agent begins where nobody is let in.
    let life = Life::begin_on(
        relayed(&site.fake, site.dir.path()),
        std::slice::from_ref(&site.plan),
    );
    until("its end", async || site.fake.running().is_empty()).await;
    assert_eq!(site.status().await, AWAY);
    granted(&life);
    until("its start", async || site.status().await == OK).await;
    life.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_renewed_is_served_and_routes_are_not_written_each_time() {
    let site = Site::new(102).await;
    let life = site.begin().await;
    let (first, begun) = (site.routes().revision(), Instant::now());
    while begun.elapsed() < FOR * 3 {
        granted(&life);
        assert_eq!(site.status().await, OK);
        sleep(Duration::from_millis(20)).await;
    }
    let written = site.routes().revision() - first;
    assert!((3..=9).contains(&written), "{written}");
    // Silence: sent away, stopped, and not refused as one that has left.
    until("the end of its lease", async || site.status().await == AWAY).await;
    until("its end", async || site.fake.running().is_empty()).await;
    life.wait("the message", |life| {
        let status = life.status("alfa");
        status.is_some_and(|s| s.message.starts_with("its lease is over"))
    })
    .await;
    for _ in 0..10 {
        sleep(FOR / 30).await;
        assert_eq!(site.status().await, AWAY);
    }
    granted(&life);
    until("its start", async || site.status().await == OK).await;
    life.converged(&site.plan).await;
    life.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_brings_a_lease_or_takes_it_away_disturbs_nobody() {
    let mut site = Site::new(103).await;
    let lease = site.plan.lease.take();
    let mut life = Life::begin_on(relayed(&site.fake, site.dir.path()), &[site.plan.clone()]);
    life.converged(&site.plan).await;
    assert!(site.routes().tenants()[0].lease.is_none());
    let stops = |site: &Site| {
        let log = site.fake.log();
        log.iter().filter(|call| call.starts_with("stop ")).count()
    };
    let before = stops(&site);
    site.plan.lease = lease;
    life.plan(&[site.plan.clone()]);
    let has_lease = |site: &Site| site.routes().tenants()[0].lease.is_some();
    until("the lease", async || has_lease(&site)).await;
    for _ in 0..5 {
        assert_eq!(site.status().await, OK);
        granted(&life);
        sleep(FOR / 3).await;
    }
    site.plan.lease = None;
    life.plan(&[site.plan.clone()]);
    until("its end", async || !has_lease(&site)).await;
    sleep(FOR).await;
    assert_eq!(site.status().await, OK);
    assert_eq!((stops(&site), site.fake.running().len()), (before, 2));
    life.end().await;
}
