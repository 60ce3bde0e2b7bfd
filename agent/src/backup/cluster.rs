//! What backups ask of a tenant's PostgreSQL: where its log ends, what is in it, and its files or a dump as a stream.
//!
//! Who answers is a tenant's program, which need not be PostgreSQL: so many bytes of an answer are read, within a time, each of our
//! statements uses the system's own functions only, and what is asked in the tenant's own database is asked as its role, because what
//! looks like a table there may be anything. Not here: what follows from the answers (chain).

use std::{sync::Arc, time::Duration};

use isyone_backup::{Stop, source::Producer};
use isyone_proto::{
    backup::{Counts, Fault},
    ids::TenantName,
};
use tokio::{io::AsyncReadExt as _, time::timeout};
use tokio_postgres::{Config, NoTls, SimpleQueryMessage};
use tonic::async_trait;

use super::{
    chain::{Position, SegmentSize},
    producer::{Program, SILENCE},
    words::Problem,
};
use crate::{
    base::clock::now_ms,
    docker::POSTGRES_USER,
    host::Host,
    peer::{ContainerDatabases, Databases as _, Of},
    plan::container::{Container, LABEL_UID},
};

/// How long one question may take, with connecting.
const ASK: Duration = Duration::from_secs(30);
/// What is read of an answer. The client keeps a message whole before it looks at it.
const MOST_BYTES: u64 = 64 << 10;
/// Of each of our sessions: no long statements, no writes, nobody else's functions.
const OPTIONS: &str = "-c statement_timeout=20000 -c lock_timeout=1000 -c default_transaction_read_only=on -c search_path=pg_catalog -c jit=off";
/// The position, its timeline, the size of segments, and whether they are archived. The timeline is that of the log which is
/// written: the last checkpoint may be of before a promotion for minutes.
pub(super) const POSITION: &str = "SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), '0/0')::pg_catalog.int8, \
    ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::pg_catalog.int8, \
    (SELECT setting::pg_catalog.int8 FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size'), \
    (SELECT (setting <> 'off')::pg_catalog.int4 FROM pg_catalog.pg_settings WHERE name = 'archive_mode')";
const SWITCH: &str = "SELECT pg_catalog.pg_switch_wal()";
const SIZE: &str = "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())";
const COUNTS: &str = "SELECT (SELECT pg_catalog.count(*) FROM pg_catalog.pg_class), \
    (SELECT pg_catalog.count(*) FROM public.ir_attachment WHERE store_fname IS NOT NULL)";
/// Longest time that a base backup or a dump may take, seconds: it ends in its container by then, whoever forgot it.
const LONGEST_S: &str = "43200";

/// What PostgreSQL makes of a running tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// All files, as a tar, without the log; PostgreSQL's own manifest is in it.
    Base,
    /// Likewise with the log that it needs, where nothing is archived.
    BaseWithLog,
    /// The database as `pg_dump` makes it, not compressed: what has not changed is found again.
    Dump,
}

/// The PostgreSQL of tenants that run.
#[async_trait]
pub(super) trait Clusters: Send + Sync + 'static {
    /// Where the log ends. With `switch`, the segment under way is finished first, if anything is in it.
    async fn position(&self, of: &Of, switch: bool) -> Result<Position, Problem>;
    /// What is in the tenant's database.
    async fn counts(&self, of: &Of) -> Result<Counts, Problem>;
    /// Begins a stream. Its end counts only when the program has ended well.
    async fn stream(
        &self,
        of: &Of,
        stream: Stream,
        stop: &Stop,
    ) -> Result<Box<dyn Producer>, Problem>;
}

/// Those in containers of this machine.
pub(super) struct ContainerClusters(pub Arc<Host>);

fn failed(why: &str) -> Problem {
    Problem::new(Fault::Source, why)
}

impl ContainerClusters {
    /// The one row of a statement, each value as a number.
    async fn ask<const N: usize>(
        &self,
        of: &Of,
        (role, database): (&str, &str),
        statement: &str,
    ) -> Result<[u64; N], Problem> {
        let asked = timeout(ASK, self.row(of, role, database, statement)).await;
        let row = asked.map_err(|_| failed("PostgreSQL has not answered in time"))??;
        let mut numbers = [0; N];
        if row.len() != N {
            return Err(failed("PostgreSQL has not answered what it was asked"));
        }
        for (number, value) in numbers.iter_mut().zip(row) {
            let parsed = value.and_then(|value| value.parse().ok());
            *number = parsed.ok_or_else(|| failed("PostgreSQL has not answered with numbers"))?;
        }
        Ok(numbers)
    }

