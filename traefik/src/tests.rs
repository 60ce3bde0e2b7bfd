//! Golden files (`golden/`; `UPDATE_GOLDEN=1 cargo test -p isyone-traefik` rewrites them) and properties.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn options() -> Options {
    Options {
        base_domain: "isy.one".to_owned(),
        entry_points: vec!["web".to_owned()],
        scheme: Scheme::Http,
        port: None,
        pages_url: "http://127.0.0.1:7480".to_owned(),
        pages_identity: None,
        rate_average: 100,
        rate_burst: 300,
        in_flight: 100,
        trusted_proxies: Vec::new(),
        frame_options: Some("SAMEORIGIN".to_owned()),
        dashboard: None,
        tls: None,
    }
}

/// Traefik ends TLS, with certificates of the coordinator.
fn with_tls() -> Options {
    let tls = Tls {
        entry_point: "websecure".to_owned(),
        hsts_seconds: 15_552_000,
        resolver: None,
        challenges: true,
    };
    Options {
        scheme: Scheme::Https,
        tls: Some(tls),
        ..options()
    }
}

/// And with certificates of its own.
fn with_resolver(wildcard: Option<&str>) -> Options {
    let resolver = Resolver {
        name: "isyone".to_owned(),
        wildcard: wildcard.map(ToOwned::to_owned),
    };
    let tls = with_tls().tls.map(|tls| Tls {
        resolver: Some(resolver),
        challenges: false,
        ..tls
    });
    Options { tls, ..with_tls() }
}

fn running(tenant: &str, hostnames: &[&str], websocket_port: Option<u16>) -> Route {
    Route {
        tenant: tenant.to_owned(),
        hostnames: hostnames.iter().map(|h| (*h).to_owned()).collect(),
        primary: None,
        access: Access::default(),
        target: Target::Running {
            address: [192, 0, 2, 10].into(),
            http_port: 20_000,
            websocket_port,
        },
    }
}

/// All of a document, and what was left out.
#[derive(Debug, PartialEq, Eq)]
struct Rendered {
    json: String,
    rejected: Vec<Rejected>,
}

/// The document of these tenants, put together as the frame says.
fn compose(
    options: &Options,
    routes: &Routes,
    tenants: &BTreeSet<String>,
    certificates: &str,
) -> Rendered {
    let frame = frame(options);
    let (mut routers, mut services, mut middlewares, mut rejected) =
        (String::new(), String::new(), String::new(), Vec::new());
    for tenant in tenants {
        let (fragment, refused) = routes.judge(tenant);
        let fragment = fragment.unwrap_or_default();
        routers += &fragment.routers;
        services += &fragment.services;
        middlewares += &fragment.middlewares;
        rejected.extend(refused);
    }
    let list = certificates
        .strip_prefix(',')
        .map_or(String::new(), |list| frame.certificates.join(list));
    let head = frame.head.join("0123") + &frame.middlewares.join(&middlewares);
    let parts = [
        head,
        frame.routers.join(&routers),
        frame.services.join(&services),
        list,
    ];
    let json = parts.concat() + frame.tail;
    Rendered { json, rejected }
}

fn render(options: &Options, routes: &[Route]) -> Rendered {
    let mut all = Routes::new(options.clone());
    for route in routes {
        all.set(&route.tenant, Some(route.clone()));
    }
    let certificates = if options
        .tls
        .as_ref()
        .is_some_and(|tls| tls.challenges && !routes.is_empty())
    {
        certificate("CHAIN\n", "KEY\n") + &certificate("OTHER\n", "ITS KEY\n")
    } else {
        String::new()
    };
    compose(
        options,
        &all,
        &routes.iter().map(|r| r.tenant.clone()).collect(),
        &certificates,
    )
}

