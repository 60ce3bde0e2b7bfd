//! A tenant's volumes and the directories that they are records of: made, put back, moved into the home, removed.
//!
//! Data is in one place at any moment, because it moves as a whole by a rename, and a record is removed only when nothing
//! is left in Docker's own directory for it. After a crash between any two steps the next look finds how far it came.
//! Not here: when (plan::diff), the directories themselves (host::homes).

use std::{io, path::PathBuf};

use isyone_proto::plan::{DesiredState, Role};
use tokio::time::sleep;

use crate::{
    base::{failpoints, fsutil::blocking},
    docker::DockerError,
    host::homes::Homes,
    plan::{design, home::Home},
    tenant::{Result, Tenant, TenantError, TenantView},
};

fn no_home() -> TenantError {
    TenantError::Program("the volumes are not directories of this machine".to_owned())
}

/// The tenant's home as it was found, and what works on it.
pub(super) async fn home(tenant: &Tenant, view: &TenantView) -> Result<(Homes, Home)> {
    let found = view.observed.home.clone().ok_or_else(no_home)?;
    Ok((tenant.host.homes().await?, found))
}

/// Makes a role's volume: a record of a directory in the home, if this machine sees Docker's volumes.
pub(super) async fn create_volume(
    tenant: &Tenant,
    view: &TenantView,
    role: Role,
) -> Result<String> {
    let spec = design::volume(&tenant.plan, role);
    if view.observed.home.is_none() {
        tenant.host.docker.create_volume(&spec, None).await?;
        return Ok(format!("{} made", spec.name));
    }
    let (homes, home) = home(tenant, view).await?;
    let (place, uid) = (home.clone(), tenant.plan.uid);
    blocking(move || homes.make(&place, uid, role))
        .await
        .map_err(TenantError::disk("the tenant's home cannot be made"))?;
    record(tenant, &home, role).await?;
    Ok(format!("{} made", spec.name))
}

/// Makes the directory of the spool that PostgreSQL's container has mounted: Docker creates and starts none without it.
pub(super) async fn make_spool(tenant: &Tenant, view: &TenantView) -> Result<()> {
    let (Some(home), Some(image)) = (&view.observed.home, &view.observed.postgres_image) else {
        return Ok(());
    };
    let (homes, home, uid) = (
        tenant.host.homes().await?,
        home.path.clone(),
        tenant.plan.uid,
    );
    let owner = (image.uid, image.gid);
    let made = blocking(move || homes.make_spool(&home, uid, owner)).await;
    made.map_err(TenantError::disk("the tenant's spool cannot be made"))
}

/// Makes the record of a directory that is there.
async fn record(tenant: &Tenant, home: &Home, role: Role) -> Result<()> {
    let spec = design::volume(&tenant.plan, role);
    let directory = home.directory(role);
    let docker = &tenant.host.docker;
    let made = docker.create_volume(&spec, Some(&directory)).await?;
    if made.device.as_ref().map(PathBuf::from) == Some(directory) {
        return Ok(());
    }
    // Docker returns a volume that exists as it is.
    Err(TenantError::Program(format!(
        "somebody has made a volume {} just now",
        spec.name
    )))
}

/// Makes the records again that are gone. Counted once however often it is interrupted, and not at all when it was this
/// agent that had removed them.
pub(super) async fn put_back(tenant: &Tenant, view: &TenantView) -> Result<String> {
    let (_, home) = home(tenant, view).await?;
    // A prune takes volumes one by one, and its first event has woken us: what goes in one moment is one finding.
    sleep(tenant.host.pace.idle).await;
    let mut lost = Vec::new();
    for role in [Role::Postgres, Role::Odoo] {
        let name = design::volume(&tenant.plan, role).name;
        let gone = tenant.host.docker.volume(&name).await?.is_none();
        if gone && home.data(role).kept {
            lost.push(role);
        }
    }
    if !tenant.state().recording {
        tracing::warn!(tenant = %tenant.name(), ?lost, "records of volumes are gone from Docker; their data is there");
        tenant.remember(true, |s| {
            s.recording = true;
            s.volume_repairs += 1;
            s.home = Some(home.path.clone());
        })?;
    }
    failpoints::reached("put-back-noted");
    for role in &lost {
        record(tenant, &home, *role).await?;
    }
    failpoints::reached("put-back-recorded");
    tenant.remember(true, |s| s.recording = false)?;
    Ok(format!("{} of the volumes' records put back", lost.len()))
}

