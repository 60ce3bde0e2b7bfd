//! What the relay is told: which tenants there are, where they listen and run, and what state they are in. Pure.
//!
//! The agent writes this as JSON; a text that is read is checked as a whole. Fields that are not known are ignored, so that an
//! agent may be newer than a running relay. Not here: files (`watch`).

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
};

use http::StatusCode;
use ipnet::IpNet;
use isyone_types::ids::TenantName;
use serde::{Deserialize, Serialize};

use crate::{
    lease::{Lease, MAX_BOOT_BYTES},
    limits::{HostLimits, LimitError, Limits},
};

/// Largest text: a host's tenants with a page each.
pub const MAX_TEXT_BYTES: usize = 64 * 1024 * 1024;
/// Tenants of a host, far above what one carries.
const MAX_TENANTS: usize = 4_096;
/// Edges of a fleet.
const MAX_EDGES: usize = 1_024;
/// A page's text.
const MAX_PAGE_BYTES: usize = 64 * 1024;
/// Closed paths of a tenant, and the length of one.
const MAX_CLOSED: (usize, usize) = (64, 256);
/// Longest `Retry-After`, seconds: a day.
const MAX_RETRY_S: u32 = 86_400;

/// Why routes are refused. `Display` names the tenant and the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoutesError {
    /// Not JSON of this form.
    #[error("not readable: {0}")]
    Form(String),
    /// More of something than allowed.
    #[error("{what}: {count}, at most {max} are allowed")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many may be.
        max: usize,
    },
    /// A limit that cannot work.
    #[error("{whose}: {source}")]
    Limit {
        /// The tenant's name, or `host`.
        whose: String,
        /// Which limit.
        source: LimitError,
    },
    /// Something of a tenant that cannot work.
    #[error("{tenant}: {problem}")]
    Tenant {
        /// The tenant's name.
        tenant: TenantName,
        /// What is wrong.
        problem: &'static str,
    },
}

/// All that a relay is told, checked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Routes {
    /// A number that the agent counts up; the relay shows which one it runs.
    revision: u64,
    /// Who may say for whom a request is.
    edges: Vec<IpNet>,
    /// What all tenants share.
    host: HostLimits,
    /// The tenants; each name and each listening address once.
    tenants: Vec<Route>,
}

#[derive(Deserialize)]
struct Unchecked {
    #[serde(default)]
    revision: u64,
    #[serde(default)]
    edges: Vec<Edge>,
    #[serde(default)]
    host: HostLimits,
    tenants: Vec<Route>,
}

/// An edge, as an address or a network.
#[derive(Deserialize)]
#[serde(untagged)]
enum Edge {
    Address(IpAddr),
    Network(IpNet),
}

/// One tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The tenant's name; once in all routes.
    pub name: TenantName,
    /// Where edges reach it.
    pub listen: Ends,
    /// Where its containers are reached.
    pub upstream: Ends,
    /// What becomes of its requests.
    #[serde(default)]
    pub state: State,
    /// Until when it may be answered for; `None`: for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// Its limits.
    #[serde(default)]
    pub limits: Limits,
    /// Paths that answer 404, with all below them.
    #[serde(default)]
    pub closed_paths: Vec<String>,
}

/// A pair of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// For pages and calls.
    pub http: SocketAddr,
    /// For websockets, where Odoo has a process for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub websocket: Option<SocketAddr>,
}

/// What becomes of a tenant's requests.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum State {
    /// They go to Odoo.
    #[default]
    Serving,
    /// They wait for `Serving`: the tenant restarts or moves.
    Holding {
        /// Until then at most, milliseconds since 1970; afterwards they get the waiting page.
        until_ms: u64,
    },
    /// They get a page.
    Page {
        /// 503 or 507.
        status: u16,
        /// The page.
        html: String,
        /// For the header of that name, seconds.
        #[serde(default)]
        retry_after: Option<u32>,
    },
    /// They go to Odoo, but for uploads, which get 507: the disk is full.
    UploadsRefused,
}

