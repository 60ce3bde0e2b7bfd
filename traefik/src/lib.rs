//! Tenants' routes → Traefik v3 dynamic configuration, as JSON (which the HTTP provider takes as it is, and the file
//! provider under a name ending in `.yml`, JSON being YAML).
//!
//! Pure: the same routes give the same bytes. Nothing is rendered that Traefik would refuse: a name or host name that
//! does not fit is left out and reported in [`Rendered::rejected`], so one bad tenant never costs another its route.
//!
//! Not here: who has which port (coordinator), when it is published (coordinator/publish), and the static
//! configuration (deploy/).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

mod dynamic;

use dynamic::{Dynamic, Http, Middleware, Router, Server, Service};

/// Above every priority that Traefik itself derives (the length of a rule), so that an operator's catch-all router
/// does not swallow the tenants.
const PAGE_PRIORITY: u32 = 100_000;
/// `/websocket` goes before the rest of the same host.
const WEBSOCKET_PRIORITY: u32 = 200_000;
/// What is closed to the outside is closed whatever else matches.
const CLOSED_PRIORITY: u32 = 300_000;
/// Often enough to see a broken Odoo within a dozen seconds, seldom enough that 120 tenants cost 12 requests a second.
const HEALTH_INTERVAL: &str = "10s";
/// An Odoo that needs longer for `/web/health` cannot serve pages either.
const HEALTH_TIMEOUT: &str = "5s";
/// No TCP connection comes from the broadcast address: an allow list of it alone admits nobody.
const NOBODY: &str = "255.255.255.255/32";

/// Metrics and the database manager: never for visitors.
const CLOSED_PATHS: &str = "Path(`/metrics`) || PathPrefix(`/metrics/`) || PathPrefix(`/web/database`)";

/// How browsers see the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain.
    Http,
    /// TLS, ended at the edge or before it.
    Https,
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// What holds for all tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Names of the entry points in Traefik's static configuration.
    pub entry_points: Vec<String>,
    /// Told to Odoo in `X-Forwarded-Proto`. Traefik alone would say `wss` on websocket upgrades, and Odoo then thinks
    /// that page and socket differ.
    pub scheme: Scheme,
    /// Base of the pages that stand in for a tenant, e.g. `http://127.0.0.1:7480`; `/pages/suspended` is below it.
    pub pages_url: String,
    /// Requests per second that one client address may make of one tenant, on average.
    pub rate_average: u32,
    /// And at once.
    pub rate_burst: u32,
}

/// One tenant's way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Names routers and services: `odoo-<tenant>`.
    pub tenant: String,
    /// All that lead to the tenant.
    pub hostnames: Vec<String>,
    /// Where they lead.
    pub target: Target,
}

/// Where a route ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// At the tenant's host.
    Running {
        /// The host's advertised address.
        address: IpAddr,
        /// Published port of Odoo's HTTP server.
        http_port: u16,
        /// Published port of the gevent server, when Odoo has workers.
        websocket_port: Option<u16>,
    },
    /// At the page that says so.
    Suspended,
}

/// What was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rejected {
    /// The tenant.
    pub tenant: String,
    /// The host name, when only that is left out.
    pub hostname: Option<String>,
    /// For the operator.
    pub reason: String,
}

/// A configuration that Traefik takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The document: compact JSON, keys sorted.
    pub json: String,
    /// What is not in it.
    pub rejected: Vec<Rejected>,
}

/// Renders the routes. Their order decides contested host names: the first to name one keeps it.
pub fn render(options: &Options, routes: &[Route]) -> Rendered {
    let mut admission = Admission::default();
    let mut http = shared(options);
    for route in routes {
        if let Some(hosts) = admission.admit(route) {
            add_route(&mut http, options, route, &hosts);
        }
    }
    let mut rejected = admission.rejected;
    rejected.sort();
    // Serialising our own plain structs cannot fail: string keys only, no foreign impls.
    let json = serde_json::to_string(&Dynamic { http }).unwrap_or_default();
    Rendered { json, rejected }
}

/// Which host names are taken, and by whom.
#[derive(Default)]
struct Admission<'a> {
    tenants: BTreeSet<&'a str>,
    hostnames: BTreeMap<&'a str, &'a str>,
    rejected: Vec<Rejected>,
}

