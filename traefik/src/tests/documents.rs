//! What the document says about tenants, TLS, pages and the dashboard, mostly as golden files.

use super::*;

#[test]
fn no_tenant_is_still_a_document_without_empty_maps() {
    let rendered = render(&options(), &[]);
    golden("empty", &rendered);
    let document: serde_json::Value = serde_json::from_str(&rendered.json).expect("a document");
    for map in ["middlewares", "routers", "services"] {
        assert!(
            document["http"][map]
                .as_object()
                .is_some_and(|map| !map.is_empty()),
            "{map}"
        );
    }
    assert!(rendered.json.contains(r#""X-Isyone-Version":"0123""#));
}

#[test]
fn tenants_with_and_without_workers_and_suspended() {
    let mut suspended = running("gama", &["gama.isy.one"], None);
    suspended.target = Target::Page;
    let mut ipv6 = running("delta", &["delta.isy.one"], None);
    ipv6.target = Target::Running {
        address: "2001:db8::1".parse().unwrap(),
        http_port: 20_001,
        websocket_port: None,
    };
    let routes = [
        running("beta", &["beta.isy.one"], None),
        running("alfa", &["alfa.isy.one", "erp.alfa.example"], Some(20_001)),
        suspended,
        ipv6,
    ];
    let rendered = render(&options(), &routes);
    golden("tenants", &rendered);
    assert!(rendered.rejected.is_empty());
}

#[test]
fn https_is_told_to_odoo() {
    let options = Options {
        scheme: Scheme::Https,
        entry_points: vec!["websecure".into()],
        ..options()
    };
    golden(
        "https",
        &render(
            &options,
            &[running("alfa", &["alfa.isy.one"], Some(20_001))],
        ),
    );
}

#[test]
fn https_at_the_edge_has_tls_on_every_router_of_a_tenant_and_a_redirect_for_the_rest() {
    let routes = [running(
        "alfa",
        &["alfa.isy.one", "erp.alfa.example"],
        Some(20_001),
    )];
    golden("tls_coordinator", &render(&with_tls(), &routes));
    golden("tls_empty", &render(&with_tls(), &[]));
    let document: serde_json::Value =
        serde_json::from_str(&render(&with_tls(), &routes).json).unwrap();
    for (name, router) in document["http"]["routers"].as_object().unwrap() {
        let of_tenant = name.starts_with("odoo-")
            || ["isyone-closed", "isyone-unknown"].contains(&name.as_str());
        assert_eq!(router.get("tls").is_some(), of_tenant, "{name}");
        assert_eq!(
            router["entryPoints"][0],
            if of_tenant { "websecure" } else { "web" },
            "{name}"
        );
    }
    let mut silent = with_tls();
    silent.port = Some(8443);
    silent.tls = silent.tls.map(|tls| Tls {
        hsts_seconds: 0,
        ..tls
    });
    let rendered = render(&silent, &routes).json;
    assert!(
        !rendered.contains("stsSeconds") && rendered.contains(r#""port":"8443""#),
        "{rendered}"
    );
}

#[test]
fn browsers_are_sent_to_the_primary_name_and_nobody_is_sent_to_one_that_is_not_served() {
    let mut route = running(
        "alfa",
        &["alfa.isy.one", "erp.alfa.example", "www.alfa.example"],
        Some(20_001),
    );
    route.primary = Some("erp.alfa.example".to_owned());
    golden(
        "primary",
        &render(
            &Options {
                port: Some(8443),
                ..with_tls()
            },
            &[route.clone()],
        ),
    );
    for primary in ["other.example", "beta.isy.one"] {
        route.primary = Some(primary.to_owned());
        let others = [running("aaaa", &["beta.isy.one"], None), route.clone()];
        assert!(
            !render(&with_tls(), &others).json.contains("redirectRegex"),
            "{primary}"
        );
    }
    route.hostnames.truncate(1);
    route.primary = Some("alfa.isy.one".to_owned());
    assert!(
        !render(&with_tls(), &[route]).json.contains("redirectRegex"),
        "there is nothing to send elsewhere"
    );
}

#[test]
fn a_tenant_with_limits_of_its_own_and_a_dashboard_behind_a_password() {
    let mut route = running("alfa", &["alfa.isy.one"], Some(20_001));
    route.access = RouteAccess {
        addresses: vec!["203.0.113.0/24".parse().unwrap()],
        users: vec!["ana:$2y$05$abc".to_owned()],
        rate: Some(Rate {
            average: 5,
            burst: 10,
        }),
    };
    let mut page = running("beta", &["beta.isy.one"], None);
    (page.target, page.access) = (Target::Page, route.access.clone());
    let dashboard = Dashboard {
        hostname: "traefik.isy.one".to_owned(),
        users: vec!["ops:$2y$05$abc".to_owned()],
        addresses: vec!["192.0.2.0/24".parse().unwrap()],
    };
    let options = Options {
        dashboard: Some(dashboard),
        trusted_proxies: vec!["198.51.100.0/24".parse().unwrap()],
        ..with_tls()
    };
    golden("access", &render(&options, &[route.clone(), page]));
    route.access.users.push("no hash".to_owned());
    let rendered = render(&options, &[route, running("beta", &["beta.isy.one"], None)]);
    assert_eq!(
        (rendered.rejected.len(), rendered.json.contains("odoo-alfa")),
        (1, false)
    );
}

/// Traefik 3 refuses the whole document over one ("cannot be a standalone element"), except where it knows the field as
/// a flag.
#[test]
fn nothing_in_a_document_is_an_empty_object() {
    fn look(path: &str, value: &serde_json::Value) {
        let empty = value.as_object().is_some_and(serde_json::Map::is_empty);
        assert!(!empty || path.ends_with(".tls"), "{path}");
        let fields = value.as_object().into_iter().flatten();
        fields.for_each(|(name, value)| look(&format!("{path}.{name}"), value));
    }
    let mut route = running("alfa", &["alfa.isy.one", "erp.alfa.example"], Some(20_001));
    route.primary = Some("erp.alfa.example".to_owned());
    route.access = RouteAccess {
        rate: Some(Rate {
            average: 5,
            burst: 10,
        }),
        ..RouteAccess::default()
    };
    for options in [options(), with_tls(), with_resolver(None)] {
        look(
            "",
            &serde_json::from_str(&render(&options, &[route.clone()]).json).unwrap(),
        );
        look(
            "",
            &serde_json::from_str(&render(&options, &[]).json).unwrap(),
        );
    }
}

#[test]
fn pages_over_tls_are_believed_for_our_own_certificate_only() {
    let identity = Identity {
        ca_pem: "CA\n".to_owned(),
        server_name: "coordinator.example".to_owned(),
    };
    let options = Options {
        pages_url: "https://192.0.2.1:7445".to_owned(),
        pages_identity: Some(identity),
        ..with_tls()
    };
    golden("tls_pages", &render(&options, &[]));
}

#[test]
fn a_resolver_is_asked_for_a_certificate_for_each_name_so_that_a_broken_one_costs_no_other() {
    let routes = [running(
        "alfa",
        &["alfa.isy.one", "erp.alfa.example", "a.b.isy.one"],
        None,
    )];
    let domains = |wildcard| {
        let rendered = render(&with_resolver(wildcard), &routes).json;
        let document: serde_json::Value = serde_json::from_str(&rendered).unwrap();
        let tls = &document["http"]["routers"]["odoo-alfa"]["tls"];
        assert_eq!(tls["certResolver"], "isyone");
        let names = tls["domains"]
            .as_array()
            .unwrap()
            .iter()
            .map(|d| d["main"].as_str().unwrap().to_owned());
        let closed = &document["http"]["routers"]["odoo-alfa_closed"];
        assert_eq!(closed["tls"], serde_json::json!({}));
        let rule = closed["rule"].as_str().unwrap();
        assert!(
            rule.starts_with("(Host(`erp.alfa.example`)) && "),
            "of the others, one router for all takes care: {rule}"
        );
        names.collect::<Vec<_>>()
    };
    assert_eq!(
        domains(None),
        ["alfa.isy.one", "erp.alfa.example", "a.b.isy.one"]
    );
    assert_eq!(
        domains(Some("*.isy.one")),
        ["*.isy.one", "erp.alfa.example", "a.b.isy.one"]
    );
    golden("tls_resolver", &render(&with_resolver(None), &routes));
}

/// Uploads are refused by the edge itself, before its other routers and without asking for the body; who may not visit the
/// tenant is told nothing.
#[test]
fn a_tenant_without_room_takes_no_uploads() {
    let mut route = running("alfa", &["alfa.isy.one", "erp.alfa.example"], Some(20_001));
    route.full = true;
    route.access.addresses = vec!["203.0.113.0/24".parse().unwrap()];
    let rendered = render(&options(), std::slice::from_ref(&route));
    golden("full", &rendered);
    let document: serde_json::Value = serde_json::from_str(&rendered.json).unwrap();
    let refused = &document["http"]["routers"]["odoo-alfa_full"];
    let middlewares = refused["middlewares"].as_array().unwrap();
    assert_eq!(middlewares[0], "odoo-alfa_addresses");
    assert_eq!(middlewares.last().unwrap(), "isyone-full");
    assert!(refused["priority"].as_u64() > Some(u64::from(WEBSOCKET_PRIORITY)));
    // A page in a suspended tenant's place takes none anyway.
    route.target = Target::Page;
    let page = render(&options(), &[route]);
    assert!(!page.json.contains("odoo-alfa_full"));
}
