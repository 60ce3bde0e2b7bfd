//! `isyctl top`: the fleet on a screen, or a single snapshot for programs.

use std::time::Duration;

use clap::{Args, builder::PossibleValuesParser};
use isyone_proto::pb::v1::{
    Host, HostOrder, Tenant, TenantOrder, TopHostsRequest, TopTenantsRequest,
};
use serde::Serialize;

use crate::{
    app::App,
    clock,
    exit::{Exit, Failure, Outcome},
    options,
    output::{
        Format, format,
        table::{Cell as TableCell, Paint, Table},
        wire::Wire,
    },
    terminal,
    top::{
        fetch, follow,
        list::Order,
        model::{Model, Query, Tab},
        rows::{self, Column},
    },
};

/// Rows in a snapshot, unless more are asked for.
const ROWS: u32 = 50;
/// The coordinator's limit on rows per request.
const MAX_ROWS: i64 = 200;

const ORDERS: [&str; 9] = [
    "state", "cpu", "memory", "disk", "requests", "errors", "latency", "host", "name",
];

/// `isyctl top`.
#[derive(Debug, Args)]
#[command(after_help = "\
Keys: Tab the other list, Enter look closer, l log, s order, r reverse, / filter, ? all keys, q quit.
`-` is what is not known: not measured (yet), or the host is silent.

Examples:
  isyctl top
  isyctl top --sort errors --filter alf
  isyctl top --hosts --every 5s
  isyctl top --once --rows 20
  isyctl top -o json | jq '.tenants[] | select(.traffic.errors_per_minute > 0) | .name'")]
pub struct Top {
    /// Order of the tenants: the largest figure, or the worst state, first
    #[arg(long, value_name = "FIGURE", default_value = "state", value_parser = PossibleValuesParser::new(ORDERS))]
    sort: String,
    /// Only tenants whose name, host or domain contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Begin with the hosts
    #[arg(long)]
    hosts: bool,
    /// How often to ask
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = pace)]
    every: Duration,
    /// Print one look and end; `-o json`, `yaml` and `name` always do
    #[arg(long)]
    once: bool,
    /// How many of each such a look has
    #[arg(long, value_name = "N", default_value_t = ROWS, value_parser = clap::value_parser!(u32).range(1..=MAX_ROWS))]
    rows: u32,
}

fn pace(text: &str) -> Result<Duration, String> {
    match options::duration(text)? {
        // Hosts report every few seconds: a shorter interval would show nothing newer.
        every if every < Duration::from_secs(1) => Err("must be at least 1s".to_owned()),
        every => Ok(every),
    }
}

/// A snapshot, for programs.
#[derive(Debug, Serialize)]
struct Look {
    hosts: Vec<Wire>,
    tenants: Vec<Wire>,
    edges: Vec<Wire>,
}

impl Top {
    /// Follows the fleet, or prints one snapshot.
    pub async fn run(self, app: &App) -> Outcome {
        let live = matches!(app.ui.format, Format::Table | Format::Wide) && !self.once;
        if live && (!terminal::interactive() || terminal::dumb()) {
            return Err(Failure::usage("cannot follow the fleet: `isyctl top` needs a terminal").hint(
                "for one look use `isyctl top --once` or `-o json`; `isyctl tenant list` lists all tenants",
            ));
        }
        let order = TenantOrder::from_word(&self.sort).unwrap_or(TenantOrder::State);
        let client = app.client()?;
        if !live {
            return self.look(app, &client, order).await;
        }
        // Its messages on standard error would end up on the screen.
        let client = client.quiet();
        let tab = if self.hosts { Tab::Hosts } else { Tab::Tenants };
        let model = Model::new(
            &client.context().name,
            order,
            self.filter.as_deref().unwrap_or_default(),
            tab,
        );
        follow::follow(&client, model, self.every, app.ui.colours()).await
    }

    async fn look(self, app: &App, client: &crate::client::Client, order: TenantOrder) -> Outcome {
        let query = Query {
            tenants: TopTenantsRequest {
                order: order.into(),
                filter: self.filter.unwrap_or_default(),
                limit: self.rows,
                ..TopTenantsRequest::default()
            },
            hosts: TopHostsRequest {
                order: HostOrder::State.into(),
                limit: self.rows,
                ..TopHostsRequest::default()
            },
            ..Query::default()
        };
        let answer = fetch::ask(client, query).await?;
        let (hosts, tenants) = (&answer.hosts.hosts, &answer.tenants.tenants);
        let look = Look {
            hosts: Wire::all(hosts),
            tenants: Wire::all(tenants),
            edges: Wire::all(&answer.hosts.edges),
        };
        let names = || tenants.iter().map(|tenant| tenant.name.clone()).collect();
        app.ui.emit(&look, names, |_| {
            let now_ms = clock::now_ms();
            let mut text = hosts_table(hosts, now_ms);
            if !text.is_empty() && !tenants.is_empty() {
                text.push('\n');
            }
            text + &tenants_table(tenants, now_ms)
        })?;
        if app.ui.for_people() {
            let left = |shown: usize, all: u32, what: &str| {
                let all = all as usize;
                (shown < all).then(|| format!("{shown} of {} are shown", format::plural(all, what)))
            };
            let left_out = [
                left(hosts.len(), answer.hosts.matching, "host"),
                left(tenants.len(), answer.tenants.matching, "tenant"),
            ];
            left_out
                .into_iter()
                .flatten()
                .for_each(|text| app.ui.note(&text));
        }
        Ok(Exit::Done)
    }
}

fn hosts_table(hosts: &[Host], now_ms: i64) -> String {
    table(hosts, &rows::HOSTS, now_ms)
}

fn tenants_table(tenants: &[Tenant], now_ms: i64) -> String {
    table(tenants, &rows::TENANTS, now_ms)
}

fn table<T, O>(items: &[T], columns: &[Column<T, O>], now_ms: i64) -> String {
    if items.is_empty() {
        return String::new();
    }
    let mut table = Table::new(columns.iter().map(|column| column.name));
    for item in items {
        table.row(columns.iter().map(|column| {
            let cell = (column.cell)(item, now_ms);
            cell.paint.map_or_else(
                || TableCell::from(&cell.text),
                |paint: Paint| paint.on(&cell.text),
            )
        }));
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_orders_are_those_of_the_screen() {
        let known: Vec<&str> = TenantOrder::ALL.iter().map(|(_, word)| *word).collect();
        assert_eq!(known, ORDERS);
        assert!(pace("500ms").is_err() && pace("2s").is_ok());
    }
}