    async fn row(
        &self,
        of: &Of,
        role: &str,
        database: &str,
        statement: &str,
    ) -> Result<Vec<Option<String>>, Problem> {
        // What it says of an error may repeat the tenant's data.
        let says_no = |_| failed("PostgreSQL has refused a question");
        let reached = ContainerDatabases(self.0.clone()).connect(of).await;
        let stream = reached.map_err(|_| failed("PostgreSQL is not running, or not reached"))?;
        let (read, write) = stream.into_split();
        let bounded = tokio::io::join(read.take(MOST_BYTES), write);
        let mut config = Config::new();
        config
            .user(role)
            .dbname(database)
            .options(OPTIONS)
            .application_name("isy-agent");
        let (client, connection) = config.connect_raw(bounded, NoTls).await.map_err(says_no)?;
        let driver = tokio::spawn(connection);
        let answer = client.simple_query(statement).await;
        driver.abort();
        let row = answer
            .map_err(says_no)?
            .into_iter()
            .find_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            });
        let row = row.ok_or_else(|| failed("PostgreSQL has not answered what it was asked"))?;
        Ok((0..row.len().min(16))
            .map(|at| row.get(at).map(str::to_owned))
            .collect())
    }

    /// The tenant's container, if it runs; by its id, because another may have the name by the time it is used.
    async fn container(&self, of: &Of) -> Result<Container, Problem> {
        let name = of.tenant.postgres_container();
        let found = self.0.docker.container(&name).await;
        let found = found.map_err(|_| failed("Docker does not answer"))?;
        let is_its = |c: &Container| c.is_up() && c.label(LABEL_UID) == of.uid.to_string();
        found
            .filter(is_its)
            .ok_or_else(|| failed("PostgreSQL is not running"))
    }
}

/// The program for a stream, as PostgreSQL's user runs it in the container.
pub(super) fn words(stream: Stream, tenant: &TenantName) -> Vec<String> {
    let database = tenant.database();
    let program: &[&str] = match stream {
        Stream::Base | Stream::BaseWithLog => {
            let log = if stream == Stream::Base {
                "none"
            } else {
                "fetch"
            };
            &[
                "pg_basebackup",
                "-D",
                "-",
                "-F",
                "tar",
                "-X",
                log,
                "-c",
                "fast",
                "-U",
                "postgres",
                "-w",
            ]
        }
        // Large objects and everything else of the one database; roles are the agent's own.
        Stream::Dump => &[
            "pg_dump", "-F", "custom", "-Z", "0", "-w", "-U", "postgres", "-d", &database,
        ],
    };
    let bounded = ["timeout", "-k", "5", LONGEST_S];
    bounded
        .iter()
        .chain(program)
        .map(|word| (*word).to_owned())
        .collect()
}

#[async_trait]
impl Clusters for ContainerClusters {
    async fn position(&self, of: &Of, switch: bool) -> Result<Position, Problem> {
        let at = now_ms();
        let postgres = ("postgres", "postgres");
        if switch {
            let switched = timeout(ASK, self.row(of, postgres.0, postgres.1, SWITCH)).await;
            switched.map_err(|_| failed("PostgreSQL has not answered in time"))??;
        }
        let [lsn, timeline, size, archives] = self.ask(of, postgres, POSITION).await?;
        Ok(Position {
            at,
            lsn,
            timeline: u32::try_from(timeline).map_err(|_| failed("no timeline"))?,
            size: SegmentSize::try_from(size).map_err(failed)?,
            archives: archives != 0,
        })
    }

    async fn counts(&self, of: &Of) -> Result<Counts, Problem> {
        let database = of.tenant.database();
        let [database_bytes] = self.ask(of, ("postgres", &database), SIZE).await?;
        let [relations, attachments] = self.ask(of, ("odoo", &database), COUNTS).await?;
        Ok(Counts {
            database_bytes,
            relations,
            attachments,
        })
    }

    async fn stream(
        &self,
        of: &Of,
        stream: Stream,
        stop: &Stop,
    ) -> Result<Box<dyn Producer>, Problem> {
        let container = self.container(of).await?;
        let command = Program {
            docker: self.0.docker.clone(),
            container: container.id,
            user: POSTGRES_USER,
            words: words(stream, &of.tenant),
            silence: SILENCE,
        };
        let started = command.start(stop.clone()).await;
        let started = started
            .map_err(|_| failed("the program in PostgreSQL's container cannot be started"))?;
        Ok(Box::new(started))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_bounded_and_name_one_database() {
        let alfa = "alfa".parse().unwrap();
        let dump = words(Stream::Dump, &alfa);
        assert_eq!(dump[..4], ["timeout", "-k", "5", LONGEST_S]);
        assert_eq!(dump.last().map(String::as_str), Some("odoo_alfa"));
        assert_eq!(words(Stream::Base, &alfa)[4], "pg_basebackup");
    }
}
