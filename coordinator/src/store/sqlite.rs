//! SQLite, embedded: one file, one connection, write-ahead log, every commit synced.

use std::{collections::BTreeMap, path::Path, time::Duration};

use sqlx::{
    Connection as _, Row as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::{Contents, Kind, Record, Store, StoreError, StoreFuture, Write};
use crate::{change::MAX_EVENTS, fleet::Event};

/// See the module.
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
    /// Opens or makes the database and brings its schema up to date. Fails when another process has it: two coordinators
    /// on one database would each believe its own Fleet.
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
        // Takes the exclusive lock now, not at the first commit.
        sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await?;
        sqlx::query("COMMIT").execute(&mut connection).await?;
        Ok(Self { connection })
    }

    async fn load_all(&mut self) -> Result<Contents, StoreError> {
        let mut contents = Contents::default();
        for row in sqlx::query("SELECT kind, id, body FROM records").fetch_all(&mut self.connection).await? {
            let (kind, id): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            let Some(kind) = Kind::parse(&kind) else {
                return Err(StoreError::Unreadable {
                    kind,
                    id,
                    why: "unknown kind: was a newer version running?".to_owned(),
                });
            };
            contents.records.push(Record { kind, id, body: row.try_get(2)? });
        }
        for row in sqlx::query("SELECT sequence, body FROM events ORDER BY sequence")
            .fetch_all(&mut self.connection)
            .await?
        {
            let (sequence, body): (i64, String) = (row.try_get(0)?, row.try_get(1)?);
            let event: Event = serde_json::from_str(&body).map_err(|e| StoreError::Unreadable {
                kind: "event".to_owned(),
                id: sequence.to_string(),
                why: e.to_string(),
            })?;
            contents.events.push(event);
        }
        Ok(contents)
    }

    async fn commit_all(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        let mut transaction = self.connection.begin().await?;
        // The last write of a key wins; a group often writes one host many times.
        let mut last: BTreeMap<(Kind, &str), Option<&str>> = BTreeMap::new();
        let mut newest_event = None;
        for write in writes {
            match write {
                Write::Put(record) => drop(last.insert((record.kind, &record.id), Some(&record.body))),
                Write::Delete(kind, id) => drop(last.insert((*kind, id), None)),
                Write::Event(event) => {
                    let body = serde_json::to_string(&**event).unwrap_or_default();
                    let sequence = i64::try_from(event.sequence).unwrap_or(i64::MAX);
                    sqlx::query("INSERT INTO events (sequence, body) VALUES ($1, $2)")
                        .bind(sequence)
                        .bind(body)
                        .execute(&mut *transaction)
                        .await?;
                    newest_event = Some(sequence);
                }
            }
        }
        for ((kind, id), body) in last {
            let query = match body {
                Some(body) => sqlx::query(
                    "INSERT INTO records (kind, id, body) VALUES ($1, $2, $3) ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body",
                )
                .bind(kind.as_str())
                .bind(id)
                .bind(body),
                None => sqlx::query("DELETE FROM records WHERE kind = $1 AND id = $2").bind(kind.as_str()).bind(id),
            };
            query.execute(&mut *transaction).await?;
        }
        if let Some(newest) = newest_event {
            sqlx::query("DELETE FROM events WHERE sequence <= $1")
                .bind(newest - i64::try_from(MAX_EVENTS).unwrap_or(i64::MAX))
                .execute(&mut *transaction)
                .await?;
        }
        Ok(transaction.commit().await?)
    }
}

impl Store for SqliteStore {
    fn load(&mut self) -> StoreFuture<'_, Contents> {
        Box::pin(self.load_all())
    }

    fn commit<'a>(&'a mut self, writes: &'a [Write]) -> StoreFuture<'a, ()> {
        Box::pin(self.commit_all(writes))
    }
}
