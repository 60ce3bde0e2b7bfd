//! The part of Traefik's dynamic configuration that we write, field for field. Fields in alphabetical order: that is
//! the order in the document.

use std::collections::BTreeMap;

use serde::Serialize;

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

/// That a router is one for TLS: empty when its certificates come from elsewhere.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RouterTls<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cert_resolver: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) domains: Vec<TlsDomain<'a>>,
}

/// One certificate that a resolver is to get.
#[derive(Serialize)]
pub(crate) struct TlsDomain<'a> {
    pub(crate) main: &'a str,
}

/// What the edge agrees to speak.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TlsOptions {
    pub(crate) alpn_protocols: [&'static str; 2],
    pub(crate) cipher_suites: [&'static str; 6],
    pub(crate) min_version: &'static str,
    pub(crate) sni_strict: bool,
}

/// A certificate with its key, both PEM: Traefik takes the content in place of a path.
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
    #[serde(skip_serializing_if = "Option::is_none")]
    health_check: Option<HealthCheck>,
    servers: [Server; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    servers_transport: Option<&'static str>,
}

/// How servers are spoken to over TLS.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServersTransport<'a> {
    #[serde(rename = "rootCAs")]
    pub(crate) root_cas: [&'a str; 1],
    pub(crate) server_name: &'a str,
}

#[derive(Serialize)]
pub(crate) struct HealthCheck {
    pub(crate) interval: &'static str,
    pub(crate) path: &'static str,
    pub(crate) timeout: &'static str,
}

#[derive(Serialize)]
pub(crate) struct Server {
    pub(crate) url: String,
}

impl Service {
    pub(crate) fn single(server: Server, health_check: Option<HealthCheck>) -> Self {
        Self { load_balancer: LoadBalancer { health_check, servers: [server], servers_transport: None } }
    }

    pub(crate) fn over(mut self, transport: Option<&'static str>) -> Self {
        self.load_balancer.servers_transport = transport;
        self
    }
}

/// One kind each; serde's external tag is Traefik's key.
#[derive(Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum Middleware {
    Compress {},
    Headers {
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        custom_request_headers: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        custom_response_headers: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        sts_seconds: Option<u64>,
    },
    IpAllowList {
        reject_status_code: u16,
        source_range: [String; 1],
    },
    RateLimit {
        average: u32,
        burst: u32,
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

impl Middleware {
    pub(crate) fn compress() -> Self {
        Self::Compress {}
    }

    /// Answers 404 to everybody outside `range`.
    pub(crate) fn deny(range: &str) -> Self {
        Self::IpAllowList { reject_status_code: 404, source_range: [range.to_owned()] }
    }

    /// "Only HTTPS from now on", for this long.
    pub(crate) fn hsts(sts_seconds: u64) -> Self {
        Self::headers(BTreeMap::new(), BTreeMap::new(), Some(sts_seconds))
    }

    /// To the same address over TLS.
    pub(crate) fn to_https(port: Option<u16>) -> Self {
        Self::RedirectScheme { permanent: true, port: port.map(|port| port.to_string()), scheme: "https" }
    }

    pub(crate) fn rate(average: u32, burst: u32) -> Self {
        Self::RateLimit { average, burst }
    }

    pub(crate) fn request_header(name: &str, value: &str) -> Self {
        Self::headers(one(name, value), BTreeMap::new(), None)
    }

    pub(crate) fn response_header(name: &str, value: &str) -> Self {
        Self::headers(BTreeMap::new(), one(name, value), None)
    }

    fn headers(
        custom_request_headers: BTreeMap<String, String>,
        custom_response_headers: BTreeMap<String, String>,
        sts_seconds: Option<u64>,
    ) -> Self {
        Self::Headers { custom_request_headers, custom_response_headers, sts_seconds }
    }

    pub(crate) fn replace_path(path: &str) -> Self {
        Self::ReplacePath { path: path.to_owned() }
    }
}

fn one(name: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(name.to_owned(), value.to_owned())])
}
