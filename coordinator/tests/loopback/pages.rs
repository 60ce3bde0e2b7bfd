//! Pages as edges request them, over the real port; and a tenant that falls asleep and is woken.
//!
//! Not here: all other pages (unit tests of ports/http/pages).

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use isyone_coordinator::{
    base::{
        clock,
        config::{Config, Span},
    },
    writer::{Source, SystemSource},
};
use isyone_proto::pb::v1;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Agent, Fixture, converged, soon, start, start_at, start_in_with};

struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// Sends one request verbatim; the connection closes after it.
async fn ask(fixture: &Fixture, request: &str) -> Answer {
    let mut stream = TcpStream::connect(fixture.running.http).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        status,
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

/// As Traefik's `replacePath` forwards it.
async fn page(fixture: &Fixture, method: &str, host: &str, more: &str) -> Answer {
    let head = format!(
        "{method} /pages/tenant HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n"
    );
    ask(fixture, &head).await
}

/// The stable identifier in the page's JSON.
async fn word(fixture: &Fixture, host: &str) -> String {
    let answer = page(
        fixture,
        "GET",
        host,
        "X-Replaced-Path: /websocket\r\nAccept: application/json\r\n",
    )
    .await;
    let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    json["error"]["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn nobody_learns_which_tenants_there_are() {
    let fixture = start().await;
    let host = fixture.join("h1").await;
    let mut agent = Agent::connect(&host).await;
    fixture.create("alfa").await;
    agent.plan_of(&["alfa"]).await;
    agent.converge().await;
    let request = v1::DeleteTenantRequest {
        name: "alfa".into(),
        ..Default::default()
    };
    fixture.tenants().delete_tenant(request).await.unwrap();
    let mut bodies = Vec::new();
    for host in [
        "alfa.isy.one",
        "beta.isy.one",
        "isy.one",
        "www.example.com",
        "ana@alfa.isy.one",
        "[::1]:80",
        "x y",
    ] {
        for method in ["GET", "POST", "DELETE", "PROPFIND"] {
            let answer = page(&fixture, method, host, "").await;
            assert_eq!(answer.status, 404, "{method} {host}: {}", answer.head);
            assert!(!answer.head.contains("retry-after"), "{}", answer.head);
            bodies.push(answer.body);
        }
    }
    assert!(
        bodies.iter().all(|body| *body == bodies[0]) && bodies[0].contains("There is nothing here")
    );
    // Invalid names, and no name at all.
    let long = format!("{}.isy.one", "a".repeat(10_000));
    assert_eq!(page(&fixture, "GET", &long, "").await.body, bodies[0]);
    assert_eq!(page(&fixture, "GET", "", "").await.body, bodies[0]);
    let none = ask(&fixture, "GET /pages/tenant HTTP/1.0\r\n\r\n").await;
    assert_eq!((none.status, none.body), (404, bodies[0].clone()));
    // A visitor who comes through an edge reaches this path only; no other spelling makes its neighbours public.
    for path in [
        "/pages/tenant/",
        "/pages/tenant/x",
        "/pages/suspended",
        "/pages",
    ] {
        let answer = ask(
            &fixture,
            &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        )
        .await;
        assert_eq!((answer.status, answer.body.as_str()), (404, ""), "{path}");
    }
}

#[expect(
    clippy::too_many_lines,
    reason = "the same page in every form, and at the end all of them counted"
)]
#[tokio::test]
async fn browsers_programs_and_websockets_get_what_they_understand() {
    let fixture = start().await;
    let host = fixture.join("h1").await;
    let _agent = Agent::connect(&host).await;
    fixture.create("alfa").await;
    let alfa = "alfa.isy.one";
    let english = page(&fixture, "GET", "ALFA.isy.one:80", "Accept: text/html\r\n").await;
    assert_eq!(english.status, 503);
    for line in [
        "retry-after: 5",
        "cache-control: no-store",
        "vary: accept, accept-language",
        "x-robots-tag: noindex",
        "content-security-policy: default-src 'none'",
        "content-type: text/html; charset=utf-8",
    ] {
        assert!(english.head.contains(line), "{line}: {}", english.head);
    }
    assert!(
        english.body.contains("Your system is starting")
            && english.body.contains("http-equiv=\"refresh\"")
    );
    let portuguese = page(
        &fixture,
        "POST",
        alfa,
        "Accept-Language: pt-BR,en;q=0.5\r\n",
    )
    .await;
    assert!(
        portuguese.body.contains("O seu sistema está iniciando"),
        "{}",
        portuguese.body
    );
    let head = page(&fixture, "HEAD", alfa, "").await;
    assert_eq!((head.status, head.body.as_str()), (503, ""));
    assert!(head.head.contains("content-length: "), "{}", head.head);
    // A program's call, with a body.
    let call = r#"{"jsonrpc":"2.0","method":"call"}"#;
    let more = format!(
        "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{call}",
        call.len()
    );
    let json = page(&fixture, "POST", alfa, &more).await;
    assert_eq!(
        json.body,
        "{\"error\":{\"code\":\"starting\",\"message\":\"Your system is starting\",\"retry_after_seconds\":5}}\n"
    );
    // The same from one of Odoo's pages must not look like Odoo's answer.
    let more = format!("Origin: http://alfa.isy.one\r\n{more}");
    assert_eq!(
        page(&fixture, "POST", alfa, &more).await.body,
        "Your system is starting.\n"
    );
    let xml = page(
        &fixture,
        "POST",
        alfa,
        "Content-Type: text/xml\r\nContent-Length: 0\r\n",
    )
    .await;
    assert!(
        xml.head.contains("content-type: text/plain"),
        "{}",
        xml.head
    );
    let socket = "GET /pages/tenant HTTP/1.1\r\nHost: alfa.isy.one\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let socket = ask(&fixture, socket).await;
    assert!(
        socket.status == 503 && socket.head.contains("retry-after: 5"),
        "{}",
        socket.head
    );
    // As the `errors` middleware requests it.
    let failed =
        "GET /pages/tenant?status=502 HTTP/1.1\r\nHost: alfa.isy.one\r\nConnection: close\r\n\r\n";
    assert_eq!(ask(&fixture, failed).await.status, 503);
    let metrics = fixture.http("/metrics").await.1;
    assert!(
        metrics.contains("isyone_pages_total{page=\"starting\"} 8"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_body_is_not_waited_for() {
    let fixture = start().await;
    // One client announces a gigabyte and never sends it; another sends it when told to, which we never do.
    for more in [
        "Content-Length: 1073741824\r\n",
        "Content-Length: 1073741824\r\nExpect: 100-continue\r\n",
    ] {
        let answer = page(&fixture, "POST", "alfa.isy.one", more).await;
        assert_eq!(answer.status, 404, "{}", answer.head);
    }
    // Headers are limited.
    let large = format!("Cookie: {}\r\n", "x".repeat(20_000));
    assert_eq!(
        page(&fixture, "GET", "alfa.isy.one", &large).await.status,
        431
    );
}

/// Real time plus an offset that the test moves.
#[derive(Clone, Default)]
struct Ahead(Arc<AtomicI64>);

impl Source for Ahead {
    fn now(&mut self) -> i64 {
        clock::now_ms() + self.0.load(Ordering::Relaxed)
    }
    fn id(&mut self) -> uuid::Uuid {
        SystemSource.id()
    }
}

fn sleepy(config: &mut Config) {
    for plan in config.plans.values_mut() {
        plan.sleep_after = Some(Span::seconds(60));
    }
    // The test moves time faster than the agent reports.
    config.liveness.suspect = Span::seconds(3_600);
    config.liveness.lost = Span::seconds(7_200);
}

/// Reports all tenants as planned, and that nobody ever logged in.
async fn unused(agent: &mut Agent) {
    let traffic = v1::Traffic {
        last_active_time: Some(Default::default()),
        ..v1::Traffic::default()
    };
    let tenants = agent
        .plan
        .iter()
        .flat_map(|plan| &plan.tenants)
        .map(converged);
    agent
        .report(
            tenants
                .map(|mut tenant| {
                    tenant.traffic = Some(traffic);
                    tenant
                })
                .collect(),
        )
        .await;
}

async fn alfa(fixture: &Fixture) -> v1::Tenant {
    let request = v1::GetTenantRequest {
        name: "alfa".into(),
    };
    fixture
        .tenants()
        .get_tenant(request)
        .await
        .unwrap()
        .into_inner()
}

#[tokio::test]
async fn a_tenant_that_sleeps_is_woken_by_its_next_visitor_once() {
    let ahead = Ahead::default();
    let fixture = start_at(ahead.clone(), sleepy).await;
    let channel = fixture.join("h1").await;
    let mut agent = Agent::connect(&channel).await;
    fixture.create("alfa").await;
    agent.plan_of(&["alfa"]).await;
    unused(&mut agent).await;
    // A tick runs each second of real time, and must not find that the clock jumped.
    for _ in 0..60 {
        if alfa(&fixture).await.asleep_time.is_some() {
            break;
        }
        ahead.0.fetch_add(20_000, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1_000)).await;
    }
    let asleep = alfa(&fixture).await;
    assert!(asleep.asleep_time.is_some(), "{asleep:?}");
    // One of the answers brings the plan that says so.
    soon(async {
        while alfa(&fixture).await.phase() != v1::TenantPhase::Suspended {
            unused(&mut agent).await;
        }
    })
    .await;
    assert!(
        alfa(&fixture)
            .await
            .message
            .contains("the next visitor wakes it")
    );
    // Automatic requests do not wake it, nor does an edge's request after a failure; and it sleeps through a restart.
    assert_eq!(word(&fixture, "alfa.isy.one").await, "asleep");
    page(&fixture, "HEAD", "alfa.isy.one", "X-Replaced-Path: /\r\n").await;
    drop((agent, channel));
    let dir = fixture.dir.clone();
    fixture.running.stop().await;
    let fixture = start_in_with(dir, sleepy).await;
    assert_eq!(word(&fixture, "alfa.isy.one").await, "asleep");
    let visits = (0..20).map(|_| {
        page(
            &fixture,
            "GET",
            "alfa.isy.one",
            "X-Replaced-Path: /odoo\r\n",
        )
    });
    for answer in futures_util::future::join_all(visits).await {
        assert_eq!(answer.status, 503);
    }
    soon(async {
        while alfa(&fixture).await.asleep_time.is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(
        alfa(&fixture).await.desired_state(),
        v1::DesiredState::Running
    );
    let state = fixture.running.handle.snapshot();
    let woken: Vec<_> = state
        .fleet
        .events
        .iter()
        .filter(|e| e.kind == isyone_fleet::event::EventKind::TenantWoken)
        .collect();
    assert_eq!((woken.len(), woken[0].actor.as_str()), (1, "visitor"));
}