/// Moves a role's data into the home and makes its volume a record of it. The role's stopped container goes between: until
/// its data is in the home, it is what keeps a prune from taking the volume, and afterwards it is in the way. A tenant is never held up by that: what cannot
/// be moved stays where it is.
pub(super) async fn move_home(tenant: &Tenant, view: &TenantView, role: Role) -> Result<String> {
    let (homes, home) = home(tenant, view).await?;
    let volume = view.observed.volume(role).ok_or_else(no_home)?;
    // A record that leads elsewhere has nothing in Docker's own directory.
    let docker_has_it = volume.device.is_none();
    tenant.remember(true, |s| {
        s.recording = true;
        s.home = Some(home.path.clone());
    })?;
    failpoints::reached("move-noted");
    let from = PathBuf::from(&volume.mountpoint);
    if docker_has_it {
        let (homes, home, from, uid) = (homes.clone(), home.clone(), from.clone(), tenant.plan.uid);
        if let Err(e) = blocking(move || homes.take(&home, uid, role, &from)).await {
            // A stopped copy's container goes on guarding the volume; any other is to be made anew, or not at all.
            if tenant.plan.desired != DesiredState::Suspended {
                remove_container(tenant, view, role).await?;
            }
            return leave(tenant, &e.to_string());
        }
    }
    failpoints::reached("move-renamed");
    remove_container(tenant, view, role).await?;
    failpoints::reached("move-uncontained");
    let name = design::volume(&tenant.plan, role).name;
    match tenant.host.docker.remove_volume(&name).await {
        Err(DockerError::Conflict(why)) if docker_has_it => {
            let undone = blocking(move || homes.give_back(&home, role, &from)).await;
            undone.map_err(TenantError::disk(format!("{name} is half moved; {why}")))?;
            return leave(tenant, &why);
        }
        removed => removed?,
    }
    failpoints::reached("move-unrecorded");
    record(tenant, &home, role).await?;
    failpoints::reached("move-recorded");
    tenant.remember(true, |s| s.recording = false)?;
    tracing::info!(tenant = %tenant.name(), volume = name, home = %home.path.display(), "data moved");
    Ok(format!("{name} moved to {}", home.path.display()))
}

async fn remove_container(tenant: &Tenant, view: &TenantView, role: Role) -> Result<()> {
    if view.observed.container(role).is_some() {
        let name = tenant.container_name(role);
        tenant.host.docker.remove(&name).await?;
    }
    Ok(())
}

/// Says, once, that a tenant's data stays in Docker's own directory until the agent's next start.
pub(super) fn tell_left(tenant: &Tenant, why: &str) {
    if tenant.host.leave_data(tenant.plan.uid) {
        tracing::warn!(tenant = %tenant.name(), "data stays in Docker's own directory, where a prune of volumes can take it: {why}");
    }
}

fn leave(tenant: &Tenant, why: &str) -> Result<String> {
    tell_left(tenant, why);
    tenant.remember(true, |s| s.recording = false)?;
    Ok(format!("data stays where it is: {why}"))
}

/// Removes all data of a purged tenant.
pub(super) async fn remove_home(tenant: &Tenant, view: &TenantView) -> Result<String> {
    let (homes, home) = home(tenant, view).await?;
    let uid = tenant.plan.uid;
    tracing::warn!(tenant = %tenant.name(), home = %home.path.display(), "removing a purged tenant's data");
    let removed: io::Result<()> = blocking(move || homes.remove(&home.path, uid)).await;
    removed.map_err(TenantError::disk("the tenant's data cannot be removed"))?;
    Ok(String::new())
}
