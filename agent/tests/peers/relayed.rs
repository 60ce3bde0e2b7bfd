//! A copy whose source cannot be reached goes through the coordinator: when, and that the way changes nothing of who may have
//! what. The coordinator is modelled by the queues that it would pass messages between. Not here: the coordinator's own
//! relay (isyone-coordinator).

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use isyone_agent::{
    base::bulk::{AnyConnection, PIECES, Pieces},
    peer::{Relay, Route},
    testing::tenant_plan,
};
use isyone_proto::{
    pb::agent::v1::{ListRequest, PeerTenant, peer_service_client::PeerServiceClient},
    plan::{DesiredState, JobOrder, JobWork, MAX_STANDBYS_PER_HOST, TenantPlan},
    report::{JobReport, JobState},
    tls,
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Status, async_trait};

use crate::{
    node::{Ca, FAR_FUTURE, Node, Site, client_of, grant, order, plan_with, standby},
    proxy::Proxy,
};

/// The way through a coordinator.
#[derive(Default)]
pub(crate) struct Line {
    to: Mutex<Option<mpsc::Sender<AnyConnection>>>,
    asked: AtomicUsize,
}

impl Line {
    fn leads_to(&self, node: &Node) {
        *self.to.lock().unwrap() = Some(node.relay.clone());
    }

    /// How often it was asked for a connection.
    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// Two ends of a connection, made of messages.
fn pair() -> [AnyConnection; 2] {
    let (a, from_a) = mpsc::channel(PIECES);
    let (b, from_b) = mpsc::channel(PIECES);
    let end = |to, from: mpsc::Receiver<Bytes>| -> AnyConnection {
        let from = ReceiverStream::new(from).map(Ok);
        Box::new(Pieces::new(Box::pin(from), to, |piece| piece, ()))
    };
    [end(a, from_b), end(b, from_a)]
}

#[async_trait]
impl Relay for Line {
    async fn open(&self, _route: &Route) -> Result<AnyConnection, String> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let to = self.to.lock().unwrap().clone();
        let to = to.ok_or("its agent is not connected")?;
        let [here, there] = pair();
        to.try_send(there).map_err(|_| "it is full")?;
        Ok(here)
    }
}

/// A port that nobody listens on.
async fn closed() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

struct Pair {
    ca: Ca,
    sites: [Site; 2],
    source: Node,
    alfa: TenantPlan,
}

impl Pair {
    /// Two hosts; the first has a stopped copy of alfa with 6 MiB more, and lets the second have it.
    async fn new() -> Self {
        let ca = Ca::new();
        let sites = [Site::new("h1", &ca), Site::new("h2", &ca)];
        let mut alfa = tenant_plan("alfa");
        let source = sites[0].start(plan_with(&[alfa.clone()], &[], &[])).await;
        source.converged(&alfa).await;
        (alfa.desired, alfa.generation) = (DesiredState::Suspended, alfa.generation + 1);
        let grants = [grant(&alfa, "h2", FAR_FUTURE)];
        source.plan(plan_with(&[alfa.clone()], &[], &grants));
        source.converged(&alfa).await;
        let large = sites[0].volume("odoo_data_alfa").join("large");
        let bytes: Vec<u8> = (0u32..6 << 20).map(|n| (n % 253) as u8).collect();
        std::fs::write(large, bytes).unwrap();
        Self {
            ca,
            sites,
            source,
            alfa,
        }
    }

    fn line(&self) -> &Arc<Line> {
        &self.sites[1].line
    }

    async fn target(&self, order: JobOrder) -> Node {
        let copy = standby(&self.alfa, "h1");
        self.sites[1].start(plan_with(&[copy], &[order], &[])).await
    }

    fn assert_copied(&self) {
        let [ours, theirs] = [0, 1].map(|at| {
            let large = self.sites[at].volume("odoo_data_alfa").join("large");
            std::fs::read(large).unwrap()
        });
        assert!(ours == theirs);
    }

    /// Connects as another host, through the coordinator.
    async fn relayed(
        &self,
        identity: &str,
    ) -> Result<PeerServiceClient<tonic::transport::Channel>, std::io::Error> {
        let [here, there] = pair();
        self.source.relay.send(there).await.unwrap();
        let config = client_of(&self.ca, &self.ca.leaf(identity));
        let channel = tls::peer_over(here, &"h1".parse().unwrap(), config).await?;
        Ok(PeerServiceClient::new(channel))
    }

