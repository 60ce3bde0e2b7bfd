//! One tenant's routers, services and middlewares.
//!
//! Not here: which host names a tenant may have (routes), and what all tenants share (the crate's root, tls, pages).

use std::net::{IpAddr, SocketAddr};

use crate::{
    FULL_PRIORITY, Fragment, ODOO, Options, PAGE_PRIORITY, PAGES, PRIMARY_PRIORITY, Route, Target,
    UPLOADS, WEBSOCKET_PRIORITY,
    dynamic::{IpStrategy, Middleware, RouterTls, Server, Service},
    json,
    pages::{self, router},
    tls,
};

/// Requests that may be redirected to the primary host name: only browsers send them, and the answer is the same under
/// each name. POSTs from programs, websockets and health checks stay on the name they asked for.
const SENT_ELSEWHERE: &str =
    "(Method(`GET`) || Method(`HEAD`)) && !PathPrefix(`/websocket`) && !Path(`/web/health`)";

/// In router names an underscore separates the tenant's name from what follows. No label contains one, so the routers
/// of a tenant `alfa-closed` cannot clash with the closed router of `alfa`.
pub(crate) fn fragment(options: &Options, route: &Route, hosts: &[&str]) -> Fragment {
    let mut parts = Parts::new(options, route, hosts);
    match route.target {
        Target::Page => parts.page(PAGES, &["isyone-headers", "isyone-page"]),
        Target::Running {
            address,
            http_port,
            websocket_port,
        } => {
            parts.running(address, http_port, websocket_port);
            parts.full();
        }
    }
    parts.primary();
    parts.fragment
}

/// A fragment under construction.
struct Parts<'a> {
    options: &'a Options,
    route: &'a Route,
    hosts: &'a [&'a str],
    /// `odoo-<tenant>`.
    name: String,
    /// The rule that matches all of the tenant's host names.
    rule: String,
    /// Middlewares that keep visitors out; they come before the password.
    limits: Vec<String>,
    /// The password middleware, if there is one.
    users: Option<String>,
    fragment: Fragment,
}

