//! Agents' sessions: how they begin, and that a host has only one.
//!
//! Not here: streams of bulk data (streams).

use std::time::Duration;

use isyone_proto::pb::agent::v1::{
    AgentMessage, Hello, agent_message, agent_service_client::AgentServiceClient,
    coordinator_message,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::support::{Agent, say, soon, start, with_alfa};

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
        plan_generation: plan.generation.get(),
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
    let silence = tokio::time::timeout(Duration::from_millis(300), down.message()).await;
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
