//! Reads tenants' PostgreSQL over SQL, as a role that may see statistics and nothing else. Keeps one connection per
//! tenant while somebody scrapes: reconnecting each time would cost both sides more than the reading.
//!
//! Who answers is a tenant's program, which need not be PostgreSQL: of what it sends, so many bytes are read in a connection's
//! life, of these so many rows and columns are kept, and none is logged. Not here: the statements (pg_statements), the
//! page (pg_text), creating the role (sql).

use std::{
    collections::HashMap,
    future::poll_fn,
    net::{Ipv4Addr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::TryStreamExt as _;
use isyone_proto::ids::TenantName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    net::TcpStream,
    sync::Mutex as Turn,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow, tls::NoTlsStream};

use super::{
    pg_statements::{self, Statement},
    pg_text::{self, Row, Tables},
};
use crate::plan::{sql, stack::POSTGRES_PORT};

/// Limit for a whole scrape; PostgreSQL's own limit is shorter.
const TIMEOUT: Duration = Duration::from_secs(8);
/// A postmaster on the same machine accepts at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that nobody has used for this long is closed: it costs the tenant a few MB.
const IDLE: Duration = Duration::from_secs(150);
/// Sizes are measured at most this often: that looks at each of some thousand files.
const SIZES_EVERY: Duration = Duration::from_secs(60);
/// What is read of a connection in its whole life. The client's library keeps a message whole before it looks at it, and a server's
/// settings for as long as the connection lives; this is the bound of both. A page takes some 4 KiB, with the most databases 40.
const MAX_BYTES: u64 = 1 << 20;
/// Pages that one connection gives, so that it ends before its bytes do.
const MAX_PAGES: u32 = 25;
/// Most bytes of a value that are kept: a name has 63, the longest version some 150.
const MAX_VALUE: usize = 200;
/// Most bytes of a reason why there is no page.
const MAX_REASON: usize = 300;
/// Applies to each of our sessions, whatever the role's own settings: no long statements, no writes, nobody else's
/// functions.
const OPTIONS: &str = "-c statement_timeout=5000 -c lock_timeout=1000 -c default_transaction_read_only=on -c search_path=pg_catalog -c jit=off";

/// Where a tenant's PostgreSQL is, and the credentials for it.
#[derive(Clone, PartialEq, Eq)]
pub struct MonitorLogin {
    /// The container's, with its port.
    pub address: SocketAddr,
    /// The role's password.
    pub password: String,
}

impl MonitorLogin {
    /// Of the PostgreSQL in a container.
    pub fn of(container: Ipv4Addr, password: String) -> Self {
        Self {
            address: (container, POSTGRES_PORT).into(),
            password,
        }
    }
}

struct Connection {
    access: MonitorLogin,
    client: Client,
    version: u32,
    driver: JoinHandle<()>,
    sizes: Option<(Instant, Vec<Row>)>,
    used: Instant,
    pages: u32,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

type Slot = Arc<Turn<Option<Connection>>>;

#[derive(Default)]
pub struct Pool {
    slots: Mutex<HashMap<TenantName, Slot>>,
}

impl Pool {
    /// The page of a tenant's PostgreSQL, or why there is none.
    pub async fn scrape(
        &self,
        tenant: &TenantName,
        access: &MonitorLogin,
    ) -> Result<String, String> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.entry(tenant.clone()).or_default().clone()
        };
        let read = async {
            let mut slot = slot.lock().await;
            let kept = slot
                .take()
                .filter(|c| c.access == *access && !c.client.is_closed());
            let was_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => connect(access).await?,
            };
            let mut page = connection.page().await;
            if was_kept && connection.client.is_closed() {
                // PostgreSQL has been restarted since: ask the new one.
                connection = connect(access).await?;
                page = connection.page().await;
            }
            let page = page?;
            connection.used = Instant::now();
            connection.pages += 1;
            // Keep a connection only if all its answers have been read.
            *slot = Some(connection).filter(|c| c.pages < MAX_PAGES);
            Ok(page)
        };
        timeout(TIMEOUT, read)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())))
    }

    /// Closes connections that nobody uses any more. `keep`: tenants that are still here.
    pub fn tidy(&self, keep: &dyn Fn(&TenantName) -> bool) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|tenant, slot| {
            let Ok(mut connection) = slot.try_lock() else {
                return true;
            }; // in use
            connection.take_if(|c| c.used.elapsed() > IDLE || !keep(tenant));
            connection.is_some()
        });
    }
}

/// The whole error chain, because its source holds PostgreSQL's own message: the beginning, because that is as long as the tenant
/// likes. It never contains the password.
fn words(error: &tokio_postgres::Error) -> String {
    beginning(&isyone_proto::tls::error_chain(error), MAX_REASON).to_owned()
}