impl<'a> Parts<'a> {
    fn new(options: &'a Options, route: &'a Route, hosts: &'a [&'a str]) -> Self {
        let name = format!("odoo-{}", route.tenant);
        let rule = any_host(hosts);
        let mut parts = Self {
            options,
            route,
            hosts,
            name,
            rule,
            limits: Vec::new(),
            users: None,
            fragment: Fragment::default(),
        };
        parts.access();
        parts
    }

    /// Adds the tenant's own middlewares, if it has any.
    fn access(&mut self) {
        let access = &self.route.access;
        let clients = IpStrategy::of(&self.options.trusted_proxies);
        if !access.addresses.is_empty() {
            let addresses = self.middleware(
                "addresses",
                &Middleware::allow(&access.addresses, clients.clone()),
            );
            self.limits.push(addresses);
        }
        let rate = access
            .rate
            .map(|rate| self.middleware("rate", &Middleware::own_rate(rate, clients)));
        self.limits
            .push(rate.unwrap_or_else(|| "isyone-rate".to_owned()));
        self.users = (!access.users.is_empty())
            .then(|| self.middleware("users", &Middleware::users(&access.users)));
    }

    fn middleware(&mut self, suffix: &str, middleware: &Middleware) -> String {
        let name = format!("{}_{suffix}", self.name);
        put(&mut self.fragment.middlewares, &name, &json(middleware));
        name
    }

    fn running(&mut self, address: IpAddr, http_port: u16, websocket_port: Option<u16>) {
        let server = |port| Server {
            url: format!("http://{}", SocketAddr::new(address, port)),
        };
        let name = self.name.clone();
        put(
            &mut self.fragment.services,
            &name,
            &json(&Service::single(server(http_port), ODOO)),
        );
        self.page(
            &name,
            &[
                "isyone-headers",
                "isyone-away",
                "isyone-scheme",
                "isyone-compress",
            ],
        );
        self.closed();
        let socket = format!("{name}_websocket");
        if let Some(port) = websocket_port {
            put(
                &mut self.fragment.services,
                &socket,
                &json(&Service::single(server(port), ODOO)),
            );
        }
        let service = if websocket_port.is_some() {
            &socket
        } else {
            &name
        };
        // Websockets are neither compressed nor counted as requests in flight: they stay open.
        let rule = format!("({}) && PathPrefix(`/websocket`)", self.rule);
        let chain = self.chain(true, &["isyone-scheme"]);
        let sockets = router(
            self.options,
            &rule,
            WEBSOCKET_PRIORITY,
            service,
            &borrowed(&chain),
            RouterTls::default(),
        );
        put(&mut self.fragment.routers, &socket, &sockets);
        if self.users.is_some() || !self.route.access.addresses.is_empty() {
            // The answer reveals only that the tenant exists, and monitoring has no password.
            let rule = format!("({}) && Path(`/web/health`)", self.rule);
            let chain = self.chain(false, &[]);
            let chain: Vec<&str> = chain
                .iter()
                .map(String::as_str)
                .filter(|m| !m.ends_with("_addresses"))
                .collect();
            let health = router(
                self.options,
                &rule,
                WEBSOCKET_PRIORITY,
                &name,
                &chain,
                RouterTls::default(),
            );
            put(
                &mut self.fragment.routers,
                &format!("{name}_health"),
                &health,
            );
        }
    }

    /// Closes the internal paths under the tenant's own domains. For platform names one router does it for all tenants
    /// ([`pages::closed`]): one more router per tenant would add a third to an edge's work for each change.
    fn closed(&mut self) {
        let own: Vec<&str> = self
            .hosts
            .iter()
            .copied()
            .filter(|host| !self.options.is_of_platform(host))
            .collect();
        if !own.is_empty() {
            let closed = pages::closed(self.options, &any_host(&own));
            put(
                &mut self.fragment.routers,
                &format!("{}_closed", self.name),
                &closed,
            );
        }
    }

    /// Refuses uploads when there is no room for them. The edge answers by itself, before it has read the body: only the
    /// page comes from the coordinator.
    fn full(&mut self) {
        if !self.route.full {
            return;
        }
        let rule = format!("({}) && {UPLOADS}", self.rule);
        let mut chain = self.chain(true, &["isyone-headers", "isyone-full-page", "isyone-full"]);
        chain.insert(self.limits.len(), "isyone-in-flight".to_owned());
        let refused = router(
            self.options,
            &rule,
            FULL_PRIORITY,
            "noop@internal",
            &borrowed(&chain),
            RouterTls::default(),
        );
        put(
            &mut self.fragment.routers,
            &format!("{}_full", self.name),
            &refused,
        );
    }

    /// The router for everything else; it is also the one that asks a resolver for certificates.
    fn page(&mut self, service: &str, then: &[&str]) {
        let tls = self
            .options
            .tls
            .as_ref()
            .map(|tls| tls::of_page(tls, self.hosts))
            .unwrap_or_default();
        // Before the password: checking a hash costs milliseconds of CPU, even for a wrong guess.
        let mut chain = self.chain(true, then);
        chain.insert(self.limits.len(), "isyone-in-flight".to_owned());
        let page = router(
            self.options,
            &self.rule,
            PAGE_PRIORITY,
            service,
            &borrowed(&chain),
            tls,
        );
        put(&mut self.fragment.routers, &self.name, &page);
    }

    /// Redirects browsers from the other names to the primary one.
    fn primary(&mut self) {
        let Some(primary) = self
            .route
            .primary
            .as_deref()
            .filter(|primary| self.hosts.contains(primary))
        else {
            return;
        };
        let others: Vec<&str> = self
            .hosts
            .iter()
            .copied()
            .filter(|host| *host != primary)
            .collect();
        if others.is_empty() {
            return;
        }
        let port = self
            .options
            .port
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        let base = format!("{}://{primary}{port}", self.options.scheme.as_str());
        let to = self.middleware("primary", &Middleware::to_host(&base));
        let rule = format!("({}) && {SENT_ELSEWHERE}", any_host(&others));
        let chain = self.chain(false, &[&to]);
        let redirect = router(
            self.options,
            &rule,
            PRIMARY_PRIORITY,
            "noop@internal",
            &borrowed(&chain),
            RouterTls::default(),
        );
        put(
            &mut self.fragment.routers,
            &format!("{}_primary", self.name),
            &redirect,
        );
    }

    /// The middlewares that keep visitors out (with `password`, also that one), followed by `then`.
    fn chain(&self, password: bool, then: &[&str]) -> Vec<String> {
        let users = self.users.iter().filter(|_| password);
        self.limits
            .iter()
            .chain(users)
            .cloned()
            .chain(then.iter().map(|m| (*m).to_owned()))
            .collect()
    }
}

fn borrowed(chain: &[String]) -> Vec<&str> {
    chain.iter().map(String::as_str).collect()
}

fn any_host(hosts: &[&str]) -> String {
    hosts
        .iter()
        .map(|h| format!("Host(`{h}`)"))
        .collect::<Vec<_>>()
        .join(" || ")
}

fn put(map: &mut String, name: &str, value: &str) {
    map.extend([",\n\"", name, "\":", value]);
}
