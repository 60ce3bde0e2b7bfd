//! Tenants' routes → Traefik v3 dynamic configuration, as JSON (which the HTTP provider takes as it is, and the file
//! provider under a name ending in `.yml`, JSON being YAML).
//!
//! A document is a [`Frame`] with a [`Fragment`] for each tenant in it, so that a change of one tenant renders one
//! fragment, however many there are. [`Routes`] knows whose fragment another tenant's change concerns.
//!
//! Pure: the same routes give the same bytes. Nothing is rendered that Traefik would refuse: a name or host name that
//! does not fit is left out and [`Rejected`], so one bad tenant never costs another its route.
//!
//! Not here: who has which port (coordinator), putting documents together and publishing them (coordinator/edges/publish), and
//! the static configuration (deploy/).

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

mod dynamic;
mod fragment;
mod pages;
mod routes;
mod tls;

use dynamic::{IpStrategy, Middleware, Router, Server, ServersTransport, Service};
use fragment::fragment;
pub use pages::{Dashboard, PAGE_PATH, UNKNOWN_PATH};
pub use routes::{Routes, is_user};
pub use tls::{Resolver, Tls, certificate};

/// What comes without TLS is sent to it. Above every priority that Traefik itself derives, below the tenants'.
const REDIRECT_PRIORITY: u32 = 10_000;
/// Above every priority that Traefik itself derives (the length of a rule), so that an operator's catch-all router
/// does not swallow the tenants.
const PAGE_PRIORITY: u32 = 100_000;
/// To the primary host name: before the page, after what is never sent elsewhere.
const PRIMARY_PRIORITY: u32 = 150_000;
/// `/websocket` goes before the rest of the same host.
const WEBSOCKET_PRIORITY: u32 = 200_000;
/// What is closed to the outside is closed whatever else matches.
const CLOSED_PRIORITY: u32 = 300_000;
/// The answers that certificates are issued on: before everything, the redirect to TLS above all.
const CHALLENGE_PRIORITY: u32 = 400_000;
/// Often enough to see a broken Odoo within a dozen seconds, seldom enough that 120 tenants cost 12 requests a second.
const HEALTH_INTERVAL: &str = "10s";
/// An Odoo that needs longer for `/web/health` cannot serve pages either.
const HEALTH_TIMEOUT: &str = "5s";
/// No TCP connection comes from the broadcast address: an allow list of it alone admits nobody.
const NOBODY: &str = "255.255.255.255/32";

/// Host name under which an edge says which document it runs: below `.invalid` (RFC 2606), so no tenant's and in no DNS.
pub const VERSION_HOST: &str = "edge.isyone.invalid";
/// Header of that answer, with the document's version in it.
pub const VERSION_HEADER: &str = "X-Isyone-Version";
/// Router and middleware that answer it.
const VERSION: &str = "isyone-version";
/// Where the version goes; nothing else in the frame reads like it.
const VERSION_PLACE: &str = "{version}";

/// Service of the pages that stand in for a tenant; no tenant's begins like it.
const PAGES: &str = "isyone-pages";
/// The transport to all tenants.
const ODOO: &str = "isyone-odoo";
/// Metrics and the database manager, also by XML-RPC: never for visitors. Traefik leaves an encoded slash as it is and Odoo does not.
const CLOSED_PATHS: &str = "Path(`/metrics`) || PathPrefix(`/metrics/`) || PathPrefix(`/web/database`) || \
                            PathPrefix(`/xmlrpc/db`) || PathPrefix(`/xmlrpc/2/db`) || \
                            PathRegexp(`(?i)^/(web|xmlrpc|xmlrpc(/|%2f)+2)(/|%2f)+(database|db)`)";

