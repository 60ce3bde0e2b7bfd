//! The gRPC services: what is behind the mTLS port and the enrolment port, with the limits of messages and connections.
//!
//! Not here: accepting connections (ports/listener), who may call what (operators/access), the services themselves.

use std::{io, sync::Arc, time::Duration};

use isyone_proto::{
    convert::MAX_CHUNK_BYTES,
    pb::{
        self,
        agent::v1::{
            agent_service_server::AgentServiceServer, backup_store_server::BackupStoreServer,
            enrollment_service_server::EnrollmentServiceServer,
        },
        v1::{
            backup_service_server::BackupServiceServer,
            certificate_service_server::CertificateServiceServer,
            domain_service_server::DomainServiceServer, edge_service_server::EdgeServiceServer,
            event_service_server::EventServiceServer, host_service_server::HostServiceServer,
            operation_service_server::OperationServiceServer,
            operator_service_server::OperatorServiceServer,
            system_service_server::SystemServiceServer, tenant_service_server::TenantServiceServer,
            top_service_server::TopServiceServer,
        },
    },
    tls::{MAX_MESSAGE_BYTES, TRUST_HEADER},
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, transport::Server};
use tower::util::MapResponseLayer;

use super::{StartError, ports::Addresses, shared::Shared};
use crate::{
    agents::{
        enroll::Enrollment,
        rates::Rates,
        session::{self, Agents},
    },
    base::{clock, metrics::Metrics, pki::Pki},
    operators::{self, Api, access::AccessLayer},
    ports::listener,
    repositories::{
        service::{self, Repositories},
        shares::Shares,
    },
};

/// Largest request of an operator: 200 modules, 50 domains and 32 labels are 40 KiB, a chunk of a shell's input is 64
/// KiB. Each running call may hold this much.
const MAX_REQUEST_BYTES: usize = 256 << 10;
/// Largest request of a peer that joins, of which we know nothing: a token, a key and a few labels.
const MAX_JOIN_BYTES: usize = 64 << 10;
/// Most streams on one connection that joins: one call, and slack.
const MAX_JOIN_STREAMS: u32 = 2;
/// Most streams on one connection: an agent needs one for its session and one for each operator who views a log; this
/// is well above that, and bounds what one peer can hold.
const MAX_STREAMS: u32 = 128;

/// Most streams on one connection for bulk data: one, or as many as read and write a tenant's backups at once. What is sent ahead is
/// bounded for all of them together.
const MAX_BULK_STREAMS: u32 = 8;
/// Largest message with a piece of a backup: 1 MiB, and what names it.
const MAX_PIECE_BYTES: usize = MAX_CHUNK_BYTES + (4 << 10);
/// What a peer may send ahead, bytes: on one stream, and on a connection. Small: thousands of agents send little each.
const WINDOWS: (u32, u32) = (64 * 1024, 256 * 1024);
/// The same where bulk data comes in, of which there are few: at 10 ms to another site 64 KiB would be 6 MB/s.
const BULK_WINDOWS: (u32, u32) = (1 << 20, 1 << 20);

fn builder(max_streams: u32, windows: (u32, u32)) -> Server {
    Server::builder()
        // Without keepalive, a half-open connection lives for hours.
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(max_streams)
        .initial_stream_window_size(windows.0)
        .initial_connection_window_size(windows.1)
}

macro_rules! limited {
    ($most:expr, $service:expr) => {
        $service
            .max_decoding_message_size($most)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    };
}

/// The services behind the gRPC port.
fn services(shared: &Shared, addresses: &Addresses) -> (Api, Agents) {
    let api = Api::new(Arc::new(operators::Parts {
        handle: shared.handle.clone(),
        config: shared.config.clone(),
        pki: shared.pki.clone(),
        sealer: shared.sealer.clone(),
        streams: shared.streams.clone(),
        edges: shared.edges.clone(),
        probes: shared.probes.clone(),
        domains: shared.domains.clone(),
        upkeep: shared.upkeep.clone(),
        dns: shared.dns.clone(),
        enroll_endpoint: shared.config.reached_at(addresses.enroll),
        started_at: clock::now_ms(),
        stop: shared.stop.clone(),
    }));
    let agents = Agents::new(Arc::new(session::Shared {
        handle: shared.handle.clone(),
        pki: shared.pki.clone(),
        agent_ttl_s: shared.agent_ttl_s(),
        sealer: shared.sealer.clone(),
        mail: shared.mail.clone(),
        streams: shared.streams.clone(),
        relays: shared.relays.clone(),
        monitors: shared.monitors.clone(),
        rates: Rates::new(shared.agent_ttl_s()),
        connections: shared.connections.clone(),
        hosts: shared.hosts.clone(),
        trusts: shared.trusts.clone(),
        metrics: shared.metrics.clone(),
        stop: shared.stop.clone(),
    }));
    (api, agents)
}

/// Tenants' repositories: on the usual connections, and on those for bulk data.
fn backup_store(shared: &Shared) -> BackupStoreServer<Repositories> {
    let repositories = Repositories(Arc::new(service::Shared {
        handle: shared.handle.clone(),
        places: shared.upkeep.places.clone(),
        buckets: shared.upkeep.buckets.clone(),
        shares: Shares::new(shared.config.backup.host_rate.get()),
        stop: shared.stop.clone(),
    }));
    limited!(MAX_PIECE_BYTES, BackupStoreServer::new(repositories))
}

