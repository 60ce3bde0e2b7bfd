//! Tenants whose visitors arrive at a relay: a real one, on loopback, before an Odoo of a few lines and a fake engine.
//!
//! Not here: what a relay does with requests (its crate's tests), a real Odoo (the workspace's tests).

use std::{
    net::Ipv4Addr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use isyone_agent::{
    base::config::DataDir,
    host::{Host, Pace, relay::settings},
    testing::{fake_docker::FakeDocker, tenant_plan},
};
use isyone_proto::{
    disk::{Disk, DiskMeans, DiskUse},
    plan::{DesiredState, TenantPlan},
};
use isyone_relay::{
    Relay,
    routes::{Route, Routes, State},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use crate::life::Life;

/// How long the test looks away, for what is not to happen meanwhile.
const MOMENT: Duration = Duration::from_millis(300);

/// An address of loopback that no other test of this process has, and ports that are free.
pub(super) fn place(n: u8, plan: &mut TenantPlan) -> Ipv4Addr {
    let free = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    (plan.http_port, plan.websocket_port) = (free(), free());
    let [.., a, b] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, a | 1, b, n)
}

/// When each request's answer was sent; `/slow` takes until it is told.
#[derive(Clone, Default)]
pub(super) struct Odoo(Arc<Mutex<Vec<(String, Instant)>>>, Arc<Notify>);

impl Odoo {
    pub(super) async fn start(at: Ipv4Addr) -> Self {
        let listener = TcpListener::bind((at, 8069)).await.unwrap();
        let odoo = Self::default();
        let answered = odoo.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answered.clone().answer(stream));
            }
        });
        odoo
    }

    /// Answers `/slow`.
    pub(super) fn let_go(&self) {
        self.1.notify_one();
    }

    /// The paths, in the order of their answers.
    fn answered(&self) -> Vec<String> {
        let answers = self.0.lock().unwrap();
        answers.iter().map(|(path, _)| path.clone()).collect()
    }

    async fn answer(self, mut stream: TcpStream) {
        let mut head = vec![0; 4096];
        let read = stream.read(&mut head).await.unwrap_or(0);
        let head = String::from_utf8_lossy(&head[..read]).into_owned();
        let path = head.split(' ').nth(1).unwrap_or("").to_owned();
        if path == "/slow" {
            self.1.notified().await;
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
        let _ = stream.write_all(answer).await;
        self.0.lock().unwrap().push((path, Instant::now()));
    }
}

