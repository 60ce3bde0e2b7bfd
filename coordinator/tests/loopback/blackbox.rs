//! Tenants probed through an edge: a stand-in on loopback that answers as the test wants.
//!
//! Not here: judging the results (unit tests of isyone-fleet and edges/probes).

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use isyone_coordinator::base::config::{Config, Span, UrlScheme};
use isyone_proto::{
    pb::v1::{
        self, event_service_client::EventServiceClient, top_service_client::TopServiceClient,
    },
    tls,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use crate::support::{Agent, Fixture, soon, start_with};

/// The hosts that were requested, with the request.
type Asked = Arc<Mutex<Vec<String>>>;

/// Answers 200 for alfa and 502 for all others.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, asked: Asked) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let well = head.contains("host: alfa.isy.one\r\n");
    asked.lock().unwrap().push(head);
    let status = if well { "200 OK" } else { "502 Bad Gateway" };
    let _ = stream
        .write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes())
        .await;
}

async fn edge(listener: TcpListener, tls: Option<TlsAcceptor>, asked: Asked) {
    while let Ok((tcp, _)) = listener.accept().await {
        let (tls, asked) = (tls.clone(), asked.clone());
        tokio::spawn(async move {
            match tls {
                None => answer(tcp, asked).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(tcp).await {
                        answer(stream, asked).await;
                    }
                }
            }
        });
    }
}

struct Seen {
    fixture: Fixture,
    agent: Agent,
    asked: Asked,
    edge: JoinHandle<()>,
    address: SocketAddr,
}

/// A coordinator with these running tenants, and their edge.
async fn seen(tls: Option<TlsAcceptor>, tenants: &[&str], set: impl Fn(&mut Config)) -> Seen {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Asked::default());
    let edge = tokio::spawn(edge(listener, tls, asked.clone()));
    let fixture = start_with(|config| {
        config.edge.url = Some(format!("http://{address}"));
        (config.probes.interval, config.probes.timeout) = (Span::seconds(1), Span::seconds(1));
        set(config);
    })
    .await;
    let host = fixture.join("h1").await;
    let mut agent = Agent::connect(&host).await;
    for name in tenants {
        fixture.create(name).await;
    }
    agent.plan_of(tenants).await;
    agent.converge().await;
    Seen {
        fixture,
        agent,
        asked,
        edge,
        address,
    }
}

impl Seen {
    async fn tenant(&self, name: &str) -> v1::Tenant {
        let request = v1::GetTenantRequest { name: name.into() };
        self.fixture
            .tenants()
            .get_tenant(request)
            .await
            .unwrap()
            .into_inner()
    }

