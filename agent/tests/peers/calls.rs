//! Who may call what, at the beginning and while it lasts. Not here: what copies are made of (copies).

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use isyone_agent::{base::clock::now_ms, testing::tenant_plan};
use isyone_proto::{
    pb::agent::v1::{
        ListRequest, PeerTenant, PeerVolume, ReadFile, ReadRequest, ReadResponse, TunnelUp,
        peer_service_client::PeerServiceClient, read_request, tunnel_up,
    },
    plan::{DesiredState, TenantPlan},
    tls,
};
use tokio::{io::AsyncReadExt as _, net::TcpStream, sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::node::{Ca, FAR_FUTURE, Node, Site, client_of, grant, plan_with};

type Client = PeerServiceClient<Channel>;

fn client(ca: &Ca, identity: &str, address: SocketAddr) -> Client {
    let config = Arc::new(ArcSwap::from(client_of(ca, &ca.leaf(identity))));
    let channel = tls::peer_channel(address, &"h1".parse().unwrap(), config).unwrap();
    PeerServiceClient::new(channel).max_decoding_message_size(2 << 20)
}

fn of(tenant: &TenantPlan) -> PeerTenant {
    PeerTenant {
        tenant: tenant.name.to_string(),
        tenant_uid: tenant.uid.to_string(),
        live: false,
    }
}

/// Asks for a list, to its end.
async fn list(client: &mut Client, of: PeerTenant) -> Result<usize, Status> {
    let request = ListRequest { of: Some(of) };
    let mut answers = client.list(request).await?.into_inner();
    let mut entries = 0;
    while let Some(answer) = answers.message().await? {
        entries += answer.entries.len();
        if answer.end.is_some() {
            return Ok(entries);
        }
    }
    Err(Status::data_loss("cut off"))
}

/// Asks for a file again and again, without reading.
async fn read(
    client: &mut Client,
    tenant: PeerTenant,
    size: u64,
) -> Result<Streaming<ReadResponse>, Status> {
    let (ask, asked) = mpsc::channel(8);
    let file = ReadFile {
        volume: PeerVolume::Odoo.into(),
        path: b"large".to_vec(),
        offset: 0,
        size,
    };
    for message in [
        read_request::Message::Of(tenant),
        read_request::Message::File(file),
    ] {
        let message = ReadRequest {
            message: Some(message),
        };
        ask.send(message).await.unwrap();
    }
    let answers = client.read(ReceiverStream::new(asked)).await?.into_inner();
    std::mem::forget(ask); // more could be asked for
    Ok(answers)
}

struct Source {
    ca: Ca,
    site: Site,
    node: Node,
    alfa: TenantPlan,
    beta: TenantPlan,
}

impl Source {
    /// A host that has stopped copies of two tenants, and grants nothing.
    async fn new() -> Self {
        let ca = Ca::new();
        let site = Site::new("h1", &ca);
        let mut tenants = ["alfa", "beta"].map(tenant_plan);
        let node = site.start(plan_with(&tenants, &[], &[])).await;
        for tenant in &mut tenants {
            node.converged(tenant).await;
            tenant.desired = DesiredState::Suspended;
            tenant.generation += 1;
        }
        node.plan(plan_with(&tenants, &[], &[]));
        for tenant in &tenants {
            node.converged(tenant).await;
        }
        let [alfa, beta] = tenants;
        Self {
            ca,
            site,
            node,
            alfa,
            beta,
        }
    }

    fn grant(&self, to: &str, until: i64) {
        let tenants = [self.alfa.clone(), self.beta.clone()];
        let grants = [grant(&self.alfa, to, until)];
        self.node.plan(plan_with(&tenants, &[], &grants));
    }

    fn client(&self, identity: &str) -> Client {
        client(&self.ca, identity, self.node.address)
    }

    /// A file that takes long, and costs no disk.
    fn large(&self) -> u64 {
        let path = self.site.volume("odoo_data_alfa").join("large");
        let size = 4 << 30;
        fs::File::create(path).unwrap().set_len(size).unwrap();
        size
    }
}

/// Whoever has no grant hears the same whatever the reason; who has no grant at all does not even get a connection.
fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, why: &str) {
    let status = answer.expect_err(why);
    match status.code() {
        Code::PermissionDenied => assert_eq!(status.message(), "not granted", "{why}"),
        Code::Unavailable | Code::Unknown | Code::Cancelled => {}
        code => panic!("{why}: {code:?} {status}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_granted_host_gets_the_granted_tenant_while_the_grant_lasts() {
    let source = Source::new().await;
    let mut h2 = source.client("agent/h2");
    assert_refused(list(&mut h2, of(&source.alfa)).await, "no grant");
    source.grant("h2", now_ms());
    assert_refused(list(&mut h2, of(&source.alfa)).await, "expired");
    source.grant("h2", FAR_FUTURE);
    let mut h2 = source.client("agent/h2"); // the earlier connection is being closed
    assert!(list(&mut h2, of(&source.alfa)).await.unwrap() > 4);
    for identity in [
        "agent/h3",
        "operator/ana/admin",
        "operator/h2/monitor",
        "coordinator",
    ] {
        let mut other = source.client(identity);
        assert_refused(list(&mut other, of(&source.alfa)).await, identity);
    }
    let foreign = Ca::new();
    let config = client_of(&source.ca, &foreign.leaf("agent/h2"));
    let config = Arc::new(ArcSwap::from(config));
    let channel = tls::peer_channel(source.node.address, &"h1".parse().unwrap(), config).unwrap();
    let mut stranger = PeerServiceClient::new(channel);
    assert_refused(list(&mut stranger, of(&source.alfa)).await, "another CA");

    let refused = |answer: Result<usize, Status>, why: &str| {
        assert_eq!(
            answer.expect_err(why).code(),
            Code::PermissionDenied,
            "{why}"
        );
    };
    refused(list(&mut h2, of(&source.beta)).await, "another tenant");
    let mut reborn = of(&source.alfa);
    reborn.tenant_uid = uuid::Uuid::nil().to_string();
    refused(list(&mut h2, reborn).await, "another uid");
    refused(list(&mut h2, PeerTenant::default()).await, "nobody");
    let unknown = PeerTenant {
        tenant: "../alfa".into(),
        ..of(&source.alfa)
    };
    refused(list(&mut h2, unknown).await, "no name");
    // The host itself must be who was meant: this one's certificate says h1.
    let config = Arc::new(ArcSwap::from(client_of(
        &source.ca,
        &source.ca.leaf("agent/h2"),
    )));
    let channel = tls::peer_channel(source.node.address, &"h9".parse().unwrap(), config).unwrap();
    let wrong = list(&mut PeerServiceClient::new(channel), of(&source.alfa)).await;
    assert_eq!(wrong.unwrap_err().code(), Code::Unavailable);
    source.node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_a_copy_that_runs_or_still_stops_are_not_given() {
    let source = Source::new().await;
    source.grant("h2", FAR_FUTURE);
    let mut h2 = source.client("agent/h2");
    assert!(list(&mut h2, of(&source.alfa)).await.is_ok());
    let mut running = source.alfa.clone();
    running.desired = DesiredState::Running;
    running.generation += 1;
    let grants = [grant(&running, "h2", FAR_FUTURE)];
    source
        .node
        .plan(plan_with(&[running.clone()], &[], &grants));
    let refused = list(&mut h2, of(&running)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
    assert!(refused.message().contains("is to run here"), "{refused}");
    source.node.converged(&running).await;
    // Fenced in the plan, but its containers are not down: the engine refuses to stop them.
    source
        .site
        .fake
        .set_faults(isyone_agent::testing::fake_docker::Faults {
            refused: 1000,
            ..Default::default()
        });
    let fenced = TenantPlan {
        desired: DesiredState::Fenced,
        generation: running.generation + 1,
        ..running
    };
    source
        .node
        .plan(plan_with(std::slice::from_ref(&fenced), &[], &grants));
    let refused = list(&mut h2, of(&fenced)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
    assert!(refused.message().contains("still runs"), "{refused}");
    source.site.fake.set_faults(Default::default());
    source.node.converged(&fenced).await;
    assert!(list(&mut h2, of(&fenced)).await.is_ok());
    source.node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_ends_when_its_grant_does() {
    for expires in [false, true] {
        let source = Source::new().await;
        let size = source.large();
        let until = if expires {
            now_ms() + 1_500
        } else {
            FAR_FUTURE
        };
        source.grant("h2", until);
        let mut h2 = source.client("agent/h2");
        let mut answers = read(&mut h2, of(&source.alfa), size).await.unwrap();
        for _ in 0..4 {
            assert!(answers.message().await.unwrap().is_some());
        }
        if !expires {
            let tenants = [source.alfa.clone(), source.beta.clone()];
            // Another tenant's grant keeps the connection, not the call.
            let grants = [grant(&source.beta, "h2", FAR_FUTURE)];
            source.node.plan(plan_with(&tenants, &[], &grants));
        }
        let ended = timeout(Duration::from_secs(5), async {
            loop {
                match answers.message().await {
                    Ok(Some(_)) => {}
                    other => return other,
                }
            }
        });
        let ended = ended.await.expect("it ends soon");
        assert!(ended.is_err(), "with an error: {ended:?}");
        assert_refused(list(&mut h2, of(&source.alfa)).await, "afterwards");
        source.node.end().await;
    }
}

fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_read_holds_some_buffers_and_no_more() {
    let source = Source::new().await;
    let size = source.large();
    source.grant("h2", FAR_FUTURE);
    let mut h2 = source.client("agent/h2");
    let before = resident_bytes();
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(read(&mut h2, of(&source.alfa), size).await.unwrap());
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let more = resident_bytes().saturating_sub(before);
    // 32 GiB were asked for; other tests of this process may run meanwhile.
    assert!(more < 200 << 20, "{} MiB", more >> 20);
    for answers in &mut held {
        assert!(
            answers.message().await.unwrap().is_some(),
            "it goes on when it is read"
        );
    }
    source.node.end().await;
}

/// However many calls one host makes on however many connections, another host gets through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_takes_all_it_can_leaves_room_for_others() {
    let source = Source::new().await;
    let size = source.large();
    let tenants = [source.alfa.clone(), source.beta.clone()];
    let grants = ["h2", "h3"].map(|host| grant(&source.alfa, host, FAR_FUTURE));
    source.node.plan(plan_with(&tenants, &[], &grants));
    let (mut clients, mut held, mut refused) = (Vec::new(), Vec::new(), 0);
    for _ in 0..4 {
        let mut greedy = source.client("agent/h2");
        for _ in 0..16 {
            match read(&mut greedy, of(&source.alfa), size).await {
                Ok(answers) => held.push(answers),
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                    refused += 1;
                }
            }
        }
        clients.push(greedy);
    }
    let mut modest = source.client("agent/h3");
    let listed = list(&mut modest, of(&source.alfa)).await;
    assert!(
        listed.is_ok_and(|entries| entries > 4),
        "{} held",
        held.len()
    );
    assert_eq!((held.len(), refused), (16, 48));
    let mut fifth = source.client("agent/h2");
    let refusal = list(&mut fifth, of(&source.alfa)).await;
    let refusal = refusal.expect_err("another connection brings no call more");
    assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal}");
    // What it has no more, it may have again.
    source.node.plan(plan_with(&tenants, &[], &[]));
    let again = async {
        let mut client = source.client("agent/h2");
        while list(&mut client, of(&source.alfa)).await.is_err() {
            source.node.plan(plan_with(&tenants, &[], &grants));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), again).await.unwrap();
    source.node.end().await;
}

/// Whoever opens connections and says nothing holds places for strangers, and those for seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_say_nothing_are_few_and_cut_soon() {
    let source = Source::new().await;
    source.grant("h2", FAR_FUTURE);
    let mut h2 = source.client("agent/h2");
    assert!(list(&mut h2, of(&source.alfa)).await.is_ok());
    let mut strangers = Vec::new();
    for _ in 0..20 {
        strangers.push(TcpStream::connect(source.node.address).await.unwrap());
    }
    let mut cut_at_once = 0;
    for stranger in &mut strangers {
        let read = timeout(Duration::from_millis(200), stranger.read(&mut [0; 1])).await;
        cut_at_once += u32::from(read.is_ok());
    }
    assert_eq!(cut_at_once, 4, "sixteen may come from one address");
    assert!(list(&mut h2, of(&source.alfa)).await.is_ok());
    for stranger in &mut strangers {
        let read = timeout(Duration::from_secs(7), stranger.read(&mut [0; 1])).await;
        assert!(!matches!(read, Err(_) | Ok(Ok(1..))), "{read:?}");
    }
    assert!(
        list(&mut source.client("agent/h2"), of(&source.alfa))
            .await
            .is_ok()
    );
    source.node.end().await;
}

/// Strangers of as many networks as take all handshakes keep nobody out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_of_many_networks_do_not_keep_a_host_out() {
    let source = Source::new().await;
    source.grant("h2", FAR_FUTURE);
    let mut strangers = Vec::new();
    for network in 2..14 {
        for _ in 0..16 {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(([127, 0, 0, network], 0).into()).unwrap();
            strangers.push(socket.connect(source.node.address).await.unwrap());
        }
    }
    let mut h2 = source.client("agent/h2");
    let heard = timeout(Duration::from_secs(3), list(&mut h2, of(&source.alfa))).await;
    assert!(heard.is_ok_and(|list| list.is_ok()));
    drop(strangers);
    source.node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_badly_is_refused_and_harms_nobody() {
    let source = Source::new().await;
    source.grant("h2", FAR_FUTURE);
    let mut h2 = source.client("agent/h2");
    let secret = source.site.path().join("secret");
    fs::write(&secret, "of the host").unwrap();
    let odoo = source.site.volume("odoo_data_alfa");
    std::os::unix::fs::symlink(&secret, odoo.join("link")).unwrap();
    for (path, size) in [
        (&b"../../../secret"[..], 11),
        (b"/etc/passwd", 1),
        (b"link", 11),
        (b"", 0),
        (b"absent", 0),
        (b"filestore/odoo_alfa/00/file", 7),
    ] {
        let (ask, asked) = mpsc::channel(8);
        let file = ReadFile {
            volume: PeerVolume::Odoo.into(),
            path: path.to_vec(),
            offset: 0,
            size,
        };
        for message in [
            read_request::Message::Of(of(&source.alfa)),
            read_request::Message::File(file),
        ] {
            let message = ReadRequest {
                message: Some(message),
            };
            ask.send(message).await.unwrap();
        }
        drop(ask);
        let mut answers = h2
            .read(ReceiverStream::new(asked))
            .await
            .unwrap()
            .into_inner();
        let answer = answers.message().await;
        assert!(answer.is_err(), "{}: {answer:?}", path.escape_ascii());
    }
    // A tunnel needs the grant all the same, and a database that answers.
    let (up, messages) = mpsc::channel(1);
    let first = TunnelUp {
        message: Some(tunnel_up::Message::Of(of(&source.beta))),
    };
    up.send(first).await.unwrap();
    let refused = h2.tunnel(ReceiverStream::new(messages)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        list(&mut h2, of(&source.alfa)).await.is_ok(),
        "it still serves"
    );
    source.node.end().await;
}
