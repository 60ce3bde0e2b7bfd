//! The whole coordinator over real TLS on loopback: joining, sessions, roles, streams, revocation, restart.

#[path = "cases/blackbox.rs"]
mod blackbox;
#[path = "cases/domains.rs"]
mod domains;
#[path = "cases/monitoring.rs"]
mod monitoring;
#[path = "cases/pages.rs"]
mod pages;
#[path = "cases/published.rs"]
mod published;
#[path = "cases/refusals.rs"]
mod refusals;
mod support;

use isyone_proto::{
    error::reason,
    pb::{
        agent::v1::{
            AgentMessage, AttachUp, Hello, RenewRequest, agent_message,
            agent_service_client::AgentServiceClient, attach_down, attach_up, coordinator_message,
            open_stream,
        },
        v1::{
            self, event_service_client::EventServiceClient, exec_request, exec_response,
            host_service_client::HostServiceClient,
            operation_service_client::OperationServiceClient,
            operator_service_client::OperatorServiceClient,
            system_service_client::SystemServiceClient, tenant_service_client::TenantServiceClient,
        },
    },
    tls,
};
use support::{Agent, Fixture, say, soon, start, start_in};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Code, transport::Channel};

/// One host, one running tenant `alfa`.
async fn with_alfa() -> (Fixture, Channel, Agent) {
    let fixture = start().await;
    let host = fixture.join("h1").await;
    let mut agent = Agent::connect(&host).await;
    fixture.create("alfa").await;
    agent.plan_of(&["alfa"]).await;
    agent.converge().await;
    // From its first convergence on, the plan says that there is data.
    while !agent
        .plan
        .as_ref()
        .is_some_and(|p| p.tenants.iter().all(|t| t.activated))
    {
        agent
            .until(|m| matches!(m, coordinator_message::Message::Plan(_)))
            .await;
    }
    (fixture, host, agent)
}

#[tokio::test]
async fn a_tenant_is_created_watched_routed_and_watched_over() {
    let fixture = start().await;
    let host = fixture.join("h1").await;
    let mut agent = Agent::connect(&host).await;
    let made = fixture.create("alfa").await;
    let id = made.operation.unwrap().id;
    assert_eq!(
        (made.tenant.unwrap().host.as_str(), made.existed),
        ("h1", false)
    );
    let mut watch = OperationServiceClient::new(fixture.admin.clone())
        .watch_operation(v1::WatchOperationRequest { id })
        .await
        .unwrap()
        .into_inner();
    assert!(!soon(watch.message()).await.unwrap().unwrap().done);
    assert!(
        !fixture
            .http("/traefik/config")
            .await
            .1
            .contains("alfa.isy.one")
    );
    let plan = agent.plan_of(&["alfa"]).await;
    agent.converge().await;
    let mut last = None;
    while let Some(operation) = soon(watch.message()).await.unwrap() {
        last = Some(operation);
    }
    let last = last.unwrap();
    assert_eq!(
        (last.done, last.state()),
        (true, v1::OperationState::Succeeded)
    );

    // The second time the same is asked, it is there.
    assert!(fixture.create("alfa").await.existed);
    let request = v1::GetCredentialsRequest {
        name: "alfa".into(),
    };
    let credentials = fixture
        .tenants()
        .get_credentials(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        credentials.password,
        plan.tenants[0].secrets.admin_password.expose()
    );
    assert_eq!(
        (credentials.url.as_str(), credentials.database.as_str()),
        ("http://alfa.isy.one", "odoo_alfa")
    );

    let routes = fixture
        .published("/traefik/config", "Host(`alfa.isy.one`)")
        .await;
    let targets = fixture.published("/sd/odoo", "odoo_alfa:8069").await;
    fixture.written("edge/isyone.yml", &routes).await;
    assert_eq!(
        std::fs::read_dir(fixture.dir.path().join("edge"))
            .unwrap()
            .count(),
        1
    );
    fixture.written("targets/odoo.json", &targets).await;
    let metrics = fixture.http("/metrics").await.1;
    for line in [
        "isyone_agent_sessions 1\n",
        "isyone_host_state{host=\"h1\",state=\"ready\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line} {metrics}");
    }
    assert!(metrics.contains(concat!(
        "isyone_build_info{version=\"",
        env!("CARGO_PKG_VERSION"),
        "\"} 1\n"
    )));
}