pub(super) async fn serve_grpc(
    incoming: listener::Incoming,
    shared: &Shared,
    addresses: &Addresses,
) -> Result<impl Future<Output = ()> + Send + use<>, StartError> {
    let (api, agents) = services(shared, addresses);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<TenantServiceServer<Api>>().await;
    health.set_serving::<HostServiceServer<Api>>().await;
    health.set_serving::<OperationServiceServer<Api>>().await;
    health.set_serving::<EventServiceServer<Api>>().await;
    health.set_serving::<SystemServiceServer<Api>>().await;
    health.set_serving::<OperatorServiceServer<Api>>().await;
    health.set_serving::<CertificateServiceServer<Api>>().await;
    health.set_serving::<DomainServiceServer<Api>>().await;
    health.set_serving::<EdgeServiceServer<Api>>().await;
    health.set_serving::<TopServiceServer<Api>>().await;
    health.set_serving::<BackupServiceServer<Api>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let most = MAX_REQUEST_BYTES;
    let backups = backup_store(shared);
    let bulk = builder(MAX_BULK_STREAMS, BULK_WINDOWS)
        .layer(AccessLayer::new(shared.metrics.clone()))
        .add_service(limited!(
            MAX_MESSAGE_BYTES,
            AgentServiceServer::new(agents.clone())
        ))
        .add_service(backups.clone());
    let router = builder(MAX_STREAMS, WINDOWS)
        .layer(trust_layer(shared.pki.clone()))
        .layer(AccessLayer::new(shared.metrics.clone()))
        .add_service(limited!(most, health_service))
        .add_service(limited!(most, reflection().build_v1()?))
        // Older clients know only this version.
        .add_service(limited!(most, reflection().build_v1alpha()?))
        .add_service(limited!(most, TenantServiceServer::new(api.clone())))
        .add_service(limited!(most, HostServiceServer::new(api.clone())))
        .add_service(limited!(most, OperationServiceServer::new(api.clone())))
        .add_service(limited!(most, EventServiceServer::new(api.clone())))
        .add_service(limited!(most, SystemServiceServer::new(api.clone())))
        .add_service(limited!(most, OperatorServiceServer::new(api.clone())))
        .add_service(limited!(most, CertificateServiceServer::new(api.clone())))
        .add_service(limited!(most, DomainServiceServer::new(api.clone())))
        .add_service(limited!(most, EdgeServiceServer::new(api.clone())))
        .add_service(limited!(most, BackupServiceServer::new(api.clone())))
        .add_service(limited!(most, TopServiceServer::new(api)))
        .add_service(backups)
        // A host's report may be long.
        .add_service(limited!(MAX_MESSAGE_BYTES, AgentServiceServer::new(agents)));
    let stop = shared.stop.clone();
    Ok(async move {
        let ((to_usual, usual), (to_bulk, bulks)) = (mpsc::channel(1), mpsc::channel(1));
        let end = || stop.cancelled();
        let served = tokio::join!(
            router.serve_with_incoming_shutdown(ReceiverStream::new(usual), end()),
            bulk.serve_with_incoming_shutdown(ReceiverStream::new(bulks), end()),
            stop.run_until_cancelled(sort(incoming, to_usual, to_bulk)),
        );
        if let Err(error) = served.0.and(served.1) {
            tracing::error!(%error, "gRPC ended");
        }
    })
}

/// Names the CAs to trust in the head of every answer.
fn trust_layer(
    pki: Arc<Pki>,
) -> MapResponseLayer<impl Fn(http::Response<Body>) -> http::Response<Body> + Clone> {
    MapResponseLayer::new(move |mut answer: http::Response<Body>| {
        let named = pki.trust().borrow().sha256.join(",");
        if let Ok(mut named) = named.parse::<http::HeaderValue>() {
            // A connection would remember it for as long as it lasts, to send it in fewer bytes once more (RFC 7541, 7.1.3).
            named.set_sensitive(true);
            answer.headers_mut().insert(TRUST_HEADER, named);
        }
        answer
    })
}

type Sorted = mpsc::Sender<io::Result<listener::PeerStream>>;

/// Gives each connection to the server whose windows suit it.
async fn sort(mut incoming: listener::Incoming, usual: Sorted, bulk: Sorted) {
    while let Some(next) = incoming.next().await {
        let is_bulk = next.as_ref().is_ok_and(listener::PeerStream::is_bulk);
        let server = if is_bulk { &bulk } else { &usual };
        if server.send(next).await.is_err() {
            return; // we stop
        }
    }
}

pub(super) async fn serve_enrollment(
    incoming: listener::Incoming,
    enrollment: Enrollment,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let service = EnrollmentServiceServer::new(enrollment);
    let router = builder(MAX_JOIN_STREAMS, WINDOWS)
        .layer(AccessLayer::new(metrics))
        .add_service(limited!(MAX_JOIN_BYTES, service));
    if let Err(error) = router
        .serve_with_incoming_shutdown(incoming, stop.cancelled())
        .await
    {
        tracing::error!(%error, "enrolment ended");
    }
}
