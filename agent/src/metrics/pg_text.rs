//! PostgreSQL's statistics under postgres_exporter's metric names. Pure.
//!
//! Not here: the statements that they are read with (pg_statements), connecting (postgres).

use std::collections::HashMap;

use super::text::{MetricType, Text};

/// A row by column name, without NULLs.
pub type Row = HashMap<&'static str, String>;

/// The rows of one scrape.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    /// One per database.
    pub databases: Vec<Row>,
    /// One per database and lock mode in use.
    pub locks: Vec<Row>,
    /// One per database and state in use.
    pub activity: Vec<Row>,
    /// The server: one row.
    pub server: Vec<Row>,
    /// Background writing: one row.
    pub writer: Vec<Row>,
}

/// The columns of `pg_stat_database` that we report, all present in every supported version.
pub(super) const DATABASE_COLUMNS: &[(&str, MetricType, &str)] = &[
    ("numbackends", MetricType::Gauge, "Connections"),
    ("xact_commit", MetricType::Counter, "Transactions committed"),
    (
        "xact_rollback",
        MetricType::Counter,
        "Transactions rolled back",
    ),
    ("blks_read", MetricType::Counter, "Blocks read from disk"),
    (
        "blks_hit",
        MetricType::Counter,
        "Blocks found in the buffers",
    ),
    (
        "tup_returned",
        MetricType::Counter,
        "Rows returned by scans",
    ),
    (
        "tup_fetched",
        MetricType::Counter,
        "Rows fetched by index scans",
    ),
    ("tup_inserted", MetricType::Counter, "Rows inserted"),
    ("tup_updated", MetricType::Counter, "Rows updated"),
    ("tup_deleted", MetricType::Counter, "Rows deleted"),
    (
        "conflicts",
        MetricType::Counter,
        "Queries cancelled for recovery",
    ),
    ("temp_files", MetricType::Counter, "Temporary files"),
    (
        "temp_bytes",
        MetricType::Counter,
        "Bytes in temporary files",
    ),
    ("deadlocks", MetricType::Counter, "Deadlocks"),
    (
        "blk_read_time",
        MetricType::Counter,
        "Milliseconds of reading blocks, where measured",
    ),
    (
        "blk_write_time",
        MetricType::Counter,
        "Milliseconds of writing blocks, where measured",
    ),
    (
        "stats_reset",
        MetricType::Counter,
        "When the statistics began, seconds since the Unix epoch",
    ),
];

/// Every mode, so that a lock that is released becomes a 0 and not a gap.
const LOCK_MODES: [&str; 9] = [
    "accessexclusivelock",
    "accesssharelock",
    "exclusivelock",
    "rowexclusivelock",
    "rowsharelock",
    "sharelock",
    "sharerowexclusivelock",
    "shareupdateexclusivelock",
    "sireadlock",
];

const STATES: [&str; 6] = [
    "active",
    "disabled",
    "fastpath function call",
    "idle",
    "idle in transaction",
    "idle in transaction (aborted)",
];

/// Settings of the server that are reported, as columns.
pub(super) const SETTINGS: [&str; 4] = [
    "max_connections",
    "superuser_reserved_connections",
    "shared_buffers_bytes",
    "work_mem_bytes",
];

/// Columns of the background writer's views: name in the result, metric, help. The query leaves out those that a
/// version lacks.
pub(super) const WRITER: &[(&str, &str, &str)] = &[
    (
        "checkpoints_timed",
        "pg_stat_bgwriter_checkpoints_timed_total",
        "Checkpoints by time",
    ),
    (
        "checkpoints_req",
        "pg_stat_bgwriter_checkpoints_req_total",
        "Checkpoints asked for",
    ),
    (
        "checkpoint_write_time",
        "pg_stat_bgwriter_checkpoint_write_time_total",
        "Milliseconds of writing checkpoints",
    ),
    (
        "checkpoint_sync_time",
        "pg_stat_bgwriter_checkpoint_sync_time_total",
        "Milliseconds of syncing checkpoints",
    ),
    (
        "buffers_checkpoint",
        "pg_stat_bgwriter_buffers_checkpoint_total",
        "Buffers written by checkpoints",
    ),
    (
        "buffers_clean",
        "pg_stat_bgwriter_buffers_clean_total",
        "Buffers written by the background writer",
    ),
    (
        "maxwritten_clean",
        "pg_stat_bgwriter_maxwritten_clean_total",
        "Times it stopped for having written too many",
    ),
    (
        "buffers_backend",
        "pg_stat_bgwriter_buffers_backend_total",
        "Buffers written by sessions themselves",
    ),
    (
        "buffers_alloc",
        "pg_stat_bgwriter_buffers_alloc_total",
        "Buffers allocated",
    ),
];

fn value(row: &Row, column: &str) -> Option<f64> {
    row.get(column)?.parse().ok()
}

fn word<'a>(row: &'a Row, column: &str) -> &'a str {
    row.get(column).map_or("", String::as_str)
}

/// The page of a PostgreSQL that does not answer.
pub fn down() -> String {
    let mut out = Text::default();
    up(&mut out, 0.0);
    out.finish()
}

fn up(out: &mut Text, value: f64) {
    out.single("pg_up", MetricType::Gauge, "1: PostgreSQL answers", value);
}

