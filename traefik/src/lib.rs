//! Tenants' routes → Traefik v3 dynamic configuration, as JSON (the HTTP provider takes it directly; the file provider
//! takes it under a name ending in `.yml`, JSON being YAML).
//!
//! A document is a [`Frame`] with a [`Fragment`] per tenant, so that a change to one tenant renders one fragment,
//! however many tenants there are. [`Routes`] knows which other tenants' fragments a change affects.
//!
//! Pure: the same routes give the same bytes. Nothing is rendered that Traefik would refuse: a name or host name that
//! does not fit is left out and reported as [`Rejected`], so one bad tenant never costs another its route.
//!
//! Not here: which tenant has which port (coordinator), assembling and publishing documents
//! (coordinator/edges/publish), and the static configuration (deploy/).

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

mod dynamic;
mod fragment;
mod pages;
mod routes;
mod tls;

use dynamic::{IpStrategy, Middleware, Router, Server, ServersTransport, Service};
use fragment::fragment;
pub use pages::{Dashboard, FULL_PATH, PAGE_PATH, UNKNOWN_PATH};
pub use routes::{Routes, is_user};
pub use tls::{Resolver, Tls, certificate};

/// Redirects requests without TLS to HTTPS. Above every priority that Traefik derives itself, below the tenants'.
const REDIRECT_PRIORITY: u32 = 10_000;
/// Above every priority that Traefik derives itself (the length of the rule), so that an operator's catch-all router
/// does not swallow the tenants.
const PAGE_PRIORITY: u32 = 100_000;
/// The redirect to the primary host name: before the page, after what is never redirected.
const PRIMARY_PRIORITY: u32 = 150_000;
/// `/websocket` matches before the rest of the same host.
const WEBSOCKET_PRIORITY: u32 = 200_000;
/// Uploads that are refused: before the tenant's other routers, after what is closed.
const FULL_PRIORITY: u32 = 250_000;
/// Closed paths stay closed whatever else matches.
const CLOSED_PRIORITY: u32 = 300_000;
/// Answers to ACME challenges: before everything, in particular before the redirect to TLS.
const CHALLENGE_PRIORITY: u32 = 400_000;
/// Insufficient Storage (RFC 4918).
const NO_ROOM: u16 = 507;
/// No TCP connection comes from the broadcast address: an allow list with only this address admits nobody.
const NOBODY: &str = "255.255.255.255/32";

/// Host name under which an edge says which document it runs. It is below `.invalid` (RFC 2606): no tenant can have it,
/// and it is in no DNS.
pub const VERSION_HOST: &str = "edge.isyone.invalid";
/// Header of that answer; its value is the document's version.
pub const VERSION_HEADER: &str = "X-Isyone-Version";
/// Name of the router and the middleware that answer for [`VERSION_HOST`].
const VERSION: &str = "isyone-version";
/// Placeholder for the version; nothing else in the frame contains this text.
const VERSION_PLACE: &str = "{version}";

/// Service of the pages that stand in for a tenant; no tenant's service name starts with this prefix.
const PAGES: &str = "isyone-pages";
/// The transport used for all tenants.
const ODOO: &str = "isyone-odoo";
/// Metrics and the database manager, also by XML-RPC: never for visitors. Traefik decodes letters and dots before it compares, but not
/// an encoded slash or at sign (`%2f`, `%40`), which Odoo decodes wherever it stands; and Odoo's website takes a language away from the
/// front.
const CLOSED_PATHS: &str = "PathRegexp(`(?i)^(/|%2f)+([a-z]{2,3}(([_@-]|%40)[a-z0-9]{2,8})?(/|%2f)+)?metrics(/|%2f|$)`) || \
                            PathRegexp(`(?i)^(/|%2f)+([a-z]{2,3}(([_@-]|%40)[a-z0-9]{2,8})?(/|%2f)+)?(web|xmlrpc|xmlrpc(/|%2f)+2)(/|%2f)+(database|db)`)";

