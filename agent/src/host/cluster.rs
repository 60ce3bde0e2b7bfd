//! What is asked of a PostgreSQL that is followed, and of the one that follows, through their sockets, as their superuser.
//!
//! Who answers is a tenant's program, which need not be PostgreSQL: so much of an answer is read, within a time, and nothing but numbers
//! and names of files is taken from it. Each statement uses the system's own functions only. Not here: what follows from the answers.

use std::time::Duration;

use tokio::{io::AsyncReadExt as _, net::UnixStream, task::JoinHandle, time::timeout};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::plan::standby::{MAX_SEQUENCES, SLOT};

/// How long one question may take, with connecting.
const ASK: Duration = Duration::from_secs(10);
/// What is read of all answers of one session: some thousand questions, or the list of all sequences.
const MOST_BYTES: u64 = 8 << 20;
const OPTIONS: &str =
    "-c statement_timeout=8000 -c lock_timeout=1000 -c search_path=pg_catalog -c jit=off";

/// 1: it is a standby.
pub const IS_STANDBY: &str = "SELECT pg_catalog.pg_is_in_recovery()::pg_catalog.int4";
/// Where the log of one that is written ends.
pub const WRITTEN: &str =
    "SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), '0/0')";
/// How far a standby has applied it.
pub const APPLIED: &str =
    "SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_last_wal_replay_lsn(), '0/0')";
/// How far it has it.
pub const RECEIVED: &str = "SELECT pg_catalog.pg_wal_lsn_diff(\
    coalesce(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn()), '0/0')";
/// Which cluster it is.
pub const SYSTEM: &str = "SELECT system_identifier FROM pg_catalog.pg_control_system()";
/// What all databases take.
pub const SIZE: &str =
    "SELECT pg_catalog.sum(pg_catalog.pg_database_size(oid)) FROM pg_catalog.pg_database";

/// Its version: 150004.
pub const VERSION: &str =
    "SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4";
/// Tables of this database whose content is in no log, so that a standby has none of it.
pub const UNLOGGED: &str = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_class WHERE relpersistence = 'u' AND relkind = 'r'";
/// 1: a standby receives what is written, as it is written.
pub const STREAMING: &str =
    "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_wal_receiver WHERE status = 'streaming'";
/// 1: what a follower lacks of the log is kept. (12 does not say so of a slot, and always keeps it.)
pub const KEPT: &str = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots AS s WHERE slot_name = 'isyone_move' \
    AND coalesce(pg_catalog.to_jsonb(s) ->> 'wal_status', '') <> 'lost'";

/// How many followers' slots there are.
pub const SLOTS: &str = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots WHERE slot_name = 'isyone_move'";

/// How much Odoo has begun and not ended: what runs by schedule is in a transaction from its beginning to its end.
pub const BEGUN: &str = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity WHERE usename = 'odoo' AND xact_start IS NOT NULL";
/// Which timeline has begun.
pub const TIMELINE: &str = "SELECT ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))\
    ::pg_catalog.bit(32)::pg_catalog.int8";

/// Ends what an earlier copy has left at its source: a slot that nobody reads would keep its log.
pub fn drop_slot() -> String {
    format!(
        "SELECT pg_catalog.count(pg_catalog.pg_drop_replication_slot(slot_name)::pg_catalog.text) FROM pg_catalog.pg_replication_slots \
         WHERE slot_name = '{SLOT}' AND NOT active"
    )
}

/// A session with one of them.
pub struct Cluster {
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Cluster {
    /// Begins a session through this socket.
    pub async fn open(socket: UnixStream, database: &str) -> Result<Self, String> {
        let (read, write) = socket.into_split();
        let bounded = tokio::io::join(read.take(MOST_BYTES), write);
        let mut config = Config::new();
        config
            .user("postgres")
            .dbname(database)
            .options(OPTIONS)
            .application_name("isy-agent");
        let connected = timeout(ASK, config.connect_raw(bounded, NoTls)).await;
        let connected = connected.map_err(|_| late())?;
        // What it says of an error may repeat the tenant's data.
        let (client, connection) = connected.map_err(|_| refused())?;
        let driver = tokio::spawn(async move {
            let _ = connection.await; // whoever asks next is told
        });
        Ok(Self { client, driver })
    }

    async fn rows(&self, statement: &str) -> Result<Vec<SimpleQueryRow>, String> {
        let asked = timeout(ASK, self.client.simple_query(statement)).await;
        let answer = asked.map_err(|_| late())?.map_err(|_| refused())?;
        let rows = answer.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// Has a statement carried out, whatever it answers.
    pub async fn run(&self, statement: &str) -> Result<(), String> {
        self.rows(statement).await.map(drop)
    }

    /// The one number that a statement answers with.
    pub async fn number(&self, statement: &str) -> Result<u64, String> {
        let rows = self.rows(statement).await?;
        let value = rows.first().and_then(|row| row.try_get(0).ok().flatten());
        let number = value.and_then(|text| text.parse().ok());
        number.ok_or_else(|| "PostgreSQL has not answered with a number".to_owned())
    }

    /// Each sequence of this database that is nobody's temporary one, with its file in the cluster's directory.
    pub async fn sequences(&self) -> Result<Vec<(u32, String)>, String> {
        let statement = format!(
            "SELECT oid, pg_catalog.pg_relation_filepath(oid) FROM pg_catalog.pg_class WHERE relkind = 'S' \
             AND relpersistence <> 't' ORDER BY oid LIMIT \
             {MAX_SEQUENCES}"
        );
        let parsed = self.rows(&statement).await?.into_iter().map(|row| {
            let oid = row.try_get(0).ok().flatten()?.parse().ok()?;
            Some((oid, row.try_get(1).ok().flatten()?.to_owned()))
        });
        let all: Option<Vec<_>> = parsed.collect();
        all.ok_or_else(|| "PostgreSQL has not answered with its sequences".to_owned())
    }
}

fn late() -> String {
    "PostgreSQL has not answered in time".to_owned()
}

fn refused() -> String {
    "PostgreSQL has refused a question, or is not reached".to_owned()
}
