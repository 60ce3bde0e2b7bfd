//! The port over real TLS, with a CA of the test's own. Not here: the pages' contents.

use std::net::Ipv4Addr;

use http_body_util::{BodyExt as _, Empty};
use isyone_proto::tls;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use tokio::sync::watch;
use tokio_rustls::{
    TlsConnector,
    rustls::{self, ClientConfig, RootCertStore},
};

use super::*;
use crate::{
    base::config::DataDir,
    host::{Host, Pace, identity::server_config, ledger::InForce},
    testing::{fake_docker::FakeDocker, host_plan, tenant_plan},
};

struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

struct Leaf {
    certificate: String,
    key: String,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::from_ca_cert_pem(&pem, key).unwrap(),
            pem,
        }
    }

    fn leaf(&self, identity: &str, serial: u8) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.serial_number = Some(vec![serial].into());
        params.subject_alt_names = vec![
            SanType::URI(identity.try_into().unwrap()),
            SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        Leaf {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

struct Site {
    ca: Ca,
    address: SocketAddr,
    monitors: Arc<Monitors>,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

const MONITOR: &str = "spiffe://isyone/operator/prometheus/monitor";

async fn site() -> Site {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::new(dir.path());
    data.create().unwrap();
    let ca = Ca::new();
    let own = ca.leaf("spiffe://isyone/agent/h1", 1);
    let docker = FakeDocker::new(&dir.path().join("docker"), 1);
    let host = Host::new(
        docker.clone(),
        docker,
        data.clone(),
        Ipv4Addr::LOCALHOST.into(),
        Pace::hasty(),
    );
    let plan = Some(Arc::new(host_plan(1, vec![tenant_plan("alfa")])));
    let plans = watch::channel(InForce {
        plan,
        stale: vec![],
        unasked: false,
    })
    .1;
    let scraper = Scraper::new(Arc::new(host.unwrap()), plans, watch::channel(true).1);
    let monitors = Arc::new(Monitors::open(data.monitors()));
    monitors.replace(vec!["0a".into()], vec![]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = Arc::new(ArcSwap::from(
        server_config(&ca.pem, &own.certificate, &own.key).unwrap(),
    ));
    let port = ScrapePort {
        address,
        tls,
        monitors: monitors.clone(),
        scraper: Arc::new(scraper),
    };
    let stop = CancellationToken::new();
    tokio::spawn(Arc::new(port).serve(listener, stop.clone()));
    Site {
        ca,
        address,
        monitors,
        stop,
        _dir: dir,
    }
}

type Sender = hyper::client::conn::http1::SendRequest<Empty<Bytes>>;

impl Site {
    async fn connect(&self, leaf: Option<&Leaf>) -> Result<Sender, String> {
        let mut roots = RootCertStore::empty();
        roots
            .add(tls::certificates("CA", &self.ca.pem).unwrap().remove(0))
            .unwrap();
        let builder = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let config = match leaf {
            Some(leaf) => builder
                .with_client_auth_cert(
                    tls::certificates("certificate", &leaf.certificate).unwrap(),
                    tls::private_key(&leaf.key).unwrap(),
                )
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = rustls_pki_types::ServerName::from(self.address.ip());
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
            .map_err(|e| e.to_string())?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

async fn ask(sender: &mut Sender, method: &str, path: &str) -> Result<(u16, String), String> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "h1")
        .body(Empty::new())
        .unwrap();
    sender.ready().await.map_err(|e| e.to_string())?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(|e| e.to_string())?;
    let status = answer.status().as_u16();
    let body = answer
        .into_body()
        .collect()
        .await
        .map_err(|e| e.to_string())?
        .to_bytes();
    Ok((status, String::from_utf8(body.to_vec()).unwrap()))
}

#[tokio::test]
async fn a_listed_monitor_scrapes_until_it_is_revoked() {
    let site = site().await;
    let monitor = site.ca.leaf(MONITOR, 0x0a);
    let mut sender = site.connect(Some(&monitor)).await.unwrap();
    let (status, page) = ask(&mut sender, "GET", "/metrics").await.unwrap();
    assert_eq!(status, 200);
    assert!(
        page.contains("node_load1 ") && page.contains("isyone_agent_docker_up"),
        "{page}"
    );
    assert_eq!(ask(&mut sender, "GET", "/containers").await.unwrap().0, 200);
    let (status, page) = ask(&mut sender, "GET", "/tenants/alfa/postgres")
        .await
        .unwrap();
    assert!(status == 200 && page.ends_with("pg_up 0\n"), "{page}");
    let (status, why) = ask(&mut sender, "GET", "/tenants/alfa/odoo").await.unwrap();
    assert_eq!(
        (status, why.as_str()),
        (502, "odoo_alfa is not known yet\n")
    );
    assert_eq!(
        ask(&mut sender, "GET", "/tenants/beta/odoo")
            .await
            .unwrap()
            .0,
        404
    );
    assert_eq!(ask(&mut sender, "GET", "/").await.unwrap().0, 404);
    assert_eq!(ask(&mut sender, "POST", "/metrics").await.unwrap().0, 405);
    site.monitors.replace(vec![], vec![]).unwrap();
    assert_eq!(
        ask(&mut sender, "GET", "/metrics").await.unwrap().0,
        403,
        "also on a connection that is open"
    );
    site.stop.cancel();
}

#[tokio::test]
async fn nobody_else_gets_a_figure() {
    let site = site().await;
    for (identity, serial) in [
        (MONITOR, 0x0b),
        ("spiffe://isyone/operator/ana/admin", 0x0a),
        ("spiffe://isyone/agent/h2", 0x0a),
    ] {
        let mut sender = site
            .connect(Some(&site.ca.leaf(identity, serial)))
            .await
            .unwrap();
        let (status, body) = ask(&mut sender, "GET", "/metrics").await.unwrap();
        assert!(
            status == 403 && body.contains("role monitor"),
            "{identity}: {status} {body}"
        );
    }
    // Without a certificate, or with one of another CA, the connection fails. (TLS 1.3 reports that after the
    // handshake.)
    let foreign = Ca::new().leaf(MONITOR, 0x0a);
    for leaf in [None, Some(&foreign)] {
        let refused = match site.connect(leaf).await {
            Ok(mut sender) => ask(&mut sender, "GET", "/metrics").await.err(),
            Err(e) => Some(e),
        };
        assert!(refused.is_some());
    }
    site.stop.cancel();
}

/// Connections that say nothing, from several addresses.
async fn crowd(address: SocketAddr, networks: std::ops::Range<u8>, each: usize) -> Vec<TcpStream> {
    let mut crowd = Vec::new();
    for network in networks {
        for _ in 0..each {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(([127, 0, 0, network], 0).into()).unwrap();
            crowd.push(socket.connect(address).await.unwrap());
        }
    }
    crowd
}

#[tokio::test]
async fn strangers_do_not_keep_a_scraper_waiting() {
    let site = site().await;
    let monitor = site.ca.leaf(MONITOR, 0x0a);
    let _silent = crowd(site.address, 2..8, 40).await;
    let asked = async {
        let mut sender = site.connect(Some(&monitor)).await.unwrap();
        ask(&mut sender, "GET", "/containers").await.unwrap().0
    };
    // Before the strangers' time for a handshake is over.
    let status = timeout(Duration::from_secs(3), asked).await;
    assert_eq!(status, Ok(200));
    site.stop.cancel();
}

#[tokio::test]
async fn who_may_not_scrape_holds_few_connections_and_none_of_a_scrapers() {
    let site = site().await;
    let other = site.ca.leaf("spiffe://isyone/agent/h2", 0x0b);
    let mut held = Vec::new();
    for n in 0..6 {
        let answered = match site.connect(Some(&other)).await {
            Ok(mut sender) => {
                let status = ask(&mut sender, "GET", "/metrics")
                    .await
                    .map(|answer| answer.0);
                held.push(sender);
                status
            }
            Err(e) => Err(e),
        };
        assert_eq!(answered.ok(), (n < OTHERS.1).then_some(403), "{n}");
    }
    let monitor = site.ca.leaf(MONITOR, 0x0a);
    let mut sender = site.connect(Some(&monitor)).await.unwrap();
    assert_eq!(ask(&mut sender, "GET", "/containers").await.unwrap().0, 200);
    site.stop.cancel();
}

#[tokio::test]
async fn two_scrapers_share_one_page() {
    let site = site().await;
    let monitor = site.ca.leaf(MONITOR, 0x0a);
    let (mut one, mut two) = (
        site.connect(Some(&monitor)).await.unwrap(),
        site.connect(Some(&monitor)).await.unwrap(),
    );
    let (first, second) = tokio::join!(
        ask(&mut one, "GET", "/metrics"),
        ask(&mut two, "GET", "/metrics")
    );
    assert_eq!(first, second);
    site.stop.cancel();
}
