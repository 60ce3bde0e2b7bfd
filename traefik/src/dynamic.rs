//! The part of Traefik's dynamic configuration that we write, field for field. Fields are in alphabetical order, as in
//! the rendered document.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::Serialize;

use crate::{Identity, Rate};

/// Content worth compressing. Everything else (pictures, archives, office documents) is compressed already, and event
/// streams must not wait for a full buffer.
const COMPRESSIBLE: [&str; 11] = [
    "application/javascript",
    "application/json",
    "application/manifest+json",
    "application/xml",
    "image/svg+xml",
    "text/css",
    "text/csv",
    "text/html",
    "text/javascript",
    "text/plain",
    "text/xml",
];

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Router<'a> {
    pub(crate) entry_points: &'a [String],
    #[serde(skip_serializing_if = "<[&str]>::is_empty")]
    pub(crate) middlewares: &'a [&'a str],
    pub(crate) priority: u32,
    pub(crate) rule: &'a str,
    pub(crate) service: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<RouterTls<'a>>,
}

/// Marks a router as one for TLS: empty when its certificates come from elsewhere.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RouterTls<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cert_resolver: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) domains: Vec<TlsDomain<'a>>,
}

/// One certificate that a resolver should get.
#[derive(Serialize)]
pub(crate) struct TlsDomain<'a> {
    pub(crate) main: &'a str,
}

/// TLS versions and ciphers that the edge accepts.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TlsOptions {
    pub(crate) alpn_protocols: [&'static str; 2],
    pub(crate) cipher_suites: [&'static str; 6],
    pub(crate) min_version: &'static str,
    pub(crate) sni_strict: bool,
}

/// A certificate and its key as PEM: Traefik accepts the content in place of a path.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CertificatePair<'a> {
    pub(crate) cert_file: &'a str,
    pub(crate) key_file: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Service {
    load_balancer: LoadBalancer,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LoadBalancer {
    servers: [Server; 1],
    servers_transport: &'static str,
}

/// Give up on a connection after this time. With Traefik's default of 30 s, visitors would stare at an empty window
/// when a host is gone; 3 s still leaves time to resend a packet once.
const DIAL_TIMEOUT: &str = "3s";
/// Traefik's default, which does not apply once a transport is configured.
const IDLE_TIMEOUT: &str = "90s";
/// Of connections to hosts. A host that is gone from one moment to the next says nothing: a request on a connection that was
/// open by then would wait for TCP to give up, a quarter of an hour, where a new connection has failed after [`DIAL_TIMEOUT`].
/// Who loads a page still uses one connection for all of it.
const HOST_IDLE_TIMEOUT: &str = "2s";
/// Likewise: Go's own default is two.
const IDLE_CONNECTIONS: u32 = 200;

/// How Traefik talks to servers. There is no limit on the time to respond: a report in Odoo takes minutes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServersTransport<'a> {
    forwarding_timeouts: ForwardingTimeouts,
    max_idle_conns_per_host: u32,
    #[serde(rename = "rootCAs", skip_serializing_if = "Option::is_none")]
    root_cas: Option<[&'a str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ForwardingTimeouts {
    dial_timeout: &'static str,
    idle_conn_timeout: &'static str,
}

impl<'a> ServersTransport<'a> {
    /// To tenants' hosts.
    pub(crate) fn hosts() -> Self {
        Self::new(HOST_IDLE_TIMEOUT, None)
    }

    /// To the coordinator's pages; TLS if there is an identity.
    pub(crate) fn pages(identity: Option<&'a Identity>) -> Self {
        Self::new(IDLE_TIMEOUT, identity)
    }

    fn new(idle_conn_timeout: &'static str, identity: Option<&'a Identity>) -> Self {
        let forwarding_timeouts = ForwardingTimeouts {
            dial_timeout: DIAL_TIMEOUT,
            idle_conn_timeout,
        };
        Self {
            forwarding_timeouts,
            max_idle_conns_per_host: IDLE_CONNECTIONS,
            root_cas: identity.map(|identity| [identity.ca_pem.as_str()]),
            server_name: identity.map(|identity| identity.server_name.as_str()),
        }
    }
}

#[derive(Serialize)]
pub(crate) struct Server {
    pub(crate) url: String,
}

impl Service {
    /// Without a health check: one that fails could only take the only server away from everybody, because a few requests are long.
    /// Who answers, or what is shown instead, is decided for each request, by the host's relay and the pages.
    pub(crate) fn single(server: Server, servers_transport: &'static str) -> Self {
        Self {
            load_balancer: LoadBalancer {
                servers: [server],
                servers_transport,
            },
        }
    }
}

/// An IPv6 customer has at least a /64 (RFC 6177): a client that changes its address within it would never hit a limit
/// on single addresses.
const IPV6_CUSTOMER: u8 = 64;

/// Which address counts as the client's: the peer's, or behind trusted proxies the last one in `X-Forwarded-For` that
/// is not a proxy's (none for clients that bypass the proxies). At least one field must be set: Traefik refuses an
/// empty one as a "standalone element".
#[derive(Serialize, Debug, Clone)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IpStrategy {
    #[serde(rename = "excludedIPs", skip_serializing_if = "Vec::is_empty")]
    excluded_ips: Vec<String>,
    #[serde(rename = "ipv6Subnet", skip_serializing_if = "Option::is_none")]
    ipv6_subnet: Option<u8>,
}

impl IpStrategy {
    /// For allow lists. None: use the peer's address.
    pub(crate) fn of(trusted: &[IpNet]) -> Option<Self> {
        (!trusted.is_empty()).then(|| Self {
            excluded_ips: trusted.iter().map(ToString::to_string).collect(),
            ipv6_subnet: None,
        })
    }

    /// For rate limits. Behind proxies Traefik counts single IPv6 addresses.
    fn counting(clients: Option<Self>) -> Self {
        clients.unwrap_or(Self {
            excluded_ips: Vec::new(),
            ipv6_subnet: Some(IPV6_CUSTOMER),
        })
    }
}

/// What a limit counts requests by.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SourceCriterion {
    ip_strategy: IpStrategy,
}

