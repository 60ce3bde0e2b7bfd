//! Tenants' own domains: a real coordinator asks a name server on loopback. Here: what both files share.
//!
//! Not here: how DNS' answers are judged (unit tests of isyone-fleet).

mod adding;
mod looks;

use std::time::Duration;

use isyone_coordinator::{
    base::config::{Config, Dns},
    testing::dns::NameServer,
};
use isyone_proto::{
    pb::{agent::v1::coordinator_message, v1, v1::domain_service_client::DomainServiceClient},
    plan::TenantPlan,
};
use tonic::{Status, transport::Channel};

use crate::support::{Agent, Fixture, soon, start_with};

/// Checks every second, so that three checks in a row are soon over.
fn watched(server: &NameServer) -> impl Fn(&mut Config) + use<> {
    let address = server.address;
    move |config| {
        config.dns.servers = vec![address];
        let second = toml::from_str("interval = \"1s\"\nretry = \"1s\"");
        let every: Dns = second.unwrap();
        (config.dns.interval, config.dns.retry) = (every.interval, every.retry);
    }
}

/// A running tenant `alfa` whose platform name leads to 192.0.2.1.
async fn with_alfa(server: &NameServer) -> (Fixture, Agent) {
    server.addresses("alfa.isy.one", &["192.0.2.1"]);
    let fixture = start_with(watched(server)).await;
    let host = fixture.join("h1").await;
    let mut agent = Agent::connect(&host).await;
    fixture.create("alfa").await;
    agent.plan_of(&["alfa"]).await;
    agent.converge().await;
    // After its first convergence, the plan says that there is data.
    next_plan(&mut agent, |tenant| !tenant.seed.may_fill()).await;
    (fixture, agent)
}

/// Waits for a plan with a tenant that `fits`.
async fn next_plan(agent: &mut Agent, fits: impl Fn(&TenantPlan) -> bool) {
    while !agent
        .plan
        .as_ref()
        .is_some_and(|plan| plan.tenants.iter().all(&fits))
    {
        agent
            .until(|m| matches!(m, coordinator_message::Message::Plan(_)))
            .await;
    }
}

fn client(fixture: &Fixture) -> DomainServiceClient<Channel> {
    DomainServiceClient::new(fixture.admin.clone())
}

fn adding(domain: &str) -> v1::AddDomainRequest {
    v1::AddDomainRequest {
        name: "alfa".into(),
        domain: domain.into(),
        ..v1::AddDomainRequest::default()
    }
}

async fn add(
    fixture: &Fixture,
    request: v1::AddDomainRequest,
) -> Result<v1::AddDomainResponse, Status> {
    soon(client(fixture).add_domain(request))
        .await
        .map(tonic::Response::into_inner)
}

async fn list(fixture: &Fixture, name: &str) -> Vec<v1::Domain> {
    let request = v1::ListDomainsRequest {
        name: name.into(),
        ..v1::ListDomainsRequest::default()
    };
    client(fixture)
        .list_domains(request)
        .await
        .unwrap()
        .into_inner()
        .domains
}

/// The domain, once it is in `state`.
async fn until(fixture: &Fixture, state: v1::DomainState) -> v1::Domain {
    soon(async {
        loop {
            let domain = list(fixture, "")
                .await
                .into_iter()
                .find(|domain| domain.state() == state);
            if let Some(domain) = domain {
                return domain;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}
