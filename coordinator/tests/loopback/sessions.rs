//! Agents' sessions: how they begin, that a host has only one, and what it learns of the others.
//!
//! Not here: streams of bulk data (streams).

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use isyone_proto::{
    hosts::{HostsAssembly, digest},
    pb::agent::v1::{
        AgentMessage, Hello, agent_message,
        agent_service_client::AgentServiceClient,
        coordinator_message::{self, Message},
    },
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

/// Addresses of the hosts `h<number>`, as they join in these tests.
fn addresses(numbers: &[u8]) -> BTreeSet<IpAddr> {
    let address = |number: &u8| IpAddr::from([192, 0, 2, b'0' + number]);
    numbers.iter().map(address).collect()
}

fn is_hosts(message: &Message) -> bool {
    matches!(message, Message::Hosts(_) | Message::HostAddresses(_))
}

#[tokio::test]
async fn an_agent_learns_where_hosts_are_once_and_then_what_has_changed() {
    let fixture = start().await;
    let host = fixture.join("h1").await;
    fixture.join("h2").await;
    let mut agent = Agent::connect_knowing(&host, &digest(&BTreeSet::new())).await;
    let (mut known, mut assembly) = (BTreeSet::new(), HostsAssembly::default());
    let mut parts = Vec::new();
    for joins in ["", "h3"] {
        if !joins.is_empty() {
            fixture.join(joins).await;
        }
        let Message::Hosts(part) = agent.until(is_hosts).await else {
            panic!("the agent is not of before");
        };
        parts.push(part.clone());
        known = assembly.add(part).unwrap().unwrap().of(&known).unwrap();
    }
    assert_eq!(known, addresses(&[1, 2, 3]));
    let [first, then] = &parts[..] else {
        panic!("{parts:?}")
    };
    assert!(first.whole && !then.whole, "{parts:?}");
    assert_eq!(then.added.as_ref().map(|set| set.ipv4.len()), Some(1));

    // In the next session it says what it knows, and an agent of before nothing.
    let mut again = Agent::connect_knowing(&host, &digest(&known)).await;
    let told = tokio::time::timeout(Duration::from_millis(300), again.until(is_hosts)).await;
    assert!(told.is_err(), "{told:?}");
    let mut of_before = Agent::connect_knowing(&host, "").await;
    let Message::HostAddresses(told) = of_before.until(is_hosts).await else {
        panic!("an agent of before cannot read anything else");
    };
    assert_eq!(isyone_proto::convert::host_addresses(&told), Ok(known));
}
