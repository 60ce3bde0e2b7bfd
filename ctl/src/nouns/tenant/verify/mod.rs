//! `isyctl tenant verify`: what a customer's browser and Prometheus see, tried from this machine rather than taken from
//! the coordinator, which is asked only where the tenant should be, and for what nobody sees from outside: whether an app is
//! half installed, and what a printed page looks like.

pub mod checks;
pub mod http;
mod print;
mod sorting;

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use self::{
    checks::{Found, Site},
    http::Base,
};
use crate::{
    app::App,
    exit::{Exit, Failure, Outcome},
    nouns::version,
    output::{
        format,
        table::{Paint, Table},
    },
};

/// `isyctl tenant verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Checks: the names resolve; the edge routes them; TLS is valid; Odoo is healthy; the login page is there; the \
database manager and /metrics are closed; the websocket answers; no app is half installed, as its host says; \
Prometheus sees the tenant; Odoo prints: the text, style and number of pages of a PDF are looked at (some seconds \
of its CPU; not with --outside). What cannot be checked from here is skipped, with the reason. The exit code is 1 \
when a check fails.

Examples:
  isyctl tenant verify alfa
  isyctl tenant verify alfa --edge http://127.0.0.1:80        ask this edge, whatever DNS says
  isyctl tenant verify alfa --prometheus http://prometheus.example.com:9090
  isyctl tenant verify alfa -o json | jq '.checks[] | select(.result == \"fail\")'")]
pub struct Verify {
    /// The tenant's name
    name: String,
    /// Where the edge is, in place of what the coordinator or DNS says
    #[arg(long, value_name = "URL")]
    edge: Option<String>,
    /// Where Prometheus is, in place of what the coordinator says
    #[arg(long, value_name = "URL")]
    prometheus: Option<String>,
    /// Only what is seen from outside: nothing is printed
    #[arg(long)]
    outside: bool,
}

#[derive(Debug, Serialize)]
struct Checked {
    check: &'static str,
    #[serde(flatten)]
    found: Found,
    duration_ms: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    tenant: String,
    url: String,
    edge: Option<String>,
    passed: bool,
    checks: Vec<Checked>,
}

impl Verify {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client()?;
        let tenant = super::get(&client, &self.name).await?;
        let info = version::get(&client).await?;
        let first =
            |asked: Option<String>, known: String| asked.or((!known.is_empty()).then_some(known));
        let edge = first(self.edge, info.edge_url);
        let prometheus = first(self.prometheus, info.prometheus_url);
        let url = parsed("the tenant's URL", &tenant.url)?;
        let site = Site {
            tenant: tenant.name.clone(),
            names: if tenant.hostnames.is_empty() {
                vec![url.host.clone()]
            } else {
                tenant.hostnames.clone()
            },
            base: match &edge {
                Some(edge) => parsed("--edge", edge)?,
                None => url.clone(),
            },
            edge: edge.clone(),
            closed: tenant
                .access
                .as_ref()
                .is_some_and(|a| !a.networks.is_empty() || !a.users.is_empty()),
            url,
            prometheus: prometheus
                .as_deref()
                .map(|text| parsed("--prometheus", text))
                .transpose()?,
            modules_cut_off: tenant.modules_cut_off,
            timeout: app.call_timeout().min(MAX_CHECK),
        };
        let mut checks = run_all(&site).await;
        let wait = || {
            app.ui
                .note("Prometheus has not looked at it, or not since it was up: some seconds…");
        };
        let most = app.call_timeout().min(checks::LOOKED_AT);
        checks.push(timed("prometheus", checks::prometheus(&site, most, wait)).await);
        if !self.outside {
            checks.push(timed("print", print::print(&client, &site.tenant)).await);
            let order = tenant.spec.as_ref().map_or("", |spec| &spec.collation);
            if !order.is_empty() {
                let sorting = sorting::sorting(&client, &site.tenant, order);
                checks.push(timed("sorting", sorting).await);
            }
        }
        let passed = checks.iter().all(|checked| !checked.found.failed());
        let report = Report {
            tenant: tenant.name,
            url: tenant.url,
            edge,
            passed,
            checks,
        };
        app.ui
            .emit(&report, || vec![report.tenant.clone()], |_| table(&report))?;
        if passed {
            Ok(Exit::Done)
        } else {
            Err(failure(&report))
        }
    }
}

/// A customer would not wait longer for a page either.
const MAX_CHECK: Duration = Duration::from_secs(15);

fn parsed(what: &str, text: &str) -> Result<Base, Failure> {
    text.parse()
        .map_err(|why| Failure::usage(format!("{what} `{text}` {why}")))
}

async fn run_all(site: &Site) -> Vec<Checked> {
    let mut checked = Vec::new();
    macro_rules! check {
        ($($name:literal => $check:path),* $(,)?) => { $(
            checked.push(timed($name, $check(site)).await);
        )* };
    }
    check! {
        "dns" => checks::dns,
        "route" => checks::route,
        "tls" => checks::tls,
        "health" => checks::health,
        "login-page" => checks::login_page,
        "database-manager-closed" => checks::database_manager,
        "metrics-closed" => checks::metrics,
        "websocket" => checks::websocket,
        "apps" => checks::apps,
    }
    checked
}

async fn timed(check: &'static str, checked: impl Future<Output = Found>) -> Checked {
    let start = Instant::now();
    let found = checked.await;
    let duration_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    Checked {
        check,
        found,
        duration_ms,
    }
}

fn table(report: &Report) -> String {
    let mut table = Table::new(["CHECK", "RESULT", "TOOK", "DETAIL"]);
    for checked in &report.checks {
        let took = match &checked.found {
            Found::Skip(_) => "-".to_owned(),
            _ => format::duration(checked.duration_ms.cast_signed()),
        };
        let (word, detail) = checked.found.words();
        table.row([
            checked.check.into(),
            Paint::word(word),
            took.into(),
            detail.into(),
        ]);
    }
    table.render()
}

fn failure(report: &Report) -> Failure {
    let failed: Vec<&str> = report
        .checks
        .iter()
        .filter(|c| c.found.failed())
        .map(|c| c.check)
        .collect();
    let tenant = &report.tenant;
    Failure::failed(format!(
        "tenant `{tenant}` does not pass: {}",
        failed.join(", ")
    ))
    .hint(format!(
        "`isyctl tenant show {tenant}` and `isyctl tenant logs {tenant}` say more"
    ))
}
