//! Golden files (`golden/`; `UPDATE_GOLDEN=1 cargo test -p isyone-traefik` rewrites them) and properties.

use proptest::prelude::*;

use super::*;

fn options() -> Options {
    Options {
        entry_points: vec!["web".to_owned()],
        scheme: Scheme::Http,
        pages_url: "http://127.0.0.1:7480".to_owned(),
        rate_average: 100,
        rate_burst: 300,
    }
}

fn running(tenant: &str, hostnames: &[&str], websocket_port: Option<u16>) -> Route {
    Route {
        tenant: tenant.to_owned(),
        hostnames: hostnames.iter().map(|h| (*h).to_owned()).collect(),
        target: Target::Running { address: [192, 0, 2, 10].into(), http_port: 20_000, websocket_port },
    }
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
    assert!(!rendered.json.contains(r#""routers""#));
}

#[test]
fn tenants_with_and_without_workers_and_suspended() {
    let mut suspended = running("gama", &["gama.isy.one"], None);
    suspended.target = Target::Suspended;
    let mut ipv6 = running("delta", &["delta.isy.one"], None);
    ipv6.target =
        Target::Running { address: "2001:db8::1".parse().unwrap(), http_port: 20_001, websocket_port: None };
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
    let options = Options { scheme: Scheme::Https, entry_points: vec!["websecure".into()], ..options() };
    golden("https", &render(&options, &[running("alfa", &["alfa.isy.one"], Some(20_001))]));
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
    let rejected: Vec<_> =
        rendered.rejected.iter().map(|r| (r.tenant.as_str(), r.hostname.as_deref())).collect();
    assert_eq!(
        rejected,
        [("beta", Some("erp.example.com")), ("gama", None), ("gama", Some("erp.example.com"))]
    );
}

#[test]
fn what_traefik_would_refuse_is_left_out() {
    let bad_host = ["a`) || Path(`/", "a b.example", "A.example", "", "a..b", "{x}.example", "ä.example"];
    for host in bad_host {
        let rendered = render(&options(), &[running("alfa", &["alfa.isy.one", host], None)]);
        assert_eq!(rendered.rejected.len(), 1, "{host:?}");
        assert!(rendered.json.contains("alfa.isy.one"), "{host:?}");
    }
    for name in ["", "a@b", "A", "a_b", "-a"] {
        let rendered = render(&options(), &[running(name, &["x.isy.one"], None)]);
        assert_eq!((rendered.rejected.len(), rendered.json.contains("x.isy.one")), (1, false), "{name:?}");
    }
    let twice = [running("alfa", &["a.isy.one"], None), running("alfa", &["b.isy.one"], None)];
    assert_eq!(render(&options(), &twice).rejected.len(), 1);
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
            if !name.ends_with("-closed") && !name.ends_with("-websocket") {
                for host in router["rule"].as_str().unwrap().split(" || ") {
                    prop_assert!(pages.insert(host.to_owned()), "{host} twice");
                }
            }
        }
    }
}