/// How browsers see the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
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
    /// Tenants' platform names are below it: lower-case, a host name.
    pub base_domain: String,
    /// Names of the entry points in Traefik's static configuration, without TLS.
    pub entry_points: Vec<String>,
    /// Told to Odoo in `X-Forwarded-Proto`. Traefik alone would say `wss` on websocket upgrades, and Odoo then thinks
    /// that page and socket differ.
    pub scheme: Scheme,
    /// Port in customers' URLs, when it is not the scheme's own.
    pub port: Option<u16>,
    /// Base of the pages that stand in for a tenant, e.g. `http://127.0.0.1:7480`; [`PAGE_PATH`] and [`UNKNOWN_PATH`] are below it.
    pub pages_url: String,
    /// The certificate that is expected there, when it is an `https://` URL of ours.
    pub pages_identity: Option<Identity>,
    /// Requests per second that one client address may make of one tenant, on average.
    pub rate_average: u32,
    /// Requests that it may make at once, whatever the average.
    pub rate_burst: u32,
    /// Requests of one client address to one tenant that are answered at the same time; websockets do not count.
    pub in_flight: u32,
    /// Who stands before the edges and says in `X-Forwarded-For` for whom it asks; empty: nobody, the peer is the client.
    pub trusted_proxies: Vec<IpNet>,
    /// `X-Frame-Options`: who may show tenants' pages in a frame; none: not said.
    pub frame_options: Option<String>,
    /// Traefik's own dashboard, if it is to be reached.
    pub dashboard: Option<Dashboard>,
    /// Traefik ends TLS itself.
    pub tls: Option<Tls>,
}

impl Options {
    /// Whether it is the base domain or below it.
    fn is_of_platform(&self, host: &str) -> bool {
        host.strip_suffix(self.base_domain.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

/// Whose certificate a server of ours must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The CA that signed it, as PEM.
    pub ca_pem: String,
    /// The name that the certificate must have.
    pub server_name: String,
}

/// How visitors reach one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Names routers and services: `odoo-<tenant>`, `odoo-<tenant>_websocket`, ….
    pub tenant: String,
    /// All that lead to the tenant.
    pub hostnames: Vec<String>,
    /// The one of them that browsers are sent to from the others; none: each is as good.
    pub primary: Option<String>,
    pub access: RouteAccess,
    pub target: Target,
}

/// Who gets in to one tenant. The default is everybody.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteAccess {
    /// Only clients with these addresses; empty: all.
    pub addresses: Vec<IpNet>,
    /// Only who knows one of these, as `htpasswd` writes them (`name:hash`); empty: nobody is asked.
    pub users: Vec<String>,
    /// Requests per second and at once from one client address, in place of what holds for all tenants.
    pub rate: Option<Rate>,
}

/// Requests from one client address to one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Per second, on average.
    pub average: u32,
    /// At once, whatever the average.
    pub burst: u32,
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
    /// At the coordinator's page, which says why.
    Page,
}

/// What was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rejected {
    pub tenant: String,
    /// The host name, when only that is left out.
    pub hostname: Option<String>,
    /// Why, for the operator to read.
    pub reason: String,
}

/// One tenant's part of a document: entries of the three maps, each with a comma and a line break before it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fragment {
    /// Of `routers`; at least one.
    pub routers: String,
    /// Of `services`; none when there is only a page.
    pub services: String,
    /// Of `middlewares`; none when the tenant is like all others.
    pub middlewares: String,
}

/// What is around the fragments. No map is ever empty: Traefik refuses that as a "standalone element".
///
/// An edge that is asked for [`VERSION_HOST`] answers with [`VERSION_HEADER`]: only so can be known what it runs, for Traefik
/// takes up what it fetches when it gets round to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Before and after the document's version: begin of the document, with what all tenants share.
    pub head: [String; 2],
    /// Before and after the middlewares that are single tenants'; there are always others.
    pub middlewares: [String; 2],
    /// Before and after the routers; there is always one.
    pub routers: [String; 2],
    /// Before and after the services; there is always one.
    pub services: [String; 2],
    /// Before and after the [`certificate`]s, without the first one's comma; left out as a whole when there is none.
    pub certificates: [String; 2],
    /// The end of the document.
    pub tail: &'static str,
}