/// One request; its status line.
pub(super) async fn get(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: alfa\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    timeout(Duration::from_secs(30), stream.read_to_string(&mut answer)).await??;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < Duration::from_secs(20), "in vain: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Whether the relay follows routes that hold somebody.
async fn holds(host: &Host) -> bool {
    let admin = host.relay.admin();
    let routes = std::fs::read_to_string(admin.path().with_file_name("routes.json"));
    let routes: Routes = serde_json::from_str(&routes.unwrap()).unwrap();
    let follows = admin
        .health()
        .await
        .is_ok_and(|h| h.revision == routes.revision());
    let is_held = |route: &Route| matches!(route.state, State::Holding { .. });
    follows && routes.tenants().iter().any(is_held)
}

pub(super) fn data(dir: &Path) -> DataDir {
    let data = DataDir::new(dir.join("agent"));
    data.create().unwrap();
    data
}

pub(super) fn relayed(fake: &Arc<FakeDocker>, dir: &Path) -> Host {
    Life::host(Pace::hasty(), fake, dir).with_relay()
}

pub(super) async fn here(dir: &Path) -> Relay {
    Relay::start(settings(&data(dir))).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_waits_for_requests_under_way_and_holds_those_that_come() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 31);
    let mut plan = tenant_plan("alfa");
    let at = place(1, &mut plan);
    fake.put_at("odoo_alfa", at);
    let odoo = Odoo::start(at).await;
    let _relay = here(dir.path()).await;
    let mut life = Life::begin_on(relayed(&fake, dir.path()), &[plan.clone()]);
    life.converged(&plan).await;
    assert!(fake.spec_of("odoo_alfa").unwrap().ports.is_empty());
    // At once: who is told that it is there may ask.
    assert_eq!(
        get(plan.http_port, "/first").await.unwrap(),
        "HTTP/1.1 200 OK"
    );
    let port = plan.http_port;
    let slow = tokio::spawn(get(port, "/slow"));
    until("the slow request's begin", async || {
        life.host.relay.in_flight(&plan.name).await == Some(1)
    })
    .await;
    (plan.odoo_restarts, plan.generation) = (1, 2);
    life.plan(&[plan.clone()]);
    until("visitors are held", async || holds(&life.host).await).await;
    let held = tokio::spawn(get(port, "/held"));
    sleep(MOMENT).await;
    let stops = || fake.log().iter().filter(|l| *l == "stop odoo_alfa").count();
    assert_eq!(stops(), 0, "a request is under way");
    assert_eq!(odoo.answered().len(), 1, "and the other one is held");
    odoo.let_go();
    assert_eq!(slow.await.unwrap().unwrap(), "HTTP/1.1 200 OK");
    assert_eq!(held.await.unwrap().unwrap(), "HTTP/1.1 200 OK");
    assert_eq!(stops(), 1);
    assert_eq!(odoo.answered(), ["/first", "/slow", "/held"]);
    life.converged(&plan).await;
    // A suspended one answers nobody: edges show what the coordinator says.
    (plan.desired, plan.generation) = (DesiredState::Suspended, 3);
    life.plan(&[plan.clone()]);
    until("the end of its route", async || {
        get(port, "/").await.is_err()
    })
    .await;
    (plan.desired, plan.generation) = (DesiredState::Running, 4);
    life.plan(&[plan.clone()]);
    life.converged(&plan).await;
    assert_eq!(get(port, "/last").await.unwrap(), "HTTP/1.1 200 OK");
    life.plan(&[]);
    until("the end of its route", async || {
        get(port, "/").await.is_err()
    })
    .await;
    life.end().await;
}

/// Edges send visitors again as soon as a tenant is to be resumed, and Odoo takes seconds to start: nobody is refused meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_while_a_tenant_is_resumed_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 39);
    let mut plan = tenant_plan("alfa");
    let at = place(8, &mut plan);
    fake.put_at("odoo_alfa", at);
    let _odoo = Odoo::start(at).await;
    let _relay = here(dir.path()).await;
    // A busy machine must not give the start up before this test has looked.
    let pace = Pace {
        start_timeout: Duration::from_secs(15),
        ..Pace::hasty()
    };
    let host = Life::host(pace, &fake, dir.path()).with_relay();
    let mut life = Life::begin_on(host, &[plan.clone()]);
    life.converged(&plan).await;
    (plan.desired, plan.generation) = (DesiredState::Suspended, 2);
    life.plan(&[plan.clone()]);
    life.converged(&plan).await;
    let port = plan.http_port;
    assert!(get(port, "/").await.is_err());
    fake.set_unhealthy("odoo_alfa", true);
    (plan.desired, plan.generation) = (DesiredState::Running, 3);
    life.plan(&[plan.clone()]);
    until("the relay", async || {
        TcpStream::connect(("127.0.0.1", port)).await.is_ok()
    })
    .await;
    let held = tokio::spawn(get(port, "/held"));
    sleep(MOMENT / 3).await;
    assert!(!held.is_finished(), "it waits for Odoo");
    fake.set_unhealthy("odoo_alfa", false);
    assert_eq!(held.await.unwrap().unwrap(), "HTTP/1.1 200 OK");
    life.converged(&plan).await;
    life.end().await;
}

