//! Heads: what could be read in two ways, what somebody says of himself, and what does not arrive.

use std::time::{Duration, Instant};

use isyone_relay::limits::{HostLimits, Limits};

use crate::{
    client::{Client, get},
    kit::Kit,
    odoo::Odoo,
};

const HONEST: &str = "203.0.113.1";

/// Sends bytes as they are, and gives the statuses of what comes back until the end.
async fn raw(kit: &Kit, bytes: &str) -> Vec<u16> {
    let mut client = Client::connect(kit.address(), HONEST).await;
    client.write(bytes).await.unwrap();
    let mut statuses = Vec::new();
    while let Ok(Some(answer)) =
        tokio::time::timeout(Duration::from_millis(700), client.answer()).await
    {
        statuses.push(answer.status);
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_hidden_in_another() {
    let odoo = Odoo::start(4).await;
    let kit = Kit::start(&odoo, Limits::default()).await;
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a.b\r\nX-Id: hidden\r\n\r\n";
    let post = "POST /x HTTP/1.1\r\nHost: a.b\r\n";
    for bytes in [
        // Its length says that the rest is a body, its encoding that there is none.
        format!(
            "{post}Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
            hidden.len() + 5
        ),
        format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n{hidden}"),
        format!(
            "{post}Content-Length: 0\r\nContent-Length: {}\r\n\r\n{hidden}",
            hidden.len()
        ),
        format!("{post}Content-Length: 0, {}\r\n\r\n{hidden}", hidden.len()),
        format!("{post}Content-Length: +0\r\n\r\n{hidden}"),
        format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{post}X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!(
            "{post}Transfer-Encoding: chunked\r\n\r\n00000000000000000000000001\r\nx\r\nZ\r\n\r\n{hidden}"
        ),
    ] {
        let statuses = raw(&kit, &bytes).await;
        let head = &bytes[..bytes.find("\r\n\r\n").unwrap()];
        assert!(statuses.len() <= 1, "{statuses:?} to\n{head}");
        assert_eq!(
            odoo.seen.began.lock().unwrap().get("hidden"),
            None,
            "{head}"
        );
    }
    // One after the other is allowed, and each is one.
    assert_eq!(
        raw(&kit, &format!("{post}Content-Length: 0\r\n\r\n{hidden}")).await,
        [200, 200]
    );
    assert_eq!(odoo.seen.began.lock().unwrap().get("hidden"), Some(&1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_for_odoo_does_not_reach_it() {
    let odoo = Odoo::start(4).await;
    let kit = Kit::start(&odoo, Limits::default()).await;
    for (bytes, expected) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET http://a.b/ HTTP/1.1\r\nHost: a.b\r\n\r\n", 400),
        ("OPTIONS * HTTP/1.1\r\nHost: a.b\r\n\r\n", 400),
        ("TRACE / HTTP/1.1\r\nHost: a.b\r\n\r\n", 405),
        ("CONNECT a.b:80 HTTP/1.1\r\nHost: a.b\r\n\r\n", 405),
        (
            "POST / HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "GET /web/database/manager HTTP/1.1\r\nHost: a.b\r\n\r\n",
            404,
        ),
        ("GET /web/%64atabase HTTP/1.1\r\nHost: a.b\r\n\r\n", 404),
        ("\u{16}\u{3}\u{1}rubbish\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ] {
        let statuses = raw(&kit, bytes).await;
        assert!(
            statuses == [expected] || (statuses.is_empty() && expected == 400),
            "{bytes}: {statuses:?}"
        );
    }
    for length in [70_000, 200_000, 1_000_000] {
        let x = "x".repeat(length);
        let long = format!("GET / HTTP/1.1\r\nHost: a.b\r\nCookie: {x}\r\n\r\n");
        assert_eq!(raw(&kit, &long).await, [431], "{length}");
    }
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a.b\r\n{}\r\n",
        "X: y\r\n".repeat(101)
    );
    assert_eq!(raw(&kit, &many).await, [431]);
    assert_eq!(odoo.seen.heads.lock().unwrap().len(), 0);
}

/// A proxy that cannot write the rest of a head takes that for the answer.
#[tokio::test(flavor = "multi_thread")]
async fn who_still_sends_a_head_that_is_too_long_can_do_so() {
    let odoo = Odoo::start(1).await;
    let kit = Kit::start(&odoo, Limits::default()).await;
    let mut client = Client::connect(kit.address(), HONEST).await;
    let begin = format!("GET / HTTP/1.1\r\nCookie: {}", "x".repeat(300_000));
    client.write(begin).await.unwrap();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.write("x".repeat(100_000)).await.expect("it is read");
    }
    assert_eq!(client.answer().await.unwrap().status, 431);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_edge_is_believed() {
    let odoo = Odoo::start(4).await;
    let mut kit = Kit::start(&odoo, Limits::default()).await;
    let said = "X-Forwarded-For: 10.9.9.9\r\nX_Forwarded_Host: evil.example\r\nConnection: X-Forwarded-Proto, close\r\n";
    for is_edge in [true, false] {
        if !is_edge {
            kit.edges = vec!["192.0.2.1/32".to_owned()];
            kit.state(isyone_relay::routes::State::Serving).await;
        }
        let mut client = Client::connect(kit.address(), HONEST).await;
        assert_eq!(client.ask("GET", "/", said, b"").await.status, 200);
        let head = odoo
            .seen
            .heads
            .lock()
            .unwrap()
            .pop()
            .unwrap()
            .to_lowercase();
        let lines: Vec<_> = head
            .lines()
            .filter(|line| line.starts_with("x-forwarded") || line.starts_with("x_"))
            .collect();
        let has = |line: &str| assert!(lines.contains(&line), "{line} in {head}");
        assert_eq!(lines.len(), 3, "{head}");
        // The last hop is what the edge adds; before it stands what the visitor says.
        has(if is_edge {
            "x-forwarded-for: 10.9.9.9"
        } else {
            "x-forwarded-for: 127.0.0.1"
        });
        has(if is_edge {
            "x-forwarded-proto: https"
        } else {
            "x-forwarded-proto: http"
        });
        has("x-forwarded-host: alfa.isy.one");
        assert_eq!(head.matches("\nhost: ").count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_keep_their_heads() {
    let odoo = Odoo::start(4).await;
    let kit = Kit::start(&odoo, Limits::default()).await;
    let mut client = Client::connect(kit.address(), HONEST).await;
    let answer = client.get("/").await;
    assert_eq!(
        answer.header("x-isyone-relay"),
        None,
        "Odoo cannot speak for the relay"
    );
    assert_eq!(
        answer.header("connection"),
        None,
        "its connection is not ours"
    );
    let head = client.ask("HEAD", "/", "", b"").await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, answer.header("content-length"))
    );
    assert_eq!(
        client.get("/").await.text(),
        answer.text(),
        "the connection goes on after HEAD"
    );
    client.write(client.head("GET", "/cut", "")).await.unwrap();
    assert!(
        client.answer().await.is_none(),
        "half an answer is no answer"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_arrive_is_not_waited_for_and_idle_is_not_late() {
    let odoo = Odoo::start(4).await;
    let host = HostLimits {
        head_wait_ms: 500,
        idle_ms: 3_000,
        ..HostLimits::default()
    };
    let kit = Kit::start_with(odoo.address, None, Limits::default(), host).await;
    let mut idle = Client::connect(kit.address(), HONEST).await;
    assert_eq!(idle.get("/").await.status, 200);
    let mut slow = Client::connect(kit.address(), "198.51.100.1").await;
    let began = Instant::now();
    for b in b"GET / HTTP/1.1\r\nHost: a.b\r\nX: aaaaaaaaaaaaaaaaaaaaaaaaaaaa" {
        if slow.write([*b]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        slow.answer()
            .await
            .is_none_or(|answer| answer.status == 408)
    );
    assert!(
        began.elapsed() < Duration::from_millis(2_500),
        "{:?}",
        began.elapsed()
    );
    tokio::time::sleep(Duration::from_millis(1_500).saturating_sub(began.elapsed())).await;
    assert_eq!(
        idle.get("/").await.status,
        200,
        "three times as long as a head may take"
    );
    assert_eq!(
        get(kit.address(), HONEST, "/?ms=1000").await.status,
        200,
        "a long request is not a late head"
    );
}
