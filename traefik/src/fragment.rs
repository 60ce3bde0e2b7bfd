//! One tenant's routers and services.
//!
//! Not here: which host names it may have (routes) and what all tenants share (the crate's head, tls).

use std::net::SocketAddr;

use crate::{
    CLOSED_PATHS, CLOSED_PRIORITY, Fragment, HEALTH_INTERVAL, HEALTH_TIMEOUT, Options, PAGE_PRIORITY, PAGES,
    Route, Target, WEBSOCKET_PRIORITY,
    dynamic::{HealthCheck, Router, RouterTls, Server, Service},
    json, tls,
};

/// Routers' names have an underscore before what follows the tenant's name: no label has one, so a tenant `alfa-closed` does not meet
/// the closed router of `alfa`.
pub(crate) fn fragment(options: &Options, route: &Route, hosts: &[&str]) -> Fragment {
    let mut fragment = Fragment::default();
    let name = format!("odoo-{}", route.tenant);
    let host_rule = hosts.iter().map(|h| format!("Host(`{h}`)")).collect::<Vec<_>>().join(" || ");
    match route.target {
        Target::Suspended => {
            let page = Entry::page(options, hosts, &host_rule, PAGES, &["isyone-rate", "isyone-suspended"]);
            put(&mut fragment.routers, &name, page.json(options));
        }
        Target::Running { address, http_port, websocket_port } => {
            let server = |port| Server { url: format!("http://{}", SocketAddr::new(address, port)) };
            let chain = ["isyone-rate", "isyone-scheme", "isyone-compress"];
            let page = Entry::page(options, hosts, &host_rule, &name, &chain);
            put(&mut fragment.routers, &name, page.json(options));
            let check =
                HealthCheck { interval: HEALTH_INTERVAL, path: "/web/health", timeout: HEALTH_TIMEOUT };
            put(&mut fragment.services, &name, json(&Service::single(server(http_port), Some(check))));
            // The service behind an allow list of nobody is never asked; Traefik's own no-op makes sure of it.
            let closed = Entry {
                rule: &format!("({host_rule}) && ({CLOSED_PATHS})"),
                priority: CLOSED_PRIORITY,
                service: "noop@internal",
                middlewares: &["isyone-closed"],
                tls: RouterTls::default(),
            };
            put(&mut fragment.routers, &format!("{name}_closed"), closed.json(options));
            if let Some(port) = websocket_port {
                let service = format!("{name}_websocket");
                let socket = Entry {
                    rule: &format!("({host_rule}) && PathPrefix(`/websocket`)"),
                    priority: WEBSOCKET_PRIORITY,
                    service: &service,
                    middlewares: &["isyone-rate", "isyone-scheme"],
                    tls: RouterTls::default(),
                };
                put(&mut fragment.routers, &service, socket.json(options));
                put(&mut fragment.services, &service, json(&Service::single(server(port), None)));
            }
        }
    }
    fragment
}

fn put(map: &mut String, name: &str, value: String) {
    map.extend([",\n\"", name, "\":", &value]);
}

/// A router of a tenant.
struct Entry<'a> {
    rule: &'a str,
    priority: u32,
    service: &'a str,
    middlewares: &'a [&'a str],
    /// When Traefik ends TLS: whence its certificates.
    tls: RouterTls<'a>,
}

impl<'a> Entry<'a> {
    /// The router for everything; it is also the one that asks a resolver for certificates.
    fn page(
        options: &'a Options,
        hosts: &[&'a str],
        rule: &'a str,
        service: &'a str,
        middlewares: &'a [&'a str],
    ) -> Self {
        let tls = options.tls.as_ref().map(|tls| tls::of_page(tls, hosts)).unwrap_or_default();
        Self { rule, priority: PAGE_PRIORITY, service, middlewares, tls }
    }

    fn json(self, options: &Options) -> String {
        let Self { rule, priority, service, middlewares, tls } = self;
        let mut chain: Vec<&str> = middlewares.to_vec();
        let (entry_points, tls) = match &options.tls {
            None => (options.entry_points.as_slice(), None),
            Some(on) => {
                chain.extend((on.hsts_seconds > 0).then_some(tls::HSTS));
                (std::slice::from_ref(&on.entry_point), Some(tls))
            }
        };
        json(&Router { entry_points, middlewares: &chain, priority, rule, service, tls })
    }
}
