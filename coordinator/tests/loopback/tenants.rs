//! Operators and their tenants: from the request to the route, bad input, lists, and a coordinator that restarts.
//!
//! Not here: domains, pages and what edges get, which have their own files.

use std::time::Duration;

use isyone_proto::{
    error::reason,
    pb::v1::{
        self, event_service_client::EventServiceClient,
        operation_service_client::OperationServiceClient,
    },
};
use tonic::Code;

use crate::support::{Agent, Fixture, soon, start, start_in, with_alfa};

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

    // The second identical request finds it.
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
    counted(&fixture).await;
}

/// Our own metrics count one host, with its session.
async fn counted(fixture: &Fixture) {
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

fn creation(name: &str, spec: v1::TenantSpec) -> v1::CreateTenantRequest {
    v1::CreateTenantRequest {
        name: name.into(),
        spec: Some(spec),
        ..v1::CreateTenantRequest::default()
    }
}

/// Creates with one thing wrong, and the field that is named for it.
fn bad_creations() -> Vec<(v1::CreateTenantRequest, &'static str)> {
    let spec = v1::TenantSpec::default;
    let names = ["Alfa", "www", "a;rm -rf /", "null", "xn--lfa-hoa"];
    let named = names.map(|name| (creation(name, spec()), "name"));
    let country = v1::TenantSpec {
        country: "UK".into(),
        ..spec()
    };
    let domain = v1::TenantSpec {
        domains: vec!["nope".into()],
        ..spec()
    };
    let plan = v1::TenantSpec {
        plan: "huge".into(),
        ..spec()
    };
    let values = [
        (creation("alfa", country), "spec.country"),
        (creation("alfa", domain), "spec.domains[0]"),
        (creation("alfa", plan), "spec.plan"),
    ];
    named.into_iter().chain(values).collect()
}

#[tokio::test]
async fn bad_input_is_named_and_nothing_is_stored() {
    let fixture = start().await;
    let spec = v1::TenantSpec::default;
    let mut client = fixture.tenants();
    for (request, field) in bad_creations() {
        let error = client.create_tenant(request).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        let details = tonic_types::StatusExt::get_details_bad_request(&error).unwrap();
        assert_eq!(details.field_violations[0].field, field);
    }
    let error = client
        .create_tenant(creation("alfa", spec()))
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
    let huge = creation(
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
async fn the_end_of_a_create_is_told_when_the_edge_has_its_route() {
    let fixture = start().await;
    let host = fixture.join("h1").await;
    let mut agent = Agent::connect(&host).await;
    // An edge polls.
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
    let mut last = v1::Operation::default();
    while last.waiting_for != "edges" {
        last = soon(watch.message()).await.unwrap().unwrap();
        assert!(!last.done, "no edge has its route: {last:?}");
    }
    assert_eq!(last.stage, "route");
    let until = tokio::time::Instant::now() + Duration::from_millis(300);
    while let Ok(message) = tokio::time::timeout_at(until, watch.message()).await {
        assert!(!message.unwrap().unwrap().done, "no edge has its route");
    }
    fixture.published("/traefik/config", "alfa.isy.one").await;
    // Told once more, perhaps, that it waits.
    let told = async { while !watch.message().await.unwrap().unwrap().done {} };
    soon(told).await;
}

#[tokio::test]
async fn tenants_are_listed_in_pages() {
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
}

#[tokio::test]
async fn operations_are_listed_the_newest_first_and_only_active_ones_when_asked() {
    let (fixture, _host, mut agent) = with_alfa().await;
    for name in ["beta", "gama", "delta"] {
        fixture.create(name).await;
    }
    agent.plan_of(&["alfa", "beta", "delta", "gama"]).await;
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
    // The create of alfa may still wait for edges.
    let active = async {
        loop {
            let page = operations.list_operations(request.clone()).await.unwrap();
            if page.into_inner().operations.len() == 3 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(active).await;
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
    // No report yet, but the route is there.
    assert!(
        again
            .http("/traefik/config")
            .await
            .1
            .contains("Host(`alfa.isy.one`)")
    );
    // Silence does not mean "gone": whatever should run stays monitored.
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

/// Fails if an edition is shown as what runs beside images that are not its own.
#[tokio::test]
async fn a_tenant_with_other_images_than_its_editions_is_shown_so() {
    let fixture = start().await;
    let host = fixture.join("h1").await;
    let mut agent = Agent::connect(&host).await;
    assert!(!fixture.create("alfa").await.tenant.unwrap().other_images);
    let spec = v1::TenantSpec {
        odoo_image: "registry.example.com/odoo:19.0-own".into(),
        ..v1::TenantSpec::default()
    };
    let request = v1::CreateTenantRequest {
        name: "beta".into(),
        spec: Some(spec),
        ..v1::CreateTenantRequest::default()
    };
    let made = fixture.tenants().create_tenant(request).await.unwrap();
    assert!(made.into_inner().tenant.unwrap().other_images);
    agent.plan_of(&["alfa", "beta"]).await;
}
