//! Bodies: slow, large, in chunks, without end. A worker sees none of that.

use std::time::{Duration, Instant};

use isyone_relay::{limits::Limits, routes::State};

use crate::{
    client::{Client, get},
    kit::{self, Kit, cookie, is_long, resident},
    odoo::{Odoo, echo},
};

const HONEST: &str = "203.0.113.1";
const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn twenty_slow_senders_do_not_delay_an_honest_client() {
    let odoo = Odoo::start(2).await;
    let kit = Kit::start(
        &odoo,
        Limits {
            max_in_flight: 2,
            ..Limits::default()
        },
    )
    .await;
    let address = kit.address();
    let mut senders = Vec::new();
    for n in 0..20 {
        let mut client = Client::connect(address, &format!("198.51.100.{}", n % 4)).await;
        client
            .write(client.head("POST", "/web/login", "Content-Length: 100000\r\n"))
            .await
            .unwrap();
        senders.push(tokio::spawn(async move {
            while client.write(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }));
    }
    kit::until("all of them send", || kit.figure("open_requests") == 20).await;
    let mut slowest = Duration::ZERO;
    let mut client = Client::connect(address, HONEST).await;
    for _ in 0..50 {
        let began = Instant::now();
        assert_eq!(client.get("/").await.status, 200);
        slowest = slowest.max(began.elapsed());
    }
    println!("slowest of an honest client: {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert_eq!(
        odoo.seen.began.lock().unwrap().len(),
        0,
        "no worker has seen a sender"
    );
    senders.into_iter().for_each(|sender| sender.abort());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_in_chunks_arrives_with_a_length() {
    let odoo = Odoo::start(2).await;
    let kit = Kit::start(&odoo, Limits::default()).await;
    let mut client = Client::connect(kit.address(), HONEST).await;
    let head = client.head(
        "POST",
        "/json/2/res.partner/search",
        "Transfer-Encoding: chunked\r\n",
    );
    client.write(head).await.unwrap();
    client
        .write("5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nTrailer: x\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(client.answer().await.unwrap().text(), echo(b"hello world"));
    let head = client.head("POST", "/json/2/x", "Transfer-Encoding: chunked\r\n");
    client.write(head).await.unwrap();
    client.write("0\r\n\r\n").await.unwrap();
    assert_eq!(client.answer().await.unwrap().text(), echo(b""));
    for head in odoo.seen.heads.lock().unwrap().iter() {
        let head = head.to_lowercase();
        assert!(
            head.contains("content-length: ") && !head.contains("transfer-encoding"),
            "{head}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_whether_to_send_is_told() {
    let odoo = Odoo::start(2).await;
    let kit = Kit::start(
        &odoo,
        Limits {
            upload_bytes: 1_000,
            ..Limits::default()
        },
    )
    .await;
    let mut client = Client::connect(kit.address(), HONEST).await;
    let head = client.head(
        "POST",
        "/x",
        "Content-Length: 5\r\nExpect: 100-continue\r\n",
    );
    client.write(head).await.unwrap();
    assert_eq!(client.answer_head().await.unwrap().status, 100);
    client.write("hello").await.unwrap();
    assert_eq!(client.answer().await.unwrap().text(), echo(b"hello"));
    let head = client.head(
        "POST",
        "/x",
        "Content-Length: 5000\r\nExpect: 100-continue\r\n",
    );
    client.write(head).await.unwrap();
    assert_eq!(
        client.answer_head().await.unwrap().status,
        413,
        "before a byte is sent"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_is_waited_for_and_a_longer_one_has_a_clear_end() {
    let odoo = Odoo::start(2).await;
    let kit = Kit::start(
        &odoo,
        Limits {
            body_pause_ms: 4_000,
            ..Limits::default()
        },
    )
    .await;
    // Longer than a worker would wait.
    for (pause_s, expected) in [(3, 200), (5, 408)] {
        let mut client = Client::connect(kit.address(), HONEST).await;
        client
            .write(client.head("POST", "/x", "Content-Length: 10\r\n"))
            .await
            .unwrap();
        client.write("hello").await.unwrap();
        tokio::time::sleep(Duration::from_secs(pause_s)).await;
        let _ = client.write("hello").await;
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.status, expected);
        if expected == 200 {
            assert_eq!(answer.text(), echo(b"hellohello"));
        } else {
            assert_eq!(answer.header("connection"), Some("close"));
        }
    }
    assert_eq!(
        odoo.seen
            .timed_out
            .load(std::sync::atomic::Ordering::SeqCst),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_who_drips_is_cut_and_one_on_a_bad_line_is_not() {
    let odoo = Odoo::start(2).await;
    let limits = Limits {
        rate_window_ms: 1_000,
        ..Limits::default()
    };
    let kit = Kit::start(&odoo, limits).await;
    for (bytes, every_ms, expected) in [(10_usize, 200, 408), (2_000, 200, 200)] {
        let mut client = Client::connect(kit.address(), HONEST).await;
        let length = bytes * 15;
        client
            .write(client.head("POST", "/x", &format!("Content-Length: {length}\r\n")))
            .await
            .unwrap();
        for _ in 0..15 {
            if client.write(vec![b'x'; bytes]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(every_ms)).await;
        }
        assert_eq!(client.answer().await.unwrap().status, expected, "{bytes}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_of_a_stranger_is_refused_before_anybody_parses_it() {
    let odoo = Odoo::start(2).await;
    let kit = Kit::start(&odoo, Limits::default()).await;
    let bomb = format!("{{\"params\":{{\"args\":[{}0]}}}}", "[],".repeat(MIB));
    let bomb = bomb.as_bytes();
    let json = "Content-Type: application/json\r\nX-Id: bomb\r\n";
    let mut client = Client::connect(kit.address(), HONEST).await;
    let answer = client.ask("POST", "/jsonrpc", json, bomb).await;
    assert_eq!(
        (answer.status, answer.header("x-isyone-relay")),
        (413, Some("anonymous-too-large"))
    );
    // The connection goes on: what was left of the body was read.
    assert_eq!(client.get("/").await.status, 200);
    // In chunks its length is not known beforehand; and `/xmlrpc` reads whatever type it has.
    let form = "Content-Type: multipart/form-data; boundary=x\r\nX-Id: bomb\r\n";
    for (path, more) in [("/x", json), ("/xmlrpc/2/common", form)] {
        let mut client = Client::connect(kit.address(), HONEST).await;
        client
            .write(client.head(
                "POST",
                path,
                &format!("{more}Transfer-Encoding: chunked\r\n"),
            ))
            .await
            .unwrap();
        let _ = client.write(format!("{:x}\r\n", bomb.len())).await;
        let _ = client.write(bomb).await;
        let _ = client.write("\r\n0\r\n\r\n").await;
        assert_eq!(client.answer().await.unwrap().status, 413, "{path}");
    }
    assert_eq!(odoo.seen.began.lock().unwrap().get("bomb"), None);
    // Whoever is signed in sends what he likes, and anybody may send a form with files.
    for more in [format!("{json}{}", cookie()), form.to_owned()] {
        let mut client = Client::connect(kit.address(), HONEST).await;
        let answer = client.ask("POST", "/web/x", &more, bomb).await;
        assert_eq!((answer.status, answer.text()), (200, echo(bomb)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_arrive_whole_whatever_their_size() {
    let odoo = Odoo::start(2).await;
    let limits = Limits {
        body_memory_bytes: 10_000,
        upload_bytes: 2_000_000,
        ..Limits::default()
    };
    let kit = Kit::start(&odoo, limits).await;
    let mut client = Client::connect(kit.address(), HONEST).await;
    let all: Vec<u8> = (0..2_000_001_u32)
        .map(|n| u8::try_from(n % 251).unwrap())
        .collect();
    for size in [
        1, 9_999, 10_000, 10_001, 262_143, 262_144, 262_145, 272_145, 1_999_999, 2_000_000,
    ] {
        let answer = client.ask("PUT", "/x", &cookie(), &all[..size]).await;
        assert_eq!(
            (answer.status, answer.text()),
            (200, echo(&all[..size])),
            "{size}"
        );
    }
    assert_eq!(client.ask("PUT", "/x", &cookie(), &all).await.status, 413);
    kit::until("all is given back", || {
        kit.figure("spool_bytes") + kit.figure("memory_bytes") == 0
    })
    .await;
    assert_eq!(kit.figure("bodies_spooled_total"), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_cannot_fill_the_spool() {
    let odoo = Odoo::start(2).await;
    let limits = Limits {
        spool_bytes: 8 << 20,
        spool_bytes_per_address: 8 << 20,
        ..Limits::default()
    };
    let kit = Kit::start(&odoo, limits).await;
    let half = vec![b'x'; 3 * MIB];
    let mut attackers = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(kit.address(), "198.51.100.1").await;
        let head = client.head(
            "POST",
            "/x",
            &format!("Content-Length: {}\r\n{}", 4 * MIB, cookie()),
        );
        client.write(head).await.unwrap();
        let _ = client.write(&half).await;
        attackers.push(client);
        // One by one: at the same moment all of them could be refused, and the spool be free again.
        kit::until("the spool is used", || kit.figure("spool_bytes") > 2 << 20).await;
    }
    let mut client = Client::connect(kit.address(), HONEST).await;
    let body = vec![b'y'; 3 * MIB / 2];
    let answer = client.ask("POST", "/x", &cookie(), &body).await;
    assert_eq!((answer.status, answer.text()), (200, echo(&body)));
    let mut refused = 0;
    for attacker in &mut attackers {
        let answer = tokio::time::timeout(Duration::from_millis(300), attacker.answer()).await;
        refused += u32::from(answer.is_ok_and(|answer| answer.is_some_and(|a| a.status == 429)));
    }
    assert!(refused >= 1);
    drop(attackers);
    kit::until("all of it is given back", || kit.figure("spool_bytes") == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_uploads_are_refused_small_calls_are_not() {
    let odoo = Odoo::start(2).await;
    let mut kit = Kit::start(&odoo, Limits::default()).await;
    kit.state(State::UploadsRefused).await;
    let mut client = Client::connect(kit.address(), HONEST).await;
    let form = format!(
        "{}Content-Type: multipart/form-data; boundary=x\r\n",
        cookie()
    );
    assert_eq!(client.ask("POST", "/x", &cookie(), b"{}").await.status, 200);
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(client.ask("POST", "/x", &form, b"--x--").await.status, 200);
    let files = "/web/binary/upload_attachment";
    let small = client.ask("POST", files, &form, b"--x--").await;
    assert_eq!(small.status, 507, "where Odoo takes files");
    let mut client = Client::connect(kit.address(), HONEST).await;
    let large = client.ask("POST", "/x", &cookie(), &[b'x'; 100_000]).await;
    assert_eq!(large.status, 507);
}

/// 64 MiB, or 1 GiB by `ISYONE_LONG`. In a process of its own: other tests' memory is not its.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_upload_and_download_pass_in_bounded_memory() {
    if std::env::var_os("ISYONE_ALONE").is_none() {
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        alone.args([
            "--exact",
            "bodies::a_large_upload_and_download_pass_in_bounded_memory",
            "--nocapture",
        ]);
        let done = alone.env("ISYONE_ALONE", "1").output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        println!("{said}");
        assert!(
            done.status.success() && said.contains("1 passed"),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        return;
    }
    let odoo = Odoo::start(2).await;
    let kit = Kit::start(&odoo, Limits::default()).await;
    let bytes = if is_long() { 1 << 30 } else { 64 * MIB };
    get(kit.address(), HONEST, "/").await;
    let before = resident();
    let mut most = before;
    let piece = vec![b'x'; MIB];
    let mut client = Client::connect(kit.address(), HONEST).await;
    client
        .write(client.head(
            "POST",
            "/x",
            &format!("Content-Length: {bytes}\r\n{}", cookie()),
        ))
        .await
        .unwrap();
    for _ in 0..bytes / MIB {
        client.write(&piece).await.unwrap();
        most = most.max(resident());
    }
    let answer = client.answer().await.unwrap();
    assert_eq!(
        (answer.status, answer.text()),
        (200, echo(format!("{bytes} bytes").as_bytes()))
    );
    client
        .write(client.head("GET", &format!("/big?bytes={bytes}"), ""))
        .await
        .unwrap();
    assert_eq!(client.answer_head().await.unwrap().status, 200);
    let (mut got, mut buffer) = (0, vec![0; MIB]);
    while got < bytes {
        let count = tokio::io::AsyncReadExt::read(&mut client.stream, &mut buffer)
            .await
            .unwrap();
        assert!(count > 0);
        got += count;
        most = most.max(resident());
    }
    let grown = (most - before) / (1 << 20);
    println!("{} MiB up and down: {grown} MiB more memory", bytes / MIB);
    assert!(grown < 32, "{grown} MiB");
    kit::until("the spool is given back", || kit.figure("spool_bytes") == 0).await;
}