/// At most so many bytes of a text.
fn beginning(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

async fn connect(access: &MonitorLogin) -> Result<Connection, String> {
    let tcp = match timeout(CONNECT_TIMEOUT, TcpStream::connect(access.address)).await {
        Ok(tcp) => tcp.map_err(|e| e.to_string())?,
        Err(_) => return Err(format!("no connection in {} s", CONNECT_TIMEOUT.as_secs())),
    };
    tcp.set_nodelay(true).map_err(|e| e.to_string())?;
    let (from, to) = tcp.into_split();
    let stream = tokio::io::join(from.take(MAX_BYTES), to);
    let mut config = Config::new();
    config
        .user(sql::MONITOR_ROLE)
        .password(&access.password)
        .dbname("postgres")
        .application_name("isy-agent")
        .options(OPTIONS);
    let connected = config.connect_raw(stream, NoTls).await;
    let (client, connection) = connected.map_err(|e| words(&e))?;
    let mut connection = Connection {
        access: access.clone(),
        client,
        version: 0,
        driver: tokio::spawn(drive(connection)),
        sizes: None,
        used: Instant::now(),
        pages: 0,
    };
    let rows = connection
        .tables(&[pg_statements::version_statement()])
        .await?
        .pop();
    let version = rows.and_then(|rows| rows.first()?.get("server_version_num")?.parse().ok());
    connection.version = version.ok_or("PostgreSQL does not tell its version")?;
    Ok(connection)
}

/// Moves a connection's messages; the client notices when it ends. One by one, because the connection's own future logs each
/// notice, and those are the tenant's words, as many as it likes.
async fn drive<S>(mut connection: tokio_postgres::Connection<S, NoTlsStream>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(_)) = poll_fn(|cx| connection.poll_message(cx)).await {}
}

impl Connection {
    async fn page(&mut self) -> Result<String, String> {
        let statements = pg_statements::statements(self.version);
        let mut tables = self.tables(&statements).await?.into_iter();
        let mut next = || tables.next().unwrap_or_default();
        let tables = Tables {
            databases: next(),
            locks: next(),
            activity: next(),
            server: next(),
            writer: next(),
        };
        if self
            .sizes
            .as_ref()
            .is_none_or(|(at, _)| at.elapsed() > SIZES_EVERY)
        {
            let rows = self.tables(&[pg_statements::sizes_statement()]).await?;
            self.sizes = Some((Instant::now(), rows.into_iter().next().unwrap_or_default()));
        }
        let sizes = self.sizes.as_ref().map_or(&[][..], |(_, rows)| rows);
        // Not aside: it is of a few hundred rows at most, and some microseconds for each.
        Ok(pg_text::render(&tables, sizes))
    }

    /// Returns the rows of each statement. An answer with more of them than the statement can have is an error.
    async fn tables(&self, statements: &[Statement]) -> Result<Vec<Vec<Row>>, String> {
        let sql: Vec<&str> = statements.iter().map(|s| s.sql.as_str()).collect();
        let answer = self.client.simple_query_raw(&sql.join(";")).await;
        let mut answer = pin!(answer.map_err(|e| words(&e))?);
        let mut tables = Vec::new();
        let (mut rows, mut places) = (Vec::new(), Vec::new());
        // Message by message: what is not kept is not collected either.
        while let Some(message) = answer.try_next().await.map_err(|e| words(&e))? {
            let Some(statement) = statements.get(tables.len()) else {
                return Err("PostgreSQL answers what it was not asked".to_owned());
            };
            match message {
                SimpleQueryMessage::RowDescription(columns) => {
                    let at = |name: &str| columns.iter().position(|c| c.name() == name);
                    let known = statement.columns.iter();
                    places = known.filter_map(|name| Some((at(name)?, *name))).collect();
                }
                SimpleQueryMessage::Row(_) if rows.len() >= statement.most_rows => {
                    return Err("PostgreSQL answers more rows than it was asked for".to_owned());
                }
                SimpleQueryMessage::Row(row) => rows.push(kept(&row, &places)?),
                SimpleQueryMessage::CommandComplete(_) => tables.push(std::mem::take(&mut rows)),
                _ => {}
            }
        }
        Ok(tables)
    }
}

/// What is kept of a row: the columns that were asked for, and the beginning of each value.
fn kept(row: &SimpleQueryRow, places: &[(usize, &'static str)]) -> Result<Row, String> {
    let mut kept = Row::new();
    for (at, name) in places {
        if let Some(value) = row.try_get(*at).map_err(|e| words(&e))? {
            kept.insert(name, beginning(value, MAX_VALUE).to_owned());
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests;
