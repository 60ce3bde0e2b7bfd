//! A tenant's data is set aside for a restore that takes its place, comes back, or goes when its time is over. What is remembered says at
//! each moment what lies where: before anything moves that it moves, and when all of it has moved that it has.
//!
//! Not here: when (plan::diff), the directories (host::homes).

use uuid::Uuid;

use crate::{
    base::{failpoints, fsutil::blocking},
    plan::{
        recovery::Purpose,
        state::{Aside, Database},
    },
    tenant::{Result, Tenant, TenantError, TenantView, data},
};

/// Renames the tenant's data aside. From its end on a job may fill the empty directories in its place.
pub(super) async fn set_aside(tenant: &Tenant, view: &TenantView, id: Uuid) -> Result<String> {
    let (homes, home) = data::home(tenant, view).await?;
    let (path, uid) = (home.path.clone(), tenant.plan.uid);
    tenant.remember(true, |s| {
        s.aside = Some(Aside {
            restore: id,
            moving: true,
        });
        s.home = Some(path.clone());
    })?;
    failpoints::reached("aside-noted");
    let moved = blocking(move || homes.set_aside(&path, uid, id)).await;
    moved.map_err(TenantError::disk("the tenant's data cannot be set aside"))?;
    failpoints::reached("aside-moved");
    tenant.remember(true, |s| {
        s.database = Database::Incoming;
        s.copied_by = None;
        s.settings = String::new();
        s.aside = Some(Aside {
            restore: id,
            moving: false,
        });
    })?;
    tracing::info!(tenant = %tenant.name(), restore = %id, "its data is set aside");
    Ok("its data is set aside".to_owned())
}

/// Puts back what was set aside; what has come in its place goes. Nothing does unless all of it is there.
pub(super) async fn bring_back(tenant: &Tenant, view: &TenantView, id: Uuid) -> Result<String> {
    let (homes, home) = data::home(tenant, view).await?;
    let (path, uid) = (home.path.clone(), tenant.plan.uid);
    let whole = tenant.state().aside.is_some_and(|aside| !aside.moving);
    if whole {
        let (homes, path) = (homes.clone(), path.clone());
        let there = blocking(move || Ok(homes.has_aside(&path, id))).await;
        if !there.unwrap_or_default() {
            return Err(TenantError::Program(format!(
                "what was set aside for restore {id} is not in {}: nothing is changed",
                home.path.display()
            )));
        }
    }
    // From here on no job begins to write: it looks again when it holds the volumes.
    tenant.remember(true, |s| {
        s.database = Database::Doubtful;
        s.aside = Some(Aside {
            restore: id,
            moving: true,
        });
    })?;
    failpoints::reached("return-noted");
    // A job that was cut off may have asked for its PostgreSQL just now: it would begin on what comes back.
    let docker = &tenant.host.docker;
    let restoring = Purpose::restore(&tenant.plan.name, tenant.plan.uid);
    docker.remove(&restoring.server()).await?;
    tracing::warn!(tenant = %tenant.name(), restore = %id, "what was restored is removed, and what was set aside takes its place");
    let moved = blocking(move || homes.bring_back(&path, uid, id)).await;
    moved.map_err(TenantError::disk(
        "what was set aside cannot be put back now",
    ))?;
    failpoints::reached("return-moved");
    tenant.remember(true, |s| {
        s.database = Database::Ready { synced: true };
        s.copied_by = None;
        s.settings = String::new();
        s.aside = None;
    })?;
    Ok("it is what it was before the restore".to_owned())
}

/// Removes what was set aside: only on order.
pub(super) async fn remove_aside(tenant: &Tenant, view: &TenantView, id: Uuid) -> Result<String> {
    let (homes, home) = data::home(tenant, view).await?;
    let (path, uid) = (home.path, tenant.plan.uid);
    tracing::warn!(tenant = %tenant.name(), restore = %id, "removing what the tenant was before a restore");
    let removed = blocking(move || homes.remove_aside(&path, uid, id)).await;
    removed.map_err(TenantError::disk("what was set aside cannot be removed"))?;
    tenant.remember(true, |s| s.aside = None)?;
    Ok(String::new())
}
