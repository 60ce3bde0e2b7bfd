//! SQLite, embedded: one file, one connection, write-ahead log, every commit synced.
//!
//! Not here: what a record looks like (isyone_fleet::written).

use std::{path::Path, sync::LazyLock, time::Duration};

use isyone_fleet::{
    event::Event,
    written::{Contents, Group, Record, RecordKind, UnreadableRecord, Write},
};
use sqlx::{
    Connection as _, Row as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::{CommitError, Store, StoreError, StoreFuture, Term};

/// The database file, and the one connection to it.
#[derive(Debug)]
pub struct SqliteStore {
    options: SqliteConnectOptions,
    /// `None` after an error that leaves open what it would do next: the next use opens the file again.
    connection: Option<SqliteConnection>,
    /// The answer to a commit was lost, and nothing was loaded since.
    unsure: bool,
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.to_string())
    }
}

/// For errors before COMMIT is sent: without it nothing of a transaction is ever stored.
impl From<sqlx::Error> for CommitError {
    fn from(error: sqlx::Error) -> Self {
        Self::Refused(error.to_string())
    }
}

impl SqliteStore {
    /// Opens or creates the database and brings its schema up to date. Fails if another process has it open: two
    /// coordinators on one database would each believe in its own Fleet.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // FULL: an answered commit survives a power cut.
            .synchronous(SqliteSynchronous::Full)
            .locking_mode(sqlx::sqlite::SqliteLockingMode::Exclusive)
            // What is deleted is overwritten, and so are pages that become free: see `overwrite_keys`, which needs it.
            .pragma("secure_delete", "ON")
            // Keys that are put back go through a table that must not be a file somewhere.
            .pragma("temp_store", "MEMORY")
            // All texts that are used again and again, see BEGIN and ROWS.
            .statement_cache_capacity(128)
            .busy_timeout(Duration::from_secs(2));
        let mut connection = SqliteConnection::connect_with(&options).await?;
        sqlx::migrate!("migrations/sqlite")
            .run(&mut connection)
            .await
            .map_err(|e| StoreError::Database(e.to_string()))?;
        lock(&mut connection).await?;
        if let Err(error) = clean(&mut connection).await {
            tracing::warn!(%error, "keys that were deleted may still be in the database's file; the next start tries again");
        }
        Ok(Self {
            connection: Some(connection),
            options,
            unsure: false,
        })
    }

    /// The connection; a new one if the last was given up.
    async fn connected(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let mut connection = SqliteConnection::connect_with(&self.options).await?;
                lock(&mut connection).await?;
                connection
            }
        };
        Ok(self.connection.insert(connection))
    }

    /// Closes the file; what SQLite keeps beside it is gone then.
    pub async fn close(mut self) {
        self.disconnect().await;
    }

    /// Gives the connection up. What it has not committed is gone with it.
    async fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "the database did not close well");
        }
    }

    /// Asks the file, not the connection, whether a commit whose answer was lost is stored. When writing a commit down
    /// fails halfway, the connection takes it back, but its pages may lie complete in the write-ahead log, and whoever
    /// opens the database next (we, after a crash) finds them there and counts them in: https://sqlite.org/walformat.html
    /// "Recovery". So be the one who opens it next. Copying the log into the database syncs what was found, so that what
    /// we report survives a power cut although its own sync may have failed.
    async fn ask_the_file(&mut self) -> Result<(), StoreError> {
        self.disconnect().await;
        empty_the_log(self.connected().await?).await?;
        self.unsure = false;
        Ok(())
    }

    async fn load_all(&mut self) -> Result<Contents, StoreError> {
        if self.unsure {
            self.ask_the_file().await?;
        }
        read(self.connected().await?).await
    }

    async fn commit_all(&mut self, term: Term, writes: &[Write]) -> Result<(), CommitError> {
        if self.unsure {
            let why = "the answer to an earlier commit was lost, and nothing was read since";
            return Err(CommitError::Refused(why.to_owned()));
        }
        let connection = self
            .connected()
            .await
            .map_err(|e| CommitError::Refused(e.to_string()))?;
        let sent = match write(&mut *connection, term, writes).await {
            Ok(()) => execute(connection, "COMMIT").await,
            Err(error) => {
                // Some errors end the transaction by themselves (https://sqlite.org/lang_transaction.html, "Response To
                // Errors Within A Transaction"); ROLLBACK then fails, too, and does no harm.
                if !self.rolls_back().await {
                    self.disconnect().await;
                }
                return Err(error);
            }
        };
        let Err(error) = sent else {
            if writes.iter().any(deletes_a_key) {
                self.forget_in_the_log().await;
            }
            return Ok(());
        };
        // "When COMMIT fails in this way, the transaction remains active" (the same page, of SQLITE_BUSY); other errors
        // may have ended it, one way or the other, and a lost answer says nothing. ROLLBACK tells: it is an error when no
        // transaction is open, so if it succeeds, COMMIT has done nothing.
        if self.rolls_back().await {
            return Err(CommitError::Refused(error.to_string()));
        }
        self.unsure = true;
        Err(CommitError::Unknown(error.to_string()))
    }

    /// What was deleted is in the write-ahead log until that is overwritten there, which may take months: it goes now. The commit stands,
    /// whatever comes of it.
    async fn forget_in_the_log(&mut self) {
        if let Some(connection) = &mut self.connection
            && let Err(error) = empty_the_log(connection).await
        {
            tracing::warn!(%error, "a key that was deleted stays in the database's log until the next one is, or the next start");
        }
    }

    /// Whether a transaction was open and is rolled back now.
    async fn rolls_back(&mut self) -> bool {
        match &mut self.connection {
            Some(connection) => execute(connection, "ROLLBACK").await.is_ok(),
            None => false,
        }
    }
}

