//! `EdgeService`: which edges poll routes and how far they are, and which routes are left out.
//!
//! Not here: how an edge is judged (isyone_fleet::edge), asking it (edges/running).

use std::{
    net::IpAddr,
    ops::Bound,
    time::{Duration, Instant},
};

use isyone_fleet::shards::Shards;
use isyone_proto::{
    convert::timestamp,
    echo::echo,
    error::FieldError,
    pb::v1::{self, edge_service_server::EdgeService},
    plan::UnixMs,
};
use tonic::{Request, Response, Status};

use super::{Api, now, page_size};
use crate::{
    base::clock,
    edges::running::{EdgeSeen, EdgeState, LeftOut},
    wire::status,
};

/// Longest name: an IPv6 address, a slash and a shard.
const MAX_NAME: usize = 128;
/// How long a caller waits for the edges' own answers; edges that answer later show the state of the last look.
const PATIENCE: Duration = Duration::from_millis(1_500);

#[tonic::async_trait]
impl EdgeService for Api {
    async fn list_edges(
        &self,
        request: Request<v1::ListEdgesRequest>,
    ) -> Result<Response<v1::ListEdgesResponse>, Status> {
        let asked = request.into_inner();
        let size = page_size(asked.page_size)?;
        let pages = self.pages("edges", &[]);
        let after: String = pages.after(&asked.page_token)?.unwrap_or_default();
        let mut edges = self.edges().await;
        edges.retain(|edge| edge.name > after);
        edges.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let more = edges.len() > size;
        edges.truncate(size);
        let next_page_token = pages.next(edges.last().filter(|_| more).map(|edge| &edge.name));
        let edge = &self.parts.config.edge;
        let files = edge.traefik_file.iter().chain(&edge.traefik_dir);
        Ok(Response::new(v1::ListEdgesResponse {
            edges,
            next_page_token,
            files: files
                .map(|path| self.parts.config.data_dir.join(path).display().to_string())
                .collect(),
            rejected_routes: count(&self.parts.edges.left_out(), |_| true),
        }))
    }

    async fn get_edge(
        &self,
        request: Request<v1::GetEdgeRequest>,
    ) -> Result<Response<v1::Edge>, Status> {
        let name = request.into_inner().name;
        if !(1..=MAX_NAME).contains(&name.len()) {
            let problem = format!("`{}` is no edge's name", echo(&name));
            return Err(FieldError::new("name", problem).into());
        }
        let mut edges = self.edges().await;
        edges.retain(|edge| edge.name == name || edge.address == name);
        match (edges.pop(), edges.is_empty()) {
            (Some(edge), true) => Ok(Response::new(edge)),
            (Some(_), false) => {
                let problem =
                    format!("stands for several edges: name the shard, too (`{name}/<shard>`)");
                Err(FieldError::new("name", problem).into())
            }
            (None, _) => {
                let message = format!(
                    "no edge `{}` asks for its configuration, or did within the last hour",
                    echo(&name)
                );
                Err(status::not_found("EDGE_NOT_FOUND", message))
            }
        }
    }

    async fn list_rejected_routes(
        &self,
        request: Request<v1::ListRejectedRoutesRequest>,
    ) -> Result<Response<v1::ListRejectedRoutesResponse>, Status> {
        let asked = request.into_inner();
        let size = page_size(asked.page_size)?;
        let pages = self.pages("rejected routes", &[&asked.shard]);
        let after: String = pages.after(&asked.page_token)?.unwrap_or_default();
        let shards = &self.parts.handle.settings().shards;
        let shard = match asked.shard.as_str() {
            "" => None,
            shard => Some(shards.position(shard).ok_or_else(|| {
                FieldError::new("shard", format!("there is no `{}`", echo(shard)))
            })?),
        };
        let left_out = self.parts.edges.left_out();
        let ours = |tenant: &str| shard.is_none() || shards.of(tenant) == shard;
        let (routes, last) = rejected(&left_out, ours, &after, size);
        let next_page_token = pages.next(Some(last).filter(|last| !last.is_empty()));
        Ok(Response::new(v1::ListRejectedRoutesResponse {
            routes,
            next_page_token,
        }))
    }
}

impl Api {
    /// All edges; first asks those again that are not known to run the newest version.
    async fn edges(&self) -> Vec<v1::Edge> {
        let behind = self
            .parts
            .edges
            .look(|edge| edge.state != EdgeState::Current);
        // On a timeout the last known state stands: see [`PATIENCE`].
        let _ = tokio::time::timeout(PATIENCE, behind).await;
        let (shards, left_out) = (
            &self.parts.handle.settings().shards,
            self.parts.edges.left_out(),
        );
        let (at, now) = (clock::monotonic(), now());
        let seen = self.parts.edges.seen(at);
        seen.iter()
            .map(|edge| wire(edge, shards, &left_out, |then| ago(then, at, now)))
            .collect()
    }
}

