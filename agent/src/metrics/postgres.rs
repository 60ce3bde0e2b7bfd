//! Reads tenants' PostgreSQL over SQL, as a role that may see statistics and nothing else. Keeps one connection per
//! tenant while somebody scrapes: reconnecting each time would cost both sides more than the reading.
//!
//! Not here: the statements and the page (pg_text), creating the role (sql).

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use isyone_proto::ids::TenantName;
use tokio::{
    sync::Mutex as Turn,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::pg_text::{self, Row, Tables};
use crate::plan::{sql, stack::POSTGRES_PORT};

/// Limit for a whole scrape; PostgreSQL's own limit is shorter.
const TIMEOUT: Duration = Duration::from_secs(8);
/// A postmaster on the same machine accepts at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that nobody has used for this long is closed: it costs the tenant a few MB.
const IDLE: Duration = Duration::from_secs(150);
/// Sizes are measured at most this often: that looks at each of some thousand files.
const SIZES_EVERY: Duration = Duration::from_secs(60);
/// Applies to each of our sessions, whatever the role's own settings: no long statements, no writes, nobody else's
/// functions.
const OPTIONS: &str = "-c statement_timeout=5000 -c lock_timeout=1000 -c default_transaction_read_only=on -c search_path=pg_catalog -c jit=off";

/// Where a tenant's PostgreSQL is, and the credentials for it.
#[derive(Clone, PartialEq, Eq)]
pub struct MonitorLogin {
    /// The container's address.
    pub address: Ipv4Addr,
    /// The role's password.
    pub password: String,
}

struct Connection {
    access: MonitorLogin,
    client: Client,
    version: u32,
    driver: JoinHandle<()>,
    sizes: Option<(Instant, Vec<Row>)>,
    used: Instant,
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
            // Keep a connection only if all its answers have been read.
            *slot = Some(connection);
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

/// The whole error chain, because its source holds PostgreSQL's own message. It never contains the password.
fn words(error: &tokio_postgres::Error) -> String {
    isyone_proto::tls::error_chain(error)
}

async fn connect(access: &MonitorLogin) -> Result<Connection, String> {
    let mut config = Config::new();
    config
        .hostaddr(access.address.into())
        .port(POSTGRES_PORT)
        .user(sql::MONITOR_ROLE)
        .password(&access.password)
        .dbname("postgres")
        .application_name("isy-agent")
        .options(OPTIONS)
        .connect_timeout(CONNECT_TIMEOUT);
    let (client, connection) = config.connect(NoTls).await.map_err(|e| words(&e))?;
    let driver = tokio::spawn(async move {
        // The client notices when it ends.
        let _ = connection.await;
    });
    let mut connection = Connection {
        access: access.clone(),
        client,
        version: 0,
        driver,
        sizes: None,
        used: Instant::now(),
    };
    let rows = connection.tables("SHOW server_version_num").await?;
    let version = rows
        .first()
        .and_then(|rows| rows.first()?.get("server_version_num")?.parse().ok());
    connection.version = version.ok_or("PostgreSQL does not tell its version")?;
    Ok(connection)
}

impl Connection {
    async fn page(&mut self) -> Result<String, String> {
        let mut tables = self
            .tables(&pg_text::statements(self.version).join(";"))
            .await?
            .into_iter();
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
            let rows = self.tables(&pg_text::sizes_statement()).await?;
            self.sizes = Some((Instant::now(), rows.into_iter().next().unwrap_or_default()));
        }
        let sizes = self.sizes.as_ref().map_or(&[][..], |(_, rows)| rows);
        Ok(pg_text::render(&tables, sizes))
    }

    /// Returns the rows of each statement.
    async fn tables(&self, sql: &str) -> Result<Vec<Vec<Row>>, String> {
        let messages = self.client.simple_query(sql).await.map_err(|e| words(&e))?;
        let mut tables = vec![Vec::new()];
        for message in messages {
            match message {
                SimpleQueryMessage::Row(row) => {
                    let columns = row.columns().iter().enumerate();
                    let row = columns
                        .filter_map(|(at, column)| {
                            Some((column.name().to_owned(), row.get(at)?.to_owned()))
                        })
                        .collect();
                    if let Some(table) = tables.last_mut() {
                        table.push(row);
                    }
                }
                SimpleQueryMessage::CommandComplete(_) => tables.push(Vec::new()),
                _ => {}
            }
        }
        Ok(tables)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_postgres_that_is_not_there_is_an_answer() {
        let pool = Pool::default();
        let tenant = "alfa".parse().unwrap();
        // Nothing listens on this port of the loopback network's last address.
        let access = MonitorLogin {
            address: Ipv4Addr::new(127, 255, 255, 254),
            password: "secret".into(),
        };
        let error = pool.scrape(&tenant, &access).await.unwrap_err();
        assert!(!error.is_empty() && !error.contains("secret"), "{error}");
        pool.tidy(&|_| true);
        assert!(
            pool.slots.lock().unwrap().is_empty(),
            "nothing is kept of it"
        );
    }
}
