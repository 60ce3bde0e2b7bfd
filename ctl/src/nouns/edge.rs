//! `isyctl edge`: the Traefiks that poll the coordinator for routes, and routes that are left out.

use clap::{Args, Subcommand};
use isyone_proto::pb::v1::{
    Edge, EdgeState, GetEdgeRequest, ListEdgesRequest, ListRejectedRoutesRequest, RejectedRoute,
};

use crate::{
    app::App,
    client::Client,
    clock,
    exit::{Exit, Failure, Outcome},
    options,
    output::{
        format,
        table::{Paint, Table, clean},
        wire::Wire,
    },
};

/// Characters of a version that are shown: enough to compare by eye.
const SHORT: usize = 8;

/// `isyctl edge …`.
#[derive(Debug, Subcommand)]
pub enum EdgeCommand {
    /// List edges: what each was given, what it runs, and whether that is the newest
    #[command(alias = "ls")]
    List(List),
    /// Show one, what to do about it, and its routes that are left out
    Show(Show),
    /// List routes that are left out, and why
    Rejected(Rejected),
}

/// `isyctl edge list`.
#[derive(Debug, Args)]
#[command(after_help = "\
current: runs the newest. behind: will within seconds. stuck: was given a version more than 90 s ago and runs an older one. \
unknown: does not answer the coordinator on its HTTP port. silent: asks no longer.

Examples:
  isyctl edge list
  isyctl edge list -o json | jq '.[] | select(.state == \"stuck\")'")]
pub struct List {
    /// At most this many
    #[arg(long, value_name = "N", value_parser = options::count)]
    limit: Option<usize>,
}

/// `isyctl edge show`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  isyctl edge show 192.0.2.11\n  isyctl edge show 192.0.2.11/edge-1 -o json"
)]
pub struct Show {
    /// Its name, as listed; the address alone will do where it stands for one edge only
    name: String,
}

/// `isyctl edge rejected`.
#[derive(Debug, Args)]
#[command(after_help = "\
Traefik would refuse the configuration with these routes, so it is published without them; all others are served.

Examples:
  isyctl edge rejected
  isyctl edge rejected --shard edge-1 -o json")]
pub struct Rejected {
    /// Only of tenants that belong to this shard
    #[arg(long, value_name = "NAME")]
    shard: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N", value_parser = options::count)]
    limit: Option<usize>,
}

impl EdgeCommand {
    pub async fn run(self, app: &App) -> Outcome {
        match self {
            Self::List(command) => command.run(app).await,
            Self::Show(command) => command.run(app).await,
            Self::Rejected(command) => command.run(app).await,
        }
    }
}

impl List {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let (mut edges, mut page_token) = (Vec::new(), String::new());
        // The coordinator bounds the list: it remembers some 1,000 edges.
        let (files, rejected) = loop {
            let request = ListEdgesRequest {
                page_size: 0,
                page_token,
            };
            let page = client
                .read("list edges", request, |c, r| async move {
                    c.edges().list_edges(r).await
                })
                .await?;
            edges.extend(page.edges);
            page_token = page.next_page_token;
            if page_token.is_empty() || self.limit.is_some_and(|limit| edges.len() >= limit) {
                break (page.files, page.rejected_routes);
            }
        };
        edges.truncate(self.limit.unwrap_or(usize::MAX));
        let names = || edges.iter().map(|edge| edge.name.clone()).collect();
        app.ui.emit(&Wire::all(&edges), names, |_| {
            table(&edges, clock::now_ms())
        })?;
        if app.ui.for_people() {
            notes(&edges, &files, rejected)
                .iter()
                .for_each(|note| app.ui.note(note));
        }
        Ok(Exit::Done)
    }
}

/// Remarks below the table.
fn notes(edges: &[Edge], files: &[String], rejected: u32) -> Vec<String> {
    let mut notes = Vec::new();
    let written = clean(&files.join(", "));
    match (edges.is_empty(), files.is_empty()) {
        (true, true) => notes.push(
            "no edge polls, and no file is written ([edge] traefik_file): does Traefik's endpoint name this coordinator?".to_owned(),
        ),
        (true, false) => notes.push(format!("no edge polls; files are written to {written}")),
        (false, false) => notes.push(format!("files are written to {written}, too; who reads them is not listed")),
        (false, true) => {}
    }
    for edge in edges
        .iter()
        .filter(|edge| edge.state == i32::from(EdgeState::Stuck))
    {
        notes.push(format!(
            "{} is stuck: isyctl edge show {}",
            clean(&edge.name),
            clean(&edge.name)
        ));
    }
    if rejected > 0 {
        let routes = format::plural(rejected as usize, "route");
        notes.push(format!(
            "{routes} left out, which Traefik would refuse: isyctl edge rejected"
        ));
    }
    notes
}

fn short(version: &str) -> &str {
    format::or_dash(version.get(..SHORT).unwrap_or(version))
}

fn table(edges: &[Edge], now_ms: i64) -> String {
    if edges.is_empty() {
        return String::new();
    }
    let mut table = Table::new([
        "ADDRESS", "SHARD", "STATE", "POLLED", "GIVEN", "RUNS", "NEWEST", "BEHIND", "TENANTS",
        "REJECTED",
    ]);
    for edge in edges {
        table.row([
            edge.address.as_str().into(),
            shard(edge).into(),
            Paint::word(&format::edge_state(edge.state)),
            format::age(now_ms, edge.poll_time.as_ref()).into(),
            short(&edge.given_version).into(),
            short(&edge.running_version).into(),
            short(&edge.newest_version).into(),
            format::age(now_ms, edge.behind_time.as_ref()).into(),
            edge.tenants.to_string().into(),
            edge.rejected_routes.to_string().into(),
        ]);
    }
    table.render()
}

