//! Who may call what: one table, looked at before any service runs. A method that is not in it cannot be called.
//!
//! Also the edge: here each request is counted and logged once, with the caller, the method and how it ended.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::BodyExt as _;
use isyone_proto::{
    error::status,
    tls::{Identity, OperatorRole},
};
use isyone_telemetry::{
    context, span,
    tracing::{Instrument as _, Span, field},
};
use tonic::{Code, Status, body::Body};

use super::{
    gate,
    gate::{Gate, Kind, Place},
};
use crate::{base::metrics::Metrics, ports::listener::Peer, wire::caller::Caller};

/// For a call to be there as a whole and to get its first answer. A shell may wait half of it for its first word
/// (exec); who takes longer holds memory for nothing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What is read of a request that is refused, and for how long it is waited for: far more than an ordinary one has.
const REFUSED_BYTES: usize = 64 << 10;
const REFUSED_TIMEOUT: Duration = Duration::from_secs(1);

/// Who may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permission {
    /// Operators of at least this role.
    From(OperatorRole),
    /// Agents only.
    Agents,
    /// Without a certificate, on the port for it.
    Joining,
    /// Whoever has a certificate.
    Anyone,
}

use OperatorRole::{Admin, Operator, Viewer};
use Permission::{Agents, Anyone, From, Joining};

/// Sorted by path, for the binary search.
const TABLE: &[(&str, Permission)] = &[
    ("/grpc.health.v1.Health/Check", Anyone),
    ("/grpc.health.v1.Health/Watch", Anyone),
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        From(Viewer),
    ),
    (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        From(Viewer),
    ),
    ("/isyone.agent.v1.AgentService/Attach", Agents),
    ("/isyone.agent.v1.AgentService/Renew", Agents),
    ("/isyone.agent.v1.AgentService/Session", Agents),
    ("/isyone.agent.v1.EnrollmentService/Enroll", Joining),
    (
        "/isyone.v1.CertificateService/AddCertificate",
        From(Operator),
    ),
    ("/isyone.v1.CertificateService/GetCertificate", From(Viewer)),
    (
        "/isyone.v1.CertificateService/ListCertificates",
        From(Viewer),
    ),
    (
        "/isyone.v1.CertificateService/RemoveCertificate",
        From(Operator),
    ),
    ("/isyone.v1.DomainService/AddDomain", From(Operator)),
    ("/isyone.v1.DomainService/ListDomains", From(Viewer)),
    ("/isyone.v1.DomainService/RemoveDomain", From(Operator)),
    ("/isyone.v1.EdgeService/GetEdge", From(Viewer)),
    ("/isyone.v1.EdgeService/ListEdges", From(Viewer)),
    ("/isyone.v1.EdgeService/ListRejectedRoutes", From(Viewer)),
    ("/isyone.v1.EventService/StreamEvents", From(Viewer)),
    ("/isyone.v1.HostService/CordonHost", From(Operator)),
    ("/isyone.v1.HostService/CreateJoinToken", From(Admin)),
    ("/isyone.v1.HostService/GetHost", From(Viewer)),
    ("/isyone.v1.HostService/ListHosts", From(Viewer)),
    ("/isyone.v1.HostService/RemoveHost", From(Admin)),
    ("/isyone.v1.HostService/UncordonHost", From(Operator)),
    (
        "/isyone.v1.OperationService/CancelOperation",
        From(Operator),
    ),
    ("/isyone.v1.OperationService/GetOperation", From(Viewer)),
    ("/isyone.v1.OperationService/ListOperations", From(Viewer)),
    ("/isyone.v1.OperationService/WatchOperation", From(Viewer)),
    ("/isyone.v1.OperatorService/CreateOperator", From(Admin)),
    ("/isyone.v1.OperatorService/ListOperators", From(Admin)),
    ("/isyone.v1.OperatorService/RevokeOperator", From(Admin)),
    ("/isyone.v1.SystemService/GetInfo", From(Viewer)),
    ("/isyone.v1.TenantService/CreateTenant", From(Operator)),
    ("/isyone.v1.TenantService/DeleteTenant", From(Operator)),
    ("/isyone.v1.TenantService/Exec", From(Operator)),
    ("/isyone.v1.TenantService/ExplainTenant", From(Viewer)),
    ("/isyone.v1.TenantService/GetAccess", From(Viewer)),
    ("/isyone.v1.TenantService/GetCredentials", From(Operator)),
    ("/isyone.v1.TenantService/GetTenant", From(Viewer)),
    ("/isyone.v1.TenantService/ListTenants", From(Viewer)),
    ("/isyone.v1.TenantService/ResizeTenant", From(Operator)),
    ("/isyone.v1.TenantService/RestartTenant", From(Operator)),
    ("/isyone.v1.TenantService/RestoreTenant", From(Operator)),
    ("/isyone.v1.TenantService/ResumeTenant", From(Operator)),
    ("/isyone.v1.TenantService/SetAccess", From(Operator)),
    ("/isyone.v1.TenantService/StreamLogs", From(Viewer)),
    ("/isyone.v1.TenantService/SuspendTenant", From(Operator)),
    ("/isyone.v1.TopService/TopHosts", From(Viewer)),
    ("/isyone.v1.TopService/TopTenants", From(Viewer)),
];