/// An agent that dies while requests are held: the next one ends the hold.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_a_killed_agent_left_ends_with_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 38);
    let mut plan = tenant_plan("alfa");
    let at = place(7, &mut plan);
    fake.put_at("odoo_alfa", at);
    let _odoo = Odoo::start(at).await;
    let _relay = here(dir.path()).await;
    let mut life = Life::begin_on(relayed(&fake, dir.path()), &[plan.clone()]);
    life.converged(&plan).await;
    fake.die_at(Some(1));
    (plan.odoo_restarts, plan.generation) = (1, 2);
    life.plan(&[plan.clone()]);
    timeout(Duration::from_secs(20), fake.died()).await.unwrap();
    let path = data(dir.path()).relay().join("routes.json");
    assert!(std::fs::read_to_string(path).unwrap().contains("holding"));
    life.end().await;
    let port = plan.http_port;
    let held = tokio::spawn(get(port, "/held"));
    fake.die_at(None);
    let life = Life::begin_on(relayed(&fake, dir.path()), &[plan.clone()]);
    assert_eq!(held.await.unwrap().unwrap(), "HTTP/1.1 200 OK");
    life.converged(&plan).await;
    life.end().await;
}

/// Its relay runs on, and follows what the next agent writes, which knows of no tenant at first.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_has_lost_its_directory_cuts_nobody_off() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 40);
    let mut plan = tenant_plan("alfa");
    let at = place(9, &mut plan);
    fake.put_at("odoo_alfa", at);
    let _odoo = Odoo::start(at).await;
    let _relay = here(dir.path()).await;
    let life = Life::begin_on(relayed(&fake, dir.path()), &[plan.clone()]);
    life.converged(&plan).await;
    life.end().await;
    let (port, is_over) = (plan.http_port, Arc::new(Notify::new()));
    let over = Arc::clone(&is_over);
    let visits = tokio::spawn(async move {
        let mut count = 0;
        while timeout(MOMENT / 10, over.notified()).await.is_err() {
            assert_eq!(get(port, "/").await.unwrap(), "HTTP/1.1 200 OK");
            count += 1;
        }
        count
    });
    std::fs::remove_dir_all(data(dir.path()).path()).unwrap();
    let host = relayed(&fake, dir.path());
    host.relay.publish().await.unwrap();
    sleep(MOMENT * 8).await;
    assert!(host.relay.admin().health().await.is_ok(), "it is found");
    let life = Life::begin_on(host, &[plan.clone()]);
    life.converged(&plan).await;
    sleep(MOMENT * 4).await;
    is_over.notify_one();
    assert!(visits.await.unwrap() > 20);
    assert_eq!(life.host.relay.in_flight(&plan.name).await, Some(0));
    life.end().await;
}