/// Converts a monotonic instant to wall-clock time.
fn ago(then: Instant, at: Instant, now: UnixMs) -> UnixMs {
    let passed = i64::try_from(at.duration_since(then).as_millis()).unwrap_or(i64::MAX);
    now.saturating_sub(passed)
}

fn count(left_out: &LeftOut, ours: impl Fn(&str) -> bool) -> u32 {
    let routes = left_out
        .iter()
        .filter(|(tenant, _)| ours(tenant))
        .map(|(_, routes)| routes.len());
    u32::try_from(routes.sum::<usize>()).unwrap_or(u32::MAX)
}

/// The routes of the next `size` tenants selected by `ours`, and the token for the rest.
fn rejected(
    left_out: &LeftOut,
    ours: impl Fn(&str) -> bool,
    after: &str,
    size: usize,
) -> (Vec<v1::RejectedRoute>, String) {
    let behind = left_out.range::<_, str>((Bound::Excluded(after), Bound::Unbounded));
    let mut tenants = behind.filter(|(tenant, _)| ours(tenant)).peekable();
    let (mut routes, mut last) = (Vec::new(), "");
    for (tenant, rejected) in tenants.by_ref().take(size) {
        last = tenant;
        routes.extend(rejected.iter().map(|route| v1::RejectedRoute {
            tenant: route.tenant.clone(),
            hostname: route.hostname.clone().unwrap_or_default(),
            reason: route.reason.clone(),
        }));
    }
    let next = tenants.peek().map(|_| last.to_owned());
    (routes, next.unwrap_or_default())
}

fn name(address: IpAddr, shard: &str) -> String {
    if shard.is_empty() {
        address.to_string()
    } else {
        format!("{address}/{shard}")
    }
}

fn wire(
    edge: &EdgeSeen,
    shards: &Shards,
    left_out: &LeftOut,
    time: impl Fn(Instant) -> UnixMs,
) -> v1::Edge {
    let shard = shards.scope_name(edge.scope);
    let own = edge.scope.checked_sub(1);
    let state = match edge.state {
        EdgeState::Current => v1::EdgeState::Current,
        EdgeState::Behind => v1::EdgeState::Behind,
        EdgeState::Stuck => v1::EdgeState::Stuck,
        EdgeState::Unknown => v1::EdgeState::Unknown,
        EdgeState::Silent => v1::EdgeState::Silent,
    };
    v1::Edge {
        name: name(edge.address, shard),
        address: edge.address.to_string(),
        shard: shard.to_owned(),
        state: state.into(),
        poll_time: Some(timestamp(time(edge.asked))),
        given_version: edge.given.clone().unwrap_or_default(),
        running_version: edge.runs.clone().unwrap_or_default(),
        newest_version: edge.newest.clone().unwrap_or_default(),
        behind_time: edge.behind_since.map(|since| timestamp(time(since))),
        tenants: edge.tenants,
        rejected_routes: count(left_out, |tenant| own.is_none() || shards.of(tenant) == own),
    }
}

#[cfg(test)]
mod tests {
    use isyone_traefik::Rejected;

    use super::*;

    #[test]
    fn routes_left_out_are_paged_by_tenant_and_counted_by_shard() {
        let route = |tenant: &str, hostname: Option<&str>| Rejected {
            tenant: tenant.to_owned(),
            hostname: hostname.map(ToOwned::to_owned),
            reason: "why".to_owned(),
        };
        let both = vec![
            route("beta", Some("a.example")),
            route("beta", Some("b.example")),
        ];
        let left_out = LeftOut::from_iter([
            ("alfa".to_owned(), vec![route("alfa", None)]),
            ("beta".to_owned(), both),
            ("gama".to_owned(), vec![route("gama", Some("c.example"))]),
        ]);
        let (mut all, mut after, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let (routes, next) = rejected(&left_out, |_| true, &after, 1);
            all.extend(
                routes
                    .into_iter()
                    .map(|route| route.tenant + "/" + &route.hostname),
            );
            pages += 1;
            if next.is_empty() {
                break;
            }
            after = next;
        }
        assert_eq!(
            (pages, all.join(" ").as_str()),
            (3, "alfa/ beta/a.example beta/b.example gama/c.example")
        );
        let (routes, next) = rejected(&left_out, |tenant| tenant != "gama", "", 2);
        assert_eq!(
            (routes.len(), next.as_str()),
            (3, ""),
            "nobody who counts is behind them"
        );
        assert_eq!(
            (
                count(&left_out, |_| true),
                count(&left_out, |tenant| tenant == "beta")
            ),
            (4, 2)
        );
    }
}
