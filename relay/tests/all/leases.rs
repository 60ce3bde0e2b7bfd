//! Leases: nobody is answered for a tenant whose lease is over, whatever was begun before, and with nobody there to say so.

use std::time::{Duration, Instant};

use isyone_relay::{
    Relay,
    lease::Lease,
    limits::Limits,
    routes::{Ends, State},
};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::AsyncReadExt;

use crate::{
    client::{Answer, Client, get},
    kit::{self, Kit, holding},
    odoo::Odoo,
};

const HONEST: &str = "203.0.113.1";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n";
/// How long those who are being served have after the end.
const CUT: Duration = Duration::from_secs(1);

fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    text.trim().to_owned()
}

/// A lease of this boot that lasts so long from now on.
fn lease(lasts: Duration) -> Lease {
    let now = clock_gettime(ClockId::Boottime);
    let now_ms = now.tv_sec * 1_000 + now.tv_nsec / 1_000_000;
    Lease {
        boot: boot_id(),
        until_boot_ms: u64::try_from(now_ms).unwrap() + u64::try_from(lasts.as_millis()).unwrap(),
    }
}

impl Kit {
    /// Another lease, in force when this returns.
    async fn lease(&mut self, lease: Option<Lease>) {
        self.route.lease = lease;
        self.state(self.route.state.clone()).await;
    }
}

fn assert_lapsed(answer: &Answer) {
    let said = (answer.status, answer.header("x-isyone-relay"));
    assert_eq!(said, (503, Some("lapsed")), "{answer:?}");
    assert!(answer.header("retry-after").is_some());
}

