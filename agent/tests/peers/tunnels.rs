//! A database's socket on another host. Not here: who may have it (calls).

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use isyone_agent::{
    peer::{Of, tunnel},
    testing::tenant_plan,
};
use isyone_proto::{
    plan::{MAX_STANDBYS_PER_HOST, TenantPlan},
    tls,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::node::{Ca, FAR_FUTURE, Node, Site, client_of, grant, plan_with};

struct Far {
    ca: Ca,
    site: Site,
    node: Node,
    alfa: TenantPlan,
    near: PathBuf,
    stop: CancellationToken,
    entrance: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Far {
    /// A host with a running tenant whose database `serve` plays, and a socket to it elsewhere.
    async fn new<F>(serve: impl Fn(UnixStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let ca = Ca::new();
        let site = Site::new("h1", &ca);
        let alfa = tenant_plan("alfa");
        let grants = [grant(&alfa, "h2", FAR_FUTURE)];
        let node = site
            .start(plan_with(std::slice::from_ref(&alfa), &[], &grants))
            .await;
        let database = UnixListener::bind(site.database_socket()).unwrap();
        tokio::spawn(async move {
            while let Ok((socket, _)) = database.accept().await {
                tokio::spawn(serve(socket));
            }
        });
        let config = Arc::new(ArcSwap::from(client_of(&ca, &ca.leaf("agent/h2"))));
        let channel = tls::peer_channel(node.address, &"h1".parse().unwrap(), config).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let near = dir.path().join(tunnel::SOCKET_NAME);
        std::fs::write(&near, "left by an earlier life").unwrap();
        let stop = CancellationToken::new();
        let of = Of {
            tenant: alfa.name.clone(),
            uid: alfa.uid,
        };
        let (place, ends) = (dir.path().to_owned(), stop.clone());
        let entrance = tokio::spawn(async move {
            tunnel::serve(&place, (channel, Default::default()), of, ends)
                .await
                .unwrap();
        });
        while std::os::unix::net::UnixStream::connect(&near).is_err() {
            sleep(Duration::from_millis(2)).await;
        }
        Self {
            ca,
            site,
            node,
            alfa,
            near,
            stop,
            entrance,
            _dir: dir,
        }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.near).await.unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        self.entrance.await.unwrap();
        assert!(!self.near.exists());
        self.node.end().await;
        drop(self.site);
    }
}

async fn echo(mut socket: UnixStream) {
    let (mut read, mut write) = socket.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.write_all(b"the end").await;
    let _ = write.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    let far = Far::new(echo).await;
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut sockets = Vec::new();
    for _ in 0..3 {
        sockets.push(far.connect().await);
    }
    for socket in sockets {
        let (mut read, mut write) = socket.into_split();
        let data = sent.clone();
        let writing = tokio::spawn(async move {
            write.write_all(&data).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        let all = timeout(Duration::from_secs(20), read.read_to_end(&mut got));
        all.await.expect("it ends").unwrap();
        writing.await.unwrap();
        assert!(
            got == [&sent[..], b"the end"].concat(),
            "{} bytes came",
            got.len()
        );
    }
    far.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_withdrawn_grant_ends_a_connection_that_is_open() {
    let far = Far::new(echo).await;
    let mut socket = far.connect().await;
    socket.write_all(b"ping").await.unwrap();
    let mut pong = [0; 4];
    socket.read_exact(&mut pong).await.unwrap();
    far.node
        .plan(plan_with(std::slice::from_ref(&far.alfa), &[], &[]));
    let ended = timeout(Duration::from_secs(5), socket.read(&mut pong)).await;
    assert!(matches!(ended.expect("soon"), Ok(0) | Err(_)));
    let mut refused = far.connect().await;
    let ended = timeout(Duration::from_secs(15), refused.read(&mut pong)).await;
    assert!(matches!(ended.expect("soon"), Ok(0) | Err(_)));
    far.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_takes_nothing_slows_the_sender_and_is_given_up_after_a_while() {
    let far = Far::new(|socket| async move {
        sleep(Duration::from_secs(100)).await;
        drop(socket);
    })
    .await;
    let mut socket = far.connect().await;
    let begin = Instant::now();
    let (piece, mut taken) = (vec![7; 64 << 10], 0u64);
    let ended = timeout(Duration::from_secs(60), async {
        while socket.write_all(&piece).await.is_ok() {
            taken += piece.len() as u64;
        }
    });
    ended.await.expect("it ends");
    assert!(taken < 16 << 20, "{taken} bytes were taken by nobody");
    let took = begin.elapsed();
    assert!(took > Duration::from_secs(5), "patience: {took:?}");
    far.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_stays() {
    let far = Far::new(echo).await;
    let mut socket = far.connect().await;
    sleep(Duration::from_secs(12)).await;
    socket.write_all(b"ping").await.unwrap();
    let mut pong = [0; 4];
    socket.read_exact(&mut pong).await.unwrap();
    assert_eq!(&pong, b"ping");
    far.end().await;
}

/// All standbys of a host's tenants may be on one other host, and each holds two connections for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_follow_from_one_host_as_may_stand_there() {
    let far = Far::new(echo).await;
    let config = Arc::new(ArcSwap::from(client_of(&far.ca, &far.ca.leaf("agent/h2"))));
    let of = Of {
        tenant: far.alfa.name.clone(),
        uid: far.alfa.uid,
    };
    let mut open = Vec::new();
    for n in 0..MAX_STANDBYS_PER_HOST {
        let name = "h1".parse().unwrap();
        let channel = tls::peer_channel(far.node.address, &name, config.clone()).unwrap();
        let place = far.near.with_file_name(format!("standby-{n}"));
        std::fs::create_dir(&place).unwrap();
        let (of, ends, at) = (of.clone(), far.stop.clone(), place.clone());
        tokio::spawn(async move {
            let _ = tunnel::serve(&at, (channel, Default::default()), of, ends).await;
        });
        for _ in 0..2 {
            let at = place.join(tunnel::SOCKET_NAME);
            let mut socket = loop {
                match UnixStream::connect(&at).await {
                    Ok(socket) => break socket,
                    Err(_) => sleep(Duration::from_millis(2)).await,
                }
            };
            socket.write_all(b"ping").await.unwrap();
            let mut pong = [0; 4];
            let answered = timeout(Duration::from_secs(20), socket.read_exact(&mut pong));
            answered.await.expect("soon").expect("let in");
            open.push(socket);
        }
    }
    drop(open);
    far.end().await;
}
