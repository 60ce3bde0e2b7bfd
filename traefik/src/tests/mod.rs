//! Whole documents (`documents`), what is left out of them (`refusals`), closed paths (`closed`), and properties. The golden files are in
//! `golden/`; `UPDATE_GOLDEN=1 cargo test -p isyone-traefik` rewrites them.

mod closed;
mod documents;
mod properties;
mod refusals;

use std::collections::BTreeSet;

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

/// Traefik terminates TLS, with certificates from the coordinator.
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

/// Traefik terminates TLS, with certificates from its own resolver.
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
        access: RouteAccess::default(),
        target: Target::Running {
            address: [192, 0, 2, 10].into(),
            http_port: 20_000,
            websocket_port,
        },
        full: false,
    }
}

/// A whole document, and what was left out.
#[derive(Debug, PartialEq, Eq)]
struct Rendered {
    json: String,
    rejected: Vec<Rejected>,
}

/// The document for these tenants, assembled as [`Frame`] describes.
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
