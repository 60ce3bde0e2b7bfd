//! A tenant's database: filled from a golden snapshot or by `odoo -i`, then made the tenant's own.
//!
//! Before each change of the volumes, `state.json` records what they hold, so that after a crash at any point the right
//! thing happens: scrap is wiped and filled again, a ready database is never touched. Not here: the SQL (sql), how it
//! is run (psql), the snapshots' files (golden).

use std::{path::PathBuf, time::Duration};

use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::{
    base::{clock::now_ms, failpoints, fsutil::blocking, tree},
    host::golden::{Restored, Volumes},
    plan::{
        anew,
        container::ContainerSpec,
        diff::Blocked,
        fresh::{self, Trouble, When},
        installs,
        sql::{self, DatabaseIdentity},
        stack::{POSTGRES_GRACE_S, Stack},
        state::{Database, Unfit},
    },
    tenant::{
        Result, Tenant, TenantError, TenantView,
        containers::{boosted, settled},
        psql::{number, psql},
        ready,
    },
};

/// The longest that Odoo may take to neutralise a database: it loads no module, and updates some tables.
const NEUTRALISING: Duration = Duration::from_secs(600);
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
    look_at_order(tenant, stack).await?;
    let prepare = sql::prepare(&tenant.plan) + &fresh::create(&tenant.plan);
    psql(tenant, prepare).await?;
    failpoints::reached("mid-database");
    install(tenant, view, stack).await?;
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

/// Odoo's base, then the company, then the modules that were asked for, which are set up for it. What the image does not have
/// is found before anybody could take the database for what was asked for.
async fn install(tenant: &Tenant, view: &TenantView, stack: &Stack) -> Result<()> {
    run_init(tenant, view, stack, &stack.init).await?;
    look_through(tenant, stack, fresh::settle(&tenant.plan), When::Before).await?;
    if let Some(install) = &stack.install {
        run_init(tenant, view, stack, install).await?;
        look_through(tenant, stack, fresh::ask(&tenant.plan), When::After).await?;
    }
    Ok(())
}

/// Whether PostgreSQL can sort as was asked for; by bytes it always can.
async fn look_at_order(tenant: &Tenant, stack: &Stack) -> Result<()> {
    let Some(script) = fresh::ask_collation(&tenant.plan) else {
        return Ok(());
    };
    let printed = psql(tenant, script).await?;
    match fresh::collation_trouble(&tenant.plan, &String::from_utf8_lossy(&printed)) {
        Some(troubles) if troubles.is_empty() => Ok(()),
        Some(troubles) => Err(refuse(tenant, stack, &troubles)?),
        None => Err(TenantError::Program(
            "psql did not say how the image can sort".to_owned(),
        )),
    }
}

/// Runs a script that ends by telling what the image has, and compares that with what was asked for.
async fn look_through(tenant: &Tenant, stack: &Stack, script: String, when: When) -> Result<()> {
    let printed = psql(tenant, script).await?;
    let printed = String::from_utf8_lossy(&printed);
    if !printed.contains("language ") {
        // Of nothing, nothing follows.
        let text = "psql did not say what the image has".to_owned();
        return Err(TenantError::Program(text));
    }
    let troubles = fresh::troubles(&tenant.plan, &printed, when);
    match troubles.is_empty() {
        true => Ok(()),
        false => Err(refuse(tenant, stack, &troubles)?),
    }
}

/// Remembers that what was asked for cannot be had: no further try is made with the same.
fn refuse(tenant: &Tenant, stack: &Stack, troubles: &[Trouble]) -> Result<TenantError> {
    let (key, why) = (stack.golden_key.clone(), fresh::words(troubles));
    let unfit = Unfit {
        key,
        why: why.clone(),
    };
    tenant.remember(true, |s| s.unfit = Some(unfit))?;
    Ok(Blocked::Unfit(why).into())
}

