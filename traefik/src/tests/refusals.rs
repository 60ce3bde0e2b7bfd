//! Names that Traefik would refuse, and names that several tenants claim.

use super::*;

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
    // Two per tenant, plus the version router, the closed paths, and the one for unknown names.
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
