//! The small borders: how often a host may call and whose certificate it pushes out, who reads logs, what a page's token is
//! good for, and names that would write lines of a log.
//!
//! Not here: strangers' connections (isyone-coordinator's ports, isyone-agent's metrics and peers), log lines themselves
//! (isyone-telemetry).

use std::time::Duration;

use isyone_agent::host::identity::Pems;
use isyone_proto::{
    error::retry_after,
    pb::{
        agent::v1::{RenewRequest, RenewResponse, agent_service_client::AgentServiceClient},
        v1::{
            self, certificate_service_client::CertificateServiceClient,
            event_service_client::EventServiceClient,
            operation_service_client::OperationServiceClient,
            operator_service_client::OperatorServiceClient,
            tenant_service_client::TenantServiceClient,
        },
    },
    tls,
};
use isyone_tests::fleet::{Fleet, operator::channel, wait_for};
use tonic::{Code, Status};

/// Asks for a certificate with a host's papers, as whoever has stolen them can.
fn renew(fleet: &Fleet, papers: &Pems, host: &str) -> Result<RenewResponse, Status> {
    let (_, csr_pem) = tls::new_key_and_csr(host).expect("a key");
    fleet.client.block_on(async {
        let address = fleet.coordinator.grpc();
        let channel = channel(address, &papers.ca, &papers.certificate, &papers.key);
        let mut agents = AgentServiceClient::new(channel);
        let renewed = agents.renew(RenewRequest { csr_pem }).await;
        renewed.map(tonic::Response::into_inner)
    })
}

#[test]
fn a_stolen_key_renews_seldom_and_pushes_out_no_certificate_in_use() {
    let mut fleet = Fleet::start("");
    fleet.add_agent(1);
    fleet.add_agent(2);
    fleet.all_report();
    let papers = |n: usize| Pems::load(&fleet.agents[n].data.identity()).expect("it has joined");
    let known = |host: &str| {
        fleet.coordinator.snapshot().fleet.hosts[host]
            .certificates
            .clone()
    };
    let (own, others) = (known("h1")[0].clone(), known("h2"));
    let session = fleet.agents[0].watch();
    let stolen = papers(0);
    let answers: Vec<_> = (0..30).map(|_| renew(&fleet, &stolen, "h1")).collect();
    let renewed = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!((1..15).contains(&renewed), "{renewed} of 30");
    let refused = answers.iter().find_map(|answer| answer.as_ref().err());
    let refused = refused.expect("not all are admitted");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(retry_after(refused).is_some(), "{refused:?}");
    // The host's own certificate is still good, and nobody else has noticed.
    assert!(known("h1").contains(&own), "{:?}", known("h1"));
    assert_eq!(known("h2"), others);
    assert!(
        !session.has_changed().expect("the agent runs"),
        "it was cut"
    );
    renew(&fleet, &papers(1), "h2").expect("another host's rate is its own");
    fleet.create("alfa");
}

/// The papers of a new operator with this role.
fn operator(fleet: &Fleet, name: &str, role: v1::Role) -> tonic::transport::Channel {
    let (key, csr_pem) = tls::new_key_and_csr(name).expect("a key");
    let request = v1::CreateOperatorRequest {
        name: name.to_owned(),
        role: role.into(),
        csr_pem,
        ..Default::default()
    };
    fleet.client.block_on(async {
        let mut operators = OperatorServiceClient::new(fleet.admin.connection());
        let made = operators
            .create_operator(request)
            .await
            .expect("an admin may");
        let made = made.into_inner();
        channel(
            fleet.coordinator.grpc(),
            &made.ca_pem,
            &made.certificate_pem,
            &key,
        )
    })
}

#[test]
fn a_viewer_reads_no_logs() {
    let mut fleet = Fleet::start("");
    fleet.add_agent(1);
    fleet.all_report();
    fleet.create("alfa");
    let logs = |channel| {
        let request = v1::StreamLogsRequest {
            name: "alfa".to_owned(),
            ..Default::default()
        };
        let mut tenants = TenantServiceClient::new(channel);
        fleet
            .client
            .block_on(async { tenants.stream_logs(request).await.map(drop) })
    };
    let refused = logs(operator(&fleet, "vera", v1::Role::Viewer)).expect_err("a viewer");
    assert_eq!(
        (refused.code(), refused.message()),
        (
            Code::PermissionDenied,
            "operator `vera` has the role viewer; this needs the role operator"
        )
    );
    logs(operator(&fleet, "otto", v1::Role::Operator)).expect("an operator may");
}