/// Methods whose requests are streams (test: exactly those): their end is not waited for.
const OPEN_ENDED: &[&str] = &[
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/isyone.agent.v1.AgentService/Attach",
    "/isyone.agent.v1.AgentService/Session",
    "/isyone.v1.TenantService/Exec",
];

/// Methods that are called every few seconds by whoever follows the fleet.
const FOLLOWING: &str = "/isyone.v1.TopService/";

/// The method's own name in the table (`'static`, so a safe metric label), and whether the peer may call it.
fn judge(path: &str, peer: Option<&Peer>) -> (&'static str, Caller, Result<(), Status>) {
    let caller = match peer.and_then(Peer::identity) {
        Some(Identity::Operator(name, role)) => Caller::Operator(name.clone(), *role),
        Some(Identity::Agent(host)) => Caller::Agent(host.clone()),
        Some(Identity::Coordinator) | None => Caller::Stranger,
    };
    let Ok(index) = TABLE.binary_search_by_key(&path, |(method, _)| method) else {
        let refused = Status::unimplemented("no such method");
        return ("unknown", caller, Err(refused));
    };
    let (method, access) = TABLE[index];
    let allowed = match (access, &caller) {
        (From(least), Caller::Operator(_, role)) => *role >= least,
        (Agents, Caller::Agent(_)) | (Joining, Caller::Stranger) => true,
        (Anyone, Caller::Operator(..) | Caller::Agent(_)) => true,
        (From(_) | Agents | Joining | Anyone, _) => false,
    };
    let verdict = if allowed {
        Ok(())
    } else {
        Err(denied(access, &caller))
    };
    (method, caller, verdict)
}

fn denied(access: Permission, caller: &Caller) -> Status {
    let who = match caller {
        Caller::Operator(name, role) => format!("operator `{name}` has the role {role}"),
        Caller::Agent(host) => format!("host `{host}` is no operator"),
        Caller::Stranger => "no client certificate".to_owned(),
    };
    let message = match access {
        From(least) => format!("{who}; this needs the role {least}"),
        Agents => format!("{who}; this is for agents"),
        Joining | Anyone => format!("{who}; not here"),
    };
    status(
        Code::PermissionDenied,
        "PERMISSION_DENIED",
        message,
        std::collections::HashMap::new(),
    )
}

/// Puts the table before all services of a port.
#[derive(Debug, Clone)]
pub struct AccessLayer {
    metrics: Arc<Metrics>,
    gate: Arc<Gate>,
}

impl AccessLayer {
    /// Counting into `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            gate: Arc::default(),
        }
    }
}

impl<S> tower::Layer<S> for AccessLayer {
    type Service = AccessService<S>;
    fn layer(&self, inner: S) -> Self::Service {
        AccessService {
            inner,
            metrics: self.metrics.clone(),
            gate: self.gate.clone(),
        }
    }
}

/// See [`AccessLayer`].
#[derive(Debug, Clone)]
pub struct AccessService<S> {
    inner: S,
    metrics: Arc<Metrics>,
    gate: Arc<Gate>,
}

impl<S> tower::Service<http::Request<Body>> for AccessService<S>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>> + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        let (method, caller, verdict) = judge(request.uri().path(), peer.as_deref());
        let metrics = self.metrics.clone();
        if let Err(refusal) = verdict {
            let address = peer.map(|p| p.address.to_string()).unwrap_or_default();
            tracing::warn!(%caller, method = request.uri().path(), address, "refused: {}", refusal.message());
            metrics.request(method, refusal.code(), 0.0);
            return Box::pin(refuse(method, request, refusal).map(Ok));
        }
        let place = match self.place(method, &caller) {
            Ok(place) => place,
            Err(refusal) => {
                // Many, when there are any: the metric counts them.
                tracing::debug!(%caller, method, "refused: {}", refusal.message());
                metrics.request(method, refusal.code(), 0.0);
                return Box::pin(refuse(method, request, refusal).map(Ok));
            }
        };
        request.extensions_mut().insert(caller.clone());
        let span = traced(&caller, method, request.headers());
        let began = Instant::now();
        let answer = span
            .in_scope(|| self.inner.call(request))
            .instrument(span.clone());
        Box::pin(async move {
            let response = match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
                Ok(answered) => answered?,
                Err(_) => late().into_http(),
            };
            // An error without an answer is in the headers; a stream's end is not seen here.
            let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |s| s.code());
            let seconds = began.elapsed().as_secs_f64();
            metrics.request(method, code, seconds);
            isyone_telemetry::client::ended(&span, code);
            tell(&caller, method, code, seconds, response.headers());
            Ok(holding(response, place))
        })
    }
}