/// Exactly one kind per middleware; serde's external tag is Traefik's key.
#[derive(Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum Middleware {
    BasicAuth {
        realm: &'static str,
        /// Hides the header from Odoo, which has no use for it.
        remove_header: bool,
        users: Vec<String>,
    },
    Compress {
        included_content_types: [&'static str; 11],
    },
    Errors {
        query: String,
        service: &'static str,
        status: [&'static str; 1],
    },
    Headers {
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        content_type_nosniff: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        custom_frame_options_value: Option<String>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        custom_request_headers: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        custom_response_headers: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        referrer_policy: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        sts_seconds: Option<u64>,
    },
    InFlightReq {
        amount: u32,
        source_criterion: SourceCriterion,
    },
    IpAllowList {
        #[serde(skip_serializing_if = "Option::is_none")]
        ip_strategy: Option<IpStrategy>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reject_status_code: Option<u16>,
        source_range: Vec<String>,
    },
    RateLimit {
        average: u32,
        burst: u32,
        source_criterion: SourceCriterion,
    },
    RedirectRegex {
        regex: &'static str,
        replacement: String,
    },
    RedirectScheme {
        permanent: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        port: Option<String>,
        scheme: &'static str,
    },
    ReplacePath {
        path: String,
    },
}

/// The headers middleware with nothing set.
const NO_HEADERS: Middleware = Middleware::Headers {
    content_type_nosniff: false,
    custom_frame_options_value: None,
    custom_request_headers: BTreeMap::new(),
    custom_response_headers: BTreeMap::new(),
    referrer_policy: None,
    sts_seconds: None,
};

impl Middleware {
    pub(crate) fn compress() -> Self {
        Self::Compress {
            included_content_types: COMPRESSIBLE,
        }
    }

    /// Answers with this status to every client outside `range`.
    pub(crate) fn deny(range: &str, status: u16) -> Self {
        let source_range = vec![range.to_owned()];
        Self::IpAllowList {
            ip_strategy: None,
            reject_status_code: Some(status),
            source_range,
        }
    }

    /// Answers 403 to clients outside `addresses`.
    pub(crate) fn allow(addresses: &[IpNet], clients: Option<IpStrategy>) -> Self {
        let source_range = addresses.iter().map(ToString::to_string).collect();
        Self::IpAllowList {
            ip_strategy: clients,
            reject_status_code: None,
            source_range,
        }
    }

    /// Asks for a user name and password (basic authentication).
    pub(crate) fn users(users: &[String]) -> Self {
        Self::BasicAuth {
            realm: "isyone",
            remove_header: true,
            users: users.to_vec(),
        }
    }

    /// Replaces the body of an error by another service's page; the status stays. Odoo itself answers with none of
    /// the statuses that this is used for.
    pub(crate) fn errors(service: &'static str, query: &str, status: &'static str) -> Self {
        Self::Errors {
            query: query.to_owned(),
            service,
            status: [status],
        }
    }

    /// Tells browsers to use only HTTPS for this long.
    pub(crate) fn hsts(seconds: u64) -> Self {
        let mut headers = NO_HEADERS;
        if let Self::Headers { sts_seconds, .. } = &mut headers {
            *sts_seconds = Some(seconds);
        }
        headers
    }

    /// Security headers on every page.
    pub(crate) fn security(frame_options: Option<&str>) -> Self {
        Self::Headers {
            content_type_nosniff: true,
            custom_frame_options_value: frame_options.map(ToOwned::to_owned),
            custom_request_headers: BTreeMap::new(),
            custom_response_headers: BTreeMap::new(),
            referrer_policy: Some("strict-origin-when-cross-origin"),
            sts_seconds: None,
        }
    }

    /// Redirects to the same address over TLS.
    pub(crate) fn to_https(port: Option<u16>) -> Self {
        Self::RedirectScheme {
            permanent: true,
            port: port.map(|port| port.to_string()),
            scheme: "https",
        }
    }

    /// Redirects to the same path at another base (`https://erp.example.com`). Never permanently: browsers would keep
    /// following the redirect after it is gone.
    pub(crate) fn to_host(base: &str) -> Self {
        Self::RedirectRegex {
            regex: "^https?://[^/]+/(.*)$",
            replacement: format!("{base}/${{1}}"),
        }
    }

    pub(crate) fn rate(average: u32, burst: u32, clients: Option<IpStrategy>) -> Self {
        Self::RateLimit {
            average,
            burst,
            source_criterion: criterion(clients),
        }
    }

    pub(crate) fn own_rate(rate: Rate, clients: Option<IpStrategy>) -> Self {
        Self::rate(rate.average, rate.burst, clients)
    }

    /// Limits by client address: Traefik's default is to count by host name.
    pub(crate) fn in_flight(amount: u32, clients: Option<IpStrategy>) -> Self {
        Self::InFlightReq {
            amount,
            source_criterion: criterion(clients),
        }
    }

    pub(crate) fn request_header(name: &str, value: &str) -> Self {
        let mut headers = NO_HEADERS;
        if let Self::Headers {
            custom_request_headers,
            ..
        } = &mut headers
        {
            *custom_request_headers = one(name, value);
        }
        headers
    }

    pub(crate) fn response_header(name: &str, value: &str) -> Self {
        let mut headers = NO_HEADERS;
        if let Self::Headers {
            custom_response_headers,
            ..
        } = &mut headers
        {
            *custom_response_headers = one(name, value);
        }
        headers
    }

    pub(crate) fn replace_path(path: &str) -> Self {
        Self::ReplacePath {
            path: path.to_owned(),
        }
    }
}

fn criterion(clients: Option<IpStrategy>) -> SourceCriterion {
    SourceCriterion {
        ip_strategy: IpStrategy::counting(clients),
    }
}

fn one(name: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(name.to_owned(), value.to_owned())])
}
