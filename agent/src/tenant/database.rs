//! A tenant's database: filled from a golden snapshot or by `odoo -i`, then made the tenant's own.
//!
//! Before each change of the volumes, `state.json` records what they hold, so that after a crash at any point the right
//! thing happens: scrap is wiped and filled again, a ready database is never touched. Not here: the SQL (sql), the
//! snapshots' files (golden).

use std::path::PathBuf;

use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::{
    base::{clock::now_ms, failpoints, fsutil::blocking, tree},
    docker::{DockerError, POSTGRES_USER},
    host::golden::{Restored, Volumes},
    plan::{
        installs,
        sql::{self, DatabaseIdentity},
        stack::{POSTGRES_GRACE_S, Stack},
        state::Database,
    },
    tenant::{
        Result, Tenant, TenantError, TenantView,
        containers::{boosted, settled},
        ready,
        turn::ASK,
    },
};

/// psql's exit code for "could not connect": the server is still recovering.
const PSQL_NO_CONNECTION: i32 = 2;
/// Lines of `odoo -i`'s log quoted in an error.
const LOG_LINES: u32 = 15;

fn volume_error() -> impl FnOnce(std::io::Error) -> TenantError {
    TenantError::disk("the database's volumes cannot be filled")
}

/// Both volumes as directories, if this machine sees them.
async fn volumes(tenant: &Tenant, view: &TenantView) -> Result<Option<Volumes>> {
    let docker = &tenant.host.docker;
    let names = (tenant.name().postgres_volume(), tenant.name().odoo_volume());
    let (postgres, odoo) = tokio::try_join!(docker.volume(&names.0), docker.volume(&names.1))?;
    let (Some(postgres), Some(odoo)) = (postgres, odoo) else {
        return Ok(None);
    };
    let (postgres, odoo) = (PathBuf::from(postgres.path()), PathBuf::from(odoo.path()));
    let odoo_owner = view
        .observed
        .odoo_image
        .as_ref()
        .map_or((0, 0), |f| (f.uid, f.gid));
    let local = tenant.host.volumes_are_local().await?;
    Ok(local.then_some(Volumes {
        postgres,
        odoo,
        odoo_owner,
    }))
}

/// Fills the volumes from the matching snapshot.
pub(super) async fn copy_golden(
    tenant: &Tenant,
    view: &TenantView,
    stack: &Stack,
) -> Result<String> {
    let Some(volumes) = volumes(tenant, view).await? else {
        return Err(TenantError::Program(
            "the volumes are not directories of this machine".to_owned(),
        ));
    };
    if tenant.state().database != Database::Filling {
        tenant.remember(true, |s| s.database = Database::Filling)?;
    }
    let begin = Instant::now();
    failpoints::reached("mid-database");
    let restored = tenant
        .host
        .golden
        .restore(&stack.golden_key, &volumes, &tenant.name().database())
        .await;
    let Restored {
        meta,
        stats,
        beforehand,
    } = restored.map_err(volume_error())?;
    tenant.remember(false, |s| {
        s.database = Database::Filled {
            source: meta.database,
        }
    })?;
    let (mb, took) = (meta.bytes as f64 / 1e6, begin.elapsed().as_secs_f64());
    if beforehand {
        return Ok(format!("golden snapshot, {mb:.0} MB copied beforehand"));
    }
    // Start writing to disk while PostgreSQL and Odoo start; the tenant is "converged" only once that is done.
    let places = [volumes.postgres, volumes.odoo];
    drop(tokio::task::spawn_blocking(move || {
        places.iter().try_for_each(|place| tree::sync(place))
    }));
    Ok(format!(
        "golden snapshot, {mb:.0} MB in {} files copied in {took:.2} s",
        stats.files
    ))
}

/// Fills the volumes with `odoo -i`, or from a snapshot that another tenant's initialisation has made meanwhile.
pub(super) async fn initialise(
    tenant: &Tenant,
    view: &TenantView,
    stack: &Stack,
) -> Result<String> {
    let local = volumes(tenant, view).await?;
    let _maker = tenant.host.golden.maker(&stack.golden_key).await;
    if tenant.is_interrupted() {
        return Err(TenantError::Interrupted);
    }
    if local.is_some() && tenant.host.golden.find(&stack.golden_key).is_some() {
        tenant
            .host
            .docker
            .stop(&stack.postgres.name, POSTGRES_GRACE_S)
            .await?;
        return copy_golden(tenant, view, stack).await;
    }
    let docker = &tenant.host.docker;
    let again = tenant.state().database == Database::Filling;
    tenant.remember(true, |s| s.database = Database::Filling)?;
    docker.remove(&stack.init.name).await?;
    if let (true, Some(volumes)) = (again, local.clone()) {
        docker.stop(&stack.postgres.name, POSTGRES_GRACE_S).await?;
        blocking(move || volumes.wipe())
            .await
            .map_err(volume_error())?;
    }
    let begin = Instant::now();
    docker.start(&stack.postgres.name).await?;
    ready::await_postgres(tenant).await?;
    psql(tenant, sql::prepare(&tenant.plan)).await?;
    failpoints::reached("mid-database");
    run_init(tenant, view, stack).await?;
    let took = begin.elapsed().as_secs_f64();
    let golden = match local {
        Some(volumes) => take_golden(tenant, stack, &volumes).await?,
        None => "no snapshot kept: the volumes are not directories of this machine".to_owned(),
    };
    tenant.remember(true, |s| {
        s.database = Database::Filled {
            source: tenant.name().database(),
        }
    })?;
    let modules: Vec<&str> = std::iter::once("base")
        .chain(tenant.plan.modules.iter().map(|m| m.as_str()))
        .collect();
    Ok(format!(
        "initialised with -i {}: {took:.1} s; {golden}",
        modules.join(",")
    ))
}