async fn odoo_and_kit() -> (Odoo, Kit) {
    let odoo = Odoo::start(8).await;
    let limits = Limits {
        max_in_flight: 8,
        ..Limits::default()
    };
    let kit = Kit::start(&odoo, limits).await;
    (odoo, kit)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_let_in_after_the_end_and_everybody_again_after_a_new_lease() {
    let (odoo, mut kit) = odoo_and_kit().await;
    kit.lease(Some(lease(Duration::from_millis(700)))).await;
    let status = |kit: &Kit| {
        let address = kit.address();
        async move { get(address, HONEST, "/").await.status }
    };
    assert_eq!(status(&kit).await, 200);
    // Nobody says anything to the relay from here on.
    let mut kept = Client::connect(kit.address(), HONEST).await;
    assert_eq!(kept.get("/").await.status, 200);
    tokio::time::sleep(Duration::from_millis(720)).await;
    let seen = odoo.seen.heads.lock().unwrap().len();
    if let Some(answer) = kept.ask_or_nothing("/").await {
        assert_lapsed(&answer);
    }
    for _ in 0..20 {
        assert_lapsed(&get(kit.address(), HONEST, "/").await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut asked = Client::connect(kit.address(), HONEST).await;
    let page = asked.ask("GET", "/web", "Accept: text/html\r\n", b"").await;
    assert_lapsed(&page);
    assert!(page.text().contains("http-equiv=\"refresh\""));
    assert_eq!(
        odoo.seen.heads.lock().unwrap().len(),
        seen,
        "Odoo hears none"
    );
    assert!(kit.figure("open_requests") == 0);

    kit.lease(Some(lease(Duration::from_secs(60)))).await;
    assert_eq!(status(&kit).await, 200);
    kit.lease(None).await;
    assert_eq!(status(&kit).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_another_boot_is_over() {
    let (_odoo, mut kit) = odoo_and_kit().await;
    let before = Lease {
        boot: "00000000-0000-4000-8000-000000000000".to_owned(),
        ..lease(Duration::from_secs(3_600))
    };
    kit.lease(Some(before)).await;
    assert_lapsed(&get(kit.address(), HONEST, "/").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_after_the_end_does_not_go_on() {
    let (odoo, mut kit) = odoo_and_kit().await;
    kit.lease(Some(lease(Duration::from_millis(500)))).await;
    let began = Instant::now();
    // They end just after, when nothing has been cut off yet, and long after.
    let mut asked = Vec::new();
    for ms in [100, 510, 530, 560, 600, 650, 1_500] {
        let address = kit.address();
        asked.push(tokio::spawn(async move {
            let mut client = Client::connect(address, &format!("203.0.113.{}", ms % 200)).await;
            let answer = client.ask_or_nothing(&format!("/?ms={ms}")).await;
            (ms, answer, began.elapsed())
        }));
    }
    for one in asked {
        let (ms, answer, after) = one.await.unwrap();
        match answer {
            Some(answer) if ms == 100 => assert_eq!(answer.status, 200),
            Some(answer) => assert_lapsed(&answer),
            None => assert_ne!(ms, 100),
        }
        assert!(after < Duration::from_millis(500) + CUT, "{ms}: {after:?}");
    }
    assert!(odoo.seen.heads.lock().unwrap().len() >= 7, "all had begun");
}

/// Fails if the relay trusts that it was told of the end in time: the answer comes between two looks at leases.
#[tokio::test(flavor = "multi_thread")]
async fn the_moment_of_the_answer_counts_and_not_that_of_the_last_look() {
    let (_odoo, mut kit) = odoo_and_kit().await;
    for n in 0..12 {
        kit.lease(Some(lease(Duration::from_millis(300)))).await;
        let mut client = Client::connect(kit.address(), &format!("203.0.113.{n}")).await;
        if let Some(answer) = client.ask_or_nothing("/?ms=310").await {
            assert_lapsed(&answer);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_stream_are_cut_whether_they_are_read_or_not() {
    let (_odoo, mut kit) = odoo_and_kit().await;
    kit.lease(Some(lease(Duration::from_millis(800)))).await;
    let began = Instant::now();
    let mut streams = Client::connect(kit.address(), HONEST).await;
    let head = streams.head("GET", "/slow-chunks?times=100", "");
    streams.write(head).await.unwrap();
    assert_eq!(streams.answer_head().await.unwrap().status, 200);
    let mut unread = Client::connect(kit.address(), "203.0.113.2").await;
    let all = 60_000_000;
    let head = unread.head("GET", &format!("/big?bytes={all}"), "");
    unread.write(head).await.unwrap();
    assert_eq!(unread.answer_head().await.unwrap().status, 200);
    let mut ticks = 0;
    while let Some(Some(_)) = streams.chunk().await {
        ticks += 1;
    }
    let (after, end) = (began.elapsed(), Duration::from_millis(800));
    assert!(ticks > 3 && after < end + CUT, "{ticks} {after:?}");
    tokio::time::sleep((end + CUT).saturating_sub(began.elapsed())).await;
    let mut rest = Vec::new();
    let _ = unread.stream.read_to_end(&mut rest).await;
    assert!(rest.len() < all, "only what had been sent before arrives");
    kit::until("nothing is open", || kit.figure("open_requests") == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_are_cut_at_the_end_and_not_by_a_renewal() {
    let (odoo, mut kit) = odoo_and_kit().await;
    kit.lease(Some(lease(Duration::from_millis(700)))).await;
    let mut client = Client::connect(kit.address(), HONEST).await;
    let head = client.head("GET", "/websocket", UPGRADE);
    client.write(head).await.unwrap();
    assert_eq!(client.answer_head().await.unwrap().status, 101);
    let mut hello = [0; 5];
    client.stream.read_exact(&mut hello).await.unwrap();
    let long = tokio::spawn({
        let address = kit.address();
        async move { get(address, "203.0.113.2", "/?ms=1200").await.status }
    });
    tokio::time::sleep(Duration::from_millis(400)).await;
    let renewed = lease(Duration::from_millis(1_500));
    let began = Instant::now();
    kit.lease(Some(renewed)).await;
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    assert_eq!(long.await.unwrap(), 200, "the lease was renewed meanwhile");
    client.write("ping").await.unwrap();
    let mut pong = [0; 4];
    client.stream.read_exact(&mut pong).await.unwrap();
    // The next end.
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(CUT * 10, client.stream.read_to_end(&mut rest))
        .await
        .expect("it is cut");
    let after = began.elapsed();
    assert!(
        after >= Duration::from_millis(1_490) && after < Duration::from_millis(1_500) + CUT,
        "{after:?}"
    );
    let gone = || {
        odoo.seen
            .websockets
            .load(std::sync::atomic::Ordering::SeqCst)
            == 0
    };
    kit::until("Odoo sees the end", gone).await;
    let mut late = Client::connect(kit.address(), HONEST).await;
    let head = late.head("GET", "/websocket", UPGRADE);
    late.write(head).await.unwrap();
    assert_lapsed(&late.answer_head().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_held_hears_of_the_end_and_a_page_stays_a_page() {
    let (_odoo, mut kit) = odoo_and_kit().await;
    kit.route.lease = Some(lease(Duration::from_millis(600)));
    kit.state(holding(Duration::from_secs(60))).await;
    let began = Instant::now();
    assert_lapsed(&get(kit.address(), HONEST, "/").await);
    assert!(began.elapsed() < Duration::from_millis(600) + CUT);
    let page = State::Page {
        status: 507,
        html: "full".to_owned(),
        retry_after: None,
    };
    kit.state(page).await;
    assert_eq!(get(kit.address(), HONEST, "/").await.status, 507);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_begins_anew_goes_by_what_is_written() {
    let (_odoo, mut kit) = odoo_and_kit().await;
    kit.lease(Some(lease(Duration::from_millis(400)))).await;
    let before = kit.relay.take().unwrap();
    let next = Relay::start(kit.settings.clone()).await.unwrap();
    before.handed_over().await;
    before.drain(Duration::from_secs(1)).await;
    assert_eq!(get(kit.address(), HONEST, "/").await.status, 200);
    tokio::time::sleep(Duration::from_millis(450)).await;
    assert_lapsed(&get(kit.address(), HONEST, "/").await);
    drop(next);
}

/// A predecessor that ends what it has begun does so only as long as the lease lasts.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_has_handed_over_goes_by_leases_to_its_end() {
    let (_odoo, mut kit) = odoo_and_kit().await;
    kit.lease(Some(lease(Duration::from_millis(900)))).await;
    let began = Instant::now();
    let mut client = Client::connect(kit.address(), HONEST).await;
    let head = client.head("GET", "/slow-chunks?times=100", "");
    client.write(head).await.unwrap();
    assert_eq!(client.answer_head().await.unwrap().status, 200);
    let before = kit.relay.take().unwrap();
    let next = Relay::start(kit.settings.clone()).await.unwrap();
    before.handed_over().await;
    let drained = tokio::spawn(before.drain(Duration::from_secs(30)));
    while let Some(Some(_)) = client.chunk().await {}
    assert!(began.elapsed() < Duration::from_millis(900) + CUT);
    assert_eq!(drained.await.unwrap().cut_off, 0);
    drop(next);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_tenants_go_on() {
    let (_odoo, kit) = odoo_and_kit().await;
    let other = Odoo::start(2).await;
    let mut beta = kit.route.clone();
    beta.name = "beta".parse().unwrap();
    beta.listen = Ends {
        http: kit::free_address(),
        websocket: None,
    };
    beta.upstream.http = other.address;
    beta.lease = Some(lease(Duration::ZERO));
    let routes = isyone_relay::routes::Routes::new(
        9,
        vec!["127.0.0.1/32".parse().unwrap()],
        kit.host.clone(),
        vec![kit.route.clone(), beta.clone()],
    );
    std::fs::write(&kit.settings.routes, routes.unwrap().text()).unwrap();
    let relay = kit.relay.as_ref().unwrap();
    relay.reload();
    kit::until("both are there", || relay.revision() == 9).await;
    assert_lapsed(&get(beta.listen.http, HONEST, "/").await);
    assert_eq!(get(kit.address(), HONEST, "/").await.status, 200);
}
