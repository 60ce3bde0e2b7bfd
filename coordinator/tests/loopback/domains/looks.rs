//! A domain that is checked periodically: what happens when it leads elsewhere, and when nobody answers.
//!
//! Not here: adding one (adding).

use std::time::Duration;

use isyone_coordinator::testing::dns::{NameServer, Zone};
use isyone_proto::{
    error::reason,
    pb::v1::{
        self, event_service_client::EventServiceClient,
        operation_service_client::OperationServiceClient,
    },
};
use tokio_stream::StreamExt as _;
use tonic::Code;

use super::{add, adding, list, next_plan, until, with_alfa};
use crate::support::{Fixture, soon};

async fn kinds(fixture: &Fixture) -> Vec<String> {
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
        .map(|e| e.unwrap().kind)
        .filter(|kind| kind.starts_with("domain."))
        .collect()
        .await
}

#[tokio::test]
async fn a_cname_that_a_former_customer_left_behind_is_not_another_tenants() {
    let server = NameServer::start().await;
    let (fixture, _agent) = with_alfa(&server).await;
    // Tenant `beta` is gone; the platform's names still resolve (`*.isy.one`).
    server.addresses("beta.isy.one", &["192.0.2.1"]);
    server.set("erp.old.example", Zone::Alias("beta.isy.one".into()));
    let error = add(&fixture, adding("erp.old.example")).await.unwrap_err();
    assert_eq!(
        (error.code(), reason(&error).as_deref()),
        (Code::FailedPrecondition, Some("DOMAIN_LEADS_TO_ANOTHER"))
    );
    for words in [
        "erp.old.example leads to beta.isy.one",
        "tenant `alfa`",
        "CNAME erp.old.example → alfa.isy.one",
    ] {
        assert!(error.message().contains(words), "{words}: {error}");
    }
    assert!(list(&fixture, "").await.is_empty());
    // Whoever can change the domain may have it.
    server.set("erp.old.example", Zone::Alias("alfa.isy.one".into()));
    add(&fixture, adding("erp.old.example")).await.unwrap();
    // Periodic checks treat it the same way.
    server.set("erp.old.example", Zone::Alias("beta.isy.one".into()));
    let domain = until(&fixture, v1::DomainState::Unreachable).await;
    assert!(
        domain.found.contains("CNAME → beta.isy.one")
            && domain.found.contains("beta.isy.one is not alfa.isy.one"),
        "{domain:?}"
    );
}

#[expect(
    clippy::too_many_lines,
    reason = "one domain from its first day through trouble and back: each step needs the one before"
)]
#[tokio::test]
async fn browsers_are_sent_to_the_primary_for_as_long_as_it_leads_here() {
    let server = NameServer::start().await;
    let (fixture, mut agent) = with_alfa(&server).await;
    server.addresses("erp.customer.com", &["192.0.2.1"]);
    let added = add(
        &fixture,
        v1::AddDomainRequest {
            primary: true,
            ..adding("erp.customer.com")
        },
    )
    .await
    .unwrap();
    let operation = added.operation.unwrap();
    assert_eq!(operation.kind(), v1::OperationKind::Update);
    // Not done until the host has it; then Odoo uses that name for itself.
    next_plan(&mut agent, |tenant| {
        tenant.base_url == "http://erp.customer.com"
    })
    .await;
    let mut operations = OperationServiceClient::new(fixture.admin.clone());
    let request = || v1::GetOperationRequest {
        id: operation.id.clone(),
    };
    assert!(
        !operations
            .get_operation(request())
            .await
            .unwrap()
            .into_inner()
            .done
    );
    agent.converge().await;
    soon(async {
        while !operations
            .get_operation(request())
            .await
            .unwrap()
            .into_inner()
            .done
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let redirect = "http://erp.customer.com/";
    fixture.published("/traefik/config", redirect).await;
    let generation = agent.plan.as_ref().unwrap().generation;

    // Nobody answers: no conclusion.
    server.set("alfa.isy.one", Zone::Broken);
    server.set("erp.customer.com", Zone::Broken);
    until(&fixture, v1::DomainState::Unknown).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(
        !kinds(&fixture)
            .await
            .contains(&"domain.unreachable".to_owned())
    );

    server.addresses("alfa.isy.one", &["192.0.2.1"]);
    server.addresses("erp.customer.com", &["203.0.113.9"]);
    let domain = until(&fixture, v1::DomainState::Unreachable).await;
    assert!(
        domain.found.contains("no edge has 203.0.113.9") && domain.since_time.is_some(),
        "{domain:?}"
    );
    soon(async {
        while fixture.http("/traefik/config").await.1.contains(redirect) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let request = v1::GetTenantRequest {
        name: "alfa".into(),
    };
    let shown = fixture
        .tenants()
        .get_tenant(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(shown.url, "http://alfa.isy.one");

    server.addresses("erp.customer.com", &["192.0.2.1"]);
    until(&fixture, v1::DomainState::Ok).await;
    fixture.published("/traefik/config", redirect).await;
    assert_eq!(
        kinds(&fixture).await,
        [
            "domain.added",
            "domain.primary",
            "domain.unreachable",
            "domain.recovered"
        ]
    );
    assert_eq!(
        agent.plan.as_ref().unwrap().generation,
        generation,
        "the host has nothing to do with it"
    );
}
