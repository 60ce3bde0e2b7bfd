//! Adding a domain: accepted, refused with what to set, or accepted with a warning.
//!
//! Not here: later checks (looks).

use isyone_coordinator::{
    base::config::Dns,
    testing::dns::{NameServer, Zone},
};
use isyone_proto::{error::reason, pb::v1};
use tonic::Code;

use super::{add, adding, client, list, next_plan, with_alfa};
use crate::support::{Agent, start_with};

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

#[tokio::test]
async fn a_domain_is_taken_in_when_dns_leads_it_here() {
    let server = NameServer::start().await;
    let (fixture, _agent) = with_alfa(&server).await;
    server.set("erp.customer.com", Zone::Alias("alfa.isy.one".into()));
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
}

#[tokio::test]
async fn a_domain_is_removed_once_and_the_platforms_name_stays() {
    let server = NameServer::start().await;
    let (fixture, _agent) = with_alfa(&server).await;
    server.addresses("xn--bcher-kva.example", &["192.0.2.1"]);
    add(&fixture, adding("bücher.example")).await.unwrap();
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
async fn a_domain_that_leads_elsewhere_is_refused_with_what_to_set() {
    let server = NameServer::start().await;
    let (fixture, _agent) = with_alfa(&server).await;
    server.addresses("shop.customer.com", &["203.0.113.9"]);
    server.addresses("customer.com", &["203.0.113.9"]);
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
    assert_eq!(list(&fixture, "alfa").await.len(), 1, "the platform's own");
}

#[tokio::test]
async fn what_is_no_domain_of_the_tenants_own_is_refused() {
    let server = NameServer::start().await;
    let (fixture, _agent) = with_alfa(&server).await;
    server.set("erp.customer.com", Zone::Alias("alfa.isy.one".into()));
    add(&fixture, adding("erp.customer.com")).await.unwrap();
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
    assert_eq!(list(&fixture, "alfa").await.len(), 2, "and nothing else");
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

/// Fails if a domain that nobody looked at is called unreachable.
#[tokio::test]
async fn a_primary_whose_check_was_skipped_is_unknown_until_it_was_looked_at() {
    let server = NameServer::start().await;
    let (fixture, _agent) = with_alfa(&server).await;
    let skipped = v1::AddDomainRequest {
        primary: true,
        skip_dns_check: true,
        ..adding("erp.customer.com")
    };
    let added = add(&fixture, skipped).await.unwrap();
    let domain = &added.domains[0];
    assert_eq!(domain.state(), v1::DomainState::Unknown);
    assert_eq!(domain.since_time, None);
    assert_eq!(domain.found, "DNS was not asked yet");
}

#[tokio::test]
async fn without_looks_a_primary_is_redirected_to_at_once_and_who_adds_it_is_told() {
    let server = NameServer::start().await;
    let address = server.address;
    let fixture = start_with(move |config| {
        config.dns.servers = vec![address];
        config.dns.interval = toml::from_str::<Dns>("interval = \"0s\"").unwrap().interval;
    })
    .await;
    let host = fixture.join("h1").await;
    let mut agent = Agent::connect(&host).await;
    fixture.create("alfa").await;
    agent.plan_of(&["alfa"]).await;
    agent.converge().await;
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
