//! Who gets in, and what for: join tokens, roles, revocation, renewal; and what everyone with a certificate may call.
//!
//! Not here: the table itself (a unit test covers it), calls refused for their number (refusals).

use isyone_proto::{
    error::reason,
    pb::{
        agent::v1::{Hello, RenewRequest, agent_message, agent_service_client::AgentServiceClient},
        v1::{
            self, event_service_client::EventServiceClient, host_service_client::HostServiceClient,
            operator_service_client::OperatorServiceClient,
            system_service_client::SystemServiceClient, tenant_service_client::TenantServiceClient,
        },
    },
    plan::Secret,
    tls,
};
use tonic::Code;

use crate::support::{Agent, admin_context, channel, say, soon, start};

#[tokio::test]
async fn a_token_works_once_and_only_for_its_host() {
    let fixture = start().await;
    let (_key, csr) = tls::new_key_and_csr("h1").unwrap();
    let token = fixture.token("h1").await;
    let mut wrong = token.clone();
    wrong.secret = Secret::new("0".repeat(64));
    for (token, host) in [(&wrong, "h1"), (&token, "h2")] {
        let error = fixture.enroll(token, host, &csr).await.unwrap_err();
        assert_eq!(
            (error.code(), reason(&error).as_deref()),
            (Code::Unauthenticated, Some("TOKEN_REFUSED"))
        );
    }
    assert_eq!(
        fixture
            .enroll(&token, "h1", "nonsense")
            .await
            .unwrap_err()
            .code(),
        Code::InvalidArgument
    );
    // We do not buffer this much for a stranger.
    let huge = "x".repeat(64 << 10);
    assert_eq!(
        fixture
            .enroll(&wrong, "h1", &huge)
            .await
            .unwrap_err()
            .code(),
        Code::OutOfRange
    );
    fixture.enroll(&token, "h1", &csr).await.unwrap();
    assert_eq!(
        fixture.enroll(&token, "h1", &csr).await.unwrap_err().code(),
        Code::Unauthenticated
    );
}

#[tokio::test]
async fn roles_hold_and_agents_are_no_operators() {
    let fixture = start().await;
    let host = fixture.join("h1").await;
    let viewer = fixture.operator("vera", v1::Role::Viewer).await;
    let info = SystemServiceClient::new(viewer.clone())
        .get_info(v1::GetInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (info.caller_name.as_str(), info.caller_role()),
        ("vera", v1::Role::Viewer)
    );
    let create = || v1::CreateTenantRequest {
        name: "alfa".into(),
        ..v1::CreateTenantRequest::default()
    };
    for channel in [viewer, host] {
        let error = TenantServiceClient::new(channel)
            .create_tenant(create())
            .await
            .unwrap_err();
        assert_eq!(
            (error.code(), reason(&error).as_deref()),
            (Code::PermissionDenied, Some("PERMISSION_DENIED"))
        );
    }
    let messages = tokio_stream::iter([say(agent_message::Message::Hello(Hello::default()))]);
    let error = AgentServiceClient::new(fixture.admin.clone())
        .session(messages)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn revocation_cuts_open_streams_and_refuses_new_connections() {
    let fixture = start().await;
    let viewer = fixture.operator("vera", v1::Role::Viewer).await;
    let request = v1::StreamEventsRequest {
        follow: true,
        ..v1::StreamEventsRequest::default()
    };
    let mut events = EventServiceClient::new(viewer.clone())
        .stream_events(request)
        .await
        .unwrap()
        .into_inner();
    let mut operators = OperatorServiceClient::new(fixture.admin.clone());
    operators
        .revoke_operator(v1::RevokeOperatorRequest {
            name: "vera".into(),
        })
        .await
        .unwrap();
    let ended = async { while let Ok(Some(_)) = events.message().await {} };
    soon(ended).await;
    soon(SystemServiceClient::new(viewer).get_info(v1::GetInfoRequest {}))
        .await
        .unwrap_err();
    let error = operators
        .revoke_operator(v1::RevokeOperatorRequest {
            name: "admin".into(),
        })
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_removed_host_is_cut_and_a_renewed_certificate_is_accepted() {
    let fixture = start().await;
    let host = fixture.join("h1").await;
    let mut agent = Agent::connect(&host).await;
    let (_key, csr_pem) = tls::new_key_and_csr("other").unwrap();
    let renewed = AgentServiceClient::new(host)
        .renew(RenewRequest { csr_pem })
        .await
        .unwrap()
        .into_inner();
    let der = tls::certificates("c", &renewed.certificate_pem).unwrap();
    assert_eq!(
        tls::certificate_info(&der[0]).unwrap().identity.to_string(),
        "spiffe://isyone/agent/h1"
    );
    agent.report(vec![]).await;
    let request = v1::RemoveHostRequest { name: "h1".into() };
    HostServiceClient::new(fixture.admin.clone())
        .remove_host(request)
        .await
        .unwrap();
    soon(async { while let Ok(Some(_)) = agent.down.message().await {} }).await;
}

#[tokio::test]
async fn reflection_and_health_are_served() {
    let fixture = start().await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(fixture.admin.clone());
    let request = tonic_health::pb::HealthCheckRequest {
        service: "isyone.v1.TenantService".into(),
    };
    let status = health.check(request).await.unwrap().into_inner().status;
    assert_eq!(
        status,
        i32::from(tonic_health::pb::health_check_response::ServingStatus::Serving as u8)
    );
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(fixture.admin.clone())
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = soon(answers.message())
        .await
        .unwrap()
        .unwrap()
        .message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("{answer:?}")
    };
    assert!(
        list.service
            .iter()
            .any(|s| s.name == "isyone.v1.TenantService")
    );
}

/// A certificate of the admin's name, role and serial number, signed by the fleet's own CA for another key.
fn forged(dir: &std::path::Path) -> (String, String) {
    let read = |name: &str| std::fs::read_to_string(dir.join("data/pki").join(name)).unwrap();
    let ca_key = rcgen::KeyPair::from_pem(&read("ca.key")).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca.pem"), ca_key).unwrap();
    let real = admin_context(dir).certificate_pem;
    let real = tls::certificates("admin", &real).unwrap();
    let info = tls::certificate_info(&real[0]).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&info.serial));
    let name = info.identity.to_string();
    params.subject_alt_names = vec![rcgen::SanType::URI(name.as_str().try_into().unwrap())];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.not_after = time::OffsetDateTime::from_unix_timestamp(info.not_after).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[tokio::test]
async fn whoever_has_the_cas_key_still_cannot_make_a_certificate_that_is_let_in() {
    let fixture = start().await;
    let dir = fixture.dir.path();
    let (certificate, key) = forged(dir);
    let ca = admin_context(dir).ca_pem;
    let info = |channel| async {
        let mut client = SystemServiceClient::new(channel);
        client.get_info(v1::GetInfoRequest {}).await
    };
    let thief = channel(&fixture.running, &ca, &certificate, &key);
    assert!(soon(info(thief)).await.is_err());
    assert!(soon(info(fixture.admin.clone())).await.is_ok());
}