/// Answers with a refusal, once the request is there as a whole. An answer before its end would reset the stream, and what comes on it
/// afterwards is an error to the transport (h2), which ends a connection after a thousand of them, with all calls that are under way
/// on it: a client that is refused often would lose those that are not.
async fn refuse(
    method: &str,
    request: http::Request<Body>,
    refusal: Status,
) -> http::Response<Body> {
    if OPEN_ENDED.contains(&method) {
        return refusal.into_http();
    }
    let mut body = request.into_body();
    let whole = async {
        let mut left = REFUSED_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    // Who sends more is reset.
    let _ = tokio::time::timeout(REFUSED_TIMEOUT, whole).await;
    refusal.into_http()
}

fn late() -> Status {
    let seconds = ANSWER_TIMEOUT.as_secs();
    Status::deadline_exceeded(format!(
        "not answered within {seconds} s; look whether it was done, then try again"
    ))
}

/// An operator's call as a span, in the trace that it says it belongs to. Agents' calls are sessions, which never end.
fn traced(caller: &Caller, method: &'static str, headers: &http::HeaderMap) -> Span {
    let Caller::Operator(name, _) = caller else {
        return Span::none();
    };
    let span = span!(
        "call",
        otel.name = method.trim_start_matches('/'),
        otel.kind = "server",
        otel.status_code = field::Empty,
        rpc.system = "grpc",
        rpc.grpc.status_code = field::Empty,
        actor = %name,
    );
    context::adopt_headers(&span, headers);
    span
}

impl<S> AccessService<S> {
    /// Only operators' calls are counted.
    fn place(&self, method: &str, caller: &Caller) -> Result<Option<Place>, Status> {
        let Caller::Operator(name, _) = caller else {
            return Ok(None);
        };
        let kind = Kind::of(method);
        self.gate
            .enter(kind, name)
            .map(Some)
            .map_err(|after| gate::refusal(kind, after))
    }
}

/// The place is held until the answer is sent: one that nobody reads takes memory, too.
fn holding(response: http::Response<Body>, place: Option<Place>) -> http::Response<Body> {
    let Some(place) = place else { return response };
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _held = &place;
            frame
        }))
    })
}

