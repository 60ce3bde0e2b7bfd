//! The canned coordinator: the listener with mutual TLS, and every service but the tenants' (`tenants`).

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use isyone_proto::{
    error::status,
    pb::v1::{
        certificate_service_server::{CertificateService, CertificateServiceServer},
        domain_service_server::{DomainService, DomainServiceServer},
        edge_service_server::{EdgeService, EdgeServiceServer},
        event_service_server::{EventService, EventServiceServer},
        host_service_server::{HostService, HostServiceServer},
        operation_service_server::{OperationService, OperationServiceServer},
        operator_service_server::{OperatorService, OperatorServiceServer},
        system_service_server::{SystemService, SystemServiceServer},
        tenant_service_server::TenantServiceServer,
        top_service_server::TopServiceServer,
        *,
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
use tonic::{Code, Request, Response, Status, transport::server::Connected};

use super::{data, operations, pki::Ca};

pub(crate) type Answers<T> = ReceiverStream<Result<T, Status>>;

/// What all services share.
#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) ca: Arc<Ca>,
    /// Request ids that creates came with, in order.
    pub(crate) request_ids: Arc<Mutex<Vec<String>>>,
    /// Likewise, of the tenant for which it is busy.
    pub(crate) request_ids_busy: Arc<Mutex<Vec<String>>>,
    /// How often that tenant was read.
    pub(crate) reads: Arc<AtomicU32>,
    /// How many watches were opened on the operation that loses its connection.
    watches: Arc<AtomicU32>,
}

/// Starts it on a thread of its own, for as long as the process lives.
pub(crate) fn start(ca: Arc<Ca>) -> (SocketAddr, Fake) {
    let fake = Fake {
        ca,
        request_ids: Arc::default(),
        request_ids_busy: Arc::default(),
        reads: Arc::default(),
        watches: Arc::default(),
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

/// A stream of `items`, with a pause before each, that then ends with `end`, or stays open.
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

/// Pages of two, whatever is asked: clients must not rely on the size.
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

fn host(name: &str) -> Result<Response<Host>, Status> {
    let found = data::hosts().into_iter().find(|host| host.name == name);
    found
        .map(Response::new)
        .ok_or_else(|| Status::not_found(format!("there is no host `{name}`")))
}

#[tonic::async_trait]
impl HostService for Fake {
    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenResponse>, Status> {
        let asked = request.into_inner();
        Ok(Response::new(CreateJoinTokenResponse {
            token: format!(
                "isy1.{}.{}.{}",
                "0".repeat(16),
                "a".repeat(64),
                "b".repeat(64)
            ),
            expire_time: data::ago(-i64::from(if asked.ttl_seconds == 0 {
                3600
            } else {
                asked.ttl_seconds
            })),
            enroll_endpoint: "coordinator.example.com:7444".into(),
        }))
    }
    async fn list_hosts(
        &self,
        request: Request<ListHostsRequest>,
    ) -> Result<Response<ListHostsResponse>, Status> {
        let (hosts, next_page_token) = page(&data::hosts(), &request.into_inner().page_token);
        Ok(Response::new(ListHostsResponse {
            hosts,
            next_page_token,
        }))
    }
    async fn get_host(&self, request: Request<GetHostRequest>) -> Result<Response<Host>, Status> {
        host(&request.into_inner().name)
    }
    async fn cordon_host(
        &self,
        request: Request<CordonHostRequest>,
    ) -> Result<Response<Host>, Status> {
        host(&request.into_inner().name)
    }
    async fn uncordon_host(
        &self,
        request: Request<UncordonHostRequest>,
    ) -> Result<Response<Host>, Status> {
        host(&request.into_inner().name)
    }
    async fn remove_host(
        &self,
        request: Request<RemoveHostRequest>,
    ) -> Result<Response<RemoveHostResponse>, Status> {
        let found = host(&request.into_inner().name)?.into_inner();
        if found.tenants > 0 {
            let message = format!(
                "{} tenants are placed on host `{}`",
                found.tenants, found.name
            );
            return Err(status(
                Code::FailedPrecondition,
                "HOST_NOT_EMPTY",
                message,
                Default::default(),
            ));
        }
        Ok(Response::new(RemoveHostResponse {}))
    }
}

#[tonic::async_trait]
impl OperationService for Fake {
    type WatchOperationStream = Answers<Operation>;

    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let id = request.into_inner().id;
        operations::get(&id)
            .map(Response::new)
            .ok_or_else(|| Status::not_found(format!("there is no operation {id}")))
    }
    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        let asked = request.into_inner();
        let all: Vec<Operation> = [5, 2, 1]
            .into_iter()
            .filter_map(|number| operations::get(&data::op_id(number)))
            .filter(|operation| !(asked.active_only && operation.done))
            .filter(|operation| asked.tenant.is_empty() || operation.tenant == asked.tenant)
            .collect();
        let (operations, next_page_token) = page(&all, &asked.page_token);
        Ok(Response::new(ListOperationsResponse {
            operations,
            next_page_token,
        }))
    }
    async fn watch_operation(
        &self,
        request: Request<WatchOperationRequest>,
    ) -> Result<Response<Answers<Operation>>, Status> {
        let id = request.into_inner().id;
        let kind = if operations::number(&id) == 5 {
            OperationKind::Restart
        } else {
            OperationKind::Create
        };
        let first = operations::operation(operations::number(&id), kind, "alfa");
        if operations::number(&id) == 4 && self.watches.fetch_add(1, Ordering::SeqCst) == 0 {
            return Ok(stream(
                vec![first],
                Some(Err(Status::unavailable("shutting down"))),
            ));
        }
        let stays_open = operations::number(&id) == 3;
        Ok(stream(
            operations::life(first),
            if stays_open { None } else { Some(Ok(())) },
        ))
    }
    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let id = request.into_inner().id;
        match operations::get(&id) {
            Some(operation) if operation.done => Err(Status::failed_precondition(format!(
                "operation {id} is done already"
            ))),
            Some(operation) => Ok(Response::new(operation)),
            None => Err(Status::not_found(format!("there is no operation {id}"))),
        }
    }
}

