//! Logs and commands through the coordinator to an agent and back, and who may open such a stream.
//!
//! Not here: what a host does with them (isyone-agent).

use isyone_proto::{
    error::reason,
    pb::{
        agent::v1::{
            AttachDown, AttachUp, agent_service_client::AgentServiceClient, attach_down, attach_up,
            coordinator_message, open_stream,
        },
        v1::{self, event_service_client::EventServiceClient, exec_request, exec_response},
    },
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Code, Streaming, transport::Channel};

use crate::support::{Agent, Fixture, soon, with_alfa};

/// Opens the stream that the coordinator asks for; returns its incoming messages and a sender.
pub(crate) async fn attach(
    agent: &mut Agent,
    host: &Channel,
) -> (
    open_stream::Target,
    mpsc::Sender<AttachUp>,
    Streaming<AttachDown>,
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
    // When the caller goes away, the agent's stream ends.
    drop(logs);
    assert!(matches!(soon(down.message()).await, Ok(None) | Err(_)));

    let request = v1::StreamLogsRequest {
        name: "alfa".into(),
        ..v1::StreamLogsRequest::default()
    };
    let (logs, (_, up, _down)) =
        tokio::join!(client.stream_logs(request), attach(&mut agent, &host));
    // When the agent goes away, the caller's stream ends.
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
    let audited = audited(&fixture).await;
    assert_eq!(
        (
            audited.len(),
            audited[0].actor.as_str(),
            audited[0].message.as_str()
        ),
        (1, "admin", "psql")
    );
}

/// The recorded commands run in `alfa`.
async fn audited(fixture: &Fixture) -> Vec<v1::Event> {
    let request = v1::StreamEventsRequest {
        tenant: "alfa".into(),
        ..v1::StreamEventsRequest::default()
    };
    let events = EventServiceClient::new(fixture.admin.clone())
        .stream_events(request)
        .await
        .unwrap()
        .into_inner();
    events
        .map(|e| e.unwrap())
        .filter(|e| e.kind == "tenant.exec")
        .collect()
        .await
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

/// Fails if the host is asked: its engine would answer with a container's id.
#[tokio::test]
async fn a_command_in_a_suspended_tenant_is_refused_with_what_to_do() {
    let (fixture, _host, _agent) = with_alfa().await;
    let suspend = v1::SuspendTenantRequest {
        name: "alfa".into(),
        cancel_running: true,
        ..v1::SuspendTenantRequest::default()
    };
    fixture.tenants().suspend_tenant(suspend).await.unwrap();
    let start = v1::ExecStart {
        name: "alfa".into(),
        kind: v1::ExecKind::Psql.into(),
        ..v1::ExecStart::default()
    };
    let start = v1::ExecRequest {
        message: Some(exec_request::Message::Start(start)),
    };
    let mut call = fixture.tenants();
    let refused = soon(call.exec(tokio_stream::once(start)))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(
        refused.message(),
        "tenant `alfa` is suspended; `isyctl tenant resume alfa` starts it"
    );
}

/// A command that does not read its input must neither lose its output nor outlive its client.
#[tokio::test]
async fn input_that_nobody_reads_holds_up_neither_output_nor_the_end() {
    let (fixture, host, mut agent) = with_alfa().await;
    let (input, requests) = mpsc::channel(8);
    let send = |message| v1::ExecRequest {
        message: Some(message),
    };
    let start = v1::ExecStart {
        name: "alfa".into(),
        kind: v1::ExecKind::Psql.into(),
        ..v1::ExecStart::default()
    };
    let start = send(exec_request::Message::Start(start));
    input.send(start).await.unwrap();
    let mut client = fixture.tenants();
    let call = client.exec(ReceiverStream::new(requests));
    let (output, (_, up, mut down)) = tokio::join!(call, attach(&mut agent, &host));
    let mut output = output.unwrap().into_inner();
    // More than all queues and windows on the way take in.
    let piece = send(exec_request::Message::Stdin(vec![b'x'; 60_000]));
    let mut taken = 0;
    while let Ok(sent) = tokio::time::timeout(
        std::time::Duration::from_millis(500),
        input.send(piece.clone()),
    )
    .await
    {
        sent.unwrap();
        taken += 1;
        assert!(taken < 1_000, "input is taken without end");
    }
    let answer = v1::ExecResponse {
        message: Some(exec_response::Message::Stdout(b"1".to_vec())),
    };
    let answer = AttachUp {
        message: Some(attach_up::Message::Exec(answer)),
    };
    up.send(answer).await.unwrap();
    let got = soon(output.message()).await.unwrap().unwrap().message;
    assert_eq!(got, Some(exec_response::Message::Stdout(b"1".to_vec())));
    drop((output, input));
    // The agent's stream ends, after what it had not read.
    while let Ok(Some(_)) = soon(down.message()).await {}
}