fn tell(caller: &Caller, method: &str, code: Code, seconds: f64, headers: &http::HeaderMap) {
    let ms = (seconds * 1e6).round() / 1e3;
    let reason = Status::from_header_map(headers)
        .map(|s| s.message().to_owned())
        .unwrap_or_default();
    match (code, caller) {
        // Agents call all the time; operators' calls are what people look for.
        // So do screens that follow the fleet.
        (Code::Ok, Caller::Agent(_)) => tracing::debug!(%caller, method, ms, "ok"),
        (Code::Ok, _) if method.starts_with(FOLLOWING) => {
            tracing::debug!(%caller, method, ms, "ok")
        }
        (Code::Ok, _) => tracing::info!(%caller, method, ms, "ok"),
        (Code::Internal | Code::Unknown | Code::DataLoss, _) => {
            tracing::error!(%caller, method, ?code, ms, "failed: {reason}");
        }
        _ => tracing::info!(%caller, method, ?code, ms, "refused: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use OperatorRole::Monitor;

    fn peer(identity: Identity) -> Peer {
        let certificate = isyone_proto::tls::CertificateInfo {
            identity,
            serial: vec![1],
            not_before: 0,
            not_after: 1,
            serves: false,
        };
        Peer {
            certificate: Some(certificate),
            address: ([127, 0, 0, 1], 1).into(),
        }
    }

    fn may(path: &str, identity: Identity) -> bool {
        judge(path, Some(&peer(identity))).2.is_ok()
    }

    #[test]
    fn the_table_is_sorted_and_knows_every_method_of_the_protocol_and_no_other() {
        assert!(TABLE.is_sorted_by_key(|(path, _)| path));
        let files = prost_types::FileDescriptorSet::decode(isyone_proto::pb::DESCRIPTORS).unwrap();
        let mut methods = 0;
        for file in files
            .file
            .iter()
            .filter(|f| f.package().starts_with("isyone."))
        {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    assert!(
                        TABLE.iter().any(|(known, _)| *known == path),
                        "{path} is not in the table"
                    );
                    methods += 1;
                }
            }
        }
        assert_eq!(
            TABLE
                .iter()
                .filter(|(path, _)| path.starts_with("/isyone."))
                .count(),
            methods
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_whose_body_never_ends_is_ended_and_gives_its_place_back() {
        let waits = tower::service_fn(|_: http::Request<Body>| {
            std::future::pending::<Result<http::Response<Body>, std::convert::Infallible>>()
        });
        let mut service = tower::Layer::layer(&AccessLayer::new(Arc::default()), waits);
        let mut request = http::Request::new(Body::empty());
        *request.uri_mut() = "/isyone.v1.TenantService/GetTenant".parse().unwrap();
        request
            .extensions_mut()
            .insert(Arc::new(peer(Identity::Operator(
                "ana".parse().unwrap(),
                Viewer,
            ))));
        let answer = tokio::time::timeout(
            Duration::from_secs(300),
            tower::Service::call(&mut service, request),
        );
        let answer = answer.await.unwrap().unwrap();
        let status = Status::from_header_map(answer.headers()).unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        drop(answer);
        assert_eq!(Arc::strong_count(&service.gate), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_request_is_not_waited_for_without_end() {
        let endless = || {
            Body::new(http_body_util::StreamBody::new(
                futures_util::stream::pending::<Result<hyper::body::Frame<Bytes>, Status>>(),
            ))
        };
        let refused =
            |method, body| refuse(method, http::Request::new(body), Status::aborted("no"));
        let began = tokio::time::Instant::now();
        refused("/isyone.v1.TenantService/Exec", endless()).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        refused("/isyone.v1.TenantService/GetTenant", endless()).await;
        assert!(began.elapsed() >= REFUSED_TIMEOUT && began.elapsed() < 2 * REFUSED_TIMEOUT);
    }

    #[test]
    fn what_is_open_ended_is_known() {
        let files = prost_types::FileDescriptorSet::decode(isyone_proto::pb::DESCRIPTORS).unwrap();
        let mut streams = Vec::new();
        for file in files
            .file
            .iter()
            .filter(|f| f.package().starts_with("isyone."))
        {
            for service in &file.service {
                let methods = service.method.iter().filter(|m| m.client_streaming());
                streams.extend(
                    methods.map(|m| format!("/{}.{}/{}", file.package(), service.name(), m.name())),
                );
            }
        }
        let known: Vec<_> = OPEN_ENDED
            .iter()
            .filter(|path| path.starts_with("/isyone."))
            .collect();
        streams.sort();
        assert_eq!(known, streams.iter().collect::<Vec<_>>());
    }

    #[test]
    fn roles_may_what_they_should() {
        let operator = |role| Identity::Operator("ana".parse().unwrap(), role);
        let agent = || Identity::Agent("h1".parse().unwrap());
        let create = "/isyone.v1.TenantService/CreateTenant";
        assert!(
            !may(create, operator(Viewer))
                && may(create, operator(Operator))
                && may(create, operator(Admin))
        );
        assert!(may("/isyone.v1.TenantService/GetTenant", operator(Viewer)));
        assert!(may("/grpc.health.v1.Health/Check", operator(Monitor)));
        let open: Vec<_> = TABLE
            .iter()
            .filter(|(path, _)| may(path, operator(Monitor)))
            .collect();
        assert_eq!(open.len(), 2, "a monitor may ask for health only: {open:?}");
        assert!(!may(
            "/isyone.v1.TenantService/GetCredentials",
            operator(Viewer)
        ));
        assert!(!may(
            "/isyone.v1.HostService/CreateJoinToken",
            operator(Operator)
        ));
        assert!(!may(create, agent()) && !may("/isyone.v1.TenantService/GetTenant", agent()));
        assert!(may("/isyone.agent.v1.AgentService/Session", agent()));
        assert!(!may(
            "/isyone.agent.v1.AgentService/Session",
            operator(Admin)
        ));
        assert!(!may("/isyone.agent.v1.EnrollmentService/Enroll", agent()));
        assert!(
            judge("/isyone.agent.v1.EnrollmentService/Enroll", None)
                .2
                .is_ok()
        );
        assert!(judge(create, None).2.is_err());
        assert!(!may("/isyone.v1.TenantService/Nothing", operator(Admin)));
        assert!(!may(create, Identity::Coordinator));
    }
}
