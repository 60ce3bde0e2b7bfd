//! Leases between two agents: one goes on by the other's word while the coordinator is silent, is stopped in time when that comes no more,
//! and another takes over no sooner than that.
//!
//! The coordinator is the test. Not here: what follows from which moment (the crate's own tests), the relay (its crate's).

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use isyone_agent::{plan::lease::Standing, testing::tenant_plan};
use isyone_proto::{
    pb::agent::v1::{PeerTenant, RenewLeasesRequest, peer_service_client::PeerServiceClient},
    plan::{DesiredState, HostPlan, Lease, TenantPlan},
    report::TenantProgress,
    tls,
};
use tokio::{net::TcpListener, time::sleep};
use tonic::{Code, Status};

use crate::{
    following::Pair,
    node::{Ca, Node, Site, client_of, order, plan_with, standby},
};

const FOR_MS: u32 = 1_500;
const FOR: Duration = Duration::from_millis(FOR_MS as u64);
/// Within which what must not run is gone.
const GONE: Duration = Duration::from_secs(3);

fn needed(name: &str, renewer: &str, address: SocketAddr) -> TenantPlan {
    TenantPlan {
        lease: Some(Lease::Needed {
            for_ms: FOR_MS,
            renewer: renewer.parse().unwrap(),
            address: Some(address),
        }),
        ..tenant_plan(name)
    }
}

fn copy(tenant: &TenantPlan) -> TenantPlan {
    TenantPlan {
        follows: true,
        lease: Some(Lease::Granted {
            to: "h1".parse().unwrap(),
        }),
        ..standby(tenant, "h1")
    }
}

/// alfa runs on the first host, and the second lets it go on.
struct Two {
    ca: Ca,
    sites: [Site; 2],
    h1: Node,
    h2: Node,
    alfa: TenantPlan,
}

impl Two {
    async fn new() -> Self {
        let ca = Ca::new();
        let sites = [Site::new("h1", &ca), Site::new("h2", &ca)];
        let plain = tenant_plan("alfa");
        let h2 = sites[1].start(grants(&plain)).await;
        let alfa = needed("alfa", "h2", h2.address);
        let h1 = sites[0]
            .start(plan_with(std::slice::from_ref(&alfa), &[], &[]))
            .await;
        h1.host.leases.acknowledged(h1.host.leases.now_ms());
        h1.converged(&alfa).await;
        Self {
            ca,
            sites,
            h1,
            h2,
            alfa,
        }
    }

    /// How often anything of the first host was stopped.
    fn stops(&self) -> usize {
        let log = self.sites[0].fake.log();
        log.iter().filter(|call| call.starts_with("stop ")).count()
    }

    fn running(&self) -> Vec<String> {
        self.sites[0].fake.running()
    }

    async fn is_stopped_within(&self, most: Duration) {
        let begun = Instant::now();
        self.h1.wait("its end", |_| self.running().is_empty()).await;
        assert!(begun.elapsed() < most, "{:?}", begun.elapsed());
    }

    async fn end(self) {
        self.h1.end().await;
        self.h2.end().await;
    }
}

/// The plan of the host that keeps the standby.
fn grants(alfa: &TenantPlan) -> HostPlan {
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let mut follow = order(alfa, "h1", nowhere);
    follow.work = isyone_proto::plan::JobWork::Follow {
        from: "h1".parse().unwrap(),
        address: Some(nowhere),
        last: false,
        standing: true,
    };
    plan_with(&[copy(alfa)], &[follow], &[])
}

fn takes_away(alfa: &TenantPlan) -> HostPlan {
    let copy = TenantPlan {
        lease: None,
        ..copy(alfa)
    };
    plan_with(&[copy], &[], &[])
}

fn lease_message(node: &Node) -> String {
    node.status("alfa").map(|s| s.message).unwrap_or_default()
}

