//! Connections between two hosts through the coordinator: for the host, the tenant and the time of a move that copies, and
//! for nobody else.
//!
//! Not here: what the agents say to each other over them (isyone-agent).

use std::time::Duration;

use bytes::Bytes;
use isyone_proto::{
    pb::{
        agent::v1::{
            AttachDown, AttachUp, JobState, JobStatus, RelayDown, RelayTo, RelayUp,
            agent_service_client::AgentServiceClient, attach_down, attach_up, open_stream,
            relay_up,
        },
        v1,
    },
    plan::DesiredState,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::{
    streams::attach,
    support::{Agent, Fixture, soon, with_alfa},
};

const CHUNK: usize = 64 << 10;

/// A call under way, seen by the host that fetches.
struct Call {
    up: mpsc::Sender<RelayUp>,
    down: Streaming<RelayDown>,
}

/// The stream for it, seen by the host that has the data.
struct End {
    up: mpsc::Sender<AttachUp>,
    down: Streaming<AttachDown>,
}

fn data(bytes: impl Into<Bytes>) -> RelayUp {
    RelayUp {
        message: Some(relay_up::Message::Data(bytes.into())),
    }
}

fn answer(bytes: impl Into<Bytes>) -> AttachUp {
    AttachUp {
        message: Some(attach_up::Message::Data(bytes.into())),
    }
}

async fn call(host: &Channel, to: RelayTo) -> Result<Call, Status> {
    let (up, messages) = mpsc::channel(1);
    let first = RelayUp {
        message: Some(relay_up::Message::To(to)),
    };
    up.send(first).await.unwrap();
    let mut client = AgentServiceClient::new(host.clone());
    let opened = client.relay(ReceiverStream::new(messages));
    let down = soon(opened).await?.into_inner();
    Ok(Call { up, down })
}

/// alfa, which goes from h1 to h2.
struct Moving {
    fixture: Fixture,
    hosts: [Channel; 2],
    /// h2's for bulk data.
    bulk: Channel,
    agents: [Agent; 2],
    operation: String,
}

impl Moving {
    /// Its new host has made room; nothing is copied yet.
    async fn prepared() -> Self {
        let (fixture, h1, mut first) = with_alfa().await;
        let (h2, bulk) = fixture.join_for_bulk("h2").await;
        let mut second = Agent::connect(&h2).await;
        first.converge().await;
        let request = v1::MoveTenantRequest {
            name: "alfa".into(),
            to_host: "h2".into(),
            ..v1::MoveTenantRequest::default()
        };
        let begun = fixture.tenants().move_tenant(request).await.unwrap();
        second.plan_of(&["alfa"]).await;
        Self {
            fixture,
            hosts: [h1, h2],
            bulk,
            agents: [first, second],
            operation: begun.into_inner().id,
        }
    }

    /// It copies.
    async fn new() -> Self {
        let mut moving = Self::prepared().await;
        moving.begin_copying().await;
        moving
    }

    async fn begin_copying(&mut self) {
        let [first, second] = &mut self.agents;
        second.converge().await;
        let stopped = |state: DesiredState| state != DesiredState::Running;
        first
            .plan_that(|plan| plan.tenants.iter().all(|t| stopped(t.desired)))
            .await;
        first.converge().await;
        second.plan_that(|plan| !plan.jobs.is_empty()).await;
    }

    fn to(&self) -> RelayTo {
        RelayTo {
            operation_id: self.operation.clone(),
            tenant: "alfa".into(),
            host: "h1".into(),
        }
    }

    /// Opens one that is allowed.
    async fn open(&mut self) -> (Call, End) {
        let to = self.to();
        let (h1, bulk) = (&self.hosts[0], &self.bulk);
        let opened = tokio::join!(call(bulk, to), attach(&mut self.agents[0], h1));
        let (call, (target, up, down)) = opened;
        let open_stream::Target::Peer(peer) = target else {
            panic!("{target:?}")
        };
        assert_eq!(peer.host, "h2");
        (call.unwrap(), End { up, down })
    }

    async fn refuses(&self, host: &Channel, to: RelayTo, code: Code, why: &str) {
        let refused = call(host, to).await.map(drop).expect_err(why);
        assert_eq!(refused.code(), code, "{why}: {refused}");
        if code == Code::PermissionDenied {
            assert_eq!(refused.message(), "not granted", "{why}");
        }
    }
}

async fn ends<T>(stream: &mut Streaming<T>) -> Option<Status> {
    let end = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    };
    soon(end).await
}

