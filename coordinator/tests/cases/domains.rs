//! Tenants' own domains: a real coordinator asks a name server on loopback.

use isyone_coordinator::{
    base::config::Config,
    testing::dns::{NameServer, Zone},
};
use isyone_proto::{
    error::reason,
    pb::{
        agent::v1::coordinator_message,
        v1::{
            self, domain_service_client::DomainServiceClient,
            event_service_client::EventServiceClient,
            operation_service_client::OperationServiceClient,
        },
    },
    plan::TenantPlan,
};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status, transport::Channel};

use crate::support::{Agent, Fixture, soon, start_with};

/// Looked at every second, so that three looks in a row are soon over.
fn watched(server: &NameServer) -> impl Fn(&mut Config) + use<> {
    let address = server.address;
    move |config| {
        config.dns.servers = vec![address];
        let second = toml::from_str("interval = \"1s\"\nretry = \"1s\"");
        let every: isyone_coordinator::base::config::Dns = second.unwrap();
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
    // From its first convergence on, the plan says that there is data.
    next_plan(&mut agent, |tenant| tenant.activated).await;
    (fixture, agent)
}

/// Waits for a plan whose tenant is so.
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

#[tokio::test]
async fn a_domain_may_lead_to_a_trusted_proxy() {
    let server = NameServer::start().await;
    let address = server.address;
    let fixture = start_with(move |config| {
        config.dns.servers = vec![address];
        config.edge.public_addresses = vec!["192.0.2.1".parse().unwrap()];
        config.edge.trusted_proxies = vec!["198.51.100.0/24".parse().unwrap()];
    })
    .await;
    let host = fixture.join("h1").await;
    let _agent = Agent::connect(&host).await;
    fixture.create("alfa").await;
    server.addresses("erp.customer.com", &["198.51.100.7"]);
    add(&fixture, adding("erp.customer.com")).await.unwrap();
    server.addresses("shop.customer.com", &["198.51.100.7", "2001:db8::9"]);
    let error = add(&fixture, adding("shop.customer.com"))
        .await
        .unwrap_err();
    assert!(
        error
            .message()
            .contains("no edge has 2001:db8::9: who comes by IPv6 gets elsewhere"),
        "{error}"
    );
}

#[tokio::test]
async fn the_platforms_name_can_be_made_primary_again() {
    let server = NameServer::start().await;
    let (fixture, mut agent) = with_alfa(&server).await;
    server.addresses("erp.customer.com", &["192.0.2.1"]);
    let primary = |domain: &str| v1::AddDomainRequest {
        primary: true,
        ..adding(domain)
    };
    add(&fixture, primary("erp.customer.com")).await.unwrap();
    next_plan(&mut agent, |tenant| {
        tenant.base_url == "http://erp.customer.com"
    })
    .await;
    agent.converge().await;
    let back = add(&fixture, primary("Alfa.isy.one.")).await.unwrap();
    assert_eq!(back.operation.unwrap().kind(), v1::OperationKind::Update);
    let [own] = &back.domains[..] else {
        panic!("{:?}", back.domains)
    };
    assert!(
        own.platform && own.primary && own.name == "alfa.isy.one",
        "{own:?}"
    );
    next_plan(&mut agent, |tenant| {
        tenant.base_url == "http://alfa.isy.one"
    })
    .await;
    let primaries: Vec<bool> = list(&fixture, "alfa")
        .await
        .iter()
        .map(|domain| domain.primary)
        .collect();
    assert_eq!(primaries, [true, false], "and the domain stays");
    assert_eq!(
        add(&fixture, primary("alfa.isy.one"))
            .await
            .unwrap()
            .operation,
        None
    );
    for refused in [
        adding("alfa.isy.one"),
        primary("beta.isy.one"),
        v1::AddDomainRequest {
            with_www: true,
            ..primary("alfa.isy.one")
        },
    ] {
        assert_eq!(
            add(&fixture, refused).await.unwrap_err().code(),
            Code::InvalidArgument
        );
    }
}

/// The domain, once it is in that state.
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
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await
}

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
async fn a_domain_is_taken_in_when_dns_leads_it_here_and_refused_with_what_to_set_otherwise() {
    let server = NameServer::start().await;
    let (fixture, _agent) = with_alfa(&server).await;
    server.set("erp.customer.com", Zone::Alias("alfa.isy.one".into()));
    server.addresses("shop.customer.com", &["203.0.113.9"]);
    server.addresses("customer.com", &["203.0.113.9"]);
    server.addresses("www.xn--bcher-kva.example", &["192.0.2.1"]);
    server.addresses("xn--bcher-kva.example", &["192.0.2.1"]);

    let added = add(&fixture, adding("ERP.Customer.com.")).await.unwrap();
    assert_eq!((added.operation, added.warning.as_str()), (None, ""));
    assert_eq!(
        (added.domains[0].name.as_str(), added.domains[0].state()),
        ("erp.customer.com", v1::DomainState::Ok)
    );
    let wide = add(
        &fixture,
        v1::AddDomainRequest {
            with_www: true,
            ..adding("bücher.example")
        },
    )
    .await
    .unwrap();
    let names: Vec<_> = wide
        .domains
        .iter()
        .map(|d| (d.name.as_str(), d.unicode_name.as_str()))
        .collect();
    assert_eq!(
        names,
        [
            ("xn--bcher-kva.example", "bücher.example"),
            ("www.xn--bcher-kva.example", "www.bücher.example")
        ]
    );

    for (domain, words) in [
        (
            "shop.customer.com",
            [
                "A 203.0.113.9",
                "CNAME shop.customer.com → alfa.isy.one",
                "A 192.0.2.1",
            ],
        ),
        (
            "customer.com",
            [
                "A 203.0.113.9",
                "set customer.com A 192.0.2.1",
                "cannot have a CNAME",
            ],
        ),
        (
            "none.customer.com",
            [
                "no such name",
                "CNAME none.customer.com → alfa.isy.one",
                "A 192.0.2.1",
            ],
        ),
    ] {
        let error = add(&fixture, adding(domain)).await.unwrap_err();
        assert_eq!(
            (error.code(), reason(&error).as_deref()),
            (Code::FailedPrecondition, Some("DNS_CHECK_FAILED"))
        );
        for word in words {
            assert!(error.message().contains(word), "{word}: {error}");
        }
    }
    for domain in [
        "*.customer.com",
        "192.0.2.1",
        "isy.one",
        "x.isy.one",
        "alfa.isy.one",
        "nope",
    ] {
        let error = add(&fixture, adding(domain)).await.unwrap_err();
        let details = tonic_types::StatusExt::get_details_bad_request(&error).unwrap();
        assert_eq!(
            (error.code(), details.field_violations[0].field.as_str()),
            (Code::InvalidArgument, "domain")
        );
    }
    fixture.create("beta").await;
    let taken = v1::AddDomainRequest {
        name: "beta".into(),
        ..adding("erp.customer.com")
    };
    assert_eq!(
        reason(&add(&fixture, taken).await.unwrap_err()).as_deref(),
        Some("DOMAIN_TAKEN")
    );

    let all = [
        "alfa.isy.one",
        "erp.customer.com",
        "xn--bcher-kva.example",
        "www.xn--bcher-kva.example",
    ];
    let listed = list(&fixture, "alfa").await;
    assert_eq!(
        listed.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(),
        all
    );
    assert!(listed[0].platform && listed[0].primary && listed[1..].iter().all(|d| !d.primary));
    let request = v1::GetTenantRequest {
        name: "alfa".into(),
    };
    let shown = fixture
        .tenants()
        .get_tenant(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        shown
            .domains
            .iter()
            .map(|d| d.name.as_str())
            .collect::<Vec<_>>(),
        all
    );

    let request = |domain: &str| v1::RemoveDomainRequest {
        name: "alfa".into(),
        domain: domain.into(),
        ..v1::RemoveDomainRequest::default()
    };
    client(&fixture)
        .remove_domain(request("Bücher.example"))
        .await
        .unwrap();
    let error = client(&fixture)
        .remove_domain(request("bücher.example"))
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), reason(&error).as_deref()),
        (Code::NotFound, Some("DOMAIN_NOT_FOUND"))
    );
    let error = client(&fixture)
        .remove_domain(request("alfa.isy.one"))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_cname_that_a_former_customer_left_behind_is_not_another_tenants() {
    let server = NameServer::start().await;
    let (fixture, _agent) = with_alfa(&server).await;
    // Tenant `beta` is gone; the platform's names are there for everybody (`*.isy.one`).
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
    // Who can change it may have it.
    server.set("erp.old.example", Zone::Alias("alfa.isy.one".into()));
    add(&fixture, adding("erp.old.example")).await.unwrap();
    // And by and by it is looked at in the same way.
    server.set("erp.old.example", Zone::Alias("beta.isy.one".into()));
    let domain = until(&fixture, v1::DomainState::Unreachable).await;
    assert!(
        domain.found.contains("CNAME → beta.isy.one")
            && domain.found.contains("beta.isy.one is not alfa.isy.one"),
        "{domain:?}"
    );
}

