//! `[probes]`: how we probe tenants through the edges.
//!
//! Not here: probing (edges/probes).

use std::{collections::BTreeMap, path::PathBuf};

use isyone_proto::ids::ShortName;
use serde::{Deserialize, Serialize};

use super::{Config, ConfigError, Edge, Span, UrlScheme, check::ensure};

/// Below this range, probes rather than visitors are an edge's load; above it, nobody learns of trouble in time.
const INTERVALS: (Span, Span) = (Span::seconds(1), Span::seconds(3600));
/// Each probe takes a file descriptor.
const MAX_CONCURRENCY: usize = 4096;

/// `[probes]`: probes of tenants through the edges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Probes {
    /// Whether we probe at all.
    pub enabled: bool,
    /// How often we probe each tenant.
    pub interval: Span,
    /// Longest time for one answer.
    pub timeout: Span,
    /// Most probes at the same time.
    pub concurrency: usize,
    /// Whether a certificate that a browser would reject makes a probe fail.
    pub verify_certificates: bool,
    /// CAs to trust besides this machine's, PEM.
    pub ca_file: Option<PathBuf>,
    /// Where the edges listen, `host:port`; empty: `edge.url`.
    pub edges: Vec<String>,
    /// The same for each shard's edges.
    pub shard_edges: BTreeMap<ShortName, Vec<String>>,
}

impl Default for Probes {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: Span::seconds(60),
            timeout: Span::seconds(10),
            concurrency: 256,
            verify_certificates: true,
            ca_file: None,
            edges: Vec::new(),
            shard_edges: BTreeMap::new(),
        }
    }
}

impl Probes {
    pub(super) fn check(&self, edge: &Edge) -> Result<(), ConfigError> {
        ensure(
            (INTERVALS.0..=INTERVALS.1).contains(&self.interval),
            "probes.interval",
            || "must be between 1s and 1h".to_owned(),
        )?;
        ensure(
            self.timeout >= Span::seconds(1) && self.timeout <= self.interval,
            "probes.timeout",
            || "must be between 1s and probes.interval".to_owned(),
        )?;
        ensure(
            (1..=MAX_CONCURRENCY).contains(&self.concurrency),
            "probes.concurrency",
            || format!("must be between 1 and {MAX_CONCURRENCY}"),
        )?;
        ensure(
            self.edges.is_empty() || edge.shards.is_empty(),
            "probes.edges",
            || {
                "says nothing of edge.shards: name each shard's edges in [probes.shard_edges]"
                    .to_owned()
            },
        )?;
        for (shard, edges) in &self.shard_edges {
            ensure(edge.shards.contains(shard), "probes.shard_edges", || {
                format!("`{shard}` is not one of edge.shards")
            })?;
            places("probes.shard_edges", edges)?;
        }
        places("probes.edges", &self.edges)
    }
}

fn places(key: &str, edges: &[String]) -> Result<(), ConfigError> {
    for place in edges {
        let authority = place.parse::<http::uri::Authority>().ok();
        let fits = authority
            .is_some_and(|a| a.port_u16().is_some_and(|p| p > 0) && !a.as_str().contains('@'));
        ensure(fits, key, || {
            format!("{place:?} is no host and port such as \"192.0.2.1:443\"")
        })?;
    }
    Ok(())
}

impl Config {
    /// Where edges listen, `host:port`: one list of the edges that serve everything, or one list for each shard, in the
    /// order of `edge.shards`. Empty where unknown.
    pub fn edges_to_probe(&self) -> Vec<Vec<String>> {
        if !self.edge.shards.is_empty() {
            let of = |shard| {
                self.probes
                    .shard_edges
                    .get(shard)
                    .cloned()
                    .unwrap_or_default()
            };
            return self.edge.shards.iter().map(of).collect();
        }
        if !self.probes.edges.is_empty() {
            return vec![self.probes.edges.clone()];
        }
        let url = self
            .edge
            .url
            .as_ref()
            .and_then(|url| url.parse::<http::Uri>().ok());
        let usual = match self.url_scheme {
            UrlScheme::Http => 80,
            UrlScheme::Https => 443,
        };
        let place = |url: http::Uri| {
            Some(format!(
                "{}:{}",
                url.host()?,
                url.port_u16().unwrap_or(usual)
            ))
        };
        vec![url.and_then(place).into_iter().collect()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_found_where_the_configuration_says() {
        let edges = |text: &str| {
            let config = Config::parse("f", text).unwrap();
            config.check().unwrap();
            config.edges_to_probe()
        };
        assert_eq!(edges(""), [Vec::<String>::new()]);
        assert_eq!(
            edges("[edge]\nurl = \"http://192.0.2.1\""),
            [["192.0.2.1:80"]]
        );
        assert_eq!(
            edges("url_scheme = \"https\"\n[edge]\nurl = \"https://edge.example.com\""),
            [["edge.example.com:443"]]
        );
        assert_eq!(
            edges("[edge]\nurl = \"http://[::1]:8000\""),
            [["[::1]:8000"]]
        );
        let both =
            "[edge]\nurl = \"http://192.0.2.1\"\n[probes]\nedges = [\"192.0.2.2:81\", \"e:82\"]";
        assert_eq!(edges(both), [["192.0.2.2:81", "e:82"]]);
        let shards = "[edge]\nurl = \"http://192.0.2.1\"\nshards = [\"a\", \"b\"]\n[probes.shard_edges]\nb = [\"192.0.2.2:81\"]";
        assert_eq!(edges(shards), [vec![], vec!["192.0.2.2:81".to_owned()]]);
    }
}