/// What counts as an upload: a request with a body of 100,000 bytes or more, or of unknown length, and any to the addresses
/// where Odoo takes files. Smaller bodies pass, or nobody could log in, export and delete to make room. Length and method are
/// all that an edge sees without reading the body.
const UPLOADS: &str = "(Method(`POST`) || Method(`PUT`) || Method(`PATCH`)) && \
                       (HeaderRegexp(`Content-Length`, `^[0-9]{6,}$`) || !HeaderRegexp(`Content-Length`, `^[0-9]+$`) || \
                       PathRegexp(`(?i)^(/|%2f)+(web(/|%2f)+binary(/|%2f)+upload|mail(/|%2f)+attachment(/|%2f)+upload|(web|html)_editor(/|%2f)+attachment(/|%2f)+add_data)`))";

/// The scheme that browsers see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    /// TLS, terminated at the edge or before it.
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

/// Settings that apply to all tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Parent domain of the tenants' platform names: a host name in lower case.
    pub base_domain: String,
    /// The entry points without TLS, as named in Traefik's static configuration.
    pub entry_points: Vec<String>,
    /// Sent to Odoo in `X-Forwarded-Proto`. Traefik by itself would send `wss` on websocket upgrades, and Odoo would
    /// then take page and socket for different origins.
    pub scheme: Scheme,
    /// Port in customers' URLs, when it is not the scheme's default.
    pub port: Option<u16>,
    /// Base URL of the pages that stand in for a tenant, e.g. `http://127.0.0.1:7480`; [`PAGE_PATH`] and
    /// [`UNKNOWN_PATH`] are below it.
    pub pages_url: String,
    /// The certificate to expect there, when it is an `https://` URL of ours.
    pub pages_identity: Option<Identity>,
    /// Average number of requests per second that one client address may send to one tenant.
    pub rate_average: u32,
    /// Burst: requests that it may send at once, whatever the average.
    pub rate_burst: u32,
    /// Requests in flight from one client address to one tenant; websockets do not count.
    pub in_flight: u32,
    /// Proxies in front of the edges that put the client's address in `X-Forwarded-For`. Empty: the peer is the client.
    pub trusted_proxies: Vec<IpNet>,
    /// `X-Frame-Options`: who may embed tenants' pages in a frame. None: the header is not sent.
    pub frame_options: Option<String>,
    /// Traefik's own dashboard, if it is exposed.
    pub dashboard: Option<Dashboard>,
    /// Set when Traefik terminates TLS itself.
    pub tls: Option<Tls>,
}

impl Options {
    /// Whether `host` is the base domain or below it.
    fn is_of_platform(&self, host: &str) -> bool {
        host.strip_suffix(self.base_domain.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

/// The certificate that a server of ours must present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The signing CA, as PEM.
    pub ca_pem: String,
    /// The name that the certificate must be valid for.
    pub server_name: String,
}

/// How visitors reach one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Names routers and services: `odoo-<tenant>`, `odoo-<tenant>_websocket`, ….
    pub tenant: String,
    /// All host names that lead to the tenant.
    pub hostnames: Vec<String>,
    /// The one of them to which browsers are redirected from the others. None: no redirect.
    pub primary: Option<String>,
    pub access: RouteAccess,
    pub target: Target,
    /// Its disk is nearly full: uploads to it are answered 507.
    pub full: bool,
}

/// Who may visit one tenant. By default everybody.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteAccess {
    /// Only clients with these addresses; empty: all clients.
    pub addresses: Vec<IpNet>,
    /// Users and password hashes, as `htpasswd` writes them (`name:hash`). Empty: no password is needed.
    pub users: Vec<String>,
    /// Limit per client address, in place of the one for all tenants.
    pub rate: Option<Rate>,
}

