//! Creates a tenant's containers, of the very images that their references meant first.
//!
//! Not here: what a container is made of (plan::stack), which are created (plan::diff).

use isyone_proto::plan::Role;

use crate::{
    docker::DockerError,
    plan::{
        container::{ContainerSpec, LABEL_IMAGE, LABEL_IMAGE_ID},
        pins::Wanted,
        stack::Stack,
    },
    tenant::{Result, Tenant, TenantError, TenantView, data},
};

/// The error of an action that needs the stack when there is none.
pub(super) fn no_stack() -> TenantError {
    TenantError::Program("the stack is not known while an image is missing".to_owned())
}

/// Creates the container of a role, not yet started, and settles which image its reference means.
pub(super) async fn create(
    tenant: &Tenant,
    view: &TenantView,
    stack: &Stack,
    role: Role,
) -> Result<String> {
    let facts = view.observed.image(role).ok_or_else(no_stack)?;
    if role == Role::Postgres {
        data::make_spool(tenant, view).await?;
    }
    tenant.remember(false, |s| {
        s.pin(role, &Wanted::of(&tenant.plan, role), facts)
    })?;
    let mut spec = settled(stack.container(role), &facts.id);
    let state = tenant.state();
    // A standby's Odoo waits to be started in a hurry; its PostgreSQL runs beside others', and is held to its size.
    if !state.is_ready() && (role == Role::Odoo || !state.follows()) {
        spec.limits.nano_cpus = boosted(tenant).await?;
    }
    match tenant.host.docker.create(&spec).await {
        // Created by an earlier attempt whose answer was lost; the next look compares it.
        Ok(()) | Err(DockerError::Conflict(_)) => Ok(String::new()),
        Err(e) => Err(e.into()),
    }
}

/// A tenant that is being created, or takes over from another host, may use the whole CPU for the seconds that takes; its own limit
/// applies once it is healthy. (Few are created at the same time, so the others still get their share.)
pub(super) async fn boosted(tenant: &Tenant) -> Result<u64> {
    Ok(u64::from(tenant.host.facts().await?.cpus.max(1)) * 1_000_000_000)
}

/// The spec with the image settled: by its id, whatever its reference means at that moment. The reference is kept where
/// people can read it.
pub(super) fn settled(spec: &ContainerSpec, id: &str) -> ContainerSpec {
    let mut spec = spec.clone();
    let reference = std::mem::replace(&mut spec.image, id.to_owned());
    spec.labels.insert(LABEL_IMAGE.to_owned(), reference);
    spec.labels.insert(LABEL_IMAGE_ID.to_owned(), id.to_owned());
    spec
}
