//! The probes in Prometheus' format, under blackbox_exporter's names. Pure.
//!
//! The page is bounded: up to [`MAX_TENANTS`] tenants, unreachable ones first. For a larger fleet, scrape shard by
//! shard.
//! Not here: what a probe means (isyone_fleet::probes), serving the page (ports/http).

use std::{borrow::Cow, fmt::Write as _};

use isyone_fleet::probes::judge::Judgement;

use super::board::{EdgeSeen, Seen};

/// Prometheus' text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// At some 400 bytes each 8 MB, which Prometheus ingests well within its ten seconds.
pub const MAX_TENANTS: usize = 20_000;

/// One tenant's line of the page.
#[derive(Debug, Clone)]
pub struct Row<'a> {
    pub tenant: &'a str,
    /// The tenant's host.
    pub host: &'a str,
    /// The probe's result.
    pub seen: Seen,
}

type Column = (
    &'static str,
    &'static str,
    fn(&Row<'_>) -> Option<Cow<'static, str>>,
);

/// Name, help and value. An unknown value gets no sample.
const COLUMNS: [Column; 4] = [
    (
        "probe_success",
        "Whether the tenant answered 200 to 299 through its edge",
        |row| {
            Some(if row.seen.probe.failure.is_none() {
                "1".into()
            } else {
                "0".into()
            })
        },
    ),
    (
        "probe_http_status_code",
        "Of the answer; none when there was none",
        |row| {
            row.seen
                .probe
                .status
                .map(|status| status.to_string().into())
        },
    ),
    (
        "probe_duration_seconds",
        "From the connection to the answer's head, or to the failure",
        |row| Some(format!("{:.3}", f64::from(row.seen.probe.duration_ms) / 1000.0).into()),
    ),
    (
        "probe_ssl_earliest_cert_expiry",
        "When the first certificate of the chain that the edge shows ends",
        |row| {
            row.seen
                .probe
                .certificate_until_s
                .map(|seconds| seconds.to_string().into())
        },
    ),
];

/// The whole page. Names need no escaping: they are DNS labels.
pub fn render(mut rows: Vec<Row<'_>>, edges: &[EdgeSeen]) -> String {
    let all = rows.len();
    // Stable, so that the same tenants are left out each time.
    rows.sort_by_key(|row| row.seen.judgement == Judgement::Reachable);
    rows.truncate(MAX_TENANTS);
    let mut text = String::with_capacity(rows.len() * 400 + 1024);
    for (name, help, value) in COLUMNS {
        head(&mut text, name, help);
        for row in &rows {
            if let Some(value) = value(row) {
                // Writing to a `String` cannot fail, here and below.
                let _ = writeln!(
                    text,
                    "{name}{{tenant=\"{}\",host=\"{}\"}} {value}",
                    row.tenant, row.host
                );
            }
        }
    }
    let name = "isyone_probe_blame";
    head(
        &mut text,
        name,
        "Whose trouble it is that a tenant cannot be reached: tenant_down, host_down or edge_down",
    );
    for row in rows
        .iter()
        .filter(|row| row.seen.judgement != Judgement::Reachable)
    {
        let (tenant, host, blame) = (row.tenant, row.host, row.seen.judgement.word());
        let _ = writeln!(
            text,
            "{name}{{tenant=\"{tenant}\",host=\"{host}\",blame=\"{blame}\"}} 1"
        );
    }
    head(
        &mut text,
        "isyone_edge_up",
        "Whether the edge took most of the last round's connections and answered as it should",
    );
    for edge in edges {
        let up = u8::from(edge.is_up());
        let _ = writeln!(text, "isyone_edge_up{{edge=\"{}\"}} {up}", edge.address);
    }
    head(
        &mut text,
        "isyone_probes_left_out",
        "Tenants that this page has no room for",
    );
    let _ = writeln!(text, "isyone_probes_left_out {}", all - rows.len());
    text
}

fn head(text: &mut String, name: &str, help: &str) {
    let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use isyone_fleet::probes::judge::{Counts, Failure, Probe};

    use super::*;

    fn row<'a>(tenant: &'a str, judgement: Judgement) -> Row<'a> {
        let well = judgement == Judgement::Reachable;
        let probe = Probe {
            at: 0,
            edge: ([192, 0, 2, 1], 443).into(),
            duration_ms: 34,
            status: well.then_some(200),
            certificate_until_s: well.then_some(1_795_420_800),
            failure: (!well).then_some(Failure::NotConnected("refused".into())),
        };
        Row {
            tenant,
            host: "h1",
            seen: Seen {
                probe: Arc::new(probe),
                judgement,
            },
        }
    }

    #[test]
    fn the_page() {
        let counts = Counts {
            tried: 3,
            failed: 2,
        };
        let edges = [EdgeSeen {
            address: ([192, 0, 2, 1], 443).into(),
            counts,
            wrong: None,
        }];
        let text = render(
            vec![
                row("alfa", Judgement::Reachable),
                row("beta", Judgement::EdgeDown),
            ],
            &edges,
        );
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            r#"probe_success{tenant="beta",host="h1"} 0"#,
            r#"probe_success{tenant="alfa",host="h1"} 1"#,
            r#"probe_http_status_code{tenant="alfa",host="h1"} 200"#,
            r#"probe_duration_seconds{tenant="beta",host="h1"} 0.034"#,
            r#"probe_duration_seconds{tenant="alfa",host="h1"} 0.034"#,
            r#"probe_ssl_earliest_cert_expiry{tenant="alfa",host="h1"} 1795420800"#,
            r#"isyone_probe_blame{tenant="beta",host="h1",blame="edge_down"} 1"#,
            r#"isyone_edge_up{edge="192.0.2.1:443"} 0"#,
            "isyone_probes_left_out 0",
        ];
        assert_eq!(samples, expected);
    }

    #[test]
    fn the_page_is_bounded_and_nobody_in_trouble_is_left_out() {
        let names: Vec<String> = (0..MAX_TENANTS + 5).map(|n| format!("t{n}")).collect();
        let judged = |n| {
            if n == MAX_TENANTS + 4 {
                Judgement::TenantDown
            } else {
                Judgement::Reachable
            }
        };
        let rows = names
            .iter()
            .enumerate()
            .map(|(n, name)| row(name, judged(n)))
            .collect();
        let text = render(rows, &[]);
        assert!(text.contains("isyone_probes_left_out 5\n"));
        assert!(text.contains(&format!(
            "probe_success{{tenant=\"t{}\",host=\"h1\"}} 0",
            MAX_TENANTS + 4
        )));
        assert!(text.len() < 10 << 20, "{} bytes", text.len());
    }
}
