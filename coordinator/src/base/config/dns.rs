//! `[dns]`: how we check tenants' own domains.
//!
//! Not here: asking DNS (edges/dns), and when (isyone_fleet::domains).

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Edge, Span, check::ensure};

/// Checking more often shows nothing new: resolvers on the way cache answers.
const MIN_INTERVAL: Span = Span::seconds(1);

/// `[dns]`: checks of tenants' domains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// Name servers to ask, `address:port`; empty: this machine's.
    pub servers: Vec<SocketAddr>,
    /// How often each domain is checked; `0s`: only when it is added.
    pub interval: Span,
    /// The same for a domain that does not lead to the edges, or for which there was no answer.
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

    /// Whether domains are checked periodically.
    pub fn watches(&self) -> bool {
        self.interval > Span::seconds(0)
    }
}
