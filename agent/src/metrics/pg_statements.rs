//! The statements that read PostgreSQL's statistics, and how much of an answer each can have. Pure.
//!
//! Not here: what becomes of the rows (pg_text), connecting (postgres).

use super::pg_text::{DATABASE_COLUMNS, SETTINGS, WRITER};

/// Most databases in a report: a tenant has one.
const MAX_DATABASES: usize = 16;
/// Most words by which a database's locks or connections are counted: there are 9 and 6, and a newer PostgreSQL may have some more.
const MAX_WORDS: usize = 16;
/// Which databases: not the templates, and not the one that only administrators (and we) use.
const DATABASES: &str = "SELECT oid, datname FROM pg_catalog.pg_database WHERE NOT datistemplate AND datname <> 'postgres' ORDER BY datname";

/// A statement, and what is taken of its answer: whoever answers may send something else, and more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Its text.
    pub sql: String,
    /// Most rows that it can have.
    pub most_rows: usize,
    /// The columns that are read; others count as not sent.
    pub columns: Vec<&'static str>,
}

/// The statements of one scrape, in the order of [`super::pg_text::Tables`]; all are sent in one exchange. `version` is
/// `server_version_num`.
pub fn statements(version: u32) -> [Statement; 5] {
    let databases = format!("({DATABASES} LIMIT {MAX_DATABASES}) d");
    let locks = format!(
        "SELECT d.datname, lower(l.mode) AS mode, count(*) AS n FROM {databases} JOIN pg_catalog.pg_locks l ON l.database = d.oid GROUP BY 1, 2"
    );
    let activity = format!(
        "SELECT d.datname, a.state, count(*) AS n, max(extract(epoch from now() - a.xact_start)) AS longest \
         FROM {databases} JOIN pg_catalog.pg_stat_activity a ON a.datid = d.oid WHERE a.state IS NOT NULL GROUP BY 1, 2"
    );
    let by_words = |sql, columns: &[&'static str]| Statement {
        sql,
        most_rows: MAX_DATABASES * MAX_WORDS,
        columns: columns.to_vec(),
    };
    [
        databases_statement(&databases),
        by_words(locks, &["datname", "mode", "n"]),
        by_words(activity, &["datname", "state", "n", "longest"]),
        server_statement(),
        writer_statement(version),
    ]
}

fn databases_statement(databases: &str) -> Statement {
    let names = DATABASE_COLUMNS.iter().map(|(column, ..)| *column);
    let selected: Vec<String> = names
        .clone()
        .map(|column| match column {
            "stats_reset" => "extract(epoch from s.stats_reset) AS stats_reset".to_owned(),
            column => format!("s.{column}"),
        })
        .collect();
    Statement {
        sql: format!(
            "SELECT d.oid AS datid, d.datname, {} FROM {databases} JOIN pg_catalog.pg_stat_database s ON s.datid = d.oid ORDER BY 2",
            selected.join(", ")
        ),
        most_rows: MAX_DATABASES,
        columns: ["datid", "datname"].into_iter().chain(names).collect(),
    }
}

fn server_statement() -> Statement {
    Statement {
        sql: "SELECT current_setting('max_connections') AS max_connections, \
              current_setting('superuser_reserved_connections') AS superuser_reserved_connections, \
              pg_size_bytes(current_setting('shared_buffers')) AS shared_buffers_bytes, \
              pg_size_bytes(current_setting('work_mem')) AS work_mem_bytes, \
              version() AS version, current_setting('server_version') AS short_version, \
              extract(epoch from pg_postmaster_start_time()) AS started"
            .to_owned(),
        most_rows: 1,
        columns: [&["version", "short_version", "started"], &SETTINGS[..]].concat(),
    }
}

fn writer_statement(version: u32) -> Statement {
    // Since 17, checkpoints are in a view of their own, and sessions' writes in another.
    let sql = if version >= 170_000 {
        "SELECT c.num_timed AS checkpoints_timed, c.num_requested AS checkpoints_req, c.write_time AS checkpoint_write_time, \
         c.sync_time AS checkpoint_sync_time, c.buffers_written AS buffers_checkpoint, b.buffers_clean, b.maxwritten_clean, \
         b.buffers_alloc FROM pg_catalog.pg_stat_bgwriter b, pg_catalog.pg_stat_checkpointer c"
    } else {
        "SELECT checkpoints_timed, checkpoints_req, checkpoint_write_time, checkpoint_sync_time, buffers_checkpoint, \
         buffers_clean, maxwritten_clean, buffers_backend, buffers_alloc FROM pg_catalog.pg_stat_bgwriter"
    };
    Statement {
        sql: sql.to_owned(),
        most_rows: 1,
        columns: WRITER.iter().map(|(column, ..)| *column).collect(),
    }
}

/// The sizes of the databases. A separate statement, because it looks at each of thousands of files.
pub fn sizes_statement() -> Statement {
    Statement {
        sql: format!(
            "SELECT d.datname, pg_catalog.pg_database_size(d.oid) AS bytes FROM ({DATABASES} LIMIT {MAX_DATABASES}) d ORDER BY 1"
        ),
        most_rows: MAX_DATABASES,
        columns: vec!["datname", "bytes"],
    }
}

/// Which PostgreSQL it is: `server_version_num`.
pub fn version_statement() -> Statement {
    Statement {
        sql: "SHOW server_version_num".to_owned(),
        most_rows: 1,
        columns: vec!["server_version_num"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_version_does_not_have_is_not_asked_for() {
        assert!(statements(150_006)[4].sql.contains("buffers_backend"));
        let new = statements(170_000)[4].sql.clone();
        assert!(new.contains("pg_stat_checkpointer") && !new.contains("buffers_backend"));
    }
}
