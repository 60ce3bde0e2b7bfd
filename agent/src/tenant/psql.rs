//! Scripts that are run by a tenant's PostgreSQL, in its container, as the cluster's superuser. Not here: what they say (sql).

use tokio::time::{Instant, sleep, timeout};

use crate::{
    docker::{DockerError, POSTGRES_USER},
    host::{
        cluster::Cluster,
        database::{ContainerDatabases, Databases as _, Of},
    },
    tenant::{Result, Tenant, TenantError, turn::ASK},
};

/// psql's exit code for "could not connect": the server is still recovering.
const PSQL_NO_CONNECTION: i32 = 2;
/// Fraction (one in this many) of [`crate::host::Pace::sql_timeout`] that psql gets on top, to end in its container and
/// report that.
const PSQL_END: u32 = 4;

/// Runs a script as the cluster's superuser, through standard input, so that none of it is in an argument list.
/// Bounded, because a tenant's own code may run within it: that must not hold up the tenant's suspension, nor keep a turn
/// among others. Returns what it prints.
pub(super) async fn psql(tenant: &Tenant, script: String) -> Result<Vec<u8>> {
    let pace = &tenant.host.pace;
    let most = pace.sql_timeout + pace.sql_timeout / PSQL_END + pace.start_timeout;
    let asked = timeout(most, run_psql(tenant, script));
    match tenant.turn.at_most(ASK, asked).await {
        Ok(outcome) => outcome,
        Err(_) => Err(TenantError::Program(format!(
            "psql has not ended after {} s",
            most.as_secs()
        ))),
    }
}

/// A session with a database of the tenant, through its container's socket: sooner there than a program in the container, by most of a
/// quarter of a second. What is asked there is bounded (cluster).
pub(super) async fn session(
    tenant: &Tenant,
    database: &str,
) -> std::result::Result<Cluster, String> {
    let of = Of {
        tenant: tenant.name().clone(),
        uid: tenant.plan.uid,
    };
    let databases = ContainerDatabases(tenant.host.clone());
    let socket = databases.connect(&of).await.map_err(|e| e.to_string())?;
    Cluster::open(socket, database).await
}

async fn run_psql(tenant: &Tenant, script: String) -> Result<Vec<u8>> {
    let limit = tenant.host.pace.sql_timeout.as_secs().max(1).to_string();
    // `timeout` ends it in the container too: it would run on there after we stop waiting.
    let command = [
        "timeout",
        "-k",
        "5",
        &limit,
        "psql",
        "-X",
        "-q",
        "-v",
        "ON_ERROR_STOP=1",
        "-U",
        "postgres",
        "-d",
        "postgres",
    ]
    .map(str::to_owned);
    let name = tenant.name().postgres_container();
    let begin = Instant::now();
    loop {
        let output = match tenant
            .host
            .docker
            .exec(&name, POSTGRES_USER, &command, script.clone().into_bytes())
            .await
        {
            Err(DockerError::Conflict(why)) => {
                return Err(TenantError::Program(format!(
                    "PostgreSQL is not running: {why}"
                )));
            }
            output => output?,
        };
        if output.code == 0 {
            return Ok(output.stdout);
        }
        if output.code != PSQL_NO_CONNECTION || begin.elapsed() > tenant.host.pace.start_timeout {
            // psql's errors quote a position, and for a bad value its text: report only the first line, which names the
            // error.
            let text = String::from_utf8_lossy(&output.stderr);
            let first = text
                .lines()
                .find(|l| !l.trim().is_empty())
                .unwrap_or("no message");
            return Err(TenantError::Program(format!(
                "psql ended with code {}: {first}",
                output.code
            )));
        }
        sleep(tenant.host.pace.poll).await;
    }
}

/// The one number that a script prints.
pub(super) fn number(printed: &[u8]) -> Result<u32> {
    let text = String::from_utf8_lossy(printed);
    let number = text.trim().parse();
    number.map_err(|_| TenantError::Program("psql printed no number".to_owned()))
}