#[tonic::async_trait]
impl EventService for Fake {
    type StreamEventsStream = Answers<Event>;

    async fn stream_events(
        &self,
        request: Request<StreamEventsRequest>,
    ) -> Result<Response<Answers<Event>>, Status> {
        let asked = request.into_inner();
        if asked.after_sequence > 1000 {
            return Err(Status::out_of_range("events up to 1000 were dropped"));
        }
        let events = data::events()
            .into_iter()
            .filter(|event| event.sequence > asked.after_sequence)
            .filter(|event| asked.tenant.is_empty() || event.tenant == asked.tenant)
            .collect();
        Ok(stream(
            events,
            if asked.follow { None } else { Some(Ok(())) },
        ))
    }
}

#[tonic::async_trait]
impl OperatorService for Fake {
    async fn create_operator(
        &self,
        request: Request<CreateOperatorRequest>,
    ) -> Result<Response<CreateOperatorResponse>, Status> {
        let asked = request.into_inner();
        let role = Role::try_from(asked.role).map_err(|_| Status::invalid_argument("role"))?;
        let word = role
            .as_str_name()
            .trim_start_matches("ROLE_")
            .to_lowercase();
        let certificate_pem = self
            .ca
            .sign(&asked.csr_pem, &asked.name, &word)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let operator = Some(data::operator(&asked.name, role));
        Ok(Response::new(CreateOperatorResponse {
            operator,
            certificate_pem,
            ca_pem: self.ca.pem.clone(),
        }))
    }
    async fn list_operators(
        &self,
        request: Request<ListOperatorsRequest>,
    ) -> Result<Response<ListOperatorsResponse>, Status> {
        let all = [
            data::operator("ana", Role::Admin),
            data::operator("ci", Role::Viewer),
            data::operator("eve", Role::Operator),
        ];
        let (operators, next_page_token) = page(&all, &request.into_inner().page_token);
        Ok(Response::new(ListOperatorsResponse {
            operators,
            next_page_token,
        }))
    }
    async fn revoke_operator(
        &self,
        request: Request<RevokeOperatorRequest>,
    ) -> Result<Response<RevokeOperatorResponse>, Status> {
        match request.into_inner().name.as_str() {
            "ana" => Err(Status::failed_precondition(
                "the last admin cannot be revoked",
            )),
            _ => Ok(Response::new(RevokeOperatorResponse {})),
        }
    }
}

#[tonic::async_trait]
impl CertificateService for Fake {
    async fn list_certificates(
        &self,
        request: Request<ListCertificatesRequest>,
    ) -> Result<Response<ListCertificatesResponse>, Status> {
        let (certificates, next_page_token) =
            page(&data::certificates(), &request.into_inner().page_token);
        Ok(Response::new(ListCertificatesResponse {
            certificates,
            next_page_token,
        }))
    }
    async fn get_certificate(
        &self,
        request: Request<GetCertificateRequest>,
    ) -> Result<Response<Certificate>, Status> {
        let name = request.into_inner().name;
        let found = data::certificates()
            .into_iter()
            .find(|certificate| certificate.name == name);
        found
            .map(Response::new)
            .ok_or_else(|| Status::not_found(format!("there is no certificate `{name}`")))
    }
    async fn add_certificate(
        &self,
        _: Request<AddCertificateRequest>,
    ) -> Result<Response<Certificate>, Status> {
        Err(isyone_proto::error::FieldError::new(
            "key_pem",
            "is not the key of the first certificate",
        )
        .into())
    }
    async fn remove_certificate(
        &self,
        _: Request<RemoveCertificateRequest>,
    ) -> Result<Response<RemoveCertificateResponse>, Status> {
        Ok(Response::new(RemoveCertificateResponse {}))
    }
}