fn golden(name: &str, rendered: &Rendered) {
    let path = format!("{}/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let value: serde_json::Value = serde_json::from_str(&rendered.json).unwrap();
    let text = format!("{}\n", serde_json::to_string_pretty(&value).unwrap());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{path}");
}

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
    route.access = Access {
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

/// Traefik 3 refuses the whole document over one ("cannot be a standalone element"), except for the few that it knows to be flags.
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
    route.access = Access {
        rate: Some(Rate {
            average: 5,
            burst: 10,
        }),
        ..Access::default()
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
fn a_line_of_htpasswd_is_taken_only_as_traefik_reads_it() {
    assert!(is_user("ana:$2y$08$abc") && is_user("ana.b@c:x"));
    for line in [
        "",
        "ana",
        "ana:",
        ":hash",
        "a:b:c",
        "ana:{{.}}",
        "a na:x",
        "ana:x\n",
        "ção:x",
    ] {
        assert!(!is_user(line), "{line:?}");
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

#[test]
fn a_contested_host_name_stays_with_the_first_and_costs_nobody_the_rest() {
    let routes = [
        running("alfa", &["alfa.isy.one", "erp.example.com"], None),
        running("beta", &["beta.isy.one", "erp.example.com"], None),
        running("gama", &["erp.example.com"], None),
    ];
    let rendered = render(&options(), &routes);
    golden("contested", &rendered);
    let rejected: Vec<_> = rendered
        .rejected
        .iter()
        .map(|r| (r.tenant.as_str(), r.hostname.as_deref()))
        .collect();
    assert_eq!(
        rejected,
        [
            ("beta", Some("erp.example.com")),
            ("gama", None),
            ("gama", Some("erp.example.com"))
        ]
    );
}

#[test]
fn what_traefik_would_refuse_is_left_out() {
    let bad_host = [
        "a`) || Path(`/",
        "a b.example",
        "A.example",
        "",
        "a..b",
        "{x}.example",
        "ä.example",
    ];
    for host in bad_host {
        let rendered = render(
            &options(),
            &[running("alfa", &["alfa.isy.one", host], None)],
        );
        assert_eq!(rendered.rejected.len(), 1, "{host:?}");
        assert!(rendered.json.contains("alfa.isy.one"), "{host:?}");
    }
    for name in ["", "a@b", "A", "a_b", "-a"] {
        let rendered = render(&options(), &[running(name, &["x.isy.one"], None)]);
        assert_eq!(
            (rendered.rejected.len(), rendered.json.contains("x.isy.one")),
            (1, false),
            "{name:?}"
        );
    }
    let nowhere = render(&options(), &[running("alfa", &["a.isy.one"], Some(0))]);
    assert_eq!(
        (nowhere.rejected.len(), nowhere.json.contains("alfa")),
        (1, false)
    );
}

#[test]
fn a_tenant_named_like_anothers_router_costs_it_nothing() {
    let routes = ["alfa", "alfa-closed", "alfa-websocket"]
        .map(|name| running(name, &[&format!("{name}.isy.one")], Some(20_001)));
    let document: serde_json::Value =
        serde_json::from_str(&render(&options(), &routes).json).expect("a document");
    // Two each; what says which version an edge runs, what is closed, and what is for unknown names.
    assert_eq!(
        document["http"]["routers"]
            .as_object()
            .map(serde_json::Map::len),
        Some(9)
    );
    assert_eq!(
        document["http"]["services"]
            .as_object()
            .map(serde_json::Map::len),
        Some(7)
    );
}

#[test]
fn a_released_host_name_goes_to_the_next_claimant_who_is_named() {
    let mut routes = Routes::new(options());
    let claim = |tenant: &str| Some(running(tenant, &["erp.example.com"], None));
    for tenant in ["gama", "beta", "alfa"] {
        routes.set(tenant, claim(tenant));
    }
    assert!(routes.judge("beta").1[1].reason.contains("`alfa`"));
    let concerned = routes.set("alfa", None);
    assert_eq!(
        concerned.iter().collect::<Vec<_>>(),
        ["alfa", "beta", "gama"]
    );
    assert!(
        routes.judge("beta").0.is_some() && routes.judge("gama").1[1].reason.contains("`beta`")
    );
    assert!(
        routes.set("beta", claim("beta")).is_empty(),
        "nothing changed"
    );
}

/// Tenants, with the host name when only that is left out.
type LeftOut = Vec<(String, Option<String>)>;

/// What must be in a document, said once more and simply: every route by name, host names to the first who names them.
fn oracle(routes: &BTreeMap<String, Route>) -> (BTreeMap<String, String>, LeftOut) {
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    let mut rejected = BTreeSet::new();
    for (tenant, route) in routes {
        let dead = matches!(
            route.target,
            Target::Running {
                websocket_port: Some(0),
                ..
            }
        );
        if !is_label(tenant) || dead {
            rejected.insert((tenant.clone(), None));
            continue;
        }
        for hostname in &route.hostnames {
            if !is_host_name(hostname)
                || owners
                    .entry(hostname.clone())
                    .or_insert_with(|| tenant.clone())
                    != tenant
            {
                rejected.insert((tenant.clone(), Some(hostname.clone())));
            }
        }
        if !owners.values().any(|owner| owner == tenant) {
            rejected.insert((tenant.clone(), None));
        }
    }
    (owners, rejected.into_iter().collect())
}

/// Host names by the service that they lead to.
fn led(json: &str) -> BTreeMap<String, String> {
    let document: serde_json::Value = serde_json::from_str(json).unwrap();
    let routers = document["http"]["routers"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    let pages = routers
        .iter()
        .filter(|(name, _)| name.starts_with("odoo-") && !name.contains('_'));
    let hosts = pages.flat_map(|(name, router)| {
        let rule = router["rule"].as_str().unwrap().to_owned();
        let tenant = name.strip_prefix("odoo-").unwrap().to_owned();
        rule.split(" || ")
            .map(|h| {
                (
                    h.trim_start_matches("Host(`")
                        .trim_end_matches("`)")
                        .to_owned(),
                    tenant.clone(),
                )
            })
            .collect::<Vec<_>>()
    });
    hosts.collect()
}

proptest! {
    /// After any sequence of changes, keeping only the fragments that were named as concerned gives the document of a
    /// fresh start, and the same is left out; and both are what the simple rule says.
    #[test]
    fn changes_one_by_one_give_the_document_of_a_fresh_start(
        steps in proptest::collection::vec(
            ("[a-d]|-|a-b", proptest::option::of((proptest::collection::vec("[a-c]|[.`]", 0..3), 0..3_u16))), 0..40)
    ) {
        let mut kept = Routes::new(options());
        let mut fragments: BTreeMap<String, (Option<Fragment>, Vec<Rejected>)> = BTreeMap::new();
        let mut wanted: BTreeMap<String, Route> = BTreeMap::new();
        for (tenant, change) in steps {
            let route = change.map(|(hosts, port)| {
                running(&tenant, &hosts.iter().map(String::as_str).collect::<Vec<_>>(), Some(port))
            });
            match &route {
                Some(route) => wanted.insert(tenant.clone(), route.clone()),
                None => wanted.remove(&tenant),
            };
            for concerned in kept.set(&tenant, route) {
                fragments.insert(concerned.clone(), kept.judge(&concerned));
            }
            let mut fresh = Routes::new(options());
            wanted.values().for_each(|route| drop(fresh.set(&route.tenant, Some(route.clone()))));
            for (tenant, judged) in &fragments {
                prop_assert_eq!(judged, &fresh.judge(tenant));
            }
            let rendered = compose(&options(), &fresh, &wanted.keys().cloned().collect(), "");
            let (owners, rejected) = oracle(&wanted);
            prop_assert_eq!(led(&rendered.json), owners);
            let left_out: Vec<_> = rendered.rejected.into_iter().map(|r| (r.tenant, r.hostname)).collect();
            prop_assert_eq!(left_out, rejected);
        }
    }
}

proptest! {
    /// Whatever comes in: the document parses, every host name leads to one tenant, every router's service and
    /// middlewares exist, and the same input gives the same bytes.
    #[test]
    fn the_document_is_closed_in_itself(
        input in proptest::collection::vec(("[a-z-]{0,3}", proptest::collection::vec("[a-c.`]{0,4}", 0..3), any::<Option<u16>>()), 0..12)
    ) {
        let routes: Vec<Route> = input.iter().map(|(tenant, hosts, port)| {
            running(tenant, &hosts.iter().map(String::as_str).collect::<Vec<_>>(), *port)
        }).collect();
        let rendered = render(&options(), &routes);
        prop_assert_eq!(&rendered, &render(&options(), &routes));
        let document: serde_json::Value = serde_json::from_str(&rendered.json).unwrap();
        let http = &document["http"];
        let mut pages = BTreeSet::new();
        for (name, router) in http["routers"].as_object().into_iter().flatten() {
            let service = router["service"].as_str().unwrap();
            prop_assert!(service == "noop@internal" || http["services"].get(service).is_some());
            for middleware in router["middlewares"].as_array().unwrap() {
                prop_assert!(http["middlewares"].get(middleware.as_str().unwrap()).is_some());
            }
            if name.starts_with("odoo-") && !name.contains('_') {
                for host in router["rule"].as_str().unwrap().split(" || ") {
                    prop_assert!(pages.insert(host.to_owned()), "{host} twice");
                }
            }
        }
    }
}
