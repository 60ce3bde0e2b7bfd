//! The table against the protocol, what each role may call, and calls that do not end by themselves or in time.

use isyone_proto::tls::{
    Identity,
    OperatorRole::{Admin, Monitor, Operator, Viewer},
};
use prost::Message as _;

use super::{table::TABLE, *};

fn peer(identity: Identity) -> Peer {
    let certificate = isyone_proto::tls::CertificateInfo {
        identity,
        serial: vec![1],
        not_before: 0,
        not_after: 1,
        serves: false,
        sha256: [0; 32],
    };
    Peer {
        certificate: Some(certificate),
        address: ([127, 0, 0, 1], 1).into(),
    }
}

fn may(path: &str, identity: Identity) -> bool {
    judge(path, Some(&peer(identity))).2.is_ok()
}

/// Agents serve each other what the coordinator does not.
fn ours(service: &prost_types::ServiceDescriptorProto) -> bool {
    service.name() != "PeerService"
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
        for service in file.service.iter().filter(|s| ours(s)) {
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
    let refused = |method, body| refuse(method, http::Request::new(body), Status::aborted("no"));
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
        for service in file.service.iter().filter(|s| ours(s)) {
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
    let logs = "/isyone.v1.TenantService/StreamLogs";
    assert!(may(logs, operator(Operator)) && !may(logs, operator(Viewer)));
    let refused = judge(logs, Some(&peer(operator(Viewer)))).2.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (
            Code::PermissionDenied,
            "operator `ana` has the role viewer; this needs the role operator"
        )
    );
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
