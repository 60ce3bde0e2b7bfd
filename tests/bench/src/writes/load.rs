//! Clients that create tenants one after another, each over its own connection.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use isyone_proto::pb::v1::{CreateTenantRequest, tenant_service_client::TenantServiceClient};
use tonic::transport::Channel;

#[derive(Debug, Default)]
pub(crate) struct Burst {
    /// Names of the tenants whose creates were answered.
    pub(crate) answered: Vec<String>,
    /// Time to each answer, in seconds.
    pub(crate) seconds: Vec<f64>,
    /// From the first request to the last answer.
    pub(crate) took: Duration,
    /// The first error of a client, after which it stopped.
    pub(crate) failure: Option<anyhow::Error>,
}

/// Lets all clients create tenants until `end`.
pub(crate) async fn burst(channels: Vec<Channel>, prefix: &str, end: Instant) -> Burst {
    let begin = Instant::now();
    let clients: Vec<_> = channels
        .into_iter()
        .enumerate()
        .map(|(n, channel)| tokio::spawn(client(channel, format!("{prefix}-{n}"), end)))
        .collect();
    let mut all = Burst::default();
    for client in clients {
        match client.await {
            Ok(one) => {
                all.answered.extend(one.answered);
                all.seconds.extend(one.seconds);
                all.failure = all.failure.or(one.failure);
            }
            Err(error) => all.failure = Some(error.into()),
        }
    }
    all.took = begin.elapsed();
    all
}

async fn client(channel: Channel, prefix: String, end: Instant) -> Burst {
    let mut client = TenantServiceClient::new(channel);
    let mut mine = Burst::default();
    for n in 0_u64.. {
        let began = Instant::now();
        if began >= end {
            break;
        }
        let name = format!("{prefix}-{n}");
        match create(&mut client, name.clone()).await {
            Ok(()) => {
                mine.answered.push(name);
                mine.seconds.push(began.elapsed().as_secs_f64());
            }
            Err(error) => {
                mine.failure = Some(error);
                break;
            }
        }
    }
    mine
}

async fn create(client: &mut TenantServiceClient<Channel>, name: String) -> Result<()> {
    let request = CreateTenantRequest {
        name,
        ..CreateTenantRequest::default()
    };
    let answer = client.create_tenant(request).await?.into_inner();
    anyhow::ensure!(!answer.existed, "it was there already");
    answer
        .operation
        .map(drop)
        .context("an answer without an operation")
}
