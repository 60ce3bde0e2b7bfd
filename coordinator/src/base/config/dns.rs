//! `[dns]`: how tenants' own domains are looked at.
//!
//! Not here: asking DNS (edges/dns) and when (isyone_fleet::domains).

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Edge, Span, check::ensure};

/// More often says nothing new: answers are cached on the way.
const MIN_INTERVAL: Span = Span::seconds(1);

/// Looking at tenants' domains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// Name servers to ask, `address:port`; this machine's when there is none.
    pub servers: Vec<SocketAddr>,
    /// Each domain is looked at once in so long; `0s`: only when it is added.
    pub interval: Span,
    /// And one that does not lead to the edges, or of which nothing was heard.
    pub retry: Span,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            interval: Span::seconds(3600),
            retry: Span::seconds(600),
        }
    }
}

impl Dns {
    pub(super) fn check(&self, edge: &Edge) -> Result<(), ConfigError> {
        ensure(
            edge.public_addresses.is_empty() || edge.shards.is_empty(),
            "edge.public_addresses",
            || {
                "does not say which of edge.shards has which address: leave it out, then each tenant's platform name says where its edge is"
                .to_owned()
            },
        )?;
        ensure(
            self.servers.iter().all(|server| server.port() > 0),
            "dns.servers",
            || "must have ports other than 0".to_owned(),
        )?;
        let off = self.interval == Span::seconds(0);
        ensure(off || self.interval >= MIN_INTERVAL, "dns.interval", || {
            "must be at least 1s, or \"0s\" to look only when a domain is added".to_owned()
        })?;
        ensure(
            self.retry >= MIN_INTERVAL && (off || self.retry <= self.interval),
            "dns.retry",
            || "must be between 1s and dns.interval".to_owned(),
        )
    }

    /// Whether domains are looked at by and by.
    pub fn watches(&self) -> bool {
        self.interval > Span::seconds(0)
    }
}
