//! Many at once: readers that hardly read, a hundred requests of one, visitors that leave. Who is honest waits, and is served.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use isyone_relay::limits::{HostLimits, Limits};
use tokio::{io::AsyncReadExt, task::JoinSet};

use crate::{
    client::{Client, get},
    kit::{self, Kit, cookie},
    odoo::Odoo,
};

const HONEST: &str = "203.0.113.1";

#[tokio::test(flavor = "multi_thread")]
async fn fifty_slow_readers_do_not_delay_an_honest_client() {
    let odoo = Odoo::start(2).await;
    let kit = Kit::start(
        &odoo,
        Limits {
            max_in_flight: 2,
            ..Limits::default()
        },
    )
    .await;
    let mut readers = Vec::new();
    for n in 0..50 {
        let mut client = Client::connect(kit.address(), &format!("198.51.100.{n}")).await;
        client
            .write(client.head("GET", "/big?bytes=8000000", ""))
            .await
            .unwrap();
        readers.push(client);
    }
    kit::until("Odoo has given all of them", || {
        kit.figure("answers_total") == 50 && kit.figure("in_flight") == 0
    })
    .await;
    let mut slowest = Duration::ZERO;
    for _ in 0..30 {
        let began = Instant::now();
        assert_eq!(get(kit.address(), HONEST, "/").await.status, 200);
        slowest = slowest.max(began.elapsed());
    }
    println!("slowest of an honest client: {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert_eq!(
        odoo.seen.timed_out.load(Ordering::SeqCst),
        0,
        "no worker waited for a reader"
    );
    for client in &mut readers[..5] {
        let answer = client.answer().await.expect("whole, though late");
        assert_eq!(answer.body.len(), 8_000_000);
    }
    drop(readers);
    kit::until("all of it is given back", || {
        kit.figure("spool_bytes") == 0 && kit.figure("open_requests") == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_requests_at_once_are_all_answered() {
    let odoo = Odoo::start(100).await;
    let kit = Kit::start(
        &odoo,
        Limits {
            max_in_flight: 8,
            ..Limits::default()
        },
    )
    .await;
    let mut all = JoinSet::new();
    for _ in 0..200 {
        let address = kit.address();
        all.spawn(async move { get(address, HONEST, "/?ms=20").await.status });
    }
    assert_eq!(all.join_all().await, vec![200; 200]);
    let most = odoo.seen.most_at_work.load(Ordering::SeqCst);
    assert!(most <= 8, "{most} at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_flood_of_one_does_not_come_before_another() {
    let odoo = Odoo::start(8).await;
    let kit = Kit::start(&odoo, Limits::default()).await;
    let mut flood = JoinSet::new();
    for _ in 0..300 {
        let address = kit.address();
        flood.spawn(async move { get(address, "198.51.100.1", "/?ms=100").await.status });
    }
    kit::until("they wait", || kit.figure("waiting") > 200).await;
    let began = Instant::now();
    for _ in 0..10 {
        assert_eq!(get(kit.address(), HONEST, "/").await.status, 200);
    }
    let (took, waiting) = (began.elapsed(), kit.figure("waiting"));
    assert!(
        waiting > 100 && took < Duration::from_secs(1),
        "{took:?}, and {waiting} still wait"
    );
    assert!(flood.join_all().await.iter().all(|status| *status == 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_long_requests_make_others_wait_and_then_say_busy() {
    let odoo = Odoo::start(2).await;
    let limits = Limits {
        max_in_flight: 2,
        queue_wait_ms: 1_500,
        ..Limits::default()
    };
    let kit = Kit::start(&odoo, limits).await;
    let mut long = JoinSet::new();
    for (visitor, ms) in [("198.51.100.1", 1_000), ("198.51.100.2", 3_500)] {
        let address = kit.address();
        long.spawn(async move { get(address, visitor, &format!("/?ms={ms}")).await.status });
    }
    kit::until("both work", || kit.figure("in_flight") == 2).await;
    assert_eq!(
        get(kit.address(), HONEST, "/?ms=2000").await.status,
        200,
        "it waits"
    );
    let address = kit.address();
    long.spawn(async move { get(address, "198.51.100.3", "/?ms=3000").await.status });
    kit::until("both work", || kit.figure("in_flight") == 2).await;
    let mut client = Client::connect(kit.address(), HONEST).await;
    let more = "Accept: text/html\r\nAccept-Language: pt-BR,pt;q=0.9\r\n";
    let began = Instant::now();
    let answer = client.ask("GET", "/", more, b"").await;
    if answer.status == 200 {
        assert!(
            began.elapsed() < Duration::from_millis(1_600),
            "a place came free in time"
        );
    } else {
        assert_eq!(
            (answer.status, answer.header("retry-after")),
            (503, Some("5"))
        );
        assert!(answer.text().contains("Ocupado"));
    }
    assert!(long.join_all().await.iter().all(|status| *status == 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_places_stay_taken_there_is_a_page() {
    let odoo = Odoo::start(1).await;
    let limits = Limits {
        max_in_flight: 1,
        queue_wait_ms: 200,
        ..Limits::default()
    };
    let kit = Kit::start(&odoo, limits).await;
    let address = kit.address();
    let long = tokio::spawn(async move { get(address, "198.51.100.1", "/?ms=2000").await.status });
    kit::until("it works", || kit.figure("in_flight") == 1).await;
    let mut client = Client::connect(kit.address(), HONEST).await;
    let answer = client.ask("GET", "/", "Accept: text/html\r\n", b"").await;
    assert_eq!(
        (answer.status, answer.header("x-isyone-relay")),
        (503, Some("busy"))
    );
    assert!(answer.text().contains("http-equiv=\"refresh\""));
    assert_eq!(long.await.unwrap(), 200);
    assert_eq!(client.get("/").await.status, 200, "on the same connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_all_of_it_and_one_that_stops_is_cut() {
    let odoo = Odoo::start(1).await;
    let limits = Limits {
        reader_pause_ms: 3_000,
        rate_window_ms: 1_000,
        ..Limits::default()
    };
    let kit = Kit::start(&odoo, limits).await;
    let (bytes, path) = (20_000_000, "/big?bytes=20000000");
    let mut slow = Client::connect(kit.address(), HONEST).await;
    slow.write(slow.head("GET", path, "")).await.unwrap();
    assert_eq!(slow.answer_head().await.unwrap().status, 200);
    let mut stopped = Client::connect(kit.address(), "198.51.100.1").await;
    stopped.write(stopped.head("GET", path, "")).await.unwrap();
    let (mut got, mut buffer) = (0, vec![0; 1 << 20]);
    let began = Instant::now();
    while got < bytes {
        let count = slow.stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "cut at {got}");
        got += count;
        // A pause that no worker would wait for, then some MB a second.
        let is_first = got == count;
        tokio::time::sleep(Duration::from_millis(if is_first { 2_500 } else { 10 })).await;
    }
    println!("{bytes} bytes in {:?}", began.elapsed());
    kit::until("the other one is cut", || {
        kit.figure("readers_cut_total") == 1
    })
    .await;
    kit::until("what it held is given back", || {
        kit.figure("spool_bytes") == 0
    })
    .await;
    assert!(stopped.answer().await.is_none(), "not whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_slows_down_and_breaks_nothing() {
    let odoo = Odoo::start(2).await;
    let limits = Limits {
        answer_spool_bytes: 100_000,
        answer_memory_bytes: 65_536,
        ..Limits::default()
    };
    let host = HostLimits {
        spool_bytes: 0,
        ..HostLimits::default()
    };
    for host in [host, HostLimits::default()] {
        let kit = Kit::start_with(odoo.address, None, limits.clone(), host).await;
        let mut client = Client::connect(kit.address(), HONEST).await;
        client
            .write(client.head("GET", "/big?bytes=20000000", ""))
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(kit.figure("spool_bytes") <= 100_000);
        assert_eq!(client.answer().await.unwrap().body.len(), 20_000_000);
        // Counted when the wait is over.
        assert!(kit.figure("answers_stalled_total") > 0, "Odoo had to wait");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_pieces_are_not_collected() {
    let odoo = Odoo::start(1).await;
    let kit = Kit::start(&odoo, Limits::default()).await;
    let mut client = Client::connect(kit.address(), HONEST).await;
    client
        .write(client.head("GET", "/slow-chunks", ""))
        .await
        .unwrap();
    let began = Instant::now();
    assert_eq!(
        client
            .answer_head()
            .await
            .unwrap()
            .header("transfer-encoding"),
        Some("chunked")
    );
    let mut times = Vec::new();
    while let Some(chunk) = client.chunk().await.unwrap() {
        assert_eq!(chunk, b"tick");
        times.push(began.elapsed());
    }
    assert_eq!(times.len(), 5);
    assert!(
        times[4] - times[0] > Duration::from_millis(250),
        "each when it came: {times:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_tries_to_get_in_too_often_is_told_to_wait() {
    let odoo = Odoo::start(8).await;
    let limits = Limits {
        sign_in_burst: 5,
        sign_in_per_minute: 1,
        ..Limits::default()
    };
    let kit = Kit::start(&odoo, limits).await;
    let mut client = Client::connect(kit.address(), "198.51.100.1").await;
    let mut statuses = Vec::new();
    for n in 0..10 {
        // A cookie is no way round.
        let more = if n % 2 == 0 { String::new() } else { cookie() };
        statuses.push(
            client
                .ask("POST", "/web//login", &more, b"login=a")
                .await
                .status,
        );
    }
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429, 429, 429]);
    let answer = client.ask("POST", "/pt_BR/web/login", "", b"x").await;
    let wait: u32 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((50..=61).contains(&wait), "{wait}");
    assert_eq!(
        client.get("/shop").await.status,
        200,
        "everything else goes on"
    );
    let mut honest = Client::connect(kit.address(), HONEST).await;
    assert_eq!(honest.ask("POST", "/web/login", "", b"x").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_does_not_get_round_the_bound() {
    let odoo = Odoo::start(100).await;
    let kit = Kit::start(
        &odoo,
        Limits {
            max_in_flight: 4,
            ..Limits::default()
        },
    )
    .await;
    for _ in 0..40 {
        let mut client = Client::connect(kit.address(), "198.51.100.1").await;
        client
            .write(client.head("GET", "/?ms=700", ""))
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        drop(client);
    }
    let began = Instant::now();
    assert_eq!(get(kit.address(), HONEST, "/").await.status, 200);
    assert!(
        began.elapsed() < Duration::from_millis(600),
        "one place is never that address's"
    );
    kit::until("all is calm", || {
        kit.figure("in_flight") == 0 && kit.figure("waiting") == 0
    })
    .await;
    let most = odoo.seen.most_at_work.load(Ordering::SeqCst);
    assert!(most <= 4, "{most} at once");
    assert_eq!(kit.figure("open_requests"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_a_share_of_open_requests() {
    let odoo = Odoo::start(8).await;
    let limits = Limits {
        open_requests: 90,
        ..Limits::default()
    };
    let kit = Kit::start(&odoo, limits).await;
    let mut senders = Vec::new();
    for _ in 0..40 {
        let mut client = Client::connect(kit.address(), "198.51.100.1").await;
        client
            .write(client.head("POST", "/x", "Content-Length: 100\r\n"))
            .await
            .unwrap();
        senders.push(client);
    }
    kit::until("most are refused", || {
        kit.relay
            .as_ref()
            .unwrap()
            .metrics()
            .contains("notice=\"too-many\"} 30")
    })
    .await;
    assert_eq!(kit.figure("open_requests"), 10);
    assert_eq!(get(kit.address(), HONEST, "/").await.status, 200);
    assert_eq!(senders[39].answer().await.unwrap().status, 429);
}

/// What a request costs more through the relay, on an idle machine some tenths of a millisecond; printed, and held to very little only
/// where nothing else runs.
#[tokio::test(flavor = "multi_thread")]
async fn the_relay_adds_little() {
    let odoo = Odoo::start(8).await;
    let kit = Kit::start(&odoo, Limits::default()).await;
    let mut times = [Vec::new(), Vec::new()];
    let mut kept = Client::connect(kit.address(), HONEST).await;
    for _ in 0..500 {
        let began = Instant::now();
        assert_eq!(get(odoo.address, HONEST, "/").await.status, 200);
        times[0].push(began.elapsed());
        let began = Instant::now();
        assert_eq!(kept.get("/").await.status, 200);
        times[1].push(began.elapsed());
    }
    for (times, way) in times.iter_mut().zip([
        "directly, a connection each",
        "through the relay, one connection",
    ]) {
        times.sort();
        println!("{way}: p50 {:?}, p99 {:?}", times[250], times[495]);
    }
    assert!(times[1][250] < times[0][250] + Duration::from_millis(5));
}
