//! SQLite, embedded: one file, one connection, write-ahead log, every commit synced.
//!
//! Not here: what a record looks like (isyone_fleet::written).

use std::{path::Path, sync::LazyLock, time::Duration};

use isyone_fleet::{
    desired::MAX_EVENTS,
    event::Event,
    written::{Contents, Group, Record, RecordKind, UnreadableRecord, Write},
};
use sqlx::{
    Connection as _, Row as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::{Store, StoreError, StoreFuture};

/// The one connection to the database file.
#[derive(Debug)]
pub struct SqliteStore {
    connection: SqliteConnection,
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.to_string())
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
            .busy_timeout(Duration::from_secs(2));
        let mut connection = SqliteConnection::connect_with(&options).await?;
        sqlx::migrate!("migrations/sqlite")
            .run(&mut connection)
            .await
            .map_err(|e| StoreError::Database(e.to_string()))?;
        // Takes the exclusive lock now rather than at the first commit.
        sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut connection)
            .await?;
        sqlx::query("COMMIT").execute(&mut connection).await?;
        Ok(Self { connection })
    }

    async fn load_all(&mut self) -> Result<Contents, StoreError> {
        let mut contents = Contents::default();
        for row in sqlx::query("SELECT kind, id, body FROM records")
            .fetch_all(&mut self.connection)
            .await?
        {
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
            .fetch_all(&mut self.connection)
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

    async fn commit_all(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        let group = Group::of(writes);
        let mut transaction = self.connection.begin().await?;
        let mut rows = Vec::with_capacity(group.records.len());
        for ((kind, id), body) in &group.records {
            match body {
                Some(body) => rows.push((*kind, &**id, body.as_str())),
                None => {
                    let delete = sqlx::query("DELETE FROM records WHERE kind = $1 AND id = $2");
                    delete
                        .bind(kind.as_str())
                        .bind(&**id)
                        .execute(&mut *transaction)
                        .await?;
                }
            }
        }
        for (chunk, sql) in chunks(&rows, &PUT) {
            let bind = |query: Query<'static>, (kind, id, body): &(RecordKind, &str, &str)| {
                query
                    .bind(kind.as_str())
                    .bind((*id).to_owned())
                    .bind((*body).to_owned())
            };
            chunk
                .iter()
                .fold(sqlx::query(sql), bind)
                .execute(&mut *transaction)
                .await?;
        }
        let sequence = |event: &Event| i64::try_from(event.sequence).unwrap_or(i64::MAX);
        for (chunk, sql) in chunks(&group.events, &APPEND) {
            let bind = |query: Query<'static>, event: &&Event| {
                query
                    .bind(sequence(event))
                    .bind(serde_json::to_string(event).unwrap_or_default())
            };
            chunk
                .iter()
                .fold(sqlx::query(sql), bind)
                .execute(&mut *transaction)
                .await?;
        }
        if let Some(newest) = group.events.last() {
            sqlx::query("DELETE FROM events WHERE sequence <= $1")
                .bind(sequence(newest) - i64::try_from(MAX_EVENTS).unwrap_or(i64::MAX))
                .execute(&mut *transaction)
                .await?;
        }
        Ok(transaction.commit().await?)
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

/// Rows per statement. Each statement is a message to the database's thread and back, so a group uses few; each size
/// has one text, which is compiled once.
const ROWS: [usize; 4] = [128, 32, 8, 1];

/// A statement for each of [`ROWS`].
type Texts = LazyLock<[String; ROWS.len()]>;

static PUT: Texts = LazyLock::new(|| {
    let end = "ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body";
    ROWS.map(|n| {
        format!(
            "INSERT INTO records (kind, id, body) VALUES {} {end}",
            vec!["(?, ?, ?)"; n].join(", ")
        )
    })
});
static APPEND: Texts = LazyLock::new(|| {
    ROWS.map(|n| {
        format!(
            "INSERT INTO events (sequence, body) VALUES {}",
            vec!["(?, ?)"; n].join(", ")
        )
    })
});

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

    fn commit<'a>(&'a mut self, writes: &'a [Write]) -> StoreFuture<'a, ()> {
        Box::pin(self.commit_all(writes))
    }
}