pub fn render(tables: &Tables, sizes: &[Row]) -> String {
    let mut out = Text::default();
    up(&mut out, 1.0);
    server(&mut out, &tables.server);
    databases(&mut out, &tables.databases);
    let name = "pg_database_size_bytes";
    out.family(name, MetricType::Gauge, "Size on disk");
    for row in sizes {
        if let Some(bytes) = value(row, "bytes") {
            out.sample(name, &[("datname", word(row, "datname"))], bytes);
        }
    }
    let names: Vec<&str> = tables
        .databases
        .iter()
        .map(|row| word(row, "datname"))
        .collect();
    by(
        &mut out,
        ("pg_locks_count", "Locks held or waited for"),
        &names,
        ("mode", &LOCK_MODES),
        &tables.locks,
        "n",
    );
    let states = ("state", &STATES[..]);
    by(
        &mut out,
        ("pg_stat_activity_count", "Connections"),
        &names,
        states,
        &tables.activity,
        "n",
    );
    let longest = (
        "pg_stat_activity_max_tx_duration",
        "Seconds since the oldest open transaction began",
    );
    by(
        &mut out,
        longest,
        &names,
        states,
        &tables.activity,
        "longest",
    );
    if let Some(row) = tables.writer.first() {
        for (column, name, help) in WRITER {
            if let Some(value) = value(row, column) {
                out.single(name, MetricType::Counter, help, value);
            }
        }
    }
    out.finish()
}

fn server(out: &mut Text, rows: &[Row]) {
    let Some(row) = rows.first() else { return };
    let name = "pg_static";
    out.family(name, MetricType::Gauge, "The server");
    out.sample(
        name,
        &[
            ("short_version", word(row, "short_version")),
            ("version", word(row, "version")),
        ],
        1.0,
    );
    for column in SETTINGS {
        if let Some(value) = value(row, column) {
            out.single(
                &format!("pg_settings_{column}"),
                MetricType::Gauge,
                "Server setting",
                value,
            );
        }
    }
    if let Some(started) = value(row, "started") {
        let help = "Start, seconds since the Unix epoch";
        out.single(
            "pg_postmaster_start_time_seconds",
            MetricType::Gauge,
            help,
            started,
        );
    }
}

fn databases(out: &mut Text, rows: &[Row]) {
    // The customers' dashboards use the second name.
    let alias = [(
        "numbackends",
        "pg_stat_database_connections",
        MetricType::Gauge,
        "Connections; as numbackends",
    )];
    let named: Vec<(&str, String, MetricType, &str)> = DATABASE_COLUMNS
        .iter()
        .map(|(column, kind, help)| (*column, format!("pg_stat_database_{column}"), *kind, *help))
        .chain(
            alias
                .into_iter()
                .map(|(column, name, kind, help)| (column, name.to_owned(), kind, help)),
        )
        .collect();
    for (column, name, kind, help) in named {
        out.family(&name, kind, help);
        for row in rows {
            if let Some(value) = value(row, column) {
                let labels = [
                    ("datid", word(row, "datid")),
                    ("datname", word(row, "datname")),
                ];
                out.sample(&name, &labels, value);
            }
        }
    }
}

/// A gauge by database and a fixed set of words; 0 where there is no row.
fn by(
    out: &mut Text,
    (name, help): (&str, &str),
    databases: &[&str],
    (label, words): (&str, &[&str]),
    rows: &[Row],
    column: &str,
) {
    out.family(name, MetricType::Gauge, help);
    let found: HashMap<(&str, &str), &Row> = rows
        .iter()
        .map(|row| ((word(row, "datname"), word(row, label)), row))
        .collect();
    for database in databases {
        for each in words {
            let row = found.get(&(*database, *each));
            let value = row.and_then(|r| value(r, column)).unwrap_or(0.0);
            out.sample(name, &[("datname", database), (label, each)], value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check_golden;

    fn row(columns: &[(&'static str, &str)]) -> Row {
        columns.iter().map(|(k, v)| (*k, (*v).to_owned())).collect()
    }

    #[test]
    fn the_page_is_as_the_golden_one() {
        let mut database = row(&[
            ("datid", "16384"),
            ("datname", "odoo_alfa"),
            ("stats_reset", "1700000000.5"),
        ]);
        for (at, (column, ..)) in DATABASE_COLUMNS.iter().enumerate().take(16) {
            database.insert(column, at.to_string());
        }
        let tables = Tables {
            databases: vec![database],
            locks: vec![row(&[
                ("datname", "odoo_alfa"),
                ("mode", "accesssharelock"),
                ("n", "3"),
            ])],
            activity: vec![
                row(&[
                    ("datname", "odoo_alfa"),
                    ("state", "active"),
                    ("n", "2"),
                    ("longest", "1.5"),
                ]),
                row(&[("datname", "odoo_alfa"), ("state", "idle"), ("n", "4")]),
            ],
            server: vec![row(&[
                ("max_connections", "200"),
                ("superuser_reserved_connections", "3"),
                ("shared_buffers_bytes", "67108864"),
                ("work_mem_bytes", "4194304"),
                ("version", "PostgreSQL 15.6 on x86_64"),
                ("short_version", "15.6"),
                ("started", "1700000000"),
            ])],
            writer: vec![row(&[("checkpoints_timed", "5"), ("buffers_clean", "6")])],
        };
        let sizes = [row(&[("datname", "odoo_alfa"), ("bytes", "12345678")])];
        check_golden("postgres.txt", &render(&tables, &sizes));
        assert!(down().ends_with("pg_up 0\n"));
    }
}