impl Routes {
    /// Checked routes of what an agent knows.
    pub fn new(
        revision: u64,
        edges: Vec<IpNet>,
        host: HostLimits,
        tenants: Vec<Route>,
    ) -> Result<Self, RoutesError> {
        too_many("edges", edges.len(), MAX_EDGES)?;
        too_many("tenants", tenants.len(), MAX_TENANTS)?;
        host.check().map_err(|source| RoutesError::Limit {
            whose: "host".to_owned(),
            source,
        })?;
        let mut names = HashSet::new();
        let mut addresses = HashSet::new();
        for tenant in &tenants {
            let fault = |problem| RoutesError::Tenant {
                tenant: tenant.name.clone(),
                problem,
            };
            if !names.insert(&tenant.name) {
                return Err(fault("is there twice"));
            }
            tenant.check()?;
            let listen = tenant.listen.all();
            if !listen
                .into_iter()
                .flatten()
                .all(|address| addresses.insert(address))
            {
                return Err(fault("listens where another tenant does"));
            }
        }
        let loops = |tenant: &&Route| {
            tenant
                .upstream
                .all()
                .into_iter()
                .flatten()
                .any(|a| addresses.contains(&a))
        };
        if let Some(tenant) = tenants.iter().find(loops) {
            return Err(RoutesError::Tenant {
                tenant: tenant.name.clone(),
                problem: "upstream is an address where the relay listens",
            });
        }
        Ok(Self {
            revision,
            edges,
            host,
            tenants,
        })
    }

    /// Reads what the agent wrote.
    pub fn read(text: &[u8]) -> Result<Self, RoutesError> {
        too_many("bytes", text.len(), MAX_TEXT_BYTES)?;
        serde_json::from_slice(text).map_err(|error| RoutesError::Form(error.to_string()))
    }

    /// What the agent writes.
    pub fn text(&self) -> String {
        serde_json::to_string_pretty(self).expect("names, numbers and texts are JSON")
    }

    /// The agent's number of these routes.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Who may say for whom a request is.
    pub fn edges(&self) -> &[IpNet] {
        &self.edges
    }

    /// What all tenants share.
    pub fn host(&self) -> &HostLimits {
        &self.host
    }

    /// The tenants.
    pub fn tenants(&self) -> &[Route] {
        &self.tenants
    }
}

impl TryFrom<Unchecked> for Routes {
    type Error = RoutesError;

    fn try_from(from: Unchecked) -> Result<Self, RoutesError> {
        let edges = from.edges.into_iter().map(|edge| match edge {
            Edge::Address(address) => IpNet::from(address.to_canonical()),
            Edge::Network(network) => network.trunc(),
        });
        Self::new(from.revision, edges.collect(), from.host, from.tenants)
    }
}

impl Ends {
    /// Both addresses.
    pub fn all(&self) -> [Option<SocketAddr>; 2] {
        [Some(self.http), self.websocket]
    }
}

impl Route {
    fn check(&self) -> Result<(), RoutesError> {
        self.limits.check().map_err(|source| RoutesError::Limit {
            whose: self.name.to_string(),
            source,
        })?;
        let problem = self.problem();
        problem.map_or(Ok(()), |problem| {
            Err(RoutesError::Tenant {
                tenant: self.name.clone(),
                problem,
            })
        })
    }

    fn problem(&self) -> Option<&'static str> {
        let all = [self.listen.all(), self.upstream.all()].concat();
        if all.iter().flatten().any(|address| address.port() == 0) {
            return Some("an address has port 0");
        }
        if self
            .upstream
            .all()
            .iter()
            .flatten()
            .any(|a| a.ip().is_unspecified())
        {
            return Some("upstream is no address of a container");
        }
        let (count, length) = MAX_CLOSED;
        let is_wrong = |path: &String| {
            !path.starts_with('/') || path.len() > length || path.trim_end_matches('/').is_empty()
        };
        if self.closed_paths.len() > count || self.closed_paths.iter().any(is_wrong) {
            return Some("closed_paths must be at most 64 paths such as `/metrics`, not `/`");
        }
        let boot_bytes = self.lease.as_ref().map_or(0, |lease| lease.boot.len());
        if boot_bytes > MAX_BOOT_BYTES {
            return Some("a boot's id has at most 64 bytes");
        }
        let State::Page {
            status,
            html,
            retry_after,
        } = &self.state
        else {
            return None;
        };
        if !matches!(status, 503 | 507) {
            return Some("a page's status must be 503 or 507");
        }
        if html.len() > MAX_PAGE_BYTES {
            return Some("a page has at most 64 KiB");
        }
        retry_after
            .is_some_and(|seconds| seconds > MAX_RETRY_S)
            .then_some("retry_after is a day at most")
    }
}

