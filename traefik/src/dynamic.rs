//! The part of Traefik's dynamic configuration that we write, field for field. Fields in alphabetical order: that is
//! the order in the document.

use std::collections::BTreeMap;

use serde::Serialize;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Router<'a> {
    pub(crate) entry_points: &'a [String],
    pub(crate) middlewares: &'a [&'a str],
    pub(crate) priority: u32,
    pub(crate) rule: &'a str,
    pub(crate) service: &'a str,
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
        Self { load_balancer: LoadBalancer { health_check, servers: [server] } }
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
    },
    IpAllowList {
        reject_status_code: u16,
        source_range: [String; 1],
    },
    RateLimit {
        average: u32,
        burst: u32,
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

    pub(crate) fn rate(average: u32, burst: u32) -> Self {
        Self::RateLimit { average, burst }
    }

    pub(crate) fn request_header(name: &str, value: &str) -> Self {
        Self::Headers { custom_request_headers: one(name, value), custom_response_headers: BTreeMap::new() }
    }

    pub(crate) fn response_header(name: &str, value: &str) -> Self {
        Self::Headers { custom_request_headers: BTreeMap::new(), custom_response_headers: one(name, value) }
    }

    pub(crate) fn replace_path(path: &str) -> Self {
        Self::ReplacePath { path: path.to_owned() }
    }
}

fn one(name: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(name.to_owned(), value.to_owned())])
}