#[tokio::test]
async fn bytes_pass_both_ways_and_both_ends_end_together() {
    let mut moving = Moving::new().await;
    let (mut call, mut end) = moving.open().await;
    call.up.send(data("hello")).await.unwrap();
    let came = soon(end.down.message()).await.unwrap().unwrap();
    assert_eq!(
        came.message,
        Some(attach_down::Message::Data("hello".into()))
    );
    end.up.send(answer(vec![7; CHUNK])).await.unwrap();
    let came = soon(call.down.message()).await.unwrap().unwrap();
    assert_eq!(came.data, vec![7; CHUNK]);
    let (_, page) = moving.fixture.http("/metrics").await;
    for line in ["isyone_relays 1", "isyone_relayed_bytes_total 65541"] {
        assert!(page.contains(line), "{line}");
    }

    drop(call);
    ends(&mut end.down).await;
    let (mut call, end) = moving.open().await;
    drop(end);
    ends(&mut call.down).await;
    // What is said to be too large is no piece.
    let (mut call, end) = moving.open().await;
    end.up.send(answer(vec![7; CHUNK + 1])).await.unwrap();
    let refused = ends(&mut call.down).await.expect("an error");
    assert_eq!(refused.code(), Code::InvalidArgument);
    // An agent of a version before says that it was asked for nothing.
    let (mut call, end) = moving.open().await;
    let error = AttachUp {
        message: Some(attach_up::Message::Error("names nothing".into())),
    };
    end.up.send(error).await.unwrap();
    let refused = ends(&mut call.down).await.expect("an error");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("version"), "{refused}");
}

#[tokio::test]
async fn nobody_but_the_host_that_fetches_gets_a_connection_and_only_while_it_does() {
    let mut moving = Moving::prepared().await;
    let denied = Code::PermissionDenied;
    let (h1, h2) = (moving.hosts[0].clone(), moving.hosts[1].clone());
    moving
        .refuses(&h2, moving.to(), denied, "nothing is copied yet")
        .await;
    moving.begin_copying().await;
    moving.fixture.create("beta").await;
    let h3 = moving.fixture.join("h3").await;
    moving
        .refuses(&h3, moving.to(), denied, "another host")
        .await;
    moving
        .refuses(&h1, moving.to(), denied, "the source itself")
        .await;
    let other = |change: fn(&mut RelayTo)| {
        let mut to = moving.to();
        change(&mut to);
        to
    };
    for (to, why) in [
        (other(|to| to.tenant = "beta".into()), "another tenant"),
        (other(|to| to.tenant = "gamma".into()), "no tenant"),
        (other(|to| to.host = "h3".into()), "another source"),
        (
            other(|to| to.operation_id = uuid::Uuid::nil().to_string()),
            "another operation",
        ),
    ] {
        moving.refuses(&h2, to, denied, why).await;
    }
    let bad = other(|to| to.host = "../h1".into());
    moving
        .refuses(&h2, bad, Code::InvalidArgument, "no name")
        .await;
    let admin = &moving.fixture.admin;
    let refused = call(admin, moving.to()).await.map(drop).unwrap_err();
    assert_eq!(refused.code(), denied, "an operator is no host");

    let (mut call, mut end) = moving.open().await;
    let done = JobStatus {
        id: moving.operation.clone(),
        state: JobState::Done.into(),
        ..JobStatus::default()
    };
    moving.agents[1].converge_with(vec![done]).await;
    let ended = ends(&mut call.down).await.expect("an error");
    assert_eq!(ended.code(), denied);
    ends(&mut end.down).await;
    moving
        .refuses(&h2, moving.to(), denied, "the data is there")
        .await;
}

#[tokio::test]
async fn a_host_has_two_connections_at_most() {
    let mut moving = Moving::new().await;
    let h2 = moving.hosts[1].clone();
    let (first, second) = (moving.open().await, moving.open().await);
    let to = moving.to();
    moving
        .refuses(&h2, to, Code::ResourceExhausted, "two are open")
        .await;
    drop(first);
    soon(async {
        while moving
            .fixture
            .http("/metrics")
            .await
            .1
            .contains("isyone_relays 2")
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let third = moving.open().await;
    drop((second, third));
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_a_few_pieces_and_no_more() {
    let mut moving = Moving::new().await;
    let (mut call, end) = moving.open().await;
    let mut taken = 0;
    let piece = Bytes::from(vec![1; CHUNK]);
    while let Ok(sent) = timeout(
        Duration::from_millis(500),
        end.up.send(answer(piece.clone())),
    )
    .await
    {
        sent.unwrap();
        taken += 1;
        // The queues of both ends and of both connections: far below what a copy has.
        assert!(taken < 64, "somebody keeps what nobody reads");
    }
    for _ in 0..taken {
        let came = soon(call.down.message()).await.unwrap().unwrap();
        assert_eq!(came.data.len(), CHUNK);
    }
}
