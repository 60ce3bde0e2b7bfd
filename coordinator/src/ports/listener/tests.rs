//! Handshakes over loopback: who gets in, who does not, and whose connection is cut.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use isyone_proto::tls::{self, OperatorRole, new_key_and_csr};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt as _;

use super::*;
use crate::base::pki::{self, PkiConfig};

struct Fixture {
    _dir: tempfile::TempDir,
    pki: Arc<Pki>,
    admitted: Arc<AtomicBool>,
    connections: Arc<Connections>,
    metrics: Arc<Metrics>,
}

fn authority(dir: &Path, admitted: Arc<AtomicBool>) -> Arc<Pki> {
    let now = clock::now_seconds();
    pki::create(dir, now).unwrap();
    let config = PkiConfig {
        dir: dir.to_owned(),
        hosts: vec!["127.0.0.1".into()],
        server_ttl_s: 86_400,
    };
    let admit = Arc::new(move |_: &CertificateInfo, _: bool| admitted.load(Ordering::SeqCst));
    Arc::new(Pki::open(config, admit, now).unwrap())
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let admitted = Arc::new(AtomicBool::new(true));
    let pki = authority(dir.path(), admitted.clone());
    Fixture {
        _dir: dir,
        pki,
        admitted,
        connections: Arc::default(),
        metrics: Arc::default(),
    }
}

/// Echoes the peer's identity on every accepted connection.
async fn serve(fixture: &Fixture) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (pki, connections) = (fixture.pki.clone(), fixture.connections.clone());
    let mut incoming = mtls(
        listener,
        pki,
        connections,
        fixture.metrics.clone(),
        CancellationToken::new(),
    );
    tokio::spawn(async move {
        while let Some(Ok(mut stream)) = incoming.next().await {
            tokio::spawn(async move {
                let who = stream.connect_info().identity().unwrap().to_string();
                let mut buffer = [0; 1];
                while stream.read_exact(&mut buffer).await.is_ok() {
                    if stream.write_all(who.as_bytes()).await.is_err()
                        || stream.flush().await.is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    address
}

async fn connect(
    address: SocketAddr,
    config: Arc<tokio_rustls::rustls::ClientConfig>,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    TlsConnector::from(config)
        .connect(tls::COORDINATOR_NAME.try_into().unwrap(), tcp)
        .await
}

/// Connects and asks who the server thinks we are.
async fn ask(
    address: SocketAddr,
    config: Arc<tokio_rustls::rustls::ClientConfig>,
) -> io::Result<String> {
    let mut stream = connect(address, config).await?;
    stream.write_all(b"?").await?;
    let mut buffer = [0; 200];
    let n = stream.read(&mut buffer).await?;
    if n == 0 {
        Err(io::ErrorKind::UnexpectedEof.into())
    } else {
        Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
    }
}

fn operator(signer: &Pki, trusted: &Pki, ttl_s: i64) -> Arc<tokio_rustls::rustls::ClientConfig> {
    let (key, csr) = new_key_and_csr("ana").unwrap();
    let now = clock::now_seconds();
    let issued = signer
        .sign_operator(
            &csr,
            &"ana".parse().unwrap(),
            OperatorRole::Admin,
            ttl_s,
            now,
        )
        .unwrap();
    tls::client_config(&trusted.ca_pem(), &issued.pem, &key).unwrap()
}

#[tokio::test]
async fn ours_get_in_and_foreign_expired_and_refused_ones_do_not() {
    let fixture = fixture();
    let address = serve(&fixture).await;
    let config = operator(&fixture.pki, &fixture.pki, 3600);
    assert_eq!(
        ask(address, config.clone()).await.unwrap(),
        "spiffe://isyone/operator/ana/admin"
    );
    let other = tempfile::tempdir().unwrap();
    let foreign = authority(other.path(), Arc::new(AtomicBool::new(true)));
    ask(address, operator(&foreign, &fixture.pki, 3600))
        .await
        .unwrap_err();
    ask(address, operator(&fixture.pki, &foreign, 3600))
        .await
        .unwrap_err();
    ask(address, operator(&fixture.pki, &fixture.pki, -100))
        .await
        .unwrap_err();
    fixture.admitted.store(false, Ordering::SeqCst);
    ask(address, config).await.unwrap_err();
}

#[tokio::test]
async fn a_refused_certificate_is_cut_from_open_connections() {
    let fixture = fixture();
    let address = serve(&fixture).await;
    let mut stream = connect(address, operator(&fixture.pki, &fixture.pki, 3600))
        .await
        .unwrap();
    stream.write_all(b"?").await.unwrap();
    let mut buffer = [0; 200];
    assert!(stream.read(&mut buffer).await.unwrap() > 0);
    assert_eq!(
        (
            fixture.connections.count(),
            fixture.connections.cut_unless(|_| true)
        ),
        (1, 0)
    );
    assert_eq!(fixture.connections.cut_unless(|_| false), 1);
    let ended = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut buffer))
        .await
        .unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)));
    assert_eq!(fixture.connections.count(), 0);
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let fixture = fixture();
    let address = serve(&fixture).await;
    let mut stream = connect(address, operator(&fixture.pki, &fixture.pki, 2))
        .await
        .unwrap();
    stream.write_all(b"?").await.unwrap();
    let mut buffer = [0; 200];
    assert!(stream.read(&mut buffer).await.unwrap() > 0);
    let ended = tokio::time::timeout(Duration::from_secs(4), stream.read(&mut buffer))
        .await
        .unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)));
}

