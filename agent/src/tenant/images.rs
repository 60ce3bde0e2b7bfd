//! Gets a tenant's images onto this host, before anything of the tenant is stopped for them, and finds out anew which a reference means
//! when the plan asks for that.
//!
//! Not here: what is settled and what fits (plan::pins), making containers of them (containers).

use isyone_proto::plan::Role;

use crate::{
    base::clock::now_ms,
    docker::DockerError,
    plan::{
        container::Container,
        diff::Blocked,
        pins::{self, Left, Pin, Wanted},
        steps::{self, StepName},
    },
    tenant::{Result, Tenant, TenantError, TenantView},
};

/// Gets the image of a role; returns the step's detail.
pub(super) async fn get(tenant: &Tenant, view: &TenantView, role: Role) -> Result<String> {
    let wanted = Wanted::of(&tenant.plan, role);
    if tenant.state().asks_anew(role, &wanted) {
        return tokio::select! {
            settled = settle_anew(tenant, view, role, &wanted) => settled,
            // A download may take long. Whoever asked may have thought better of it.
            () = tenant.outdated() => Err(TenantError::Interrupted),
        };
    }
    let state = tenant.state();
    match state.pinned(role, &wanted).filter(|_| state.is_ready()) {
        Some(pin) => find_again(tenant, role, &wanted, pin).await,
        None => {
            fetch(tenant, role, wanted.reference).await?;
            Ok(format!("{} pulled", wanted.reference))
        }
    }
}

/// Fetches the very image that a tenant has and that is not on this host any more, by its digest, or by its reference where that is all
/// there is. No other one takes its place unless somebody asks for that: it may be another version of Odoo by now.
async fn find_again(tenant: &Tenant, role: Role, wanted: &Wanted<'_>, pin: &Pin) -> Result<String> {
    let docker = &tenant.host.docker;
    let by = pin.by_digest();
    let by = by.as_deref().unwrap_or(wanted.reference);
    let why = match fetch(tenant, role, by).await {
        Err(DockerError::Pull { why, .. }) => why,
        fetched => {
            fetched?;
            "its registry has another image under that name".to_owned()
        }
    };
    if docker.image(&pin.id).await?.is_some() {
        return Ok(format!("{by} pulled"));
    }
    let means = docker.image(wanted.reference).await?;
    Err(Blocked::ImageGone {
        tenant: tenant.name().clone(),
        role,
        reference: wanted.reference.to_owned(),
        had: pin.id.clone(),
        means: means.map(|image| image.id),
        why,
    }
    .into())
}

async fn fetch(
    tenant: &Tenant,
    role: Role,
    reference: &str,
) -> std::result::Result<(), DockerError> {
    let step = StepName::image(role);
    let progress = |percent: u32| {
        let detail = format!("pulling {reference}");
        tenant.show_progress(|s| steps::progress(s, step, percent, &detail));
    };
    tenant.host.docker.pull(reference, &progress).await
}

/// Finds out what the reference means now, and holds that against what the tenant has. Until then it runs on with what it has.
async fn settle_anew(
    tenant: &Tenant,
    view: &TenantView,
    role: Role,
    wanted: &Wanted<'_>,
) -> Result<String> {
    let (docker, images) = (&tenant.host.docker, &tenant.host.images);
    let how = refresh(tenant, role, wanted.reference).await?;
    let gone = || DockerError::Pull {
        image: wanted.reference.to_owned(),
        why: "it is gone again".to_owned(),
    };
    let found = docker.image(wanted.reference).await?.ok_or_else(gone)?;
    // By its id: what a reference means is remembered for a moment.
    let facts = images.facts(&found.id, role).await?.ok_or_else(gone)?;
    let made_of = view.observed.container(role).map(Container::made_of);
    let before = tenant.state().held(role, made_of).cloned();
    let had = match &before {
        Some(Pin { left: None, id, .. }) => images.facts(id, role).await?.map(|i| Left::from(&i)),
        Some(pin) => pin.left.clone(),
        None => None,
    };
    let data_major = view.observed.data_major.as_deref();
    pins::check_fit(role, had.as_ref(), &facts, data_major)?;
    tenant.remember(false, |s| s.pin(role, wanted, &facts))?;
    let is = |id: &str| id.chars().take(SHOWN).collect::<String>();
    Ok(match before {
        Some(pin) if pin.id == facts.id && pin.reference == wanted.reference => {
            let detail = format!("{how}, and still {}", is(&facts.id));
            let step = StepName::image(role);
            tenant.show_progress(|s| steps::skip(s, step, &detail, now_ms()));
            detail
        }
        // In full, where it can be asked for again: its tag may mean another by now.
        Some(pin) => {
            let had = pin.by_digest().unwrap_or_else(|| is(&pin.id));
            format!("{how}: {} in the place of {had}", is(&facts.id))
        }
        None => how,
    })
}

/// How much of an image's id is shown: `sha256:` and twelve digits, as Docker does.
const SHOWN: usize = 19;

/// Has the image that its registry gives for a reference. Where none does, and what the host has under that name comes from no registry
/// (images may be built in place), that is meant; what once came from one is what the tag meant then. What is named by digest is the same
/// wherever it comes from. Returns how it went.
async fn refresh(tenant: &Tenant, role: Role, reference: &str) -> Result<String> {
    let docker = &tenant.host.docker;
    if reference.contains('@') && docker.image(reference).await?.is_some() {
        return Ok(format!("{reference} is here"));
    }
    match fetch(tenant, role, reference).await {
        Ok(()) => Ok(format!("{reference} pulled")),
        Err(DockerError::Pull { image, why }) => match docker.image(reference).await? {
            Some(here) if here.digest == here.id => {
                Ok(format!("{reference} is here, no registry gave it ({why})"))
            }
            _ => Err(DockerError::Pull { image, why }.into()),
        },
        Err(e) => Err(e.into()),
    }
}
