//! What the acting parts share: the writer's handle, configuration, authority, sealing key, agents' streams, metrics.

use std::sync::Arc;

use isyone_proto::plan::{TenantSecrets, UnixMs};
use tokio_util::sync::CancellationToken;

use crate::{
    agents::{session::monitors::MonitorList, streams::Streams},
    base::{
        config::Config,
        metrics::Metrics,
        pki::Pki,
        secrets::{self, SealError, Sealer},
    },
    edges::{acme::Challenges, dns::Dns, domains as watch, probes::board::Board, running::Edges},
    writer::Handle,
};
use isyone_fleet::desired::{Sealed, Tenant, certificates::EdgeCertificate};

/// Characters of a generated password that people type: 142 bits.
const ADMIN_PASSWORD: usize = 24;
/// And of those that only programs use.
const MACHINE_PASSWORD: usize = 32;

/// See the module.
#[derive(Debug)]
pub struct Context {
    /// To the Fleet.
    pub handle: Handle,
    /// As checked.
    pub config: Config,
    /// Traefik's dashboard, with the users that its file had at the start.
    pub dashboard: Option<isyone_traefik::Dashboard>,
    /// Certificates.
    pub pki: Arc<Pki>,
    /// Secrets at rest.
    pub sealer: Sealer,
    /// To the agents.
    pub streams: Arc<Streams>,
    /// Who may scrape hosts.
    pub monitors: MonitorList,
    /// Who asks for routes.
    pub edges: Edges,
    /// What certificate authorities ask.
    pub challenges: Arc<Challenges>,
    /// What the probes through the edges found.
    pub blackbox: Board,
    /// What DNS said of tenants' domains.
    pub domains: watch::Board,
    /// Where names lead.
    pub dns: Arc<dyn Dns>,
    /// What we count.
    pub metrics: Arc<Metrics>,
    /// Cancelled when the coordinator stops: ends every stream.
    pub stop: CancellationToken,
    /// When it started.
    pub started_at: UnixMs,
    /// `host:port` that agents dial.
    pub agent_endpoint: String,
    /// `host:port` for joining.
    pub enroll_endpoint: String,
}

/// What a tenant's secrets are sealed for: they open for no other name and no other incarnation.
fn record(name: &str, uid: uuid::Uuid) -> String {
    format!("tenant/{name}/{uid}")
}

impl Context {
    /// Fresh passwords for a new tenant, sealed.
    pub fn new_secrets(&self, name: &isyone_proto::ids::TenantName, uid: uuid::Uuid) -> Sealed {
        let password = |length| isyone_proto::plan::Secret::new(secrets::random_password(length));
        let fresh = TenantSecrets {
            database_password: password(MACHINE_PASSWORD),
            admin_password: password(ADMIN_PASSWORD),
            master_password: password(MACHINE_PASSWORD),
        };
        // Plain data: serialising it cannot fail.
        let json = zeroize::Zeroizing::new(serde_json::to_vec(&fresh).unwrap_or_default());
        self.sealer.seal(&record(name.as_str(), uid), &json)
    }

    /// The private key of a certificate for tenants' host names, PEM.
    pub fn open_key(
        &self,
        certificate: &EdgeCertificate,
    ) -> Result<zeroize::Zeroizing<String>, SealError> {
        let key = self.sealer.open(
            &EdgeCertificate::sealed_for(&certificate.name),
            &certificate.key,
        )?;
        let key = std::str::from_utf8(&key).map_err(|_| SealError::DoesNotOpen)?;
        Ok(zeroize::Zeroizing::new(key.to_owned()))
    }

    /// A tenant's passwords.
    pub fn open_secrets(&self, tenant: &Tenant) -> Result<TenantSecrets, SealError> {
        let json = self
            .sealer
            .open(&record(tenant.name.as_str(), tenant.uid), &tenant.secrets)?;
        serde_json::from_slice(&json).map_err(|_| SealError::DoesNotOpen)
    }
}
