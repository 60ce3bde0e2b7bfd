//! Where a tenant's data lies, for whoever keeps copies of it elsewhere: only data that is complete and its own is ever backed up.
//!
//! Not here: reading it (backup), making it (data, database).

use std::path::PathBuf;

use isyone_proto::plan::TenantPlan;

use super::{
    copies::{self, NoPlaces},
    state_file,
};
use crate::{
    base::fsutil::blocking,
    docker::DockerError,
    host::{Host, homes::Pointers},
    plan::{
        home::{self, HomeOwner},
        state::TenantState,
    },
};

/// A tenant's directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub postgres: PathBuf,
    pub odoo: PathBuf,
    /// Where finished segments of its log wait.
    pub spool: PathBuf,
}

/// Why there is nothing to back up.
#[derive(Debug, thiserror::Error)]
pub enum NothingKept {
    #[error("its database is not complete")]
    NotReady,
    #[error(transparent)]
    Volumes(#[from] NoPlaces),
    #[error("Docker does not answer")]
    Docker(#[from] DockerError),
    #[error("its home cannot be looked at")]
    Home(#[source] std::io::Error),
    #[error("its home is not its own")]
    Foreign,
}

/// A tenant's directories, if its database is complete.
pub async fn find(host: &Host, plan: &TenantPlan) -> Result<Kept, NothingKept> {
    let (directory, of) = (host.directory(plan), plan.clone());
    let state = blocking(move || Ok(state_file::load(&directory, &of))).await;
    let state = state.map_err(NothingKept::Home)?;
    // On its way aside or back, it is not known what lies here.
    let moves = |state: &TenantState| state.aside.is_some_and(|aside| aside.moving);
    let state = state.filter(|state| state.is_ready() && !moves(state));
    let state = state.ok_or(NothingKept::NotReady)?;
    let places = copies::places(host, &plan.name, plan.uid).await??;
    let names = (plan.name.postgres_volume(), plan.name.odoo_volume());
    let (postgres, odoo) =
        tokio::try_join!(host.docker.volume(&names.0), host.docker.volume(&names.1))?;
    let pointers = Pointers {
        postgres,
        odoo,
        remembered: state.home,
    };
    let (homes, name, uid) = (host.homes().await?, plan.name.clone(), plan.uid);
    let home = blocking(move || homes.look(&name, uid, &pointers)).await;
    let home = home.map_err(NothingKept::Home)?;
    if home.owner != HomeOwner::This {
        return Err(NothingKept::Foreign);
    }
    Ok(Kept {
        postgres: places.postgres,
        odoo: places.odoo,
        spool: home::spool(&home.path),
    })
}
