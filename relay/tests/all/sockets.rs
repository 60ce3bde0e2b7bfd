//! Websockets: they pass, they are bounded, and they take no worker's place.

use std::{sync::atomic::Ordering, time::Duration};

use isyone_relay::limits::{HostLimits, Limits};
use tokio::io::AsyncReadExt;

use crate::{
    client::{Answer, Client, get},
    kit::{self, Kit},
    odoo::Odoo,
};

const HONEST: &str = "203.0.113.1";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n";

async fn open(kit: &Kit, visitor: &str) -> (Client, Answer) {
    let mut client = Client::connect(kit.address(), visitor).await;
    client
        .write(client.head("GET", "/websocket", UPGRADE))
        .await
        .unwrap();
    let answer = client.answer_head().await.unwrap();
    (client, answer)
}

async fn says(client: &mut Client, text: &str) {
    let mut buffer = vec![0; text.len()];
    let read = client.stream.read_exact(&mut buffer);
    tokio::time::timeout(Duration::from_secs(5), read)
        .await
        .expect("in time")
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&buffer), text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_passes_both_ways_and_holds_no_place() {
    let odoo = Odoo::start(1).await;
    let kit = Kit::start(
        &odoo,
        Limits {
            max_in_flight: 1,
            ..Limits::default()
        },
    )
    .await;
    let (mut client, answer) = open(&kit, HONEST).await;
    assert_eq!(
        (answer.status, answer.header("upgrade")),
        (101, Some("websocket"))
    );
    says(&mut client, "hello").await;
    client.write("ping").await.unwrap();
    says(&mut client, "ping").await;
    assert_eq!(
        get(kit.address(), HONEST, "/").await.status,
        200,
        "the one place is free"
    );
    drop(client);
    kit::until("Odoo sees the end", || {
        odoo.seen.websockets.load(Ordering::SeqCst) == 0
    })
    .await;
    kit::until("and it is counted out", || {
        kit.figure("open_websockets") == 0 && kit.figure("open_requests") == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_odoo_says_in_place_of_a_handshake_arrives() {
    let odoo = Odoo::start(1).await;
    let kit = Kit::start(&odoo, Limits::default()).await;
    let mut client = Client::connect(kit.address(), HONEST).await;
    let more = format!("{UPGRADE}Origin: https://evil.example\r\n");
    let answer = client.ask("GET", "/websocket", &more, b"").await;
    assert_eq!((answer.status, answer.text()), (400, String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_process_of_their_own_they_go_there() {
    let (odoo, gevent) = (Odoo::start(1).await, Odoo::start(1).await);
    let kit = Kit::start_with(
        odoo.address,
        Some(gevent.address),
        Limits::default(),
        HostLimits::default(),
    )
    .await;
    let (mut client, _) = open(&kit, HONEST).await;
    says(&mut client, "hello").await;
    assert_eq!(get(kit.address(), HONEST, "/").await.status, 200);
    let count = |odoo: &Odoo| odoo.seen.heads.lock().unwrap().len();
    assert_eq!((count(&odoo), count(&gevent)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_and_fifty_three_of_one_leave_room_for_others() {
    let odoo = Odoo::start(8).await;
    let limits = Limits {
        websockets: 40,
        ..Limits::default()
    };
    let kit = Kit::start(&odoo, limits).await;
    let (mut there, _) = open(&kit, HONEST).await;
    says(&mut there, "hello").await;
    let (mut open_ones, mut refused) = (Vec::new(), 0);
    for _ in 0..253 {
        let (client, answer) = open(&kit, "198.51.100.1").await;
        match answer.status {
            101 => open_ones.push(client),
            429 => {
                assert!(answer.header("retry-after").is_some());
                refused += 1;
            }
            other => panic!("{other}"),
        }
    }
    assert!(
        open_ones.len() <= 20 && refused >= 233,
        "{} {refused}",
        open_ones.len()
    );
    assert!(odoo.seen.websockets.load(Ordering::SeqCst) <= 21);
    there.write("still here").await.unwrap();
    says(&mut there, "still here").await;
    let (mut other, answer) = open(&kit, "203.0.113.2").await;
    assert_eq!(answer.status, 101);
    says(&mut other, "hello").await;
    assert_eq!(get(kit.address(), HONEST, "/").await.status, 200);
}

/// Without a successor nobody new is served until the end: it is not to be put off by who only listens.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_without_a_successor_waits_for_requests_and_not_for_websockets() {
    let odoo = Odoo::start(4).await;
    let mut kit = Kit::start(&odoo, Limits::default()).await;
    let (_socket, answer) = open(&kit, HONEST).await;
    assert_eq!(answer.status, 101);
    let address = kit.address();
    let asked = tokio::spawn(async move { get(address, HONEST, "/?ms=1500").await });
    kit::until("it works", || kit.figure("in_flight") == 1).await;
    let began = std::time::Instant::now();
    let relay = kit.relay.take().unwrap();
    relay.drain_requests(Duration::from_secs(20)).await;
    assert_eq!(asked.await.unwrap().status, 200);
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_websocket_for_odoo_is_not_one() {
    let odoo = Odoo::start(2).await;
    let kit = Kit::start(&odoo, Limits::default()).await;
    let mut client = Client::connect(kit.address(), HONEST).await;
    // Odoo answers 200 on this path: that is passed on, and no tunnel is made of it.
    client
        .write(client.head("GET", "/other", UPGRADE))
        .await
        .unwrap();
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "0 0"));
    // Another protocol is not asked for at all.
    let more = "Connection: Upgrade\r\nUpgrade: h2c\r\n";
    let mut client = Client::connect(kit.address(), HONEST).await;
    assert_eq!(client.ask("GET", "/websocket", more, b"").await.status, 400);
    let heads = odoo.seen.heads.lock().unwrap().clone();
    assert!(!heads[1].to_lowercase().contains("h2c"), "{}", heads[1]);
    kit::until("none is counted", || kit.figure("open_websockets") == 0).await;
}