/// How long ago a tenant was let go on from there.
fn age(node: &Node) -> Option<u64> {
    let jobs = node.host.leases.with_ages(node.host.board.jobs());
    jobs.first().and_then(|job| job.granted_ms)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_goes_on_by_the_other_hosts_word_and_is_stopped_in_time_without() {
    let two = Two::new().await;
    assert_eq!(two.running(), ["odoo_alfa", "postgres_alfa"]);
    // The coordinator is silent from here on.
    let before = two.stops();
    for _ in 0..10 {
        sleep(FOR / 3).await;
        assert_eq!(two.running(), ["odoo_alfa", "postgres_alfa"]);
        two.h2
            .wait("a recent grant", |h2| age(h2).is_some_and(|ms| ms < 1_000))
            .await;
    }
    assert_eq!(two.stops(), before, "nothing was stopped meanwhile");
    // It may be taken over: nothing is granted once this plan is in force.
    two.h2.plan(takes_away(&two.alfa));
    let taken = Instant::now();
    assert_eq!(age(&two.h2), None);
    let over = |node: &Node| node.host.leases.standing(&two.alfa.uid) != Standing::Free;
    two.h1.wait("the end of its lease", over).await;
    assert!(taken.elapsed() <= FOR, "{:?}", taken.elapsed());
    two.is_stopped_within(GONE).await;
    let says = "its lease is over: neither the coordinator nor host h2 was reached for 1 s; it goes on when one of them is";
    two.h1
        .wait("the message", |node| lease_message(node) == says)
        .await;
    let status = two.h1.status("alfa").unwrap();
    assert!(!status.blocked && status.progress == TenantProgress::Failing);
    sleep(FOR).await;
    assert_eq!(two.running(), Vec::<String>::new(), "and stays so");
    // It lives where it was after all.
    two.h2.plan(grants(&two.alfa));
    two.h1.converged(&two.alfa).await;
    assert_eq!(two.running(), ["odoo_alfa", "postgres_alfa"]);
    two.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_word_of_the_coordinator_is_enough() {
    let two = Two::new().await;
    two.h2.plan(takes_away(&two.alfa));
    for _ in 0..8 {
        let leases = &two.h1.host.leases;
        leases.acknowledged(leases.now_ms());
        sleep(FOR / 3).await;
        assert_eq!(two.running(), ["odoo_alfa", "postgres_alfa"]);
    }
    two.is_stopped_within(FOR + GONE).await;
    let leases = &two.h1.host.leases;
    leases.acknowledged(leases.now_ms());
    two.h1.wait("its start", |_| two.running().len() == 2).await;
    two.end().await;
}

/// What takes minutes does not keep a tenant from being stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_is_stopped_in_time_whatever_its_loop_is_doing() {
    let two = Two::new().await;
    // All turns of this host are taken, and its loop waits for one.
    let light = two.h1.host.light.clone();
    let turns = u32::try_from(light.available_permits()).unwrap();
    let _turns = light.acquire_many_owned(turns).await.unwrap();
    let mut next = two.alfa.clone();
    (next.odoo_restarts, next.generation) = (1, 2);
    two.h1.plan(plan_with(&[next], &[], &[]));
    sleep(FOR / 3).await;
    two.h2.plan(takes_away(&two.alfa));
    two.is_stopped_within(FOR + GONE).await;
    sleep(FOR / 2).await;
    assert_eq!(two.running(), Vec::<String>::new());
    two.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_agent_that_begins_anew_goes_on_with_what_it_wrote_down_and_no_longer() {
    let mut two = Two::new().await;
    let stops = two.stops();
    let file = two.sites[0].path().join("agent/leases.json");
    two.h1.wait("the file", |_| file.exists()).await;
    two.h2.plan(takes_away(&two.alfa));
    let before = two.h1;
    before.host.leases.acknowledged(before.host.leases.now_ms());
    sleep(FOR / 2 + Duration::from_millis(50)).await;
    before.host.leases.acknowledged(before.host.leases.now_ms());
    let granted = Instant::now();
    sleep(Duration::from_millis(200)).await; // it is written down
    before.end().await;
    let plan = plan_with(&[two.alfa.clone()], &[], &[]);
    two.h1 = two.sites[0].start(plan).await;
    two.h1.converged(&two.alfa).await;
    assert_eq!(two.stops(), stops);
    two.is_stopped_within(FOR.saturating_sub(granted.elapsed()) + GONE)
        .await;
    assert!(granted.elapsed() >= FOR - Duration::from_millis(20));
    two.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_host_that_hangs_keeps_no_other_from_being_asked() {
    let ca = Ca::new();
    let sites = [Site::new("h1", &ca), Site::new("h2", &ca)];
    let (plain, beta) = (tenant_plan("alfa"), tenant_plan("beta"));
    let h2 = sites[1].start(plan_with(&[copy(&plain)], &[], &[])).await;
    // It takes connections, and says nothing.
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let alfa = needed("alfa", "h2", h2.address);
    let beta = TenantPlan {
        lease: needed("beta", "h9", hangs.local_addr().unwrap()).lease,
        ..beta
    };
    let h1 = sites[0]
        .start(plan_with(&[alfa.clone(), beta.clone()], &[], &[]))
        .await;
    h1.host.leases.acknowledged(h1.host.leases.now_ms());
    h1.converged(&alfa).await;
    let is_over = |node: &Node| node.host.leases.standing(&beta.uid) != Standing::Free;
    h1.wait("the end of the other one", is_over).await;
    sleep(FOR * 2).await;
    assert_eq!(sites[0].fake.running(), ["odoo_alfa", "postgres_alfa"]);
    h1.end().await;
    h2.end().await;
}

async fn asks(
    ca: &Ca,
    who: &str,
    address: SocketAddr,
    tenants: Vec<PeerTenant>,
) -> Result<Vec<String>, Status> {
    let config = Arc::new(ArcSwap::from(client_of(ca, &ca.leaf(who))));
    let channel = tls::peer_channel(address, &"h2".parse().unwrap(), config).unwrap();
    let request = RenewLeasesRequest { tenants };
    let answer = PeerServiceClient::new(channel)
        .renew_leases(request)
        .await?;
    Ok(answer.into_inner().tenant_uids)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_let_go_on_but_whom_the_plan_says() {
    let two = Two::new().await;
    let asked = |tenant: &str, uid: String| PeerTenant {
        tenant: tenant.to_owned(),
        tenant_uid: uid,
        live: false,
    };
    let uid = two.alfa.uid.to_string();
    let address = two.h2.address;
    let said = asks(
        &two.ca,
        "agent/h1",
        address,
        vec![
            asked("alfa", uid.clone()),
            asked("beta", uid.clone()),
            asked("alfa", uuid::Uuid::from_u128(9).to_string()),
            asked("no name!", "no uid".to_owned()),
        ],
    );
    assert_eq!(said.await.unwrap(), std::slice::from_ref(&uid));
    let many = vec![asked("alfa", uid.clone()); 257];
    let refused = asks(&two.ca, "agent/h1", address, many).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    for stranger in ["agent/h3", "operator/ana"] {
        let said = asks(&two.ca, stranger, address, vec![asked("alfa", uid.clone())]).await;
        assert!(said.is_err(), "{stranger}: {said:?}");
    }
    // Whoever may have something else of this host learns no more for that.
    let mut beta = copy(&tenant_plan("beta"));
    beta.lease = Some(Lease::Granted {
        to: "h3".parse().unwrap(),
    });
    two.h2.plan(plan_with(&[copy(&two.alfa), beta], &[], &[]));
    let said = asks(
        &two.ca,
        "agent/h3",
        address,
        vec![asked("alfa", uid.clone())],
    )
    .await;
    assert_eq!(said.unwrap(), Vec::<String>::new());
    two.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_take_over_waits_until_the_other_host_must_have_stopped_it() {
    let Some(pair) = Pair::new().await else {
        return;
    };
    let after = Duration::from_millis(2_500);
    let stands = |lease: Option<Lease>| TenantPlan {
        lease,
        ..pair.copy()
    };
    let to = "h1".parse().unwrap();
    let granted = stands(Some(Lease::Granted { to }));
    let standing = plan_with(&[granted], &[pair.order_as(false, true)], &[]);
    pair.target.plan(standing);
    let is_filled = |node: &Node| node.job().is_some_and(|job| job.filled);
    pair.target.wait("a whole copy", is_filled).await;
    let asked = (pair.alfa.name.clone(), pair.alfa.uid);
    let given = pair
        .target
        .host
        .leases
        .gives(&"h1".parse().unwrap(), &[asked]);
    assert_eq!(given, [pair.alfa.uid]);
    let given = Instant::now();
    let mut takes = stands(Some(Lease::Over {
        after_ms: u32::try_from(after.as_millis()).unwrap(),
    }));
    (takes.desired, takes.follows, takes.as_it_is) = (DesiredState::Running, false, true);
    takes.generation += 1;
    pair.target.plan(plan_with(&[takes.clone()], &[], &[]));
    let waits = |node: &Node| lease_message(node).contains("s until host h1 must have stopped it");
    pair.target.wait("the message", waits).await;
    assert_eq!(pair.sql(1, "SELECT pg_is_in_recovery()"), "t");
    sleep((after - Duration::from_millis(200)).saturating_sub(given.elapsed())).await;
    assert_eq!(pair.sql(1, "SELECT pg_is_in_recovery()"), "t");
    // By itself, and at that moment.
    pair.target.converged(&takes).await;
    assert!(given.elapsed() >= after, "{:?}", given.elapsed());
    assert_eq!(pair.sql(1, "SELECT pg_is_in_recovery()"), "f");
    pair.end().await;
}