/// The frame of every document.
pub fn frame(options: &Options) -> Frame {
    let tls = options.tls.as_ref();
    let middlewares = json(&shared_middlewares(options));
    // The map stays open: tenants' own follow.
    let middlewares = middlewares.strip_suffix('}').unwrap_or(&middlewares);
    let (before, after) = middlewares
        .split_once(VERSION_PLACE)
        .unwrap_or((middlewares, ""));
    let transports = BTreeMap::from([
        (ODOO, ServersTransport::new(None)),
        (
            PAGES,
            ServersTransport::new(options.pages_identity.as_ref()),
        ),
    ]);
    let transports = format!(",\"serversTransports\":{}", json(&transports));
    let pages = Service::single(
        Server {
            url: options.pages_url.clone(),
        },
        None,
        PAGES,
    );
    let routers = tls
        .map(|tls| tls::routers(tls, options))
        .unwrap_or_default()
        + &pages::routers(options);
    // The end of `http`, and the begin of `tls` if there is one.
    let then = tls.map_or_else(String::new, |_| {
        format!(",\"tls\":{{\"options\":{}", tls::options())
    });
    Frame {
        head: [
            format!("{{\"http\":{{\"middlewares\":{before}"),
            after.to_owned(),
        ],
        middlewares: [String::new(), format!("}}{transports}")],
        routers: [
            format!(
                ",\"routers\":{{\n\"{VERSION}\":{}{routers}",
                version(options)
            ),
            "\n}".to_owned(),
        ],
        services: [
            format!(",\"services\":{{\n\"{PAGES}\":{}", json(&pages)),
            format!("\n}}}}{then}"),
        ],
        certificates: [",\"certificates\":[".to_owned(), "\n]".to_owned()],
        tail: if tls.is_some() { "}}\n" } else { "}\n" },
    }
}

/// What every document has, by name: the middlewares that tenants share.
fn shared_middlewares(options: &Options) -> BTreeMap<&'static str, Middleware> {
    let clients = IpStrategy::of(&options.trusted_proxies);
    let mut middlewares = BTreeMap::from([
        (
            "isyone-away",
            Middleware::errors(PAGES, &format!("{PAGE_PATH}?status={{status}}")),
        ),
        ("isyone-closed", Middleware::deny(NOBODY)),
        ("isyone-compress", Middleware::compress()),
        (
            "isyone-headers",
            Middleware::security(options.frame_options.as_deref()),
        ),
        (
            "isyone-in-flight",
            Middleware::in_flight(options.in_flight, clients.clone()),
        ),
        ("isyone-page", Middleware::replace_path(PAGE_PATH)),
        (
            "isyone-rate",
            Middleware::rate(options.rate_average, options.rate_burst, clients.clone()),
        ),
        ("isyone-unknown", Middleware::replace_path(UNKNOWN_PATH)),
        (
            "isyone-scheme",
            Middleware::request_header("X-Forwarded-Proto", options.scheme.as_str()),
        ),
        (
            VERSION,
            Middleware::response_header(VERSION_HEADER, VERSION_PLACE),
        ),
    ]);
    middlewares.extend(
        options
            .tls
            .iter()
            .flat_map(|tls| tls::middlewares(tls, options.port)),
    );
    middlewares.extend(
        options
            .dashboard
            .iter()
            .flat_map(|board| board.middlewares(clients.clone())),
    );
    middlewares
}

/// The router that says which document an edge runs: without TLS, which it has no certificate for.
fn version(options: &Options) -> String {
    json(&Router {
        entry_points: &options.entry_points,
        middlewares: &[VERSION],
        priority: CLOSED_PRIORITY,
        rule: &format!("Host(`{VERSION_HOST}`)"),
        service: "noop@internal",
        tls: None,
    })
}

/// Our own plain structs: string keys only, no foreign impls, so it cannot fail.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Lower-case ASCII only: no backtick, no regular expression, nothing that could leave the rule's quotes.
fn is_host_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests;