/// Runs the one-off `odoo -i` to its end.
async fn run_init(
    tenant: &Tenant,
    view: &TenantView,
    stack: &Stack,
    wanted: &ContainerSpec,
) -> Result<()> {
    let docker = &tenant.host.docker;
    let id = view
        .observed
        .odoo_image
        .as_ref()
        .map(|f| f.id.clone())
        .unwrap_or_default();
    let name = &wanted.name;
    let mut spec = settled(wanted, &id);
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
        if let Some(unmet) = fresh::unmet(&log) {
            return Err(refuse(tenant, stack, &[unmet])?);
        }
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

fn new_identity() -> DatabaseIdentity {
    DatabaseIdentity {
        uuid: Uuid::new_v4(),
        secret: Uuid::new_v4(),
    }
}

/// Gives the filled database this tenant's keys, records that durably, and only then lets Odoo in.
pub(super) async fn rekey(tenant: &Tenant, view: &TenantView, stack: &Stack) -> Result<String> {
    let state = tenant.state();
    let (source, restored) = match state.database {
        Database::Filled { source } => (source, None),
        Database::Restored { source, neutralise } => (source, Some(neutralise)),
        _ => {
            return Err(TenantError::Program(
                "the database is not filled yet".to_owned(),
            ));
        }
    };
    let identity = new_identity();
    let plan = tenant.plan.clone();
    let rekeyed = match restored {
        Some(_) => sql::rekey_restored,
        None => sql::rekey,
    };
    // Hashing is slow on purpose, so it does not run on the runtime's threads.
    let script = tokio::task::spawn_blocking(move || rekeyed(&plan, &source, identity)).await;
    psql(
        tenant,
        script.map_err(|e| TenantError::Program(e.to_string()))?,
    )
    .await?;
    failpoints::reached("rekeyed");
    if restored == Some(true) {
        neutralise(tenant, view, stack).await?;
    }
    // Leaves the settings unrecorded: if the agent dies before Odoo is let in, `update_settings` runs and lets it in
    // too.
    tenant.remember(true, |s| {
        s.database = Database::Ready { synced: false };
        s.settings = String::new();
    })?;
    psql(tenant, sql::open(&tenant.plan)).await?;
    let settings = sql::settings_digest(&tenant.plan);
    tenant.remember(false, |s| s.settings = settings)?;
    Ok(match restored {
        None => "own keys, administrator, company and address",
        Some(true) => {
            "own keys, administrator and address; neutralised: no mail, no scheduled jobs"
        }
        Some(false) => "own keys, administrator and address; it is live",
    }
    .to_owned())
}

/// Runs Odoo's own program for it, each module's part, before Odoo is let in; then looks whether that is so.
async fn neutralise(tenant: &Tenant, view: &TenantView, stack: &Stack) -> Result<()> {
    let docker = &tenant.host.docker;
    let image = view.observed.odoo_image.as_ref();
    let id = image.map(|image| image.id.clone()).unwrap_or_default();
    let name = &stack.neutralise.name;
    docker.remove(name).await?;
    docker.create(&settled(&stack.neutralise, &id)).await?;
    docker.start(name).await?;
    let code = tokio::select! {
        code = timeout(NEUTRALISING, docker.wait(name)) => code,
        () = tenant.interrupted() => {
            docker.remove(name).await?;
            return Err(TenantError::Interrupted);
        }
    };
    let log = match code {
        Ok(Ok(0)) => String::new(),
        _ => docker.log_tail(name, LOG_LINES).await.unwrap_or_default(),
    };
    docker.remove(name).await?;
    match code {
        Ok(code) => match code? {
            0 => {}
            code => {
                return Err(TenantError::Program(format!(
                    "`odoo neutralize` ended with code {code}. Last log lines:\n{}",
                    log.trim_end()
                )));
            }
        },
        Err(_) => {
            return Err(TenantError::Program(
                "`odoo neutralize` has not ended in time".to_owned(),
            ));
        }
    }
    let printed = psql(tenant, sql::count_lively(&tenant.plan)).await?;
    match sql::lively(&String::from_utf8_lossy(&printed)) {
        None => Ok(()),
        Some(left) => Err(TenantError::Program(format!(
            "it is not started, because it is not neutralised: {left}"
        ))),
    }
}

/// Writes a changed address or role password; where that was asked for, all that makes the database this tenant's.
pub(super) async fn update_settings(tenant: &Tenant) -> Result<String> {
    let (plan, asked) = (tenant.plan.clone(), tenant.plan.settings_asked);
    let whole = asked > tenant.state().settings_asked;
    let script = match whole {
        false => sql::update(&plan),
        true => {
            let identity = new_identity();
            let hashed = tokio::task::spawn_blocking(move || anew::apply(&plan, identity)).await;
            hashed.map_err(|e| TenantError::Program(e.to_string()))?
        }
    };
    psql(tenant, script).await?;
    let settings = sql::settings_digest(&tenant.plan);
    tenant.remember(true, |s| {
        s.settings = settings;
        s.settings_can_wait = false;
        s.settings_asked = asked;
    })?;
    // What Odoo said of its settings was before that.
    tenant.host.board.set_pending(tenant.name(), None);
    let address = &tenant.plan.base_url;
    Ok(match whole {
        true => format!("own keys, administrator, limits and address {address}"),
        false => format!("address {address}"),
    })
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

/// A stand-in image has no database.
pub(super) fn skip(tenant: &Tenant) -> Result<String> {
    tenant.remember(false, |s| s.database = Database::Ready { synced: true })?;
    Ok("stand-in image: no database".to_owned())
}