fn shard(edge: &Edge) -> &str {
    if edge.shard.is_empty() {
        "all"
    } else {
        &edge.shard
    }
}

/// What to do about an edge in this state.
fn advice(state: i32) -> &'static str {
    match EdgeState::try_from(state) {
        Ok(EdgeState::Stuck) => {
            "its Traefik refuses the newer configuration, or hangs; it serves its tenants as before. Look at its log (docker logs \
             traefik). Do not restart it while that says that it refuses the configuration: it would come back without routes"
        }
        Ok(EdgeState::Unknown) => {
            "the coordinator cannot ask it what it runs: let it reach the edge's HTTP port, or name that port in [edge] ports"
        }
        Ok(EdgeState::Silent) => {
            "it asks no longer: is Traefik running, and does its endpoint reach the coordinator? If it runs, it serves what it had"
        }
        Ok(EdgeState::Current | EdgeState::Behind | EdgeState::Unspecified) | Err(_) => "",
    }
}

fn sheet(edge: &Edge, routes: &[RejectedRoute], now_ms: i64) -> String {
    let runs = match edge.running_version.as_str() {
        "" => "unknown".to_owned(),
        same if same == edge.newest_version => format!("{same} (the newest)"),
        other => other.to_owned(),
    };
    let mut lines = vec![
        ("name", clean(&edge.name)),
        ("shard", clean(shard(edge))),
        ("state", format::edge_state(edge.state)),
        (
            "polled",
            format!("{} ago", format::age(now_ms, edge.poll_time.as_ref())),
        ),
        ("given", clean(format::or_dash(&edge.given_version))),
        ("runs", clean(&runs)),
        ("newest", clean(format::or_dash(&edge.newest_version))),
        ("tenants", edge.tenants.to_string()),
        ("rejected", edge.rejected_routes.to_string()),
    ];
    if let Some(since) = &edge.behind_time {
        lines.push(("behind", format!("since {}", format::local(Some(since)))));
    }
    let advice = advice(edge.state);
    if !advice.is_empty() {
        lines.push(("do", advice.to_owned()));
    }
    let sheet: String = lines
        .iter()
        .map(|(key, value)| format!("{key:<9} {value}\n"))
        .collect();
    let table = rejected_table(routes);
    if table.is_empty() {
        sheet
    } else {
        format!("{sheet}\n{table}")
    }
}

impl Show {
    async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let doing = format!("show edge `{}`", clean(&self.name));
        let request = GetEdgeRequest { name: self.name };
        let edge = client
            .read(&doing, request, |c, r| async move {
                c.edges().get_edge(r).await
            })
            .await?;
        // Only people get the routes here; programs ask for them separately.
        let routes = if app.ui.for_people() && edge.rejected_routes > 0 {
            rejected(&client, &edge.shard, None).await?
        } else {
            Vec::new()
        };
        let sheet = |_| sheet(&edge, &routes, clock::now_ms());
        app.ui
            .emit(&Wire::of(&edge), || vec![edge.name.clone()], sheet)?;
        Ok(Exit::Done)
    }
}

impl Rejected {
    async fn run(self, app: &App) -> Outcome {
        let routes = rejected(
            &app.client()?,
            self.shard.as_deref().unwrap_or_default(),
            self.limit,
        )
        .await?;
        let mut names: Vec<String> = routes.iter().map(|route| route.tenant.clone()).collect();
        names.dedup();
        app.ui
            .emit(&Wire::all(&routes), || names, |_| rejected_table(&routes))?;
        Ok(Exit::Done)
    }
}

async fn rejected(
    client: &Client,
    shard: &str,
    limit: Option<usize>,
) -> Result<Vec<RejectedRoute>, Failure> {
    client
        .pages(limit, |page_size, page_token| async move {
            let request = ListRejectedRoutesRequest {
                shard: shard.to_owned(),
                page_size,
                page_token,
            };
            let page = client
                .read("list rejected routes", request, |c, r| async move {
                    c.edges().list_rejected_routes(r).await
                })
                .await?;
            Ok((page.routes, page.next_page_token))
        })
        .await
}

fn rejected_table(routes: &[RejectedRoute]) -> String {
    if routes.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["TENANT", "HOST NAME", "REASON"]);
    for route in routes {
        let hostname = if route.hostname.is_empty() {
            "all of them"
        } else {
            &route.hostname
        };
        table.row([
            route.tenant.as_str().into(),
            hostname.into(),
            route.reason.as_str().into(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_edge_that_polls_is_told_where_routes_go() {
        let (file, edge) = (vec!["/srv/edge/isyone.yml".to_owned()], Edge::default());
        assert_eq!(
            notes(&[], &file, 0),
            ["no edge polls; files are written to /srv/edge/isyone.yml"]
        );
        assert!(notes(&[], &[], 0)[0].contains("[edge] traefik_file"));
        assert_eq!(notes(&[edge], &[], 0), Vec::<String>::new());
        assert_eq!(
            notes(&[], &file, 1)[1],
            "1 route left out, which Traefik would refuse: isyctl edge rejected"
        );
    }
}