/// The domain chooses what happens: `wrong.…` leads elsewhere, `late.…` is not checked.
#[tonic::async_trait]
impl DomainService for Fake {
    async fn add_domain(
        &self,
        request: Request<AddDomainRequest>,
    ) -> Result<Response<AddDomainResponse>, Status> {
        let asked = request.into_inner();
        if asked.domain.starts_with("wrong.") {
            let message = format!(
                "{} does not lead to the edges (found: A 203.0.113.9; no edge has 203.0.113.9): set CNAME {} → {}.isy.one, or {} A 192.0.2.80, and no other addresses",
                asked.domain, asked.domain, asked.name, asked.domain
            );
            return Err(status(
                Code::FailedPrecondition,
                "DNS_CHECK_FAILED",
                message,
                Default::default(),
            ));
        }
        if asked.domain.starts_with("old.") {
            let message = format!(
                "{} leads to beta.isy.one, which is not the name of tenant `{}`: that does not show that the domain is this customer's. Point it at {}.isy.one first: set CNAME {} → {}.isy.one, or {} A 192.0.2.80, and no other addresses",
                asked.domain, asked.name, asked.name, asked.domain, asked.name, asked.domain
            );
            return Err(status(
                Code::FailedPrecondition,
                "DOMAIN_LEADS_TO_ANOTHER",
                message,
                Default::default(),
            ));
        }
        if asked.domain.starts_with('*') {
            return Err(isyone_proto::error::FieldError::new(
                "domain",
                "`*.a.example` is a wildcard",
            )
            .into());
        }
        let platform = asked.domain == format!("{}.isy.one", asked.name);
        let own = data::domains(&asked.name).remove(usize::from(!platform));
        let domain = |name: String| Domain {
            unicode_name: name.clone(),
            name,
            primary: asked.primary,
            ..own.clone()
        };
        let mut domains = vec![domain(asked.domain.clone())];
        if asked.with_www {
            domains.push(domain(format!("www.{}", asked.domain)));
        }
        let operation = asked
            .primary
            .then(|| operations::operation(1, OperationKind::Update, &asked.name));
        let warning = if asked.skip_dns_check {
            "DNS was not asked".into()
        } else {
            String::new()
        };
        Ok(Response::new(AddDomainResponse {
            domains,
            operation,
            warning,
        }))
    }
    async fn remove_domain(
        &self,
        request: Request<RemoveDomainRequest>,
    ) -> Result<Response<RemoveDomainResponse>, Status> {
        let asked = request.into_inner();
        if asked.domain == "none.example" {
            let message = format!("tenant `{}` has no domain `none.example`", asked.name);
            return Err(status(
                Code::NotFound,
                "DOMAIN_NOT_FOUND",
                message,
                Default::default(),
            ));
        }
        let primary = asked.domain == "erp.example.com";
        let operation =
            primary.then(|| operations::operation(1, OperationKind::Update, &asked.name));
        Ok(Response::new(RemoveDomainResponse { operation }))
    }
    async fn list_domains(
        &self,
        request: Request<ListDomainsRequest>,
    ) -> Result<Response<ListDomainsResponse>, Status> {
        let asked = request.into_inner();
        let all = if asked.name.is_empty() {
            data::all_domains()
        } else {
            data::domains(&asked.name)
        };
        let (domains, next_page_token) = page(&all, &asked.page_token);
        Ok(Response::new(ListDomainsResponse {
            domains,
            next_page_token,
        }))
    }
}

#[tonic::async_trait]
impl EdgeService for Fake {
    async fn list_edges(
        &self,
        request: Request<ListEdgesRequest>,
    ) -> Result<Response<ListEdgesResponse>, Status> {
        let (edges, next_page_token) = page(&data::edges(), &request.into_inner().page_token);
        let files = vec!["/var/lib/isyone/edge/isyone.yml".to_owned()];
        Ok(Response::new(ListEdgesResponse {
            edges,
            next_page_token,
            files,
            rejected_routes: 2,
        }))
    }
    async fn get_edge(&self, request: Request<GetEdgeRequest>) -> Result<Response<Edge>, Status> {
        let name = request.into_inner().name;
        let found = data::edges().into_iter().find(|edge| edge.name == name);
        found.map(Response::new).ok_or_else(|| {
            Status::not_found(format!("no edge `{name}` asks for its configuration"))
        })
    }
    async fn list_rejected_routes(
        &self,
        request: Request<ListRejectedRoutesRequest>,
    ) -> Result<Response<ListRejectedRoutesResponse>, Status> {
        let asked = request.into_inner();
        let all = if asked.shard == "edge-2" {
            Vec::new()
        } else {
            data::rejected_routes()
        };
        let (routes, next_page_token) = page(&all, &asked.page_token);
        Ok(Response::new(ListRejectedRoutesResponse {
            routes,
            next_page_token,
        }))
    }
}

#[tonic::async_trait]
impl SystemService for Fake {
    async fn get_info(&self, _: Request<GetInfoRequest>) -> Result<Response<Info>, Status> {
        Ok(Response::new(data::info()))
    }
}