#[tokio::test]
async fn who_skips_the_check_is_warned_and_where_the_edges_are_must_be_known() {
    let server = NameServer::start().await;
    let (fixture, _agent) = with_alfa(&server).await;
    server.addresses("erp.customer.com", &["192.0.2.1"]);
    server.set("alfa.isy.one", Zone::Broken);
    let error = add(&fixture, adding("erp.customer.com")).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(
        error.message().contains("[edge] public_addresses"),
        "{error}"
    );
    let skipped = v1::AddDomainRequest {
        skip_dns_check: true,
        ..adding("erp.customer.com")
    };
    let added = add(&fixture, skipped).await.unwrap();
    assert!(
        added.warning.contains("DNS was not asked"),
        "{}",
        added.warning
    );
    assert_eq!(added.domains[0].name, "erp.customer.com");
}

#[tokio::test]
async fn without_looks_a_primary_is_redirected_to_at_once_and_who_adds_it_is_told() {
    let server = NameServer::start().await;
    let address = server.address;
    let fixture = start_with(move |config| {
        config.dns.servers = vec![address];
        config.dns.interval =
            toml::from_str::<isyone_coordinator::base::config::Dns>("interval = \"0s\"")
                .unwrap()
                .interval;
    })
    .await;
    let host = fixture.join("h1").await;
    let _agent = Agent::connect(&host).await;
    fixture.create("alfa").await;
    let unasked = v1::AddDomainRequest {
        primary: true,
        skip_dns_check: true,
        ..adding("erp.customer.com")
    };
    let added = add(&fixture, unasked).await.unwrap();
    assert!(
        added.warning.contains("redirected to it all the same"),
        "{}",
        added.warning
    );
    assert_eq!(added.domains[0].state(), v1::DomainState::Unknown);
    let request = v1::GetTenantRequest {
        name: "alfa".into(),
    };
    let shown = fixture
        .tenants()
        .get_tenant(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(shown.url, "http://erp.customer.com");
}

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
    // Until the host has it, it is not done; then Odoo calls itself by that name.
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
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let redirect = "http://erp.customer.com/";
    fixture.published("/traefik/config", redirect).await;
    let generation = agent.plan.as_ref().unwrap().generation;

    // Nobody answers: nothing is concluded.
    server.set("alfa.isy.one", Zone::Broken);
    server.set("erp.customer.com", Zone::Broken);
    until(&fixture, v1::DomainState::Unknown).await;
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
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
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
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