#[tokio::test]
async fn a_stalled_handshake_blocks_nobody() {
    let fixture = fixture();
    let address = serve(&fixture).await;
    let mut silent = Vec::new();
    // More than there are turns in all.
    for _ in 0..300 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let config = operator(&fixture.pki, &fixture.pki, 3600);
    tokio::time::timeout(Duration::from_secs(2), ask(address, config))
        .await
        .unwrap()
        .unwrap();
}

/// Connections from one address, each of which sends `said` and then nothing more.
async fn crowd(address: SocketAddr, from: &str, count: usize, said: &[u8]) -> Vec<TcpStream> {
    let mut crowd = Vec::new();
    for _ in 0..count {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        stream.write_all(said).await.unwrap();
        crowd.push(stream);
    }
    crowd
}

const FOUR: [&str; 4] = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"];

#[tokio::test]
async fn addresses_that_begin_to_say_hello_hold_up_nobody() {
    let fixture = fixture();
    let address = serve(&fixture).await;
    let mut slow = Vec::new();
    for from in FOUR {
        // The first byte of a handshake. Each address gets more than one turn.
        slow.push(crowd(address, from, 100, &[22]).await);
    }
    let config = operator(&fixture.pki, &fixture.pki, 3600);
    tokio::time::timeout(Duration::from_secs(2), ask(address, config))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn addresses_that_say_hello_and_go_silent_hold_up_nobody() {
    let fixture = fixture();
    let address = serve(&fixture).await;
    let config = operator(&fixture.pki, &fixture.pki, 3600);
    let name = tls::COORDINATOR_NAME.try_into().unwrap();
    let mut hello = Vec::new();
    let mut client = tokio_rustls::rustls::ClientConnection::new(config.clone(), name).unwrap();
    client.write_tls(&mut hello).unwrap();
    let mut slow = Vec::new();
    for from in FOUR {
        slow.push(crowd(address, from, 100, &hello).await);
    }
    tokio::time::timeout(Duration::from_secs(2), ask(address, config))
        .await
        .unwrap()
        .unwrap();
}

/// The enrolment port, with a server that never answers.
async fn serve_enrollment(fixture: &Fixture) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (pki, metrics) = (fixture.pki.clone(), fixture.metrics.clone());
    let mut incoming = enroll(listener, pki, metrics, CancellationToken::new());
    tokio::spawn(async move {
        while let Some(Ok(mut stream)) = incoming.next().await {
            tokio::spawn(async move { while stream.read_u8().await.is_ok() {} });
        }
    });
    address
}

#[tokio::test]
async fn strangers_who_hold_enrolment_connections_do_not_keep_others_from_joining() {
    let fixture = fixture();
    let address = serve_enrollment(&fixture).await;
    let config = tls::pinned_config(&fixture.pki.ca_pin()).unwrap();
    let mut held = Vec::new();
    for from in 2..8 {
        // Within the rate limit of each address; together more than may be open.
        for tcp in crowd(address, &format!("127.0.0.{from}"), 45, &[]).await {
            let name = tls::COORDINATOR_NAME.try_into().unwrap();
            held.push(
                TlsConnector::from(config.clone())
                    .connect(name, tcp)
                    .await
                    .unwrap(),
            );
        }
    }
    let mut joining = connect(address, config).await.unwrap();
    // The oldest connection of an address is cut; the joining one stays.
    let ended = tokio::time::timeout(Duration::from_secs(2), held[0].read(&mut [0]))
        .await
        .unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)));
    tokio::time::timeout(Duration::from_millis(200), joining.read(&mut [0]))
        .await
        .unwrap_err();
}

#[tokio::test]
async fn a_joining_agent_finds_the_pinned_ca_and_nothing_else_will_do() {
    let fixture = fixture();
    let address = serve_enrollment(&fixture).await;
    connect(address, tls::pinned_config(&fixture.pki.ca_pin()).unwrap())
        .await
        .unwrap();
    connect(address, tls::pinned_config(&"0".repeat(64)).unwrap())
        .await
        .unwrap_err();
}

#[tokio::test]
async fn strangers_at_the_edges_port_hold_up_nobodys_handshake() {
    let fixture = fixture();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (pki, metrics) = (fixture.pki.clone(), fixture.metrics.clone());
    let mut incoming = edges(listener, pki, metrics, CancellationToken::new());
    let mut slow = Vec::new();
    for from in FOUR {
        slow.push(crowd(address, from, 100, &[22]).await);
    }
    let mut config = (*operator(&fixture.pki, &fixture.pki, 3600)).clone();
    config.alpn_protocols.clear(); // what edges speak is HTTP/1.1
    let config = Arc::new(config);
    let served = async {
        // Both ends: a client is through before the server is.
        let (connected, next) = tokio::join!(connect(address, config), incoming.next());
        connected.unwrap();
        next.unwrap().unwrap().1.ip()
    };
    let from = tokio::time::timeout(Duration::from_secs(2), served).await;
    assert_eq!(from, Ok(std::net::IpAddr::from([127, 0, 0, 1])));
}