async fn execute(
    connection: &mut SqliteConnection,
    statement: &'static str,
) -> Result<(), sqlx::Error> {
    sqlx::query(statement).execute(connection).await.map(|_| ())
}

/// Takes the exclusive lock now rather than at the first commit.
async fn lock(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    execute(connection, "BEGIN IMMEDIATE").await?;
    execute(connection, "COMMIT").await
}

/// Copies the write-ahead log into the database, syncs that, and cuts the log off.
async fn empty_the_log(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let copied = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
        .fetch_one(connection)
        .await?;
    // Its first column says whether somebody kept it from copying everything; nobody else has the file open.
    match copied.try_get::<i64, _>(0)? {
        0 => Ok(()),
        _ => Err(StoreError::Database("the log cannot be copied".to_owned())),
    }
}

/// What a crash has left in the log goes into the file. And once, all of that is written anew: versions before left deleted keys in
/// pages that were free or rebuilt.
async fn clean(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let version = sqlx::query("PRAGMA user_version")
        .fetch_one(&mut *connection)
        .await?;
    if version.try_get::<i64, _>(0)? == 0 {
        execute(connection, "VACUUM").await?;
        execute(connection, "PRAGMA user_version = 1").await?;
    }
    empty_the_log(connection).await
}

/// Whether records of this kind lie in the table of keys.
fn is_key(kind: RecordKind) -> bool {
    kind == RecordKind::BackupKey
}

fn deletes_a_key(write: &Write) -> bool {
    matches!(write, Write::Delete(kind, _) if is_key(*kind))
}

async fn read(connection: &mut SqliteConnection) -> Result<Contents, StoreError> {
    let commits: i64 = sqlx::query("SELECT commits FROM leader")
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    let mut contents = Contents {
        commits: commits.unsigned_abs(),
        ..Contents::default()
    };
    let all = "SELECT kind, id, body FROM records UNION ALL SELECT kind, id, body FROM keys";
    for row in sqlx::query(all).fetch_all(&mut *connection).await? {
        let (kind, id): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let Some(kind) = RecordKind::parse(&kind) else {
            return Err(UnreadableRecord {
                kind,
                id,
                why: "unknown kind: was a newer version running?".to_owned(),
            }
            .into());
        };
        contents.records.push(Record {
            kind,
            id,
            body: row.try_get(2)?,
        });
    }
    for row in sqlx::query("SELECT sequence, body FROM events ORDER BY sequence")
        .fetch_all(&mut *connection)
        .await?
    {
        let (sequence, body): (i64, String) = (row.try_get(0)?, row.try_get(1)?);
        let event: Event = serde_json::from_str(&body).map_err(|e| UnreadableRecord {
            kind: "event".to_owned(),
            id: sequence.to_string(),
            why: e.to_string(),
        })?;
        contents.events.push(event);
    }
    Ok(contents)
}