impl State {
    /// The status of a page.
    pub fn page_status(status: u16) -> StatusCode {
        StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
    }
}

fn too_many(what: &'static str, count: usize, max: usize) -> Result<(), RoutesError> {
    match count > max {
        true => Err(RoutesError::TooMany { what, count, max }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{
        "revision": 7, "edges": ["10.0.0.1", "10.1.0.9/24"], "of_next_year": {},
        "tenants": [
            {"name": "alfa", "listen": {"http": "10.0.0.5:20000", "websocket": "10.0.0.5:20001"},
             "upstream": {"http": "172.30.0.3:8069", "websocket": "172.30.0.3:8072"}, "closed_paths": ["/metrics"]},
            {"name": "beta", "listen": {"http": "10.0.0.5:20002"}, "upstream": {"http": "172.30.0.7:8069"},
             "state": {"is": "holding", "until_ms": 5}, "lease": {"boot": "one", "until_boot_ms": 7}, "limits": {"max_in_flight": 2}}
        ]
    }"#;

    #[test]
    fn what_an_agent_writes_is_read_back() {
        let routes = Routes::read(TEXT.as_bytes()).unwrap();
        assert_eq!(routes.revision(), 7);
        assert_eq!(
            routes.edges(),
            [
                "10.0.0.1/32".parse().unwrap(),
                "10.1.0.0/24".parse().unwrap()
            ]
        );
        assert_eq!(routes.tenants()[0].state, State::Serving);
        assert_eq!(routes.tenants()[1].state, State::Holding { until_ms: 5 });
        assert_eq!(routes.tenants()[1].limits.max_in_flight, 2);
        let lease = routes.tenants()[1].lease.as_ref().unwrap();
        assert!(routes.tenants()[0].lease.is_none() && lease.until_boot_ms == 7);
        assert_eq!(Routes::read(routes.text().as_bytes()), Ok(routes));
    }

    #[test]
    fn the_states_in_writing() {
        let read = |text: &str| serde_json::from_str::<State>(text).unwrap();
        assert_eq!(read(r#"{"is":"uploads_refused"}"#), State::UploadsRefused);
        let page = State::Page {
            status: 503,
            html: "x".to_owned(),
            retry_after: None,
        };
        assert_eq!(read(r#"{"is":"page","status":503,"html":"x"}"#), page);
    }

    fn refused(from: &str, to: &str) -> String {
        let text = TEXT.replacen(from, to, 1);
        assert_ne!(text, TEXT, "{from} is in the text");
        Routes::read(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_work_is_refused_and_named() {
        for (from, to, says) in [
            ("beta", "alfa", "alfa: is there twice"),
            (
                "10.0.0.5:20002",
                "10.0.0.5:20001",
                "beta: listens where another tenant does",
            ),
            (
                "172.30.0.7:8069",
                "10.0.0.5:20000",
                "beta: upstream is an address where the relay listens",
            ),
            (
                "172.30.0.7:8069",
                "0.0.0.0:8069",
                "beta: upstream is no address of a container",
            ),
            (
                "10.0.0.5:20002",
                "10.0.0.5:0",
                "beta: an address has port 0",
            ),
            (
                "\"max_in_flight\": 2",
                "\"max_in_flight\": 0",
                "beta: max_in_flight is 0",
            ),
            ("\"/metrics\"", "\"/\"", "alfa: closed_paths"),
            ("\"/metrics\"", "\"metrics\"", "alfa: closed_paths"),
            (
                "{\"is\": \"holding\", \"until_ms\": 5}",
                "{\"is\": \"page\", \"status\": 200, \"html\": \"\"}",
                "a page's status",
            ),
            (
                "{\"is\": \"holding\", \"until_ms\": 5}",
                "{\"is\": \"asleep\"}",
                "asleep",
            ),
            ("\"boot\": \"one\", ", "", "boot"),
            ("\"beta\"", "\"Beta/..\"", "DNS label"),
            ("10.1.0.9/24", "10.1.0.9/240", "not readable"),
            ("\"tenants\"", "\"tenant\"", "tenants"),
        ] {
            let error = refused(from, to);
            assert!(error.contains(says), "{to}: {error}");
        }
        assert!(Routes::read(b"").is_err() && Routes::read(b"{\"tenants\":[]").is_err());
        assert!(Routes::read(b"{\"tenants\":[]}").is_ok());
    }
}