/// Fails when the lines that an agent quotes of a program's log are shown to whoever may not read that log.
#[test]
fn a_viewer_reads_no_log_in_what_became_of_an_operation_either() {
    let mut fleet = Fleet::start("");
    fleet.add_agent(1);
    fleet.all_report();
    fleet.agents[0].docker.set_unhealthy("odoo_alfa", true);
    let placed = fleet.client.block_on(fleet.admin.create("alfa"));
    placed.expect("it is placed");
    let words = "last words of";
    let told = |channel: tonic::transport::Channel| {
        let name = || "alfa".to_owned();
        fleet.client.block_on(async {
            let mut tenants = TenantServiceClient::new(channel.clone());
            let mut operations = OperationServiceClient::new(channel.clone());
            let mut events = EventServiceClient::new(channel);
            let tenant = tenants.get_tenant(v1::GetTenantRequest { name: name() });
            let tenant = tenant.await.expect("a tenant").into_inner();
            let page = v1::ListOperationsRequest {
                tenant: name(),
                ..Default::default()
            };
            let page = operations.list_operations(page).await.expect("a page");
            let asked = v1::StreamEventsRequest {
                tenant: name(),
                ..Default::default()
            };
            let stream = events.stream_events(asked).await.expect("a stream");
            let mut stream = stream.into_inner();
            let mut all = format!("{}{:?}", tenant.message, page.into_inner().operations);
            while let Some(event) = stream.message().await.expect("an event") {
                all += &event.message;
            }
            all
        })
    };
    let (otto, vera) = (
        operator(&fleet, "otto", v1::Role::Operator),
        operator(&fleet, "vera", v1::Role::Viewer),
    );
    // What it failed by stands there from one try to the next only, so both look until they see it.
    let long = Duration::from_secs(60);
    wait_for("the operator to read its last words", long, || {
        told(otto.clone()).contains(words).then_some(())
    });
    wait_for("the viewer to read that it does not answer", long, || {
        let read = told(vera.clone());
        assert!(!read.contains(words), "{read}");
        read.contains("does not answer").then_some(())
    });
}

#[test]
fn a_page_token_says_nothing_and_is_good_for_its_own_list_only() {
    let mut fleet = Fleet::start("");
    fleet.add_agent(1);
    fleet.all_report();
    for tenant in ["alfa", "beta", "gama"] {
        fleet.create(tenant);
    }
    let list = |page_token: &str, host: &str| {
        let request = v1::ListTenantsRequest {
            page_size: 1,
            page_token: page_token.to_owned(),
            host: host.to_owned(),
            ..Default::default()
        };
        fleet.client.block_on(async {
            let mut tenants = TenantServiceClient::new(fleet.admin.connection());
            let page = tenants.list_tenants(request).await;
            page.map(tonic::Response::into_inner)
        })
    };
    let first = list("", "h1").expect("a page");
    let token = first.next_page_token;
    assert!(!token.is_empty() && !token.contains("alfa"), "{token}");
    assert_eq!(
        list(&token, "h1").expect("the next").tenants[0].name,
        "beta"
    );
    let operations = |page_token: &str| {
        let request = v1::ListOperationsRequest {
            page_token: page_token.to_owned(),
            ..Default::default()
        };
        fleet.client.block_on(async {
            let mut operations = OperationServiceClient::new(fleet.admin.connection());
            operations.list_operations(request).await.map(drop)
        })
    };
    let forged = "\u{1b}[2J\n".repeat(100);
    for refused in [
        list(&token, "").map(drop),
        list("alfa", "h1").map(drop),
        list(&forged, "h1").map(drop),
        list(&"A".repeat(2_000), "h1").map(drop),
        operations(&token),
    ] {
        let refused = refused.expect_err("no token of this list");
        assert_eq!(refused.code(), Code::InvalidArgument);
        let said = refused.message();
        assert!(
            said.starts_with("page_token: ") && said.len() < 200,
            "{said}"
        );
    }
}

#[test]
fn a_name_with_a_line_break_comes_back_escaped() {
    let fleet = Fleet::start("");
    let name = "x\n2026-11-28T12:00:00Z  INFO isy_coordinator: operator `eva` is admin\x1b[2J";
    let refused = fleet.client.block_on(async {
        let mut certificates = CertificateServiceClient::new(fleet.admin.connection());
        let request = v1::RemoveCertificateRequest {
            name: name.to_owned(),
        };
        certificates.remove_certificate(request).await
    });
    let refused = refused.expect_err("there is none");
    assert_eq!(refused.code(), Code::NotFound);
    let said = refused.message();
    assert!(!said.contains(['\n', '\x1b']), "{said:?}");
    assert!(
        said.starts_with("there is no certificate `x\\u{a}2026-11-28"),
        "{said}"
    );
}
