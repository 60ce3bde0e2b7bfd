//! What edges and Prometheus get from a coordinator whose tenants are split among edges.
//!
//! Not here: what a route looks like (isyone-traefik).

use std::time::{Duration, Instant};

use isyone_proto::pb::v1;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Agent, Fixture, soon, start_with};

const TENANTS: [&str; 4] = ["alfa", "beta", "delta", "gama"];

/// Four running tenants on one host.
async fn sharded() -> (Fixture, Agent) {
    let fixture = start_with(|config| {
        config.edge.shards = ["a", "b", "c", "d"]
            .iter()
            .map(|s| s.parse().unwrap())
            .collect();
        config.edge.traefik_dir = Some(config.data_dir.join("../edges"));
    })
    .await;
    let host = fixture.join("h1").await;
    let mut agent = Agent::connect(&host).await;
    for name in TENANTS {
        fixture.create(name).await;
    }
    agent.plan_of(&TENANTS).await;
    agent.converge().await;
    (fixture, agent)
}

/// The tenant's shard, as operators see it.
async fn shard(fixture: &Fixture, tenant: &str) -> String {
    let request = v1::GetTenantRequest {
        name: tenant.into(),
    };
    fixture
        .tenants()
        .get_tenant(request)
        .await
        .unwrap()
        .into_inner()
        .edge_shard
}

async fn is_not_with_others(fixture: &Fixture, tenant: &str, own: &str) {
    let others = ["a", "b", "c", "d"].into_iter();
    for other in others.filter(|other| *other != own) {
        let routes = fixture.http(&format!("/traefik/config/{other}")).await.1;
        assert!(!routes.contains(&format!("Host(`{tenant}.isy.one`)")));
        let targets = fixture.http(&format!("/sd/postgres?shard={other}")).await.1;
        assert!(!targets.contains(tenant));
    }
}

#[tokio::test]
async fn an_edge_gets_its_share_and_the_shares_are_everything() {
    let (fixture, _agent) = sharded().await;
    for tenant in TENANTS {
        let own = shard(&fixture, tenant).await;
        let host = format!("Host(`{tenant}.isy.one`)");
        let document = fixture
            .published(&format!("/traefik/config/{own}"), &host)
            .await;
        fixture.published("/traefik/config", &host).await;
        fixture
            .published(
                &format!("/sd/odoo?shard={own}"),
                &format!("odoo_{tenant}:8069"),
            )
            .await;
        is_not_with_others(&fixture, tenant, &own).await;
        let map: serde_json::Value =
            serde_json::from_str(&fixture.http("/edges/map").await.1).unwrap();
        assert_eq!(map[format!("{tenant}.isy.one")], own);
        fixture
            .written(&format!("edges/{own}/isyone.yml"), &document)
            .await;
        assert!(
            fixture
                .dir
                .path()
                .join("targets")
                .join(&own)
                .join("odoo.json")
                .exists()
        );
    }
    let hosts = ["a", "b", "c", "d"].map(|shard| format!("/sd/host?shard={shard}"));
    let mut found = 0;
    for path in hosts {
        found += fixture
            .http(&path)
            .await
            .1
            .matches("\"instance\":\"h1\"")
            .count();
    }
    assert_eq!(found, 1);
    let (status, text) = fixture.http("/traefik/config/e").await;
    assert_eq!(
        (status, text.as_str()),
        (404, "no such shard; there are: a, b, c, d\n")
    );
    assert_eq!(fixture.http("/sd/odoo?shard=e").await.0, 404);
    assert_eq!(fixture.http("/sd/nothing").await.0, 404);
    // Each scope counts separately: an edge with a quiet shard has nothing to do.
    let metrics = fixture.http("/metrics").await.1;
    for shard in ["", "a", "b", "c", "d"] {
        assert!(
            metrics.contains(&format!("isyone_publications_total{{shard=\"{shard}\"}} ")),
            "{metrics}"
        );
    }
}

/// Sends another request on the same connection; returns how long it took, and the body.
async fn ask(tcp: &mut TcpStream, path: &str) -> (Duration, String) {
    let begin = Instant::now();
    tcp.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    loop {
        let mut bytes = [0; 65_536];
        let n = soon(tcp.read(&mut bytes)).await.unwrap();
        answer.push_str(std::str::from_utf8(&bytes[..n]).unwrap());
        let Some((head, body)) = answer.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .unwrap();
        if body.len() == length.parse::<usize>().unwrap() {
            return (begin.elapsed(), body.to_owned());
        }
    }
}

#[tokio::test]
async fn who_waits_is_answered_with_the_next_change_of_its_own_share() {
    let (fixture, mut agent) = sharded().await;
    let own = shard(&fixture, "alfa").await;
    fixture
        .published(&format!("/traefik/config/{own}"), "Host(`alfa.isy.one`)")
        .await;
    // Everything else in progress is out by then.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let path = format!("/traefik/config/{own}?wait=1.5");
    let mut edge = TcpStream::connect(fixture.running.http).await.unwrap();
    let (took, first) = ask(&mut edge, &path).await;
    assert!(
        took < Duration::from_secs(1),
        "a new connection is answered at once, not after {took:?}"
    );
    let (took, second) = ask(&mut edge, &path).await;
    assert!(
        took >= Duration::from_millis(1_500) && first == second,
        "{took:?}"
    );
    let change = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let request = v1::SuspendTenantRequest {
            name: "alfa".into(),
            ..Default::default()
        };
        fixture.tenants().suspend_tenant(request).await.unwrap();
    };
    let ((took, third), ()) = tokio::join!(ask(&mut edge, &path), change);
    assert!(took < Duration::from_millis(1_400), "{took:?}");
    assert!(
        third.contains("isyone-page\"],\"priority\":100000") && third != second,
        "{third}"
    );
    // The stop does not wait for held-back requests.
    let begin = Instant::now();
    let waiting = tokio::spawn(async move { ask(&mut edge, &path).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    agent.plan = None;
    drop(agent);
    fixture.running.stop().await;
    assert!(
        waiting.await.unwrap().0 < Duration::from_millis(1_400)
            && begin.elapsed() < Duration::from_secs(5)
    );
}