#[tokio::test]
async fn bad_input_is_named_and_nothing_is_stored() {
    let fixture = start().await;
    let create = |name: &str, spec: v1::TenantSpec| v1::CreateTenantRequest {
        name: name.into(),
        spec: Some(spec),
        ..v1::CreateTenantRequest::default()
    };
    let spec = v1::TenantSpec::default;
    let mut client = fixture.tenants();
    for (request, field) in [
        (create("Alfa", spec()), "name"),
        (create("www", spec()), "name"),
        (create("a;rm -rf /", spec()), "name"),
        (
            create(
                "alfa",
                v1::TenantSpec {
                    domains: vec!["nope".into()],
                    ..spec()
                },
            ),
            "spec.domains[0]",
        ),
        (
            create(
                "alfa",
                v1::TenantSpec {
                    plan: "huge".into(),
                    ..spec()
                },
            ),
            "spec.plan",
        ),
    ] {
        let error = client.create_tenant(request).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        let details = tonic_types::StatusExt::get_details_bad_request(&error).unwrap();
        assert_eq!(details.field_violations[0].field, field);
    }
    let error = client
        .create_tenant(create("alfa", spec()))
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), reason(&error).as_deref()),
        (Code::ResourceExhausted, Some("NO_HOST_FITS"))
    );
    let error = client
        .get_tenant(v1::GetTenantRequest {
            name: "alfa".into(),
        })
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), reason(&error).as_deref()),
        (Code::NotFound, Some("TENANT_NOT_FOUND"))
    );
    let huge = create(
        "alfa",
        v1::TenantSpec {
            language: "x".repeat(256 << 10),
            ..spec()
        },
    );
    let error = client
        .max_encoding_message_size(usize::MAX)
        .create_tenant(huge)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange, "{error}");
}