/// Everything of a commit but COMMIT.
async fn write(
    connection: &mut SqliteConnection,
    term: Term,
    writes: &[Write],
) -> Result<(), CommitError> {
    let group = Group::of(writes);
    let (mut rows, mut keys) = (Vec::with_capacity(group.records.len()), Vec::new());
    let mut removed = Vec::new();
    for ((kind, id), body) in &group.records {
        match body {
            Some(body) if is_key(*kind) => keys.push((*kind, &**id, body.as_str())),
            Some(body) => rows.push((*kind, &**id, body.as_str())),
            None => removed.push((*kind, &**id)),
        }
    }
    let (first_rows, rows) = few(&rows);
    let (first_events, events) = few(&group.events);
    begin(connection, term, first_rows, first_events).await?;
    let mut overwrite = false;
    for (kind, id) in removed {
        overwrite |= is_key(kind);
        let sql = match is_key(kind) {
            true => "DELETE FROM keys WHERE kind = $1 AND id = $2",
            false => "DELETE FROM records WHERE kind = $1 AND id = $2",
        };
        sqlx::query(sql)
            .bind(kind.as_str())
            .bind(id)
            .execute(&mut *connection)
            .await?;
    }
    let rows = chunks(rows, &PUT).chain(chunks(&keys, &PUT_KEYS));
    for (chunk, sql) in rows {
        chunk
            .iter()
            .fold(sqlx::query(sql), bind_row)
            .execute(&mut *connection)
            .await?;
    }
    if overwrite {
        overwrite_keys(connection).await?;
    }
    for (chunk, sql) in chunks(events, &APPEND) {
        chunk
            .iter()
            .fold(sqlx::query(sql), bind_event)
            .execute(&mut *connection)
            .await?;
    }
    for (chunk, sql) in chunks(&group.forgotten, &FORGET) {
        let bind = |query: Query<'static>, sequence: &u64| {
            query.bind(i64::try_from(*sequence).unwrap_or(i64::MAX))
        };
        chunk
            .iter()
            .fold(sqlx::query(sql), bind)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Empties the table of keys, by which all its pages are overwritten with zeros (`secure_delete`), and puts the ones that are left back.
/// That a row is deleted is not enough: where a page was split or joined with another, copies of its rows stay behind. Of 1,000 tenants
/// it is half a megabyte, and 4 ms.
async fn overwrite_keys(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    for statement in [
        "CREATE TEMP TABLE keys_left AS SELECT kind, id, body FROM main.keys",
        // Without a condition: of whole pages, not of rows.
        "DELETE FROM main.keys",
        "INSERT INTO main.keys (kind, id, body) SELECT kind, id, body FROM temp.keys_left",
        "DROP TABLE temp.keys_left",
    ] {
        execute(connection, statement).await?;
    }
    Ok(())
}

/// All rows and none, if they are few enough to go along with the beginning of a transaction; otherwise none and all.
fn few<T>(rows: &[T]) -> (&[T], &[T]) {
    rows.split_at(if rows.len() <= FEW { rows.len() } else { 0 })
}

fn bind_row(query: Query<'static>, (kind, id, body): &(RecordKind, &str, &str)) -> Query<'static> {
    query
        .bind(kind.as_str())
        .bind((*id).to_owned())
        .bind((*body).to_owned())
}

fn bind_event(query: Query<'static>, event: &&Event) -> Query<'static> {
    query
        .bind(i64::try_from(event.sequence).unwrap_or(i64::MAX))
        .bind(serde_json::to_string(event).unwrap_or_default())
}

/// Begins a transaction, counts the commit in it if nobody has committed in a higher term, and puts the first rows into
/// it, at most [`FEW`] of each. One message to the database's thread carries all of it; what a term that is over has put
/// is rolled back with the transaction.
async fn begin(
    connection: &mut SqliteConnection,
    term: Term,
    rows: &[(RecordKind, &str, &str)],
    events: &[&Event],
) -> Result<(), CommitError> {
    let term_number = i64::from(term.0);
    let query = sqlx::query(BEGIN[rows.len()][events.len()].as_str())
        .bind(term_number)
        .bind(term_number);
    let query = rows.iter().fold(query, bind_row);
    let counted = events
        .iter()
        .fold(query, bind_event)
        .fetch_all(&mut *connection)
        .await?;
    if !counted.is_empty() {
        return Ok(());
    }
    let stored: i64 = sqlx::query("SELECT term FROM leader")
        .fetch_one(connection)
        .await?
        .try_get(0)?;
    Err(CommitError::NotLeader {
        ours: term,
        stored: Term(u32::try_from(stored).unwrap_or(u32::MAX)),
    })
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

/// Rows per statement. Each statement is a message to the database's thread and back, so a group uses few; each size
/// has one text, which is compiled once.
const ROWS: [usize; 10] = [128, 32, 8, 7, 6, 5, 4, 3, 2, 1];

/// A statement for each of [`ROWS`].
type Texts = LazyLock<[String; ROWS.len()]>;

static PUT: Texts = LazyLock::new(|| ROWS.map(|n| put("records", n)));
static PUT_KEYS: Texts = LazyLock::new(|| ROWS.map(|n| put("keys", n)));
static APPEND: Texts = LazyLock::new(|| ROWS.map(append));
static FORGET: Texts = LazyLock::new(|| {
    ROWS.map(|n| {
        format!(
            "DELETE FROM events WHERE sequence IN ({})",
            vec!["?"; n].join(", ")
        )
    })
});

/// Rows of each kind that go along with the beginning of a transaction, at most. What operators do and agents report puts
/// fewer, so that it costs two messages: all of it, and COMMIT, which stays apart because its failing says something else.
const FEW: usize = 8;

/// How a transaction begins, by the number of records and events that go along.
static BEGIN: LazyLock<[[String; FEW + 1]; FEW + 1]> = LazyLock::new(|| {
    std::array::from_fn(|records| {
        std::array::from_fn(|events| {
            let count =
                "UPDATE leader SET term = ?, commits = commits + 1 WHERE term <= ? RETURNING term";
            let mut statements = vec!["BEGIN IMMEDIATE".to_owned(), count.to_owned()];
            statements.extend((records > 0).then(|| put("records", records)));
            statements.extend((events > 0).then(|| append(events)));
            statements.join("; ")
        })
    })
});

/// Puts `n` records into a table.
fn put(table: &str, n: usize) -> String {
    let end = "ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body";
    let values = vec!["(?, ?, ?)"; n].join(", ");
    format!("INSERT INTO {table} (kind, id, body) VALUES {values} {end}")
}

/// Appends `n` events.
fn append(n: usize) -> String {
    let values = vec!["(?, ?)"; n].join(", ");
    format!("INSERT INTO events (sequence, body) VALUES {values}")
}

/// Splits rows into chunks of the available sizes.
fn chunks<'a, T>(
    mut rows: &'a [T],
    texts: &'static Texts,
) -> impl Iterator<Item = (&'a [T], &'static str)> {
    std::iter::from_fn(move || {
        let size = ROWS.iter().position(|size| *size <= rows.len())?;
        let (chunk, rest) = rows.split_at(ROWS[size]);
        rows = rest;
        Some((chunk, texts[size].as_str()))
    })
}

impl Store for SqliteStore {
    fn load(&mut self) -> StoreFuture<'_, Contents> {
        Box::pin(self.load_all())
    }

    fn commit<'a>(
        &'a mut self,
        term: Term,
        writes: &'a [Write],
    ) -> StoreFuture<'a, (), CommitError> {
        Box::pin(self.commit_all(term, writes))
    }
}

#[cfg(test)]
mod tests;
