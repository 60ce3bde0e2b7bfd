//! Odoo goes and comes back, and so does the relay. Nobody is lost, and nothing is done twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use isyone_relay::{Relay, limits::Limits, routes::State};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};

use crate::{
    client::{Client, get},
    kit::{self, Kit, holding},
    odoo::{Odoo, Seen},
};

const HONEST: &str = "203.0.113.1";

/// Twenty requests a second, each with a number, half of them with a body, until told to stop; then their statuses.
async fn traffic(address: std::net::SocketAddr, is_on: Arc<AtomicBool>) -> Vec<u16> {
    let mut all = JoinSet::new();
    for n in 0.. {
        if !is_on.load(Ordering::SeqCst) {
            break;
        }
        all.spawn(async move {
            let mut client = Client::connect(address, &format!("203.0.113.{}", n % 5)).await;
            let (method, body) = if n % 2 == 0 {
                ("GET", "")
            } else {
                ("POST", "write")
            };
            client
                .ask(
                    method,
                    "/?ms=20",
                    &format!("X-Id: {n}\r\n"),
                    body.as_bytes(),
                )
                .await
                .status
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    all.join_all().await
}

fn assert_all_once(seen: &Seen, statuses: &[u16]) {
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    let began = seen.began.lock().unwrap();
    assert_eq!(began.len(), statuses.len(), "each was done");
    let twice: Vec<_> = began.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "done more than once: {twice:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_under_twenty_requests_a_second_loses_none_and_repeats_none() {
    let odoo = Odoo::start(4).await;
    let kit = Kit::start(
        &odoo,
        Limits {
            max_in_flight: 4,
            ..Limits::default()
        },
    )
    .await;
    let is_on = Arc::new(AtomicBool::new(true));
    let traffic = tokio::spawn(traffic(kit.address(), Arc::clone(&is_on)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let address = odoo.address;
    // Nobody has told the relay: connections are refused for two seconds.
    let seen = odoo.stop().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let odoo = Odoo::start_at(address, 4, seen).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    is_on.store(false, Ordering::SeqCst);
    let statuses = traffic.await.unwrap();
    assert!(statuses.len() > 60, "{}", statuses.len());
    assert!(kit.figure("connects_retried_total") > 0);
    assert_all_once(&odoo.seen, &statuses);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_held_while_a_tenant_moves_and_go_to_its_new_place() {
    let odoo = Odoo::start(4).await;
    let mut kit = Kit::start(
        &odoo,
        Limits {
            max_in_flight: 4,
            ..Limits::default()
        },
    )
    .await;
    let is_on = Arc::new(AtomicBool::new(true));
    let traffic = tokio::spawn(traffic(kit.address(), Arc::clone(&is_on)));
    tokio::time::sleep(Duration::from_millis(500)).await;
    kit.state(holding(Duration::from_secs(60))).await;
    kit::until("those under way are done", || kit.figure("in_flight") == 0).await;
    let seen = odoo.stop().await;
    let began = seen.began.lock().unwrap().len();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(kit.figure("waiting") > 20);
    assert_eq!(
        seen.began.lock().unwrap().len(),
        began,
        "nobody was let through"
    );
    let elsewhere = Odoo::start_at("127.0.0.1:0".parse().unwrap(), 4, seen).await;
    kit.route.upstream.http = elsewhere.address;
    kit.state(State::Serving).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    is_on.store(false, Ordering::SeqCst);
    assert_all_once(&elsewhere.seen, &traffic.await.unwrap());
    assert!(
        elsewhere.seen.most_at_work.load(Ordering::SeqCst) <= 4,
        "released a few at a time"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_nobody_ends_ends_in_the_waiting_page() {
    let odoo = Odoo::start(4).await;
    let mut kit = Kit::start(
        &odoo,
        Limits {
            queue_wait_ms: 100,
            ..Limits::default()
        },
    )
    .await;
    kit.state(holding(Duration::from_millis(1_500))).await;
    let mut client = Client::connect(kit.address(), HONEST).await;
    let (began, asked) = (Instant::now(), "Accept: text/html\r\n");
    let answer = client.ask("GET", "/", asked, b"").await;
    assert_eq!(
        (answer.status, answer.header("x-isyone-relay")),
        (503, Some("waiting"))
    );
    let waited = began.elapsed();
    assert!(
        waited > Duration::from_millis(1_000),
        "held longer than in a queue: {waited:?}"
    );
    assert!(
        answer.header("location").is_none() && answer.text().contains("http-equiv=\"refresh\"")
    );
    let began = Instant::now();
    assert_eq!(client.get("/").await.status, 503);
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "later ones get it at once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_for_all_also_for_those_who_wait() {
    let odoo = Odoo::start(4).await;
    let mut kit = Kit::start(&odoo, Limits::default()).await;
    kit.state(holding(Duration::from_secs(60))).await;
    let address = kit.address();
    let waiting = tokio::spawn(async move { get(address, HONEST, "/").await });
    kit::until("it waits", || kit.figure("waiting") == 1).await;
    let page = State::Page {
        status: 507,
        html: "<p>full".to_owned(),
        retry_after: Some(60),
    };
    kit.state(page).await;
    for answer in [
        waiting.await.unwrap(),
        get(kit.address(), HONEST, "/").await,
    ] {
        assert_eq!((answer.status, answer.text().as_str()), (507, "<p>full"));
        assert_eq!(answer.header("retry-after"), Some("60"));
    }
    assert_eq!(odoo.seen.heads.lock().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_odoo_that_stays_away_is_waited_for_once() {
    let odoo = Odoo::start(4).await;
    let limits = Limits {
        retry_hold_ms: 1_000,
        ..Limits::default()
    };
    let kit = Kit::start(&odoo, limits).await;
    let address = odoo.address;
    let seen = odoo.stop().await;
    for (least, most) in [(900, 2_500), (0, 400), (0, 400)] {
        let began = Instant::now();
        let answer = get(kit.address(), HONEST, "/").await;
        let took = began.elapsed().as_millis();
        assert_eq!(
            (answer.status, answer.header("x-isyone-relay")),
            (503, Some("waiting"))
        );
        assert!((least..most).contains(&took), "{took} ms");
    }
    let _odoo = Odoo::start_at(address, 4, seen).await;
    assert_eq!(get(kit.address(), HONEST, "/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_is_not_sent_again() {
    let odoo = Odoo::start(4).await;
    let kit = Kit::start(&odoo, Limits::default()).await;
    for method in ["GET", "POST"] {
        let mut client = Client::connect(kit.address(), HONEST).await;
        let answer = client
            .ask(method, "/die", &format!("X-Id: {method}\r\n"), b"")
            .await;
        assert_eq!(
            (answer.status, answer.header("x-isyone-relay")),
            (502, Some("broken"))
        );
        assert_eq!(odoo.seen.began.lock().unwrap()[method], 1);
    }
    assert_eq!(get(kit.address(), HONEST, "/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_changes_nothing_and_is_told() {
    let odoo = Odoo::start(4).await;
    let mut kit = Kit::start(&odoo, Limits::default()).await;
    let relay = kit.relay.as_ref().unwrap();
    for text in ["{", "{\"tenants\": [{}]}"] {
        let refused = kit::figure(relay, "routes_refused_total");
        std::fs::write(&kit.settings.routes, text).unwrap();
        // Nobody says that there is something new: it is looked at each second.
        kit::until("it is told", || {
            kit::figure(relay, "routes_refused_total") > refused
        })
        .await;
        assert!(
            relay.faults()[0].contains("refused"),
            "{:?}",
            relay.faults()
        );
        assert_eq!(get(kit.address(), HONEST, "/").await.status, 200);
    }
    std::fs::remove_file(&kit.settings.routes).unwrap();
    kit::until("it is told", || {
        relay
            .faults()
            .first()
            .is_some_and(|f| f.contains("cannot be read"))
    })
    .await;
    assert_eq!(get(kit.address(), HONEST, "/").await.status, 200);
    kit.state(State::Serving).await;
    assert_eq!(kit.relay.as_ref().unwrap().faults(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_tried_again() {
    let odoo = Odoo::start(4).await;
    let mut kit = Kit::start(&odoo, Limits::default()).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let before = kit.address();
    kit.route.listen.http = taken.local_addr().unwrap();
    kit.state(State::Serving).await;
    let relay = kit.relay.as_ref().unwrap();
    kit::until("it is told", || {
        relay
            .faults()
            .first()
            .is_some_and(|f| f.contains("cannot listen"))
    })
    .await;
    while tokio::net::TcpStream::connect(before).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await; // until the old one is closed
    }
    drop(taken);
    kit::until("it is mended", || relay.faults().is_empty()).await;
    assert_eq!(get(kit.address(), HONEST, "/").await.status, 200);
}

/// Clients that keep their connections, as edges do, while relay follows relay.
#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_under_load_fails_nobody() {
    let odoo = Odoo::start(16).await;
    let mut kit = Kit::start(
        &odoo,
        Limits {
            max_in_flight: 16,
            ..Limits::default()
        },
    )
    .await;
    let (address, is_on) = (kit.address(), Arc::new(AtomicBool::new(true)));
    let mut clients = JoinSet::new();
    for n in 0..8 {
        let is_on = Arc::clone(&is_on);
        clients.spawn(async move {
            let (mut count, mut client) = (0_u32, Client::connect(address, "203.0.113.9").await);
            while is_on.load(Ordering::SeqCst) {
                let (method, body) = if n % 2 == 0 {
                    ("GET", "")
                } else {
                    ("POST", "write")
                };
                let answer = client
                    .ask(
                        method,
                        "/?ms=2",
                        &format!("X-Id: {n}-{count}\r\n"),
                        body.as_bytes(),
                    )
                    .await;
                assert_eq!(answer.status, 200);
                count += 1;
                // Half of them knock anew each time.
                if answer.header("connection") == Some("close") || n >= 4 {
                    client = Client::connect(address, "203.0.113.9").await;
                }
            }
            count
        });
    }
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let old = kit.relay.take().unwrap();
        let new = Relay::start(kit.settings.clone()).await.unwrap();
        old.handed_over().await;
        let drained = old.drain(Duration::from_secs(20)).await;
        assert_eq!(drained.cut_off, 0);
        kit.relay = Some(new);
    }
    is_on.store(false, Ordering::SeqCst);
    let count: u32 = clients.join_all().await.into_iter().sum();
    let began = odoo.seen.began.lock().unwrap();
    assert_eq!(began.values().sum::<u32>(), count, "each once");
    println!("{count} requests over 5 hand-overs, none failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_with_bad_routes_takes_nothing_over() {
    let odoo = Odoo::start(4).await;
    let kit = Kit::start(&odoo, Limits::default()).await;
    std::fs::write(&kit.settings.routes, "{").unwrap();
    let error = Relay::start(kit.settings.clone()).await.unwrap_err();
    assert!(error.to_string().contains("goes on"), "{error}");
    for _ in 0..20 {
        assert_eq!(get(kit.address(), HONEST, "/").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_waits_for_what_is_under_way_and_not_for_ever() {
    let odoo = Odoo::start(4).await;
    let mut kit = Kit::start(&odoo, Limits::default()).await;
    let address = kit.address();
    let short = tokio::spawn(async move { get(address, HONEST, "/?ms=1000").await });
    let long = tokio::spawn(async move {
        Client::connect(address, HONEST)
            .await
            .ask_or_nothing("/?ms=20000")
            .await
    });
    let mut idle = Client::connect(address, HONEST).await;
    assert_eq!(idle.get("/").await.status, 200);
    kit::until("both work", || kit.figure("in_flight") == 2).await;
    let began = Instant::now();
    let drained = kit
        .relay
        .take()
        .unwrap()
        .drain(Duration::from_secs(3))
        .await;
    assert!(
        began.elapsed() < Duration::from_millis(4_500),
        "{:?}",
        began.elapsed()
    );
    assert!(drained.cut_off >= 1);
    let short = short.await.unwrap();
    assert_eq!(
        (short.status, short.header("connection")),
        (200, Some("close"))
    );
    assert!(
        long.await
            .unwrap()
            .is_none_or(|answer| answer.status == 502)
    );
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_reads_how_it_does() {
    let odoo = Odoo::start(4).await;
    let kit = Kit::start(&odoo, Limits::default()).await;
    get(kit.address(), HONEST, "/").await;
    let page = |path: &'static str| {
        let admin = kit.settings.admin.clone();
        async move {
            let mut stream = tokio::net::UnixStream::connect(admin).await.unwrap();
            stream
                .write_all(
                    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                        .as_bytes(),
                )
                .await
                .unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text
        }
    };
    let pid = std::process::id();
    let wanted =
        format!(r#"{{"version":"1","pid":{pid},"revision":1,"is_draining":false,"faults":[]}}"#);
    for path in ["/health", "/reload"] {
        let health = page(path).await;
        assert!(
            health.starts_with("HTTP/1.1 200") && health.ends_with(&wanted),
            "{health}"
        );
    }
    assert!(
        page("/metrics")
            .await
            .contains("isyone_relay_requests_total{tenant=\"alfa\"} 1\n")
    );
    assert!(
        page("/tenants")
            .await
            .contains(r#"[{"name":"alfa","in_flight":0"#)
    );
    assert!(page("/x").await.starts_with("HTTP/1.1 404"));
    let mode =
        |path| std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path).unwrap()) & 0o777;
    let settings = &kit.settings;
    assert_eq!(
        [
            mode(&settings.admin),
            mode(&settings.handover),
            mode(&settings.spool)
        ],
        [0o600, 0o600, 0o700]
    );
}

/// Nobody's wait is longer because the agent tells of something else.
#[tokio::test(flavor = "multi_thread")]
async fn news_do_not_prolong_a_wait() {
    let odoo = Odoo::start(1).await;
    let limits = Limits {
        max_in_flight: 1,
        queue_wait_ms: 600,
        ..Limits::default()
    };
    let mut kit = Kit::start(&odoo, limits).await;
    let address = kit.address();
    let long = tokio::spawn(async move { get(address, "198.51.100.1", "/?ms=4000").await.status });
    kit::until("it works", || kit.figure("in_flight") == 1).await;
    let waiting = tokio::spawn(async move {
        let began = Instant::now();
        (get(address, HONEST, "/").await.status, began.elapsed())
    });
    for n in 0..8 {
        kit.route.closed_paths = vec![format!("/closed/{n}")];
        kit.state(State::Serving).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (status, took) = waiting.await.unwrap();
    assert_eq!(status, 503);
    assert!(took < Duration::from_millis(1_500), "{took:?}");
    assert_eq!(long.await.unwrap(), 200);
}
