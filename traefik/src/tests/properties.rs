//! Changing routes one by one or all at once gives the same document, and a valid one.

use proptest::prelude::*;

use super::*;

/// Tenants that were left out, with the host name when only that is left out.
type LeftOut = Vec<(String, Option<String>)>;

/// A simple second implementation of what must be in a document: every route by name, each host name to the first
/// tenant that names it.
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

/// The services that host names lead to, by host name.
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
    /// After any sequence of changes, re-rendering only the affected fragments gives the same document and the same
    /// rejections as a fresh start, and both agree with the oracle.
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
    /// Whatever the input: the document parses, every host name leads to one tenant, every router's service and
    /// middlewares exist, and the same input gives the same bytes.
    #[test]
    fn the_document_is_closed_in_itself(
        input in proptest::collection::vec(("[a-z-]{0,3}", proptest::collection::vec("[a-c.`]{0,4}", 0..3), any::<Option<u16>>()), 0..12)
    ) {
        let routes: Vec<Route> = input.iter().map(|(tenant, hosts, port)| {
            let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
            Route { full: hosts.len() == 1, ..running(tenant, &hosts, *port) }
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