/// Requests from one client address to one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests per second, on average.
    pub average: u32,
    /// Burst: requests at once, whatever the average.
    pub burst: u32,
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// To the tenant on its host.
    Running {
        /// The host's advertised address.
        address: IpAddr,
        /// Published port of Odoo's HTTP server.
        http_port: u16,
        /// Published port of the gevent server; only when Odoo has workers.
        websocket_port: Option<u16>,
    },
    /// To the coordinator's page, which says why the tenant does not answer.
    Page,
}

/// A route or host name that was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rejected {
    pub tenant: String,
    /// Set when only this host name is left out.
    pub hostname: Option<String>,
    /// The reason, for the operator to read.
    pub reason: String,
}

/// One tenant's part of a document: entries of the three maps, each preceded by a comma and a line break.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fragment {
    /// Entries of `routers`; at least one.
    pub routers: String,
    /// Entries of `services`; empty when the tenant has only a page.
    pub services: String,
    /// Entries of `middlewares`; empty when the tenant has none of its own.
    pub middlewares: String,
}

/// What surrounds the fragments. No map is ever empty: Traefik refuses that as a "standalone element".
///
/// An edge that is asked for [`VERSION_HOST`] answers with [`VERSION_HEADER`]. There is no other way to know what it
/// runs: Traefik applies a document some time after it fetches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The start of the document, with what all tenants share: the parts before and after the version.
    pub head: [String; 2],
    /// Before and after the tenants' middlewares; the map is never empty without them.
    pub middlewares: [String; 2],
    /// Before and after the routers; there is always at least one.
    pub routers: [String; 2],
    /// Before and after the services; there is always at least one.
    pub services: [String; 2],
    /// Before and after the [`certificate`]s (drop the first one's comma). Leave both out when there are no
    /// certificates.
    pub certificates: [String; 2],
    /// The end of the document.
    pub tail: &'static str,
}

/// The frame shared by all documents.
pub fn frame(options: &Options) -> Frame {
    let tls = options.tls.as_ref();
    let middlewares = json(&shared_middlewares(options));
    // The map stays open: the tenants' own middlewares follow.
    let middlewares = middlewares.strip_suffix('}').unwrap_or(&middlewares);
    let (before, after) = middlewares
        .split_once(VERSION_PLACE)
        .unwrap_or((middlewares, ""));
    let transports = BTreeMap::from([
        (ODOO, ServersTransport::hosts()),
        (
            PAGES,
            ServersTransport::pages(options.pages_identity.as_ref()),
        ),
    ]);
    let transports = format!(",\"serversTransports\":{}", json(&transports));
    let pages = Service::single(
        Server {
            url: options.pages_url.clone(),
        },
        PAGES,
    );
    let routers = tls
        .map(|tls| tls::routers(tls, options))
        .unwrap_or_default()
        + &pages::routers(options);
    // The end of `http`, and the start of `tls` if there is one.
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

/// The middlewares that tenants share, by name; every document has them.
fn shared_middlewares(options: &Options) -> BTreeMap<&'static str, Middleware> {
    let clients = IpStrategy::of(&options.trusted_proxies);
    let mut middlewares = BTreeMap::from([
        (
            "isyone-away",
            Middleware::errors(PAGES, &format!("{PAGE_PATH}?status={{status}}"), "502-504"),
        ),
        ("isyone-closed", Middleware::deny(NOBODY, 404)),
        ("isyone-compress", Middleware::compress()),
        ("isyone-full", Middleware::deny(NOBODY, NO_ROOM)),
        (
            "isyone-full-page",
            Middleware::errors(PAGES, FULL_PATH, "507"),
        ),
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

/// The router that says which document an edge runs. It has no TLS: there is no certificate for that name.
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

/// Cannot fail: our own plain structs, string keys only, no foreign impls.
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

/// Lower-case ASCII only: no backtick, no regular expression, nothing that could break out of the rule's quotes.
fn is_host_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests;
