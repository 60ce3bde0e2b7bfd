//! The tenants of this host as backups see them: their directories, whether they run, and their PostgreSQL. A trait, so that tests have
//! tenants without an engine.
//!
//! Not here: what is read of them.

use std::sync::Arc;

use isyone_backup::{Stop, source::Producer};
use isyone_proto::{
    backup::{Counts, Fault},
    plan::TenantPlan,
};
use tonic::async_trait;

use super::{
    chain::Position,
    cluster::{Clusters, ContainerClusters, Stream},
    words::Problem,
};
use crate::{
    host::Host,
    peer::Of,
    tenant::{
        copies,
        kept::{self, Kept, NothingKept},
    },
};

/// What backups ask of tenants.
#[async_trait]
pub trait Tenants: Send + Sync + 'static {
    /// Where a tenant's data lies, if it is complete.
    async fn kept(&self, tenant: &TenantPlan) -> Result<Kept, Problem>;
    /// Whether a program of it runs, so that its files may change.
    async fn is_up(&self, tenant: &TenantPlan) -> Result<bool, Problem>;
    /// See [`Clusters`].
    async fn position(&self, tenant: &TenantPlan, switch: bool) -> Result<Position, Problem>;
    async fn counts(&self, tenant: &TenantPlan) -> Result<Counts, Problem>;
    async fn stream(
        &self,
        tenant: &TenantPlan,
        stream: Stream,
        stop: &Stop,
    ) -> Result<Box<dyn Producer>, Problem>;
}

/// Those of this host.
pub struct HostTenants {
    host: Arc<Host>,
    clusters: ContainerClusters,
}

impl HostTenants {
    pub fn new(host: Arc<Host>) -> Self {
        Self {
            clusters: ContainerClusters(host.clone()),
            host,
        }
    }
}

fn of(tenant: &TenantPlan) -> Of {
    Of {
        tenant: tenant.name.clone(),
        uid: tenant.uid,
    }
}

#[async_trait]
impl Tenants for HostTenants {
    async fn kept(&self, tenant: &TenantPlan) -> Result<Kept, Problem> {
        let kept = kept::find(&self.host, tenant).await;
        kept.map_err(|why| match why {
            NothingKept::NotReady => Problem::new(Fault::NotNow, why.to_string()),
            why => Problem::new(Fault::Source, why.to_string()),
        })
    }

    async fn is_up(&self, tenant: &TenantPlan) -> Result<bool, Problem> {
        Ok(copies::is_up(&self.host, &tenant.name).await?)
    }

    async fn position(&self, tenant: &TenantPlan, switch: bool) -> Result<Position, Problem> {
        self.clusters.position(&of(tenant), switch).await
    }

    async fn counts(&self, tenant: &TenantPlan) -> Result<Counts, Problem> {
        self.clusters.counts(&of(tenant)).await
    }

    async fn stream(
        &self,
        tenant: &TenantPlan,
        stream: Stream,
        stop: &Stop,
    ) -> Result<Box<dyn Producer>, Problem> {
        self.clusters.stream(&of(tenant), stream, stop).await
    }
}