    /// A tenant's probe, once it `fits`.
    async fn probe(&self, name: &str, fits: impl Fn(&v1::Probe) -> bool) -> v1::Probe {
        soon(async {
            loop {
                if let Some(probe) = self.tenant(name).await.probe.filter(|probe| fits(probe)) {
                    return probe;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }

    /// The events of these kinds so far.
    async fn events(&self, kinds: &[&str]) -> Vec<String> {
        let request = v1::StreamEventsRequest::default();
        let mut client = EventServiceClient::new(self.fixture.admin.clone());
        let mut events = client.stream_events(request).await.unwrap().into_inner();
        let mut found = Vec::new();
        while let Some(event) = events.message().await.unwrap() {
            if kinds.contains(&event.kind.as_str()) {
                found.push(format!("{} {}", event.kind, event.tenant));
            }
        }
        found
    }

    async fn event(&self, wanted: &str) {
        let kind = wanted.split(' ').next().unwrap();
        soon(async {
            while !self
                .events(&[kind])
                .await
                .iter()
                .any(|event| event == wanted)
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn whose_trouble_it_is_shows_everywhere() {
    let mut seen = seen(None, &["alfa", "beta"], |_| {}).await;
    let alfa = seen.probe("alfa", |_| true).await;
    assert_eq!(
        (alfa.reach(), alfa.http_status, alfa.error.as_str()),
        (v1::Reach::Ok, 200, "")
    );
    assert_eq!(
        (alfa.edge, alfa.certificate_expire_time),
        (seen.address.to_string(), None)
    );
    let beta = seen.probe("beta", |_| true).await;
    assert_eq!(
        (beta.reach(), beta.http_status),
        (v1::Reach::TenantDown, 502)
    );
    seen.event("tenant.unreachable beta").await;
    let head = seen.asked.lock().unwrap()[0].clone();
    assert!(
        head.starts_with("GET /web/health HTTP/1.1\r\n") && head.contains("connection: close\r\n"),
        "{head}"
    );

    let page = seen.fixture.http("/probes").await.1;
    for line in [
        r#"probe_success{tenant="alfa",host="h1"} 1"#,
        r#"probe_success{tenant="beta",host="h1"} 0"#,
        r#"probe_http_status_code{tenant="beta",host="h1"} 502"#,
        r#"isyone_probe_blame{tenant="beta",host="h1",blame="tenant_down"} 1"#,
        &format!("isyone_edge_up{{edge=\"{}\"}} 1", seen.address),
    ] {
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }

    // The edge goes away: no tenant is to blame, and there are no more events about tenants.
    seen.edge.abort();
    let gone = seen
        .probe("alfa", |probe| probe.reach() == v1::Reach::EdgeDown)
        .await;
    assert_eq!(gone.http_status, 0);
    seen.event("edge.down ").await;
    let request = v1::TopHostsRequest::default();
    let top = TopServiceClient::new(seen.fixture.admin.clone())
        .top_hosts(request)
        .await
        .unwrap()
        .into_inner();
    assert!(top.edges.len() == 1 && !top.edges[0].up, "{:?}", top.edges);
    assert_eq!(
        seen.events(&["tenant.unreachable"]).await,
        ["tenant.unreachable beta"]
    );

    // The edge comes back; tenants that were down only because of it get no events.
    let listener = TcpListener::bind(seen.address).await.unwrap();
    seen.edge = tokio::spawn(edge(listener, None, seen.asked.clone()));
    seen.event("edge.up ").await;
    seen.probe("alfa", |probe| probe.reach() == v1::Reach::Ok)
        .await;
    assert_eq!(
        seen.events(&["tenant.reachable"]).await,
        Vec::<String>::new()
    );
    seen.edge.abort();
    seen.fixture.running.stop().await;
}

#[tokio::test]
async fn a_suspended_tenant_is_not_missed() {
    let mut seen = seen(None, &["alfa", "beta"], |_| {}).await;
    seen.probe("alfa", |_| true).await;
    let request = v1::SuspendTenantRequest {
        name: "alfa".into(),
        ..v1::SuspendTenantRequest::default()
    };
    seen.fixture
        .tenants()
        .suspend_tenant(request)
        .await
        .unwrap();
    assert_eq!(seen.tenant("alfa").await.probe, None);
    assert!(!seen.fixture.http("/probes").await.1.contains("alfa"));
    seen.agent.report(vec![]).await;
    seen.edge.abort();
}

/// An edge's certificate for `*.isy.one`, its CA as PEM, and its expiry.
fn wildcard() -> (TlsAcceptor, String, i64) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut own = CertificateParams::new(vec!["*.isy.one".to_owned()]).unwrap();
    own.not_after = rcgen::date_time_ymd(2090, 1, 1);
    let pem = own.signed_by(&key, &issuer).unwrap().pem();
    let config = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            tls::certificates("edge", &pem).unwrap(),
            tls::private_key(&key.serialize_pem()).unwrap(),
        )
        .unwrap();
    (
        TlsAcceptor::from(Arc::new(config)),
        ca_pem,
        own.not_after.unix_timestamp(),
    )
}

#[tokio::test]
async fn a_certificates_end_is_known_and_a_bad_one_counts_as_down() {
    let (acceptor, ca_pem, end) = wildcard();
    let https = |config: &mut Config| config.url_scheme = UrlScheme::Https;
    let trusted = seen(Some(acceptor.clone()), &["alfa"], |config| {
        https(config);
        std::fs::write(config.data_dir.join("edge-ca.pem"), &ca_pem).unwrap();
        config.probes.ca_file = Some("edge-ca.pem".into());
    })
    .await;
    let alfa = trusted.probe("alfa", |_| true).await;
    assert_eq!((alfa.reach(), alfa.error.as_str()), (v1::Reach::Ok, ""));
    assert_eq!(
        alfa.certificate_expire_time.map(|time| time.seconds),
        Some(end)
    );
    let line = format!("probe_ssl_earliest_cert_expiry{{tenant=\"alfa\",host=\"h1\"}} {end}");
    assert!(
        trusted
            .fixture
            .http("/probes")
            .await
            .1
            .lines()
            .any(|l| l == line)
    );

    let strange = seen(Some(acceptor), &["alfa"], https).await;
    let alfa = strange.probe("alfa", |_| true).await;
    assert_eq!((alfa.reach(), alfa.http_status), (v1::Reach::TenantDown, 0));
    assert!(alfa.error.contains("certificate refused"), "{}", alfa.error);
    assert_eq!(
        alfa.certificate_expire_time.map(|time| time.seconds),
        Some(end)
    );
}

#[tokio::test]
async fn figures_of_reports_come_out_in_the_asked_order() {
    let fixture = start_with(|_| {}).await;
    let host = fixture.join("h1").await;
    let mut agent = Agent::connect(&host).await;
    for name in ["alfa", "beta", "gama"] {
        fixture.create(name).await;
    }
    agent.plan_of(&["alfa", "beta", "gama"]).await;
    let mut statuses: Vec<_> = agent
        .plan
        .iter()
        .flat_map(|p| &p.tenants)
        .map(crate::support::converged)
        .collect();
    let traffic = |requests_per_minute| v1::Traffic {
        requests_per_minute,
        ..v1::Traffic::default()
    };
    (statuses[1].traffic, statuses[2].traffic) = (Some(traffic(3)), Some(traffic(70)));
    agent.report(statuses).await;
    let mut client = TopServiceClient::new(fixture.admin.clone());
    let request = |order: v1::TenantOrder, limit| v1::TopTenantsRequest {
        order: order.into(),
        limit,
        ..v1::TopTenantsRequest::default()
    };
    let top = client
        .top_tenants(request(v1::TenantOrder::Requests, 2))
        .await
        .unwrap()
        .into_inner();
    let found: Vec<_> = top
        .tenants
        .iter()
        .map(|t| (t.name.as_str(), t.traffic.unwrap()))
        .collect();
    assert_eq!(found, [("gama", traffic(70)), ("beta", traffic(3))]);
    assert_eq!((top.matching, top.total), (3, 3));
    let all = client
        .top_tenants(request(v1::TenantOrder::Requests, 0))
        .await
        .unwrap()
        .into_inner();
    // Not measured differs from zero.
    assert_eq!(
        (
            all.tenants[2].name.as_str(),
            all.tenants[2].traffic,
            all.tenants[2].usage
        ),
        ("alfa", None, None)
    );
    let refused = client
        .top_tenants(request(v1::TenantOrder::Name, 201))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
}
