//! The canned coordinator: the listener with mutual TLS. Services are in `fleet` (hosts, operations, events), `people`,
//! `edges`, `backups` and `domains`; those for tenants and the screen are in the parent module (`tenants`, `top`).

mod backups;
mod domains;
mod edges;
mod fleet;
mod people;

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, atomic::AtomicU32},
    task::{Context, Poll},
    time::Duration,
};

use isyone_proto::{
    pb::v1::{
        backup_service_server::BackupServiceServer,
        certificate_service_server::CertificateServiceServer,
        domain_service_server::DomainServiceServer, edge_service_server::EdgeServiceServer,
        event_service_server::EventServiceServer, host_service_server::HostServiceServer,
        operation_service_server::OperationServiceServer,
        operator_service_server::OperatorServiceServer, system_service_server::SystemServiceServer,
        tenant_service_server::TenantServiceServer, top_service_server::TopServiceServer,
    },
    tls,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier},
    server::TlsStream,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, transport::server::Connected};

use super::pki::Ca;

pub(crate) type Answers<T> = ReceiverStream<Result<T, Status>>;

/// State shared by all services.
#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) ca: Arc<Ca>,
    /// Request ids of the creates, in order.
    pub(crate) request_ids: Arc<Mutex<Vec<String>>>,
    /// Likewise for the tenant `busy`, for which it pretends to be overloaded.
    pub(crate) request_ids_busy: Arc<Mutex<Vec<String>>>,
    /// Names of the operators that somebody wanted to create, in order.
    pub(crate) created: Arc<Mutex<Vec<String>>>,
    /// How often somebody came with a renewed certificate.
    pub(crate) retired: Arc<AtomicU32>,
    /// How often tenant `busy` was read.
    pub(crate) reads: Arc<AtomicU32>,
    /// How many watches were opened on the operation that loses its connection.
    watches: Arc<AtomicU32>,
    /// How often somebody asked which single move would help.
    asked_for_one: Arc<AtomicU32>,
}

/// Starts the coordinator on its own thread for the life of the process.
pub(crate) fn start(ca: Arc<Ca>) -> (SocketAddr, Fake) {
    let fake = Fake {
        ca,
        request_ids: Arc::default(),
        request_ids_busy: Arc::default(),
        created: Arc::default(),
        retired: Arc::default(),
        reads: Arc::default(),
        watches: Arc::default(),
        asked_for_one: Arc::default(),
    };
    let (address_to, address) = std::sync::mpsc::channel();
    let served = fake.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            address_to.send(listener.local_addr().unwrap()).unwrap();
            serve(listener, served).await;
        });
    });
    (address.recv().unwrap(), fake)
}

async fn serve(listener: TcpListener, fake: Fake) {
    tonic::transport::Server::builder()
        .add_service(TenantServiceServer::new(fake.clone()))
        .add_service(HostServiceServer::new(fake.clone()))
        .add_service(OperationServiceServer::new(fake.clone()))
        .add_service(EventServiceServer::new(fake.clone()))
        .add_service(OperatorServiceServer::new(fake.clone()))
        .add_service(CertificateServiceServer::new(fake.clone()))
        .add_service(DomainServiceServer::new(fake.clone()))
        .add_service(EdgeServiceServer::new(fake.clone()))
        .add_service(BackupServiceServer::new(fake.clone()))
        .add_service(SystemServiceServer::new(fake.clone()))
        .add_service(TopServiceServer::new(fake.clone()))
        .serve_with_incoming(connections(listener, server_config(&fake.ca)))
        .await
        .unwrap();
}

fn server_config(ca: &Ca) -> Arc<ServerConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(tls::certificates("CA", &ca.pem).unwrap().remove(0))
        .unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider())
        .build()
        .unwrap();
    let (certificate, key) = ca.coordinator();
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            tls::certificates("server", &certificate).unwrap(),
            tls::private_key(&key).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

fn connections(
    listener: TcpListener,
    config: Arc<ServerConfig>,
) -> ReceiverStream<std::io::Result<Connection>> {
    let (to, from) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (to, acceptor) = (to.clone(), TlsAcceptor::from(config.clone()));
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(tcp).await {
                    let _ = to.send(Ok(Connection(stream))).await;
                }
            });
        }
    });
    ReceiverStream::new(from)
}

struct Connection(TlsStream<TcpStream>);

impl Connected for Connection {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}
impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}
impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A stream of `items` with a pause before each; afterwards it ends with `end`, or stays open.
pub(crate) fn stream<T: Send + 'static>(
    items: Vec<T>,
    end: Option<Result<(), Status>>,
) -> Response<Answers<T>> {
    let (to, from) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        for item in items {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if to.send(Ok(item)).await.is_err() {
                return;
            }
        }
        match end {
            None => to.closed().await,
            Some(Err(status)) => drop(to.send(Err(status)).await),
            Some(Ok(())) => {}
        }
    });
    Response::new(ReceiverStream::new(from))
}

/// Pages of two, whatever size is asked for: clients must not rely on it.
pub(crate) fn page<T: Clone>(all: &[T], token: &str) -> (Vec<T>, String) {
    let from: usize = token.parse().unwrap_or(0);
    let to = (from + 2).min(all.len());
    (
        all[from..to].to_vec(),
        if to < all.len() {
            to.to_string()
        } else {
            String::new()
        },
    )
}