/// Twenty visitors a second while their tenant is made anew, for a resize and for another image: all are answered.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_fails_while_a_container_is_made_anew_at_another_address() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 32);
    let mut plan = tenant_plan("alfa");
    let places = [2, 3].map(|at| place(at, &mut plan));
    let [first, second] = places.map(Odoo::start);
    let (first, second) = (first.await, second.await);
    fake.put_at("odoo_alfa", places[0]);
    let _relay = here(dir.path()).await;
    let mut life = Life::begin_on(relayed(&fake, dir.path()), &[plan.clone()]);
    life.converged(&plan).await;
    let answered = |odoo: &Odoo| odoo.0.lock().unwrap().len();
    let mut removed = 0;
    for (at, odoo) in [(places[1], &second), (places[0], &first)] {
        let before = answered(odoo);
        let mut visitors = tokio::task::JoinSet::new();
        for n in 0..40 {
            let port = plan.http_port;
            visitors.spawn(async move {
                sleep(Duration::from_millis(50) * n).await;
                get(port, "/").await.unwrap()
            });
        }
        sleep(Duration::from_millis(500)).await;
        fake.put_at("odoo_alfa", at);
        match plan.generation {
            1 => plan.size.workers = 3,
            _ => {
                fake.publish(plan.odoo_image.as_str(), "sha256:patched");
                plan.images_asked.odoo = 2;
            }
        }
        plan.generation += 1;
        life.plan(&[plan.clone()]);
        life.converged(&plan).await;
        while let Some(status) = visitors.join_next().await {
            assert_eq!(status.unwrap(), "HTTP/1.1 200 OK");
        }
        assert!(answered(odoo) > before);
        removed += 1;
        let removals = fake
            .log()
            .iter()
            .filter(|l| *l == "remove odoo_alfa")
            .count();
        assert_eq!(removals, removed);
    }
    assert_eq!(
        fake.image_of("odoo_alfa").as_deref(),
        Some("sha256:patched")
    );
    life.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_uploads_and_then_everybody() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 33);
    let mut plan = tenant_plan("alfa");
    let at = place(4, &mut plan);
    fake.put_at("odoo_alfa", at);
    let _odoo = Odoo::start(at).await;
    let _relay = here(dir.path()).await;
    let life = Life::begin_on(relayed(&fake, dir.path()), &[plan.clone()]);
    life.converged(&plan).await;
    let limit = plan.size.disk_bytes;
    let fills = |used: u64| {
        let disk = Disk::after(None, DiskUse::of_bytes(used), limit, DiskMeans::Counted);
        life.host.board.set_disk(&plan.name, plan.uid, disk, None);
    };
    fills(limit * 96 / 100);
    let path = data(dir.path()).relay().join("routes.json");
    until("the state of its route", async || {
        std::fs::read_to_string(&path)
            .unwrap()
            .contains("uploads_refused")
    })
    .await;
    assert_eq!(get(plan.http_port, "/").await.unwrap(), "HTTP/1.1 200 OK");
    fills(limit);
    let refused = async || get(plan.http_port, "/").await.is_err();
    until("the end of its route", refused).await;
    fills(limit / 2);
    life.converged(&plan).await;
    assert_eq!(get(plan.http_port, "/").await.unwrap(), "HTTP/1.1 200 OK");
    life.end().await;
}

/// Containers of the version before run on with their ports, and the other way round nobody is left without.
#[tokio::test(flavor = "multi_thread")]
async fn ports_change_hands_with_the_container_only() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeDocker::new(dir.path(), 34);
    let mut plan = tenant_plan("alfa");
    place(5, &mut plan);
    let published = || fake.spec_of("odoo_alfa").unwrap().ports.len();
    let life = Life::begin(&fake, dir.path(), &[plan.clone()]);
    life.converged(&plan).await;
    life.end().await;
    assert_eq!(published(), 2);
    let routes = || {
        let path = data(dir.path()).relay().join("routes.json");
        let text = std::fs::read(path).unwrap();
        isyone_relay::routes::Routes::read(&text).unwrap()
    };
    let before = fake.log().len();
    let mut life = Life::begin_on(relayed(&fake, dir.path()), &[plan.clone()]);
    life.converged(&plan).await;
    let done = fake.log()[before..].to_vec();
    let is_harmless = |l: &String| l.starts_with("update ") || l.contains("isyone_probe_");
    assert!(done.iter().all(is_harmless), "{done:?}");
    assert!(routes().tenants().is_empty(), "its ports are Docker's");
    assert_eq!(published(), 2);
    (plan.size.workers, plan.generation) = (5, 2);
    life.plan(&[plan.clone()]);
    life.converged(&plan).await;
    assert_eq!(published(), 0);
    assert_eq!(routes().tenants().len(), 1);
    assert_eq!(routes().tenants()[0].limits.max_in_flight, 5);
    life.end().await;
    let life = Life::begin(&fake, dir.path(), &[plan.clone()]);
    life.wait("its ports", |_| {
        fake.spec_of("odoo_alfa")
            .is_some_and(|spec| spec.ports.len() == 2)
    })
    .await;
    life.converged(&plan).await;
    life.end().await;
}