#[tokio::test]
async fn a_token_works_once_and_only_for_its_host() {
    let fixture = start().await;
    let (_key, csr) = tls::new_key_and_csr("h1").unwrap();
    let token = fixture.token("h1").await;
    let mut wrong = token.clone();
    wrong.secret = isyone_proto::plan::Secret::new("0".repeat(64));
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
    // Not kept for a stranger.
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
async fn a_second_session_ends_the_first() {
    let fixture = start().await;
    let host = fixture.join("h1").await;
    let mut first = Agent::connect(&host).await;
    let mut second = Agent::connect(&host).await;
    let end = soon(async { while let Ok(Some(_)) = first.down.message().await {} });
    end.await;
    second.report(vec![]).await;
    fixture.create("alfa").await;
    second.plan_of(&["alfa"]).await;
}

#[tokio::test]
async fn an_agent_with_the_same_plan_gets_none() {
    let (_fixture, host, agent) = with_alfa().await;
    let plan = agent.plan.clone().unwrap();
    let (up, messages) = mpsc::channel(8);
    let hello = Hello {
        plan_generation: plan.generation,
        plan_digest: plan.digest(),
        ..Hello::default()
    };
    up.send(say(agent_message::Message::Hello(hello)))
        .await
        .unwrap();
    let mut down = AgentServiceClient::new(host)
        .session(ReceiverStream::new(messages))
        .await
        .unwrap()
        .into_inner();
    assert!(matches!(
        soon(down.message()).await.unwrap().unwrap().message,
        Some(coordinator_message::Message::Welcome(_))
    ));
    assert!(matches!(
        soon(down.message()).await.unwrap().unwrap().message,
        Some(coordinator_message::Message::Monitors(_))
    ));
    let silence = tokio::time::timeout(std::time::Duration::from_millis(300), down.message()).await;
    assert!(silence.is_err(), "{silence:?}");
}

#[tokio::test]
async fn the_first_message_must_be_hello() {
    let fixture = start().await;
    let host = fixture.join("h1").await;
    let messages = tokio_stream::iter([AgentMessage { message: None }]);
    let mut down = AgentServiceClient::new(host)
        .session(messages)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        soon(down.message()).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

/// Opens the stream that the coordinator asks for; answers its messages down and a way up.
async fn attach(
    agent: &mut Agent,
    host: &Channel,
) -> (
    open_stream::Target,
    mpsc::Sender<AttachUp>,
    tonic::Streaming<isyone_proto::pb::agent::v1::AttachDown>,
) {
    let message = agent
        .until(|m| matches!(m, coordinator_message::Message::OpenStream(_)))
        .await;
    let coordinator_message::Message::OpenStream(open) = message else {
        unreachable!()
    };
    let (up, messages) = mpsc::channel(8);
    up.send(AttachUp {
        message: Some(attach_up::Message::StreamId(open.stream_id)),
    })
    .await
    .unwrap();
    let down = AgentServiceClient::new(host.clone())
        .attach(ReceiverStream::new(messages))
        .await
        .unwrap()
        .into_inner();
    (open.target.unwrap(), up, down)
}

#[tokio::test]
async fn logs_flow_and_both_sides_end_together() {
    let (fixture, host, mut agent) = with_alfa().await;
    let mut client = fixture.tenants();
    let request = v1::StreamLogsRequest {
        name: "alfa".into(),
        follow: true,
        ..v1::StreamLogsRequest::default()
    };
    let (logs, (target, up, mut down)) =
        tokio::join!(client.stream_logs(request), attach(&mut agent, &host));
    let open_stream::Target::Logs(asked) = target else {
        panic!("{target:?}")
    };
    assert_eq!(
        (asked.tail, asked.container()),
        (200, v1::ContainerRole::Odoo)
    );
    let mut logs = logs.unwrap().into_inner();
    let chunk = v1::LogChunk {
        data: b"hello".to_vec(),
        stderr: false,
    };
    up.send(AttachUp {
        message: Some(attach_up::Message::Log(chunk)),
    })
    .await
    .unwrap();
    assert_eq!(soon(logs.message()).await.unwrap().unwrap().data, b"hello");
    // The caller goes away: the agent's stream ends.
    drop(logs);
    assert!(matches!(soon(down.message()).await, Ok(None) | Err(_)));

    let request = v1::StreamLogsRequest {
        name: "alfa".into(),
        ..v1::StreamLogsRequest::default()
    };
    let (logs, (_, up, _down)) =
        tokio::join!(client.stream_logs(request), attach(&mut agent, &host));
    // The agent goes away: the caller's stream ends.
    drop(up);
    assert!(
        soon(logs.unwrap().into_inner().message())
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_command_runs_with_input_output_and_exit_code_and_is_audited() {
    let (fixture, host, mut agent) = with_alfa().await;
    let (input, requests) = mpsc::channel(8);
    let start = v1::ExecStart {
        name: "alfa".into(),
        kind: v1::ExecKind::Psql.into(),
        ..v1::ExecStart::default()
    };
    let send = |message| v1::ExecRequest {
        message: Some(message),
    };
    input
        .send(send(exec_request::Message::Start(start)))
        .await
        .unwrap();
    let mut client = fixture.tenants();
    let call = client.exec(ReceiverStream::new(requests));
    let (output, (_, up, mut down)) = tokio::join!(call, attach(&mut agent, &host));
    let mut output = output.unwrap().into_inner();
    input
        .send(send(exec_request::Message::Stdin(b"select 1".to_vec())))
        .await
        .unwrap();
    let Some(attach_down::Message::Exec(got)) =
        soon(down.message()).await.unwrap().unwrap().message
    else {
        panic!()
    };
    assert_eq!(
        got.message,
        Some(exec_request::Message::Stdin(b"select 1".to_vec()))
    );
    drop(input);
    let Some(attach_down::Message::Exec(got)) =
        soon(down.message()).await.unwrap().unwrap().message
    else {
        panic!()
    };
    assert_eq!(got.message, Some(exec_request::Message::StdinEof(true)));
    for message in [
        exec_response::Message::Stdout(b"1".to_vec()),
        exec_response::Message::ExitCode(3),
    ] {
        let response = v1::ExecResponse {
            message: Some(message.clone()),
        };
        up.send(AttachUp {
            message: Some(attach_up::Message::Exec(response)),
        })
        .await
        .unwrap();
        assert_eq!(
            soon(output.message()).await.unwrap().unwrap().message,
            Some(message)
        );
    }
    assert!(soon(output.message()).await.unwrap().is_none());
    let request = v1::StreamEventsRequest {
        tenant: "alfa".into(),
        ..v1::StreamEventsRequest::default()
    };
    let events = EventServiceClient::new(fixture.admin.clone())
        .stream_events(request)
        .await
        .unwrap()
        .into_inner();
    let kinds: Vec<_> = events
        .map(|e| e.unwrap())
        .filter(|e| e.kind == "tenant.exec")
        .collect()
        .await;
    assert_eq!(
        (
            kinds.len(),
            kinds[0].actor.as_str(),
            kinds[0].message.as_str()
        ),
        (1, "admin", "psql")
    );
}

#[tokio::test]
async fn another_hosts_stream_id_is_worth_nothing() {
    let (fixture, host, mut agent) = with_alfa().await;
    let other = fixture.join("h2").await;
    let mut client = fixture.tenants();
    let request = v1::StreamLogsRequest {
        name: "alfa".into(),
        ..v1::StreamLogsRequest::default()
    };
    let steal = async {
        let message = agent
            .until(|m| matches!(m, coordinator_message::Message::OpenStream(_)))
            .await;
        let coordinator_message::Message::OpenStream(open) = message else {
            unreachable!()
        };
        let first = AttachUp {
            message: Some(attach_up::Message::StreamId(open.stream_id)),
        };
        let (up, messages) = mpsc::channel(8);
        up.send(first.clone()).await.unwrap();
        let stolen = AgentServiceClient::new(other)
            .attach(ReceiverStream::new(messages))
            .await;
        assert_eq!(stolen.unwrap_err().code(), Code::NotFound);
        let (up, messages) = mpsc::channel(8);
        up.send(first).await.unwrap();
        AgentServiceClient::new(host.clone())
            .attach(ReceiverStream::new(messages))
            .await
            .unwrap();
    };
    let (logs, ()) = tokio::join!(client.stream_logs(request), steal);
    logs.unwrap();
}

#[tokio::test]
async fn without_an_agent_logs_are_unavailable_at_once() {
    let (fixture, host, agent) = with_alfa().await;
    drop((agent, host));
    let request = || v1::StreamLogsRequest {
        name: "alfa".into(),
        ..v1::StreamLogsRequest::default()
    };
    soon(async {
        while fixture.running.streams.sessions() > 0 {
            tokio::task::yield_now().await
        }
    })
    .await;
    let error = soon(fixture.tenants().stream_logs(request()))
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), reason(&error).as_deref()),
        (Code::Unavailable, Some("AGENT_UNAVAILABLE"))
    );
}

#[tokio::test]
async fn a_stop_ends_streams_and_a_restart_keeps_tenants_routes_and_admission() {
    let (fixture, host, mut agent) = with_alfa().await;
    let dir = fixture.dir.clone();
    let request = v1::StreamEventsRequest {
        follow: true,
        ..v1::StreamEventsRequest::default()
    };
    let mut events = EventServiceClient::new(fixture.admin.clone())
        .stream_events(request)
        .await
        .unwrap()
        .into_inner();
    soon(fixture.running.stop()).await;
    let end = soon(async {
        loop {
            if let Err(end) = events.message().await {
                return end;
            }
        }
    })
    .await;
    assert_eq!(
        (end.code(), reason(&end).as_deref()),
        (Code::Unavailable, Some("STOPPING"))
    );
    soon(async { while let Ok(Some(_)) = agent.down.message().await {} }).await;
    drop(host);
    let again = start_in(dir).await;
    // Nothing was reported yet: the route is there all the same.
    assert!(
        again
            .http("/traefik/config")
            .await
            .1
            .contains("Host(`alfa.isy.one`)")
    );
    // Silence is not "gone": what shall run is still to be watched.
    assert!(again.http("/sd/odoo").await.1.contains("odoo_alfa:8069"));
    let request = v1::GetTenantRequest {
        name: "alfa".into(),
    };
    let tenant = again
        .tenants()
        .get_tenant(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(tenant.phase(), v1::TenantPhase::Unknown);
}

#[tokio::test]
async fn the_end_of_a_create_is_told_when_the_edge_has_its_route() {
    let fixture = start().await;
    let host = fixture.join("h1").await;
    let mut agent = Agent::connect(&host).await;
    // An edge: it asks again and again.
    for _ in 0..2 {
        fixture.http("/traefik/config").await;
    }
    let id = fixture.create("alfa").await.operation.unwrap().id;
    let request = v1::WatchOperationRequest { id };
    let mut operations = OperationServiceClient::new(fixture.admin.clone());
    let mut watch = operations
        .watch_operation(request)
        .await
        .unwrap()
        .into_inner();
    soon(watch.message()).await.unwrap().unwrap();
    agent.plan_of(&["alfa"]).await;
    agent.converge().await;
    let early = tokio::time::timeout(std::time::Duration::from_millis(500), watch.message()).await;
    assert!(early.is_err(), "{early:?}");
    fixture.published("/traefik/config", "alfa.isy.one").await;
    assert!(soon(watch.message()).await.unwrap().unwrap().done);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let (fixture, _host, mut agent) = with_alfa().await;
    for name in ["beta", "gama", "delta"] {
        fixture.create(name).await;
    }
    agent.plan_of(&["alfa", "beta", "delta", "gama"]).await;
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListTenantsRequest {
            page_size: 3,
            page_token,
            ..v1::ListTenantsRequest::default()
        };
        let page = fixture
            .tenants()
            .list_tenants(request)
            .await
            .unwrap()
            .into_inner();
        names.extend(page.tenants.into_iter().map(|t| t.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["alfa", "beta", "delta", "gama"]);
    let request = v1::ListTenantsRequest {
        phase: v1::TenantPhase::Running.into(),
        ..v1::ListTenantsRequest::default()
    };
    let running = fixture
        .tenants()
        .list_tenants(request)
        .await
        .unwrap()
        .into_inner()
        .tenants;
    assert_eq!(
        running.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(),
        ["alfa"]
    );
    let request = v1::ListTenantsRequest {
        page_size: 1001,
        ..v1::ListTenantsRequest::default()
    };
    assert_eq!(
        fixture
            .tenants()
            .list_tenants(request)
            .await
            .unwrap_err()
            .code(),
        Code::InvalidArgument
    );
    let request = v1::ListOperationsRequest {
        page_size: 2,
        ..v1::ListOperationsRequest::default()
    };
    let mut operations = OperationServiceClient::new(fixture.admin.clone());
    let page = operations
        .list_operations(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (page.operations[0].tenant.as_str(), page.operations.len()),
        ("delta", 2)
    );
    let request = v1::ListOperationsRequest {
        active_only: true,
        ..v1::ListOperationsRequest::default()
    };
    assert_eq!(
        operations
            .list_operations(request)
            .await
            .unwrap()
            .into_inner()
            .operations
            .len(),
        3
    );
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