/// Runs the one-off `odoo -i` to its end.
async fn run_init(tenant: &Tenant, view: &TenantView, stack: &Stack) -> Result<()> {
    let docker = &tenant.host.docker;
    let id = view
        .observed
        .odoo_image
        .as_ref()
        .map(|f| f.id.clone())
        .unwrap_or_default();
    let name = &stack.init.name;
    let mut spec = settled(&stack.init, &id);
    spec.limits.nano_cpus = boosted(tenant).await?;
    docker.create(&spec).await?;
    docker.start(name).await?;
    let code = tokio::select! {
        code = docker.wait(name) => code?,
        () = tenant.interrupted() => {
            docker.remove(name).await?;
            return Err(TenantError::Interrupted);
        }
    };
    if code != 0 {
        let log = docker.log_tail(name, LOG_LINES).await.unwrap_or_default();
        docker.remove(name).await?;
        let text = format!(
            "`odoo -i` ended with code {code}; the half-made database is dropped and made again. Last log lines:\n{}",
            log.trim_end()
        );
        return Err(TenantError::Program(text));
    }
    Ok(docker.remove(name).await?)
}

/// Stops PostgreSQL cleanly and keeps a copy. If the disk is too full for that, later tenants are only slower to
/// create.
async fn take_golden(tenant: &Tenant, stack: &Stack, volumes: &Volumes) -> Result<String> {
    psql(tenant, sql::SCRUB.to_owned()).await?;
    tenant
        .host
        .docker
        .stop(&stack.postgres.name, POSTGRES_GRACE_S)
        .await?;
    let begin = Instant::now();
    match tenant
        .host
        .golden
        .take_snapshot(
            &stack.golden_key,
            volumes,
            &tenant.name().database(),
            now_ms(),
        )
        .await
    {
        Ok(stats) => Ok(format!(
            "snapshot of {:.0} MB kept in {:.1} s",
            stats.bytes as f64 / 1e6,
            begin.elapsed().as_secs_f64()
        )),
        Err(e) => {
            tracing::warn!(tenant = %tenant.name(), "no golden snapshot could be kept: {e}");
            Ok(format!("no snapshot could be kept: {e}"))
        }
    }
}

/// Gives the filled database this tenant's keys, records that durably, and only then lets Odoo in.
pub(super) async fn rekey(tenant: &Tenant) -> Result<String> {
    let state = tenant.state();
    let Database::Filled { source } = state.database else {
        return Err(TenantError::Program(
            "the database is not filled yet".to_owned(),
        ));
    };
    let identity = DatabaseIdentity {
        uuid: Uuid::new_v4(),
        secret: Uuid::new_v4(),
    };
    let plan = tenant.plan.clone();
    // Hashing is slow on purpose, so it does not run on the runtime's threads.
    let script = tokio::task::spawn_blocking(move || sql::rekey(&plan, &source, identity)).await;
    psql(
        tenant,
        script.map_err(|e| TenantError::Program(e.to_string()))?,
    )
    .await?;
    // Leaves the settings unrecorded: if the agent dies before Odoo is let in, `update_settings` runs and lets it in
    // too.
    tenant.remember(true, |s| {
        s.database = Database::Ready { synced: false };
        s.settings = String::new();
    })?;
    psql(tenant, sql::open(&tenant.plan)).await?;
    let settings = sql::settings_digest(&tenant.plan);
    tenant.remember(false, |s| s.settings = settings)?;
    Ok("own keys, administrator, company and address".to_owned())
}

/// Writes a changed address or role password.
pub(super) async fn update_settings(tenant: &Tenant) -> Result<String> {
    psql(tenant, sql::update(&tenant.plan)).await?;
    let settings = sql::settings_digest(&tenant.plan);
    tenant.remember(true, |s| s.settings = settings)?;
    Ok(format!("address {}", tenant.plan.base_url))
}

/// After a start PostgreSQL finishes no segment for the time that it takes until its first checkpoint has ended: 5 minutes. Where
/// segments are shipped, that comes now.
pub(super) async fn begin_switching(tenant: &Tenant) {
    if tenant.plan.wal_spool.is_none() || !tenant.state().is_ready() {
        return;
    }
    if let Err(e) = psql(tenant, "CHECKPOINT;\n".to_owned()).await {
        tracing::warn!(tenant = %tenant.name(), "no checkpoint after the start of PostgreSQL, its log is shipped later: {e}");
    }
}

/// How many connections [`end_sessions`] would end.
pub(super) async fn count_sessions(tenant: &Tenant) -> Result<u32> {
    let printed = psql(tenant, sql::count_sessions()).await?;
    number(&printed)
}

/// How many modules are to be installed, upgraded or removed.
pub(super) async fn count_pending(tenant: &Tenant) -> Result<u32> {
    let printed = psql(tenant, installs::count(&tenant.plan)).await?;
    number(&printed)
}

/// Ends the connections of a tenant whose disk is full.
pub(super) async fn end_sessions(tenant: &Tenant) -> Result<String> {
    let printed = psql(tenant, sql::end_sessions()).await?;
    Ok(format!("{} connections ended", number(&printed)?))
}

/// The one number that a script prints.
fn number(printed: &[u8]) -> Result<u32> {
    let text = String::from_utf8_lossy(printed);
    let number = text.trim().parse();
    number.map_err(|_| TenantError::Program("psql printed no number".to_owned()))
}

/// A stand-in image has no database.
pub(super) fn skip(tenant: &Tenant) -> Result<String> {
    tenant.remember(false, |s| s.database = Database::Ready { synced: true })?;
    Ok("stand-in image: no database".to_owned())
}

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