impl<'a> Admission<'a> {
    /// The host names that the route may have; `None` when the whole route is left out.
    fn admit(&mut self, route: &'a Route) -> Option<Vec<&'a str>> {
        if let Some(reason) = self.refusal(route) {
            self.reject(route, None, reason);
            return None;
        }
        self.tenants.insert(&route.tenant);
        let mut admitted = Vec::new();
        for hostname in &route.hostnames {
            if !is_host_name(hostname) {
                self.reject(route, Some(hostname), "is not a host name".to_owned());
            } else if let Some(owner) = self.hostnames.get(hostname.as_str()).copied() {
                if owner != route.tenant {
                    self.reject(route, Some(hostname), format!("already leads to `{owner}`"));
                }
            } else {
                self.hostnames.insert(hostname, &route.tenant);
                admitted.push(hostname.as_str());
            }
        }
        if admitted.is_empty() {
            self.reject(route, None, "no host name is left".to_owned());
            return None;
        }
        Some(admitted)
    }

    fn refusal(&self, route: &Route) -> Option<String> {
        if !is_label(&route.tenant) {
            return Some("the name is not a DNS label".to_owned());
        }
        if self.tenants.contains(route.tenant.as_str()) {
            return Some("the tenant is there twice".to_owned());
        }
        match route.target {
            Target::Running { http_port: 0, .. } | Target::Running { websocket_port: Some(0), .. } => {
                Some("port 0 cannot be reached".to_owned())
            }
            Target::Running { .. } | Target::Suspended => None,
        }
    }

    fn reject(&mut self, route: &Route, hostname: Option<&String>, reason: String) {
        self.rejected.push(Rejected { tenant: route.tenant.clone(), hostname: hostname.cloned(), reason });
    }
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Lower-case ASCII only: no backtick, no regular expression, nothing that could leave the rule's quotes.
fn is_host_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// What is there without any tenant. Never empty maps: Traefik refuses them as "standalone elements".
fn shared(options: &Options) -> Http {
    let middlewares = [
        ("isyone-closed", Middleware::deny(NOBODY)),
        ("isyone-compress", Middleware::compress()),
        ("isyone-rate", Middleware::rate(options.rate_average, options.rate_burst)),
        ("isyone-scheme", Middleware::request_header("X-Forwarded-Proto", options.scheme.as_str())),
        ("isyone-suspended", Middleware::replace_path("/pages/suspended")),
    ];
    let pages = Service::single(Server { url: options.pages_url.clone() }, None);
    Http {
        middlewares: middlewares.into_iter().map(|(name, m)| (name.to_owned(), m)).collect(),
        routers: BTreeMap::new(),
        services: BTreeMap::from([("isyone-pages".to_owned(), pages)]),
    }
}

fn add_route(http: &mut Http, options: &Options, route: &Route, hosts: &[&str]) {
    let name = format!("odoo-{}", route.tenant);
    let host_rule = hosts.iter().map(|h| format!("Host(`{h}`)")).collect::<Vec<_>>().join(" || ");
    let router = |rule: String, priority, service: &str, middlewares: &[&str]| Router {
        entry_points: options.entry_points.clone(),
        middlewares: middlewares.iter().map(|m| (*m).to_owned()).collect(),
        priority,
        rule,
        service: service.to_owned(),
    };
    match route.target {
        Target::Suspended => {
            let page = router(host_rule, PAGE_PRIORITY, "isyone-pages", &["isyone-rate", "isyone-suspended"]);
            http.routers.insert(name, page);
        }
        Target::Running { address, http_port, websocket_port } => {
            let server = |port| Server { url: format!("http://{}", SocketAddr::new(address, port)) };
            let closed = format!("({host_rule}) && ({CLOSED_PATHS})");
            http.routers.insert(
                format!("{name}-closed"),
                // The service behind an allow list of nobody is never asked; Traefik's own no-op makes sure of it.
                router(closed, CLOSED_PRIORITY, "noop@internal", &["isyone-closed"]),
            );
            if let Some(port) = websocket_port {
                let rule = format!("({host_rule}) && PathPrefix(`/websocket`)");
                let service = format!("{name}-websocket");
                let socket = router(rule, WEBSOCKET_PRIORITY, &service, &["isyone-rate", "isyone-scheme"]);
                http.routers.insert(service.clone(), socket);
                http.services.insert(service, Service::single(server(port), None));
            }
            let chain = ["isyone-rate", "isyone-scheme", "isyone-compress"];
            http.routers.insert(name.clone(), router(host_rule, PAGE_PRIORITY, &name, &chain));
            let check = dynamic::HealthCheck {
                interval: HEALTH_INTERVAL.to_owned(),
                path: "/web/health".to_owned(),
                timeout: HEALTH_TIMEOUT.to_owned(),
            };
            http.services.insert(name, Service::single(server(http_port), Some(check)));
        }
    }
}

#[cfg(test)]
mod tests;