    async fn list(
        &self,
        client: &mut PeerServiceClient<tonic::transport::Channel>,
    ) -> Result<(), Status> {
        let of = PeerTenant {
            tenant: self.alfa.name.to_string(),
            tenant_uid: self.alfa.uid.to_string(),
            live: false,
        };
        let mut answers = client
            .list(ListRequest { of: Some(of) })
            .await?
            .into_inner();
        while let Some(answer) = answers.message().await? {
            if answer.end.is_some() {
                return Ok(());
            }
        }
        Err(Status::data_loss("cut off"))
    }
}

/// Waits until the job is tried again for a reason with these words.
async fn fails_with(target: &Node, words: &[&str]) {
    let fits = |job: &JobReport| {
        job.state == JobState::Retrying && words.iter().all(|word| job.message.contains(word))
    };
    let failed = |node: &Node| node.job().is_some_and(|job| fits(&job));
    target.wait("that failure", failed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_out_of_reach_is_copied_from_through_the_coordinator() {
    let pair = Pair::new().await;
    pair.line().leads_to(&pair.source);
    let mut order = order(&pair.alfa, "h1", closed().await);
    order.rate_bytes_per_s = 4 << 20; // so that it can be watched
    let target = pair.target(order).await;
    let told = "through the coordinator: h1 cannot be reached from here (connection refused)";
    target
        .wait("to hear of the way", |node| {
            node.job()
                .is_some_and(|job| job.state == JobState::Running && job.message == told)
        })
        .await;
    let done = target.job_is(JobState::Done).await;
    assert_eq!(done.bytes_done, done.bytes_total);
    pair.assert_copied();
    assert_eq!(pair.line().asked(), 1);
    target.end().await;
    pair.source.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_without_an_address_is_copied_from_through_the_coordinator() {
    let pair = Pair::new().await;
    pair.line().leads_to(&pair.source);
    let mut order = order(&pair.alfa, "h1", closed().await);
    let JobWork::Fetch { address, .. } = &mut order.work else {
        panic!("it fetches");
    };
    *address = None;
    let target = pair.target(order).await;
    target.job_is(JobState::Done).await;
    pair.assert_copied();
    assert_eq!(pair.line().asked(), 1);
    target.end().await;
    pair.source.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_attempt_tries_the_direct_way_first() {
    let pair = Pair::new().await;
    let address = closed().await;
    let target = pair.target(order(&pair.alfa, "h1", address)).await;
    fails_with(
        &target,
        &["(connection refused)", "its agent is not connected"],
    )
    .await;
    let proxy = Proxy::start_at(address, pair.source.address, vec![]).await;
    target.job_is(JobState::Done).await;
    pair.assert_copied();
    assert!(proxy.passed() > 6 << 20, "it came directly");
    target.end().await;
    pair.source.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_reached_and_is_another_is_no_reason_for_the_coordinator() {
    let pair = Pair::new().await;
    pair.line().leads_to(&pair.source);
    let other = Site::new("h3", &pair.ca);
    let other = other.start(plan_with(&[], &[], &[])).await;
    let target = pair.target(order(&pair.alfa, "h1", other.address)).await;
    fails_with(&target, &["host h1: ", "certificate"]).await;
    assert_eq!(pair.line().asked(), 0);
    for node in [target, other, pair.source] {
        node.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_changes_nothing_of_who_may_have_what_and_how_often() {
    let pair = Pair::new().await;
    // Nothing is granted to this one; it learns that after its own part of the handshake.
    if let Ok(mut h3) = pair.relayed("agent/h3").await {
        assert!(pair.list(&mut h3).await.is_err());
    }
    // The places of a host are the same ones, whichever way it comes.
    let config = client_of(&pair.ca, &pair.ca.leaf("agent/h2"));
    let config = Arc::new(arc_swap::ArcSwap::from(config));
    let direct = || {
        let host = "h1".parse().unwrap();
        let channel = tls::peer_channel(pair.source.address, &host, config.clone());
        PeerServiceClient::new(channel.unwrap())
    };
    let mut others = Vec::new();
    for _ in 0..MAX_STANDBYS_PER_HOST {
        let mut client = direct();
        pair.list(&mut client).await.unwrap();
        others.push(client);
    }
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = pair.relayed("agent/h2").await.unwrap();
        pair.list(&mut client).await.unwrap();
        clients.push(client);
    }
    let mut fifth = direct();
    assert!(pair.list(&mut fifth).await.is_err());
    clients.pop();
    let again = async {
        while pair.list(&mut fifth).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), again)
        .await
        .expect("a place was free");
    // A grant that ends cuts relayed connections, too.
    pair.source
        .plan(plan_with(std::slice::from_ref(&pair.alfa), &[], &[]));
    for mut client in clients {
        assert!(pair.list(&mut client).await.is_err());
    }
    pair.source.end().await;
}
